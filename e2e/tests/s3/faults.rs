//! The Writer while its object store fails: nothing is lost, nothing is blocked, and it comes back.

use std::time::Duration;

use anyhow::{Context, ensure};
use pyramid_client::AppendSession;
use pyramid_client::append::Options;
use pyramid_e2e::fault_proxy::{Call, Fault};
use pyramid_e2e::process::{tell, wait_until};
use pyramid_protocol::pb::v1::append_response::Answer;
use pyramid_protocol::pb::v1::{Effect, Reason, Refusal};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::bucket::Bucket;
use crate::world::{DEADLINE, World, append};

const STREAMS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Unit: bytes of records.
const CHUNK_BYTES: u64 = 64 << 10;

/// Chunks of each stream while a third of all requests fail.
const CHUNKS: u64 = 10;

/// Of 1,000 requests so many fail.
const FAILING: u32 = 300;

/// An append waits for the disk only. This is long for a busy disk and short beside the waits for a
/// store that fails.
const APPEND_MAX: Duration = Duration::from_secs(5);

/// A shipped chunk takes a put and a read of its head.
const CALLS_PER_CHUNK: u64 = 2;

/// Appends, and what was appended.
struct Load {
    rng: StdRng,
    session: AppendSession,
    values: Vec<Vec<Vec<u8>>>,
    slowest: Duration,
}

impl Load {
    fn new(world: &World, seed: u64) -> anyhow::Result<Self> {
        let session = AppendSession::new(world.client()?, Options::default());
        let values = vec![Vec::new(); STREAMS.len()];
        Ok(Self { rng: StdRng::seed_from_u64(seed), session, values, slowest: Duration::ZERO })
    }

    /// One append to each stream: four records that hardly compress, together an eighth of a chunk.
    async fn append(&mut self) -> anyhow::Result<()> {
        for (stream, values) in STREAMS.iter().zip(&mut self.values) {
            let new: Vec<Vec<u8>> = (0..4)
                .map(|_| {
                    let mut value = vec![0; 2 << 10];
                    self.rng.fill(&mut value[..]);
                    value
                })
                .collect();
            let begin = Instant::now();
            let answer = self.session.append(append(stream, &new)).await.await;
            answer.map_err(refused)?;
            self.slowest = self.slowest.max(begin.elapsed());
            values.extend(new);
        }
        Ok(())
    }

    /// Waits until all is shipped, and reads it in both ways.
    async fn check(&self, world: &World) -> anyhow::Result<u64> {
        let mut chunks = 0;
        for (stream, values) in STREAMS.iter().zip(&self.values) {
            world.seal(stream).await?;
            chunks += world.shipped(stream).await?.chunk_count;
            world.holds(stream, values, false).await?;
            world.holds(stream, values, true).await?;
        }
        ensure!(self.slowest < APPEND_MAX, "an append took {:?}", self.slowest);
        Ok(chunks)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "shaped for map_err")]
fn refused(refusal: Refusal) -> anyhow::Error {
    anyhow::anyhow!("an append was refused: {}", refusal.message)
}

async fn founded(bucket: Bucket, seed: u64, flags: &[&str]) -> anyhow::Result<World> {
    let world = World::found(bucket, seed, flags).await?;
    for stream in STREAMS {
        world.put_stream(stream, CHUNK_BYTES).await?;
    }
    Ok(world)
}

/// Requests of the Writer to the bucket.
fn requests(world: &World) -> u64 {
    let traffic = world.proxy.traffic();
    traffic.iter().filter(|(call, _)| **call != Call::Presigned).map(|(_, of)| of.requests).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_of_all_requests_fail_and_nothing_is_lost_or_asked_too_often() {
    let world = founded(Bucket::http().await, 11, &[]).await.unwrap();
    let mut load = Load::new(&world, 11).unwrap();
    // Each fault once for certain, whatever the dice say.
    for fault in Fault::ALL {
        for call in [Call::Put, Call::Get] {
            if fault.fits(call, true) {
                world.proxy.fail_next(call, fault);
            }
        }
    }
    world.proxy.fail_at_random(FAILING, &Fault::ALL);
    for _ in 0..CHUNKS * 8 {
        load.append().await.unwrap();
    }
    for stream in STREAMS {
        world.seal(stream).await.unwrap();
        world.shipped(stream).await.unwrap();
    }
    let asked = requests(&world);
    for fault in Fault::ALL {
        if fault.fits(Call::Presigned, false) {
            world.proxy.fail_next(Call::Presigned, fault);
        }
    }
    // Readers that fetch for themselves meet the faults, too.
    for (stream, values) in STREAMS.iter().zip(&load.values) {
        world.holds(stream, values, true).await.unwrap();
    }
    world.proxy.calm();
    let chunks = load.check(&world).await.unwrap();
    let met = world.proxy.faults_met();
    for fault in Fault::ALL {
        assert!(met.contains_key(&fault), "{fault:?} was not met: {met:?}");
    }
    let needed = chunks * CALLS_PER_CHUNK + u64::try_from(STREAMS.len()).unwrap() + 1;
    tell(&format!(
        "faulty store: {chunks} chunks in {asked} requests, {needed} without faults; slowest append \
         {:?}; met {met:?}",
        load.slowest
    ));
    assert!(chunks >= CHUNKS * 6, "too quiet: {chunks} chunks");
    assert!(asked <= needed * 3, "{asked} requests instead of {needed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_killed_and_comes_back_is_gone_on_with() {
    let world = founded(Bucket::on_own_server().await, 12, &[]).await.unwrap();
    let mut load = Load::new(&world, 12).unwrap();
    let shipped = async |least: u64| {
        wait_until("chunks are shipped", DEADLINE, async || {
            let mut chunks = 0;
            for stream in STREAMS {
                chunks += world.info(stream).await?.chunk_count;
            }
            Ok(chunks >= least)
        })
        .await
    };
    for _ in 0..24 {
        load.append().await.unwrap();
    }
    shipped(6).await.unwrap();
    world.proxy.fail_at_random(FAILING, &Fault::ALL);
    world.bucket.server.kill().unwrap();
    let before = requests(&world);
    for _ in 0..40 {
        load.append().await.unwrap();
    }
    wait_until("the dead store is asked", DEADLINE, async || Ok(requests(&world) > before + 5))
        .await
        .unwrap();
    world.bucket.server.start_again().await.unwrap();
    world.proxy.calm();
    world.proxy.refuse_connections().await.unwrap();
    load.append().await.unwrap();
    world.proxy.accept_connections().await.unwrap();
    let chunks = load.check(&world).await.unwrap();
    tell(&format!("killed store: {chunks} chunks, slowest append {:?}", load.slowest));
    assert!(chunks >= 6 * 8, "too quiet: {chunks} chunks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_blocks_no_append_until_the_log_is_full() {
    /// Unit: bytes.
    const BUDGET: u64 = 32 << 20;

    let flags = ["--wal-bytes-max", &BUDGET.to_string()];
    let world = founded(Bucket::http().await, 13, &flags).await.unwrap();
    let mut load = Load::new(&world, 13).unwrap();
    load.append().await.unwrap();
    world.proxy.refuse_connections().await.unwrap();

    while load.append().await.is_ok() {}
    let mut calls = world.calls().unwrap();
    let request = tokio_stream::iter([append("a", &[vec![7; 10_000]])]);
    let mut answers = calls.append(request).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().context("an answer").unwrap().answer;
    let Some(Answer::Refused(refusal)) = answer else { panic!("{answer:?}") };
    assert_eq!(
        (refusal.reason(), refusal.effect(), refusal.retry),
        (Reason::WalFull, Effect::NoEffect, true),
        "{refusal:?}"
    );
    let appended: usize = load.values.iter().flatten().map(Vec::len).sum();
    let appended = u64::try_from(appended).unwrap();
    assert!(appended > BUDGET / 2, "refused after {appended} bytes of {BUDGET}");

    // What is there is shipped by itself once the store is back.
    world.proxy.accept_connections().await.unwrap();
    let chunks = load.check(&world).await.unwrap();
    tell(&format!("full log: {appended} bytes, {chunks} chunks, slowest {:?}", load.slowest));
    assert!(chunks > 100, "too quiet: {chunks} chunks");
}
