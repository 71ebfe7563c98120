//! Credentials from three files, as Kubernetes mounts a Secret.
//!
//! They are read again at each use, at most once a second: a rotated Secret counts at once and
//! nothing has to be restarted.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use aws_credential_types::provider::{self, ProvideCredentials, error::CredentialsError, future};
use aws_sdk_s3::config::Credentials;
use tokio::{sync::Mutex, time::Instant};

const ACCESS_KEY_ID: &str = "accessKeyId";
const SECRET_ACCESS_KEY: &str = "secretAccessKey";
const SESSION_TOKEN: &str = "sessionToken";

/// How long what was read is used.
const FRESH: Duration = Duration::from_secs(1);

/// Longest file. Unit: bytes. Session tokens have about 1 kB.
const FILE_LEN_MAX: u64 = 64 << 10;

/// Where credentials come from, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The files of this directory.
    Directory(String),
    /// Whatever the environment offers.
    Ambient,
}

/// A file of the credentials cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {reason}")]
pub(super) struct FileError {
    file: String,
    reason: String,
}

pub(super) struct FileCredentials {
    directory: PathBuf,
    read: Mutex<Option<(Instant, Credentials)>>,
}

/// Never what was read.
impl fmt::Debug for FileCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "credentials in {}", self.directory.display())
    }
}

impl FileCredentials {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, read: Mutex::new(None) }
    }

    async fn provide(&self) -> provider::Result {
        let mut read = self.read.lock().await;
        if let Some((at, credentials)) = &*read
            && at.elapsed() < FRESH
        {
            return Ok(credentials.clone());
        }
        let credentials = load(&self.directory).await.map_err(CredentialsError::provider_error)?;
        *read = Some((Instant::now(), credentials.clone()));
        Ok(credentials)
    }
}

impl ProvideCredentials for FileCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.provide())
    }
}

async fn load(directory: &Path) -> Result<Credentials, FileError> {
    // Kubernetes swaps all files of a Secret at once by turning this link: what it led to at the
    // first file counts for all, or the halves of two pairs could meet.
    let directory = match tokio::fs::canonicalize(directory.join("..data")).await {
        Ok(swapped) => swapped,
        Err(_) => directory.to_owned(),
    };
    let needed = |name: &'static str| {
        let path = directory.join(name);
        async move {
            match read(&path).await? {
                Some(text) => Ok(text),
                None => Err(FileError {
                    file: path.display().to_string(),
                    reason: "there is no such file".to_owned(),
                }),
            }
        }
    };
    let access_key_id = needed(ACCESS_KEY_ID).await?;
    let secret_access_key = needed(SECRET_ACCESS_KEY).await?;
    let session_token = read(&directory.join(SESSION_TOKEN)).await?;
    Ok(Credentials::new(access_key_id, secret_access_key, session_token, None, "files"))
}

/// The text of a file without the space around it, or `None` if there is no such file.
async fn read(path: &Path) -> Result<Option<String>, FileError> {
    let failed = |reason: String| FileError { file: path.display().to_string(), reason };
    let len = match tokio::fs::metadata(path).await {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    if len > FILE_LEN_MAX {
        return Err(failed(format!("it has {len} bytes, at most {FILE_LEN_MAX} are read")));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(|error| failed(error.to_string()))?;
    let text = text.trim();
    // Headers could not carry it.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(failed("it does not hold one word of visible characters".to_owned()));
    }
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests;
