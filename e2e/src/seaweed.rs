//! A real S3 server: `SeaweedFS` as a process, on loopback ports and a folder of its own.
//!
//! It runs below a small shell that waits for the end of its standard input. So the server and its
//! folder are gone with the process that started it, also if that one is killed, and one server can
//! be shared by all tests of a program.
//!
//! What suites rely on, found by asking version 4.48:
//!
//! - It checks `x-amz-checksum-crc32c` and `Content-MD5` of a put and stores nothing that differs
//!   from them; it does not check the signed digest of the payload.
//! - Conditional puts are atomic.
//! - What it answered is there after a kill; it does not sync, so a power cut is another matter.

mod certificates;
pub mod signed;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::sync::OnceCell;

use crate::process::{free_port, wait_until};
use crate::seaweed::signed::Request;

/// How long it may take to serve. Usual are 4 s.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What a failed start tells of the log. Unit: bytes.
const LOG_TAIL_BYTES: usize = 4000;

/// Where it is thought to be. It does not care.
pub const REGION: &str = "us-east-1";

/// The shell around the server: `$1` is its folder, `$2` its ports, the rest its command line. The
/// word `kill` ends the server, the end of the input takes the folder, too. (The server puts sockets
/// into `/tmp`, whatever it is told.)
const KEEPER: &str = r#"
folder=$1 ports=$2
shift 2
"$@" >>"$folder/log" 2>&1 </dev/null &
echo $!
read -r word
kill -9 $!
wait $! 2>/dev/null
[ "$word" = kill ] && exit 0
rm -rf "$folder"
for port in $ports; do rm -f /tmp/seaweedfs-*-"$port".sock; done
exit 0
"#;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
}

impl Credentials {
    fn new(access_key: &str, secret_key: &str) -> Self {
        Self { access_key: access_key.to_owned(), secret_key: secret_key.to_owned() }
    }

    /// May do everything.
    #[must_use]
    pub fn admin() -> Self {
        Self::new("pyramid-admin", "the-admin-is-trusted")
    }

    /// May read and list everything, and write nothing.
    #[must_use]
    pub fn reader() -> Self {
        Self::new("pyramid-reader", "the-reader-looks-only")
    }

    /// Known to the server, and without any right.
    #[must_use]
    pub fn stranger() -> Self {
        Self::new("pyramid-stranger", "the-stranger-stays-out")
    }

    /// Writes them as the Writer takes them: a folder with `accessKeyId` and `secretAccessKey`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_into(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("accessKeyId"), &self.access_key)?;
        std::fs::write(folder.join("secretAccessKey"), &self.secret_key)?;
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    master: [u16; 2],
    volume: [u16; 2],
    filer: [u16; 2],
    s3: [u16; 2],
    https: u16,
}

impl Ports {
    fn free() -> anyhow::Result<Self> {
        let pair = || Ok::<_, anyhow::Error>([free_port()?, free_port()?]);
        let (master, volume, filer, s3) = (pair()?, pair()?, pair()?, pair()?);
        Ok(Self { master, volume, filer, s3, https: free_port()? })
    }

    fn words(&self) -> String {
        let ports = [self.master, self.volume, self.filer, self.s3].concat();
        ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ")
    }
}

/// The server. It ends when this is dropped, or with this process.
#[derive(Debug)]
pub struct Seaweed {
    folder: PathBuf,
    ports: Ports,
    buckets: AtomicU32,
    keeper: Mutex<Option<Keeper>>,
}

/// The shell, while the server runs.
#[derive(Debug)]
struct Keeper {
    shell: Child,
    input: ChildStdin,
}

impl Seaweed {
    /// Starts a server with nothing in it and waits until it serves.
    ///
    /// # Errors
    /// The program is not there, which the error tells how to mend; or it does not serve.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("pyramid-s3-").tempdir()?.keep();
        std::fs::create_dir(folder.join("data"))?;
        std::fs::write(folder.join("identities.json"), identities())?;
        certificates::write(&folder)?;
        let ports = Ports::free()?;
        let server = Self { folder, ports, buckets: AtomicU32::new(0), keeper: Mutex::new(None) };
        server.start_again().await?;
        Ok(server)
    }

    /// The server that all tests of this program share. It must not be killed.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn shared() -> anyhow::Result<&'static Self> {
        static SHARED: OnceCell<Seaweed> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    /// Starts it again after [`Self::kill`], on the same folder and ports.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_again(&self) -> anyhow::Result<()> {
        let keeper = self.spawn()?;
        *self.keeper()? = Some(keeper);
        let serving = wait_until("SeaweedFS serves", START_TIMEOUT, async || {
            Ok(self.create_bucket("ready").await.is_ok() && self.stores().await)
        });
        serving.await.with_context(|| self.log_tail())
    }

    /// Whether it takes content. Buckets are known sooner than volumes.
    async fn stores(&self) -> bool {
        let object = |method| Request::new(method, "/ready/content".to_owned());
        let content = Bytes::from_static(b"content");
        let put = self.send(object(Method::PUT).body(content.clone())).await;
        let got = self.send(object(Method::GET)).await;
        matches!(put, Ok((StatusCode::OK, _))) && got.is_ok_and(|(_, body)| body == content)
    }

    fn spawn(&self) -> anyhow::Result<Keeper> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let Ports { master, volume, filer, s3, https } = self.ports;
        let mut arguments = vec!["server".to_owned(), "-filer".to_owned(), "-s3".to_owned()];
        let mut set = |flag: &str, value: String| arguments.push(format!("-{flag}={value}"));
        set("ip", "127.0.0.1".into());
        set("ip.bind", "127.0.0.1".into());
        set("dir", path("data"));
        for (part, [port, grpc]) in
            [("master", master), ("volume", volume), ("filer", filer), ("s3", s3)]
        {
            set(&format!("{part}.port"), port.to_string());
            set(&format!("{part}.port.grpc"), grpc.to_string());
        }
        set("s3.port.https", https.to_string());
        set("s3.cert.file", path("server.crt"));
        set("s3.key.file", path("server.key"));
        // Catalogs of table formats, which would take fixed ports.
        set("s3.port.iceberg", "0".into());
        set("s3.port.lance", "0".into());
        set("s3.config", path("identities.json"));
        set("s3.iam", "false".into());
        // Else a put into a missing bucket creates it.
        set("s3.autoCreateBucket", "false".into());
        // Each bucket takes several volumes.
        set("volume.max", "2000".into());
        set("master.volumeSizeLimitMB", "64".into());
        set("master.telemetry", "false".into());
        // Alone, it may elect itself at once, also when it starts again.
        set("master.electionTimeout", "500ms".into());
        set("master.heartbeatInterval", "100ms".into());
        set("master.resumeState", "false".into());
        let mut shell = Command::new("/bin/sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&self.folder)
            .arg(self.ports.words())
            .arg(program()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start /bin/sh")?;
        let input = shell.stdin.take().context("standard input is a pipe")?;
        let output = shell.stdout.take().context("standard output is a pipe")?;
        let mut id = String::new();
        BufReader::new(output).read_line(&mut id)?;
        ensure!(id.trim().parse::<u32>().is_ok(), "the shell started nothing: {id:?}");
        Ok(Keeper { shell, input })
    }

    /// kill -9: returns when the process is gone. What it stored stays.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self) -> anyhow::Result<()> {
        let Keeper { mut shell, mut input } =
            self.keeper()?.take().context("SeaweedFS does not run")?;
        input.write_all(b"kill\n")?;
        let status = shell.wait()?;
        ensure!(status.success(), "the shell around SeaweedFS ended with {status}");
        Ok(())
    }

    fn keeper(&self) -> anyhow::Result<std::sync::MutexGuard<'_, Option<Keeper>>> {
        self.keeper.lock().map_err(|_poisoned| anyhow::anyhow!("another test panicked here"))
    }

    /// Where it speaks HTTP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let [port, _] = self.ports.s3;
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// Where it speaks HTTP, as a URL.
    #[must_use]
    pub fn http(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Where it speaks HTTPS, with a certificate of [`Self::ca`].
    #[must_use]
    pub fn https_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.https).into()
    }

    /// Where it speaks HTTPS, as a URL.
    #[must_use]
    pub fn https(&self) -> String {
        format!("https://{}", self.https_address())
    }

    /// The authority of its certificate, as PEM.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Another authority of the same name, as PEM.
    #[must_use]
    pub fn other_ca(&self) -> PathBuf {
        self.folder.join("other-ca.crt")
    }

    /// Creates a bucket of its own for a test.
    ///
    /// # Errors
    /// The server's answer.
    pub async fn new_bucket(&self) -> anyhow::Result<String> {
        let bucket = format!("bucket-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        self.create_bucket(&bucket).await?;
        Ok(bucket)
    }

    /// Creates this bucket, if it is not there.
    ///
    /// # Errors
    /// The server's answer.
    pub async fn create_bucket(&self, name: &str) -> anyhow::Result<()> {
        let request = Request::new(Method::PUT, format!("/{name}"));
        let (status, body) = self.send(request).await?;
        // A server that was started again has it already.
        ensure!(
            status == StatusCode::OK || status == StatusCode::CONFLICT,
            "create bucket {name}: {status} {}",
            String::from_utf8_lossy(&body)
        );
        Ok(())
    }

    /// Sends a request as the admin, straight to the server.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send(&self, request: Request) -> anyhow::Result<(StatusCode, Bytes)> {
        request.send(self.address(), &Credentials::admin()).await
    }

    /// The end of what it said.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.folder.join("log")).unwrap_or_default();
        let begin = log.len().saturating_sub(LOG_TAIL_BYTES);
        String::from_utf8_lossy(log.get(begin..).unwrap_or(&[])).into_owned()
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        let Ok(keeper) = self.keeper.get_mut() else { return };
        let folder = match keeper.take() {
            Some(Keeper { mut shell, input }) => {
                drop(input);
                shell.wait().err().map(|_| &self.folder)
            }
            None => Some(&self.folder),
        };
        if let Some(folder) = folder {
            // What is left of it is in the machine's temporary folder.
            drop(std::fs::remove_dir_all(folder));
        }
    }
}

/// The program, as `make tools` installs it.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/weed");
    let program = PathBuf::from(tools);
    ensure!(File::open(&program).is_ok(), "SeaweedFS is not there; install it with `make tools`");
    Ok(program)
}

/// The server's list of users.
pub(crate) fn identities() -> String {
    let identity = |name: &str, credentials: Credentials, actions: &[&str]| {
        serde_json::json!({
            "name": name,
            "credentials": [
                { "accessKey": credentials.access_key, "secretKey": credentials.secret_key },
            ],
            "actions": actions,
        })
    };
    let identities = [
        identity("admin", Credentials::admin(), &["Admin", "Read", "List", "Tagging", "Write"]),
        identity("reader", Credentials::reader(), &["Read", "List"]),
        identity("stranger", Credentials::stranger(), &["Read:another-bucket"]),
    ];
    serde_json::json!({ "identities": identities }).to_string()
}

#[cfg(test)]
mod tests;
