//! `pyramid-writer`: parse, run, stop.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use pyramid_telemetry::logs;
use pyramid_writer::config::Args;
use pyramid_writer::replica::{self, Addresses, Environment};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// musl's own allocator is slow with several threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for settings that cannot be used.
const EX_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = logs::start(&args.logs) {
        return fail(EX_CONFIG, &error);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(EX_CONFIG, &error),
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, error)) => fail(code, &*error),
    }
}

type Failure = (u8, Box<dyn Error + Send + Sync>);

async fn run(args: Args) -> Result<(), Failure> {
    let failed = |error: replica::Error| -> Failure { (error.exit_code(), error.into()) };
    let config =
        args.replica.into_config().map_err(|error| -> Failure { (EX_CONFIG, error.into()) })?;
    if let Some(warning) = config.object_store.warning() {
        tracing::warn!("{warning}");
    }
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| -> Failure { (EX_CONFIG, error.into()) })?;
    let (environment, addresses) =
        Environment::open(&config, args.listen, args.admin_listen, Some(args.ops_listen))
            .await
            .map_err(failed)?;
    let ready = move || {
        let mut out = std::io::stdout().lock();
        // Whoever started this program may have closed its output; that is no reason to stop.
        let Addresses { writer, admin, ops } = addresses;
        let ops = ops.map(|ops| format!(" ops={ops}")).unwrap_or_default();
        drop(writeln!(out, "ready writer={writer} admin={admin}{ops}"));
        drop(out.flush());
    };
    let shutdown = CancellationToken::new();
    let running = replica::run(config, environment, ready, shutdown.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended.map_err(failed),
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("stops");
    shutdown.cancel();
    running.await.map_err(failed)
}

/// One line that says what happened, with its causes.
fn fail(code: u8, error: &(dyn Error + 'static)) -> ExitCode {
    drop(writeln!(std::io::stderr(), "pyramid-writer: {}", logs::causes(error)));
    ExitCode::from(code)
}
