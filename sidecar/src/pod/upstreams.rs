//! [`Upstreams`]: clients of the Writers that the bootstrap configuration names, kept while they are
//! named the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pyramid_client::{Client, connection};
use pyramid_protocol::bootstrap::{Bootstrap, WriterAddress};
use pyramid_protocol::net::Connect;
use pyramid_protocol::{Entropy, SpiffeId};
use pyramid_storage::{Fetcher, HttpSettings};
use pyramid_tls::Tls;

use crate::routes::{Delivery, Routes, Upstream};

/// Makes routes from what is known.
pub(super) struct Upstreams {
    pub(super) namespace: String,
    /// Bare names of the pod's subscriptions, with their whole names.
    pub(super) subscriptions: Vec<(String, Arc<str>)>,
    /// Whole names of the streams that the application means to append to.
    pub(super) append: Vec<String>,
    pub(super) app_port: Option<u16>,
    pub(super) connect: Arc<dyn Connect>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) call_timeout: Duration,
    /// By the name of the Writer. One that is not named any more is kept: calls that are open go on
    /// with it, and it may come back.
    pub(super) open: BTreeMap<String, (WriterAddress, Arc<Upstream>)>,
    /// What was said to be missing.
    pub(super) missing: BTreeSet<String>,
}

impl Upstreams {
    /// What is where.
    pub(super) fn routes(&mut self, bootstrap: &Bootstrap, tls: &Tls) -> Routes {
        for (name, address) in &bootstrap.writers {
            if let Err(error) = self.meet(name, address, &bootstrap.trust_domain, tls) {
                tracing::warn!("the Writer {name} cannot be used: {error:#}");
            }
        }
        let mut deliveries = BTreeMap::new();
        let mut missing = BTreeSet::new();
        for (name, whole_name) in &self.subscriptions {
            let place = bootstrap.subscriptions.get(name);
            let upstream = place.and_then(|place| self.upstream(bootstrap, &place.writer));
            let Some((place, upstream)) = place.zip(upstream) else {
                missing.insert(format!("the Subscription {whole_name}"));
                continue;
            };
            let port = self.app_port.unwrap_or(place.port);
            let application = format!("127.0.0.1:{port}");
            deliveries.insert(Arc::clone(whole_name), Delivery { upstream, application });
        }
        let upstream = |(stream, writer): (&String, &String)| {
            Some((stream.clone(), self.upstream(bootstrap, writer)?))
        };
        let upstreams: BTreeMap<_, _> = bootstrap.streams.iter().filter_map(upstream).collect();
        for stream in self.append.iter().filter(|stream| !upstreams.contains_key(*stream)) {
            missing.insert(format!("the stream {stream}"));
        }
        for what in missing.difference(&self.missing) {
            tracing::warn!("{what} is not known here yet; it is waited for");
        }
        for what in self.missing.difference(&missing) {
            tracing::info!("{what} is known now");
        }
        self.missing = missing;
        Routes::of_namespace(&self.namespace, deliveries, upstreams)
    }

    fn upstream(&self, bootstrap: &Bootstrap, writer: &str) -> Option<Arc<Upstream>> {
        let is_named = bootstrap.writers.contains_key(writer);
        self.open.get(writer).filter(|_| is_named).map(|(_, upstream)| Arc::clone(upstream))
    }

    /// Makes a client, or changes the one that is there.
    fn meet(
        &mut self,
        name: &str,
        address: &WriterAddress,
        trust_domain: &str,
        tls: &Tls,
    ) -> anyhow::Result<()> {
        if self.open.get(name).is_some_and(|(known, _)| known == address) {
            return Ok(());
        }
        let client = match self.open.get(name) {
            Some((_, upstream)) => {
                upstream.client.set_addresses(address.replicas.clone())?;
                upstream.client.clone()
            }
            None => self.client(name, address, trust_domain, tls)?,
        };
        let store =
            |address: &WriterAddress| (address.object_store_ca.clone(), address.object_store_http);
        let same = self.open.get(name).filter(|(known, _)| store(known) == store(address));
        let upstream = match same {
            Some((_, upstream)) => Arc::clone(upstream),
            None => Arc::new(Upstream {
                writer: name.into(),
                client,
                fetcher: fetcher(name, address),
                tls: Some(tls.clone()),
            }),
        };
        self.open.insert(name.to_owned(), (address.clone(), upstream));
        Ok(())
    }

    /// A client that takes no server but this Writer.
    fn client(
        &self,
        name: &str,
        address: &WriterAddress,
        trust_domain: &str,
        tls: &Tls,
    ) -> anyhow::Result<Client> {
        let (namespace, bare_name) = name.split_once('/').unwrap_or((&self.namespace, name));
        let identity = SpiffeId::writer(trust_domain, namespace, bare_name)?;
        let connect = tls.connect(Arc::clone(&self.connect)).expecting(identity);
        Ok(Client::new(connection::Options {
            addresses: address.replicas.clone(),
            connect: Arc::new(connect),
            entropy: Arc::clone(&self.entropy),
            call_timeout: self.call_timeout,
        })?)
    }
}

/// Opens chunks of a Writer's object store; without one the Writer reads them for us.
fn fetcher(writer: &str, address: &WriterAddress) -> Option<Fetcher> {
    let plain = address.object_store_http;
    let fetcher = match &address.object_store_ca {
        Some(ca_pem) => Fetcher::new().with_http_believing(ca_pem, plain),
        None => Fetcher::new().with_http(HttpSettings { ca_file: None, allows_plain_http: plain }),
    };
    fetcher
        .inspect_err(|error| {
            tracing::warn!("the object store of the Writer {writer} is read through it: {error}");
        })
        .ok()
}
