//! The pusher: reads streams and pushes them to its application.
//!
//! A [`pusher`] attaches to each of its subscriptions and keeps one [`stream_worker`] for each of
//! their streams. A worker asks the application where it is, reads from there ([`source`]: chunks
//! straight from the object store while it is behind, the Writer when it is close), and pushes whole
//! batches, one push at a time. The [`application`] compares and stores its position in its own
//! transaction; what its answer means is decided in [`negotiation`]. The [`local`] service lets
//! the application append and read through the same pusher.
//!
//! Absent on purpose: any memory of its own. A pusher that starts anew asks; that is all it needs.

pub mod application;
mod attachment;
mod backoff;
pub mod config;
pub mod health;
mod in_flight;
mod local;
pub mod metrics;
pub mod negotiation;
pub mod pusher;
mod source;
mod status;
mod stream_worker;

pub use config::Config;
pub use pusher::{Environment, Error, Ports, Ready, run, run_with};
