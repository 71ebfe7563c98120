//! `pyramid stream ls` and `info`.

use pyramid_protocol::StreamName;
use pyramid_protocol::pb::v1 as pb;
use serde_json::{Value, json};

use super::control::existing;
use crate::output::{Format, Output, bytes, shortened, table};
use crate::{connection, log_time};

/// How much of a name the table shows, so that the numbers stay in sight. Unit: characters.
const NAME_CHARS_MAX: usize = 60;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pyramid stream ls                            long names are cut; --output json has all of them
  pyramid stream ls --prefix orders/ --output json | jq .next_offset")]
pub(super) struct ListArgs {
    /// Only streams whose names begin so.
    #[arg(long, default_value = "", value_name = "TEXT")]
    prefix: String,
}

/// All streams, page by page.
pub(super) async fn list(
    args: ListArgs,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    let ListArgs { prefix } = args;
    let client = connection.client().await?;
    let mut streams: Vec<pb::StreamInfo> = Vec::new();
    loop {
        let after = streams.last().map_or_else(String::new, |last| last.name.clone());
        let request = pb::ListStreamsRequest { after, prefix: prefix.clone(), limit: 0 };
        let page = client.list_streams(request).await?;
        let is_last = !page.more || page.streams.is_empty();
        streams.extend(page.streams);
        if is_last {
            break;
        }
    }
    match output.format() {
        Format::Json => streams.iter().try_for_each(|info| output.json(&to_json(info)))?,
        Format::Text => {
            let heading = ["NAME", "FIRST", "NEXT", "CHUNKS", "IN CHUNKS", "LIVE"];
            let rows: Vec<_> = streams.iter().map(row).collect();
            table(&heading, &rows).iter().try_for_each(|line| output.line(line))?;
        }
    }
    output.flush()
}

fn row(info: &pb::StreamInfo) -> Vec<String> {
    let closed = if info.closed { " (closed)" } else { "" };
    vec![
        format!("{}{closed}", shortened(&info.name, NAME_CHARS_MAX)),
        info.first_offset.to_string(),
        info.next_offset.to_string(),
        info.chunk_count.to_string(),
        bytes(info.chunk_bytes),
        bytes(info.live_bytes),
    ]
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  pyramid stream info orders")]
pub(super) struct InfoArgs {
    /// Which stream.
    #[arg(value_name = "STREAM")]
    name: StreamName,
}

/// One stream.
pub(super) async fn info(
    args: InfoArgs,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    let InfoArgs { name } = args;
    let remedy = connection.remedy();
    let client = connection.client().await?;
    let info = existing(&client, &name, remedy).await?;
    output.say(&to_text(&info), &to_json(&info))
}

fn to_text(info: &pb::StreamInfo) -> String {
    let settings = info.settings.unwrap_or_default();
    let or_default = |value: u64, text: String| match value {
        0 => "the Writer's default".to_owned(),
        _ => text,
    };
    let last = match info.last_time_ms {
        0 => "never".to_owned(),
        time_ms => log_time::format(time_ms),
    };
    let rows = [
        ("name", info.name.clone()),
        ("id", info.stream_id.to_string()),
        ("state", if info.closed { "closed for appends" } else { "open" }.to_owned()),
        ("epoch", info.epoch.to_string()),
        ("first offset", info.first_offset.to_string()),
        ("next offset", info.next_offset.to_string()),
        ("last append", last),
        ("in chunks", format!("all below offset {}", info.shipped_offset)),
        ("chunks", format!("{}, {}", info.chunk_count, bytes(info.chunk_bytes))),
        ("live", bytes(info.live_bytes)),
        ("chunk size", or_default(settings.chunk_bytes, bytes(settings.chunk_bytes))),
        ("chunk age", or_default(settings.chunk_age_ms, format!("{} ms", settings.chunk_age_ms))),
    ];
    let lines = rows.iter().map(|(name, value)| format!("{name:<14}{value}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// All that is known of a stream.
pub(super) fn to_json(info: &pb::StreamInfo) -> Value {
    let settings = info.settings.unwrap_or_default();
    json!({
        "name": info.name,
        "stream_id": info.stream_id,
        "epoch": info.epoch,
        "first_offset": info.first_offset,
        "next_offset": info.next_offset,
        "shipped_offset": info.shipped_offset,
        "closed": info.closed,
        "last_time_ms": info.last_time_ms,
        "chunk_count": info.chunk_count,
        "chunk_bytes": info.chunk_bytes,
        "live_bytes": info.live_bytes,
        "settings": {
            "chunk_bytes": settings.chunk_bytes,
            "chunk_age_ms": settings.chunk_age_ms,
        },
    })
}
