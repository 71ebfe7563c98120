//! The Writer: accepts appends, replicates, ships.

pub mod entry;
pub mod live_index;
pub mod state;
