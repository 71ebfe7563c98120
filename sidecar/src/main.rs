//! `pyramid-pusher`: parse, run, stop.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use pyramid_sidecar::{Config, Ready, config};
use pyramid_telemetry::logs;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// musl's own allocator is slow with several threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Reads streams of Pyramid and pushes them to the application beside it.
#[derive(Debug, clap::Parser)]
#[command(name = "pyramid-pusher", version)]
struct Command {
    #[command(flatten)]
    config: config::Args,
    #[command(flatten)]
    logs: logs::Args,
}

/// Exit code for settings that cannot be used.
const EX_CONFIG: u8 = 78;

#[tokio::main]
async fn main() -> ExitCode {
    let ended = run(Command::parse()).await;
    let Err(error) = ended else { return ExitCode::SUCCESS };
    // There is nobody to tell that standard error is closed.
    drop(writeln!(std::io::stderr(), "pyramid-pusher: {error:#}"));
    match error.downcast_ref::<pyramid_sidecar::Error>() {
        Some(pyramid_sidecar::Error::Task(_) | pyramid_sidecar::Error::Serve { .. }) => {
            ExitCode::FAILURE
        }
        Some(_) | None => ExitCode::from(EX_CONFIG),
    }
}

async fn run(Command { config, logs }: Command) -> anyhow::Result<()> {
    logs::start(&logs)?;
    let config = Config::try_from(config)?;
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
    let (sender, ready) = oneshot::channel();
    let pusher = pyramid_sidecar::run(config, sender, shutdown.clone());
    let tell = async {
        if let Ok(Ready { local, ops }) = ready.await {
            let named = |name, address: Option<SocketAddr>| {
                address.map(|address| format!(" {name}={address}")).unwrap_or_default()
            };
            let (local, ops) = (named("local", local), named("ops", ops));
            // For who starts it: with port 0 nobody else knows the port.
            drop(writeln!(std::io::stdout(), "ready{local}{ops}"));
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
        // The pusher ends the process.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = pusher => Ok(ended?),
        () = tell => Ok(()),
    }
}
