//! One question to the cluster's DNS: it is ready when it knows the API server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// A server that does not know yet may say nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest answer over UDP without extensions. Unit: bytes.
const ANSWER_LEN_MAX: usize = 512;

/// The address that a server gives for a name.
///
/// # Errors
/// It does not answer, or has none.
pub(super) async fn address(server: SocketAddr, name: &str) -> anyhow::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question(name)?).await?;
    let mut answer = vec![0; ANSWER_LEN_MAX];
    let len = timeout(ANSWER_TIMEOUT, socket.recv(&mut answer)).await??;
    answer.truncate(len);
    parsed(&answer).with_context(|| format!("{server} has no address for {name}"))
}

/// A question for the IPv4 address of a name.
fn question(name: &str) -> anyhow::Result<Vec<u8>> {
    // Number, "recursion desired", one question.
    let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len())?);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(bytes)
}

/// The address of an answer with one record, which ends in it.
fn parsed(answer: &[u8]) -> Option<Ipv4Addr> {
    // No error, and one record.
    let (flags, records) = (answer.get(3)?, answer.get(6..8)?);
    if flags & 0x0f != 0 || records != [0, 1] {
        return None;
    }
    let (_, end) = answer.split_at_checked(answer.len().checked_sub(6)?)?;
    let [0, 4, a, b, c, d] = *end else { return None };
    Some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Vec<u8> {
        let mut answer = question("a.bc").unwrap();
        assert_eq!(answer.get(12..), Some(&b"\x01a\x02bc\0\0\x01\0\x01"[..]));
        answer[2..4].copy_from_slice(&[0x85, 0x80]);
        answer[7] = 1;
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 1, 2, 3]);
        answer
    }

    #[test]
    fn the_address_of_an_answer_is_read() {
        assert_eq!(parsed(&answer()), Some(Ipv4Addr::new(10, 1, 2, 3)));
    }

    #[test]
    fn an_answer_without_an_address_is_told() {
        let mut unknown = answer();
        unknown[3] = 0x83;
        assert_eq!(parsed(&unknown), None);
        let mut none = answer();
        none[7] = 0;
        assert_eq!(parsed(&none), None);
        assert_eq!(parsed(&[]), None);
    }
}
