//! What a simulated disk consists of: the two sides of a file, and changes of
//! names.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::sim::SECTOR_BYTES;

/// A file: what programs see, and what is on the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) live: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// Sectors of `live` that the next sync writes.
    pub(super) dirty: BTreeSet<usize>,
    /// Whether the next sync writes the length.
    pub(super) length_is_dirty: bool,
}

/// A change of a directory.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Put { path: String, node: Option<u64> },
    Rename { from: String, to: String, node: Option<u64> },
    Remove { path: String, node: Option<u64> },
}

impl Node {
    pub(super) fn write(&mut self, bytes: &[u8], at: usize) {
        let end = at + bytes.len();
        if end > self.live.len() {
            self.live.resize(end, 0);
            self.length_is_dirty = true;
        }
        if let Some(range) = self.live.get_mut(at..end) {
            range.copy_from_slice(bytes);
        }
        if !bytes.is_empty() {
            self.dirty.extend(at / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
        }
    }

    pub(super) fn range(&self, sector: usize) -> std::ops::Range<usize> {
        let start = sector * SECTOR_BYTES;
        start..(start + SECTOR_BYTES).min(self.live.len())
    }

    /// Whether the sector of the disk has other bytes. What lies behind the
    /// durable end reads as zeros once the length is there.
    pub(super) fn sector_differs(&self, sector: usize) -> bool {
        let range = self.range(sector);
        let live = self.live.get(range.clone()).unwrap_or_default();
        let mut durable =
            self.durable.get(range.start.min(self.durable.len())..).unwrap_or_default().to_vec();
        durable.resize(live.len(), 0);
        live != durable.as_slice()
    }

    /// Lets one sector reach the disk, with the length that it needs.
    pub(super) fn flush(&mut self, sector: usize) {
        let range = self.range(sector);
        if self.durable.len() < range.end {
            self.durable.resize(range.end, 0);
        }
        if let (Some(from), Some(to)) =
            (self.live.get(range.clone()), self.durable.get_mut(range.clone()))
        {
            to.copy_from_slice(from);
        }
    }

    pub(super) fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.flush(sector);
        }
        if self.length_is_dirty {
            self.durable.resize(self.live.len(), 0);
            self.length_is_dirty = false;
        }
    }

    pub(super) fn drop_dirty(&mut self) {
        self.dirty.clear();
        self.length_is_dirty = false;
    }
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<String, Option<u64>>) {
        match self {
            Self::Put { path, node } => {
                names.insert(path.clone(), *node);
            }
            Self::Rename { from, to, node } => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
            Self::Remove { path, node } => {
                if names.get(path) == Some(node) {
                    names.remove(path);
                }
            }
        }
    }

    pub(super) fn node(&self) -> Option<u64> {
        match self {
            Self::Put { node, .. } | Self::Rename { node, .. } | Self::Remove { node, .. } => *node,
        }
    }

    pub(super) fn dir(&self) -> &str {
        match self {
            Self::Put { path, .. } | Self::Remove { path, .. } => parent(path),
            Self::Rename { to, .. } => parent(to),
        }
    }
}

/// The directory of a path.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
