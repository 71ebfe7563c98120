//! What holds only if an API server keeps its promises, tried against a real one: it and its etcd
//! run on loopback, once for all tests, and nothing else of a cluster does.
//!
//! `make api-tools` builds both.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

mod authority;
mod issuer;
mod lease;
mod tokens;
mod wire;
mod world;
