//! `pyramid-probe`: what suites run inside of Pods, with the means of a Pod.

use std::process::ExitCode;

use clap::Parser;
use pyramid_e2e::probe::latency::{Consume, Produce};
use pyramid_e2e::process::tell;

/// What suites run inside of Pods.
#[derive(Debug, Parser)]
enum Probe {
    /// Wait until somebody ends it.
    Wait,
    /// Append at a steady rate, and say how long answers took.
    LatencyProduce(Box<Produce>),
    /// Take pushes, and say how long records were on their way.
    LatencyConsume(Consume),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Probe::parse() {
        Probe::Wait => {
            std::future::pending::<()>().await;
            anyhow::Ok(())
        }
        Probe::LatencyProduce(produce) => produce.run().await,
        Probe::LatencyConsume(consume) => consume.run().await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("pyramid-probe: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
