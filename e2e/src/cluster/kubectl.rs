//! What users do: kubectl and helm, as their own processes.

use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::cluster::Cluster;
use crate::cluster::command::{finish, said};

/// How often a condition is asked for.
const ASK_PERIOD: Duration = Duration::from_millis(250);

/// How a program ended that was expected to fail or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Cluster {
    /// Runs `kubectl` as the administrator; its standard output.
    ///
    /// # Errors
    /// It failed; the error has what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        said(self.kubectl_command().args(arguments), None).await
    }

    /// Runs `kubectl`, which may fail: what users see.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn try_kubectl(
        &self,
        arguments: &[&str],
        input: Option<&str>,
    ) -> anyhow::Result<Ended> {
        let output = finish(self.kubectl_command().args(arguments), input).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ended {
            success: output.status.success(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// Runs `kubectl … -o json`; what it printed.
    ///
    /// # Errors
    /// It failed, or printed no JSON.
    pub async fn kubectl_json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = said(self.kubectl_command().args(arguments).args(["-o", "json"]), None).await?;
        serde_json::from_str(&text).with_context(|| format!("kubectl printed {text:?}"))
    }

    /// `kubectl apply` of these documents.
    ///
    /// # Errors
    /// The server refused one; the error has its message.
    pub async fn apply(&self, yaml: &str) -> anyhow::Result<String> {
        said(self.kubectl_command().args(["apply", "-f", "-"]), Some(yaml)).await
    }

    /// Runs `helm`; its standard output.
    ///
    /// # Errors
    /// It failed; the error has what it said.
    pub async fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut helm = self.command("helm");
        for (name, folder) in [("CACHE", "cache"), ("CONFIG", "config"), ("DATA", "data")] {
            helm.env(format!("HELM_{name}_HOME"), self.layout.path("helm").join(folder));
        }
        said(helm.args(arguments), None).await
    }

    /// Runs lines of a shell as a user does who has evaluated the line that `up` printed, in the
    /// checkout; what they wrote to standard output.
    ///
    /// # Errors
    /// One failed; the error has what it said.
    pub async fn shell(&self, lines: &str) -> anyhow::Result<String> {
        let mut shell = Command::new("bash");
        let script = format!("set -euo pipefail\n{}\n{lines}", self.shell_line());
        shell.args(["-c", &script]).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        without_proxies(&mut shell);
        said(&mut shell, None).await
    }

    /// Asks again and again until the answer is yes. A question that fails is asked again, too:
    /// much fails while nodes and servers die and come back.
    ///
    /// # Errors
    /// The answer was not yes within the time; the error has the last failure.
    pub async fn wait_for(
        &self,
        what: &str,
        within: Duration,
        mut condition: impl AsyncFnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let mut last = None;
        let asking = async {
            let mut ticks = interval(ASK_PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                match condition().await {
                    Ok(true) => return,
                    Ok(false) => last = None,
                    Err(error) => last = Some(error),
                }
            }
        };
        let outcome = timeout(within, asking).await;
        outcome.map_err(|_elapsed| {
            let why = anyhow!("{what}: not within {within:?}");
            last.map_or(why, |last| last.context(format!("{what}: not within {within:?}")))
        })
    }

    fn kubectl_command(&self) -> Command {
        let mut kubectl = self.command("kubectl");
        kubectl.arg("--cache-dir").arg(self.layout.path("kubectl"));
        kubectl
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.tools.program(name));
        command.env("KUBECONFIG", self.layout.kubeconfig("admin"));
        without_proxies(&mut command);
        command
    }
}

/// Nothing but the cluster is asked, whatever the machine uses to get out.
fn without_proxies(command: &mut Command) {
    for variable in ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"] {
        command.env_remove(variable);
    }
}
