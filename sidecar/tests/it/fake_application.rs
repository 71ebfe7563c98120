//! An application with a transactional database in memory, served over real sockets.
//!
//! It does what `docs/push-protocol.md` asks for, unless a test gives it a bad mood. It also watches
//! its pusher: [`FakeApplication::check`] fails if a rule of the protocol was broken.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyramid_protocol::limits::{MESSAGE_BYTES_MAX, PUSH_BYTES_MAX};
use pyramid_protocol::net::{self, TcpAccept};
use pyramid_protocol::pb::v1::consumer_server::{Consumer, ConsumerServer};
use pyramid_protocol::pb::v1::push_response::Answer;
use pyramid_protocol::pb::v1::{self as pb};
use pyramid_protocol::{Batch, Offset};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::fake_writer::network::{DEADLINE, KillableAccept, Network};
use crate::fake_writer::value;

pub(crate) struct FakeApplication {
    pub(crate) address: SocketAddr,
    network: Network,
    shared: Shared,
    server: JoinSet<()>,
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) database: Database,
    /// How pushes of a stream are answered; missing: well.
    pub(crate) moods: BTreeMap<String, Mood>,
    /// Pushes without records, by stream.
    pub(crate) questions: BTreeMap<String, usize>,
    /// Pushes with records, by stream.
    pub(crate) pushes: BTreeMap<String, usize>,
    in_flight: BTreeMap<String, usize>,
    broken_rules: Vec<String>,
}

/// What a real one keeps in one database: positions and effects.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Database {
    pub(crate) positions: BTreeMap<String, pb::Position>,
    pub(crate) tables: BTreeMap<String, Vec<(u64, String)>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Mood {
    /// Takes this many records of each push.
    Partial(u64),
    NotReady(u32),
    /// Never answers a push with records, and does nothing.
    Hang,
    /// Does a push with records once this is cancelled.
    Gate(CancellationToken),
    /// Does it, but never answers.
    HangAfterwards,
    Rejects(u64),
    /// Answers so, whatever was pushed.
    Says(Box<Option<Answer>>),
    /// Answers with a status.
    Fails,
}

impl FakeApplication {
    pub(crate) async fn start() -> Self {
        let shared = Shared { state: Arc::default(), changed: watch::Sender::new(0) };
        let mut application = Self {
            address: "127.0.0.1:0".parse().unwrap(),
            network: Network::default(),
            shared,
            server: JoinSet::new(),
        };
        application.serve().await;
        application
    }

    async fn serve(&mut self) {
        let accept = TcpAccept::bind(self.address).await.unwrap();
        self.address = accept.local_address().unwrap();
        let accept = KillableAccept { inner: accept, network: self.network.clone() };
        // The limits of a server that nobody has set up.
        let service = ConsumerServer::new(self.shared.clone());
        self.server.spawn(async move {
            let serving = tonic::transport::Server::builder().add_service(service);
            serving.serve_with_incoming(net::incoming(accept)).await.unwrap();
        });
    }

    /// Ends like a killed process: connections break, the database stays.
    pub(crate) async fn stop(&mut self) {
        self.network.break_connections();
        self.server.shutdown().await;
        self.change(|state| state.in_flight.clear());
    }

    /// Starts again at the old address.
    pub(crate) async fn restart(&mut self) {
        self.serve().await;
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.shared.change(change)
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.state.lock().unwrap())
    }

    pub(crate) fn mood(&self, stream: &str, mood: Option<Mood>) {
        self.change(|state| match mood {
            Some(mood) => state.moods.insert(stream.to_owned(), mood),
            None => state.moods.remove(stream),
        });
    }

    /// Values in the order in which they took effect.
    pub(crate) fn values(&self, stream: &str) -> Vec<String> {
        self.look(|state| state.values(stream))
    }

    pub(crate) async fn wait_for(&self, what: &str, is: impl Fn(&State) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let waited = timeout(DEADLINE, async {
            loop {
                changed.mark_unchanged();
                if is(&self.shared.state.lock().unwrap()) {
                    return;
                }
                changed.changed().await.unwrap();
            }
        });
        assert!(waited.await.is_ok(), "the application did not see in time: {what}");
    }

    /// Waits until the stream has had the effect of exactly these values, in their order.
    pub(crate) async fn wait_for_values(&self, stream: &str, values: &[String]) {
        let what = format!("{} records of {stream}", values.len());
        self.wait_for(&what, |state| state.values(stream).len() >= values.len()).await;
        assert_eq!(self.values(stream), values);
    }

    /// Every rule of the protocol was kept.
    pub(crate) fn check(&self) {
        self.look(|state| assert_eq!(state.broken_rules, Vec::<String>::new()));
    }
}

impl State {
    pub(crate) fn values(&self, stream: &str) -> Vec<String> {
        let table = self.database.tables.get(stream).cloned().unwrap_or_default();
        table.into_iter().map(|(_, value)| value).collect()
    }

    pub(crate) fn offset(&self, stream: &str) -> Option<u64> {
        self.database.positions.get(stream).map(|position| position.offset)
    }

    /// The transaction: position and effects, or nothing.
    fn transact(&mut self, request: &pb::PushRequest, batches: &[Batch], up_to: u64) -> Answer {
        let stored = self.database.positions.get(&request.stream).copied();
        if stored != request.base {
            return Answer::WrongOffset(pb::WrongOffset { stored });
        }
        let table = self.database.tables.entry(request.stream.clone()).or_default();
        for record in batches.iter().flat_map(Batch::iter) {
            let (offset, record) = record.unwrap();
            if offset.get() < up_to {
                table.push((offset.get(), value(&record)));
            }
        }
        let next = request.next.map(|next| pb::Position { offset: next.offset.min(up_to), ..next });
        self.database.positions.insert(request.stream.clone(), next.unwrap());
        Answer::Accepted(pb::Accepted { next })
    }

    fn watch_rules(&mut self, request: &pb::PushRequest, batches: &[Batch]) {
        let mut broken = Vec::new();
        let in_flight = self.in_flight.entry(request.stream.clone()).or_default();
        *in_flight += 1;
        if *in_flight > 1 {
            broken.push("two pushes of a stream at once".to_owned());
        }
        let bytes: usize = batches.iter().map(Batch::encoded_len).sum();
        if bytes > PUSH_BYTES_MAX && batches.len() > 1 {
            broken.push(format!("a push of {bytes} bytes"));
        }
        let next = request.next.unwrap().offset;
        let mut at = request.base.map_or(next, |base| base.offset);
        for batch in batches {
            if batch.base_offset != Offset::new(at) || batch.verify().is_err() {
                broken.push(format!("a batch at {} after {at}", batch.base_offset));
            }
            at = batch.next_offset().get();
        }
        if at != next || request.stream_next_offset < next {
            broken.push(format!("a push to {at} that says {next}"));
        }
        if request.base.is_none() && !batches.is_empty() {
            broken.push("a first push with records".to_owned());
        }
        self.broken_rules.extend(broken);
        let counts = if batches.is_empty() { &mut self.questions } else { &mut self.pushes };
        *counts.entry(request.stream.clone()).or_default() += 1;
    }
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.send_modify(|version| *version += 1);
        result
    }
}

/// The push has left the application, also if its caller went away.
struct InFlight(Shared, String);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.change(|state| {
            if let Some(in_flight) = state.in_flight.get_mut(&self.1) {
                *in_flight = in_flight.saturating_sub(1);
            }
        });
    }
}

#[tonic::async_trait]
impl Consumer for Shared {
    async fn push(
        &self,
        request: Request<pb::PushRequest>,
    ) -> Result<Response<pb::PushResponse>, Status> {
        let request = request.into_inner();
        let batches: Vec<_> =
            request.batches.iter().map(|bytes| Batch::decode(bytes.clone()).unwrap()).collect();
        let stream = request.stream.clone();
        let _in_flight = InFlight(self.clone(), stream.clone());
        let mood = self.change(|state| {
            state.watch_rules(&request, &batches);
            state.moods.get(&stream).cloned()
        });
        let all = |state: &mut State| state.transact(&request, &batches, u64::MAX);
        let begin = request.base.map_or(0, |base| base.offset);
        let answer = match mood {
            None => Some(self.change(all)),
            Some(Mood::Partial(records)) => Some(self.change(|state| {
                let up_to = if batches.is_empty() { u64::MAX } else { begin + records };
                state.transact(&request, &batches, up_to)
            })),
            Some(Mood::NotReady(retry_after_ms)) => {
                Some(Answer::NotReady(pb::NotReady { retry_after_ms }))
            }
            Some(Mood::Hang) if batches.is_empty() => Some(self.change(all)),
            Some(Mood::Hang) => std::future::pending().await,
            Some(Mood::Gate(_)) if batches.is_empty() => Some(self.change(all)),
            Some(Mood::Gate(opened)) => {
                opened.cancelled().await;
                Some(self.change(all))
            }
            Some(Mood::HangAfterwards) => {
                self.change(all);
                std::future::pending().await
            }
            Some(Mood::Rejects(offset)) => {
                let pushed = begin..request.next.unwrap().offset;
                Some(if pushed.contains(&offset) {
                    Answer::Rejected(pb::Rejected { offset, reason: "ugly".to_owned() })
                } else {
                    self.change(all)
                })
            }
            Some(Mood::Says(answer)) => *answer,
            Some(Mood::Fails) => return Err(Status::internal("made up")),
        };
        Ok(Response::new(pb::PushResponse { answer }))
    }
}

/// Longest push that a server with default settings takes.
const _: () = assert!(PUSH_BYTES_MAX < MESSAGE_BYTES_MAX);

/// Long enough for a push to fail in the tests of slow applications.
pub(crate) const PUSH_TIMEOUT: Duration = Duration::from_millis(300);
