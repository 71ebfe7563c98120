//! Why a Writer does not answer a caller, found out before the first call.
//!
//! With TLS a connection that is open has been accepted on both sides, and one that is not says why.
//! Without TLS an open connection says nothing: a probe greets and looks at the first bytes of the
//! server, which in HTTP/2 are its settings.

use std::io::{self, ErrorKind};
use std::time::Duration;

use anyhow::{anyhow, bail};
use pyramid_protocol::net::{BoxIo, Connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long a program may take to answer a connection; a handshake of TLS gives up before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);

/// What a client of HTTP/2 says first: the preface and empty settings (RFC 9113, 3.4 and 6.5).
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Of a frame of HTTP/2. Unit: bytes.
const FRAME_HEAD_LEN: usize = 9;
/// Where its type is, and that of settings.
const FRAME_TYPE_AT: usize = 3;
const SETTINGS: u8 = 4;
/// First byte of an alert of TLS (RFC 8446, 5.1).
const TLS_ALERT: u8 = 21;

/// Nobody listens there.
#[derive(Debug, thiserror::Error)]
#[error("nothing answers at {address}: {source}")]
pub(super) struct Absent {
    address: String,
    source: io::Error,
}

/// Connects, and waits until the server has accepted this caller.
///
/// # Errors
///
/// [`Absent`], or what is wrong between the two, with what to do.
pub(super) async fn probe(
    connect: &dyn Connect,
    address: &str,
    is_secure: bool,
) -> anyhow::Result<()> {
    let probing = async {
        let mut io = match connect.connect(address).await {
            Ok(_accepted) if is_secure => return Ok(()),
            Ok(io) => io,
            Err(source) if is_network(&source) => {
                return Err(Absent { address: address.to_owned(), source }.into());
            }
            // It shows what is inside of it.
            Err(error) => bail!("{address}: {error}"),
        };
        match greet(&mut io).await {
            Ok(head) if head.get(FRAME_TYPE_AT) == Some(&SETTINGS) => Ok(()),
            Ok([TLS_ALERT, ..]) => Err(speaks_tls(address)),
            // A server that wants TLS may hang up without a word.
            Err(error) if is_end(&error) => Err(speaks_tls(address)),
            Ok(_) => bail!("what answers at {address} is not a Writer; is it the Writer's port?"),
            Err(error) => bail!("{address}: {error}"),
        }
    };
    match timeout(ANSWER_TIMEOUT, probing).await {
        Ok(probed) => probed,
        Err(_elapsed) => bail!(
            "{address} does not answer in {} s; is it the Writer's address?",
            ANSWER_TIMEOUT.as_secs()
        ),
    }
}

/// The first bytes that the server says.
async fn greet(io: &mut BoxIo) -> io::Result<[u8; FRAME_HEAD_LEN]> {
    let mut head = [0; FRAME_HEAD_LEN];
    io.write_all(GREETING).await?;
    io.flush().await?;
    let mut len = 0;
    while let Some(rest) = head.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match io.read(rest).await? {
            // An alert is shorter than a frame.
            0 if head.first() == Some(&TLS_ALERT) => break,
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => len += read,
        }
    }
    Ok(head)
}

fn speaks_tls(address: &str) -> anyhow::Error {
    anyhow!(
        "{address} takes no connection without TLS; give --tls with a directory that has tls.key, \
         tls.crt and ca.crt, or --data-dir if it is a `pyramid dev`"
    )
}

/// Trouble below TLS: what the operating system says of the network.
fn is_network(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
    )
}

#[cfg(test)]
mod tests {
    use pyramid_protocol::net;
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// A server of which everything is known.
    struct Says(&'static [u8]);

    #[tonic::async_trait]
    impl Connect for Says {
        async fn connect(&self, _address: &str) -> io::Result<BoxIo> {
            let (mut there, here): (DuplexStream, DuplexStream) = duplex(1024);
            there.write_all(self.0).await?;
            let mut greeting = [0; GREETING.len()];
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(async move { there.read_exact(&mut greeting).await.map(|_| ()) });
            Ok(Box::new(net::Kept::new(Box::new(here), tasks)))
        }
    }

    async fn answer(says: &'static [u8]) -> String {
        match probe(&Says(says), "h:1", false).await {
            Ok(()) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn what_answers_in_clear_is_told_by_its_first_bytes() {
        assert_eq!(answer(b"\0\0\x06\x04\0\0\0\0\0more").await, "accepted");
        for says in [&b"\x15\x03\x03\0\x02\x02\x28"[..], b"", b"\0\0\x06"] {
            let error = answer(says).await;
            assert!(
                error.starts_with("h:1 takes no connection without TLS; give --tls"),
                "{error}"
            );
        }
        let error = answer(b"HTTP/1.1 400 Bad Request\r\n").await;
        assert!(error.starts_with("what answers at h:1 is not a Writer"), "{error}");
    }
}
