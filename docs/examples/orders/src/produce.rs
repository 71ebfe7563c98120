//! Appends numbered orders through the pusher of this pod, each exactly once.
//!
//! The Writer remembers under the producer's name how many orders it has taken. So a producer that
//! starts again, or has lost its pusher, asks, and goes on with the next number. Several orders are
//! on their way at once; answers come in their order, and only what was answered is counted.
//!
//! A Writer that does not know the name any more has another Stream of this name, or has forgotten a
//! producer that was idle for long. It cannot say what became of orders without an answer, but the
//! stream can: whoever has read it to its end knows the last number, and goes on behind it.

use std::fmt;
use std::io::Write;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, ensure};
use pyramid_protocol::pb::v1::append_response::Answer;
use pyramid_protocol::pb::v1::local_client::LocalClient;
use pyramid_protocol::pb::v1::read_request::Start;
use pyramid_protocol::pb::v1::read_response::Item;
use pyramid_protocol::pb::v1::{
    AppendRequest, AppendResponse, InitProducerRequest, InitProducerResponse, Producer,
    ReadRequest, Reason, Record, Refusal,
};
use pyramid_protocol::{Batch, Records};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// Wait after a failure. A pusher, a Writer, a Stream may all come later than this program.
const RETRY: Duration = Duration::from_secs(1);
/// One order in this time at most.
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Far below what a record may have.
const NOTE_BYTES_MAX: i64 = 500_000;

/// Flags of `produce`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the pusher of this pod takes appends.
    #[arg(long, env = "PYRAMID_APPEND_ENDPOINT", default_value = "http://127.0.0.1:7410")]
    endpoint: Endpoint,
    /// Which stream.
    #[arg(long, default_value = "orders")]
    stream: String,
    /// Under which name the Writer remembers what it has taken.
    #[arg(long, env = "PYRAMID_PRODUCER", default_value = "orders")]
    producer: String,
    /// Orders per second.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Orders that may be on their way without an answer; the Writer may allow fewer.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    in_flight: u32,
    /// Length of the note in each order. Unit: bytes.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=NOTE_BYTES_MAX))]
    note_bytes: u32,
    /// End after so many orders, also counting those of earlier runs. Default: never.
    #[arg(long)]
    count: Option<u64>,
}

/// Appends until there are enough orders, or until `stop`; then says how many the Writer has
/// answered for.
///
/// # Errors
/// Only `out` fails: everything else is tried again.
pub(crate) async fn run(
    args: Args,
    stop: impl Future<Output = ()>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut stop = pin!(stop);
    let mut pause = interval(Duration::from_nanos(NANOS_PER_SECOND / args.rate.max(1)));
    pause.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut known = None;
    let mut is_told_to_stop = false;
    while !is_told_to_stop {
        let end = async {
            let mut door = Door::open(&args, &mut known).await?;
            loop {
                let is_enough = args.count.is_some_and(|count| door.next_number >= count);
                let goes_on = !is_told_to_stop && !is_enough;
                // Not while an answer is missing: whether that order was written would be unknown.
                if !goes_on && !door.is_waiting() {
                    return anyhow::Ok(());
                }
                tokio::select! {
                    // An answer tells more than a call that has ended.
                    biased;
                    answer = door.answer(), if door.is_waiting() => {
                        answer?;
                        known = Some(door.known);
                    }
                    () = stop.as_mut(), if !is_told_to_stop => is_told_to_stop = true,
                    _ = pause.tick(), if goes_on && door.has_place() => door.append(&args)?,
                }
            }
        };
        match end.await {
            Ok(()) => break,
            Err(error) => {
                drop(writeln!(std::io::stderr(), "again in {RETRY:?}: {error:#}"));
                if !is_told_to_stop {
                    tokio::select! {
                        () = stop.as_mut() => is_told_to_stop = true,
                        () = sleep(RETRY) => {}
                    }
                }
            }
        }
    }
    let orders = known.map(|known| known.answered);
    let end = json!({ "stream": args.stream, "producer": args.producer, "orders": orders });
    Ok(writeln!(out, "{end}")?)
}

/// What is appended, as JSON.
#[derive(Debug, Serialize)]
struct Order<'a> {
    producer: &'a str,
    /// From 0 on, of this producer in this stream.
    number: u64,
    item: &'a str,
    quantity: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What is read of an order.
#[derive(Debug, Deserialize)]
struct Written {
    producer: String,
    number: u64,
}

/// What a run has heard of its orders in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// All orders below this number are written.
    answered: u64,
    /// The number of the order that has the producer's sequence 0: more than 0 if the Writer has
    /// forgotten those before.
    first: u64,
}

/// A call of `Append` under a producer.
struct Door {
    requests: mpsc::Sender<AppendRequest>,
    answers: Streaming<AppendResponse>,
    id: u64,
    epoch: u32,
    /// Of the next order that is sent.
    next_number: u64,
    known: Known,
    in_flight_max: u64,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("next_number", &self.next_number)
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

impl Door {
    /// Asks which number comes next. `known` is what this run has heard of it, and hears now.
    async fn open(args: &Args, known: &mut Option<Known>) -> anyhow::Result<Self> {
        let channel: Channel = args.endpoint.connect().await.context("the pusher of this pod")?;
        let mut local = LocalClient::new(channel);
        // A Writer that has forgotten must not begin again at 0.
        let resume = known.map(|Known { answered, first }| answered.saturating_sub(first));
        let (answer, heard) = match init(&mut local, args, resume).await {
            Ok(answer) => (answer, resume.unwrap_or_default()),
            Err(status) if is_unknown_producer(&status) => {
                let next = next_in_stream(&mut local, args).await?;
                let Args { stream, producer, .. } = args;
                drop(writeln!(
                    std::io::stderr(),
                    "the Writer does not know {producer} in {stream} any more: the stream was \
                     replaced, or nothing came for long; it has {next} orders of it, goes on with \
                     number {next}"
                ));
                // Now, because the answer to the next call may be lost.
                *known = Some(Known { answered: next, first: next });
                (init(&mut local, args, None).await.map_err(said)?, 0)
            }
            Err(status) => return Err(said(status)),
        };
        let InitProducerResponse { id, epoch, next_sequence, in_flight_max, .. } = answer;
        let lost = heard.saturating_sub(next_sequence);
        ensure!(lost == 0, "the Writer has lost {lost} orders that it has answered for");
        let first = known.map_or(0, |known| known.first);
        let now = Known { answered: first + next_sequence, first };
        *known = Some(now);
        let in_flight_max = in_flight_max.clamp(1, args.in_flight);
        // A place for each order without an answer: sending never waits.
        let (requests, outgoing) = mpsc::channel(usize::try_from(in_flight_max)?);
        let answers = local.append(ReceiverStream::new(outgoing)).await.map_err(said)?.into_inner();
        Ok(Self {
            requests,
            answers,
            id,
            epoch,
            next_number: now.answered,
            known: now,
            in_flight_max: in_flight_max.into(),
        })
    }

    /// Whether an order has no answer yet.
    fn is_waiting(&self) -> bool {
        self.known.answered < self.next_number
    }

    /// Whether one more may be on its way.
    fn has_place(&self) -> bool {
        self.next_number - self.known.answered < self.in_flight_max
    }

    /// Sends the next order on its way.
    fn append(&mut self, args: &Args) -> anyhow::Result<()> {
        let number = self.next_number;
        let note = (args.note_bytes > 0)
            .then(|| usize::try_from(args.note_bytes).map(|bytes| "x".repeat(bytes)))
            .transpose()?;
        let order = Order { producer: &args.producer, number, item: "tea", quantity: 1, note };
        let body = serde_json::to_string(&order)?;
        let sequence = number - self.known.first;
        let record = Record { value: body.into_bytes().into(), headers: Vec::new() };
        let request = AppendRequest {
            stream: args.stream.clone(),
            records: Records::encode(&[record])?.bytes().clone(),
            producer: Some(Producer { id: self.id, epoch: self.epoch, sequence }),
            ..AppendRequest::default()
        };
        self.requests.try_send(request).ok().context("the pusher has ended the call")?;
        self.next_number += 1;
        Ok(())
    }

    /// Waits until the oldest order without an answer is written.
    ///
    /// # Cancel safety
    /// Safe to drop: no answer gets lost.
    async fn answer(&mut self) -> anyhow::Result<()> {
        let answer = self.answers.message().await.map_err(said)?;
        match answer.and_then(|answer| answer.answer).context("the pusher has ended the call")? {
            Answer::Appended(_) => {
                self.known.answered += 1;
                Ok(())
            }
            Answer::Refused(refusal) => Err(anyhow::anyhow!(refusal.message)),
        }
    }
}

/// Makes or takes over the producer.
async fn init(
    local: &mut LocalClient<Channel>,
    args: &Args,
    resume_sequence: Option<u64>,
) -> Result<InitProducerResponse, tonic::Status> {
    let (stream, name) = (args.stream.clone(), args.producer.clone());
    let request = InitProducerRequest { stream, name, resume_sequence };
    Ok(local.init_producer(request).await?.into_inner())
}

fn is_unknown_producer(status: &tonic::Status) -> bool {
    Refusal::from_status(status).reason() == Reason::UnknownProducer
}

/// Reads the stream to its end: the number behind the last order of this producer.
async fn next_in_stream(local: &mut LocalClient<Channel>, args: &Args) -> anyhow::Result<u64> {
    let request = ReadRequest {
        stream: args.stream.clone(),
        // All that are kept: how many orders of others are behind the last of ours, nobody knows.
        start: Some(Start::LastRecords(u64::MAX)),
        ..ReadRequest::default()
    };
    let mut items = local.read(request).await.map_err(said)?.into_inner();
    let mut next = 0;
    while let Some(item) = items.message().await.map_err(said)? {
        match item.item.context("the pusher has ended the read")? {
            Item::Batches(batches) => {
                for batch in batches.batches {
                    for record in Batch::decode(batch)?.iter() {
                        let order = serde_json::from_slice::<Written>(&record?.1.value);
                        // Others may append what they want.
                        if let Ok(order) = order.as_ref()
                            && order.producer == args.producer
                        {
                            next = next.max(order.number.saturating_add(1));
                        }
                    }
                }
            }
            Item::CaughtUp(_) => return Ok(next),
            Item::Refused(refusal) => anyhow::bail!(refusal.message),
            Item::Start(_) => {}
            Item::Chunk(_) | Item::Moved(_) => {
                anyhow::bail!("the pusher tells places of chunks though nobody asked for them")
            }
        }
    }
    anyhow::bail!("the pusher has ended the read before the end of the stream")
}

/// The text of a status, which is for people.
#[expect(clippy::needless_pass_by_value, reason = "the form that `map_err` takes")]
fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

#[cfg(test)]
mod tests;
