//! [`Settings`]: what the chart decides, one YAML file, read once at the start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::Deserialize;

/// Everything that does not come from Kubernetes objects.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Trust domain of the cluster. Absent: the cluster domain and a random suffix, kept in the
    /// Secret of the authority. It cannot be changed later.
    #[serde(default)]
    pub trust_domain: Option<String>,
    /// DNS domain of the cluster.
    #[serde(default = "cluster_domain")]
    pub cluster_domain: String,
    /// Image of Writers that name none.
    pub writer_image: String,
    /// Pull policy of Writers' images.
    #[serde(default = "pull_policy")]
    pub writer_pull_policy: String,
    /// Names of Secrets with which Writers' images are pulled.
    #[serde(default)]
    pub image_pull_secrets: Vec<String>,
    /// Namespaces in which Writers may run; `*`: all.
    pub writer_namespaces: Vec<String>,
    /// The Writer that bare Streams get.
    #[serde(default)]
    pub default_writer: DefaultWriter,
    /// What is injected.
    pub pusher: Pusher,
    /// Lives of certificates.
    #[serde(default)]
    pub pki: Pki,
    /// Periods and waits.
    #[serde(default)]
    pub waits: Waits,
}

/// The Writer `default` of the operator's namespace, made when the first bare Stream needs it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DefaultWriter {
    /// Whether it is made.
    #[serde(default)]
    pub create: bool,
    /// Its spec. `null` or without `objectStorage`: bare Streams are told how to give one.
    #[serde(default)]
    pub spec: Option<serde_json::Value>,
}

/// The injected container.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pusher {
    /// Its image.
    pub image: String,
    /// Its pull policy.
    #[serde(default = "pull_policy")]
    pub pull_policy: String,
    /// Its log filter.
    #[serde(default = "log_level")]
    pub log_level: String,
    /// Its resources, where a pod's annotations say nothing else.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// Secrets added to the pod's `imagePullSecrets`; empty: the pod's are left alone.
    #[serde(default)]
    pub image_pull_secrets: Vec<String>,
}

/// Shortest life of a certificate but the root's. A life is reckoned from the start that is dated
/// back by five minutes, so that a shorter one would be due again as soon as it is made.
/// Unit: seconds.
pub const LIFE_SECONDS_MIN: u32 = 360;
/// Shortest life of a root: what it signs ends an hour before it. Unit: seconds.
pub const ROOT_LIFE_SECONDS_MIN: u32 = 3_600 + LIFE_SECONDS_MIN;

/// How long certificates live. Unit of all: seconds. Renewed after two thirds of a Writer's life,
/// half of all others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Pki {
    /// The root.
    pub root_life_seconds: u32,
    /// Writers.
    pub writer_life_seconds: u32,
    /// The operator's own.
    pub operator_life_seconds: u32,
    /// Pods, by a token that is bound to one.
    pub pod_life_seconds: u32,
    /// People and programs, by a token that is not bound to a pod.
    pub unbound_life_seconds: u32,
}

impl Default for Pki {
    fn default() -> Self {
        Self {
            root_life_seconds: 5 * 365 * 86_400,
            writer_life_seconds: 30 * 86_400,
            operator_life_seconds: 86_400,
            pod_life_seconds: 86_400,
            unbound_life_seconds: 3_600,
        }
    }
}

impl Pki {
    /// The first of the lives that is too short.
    fn too_short(self) -> Option<Error> {
        [
            ("rootLifeSeconds", self.root_life_seconds, ROOT_LIFE_SECONDS_MIN),
            ("writerLifeSeconds", self.writer_life_seconds, LIFE_SECONDS_MIN),
            ("operatorLifeSeconds", self.operator_life_seconds, LIFE_SECONDS_MIN),
            ("podLifeSeconds", self.pod_life_seconds, LIFE_SECONDS_MIN),
            ("unboundLifeSeconds", self.unbound_life_seconds, LIFE_SECONDS_MIN),
        ]
        .into_iter()
        .find(|(_, seconds, least)| seconds < least)
        .map(|(name, seconds, least)| Error::Life { name, seconds, least })
    }
}

/// Periods and waits. Unit of all: seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Waits {
    /// A stable object is looked at again after this long.
    pub resync_seconds: u32,
    /// One that makes progress.
    pub progress_seconds: u32,
    /// Numbers in status are written at most this often for one object, and a stable Writer is asked
    /// how it is.
    pub stats_seconds: u32,
    /// What is configured in Writers is compared this often.
    pub drift_seconds: u32,
    /// The lease of the leading operator.
    pub lease_seconds: u32,
    /// How long the URL of a chunk works that a Writer gives out. It waits twice as long before it
    /// erases the chunks of a deleted Stream.
    pub chunk_url_seconds: u32,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            resync_seconds: 300,
            progress_seconds: 5,
            stats_seconds: 30,
            drift_seconds: 300,
            lease_seconds: 15,
            chunk_url_seconds: 300,
        }
    }
}

impl Waits {
    /// As a duration.
    #[must_use]
    pub fn resync(self) -> Duration {
        Duration::from_secs(self.resync_seconds.into())
    }

    /// As a duration.
    #[must_use]
    pub fn stats(self) -> Duration {
        Duration::from_secs(self.stats_seconds.into())
    }

    /// As a duration.
    #[must_use]
    pub fn progress(self) -> Duration {
        Duration::from_secs(self.progress_seconds.into())
    }
}

fn cluster_domain() -> String {
    "cluster.local".to_owned()
}

fn pull_policy() -> String {
    "IfNotPresent".to_owned()
}

fn log_level() -> String {
    "info".to_owned()
}

/// The file cannot be used. Mend the chart's values.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See the text.
    #[error("read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// See the text.
    #[error("{} is not of the form of settings", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<serde_saphyr::Error>,
    },
    /// See the text.
    #[error("pki.{name} is {seconds}; the shortest life is {least} seconds")]
    Life {
        /// As the chart calls it.
        name: &'static str,
        /// What it says.
        seconds: u32,
        /// What it has to say at least.
        least: u32,
    },
}

impl Settings {
    /// The least that a chart can say.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let text = "writerImage: 'writer:1'\nwriterNamespaces: ['*']\npusher: {image: 'pusher:1'}";
        serde_saphyr::from_str(text).unwrap()
    }

    /// Reads the file.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let settings: Self = serde_saphyr::from_str(&text)
            .map_err(|source| Error::Parse { path: path.to_owned(), source: source.into() })?;
        settings.pki.too_short().map_or(Ok(settings), Err)
    }

    /// Whether Writers may run there.
    #[must_use]
    pub fn enables(&self, namespace: &str) -> bool {
        self.writer_namespaces.iter().any(|name| name == "*" || name == namespace)
    }
}

#[cfg(test)]
mod tests;
