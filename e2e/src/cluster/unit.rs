//! A machine of the cluster: programs that live and die together.
//!
//! Each unit is one tree of processes with a first process of its own (a PID namespace), so the
//! kernel ends all of them, and all that they have started, when that one is killed. It has a mount
//! namespace, too: what its programs mount is gone with it, and folders of the machine can be
//! replaced by its own. Its network outlives it.
//!
//! The first process starts a program again that has ended, as an init system does.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::cluster::layout::Layout;
use crate::cluster::network;
use crate::process::wait_until;

/// Killed processes are gone after so long, whatever they did.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Writes down which process it is (`$1`), and becomes the unit: in the network `$2`, with the
/// script `$3`. The record is there before anything else is.
const ENTER: &str = r#"
cat /proc/$$/stat >"$1.part" && mv "$1.part" "$1" &&
exec nsenter --net="$2" unshare --mount --pid --fork --kill-child --mount-proc sh "$3"
"#;

/// The begin of a unit's script. A shell that waits also reaps what its children leave behind.
const PRELUDE: &str = r#"set -eu
part() {
    log=$1
    shift
    (
        while :; do
            "$@" || echo "--- ended with $?"
            sleep 0.3
        done
    ) >&"$log" 2>&1 </dev/null &
}
"#;

/// Numbers of open files that a shell takes beside those of every program: a unit has at most so
/// many parts.
const LOG_FILES: std::ops::RangeInclusive<u8> = 3..=9;

/// One program of a unit.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) name: String,
    /// Network namespace.
    pub(super) network: String,
    /// Lines of shell that run first, in the unit's mount namespace.
    pub(super) setup: String,
    pub(super) parts: Vec<Part>,
}

impl Unit {
    /// Starts it. The programs get ready by themselves.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) async fn start(&self, layout: &Layout) -> anyhow::Result<()> {
        let record = record(layout, &self.name);
        let script = record.with_extension("sh");
        std::fs::create_dir_all(layout.path("units"))?;
        std::fs::create_dir_all(layout.logs())?;
        std::fs::write(&script, self.script(&layout.logs()))?;
        let log = std::fs::File::create(layout.logs().join(format!("{}.log", self.name)))?;
        // A session of its own: it hears nothing of the terminal.
        let mut child = Command::new("setsid")
            .args(["sh", "-c", ENTER, &self.name])
            .arg(&record)
            .arg(Path::new("/run/netns").join(&self.network))
            .arg(&script)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start setsid")?;
        let recorded = wait_until("the unit is recorded", END_TIMEOUT, async || {
            Ok(Process::recorded(&record).is_some_and(|process| process.runs())
                || child.try_wait()?.is_some())
        });
        recorded.await.with_context(|| format!("start {}", self.name))
    }

    fn script(&self, logs: &Path) -> String {
        let mut script = PRELUDE.to_owned();
        // Logs are opened first: what is mounted may cover their folder.
        for (file, part) in LOG_FILES.zip(&self.parts) {
            let log = logs.join(format!("{}-{}.log", self.name, part.name));
            script += &format!("exec {file}>>{}\n", quoted(&log.display().to_string()));
        }
        script += &self.setup;
        for (file, part) in LOG_FILES.zip(&self.parts) {
            script += &format!("part {file} {}", quoted(&part.program.display().to_string()));
            for word in &part.arguments {
                script.push(' ');
                script.push_str(&quoted(word));
            }
            script.push('\n');
        }
        script.push_str("while :; do wait; sleep 1; done\n");
        script
    }
}

/// As one word of the shell.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Where the process of a unit is written down.
fn record(layout: &Layout, unit: &str) -> PathBuf {
    layout.path("units").join(unit)
}

/// Whether the unit runs.
pub(super) fn runs(layout: &Layout, unit: &str) -> bool {
    Process::recorded(&record(layout, unit)).is_some_and(|process| process.runs())
}

/// Kills a unit; returns when all of its processes are gone. One that does not run is left alone.
///
/// # Errors
/// They do not go.
pub(super) async fn end(layout: &Layout, unit: &str) -> anyhow::Result<()> {
    let record = record(layout, unit);
    if let Some(process) = Process::recorded(&record) {
        wait_until("all of its processes are gone", END_TIMEOUT, async || {
            if !process.runs() {
                return Ok(true);
            }
            // The outer process waits for the first one of the namespace, and the kernel lets that
            // one end after all others.
            let first = process.children();
            for id in if first.is_empty() { vec![process.id] } else { first } {
                signal(id)?;
            }
            Ok(false)
        })
        .await
        .with_context(|| format!("end {unit}"))?;
        std::fs::remove_file(&record)?;
    }
    Ok(())
}

/// All units that were started.
pub(super) fn recorded(layout: &Layout) -> anyhow::Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(layout.path("units")) else { return Ok(Vec::new()) };
    let mut units = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.contains('.') {
            units.push(name);
        }
    }
    units.sort_unstable();
    Ok(units)
}

/// Kills what still runs in a network namespace of the cluster, also without a record.
///
/// # Errors
/// It does not go.
pub(super) async fn end_all_in(network: &str) -> anyhow::Result<()> {
    wait_until("its processes are gone", END_TIMEOUT, async || {
        let processes = processes_in(network)?;
        for process in &processes {
            signal(process.id)?;
        }
        Ok(processes.is_empty())
    })
    .await
    .with_context(|| format!("end what runs in {network}"))
}

/// Kills what runs in the network of this process, which is that of a Pod.
///
/// # Errors
/// It has ended, or has the network of this program; or the kernel's answer.
pub(super) fn kill_all_beside(process: Process) -> anyhow::Result<()> {
    let network = |id: &str| Network::at(&Path::new("/proc").join(id).join("ns/net"));
    let of_pod = network(&process.id.to_string()).context("the process has ended")?;
    ensure!(Some(of_pod) != network("self"), "the process is in no network of its own");
    for process in of_pod.processes()? {
        signal(process.id)?;
    }
    Ok(())
}

/// Processes in a network namespace. None, if it is not there.
fn processes_in(network: &str) -> anyhow::Result<Vec<Process>> {
    let network = Network::at(&Path::new("/run/netns").join(network));
    network.map_or_else(|| Ok(Vec::new()), Network::processes)
}

/// A network namespace, as the kernel tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    device: u64,
    inode: u64,
}

impl Network {
    /// The one that this file stands for.
    fn at(path: &Path) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        Some(Self { device: file.dev(), inode: file.ino() })
    }

    fn processes(self) -> anyhow::Result<Vec<Process>> {
        let mut processes = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Ok(id) = entry.file_name().to_string_lossy().parse() else { continue };
            // A process that has ended has no namespace.
            if Self::at(&entry.path().join("ns/net")) == Some(self) {
                processes.extend(Process::now(id));
            }
        }
        Ok(processes)
    }
}

/// All processes of the cluster that are not in pods.
///
/// # Errors
/// The kernel does not tell.
pub(super) fn processes(layout: &Layout) -> anyhow::Result<Vec<Process>> {
    let mut all = Vec::new();
    for network in network::namespaces(layout) {
        all.extend(processes_in(&network)?);
    }
    Ok(all)
}

fn signal(id: i32) -> anyhow::Result<()> {
    match kill(Pid::from_raw(id), Signal::SIGKILL) {
        // It ended meanwhile.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("kill process {id}")),
    }
}

/// A process, told from a later one with the same id by the time of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) id: i32,
    state: char,
    /// Unit: ticks since the machine started.
    start: u64,
}

impl Process {
    fn recorded(record: &Path) -> Option<Self> {
        Self::parsed(&std::fs::read_to_string(record).ok()?)
    }

    /// From the text of `/proc/<id>/stat`.
    fn parsed(stat: &str) -> Option<Self> {
        let (id, rest) = stat.split_once(" (")?;
        // The name of the program may hold anything.
        let (_, rest) = rest.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?.chars().next()?;
        // Field 22, and the state is field 3.
        let start = fields.nth(18)?.parse().ok()?;
        Some(Self { id: id.parse().ok()?, state, start })
    }

    /// The process that has this id now.
    pub(super) fn now(id: i32) -> Option<Self> {
        Self::parsed(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    pub(super) fn runs(self) -> bool {
        let now = Self::now(self.id);
        now.is_some_and(|now| now.start == self.start && !matches!(now.state, 'Z' | 'X'))
    }

    fn children(self) -> Vec<i32> {
        let id = self.id;
        // None, once it has ended.
        let ids = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        ids.unwrap_or_default().split_whitespace().filter_map(|id| id.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_from_the_kernels_line() {
        let rest = "1 2 3 0 -1 4194304 163 0 0 0 0 0 0 0 20 0 1 0 2451652 2654208 358";
        let parsed = Process::parsed(&format!("90 (a) (b) S {rest}"));
        assert_eq!(parsed, Some(Process { id: 90, state: 'S', start: 2_451_652 }));
        assert_eq!(Process::parsed("90 (sh) S 1 2"), None);
    }

    #[test]
    fn a_later_process_of_the_same_id_is_another_one() {
        let own = Process::now(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.runs());
        assert!(!Process { start: own.start + 1, ..own }.runs());
    }

    #[test]
    fn words_reach_the_program_as_they_are() {
        let word = "it's \"$HOME\" \\ `x`";
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", quoted(word))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }
}
