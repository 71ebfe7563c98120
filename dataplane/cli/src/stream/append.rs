//! `pyramid stream append`: lines → records → batches, several on their way at once.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use pyramid_client::append::{self, Pending};
use pyramid_client::producer::Resume;
use pyramid_client::{AppendSession, Client, Producer};
use pyramid_protocol::pb::v1::{self as pb, Effect};
use pyramid_protocol::{Records, StreamName};
use serde_json::json;
use tokio::time::Instant;

use super::batches::{Batch, Batches};
use super::control::existing;
use super::headers::{self, Headers};
use super::input::{Check, Input, Source};
use crate::connection::{self, Remedy, explain, explain_refusal};
use crate::output::{Output, bytes, counted, remark};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pyramid stream append orders tea coffee      two records
  pyramid stream append orders < orders.txt    each line one record
  pyramid stream append orders --file orders.jsonl --jsonl --header source=shop
  pyramid stream append orders --file day-7.jsonl --producer day-7
      Each line is written exactly once, however often the same command is repeated: what the
      producer day-7 has written is skipped. Another input needs another producer.

A line that is too long or, with --jsonl, not JSON is an error. A file is checked before anything of
it is appended; of standard input, what comes before the bad line is written.")]
pub(super) struct Args {
    /// Which stream.
    #[arg(value_name = "STREAM")]
    name: StreamName,

    /// Records. Default: the lines of standard input.
    #[arg(value_name = "RECORD", conflicts_with = "file")]
    records: Vec<String>,

    /// Append the lines of this file.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Refuse lines that are not JSON: a file as a whole, standard input from the bad line on.
    #[arg(long)]
    jsonl: bool,

    /// A header of each record. May be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = headers::parse)]
    headers: Vec<(String, String)>,

    /// Write each line of this input exactly once: repeated after a failure, it goes on where it was.
    #[arg(long, value_name = "NAME")]
    producer: Option<String>,
}

/// Appends all of the input.
pub(super) async fn run(
    args: Args,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    let Args { name, records, file, jsonl, headers, producer } = args;
    let headers = Headers::check(headers)?;
    let remedy = connection.remedy();
    let client = connection.client().await?;
    let progress = progress(file.as_ref(), records.is_empty());
    let source = match file {
        Some(file) => Source::File(file),
        None if records.is_empty() => Source::StandardInput,
        None => Source::Lines(records),
    };
    if matches!(source, Source::StandardInput) && std::io::stdin().is_terminal() {
        remark("each line becomes a record; end with Ctrl-D");
    }
    let check = Check { json: jsonl, len_max: headers.value_len_max() };
    let input = Input::open(source, check).await?;
    let (door, skip) = Door::open(&client, &name, producer.as_deref(), remedy).await?;
    let mut batches = Batches::new(input, headers, skip);
    let start = Instant::now();
    let mut done = Done::default();
    let outcome = append_all(&mut batches, door, &name, &mut done, &progress, remedy).await;
    progress.finish_and_clear();
    let Done { records, bytes: len, first_offset, next_offset } = done;
    let counted_records = counted(records, "record");
    outcome.map_err(|stopped| match (stopped, next_offset) {
        // All that was sent is answered.
        (Stopped::Input(error), Some(next)) => error.context(format!(
            "{counted_records} written, {name} has reached offset {next}; nothing behind was sent"
        )),
        (Stopped::Input(error), None) => error.context("nothing is written"),
        (Stopped::Refused(error), Some(next)) => error.context(format!(
            "{counted_records} written, {name} has reached offset {next}; those behind are not \
             known to be written"
        )),
        (Stopped::Refused(error), None) => error.context(format!("append to {name}")),
    })?;
    let skipped = batches.skipped();
    if skipped < skip {
        let producer = producer.unwrap_or_default();
        bail!(
            "producer {producer} has already written {}, but the input has only {skipped}; another \
             input needs another producer",
            counted(skip, "record")
        );
    }
    let elapsed = start.elapsed();
    let rate = u128::from(records) * 1_000_000 / elapsed.as_micros().max(1);
    let mut text = match (first_offset, next_offset) {
        (Some(first), Some(next)) => format!(
            "appended {counted_records} ({}) to {name}, first offset {first}, next offset {next}: \
             {rate} records/s",
            bytes(len)
        ),
        _ => format!("appended {counted_records} to {name}"),
    };
    if skipped > 0 {
        text.push_str(&format!("; skipped {skipped} that this producer had written before"));
    }
    let json = json!({
        "stream": name.as_str(),
        "records": records,
        "bytes": len,
        "skipped": skipped,
        "first_offset": first_offset,
        "next_offset": next_offset,
        "elapsed_ms": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        "records_per_second": u64::try_from(rate).unwrap_or(u64::MAX),
    });
    output.say(&text, &json)
}

/// What is known to be written.
#[derive(Debug, Default)]
struct Done {
    records: u64,
    /// Of encoded records.
    bytes: u64,
    first_offset: Option<u64>,
    next_offset: Option<u64>,
}

/// Why an append ended before its input did.
enum Stopped {
    /// The input has a bad line or cannot be read.
    Input(anyhow::Error),
    /// The Writer has not taken a batch, as far as it is known.
    Refused(anyhow::Error),
}

/// Sends batches while there are any, and takes answers.
async fn append_all(
    batches: &mut Batches,
    mut door: Door,
    name: &StreamName,
    done: &mut Done,
    progress: &ProgressBar,
    remedy: Remedy,
) -> Result<(), Stopped> {
    let mut waiting: VecDeque<(Batch, Pending)> = VecDeque::new();
    // What is read before a line that is no record is still appended, and answered.
    let mut input_end = None;
    loop {
        if waiting.is_empty()
            && let Some(end) = input_end
        {
            return end;
        }
        tokio::select! {
            biased;
            answer = first(&mut waiting), if !waiting.is_empty() => {
                let appended =
                    answer.map_err(|refusal| Stopped::Refused(refused(name, remedy, &refusal)))?;
                let Some((batch, _)) = waiting.pop_front() else { continue };
                done.add(&batch, &appended);
                progress.inc(batch.input_bytes);
            }
            batch = batches.next(), if input_end.is_none() => match batch {
                Ok(Some(batch)) => {
                    let pending = door.append(&batch.records).await;
                    waiting.push_back((batch, pending));
                }
                Ok(None) => input_end = Some(Ok(())),
                Err(error) => input_end = Some(Err(Stopped::Input(error))),
            }
        }
    }
}

/// The answer to the append that waits longest.
async fn first(waiting: &mut VecDeque<(Batch, Pending)>) -> append::Answer {
    match waiting.front_mut() {
        Some((_, pending)) => pending.await,
        None => std::future::pending().await,
    }
}

impl Done {
    fn add(&mut self, batch: &Batch, appended: &pb::Appended) {
        self.records += u64::from(batch.records.count());
        self.bytes += u64::try_from(batch.records.bytes().len()).unwrap_or(0);
        self.first_offset = self.first_offset.or(appended.first_offset);
        self.next_offset = appended.next_offset.or(self.next_offset);
    }
}

fn refused(name: &StreamName, remedy: Remedy, refusal: &pb::Refusal) -> anyhow::Error {
    let error = explain_refusal(name, remedy, refusal);
    if refusal.effect() == Effect::Unknown {
        return error.context(
            "it is not known whether the rest is written; look with `pyramid stream tail`, and \
             append with --producer if that must not happen",
        );
    }
    error
}

/// How records get in.
enum Door {
    Once { session: AppendSession, stream: StreamName, stream_id: u64 },
    ExactlyOnce(Producer),
}

impl Door {
    /// With the number of records that this producer has written already.
    async fn open(
        client: &Client,
        name: &StreamName,
        producer: Option<&str>,
        remedy: Remedy,
    ) -> anyhow::Result<(Self, u64)> {
        let options = append::Options::default();
        let Some(producer) = producer else {
            let stream_id = existing(client, name, remedy).await?.stream_id;
            let session = AppendSession::new(client.clone(), options);
            return Ok((Self::Once { session, stream: name.clone(), stream_id }, 0));
        };
        let producer = Producer::open(client, name.clone(), producer, Resume::New, options).await;
        let producer = producer.map_err(|error| explain(name, remedy, error))?;
        let written = producer.next_sequence();
        Ok((Self::ExactlyOnce(producer), written))
    }

    /// Waits for a place.
    async fn append(&mut self, records: &Records) -> Pending {
        match self {
            Self::ExactlyOnce(producer) => producer.append(records).await,
            Self::Once { session, stream, stream_id } => {
                let request = pb::AppendRequest {
                    stream: stream.to_string(),
                    stream_id: Some(*stream_id),
                    records: records.bytes().clone(),
                    records_crc32c: Some(records.crc32c()),
                    ..pb::AppendRequest::default()
                };
                session.append(request).await
            }
        }
    }
}

/// A bar for a file, a count for a pipe, nothing for what a person types.
fn progress(file: Option<&PathBuf>, is_standard_input: bool) -> ProgressBar {
    let bar = match file {
        Some(file) => {
            let len = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
            let template =
                "{bar:40} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}";
            ProgressBar::new(len).with_style(style(template))
        }
        None if is_standard_input && !std::io::stdin().is_terminal() => {
            let template = "{spinner} {binary_bytes}, {binary_bytes_per_sec}";
            ProgressBar::no_length().with_style(style(template))
        }
        None => ProgressBar::hidden(),
    };
    bar.tick();
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is one of those above")
}
