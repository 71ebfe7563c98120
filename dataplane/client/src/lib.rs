//! Append sessions, producers and reads for Rust users of Pyramid.
//!
//! A [`Client`] knows addresses of a Writer's replicas and finds the leader among them. Unary calls
//! are retried until a deadline. An [`AppendSession`] keeps several appends on their way; a
//! [`Producer`] numbers them, so that the session may send them again over new connections until
//! they are answered, and each is written once. A [`Reader`] asks the Writer for the places of
//! shipped chunks, reads those itself, goes on with live batches, and proves on the way that no
//! record is missing and none comes twice.
//!
//! Absent on purpose: a hidden retry of an append without a producer (its effect is reported as
//! unknown), and a reset of a position (a reader that cannot go on says why and ends).

pub mod append;
pub mod backoff;
pub mod budget;
pub mod connection;
pub mod producer;
pub mod read;
pub mod watch;

pub use append::AppendSession;
pub use backoff::Backoff;
pub use budget::ByteBudget;
pub use connection::Client;
pub use producer::Producer;
pub use read::Reader;
