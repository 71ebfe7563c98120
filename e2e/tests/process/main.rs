//! The real programs as processes, and what is left of their promises when they are killed.
//!
//! `cargo build --workspace` makes the programs that these tests start.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

mod audit;
mod demo;
mod kill;
mod load;
mod readers;
mod scan;
mod world;
