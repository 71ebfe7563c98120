//! A TCP proxy that counts what goes through it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Bytes of one read. Unit: bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Forwards connections until it is dropped.
#[derive(Debug)]
pub struct CountingProxy {
    address: SocketAddr,
    counts: Arc<Counts>,
    _forwarding: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    to_server: AtomicU64,
    from_server: AtomicU64,
}

impl CountingProxy {
    /// A proxy of `server` on a port of its own.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, counts) = (listener.local_addr()?, Arc::new(Counts::default()));
        let mut forwarding = JoinSet::new();
        forwarding.spawn(serve(listener, server, Arc::clone(&counts)));
        Ok(Self { address, counts, _forwarding: forwarding })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients have sent. Unit: bytes.
    #[must_use]
    pub fn sent_by_clients(&self) -> u64 {
        self.counts.to_server.load(Ordering::Relaxed)
    }

    /// What the server has sent. Unit: bytes.
    #[must_use]
    pub fn sent_by_server(&self) -> u64 {
        self.counts.from_server.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, server: SocketAddr, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                connections.spawn(forward(client, server, Arc::clone(&counts)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Until either end is done with it; the other one sees the connection end.
async fn forward(client: TcpStream, server: SocketAddr, counts: Arc<Counts>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    // A delay of ours would be taken for the server's.
    if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(
        copy(from_client, to_server, &counts.to_server),
        copy(from_server, to_client, &counts.from_server),
    );
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &AtomicU64,
) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(len @ 1..) = from.read(&mut piece).await {
        let Some(read) = piece.get(..len) else { return };
        if to.write_all(read).await.is_err() {
            return;
        }
        count.fetch_add(u64::try_from(len).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
    // The other end may be gone already.
    drop(to.shutdown().await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_goes_through_is_counted_in_each_direction() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = CountingProxy::start(listener.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        server.write_all(b"the answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "the answer"));
        assert_eq!((proxy.sent_by_clients(), proxy.sent_by_server()), (8, 10));
    }
}
