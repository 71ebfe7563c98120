//! Ends a cluster with the process that started it, however that process ends.
//!
//! The keeper is a process of its own session, which hears no Ctrl-C. It reads until the end of its
//! standard input, which comes when its owner closes it or dies, and then takes the cluster down.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::Context;

use crate::process::tell;

#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    input: Option<ChildStdin>,
}

impl Keeper {
    /// Starts the keeper of a state directory.
    ///
    /// # Errors
    /// Its program is not there.
    pub(super) fn start(state: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new("setsid")
            .arg(program()?)
            .arg("keep")
            .arg("--state")
            .arg(state)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("start setsid")?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// Has it collect what tells why a test failed, before it takes the cluster down.
    pub(super) fn collect_into(&mut self, folder: &Path) {
        if let Some(input) = &mut self.input {
            // A keeper that has died collects nothing.
            drop(writeln!(input, "{}", folder.display()));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.input.take());
        match self.child.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => tell(&format!("the keeper of the cluster ended with {status}")),
            Err(error) => tell(&format!("the keeper of the cluster: {error}")),
        }
    }
}

/// The program `pyramid-cluster`, which cargo builds for every test of this crate.
fn program() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("find this program")?;
    // Programs lie in the folder of a profile, tests in one below it.
    let found = this.ancestors().skip(1).take(2).map(|folder| folder.join("pyramid-cluster"));
    let program = found.into_iter().find(|program| program.is_file());
    program.context("pyramid-cluster is not there; build it with `cargo build --workspace`")
}

/// Reads standard input to its end; the folder that was named in it.
///
/// # Errors
/// It cannot be read.
pub(super) fn wait_for_the_owner() -> anyhow::Result<Option<PathBuf>> {
    let mut said = String::new();
    std::io::stdin().read_to_string(&mut said)?;
    Ok(said.lines().next_back().map(PathBuf::from))
}
