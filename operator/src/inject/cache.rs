//! The cache of Subscriptions that the webhook answers from. Every replica has one, also the ones
//! that do not lead.

use std::pin::pin;

use futures::StreamExt as _;
use kube::Api;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use pyramid_crds::Subscription;

use super::{Standing, Subscriptions};
use crate::lean::{make_bare, pages};

/// One that cannot be read is there all the same.
type Guarded = DeserializeGuard<Subscription>;

/// The cache, and what fills it for as long as it is polled. The webhook is ready once
/// [`Store::wait_until_ready`] has returned.
pub(crate) fn watch(client: kube::Client) -> (Store<Guarded>, impl Future<Output = ()> + Send) {
    let (store, writer) = reflector::store();
    let events = watcher(Api::<Guarded>::all(client), pages()).default_backoff();
    let events = events.modify(keep_spec).reflect(writer);
    let fill = async move {
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            if let Err(error) = event {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the watch of Subscriptions broke and is taken up again");
            }
        }
    };
    (store, fill)
}

/// Every replica has this cache, and nobody asks it for more.
fn keep_spec(guarded: &mut Guarded) {
    make_bare(guarded);
    if let Ok(subscription) = &mut guarded.0 {
        subscription.status = None;
    }
}

impl Subscriptions for Store<Guarded> {
    fn standing(&self, namespace: &str, name: &str, account: &str) -> Standing {
        let Some(guarded) = self.get(&ObjectRef::new(name).within(namespace)) else {
            return Standing::Missing;
        };
        // What is wrong with one that cannot be read is told at the object itself.
        let Ok(subscription) = &guarded.0 else { return Standing::Allows };
        match &subscription.spec.service_accounts {
            Some(accounts) if accounts.iter().all(|named| named != account) => Standing::Refuses,
            Some(_) | None => Standing::Allows,
        }
    }
}

#[cfg(test)]
mod tests {
    use pyramid_crds::subscription::SubscriptionStatus;
    use serde_json::{Value, json};

    use super::*;

    fn subscription(name: &str, spec: &Value) -> Guarded {
        let all = json!({
            "apiVersion": "pyramid.dev/v1alpha1",
            "kind": "Subscription",
            "metadata": { "namespace": "shop", "name": name },
            "spec": spec,
        });
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn a_subscription_is_kept_without_its_numbers() {
        let spec = json!({ "streams": [{ "name": "orders" }], "serviceAccounts": ["auditor"] });
        let mut sent = subscription("audit", &spec);
        sent.0.as_mut().unwrap().status = Some(SubscriptionStatus::default());
        keep_spec(&mut sent);
        assert_eq!(sent.0.unwrap(), subscription("audit", &spec).0.unwrap());
    }

    #[test]
    fn the_cache_knows_who_may_have_a_subscription() {
        let streams = json!([{ "name": "orders" }]);
        let (store, mut writer) = reflector::store();
        for object in [
            subscription("open", &json!({ "streams": streams })),
            subscription("audit", &json!({ "streams": streams, "serviceAccounts": ["auditor"] })),
            subscription("unreadable", &json!({ "streams": "all" })),
        ] {
            writer.apply_watcher_event(&watcher::Event::Apply(object));
        }
        let standing = |namespace, name, account| store.standing(namespace, name, account);
        assert_eq!(standing("shop", "open", "clerk"), Standing::Allows);
        assert_eq!(standing("shop", "audit", "auditor"), Standing::Allows);
        assert_eq!(standing("shop", "audit", "clerk"), Standing::Refuses);
        assert_eq!(standing("shop", "unreadable", "clerk"), Standing::Allows);
        assert_eq!(standing("shop", "none", "clerk"), Standing::Missing);
        assert_eq!(standing("bank", "open", "clerk"), Standing::Missing);
    }
}
