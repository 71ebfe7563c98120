//! `pyramid-operator`: parse, run, stop.

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pyramid_operator::{Config, run};
use pyramid_telemetry::logs;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// musl's own allocator is slow with several threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads that work. There is little to compute, and each keeps freed memory for itself: on a node
/// with many cores that would be most of what the operator has.
const WORKERS_MAX: usize = 4;

/// Brings up Writers, tells them who may do what, gives out certificates and injects pushers.
#[derive(Debug, Parser)]
#[command(name = "pyramid-operator", version)]
struct Args {
    /// The settings, YAML.
    #[arg(long, value_name = "FILE")]
    settings: PathBuf,
    /// The operator's own namespace.
    #[arg(long, env = "PYRAMID_NAMESPACE", value_name = "NAME")]
    namespace: String,
    /// The name of this pod.
    #[arg(long, env = "PYRAMID_POD", value_name = "NAME")]
    pod: String,
    /// Where the webhook listens, HTTPS.
    #[arg(long, default_value = "0.0.0.0:10250", value_name = "ADDRESS")]
    webhook_listen: SocketAddr,
    /// Where the issuer of certificates listens, gRPC over TLS.
    #[arg(long, default_value = "0.0.0.0:8443", value_name = "ADDRESS")]
    issuer_listen: SocketAddr,
    /// Where health and metrics are served, plain HTTP.
    #[arg(long, default_value = "0.0.0.0:8444", value_name = "ADDRESS")]
    ops_listen: SocketAddr,
    /// The directory for the operator's own key and certificate; keep it in memory.
    #[arg(long, default_value = "/var/run/pyramid/identity", value_name = "DIRECTORY")]
    identity: PathBuf,
    #[command(flatten)]
    logs: logs::Args,
}

fn main() -> ExitCode {
    let Args {
        settings,
        namespace,
        pod,
        webhook_listen,
        issuer_listen,
        ops_listen,
        identity,
        logs: logs::Args { log, log_format },
    } = Args::parse();
    if let Err(error) = logs::init(&log, log_format) {
        return fail(&error);
    }
    // A pod that makes the webhook panic must not end it for others.
    logs::tell_panics();
    let config =
        Config { settings, namespace, pod, webhook_listen, issuer_listen, ops_listen, identity };
    match runtime() {
        Ok(runtime) => runtime.block_on(supervise(config)),
        Err(error) => fail(&error),
    }
}

fn runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().worker_threads(cores.min(WORKERS_MAX)).build()
}

async fn supervise(config: Config) -> ExitCode {
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => return fail(&error),
    };
    let shutdown = CancellationToken::new();
    let running = run(config, shutdown.clone());
    tokio::pin!(running);
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        } => {
            tracing::info!("stops");
            shutdown.cancel();
            running.await
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// One line that says what happened, with its causes.
fn fail(error: &(dyn Error + 'static)) -> ExitCode {
    drop(writeln!(std::io::stderr(), "pyramid-operator: {}", logs::causes(error)));
    ExitCode::FAILURE
}
