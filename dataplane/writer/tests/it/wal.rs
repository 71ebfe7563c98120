//! The write-ahead log.

mod crash;
mod damage;
mod full;
mod golden;
mod model;
mod threads;
mod workload;
