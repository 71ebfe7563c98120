//! Logs, health and metrics of every program.
