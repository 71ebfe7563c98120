//! Carries out what the core decides.
//!
//! The same [`Driver`] runs on a thread in production, as a task in a
//! simulation ([`Driver::run`]) and step by step in tests ([`Driver::turn`]).
//! Spares are made on a thread of their own in production, else in the turn.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::SyncSender,
    },
    time::Duration,
};

use pyramid_telemetry::health::Pulse;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    disk::{self, Disk, File},
    wal::{
        Callback, Config, Fatal, LogId,
        core::{Core, Flushed, Input, Item, SpareResult, Write},
        log::Log,
        segment,
    },
};

pub(crate) mod thread;

/// What the handle and the driver share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) seed: u32,
    inner: Mutex<Inner>,
    /// Wakes a driver that is a thread.
    wake: Condvar,
    /// Wakes a driver that is a task.
    notify: Notify,
    pub(crate) files: RwLock<BTreeMap<u64, Arc<dyn File>>>,
    pub(crate) flushed: watch::Sender<Option<LogId>>,
    pub(crate) fatal: watch::Sender<Option<Fatal>>,
    pub(crate) used_bytes: AtomicU64,
    pub(crate) is_short_of_room: AtomicBool,
    /// Of the thread that writes: beats when it is idle as well.
    pub(crate) pulse: Pulse,
}

/// Under one lock, so that the queue has the order of the log.
///
/// The queue has no bound of its own: its entries are the ones in the live
/// cache, and whoever proposes bounds the bytes in flight.
pub(crate) struct Inner {
    pub(crate) log: Log,
    pub(crate) items: Vec<Item>,
    pub(crate) callbacks: Vec<(u64, Callback)>,
    pub(crate) sequence: u64,
    spare: Option<(u64, SpareResult)>,
    pub(crate) is_stopping: bool,
    /// Nothing is taken any more.
    pub(crate) is_closed: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("log", &self.log).field("items", &self.items.len()).finish()
    }
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        seed: u32,
        log: Log,
        files: BTreeMap<u64, Arc<dyn File>>,
    ) -> Self {
        let last = log.last();
        Self {
            config,
            seed,
            inner: Mutex::new(Inner {
                log,
                items: Vec::new(),
                callbacks: Vec::new(),
                sequence: 0,
                spare: None,
                is_stopping: false,
                is_closed: false,
            }),
            wake: Condvar::new(),
            notify: Notify::new(),
            files: RwLock::new(files),
            flushed: watch::Sender::new(last),
            fatal: watch::Sender::new(None),
            used_bytes: AtomicU64::new(0),
            is_short_of_room: AtomicBool::new(false),
            pulse: Pulse::default(),
        }
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic while it is held ends the process.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
        self.notify.notify_one();
    }

    pub(crate) fn file(&self, start_lsn: u64) -> Option<Arc<dyn File>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(&start_lsn).cloned()
    }
}

/// What a turn left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do until a request comes, or until this time since the open.
    Idle(Option<Duration>),
    /// The log has stopped or failed; there will be no more turns.
    Stopped,
}

/// Where spares are made.
#[derive(Debug)]
pub(crate) enum SpareMaker {
    /// In the turn.
    Here,
    /// On the thread that takes these numbers.
    Thread(SyncSender<u64>),
}

/// The one that writes.
#[derive(Debug)]
pub struct Driver {
    core: Core,
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    spare_maker: SpareMaker,
    callbacks: Callbacks,
    opened_at: Instant,
    stop_was_told: bool,
}

/// Of requests that are not durable yet, oldest first.
#[derive(Default)]
struct Callbacks(VecDeque<(u64, Callback)>);

impl std::fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} callbacks", self.0.len())
    }
}

impl Driver {
    pub(crate) fn new(core: Core, shared: Arc<Shared>, disk: Arc<dyn Disk>) -> Self {
        Self {
            core,
            shared,
            disk,
            spare_maker: SpareMaker::Here,
            callbacks: Callbacks::default(),
            opened_at: Instant::now(),
            stop_was_told: false,
        }
    }

    /// Writes until nothing is left to do at `now`, the time since the open.
    pub fn turn(&mut self, now: Duration) -> Turn {
        self.shared.pulse.beat();
        let mut input = self.queued();
        loop {
            let output = self.core.step(input, now);
            self.publish(output.flushed);
            if let Some(fatal) = output.fatal {
                self.fail(&fatal);
                return Turn::Stopped;
            }
            if let Some(number) = output.make_spare {
                self.make_spare(number);
            }
            if let Some(write) = output.write {
                let result = self.write(&write);
                // Under load a turn has no end.
                self.shared.pulse.beat();
                // What came during the flush is in the queue before the next
                // block is built.
                let queued = self.queued();
                let taken = self.core.step(queued, now);
                if let Some(fatal) = taken.fatal {
                    self.fail(&fatal);
                    return Turn::Stopped;
                }
                if let Some(number) = taken.make_spare {
                    self.make_spare(number);
                }
                input = Input::Written { result, buffer: write.block };
            } else if output.stopped {
                self.close();
                return Turn::Stopped;
            } else {
                input = self.queued();
                if matches!(&input, Input::Queue(items) if items.is_empty()) {
                    return Turn::Idle(output.wake_at);
                }
            }
        }
    }

    /// Turns until the log stops or fails. For a simulation: it blocks while
    /// the disk does.
    ///
    /// # Cancel safety
    ///
    /// Dropped between two turns, it leaves what is queued without an answer.
    pub async fn run(mut self) {
        loop {
            let notified = Arc::clone(&self.shared);
            match self.turn(self.opened_at.elapsed()) {
                Turn::Stopped => return,
                Turn::Idle(None) => notified.notify.notified().await,
                Turn::Idle(Some(at)) => {
                    let wake =
                        tokio::time::timeout_at(self.opened_at + at, notified.notify.notified());
                    // Both a request and the end of the wait are a reason to go on.
                    wake.await.ok();
                }
            }
        }
    }

    /// Takes one thing that happened since the last look.
    fn queued(&mut self) -> Input {
        let mut inner = self.shared.inner();
        if let Some((number, result)) = inner.spare.take() {
            return Input::Spare { number, result };
        }
        let callbacks = std::mem::take(&mut inner.callbacks);
        self.callbacks.0.extend(callbacks);
        let items = std::mem::take(&mut inner.items);
        if items.is_empty() && inner.is_stopping && !self.stop_was_told {
            self.stop_was_told = true;
            return Input::Stop;
        }
        Input::Queue(items)
    }

    fn publish(&mut self, flushed: Option<Flushed>) {
        self.shared.used_bytes.store(self.core.used_bytes(), Ordering::Relaxed);
        self.shared.is_short_of_room.store(self.core.is_short_of_room(), Ordering::Relaxed);
        let Some(flushed) = flushed else { return };
        {
            let mut inner = self.shared.inner();
            if let Some(sample) = flushed.sample() {
                inner.log.sample(sample);
            }
            if let Some(sequence) = flushed.sequence {
                inner.log.flushed(sequence);
            }
        }
        self.shared.flushed.send_if_modified(|last| {
            let is_new = *last != flushed.last;
            *last = flushed.last;
            is_new
        });
        let Some(sequence) = flushed.sequence else { return };
        while self.callbacks.0.front().is_some_and(|(waiting, _)| *waiting <= sequence) {
            if let Some((_, callback)) = self.callbacks.0.pop_front() {
                callback(Ok(()));
            }
        }
    }

    fn write(&self, write: &Write) -> Result<(), Fatal> {
        let path = segment::segment_path(write.start_lsn);
        let failed = |action, path: &str| {
            let path = path.to_owned();
            move |source: io::Error| Fatal::Io { action, path, source: Arc::new(source) }
        };
        if let Some(spare) = write.spare {
            let disk = &self.disk;
            disk.rename(&segment::spare_path(spare), &path).map_err(failed("rename", &path))?;
            disk.sync_dir(segment::DIR).map_err(failed("sync", segment::DIR))?;
            let file = disk.open(&path).map_err(failed("open", &path))?;
            let mut files = self.shared.files.write().unwrap_or_else(PoisonError::into_inner);
            files.insert(write.start_lsn, file);
        }
        let file = self
            .shared
            .file(write.start_lsn)
            .ok_or_else(|| failed("open", &path)(io::Error::from(io::ErrorKind::NotFound)))?;
        file.write_at(&write.block, write.at).map_err(failed("write", &path))?;
        file.sync().map_err(failed("sync", &path))
    }

    fn make_spare(&self, number: u64) {
        match &self.spare_maker {
            SpareMaker::Here => {
                let result = make_spare(&self.disk, &self.shared.config, number);
                self.shared.inner().spare = Some((number, result));
            }
            SpareMaker::Thread(numbers) => {
                // The core asks for one at a time, so there is room. A thread
                // that is gone has panicked, which ends the process.
                numbers.try_send(number).ok();
            }
        }
    }

    /// Nothing after this is acknowledged.
    fn fail(&mut self, fatal: &Fatal) {
        self.close();
        self.shared.fatal.send_replace(Some(fatal.clone()));
        for (_, callback) in std::mem::take(&mut self.callbacks.0) {
            callback(Err(fatal.clone().into()));
        }
    }

    fn close(&mut self) {
        let mut inner = self.shared.inner();
        inner.is_closed = true;
        inner.items.clear();
        let late = std::mem::take(&mut inner.callbacks);
        drop(inner);
        self.callbacks.0.extend(late);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.close();
        for (_, callback) in std::mem::take(&mut self.callbacks.0) {
            callback(Err(io::Error::other("the log has stopped")));
        }
    }
}

pub(crate) fn make_spare(disk: &Arc<dyn Disk>, config: &Config, number: u64) -> SpareResult {
    match segment::make_spare(disk.as_ref(), number, config.segment_bytes) {
        Ok(()) => SpareResult::Ready,
        Err(Fatal::Io { action, path, source }) if disk::is_full(&source) => {
            tracing::warn!(action, path, "no room for the next segment; appends are refused");
            SpareResult::NoRoom
        }
        Err(fatal) => SpareResult::Failed(fatal),
    }
}
