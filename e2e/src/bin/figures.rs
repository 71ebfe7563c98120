//! `pyramid-figures`: memory, times and calls of Pyramid on a cluster, as a table.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use pyramid_e2e::cluster::{Cluster, INSTALL, PREPARE};
use pyramid_e2e::figures::{self, Settings};
use pyramid_e2e::process::{Folder, tell};

/// Take the figures of Pyramid on a cluster.
#[derive(Debug, Parser)]
struct Args {
    /// The state directory of a cluster that runs, with the chart installed. Default: one of its
    /// own.
    #[arg(long, env = "PYRAMID_CLUSTER")]
    cluster: Option<PathBuf>,
    /// Streams that are applied at once.
    #[arg(long, default_value_t = 1000)]
    streams: usize,
    /// How long calls are counted while nothing changes. Unit: seconds.
    #[arg(long, default_value_t = 300)]
    idle: u64,
    /// Pods that are created on trial.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    trials: u32,
    /// How long records are appended, a thousand a second. Unit: seconds.
    #[arg(long, default_value_t = 30)]
    seconds: usize,
    /// The image of the probe.
    #[arg(long, default_value = "localhost/pyramid-probe:0.1.0")]
    probe: String,
    /// How the table is printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("pyramid-figures: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let cluster = match &args.cluster {
        Some(state) => Cluster::open(state)?,
        None => {
            let cluster = Cluster::start(&folder.join("cluster")).await?;
            cluster.shell(&format!("{PREPARE}{INSTALL}")).await?;
            cluster
        }
    };
    let settings = Settings {
        streams: args.streams,
        idle: Duration::from_secs(args.idle),
        trials: args.trials,
        seconds: args.seconds,
        probe: args.probe,
    };
    let figures = figures::take(&cluster, &settings).await?;
    let mut out = std::io::stdout().lock();
    match args.output {
        Output::Text => {
            for figure in &figures {
                writeln!(out, "{figure}")?;
            }
        }
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&figures)?)?,
    }
    let above = figures.iter().filter(|figure| figure.is_above()).count();
    anyhow::ensure!(above == 0, "{above} figures are above their bounds");
    Ok(())
}
