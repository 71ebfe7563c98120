//! What `pyramid-probe` does in a Pod.

pub mod latency;
