//! A `pyramid dev` on free ports and a directory of its own, and commands that mean it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// What a test waits for must come within this time, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The command, with nothing of the surroundings of the test.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pyramid"));
    for (name, _) in std::env::vars_os() {
        // Tests may run in a pod, too.
        let name_text = name.to_string_lossy();
        if name_text.starts_with("PYRAMID_") || name_text == "KUBERNETES_SERVICE_HOST" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// What it printed; it must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        self.stdout
    }

    /// What it printed, as JSON lines; it must have succeeded.
    #[track_caller]
    pub(crate) fn json(self) -> Vec<Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What it complained about; it must have ended with this code and printed nothing.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{self:?}");
        self.stderr
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ended {
    command.output().unwrap().into()
}

/// Lines of a child's output, each awaited with a deadline.
pub(crate) struct Lines(mpsc::Receiver<String>);

impl Lines {
    pub(crate) fn new(output: ChildStdout) -> Self {
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self(lines)
    }

    #[track_caller]
    pub(crate) fn next(&self) -> String {
        self.0.recv_timeout(DEADLINE).expect("a line within the deadline")
    }
}

/// A child that is killed when the test is over.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A data directory, and the `pyramid dev` on it.
pub(crate) struct Dev {
    pub(crate) folder: TempDir,
    flags: Vec<String>,
    running: Option<Running>,
    /// What it said when it was ready.
    pub(crate) ready: Value,
}

impl Dev {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let mut dev = Self {
            folder: tempfile::tempdir().unwrap(),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            running: None,
            ready: Value::Null,
        };
        dev.restart();
        dev
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts it, again, and waits until it is ready.
    pub(crate) fn restart(&mut self) {
        let mut running = self.dev().stdout(Stdio::piped()).spawn().map(Running).unwrap();
        let ready = Lines::new(running.0.stdout.take().unwrap()).next();
        self.ready = serde_json::from_str(&ready).unwrap();
        self.running = Some(running);
    }

    /// `pyramid dev` on this directory and free ports.
    pub(crate) fn dev(&self) -> Command {
        let mut command = command();
        command.args(["dev", "--output", "json", "--data-dir"]).arg(self.data_dir());
        for port in ["--listen", "--admin-listen", "--local-listen"] {
            if !self.flags.iter().any(|flag| flag == port) {
                command.args([port, "127.0.0.1:0"]);
            }
        }
        command.args(&self.flags);
        command
    }

    /// Ends it with this signal. Returns its exit code.
    pub(crate) fn signal(&mut self, signal: nix::sys::signal::Signal) -> Option<i32> {
        let mut running = self.running.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(running.0.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        running.0.wait().unwrap().code()
    }

    /// A command that means this Writer.
    pub(crate) fn command(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Command {
        let mut command = command();
        command.args(arguments).env("PYRAMID_DATA_DIR", self.data_dir());
        command
    }

    /// Runs one to its end.
    pub(crate) fn run<const N: usize>(&self, arguments: [&str; N]) -> Ended {
        run(&mut self.command(arguments))
    }

    /// Runs one that gets `input`.
    pub(crate) fn run_with_input<const N: usize>(
        &self,
        arguments: [&str; N],
        input: &[u8],
    ) -> Ended {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that has ended early does not read all.
        drop(child.stdin.take().unwrap().write_all(input));
        child.wait_with_output().unwrap().into()
    }

    /// All files of the object store with this suffix, in order.
    pub(crate) fn objects(&self, suffix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.data_dir().join("objects")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension() == Some(OsStr::new(suffix)) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
