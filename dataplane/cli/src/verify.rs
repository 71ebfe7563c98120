//! `pyramid verify`: is everything in the object store what was stored?
//!
//! Needs the objects and the key file, no Writer: a backup can be verified on any machine. With a
//! Writer it is also compared with what the Writer refers to.

mod heads;
mod print;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use pyramid_storage::object_store::StoreSettings;
use pyramid_storage::verify::{self, Kind, Options, Progress, Report, WriterView};
use pyramid_storage::{ClusterId, Keks, ObjectNames, ObjectStore};
use pyramid_writer::config::ObjectArgs;

use crate::connection;
use crate::dev::{folder, store};
use crate::output::{Output, bytes, counted};

/// Something is damaged or missing.
const FOUND: u8 = 1;
/// The object store could not be read, so nothing is known about a part of it (`EX_IOERR`).
const UNREADABLE: u8 = 74;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pyramid verify                               all that the `pyramid dev` of ./.pyramid has stored;
                                               it may run or be stopped
  pyramid verify --stream orders --output json
  pyramid verify --object-store file:/backup/objects --kek-file kek
  pyramid verify --object-store s3://records --object-prefix eu --s3-region eu-central-1 \\
                 --kek-file kek --writer writer.example:7400 --tls tls

Every object is read from its first byte to its last, decrypted and followed from chunk to chunk.
Objects alone do not show whether the last chunks of a stream are gone; a Writer does.

Exit codes: 0 all is as it was stored; 1 something is damaged, missing or not known, or the command
failed; 2 the command line is wrong; 74 the object store could not be read.")]
pub(crate) struct Args {
    /// Where the objects are: `s3://BUCKET` or `file:DIR`. Default: in the data directory.
    #[arg(long, env = "PYRAMID_OBJECT_STORE", value_name = "URL")]
    object_store: Option<String>,

    #[command(flatten)]
    objects: ObjectArgs,

    /// The key file of the Writer. Default: that of the data directory, whose `pyramid dev` is then
    /// asked, too, if it runs.
    #[arg(long, env = "PYRAMID_KEK_FILE", value_name = "FILE")]
    kek_file: Option<PathBuf>,

    /// Which cluster, as 32 hexadecimal digits. Default: the one whose objects are there.
    #[arg(long, value_name = "ID")]
    cluster: Option<ClusterId>,

    /// Only this stream. May be given several times. Default: all, and whatever else lies there.
    #[arg(long = "stream", value_name = "NAME")]
    streams: Vec<String>,

    #[command(flatten)]
    connection: connection::Args,
}

/// The object store does not answer. Says nothing about what it holds.
#[derive(Debug, thiserror::Error)]
#[error("the object store could not be read; nothing is known about what it holds")]
struct Unreadable;

/// The exit code of a command that failed.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Unreadable>() { UNREADABLE } else { FOUND }
}

/// What is verified.
struct Subject {
    settings: StoreSettings,
    /// In front of all keys.
    prefix: String,
    keks: Keks,
    /// To be compared with, if there is a Writer.
    writer: Option<connection::Args>,
}

/// Verifies, and says what was found. Returns the exit code.
///
/// # Errors
///
/// There is nothing to verify, or it cannot be read.
pub(crate) async fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let Args { object_store, objects, kek_file, cluster, streams, connection } = args;
    let subject = subject(object_store, objects, kek_file, connection)?;
    let prefix = subject.prefix;
    if let StoreSettings::Directory(directory) = &subject.settings
        && !directory.is_dir()
    {
        bail!("there is no directory {}; look at --object-store", directory.display());
    }
    let store = subject.settings.open().await.map_err(anyhow::Error::from).context(Unreadable)?;
    let cluster = match cluster {
        Some(cluster) => cluster,
        None => only_cluster(Arc::clone(&store), &prefix, &subject.settings).await?,
    };
    let names = ObjectNames::new(&prefix, cluster).context("--object-prefix")?;
    // First what the Writer refers to: all of it is stored already.
    let writer = match subject.writer {
        Some(connection) => Some(heads::view(connection, cluster, &streams).await?),
        None => None,
    };
    let is_compared = writer.is_some();
    let report = verify_all(store, &names, &subject.keks, streams, writer).await?;
    print::report(&report, is_compared, output)?;
    Ok(code(&report))
}

fn code(report: &Report) -> u8 {
    let is_unreadable = |kind: &Kind| matches!(kind, Kind::Unreadable { .. });
    if report.is_clean() {
        0
    } else if report.findings.iter().all(|finding| is_unreadable(&finding.kind)) {
        UNREADABLE
    } else {
        FOUND
    }
}

fn subject(
    object_store: Option<String>,
    objects: ObjectArgs,
    kek_file: Option<PathBuf>,
    connection: connection::Args,
) -> anyhow::Result<Subject> {
    let data_dir = connection.data_dir().to_owned();
    let url = match object_store {
        Some(url) => url,
        None => format!("file:{}", objects_of(&data_dir)?.display()),
    };
    let (settings, prefix) = objects.into_settings(&url)?;
    // With a key file of its own it is a copy, and no business of a Writer that nobody has named.
    let is_asked =
        connection.names_a_writer() || (kek_file.is_none() && folder::is_used(&data_dir)?);
    let keks = Keks::load(&kek_file.unwrap_or_else(|| data_dir.join("kek")))?;
    Ok(Subject { settings, prefix, keks, writer: is_asked.then_some(connection) })
}

/// The objects of a `pyramid dev`, whether it runs or not.
fn objects_of(data_dir: &Path) -> anyhow::Result<PathBuf> {
    if let Some(elsewhere) = store::elsewhere(data_dir)? {
        bail!(
            "{} keeps its chunks in {elsewhere}; give --object-store and the flags of S3 as to \
             `pyramid dev`",
            data_dir.display()
        );
    }
    let objects = data_dir.join("objects");
    if !objects.is_dir() {
        bail!(
            "{} has no objects of a `pyramid dev`; give --data-dir, or --object-store and \
             --kek-file",
            data_dir.display()
        );
    }
    Ok(objects)
}

async fn only_cluster(
    store: Arc<dyn ObjectStore>,
    prefix: &str,
    settings: &StoreSettings,
) -> anyhow::Result<ClusterId> {
    let found = verify::clusters(store, prefix).await.map_err(explain)?;
    let with_file = || found.iter().filter(|cluster| cluster.has_cluster_file);
    let place = if prefix.is_empty() {
        settings.to_string()
    } else {
        format!("{settings} below {prefix}/")
    };
    match (with_file().count(), &found[..]) {
        (1, _) => with_file().map(|cluster| cluster.id).next().context("one is there"),
        (0, [lost]) => Ok(lost.id),
        (_, []) => Err(anyhow!(
            "{place} has no objects of Pyramid; look at --object-store and --object-prefix"
        )),
        (_, several) => {
            let ids: Vec<_> = several.iter().map(|cluster| cluster.id.to_string()).collect();
            Err(anyhow!(
                "{place} has objects of several clusters; give --cluster with one of {}",
                ids.join(", ")
            ))
        }
    }
}

async fn verify_all(
    store: Arc<dyn ObjectStore>,
    names: &ObjectNames,
    keks: &Keks,
    streams: Vec<String>,
    writer: Option<WriterView>,
) -> anyhow::Result<Report> {
    let options = Options { streams, writer, ..Options::default() };
    let bar = progress();
    let mut tell = |progress: Progress| {
        bar.set_message(format!(
            "{}, {}",
            counted(progress.objects, "object"),
            bytes(progress.bytes)
        ));
        bar.tick();
    };
    let verified = verify::verify(store, names, keks, &options, &mut tell).await;
    bar.finish_and_clear();
    verified.map_err(explain)
}

fn explain(error: verify::Error) -> anyhow::Error {
    match error {
        verify::Error::Store(_) | verify::Error::GaveUp { .. } => {
            anyhow::Error::from(error).context(Unreadable)
        }
        verify::Error::NoStream { .. } | verify::Error::NothingThere { .. } => error.into(),
    }
}

/// A count for people who watch.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} verified {msg}, {elapsed}");
    ProgressBar::no_length().with_style(style.expect("the template is the one above"))
}
