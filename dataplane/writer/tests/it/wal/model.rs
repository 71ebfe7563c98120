//! What a log must hold, computed the plain way.
//!
//! Requests are taken apart into atoms, in order: one per frame. Whatever a
//! crash leaves, the log must be what some prefix of the atoms makes, and that
//! prefix must hold all that was acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use pyramid_writer::wal::{Callback, LogEntry, LogId, Opened, Purged, Vote, Wal};

#[derive(Clone, Debug)]
pub(crate) enum Atom {
    Entry(LogEntry),
    Vote(Vote),
    Committed(LogId),
    TruncateAfter(Option<LogId>),
    Purged(Purged),
}

/// The log after some atoms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<Purged>,
    pub(crate) entries: BTreeMap<u64, LogEntry>,
}

impl Expected {
    pub(crate) fn apply(&mut self, atom: &Atom) {
        match atom {
            Atom::Entry(entry) => {
                self.entries.insert(entry.id.index, entry.clone());
            }
            Atom::Vote(vote) => self.vote = Some(*vote),
            Atom::Committed(id) => self.committed = Some(*id),
            Atom::TruncateAfter(after) => {
                let end = after.map_or(0, |after| after.index + 1);
                self.entries.retain(|index, _| *index < end);
            }
            Atom::Purged(purged) => {
                self.purged = Some(*purged);
                self.entries.retain(|index, _| *index > purged.upto.index);
            }
        }
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        let last = self.entries.values().next_back().map(|entry| entry.id);
        last.or(self.purged.map(|purged| purged.upto))
    }

    /// What an opened log holds, all of it read back.
    pub(crate) fn read(wal: &Wal, opened: &Opened) -> Self {
        let entries = wal.entries(0..u64::MAX, None).unwrap();
        let found = Self {
            vote: opened.vote,
            committed: opened.committed,
            purged: opened.purged,
            entries: entries.into_iter().map(|entry| (entry.id.index, entry)).collect(),
        };
        assert_eq!(opened.last, found.last());
        assert_eq!(opened.first_index, found.entries.keys().next().copied());
        found
    }
}

/// All that was asked for, and how much of it was acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) atoms: Vec<Atom>,
    pub(crate) now: Expected,
    acknowledged: Arc<AtomicUsize>,
}

impl Model {
    pub(crate) fn push(&mut self, atom: Atom) {
        self.now.apply(&atom);
        self.atoms.push(atom);
    }

    /// The highest term that was ever used.
    pub(crate) fn last_term(&self) -> u64 {
        let terms = self.atoms.iter().map(|atom| match atom {
            Atom::Entry(entry) => entry.id.term,
            Atom::Vote(vote) => vote.term,
            Atom::Committed(_) | Atom::TruncateAfter(_) | Atom::Purged(_) => 0,
        });
        terms.max().unwrap_or(0)
    }

    /// To be told when all atoms up to now are durable.
    pub(crate) fn callback(&self) -> Callback {
        let (acknowledged, atoms) = (Arc::clone(&self.acknowledged), self.atoms.len());
        Box::new(move |result| {
            if result.is_ok() {
                let before = acknowledged.swap(atoms, Ordering::Relaxed);
                assert!(before < atoms, "told {atoms} after {before}");
            }
        })
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// How many atoms the log holds.
    ///
    /// Panics if what was acknowledged is lost or changed, or something is
    /// there that was never asked for.
    pub(crate) fn check(&self, found: &Expected, context: &str) -> usize {
        let acknowledged = self.acknowledged();
        let mut expected = Expected::default();
        for atom in &self.atoms[..acknowledged] {
            expected.apply(atom);
        }
        // Of all prefixes that fit the longest: marks may change nothing.
        let mut fits = (expected == *found).then_some(acknowledged);
        for (at, atom) in self.atoms.iter().enumerate().skip(acknowledged) {
            expected.apply(atom);
            if expected == *found {
                fits = Some(at + 1);
            }
        }
        fits.unwrap_or_else(|| {
            panic!(
                "{context}: no prefix of at least {acknowledged} of {} atoms makes\n{:?} {:?} \
                 {:?} {:?}\natoms {:?}",
                self.atoms.len(),
                found.vote,
                found.committed,
                found.purged,
                found.entries.values().map(|entry| entry.id).collect::<Vec<_>>(),
                self.atoms.iter().map(short).collect::<Vec<_>>(),
            )
        })
    }

    /// Goes on from what the log holds.
    pub(crate) fn settle(&mut self, found: Expected, context: &str) {
        let held = self.check(&found, context);
        self.atoms.truncate(held);
        self.now = found;
        // Callbacks of the process before count no more.
        self.acknowledged = Arc::new(AtomicUsize::new(held));
    }
}

fn short(atom: &Atom) -> String {
    match atom {
        Atom::Entry(entry) => format!("{} ({})", entry.id, entry.payload.len()),
        Atom::Vote(_) | Atom::Committed(_) | Atom::TruncateAfter(_) | Atom::Purged(_) => {
            format!("{atom:?}")
        }
    }
}
