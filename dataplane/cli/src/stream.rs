//! `pyramid stream`: what can be done with streams.

mod append;
mod batches;
pub(crate) mod control;
mod headers;
mod info;
mod input;
mod read;
pub(crate) mod rights;

use clap::Subcommand;

pub(crate) use self::read::print_record;

use crate::connection;
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: connection::Args,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a stream.
    Create(control::CreateArgs),
    /// List streams.
    Ls(info::ListArgs),
    /// Show one stream.
    Info(info::InfoArgs),
    /// Append records: the arguments, or the lines of a file or of standard input.
    Append(append::Args),
    /// Print records from an offset or a time on.
    Read(read::ReadArgs),
    /// Print the last records, and with -f what is appended from now on.
    Tail(read::TailArgs),
    /// Cut the records that are not in a chunk yet into one now.
    Seal(control::SealArgs),
    /// Give up the records below an offset: they can no longer be read through the Writer.
    Trim(control::TrimArgs),
    /// Show who may append to a stream, read and manage it.
    Rights(rights::RightsArgs),
    /// Give rights on a stream.
    Grant(rights::GrantArgs),
    /// Take rights on a stream away.
    Revoke(rights::RevokeArgs),
    /// Remove a stream: its records can no longer be read through the Writer.
    Rm(control::RemoveArgs),
}

/// Does what was asked.
///
/// # Errors
///
/// It was refused, or the Writer cannot be reached.
pub(crate) async fn run(args: Args, output: &mut Output) -> anyhow::Result<()> {
    let Args { connection, command } = args;
    match command {
        Command::Create(args) => control::create(args, connection, output).await,
        Command::Ls(args) => info::list(args, connection, output).await,
        Command::Info(args) => info::info(args, connection, output).await,
        Command::Append(args) => append::run(args, connection, output).await,
        Command::Read(args) => read::read(args, connection, output).await,
        Command::Tail(args) => read::tail(args, connection, output).await,
        Command::Seal(args) => control::seal(args, connection, output).await,
        Command::Trim(args) => control::trim(args, connection, output).await,
        Command::Rights(args) => rights::rights(args, connection, output).await,
        Command::Grant(args) => rights::grant(args, connection, output).await,
        Command::Revoke(args) => rights::revoke(args, connection, output).await,
        Command::Rm(args) => control::remove(args, connection, output).await,
    }
}
