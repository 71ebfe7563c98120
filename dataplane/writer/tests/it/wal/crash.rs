//! Every crash: at each operation of many workloads, with each subset of what
//! was not synced, also while the log is being opened again.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use pyramid_writer::disk::{OperationKind, SimDisk};

use crate::tell;

use super::{
    model::Expected,
    workload::{Step, World, generate, new_disk, open},
};

const WORKLOADS: u64 = 500;
const STEPS: usize = 16;

/// Up to so many pieces all subsets are tried, else so many random ones.
const ALL_SUBSETS_PENDING_MAX: usize = 12;
const RANDOM_SUBSETS: usize = 64;

/// Each crash while opening is tried on one of so many states.
const REOPEN_EVERY: usize = 40;

#[derive(Debug, Default)]
struct Counts {
    crash_points: usize,
    states: usize,
    states_with_a_torn_tail: usize,
    states_that_lost_something: usize,
    crashes_while_opening: usize,
    acknowledged: usize,
    rolled: usize,
}

#[test]
fn a_crash_anywhere_loses_nothing_that_was_acknowledged() {
    let mut counts = Counts::default();
    for seed in 0..WORKLOADS {
        let steps = generate(seed, STEPS);
        let mut whole = World::new(new_disk(), seed);
        whole.run(&steps);
        assert!(!whole.fatal);
        counts.acknowledged += whole.model.acknowledged();
        let rolls = whole.disk.trace().into_iter().filter(|operation| {
            operation.kind == OperationKind::Rename && operation.path.starts_with("wal/0")
        });
        counts.rolled += rolls.count();
        for at in 0..whole.disk.operations() {
            crash_at(at, seed, &steps, &mut counts);
        }
    }
    tell(&format!("crash points of the log: {counts:?}"));
    assert!(counts.crash_points > 10_000, "too quiet: {counts:?}");
    assert!(counts.states > 50_000, "too quiet: {counts:?}");
    assert!(counts.states_with_a_torn_tail > 5_000, "too quiet: {counts:?}");
    assert!(counts.states_that_lost_something > 5_000, "too quiet: {counts:?}");
    assert!(counts.crashes_while_opening > 5_000, "too quiet: {counts:?}");
    assert!(counts.acknowledged > 2_000 && counts.rolled > 100, "too quiet: {counts:?}");
}

fn crash_at(at: usize, seed: u64, steps: &[Step], counts: &mut Counts) {
    let disk = new_disk();
    disk.crash_at(at);
    let mut world = World::new(disk, seed);
    world.run(steps);
    assert!(world.disk.crashed(), "workload {seed}, operation {at}");
    world.running = None;
    counts.crash_points += 1;
    let context = format!("workload {seed}, crash at operation {at}");

    check(&world, &world.disk.after_kill(), &context, counts);
    let mut random = StdRng::seed_from_u64(seed << 32 | at as u64);
    for subset in subsets(world.disk.pending(), &mut random) {
        let disk = world.disk.after_power_cut(|piece| subset[piece]);
        if counts.states.is_multiple_of(REOPEN_EVERY) {
            crash_while_opening(&world, &disk, &mut random, counts);
        }
        check(&world, &disk, &context, counts);
    }
}

fn subsets(pending: usize, random: &mut StdRng) -> Vec<Vec<bool>> {
    if pending <= ALL_SUBSETS_PENDING_MAX {
        return (0..1usize << pending)
            .map(|mask| (0..pending).map(|piece| mask >> piece & 1 == 1).collect())
            .collect();
    }
    (0..RANDOM_SUBSETS)
        .map(|_| {
            let kept = random.random_range(0.0..=1.0);
            (0..pending).map(|_| random.random_bool(kept)).collect()
        })
        .collect()
}

/// Opens the log and compares it; then it goes on and is opened once more.
fn check(world: &World, disk: &SimDisk, context: &str, counts: &mut Counts) {
    let (wal, opened, driver) = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let found = Expected::read(&wal, &opened);
    let held = world.model.check(&found, context);
    counts.states += 1;
    counts.states_with_a_torn_tail += usize::from(opened.report.torn.is_some());
    counts.states_that_lost_something += usize::from(held < world.model.atoms.len());
    assert_eq!(disk.pending(), 0, "{context}: what was opened is durable");
    if !counts.states.is_multiple_of(4) {
        return;
    }
    drop((wal, driver));
    let mut next = World::new(disk.clone(), 0);
    next.model = world.model.clone();
    next.start();
    next.run_on();
    let disk = next.disk.after_power_cut(|_| false);
    let (wal, opened, _driver) = open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(Expected::read(&wal, &opened), next.model.now, "{context}, went on");
}

impl World {
    /// A vote and entries that are acknowledged.
    fn run_on(&mut self) {
        self.vote();
        self.append(&[100, 0, 5000]);
        self.turn();
        self.append(&[3000]);
        self.turn();
    }
}

fn crash_while_opening(world: &World, disk: &SimDisk, random: &mut StdRng, counts: &mut Counts) {
    let whole = disk.after_kill();
    drop(open(&whole).unwrap());
    for at in 0..whole.operations() {
        let disk = disk.after_kill();
        disk.crash_at(at);
        open(&disk).unwrap_err();
        let context = format!("crash at operation {at} while opening");
        for _ in 0..4 {
            let disk = disk.after_power_cut(|_| random.random());
            check(world, &disk, &context, counts);
            counts.crashes_while_opening += 1;
        }
    }
}

#[test]
fn a_sync_that_fails_once_ends_the_log_and_loses_nothing_that_was_acknowledged() {
    let mut counts = Counts::default();
    let mut failed = 0;
    for seed in 0..60 {
        let steps = generate(seed, STEPS);
        let whole = &mut World::new(new_disk(), seed);
        whole.run(&steps);
        let syncs = whole.disk.trace().into_iter().enumerate().filter(|(_, operation)| {
            matches!(operation.kind, OperationKind::Sync | OperationKind::SyncDir)
        });
        for (at, operation) in syncs {
            let disk = new_disk();
            disk.fail_at(at, std::io::ErrorKind::Other);
            let mut world = World::new(disk, seed);
            world.run(&steps);
            assert!(world.fatal, "workload {seed}, {operation:?}");
            assert_eq!(world.disk.failures_hit(), 1);
            failed += 1;
            world.running = None;
            let context = format!("workload {seed}, failed {operation:?}");
            check(&world, &world.disk.after_power_cut(|_| true), &context, &mut counts);
            check(&world, &world.disk.after_kill(), &context, &mut counts);
            // The cache still shows what the disk never got, and calls it clean.
            shown_once_is_shown_for_ever(&world.disk.after_kill(), &context);
            fail_while_opening(&world, &world.disk, &context);
        }
    }
    tell(&format!("failing syncs of the log: {failed} failed syncs, {counts:?}"));
    assert!(failed > 500, "too quiet: {failed}");
}

/// What an open log shows survives a power cut.
fn shown_once_is_shown_for_ever(disk: &SimDisk, context: &str) {
    let (wal, opened, _driver) = open(disk).unwrap();
    let shown = Expected::read(&wal, &opened);
    let (wal, opened, _driver) = open(&disk.after_power_cut(|_| false)).unwrap();
    assert_eq!(Expected::read(&wal, &opened), shown, "{context}");
}

/// Lets each operation of an open fail once; the next open must make good.
fn fail_while_opening(world: &World, disk: &SimDisk, context: &str) {
    let whole = disk.after_kill();
    drop(open(&whole).unwrap());
    for at in 0..whole.operations() {
        let disk = disk.after_kill();
        disk.fail_at(at, std::io::ErrorKind::Other);
        open(&disk).unwrap_err();
        let disk = disk.after_kill();
        shown_once_is_shown_for_ever(&disk, context);
        check(world, &disk, context, &mut Counts::default());
    }
}

#[test]
fn a_failed_write_or_rename_ends_the_log() {
    let mut failed = 0;
    for seed in 0..30 {
        let steps = generate(seed, STEPS);
        let whole = &mut World::new(new_disk(), seed);
        whole.run(&steps);
        for (at, operation) in whole.disk.trace().into_iter().enumerate() {
            if !matches!(operation.kind, OperationKind::Write | OperationKind::Rename) {
                continue;
            }
            let disk = new_disk();
            disk.fail_at(at, std::io::ErrorKind::Other);
            let mut world = World::new(disk, seed);
            world.run(&steps);
            assert!(world.fatal, "workload {seed}, {operation:?}");
            failed += 1;
            let context = format!("workload {seed}, failed {operation:?}");
            check(&world, &world.disk.after_kill(), &context, &mut Counts::default());
        }
    }
    tell(&format!("failing calls of the log: {failed} failed writes and renames"));
    assert!(failed > 200, "too quiet: {failed}");
}
