//! A real Kubernetes, driven by kubectl and helm.

#![allow(clippy::unwrap_used, clippy::panic, reason = "all of this is test code")]

mod quickstart;
mod scenarios;
mod up;
