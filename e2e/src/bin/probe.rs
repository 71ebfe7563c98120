//! `pyramid-probe`: what suites run inside of Pods, with the means of a Pod.

use std::process::ExitCode;

use clap::Parser;
use pyramid_e2e::process::tell;

/// What suites run inside of Pods.
#[derive(Debug, Parser)]
enum Probe {
    /// Wait until somebody ends it.
    Wait,
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Probe::parse() {
        Probe::Wait => {
            std::future::pending::<()>().await;
            anyhow::Ok(())
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("pyramid-probe: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
