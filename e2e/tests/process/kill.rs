//! kill -9 of every program, again and again, under load; then the verdict.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use pyramid_e2e::check::{Least, Report, check};
use pyramid_e2e::history::{Call, Fault, Outcome, ReadPath, Recorder, record_number};
use pyramid_e2e::process::{tell, wait_until};
use pyramid_protocol::{Entropy, SystemEntropy};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::audit::Audit;
use crate::load::{Appender, Door, Kind, Load};
use crate::readers::Source;
use crate::world::World;

/// The stream that is pushed to the application.
const ORDERS: &str = "orders";
/// A stream on which conditional appenders compete.
const LEDGER: &str = "ledger";
const STREAMS: [&str; 2] = [ORDERS, LEDGER];

/// Rounds of the run; in each one, every program is killed once.
const ROUNDS: u32 = 20;

/// In these rounds the application has lost its database when it starts again.
const ROUNDS_WITH_LOSS: [u32; 2] = [6, 13];

/// Records that may be sent until the next kill, and after how many acknowledged ones it comes.
const RECORDS_PER_KILL: usize = 1200;
const KILLED_AFTER: std::ops::Range<u64> = 50..600;

/// Progress comes at least so soon: a restart, a replay and a few retries.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

struct Run {
    world: World,
    load: Arc<Load>,
    recorder: Arc<Recorder>,
    audit: Arc<Audit>,
    /// The appenders; they end when they are told to.
    tasks: JoinSet<anyhow::Result<()>>,
    /// Readers and the audit; they end with the run.
    readers: JoinSet<anyhow::Result<()>>,
    rng: StdRng,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_doubled_or_reordered_by_kill_9() {
    let seed = SystemEntropy.u64();
    tell(&format!("kill suite: seed {seed} (it fixes the load, not the timing)"));
    let began = Instant::now();
    let report = match run(seed).await {
        Ok(report) => report,
        Err(error) => panic!("seed {seed}: {error:#}"),
    };
    tell(&format!("kill suite: {:.0?}\n{report}", began.elapsed()));
    let report = report.verdict().unwrap_or_else(|report| panic!("seed {seed}:\n{report}"));
    for fault in Fault::ALL {
        assert!(report.counts.faults[&fault] >= u64::from(ROUNDS), "{fault:?}: {report}");
    }
    // Written, but killed before the answer: without any, the kills came when nothing was going on.
    assert!(report.counts.unknown_found > 0, "no kill met an append on its way: {report}");
    assert!(report.counts.pushed > 0, "nothing was pushed to the audit: {report}");
}

async fn run(seed: u64) -> anyhow::Result<Report> {
    let mut run = Run::begin(seed).await?;
    match run.through().await {
        Ok(()) => {}
        Err(error) => {
            let kept = run.world.folder.keep().display().to_string();
            return Err(error.context(format!("logs, data and history are kept in {kept}")));
        }
    }
    run.recorder.flush()?;
    let report = check(&run.recorder.lines(), Least::default())?;
    if report.clone().verdict().is_err() {
        tell(&format!("the history is kept in {}", run.world.folder.keep().display()));
    }
    Ok(report)
}

impl Run {
    async fn begin(seed: u64) -> anyhow::Result<Self> {
        let mut world = World::found(&STREAMS).await?;
        world.subscribe(ORDERS, &STREAMS).await?;
        let recorder = Arc::new(Recorder::new(Some(&world.folder.join("history.jsonl")))?);
        let load = Load::new(Arc::clone(&recorder), world.identities.clone());
        let (tasks, readers) = (JoinSet::new(), JoinSet::new());
        let mut rng = StdRng::seed_from_u64(seed);
        let audit = Audit::new(&recorder, rng.random());
        let mut run = Self { world, load, recorder, audit, tasks, readers, rng };
        run.readers.spawn(Arc::clone(&run.audit).serve(run.world.audit_port));
        run.start_appenders();
        run.start_readers();
        Ok(run)
    }

    fn start_appenders(&mut self) {
        let writer = Door::Writer(self.world.writer_port);
        let local = Door::Local(self.world.local_port);
        let lasting = Kind::Producer { sessions_per_epoch: u32::MAX };
        let fencing = Kind::Producer { sessions_per_epoch: 4 };
        let appenders = [
            ("producer", ORDERS, writer, lasting),
            ("fencing-producer", ORDERS, writer, fencing),
            ("local-producer", ORDERS, local, lasting),
            ("plain", ORDERS, writer, Kind::Plain),
            ("local-plain", ORDERS, local, Kind::Plain),
            ("conditional", ORDERS, writer, Kind::Conditional),
            ("ledger-conditional-1", LEDGER, writer, Kind::Conditional),
            ("ledger-conditional-2", LEDGER, local, Kind::Conditional),
            ("ledger-producer", LEDGER, writer, fencing),
        ];
        for (name, stream, door, kind) in appenders {
            let seed = self.rng.random();
            self.tasks.spawn(Appender::new(name, stream, door, kind, &self.load, seed).run());
        }
    }

    fn start_readers(&mut self) {
        for stream in STREAMS {
            let source = self.source(stream);
            self.readers.spawn(source.clone().follow());
            self.readers.spawn(source.clone().watch_end());
            self.readers.spawn(source.read_chunks(self.rng.random()));
        }
    }

    fn source(&self, stream: &str) -> Source {
        Source::new(&self.world, stream, &self.recorder)
    }

    /// All kills, then the end of the load, then the reads that the verdict needs.
    async fn through(&mut self) -> anyhow::Result<()> {
        for round in 0..ROUNDS {
            let mut faults = Fault::ALL;
            faults.shuffle(&mut self.rng);
            for fault in faults {
                self.under_load().await?;
                self.kill(fault, round).await.with_context(|| format!("{fault:?} of {round}"))?;
            }
            self.nobody_gave_up()?;
        }
        self.under_load().await?;
        self.end_load().await?;
        self.wait_delivered().await?;
        self.record_effects(true)?;
        self.read_everything().await
    }

    /// Returns in the middle of appends that are acknowledged, after the application has gone on
    /// since the last kill.
    async fn under_load(&mut self) -> anyhow::Result<()> {
        let position = self.world.position(ORDERS).ok().flatten();
        self.load.allowance.add_permits(RECORDS_PER_KILL / 2);
        let world = &self.world;
        wait_until("the application goes on", PROGRESS_TIMEOUT, async || {
            Ok(world.position(ORDERS).ok().flatten() > position)
        })
        .await?;
        // Last, so that the kill comes while as many records again are on their way.
        self.load.allowance.add_permits(RECORDS_PER_KILL);
        let mut acknowledged = self.load.acknowledged.subscribe();
        let mark = *acknowledged.borrow() + self.rng.random_range(KILLED_AFTER);
        timeout(PROGRESS_TIMEOUT, acknowledged.wait_for(|now| *now >= mark))
            .await
            .with_context(|| format!("{mark} acknowledged records did not come"))??;
        Ok(())
    }

    /// Kills a program, sees that it is gone, and starts it again. Both pushers go together.
    async fn kill(&mut self, fault: Fault, round: u32) -> anyhow::Result<()> {
        let running = &mut self.world.running;
        let victims = match fault {
            Fault::KillWriter => vec![running.writer.take()],
            Fault::KillPusher => vec![running.pusher.take(), running.audit_pusher.take()],
            Fault::KillApplication => vec![running.application.take()],
        };
        let mut faults = Vec::new();
        for process in victims {
            let id = self.recorder.fault_begin(fault);
            process.context("it runs")?.kill().await?;
            self.recorder.fault_confirmed(id, fault);
            faults.push(id);
        }
        match fault {
            Fault::KillWriter => self.world.start_writer().await?,
            Fault::KillPusher => {
                self.world.start_pusher().await?;
                self.world.start_audit_pusher().await?;
            }
            Fault::KillApplication => {
                self.record_effects(false)?;
                if ROUNDS_WITH_LOSS.contains(&round) {
                    self.world.lose_database()?;
                }
                self.world.start_application().await?;
            }
        }
        for id in faults {
            self.recorder.fault_end(id, fault);
        }
        Ok(())
    }

    /// Fails with what an appender or a reader found, and if one has ended at all.
    fn nobody_gave_up(&mut self) -> anyhow::Result<()> {
        for tasks in [&mut self.tasks, &mut self.readers] {
            if let Some(ended) = tasks.try_join_next() {
                ended??;
                anyhow::bail!("a task ended before it was told to");
            }
        }
        Ok(())
    }

    async fn end_load(&mut self) -> anyhow::Result<()> {
        self.load.stop.cancel();
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        timeout(PROGRESS_TIMEOUT, ended).await.context("the appenders do not end")??;
        self.nobody_gave_up()
    }

    /// The application has everything.
    async fn wait_delivered(&self) -> anyhow::Result<()> {
        let end = self.world.stream(ORDERS).await?.next_offset;
        wait_until("everything is pushed", PROGRESS_TIMEOUT, async || {
            Ok(self.world.position(ORDERS)? == Some(end))
        })
        .await?;
        for stream in STREAMS {
            let end = self.world.stream(stream).await?.next_offset;
            wait_until("the audit has everything", PROGRESS_TIMEOUT, async || {
                Ok(self.audit.position(stream)? == Some(end))
            })
            .await?;
        }
        Ok(())
    }

    fn record_effects(&self, complete: bool) -> anyhow::Result<()> {
        let call = Call::Effects { application: "till".into(), stream: ORDERS.into(), complete };
        let op = self.recorder.invoke("judge", call);
        let (rows, position) = self.world.table(ORDERS)?;
        let rows = rows
            .iter()
            .map(|(offset, body)| {
                let number = record_number(body);
                Ok((*offset, number.with_context(|| format!("row {offset} was changed"))?))
            })
            .collect::<anyhow::Result<_>>()?;
        self.recorder.ok("judge", op, Outcome::Effects { rows, position });
        Ok(())
    }

    /// Every stream by every way: what is live from the Writer, then all of it from chunks.
    async fn read_everything(&mut self) -> anyhow::Result<()> {
        for stream in STREAMS {
            self.source(stream).complete(ReadPath::Writer).await?;
        }
        for stream in STREAMS {
            let info = self.world.ship(stream).await?;
            let call = Call::Chunks { stream: stream.to_owned() };
            let op = self.recorder.invoke("judge", call);
            self.recorder.ok("judge", op, Outcome::Chunks { count: info.chunk_count });
            for path in [ReadPath::Chunks, ReadPath::Writer, ReadPath::Pusher] {
                // The pusher serves the streams of its subscription.
                if path != ReadPath::Pusher || stream == ORDERS {
                    self.source(stream).complete(path).await?;
                }
            }
        }
        self.nobody_gave_up()
    }
}
