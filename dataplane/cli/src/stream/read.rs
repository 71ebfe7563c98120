//! `pyramid stream read` and `tail`.

use std::time::Duration;

use anyhow::anyhow;
use futures::StreamExt;
use pyramid_client::read::{Error, Item, Options, Start};
use pyramid_client::{Client, Reader};
use pyramid_protocol::pb::v1::{self as pb, Reason, refusal};
use pyramid_protocol::{Batch, Offset, StreamName};
use pyramid_storage::Fetcher;
use serde_json::{Map, Value};

use crate::connection::{self, ChunkArgs, Remedy, explain_refusal};
use crate::log_time;
use crate::output::{Format, Output, put_bytes, remark};

/// A read that does not follow gives up after so long without a connection.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pyramid stream read orders                   all records, one a line
  pyramid stream read orders --from 1000 --max-records 10
  pyramid stream read orders --from-time 2026-11-24T18:30:00Z --output json
  pyramid stream read orders --last 5")]
pub(super) struct ReadArgs {
    /// Which stream.
    #[arg(value_name = "STREAM")]
    name: StreamName,

    /// Begin at this offset. Default: the oldest record.
    #[arg(long, value_name = "OFFSET", value_parser = offset, allow_negative_numbers = true,
        conflicts_with_all = ["from_time", "last"])]
    from: Option<u64>,

    /// Begin with what was appended at this time or later: RFC 3339, or milliseconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = log_time::parse, conflicts_with = "last")]
    from_time: Option<u64>,

    /// Begin so many records before the end.
    #[arg(long, value_name = "N")]
    last: Option<u64>,

    /// Stop after so many records.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_records: Option<u64>,

    #[command(flatten)]
    chunks: ChunkArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pyramid stream tail orders                   the last 10 records
  pyramid stream tail orders -n 1 -f           the last one, then whatever comes")]
pub(super) struct TailArgs {
    /// Which stream.
    #[arg(value_name = "STREAM")]
    name: StreamName,

    /// How many records.
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 10)]
    lines: u64,

    /// Go on with what is appended, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,

    #[command(flatten)]
    chunks: ChunkArgs,
}

pub(super) fn offset(text: &str) -> Result<u64, String> {
    let expected = "offsets are whole numbers from 0 on; for the last N records give --last N";
    text.parse().map_err(|_| expected.to_owned())
}

pub(super) async fn read(
    args: ReadArgs,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    let ReadArgs { name, from, from_time, last, max_records, chunks } = args;
    let target = connection.target()?;
    let client = target.client().await?;
    let start = match (from, from_time, last) {
        (Some(offset), _, _) => Start::Offset(Offset::new(offset)),
        (None, Some(time_ms), _) => Start::TimeMs(time_ms),
        // More than there are: all of them.
        (None, None, last) => Start::LastRecords(last.unwrap_or(u64::MAX)),
    };
    let options = Options {
        max_records: max_records.unwrap_or(0),
        give_up_after: Some(GIVE_UP_AFTER),
        ..options(name, start, target.fetcher(chunks)?)
    };
    print(client, options, max_records.unwrap_or(u64::MAX), target.remedy(), output).await
}

pub(super) async fn tail(
    args: TailArgs,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    let TailArgs { name, lines, follow, chunks } = args;
    let target = connection.target()?;
    let client = target.client().await?;
    let options = Options {
        follow,
        give_up_after: (!follow).then_some(GIVE_UP_AFTER),
        ..options(name, Start::LastRecords(lines), target.fetcher(chunks)?)
    };
    print(client, options, u64::MAX, target.remedy(), output).await
}

/// Chunks are opened here, where that can be, so that they do not pass through the Writer.
fn options(name: StreamName, start: Start, fetcher: Fetcher) -> Options {
    Options { fetcher: Some(fetcher), falls_back: true, ..Options::new(name, start) }
}

/// Prints what a read brings, at most `records_max` records.
async fn print(
    client: Client,
    options: Options,
    records_max: u64,
    remedy: Remedy,
    output: &mut Output,
) -> anyhow::Result<()> {
    let name = options.stream.clone();
    let mut left = records_max;
    let mut reader = Reader::new(client, options);
    while let Some(item) = reader.next().await {
        match item.map_err(|error| explain(&name, remedy, error))? {
            Item::Batches(batches) => {
                for batch in &batches.batches {
                    left -= print_batch(batch, left, output)?;
                }
                output.flush()?;
                if left == 0 {
                    break;
                }
            }
            Item::Interrupted(why) => remark(&format!("interrupted, goes on by itself: {why}")),
            Item::Started { .. } | Item::CaughtUp(_) => {}
        }
    }
    output.flush()
}

fn print_batch(batch: &Batch, records_max: u64, output: &mut Output) -> anyhow::Result<u64> {
    let mut printed = 0;
    for record in batch.iter() {
        if printed == records_max {
            break;
        }
        let (offset, record) = record?;
        print_record(offset, batch.append_time_ms, &record, output)?;
        printed += 1;
    }
    Ok(printed)
}

/// A record: its value as a line, or all of it as JSON.
pub(crate) fn print_record(
    offset: Offset,
    time_ms: u64,
    record: &pb::Record,
    output: &mut Output,
) -> anyhow::Result<()> {
    match output.format() {
        Format::Text => output.line(&record.value),
        Format::Json => output.json(&to_json(offset, time_ms, record)),
    }
}

fn to_json(offset: Offset, time_ms: u64, record: &pb::Record) -> Value {
    let mut object = Map::new();
    object.insert("offset".to_owned(), offset.get().into());
    object.insert("time_ms".to_owned(), time_ms.into());
    put_bytes(&mut object, "value", &record.value);
    // A list, because a name may come several times.
    let headers = record.headers.iter().map(|pb::Header { name, value }| {
        let mut header = Map::new();
        header.insert("name".to_owned(), name.as_str().into());
        put_bytes(&mut header, "value", value);
        Value::Object(header)
    });
    object.insert("headers".to_owned(), headers.collect());
    Value::Object(object)
}

fn explain(name: &StreamName, remedy: Remedy, error: Error) -> anyhow::Error {
    let Error::Refused(refusal) = error else { return error.into() };
    match (refusal.reason(), &refusal.detail) {
        (Reason::Trimmed, Some(refusal::Detail::FirstOffset(first))) => {
            anyhow!("{}; read on with --from {first}", refusal.message)
        }
        (Reason::BeyondNext, Some(refusal::Detail::NextOffset(next))) => {
            anyhow!("the stream {name} ends at {next}, the offset of the record that comes next")
        }
        _ => explain_refusal(name, remedy, &refusal),
    }
}
