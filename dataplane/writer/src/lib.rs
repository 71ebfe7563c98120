//! The Writer: accepts appends, makes them durable, ships them.
//!
//! The way of one append: [`service`] reads it from its session, checks it once and takes bytes in
//! flight for it ([`admission`]); the [`appender`] packs it with others into one [`entry`]; Raft
//! ([`raft`]) orders the entry and the write-ahead log ([`wal`]) makes it durable on the [`disk`];
//! [`state`] applies it and alone decides what it becomes; the answer goes back the same way.
//!
//! What a caller may do is looked up in [`rights`].
//!
//! Readers are woken by [`view`], which holds what is applied, and are served from the log
//! ([`live`], found by the [`live_index`]) or from [`chunks`]. The [`shipper`] carries what is old
//! from the one to the other. [`replica`] starts and stops all of it.
//!
//! Absent on purpose: a queue of records per reader; a second copy of what the log holds; decisions
//! outside of [`state`].

pub mod admin;
pub mod admission;
pub mod appender;
pub mod attachments;
pub mod chunks;
pub mod config;
mod configured;
pub mod data_dir;
pub mod disk;
pub mod entry;
mod health;
pub mod live;
pub mod live_index;
pub mod log_time;
pub mod member;
pub mod metrics;
mod observed;
mod ops;
pub mod ports;
pub mod raft;
mod raft_thread;
pub mod replica;
pub mod rights;
pub mod service;
pub mod shipper;
pub mod state;
mod stats;
pub mod view;
pub mod wal;
