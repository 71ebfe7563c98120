mod fixture;

mod findings;
mod keys_and_snapshots;
mod reading;
mod several;
mod writer;
