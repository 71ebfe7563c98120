//! Callers with identities: connections in memory, each of which says who is at its other end.

use std::io;
use std::sync::Arc;

use pyramid_protocol::SpiffeId;
use pyramid_protocol::net::{Accept, Accepted, BoxIo, Connect, Peer, channel};
use pyramid_protocol::pb::v1::admin_client::AdminClient;
use pyramid_protocol::pb::v1::writer_client::WriterClient;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{Mutex, mpsc};
use tonic::transport::Channel;

/// Bytes on their way in one direction of a connection.
const PIPE_BYTES: usize = 1 << 16;

type Knock = (DuplexStream, Option<SpiffeId>);

/// The operator of these tests' trust domain.
pub(crate) const OPERATOR: &str = "spiffe://td/operator";

/// Opens connections to one replica.
pub(crate) struct Tenants {
    writer: mpsc::Sender<Knock>,
    admin: mpsc::Sender<Knock>,
}

/// One of them, on its own connections.
#[derive(Clone)]
pub(crate) struct Tenant {
    pub(crate) calls: WriterClient<Channel>,
    pub(crate) admin: AdminClient<Channel>,
}

impl Tenants {
    /// With what the doors of both ports are made of.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Knock>, mpsc::Receiver<Knock>) {
        let (writer, writers) = mpsc::channel(16);
        let (admin, admins) = mpsc::channel(16);
        (Self { writer, admin }, writers, admins)
    }

    /// Somebody with this identity.
    pub(crate) fn tenant(&self, identity: &str) -> Tenant {
        self.connect(Some(&identity.parse().unwrap()))
    }

    /// Somebody without TLS.
    pub(crate) fn local(&self) -> Tenant {
        self.connect(None)
    }

    fn connect(&self, identity: Option<&SpiffeId>) -> Tenant {
        let to = |door: &mpsc::Sender<Knock>| {
            let connect = Pipe { door: door.clone(), identity: identity.cloned() };
            channel(Arc::new(connect), "in-memory:1").unwrap()
        };
        Tenant {
            calls: WriterClient::new(to(&self.writer)),
            admin: AdminClient::new(to(&self.admin)),
        }
    }
}

struct Pipe {
    door: mpsc::Sender<Knock>,
    identity: Option<SpiffeId>,
}

#[tonic::async_trait]
impl Connect for Pipe {
    async fn connect(&self, _address: &str) -> io::Result<BoxIo> {
        let (here, there) = duplex(PIPE_BYTES);
        let knock = (there, self.identity.clone());
        self.door.send(knock).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(here))
    }
}

/// Takes connections of sockets and those in memory.
pub(crate) struct Door {
    sockets: Box<dyn Accept>,
    pipes: Mutex<mpsc::Receiver<Knock>>,
}

impl Door {
    pub(crate) fn new(sockets: Box<dyn Accept>, pipes: mpsc::Receiver<Knock>) -> Self {
        Self { sockets, pipes: Mutex::new(pipes) }
    }
}

#[tonic::async_trait]
impl Accept for Door {
    async fn accept(&self) -> io::Result<Accepted> {
        let mut pipes = self.pipes.lock().await;
        tokio::select! {
            accepted = self.sockets.accept() => accepted,
            Some((io, identity)) = pipes.recv() => {
                let peer = Peer { address: "in memory".to_owned(), identity };
                Ok(Accepted::new(Box::new(io), peer.into()))
            }
        }
    }
}

/// Takes no connection.
pub(crate) struct Nobody;

#[tonic::async_trait]
impl Accept for Nobody {
    async fn accept(&self) -> io::Result<Accepted> {
        std::future::pending().await
    }
}
