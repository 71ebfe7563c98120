//! What users are told of an object: by its conditions, and by the events under it.

use anyhow::ensure;

use super::shop::{SOON, Shop};

impl Shop<'_> {
    /// Waits until a condition of this object is so, as `status/reason`, and its message has these
    /// words.
    pub(crate) async fn says(
        &self,
        object: &str,
        condition: &str,
        state: &str,
        words: &str,
    ) -> anyhow::Result<()> {
        let field = |name: &str| format!("{{.status.conditions[?(@.type=='{condition}')].{name}}}");
        let column =
            format!("jsonpath={}/{} {}", field("status"), field("reason"), field("message"));
        let is_so = async || {
            let said = self.kubectl(&["get", object, "-o", &column]).await?;
            let (is, message) = said.split_once(' ').unwrap_or((&said, ""));
            ensure!(is == state && message.contains(words), "it says {said:?}");
            Ok(true)
        };
        let what = format!("{object} says {condition}={state}, {words:?}");
        self.cluster.wait_for(&what, SOON, is_so).await
    }

    /// Waits until an event of this reason, about the object with this uid, has these words.
    pub(crate) async fn told(&self, uid: &str, reason: &str, words: &str) -> anyhow::Result<()> {
        let about = format!("--field-selector=involvedObject.uid={uid}");
        let column = "jsonpath={range .items[*]}{.reason}: {.message}{'\\n'}{end}";
        let is_told = async || {
            let told = self.kubectl(&["get", "events", &about, "-o", column]).await?;
            let begin = format!("{reason}: ");
            let mut notes = told.lines().filter_map(|line| line.strip_prefix(&begin));
            ensure!(notes.any(|note| note.contains(words)), "its events: {told}");
            Ok(true)
        };
        let what = format!("the event {reason}, {words:?}");
        self.cluster.wait_for(&what, SOON, is_told).await
    }

    /// The uid of an object, by which its events are found also when it is gone.
    pub(crate) async fn uid(&self, object: &str) -> anyhow::Result<String> {
        let uid = self.kubectl(&["get", object, "-o", "jsonpath={.metadata.uid}"]).await?;
        ensure!(!uid.is_empty(), "{object} has no uid");
        Ok(uid)
    }

    /// `kubectl patch` of an object: what this JSON has, and nothing else, becomes so.
    pub(crate) async fn patch(&self, object: &str, patch: &str) -> anyhow::Result<()> {
        self.kubectl(&["patch", object, "--type=merge", "--patch", patch]).await.map(drop)
    }
}
