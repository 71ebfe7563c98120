//! Random histories of a log that keeps its promises pass, and every planted fault is found.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::*;

const HISTORIES: u64 = 300;
const STEPS: usize = 120;
const CLIENTS: usize = 4;

/// An operation that has begun and not ended.
struct Open {
    op: u64,
    what: What,
}

enum What {
    Append { records: Vec<u64>, place: Place, producer: bool },
    Read { from: usize },
    Tail,
}

/// Where an append is on its way.
#[derive(Clone, Copy)]
enum Place {
    NotYet,
    Written(u64),
    /// Written by an attempt before this one.
    Duplicate(u64),
    Refused,
}

/// A log that takes appends one at a time, and clients that use it, all by chance.
struct Model {
    story: Story,
    log: Vec<u64>,
    clients: Vec<Option<Open>>,
    /// Each client with an even number is a producer: its next sequence, and the append to retry.
    sequences: Vec<u64>,
    retries: Vec<Option<(Vec<u64>, Place)>>,
    acknowledged: Vec<u64>,
    next_number: u64,
    rng: StdRng,
}

impl Model {
    fn run(seed: u64) -> Self {
        let mut model = Self {
            story: Story::default(),
            log: vec![],
            clients: (0..CLIENTS).map(|_| None).collect(),
            sequences: vec![0; CLIENTS],
            retries: vec![None; CLIENTS],
            acknowledged: vec![],
            next_number: 100,
            rng: StdRng::seed_from_u64(seed),
        };
        for _ in 0..STEPS {
            let client = model.rng.random_range(0..CLIENTS);
            match model.clients[client].take() {
                None => model.begin(client),
                Some(open) => model.go_on(client, open),
            }
        }
        model
    }

    fn begin(&mut self, client: usize) {
        let what = match self.rng.random_range(0..10) {
            0..6 => self.begin_append(client),
            6..8 => What::Read { from: self.rng.random_range(0..=self.log.len()) },
            _ => What::Tail,
        };
        let call = match &what {
            What::Append { records, producer, .. } => {
                let (id, sequence) = (client as u64 + 1, self.sequences[client]);
                append_with(records, producer.then_some(Producer { id, epoch: 1, sequence }))
            }
            What::Read { from } => read(*from as u64, false),
            What::Tail => Call::Tail { stream: STREAM.into(), session: 0 },
        };
        let op = self.story.begin(&client.to_string(), call);
        self.clients[client] = Some(Open { op, what });
    }

    fn begin_append(&mut self, client: usize) -> What {
        let producer = client.is_multiple_of(2);
        if let Some((records, place)) = self.retries[client].take() {
            let place = match place {
                Place::Written(first) | Place::Duplicate(first) => Place::Duplicate(first),
                Place::NotYet | Place::Refused => Place::NotYet,
            };
            return What::Append { records, place, producer };
        }
        let count = self.rng.random_range(1..4);
        let records = (self.next_number..self.next_number + count).collect();
        self.next_number += count;
        What::Append { records, place: Place::NotYet, producer }
    }

    /// An operation takes effect, ends, or is lost.
    fn go_on(&mut self, client: usize, mut open: Open) {
        match &mut open.what {
            What::Append { records, place, .. } if matches!(place, Place::NotYet) => {
                // Most are written before they are answered; some are refused or lost before.
                match self.rng.random_range(0..10) {
                    0 => *place = Place::Refused,
                    1 => return self.lose(client, open),
                    _ => {
                        *place = Place::Written(self.log.len() as u64);
                        self.log.extend_from_slice(records);
                    }
                }
                self.clients[client] = Some(open);
            }
            What::Append { .. } if self.rng.random_range(0..10) == 0 => self.lose(client, open),
            What::Append { records, place, producer } => {
                let count = records.len() as u64;
                let (first, duplicate) = match *place {
                    Place::Written(first) => (first, false),
                    Place::Duplicate(first) => (first, true),
                    Place::NotYet | Place::Refused => {
                        let (op, reason) = (open.op, "refused".to_owned());
                        self.story.line(&client.to_string(), Event::Fail { op, reason });
                        self.retries[client] = producer.then(|| (records.clone(), *place));
                        return;
                    }
                };
                self.sequences[client] += count;
                self.acknowledged.extend_from_slice(records);
                let (first, next) = (Some(first), Some(first + count));
                self.story.end(open.op, Outcome::Appended { first, next, duplicate });
            }
            What::Read { from } => {
                let first = *from as u64;
                let pieces = vec![Piece { first, records: self.log[*from..].to_vec() }];
                let caught_up = Some(self.log.len() as u64);
                self.story.end(open.op, Outcome::Read { pieces, caught_up });
            }
            What::Tail => {
                self.story.end(open.op, Outcome::Tail { next: self.log.len() as u64 });
            }
        }
    }

    fn lose(&mut self, client: usize, open: Open) {
        let (op, reason) = (open.op, "cut off".to_owned());
        self.story.line(&client.to_string(), Event::Unknown { op, reason });
        if let What::Append { records, place, producer: true } = open.what {
            self.retries[client] = Some((records, place));
        }
    }

    /// The verdict if this is what a complete read and the application's table show at the end.
    fn judge(&self, log: &[u64], rows: &[(u64, u64)]) -> BTreeMap<Rule, u64> {
        let call =
            Call::Effects { application: "till".into(), stream: STREAM.into(), complete: true };
        let position = Some(log.len() as u64);
        let outcome = Outcome::Effects { rows: rows.to_vec(), position };
        self.story.clone().complete(log).done("judge", call, outcome).violated()
    }
}

fn rows(log: &[u64]) -> Vec<(u64, u64)> {
    (0..).zip(log.iter().copied()).collect()
}

#[test]
fn a_log_that_keeps_its_promises_passes() {
    let mut acknowledged = 0;
    for seed in 0..HISTORIES {
        let model = Model::run(seed);
        assert_eq!(model.judge(&model.log, &rows(&model.log)), none(), "seed {seed}");
        acknowledged += model.acknowledged.len();
    }
    // Histories in which nothing happens would pass, too.
    assert!(acknowledged > 6_000, "{acknowledged} acknowledged records");
}

/// Changes the final log and expects that this is found, unless the change changes nothing.
#[track_caller]
fn is_found(name: &str, change: impl Fn(&Model, &mut StdRng, &mut Vec<u64>)) {
    let mut changed = 0;
    for seed in 0..HISTORIES {
        let model = Model::run(seed);
        let mut log = model.log.clone();
        change(&model, &mut StdRng::seed_from_u64(seed), &mut log);
        if log != model.log {
            assert_ne!(model.judge(&log, &rows(&log)), none(), "{name} in seed {seed}");
            changed += 1;
        }
    }
    assert!(changed > HISTORIES / 2, "{name} changed {changed} histories");
}

#[test]
fn every_loss_of_an_acknowledged_record_is_found() {
    is_found("a loss", |model, rng, log| {
        if let Some(lost) = model.acknowledged.choose(rng) {
            log.retain(|record| record != lost);
        }
    });
}

#[test]
fn every_copy_is_found() {
    is_found("a copy", |_, rng, log| {
        if let Some(copied) = log.choose(rng).copied() {
            log.insert(rng.random_range(0..=log.len()), copied);
        }
    });
}

#[test]
fn every_exchange_with_an_acknowledged_record_is_found() {
    is_found("an exchange", |model, rng, log| {
        let Some(record) = model.acknowledged.choose(rng) else { return };
        let one = log.iter().position(|there| there == record).unwrap();
        let other = rng.random_range(0..log.len());
        log.swap(one, other);
    });
}

#[test]
fn every_invention_is_found() {
    is_found("an invention", |_, rng, log| log.insert(rng.random_range(0..=log.len()), 7));
}

#[test]
fn every_change_of_the_table_is_found() {
    for seed in 0..HISTORIES {
        let model = Model::run(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let right = rows(&model.log);
        let place = rng.random_range(0..right.len());
        let mut lost = right.clone();
        lost.remove(place);
        let mut copied = right.clone();
        copied.push((right.len() as u64, right[place].1));
        let mut exchanged = right.clone();
        exchanged[place].1 = right[(place + 1) % right.len()].1;
        for rows in [lost, copied, exchanged] {
            if rows != right {
                assert_ne!(model.judge(&model.log, &rows), none(), "seed {seed}, row {place}");
            }
        }
    }
}

#[test]
fn an_acknowledgement_that_was_a_refusal_is_found() {
    for seed in 0..HISTORIES {
        let mut model = Model::run(seed);
        let once = |op: u64, lines: &[Line]| {
            let sent =
                |line: &&Line| matches!(&line.event, Event::Invoke { op: o, .. } if *o == op);
            let call = lines.iter().find(sent).map(|line| line.event.clone());
            let Some(Event::Invoke { call: Call::Append { records, .. }, .. }) = call else {
                return false;
            };
            let same = |line: &&Line| matches!(&line.event, Event::Invoke { call: Call::Append { records: r, .. }, .. } if *r == records);
            lines.iter().filter(same).count() == 1
        };
        let lines = model.story.lines.clone();
        let acknowledged = model.story.lines.iter_mut().find_map(|line| {
            let Event::Ok { op, result: Outcome::Appended { .. } } = line.event else {
                return None;
            };
            once(op, &lines).then_some((op, &mut line.event))
        });
        let Some((op, event)) = acknowledged else { continue };
        *event = Event::Fail { op, reason: "a lie".into() };
        assert_ne!(model.judge(&model.log, &rows(&model.log)), none(), "seed {seed}");
    }
}

#[test]
fn a_large_history_is_judged_in_no_time() {
    // Quadratic work would take minutes.
    let records = 200_000;
    let log: Vec<u64> = (0..records).collect();
    let mut story = Story::default();
    for (first, batch) in (0..).step_by(10).zip(log.chunks(10)) {
        story = story.append(batch, first);
    }
    let report = story.read(0, &log).complete(&log).report();
    assert_eq!((report.violated, report.counts.acknowledged), (none(), records));
}
