//! Tests through the public interface of the Writer.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "tests fail loudly and print their counts"
)]

mod restart;
mod wal;
mod writer;
