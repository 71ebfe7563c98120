//! How fast one Writer replica makes appends durable, beside what its disk can do.
//!
//! `cargo bench -p pyramid-e2e --bench append` starts the release `pyramid-writer` on a temporary
//! folder and prints, for each workload, the median of three runs of appends and records per second
//! and of the latency's p50 and p99. In the same run it times synced 4 KiB writes to a file that was
//! filled before: the bound of one append at a time.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark on this machine's clock that fails loudly"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pyramid_client::append::Options as SessionOptions;
use pyramid_client::connection::Options;
use pyramid_client::{AppendSession, Client};
use pyramid_e2e::process::{Folder, Recipe, program};
use pyramid_protocol::pb::v1 as pb;
use pyramid_protocol::pb::v1::admin_client::AdminClient;
use pyramid_protocol::{Records, SystemEntropy};
use tokio::task::JoinSet;

const RUNS: usize = 3;
const RUN: Duration = Duration::from_secs(4);
const RECORD_BYTES: usize = 1024;
const CLUSTER: [u8; 16] = [9; 16];

/// Producers, records per append, appends of one producer that are on their way at once.
#[derive(Clone, Copy)]
struct Workload {
    producers: usize,
    records: usize,
    in_flight: usize,
}

#[derive(Clone, Copy)]
struct Figures {
    appends_per_s: f64,
    p50: Duration,
    p99: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let kek = pyramid_storage::Keks::generate("kek-1", &SystemEntropy);
    std::fs::write(folder.join("kek"), kek.as_bytes())?;
    let path = |name: &str| folder.join(name).display().to_string();
    let recipe = Recipe {
        name: "writer".to_owned(),
        program: program("pyramid-writer")?,
        arguments: [
            "--data-dir".to_owned(),
            path("data"),
            "--kek-file".to_owned(),
            path("kek"),
            "--object-store".to_owned(),
            format!("file:{}", path("objects")),
            "--listen".to_owned(),
            "127.0.0.1:0".to_owned(),
            "--ops-listen".to_owned(),
            "127.0.0.1:0".to_owned(),
            "--admin-listen".to_owned(),
            "127.0.0.1:0".to_owned(),
        ]
        .to_vec(),
        ready: "ready ".to_owned(),
        log: folder.join("writer.log"),
    };
    let writer = recipe.start().await?;
    let address = writer.value("writer")?.to_owned();
    let mut admin = AdminClient::connect(format!("http://{}", writer.value("admin")?)).await?;
    admin.bootstrap(pb::BootstrapRequest { cluster_id: CLUSTER.to_vec().into() }).await?;

    println!("1 KiB records, one replica; median of {RUNS} runs of {} s", RUN.as_secs());
    println!("{:<28} {:>12} {:>12} {:>10} {:>10}", "", "appends/s", "records/s", "p50", "p99");
    let figures = median((0..RUNS).map(|_| synced_writes(&folder)).collect::<Result<_, _>>()?);
    print("synced 4 KiB write", figures, 1);
    for (producers, records, in_flight) in [(1, 1, 1), (1, 100, 16), (16, 1, 64), (16, 100, 16)] {
        let workload = Workload { producers, records, in_flight };
        let mut runs = Vec::new();
        for run in 0..RUNS {
            let prefix = format!("{producers}x{records}-{run}");
            runs.push(appends(&address, &mut admin, &prefix, workload).await?);
        }
        let name = format!("{producers} x {records}, {in_flight} in flight each");
        print(&name, median(runs), records);
    }
    writer.kill().await
}

fn print(name: &str, figures: Figures, records: usize) {
    let Figures { appends_per_s, p50, p99 } = figures;
    let records_per_s = appends_per_s * records as f64;
    let ms = |duration: Duration| format!("{:.2} ms", duration.as_secs_f64() * 1e3);
    println!(
        "{name:<28} {appends_per_s:>12.0} {records_per_s:>12.0} {:>10} {:>10}",
        ms(p50),
        ms(p99)
    );
}

fn median(mut runs: Vec<Figures>) -> Figures {
    runs.sort_by(|a, b| a.appends_per_s.total_cmp(&b.appends_per_s));
    runs[runs.len() / 2]
}

fn figures(mut latencies: Vec<Duration>, took: Duration) -> Figures {
    latencies.sort_unstable();
    let at = |per_mille: usize| latencies[(latencies.len() - 1) * per_mille / 1000];
    Figures {
        appends_per_s: latencies.len() as f64 / took.as_secs_f64(),
        p50: at(500),
        p99: at(990),
    }
}

/// As the log does it: into a file that was filled and synced before.
fn synced_writes(folder: &Folder) -> anyhow::Result<Figures> {
    const LEN: u64 = 64 << 20;
    let file = File::create(folder.join("synced"))?;
    for at in (0..LEN).step_by(1 << 20) {
        file.write_all_at(&vec![0; 1 << 20], at)?;
    }
    file.sync_all()?;
    let mut latencies = Vec::new();
    let start = Instant::now();
    let mut at = 0;
    while start.elapsed() < RUN / 2 {
        let one = Instant::now();
        file.write_all_at(&[1; 4096], at)?;
        file.sync_data()?;
        latencies.push(one.elapsed());
        at = (at + 4096) % LEN;
    }
    Ok(figures(latencies, start.elapsed()))
}

/// Each producer has a session and a stream of its own.
async fn appends(
    address: &str,
    admin: &mut AdminClient<tonic::transport::Channel>,
    prefix: &str,
    workload: Workload,
) -> anyhow::Result<Figures> {
    let names: Vec<String> = (0..workload.producers).map(|n| format!("{prefix}-{n}")).collect();
    let streams = names.iter().map(|name| pb::PutStream {
        object: Some(pb::ObjectRef { uid: name.clone(), generation: 1 }),
        name: name.clone(),
        settings: None,
        rights: None,
        expected: None,
    });
    let request =
        pb::PutStreamsRequest { cluster_id: CLUSTER.to_vec().into(), streams: streams.collect() };
    admin.put_streams(request).await?;
    let value = vec![b'x'; RECORD_BYTES];
    let record = pb::Record { value: value.into(), headers: vec![] };
    let records = Records::encode(&vec![record; workload.records])?;
    let mut producers = JoinSet::new();
    let start = Instant::now();
    for stream in names {
        let client = Client::new(Options::tcp(vec![address.to_owned()]))?;
        let session = AppendSession::new(
            client,
            SessionOptions { in_flight_max: workload.in_flight, ..Default::default() },
        );
        let request =
            pb::AppendRequest { stream, records: records.bytes().clone(), ..Default::default() };
        producers.spawn(async move { produce(session, request).await });
    }
    let mut latencies = Vec::new();
    while let Some(produced) = producers.join_next().await {
        latencies.extend(produced??);
    }
    Ok(figures(latencies, start.elapsed()))
}

async fn produce(
    session: AppendSession,
    request: pb::AppendRequest,
) -> anyhow::Result<Vec<Duration>> {
    let start = Instant::now();
    let mut latencies = Vec::new();
    let mut pending = FuturesUnordered::new();
    while start.elapsed() < RUN {
        let append = session.append(request.clone()).await;
        // The wait for a place among those in flight is not the append's.
        let sent = Instant::now();
        pending.push(async move {
            let answer = append.await;
            (answer, sent.elapsed())
        });
        while let Some(Some((answer, took))) = futures::FutureExt::now_or_never(pending.next()) {
            answer.map_err(|refusal| anyhow::anyhow!("{}", refusal.message))?;
            latencies.push(took);
        }
    }
    while let Some((answer, took)) = pending.next().await {
        answer.map_err(|refusal| anyhow::anyhow!("{}", refusal.message))?;
        latencies.push(took);
    }
    Ok(latencies)
}
