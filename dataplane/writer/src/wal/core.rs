//! What to write next: the step machine of the log.
//!
//! It gets what is queued, what became of its last write and the time, and
//! answers with the next disk operations and what is durable now. It does no
//! I/O, so production, simulation and the crash tests run the same decisions.
//!
//! One block is in flight. While it is, requests queue and become the next
//! block. [`Item`]s stay in the order of the requests, also commit marks; those
//! only wait for company.

use std::{collections::VecDeque, time::Duration};

use crate::{
    data_dir::Identity,
    wal::{
        Config, Fatal, LogId, Purged, RESERVE_SEGMENTS, Vote,
        block::{self, Checked, Place},
        frame::{Frame, SegmentHead},
        log::Sample,
    },
};

mod spares;

use spares::Spares;

/// One frame in the queue.
#[derive(Clone, Debug)]
pub struct Item {
    /// `None` waits for all before it and writes nothing.
    pub frame: Option<Frame>,
    /// The request is durable when this item is. `None`: more of it follows.
    pub completes: Option<u64>,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// Requests came, or only time passed.
    Queue(Vec<Item>),
    /// The last write ended.
    Written {
        /// Whether it is durable.
        result: Result<(), Fatal>,
        /// Its memory, to be used again.
        buffer: Vec<u8>,
    },
    /// A spare is ready, or there was no room for it.
    Spare {
        /// Its number.
        number: u64,
        /// How it went.
        result: SpareResult,
    },
    /// Nothing more will be queued.
    Stop,
}

/// What became of a spare.
#[derive(Debug)]
pub enum SpareResult {
    /// It can be used.
    Ready,
    /// The disk is full.
    NoRoom,
    /// The disk refused.
    Failed(Fatal),
}

/// What to do now.
#[derive(Debug, Default)]
pub struct Output {
    /// The next write. The answer is [`Input::Written`].
    pub write: Option<Write>,
    /// A spare to make, besides. The answer is [`Input::Spare`].
    pub make_spare: Option<u64>,
    /// What is durable now.
    pub flushed: Option<Flushed>,
    /// When to come again if nothing happens before. Unit: time since the open.
    pub wake_at: Option<Duration>,
    /// The end: nothing more is durable and nothing more is to be done.
    pub fatal: Option<Fatal>,
    /// All that can be done is done, after [`Input::Stop`].
    pub stopped: bool,
}

/// Disk operations, in this order: rename a spare and sync the directory, write
/// the block, sync the segment.
#[derive(Debug)]
pub struct Write {
    /// The segment. Unit: bytes of log.
    pub start_lsn: u64,
    /// The spare that becomes the segment first.
    pub spare: Option<u64>,
    /// Where in the segment. Unit: bytes.
    pub at: u64,
    /// The block.
    pub block: Vec<u8>,
}

/// What one write made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// All requests up to this one.
    pub sequence: Option<u64>,
    /// The last entry that is durable.
    pub last: Option<LogId>,
    /// Index of the first entry in the block, and where the block lies.
    pub first_entry: Option<(u64, u64)>,
}

impl Flushed {
    pub(crate) fn sample(&self) -> Option<Sample> {
        self.first_entry.map(|(index, lsn)| Sample { index, lsn })
    }
}

/// Where a log goes on.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Where the next block goes.
    pub position: u64,
    /// Where the last segment ends.
    pub end: u64,
    /// The block before.
    pub last_block: Checked,
    /// That of this open.
    pub open_count: u32,
    /// The last vote.
    pub vote: Option<Vote>,
    /// The last commit mark.
    pub committed: Option<LogId>,
    /// What was purged.
    pub purged: Option<Purged>,
    /// The last entry.
    pub last: Option<LogId>,
    /// See [`SegmentHead::opened_at`].
    pub opened_at: Option<u64>,
}

/// The step machine.
#[derive(Debug)]
pub struct Core {
    config: Config,
    identity: Identity,
    seed: u32,
    queue: VecDeque<Item>,
    /// Items in the queue that do not just ride along.
    queued_frames: usize,
    in_flight: Option<InFlight>,
    at: Start,
    prev_header_crc: u32,
    /// The next block begins with a head although no segment does.
    head_is_due: bool,
    /// When the last data block is to be followed by an idle one.
    idle_at: Option<Duration>,
    spares: Spares,
    buffer: Vec<u8>,
    is_stopping: bool,
    fatal: Option<Fatal>,
}

#[derive(Debug)]
struct InFlight {
    flushed: Flushed,
    is_idle: bool,
}

/// What a block is to hold.
struct Plan {
    /// Items from the front of the queue.
    items: usize,
    is_idle: bool,
    /// Unit: bytes of frames.
    body_len: usize,
}

impl Core {
    /// A log that was just opened, with these spares.
    #[must_use]
    pub fn new(config: Config, identity: Identity, start: Start, spares: &[u64]) -> Self {
        // A data block that was the last one of an earlier process is owed its
        // idle block as well.
        let idle_at = (!start.last_block.header.is_idle()).then_some(config.idle_after);
        Self {
            seed: block::seed(&identity.wal_id),
            spares: Spares::new(spares, config.spares_min),
            prev_header_crc: start.last_block.header_crc,
            config,
            identity,
            queue: VecDeque::new(),
            queued_frames: 0,
            in_flight: None,
            at: start,
            head_is_due: true,
            idle_at,
            buffer: Vec::new(),
            is_stopping: false,
            fatal: None,
        }
    }

    /// Bytes of log up to the end of the block that was built last.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.at.position
    }

    /// Whether the disk had no room for the last spare.
    #[must_use]
    pub fn is_short_of_room(&self) -> bool {
        self.spares.is_short()
    }

    /// Takes what happened and says what to do. `now` is the time since the open.
    pub fn step(&mut self, input: Input, now: Duration) -> Output {
        let mut output = Output::default();
        match input {
            Input::Queue(items) => items.into_iter().for_each(|item| self.enqueue(item)),
            Input::Written { result, buffer } => {
                self.buffer = buffer;
                match (result, self.in_flight.take()) {
                    (Ok(()), Some(done)) => {
                        self.idle_at = (!done.is_idle).then(|| now + self.config.idle_after);
                        output.flushed = Some(done.flushed);
                    }
                    (Ok(()), None) => {}
                    (Err(fatal), _) => self.fatal = Some(fatal),
                }
            }
            Input::Spare { number, result } => {
                if let Err(fatal) = self.spares.made(number, result, now) {
                    self.fatal = Some(fatal);
                }
            }
            Input::Stop => self.is_stopping = true,
        }
        if self.fatal.is_none() && self.in_flight.is_none() {
            self.go_on(now, &mut output);
        }
        if self.fatal.is_some() {
            output.fatal.clone_from(&self.fatal);
            return output;
        }
        // A stop does not wait for what only a later append needs.
        if !self.is_stopping || self.queued_frames > 0 {
            output.make_spare = self.spares.wanted(self.segments(), self.segments_max(), now);
        }
        let idle_at = self.idle_at.filter(|_| self.in_flight.is_none());
        let wakes = [idle_at.filter(|at| *at > now), self.spares.retry_at()];
        output.wake_at = wakes.into_iter().flatten().min();
        output
    }

    fn enqueue(&mut self, item: Item) {
        let rides = is_rider(&item);
        if !rides {
            self.queued_frames += usize::from(item.frame.is_some());
        } else if self.queue.back().is_some_and(is_rider) {
            // The later mark says all that the earlier one does.
            self.queue.pop_back();
        }
        self.queue.push_back(item);
    }

    /// Builds the next block, if there is something to write and room for it.
    fn go_on(&mut self, now: Duration, output: &mut Output) {
        if self.queued_frames == 0 {
            let waiting = self.queue.iter().filter_map(|item| item.completes).max();
            if let Some(sequence) = waiting {
                self.queue.retain(is_rider);
                self.queue.iter_mut().for_each(|item| item.completes = None);
                let before = output.flushed.map(|flushed| flushed.first_entry);
                output.flushed = Some(Flushed {
                    sequence: Some(sequence),
                    last: self.at.last,
                    first_entry: before.flatten(),
                });
            }
        }
        let plan = if self.queued_frames > 0 {
            self.plan_data()
        } else if self.idle_at.is_some_and(|at| self.is_stopping || at <= now) {
            self.plan_idle()
        } else {
            output.stopped = self.is_stopping;
            return;
        };
        match self.place(&plan) {
            Some(spare) => output.write = Some(self.build(&plan, spare)),
            // With a full disk there may never be a spare.
            None => output.stopped = self.is_stopping && !self.spares.is_making(),
        }
    }

    fn plan_data(&self) -> Plan {
        let mut plan = Plan { items: 0, is_idle: false, body_len: 0 };
        let len_max = usize::try_from(self.config.block_bytes_max).unwrap_or(usize::MAX);
        // A commit mark never makes a block, so a large frame takes it along.
        let mut has_data = false;
        for item in &self.queue {
            let len = item.frame.as_ref().map_or(0, Frame::encoded_len);
            if has_data && plan.body_len + len > len_max {
                break;
            }
            plan.items += 1;
            plan.body_len += len;
            has_data |= item.frame.is_some() && !is_rider(item);
        }
        plan
    }

    /// All that is queued then are commit marks.
    fn plan_idle(&self) -> Plan {
        let riders = self.queue.iter().filter_map(|item| item.frame.as_ref());
        let riders_len: usize = riders.map(Frame::encoded_len).sum();
        Plan {
            items: self.queue.len(),
            is_idle: true,
            body_len: Frame::Idle.encoded_len() + riders_len,
        }
    }

    /// Moves to where the block fits. The inner answer is the spare that must
    /// become a segment first; the outer one is `None` if there is none yet.
    fn place(&mut self, plan: &Plan) -> Option<Option<u64>> {
        let head_len = SegmentHead::LEN + crate::wal::frame::HEADER_LEN;
        let has_head = self.head_is_due || self.is_at_start();
        let body_len = plan.body_len + if has_head { head_len } else { 0 };
        let body_len = u64::try_from(body_len).unwrap_or(u64::MAX);
        if self.at.position + block::block_len(body_len) <= self.at.end {
            return Some(None);
        }
        let Some(spare) = self.spares.take() else {
            // An idle block is not worth the end of the process.
            if self.segments() >= self.segments_max() && !plan.is_idle {
                let wal_bytes_max = self.config.wal_bytes_max;
                self.fatal = Some(Fatal::BudgetUsedUp { wal_bytes_max });
            }
            return None;
        };
        self.at.position = self.at.end;
        self.at.end += self.config.segment_bytes;
        Some(Some(spare))
    }

    fn build(&mut self, plan: &Plan, spare: Option<u64>) -> Write {
        let is_first = self.is_at_start();
        let mut frames = Vec::with_capacity(plan.items + 2);
        if std::mem::take(&mut self.head_is_due) || is_first {
            frames.push(Frame::SegmentHead(self.head()));
        }
        if plan.is_idle {
            frames.push(Frame::Idle);
        }
        let mut sequence = None;
        for item in self.queue.drain(..plan.items) {
            self.queued_frames -= usize::from(item.frame.is_some() && !is_rider(&item));
            sequence = item.completes.or(sequence);
            frames.extend(item.frame);
        }
        for frame in &frames {
            self.at.note(frame);
        }
        let lsn = self.at.position;
        let place = Place {
            lsn,
            prev_header_crc: self.prev_header_crc,
            open_count: self.at.open_count,
            term: self.at.vote.map_or(0, |vote| vote.term),
            is_first,
            is_idle: plan.is_idle,
        };
        let mut bytes = std::mem::take(&mut self.buffer);
        let checked = block::encode(place, self.seed, frames.iter(), &mut bytes);
        let first_entry = checked.header.first_index.map(|index| (index, lsn));
        let flushed = Flushed { sequence, last: self.at.last, first_entry };
        self.in_flight = Some(InFlight { flushed, is_idle: plan.is_idle });
        self.prev_header_crc = checked.header_crc;
        self.at.position += checked.header.block_len();
        let start_lsn = self.at.end - self.config.segment_bytes;
        Write { start_lsn, spare, at: lsn - start_lsn, block: bytes }
    }

    fn head(&self) -> SegmentHead {
        SegmentHead {
            identity: self.identity,
            vote: self.at.vote,
            committed: self.at.committed,
            purged: self.at.purged,
            opened_at: self.at.opened_at,
            open_count: self.at.open_count,
        }
    }

    /// Whether the next block begins a segment that has its file.
    fn is_at_start(&self) -> bool {
        self.at.position + self.config.segment_bytes == self.at.end
    }

    fn segments(&self) -> u64 {
        self.at.end / self.config.segment_bytes
    }

    fn segments_max(&self) -> u64 {
        self.config.wal_bytes_max / self.config.segment_bytes + RESERVE_SEGMENTS
    }
}

impl Start {
    /// Keeps up with a frame that is written.
    fn note(&mut self, frame: &Frame) {
        match frame {
            Frame::Entry(entry) => self.last = Some(entry.id),
            Frame::Vote(vote) => self.vote = Some(*vote),
            Frame::Committed(id) => self.committed = Some(*id),
            Frame::TruncateAfter(after) => {
                let purged = self.purged.map(|purged| purged.upto);
                let is_cut = match (self.last, after) {
                    (Some(last), Some(after)) => after.index < last.index,
                    (Some(_), None) => true,
                    (None, _) => false,
                };
                if is_cut {
                    self.last = after.or(purged);
                }
            }
            Frame::Purged(purged) => {
                self.purged = Some(*purged);
                if self.last.is_none_or(|last| last.index < purged.upto.index) {
                    self.last = Some(purged.upto);
                }
            }
            Frame::SegmentHead(_) | Frame::Idle => {}
        }
    }
}

fn is_rider(item: &Item) -> bool {
    matches!(item.frame, Some(Frame::Committed(_)))
}

#[cfg(test)]
mod tests;
