//! The Writer is killed at every call of an upload, before the store has done it and after.

use std::collections::BTreeSet;

use anyhow::Context;
use pyramid_e2e::fault_proxy::Side;
use pyramid_e2e::process::tell;
use pyramid_protocol::pb::v1 as pb;
use pyramid_storage::{ClusterId, ObjectNames};
use tokio::time::timeout;

use crate::bucket::Bucket;
use crate::world::{CLUSTER, DEADLINE, World};

/// Calls of an upload: the stream's key and the chunk are put, the chunk's head is read back. The
/// first call of a process is about `cluster.json`: it is put or, if something was shipped before,
/// read.
const CALLS: u64 = 3;

fn values(round: u64) -> Vec<Vec<u8>> {
    (0..20).map(|number| format!("record {number} of round {round}").into_bytes()).collect()
}

/// Keys that the Writer names when it is asked where a stream's chunks are.
async fn referenced(world: &World, stream: &str) -> anyhow::Result<Vec<String>> {
    let request = pb::ReadRequest {
        stream: stream.to_owned(),
        start: Some(pb::read_request::Start::Offset(0)),
        want_locations: true,
        ..Default::default()
    };
    let mut items = world.calls()?.read(request).await?.into_inner();
    let mut keys = Vec::new();
    while let Some(item) = items.message().await? {
        if let Some(pb::read_response::Item::Chunk(location)) = item.item {
            let (path, _) = location.url.split_once('?').context("a signed URL")?;
            let bucket = format!("/{}/", world.bucket.name);
            keys.push(path.split_once(&bucket).context("a key of this bucket")?.1.to_owned());
        }
    }
    Ok(keys)
}

async fn killed_at_every_call(side: Side) {
    let mut world = World::found(Bucket::http().await, 21, &[]).await.unwrap();
    let mut streams = Vec::new();
    // The very first call puts cluster.json.
    for (round, number) in (0..).zip(std::iter::once(1).chain(1..=CALLS)) {
        let stream = format!("stream-{round}");
        world.put_stream(&stream, 1 << 20).await.unwrap();
        world.append(&stream, &values(round)).await.unwrap();
        world.proxy.hold_at(number, side);
        world.seal(&stream).await.unwrap();
        timeout(DEADLINE, world.proxy.held()).await.expect("an upload comes to this call");
        let info = world.info(&stream).await.unwrap();
        assert_eq!((info.shipped_offset, info.chunk_count), (0, 0), "call {number}");
        world.kill_writer().await.unwrap();
        // And once more at the first call of the next process.
        world.proxy.hold_at(1, side);
        world.start_writer().await.unwrap();
        timeout(DEADLINE, world.proxy.held()).await.expect("the upload is taken up again");
        world.kill_writer().await.unwrap();
        world.proxy.release();
        world.start_writer().await.unwrap();
        world.shipped(&stream).await.unwrap();
        world.holds(&stream, &values(round), false).await.unwrap();
        streams.push((round, stream));
    }

    let store = world.bucket.open().await;
    let names = ObjectNames::new("some/where", ClusterId::new(CLUSTER)).unwrap();
    let listing = store.list("", None).await.unwrap();
    let mut chunks = BTreeSet::new();
    let mut others = 0;
    for object in listing.objects {
        if names.parse_chunk(&object.key).is_some() {
            chunks.insert(object.key.to_string());
        } else {
            others += 1;
        }
    }
    let mut live = BTreeSet::new();
    for (round, stream) in &streams {
        world.holds(stream, &values(*round), true).await.unwrap();
        let keys = referenced(&world, stream).await.unwrap();
        assert_eq!(keys.len(), 1, "{stream}");
        live.extend(keys);
    }
    assert!(live.is_subset(&chunks), "{live:?} {chunks:?}");
    let orphans = chunks.len() - live.len();
    tell(&format!("killed {side:?} each call: {} chunks, {orphans} orphans", live.len()));
    // A chunk that the store has and the log does not: one for the put, one for the read of its head.
    let (orphans_expected, keys_twice) = match side {
        Side::Before => (1, 0),
        Side::After => (2, 1),
    };
    assert_eq!(orphans, orphans_expected);
    // Those of streams, one of them stored twice, and cluster.json.
    assert_eq!(others, streams.len() + keys_twice + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_dies_before_any_call_is_done_loses_nothing() {
    killed_at_every_call(Side::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_dies_after_any_call_is_done_loses_nothing() {
    killed_at_every_call(Side::After).await;
}
