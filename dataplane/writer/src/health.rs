//! What this replica answers to probes. Pure, but for [`Vitals`], which gathers what is decided from.
//!
//! A replica that reads its log for an hour is not restarted, a hung one is. Nothing that a restart
//! cannot mend makes it unhealthy: no leader, a full disk, an object store that is away.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pyramid_telemetry::health::{Answer, BEAT_EVERY, Health, LastTrue, Monitor, Pulse, moves};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::entry::LogId;
use crate::member::Phase;
use crate::raft::Consensus;
use crate::wal::Wal;

/// A leader that is lost is forgiven for this long: an election is no reason to move clients.
const LEADER_LOSS_MAX: Duration = Duration::from_secs(10);

/// A replica that is further behind does not get readers. Unit: entries.
const BEHIND_MAX: u64 = 10_000;

/// How far a replica has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It waits to be founded.
    Empty,
    /// It reads its log, or applies what is in it.
    Recovering,
    /// It has recovered, and stands for election or looks for a leader.
    Recovered,
    /// It takes requests.
    Serving,
    /// It stops.
    Stopping,
}

/// All that answers are decided from, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    stage: Stage,
    /// For how long recovery, the runtime, Raft's thread and the log's thread have not moved;
    /// `None`: it does not run.
    recovery_still: Duration,
    runtime_still: Duration,
    raft_still: Option<Duration>,
    disk_still: Option<Duration>,
    /// For how long no leader is known; zero while one is, `None` if none ever was.
    leader_lost: Option<Duration>,
    /// Entries that are committed and not applied.
    behind: u64,
}

fn started(seen: &Seen) -> Answer {
    match seen.stage {
        Stage::Recovering => moves("the start", seen.recovery_still),
        Stage::Empty | Stage::Recovered | Stage::Serving | Stage::Stopping => Ok(()),
    }
}

fn alive(seen: &Seen) -> Answer {
    moves("the runtime", seen.runtime_still)?;
    moves("the thread of Raft", seen.raft_still.unwrap_or_default())?;
    moves("the thread of the write-ahead log", seen.disk_still.unwrap_or_default())
}

fn ready(seen: &Seen) -> Answer {
    match seen.stage {
        Stage::Empty => {
            Err("it holds no data and waits to be founded (Admin.Bootstrap)".to_owned())
        }
        Stage::Recovering => Err("it reads its log".to_owned()),
        Stage::Recovered => Err("it has read its log and waits for a leader".to_owned()),
        Stage::Stopping => Err("it stops".to_owned()),
        Stage::Serving => match seen.leader_lost {
            Some(lost) if lost <= LEADER_LOSS_MAX && seen.behind <= BEHIND_MAX => Ok(()),
            Some(lost) if lost <= LEADER_LOSS_MAX => {
                Err(format!("it is {} entries behind", seen.behind))
            }
            Some(lost) => Err(format!("no leader is known for {} s", lost.as_secs())),
            None => Err("no leader is known".to_owned()),
        },
    }
}

/// Gathers what answers are decided from. One for each replica.
pub(crate) struct Vitals {
    phase: watch::Receiver<Phase>,
    shutdown: CancellationToken,
    /// Beats at each read of the disk.
    pub(crate) reads: Pulse,
    /// Of reads and of what is applied.
    recovery: Monitor,
    runtime: Beating,
    /// Once the log is open.
    opened: OnceLock<Opened>,
    /// Once Raft runs.
    raft: OnceLock<(Consensus, Beating)>,
    leader: LastTrue,
}

/// Something that should beat.
struct Beating {
    pulse: Pulse,
    monitor: Monitor,
}

impl Beating {
    fn new(pulse: Pulse) -> Self {
        Self { monitor: Monitor::new(pulse.beats()), pulse }
    }

    fn still_for(&self) -> Duration {
        self.monitor.still_for(self.pulse.beats())
    }
}

struct Opened {
    /// What was committed when it was opened; applied again before anything else.
    committed: Option<u64>,
    applied: watch::Receiver<Option<LogId>>,
    disk: Beating,
}

impl Vitals {
    pub(crate) fn new(phase: watch::Receiver<Phase>, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            phase,
            shutdown,
            reads: Pulse::default(),
            recovery: Monitor::new(0),
            runtime: Beating::new(Pulse::default()),
            opened: OnceLock::new(),
            raft: OnceLock::new(),
            leader: LastTrue::default(),
        })
    }

    /// The log is open.
    pub(crate) fn opened(
        &self,
        wal: &Wal,
        committed: Option<u64>,
        applied: watch::Receiver<Option<LogId>>,
    ) {
        let disk = Beating::new(wal.pulse());
        // A replica opens its log once.
        self.opened.get_or_init(|| Opened { committed, applied, disk });
    }

    /// Raft runs on a thread, which gives the returned pulse.
    pub(crate) fn raft_runs(&self, consensus: Consensus) -> Pulse {
        let pulse = Pulse::default();
        self.raft.get_or_init(|| (consensus, Beating::new(pulse.clone())));
        pulse
    }

    /// Shows for ever that the runtime runs, and looks at what must not be missed between probes.
    pub(crate) async fn keep_looking(self: Arc<Self>) {
        let mut ticks = interval(BEAT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.runtime.pulse.beat();
            self.seen();
        }
    }

    /// The index applied last.
    pub(crate) fn applied(&self) -> Option<u64> {
        let applied = *self.opened.get()?.applied.borrow();
        applied.map(|applied| applied.index)
    }

    /// Raft, once it runs.
    pub(crate) fn consensus(&self) -> Option<&Consensus> {
        self.raft.get().map(|(consensus, _)| consensus)
    }

    fn seen(&self) -> Seen {
        let opened = self.opened.get();
        let applied = self.applied();
        let consensus = self.consensus();
        let committed = consensus.and_then(Consensus::committed);
        let is_applied = opened.is_some_and(|opened| opened.committed <= applied);
        let stage = match &*self.phase.borrow() {
            _ if self.shutdown.is_cancelled() => Stage::Stopping,
            Phase::Empty => Stage::Empty,
            Phase::Starting(_) if is_applied => Stage::Recovered,
            Phase::Starting(_) => Stage::Recovering,
            Phase::Serving(_) => Stage::Serving,
        };
        let knows_leader = consensus.is_some_and(|consensus| consensus.leader().is_some());
        Seen {
            stage,
            // A scan reads; what is applied moves also while it comes from memory.
            recovery_still: self
                .recovery
                .still_for(self.reads.beats().wrapping_add(applied.unwrap_or(0))),
            runtime_still: self.runtime.still_for(),
            raft_still: self.raft.get().map(|(_, raft)| raft.still_for()),
            disk_still: opened.map(|opened| opened.disk.still_for()),
            leader_lost: self.leader.lost_for(knows_leader),
            behind: committed.unwrap_or(0).saturating_sub(applied.unwrap_or(0)),
        }
    }
}

impl Health for Vitals {
    fn started(&self) -> Answer {
        started(&self.seen())
    }

    fn alive(&self) -> Answer {
        alive(&self.seen())
    }

    fn ready(&self) -> Answer {
        ready(&self.seen())
    }
}

#[cfg(test)]
mod tests;
