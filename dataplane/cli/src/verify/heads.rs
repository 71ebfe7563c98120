//! What a Writer refers to: of each stream the chunks, by the SHA-256 of their heads.
//!
//! A Writer tells it as the locations of a read. They hold keys of chunks, which are dropped here.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{anyhow, bail};
use pyramid_client::Client;
use pyramid_protocol::pb::v1::read_response::Item;
use pyramid_protocol::pb::v1::refusal::Detail;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::{Offset, StreamId};
use pyramid_storage::ClusterId;
use pyramid_storage::verify::{Expected, Head, WriterView};
use tokio::time::{sleep, timeout};

use crate::connection;
use crate::output::remark;

/// Streams of one page.
const PAGE_LEN: u32 = 1000;
/// Reads of one stream that may end without a chunk before the Writer is given up.
const TRIES_MAX: u32 = 5;
/// At least this long between two of them.
const WAIT_MIN: Duration = Duration::from_millis(200);
/// How long the next item of a read may take.
const ITEM_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks for all streams, or those of these names.
pub(super) async fn view(
    connection: connection::Args,
    cluster_id: ClusterId,
    names: &[String],
) -> anyhow::Result<WriterView> {
    let client = connection.client().await?;
    let mut streams = BTreeMap::new();
    let mut after = String::new();
    loop {
        let request = pb::ListStreamsRequest { after, prefix: String::new(), limit: PAGE_LEN };
        let page = client.list_streams(request).await?;
        for info in &page.streams {
            if !names.is_empty() && !names.contains(&info.name) {
                continue;
            }
            let Some(stream_id) = StreamId::new(info.stream_id) else { continue };
            if let Some(expected) = expected(&client, info, cluster_id).await? {
                streams.insert(stream_id, expected);
            }
        }
        after = match page.streams.last() {
            Some(last) if page.more => last.name.clone(),
            Some(_) | None => return Ok(WriterView { streams }),
        };
    }
}

/// `None`: the stream was deleted meanwhile, or may not be read; it is verified by itself.
async fn expected(
    client: &Client,
    info: &pb::StreamInfo,
    cluster_id: ClusterId,
) -> anyhow::Result<Option<Expected>> {
    let mut first = info.first_offset;
    let mut heads: Vec<Head> = Vec::new();
    let mut failures = 0;
    loop {
        let from = heads.last().map_or(first, |head| head.next_offset.get());
        if from >= info.shipped_offset {
            break;
        }
        let before = heads.len();
        let Err(refusal) = read(client, info, from, cluster_id, &mut heads).await? else {
            // It has ended, after as many locations as it gives at once.
            failures = if heads.len() == before { failures + 1 } else { 0 };
            if failures == TRIES_MAX {
                bail!("the Writer does not tell where the chunks of {} are", info.name);
            }
            continue;
        };
        match (refusal.reason(), &refusal.detail) {
            (Reason::Trimmed, Some(Detail::FirstOffset(trimmed))) if *trimmed > from => {
                first = *trimmed;
                heads.clear();
            }
            (Reason::NotFound | Reason::StreamRecreated, _) => return Ok(None),
            (Reason::Denied, _) => {
                remark(&format!(
                    "{} is verified without the Writer, which does not let this identity read it",
                    info.name
                ));
                return Ok(None);
            }
            _ if refusal.retry && failures < TRIES_MAX => {
                failures += 1;
                let wait = Duration::from_millis(refusal.retry_after_ms.into());
                sleep(wait.max(WAIT_MIN)).await;
            }
            _ => bail!("ask the Writer for the chunks of {}: {}", info.name, refusal.message),
        }
    }
    Ok(Some(Expected {
        name: info.name.clone(),
        first_offset: Offset::new(first),
        shipped_offset: Offset::new(info.shipped_offset.max(first)),
        heads,
    }))
}

/// One read from `from` on: takes the locations it gives. The inner error is the Writer's refusal.
async fn read(
    client: &Client,
    info: &pb::StreamInfo,
    from: u64,
    cluster_id: ClusterId,
    heads: &mut Vec<Head>,
) -> anyhow::Result<Result<(), Refusal>> {
    let request = pb::ReadRequest {
        stream: info.name.clone(),
        stream_id: Some(info.stream_id),
        start: Some(pb::read_request::Start::Offset(from)),
        want_locations: true,
        ..pb::ReadRequest::default()
    };
    let writer = client.writer();
    let refused = |refusal: Refusal| {
        writer.failed(&refusal);
        Ok(Err(refusal))
    };
    let late = || Refusal::unknown(Reason::Unavailable, "no answer in time");
    let mut calls = writer.calls();
    let mut items = match timeout(ITEM_TIMEOUT, calls.read(request)).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return refused(Refusal::from_status(&status)),
        Err(_elapsed) => return refused(late()),
    };
    loop {
        let item = match timeout(ITEM_TIMEOUT, items.message()).await {
            Ok(Ok(Some(response))) => response.item,
            Ok(Ok(None)) => return Ok(Ok(())),
            Ok(Err(status)) => return refused(Refusal::from_status(&status)),
            Err(_elapsed) => return refused(late()),
        };
        match item {
            Some(Item::Chunk(location)) => {
                let head = head(&location, info, cluster_id)?;
                if !follows(heads.last(), from, &head) {
                    let expected = heads.last().map_or(from, |last| last.next_offset.get());
                    bail!(
                        "the Writer tells of {} a chunk from {} to {} where {expected} comes next; \
                         that is a fault of the Writer",
                        info.name,
                        head.base_offset.get(),
                        head.next_offset.get()
                    );
                }
                heads.push(head);
            }
            Some(Item::Start(_)) => {}
            Some(Item::Refused(refusal)) => return refused(refusal),
            // What is not in a chunk is not in the object store.
            Some(Item::Moved(_) | Item::Batches(_) | Item::CaughtUp(_)) | None => {
                return Ok(Ok(()));
            }
        }
    }
}

/// Whether a chunk comes next. One that does not would be asked for without end.
fn follows(last: Option<&Head>, from: u64, head: &Head) -> bool {
    let (base, next) = (head.base_offset.get(), head.next_offset.get());
    match last {
        Some(last) => base == last.next_offset.get() && base < next,
        // The stream was trimmed in the middle of it.
        None => base <= from && from < next,
    }
}

fn head(
    location: &pb::ChunkLocation,
    info: &pb::StreamInfo,
    cluster_id: ClusterId,
) -> anyhow::Result<Head> {
    let found = ClusterId::from_slice(&location.cluster_id);
    if found != Some(cluster_id) {
        let found = found.map_or_else(|| "another one".to_owned(), |found| found.to_string());
        bail!(
            "the Writer is that of the cluster {found}, and the objects are those of {cluster_id}; \
             look at --writer and --cluster"
        );
    }
    let head_sha256 = location.head_sha256.as_ref().try_into();
    let head_sha256 = head_sha256
        .map_err(|_length| anyhow!("the Writer names a chunk of {} without its hash", info.name))?;
    Ok(Head {
        base_offset: Offset::new(location.base_offset),
        next_offset: Offset::new(location.next_offset),
        head_sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(base: u64, next: u64) -> Head {
        Head {
            base_offset: Offset::new(base),
            next_offset: Offset::new(next),
            head_sha256: [0; 32],
        }
    }

    #[test]
    fn a_chunk_begins_where_the_last_one_ended_and_is_not_empty() {
        let last = chunk(3, 7);
        assert!(follows(Some(&last), 3, &chunk(7, 8)));
        for (base, next) in [(7, 7), (7, 6), (6, 8), (8, 9), (3, 7)] {
            assert!(!follows(Some(&last), 3, &chunk(base, next)), "{base} to {next}");
        }
    }

    #[test]
    fn the_first_chunk_holds_where_the_read_begins() {
        for (base, next) in [(5, 6), (0, 6), (5, 9)] {
            assert!(follows(None, 5, &chunk(base, next)), "{base} to {next}");
        }
        for (base, next) in [(0, 5), (5, 5), (6, 9), (6, 5)] {
            assert!(!follows(None, 5, &chunk(base, next)), "{base} to {next}");
        }
    }
}
