//! [`Queue`]: what is looked at next, each object once.

use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, stream};
use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Notify;

/// A set, so that it never holds more than there are objects, and whoever adds never waits.
pub(crate) struct Queue<K: Resource<DynamicType = ()>> {
    waiting: Mutex<HashSet<ObjectRef<K>>>,
    added: Notify,
}

impl<K: Resource<DynamicType = ()>> Default for Queue<K> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), added: Notify::new() }
    }
}

impl<K> Queue<K>
where
    K: Resource<DynamicType = ()> + 'static,
    ObjectRef<K>: Clone + Eq + Hash,
{
    pub(crate) fn push(&self, object: ObjectRef<K>) {
        self.extend([object]);
    }

    pub(crate) fn extend(&self, objects: impl IntoIterator<Item = ObjectRef<K>>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).extend(objects);
        self.added.notify_one();
    }

    /// What is added, in no order, for one reader. It does not end.
    pub(crate) fn stream(
        self: Arc<Self>,
    ) -> impl Stream<Item = Result<ObjectRef<K>, Infallible>> + Send
    where
        ObjectRef<K>: Send,
    {
        stream::unfold((self, Vec::new()), |(queue, mut taken)| async move {
            loop {
                if let Some(next) = taken.pop() {
                    return Some((Ok(next), (queue, taken)));
                }
                taken = queue.take();
                if taken.is_empty() {
                    queue.added.notified().await;
                }
            }
        })
    }

    fn take(&self) -> Vec<ObjectRef<K>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{FutureExt, StreamExt};
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[tokio::test]
    async fn an_object_that_is_added_twice_is_taken_once() {
        let queue = Arc::<Queue<ConfigMap>>::default();
        let [a, b] = ["a", "b"].map(|name| ObjectRef::<ConfigMap>::new(name).within("ns"));
        queue.extend([a.clone(), b.clone(), a.clone()]);
        let mut stream = pin!(Arc::clone(&queue).stream());
        let mut taken = vec![stream.next().await.unwrap().unwrap().name];
        taken.push(stream.next().await.unwrap().unwrap().name);
        taken.sort();
        assert_eq!(taken, ["a", "b"]);
        assert!(stream.next().now_or_never().is_none());
        // What was taken may be added again, also while somebody waits.
        queue.push(a.clone());
        assert_eq!(stream.next().await.unwrap().unwrap(), a);
    }
}
