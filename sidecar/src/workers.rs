//! The workers of one subscription: one for each of its streams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::StreamName;
use pyramid_protocol::pb::v1::{PushState, StartFrom};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::application::Application;
use crate::attachment::Assigned;
use crate::lease::Lease;
use crate::pusher::Error;
use crate::status::Place;
use crate::stream_worker::{Settings, Shared, StreamWorker};

/// The workers of one subscription.
pub(crate) struct Workers {
    shared: Shared,
    subscription: Arc<str>,
    application: Application,
    running: BTreeMap<StreamName, Running>,
    tasks: JoinSet<StreamName>,
}

struct Running {
    settings: watch::Sender<Settings>,
    lease: watch::Sender<Lease>,
    stop: CancellationToken,
}

impl Workers {
    pub(crate) fn new(shared: Shared, subscription: Arc<str>, application: Application) -> Self {
        Self { shared, subscription, application, running: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Keeps one worker for each assigned stream, until it is stopped and all have ended.
    pub(crate) async fn run(
        mut self,
        mut assigned: watch::Receiver<Option<Assigned>>,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let mut is_first = true;
        loop {
            let assignment = assigned.borrow_and_update().clone();
            if let Some(assigned) = assignment {
                self.agree(&assigned, &stop);
                self.shared.board.agreed(&self.subscription, assigned.number);
                if std::mem::take(&mut is_first) {
                    self.shared.board.assigned(&self.subscription);
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = assigned.changed() => if changed.is_err() { break },
                Some(ended) = self.tasks.join_next() => self.ended(ended)?,
            }
        }
        // They stay on the board: the last report tells where each of them has come to.
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(Error::Task)?;
        }
        Ok(())
    }

    /// A worker that was stopped may have to be started again by now; the next agreement does it.
    fn ended(&mut self, ended: Result<StreamName, JoinError>) -> Result<(), Error> {
        let stream = ended.map_err(Error::Task)?;
        self.running.remove(&stream);
        self.shared.board.remove(&self.place(&stream));
        Ok(())
    }

    /// Starts, changes and stops workers.
    fn agree(&mut self, assigned: &Assigned, stop: &CancellationToken) {
        let Assigned { assignment, heard_at, .. } = assigned;
        let push_timeout = match assignment.ack_timeout_ms {
            0 => self.shared.timing.push_timeout,
            ms => Duration::from_millis(ms.into()),
        };
        let start_from = match assignment.start_from() {
            StartFrom::Latest => StartFrom::Latest,
            StartFrom::Earliest | StartFrom::Unspecified => StartFrom::Earliest,
        };
        let mut wanted = BTreeMap::new();
        for assigned in &assignment.streams {
            let Ok(stream) = assigned.stream.parse::<StreamName>() else {
                tracing::error!(
                    "the Writer assigned {:?}, which is no stream name",
                    assigned.stream
                );
                continue;
            };
            let settings = assigned.stream_id.map(|stream_id| Settings {
                stream_id,
                start_from,
                paused: assignment.paused,
                push_timeout,
            });
            let lease = Lease::of(assignment.mode(), assigned, *heard_at);
            wanted.insert(stream, settings.map(|settings| (settings, lease)));
        }
        for (stream, running) in &self.running {
            if !matches!(wanted.get(stream), Some(Some(_))) {
                running.stop.cancel();
            }
        }
        for (stream, wanted) in wanted {
            match (wanted, self.running.get(&stream)) {
                (Some((settings, lease)), Some(running)) => {
                    running
                        .settings
                        .send_if_modified(|now| std::mem::replace(now, settings) != settings);
                    running.lease.send_if_modified(|now| std::mem::replace(now, lease) != lease);
                }
                (Some((settings, lease)), None) => self.start(stream, settings, lease, stop),
                (None, Some(_)) => {}
                (None, None) => {
                    self.shared.board.update(&self.place(&stream), |status| {
                        status.state = PushState::Retrying;
                        "the stream does not exist".clone_into(&mut status.message);
                    });
                }
            }
        }
    }

    fn start(
        &mut self,
        stream: StreamName,
        settings: Settings,
        lease: Lease,
        stop: &CancellationToken,
    ) {
        self.shared.board.update(&self.place(&stream), |status| status.state = PushState::Asking);
        let (settings, heard) = watch::channel(settings);
        let (lease, held) = watch::channel(lease);
        let stop = stop.child_token();
        let worker = StreamWorker::new(
            self.shared.clone(),
            self.place(&stream),
            self.application.clone(),
            heard,
            held,
            stop.clone(),
        );
        self.running.insert(stream.clone(), Running { settings, lease, stop });
        self.tasks.spawn(async move {
            worker.run().await;
            stream
        });
    }

    fn place(&self, stream: &StreamName) -> Place {
        Place { subscription: Arc::clone(&self.subscription), stream: stream.clone() }
    }
}
