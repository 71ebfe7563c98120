//! Where a `pyramid dev` keeps its chunks: a directory of its own, or what a flag names.
//!
//! The file `object-store` of the data directory remembers which one it is. A data directory whose
//! chunks lie elsewhere than it is told would look for them in vain, so that is an error before
//! anything is served.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use pyramid_storage::ObjectStore;
use pyramid_storage::object_store::{Error, ProbeError, probe};
use pyramid_writer::config::ObjectArgs;
use tokio::time::timeout;

use super::folder::{self, Folder, IDENTITY};
use crate::output::remark;

/// How long a store may take for its first word before the start goes on without.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

const REMEMBERED: &str = "object-store";
/// What is remembered of the directory that lies in the data directory and moves with it.
const OWN: &str = "file:objects";

/// The store that a data directory keeps its chunks in, if that is not its own directory.
///
/// # Errors
///
/// The file that remembers it cannot be read.
pub(crate) fn elsewhere(data_dir: &Path) -> anyhow::Result<Option<String>> {
    Ok(remembered(data_dir)?.filter(|known| known != OWN))
}

/// What the file of the data directory says; `None` if there is none.
fn remembered(data_dir: &Path) -> anyhow::Result<Option<String>> {
    let path = data_dir.join(REMEMBERED);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// How the object store is named.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Where chunks are kept: `s3://BUCKET` or `file:DIR`. Default: the directory objects of the
    /// data directory.
    #[arg(long, env = "PYRAMID_OBJECT_STORE", value_name = "URL")]
    object_store: Option<String>,

    #[command(flatten)]
    objects: ObjectArgs,
}

/// The object store that is meant.
#[derive(Clone, Debug)]
pub(super) struct Store {
    /// As the Writer takes it.
    pub(super) url: String,
    pub(super) objects: ObjectArgs,
    /// The directory, if it is one.
    pub(super) directory: Option<PathBuf>,
    /// Whether places of chunks are URLs without TLS.
    pub(super) is_plain_http: bool,
    /// What is remembered of it.
    remembered: String,
}

impl Store {
    /// # Errors
    ///
    /// The data directory keeps its chunks elsewhere.
    pub(super) fn choose(args: Args, folder: &Folder) -> anyhow::Result<Self> {
        let Args { object_store, objects } = args;
        let is_own = object_store.is_none();
        let url = object_store.unwrap_or_else(|| format!("file:{}", folder.objects.display()));
        let directory = url.strip_prefix("file:").map(PathBuf::from);
        let mut remembered = if is_own { OWN.to_owned() } else { url.clone() };
        if !objects.object_prefix.is_empty() {
            remembered = format!("{remembered} below {}", objects.object_prefix);
        }
        let is_plain_http =
            objects.s3_endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let store = Self { url, objects, directory, is_plain_http, remembered };
        store.compare(&folder.path)?;
        Ok(store)
    }

    fn compare(&self, data_dir: &Path) -> anyhow::Result<()> {
        let known = match remembered(data_dir)? {
            Some(known) => known,
            None if !data_dir.join(IDENTITY).exists() => return Ok(()),
            // From before there was a choice.
            None => OWN.to_owned(),
        };
        if known == self.remembered {
            return Ok(());
        }
        let flag = if known == OWN { "leave --object-store out" } else { "give --object-store" };
        bail!(
            "--object-store {}: the data directory {} keeps its chunks in {known}, and they would \
             be missing here; {flag} as before, or begin with another --data-dir",
            self.remembered,
            data_dir.display()
        );
    }

    /// Remembers it, once it is known to be the right one.
    pub(super) fn remember(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = data_dir.join(REMEMBERED);
        folder::write(&path, format!("{}\n", self.remembered).as_bytes())
            .with_context(|| format!("write {}", path.display()))
    }

    /// Asks a store for a first word. One that cannot be reached now may come back, and until then
    /// the log holds what is appended; one that refuses needs a person.
    ///
    /// # Errors
    ///
    /// It refuses.
    pub(super) async fn ask(&self, store: &dyn ObjectStore, shown: &str) -> anyhow::Result<()> {
        if self.directory.is_some() {
            return Ok(());
        }
        let asked = timeout(PROBE_TIMEOUT, probe(store, &self.objects.object_prefix)).await;
        let why = match asked {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(ProbeError::Store(Error::Unavailable { reason, .. }))) => reason,
            Ok(Err(error)) => return Err(error).with_context(|| format!("--object-store {shown}")),
            Err(_elapsed) => format!("no answer in {} s", PROBE_TIMEOUT.as_secs()),
        };
        remark(&format!(
            "--object-store {shown} cannot be reached: {why}; it is tried again, and appends go on \
             as long as there is room in the log"
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(folder: &Folder, url: Option<&str>, prefix: &str) -> anyhow::Result<Store> {
        let objects = ObjectArgs { object_prefix: prefix.to_owned(), ..ObjectArgs::default() };
        Store::choose(Args { object_store: url.map(str::to_owned), objects }, folder)
    }

    #[tokio::test]
    async fn a_data_directory_stays_with_its_object_store() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path()).await.unwrap();
        for (url, prefix) in [(Some("s3://orders"), "a"), (None, ""), (Some("s3://orders"), "")] {
            // Nothing is remembered yet.
            choose(&folder, url, prefix).unwrap();
        }
        choose(&folder, Some("s3://orders"), "").unwrap().remember(&folder.path).unwrap();
        choose(&folder, Some("s3://orders"), "").unwrap();
        for (url, prefix) in [(Some("s3://other"), ""), (Some("s3://orders"), "a"), (None, "")] {
            let error = choose(&folder, url, prefix).unwrap_err().to_string();
            assert!(error.contains("keeps its chunks in s3://orders"), "{error}");
            assert!(error.contains("give --object-store as before"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_data_directory_from_before_the_choice_has_its_own_store() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path()).await.unwrap();
        fs::write(temporary.path().join(IDENTITY), "").unwrap();
        choose(&folder, None, "").unwrap();
        let error = choose(&folder, Some("s3://orders"), "").unwrap_err().to_string();
        assert!(error.contains("leave --object-store out as before"), "{error}");
    }
}
