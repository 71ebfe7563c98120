//! Logs, health and metrics of every program.
//!
//! [`logs`] starts the log lines of a process. [`metrics`] has the building blocks of metrics: a
//! program names its own in its `metrics.rs`, and only there. [`health`] has what the answers to
//! probes are decided from. [`ops`] serves health and metrics over plain HTTP.
//!
//! Absent on purpose: global state besides the subscriber of log lines, a push of metrics to
//! somewhere, and TLS: a probe cannot show a certificate.

pub mod health;
pub mod logs;
pub mod metrics;
pub mod ops;
