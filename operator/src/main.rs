//! `pyramid-operator`: parse, run, stop.

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use pyramid_operator::{Config, SelfTest, run};
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
#[command(name = "pyramid-operator", version, subcommand_negates_reqs = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The settings, YAML.
    #[arg(long, required = true, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// The operator's own namespace.
    #[arg(long, required = true, env = "PYRAMID_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    /// The name of this pod.
    #[arg(long, required = true, env = "PYRAMID_POD", value_name = "NAME")]
    pod: Option<String>,
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

#[derive(Debug, Subcommand)]
enum Command {
    /// Try the installation as a user does, and say what does not work.
    SelfTest(SelfTest),
}

fn main() -> ExitCode {
    let Args {
        command,
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
    if let Some(Command::SelfTest(test)) = command {
        return match runtime() {
            Ok(runtime) => runtime.block_on(async { ended(test.run().await) }),
            Err(error) => fail(&error),
        };
    }
    let (Some(settings), Some(namespace), Some(pod)) = (settings, namespace, pod) else {
        // The parser has seen to it.
        Args::command().error(ErrorKind::MissingRequiredArgument, "--settings").exit()
    };
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
    let outcome = tokio::select! {
        outcome = &mut running => outcome,
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
    ended(outcome)
}

fn ended(outcome: Result<(), impl Error + 'static>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// One line that says what happened, with its causes.
fn fail(error: &(dyn Error + 'static)) -> ExitCode {
    drop(writeln!(std::io::stderr(), "pyramid-operator: {}", logs::causes(error)));
    ExitCode::FAILURE
}
