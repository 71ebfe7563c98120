//! What `pyramid-probe` does in a Pod: the calls that a pusher makes, and those that it would not.
//!
//! Each prints one line of JSON, and ends well if it was answered at all: `{"done": …}`, or
//! `{"refused": {"reason": …, "message": …}}`.

pub mod issuer;
pub mod latency;
pub mod mesh;
pub mod webhook;
pub mod writer;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use pyramid_protocol::bootstrap::{BOOTSTRAP_KEY, Bootstrap, TRUST_BUNDLE_KEY};
use pyramid_protocol::pb::v1::Refusal;
use serde::Serialize;
use serde_json::json;

/// Where everybody is.
#[derive(Clone, Debug, Args)]
pub struct Places {
    /// The ConfigMap that the operator gives to pushers, mounted.
    #[arg(long, default_value = "/bootstrap")]
    bootstrap: PathBuf,
}

impl Places {
    fn read(&self, key: &str) -> anyhow::Result<String> {
        let path = self.bootstrap.join(key);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    fn bundle_pem(&self) -> anyhow::Result<String> {
        self.read(TRUST_BUNDLE_KEY)
    }

    fn known(&self) -> anyhow::Result<Bootstrap> {
        Ok(serde_json::from_str(&self.read(BOOTSTRAP_KEY)?)?)
    }
}

/// What was answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// What the answer holds.
    Done(serde_json::Value),
    /// Why not: reason and message.
    Refused(serde_json::Value),
}

impl Outcome {
    fn refused(refusal: &Refusal) -> Self {
        let (reason, message) = (refusal.reason().as_str_name(), &refusal.message);
        Self::Refused(json!({"reason": reason, "message": message}))
    }

    /// Prints it.
    ///
    /// # Errors
    /// Nobody reads standard output.
    pub fn say(&self) -> anyhow::Result<()> {
        Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(self)?)?)
    }
}

/// What a file holds; `-` is standard input.
fn read_all(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path != Path::new("-") {
        return std::fs::read(path).with_context(|| format!("read {}", path.display()));
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}
