//! [`Pod`]: the fields of a pod that injection looks at, read from JSON.
//!
//! `null` counts as absent, as it does for the API server. A field of the wrong kind is a
//! [`Refusal::Malformed`]: nothing can be said about what is beside it.

use std::collections::BTreeMap;

use pyramid_crds::annotation;
use serde_json::{Map, Value};

use super::refusal::Refusal;

type Object = Map<String, Value>;

/// What injection looks at.
#[derive(Debug)]
pub(super) struct Pod<'a> {
    pub(super) annotations: BTreeMap<&'a str, &'a str>,
    pub(super) has_labels: bool,
    pub(super) host_network: bool,
    pub(super) windows: bool,
    pub(super) service_account: &'a str,
    /// Unit: seconds.
    pub(super) grace_seconds: Option<u64>,
    pub(super) has_init_containers: bool,
    pub(super) init_containers: Vec<Container<'a>>,
    pub(super) containers: Vec<Container<'a>>,
    pub(super) has_volumes: bool,
    /// Their names.
    pub(super) volumes: Vec<&'a str>,
    pub(super) has_image_pull_secrets: bool,
    /// Their names.
    pub(super) image_pull_secrets: Vec<&'a str>,
}

/// One container, also one of those that run first.
#[derive(Debug)]
pub(super) struct Container<'a> {
    pub(super) name: Option<&'a str>,
    /// It runs as long as the pod. Means something for init containers only.
    pub(super) native: bool,
    /// The names of the volumes that it mounts.
    pub(super) mounts: Vec<&'a str>,
    /// The TCP ports that it says it listens on.
    pub(super) ports: Vec<u64>,
    pub(super) has_env: bool,
    /// Their names.
    pub(super) variables: Vec<&'a str>,
}

impl<'a> Pod<'a> {
    /// Reads a pod.
    ///
    /// # Errors
    ///
    /// [`Refusal::Malformed`].
    pub(super) fn read(pod: &'a Value) -> Result<Self, Refusal> {
        let pod = pod.as_object().ok_or_else(|| malformed("", "an object"))?;
        let metadata = object(pod, "metadata", "metadata")?;
        let spec = object(pod, "spec", "spec")?.ok_or_else(|| malformed("spec", "an object"))?;
        let member = |name| metadata.map_or(Ok(None), |metadata| object(metadata, name, name));
        let init_containers = containers(spec, "initContainers")?;
        let volumes = list(spec, "volumes", "spec.volumes")?;
        let secrets = list(spec, "imagePullSecrets", "spec.imagePullSecrets")?;
        Ok(Self {
            annotations: texts(member("annotations")?)?,
            has_labels: member("labels")?.is_some(),
            host_network: spec.get("hostNetwork").and_then(Value::as_bool) == Some(true),
            windows: is_windows(spec)?,
            // The older of the two names still works in manifests.
            service_account: text(spec, "serviceAccountName")
                .or_else(|| text(spec, "serviceAccount"))
                .unwrap_or("default"),
            grace_seconds: spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64),
            has_init_containers: init_containers.is_some(),
            init_containers: init_containers.unwrap_or_default(),
            containers: containers(spec, "containers")?.unwrap_or_default(),
            has_volumes: volumes.is_some(),
            volumes: names(volumes),
            has_image_pull_secrets: secrets.is_some(),
            image_pull_secrets: names(secrets),
        })
    }

    /// Who injected, if somebody did.
    pub(super) fn injected_by(&self) -> Option<&'a str> {
        self.annotations.get(annotation::INJECTED_BY).copied()
    }

    pub(super) fn all_containers(&self) -> impl Iterator<Item = &Container<'a>> {
        self.init_containers.iter().chain(&self.containers)
    }
}

fn malformed(path: &str, expected: &'static str) -> Refusal {
    Refusal::Malformed { path: path.to_owned(), expected }
}

fn member<'a>(parent: &'a Object, name: &str) -> Option<&'a Value> {
    parent.get(name).filter(|value| !value.is_null())
}

fn object<'a>(parent: &'a Object, name: &str, path: &str) -> Result<Option<&'a Object>, Refusal> {
    member(parent, name)
        .map(|value| value.as_object().ok_or_else(|| malformed(path, "an object")))
        .transpose()
}

fn list<'a>(parent: &'a Object, name: &str, path: &str) -> Result<Option<&'a [Value]>, Refusal> {
    member(parent, name)
        .map(|value| value.as_array().map(Vec::as_slice).ok_or_else(|| malformed(path, "a list")))
        .transpose()
}

fn text<'a>(parent: &'a Object, name: &str) -> Option<&'a str> {
    parent.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn texts(object: Option<&Object>) -> Result<BTreeMap<&str, &str>, Refusal> {
    let read = |(name, value): (&'_ String, &'_ Value)| match value.as_str() {
        Some(_) => Ok(()),
        None => Err(malformed(&format!("metadata.annotations[{name:?}]"), "a text")),
    };
    object.into_iter().flatten().try_for_each(read)?;
    let texts = object.into_iter().flatten();
    Ok(texts.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect())
}

/// The names of named elements; what has none cannot be in anybody's way.
fn names(elements: Option<&[Value]>) -> Vec<&str> {
    let elements = elements.into_iter().flatten();
    elements.filter_map(|element| element.get("name")?.as_str()).collect()
}

fn is_windows(spec: &Object) -> Result<bool, Refusal> {
    let os = object(spec, "os", "spec.os")?.and_then(|os| text(os, "name"));
    let node = object(spec, "nodeSelector", "spec.nodeSelector")?
        .and_then(|labels| text(labels, "kubernetes.io/os"));
    Ok(os == Some("windows") || node == Some("windows"))
}

fn containers<'a>(spec: &'a Object, name: &str) -> Result<Option<Vec<Container<'a>>>, Refusal> {
    let path = format!("spec.{name}");
    let Some(elements) = list(spec, name, &path)? else { return Ok(None) };
    let read = |(index, element): (usize, &'a Value)| {
        let path = format!("{path}[{index}]");
        let container = element.as_object().ok_or_else(|| malformed(&path, "an object"))?;
        let env = list(container, "env", &format!("{path}.env"))?;
        let ports = list(container, "ports", &format!("{path}.ports"))?;
        let mounts = list(container, "volumeMounts", &format!("{path}.volumeMounts"))?;
        Ok(Container {
            name: text(container, "name"),
            native: text(container, "restartPolicy") == Some("Always"),
            mounts: names(mounts),
            ports: ports.into_iter().flatten().filter_map(tcp_port).collect(),
            has_env: env.is_some(),
            variables: names(env),
        })
    };
    elements.iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
}

fn tcp_port(port: &Value) -> Option<u64> {
    let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
    if protocol == "TCP" { port.get("containerPort")?.as_u64() } else { None }
}
