//! What tells why something failed, collected before it is gone.

use std::path::Path;

use anyhow::Context;

use crate::cluster::Cluster;
use crate::cluster::layout::{NODES, node_name};

/// What is asked of the API server, and the file that gets the answer.
const QUESTIONS: [(&str, &[&str]); 6] = [
    ("objects.txt", &["get", "all,pv,pvc,configmaps,pyramid", "-A", "-o", "wide"]),
    ("events.txt", &["get", "events", "-A", "--sort-by=.lastTimestamp"]),
    ("pods.txt", &["describe", "pods", "-A"]),
    ("nodes.txt", &["describe", "nodes"]),
    ("pods.yaml", &["get", "pods", "-A", "-o", "yaml"]),
    ("pyramid.yaml", &["get", "pyramid", "-A", "-o", "yaml"]),
];

impl Cluster {
    /// Writes what the API server, the programs and the pods said into a folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub async fn collect(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        for (file, question) in QUESTIONS {
            let mut question = question.to_vec();
            question.push("--request-timeout=10s");
            let ended = self.try_kubectl(&question, None).await?;
            std::fs::write(folder.join(file), ended.stdout + &ended.stderr)?;
        }
        copy(&self.layout.logs(), &folder.join("logs"))?;
        for node in 1..=NODES {
            let pods = self.layout.node(node).join("var-log/pods");
            copy(&pods, &folder.join(node_name(node)))?;
        }
        Ok(())
    }
}

/// Copies a folder with all in it. One that is not there is not copied.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(from) else { return Ok(()) };
    std::fs::create_dir_all(to)?;
    for entry in entries {
        let (from, to) = match entry {
            Ok(entry) => (entry.path(), to.join(entry.file_name())),
            Err(error) => return Err(error.into()),
        };
        if from.is_dir() {
            copy(&from, &to)?;
        } else if let Err(error) = std::fs::copy(&from, &to)
            // The log of a container that is removed meanwhile.
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error.into());
        }
    }
    Ok(())
}
