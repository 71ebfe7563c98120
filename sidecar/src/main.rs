//! `pyramid-pusher`: parse, run, stop.

use std::io::Write;

use anyhow::Context;
use clap::Parser;
use pyramid_sidecar::{Config, config, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Reads streams of Pyramid and pushes them to the application beside it.
#[derive(Debug, clap::Parser)]
#[command(name = "pyramid-pusher", version)]
struct Command {
    #[command(flatten)]
    config: config::Args,
    #[command(flatten)]
    telemetry: telemetry::Args,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Command { config, telemetry } = Command::parse();
    telemetry::start(&telemetry);
    let config = Config::try_from(config)?;
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
    let (sender, ready) = oneshot::channel();
    let pusher = pyramid_sidecar::run(config, sender, shutdown.clone());
    let tell = async {
        if let Ok(pyramid_sidecar::Ready { local: Some(local) }) = ready.await {
            tracing::info!("the application reaches this pusher at {local}");
            // For who starts it: with port 0 nobody else knows the port.
            drop(writeln!(std::io::stdout(), "ready local={local}"));
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
        ended = pusher => ended.context("run the pusher"),
        () = tell => Ok(()),
    }
}
