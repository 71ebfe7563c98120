//! The pusher: reads streams and pushes them to its application.
//!
//! A [`pusher`] attaches to each of its subscriptions and keeps one [`stream_worker`] for each of
//! their streams. A worker asks the application where it is, reads from there ([`source`]: chunks
//! straight from the object store while it is behind, the Writer when it is close), and pushes whole
//! batches, one push at a time. The [`application`] compares and stores its position in its own
//! transaction; what its answer means is decided in [`negotiation`]. The [`local`] service lets
//! the application append and read through the same pusher.
//!
//! In a [`pod`] nothing is given but names: the [`bootstrap`](pod) configuration of the namespace
//! says where the Writers and the issuer are, a service account's token becomes a certificate, and
//! the [`routes`] follow. [`lease`] says whether an exclusive stream is ours, [`drain`] how pushes end
//! before the pod does.
//!
//! Absent on purpose: any memory of its own. A pusher that starts anew asks; that is all it needs.

pub mod application;
mod attachment;
mod backoff;
mod bootstrap;
pub mod config;
pub mod drain;
pub mod health;
mod identity;
mod in_flight;
mod lease;
mod local;
pub mod metrics;
pub mod negotiation;
pub mod pod;
pub mod pusher;
mod routes;
mod source;
mod status;
mod stream_worker;
mod subscription;
mod workers;

pub use config::Config;
pub use pusher::{Environment, Error, Ports, Ready, run, run_with};
