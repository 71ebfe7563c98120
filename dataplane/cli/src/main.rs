//! `pyramid`: the command for people.
//!
//! [`dev`] runs a Writer and a pusher in one process, [`stream`] appends to streams, reads them and
//! says who may, [`certificate`] makes identities, [`chunk`] looks into a file of the object
//! store, [`verify`] checks all of it. [`connection`] finds the Writer that a command means, [`output`] prints for people or for
//! programs.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 the command line is wrong; of [`verify`] also 74. A reader that closes the
//! pipe has seen enough: that is no failure.

mod certificate;
mod chunk;
mod connection;
mod dev;
mod identity;
mod log_time;
mod output;
mod stream;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::output::{Closed, Format, Output};

/// musl's own allocator is slow with several threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An event log: append records to streams, read them, and have them pushed to an application.
#[derive(Debug, Parser)]
#[command(
    name = "pyramid",
    version,
    propagate_version = true,
    after_help = "\
Begin with:
  pyramid dev                                  a Writer on this machine; leave it running
  pyramid stream create orders                 in a second terminal, like the rest
  echo '{\"item\":\"tea\"}' | pyramid stream append orders
  pyramid stream read orders"
)]
struct Args {
    #[command(subcommand)]
    command: Command,

    /// For people, or one JSON object a line for programs.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a Writer and a pusher on this machine, without Kubernetes.
    Dev(Box<dev::Args>),
    /// Create, list, append to and read streams.
    Stream(stream::Args),
    /// Make certificates for other identities of a `pyramid dev`.
    #[command(subcommand)]
    Certificate(certificate::Command),
    /// Look into a chunk file of the object store.
    #[command(subcommand)]
    Chunk(chunk::Command),
    /// Check that everything in the object store is what was stored.
    Verify(Box<verify::Args>),
}

fn main() -> ExitCode {
    let Args { command, output } = Args::parse();
    let mut output = Output::new(output);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let done = runtime.block_on(async {
        let done = match command {
            Command::Verify(args) => return Box::pin(verify::run(*args, &mut output)).await,
            Command::Dev(args) => Box::pin(dev::run(*args, &mut output)).await,
            Command::Stream(args) => Box::pin(stream::run(args, &mut output)).await,
            Command::Certificate(command) => certificate::run(command, &mut output),
            Command::Chunk(command) => chunk::run(command, &mut output).await,
        };
        done.map(|()| 0)
    });
    // A thread that waits for a line of standard input would never end.
    runtime.shutdown_background();
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is::<Closed>() => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// What happened, with its causes, on one line.
fn fail(error: &anyhow::Error) -> ExitCode {
    // There is nobody to tell that standard error is closed.
    drop(writeln!(std::io::stderr(), "error: {error:#}"));
    let of_writer = error.downcast_ref::<pyramid_writer::replica::Error>();
    ExitCode::from(
        of_writer
            .map_or_else(|| verify::exit_code(error), pyramid_writer::replica::Error::exit_code),
    )
}
