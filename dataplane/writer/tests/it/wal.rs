//! The write-ahead log.

mod threads;
