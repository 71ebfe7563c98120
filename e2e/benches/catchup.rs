//! How fast a reader catches up from the object store, beside plain reads of the same objects.
//!
//! `cargo bench -p pyramid-e2e --bench catchup` starts the release `pyramid-writer` with its chunks
//! on a `SeaweedFS` (`make tools`), appends and ships a history, and then, in turns, reads all objects
//! by presigned URLs with a plain HTTP client and the history with a client's `Reader`: fetched,
//! verified, decrypted, decompressed. It prints medians of three, in bytes of records and in stored
//! bytes. The plain reads are the bound of this server on this machine.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark on this machine's clock that fails loudly"
)]

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use pyramid_client::append::Options as SessionOptions;
use pyramid_client::connection::Options as ClientOptions;
use pyramid_client::read::{Item, Options, Start};
use pyramid_client::{AppendSession, Client, Reader};
use pyramid_e2e::process::{Folder, Process, Recipe, program, wait_until};
use pyramid_e2e::seaweed::{Credentials, REGION, Seaweed};
use pyramid_protocol::pb::v1 as pb;
use pyramid_protocol::pb::v1::admin_client::AdminClient;
use pyramid_protocol::pb::v1::writer_client::WriterClient;
use pyramid_protocol::{Offset, Records, SystemEntropy};
use pyramid_storage::{Fetcher, HttpSettings};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const RUNS: usize = 3;

/// Values of the records of the history. Unit: bytes.
const HISTORY_BYTES: usize = 2 << 30;

const RECORD_BYTES: usize = 1024;
const RECORDS_PER_APPEND: usize = 1000;

const CLUSTER: [u8; 16] = [9; 16];

/// Different appends; enough that no chunk holds one twice.
const DIFFERENT: usize = 64;

/// What one way of reading moved, and in what time.
#[derive(Clone, Copy)]
struct Run {
    record_bytes: u64,
    stored_bytes: u64,
    took: Duration,
}

struct World {
    // Dropped first: it is killed before its store.
    _writer: Process,
    address: String,
    calls: WriterClient<tonic::transport::Channel>,
    _server: Seaweed,
    _folder: Folder,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut world = found().await?;
    let begin = Instant::now();
    append_history(&world).await?;
    println!("appended {} MiB in {:.1} s", HISTORY_BYTES >> 20, begin.elapsed().as_secs_f64());
    let request = pb::SealRequest { stream: "history".into(), stream_id: None };
    world.calls.seal(request).await?;
    let calls = world.calls.clone();
    wait_until("all is shipped", Duration::from_secs(900), async || {
        let request = pb::GetStreamRequest { stream: "history".into(), min_next_offset: None };
        let info = calls.clone().get_stream(request).await?.into_inner();
        Ok(info.shipped_offset == info.next_offset)
    })
    .await?;
    println!("shipped after {:.1} s", begin.elapsed().as_secs_f64());

    let (mut plain, mut caught_up) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let urls = locations(&mut world.calls).await?;
        let of_plain = plain_reads(&urls).await?;
        let (record_bytes, took) = catch_up(&world.address).await?;
        plain.push(Run { record_bytes, ..of_plain });
        caught_up.push(Run { record_bytes, stored_bytes: of_plain.stored_bytes, took });
    }
    println!("{RECORD_BYTES} B records; median of {RUNS} runs in turns; MB/s");
    println!("{:<36} {:>10} {:>10}", "", "records", "stored");
    for (name, runs) in [("plain reads, one after the other", plain), ("catch-up", caught_up)] {
        let (records, stored) = rates(runs);
        println!("{name:<36} {records:>10.0} {stored:>10.0}");
    }
    Ok(())
}

/// MB/s of records and of stored bytes, of the median run.
fn rates(mut runs: Vec<Run>) -> (f64, f64) {
    runs.sort_by_key(|run| run.took);
    let Run { record_bytes, stored_bytes, took } = runs[runs.len() / 2];
    let rate = |bytes: u64| bytes as f64 / took.as_secs_f64() / 1e6;
    (rate(record_bytes), rate(stored_bytes))
}

async fn found() -> anyhow::Result<World> {
    let server = Seaweed::start().await?;
    let bucket = server.new_bucket().await?;
    let folder = Folder::new()?;
    let kek = pyramid_storage::Keks::generate("kek-1", &SystemEntropy);
    std::fs::write(folder.join("kek"), kek.as_bytes())?;
    Credentials::admin().write_into(&folder.join("credentials"))?;
    let path = |name: &str| folder.join(name).display().to_string();
    let arguments = [
        ("--data-dir", path("data")),
        ("--kek-file", path("kek")),
        ("--listen", "127.0.0.1:0".to_owned()),
        ("--admin-listen", "127.0.0.1:0".to_owned()),
        ("--ops-listen", "127.0.0.1:0".to_owned()),
        ("--object-store", format!("s3://{bucket}")),
        ("--s3-endpoint", server.http()),
        ("--s3-region", REGION.to_owned()),
        ("--s3-credentials", path("credentials")),
    ];
    let recipe = Recipe {
        name: "writer".to_owned(),
        program: program("pyramid-writer")?,
        arguments: arguments
            .iter()
            .flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()])
            .collect(),
        ready: "ready ".to_owned(),
        log: folder.join("writer.log"),
    };
    let writer = recipe.start().await?;
    let address = writer.value("writer")?.to_owned();
    let mut admin = AdminClient::connect(format!("http://{}", writer.value("admin")?)).await?;
    let calls = WriterClient::connect(format!("http://{address}")).await?;
    admin.bootstrap(pb::BootstrapRequest { cluster_id: CLUSTER.to_vec().into() }).await?;
    let put = pb::PutStream {
        object: Some(pb::ObjectRef { uid: "history".to_owned(), generation: 1 }),
        name: "history".to_owned(),
        settings: None,
        rights: None,
        expected: None,
    };
    let request = pb::PutStreamsRequest { cluster_id: CLUSTER.to_vec().into(), streams: vec![put] };
    wait_until("the stream is put", Duration::from_secs(30), async || {
        Ok(admin.clone().put_streams(request.clone()).await.is_ok())
    })
    .await?;
    Ok(World { _writer: writer, address, calls, _server: server, _folder: folder })
}

/// Records as an application has them: some words again and again, some digits new.
fn appends() -> anyhow::Result<Vec<Bytes>> {
    let mut rng = StdRng::seed_from_u64(17);
    let mut record = || {
        let mut text = String::with_capacity(RECORD_BYTES + 64);
        while text.len() < RECORD_BYTES {
            let (id, price) = (rng.random::<u64>(), rng.random_range(1..100_000));
            text += &format!("{{\"order\":\"{id:016x}\",\"price_cents\":{price},\"open\":true}},");
        }
        text.truncate(RECORD_BYTES);
        pb::Record { value: text.into(), headers: vec![] }
    };
    (0..DIFFERENT)
        .map(|_| {
            let records: Vec<_> = (0..RECORDS_PER_APPEND).map(|_| record()).collect();
            Ok(Records::encode(&records)?.bytes().clone())
        })
        .collect()
}

async fn append_history(world: &World) -> anyhow::Result<()> {
    let client = Client::new(ClientOptions::tcp(vec![world.address.clone()]))?;
    let options = SessionOptions { in_flight_max: 16, ..Default::default() };
    let session = AppendSession::new(client, options);
    let appends = appends()?;
    let mut pending = FuturesUnordered::new();
    let count = HISTORY_BYTES / (RECORD_BYTES * RECORDS_PER_APPEND);
    for records in appends.iter().cycle().take(count) {
        let request = pb::AppendRequest {
            stream: "history".to_owned(),
            records: records.clone(),
            ..Default::default()
        };
        pending.push(session.append(request).await);
        while let Some(Some(answer)) = futures::FutureExt::now_or_never(pending.next()) {
            answer.map_err(|refusal| anyhow::anyhow!("{}", refusal.message))?;
        }
    }
    while let Some(answer) = pending.next().await {
        answer.map_err(|refusal| anyhow::anyhow!("{}", refusal.message))?;
    }
    Ok(())
}

/// A URL of each chunk, in order.
async fn locations(
    calls: &mut WriterClient<tonic::transport::Channel>,
) -> anyhow::Result<Vec<String>> {
    let mut urls = Vec::new();
    let mut from = 0;
    loop {
        let request = pb::ReadRequest {
            stream: "history".to_owned(),
            start: Some(pb::read_request::Start::Offset(from)),
            want_locations: true,
            ..Default::default()
        };
        let mut items = calls.read(request).await?.into_inner();
        loop {
            match items.message().await?.and_then(|item| item.item) {
                Some(pb::read_response::Item::Chunk(location)) => {
                    from = location.next_offset;
                    urls.push(location.url);
                }
                Some(pb::read_response::Item::CaughtUp(_)) => return Ok(urls),
                Some(pb::read_response::Item::Moved(_)) | None => break,
                Some(_) => {}
            }
        }
    }
}

async fn plain_reads(urls: &[String]) -> anyhow::Result<Run> {
    let client: HttpClient<HttpConnector, Empty<Bytes>> =
        HttpClient::builder(TokioExecutor::new()).build_http();
    let begin = Instant::now();
    let mut stored_bytes = 0;
    for url in urls {
        let url = url.split('#').next().context("a URL")?.parse()?;
        let mut answer = client.get(url).await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        while let Some(frame) = answer.frame().await {
            stored_bytes += u64::try_from(frame?.data_ref().map_or(0, Bytes::len))?;
        }
    }
    Ok(Run { record_bytes: 0, stored_bytes, took: begin.elapsed() })
}

/// Bytes of values, and the time that they took.
async fn catch_up(address: &str) -> anyhow::Result<(u64, Duration)> {
    let client = Client::new(ClientOptions::tcp(vec![address.to_owned()]))?;
    let mut options = Options::new("history".parse()?, Start::Offset(Offset::new(0)));
    let settings = HttpSettings { ca_file: None, allows_plain_http: true };
    options.fetcher = Some(Fetcher::new().with_http(settings)?);
    let begin = Instant::now();
    let mut reader = Reader::new(client, options);
    let mut records = 0;
    while let Some(item) = reader.next().await {
        if let Item::Batches(batches) = item? {
            records += batches
                .batches
                .iter()
                .map(|batch| batch.next_offset().get() - batch.base_offset.get())
                .sum::<u64>();
        }
    }
    let took = begin.elapsed();
    let record_bytes = u64::try_from(RECORD_BYTES)?;
    let expected = HISTORY_BYTES / (RECORD_BYTES * RECORDS_PER_APPEND) * RECORDS_PER_APPEND;
    ensure!(records == u64::try_from(expected)?, "{records} of {expected} records came");
    Ok((records * record_bytes, took))
}
