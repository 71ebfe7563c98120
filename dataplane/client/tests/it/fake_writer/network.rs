//! Connections that can be broken, from both ends at once.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use pyramid_protocol::net::{Accept, Accepted, Peer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Nothing that a test waits for takes longer on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// All connections of one server.
#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Mutex<CancellationToken>>);

impl Network {
    /// Breaks those that are open; new ones are taken.
    pub(crate) fn break_connections(&self) {
        std::mem::take(&mut *self.0.lock().unwrap()).cancel();
    }
}

pub(crate) struct KillableAccept<A> {
    pub(crate) inner: A,
    pub(crate) network: Network,
}

#[tonic::async_trait]
impl<A: Accept> Accept for KillableAccept<A> {
    async fn accept(&self) -> io::Result<Accepted> {
        let io = self.inner.accept().await?;
        let killed = self.network.0.lock().unwrap().clone();
        let io = Killable { io, killed: Box::pin(killed.cancelled_owned()), is_killed: false };
        Ok(Accepted::new(Box::new(io), Peer::default().into()))
    }
}

struct Killable {
    io: Accepted,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    is_killed: bool,
}

impl Killable {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_killed = self.is_killed || self.killed.as_mut().poll(cx).is_ready();
        if self.is_killed { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Killable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Killable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
