//! [`Environment`]: what differs between production and a simulation.

use std::net::SocketAddr;
use std::sync::Arc;

use pyramid_protocol::net::{Accept, TcpAccept};
use pyramid_protocol::{Clock, Entropy, SystemClock, SystemEntropy};
use pyramid_storage::{Keks, ObjectStore};
use pyramid_tls::Tls;

use super::{Error, settings};
use crate::config::Config;
use crate::disk::{Disk, RealDisk};

/// What differs between production and a simulation.
pub struct Environment {
    /// Below it lies all that this replica keeps.
    pub disk: Arc<dyn Disk>,
    /// Where chunks go.
    pub store: Arc<dyn ObjectStore>,
    /// What wraps keys.
    pub keks: Keks,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Ids, keys, elections.
    pub entropy: Arc<dyn Entropy>,
    /// Takes connections for the `Writer` service.
    pub writer: Box<dyn Accept>,
    /// Takes connections for the `Admin` service.
    pub admin: Box<dyn Accept>,
    /// Takes connections for health and metrics; `None`: they are not served.
    pub ops: Option<Box<dyn Accept>>,
    /// What both ports prove themselves with, kept up to date while the replica runs.
    pub tls: Option<Tls>,
}

/// Where a replica listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The `Writer` service.
    pub writer: SocketAddr,
    /// The `Admin` service.
    pub admin: SocketAddr,
    /// Health and metrics, if they are served.
    pub ops: Option<SocketAddr>,
}

impl Environment {
    /// This machine's: a real disk, the object store of the settings, TCP with TLS.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`]: what of it cannot be had, and which flag changes it.
    pub async fn open(
        config: &Config,
        writer: SocketAddr,
        admin: SocketAddr,
        ops: Option<SocketAddr>,
    ) -> Result<(Self, Addresses), Error> {
        let keks = Keks::load(&config.kek_file)
            .map_err(settings(format!("--kek-file {}", config.kek_file.display())))?;
        let disk = RealDisk::open(&config.data_dir)
            .map_err(settings(format!("--data-dir {}", config.data_dir.display())))?;
        let store = config
            .object_store
            .open()
            .await
            .map_err(settings(format!("--object-store {}", config.object_store)))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let tls = match &config.tls {
            Some(directory) => Some(
                Tls::open_writer(directory, Arc::clone(&clock))
                    .map_err(settings(format!("--tls {}", directory.display())))?,
            ),
            None => None,
        };
        let writer = bind("--listen", writer, tls.as_ref()).await?;
        let admin = bind("--admin-listen", admin, tls.as_ref()).await?;
        let ops = match ops {
            Some(address) => Some(listen("--ops-listen", address).await?),
            None => None,
        };
        let listening = ops.as_ref().map(|ops| ops.1);
        let addresses = Addresses { writer: writer.1, admin: admin.1, ops: listening };
        let environment = Self {
            disk: Arc::new(disk),
            store,
            keks,
            clock,
            entropy: Arc::new(SystemEntropy),
            writer: writer.0,
            admin: admin.0,
            ops: ops.map(|ops| Box::new(ops.0) as Box<dyn Accept>),
            tls,
        };
        Ok((environment, addresses))
    }
}

async fn bind(
    flag: &str,
    address: SocketAddr,
    tls: Option<&Tls>,
) -> Result<(Box<dyn Accept>, SocketAddr), Error> {
    if tls.is_none() && !address.ip().is_loopback() {
        return Err(settings(format!("{flag} {address}"))(
            "without TLS only a loopback address is served; give --tls with the directory of key, \
             certificate and trust bundle",
        ));
    }
    let (accept, address) = listen(flag, address).await?;
    let accept: Box<dyn Accept> = match tls {
        Some(tls) => Box::new(tls.accept(accept)),
        None => Box::new(accept),
    };
    Ok((accept, address))
}

async fn listen(flag: &str, address: SocketAddr) -> Result<(TcpAccept, SocketAddr), Error> {
    let what = || settings(format!("{flag} {address}"));
    let accept = TcpAccept::bind(address).await.map_err(what())?;
    let address = accept.local_address().map_err(what())?;
    Ok((accept, address))
}
