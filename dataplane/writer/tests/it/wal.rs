//! The write-ahead log.

mod crash;
mod damage;
mod full;
mod golden;
mod model;
mod task;
mod threads;
mod workload;
