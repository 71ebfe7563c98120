//! The crate as its users see it: stored bytes are these, and hold nothing in clear.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod golden;
mod secrecy;
