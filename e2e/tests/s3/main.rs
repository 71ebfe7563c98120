//! A real S3 server: what the store promises, what the Writer makes of its faults, and who carries
//! the bytes of history.
//!
//! `make tools` installs the server, `cargo build --workspace` makes the programs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

mod bucket;
mod contract;
mod dev;
mod faults;
mod fetch;
mod kill;
mod refused;
mod replay;
mod starts;
mod world;
