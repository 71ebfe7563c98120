//! A Writer in memory, served over real sockets: real semantics, faults on demand.
//!
//! It keeps all batches; chunks are really sealed into a store in memory, and readers that want
//! locations get them. Shared with the tests of the pusher.

#![allow(dead_code, reason = "two test programs use different parts of it")]

// Named in full, because the pusher's tests include this file by its path.
#[path = "fake_writer/network.rs"]
pub(crate) mod network;
#[path = "fake_writer/service.rs"]
pub(crate) mod service;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use pyramid_protocol::net::{self, Accept, Age, TcpAccept};
use pyramid_protocol::pb::v1::writer_server::WriterServer;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::{Batch, Offset, Records, SeededEntropy, StreamId};
use pyramid_storage::chunk::{self, Identity};
use pyramid_storage::object_store::Condition;
use pyramid_storage::{ClusterId, Fetcher, MemoryStore, ObjectNames, ObjectStore, StreamKey};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::network::{KillableAccept, Network};
use self::service::Service;

/// Log time of every append: nothing here depends on it.
pub(crate) const TIME_MS: u64 = 1_700_000_000_000;

pub(crate) struct FakeWriter {
    pub(crate) address: SocketAddr,
    pub(crate) network: Network,
    pub(crate) store: Arc<MemoryStore>,
    shared: Shared,
    names: ObjectNames,
    entropy: SeededEntropy,
    server: JoinSet<()>,
}

#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) network: Network,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_modify(|version| *version += 1);
        result
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) streams: BTreeMap<String, FakeStream>,
    pub(crate) assignments: BTreeMap<String, pb::Assignment>,
    /// The newest report on each stream of each subscription.
    pub(crate) reports: BTreeMap<(String, String), pb::StreamReport>,
    /// How many messages with reports came, empty ones too.
    pub(crate) words: u64,
    /// All calls are answered with `NOT_LEADER` and this address.
    pub(crate) leader: Option<String>,
    /// The next appends are refused so.
    pub(crate) refuse_appends: VecDeque<Refusal>,
    /// After so many appends are written, connections break before they are answered.
    pub(crate) lose_answer_in: Option<usize>,
    /// The next reads are refused so.
    pub(crate) refuse_reads: VecDeque<Refusal>,
    /// Calls of `Read` so far.
    pub(crate) reads: usize,
    /// Locations handed out so far.
    pub(crate) locations: usize,
    /// Calls of `Append` so far.
    pub(crate) sessions: usize,
    /// Attachments that were refused because there is no such subscription.
    pub(crate) refused_attachments: usize,
    /// What the pusher of each subscription said last when it attached.
    pub(crate) hellos: BTreeMap<String, pb::AttachHello>,
    /// Pushers that are attached now.
    pub(crate) attached: usize,
    last_id: u64,
}

pub(crate) struct FakeStream {
    pub(crate) id: u64,
    pub(crate) epoch: u32,
    pub(crate) first: u64,
    pub(crate) batches: Vec<Batch>,
    pub(crate) chunks: Vec<pb::ChunkLocation>,
    /// (epoch, offset): positions of older epochs are good up to it.
    pub(crate) safe: Vec<(u32, u64)>,
    pub(crate) producers: HashMap<u64, FakeProducer>,
    digest: [u8; chunk::DIGEST_LEN],
    key: StreamKey,
}

#[derive(Default)]
pub(crate) struct FakeProducer {
    pub(crate) name: String,
    pub(crate) epoch: u32,
    pub(crate) next_sequence: u64,
    /// First sequence, count, first offset.
    pub(crate) batches: VecDeque<(u64, u32, u64)>,
}

impl FakeStream {
    pub(crate) fn next(&self) -> u64 {
        self.batches.last().map_or(0, |batch| batch.next_offset().get())
    }

    pub(crate) fn shipped(&self) -> u64 {
        self.chunks.last().map_or(0, |chunk| chunk.next_offset)
    }

    pub(crate) fn append(&mut self, records: &Records) -> u64 {
        let base = self.next();
        self.batches.push(Batch::new(Offset::new(base), TIME_MS, records));
        base
    }

    pub(crate) fn values(&self) -> Vec<String> {
        let records = self.batches.iter().flat_map(Batch::iter);
        records.map(|record| value(&record.unwrap().1)).collect()
    }
}

pub(crate) fn value(record: &pb::Record) -> String {
    String::from_utf8(record.value.to_vec()).unwrap()
}

pub(crate) fn records<T: AsRef<str>>(values: &[T]) -> Records {
    let records: Vec<_> = values
        .iter()
        .map(|value| pb::Record {
            value: value.as_ref().as_bytes().to_vec().into(),
            headers: vec![],
        })
        .collect();
    Records::encode(&records).unwrap()
}

impl FakeWriter {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), &[]).await
    }

    /// A Writer with these streams from the moment that it can be reached.
    pub(crate) async fn start_at(address: SocketAddr, streams: &[&str]) -> Self {
        Self::start_of_age(address, streams, Age::default()).await
    }

    /// One whose connections live as long as `age` says.
    pub(crate) async fn start_of_age(address: SocketAddr, streams: &[&str], age: Age) -> Self {
        let accept = TcpAccept::bind(address).await.unwrap();
        let address = accept.local_address().unwrap();
        Self::start_on(accept, address, streams, age)
    }

    /// One that takes the connections of `accept`, which come to `address`.
    pub(crate) fn start_on(
        accept: impl Accept,
        address: SocketAddr,
        streams: &[&str],
        age: Age,
    ) -> Self {
        let network = Network::default();
        let shared = Shared {
            state: Arc::default(),
            changed: watch::Sender::new(0),
            network: network.clone(),
        };
        let service = WriterServer::new(Service(shared.clone()))
            .max_decoding_message_size(4 << 20)
            .max_encoding_message_size(4 << 20);
        let accept = KillableAccept { inner: accept, network: network.clone() };
        let mut writer = Self {
            address,
            network,
            store: Arc::new(MemoryStore::new()),
            shared,
            names: ObjectNames::new("p", ClusterId::new([7; 16])).unwrap(),
            entropy: SeededEntropy::new(1),
            server: JoinSet::new(),
        };
        for stream in streams {
            writer.create(stream);
        }
        writer.server.spawn(async move {
            net::server_of_age(age)
                .add_service(service)
                .serve_with_incoming(net::incoming_of_age(accept, age))
                .await
                .unwrap();
        });
        writer
    }

    /// Goes away, with all connections, and leaves its address to another one.
    pub(crate) async fn stop(mut self) -> SocketAddr {
        self.network.break_connections();
        self.server.shutdown().await;
        self.address
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        vec![self.address.to_string()]
    }

    pub(crate) fn fetcher(&self) -> Fetcher {
        Fetcher::new().with_memory(Arc::clone(&self.store) as Arc<dyn ObjectStore>)
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.shared.change(change)
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.lock())
    }

    /// A new stream of this name, which takes the place of an older one. Returns its id.
    pub(crate) fn create(&self, name: &str) -> u64 {
        let key = StreamKey::random(&self.entropy);
        let id = self.change(|state| {
            state.last_id += 1;
            let stream = FakeStream {
                id: state.last_id,
                epoch: 1,
                first: 0,
                batches: vec![],
                chunks: vec![],
                safe: vec![],
                producers: HashMap::new(),
                digest: chunk::DIGEST_START,
                key,
            };
            state.streams.insert(name.to_owned(), stream);
            state.last_id
        });
        self.refresh_assignments();
        id
    }

    pub(crate) fn delete(&self, name: &str) {
        self.change(|state| state.streams.remove(name));
        self.refresh_assignments();
    }

    /// One append of these records. Returns the offset of the first.
    pub(crate) fn append<T: AsRef<str>>(&self, name: &str, values: &[T]) -> u64 {
        let records = records(values);
        self.change(|state| state.streams.get_mut(name).unwrap().append(&records))
    }

    pub(crate) fn values(&self, name: &str) -> Vec<String> {
        self.look(|state| state.streams[name].values())
    }

    /// Seals all that is live into one chunk and forgets nothing.
    pub(crate) async fn ship(&self, name: &str) {
        let (sealed, location) = {
            let state = self.shared.lock();
            let stream = &state.streams[name];
            let live: Vec<_> = stream
                .batches
                .iter()
                .filter(|batch| batch.base_offset.get() >= stream.shipped())
                .cloned()
                .collect();
            let identity = Identity {
                names: &self.names,
                epoch: stream.epoch,
                stream_id: StreamId::new(stream.id).unwrap(),
                intent: u64::try_from(stream.chunks.len()).unwrap() + 1,
                generation: 0,
                stream_key: &stream.key,
                digest_before: stream.digest,
            };
            let sealed = chunk::seal(&identity, live, &self.entropy).unwrap();
            let store = Arc::clone(&self.store);
            let (names, key) = (self.names.clone(), stream.key.clone());
            let (id, chunk) = (identity.stream_id, sealed.chunk_ref().clone());
            let location = async move {
                let life = std::time::Duration::from_secs(300);
                chunk::location(&*store, &names, id, &chunk, &key, life).await.unwrap()
            };
            (sealed, location)
        };
        self.store.put(sealed.key(), sealed.bytes().clone(), Condition::Absent).await.unwrap();
        let location = location.await;
        self.change(|state| {
            let stream = state.streams.get_mut(name).unwrap();
            stream.chunks.push(location);
            stream.digest = sealed.digest_after();
        });
    }

    pub(crate) fn trim(&self, name: &str, first: u64) {
        self.change(|state| state.streams.get_mut(name).unwrap().first = first);
    }

    /// A recovery with loss: only whole batches below `safe` are kept, in a new epoch.
    pub(crate) fn lose(&self, name: &str, safe: u64) {
        self.change(|state| {
            let stream = state.streams.get_mut(name).unwrap();
            stream.batches.retain(|batch| batch.next_offset().get() <= safe);
            assert_eq!(stream.next(), safe, "the loss begins between two batches");
            stream.epoch += 1;
            stream.safe.push((stream.epoch, safe));
        });
        self.network.break_connections();
    }

    /// Assigns these streams to a subscription, from the earliest record on.
    pub(crate) fn assign(&self, subscription: &str, streams: &[&str]) {
        self.change_assignment(subscription, |assignment| {
            assignment.streams = streams
                .iter()
                .map(|stream| pb::AssignedStream {
                    stream: (*stream).to_owned(),
                    ..pb::AssignedStream::default()
                })
                .collect();
        });
    }

    pub(crate) fn change_assignment(
        &self,
        subscription: &str,
        change: impl FnOnce(&mut pb::Assignment),
    ) {
        self.change(|state| {
            let assignment = state.assignments.entry(subscription.to_owned()).or_default();
            assignment.set_start_from(pb::StartFrom::Earliest);
            assignment.set_mode(pb::DeliveryMode::Broadcast);
            change(assignment);
        });
        self.refresh_assignments();
    }

    fn refresh_assignments(&self) {
        self.change(|state| {
            for assignment in state.assignments.values_mut() {
                for assigned in &mut assignment.streams {
                    assigned.stream_id =
                        state.streams.get(&assigned.stream).map(|stream| stream.id);
                }
            }
        });
    }

    /// Waits until the Writer's state is as the caller wants it.
    pub(crate) async fn wait_for(&self, what: &str, is: impl Fn(&State) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let waited = tokio::time::timeout(network::DEADLINE, async {
            loop {
                changed.mark_unchanged();
                if is(&self.shared.lock()) {
                    return;
                }
                changed.changed().await.unwrap();
            }
        });
        assert!(waited.await.is_ok(), "the Writer did not see in time: {what}");
    }
}

pub(crate) fn refusal(reason: Reason) -> Refusal {
    Refusal::new(reason, format!("made up: {}", reason.as_str_name()))
}
