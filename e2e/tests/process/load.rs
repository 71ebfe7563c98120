//! Appenders: they append until told to stop, through every crash, and record each attempt.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use pyramid_e2e::history::{Call, Outcome, Producer, Recorder, record_body};
use pyramid_e2e::identities::Identities;
use pyramid_protocol::Records;
use pyramid_protocol::net::{TcpConnect, channel};
use pyramid_protocol::pb::v1::append_response::Answer;
use pyramid_protocol::pb::v1::local_client::LocalClient;
use pyramid_protocol::pb::v1::refusal::Detail;
use pyramid_protocol::pb::v1::writer_client::WriterClient;
use pyramid_protocol::pb::v1::{
    self as pb, AppendRequest, AppendResponse, Effect, GetStreamRequest, InitProducerRequest,
    Reason, Record, Refusal,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

/// An answer takes at most so long; then the connection is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Between two attempts to get a session.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Records of one append, at most.
const RECORDS_MAX: u32 = 40;

/// Length of a record's value. Unit: bytes.
const VALUE_BYTES: std::ops::Range<usize> = 64..800;

/// Where an appender appends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Door {
    Writer(u16),
    /// The pusher's local service.
    Local(u16),
}

/// How an appender appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Many at a time, each sent once.
    Plain,
    /// Many at a time, each sent until it is acknowledged. With a takeover, every so many sessions
    /// the producer is made anew, which fences the epoch before.
    Producer { sessions_per_epoch: u32 },
    /// One at a time, only at the end that was seen last.
    Conditional,
}

impl Kind {
    /// Appends without an answer, at most.
    fn window(self) -> usize {
        match self {
            Self::Plain => 8,
            // As many as are remembered, so that each can be tried again.
            Self::Producer { .. } => 16,
            Self::Conditional => 1,
        }
    }
}

/// What all appenders share.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) recorder: Arc<Recorder>,
    identities: Identities,
    /// Numbers of records; each is given out once.
    next_number: AtomicU64,
    /// Records that may still be sent. It keeps the run at a size that is judged quickly.
    pub(crate) allowance: Semaphore,
    /// Records that were acknowledged.
    pub(crate) acknowledged: watch::Sender<u64>,
    pub(crate) stop: CancellationToken,
}

impl Load {
    pub(crate) fn new(recorder: Arc<Recorder>, identities: Identities) -> Arc<Self> {
        Arc::new(Self {
            recorder,
            identities,
            next_number: AtomicU64::new(1),
            allowance: Semaphore::new(0),
            acknowledged: watch::Sender::new(0),
            stop: CancellationToken::new(),
        })
    }
}

/// Records that wait to be acknowledged.
#[derive(Clone, Debug)]
struct Item {
    numbers: Vec<u64>,
    records: Bytes,
    /// Used by producers.
    sequence: u64,
    /// Used by conditional appenders: the end, and the epoch in which it was read.
    expected: Option<(u64, u32)>,
}

/// One attempt that has no answer yet.
struct Attempt {
    op: u64,
    numbers: Vec<u64>,
}

pub(crate) struct Appender {
    pub(crate) name: String,
    pub(crate) stream: String,
    pub(crate) door: Door,
    pub(crate) kind: Kind,
    pub(crate) load: Arc<Load>,
    rng: StdRng,
    /// To be sent, or sent without an answer; in the order of the sequences.
    items: VecDeque<Item>,
    /// Id and epoch.
    producer: Option<(u64, u32)>,
    next_sequence: u64,
    sessions: u32,
    /// Where the last append of a conditional appender ended, and in which epoch.
    end: Option<(u64, u32)>,
}

impl Appender {
    pub(crate) fn new(
        name: &str,
        stream: &str,
        door: Door,
        kind: Kind,
        load: &Arc<Load>,
        seed: u64,
    ) -> Self {
        Self {
            name: name.to_owned(),
            stream: stream.to_owned(),
            door,
            kind,
            load: Arc::clone(load),
            rng: StdRng::seed_from_u64(seed),
            items: VecDeque::new(),
            producer: None,
            next_sequence: 0,
            sessions: 0,
            end: None,
        }
    }

    /// Appends until told to stop; a producer then goes on until all that it sent is acknowledged.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let client = Client::new(self.door, &self.load.identities)?;
        loop {
            if self.load.stop.is_cancelled() && (!self.is_producer() || self.items.is_empty()) {
                return Ok(());
            }
            // A session that could not begin or broke is no failure of the test: that is the test.
            if let Err(error) = self.session(&client).await {
                ensure!(error.downcast_ref::<Wrong>().is_none(), "{}: {error:#}", self.name);
            }
            self.sessions += 1;
            sleep(RETRY_DELAY).await;
        }
    }

    fn is_producer(&self) -> bool {
        matches!(self.kind, Kind::Producer { .. })
    }

    /// One session: from the connection to its first loss or refusal.
    async fn session(&mut self, client: &Client) -> anyhow::Result<()> {
        self.prepare(client).await?;
        let (requests, receiver) = mpsc::channel(self.kind.window());
        let mut answers =
            timeout(ANSWER_TIMEOUT, client.append(ReceiverStream::new(receiver))).await??;
        // What waits is sent first, in its order; `sent` counts the items that are on their way.
        let mut attempts: VecDeque<Attempt> = VecDeque::new();
        let mut sent = 0;
        let mut broken = false;
        let result = loop {
            while !broken && sent < self.kind.window() {
                if sent == self.items.len() {
                    // Waits for allowance only while no answer is due.
                    match self.next_item(attempts.is_empty()).await {
                        Some(item) => self.items.push_back(item),
                        None => break,
                    }
                }
                let Some(item) = self.items.get(sent).cloned() else { break };
                let request = self.request(&item);
                attempts.push_back(Attempt { op: self.invoke(&item), numbers: item.numbers });
                sent += 1;
                // If the other end is gone, the answers end too.
                drop(requests.send(request).await);
            }
            let Some(attempt) = attempts.pop_front() else { break Ok(()) };
            let answer = match timeout(ANSWER_TIMEOUT, answers.message()).await {
                Ok(Ok(Some(answer))) => answer,
                lost => {
                    attempts.push_front(attempt);
                    break Err(anyhow::anyhow!("{lost:?}"));
                }
            };
            match self.answered(&attempt, answer)? {
                Next::Remove => {
                    self.items.retain(|item| item.numbers != attempt.numbers);
                    sent -= 1;
                }
                Next::Break => broken = true,
            }
        };
        for Attempt { op, .. } in &attempts {
            self.load.recorder.unknown(&self.name, *op, "the session broke");
        }
        if self.kind == Kind::Plain {
            self.items.clear();
        }
        result
    }

    /// What has to be known before a session begins.
    async fn prepare(&mut self, client: &Client) -> anyhow::Result<()> {
        match self.kind {
            Kind::Plain => Ok(()),
            Kind::Producer { sessions_per_epoch } => {
                if self.producer.is_none() || self.sessions.is_multiple_of(sessions_per_epoch) {
                    self.init_producer(client).await?;
                }
                Ok(())
            }
            Kind::Conditional => {
                // An append that may have been written is tried again at the same place.
                if self.items.is_empty() {
                    self.end = Some(self.tail(client).await?);
                }
                Ok(())
            }
        }
    }

    async fn init_producer(&mut self, client: &Client) -> anyhow::Result<()> {
        let recorder = Arc::clone(&self.load.recorder);
        let (stream, name) = (self.stream.clone(), self.name.clone());
        // Set by all who have ever sent: a Writer that forgot us must not begin at 0.
        let first = self.items.front().map_or(self.next_sequence, |item| item.sequence);
        let resume_sequence = self.producer.map(|_| first);
        let op = recorder
            .invoke(&self.name, Call::InitProducer { stream: stream.clone(), name: name.clone() });
        let request = InitProducerRequest { stream, name, resume_sequence };
        match timeout(ANSWER_TIMEOUT, client.init_producer(request)).await {
            Ok(Ok(answer)) => {
                let pb::InitProducerResponse { id, epoch, next_sequence, known, .. } = answer;
                recorder.ok(&self.name, op, Outcome::InitProducer { id, epoch, next_sequence });
                ensure!(
                    known == self.producer.is_some() || self.producer.is_none(),
                    Wrong(format!("a known producer was made anew: {answer:?}"))
                );
                self.producer = Some((id, epoch));
                // What was written without an answer; the history shows it as unknown and found.
                self.items.retain(|item| item.sequence >= next_sequence);
                let first = self.items.front().map_or(next_sequence, |item| item.sequence);
                ensure!(
                    first == next_sequence,
                    Wrong(format!(
                        "next sequence {next_sequence}, but {first} was not acknowledged"
                    ))
                );
                self.next_sequence = self.items.back().map_or(next_sequence, Item::next_sequence);
                Ok(())
            }
            lost => {
                recorder.unknown(&self.name, op, format!("{lost:?}"));
                anyhow::bail!("no producer: {lost:?}")
            }
        }
    }

    async fn tail(&mut self, client: &Client) -> anyhow::Result<(u64, u32)> {
        let recorder = &self.load.recorder;
        let call = Call::Tail { stream: self.stream.clone(), session: 0 };
        let op = recorder.invoke(&self.name, call);
        let request = GetStreamRequest { stream: self.stream.clone(), min_next_offset: None };
        match timeout(ANSWER_TIMEOUT, client.get_stream(request)).await {
            Ok(Ok(stream)) => {
                recorder.ok(&self.name, op, Outcome::Tail { next: stream.next_offset });
                Ok((stream.next_offset, stream.epoch))
            }
            lost => {
                recorder.fail(&self.name, op, format!("{lost:?}"));
                anyhow::bail!("no end of the stream: {lost:?}")
            }
        }
    }

    /// The next records to send, or `None` if nothing may be sent now.
    async fn next_item(&mut self, wait: bool) -> Option<Item> {
        let stop = self.load.stop.clone();
        if stop.is_cancelled() {
            return None;
        }
        let load = Arc::clone(&self.load);
        let permit = if wait {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                permit = load.allowance.acquire_many(RECORDS_MAX) => permit.ok()?,
            }
        } else {
            load.allowance.try_acquire_many(RECORDS_MAX).ok()?
        };
        permit.forget();
        let item = self.make_item(self.end);
        // What was taken too much is given back.
        let used = u32::try_from(item.numbers.len()).unwrap_or(RECORDS_MAX);
        load.allowance.add_permits((RECORDS_MAX - used) as usize);
        Some(item)
    }

    fn make_item(&mut self, expected: Option<(u64, u32)>) -> Item {
        let count = u64::from(self.rng.random_range(1..=RECORDS_MAX));
        let first = self.load.next_number.fetch_add(count, Ordering::Relaxed);
        let numbers: Vec<u64> = (first..first + count).collect();
        let records: Vec<Record> = numbers
            .iter()
            .map(|number| {
                let length = self.rng.random_range(VALUE_BYTES);
                Record { value: record_body(*number, length).into(), headers: vec![] }
            })
            .collect();
        let records = Records::encode(&records).expect("the append is within all limits");
        let sequence = self.next_sequence;
        self.next_sequence += count;
        Item { numbers, records: records.bytes().clone(), sequence, expected }
    }

    fn request(&self, item: &Item) -> AppendRequest {
        AppendRequest {
            stream: self.stream.clone(),
            stream_id: None,
            records: item.records.clone(),
            expected_next_offset: item.expected.map(|(next, _)| next),
            epoch: item.expected.map_or(0, |(_, epoch)| epoch),
            producer: self.producer.map(|(id, epoch)| pb::Producer {
                id,
                epoch,
                sequence: item.sequence,
            }),
            records_crc32c: None,
        }
    }

    fn invoke(&self, item: &Item) -> u64 {
        let producer =
            self.producer.map(|(id, epoch)| Producer { id, epoch, sequence: item.sequence });
        let call = Call::Append {
            stream: self.stream.clone(),
            session: 0,
            records: item.numbers.clone(),
            expected: item.expected.map(|(next, _)| next),
            producer,
        };
        self.load.recorder.invoke(&self.name, call)
    }

    fn answered(&mut self, attempt: &Attempt, answer: AppendResponse) -> anyhow::Result<Next> {
        let recorder = Arc::clone(&self.load.recorder);
        match answer.answer.context("an answer says something")? {
            Answer::Appended(pb::Appended {
                first_offset, next_offset, epoch, duplicate, ..
            }) => {
                if self.kind == Kind::Conditional {
                    self.end = next_offset.map(|next| (next, epoch));
                }
                let outcome =
                    Outcome::Appended { first: first_offset, next: next_offset, duplicate };
                recorder.ok(&self.name, attempt.op, outcome);
                let records = attempt.numbers.len() as u64;
                self.load.acknowledged.send_modify(|acknowledged| *acknowledged += records);
                Ok(Next::Remove)
            }
            Answer::Refused(refusal) => self.refused(attempt, &refusal),
        }
    }

    fn refused(&mut self, attempt: &Attempt, refusal: &Refusal) -> anyhow::Result<Next> {
        let recorder = &self.load.recorder;
        let reason = format!("{:?}: {}", refusal.reason(), refusal.message);
        match refusal.effect() {
            Effect::NoEffect => recorder.fail(&self.name, attempt.op, reason.clone()),
            Effect::Unknown => recorder.unknown(&self.name, attempt.op, reason.clone()),
            Effect::Unspecified => anyhow::bail!(Wrong(format!("no effect is told: {reason}"))),
        }
        // Of a conditional append: somebody else was faster, or its own first attempt was.
        if self.kind == Kind::Conditional && refusal.reason() == Reason::WrongOffset {
            let told = matches!(refusal.detail, Some(Detail::NextOffset(_)));
            ensure!(told, Wrong(format!("no next offset is told: {reason}")));
            self.items.clear();
            return Ok(Next::Break);
        }
        // Behind an attempt that was refused or lost, or while the Writer comes and goes.
        let may_be = matches!(
            refusal.reason(),
            Reason::SessionBroken
                | Reason::Dropped
                | Reason::Unavailable
                | Reason::NotLeader
                | Reason::ResourceExhausted
                | Reason::WalFull
        ) || self.is_producer() && refusal.reason() == Reason::OutOfOrder;
        ensure!(may_be, Wrong(format!("an append was refused: {reason}")));
        Ok(Next::Break)
    }
}

impl Item {
    fn next_sequence(&self) -> u64 {
        self.sequence + self.numbers.len() as u64
    }
}

/// What follows from an answer.
enum Next {
    /// The append is done with.
    Remove,
    /// Nothing more is sent in this session.
    Break,
}

/// The Writer or the pusher did something that it never may.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Wrong(String);

/// The calls of an appender, through either door.
enum Client {
    Writer(WriterClient<Channel>),
    Local(LocalClient<Channel>),
}

impl Client {
    fn new(door: Door, identities: &Identities) -> anyhow::Result<Self> {
        let address = |port: u16| format!("127.0.0.1:{port}");
        Ok(match door {
            Door::Writer(port) => {
                Self::Writer(WriterClient::new(channel(identities.user(), &address(port))?))
            }
            Door::Local(port) => {
                Self::Local(LocalClient::new(channel(Arc::new(TcpConnect), &address(port))?))
            }
        })
    }

    async fn append(
        &self,
        requests: ReceiverStream<AppendRequest>,
    ) -> Result<Streaming<AppendResponse>, tonic::Status> {
        Ok(match self {
            Self::Writer(client) => client.clone().append(requests).await?,
            Self::Local(client) => client.clone().append(requests).await?,
        }
        .into_inner())
    }

    async fn init_producer(
        &self,
        request: InitProducerRequest,
    ) -> Result<pb::InitProducerResponse, tonic::Status> {
        Ok(match self {
            Self::Writer(client) => client.clone().init_producer(request).await?,
            Self::Local(client) => client.clone().init_producer(request).await?,
        }
        .into_inner())
    }

    async fn get_stream(&self, request: GetStreamRequest) -> Result<pb::StreamInfo, tonic::Status> {
        Ok(match self {
            Self::Writer(client) => client.clone().get_stream(request).await?,
            Self::Local(client) => client.clone().get_stream(request).await?,
        }
        .into_inner())
    }
}
