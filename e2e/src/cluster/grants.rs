//! What the accounts of a namespace may ask of the API server, by the roles that are bound to them.

use serde::Deserialize;

use crate::cluster::{Call, Cluster};

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `system:serviceaccount:<namespace>:<name>`.
    pub user: String,
    /// The name of the role.
    pub role: String,
    /// Where it holds; nothing: everywhere.
    pub namespace: Option<String>,
    /// Empty for the core.
    pub group: String,
    /// With the subresource, `pods/eviction`.
    pub resource: String,
    pub verb: String,
    /// The names of the objects; empty: all.
    pub names: Vec<String>,
}

impl Grant {
    /// Whether this lets the call pass. An apply of what is not there creates, too, and needs the
    /// right for both.
    #[must_use]
    pub fn covers(&self, call: &Call) -> bool {
        let is_created = call.verb == "patch" && call.code == 201;
        let resource = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        self.user == call.user
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == call.namespace)
            && self.group == call.group
            && resource == (&call.resource, &call.subresource)
            && (self.verb == call.verb || (is_created && self.verb == "create"))
            && (self.names.is_empty() || self.names.contains(&call.name))
    }

    /// `<role>: <verb> <resource>.<group>`, and ` in <namespace>` if it holds in one alone.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { role, group, resource, verb, .. } = self;
        let dot = if group.is_empty() { "" } else { "." };
        let place = self.namespace.as_ref().map(|namespace| format!(" in {namespace}"));
        format!("{role}: {verb} {resource}{dot}{group}{}", place.unwrap_or_default())
    }
}

impl Cluster {
    /// All that is granted to service accounts of this namespace by name.
    ///
    /// # Errors
    /// The server did not answer, or a role is not as expected.
    pub async fn grants(&self, namespace: &str) -> anyhow::Result<Vec<Grant>> {
        let kinds = "clusterroles,clusterrolebindings,roles,rolebindings";
        let listed = self.kubectl_json(&["get", kinds, "--all-namespaces"]).await?;
        let items = listed.get("items").cloned().unwrap_or_default();
        Ok(granted(&serde_json::from_value::<Vec<Access>>(items)?, namespace))
    }
}

/// A role or a binding.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Access {
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    rules: Option<Vec<Rule>>,
    role_ref: Option<Reference>,
    #[serde(default)]
    subjects: Vec<Subject>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
    resource_names: Vec<String>,
}

#[derive(Deserialize)]
struct Reference {
    kind: String,
    name: String,
}

#[derive(Deserialize)]
struct Subject {
    kind: String,
    name: String,
    namespace: Option<String>,
}

fn granted(all: &[Access], namespace: &str) -> Vec<Grant> {
    let mut grants = Vec::new();
    for binding in all {
        let Some(role_ref) = &binding.role_ref else { continue };
        let is_its = |role: &&Access| {
            let is_there =
                role.kind == "ClusterRole" || role.metadata.namespace == binding.metadata.namespace;
            role.kind == role_ref.kind && role.metadata.name == role_ref.name && is_there
        };
        let rules = all.iter().find(is_its).and_then(|role| role.rules.as_deref());
        for subject in &binding.subjects {
            if subject.kind != "ServiceAccount" || subject.namespace.as_deref() != Some(namespace) {
                continue;
            }
            let user = format!("system:serviceaccount:{namespace}:{}", subject.name);
            for rule in rules.unwrap_or_default() {
                let template = Grant {
                    user: user.clone(),
                    role: role_ref.name.clone(),
                    namespace: binding.metadata.namespace.clone(),
                    group: String::new(),
                    resource: String::new(),
                    verb: String::new(),
                    names: rule.resource_names.clone(),
                };
                grants.extend(each(rule, &template));
            }
        }
    }
    grants
}

/// One grant for each group, resource and verb of a rule.
fn each(rule: &Rule, template: &Grant) -> Vec<Grant> {
    let mut grants = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let (group, resource, verb) = (group.clone(), resource.clone(), verb.clone());
                grants.push(Grant { group, resource, verb, ..template.clone() });
            }
        }
    }
    grants
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn call(verb: &str, resource: &str, namespace: &str, name: &str, code: u16) -> Call {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Call {
            time: String::new(),
            user: "system:serviceaccount:sys:op".into(),
            verb: verb.into(),
            group: String::new(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            code,
            is_forbidden: false,
        }
    }

    fn grant(verb: &str, resource: &str, namespace: Option<&str>, names: &[&str]) -> Grant {
        Grant {
            user: "system:serviceaccount:sys:op".into(),
            role: "r".into(),
            namespace: namespace.map(Into::into),
            group: String::new(),
            resource: resource.into(),
            verb: verb.into(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn a_grant_covers_its_own_calls_and_none_that_differ_in_one_thing() {
        let evict = grant("create", "pods/eviction", Some("sys"), &["a"]);
        let good = call("create", "pods/eviction", "sys", "a", 201);
        assert!(evict.covers(&good));
        for bad in [
            call("get", "pods/eviction", "sys", "a", 200),
            call("create", "pods", "sys", "a", 201),
            call("create", "secrets/eviction", "sys", "a", 201),
            call("create", "pods/eviction", "shop", "a", 201),
            call("create", "pods/eviction", "sys", "b", 201),
            Call { user: "system:serviceaccount:sys:other".into(), ..good.clone() },
            Call { group: "apps".into(), ..good },
        ] {
            assert!(!evict.covers(&bad), "{bad:?}");
        }
        assert!(
            grant("get", "pods", None, &[]).covers(&call("get", "pods", "shop", "b", 404)),
            "everywhere and by any name"
        );
    }

    #[test]
    fn a_grant_says_where_it_holds_if_not_everywhere() {
        assert_eq!(grant("get", "pods", None, &[]).text(), "r: get pods");
        assert_eq!(grant("get", "pods", Some("sys"), &[]).text(), "r: get pods in sys");
    }

    #[test]
    fn an_apply_needs_the_right_to_create_only_if_it_made_something() {
        let create = grant("create", "secrets", None, &[]);
        assert!(create.covers(&call("patch", "secrets", "sys", "a", 201)));
        assert!(!create.covers(&call("patch", "secrets", "sys", "a", 200)));
        assert!(
            grant("patch", "secrets", None, &[]).covers(&call("patch", "secrets", "", "", 201))
        );
    }

    #[test]
    fn only_what_is_bound_to_an_account_of_the_namespace_counts_and_where_it_is_bound() {
        let rule = json!({"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get"]});
        let role = |kind: &str, namespace: Option<&str>| json!({"kind": kind, "metadata": {"name": "r", "namespace": namespace}, "rules": [rule]});
        let binding = |namespace: Option<&str>, kind: &str, subject: &str, of: &str| {
            json!({"kind": "Binding", "metadata": {"name": "b", "namespace": namespace},
            "roleRef": {"kind": kind, "name": "r"},
            "subjects": [{"kind": subject, "name": "op", "namespace": of}]})
        };
        let get = |objects: Vec<Value>| {
            let all = serde_json::from_value::<Vec<Access>>(Value::Array(objects)).unwrap();
            granted(&all, "sys")
        };
        let both = |namespace| {
            ["pods", "secrets"].map(|resource| grant("get", resource, namespace, &[])).to_vec()
        };
        let cluster = || role("ClusterRole", None);
        let account = "ServiceAccount";
        assert_eq!(get(vec![cluster(), binding(None, "ClusterRole", account, "sys")]), both(None));
        assert_eq!(
            get(vec![cluster(), binding(Some("a"), "ClusterRole", account, "sys")]),
            both(Some("a"))
        );
        assert_eq!(
            get(vec![role("Role", Some("a")), binding(Some("a"), "Role", account, "sys")]),
            both(Some("a"))
        );
        for (role, binding) in [
            (role("Role", Some("b")), binding(Some("a"), "Role", account, "sys")),
            (cluster(), binding(None, "ClusterRole", account, "other")),
            (cluster(), binding(None, "ClusterRole", "User", "sys")),
        ] {
            assert_eq!(get(vec![role, binding]), vec![]);
        }
    }
}
