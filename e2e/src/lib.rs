//! Suites that see the whole.
//!
//! The way of a run: programs are started as processes ([`process`]), load and faults are written
//! down as a [`history`], and the [`check`] of that history is the verdict. The checker is exact:
//! it needs no model of the Writer, because a complete read at the end fixes the order of all
//! appends, and each promise is then a comparison with that order.
//!
//! The programs and the suite are [`identities`] with certificates. Object storage is a real S3 server ([`seaweed`]), behind a proxy that fails on purpose
//! ([`fault_proxy`]). How much goes over a connection counts a [`counting_proxy`].
//! A real Kubernetes is a [`cluster`].
//! What runs inside of its Pods is a [`probe`].

pub mod check;
pub mod cluster;
pub mod counting_proxy;
pub mod fault_proxy;
pub mod figures;
pub mod history;
pub mod identities;
pub mod probe;
pub mod process;
pub mod seaweed;
