//! Which service accounts access lists name.

use std::pin::pin;

use futures::{FutureExt as _, StreamExt as _};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::{Writer, WriterDropped};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use pyramid_crds::stream::{ANY_ACCOUNT, Account};
use pyramid_crds::{Stream, Subscription};
use tokio_util::sync::CancellationToken;

use crate::lean::{make_bare, pages};

/// What was read, or that it cannot be read: then it names nobody.
type Guarded<K> = DeserializeGuard<K>;

/// All Streams and Subscriptions. Clones share them.
#[derive(Clone)]
pub struct Access {
    streams: Store<Guarded<Stream>>,
    subscriptions: Store<Guarded<Subscription>>,
}

/// Fills the Streams of an [`Access`].
pub struct Watch {
    streams: Writer<Guarded<Stream>>,
}

impl Access {
    /// With a cache of Subscriptions that another fills, and what fills the Streams.
    #[must_use]
    pub fn new(subscriptions: Store<Guarded<Subscription>>) -> (Self, Watch) {
        let (streams, writer) = reflector::store();
        (Self { streams, subscriptions }, Watch { streams: writer })
    }

    /// Nothing is read yet.
    #[cfg(test)]
    pub(crate) fn unread() -> Self {
        Self::new(reflector::store().0).0
    }

    /// All that there is.
    #[cfg(test)]
    pub(crate) fn filled(streams: Vec<Stream>, subscriptions: Vec<Subscription>) -> Self {
        let (store, mut writer) = reflector::store();
        let (access, mut watch) = Self::new(store);
        watch.streams.apply_watcher_event(&watcher::Event::Init);
        for stream in streams {
            let event = watcher::Event::InitApply(DeserializeGuard(Ok(stream)));
            watch.streams.apply_watcher_event(&event);
        }
        watch.streams.apply_watcher_event(&watcher::Event::InitDone);
        writer.apply_watcher_event(&watcher::Event::Init);
        for subscription in subscriptions {
            let event = watcher::Event::InitApply(DeserializeGuard(Ok(subscription)));
            writer.apply_watcher_event(&event);
        }
        writer.apply_watcher_event(&watcher::Event::InitDone);
        access
    }

    /// Whether everything has been read once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let is_filled = |ready: Option<Result<(), WriterDropped>>| matches!(ready, Some(Ok(())));
        is_filled(self.streams.wait_until_ready().now_or_never())
            && is_filled(self.subscriptions.wait_until_ready().now_or_never())
    }

    /// Whether some list names the account. A list that is absent names all accounts of its
    /// namespace.
    pub(crate) fn names(&self, namespace: &str, account: &str) -> bool {
        let streams = self.streams.state();
        let mut streams = streams.iter().filter_map(|stream| stream.0.as_ref().ok());
        let subscriptions = self.subscriptions.state();
        let mut subscriptions = subscriptions.iter().filter_map(|it| it.0.as_ref().ok());
        streams.any(|stream| stream_names(stream, namespace, account))
            || subscriptions.any(|it| subscription_names(it, namespace, account))
    }
}

impl Watch {
    /// Runs until `shutdown`.
    pub async fn run(self, client: Client, shutdown: CancellationToken) {
        let api = Api::<Guarded<Stream>>::all(client);
        let events = watcher(api, pages()).default_backoff();
        let events = events.modify(keep_spec).reflect(self.streams);
        let mut events = pin!(events);
        while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
            if let Err(error) = event {
                tracing::warn!(%error, "the watch of Streams broke and is taken up again");
            }
        }
    }
}

/// Every replica has this cache, and nobody asks it for more.
fn keep_spec(guarded: &mut Guarded<Stream>) {
    make_bare(guarded);
    if let Ok(stream) = &mut guarded.0 {
        stream.status = None;
    }
}

fn stream_names(stream: &Stream, namespace: &str, account: &str) -> bool {
    let own = stream.metadata.namespace.as_deref().unwrap_or_default();
    let in_list = |list: &Option<Vec<Account>>| match list {
        None => namespace == own,
        Some(accounts) => accounts.iter().any(|named| {
            let is_account =
                named.service_account == account || named.service_account == ANY_ACCOUNT;
            named.namespace_from(own) == namespace && is_account
        }),
    };
    let spec = &stream.spec;
    // Only managers are nobody without a list.
    let manages = spec.managers.is_some() && in_list(&spec.managers);
    in_list(&spec.appenders) || in_list(&spec.subscribers) || manages
}

fn subscription_names(subscription: &Subscription, namespace: &str, account: &str) -> bool {
    let accounts = subscription.spec.service_accounts.as_ref();
    subscription.metadata.namespace.as_deref() == Some(namespace)
        && accounts.is_none_or(|accounts| accounts.iter().any(|named| named == account))
}

#[cfg(test)]
mod tests {
    use kube::Resource as _;
    use pyramid_crds::stream::StreamStatus;
    use serde_json::{Value, json};

    use super::*;

    fn stream(spec: &Value) -> Stream {
        serde_json::from_value(json!({
            "apiVersion": "pyramid.dev/v1alpha1",
            "kind": "Stream",
            "metadata": {"namespace": "shop", "name": "orders"},
            "spec": spec,
        }))
        .unwrap()
    }

    fn subscription(spec: &Value) -> Subscription {
        serde_json::from_value(json!({
            "apiVersion": "pyramid.dev/v1alpha1",
            "kind": "Subscription",
            "metadata": {"namespace": "shop", "name": "projector"},
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn a_list_names_accounts_and_an_absent_one_those_of_its_namespace() {
        let nobody = json!({"appenders": [], "subscribers": []});
        for (spec, named) in [
            (json!({}), "shop/web shop/other"),
            (nobody.clone(), ""),
            (json!({"appenders": [{"serviceAccount": "web"}], "subscribers": []}), "shop/web"),
            (json!({"appenders": [], "subscribers": [{"serviceAccount": "web"}]}), "shop/web"),
            (
                json!({"appenders": [], "subscribers": [{"namespace": "bank", "serviceAccount": "web"}]}),
                "bank/web",
            ),
            (
                json!({"appenders": [{"namespace": "bank", "serviceAccount": "*"}], "subscribers": []}),
                "bank/web bank/other",
            ),
            (
                json!({"appenders": [], "subscribers": [], "managers": [{"serviceAccount": "web"}]}),
                "shop/web",
            ),
        ] {
            let access = Access::filled(vec![stream(&spec)], Vec::new());
            let all = ["shop/web", "shop/other", "bank/web", "bank/other"];
            let found: Vec<&str> = all
                .into_iter()
                .filter(|full| {
                    let (namespace, account) = full.split_once('/').unwrap();
                    access.names(namespace, account)
                })
                .collect();
            assert_eq!(found.join(" "), named, "{spec}");
        }
    }

    #[test]
    fn a_subscription_names_accounts_of_its_namespace() {
        let streams = json!([{"name": "orders"}]);
        let names = |spec: &Value, namespace: &str, account: &str| {
            Access::filled(Vec::new(), vec![subscription(spec)]).names(namespace, account)
        };
        let open = json!({"streams": streams});
        assert!(names(&open, "shop", "web"));
        assert!(!names(&open, "bank", "web"));
        let closed = json!({"streams": streams, "serviceAccounts": ["web"]});
        assert!(names(&closed, "shop", "web"));
        assert!(!names(&closed, "shop", "other"));
        assert!(!names(&closed, "bank", "web"));
    }

    #[test]
    fn a_stream_is_kept_with_its_lists_only() {
        let spec = json!({"appenders": [{"serviceAccount": "web"}]});
        let mut sent = DeserializeGuard(Ok(stream(&spec)));
        let metadata = sent.meta_mut();
        metadata.labels = Some([("team".to_owned(), "shop".to_owned())].into());
        sent.0.as_mut().unwrap().status = Some(StreamStatus::default());
        keep_spec(&mut sent);
        assert_eq!(sent.0.unwrap(), stream(&spec));
    }

    #[test]
    fn access_lists_are_ready_when_both_kinds_were_read() {
        let (store, mut writer) = reflector::store();
        let (access, mut watch) = Access::new(store);
        assert!(!access.is_ready());
        watch.streams.apply_watcher_event(&watcher::Event::InitDone);
        assert!(!access.is_ready());
        writer.apply_watcher_event(&watcher::Event::InitDone);
        assert!(access.is_ready());
    }
}
