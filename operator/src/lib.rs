//! The operator: brings up Writers, binds Streams to them, tells them who may do what, gives out
//! certificates and injects pushers.
//!
//! One program, two replicas. Every replica serves the webhook, the issuer, health and metrics; the
//! one that holds the lease runs the controllers.

pub mod settings;

mod admin;
mod audit;
mod authority;
mod bootstrap;
mod context;
#[cfg(test)]
mod fake_api;
mod identity;
mod inject;
mod issuer;
mod kinds;
mod leader;
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

pub use run::{Config, Error, run};
pub use self_test::{SelfTest, SelfTestError};
