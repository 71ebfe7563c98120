//! A full disk and a used-up budget.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use pyramid_writer::{
    disk::{Disk as _, OperationKind, SimDisk},
    wal::{Config, Driver, Fatal, LogEntry, LogId, Turn, Wal},
};

use super::workload::{IDENTITY, config, new_disk};

/// One entry that fills half a segment.
fn half(index: u64) -> Vec<LogEntry> {
    let id = LogId { term: 1, index };
    vec![LogEntry { id, payload: Bytes::from(vec![7; 10_000]) }]
}

struct Log {
    wal: Wal,
    driver: Driver,
    flushed: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    next: u64,
}

impl Log {
    fn open(disk: &SimDisk, config: Config) -> Self {
        let (wal, opened, driver) =
            Wal::open_driven(Arc::new(disk.clone()), config, &IDENTITY).unwrap();
        let next = opened.last.map_or(1, |last| last.index + 1);
        Self { wal, driver, flushed: Arc::default(), failed: Arc::default(), next }
    }

    fn append(&mut self) {
        let (flushed, failed) = (Arc::clone(&self.flushed), Arc::clone(&self.failed));
        let told = move |result: io::Result<()>| {
            let count = if result.is_ok() { &flushed } else { &failed };
            count.fetch_add(1, Ordering::Relaxed);
        };
        self.wal.append(half(self.next), Box::new(told)).unwrap();
        self.next += 1;
    }

    fn turn_at(&mut self, ms: u64) -> Turn {
        self.driver.turn(Duration::from_millis(ms))
    }

    fn counts(&self) -> (u64, u64) {
        (self.flushed.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

#[test]
fn a_full_disk_refuses_appends_and_is_retried_until_there_is_room() {
    let disk = new_disk();
    disk.set_capacity(Some(24 << 10));
    let mut log = Log::open(&disk, config());
    assert!(!log.wal.usage().refuses_appends());
    log.append();
    log.turn_at(0);
    assert_eq!(log.counts(), (1, 0), "the segment that is there is written");
    assert!(log.wal.usage().refuses_appends() && log.wal.usage().is_under_pressure());
    assert_eq!(disk.list("wal").unwrap(), ["0000000000000000.wal"], "no remains");

    // What needs the next segment waits; nothing fails.
    log.append();
    assert_eq!(log.turn_at(50), Turn::Idle(Some(Duration::from_millis(100))));
    let attempts = |disk: &SimDisk| {
        let creates = disk.trace().into_iter().filter(|op| op.kind == OperationKind::Create);
        creates.count()
    };
    assert_eq!(attempts(&disk), 1);
    assert_eq!(log.turn_at(100), Turn::Idle(Some(Duration::from_millis(300))));
    assert_eq!(attempts(&disk), 2, "the waits double");
    assert_eq!(log.counts(), (1, 0));

    disk.set_capacity(None);
    log.turn_at(299);
    assert_eq!(log.counts(), (1, 0));
    log.turn_at(300);
    assert_eq!(log.counts(), (2, 0));
    assert!(!log.wal.usage().refuses_appends());
    let reopened = Log::open(&disk.after_power_cut(|_| false), config());
    assert_eq!(reopened.next, 3);
}

#[test]
fn no_room_at_any_step_of_a_spare_is_not_fatal() {
    let whole = new_disk();
    Log::open(&whole, config()).turn_at(0);
    let steps = whole.trace().into_iter().enumerate();
    let steps = steps.filter(|(_, operation)| operation.path.contains("spare"));
    let mut tried = 0;
    for (at, operation) in steps {
        let disk = new_disk();
        disk.fail_at(at, io::ErrorKind::StorageFull);
        let mut log = Log::open(&disk, config());
        log.append();
        log.append();
        log.turn_at(0);
        assert_eq!(disk.failures_hit(), 1, "{operation:?}");
        assert_eq!(log.counts(), (1, 0), "{operation:?}");
        assert!(log.wal.usage().refuses_appends(), "{operation:?}");
        log.turn_at(100);
        assert_eq!(log.counts(), (2, 0), "{operation:?}");
        assert!(!log.wal.usage().refuses_appends(), "{operation:?}");
        tried += 1;
    }
    assert!(tried >= 4, "{tried} steps");
}

#[test]
fn a_start_needs_no_room() {
    let disk = new_disk();
    let mut log = Log::open(&disk, config());
    for _ in 0..3 {
        log.append();
        log.turn_at(0);
    }
    // A torn block at the head of a segment that was just begun.
    disk.crash_at(disk.operations() + 3);
    log.append();
    log.turn_at(0);
    assert!(disk.crashed());
    for kept in [false, true] {
        let disk = disk.after_power_cut(|_| kept);
        disk.set_capacity(Some(0));
        let mut log = Log::open(&disk, config());
        log.turn_at(0);
        assert_eq!(log.wal.entry(half(3)[0].id).unwrap(), half(3)[0]);
        log.append();
        log.turn_at(0);
        assert_eq!(log.counts(), (1, 0), "kept {kept}");
    }
}

#[test]
fn a_used_up_budget_refuses_then_uses_the_reserve_then_ends_the_log() {
    let four_segments = Config { wal_bytes_max: 4 * (24 << 10), ..config() };
    let disk = new_disk();
    let mut log = Log::open(&disk, four_segments);
    let mut refused_at = None;
    let mut pressed_at = None;
    // An entry and its head need half a segment, and the founding block takes
    // the place of one: 4 + 4 segments hold 15.
    for count in 1..=15 {
        log.append();
        log.turn_at(0);
        assert_eq!(log.counts(), (count, 0));
        let usage = log.wal.usage();
        if usage.is_under_pressure() {
            pressed_at.get_or_insert(usage.used_bytes);
        }
        if usage.refuses_appends() {
            refused_at.get_or_insert(usage.used_bytes);
        }
    }
    assert_eq!(pressed_at, Some(72 << 10), "above 70%");
    assert_eq!(refused_at, Some(96 << 10), "above 90%");
    let usage = log.wal.usage();
    assert!(usage.used_bytes * 10 > usage.max_bytes * 19, "{usage:?}");
    log.append();
    assert_eq!(log.turn_at(0), Turn::Stopped);
    assert_eq!(log.counts(), (15, 1));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let fatal = runtime.block_on(log.wal.fatal());
    assert!(matches!(fatal, Fatal::BudgetUsedUp { wal_bytes_max: 98304 }), "{fatal}");

    // A larger budget is all that a new start needs.
    let mut log = Log::open(&disk.after_kill(), config());
    assert_eq!(log.next, 16);
    log.append();
    log.turn_at(0);
    assert_eq!(log.counts(), (1, 0));
}
