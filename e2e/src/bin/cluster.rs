//! `pyramid-cluster`: a real Kubernetes of three nodes on this machine.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use pyramid_e2e::cluster::Cluster;
use pyramid_e2e::process::tell;

const USAGE: &str = "\
usage: pyramid-cluster COMMAND [--state DIRECTORY]

  up      start a cluster, or give a running one the images as they are now
  run     start a cluster that ends with this program, however that ends
  down    end it and remove all that belongs to it
  status  tell what runs
  keep    wait for the end of standard input, then do as down

All of a cluster lies in its state directory; .cluster of the checkout, if none is named.";

/// The state directory that people use.
const STATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cluster");

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("pyramid-cluster: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().context(USAGE)?;
    let state = match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (None, None, None) => PathBuf::from(STATE),
        (Some("--state"), Some(state), None) => PathBuf::from(state),
        _ => bail!(USAGE),
    };
    match command.as_str() {
        "up" => {
            let cluster = Cluster::up(&state).await?;
            say(&cluster.shell_line())
        }
        "run" => {
            let cluster = Cluster::start(&state).await?;
            say(&cluster.shell_line())?;
            std::future::pending().await
        }
        "down" => Cluster::down(&state).await,
        "status" => {
            let cluster = Cluster::attach(&state)?;
            for (unit, runs) in cluster.status() {
                say(&format!("{unit:<15}{}", if runs { "runs" } else { "does not run" }))?;
            }
            say(&cluster.kubectl(&["get", "nodes", "-o", "wide"]).await?)?;
            say(&cluster.shell_line())
        }
        "keep" => Cluster::keep(&state).await,
        _ => bail!(USAGE),
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{}", text.trim_end())?)
}
