//! A sample application: a `SQLite` table that follows a stream, each record exactly once.
//!
//! The way of a push: the pusher calls [`service`], which hands the request to [`consumer::push`].
//! That function is all that an application needs; `docs/push-protocol.md` prints and explains it.
//! A crash anywhere leaves a database in which rows and position agree, and the next push that does
//! not begin at this position is told so.
//!
//! Beside it: [`produce`] appends numbered orders through the pusher of its pod, and [`check`] says
//! what has come.

mod check;
mod consumer;
mod database;
mod produce;
mod service;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use pyramid_protocol::net::TcpAccept;
use tokio::signal::unix::{SignalKind, signal};

/// musl's own allocator is slow with several threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps a table of orders up to date.
#[derive(Debug, Parser)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where the pusher finds this application. Port 0: a free one, which is printed.
    #[arg(long, default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
    /// The database; made if there is none.
    #[arg(long, required = true)]
    database: Option<PathBuf>,
    /// Print the body of each stored order on a line of its own and end.
    #[arg(long)]
    print: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Append numbered orders, each exactly once; at the end, or when it is told to stop, say as JSON
    /// how many the Writer has answered for.
    Produce(Box<produce::Args>),
    /// Say as JSON what the database holds, whether offsets are without a gap, and whether the
    /// numbers of each producer are in sequence.
    Check {
        /// The database of an application, which may run.
        #[arg(long)]
        database: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With its causes, on one line. There is nobody to tell that standard error is closed.
            drop(writeln!(io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let Args { command, listen, database, print } = args;
    match command {
        Some(Command::Produce(args)) => {
            let mut terminate = signal(SignalKind::terminate())?;
            let stop = async move {
                terminate.recv().await;
            };
            return produce::run(*args, stop, &mut io::stdout()).await;
        }
        Some(Command::Check { database }) => {
            let found = check::check(&mut database::open_existing(&database)?)?;
            return Ok(writeln!(io::stdout(), "{found}")?);
        }
        None => {}
    }
    let database = database::open(&database.context("give --database")?)?;
    if print {
        return database::print(&database, &mut io::stdout().lock());
    }
    let accept = TcpAccept::bind(listen).await.with_context(|| format!("--listen {listen}"))?;
    let mut terminate = signal(SignalKind::terminate())?;
    writeln!(io::stdout(), "listening on {}", accept.local_address()?)?;
    service::serve(database, accept, async move {
        terminate.recv().await;
    })
    .await
}
