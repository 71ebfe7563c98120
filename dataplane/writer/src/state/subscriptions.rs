//! [`Subscriptions`]: by name, and by who may attach to them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use pyramid_protocol::StreamName;
use pyramid_protocol::pb::stored::v1::Subscription;

/// All subscriptions. Their lists are sorted: each is looked up by halving.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Subscriptions {
    by_name: BTreeMap<String, Arc<Subscription>>,
    /// Identity, then name. Follows from `by_name`: a right is found without a look at the
    /// subscriptions of everybody else.
    by_identity: BTreeMap<String, BTreeMap<String, Arc<Subscription>>>,
}

impl Subscriptions {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Subscription>> {
        self.by_name.get(name)
    }

    /// With names after `after` (empty: all), by name.
    pub(super) fn after(&self, after: &str) -> impl Iterator<Item = &Arc<Subscription>> {
        let after = (Bound::Excluded(after), Bound::Unbounded);
        self.by_name.range::<str, _>(after).map(|(_, subscription)| subscription)
    }

    /// Adds one, or changes the one of this name.
    pub(super) fn insert(&mut self, subscription: Subscription) {
        self.remove(&subscription.name);
        let subscription = Arc::new(subscription);
        for identity in &subscription.service_accounts {
            let of_identity = self.by_identity.entry(identity.clone()).or_default();
            of_identity.insert(subscription.name.clone(), Arc::clone(&subscription));
        }
        self.by_name.insert(subscription.name.clone(), subscription);
    }

    pub(super) fn remove(&mut self, name: &str) {
        let Some(subscription) = self.by_name.remove(name) else { return };
        for identity in &subscription.service_accounts {
            let Some(of_identity) = self.by_identity.get_mut(identity) else { continue };
            of_identity.remove(name);
            if of_identity.is_empty() {
                self.by_identity.remove(identity);
            }
        }
    }

    /// Whether some subscription that this identity may attach to names the stream.
    pub(super) fn let_read(&self, identity: &str, stream: &StreamName) -> bool {
        let names = |one: &Subscription| {
            one.streams.binary_search_by(|name| name.as_str().cmp(stream.as_str())).is_ok()
        };
        self.by_identity.get(identity).is_some_and(|of| of.values().any(|one| names(one)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(name: &str, streams: &[&str], identities: &[&str]) -> Subscription {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Subscription {
            name: name.to_owned(),
            streams: texts(streams),
            service_accounts: texts(identities),
            ..Subscription::default()
        }
    }

    #[test]
    fn an_identity_reads_what_its_subscriptions_name_while_they_do() {
        let mut all = Subscriptions::default();
        all.insert(subscription("s", &["a", "b"], &["x", "y"]));
        all.insert(subscription("t", &["b", "c"], &["x"]));
        let reads = |all: &Subscriptions, identity: &str| -> String {
            let names = ["a", "b", "c", "d"];
            let read = names.into_iter().filter(|n| all.let_read(identity, &n.parse().unwrap()));
            read.collect()
        };
        assert_eq!(
            (reads(&all, "x"), reads(&all, "y"), reads(&all, "z")),
            ("abc".into(), "ab".into(), String::new())
        );
        all.insert(subscription("s", &["d"], &["y"]));
        assert_eq!((reads(&all, "x"), reads(&all, "y")), ("bc".into(), "d".into()));
        all.remove("t");
        all.remove("t");
        assert_eq!((reads(&all, "x"), reads(&all, "y")), (String::new(), "d".into()));
        all.remove("s");
        assert_eq!(all, Subscriptions::default());
    }
}
