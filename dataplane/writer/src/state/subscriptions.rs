//! [`Subscriptions`]: by name, and by who may attach to them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use pyramid_protocol::pb::stored::v1::Subscription;
use pyramid_protocol::{Grantee, SpiffeId, StreamName};

/// All subscriptions. Their lists are sorted: each is looked up by halving.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Subscriptions {
    by_name: BTreeMap<String, Arc<Subscription>>,
    /// Grantee as it stands in the subscription, then name. Follows from `by_name`: a right is found without a look at the
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
    pub(super) fn let_read(&self, identity: &SpiffeId, stream: &StreamName) -> bool {
        let names = |one: &Subscription| {
            one.streams.binary_search_by(|name| name.as_str().cmp(stream.as_str())).is_ok()
        };
        let is_named = |grantee: &str| {
            self.by_identity.get(grantee).is_some_and(|of| of.values().any(|one| names(one)))
        };
        is_named(identity.as_str())
            || Grantee::service_accounts_of(identity).is_some_and(|every| is_named(&every))
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

    const X: &str = "spiffe://td/ns/a/sa/x";
    const Y: &str = "spiffe://td/ns/a/sa/y";
    const OTHER: &str = "spiffe://td/ns/b/sa/x";

    /// Which of the streams a to d an identity reads.
    fn reads(all: &Subscriptions, identity: &str) -> String {
        let identity = identity.parse().unwrap();
        let names = ["a", "b", "c", "d"];
        names.into_iter().filter(|n| all.let_read(&identity, &n.parse().unwrap())).collect()
    }

    #[test]
    fn an_identity_reads_what_its_subscriptions_name_while_they_do() {
        let mut all = Subscriptions::default();
        all.insert(subscription("s", &["a", "b"], &[X, Y]));
        all.insert(subscription("t", &["b", "c"], &[X]));
        let all_read = |all: &Subscriptions| [X, Y, OTHER].map(|identity| reads(all, identity));
        assert_eq!(all_read(&all), ["abc", "ab", ""]);
        all.insert(subscription("s", &["d"], &[Y]));
        assert_eq!(all_read(&all), ["bc", "d", ""]);
        all.remove("t");
        all.remove("t");
        assert_eq!(all_read(&all), ["", "d", ""]);
        all.remove("s");
        assert_eq!(all, Subscriptions::default());
    }

    #[test]
    fn a_whole_namespace_reads_what_its_subscriptions_name_while_they_do() {
        let mut all = Subscriptions::default();
        all.insert(subscription("s", &["a"], &["spiffe://td/ns/a/sa/*"]));
        all.insert(subscription("t", &["b"], &[X]));
        let all_read = |all: &Subscriptions| [X, Y, OTHER].map(|identity| reads(all, identity));
        assert_eq!(all_read(&all), ["ab", "a", ""]);
        all.insert(subscription("s", &["c"], &["spiffe://td/ns/b/sa/*"]));
        assert_eq!(all_read(&all), ["b", "", "c"]);
        all.remove("s");
        assert_eq!(all_read(&all), ["b", "", ""]);
    }
}
