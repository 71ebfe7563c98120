//! An API server with its etcd and nothing else, on loopback: what it is told it keeps, and no
//! controller, scheduler or kubelet does anything about it.
//!
//! Both run below a small shell that waits for the end of its standard input, in a session of its
//! own that hears no Ctrl-C. So they and their folder are gone with the process that started them,
//! however that one ends, and one server can be shared by all tests of a program.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use crate::cluster::certificates::Authority;
use crate::cluster::control_plane::{ACCOUNT_ISSUER, EtcdPorts, any_api_server, etcd, flags};
use crate::cluster::tools::api_server_programs;
use crate::cluster::unit::{Process, quoted};
use crate::process::{free_port, wait_until};

/// How long it may take to listen. Usual are 5 s.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// What a failed start tells of each log. Unit: bytes.
const LOG_TAIL_BYTES: usize = 4000;

/// Addresses of Services. Nobody is reached at them.
const SERVICES: &str = "10.96.0.0/16";

/// Half of a signature. Unit: bytes.
const HALF_LEN: usize = 32;

/// An API server. It ends with this process.
#[derive(Debug)]
pub struct ApiServer {
    folder: PathBuf,
    address: SocketAddr,
    /// Signs the tokens of service accounts.
    account_key: KeyPair,
    /// The shell waits for its end.
    _input: ChildStdin,
}

impl ApiServer {
    /// The server that all tests of this program share. When it is there it listens; it may still
    /// fill itself: ask `/readyz` first.
    ///
    /// # Errors
    /// A program is not there, which the error tells how to mend; or one ended, with its log.
    pub async fn shared() -> anyhow::Result<&'static Self> {
        static SHARED: OnceCell<ApiServer> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    async fn start() -> anyhow::Result<Self> {
        let programs = api_server_programs()?;
        let folder = tempfile::Builder::new().prefix("pyramid-api-").tempdir()?.keep();
        let pki = folder.join("pki");
        let authority = Authority::new(&pki)?;
        authority.issue("apiserver", "kube-apiserver", "", &[], &[Ipv4Addr::LOCALHOST])?;
        authority.issue("admin", "admin", "system:masters", &[], &[])?;
        let account_key = authority.make_account_key()?;
        let address = (Ipv4Addr::LOCALHOST, free_port()?).into();
        authority.kubeconfig(&folder.join("kubeconfig"), "admin", address)?;
        let mut shell = Command::new("setsid")
            .args(["sh", "-c", &script(&folder, &programs, address.port())?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start setsid")?;
        let input = shell.stdin.take().context("standard input is a pipe")?;
        let output = shell.stdout.take().context("standard output is a pipe")?;
        let server = Self { folder, address, account_key, _input: input };
        server.wait_until_it_listens(output).await?;
        Ok(server)
    }

    /// The shell tells the ids of both processes in a line.
    async fn wait_until_it_listens(&self, output: ChildStdout) -> anyhow::Result<()> {
        let mut ids = String::new();
        BufReader::new(output).read_line(&mut ids)?;
        let processes = ids.split_whitespace().map(|id| Ok(Process::now(id.parse()?)));
        let processes: Vec<Option<Process>> = processes.collect::<anyhow::Result<_>>()?;
        ensure!(processes.len() == 2, "the shell started {ids:?}, not two processes");
        let listening = wait_until("the API server listens", START_TIMEOUT, async || {
            let run = processes.iter().all(|process| process.is_some_and(Process::runs));
            ensure!(run, "the API server or its etcd has ended");
            Ok(TcpStream::connect(self.address).await.is_ok())
        });
        let listening = listening.await;
        listening.with_context(|| format!("{}{}", self.tail("etcd"), self.tail("api")))
    }

    /// How its administrator reaches it.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// A token of its issuer with these claims, besides the issuer: one as it gives out itself, or
    /// one that it would not.
    ///
    /// # Errors
    /// The claims are no object.
    pub fn sign_token(&self, claims: &Value) -> anyhow::Result<String> {
        let mut claims = claims.as_object().context("claims are an object")?.clone();
        claims.insert("iss".to_owned(), ACCOUNT_ISSUER.into());
        let header = json!({"alg": "ES256", "typ": "JWT"});
        let encoded = |value: String| URL_SAFE_NO_PAD.encode(value);
        let signed = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(Value::Object(claims).to_string())
        );
        let signature = halves(&self.account_key.sign(signed.as_bytes())?)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.concat())))
    }

    /// The end of what one of the two said.
    fn tail(&self, name: &str) -> String {
        let log = std::fs::read(self.folder.join(format!("{name}.log"))).unwrap_or_default();
        let begin = log.len().saturating_sub(LOG_TAIL_BYTES);
        format!("--- {name}\n{}", String::from_utf8_lossy(log.get(begin..).unwrap_or_default()))
    }
}

/// Runs both, tells their ids, and ends them with its input.
fn script(folder: &Path, programs: &[PathBuf; 2], port: u16) -> anyhow::Result<String> {
    let ports = EtcdPorts { client: free_port()?, peer: free_port()? };
    let mut api = any_api_server(&folder.join("pki"), ports, port);
    api.extend(flags(&[
        ("bind-address", Ipv4Addr::LOCALHOST.to_string()),
        ("service-cluster-ip-range", SERVICES.into()),
        // Else it makes itself a Service, which must not lead to loopback.
        ("endpoint-reconciler-type", "none".into()),
        ("authorization-mode", "RBAC".into()),
    ]));
    let mut script = String::new();
    let all = [("etcd", etcd(&folder.join("etcd"), ports)), ("api", api)];
    for ((name, arguments), program) in all.into_iter().zip(programs) {
        let log = quoted(&folder.join(format!("{name}.log")).display().to_string());
        script += &quoted(&program.display().to_string());
        for argument in &arguments {
            script.push(' ');
            script.push_str(&quoted(argument));
        }
        script += &format!(" >{log} 2>&1 </dev/null &\n{name}=$!\n");
    }
    let folder = quoted(&folder.display().to_string());
    script += &format!(
        "echo $etcd $api\nexec >/dev/null\nread -r _\nkill -9 $etcd $api\nwait\nrm -rf {folder}\n"
    );
    Ok(script)
}

/// The two numbers of a signature, which a token holds bare and a certificate as DER.
fn halves(der: &[u8]) -> anyhow::Result<[[u8; HALF_LEN]; 2]> {
    let [0x30, _len, numbers @ ..] = der else { bail!("a signature is a sequence") };
    let (first, rest) = number(numbers)?;
    let (second, rest) = number(rest)?;
    ensure!(rest.is_empty(), "a signature has two numbers");
    Ok([first, second])
}

fn number(der: &[u8]) -> anyhow::Result<([u8; HALF_LEN], &[u8])> {
    let [0x02, len, rest @ ..] = der else { bail!("a signature has two numbers") };
    let (digits, rest) = rest.split_at_checked(usize::from(*len)).context("a number is whole")?;
    // The sign takes a byte of its own, and zeros in front are left out.
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    let digits = digits.get(zeros..).unwrap_or_default();
    let mut padded = [0; HALF_LEN];
    let place = HALF_LEN.checked_sub(digits.len()).and_then(|begin| padded.get_mut(begin..));
    place.context("a number has 32 bytes")?.copy_from_slice(digits);
    Ok((padded, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_two_numbers_of_full_length() {
        let padded = |end: &[u8]| {
            let mut number = [0; HALF_LEN];
            number[HALF_LEN - end.len()..].copy_from_slice(end);
            number
        };
        let der = [0x30, 7, 0x02, 2, 0, 0x80, 0x02, 1, 5];
        assert_eq!(halves(&der).unwrap(), [padded(&[0x80]), padded(&[5])]);
        for cut in 0..der.len() {
            assert!(halves(&der[..cut]).is_err(), "{cut}");
        }
        let long = [&[0x30, 39, 0x02, 33][..], &[1; 33], &[0x02, 1, 5]].concat();
        assert!(halves(&long).is_err());
    }
}
