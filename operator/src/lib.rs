//! The operator: brings up Writers, binds Streams to them, tells them who may do what, gives out
//! certificates and injects pushers.
//!
//! One program, two replicas. Every replica serves the webhook, the issuer, health and metrics; the
//! one that holds the lease runs the controllers.
//!
//! Public is what runs the operator, and those parts of it that hold only if the API server keeps
//! its promises: they are tried against a real one from outside.

pub mod authority;
pub mod issuer;
pub mod leader;
pub mod settings;

mod admin;
mod audit;
mod bootstrap;
mod context;
mod identity;
mod inject;
mod kinds;
mod lean;
mod metrics;
mod pki;
mod run;
mod self_test;
mod stats;
mod stream;
mod subscription;
mod webhook;
mod webhook_bundle;
mod writer;

pub use context::Trust;
pub use metrics::{Issue, Metrics};
pub use run::{Config, Error, run};
pub use self_test::{SelfTest, SelfTestError};
