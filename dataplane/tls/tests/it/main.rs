//! Mutual TLS over real sockets: who gets in, who does not, and what each is told.
//!
//! Rows A1 to A7 are those of the list of attacks; each refusal has, in the same test, a connection
//! that differs in one thing and is taken.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod anybody;
mod certificates;
mod chains;
mod channel;
mod clocks;
mod directories;
mod forge;
mod reload;
mod side_by_side;
mod versions;
mod world;
