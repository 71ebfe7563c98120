//! Appends numbered orders through the pusher of this pod, each exactly once.
//!
//! The Writer remembers under the producer's name how many orders it has taken. So a producer that
//! starts again, or has lost its pusher, asks, and goes on with the next number.

use std::fmt;
use std::io::Write;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use pyramid_protocol::Records;
use pyramid_protocol::pb::v1::append_response::Answer;
use pyramid_protocol::pb::v1::local_client::LocalClient;
use pyramid_protocol::pb::v1::{
    AppendRequest, AppendResponse, InitProducerRequest, InitProducerResponse, Producer, Record,
};
use serde::Serialize;
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
    loop {
        let end = async {
            let mut door = Door::open(&args, known).await?;
            known = Some(door.next_number);
            while args.count.is_none_or(|count| door.next_number < count) {
                // Not while an answer is missing: whether that order was written would be unknown.
                tokio::select! {
                    () = stop.as_mut() => break,
                    _ = pause.tick() => {}
                }
                door.append(&args).await?;
                known = Some(door.next_number);
            }
            anyhow::Ok(())
        };
        match end.await {
            Ok(()) => break,
            Err(error) => {
                drop(writeln!(std::io::stderr(), "again in {RETRY:?}: {error:#}"));
                tokio::select! {
                    () = stop.as_mut() => break,
                    () = sleep(RETRY) => {}
                }
            }
        }
    }
    let end = json!({ "stream": args.stream, "producer": args.producer, "orders": known });
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

/// A call of `Append` under a producer.
struct Door {
    requests: mpsc::Sender<AppendRequest>,
    answers: Streaming<AppendResponse>,
    id: u64,
    epoch: u32,
    next_number: u64,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("next_number", &self.next_number).finish_non_exhaustive()
    }
}

impl Door {
    /// Asks which number comes next. `known` is what this run has heard of it before.
    async fn open(args: &Args, known: Option<u64>) -> anyhow::Result<Self> {
        let channel: Channel = args.endpoint.connect().await.context("the pusher of this pod")?;
        let mut local = LocalClient::new(channel);
        let producer = InitProducerRequest {
            stream: args.stream.clone(),
            name: args.producer.clone(),
            // A Writer that has forgotten must not begin again at 0.
            resume_sequence: known,
        };
        let InitProducerResponse { id, epoch, next_sequence, .. } =
            local.init_producer(producer).await.map_err(said)?.into_inner();
        let (requests, outgoing) = mpsc::channel(1);
        let answers = local.append(ReceiverStream::new(outgoing)).await.map_err(said)?.into_inner();
        Ok(Self { requests, answers, id, epoch, next_number: next_sequence })
    }

    /// Appends the next order, and waits until it is written.
    async fn append(&mut self, args: &Args) -> anyhow::Result<()> {
        let number = self.next_number;
        let note = (args.note_bytes > 0)
            .then(|| usize::try_from(args.note_bytes).map(|bytes| "x".repeat(bytes)))
            .transpose()?;
        let order = Order { producer: &args.producer, number, item: "tea", quantity: 1, note };
        let body = serde_json::to_string(&order)?;
        let record = Record { value: body.into_bytes().into(), headers: Vec::new() };
        let request = AppendRequest {
            stream: args.stream.clone(),
            records: Records::encode(&[record])?.bytes().clone(),
            producer: Some(Producer { id: self.id, epoch: self.epoch, sequence: number }),
            ..AppendRequest::default()
        };
        self.requests.send(request).await.context("the pusher has ended the call")?;
        let answer = self.answers.message().await.map_err(said)?;
        match answer.and_then(|answer| answer.answer).context("the pusher has ended the call")? {
            Answer::Appended(_) => {
                self.next_number += 1;
                Ok(())
            }
            Answer::Refused(refusal) => Err(anyhow::anyhow!(refusal.message)),
        }
    }
}

/// The text of a status, which is for people.
#[expect(clippy::needless_pass_by_value, reason = "the form that `map_err` takes")]
fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

#[cfg(test)]
mod tests;
