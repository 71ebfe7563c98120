//! Real programs as processes: started, killed, started again, and never left behind.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Where programs write while a test runs: removed if it passes, kept and named if it panics.
#[derive(Debug)]
pub struct Folder {
    /// `None` once it is given up, so that it stays.
    folder: Option<TempDir>,
    path: PathBuf,
}

impl Folder {
    /// A new one.
    ///
    /// # Errors
    /// The machine's temporary folder takes none.
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("pyramid-e2e-").tempdir()?;
        Ok(Self { path: folder.path().to_owned(), folder: Some(folder) })
    }

    /// A place in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Keeps it, to be looked at.
    pub fn keep(&mut self) -> &Path {
        if let Some(folder) = self.folder.take() {
            // What is given back is the path that we have.
            drop(folder.keep());
        }
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = self.keep().display().to_string();
            tell(&format!("logs and data of the failed test are kept in {path}"));
        }
    }
}

/// Writes a line to standard error, also from a test that passes.
pub fn tell(text: &str) {
    // There is nobody to tell that standard error is closed.
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// The program of this name as users get it: the static release build, where `make programs` puts
/// it.
///
/// # Errors
/// It is not there.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("find this test")?;
    let target = test.ancestors().nth(TARGET_ABOVE_TEST).context("find the target folder")?;
    let platform = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let program = target.join(platform).join("release").join(name);
    ensure!(program.is_file(), "{} is not there; build it with `make programs`", program.display());
    Ok(program)
}

/// A loopback port on which nobody listens, outside of the range of the kernel.
///
/// A port of that range could go to some client's connection while its program is down.
///
/// # Errors
/// None of the ports is free.
pub fn free_port() -> anyhow::Result<u16> {
    use std::sync::atomic::{AtomicU16, Ordering};

    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    /// Distance between two processes' ranges. Few of them run at a time.
    const STRIDE: u32 = 97;
    static TAKEN: AtomicU16 = AtomicU16::new(0);

    let begin = std::process::id().wrapping_mul(STRIDE);
    for _ in 0..COUNT {
        let step = u32::from(TAKEN.fetch_add(1, Ordering::Relaxed));
        let place = begin.wrapping_add(step) % u32::from(COUNT);
        let port = FIRST + u16::try_from(place).context("a place below a u16")?;
        if TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port from {FIRST} on")
}

/// How to start a program, as often as it takes.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// For messages and logs, such as `writer`.
    pub name: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// The line that tells that it serves begins so.
    pub ready: String,
    /// Gets what the program says, over all its starts.
    pub log: PathBuf,
}

/// A test lies in `<target>/<profile>/deps`.
const TARGET_ABOVE_TEST: usize = 3;
/// A program takes at most so long to serve.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What a failed start tells of the log. Unit: bytes.
const LOG_TAIL_BYTES: usize = 4000;

/// A running program. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// The line that told that it serves.
    ready: String,
    /// Carries what it says later into its log.
    _output: JoinSet<()>,
}

impl Recipe {
    /// Starts the program and waits until it serves.
    ///
    /// # Errors
    /// It ended or said nothing within a minute; the error has the end of its log.
    pub async fn start(&self) -> anyhow::Result<Process> {
        let mut log = self.open_log()?;
        writeln!(log, "--- {} {}", self.program.display(), self.arguments.join(" "))?;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        let stdout = child.stdout.take().context("standard output is a pipe")?;
        let mut lines = BufReader::new(stdout);
        let ready = timeout(START_TIMEOUT, self.wait_ready(&mut lines, &mut log)).await;
        let ready = match ready {
            Ok(Ok(ready)) => ready,
            Ok(Err(error)) => {
                let status = child.wait().await?;
                bail!("{}: {error:#}; {status}\n{}", self.name, self.log_tail());
            }
            Err(_) => bail!("{} does not serve after a minute\n{}", self.name, self.log_tail()),
        };
        let mut output = JoinSet::new();
        output.spawn(async move {
            let mut line = String::new();
            while let Ok(1..) = lines.read_line(&mut line).await {
                // A full disk shows elsewhere.
                drop(log.write_all(line.as_bytes()));
                line.clear();
            }
        });
        Ok(Process { name: self.name.clone(), child, ready, _output: output })
    }

    async fn wait_ready(
        &self,
        lines: &mut BufReader<ChildStdout>,
        log: &mut File,
    ) -> anyhow::Result<String> {
        loop {
            let mut line = String::new();
            ensure!(lines.read_line(&mut line).await? > 0, "ended before it served");
            log.write_all(line.as_bytes())?;
            if line.starts_with(&self.ready) {
                return Ok(line.trim_end().to_owned());
            }
        }
    }

    fn open_log(&self) -> anyhow::Result<File> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        log.with_context(|| format!("open {}", self.log.display()))
    }

    /// The end of what the program said.
    fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let begin = log.len().saturating_sub(LOG_TAIL_BYTES);
        String::from_utf8_lossy(log.get(begin..).unwrap_or(&[])).into_owned()
    }
}

impl Process {
    /// The value of `key=value` in the line that told that the program serves.
    ///
    /// # Errors
    /// It is not there.
    pub fn value(&self, key: &str) -> anyhow::Result<&str> {
        let value = self
            .ready
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')));
        value.with_context(|| format!("{} said {:?}, without {key}=", self.name, self.ready))
    }

    /// kill -9: returns when the process is gone, and fails if anything else had ended it.
    ///
    /// # Errors
    /// It had ended by itself.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        let status = self.child.wait().await?;
        ensure!(
            status.signal() == Some(Signal::SIGKILL as i32),
            "{} had ended by itself: {status}",
            self.name
        );
        Ok(())
    }

    /// SIGTERM: returns how the process ended.
    ///
    /// # Errors
    /// It did not end in time; it is killed then.
    pub async fn terminate(mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let ended = timeout(within, self.child.wait()).await;
        Ok(ended.with_context(|| format!("{} goes on after SIGTERM", self.name))??)
    }

    /// SIGSTOP: the process stands still, its connections stay open.
    ///
    /// # Errors
    /// It has ended.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT: the process goes on.
    ///
    /// # Errors
    /// It has ended.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // `None` once it was waited for: its id may be another's by now.
        let id = self.child.id().with_context(|| format!("{} has ended", self.name))?;
        kill(Pid::from_raw(i32::try_from(id)?), signal)
            .with_context(|| format!("send {signal} to {}", self.name))
    }
}

/// Asks again and again until the answer is yes.
///
/// # Errors
/// It was not within the time, or asking failed.
pub async fn wait_until(
    what: &str,
    within: Duration,
    mut condition: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    const PERIOD: Duration = Duration::from_millis(20);
    let asking = async {
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            ticks.tick().await;
            if condition().await? {
                return Ok(());
            }
        }
    };
    timeout(within, asking).await.with_context(|| format!("{what}: not within {within:?}"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(folder: &Folder, script: &str) -> Recipe {
        Recipe {
            name: "sample".into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            ready: "ready ".into(),
            log: folder.join("sample.log"),
        }
    }

    const SERVES: &str = "echo hello; echo ready port=7 admin=8; while :; do sleep 1; done";

    #[tokio::test]
    async fn a_program_that_serves_is_started_and_killed() {
        let folder = Folder::new().unwrap();
        let process = recipe(&folder, SERVES).start().await.unwrap();
        assert_eq!(process.value("admin").unwrap(), "8");
        assert!(process.value("writer").is_err());
        process.kill().await.unwrap();
        let log = std::fs::read_to_string(folder.join("sample.log")).unwrap();
        assert!(log.contains("\nhello\nready port=7 admin=8\n"), "{log}");
    }

    #[tokio::test]
    async fn a_program_that_ends_before_it_serves_is_told_with_its_log() {
        let folder = Folder::new().unwrap();
        let error = recipe(&folder, "echo no disk >&2; exit 74").start().await.unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("sample: ended before it served; exit status: 74\n"), "{error}");
        assert!(error.ends_with("no disk\n"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_ended_by_itself_was_not_killed() {
        let folder = Folder::new().unwrap();
        let mut process = recipe(&folder, "echo ready x=1; exit 3").start().await.unwrap();
        // Its exit is there before our signal; a signal to what has ended changes nothing.
        let id = Pid::from_raw(i32::try_from(process.child.id().unwrap()).unwrap());
        wait_until("it ends", Duration::from_secs(10), async || Ok(process_state(id) == Some('Z')))
            .await
            .unwrap();
        process.name = "sample".into();
        let error = process.kill().await.unwrap_err();
        assert_eq!(error.to_string(), "sample had ended by itself: exit status: 3");
    }

    /// The letter of the process's state, as the kernel tells it.
    fn process_state(id: Pid) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    #[tokio::test]
    async fn a_paused_program_stands_still_until_it_is_resumed() {
        let folder = Folder::new().unwrap();
        let process = recipe(&folder, SERVES).start().await.unwrap();
        let id = Pid::from_raw(i32::try_from(process.child.id().unwrap()).unwrap());
        let within = Duration::from_secs(10);
        process.pause().unwrap();
        wait_until("it stops", within, async || Ok(process_state(id) == Some('T'))).await.unwrap();
        process.resume().unwrap();
        wait_until("it goes on", within, async || Ok(process_state(id) != Some('T')))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_program_ends_at_sigterm() {
        let folder = Folder::new().unwrap();
        let script = "trap 'exit 0' TERM; echo ready x=1; while :; do sleep 0.1; done";
        let process = recipe(&folder, script).start().await.unwrap();
        let status = process.terminate(Duration::from_secs(10)).await.unwrap();
        assert!(status.success(), "{status}");
    }

    #[tokio::test]
    async fn a_condition_that_never_comes_is_named() {
        let never = wait_until("the moon", Duration::from_millis(50), async || Ok(false)).await;
        assert_eq!(never.unwrap_err().to_string(), "the moon: not within 50ms");
    }

    #[test]
    fn a_program_that_is_not_built_is_told_with_the_command() {
        let error = program("no-such-program").unwrap_err().to_string();
        assert!(error.ends_with("build it with `make programs`"), "{error}");
    }

    #[test]
    fn ports_are_free_and_differ() {
        let (one, two) = (free_port().unwrap(), free_port().unwrap());
        assert_ne!(one, two);
        assert!((20_000..30_000).contains(&one), "{one}");
    }
}
