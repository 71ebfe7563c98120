//! What is added to a pod that asks for Pyramid: a pure function of the pod, its namespace, the
//! Subscriptions there and the chart's settings.
//!
//! [`inject`] reads the pod as plain JSON, so that fields of later Kubernetes versions pass through
//! untouched, and answers with operations that only add: a native sidecar, its volumes, one label,
//! one annotation, and variables of containers that do not have them. Everything else of the pod
//! stays as it is: no `fsGroup`, no `runAsUser`, no probe.
//!
//! The API server may ask twice about one pod. A pod with our container and our annotation is left
//! alone, whichever version put them there: with two replicas of different versions the second call
//! may reach the other one.
//!
//! The pusher stands after the last native sidecar that is there already: it starts after a mesh's
//! proxy and stops before it. Without one it is first, so that the pod's own init containers can
//! append. A container of others is never moved, and neither is our own once it is in: a proxy that
//! is appended behind it on a later call only starts later, which the pusher waits for.
//!
//! Absent on purpose: who may be injected. Injection gives no rights; those come from Streams and
//! Subscriptions.

mod annotations;
mod cache;
mod container;
mod metrics;
mod pod;
mod quantity;
mod refusal;
mod review;
mod unknown;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, TestOperation};
use pyramid_crds::annotation::{INJECTED_BY, TRUE};
use pyramid_crds::label;
use serde_json::{Value, json};

pub(crate) use self::cache::watch;
pub(crate) use self::container::{CONTAINER, Template};
pub(crate) use self::metrics::InjectionMetrics;
pub(crate) use self::refusal::Refusal;
pub(crate) use self::review::{State, router};

use self::annotations::{Asked, Wish};
use self::container::{APPEND_ENDPOINT, GRACE_SECONDS, VOLUMES};
use self::pod::Pod;

/// What is known of the Subscriptions that a pod may name.
pub(crate) trait Subscriptions: Send + Sync {
    /// How the Subscription of that name stands to a service account of its namespace.
    fn standing(&self, namespace: &str, name: &str, account: &str) -> Standing;
}

/// How a Subscription stands to a service account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is no such Subscription, or none yet.
    Missing,
    /// The account may have its records.
    Allows,
    /// The account is not among those it names.
    Refuses,
}

/// A pod that is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Injection {
    pub(crate) outcome: Outcome,
    /// What is shown to who creates the pod, though the pod is let in.
    pub(crate) warnings: Vec<String>,
}

/// What becomes of a pod that is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This is to be added.
    Injected(Patch),
    /// The pusher is there already.
    Present,
    /// The pod does not want one, though it is annotated.
    OptedOut,
    /// Nothing in the pod asks for one.
    NotAsked,
}

impl Outcome {
    fn without_warnings(self) -> Injection {
        Injection { outcome: self, warnings: Vec::new() }
    }
}

/// Decides what is added to a pod that is being created in `namespace`.
///
/// The pod's own `metadata.namespace` is not looked at: it may still be empty.
///
/// # Errors
///
/// The pod cannot have a pusher, and must not start without one either.
pub(crate) fn inject(
    pod: &Value,
    namespace: &str,
    subscriptions: &dyn Subscriptions,
    template: &Template,
) -> Result<Injection, Refusal> {
    let pod = Pod::read(pod)?;
    let asked = match Asked::read(&pod.annotations)? {
        Wish::Nothing => return Ok(Outcome::NotAsked.without_warnings()),
        Wish::OptOut => return Ok(Outcome::OptedOut.without_warnings()),
        Wish::Inject(asked) => asked,
    };
    let mut warnings = asked.unknown.iter().map(|name| unknown::warning(name)).collect();
    warn_of_subscriptions(&mut warnings, &asked, &pod, namespace, subscriptions);
    refuse_mounts(&pod)?;
    if let Some(by) = pod.injected_by()
        && pod.init_containers.iter().any(|container| container.name == Some(CONTAINER))
    {
        if by != template.injected_by() {
            warnings.push(format!(
                "the pod brings a pusher from {by}, and keeps it; to get the one of this operator, \
                 remove annotation {INJECTED_BY} and container {CONTAINER}"
            ));
        }
        return Ok(Injection { outcome: Outcome::Present, warnings });
    }
    refuse_unfit(&pod)?;
    let patch = patch(&pod, &asked, template)?;
    Ok(Injection { outcome: Outcome::Injected(patch), warnings })
}

fn warn_of_subscriptions(
    warnings: &mut Vec<String>,
    asked: &Asked,
    pod: &Pod<'_>,
    namespace: &str,
    subscriptions: &dyn Subscriptions,
) {
    let account = pod.service_account;
    for name in &asked.subscriptions {
        match subscriptions.standing(namespace, name, account) {
            Standing::Allows => {}
            Standing::Missing => warnings.push(format!(
                "Subscription {namespace}/{name} does not exist; the pusher waits for it"
            )),
            Standing::Refuses => warnings.push(format!(
                "Subscription {namespace}/{name} does not name service account {account}; add it \
                 to spec.serviceAccounts"
            )),
        }
    }
}

/// What no annotation can mend.
fn refuse_unfit(pod: &Pod<'_>) -> Result<(), Refusal> {
    if pod.host_network {
        return Err(Refusal::HostNetwork);
    }
    if pod.windows {
        return Err(Refusal::Windows);
    }
    for container in pod.all_containers() {
        if container.name == Some(CONTAINER) {
            return Err(Refusal::ContainerName);
        }
        if let Some(port) = container.ports.iter().find(|port| container::PORTS.contains(*port)) {
            let container = container.name.unwrap_or_default().to_owned();
            return Err(Refusal::Port { container, port: *port });
        }
    }
    match VOLUMES.iter().find(|name| pod.volumes.contains(*name)) {
        Some(name) => Err(Refusal::VolumeName { name }),
        None => Ok(()),
    }
}

/// The volumes that are added, or were, are mounted by the pusher only.
fn refuse_mounts(pod: &Pod<'_>) -> Result<(), Refusal> {
    let others = pod.all_containers().filter(|container| container.name != Some(CONTAINER));
    for container in others {
        if let Some(name) = VOLUMES.iter().find(|name| container.mounts.contains(*name)) {
            let container = container.name.unwrap_or_default().to_owned();
            return Err(Refusal::Mount { container, name });
        }
    }
    Ok(())
}

fn patch(pod: &Pod<'_>, asked: &Asked, template: &Template) -> Result<Patch, Refusal> {
    let grace = pod.grace_seconds.unwrap_or(GRACE_SECONDS);
    let mut patch = Additions::default();
    patch.member(&["metadata", "labels"], pod.has_labels, label::INJECTED, json!(TRUE));
    // The pod asks by an annotation, so there are some.
    patch.add(&["metadata", "annotations", INJECTED_BY], json!(template.injected_by()));
    add_sidecar(&mut patch, pod, template.container(asked, grace)?);
    add_variables(&mut patch, pod, asked);
    patch.append(&["spec", "volumes"], pod.has_volumes, container::volumes());
    let secrets: Vec<Value> = template
        .image_pull_secrets()
        .filter(|name| !pod.image_pull_secrets.contains(name))
        .map(|name| json!({ "name": name }))
        .collect();
    patch.append(&["spec", "imagePullSecrets"], pod.has_image_pull_secrets, secrets);
    Ok(Patch(patch.0))
}

fn add_sidecar(patch: &mut Additions, pod: &Pod<'_>, container: Value) {
    let list = ["spec", "initContainers"];
    if !pod.has_init_containers {
        patch.add(&list, json!([container]));
        return;
    }
    let last_native = pod.init_containers.iter().rposition(|container| container.native);
    let place = last_native.map_or(0, |last| last + 1);
    // The index is right only as long as the list is the one that was looked at.
    let neighbour = last_native.unwrap_or(0);
    if let Some(name) = pod.init_containers.get(neighbour).and_then(|neighbour| neighbour.name) {
        let [spec, containers] = list;
        patch.test(&[spec, containers, &neighbour.to_string(), "name"], json!(name));
    }
    let [spec, containers] = list;
    patch.add(&[spec, containers, &place.to_string()], container);
}

/// Tells the application where to append, and where it is expected if the pod says so.
fn add_variables(patch: &mut Additions, pod: &Pod<'_>, asked: &Asked) {
    let port = asked.app_port.map(|port| ("PYRAMID_APP_PORT", port.to_string()));
    let endpoint = ("PYRAMID_APPEND_ENDPOINT", APPEND_ENDPOINT.to_owned());
    let variables: Vec<(&str, String)> = [endpoint].into_iter().chain(port).collect();
    for (index, container) in pod.containers.iter().enumerate() {
        let absent: Vec<Value> = variables
            .iter()
            .filter(|(name, _)| !container.variables.contains(name))
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        let list = ["spec", "containers", &index.to_string(), "env"];
        patch.append(&list, container.has_env, absent);
    }
}

/// Operations in their order. There is no way to take something away.
#[derive(Default)]
struct Additions(Vec<PatchOperation>);

impl Additions {
    fn add(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.0.push(PatchOperation::Add(AddOperation { path, value }));
    }

    fn test(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.0.push(PatchOperation::Test(TestOperation { path, value }));
    }

    /// Adds one member to an object, which is made if it is not `there`.
    fn member(&mut self, object: &[&str], there: bool, name: &str, value: Value) {
        if there {
            let path: Vec<&str> = object.iter().copied().chain([name]).collect();
            self.add(&path, value);
        } else {
            self.add(object, json!({ name: value }));
        }
    }

    /// Adds elements behind the last one of a list, which is made if it is not `there`.
    fn append(&mut self, list: &[&str], there: bool, elements: Vec<Value>) {
        if there {
            let path: Vec<&str> = list.iter().copied().chain(["-"]).collect();
            for element in elements {
                self.add(&path, element);
            }
        } else if !elements.is_empty() {
            self.add(list, Value::Array(elements));
        }
    }
}

#[cfg(test)]
mod tests;
