//! Generated workloads, run against a log and its model.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use pyramid_writer::{
    data_dir::Identity,
    disk::SimDisk,
    wal::{self, Config, Driver, LogEntry, LogId, Opened, Purged, Turn, Vote, Wal},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::model::{Atom, Expected, Model};

pub(crate) const IDENTITY: Identity =
    Identity { cluster_id: [1; 16], node_id: 5, disk_id: [2; 16], wal_id: [3; 16] };

/// Small, so that a few appends fill a segment.
pub(crate) fn config() -> Config {
    Config {
        segment_bytes: 24 << 10,
        block_bytes_max: 6 << 10,
        entry_bytes_max: 10 << 10,
        spares_min: 1,
        ..Config::new(1 << 20, 4 << 10)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Entries with payloads of these lengths.
    Append(Vec<usize>),
    Vote,
    Commit,
    Truncate,
    Purge,
    /// Everything queued is written.
    Turn,
    /// Time passes, so that an idle block is due.
    Wait,
    /// The process is killed and started again.
    Kill,
    /// The process stops and is started again.
    Stop,
}

pub(crate) fn generate(seed: u64, steps: usize) -> Vec<Step> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..steps)
        .map(|_| match random.random_range(0..100) {
            0..30 => {
                Step::Append((0..random.random_range(1..4)).map(|_| len(&mut random)).collect())
            }
            30..36 => Step::Vote,
            36..44 => Step::Commit,
            44..50 => Step::Truncate,
            50..53 => Step::Purge,
            53..86 => Step::Turn,
            86..94 => Step::Wait,
            94..98 => Step::Kill,
            _ => Step::Stop,
        })
        .collect()
}

/// Mostly small, so that all subsets of their sectors can be tried, and sometimes
/// larger than a block.
fn len(random: &mut StdRng) -> usize {
    match random.random_range(0..20) {
        0 => random.random_range(7000..10_000),
        1 => random.random_range(500..1500),
        2..5 => 0,
        _ => random.random_range(1..200),
    }
}

/// A log on a disk, with the model of what it must hold.
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) model: Model,
    pub(crate) running: Option<(Wal, Driver)>,
    term: u64,
    now: Duration,
    random: StdRng,
    pub(crate) fatal: bool,
}

pub(crate) fn open(disk: &SimDisk) -> Result<(Wal, Opened, Driver), wal::OpenError> {
    Wal::open_driven(Arc::new(disk.clone()), config(), &IDENTITY)
}

/// A disk with the log of a new replica.
pub(crate) fn new_disk() -> SimDisk {
    let disk = SimDisk::new();
    wal::create(&disk, &config(), &IDENTITY).unwrap();
    disk.after_kill()
}

impl World {
    pub(crate) fn new(disk: SimDisk, seed: u64) -> Self {
        Self {
            disk,
            model: Model::default(),
            running: None,
            term: 1,
            now: Duration::ZERO,
            random: StdRng::seed_from_u64(seed),
            fatal: false,
        }
    }

    /// Runs the steps until the disk fails.
    pub(crate) fn run(&mut self, steps: &[Step]) {
        self.start();
        for step in steps {
            if self.running.is_none() {
                return;
            }
            self.step(step);
        }
        self.turn();
    }

    /// Opens the log, unless the disk has crashed, and compares.
    pub(crate) fn start(&mut self) {
        let Ok((wal, opened, driver)) = open(&self.disk) else {
            assert!(self.disk.crashed() || self.disk.failures_hit() > 0, "a healthy disk");
            self.fatal = true;
            return;
        };
        let found = Expected::read(&wal, &opened);
        // A term is used once, also by what was cut or lost.
        self.term = self.term.max(self.model.last_term());
        self.model.settle(found, "reopened");
        self.running = Some((wal, driver));
        self.now = Duration::ZERO;
    }

    fn step(&mut self, step: &Step) {
        let committed = self.model.now.committed;
        let last = self.model.now.last();
        match step {
            Step::Append(lens) => self.append(lens),
            Step::Vote => self.vote(),
            Step::Commit => {
                let Some(last) = last.filter(|last| committed.is_none_or(|c| c.index < last.index))
                else {
                    return;
                };
                let from = committed.map_or(last.index, |committed| committed.index + 1);
                let index = self.random.random_range(from..=last.index);
                let id = self.id_at(index);
                self.model.push(Atom::Committed(id));
                self.wal().save_committed(id).unwrap();
            }
            Step::Truncate => self.truncate(),
            Step::Purge => {
                let purged = self.model.now.purged.map(|purged| purged.upto.index);
                let Some(upto) = committed.filter(|id| purged.is_none_or(|p| p < id.index)) else {
                    return;
                };
                let purged = Purged { upto, complete_at: upto.index + 7 };
                self.model.push(Atom::Purged(purged));
                let callback = self.model.callback();
                self.wal().purge(purged, callback).unwrap();
            }
            Step::Turn => self.turn(),
            Step::Wait => {
                self.now += Duration::from_millis(3);
                self.turn();
            }
            Step::Kill => {
                self.running = None;
                self.start();
            }
            Step::Stop => {
                self.stop();
                if !self.fatal {
                    self.start();
                }
            }
        }
    }

    pub(crate) fn append(&mut self, lens: &[usize]) {
        let mut entries = Vec::new();
        for len in lens {
            let index = self.model.now.last().map_or(1, |last| last.index + 1);
            let id = LogId { term: self.term, index };
            let entry = LogEntry { id, payload: payload(self.model.atoms.len(), *len) };
            self.model.push(Atom::Entry(entry.clone()));
            entries.push(entry);
        }
        let callback = self.model.callback();
        self.wal().append(entries.clone(), callback).unwrap();
        for entry in entries {
            assert_eq!(self.wal().entry(entry.id).unwrap(), entry, "readable at once");
        }
    }

    pub(crate) fn vote(&mut self) {
        self.term += 1;
        let committed = self.random.random();
        let vote = Vote { term: self.term, node_id: self.random.random_range(0..3), committed };
        self.model.push(Atom::Vote(vote));
        let callback = self.model.callback();
        self.wal().save_vote(vote, callback).unwrap();
    }

    fn truncate(&mut self) {
        let now = &self.model.now;
        let Some(last) = now.last() else { return };
        let first = now.entries.keys().next().map_or(last.index, |first| *first);
        let keep = now.committed.map_or(first, |id| id.index.max(first));
        let index = self.random.random_range(keep..=last.index.max(keep));
        if index > last.index {
            return;
        }
        let id = self.id_at(index);
        self.term += 1;
        self.model.push(Atom::TruncateAfter(Some(id)));
        let callback = self.model.callback();
        self.wal().truncate_after(Some(id), callback).unwrap();
    }

    fn id_at(&self, index: u64) -> LogId {
        let now = &self.model.now;
        let entry = now.entries.get(&index).map(|entry| entry.id);
        entry.or(now.purged.map(|purged| purged.upto)).unwrap()
    }

    pub(crate) fn wal(&self) -> &Wal {
        &self.running.as_ref().unwrap().0
    }

    pub(crate) fn turn(&mut self) {
        let Some((wal, driver)) = &mut self.running else { return };
        if driver.turn(self.now) == Turn::Stopped {
            assert!(self.disk.crashed() || self.disk.failures_hit() > 0, "a healthy disk");
            let refused = wal.append(Vec::new(), Box::new(|_| ()));
            assert!(matches!(refused, Err(wal::Error::Stopped)), "{refused:?}");
            self.fatal = true;
            self.running = None;
            return;
        }
        let issued = self.model.atoms.len();
        let rides = self.model.atoms.iter().rev().take_while(|a| matches!(a, Atom::Committed(_)));
        let acknowledged = self.model.acknowledged();
        assert!(acknowledged >= issued - rides.count(), "{acknowledged} of {issued} flushed");
        let found = wal.entries(0..u64::MAX, None).unwrap();
        assert!(
            found.iter().eq(self.model.now.entries.values()),
            "{:?} not {:?}",
            found.iter().map(|e| (e.id, e.payload.len())).collect::<Vec<_>>(),
            self.model.now.entries.values().map(|e| (e.id, e.payload.len())).collect::<Vec<_>>()
        );
        assert_eq!(*wal.flushed().borrow(), self.model.now.last());
    }

    /// Stops the log in order.
    pub(crate) fn stop(&mut self) {
        let Some((wal, mut driver)) = self.running.take() else { return };
        drop(wal);
        assert_eq!(driver.turn(self.now), Turn::Stopped);
        self.fatal = self.disk.crashed() || self.disk.failures_hit() > 0;
    }
}

/// Without zeros, so that a lost sector is never the right one.
fn payload(number: usize, len: usize) -> Bytes {
    let seed = u8::try_from(number % 200).unwrap();
    (0..len).map(|at| 1 + seed.wrapping_add(u8::try_from(at % 50).unwrap()) % 255).collect()
}
