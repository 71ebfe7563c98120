//! What the accounts of the system's namespace asked of the API server, by its audit log.
//!
//! Only their calls are written down: of everybody's, a run would leave gigabytes. Of each call
//! there is who, what and how it ended, and no content, so no Secret is in it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::cluster::layout::Layout;

/// Which calls are written down, and how much of each.
pub(super) const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    userGroups: [\"system:serviceaccounts:pyramid-system\"]
  - level: None
";

/// A file of the log is closed at this size. A call takes less than a kilobyte. Unit: MiB.
pub(super) const FILE_SIZE: u32 = 64;
/// Closed files that are kept. With more, the oldest are gone, and a comparison is refused.
pub(super) const FILES_MAX: usize = 4;

/// One call of an account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// When it came, `2026-01-02T03:04:05.678901Z`: all are equally long, so they compare as text.
    pub time: String,
    /// `system:serviceaccount:<namespace>:<name>`.
    pub user: String,
    /// As a rule of a role says it.
    pub verb: String,
    /// Empty for the core.
    pub group: String,
    /// Empty for paths that are no resource, such as `/version`.
    pub resource: String,
    /// Empty for the resource itself.
    pub subresource: String,
    /// Empty for all of them, and for what is in none.
    pub namespace: String,
    /// Empty for several objects.
    pub name: String,
    /// The status of HTTP.
    pub code: u16,
    /// No role let it pass. 403 alone says less: admission answers so too, as for a namespace that
    /// is being deleted.
    pub is_forbidden: bool,
}

impl Call {
    /// Whether it was to change something that is stored. Reviews are created and never stored, and
    /// a lease is written by whoever leads, all the time.
    #[must_use]
    pub fn is_write(&self) -> bool {
        let changes =
            ["create", "update", "patch", "delete", "deletecollection"].contains(&&*self.verb);
        let is_stored = !self.group.ends_with("authentication.k8s.io")
            && !self.group.ends_with("authorization.k8s.io");
        changes && is_stored && self.resource != "leases"
    }

    /// The resource as kubectl names it, `streams.pyramid.dev/status`; a path that is none is empty.
    #[must_use]
    pub fn kind(&self) -> String {
        let Self { resource, group, subresource, .. } = self;
        let before = |mark: &str, text: &str| match text {
            "" => String::new(),
            text => format!("{mark}{text}"),
        };
        format!("{resource}{}{}", before(".", group), before("/", subresource))
    }
}

impl Cluster {
    /// The calls since the cluster was started, oldest first.
    ///
    /// # Errors
    /// The log cannot be read, or its begin is not kept any more.
    pub fn calls(&self) -> anyhow::Result<Vec<Call>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder(&self.layout)).context("read the folder of calls")? {
            files.push(entry?.path());
        }
        ensure!(files.len() <= FILES_MAX, "the first calls may be gone; start the cluster anew");
        let mut calls = Vec::new();
        for file in files {
            let text =
                fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            calls.extend(read(&text).with_context(|| format!("read {}", file.display()))?);
        }
        calls.sort_unstable();
        Ok(calls)
    }
}

/// The folder of the log's files.
fn folder(layout: &Layout) -> PathBuf {
    layout.logs().join("calls")
}

/// The file that is written. Closed ones lie beside it.
pub(super) fn file(layout: &Layout) -> PathBuf {
    folder(layout).join("calls.log")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    verb: String,
    user: User,
    #[serde(default)]
    object_ref: Object,
    response_status: Option<Status>,
    request_received_timestamp: String,
    #[serde(default)]
    annotations: Annotations,
}

#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(default, rename = "authorization.k8s.io/decision")]
    decision: String,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Status {
    code: u16,
}

/// The calls of a file. One that is written this moment has no end of line yet, and is not read.
fn read(text: &str) -> anyhow::Result<Vec<Call>> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut calls = Vec::new();
    for line in whole.lines() {
        let event: Event =
            serde_json::from_str(line).with_context(|| format!("not an event: {line}"))?;
        // A watch that was let in is told when it begins, and once more when it ends.
        if event.verb == "watch" && event.stage == "ResponseComplete" {
            let begun = event.response_status.as_ref().is_some_and(|status| status.code == 200);
            if begun {
                continue;
            }
        }
        calls.push(Call {
            time: event.request_received_timestamp,
            user: event.user.username,
            verb: event.verb,
            group: event.object_ref.api_group,
            resource: event.object_ref.resource,
            subresource: event.object_ref.subresource,
            namespace: event.object_ref.namespace,
            name: event.object_ref.name,
            code: event.response_status.map_or(0, |status| status.code),
            is_forbidden: event.annotations.decision == "forbid",
        });
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(verb: &str, stage: &str, code: u16, object: &str) -> String {
        format!(
            r#"{{"kind":"Event","stage":"{stage}","verb":"{verb}","user":{{"username":"u"}},"objectRef":{object},"responseStatus":{{"metadata":{{}},"code":{code}}},"requestReceivedTimestamp":"2026-01-02T03:04:05.678901Z"}}"#
        )
    }

    fn call(verb: &str, group: &str, resource: &str, code: u16) -> Call {
        Call {
            time: "2026-01-02T03:04:05.678901Z".into(),
            user: "u".into(),
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            code,
            is_forbidden: false,
        }
    }

    #[test]
    fn who_was_forbidden_is_told_by_the_decision_and_not_by_the_code() {
        let plain = line("get", "ResponseComplete", 403, r#"{"resource":"pods"}"#);
        let decided = |decision: &str| {
            let more =
                format!(r#","annotations":{{"authorization.k8s.io/decision":"{decision}"}}}}"#);
            plain.strip_suffix('}').unwrap().to_owned() + &more
        };
        let text = [plain.clone(), decided("allow"), decided("forbid")].join("\n") + "\n";
        let forbidden: Vec<bool> =
            read(&text).unwrap().iter().map(|call| call.is_forbidden).collect();
        assert_eq!(forbidden, [false, false, true]);
    }

    #[test]
    fn a_kind_is_told_as_kubectl_names_it() {
        let status =
            Call { subresource: "status".into(), ..call("patch", "pyramid.dev", "streams", 200) };
        assert_eq!(status.kind(), "streams.pyramid.dev/status");
        assert_eq!(call("get", "", "pods", 200).kind(), "pods");
    }

    #[test]
    fn a_watch_counts_once_and_a_refused_one_too() {
        let pods = r#"{"resource":"pods"}"#;
        let text = [
            line("watch", "ResponseStarted", 200, pods),
            line("watch", "ResponseComplete", 200, pods),
            line("watch", "ResponseComplete", 403, pods),
        ]
        .join("\n")
            + "\n";
        let expected = vec![call("watch", "", "pods", 200), call("watch", "", "pods", 403)];
        assert_eq!(read(&text).unwrap(), expected);
    }

    #[test]
    fn a_line_that_is_not_whole_is_not_read_and_a_whole_one_is() {
        let text = line("get", "ResponseComplete", 200, r#"{"resource":"pods"}"#);
        assert_eq!(read(&text).unwrap(), vec![]);
        assert_eq!(read(&format!("{text}\n")).unwrap(), vec![call("get", "", "pods", 200)]);
        assert!(read("{}\n").is_err());
    }

    #[test]
    fn writes_change_what_is_stored_and_are_not_the_lease() {
        assert!(call("patch", "apps", "statefulsets", 200).is_write());
        assert!(!call("get", "apps", "statefulsets", 200).is_write());
        assert!(!call("create", "authentication.k8s.io", "tokenreviews", 201).is_write());
        assert!(!call("update", "coordination.k8s.io", "leases", 200).is_write());
        assert!(call("update", "coordination.k8s.io", "others", 200).is_write());
    }
}
