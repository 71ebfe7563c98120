//! A stand-in for the proxy of a mesh: it is slow to begin, and ends when it is told to.
//!
//! It takes no traffic: that needs rights that no Pod of the suites has.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// Stands in for the proxy of a mesh.
#[derive(Clone, Debug, Args)]
pub struct Mesh {
    /// Where it takes connections once it is ready.
    #[arg(long, default_value_t = 15021)]
    port: u16,
    /// How long it takes until then. Unit: seconds.
    #[arg(long, default_value_t = 4)]
    ready_after_seconds: u64,
}

impl Mesh {
    /// Runs until it is told to end.
    ///
    /// # Errors
    /// It cannot listen.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut told_to_end = signal(SignalKind::terminate())?;
        tokio::select! {
            failed = self.serve() => failed.map(|never| match never {}),
            _ = told_to_end.recv() => Ok(()),
        }
    }

    async fn serve(&self) -> anyhow::Result<Infallible> {
        sleep(Duration::from_secs(self.ready_after_seconds)).await;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, self.port)).await?;
        loop {
            drop(listener.accept().await?);
        }
    }
}
