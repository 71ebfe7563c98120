//! What `pyramid-bootstrap` of a namespace says: a function of the objects.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use pyramid_crds::{Stream, Subscription, Writer};
use pyramid_protocol::bootstrap::{Bootstrap, SubscriptionPlace, WriterAddress};

use crate::identity::SERVICE;
use crate::kinds::writers::{WriterName, allows};

/// The port of Writers for producers and pushers.
const CLIENT_PORT: u16 = 7400;
/// Of the issuer.
const ISSUER_PORT: u16 = 8443;

/// A Writer, and what its ConfigMap says about the object store.
#[derive(Clone, Debug)]
pub(crate) struct Known<'a> {
    pub(crate) writer: &'a Writer,
    /// PEM.
    pub(crate) object_store_ca: Option<String>,
}

/// Whom pushers believe, and where they get their own certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issuer<'a> {
    pub(crate) trust_domain: &'a str,
    /// The operator's namespace.
    pub(crate) namespace: &'a str,
}

/// `streams`: those that concern the namespace, see [`namespaces_of`]; `subscriptions`: those that
/// lie in it, with the Writer of their Streams; `writers`: all.
pub(crate) fn render(
    streams: &[&Stream],
    subscriptions: &[(&Subscription, WriterName)],
    writers: &BTreeMap<WriterName, Known<'_>>,
    issuer: Issuer<'_>,
) -> Bootstrap {
    let mut bootstrap = Bootstrap {
        trust_domain: issuer.trust_domain.to_owned(),
        issuer: format!("{SERVICE}.{}.svc:{ISSUER_PORT}", issuer.namespace),
        ..Bootstrap::default()
    };
    for stream in streams {
        let own = stream.namespace().unwrap_or_default();
        let Some(reference) = &stream.spec.writer_ref else { continue };
        let name = WriterName::named(reference, &own);
        let Some(known) = writers.get(&name).filter(|one| allows(one.writer, &own)) else {
            continue;
        };
        bootstrap.writers.insert(name.to_string(), address(&name, known));
        bootstrap.streams.insert(format!("{own}/{}", stream.name_any()), name.to_string());
    }
    for (subscription, name) in subscriptions {
        let Some(known) = writers.get(name) else { continue };
        let Some(place) = place(subscription, name) else { continue };
        bootstrap.writers.insert(name.to_string(), address(name, known));
        bootstrap.subscriptions.insert(subscription.name_any(), place);
    }
    bootstrap
}

/// What a pusher needs of the Subscription. `None`: its port is none.
pub(crate) fn place(subscription: &Subscription, writer: &WriterName) -> Option<SubscriptionPlace> {
    let port = u16::try_from(subscription.spec.target.port).ok()?;
    Some(SubscriptionPlace { writer: writer.to_string(), port })
}

/// The namespaces of which a service account may use the Stream: those of its lists, and its own,
/// whose Subscriptions may read it.
pub(crate) fn namespaces_of(stream: &Stream) -> BTreeSet<String> {
    let own = stream.namespace().unwrap_or_default();
    let spec = &stream.spec;
    let lists = [&spec.appenders, &spec.subscribers, &spec.managers];
    let named =
        lists.into_iter().flatten().flatten().map(|one| one.namespace_from(&own).to_owned());
    named.chain([own.clone()]).collect()
}

fn address(name: &WriterName, known: &Known<'_>) -> WriterAddress {
    let WriterName { namespace, name } = name;
    let replica = |ordinal| {
        format!("{name}-writer-{ordinal}.{name}-writer-peers.{namespace}.svc:{CLIENT_PORT}")
    };
    let spec = &known.writer.spec;
    let endpoint = spec.object_storage.endpoint.as_deref().unwrap_or_default();
    WriterAddress {
        replicas: (0..spec.replicas).map(replica).collect(),
        object_store_ca: known.object_store_ca.clone(),
        object_store_http: endpoint.starts_with("http://"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(namespace: &str, name: &str, spec: &str) -> Stream {
        let yaml = format!("metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}");
        serde_saphyr::from_str(&yaml).unwrap()
    }

    fn writer(name: &str, spec: &str) -> Writer {
        let yaml = format!("metadata: {{name: {name}, namespace: pyramid-system}}\nspec: {spec}");
        serde_saphyr::from_str(&yaml).unwrap()
    }

    fn name(name: &str) -> WriterName {
        WriterName { namespace: "pyramid-system".into(), name: name.into() }
    }

    fn subscription(port: i32) -> Subscription {
        let yaml = format!(
            "metadata: {{name: projector, namespace: shop}}
spec: {{streams: [{{name: orders}}], target: {{port: {port}}}}}"
        );
        serde_saphyr::from_str(&yaml).unwrap()
    }

    const ISSUER: Issuer<'_> = Issuer { trust_domain: "td", namespace: "pyramid-system" };
    const ALL: &str = "{objectStorage: {bucket: abc}, allowedStreams: {from: All}}";

    fn on(writer: &str) -> String {
        format!("{{writerRef: {{name: {writer}, namespace: pyramid-system}}}}")
    }

    #[test]
    fn a_namespace_is_told_its_streams_its_subscriptions_and_their_writers() {
        let spec = "{replicas: 3, allowedStreams: {from: All},
            objectStorage: {bucket: abc, endpoint: 'http://s3:8333'}}";
        let [a, b] = [writer("a", spec), writer("b", ALL)];
        let writers = [
            (name("a"), Known { writer: &a, object_store_ca: None }),
            (name("b"), Known { writer: &b, object_store_ca: Some("PEM".into()) }),
        ];
        let orders = stream("shop", "orders", &on("a"));
        let bare = stream("shop", "bare", "{}");
        let subscription = subscription(6000);
        let bootstrap =
            render(&[&orders, &bare], &[(&subscription, name("b"))], &writers.into(), ISSUER);
        let replica = |n| format!("a-writer-{n}.a-writer-peers.pyramid-system.svc:7400");
        let a = WriterAddress {
            replicas: vec![replica(0), replica(1), replica(2)],
            object_store_ca: None,
            object_store_http: true,
        };
        let b = WriterAddress {
            replicas: vec!["b-writer-0.b-writer-peers.pyramid-system.svc:7400".into()],
            object_store_ca: Some("PEM".into()),
            object_store_http: false,
        };
        let place = SubscriptionPlace { writer: "pyramid-system/b".into(), port: 6000 };
        let expected = Bootstrap {
            trust_domain: "td".into(),
            issuer: "pyramid-operator.pyramid-system.svc:8443".into(),
            writers: [("pyramid-system/a".into(), a), ("pyramid-system/b".into(), b)].into(),
            subscriptions: [("projector".into(), place)].into(),
            streams: [("shop/orders".into(), "pyramid-system/a".into())].into(),
        };
        assert_eq!(bootstrap, expected);
    }

    #[test]
    fn a_stream_whose_writer_is_absent_or_refuses_it_is_left_out() {
        let orders = stream("shop", "orders", &on("a"));
        let named = |writer: &Writer, key: WriterName| {
            let writers = [(key, Known { writer, object_store_ca: None })].into();
            render(&[&orders], &[], &writers, ISSUER).streams.len()
        };
        assert_eq!(named(&writer("a", ALL), name("a")), 1);
        assert_eq!(named(&writer("a", ALL), name("b")), 0);
        assert_eq!(named(&writer("a", "{objectStorage: {bucket: abc}}"), name("a")), 0);
    }

    #[test]
    fn a_stream_concerns_its_own_namespace_and_those_of_its_lists() {
        let spec = "{appenders: [{serviceAccount: a}, {namespace: web, serviceAccount: a}],
            subscribers: [{namespace: bank, serviceAccount: '*'}],
            managers: [{namespace: ops, serviceAccount: m}]}";
        let expected = ["bank", "ops", "shop", "web"].map(str::to_owned);
        assert_eq!(namespaces_of(&stream("shop", "orders", spec)), expected.into());
        assert_eq!(namespaces_of(&stream("shop", "orders", "{}")), ["shop".to_owned()].into());
    }

    #[test]
    fn a_port_that_is_none_has_no_place() {
        let place = |port| place(&subscription(port), &name("a")).map(|place| place.port);
        assert_eq!(place(65_535), Some(65_535));
        assert_eq!(place(65_536), None);
    }
}
