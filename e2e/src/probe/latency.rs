//! From an append in one Pod to its push in another.
//!
//! Each record carries the time at which it was sent. Sender and receiver are processes of one
//! machine, whose containers share its clock, so the difference is the time on the way. Between
//! machines it would also hold the difference of their clocks.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::Args;
use pyramid_protocol::net::{self, TcpAccept};
use pyramid_protocol::pb::v1::append_response::Answer as Appended;
use pyramid_protocol::pb::v1::consumer_server::{Consumer, ConsumerServer};
use pyramid_protocol::pb::v1::local_client::LocalClient;
use pyramid_protocol::pb::v1::push_response::Answer;
use pyramid_protocol::pb::v1::{
    Accepted, AppendRequest, AppendResponse, GetStreamRequest, Position, PushRequest, PushResponse,
    Record, WrongOffset,
};
use pyramid_protocol::{Batch, Records};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

/// Pusher, Writer and Stream may all come later than this program.
const BEGIN: Duration = Duration::from_secs(90);
const RETRY: Duration = Duration::from_secs(1);
/// Appends that are on their way at once.
const IN_FLIGHT_MAX: usize = 1024;
/// What a record begins with: nanoseconds since 1970, and whether it counts.
const HEAD_BYTES: usize = 9;

/// How times are spread. Unit: microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    pub count: usize,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

impl Spread {
    /// Of at least one time.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let at = |percent: usize| {
            let time = times.get(times.len().checked_sub(1)? * percent / 100)?;
            u64::try_from(time.as_micros()).ok()
        };
        Some(Self { count: times.len(), p50_us: at(50)?, p99_us: at(99)?, max_us: at(100)? })
    }
}

/// What the producer saw.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Produced {
    /// From the append to its answer.
    pub acknowledged: Spread,
    /// Sent per second.
    pub rate: f64,
}

/// Appends records of one append each, at a steady rate.
#[derive(Clone, Debug, Args)]
pub struct Produce {
    /// Where the pusher of this Pod takes appends.
    #[arg(long, env = "PYRAMID_APPEND_ENDPOINT", default_value = "http://127.0.0.1:7410")]
    endpoint: Endpoint,
    /// Which stream.
    #[arg(long)]
    stream: String,
    /// Appends per second.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Appends that count.
    #[arg(long, default_value_t = 30_000)]
    count: usize,
    /// Appends before them, which do not.
    #[arg(long, default_value_t = 5000)]
    warm_up: usize,
    /// Length of a record's value.
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
}

impl Produce {
    /// Appends, and prints a line of JSON: [`Produced`].
    ///
    /// # Errors
    /// An append was refused, or there is no pusher or stream.
    pub async fn run(self) -> anyhow::Result<()> {
        ensure!(self.bytes >= HEAD_BYTES, "a value has at least {HEAD_BYTES} bytes");
        let mut local = timeout(BEGIN, self.open()).await.context("there is no stream")?;
        let (requests, outgoing) = mpsc::channel(IN_FLIGHT_MAX);
        let (sent, pending) = mpsc::channel(IN_FLIGHT_MAX);
        let answers = local.append(ReceiverStream::new(outgoing)).await?.into_inner();
        let (rate, times) =
            tokio::try_join!(self.send(requests, sent), self.receive(answers, pending))?;
        let acknowledged = Spread::of(times).context("nothing was appended")?;
        say(&Produced { acknowledged, rate })
    }

    async fn open(&self) -> LocalClient<Channel> {
        loop {
            if let Ok(channel) = self.endpoint.connect().await {
                let mut local = LocalClient::new(channel);
                let stream =
                    GetStreamRequest { stream: self.stream.clone(), ..GetStreamRequest::default() };
                if local.get_stream(stream).await.is_ok() {
                    return local;
                }
            }
            sleep(RETRY).await;
        }
    }

    /// How many per second were sent of those that count.
    async fn send(
        &self,
        requests: mpsc::Sender<AppendRequest>,
        sent: mpsc::Sender<Instant>,
    ) -> anyhow::Result<f64> {
        let mut ticks = interval(Duration::from_secs(1) / self.rate);
        // Who is late catches up: the rate holds.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut begin = Instant::now();
        for number in 0..self.warm_up + self.count {
            ticks.tick().await;
            if number == self.warm_up {
                begin = Instant::now();
            }
            let mut value = now_ns()?.to_be_bytes().to_vec();
            value.push(u8::from(number >= self.warm_up));
            value.resize(self.bytes, b'x');
            let record = Record { value: value.into(), headers: Vec::new() };
            let request = AppendRequest {
                stream: self.stream.clone(),
                records: Records::encode(&[record])?.bytes().clone(),
                ..AppendRequest::default()
            };
            sent.send(Instant::now()).await.context("answers have ended")?;
            requests.send(request).await.context("the pusher has ended the call")?;
        }
        let rate = f64::from(u32::try_from(self.count)?) / begin.elapsed().as_secs_f64();
        Ok(rate)
    }

    /// Answers come in the order of the requests.
    async fn receive(
        &self,
        mut answers: Streaming<AppendResponse>,
        mut pending: mpsc::Receiver<Instant>,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(self.count);
        for number in 0..self.warm_up + self.count {
            let answer = answers.message().await?.and_then(|answer| answer.answer);
            match answer.context("the pusher has ended the call")? {
                Appended::Appended(_) => {}
                Appended::Refused(refusal) => anyhow::bail!(refusal.message),
            }
            let sent = pending.recv().await.context("an answer to no request")?;
            if number >= self.warm_up {
                times.push(sent.elapsed());
            }
        }
        Ok(times)
    }
}

/// Takes pushes as an application does, with its position in memory.
#[derive(Clone, Debug, Args)]
pub struct Consume {
    /// Where the pusher finds it.
    #[arg(long, default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
    /// Records that count; after them the line is printed.
    #[arg(long, default_value_t = 30_000)]
    count: usize,
}

impl Consume {
    /// Serves until it is ended; prints a line of JSON, a [`Spread`], when all have come.
    ///
    /// # Errors
    /// It cannot listen.
    pub async fn run(self) -> anyhow::Result<()> {
        let accept = TcpAccept::bind(self.listen).await?;
        let service = Service { count: self.count, seen: Arc::default() };
        let server = net::server().add_service(ConsumerServer::new(service));
        Ok(server.serve_with_incoming(net::incoming(accept)).await?)
    }
}

#[derive(Debug, Default)]
struct Seen {
    positions: HashMap<String, Position>,
    times: Vec<Duration>,
}

#[derive(Debug)]
struct Service {
    count: usize,
    seen: Arc<Mutex<Seen>>,
}

#[tonic::async_trait]
impl Consumer for Service {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushResponse>, Status> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = now_ns()
            .and_then(|now| seen.push(request.into_inner(), now, self.count))
            .map_err(|error| Status::internal(format!("{error:#}")))?;
        Ok(Response::new(PushResponse { answer: Some(answer) }))
    }
}

impl Seen {
    fn push(&mut self, push: PushRequest, now_ns: u64, count: usize) -> anyhow::Result<Answer> {
        let next = push.next.context("the push does not say where it ends")?;
        let stored = self.positions.get(&push.stream).copied();
        // Without a position we begin wherever the pusher does.
        if stored != push.base {
            return Ok(Answer::WrongOffset(WrongOffset { stored }));
        }
        let before = self.times.len();
        for batch in push.batches {
            for record in Batch::decode(batch)?.iter() {
                let (_, record) = record?;
                if let Some(sent_ns) = sent_ns(&record.value) {
                    self.times.push(Duration::from_nanos(now_ns.saturating_sub(sent_ns)));
                }
            }
        }
        self.positions.insert(push.stream, next);
        if before < count && self.times.len() >= count {
            say(&Spread::of(self.times.clone()).context("nothing has come")?)?;
        }
        Ok(Answer::Accepted(Accepted { next: Some(next) }))
    }
}

/// When a record was sent, if it counts.
fn sent_ns(value: &[u8]) -> Option<u64> {
    let (sent, rest) = value.split_first_chunk()?;
    (rest.first() == Some(&1)).then(|| u64::from_be_bytes(*sent))
}

#[expect(clippy::disallowed_methods, reason = "two processes compare what they read")]
fn now_ns() -> anyhow::Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

fn say(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(value)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_the_middle_the_hundredth_and_the_greatest() {
        let times = (0..=100).rev().map(Duration::from_micros).collect();
        let spread = Spread { count: 101, p50_us: 50, p99_us: 99, max_us: 100 };
        assert_eq!(Spread::of(times), Some(spread));
        let one = Spread { count: 1, p50_us: 7, p99_us: 7, max_us: 7 };
        assert_eq!(Spread::of(vec![Duration::from_micros(7)]), Some(one));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn only_records_after_the_warm_up_count() {
        let value = |counts| [&7_u64.to_be_bytes()[..], &[counts, b'x']].concat();
        assert_eq!(sent_ns(&value(1)), Some(7));
        assert_eq!(sent_ns(&value(0)), None);
        assert_eq!(sent_ns(&7_u64.to_be_bytes()), None);
    }

    #[test]
    fn a_push_is_counted_once() {
        let record = |counts| Record {
            value: [&1_000_u64.to_be_bytes()[..], &[counts]].concat().into(),
            headers: Vec::new(),
        };
        let records = Records::encode(&[record(0), record(1)]).unwrap();
        let batch = Batch::new(pyramid_protocol::Offset::new(0), 0, &records).encode();
        let next = Position { stream_id: 1, epoch: 1, offset: 2 };
        let push = PushRequest {
            stream: "s".to_owned(),
            batches: vec![batch],
            next: Some(next),
            ..PushRequest::default()
        };
        let mut seen = Seen::default();
        let accepted = Answer::Accepted(Accepted { next: Some(next) });
        assert_eq!(seen.push(push.clone(), 3_000, 9).unwrap(), accepted);
        let wrong = Answer::WrongOffset(WrongOffset { stored: Some(next) });
        assert_eq!(seen.push(push, 4_000, 9).unwrap(), wrong);
        assert_eq!(seen.times, [Duration::from_nanos(2_000)]);
    }
}
