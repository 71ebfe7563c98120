//! The command itself, as people and scripts run it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod chunks;
mod denied;
mod dev;
mod errors;
mod pusher;
mod rights;
mod running;
mod store;
mod streams;
mod tls;
mod verify;
