//! `pyramid-pusher`: parse, run, stop.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use pyramid_sidecar::{Config, Ready, config, drain, pod};
use pyramid_telemetry::logs;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// musl's own allocator is slow with several threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Reads streams of Pyramid and pushes them to the application beside it.
///
/// Without a command it runs with the flags below, next to a Writer that it is told.
#[derive(Debug, clap::Parser)]
#[command(
    name = "pyramid-pusher",
    version,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
struct Command {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    config: config::Args,
    #[command(flatten)]
    logs: logs::Args,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Run in a pod of Kubernetes, as the injector has set it up.
    Run(Box<InPod>),
    /// End the pushes of the pusher that runs in this pod, and wait until they have ended.
    Drain(drain::Args),
}

#[derive(Debug, clap::Args)]
struct InPod {
    #[command(flatten)]
    config: pod::config::Args,
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
        Some(_) | None if error.is::<drain::Error>() => ExitCode::FAILURE,
        Some(_) | None => ExitCode::from(EX_CONFIG),
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let (sender, ready) = oneshot::channel();
    match command.part {
        None => {
            logs::start(&command.logs)?;
            let config = Config::try_from(command.config)?;
            let pusher = pyramid_sidecar::run(config, sender, shutdown.clone());
            until_told(pusher, ready, shutdown).await
        }
        Some(Part::Run(in_pod)) => {
            logs::start(&in_pod.logs)?;
            let config = pod::Config::try_from(in_pod.config)?;
            let environment = pod::Environment::default();
            let pusher = pod::run(config, environment, sender, shutdown.clone());
            until_told(pusher, ready, shutdown).await
        }
        Some(Part::Drain(args)) => Ok(drain::run(&args).await?),
    }
}

/// Runs a pusher until the process is told to end.
async fn until_told(
    pusher: impl Future<Output = Result<(), pyramid_sidecar::Error>>,
    ready: oneshot::Receiver<Ready>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn part(arguments: &[&str]) -> Result<&'static str, clap::error::ErrorKind> {
        let command = Command::try_parse_from([&["pyramid-pusher"], arguments].concat());
        command.map_err(|error| error.kind()).map(|command| match command.part {
            None => "flags",
            Some(Part::Run(_)) => "run",
            Some(Part::Drain(_)) => "drain",
        })
    }

    #[test]
    fn the_flags_of_one_part_are_not_those_of_another() {
        use clap::error::ErrorKind::{MissingRequiredArgument, UnknownArgument};
        let in_pod = ["run", "--pod-name", "p-0", "--pod-namespace", "shop"];
        let plain = ["--writer", "a:1", "--subscriptions", "s"];
        for (arguments, expected) in [
            (&in_pod[..], Ok("run")),
            (&in_pod[..3], Err(MissingRequiredArgument)),
            (&["drain"], Ok("drain")),
            (&plain, Ok("flags")),
            (&plain[..2], Err(MissingRequiredArgument)),
            (&[], Err(MissingRequiredArgument)),
            (&["drain", "--writer", "a:1"], Err(UnknownArgument)),
        ] {
            assert_eq!(part(arguments), expected, "{arguments:?}");
        }
    }
}
