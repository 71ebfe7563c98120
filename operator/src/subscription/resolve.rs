//! Which Streams a Subscription has, and in which Writer they lie.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use pyramid_crds::condition::{is_true, types};
use pyramid_crds::stream::ANY_ACCOUNT;
use pyramid_crds::{Stream, Subscription};

use crate::kinds::writers::WriterName;

/// Where the Streams come from.
pub(crate) trait Streams {
    /// The Stream of this name, if there is one that can be read.
    fn find(&self, namespace: &str, name: &str) -> Option<Stream>;
    /// All of a namespace that can be read.
    fn of_namespace(&self, namespace: &str) -> Vec<Stream>;
}

/// One Stream of a Subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// `None`: it is not bound yet.
    pub(crate) writer: Option<WriterName>,
    /// Its Writer knows it.
    pub(crate) is_programmed: bool,
}

/// All Streams of a Subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolution {
    /// By namespace and name.
    pub(crate) streams: BTreeMap<(String, String), Resolved>,
    /// Named, and not there: `namespace/name`.
    pub(crate) missing: BTreeSet<String>,
    /// Named, there, and not open to this Subscription.
    pub(crate) forbidden: BTreeSet<String>,
    /// What is wrong with the selector.
    pub(crate) bad_selector: Option<String>,
}

impl Resolution {
    /// The Writers in which the Streams lie.
    pub(crate) fn writers(&self) -> BTreeSet<&WriterName> {
        self.streams.values().filter_map(|one| one.writer.as_ref()).collect()
    }

    /// The one Writer that has all that are bound. `None`: there is none, or more than one.
    pub(crate) fn writer(&self) -> Option<&WriterName> {
        let mut writers = self.writers().into_iter();
        writers.next().filter(|_| writers.next().is_none())
    }
}

/// Named and selected ones joined; a name that stands twice, with and without its namespace, counts
/// once.
pub(crate) fn resolve(subscription: &Subscription, streams: &impl Streams) -> Resolution {
    let own = subscription.namespace().unwrap_or_default();
    let mut resolution = Resolution::default();
    let named = subscription.spec.streams.iter().flatten();
    let named: BTreeSet<(String, String)> =
        named.map(|one| (one.namespace_from(&own).to_owned(), one.name.clone())).collect();
    for (namespace, name) in named {
        match streams.find(&namespace, &name) {
            None => {
                resolution.missing.insert(format!("{namespace}/{name}"));
            }
            Some(stream) if !permits(&stream, subscription) => {
                resolution.forbidden.insert(format!("{namespace}/{name}"));
            }
            Some(stream) => {
                resolution.streams.insert((namespace, name), resolved(&stream));
            }
        }
    }
    let Some(selector) = subscription.spec.selector.clone() else { return resolution };
    match Selector::try_from(selector) {
        Ok(selector) => {
            let selected = streams.of_namespace(&own).into_iter();
            let selected = selected.filter(|stream| selector.matches(stream.labels()));
            resolution.streams.extend(
                selected.map(|stream| ((own.clone(), stream.name_any()), resolved(&stream))),
            );
        }
        Err(error) => resolution.bad_selector = Some(error.to_string()),
    }
    resolution
}

fn resolved(stream: &Stream) -> Resolved {
    let own = stream.namespace().unwrap_or_default();
    let writer = stream.spec.writer_ref.as_ref().map(|one| WriterName::named(one, &own));
    let conditions = stream.status.as_ref().map(|one| &*one.conditions).unwrap_or_default();
    Resolved { writer, is_programmed: is_true(conditions, types::PROGRAMMED) }
}

/// Whether the Stream lets all service accounts of the Subscription read it. Whoever attaches to a
/// Subscription may read its Streams, so one that is open to a whole namespace needs an entry for
/// the whole namespace.
fn permits(stream: &Stream, subscription: &Subscription) -> bool {
    let namespace = subscription.namespace().unwrap_or_default();
    let own = stream.namespace().unwrap_or_default();
    if own == namespace {
        return true;
    }
    let entries = stream.spec.subscribers.iter().flatten();
    let accounts: BTreeSet<&str> = entries
        .filter(|entry| entry.namespace_from(&own) == namespace)
        .map(|entry| entry.service_account.as_str())
        .collect();
    accounts.contains(ANY_ACCOUNT)
        || subscription
            .spec
            .service_accounts
            .as_ref()
            .is_some_and(|names| names.iter().all(|name| accounts.contains(name.as_str())))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) struct Listed(pub(crate) Vec<Stream>);

    impl Streams for Listed {
        fn find(&self, namespace: &str, name: &str) -> Option<Stream> {
            self.of_namespace(namespace).into_iter().find(|stream| stream.name_any() == name)
        }

        fn of_namespace(&self, namespace: &str) -> Vec<Stream> {
            let is_in = |stream: &&Stream| stream.namespace().as_deref() == Some(namespace);
            self.0.iter().filter(is_in).cloned().collect()
        }
    }

    pub(crate) fn stream(namespace: &str, name: &str, spec: &str) -> Stream {
        let yaml = format!(
            "metadata: {{name: {name}, namespace: {namespace}, labels: {{kind: {name}}}}}\nspec: {spec}"
        );
        serde_saphyr::from_str(&yaml).unwrap()
    }

    pub(crate) fn subscription(spec: &str) -> Subscription {
        let yaml =
            format!("metadata: {{name: s, namespace: shop, uid: u, generation: 4}}\nspec: {spec}");
        serde_saphyr::from_str(&yaml).unwrap()
    }

    const BOUND: &str = "{writerRef: {name: w, namespace: a}}";

    fn found(resolution: &Resolution) -> Vec<String> {
        resolution.streams.keys().map(|(namespace, name)| format!("{namespace}/{name}")).collect()
    }

    #[test]
    fn named_and_selected_streams_are_joined_and_each_counts_once() {
        let streams = Listed(vec![
            stream("shop", "orders", BOUND),
            stream("shop", "bills", BOUND),
            stream("shop", "other", BOUND),
            stream("web", "bills", BOUND),
        ]);
        let subscription = subscription(
            "{streams: [{name: orders}, {name: orders, namespace: ''}, {name: orders, namespace: shop}],
              selector: {matchExpressions: [{key: kind, operator: In, values: [orders, bills]}]}}",
        );
        let resolution = resolve(&subscription, &streams);
        assert_eq!(found(&resolution), ["shop/bills", "shop/orders"]);
        let writer = WriterName { namespace: "a".into(), name: "w".into() };
        assert_eq!(resolution.writer(), Some(&writer));
    }

    #[test]
    fn a_stream_elsewhere_must_let_every_account_of_the_subscription_read() {
        let resolve_with = |subscribers: &str, accounts: &str| {
            let streams = Listed(vec![stream("web", "clicks", subscribers)]);
            let subscription = subscription(&format!(
                "{{streams: [{{name: clicks, namespace: web}}] {accounts}}}"
            ));
            let resolution = resolve(&subscription, &streams);
            assert_eq!(resolution.streams.len() + resolution.forbidden.len(), 1);
            resolution.forbidden.is_empty()
        };
        let all = "{subscribers: [{namespace: shop, serviceAccount: '*'}]}";
        let one = "{subscribers: [{namespace: shop, serviceAccount: x}]}";
        let elsewhere = "{subscribers: [{namespace: bank, serviceAccount: '*'}]}";
        assert!(resolve_with(all, ""));
        assert!(resolve_with(all, ", serviceAccounts: [x, y]"));
        assert!(resolve_with(one, ", serviceAccounts: [x]"));
        assert!(!resolve_with(one, ", serviceAccounts: [x, y]"));
        assert!(!resolve_with(one, ""));
        assert!(!resolve_with(elsewhere, ""));
        assert!(!resolve_with("{}", ""));
    }

    #[test]
    fn what_is_missing_or_lies_elsewhere_is_told() {
        let elsewhere = "{writerRef: {name: v, namespace: a}}";
        let streams = Listed(vec![
            stream("shop", "a", BOUND),
            stream("shop", "b", elsewhere),
            stream("shop", "c", "{}"),
        ]);
        let resolution = resolve(
            &subscription("{streams: [{name: a}, {name: b}, {name: c}, {name: d}]}"),
            &streams,
        );
        assert_eq!(found(&resolution), ["shop/a", "shop/b", "shop/c"]);
        assert_eq!(resolution.missing, ["shop/d".to_owned()].into());
        assert_eq!((resolution.writers().len(), resolution.writer()), (2, None));
    }
}
