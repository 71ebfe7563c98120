//! Tests through the public interface of the Writer.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests fail loudly and print their counts"
)]

mod admin;
mod answers;
mod append;
mod certificates;
mod deletion;
mod hostile;
mod leases;
mod lifecycle;
mod limits;
mod mounted;
mod ops;
mod producers;
mod read;
mod restart;
mod revocation;
mod rights;
mod secrecy;
mod shipping;
mod tenants;
mod wal;
mod watch_attach;
mod writer;

/// Tells what a test has counted, also when it passes.
fn tell(text: &str) {
    use std::io::Write;

    // There is nobody to tell that standard error is closed.
    drop(writeln!(std::io::stderr(), "{text}"));
}
