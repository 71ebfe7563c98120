//! The Writer: accepts appends, replicates them, ships them.

pub mod data_dir;
pub mod disk;
pub mod wal;
