//! The file calls that the Writer needs, on one directory.
//!
//! Everything durable of a replica lies below one root; paths are relative to
//! it, with `/`, and `""` is the root itself. [`RealDisk`] is the file system;
//! [`SimDisk`] has the same semantics in memory, and the faults.
//!
//! What a caller may rely on, and no more:
//! - written bytes are durable after [`File::sync`] of that file said so;
//! - a file that was created, renamed or removed is so durably after
//!   [`Disk::sync_dir`] of its directory said so;
//! - after a call failed, what it wanted may be done, half done or undone.
//!
//! Absent on purpose: append mode, truncation, memory maps, direct I/O.

mod real;
mod sim;

use std::{fmt, io, sync::Arc};

pub use real::RealDisk;
pub use sim::{Operation, OperationKind, SECTOR_BYTES, SimDisk};

/// One directory with all that is below it.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates an empty file, in the place of an older one of that name.
    ///
    /// # Errors
    ///
    /// What the file system said.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>>;

    /// Opens a file to read and to write.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what the file system said.
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name in the same directory, in the place of an
    /// older file of that name.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what the file system said.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what the file system said.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// The names in a directory, sorted, without `.` and `..`.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what the file system said.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Creates a directory. One that exists is left as it is.
    ///
    /// # Errors
    ///
    /// What the file system said.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// Makes durable which names a directory holds.
    ///
    /// # Errors
    ///
    /// What the file system said. The names may be durable or not.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// How large the volume is that holds the directory.
    ///
    /// # Errors
    ///
    /// What the file system said.
    fn volume(&self) -> io::Result<Volume>;

    /// Takes the directory for this process until the lock is dropped.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when somebody else has it, or what the file system said.
    fn lock(&self) -> io::Result<Box<dyn Lock>>;
}

/// The volume that holds a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its size. Unit: bytes.
    pub total_bytes: u64,
    /// What this process may still use. Unit: bytes.
    pub free_bytes: u64,
}

/// An open file.
pub trait File: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` at `at` bytes from the start.
    ///
    /// # Errors
    ///
    /// What the file system said. Any part may be written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Reads from `at` until `buffer` is full or the file ends; answers with
    /// the number of bytes read.
    ///
    /// # Errors
    ///
    /// What the file system said.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// Makes durable what was written and the length.
    ///
    /// # Errors
    ///
    /// What the file system said. After a failure nothing is known about the
    /// bytes written since the last success, and a success of a later call
    /// says nothing about them.
    fn sync(&self) -> io::Result<()>;

    /// Unit: bytes.
    ///
    /// # Errors
    ///
    /// What the file system said.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    ///
    /// What the file system said.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A directory that is taken. It is free again when this is dropped.
pub trait Lock: Send + Sync + fmt::Debug {}

/// Whether the disk had no room, which may pass, unlike every other error.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
