//! Tests of the definitions, as they are installed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod condition;
mod generated;
mod samples;
mod schema;
