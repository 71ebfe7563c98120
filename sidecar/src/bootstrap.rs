//! What the operator tells this namespace: the files of the ConfigMap `pyramid-bootstrap`, looked at
//! again and again.
//!
//! The kubelet changes all files of the directory at once, by a link. The ConfigMap may come later
//! than the pod, so nothing is no failure. What was good once stays in use until something else is.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::bootstrap::{BOOTSTRAP_KEY, Bootstrap, TRUST_BUNDLE_KEY};
use pyramid_tls::bundle;
use tokio::sync::watch;
use tokio::time::sleep;

/// Longest file. A ConfigMap has at most 1 MiB.
const FILE_BYTES_MAX: u64 = 2 << 20;
/// How often files that change while they are read are read.
const READS_MAX: usize = 10;
/// The link through which the kubelet's names lead.
const VERSION_LINK: &str = "..data";

/// The content of the ConfigMap, checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) trust_bundle_pem: String,
    pub(crate) bundle_digest: [u8; 32],
    pub(crate) bootstrap: Bootstrap,
}

/// Why nothing is known. The watch goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The ConfigMap does not exist yet, or the kubelet has not brought it yet.
    #[error("the bootstrap configuration is not there yet")]
    Absent,
    #[error("the bootstrap configuration cannot be read: {}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// Of an operator with another idea of it.
    #[error("the bootstrap configuration is not of the form that this pusher knows")]
    Form(#[from] serde_json::Error),
    #[error("the trust bundle of the bootstrap configuration")]
    Bundle(#[from] bundle::Error),
}

/// What is known, or in one line why nothing is.
pub(crate) type Heard = Result<Arc<Known>, String>;

/// Looks for ever, and tells what is new.
pub(crate) async fn watch(directory: PathBuf, every: Duration, heard: watch::Sender<Heard>) {
    let mut said = String::new();
    loop {
        let looked_at = directory.clone();
        let read = tokio::task::spawn_blocking(move || read(&looked_at))
            .await
            .expect("reading a directory does not panic");
        match read {
            Ok(known) => {
                said.clear();
                heard.send_if_modified(|heard| {
                    let is_new = heard.as_deref() != Ok(&known);
                    if is_new {
                        tracing::info!(
                            writers = known.bootstrap.writers.len(),
                            subscriptions = known.bootstrap.subscriptions.len(),
                            streams = known.bootstrap.streams.len(),
                            "read the bootstrap configuration"
                        );
                        *heard = Ok(Arc::new(known));
                    }
                    is_new
                });
            }
            Err(error) => {
                let why = error.to_string();
                if said != why {
                    let error = anyhow::Error::from(error);
                    let directory = directory.display();
                    tracing::warn!("{error:#}; looking at {directory} again and again");
                    said.clone_from(&why);
                }
                heard.send_if_modified(|heard| match heard {
                    Err(before) if *before != why => {
                        *before = why;
                        true
                    }
                    Ok(_) | Err(_) => false,
                });
            }
        }
        sleep(every).await;
    }
}

/// Reads both files of one version.
fn read(directory: &Path) -> Result<Known, Error> {
    let version = || fs::read_link(directory.join(VERSION_LINK)).ok();
    let mut reads = 0;
    loop {
        let before = version();
        let known = read_once(directory);
        reads += 1;
        if reads == READS_MAX || version() == before {
            return known;
        }
    }
}

fn read_once(directory: &Path) -> Result<Known, Error> {
    let trust_bundle_pem = read_file(directory.join(TRUST_BUNDLE_KEY))?;
    let bootstrap = Bootstrap::from_json(&read_file(directory.join(BOOTSTRAP_KEY))?)?;
    let bundle_digest = bundle::digest(&trust_bundle_pem)?;
    Ok(Known { trust_bundle_pem, bundle_digest, bootstrap })
}

fn read_file(path: PathBuf) -> Result<String, Error> {
    let mut content = String::new();
    let read =
        File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut content));
    match read {
        Ok(_len) => Ok(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Absent),
        Err(source) => Err(Error::Unreadable { path, source }),
    }
}
