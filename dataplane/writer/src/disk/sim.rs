//! A disk in memory with the semantics of a real one, and its faults.
//!
//! What is written lies in the cache until it is synced, and may reach the
//! disk before that in any part and any order. So a power cut leaves every
//! synced byte and *any subset* of what was pending: sectors of 512 bytes, new
//! lengths, and changes of names. [`SimDisk::pending`] counts these pieces and
//! [`SimDisk::after_power_cut`] takes the subset that survives.
//!
//! Of several writes to one sector the last one survives or none. Directories
//! survive a power cut only when their own name was synced.
//!
//! Faults are placed by the index of the operation (each call that changes
//! something counts as one), so a test can visit every one of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::disk::{Disk, File, Lock, Volume};

mod parts;

use parts::{NameChange, Node, parent};

/// What a disk writes whole or not at all. Unit: bytes.
pub const SECTOR_BYTES: usize = 512;

/// One call that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What was called.
    pub kind: OperationKind,
    /// The file or directory; of a rename the new name.
    pub path: String,
}

/// The calls that change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperationKind {
    /// [`Disk::create`]
    Create,
    /// [`Disk::create_dir`]
    CreateDir,
    /// [`Disk::rename`]
    Rename,
    /// [`Disk::remove`]
    Remove,
    /// [`Disk::sync_dir`]
    SyncDir,
    /// [`File::write_at`]
    Write,
    /// [`File::sync`]
    Sync,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    nodes: BTreeMap<u64, Arc<Node>>,
    next_node: u64,
    /// Names as programs see them. `None` is a directory.
    names: BTreeMap<String, Option<u64>>,
    /// Names as they are on the disk.
    durable_names: BTreeMap<String, Option<u64>>,
    /// Changes of names that are not synced, oldest first.
    pending_names: Vec<NameChange>,
    trace: Vec<Operation>,
    /// From this operation on everything fails.
    crash_at: Option<usize>,
    crashed: bool,
    failures: BTreeMap<usize, io::ErrorKind>,
    failures_hit: u64,
    capacity_bytes: Option<u64>,
    locked: bool,
}

/// A piece that a power cut keeps or loses.
#[derive(Clone, Copy, Debug)]
enum Piece {
    Sector { node: u64, sector: usize },
    Length { node: u64 },
    Name { change: usize },
}

impl SimDisk {
    /// An empty disk without limits and faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many operations there were.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.state().trace.len()
    }

    /// All operations, oldest first.
    #[must_use]
    pub fn trace(&self) -> Vec<Operation> {
        self.state().trace.clone()
    }

    /// Lets the operation with this index and all calls after it fail.
    pub fn crash_at(&self, operation: usize) {
        self.state().crash_at = Some(operation);
    }

    /// Lets the operation with this index fail once. A sync that fails drops
    /// what it should have written: programs still see it, the next sync
    /// succeeds, and a power cut shows that it never reached the disk.
    pub fn fail_at(&self, operation: usize, kind: io::ErrorKind) {
        self.state().failures.insert(operation, kind);
    }

    /// How many of the placed failures happened.
    #[must_use]
    pub fn failures_hit(&self) -> u64 {
        self.state().failures_hit
    }

    /// Whether the crash that was placed happened.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Limits the sum of all lengths; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// How many pieces a power cut would keep or lose now.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.state().pieces().len()
    }

    /// The disk as a power cut leaves it; `keep` says for the index of each
    /// pending piece whether it survives. Placed faults are gone.
    #[must_use]
    pub fn after_power_cut(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        let mut state = self.state().clone();
        let mut kept_names = BTreeSet::new();
        for (index, piece) in state.pieces().into_iter().enumerate() {
            if !keep(index) {
                continue;
            }
            match piece {
                Piece::Sector { node, sector } => state.node_mut(node, |node| node.flush(sector)),
                Piece::Length { node } => state.node_mut(node, |node| {
                    let len = node.live.len();
                    node.durable.resize(len, 0);
                }),
                Piece::Name { change } => {
                    kept_names.insert(change);
                }
            }
        }
        let changes = std::mem::take(&mut state.pending_names);
        for (index, change) in changes.into_iter().enumerate() {
            if kept_names.contains(&index) {
                change.apply(&mut state.durable_names);
            }
        }
        state.forget_what_has_no_directory();
        state.names = state.durable_names.clone();
        for node in state.nodes.values_mut() {
            let node = Arc::make_mut(node);
            node.live = node.durable.clone();
            node.dirty.clear();
            node.length_is_dirty = false;
        }
        state.restart()
    }

    /// The disk as the next process finds it when only the process died: the
    /// cache is still there. Placed faults are gone.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        self.state().clone().restart()
    }

    /// The bytes of a file as programs see them.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn contents(&self, path: &str) -> io::Result<Vec<u8>> {
        let state = self.state();
        let node = state.file(path)?;
        Ok(state.nodes.get(&node).map(|node| node.live.clone()).unwrap_or_default())
    }

    /// Replaces the bytes of a file, also those on the disk, as damage at rest
    /// does: nothing is pending afterwards and nothing is counted.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.state();
        let node = state.file(path)?;
        state.node_mut(node, |node| {
            change(&mut node.live);
            node.durable = node.live.clone();
            node.dirty.clear();
            node.length_is_dirty = false;
        });
        Ok(())
    }

    /// Removes a file from the disk, as damage at rest does.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn lose(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        state.file(path)?;
        state.names.remove(path);
        state.durable_names.remove(path);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between two calls, also after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn restart(mut self) -> SimDisk {
        self.trace.clear();
        self.crash_at = None;
        self.crashed = false;
        self.failures.clear();
        self.failures_hit = 0;
        self.locked = false;
        SimDisk { state: Arc::new(Mutex::new(self)) }
    }

    /// Counts an operation; the error is the fault placed on it.
    fn begin(&mut self, kind: OperationKind, path: &str) -> io::Result<()> {
        let index = self.trace.len();
        self.crashed |= self.crash_at == Some(index);
        self.alive()?;
        self.trace.push(Operation { kind, path: path.to_owned() });
        match self.failures.remove(&index) {
            Some(kind) => {
                self.failures_hit += 1;
                Err(io::Error::new(kind, "a fault was placed here"))
            }
            None => Ok(()),
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("the machine has crashed")) } else { Ok(()) }
    }

    fn file(&self, path: &str) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Some(node)) => Ok(*node),
            Some(None) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn parent_exists(&self, path: &str) -> io::Result<()> {
        let parent = parent(path);
        if parent.is_empty() || self.names.get(parent) == Some(&None) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn node_mut(&mut self, node: u64, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(&node) {
            change(Arc::make_mut(node));
        }
    }

    fn used_bytes(&self) -> u64 {
        let files = self.names.values().flatten();
        files.filter_map(|node| self.nodes.get(node)).map(|node| len_of(&node.live)).sum()
    }

    fn room_for(&self, more_bytes: u64) -> io::Result<()> {
        match self.capacity_bytes {
            Some(capacity) if more_bytes > 0 && self.used_bytes() + more_bytes > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    /// Everything pending that makes a difference.
    fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let changed = self.pending_names.iter().filter_map(NameChange::node);
        let named: BTreeSet<u64> =
            self.names.values().chain(self.durable_names.values()).flatten().copied().collect();
        let reachable: BTreeSet<u64> = named.into_iter().chain(changed).collect();
        for (id, node) in self.nodes.iter().filter(|(id, _)| reachable.contains(id)) {
            if node.length_is_dirty && node.live.len() != node.durable.len() {
                pieces.push(Piece::Length { node: *id });
            }
            for sector in &node.dirty {
                if node.sector_differs(*sector) {
                    pieces.push(Piece::Sector { node: *id, sector: *sector });
                }
            }
        }
        pieces.extend((0..self.pending_names.len()).map(|change| Piece::Name { change }));
        pieces
    }

    fn forget_what_has_no_directory(&mut self) {
        let names = self.durable_names.clone();
        self.durable_names.retain(|path, _| {
            let parent = parent(path);
            parent.is_empty() || names.get(parent) == Some(&None)
        });
    }
}

impl Disk for SimDisk {
    fn volume(&self) -> io::Result<Volume> {
        let state = self.state();
        state.alive()?;
        let total_bytes = state.capacity_bytes.unwrap_or(u64::MAX);
        Ok(Volume { total_bytes, free_bytes: total_bytes.saturating_sub(state.used_bytes()) })
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.begin(OperationKind::Create, path)?;
        state.parent_exists(path)?;
        // A name takes room too, or an empty file would fit on a full disk.
        state.room_for(1)?;
        let node = state.next_node;
        state.next_node += 1;
        state.nodes.insert(node, Arc::default());
        state.change_name(NameChange::Put { path: path.to_owned(), node: Some(node) });
        Ok(Arc::new(SimFile { disk: self.clone(), node, path: path.to_owned() }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let state = self.state();
        state.alive()?;
        let node = state.file(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), node, path: path.to_owned() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin(OperationKind::Rename, to)?;
        let node = Some(state.file(from)?);
        state.change_name(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), node });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin(OperationKind::Remove, path)?;
        let node = Some(state.file(path)?);
        state.change_name(NameChange::Remove { path: path.to_owned(), node });
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        if !dir.is_empty() && state.names.get(dir) != Some(&None) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.names.keys().filter(|path| parent(path) == dir);
        Ok(inside.filter_map(|path| path.rsplit('/').next()).map(str::to_owned).collect())
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin(OperationKind::CreateDir, dir)?;
        state.parent_exists(dir)?;
        if state.names.get(dir) != Some(&None) {
            state.change_name(NameChange::Put { path: dir.to_owned(), node: None });
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin(OperationKind::SyncDir, dir)?;
        let (synced, pending): (Vec<_>, Vec<_>) = std::mem::take(&mut state.pending_names)
            .into_iter()
            .partition(|change| change.dir() == dir);
        state.pending_names = pending;
        for change in synced {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        let mut state = self.state();
        state.alive()?;
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock(self.clone())))
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    node: u64,
    path: String,
}

impl File for SimFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin(OperationKind::Write, &self.path)?;
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let live = state.nodes.get(&self.node).map_or(0, |node| len_of(&node.live));
        let more = len_of(bytes).saturating_add(u64::try_from(at).map_err(io::Error::other)?);
        state.room_for(more.saturating_sub(live))?;
        state.node_mut(self.node, |node| node.write(bytes, at));
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let state = self.disk.state();
        state.alive()?;
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let bytes = state.nodes.get(&self.node).and_then(|node| node.live.get(at..));
        let bytes = bytes.unwrap_or_default();
        let len = bytes.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..len), bytes.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let begun = state.begin(OperationKind::Sync, &self.path);
        let crashed = state.crashed;
        state.node_mut(self.node, |node| match &begun {
            Ok(()) => node.sync(),
            // What a crash finds unsynced stays pending.
            Err(_) if crashed => {}
            Err(_) => node.drop_dirty(),
        });
        begun
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.alive()?;
        Ok(state.nodes.get(&self.node).map_or(0, |node| len_of(&node.live)))
    }
}

#[derive(Debug)]
struct SimLock(SimDisk);

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

fn len_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
