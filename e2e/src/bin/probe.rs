//! `pyramid-probe`: what suites run inside of Pods, with the means of a Pod.

use std::process::ExitCode;

use clap::Parser;
use pyramid_e2e::probe::issuer::Issue;
use pyramid_e2e::probe::latency::{Consume, Produce};
use pyramid_e2e::probe::mesh::Mesh;
use pyramid_e2e::probe::webhook::Post;
use pyramid_e2e::probe::writer::Call;
use pyramid_e2e::process::tell;

/// What suites run inside of Pods.
#[derive(Debug, Parser)]
enum Probe {
    /// Wait until somebody ends it.
    Wait,
    /// Ask the issuer for a certificate.
    Issue(Issue),
    /// Append one record to a stream.
    Append(Call),
    /// Read a stream.
    Read(Call),
    /// Attach to a subscription.
    Attach(Call),
    /// Post something to the webhook.
    Post(Post),
    /// Stand in for the proxy of a mesh.
    Mesh(Mesh),
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
            Ok(())
        }
        Probe::Issue(issue) => issue.run().await.and_then(|outcome| outcome.say()),
        Probe::Append(call) => call.append().await.and_then(|outcome| outcome.say()),
        Probe::Read(call) => call.read().await.and_then(|outcome| outcome.say()),
        Probe::Attach(call) => call.attach().await.and_then(|outcome| outcome.say()),
        Probe::Post(post) => post.run().await.and_then(|outcome| outcome.say()),
        Probe::Mesh(mesh) => mesh.run().await,
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
