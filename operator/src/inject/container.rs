//! [`Template`]: the container that is added, and the volumes that it needs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use pyramid_protocol::bootstrap::{CONFIG_MAP, ISSUER_AUDIENCE};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::settings;

use super::annotations::{Amounts, Asked};
use super::quantity::Quantity;
use super::refusal::Refusal;

/// Its name. Nobody else's container may have it.
pub(crate) const CONTAINER: &str = "pyramid-pusher";
/// Where the application appends.
pub(super) const APPEND_ENDPOINT: &str = "http://127.0.0.1:7410";
/// The application appends and reads here, on loopback.
const APPEND_PORT: u64 = 7410;
/// Health and metrics, on the pod's address.
const OPS_PORT: u64 = 7411;
/// Ports that no other container of the pod can have.
pub(super) const PORTS: [u64; 2] = [APPEND_PORT, OPS_PORT];
/// What Kubernetes gives a pod that does not say how long it needs to stop. Unit: seconds.
pub(super) const GRACE_SECONDS: u64 = 30;

const BOOTSTRAP_VOLUME: &str = "pyramid-bootstrap";
const TOKEN_VOLUME: &str = "pyramid-token";
const IDENTITY_VOLUME: &str = "pyramid-identity";
/// Covers the path at which every container would get the API token of the pod.
const NO_TOKEN_VOLUME: &str = "pyramid-no-token";
/// Names of the volumes that are added.
pub(super) const VOLUMES: [&str; 4] =
    [BOOTSTRAP_VOLUME, TOKEN_VOLUME, IDENTITY_VOLUME, NO_TOKEN_VOLUME];

/// Life of the token that is exchanged at the issuer; kubelet renews it. Unit: seconds.
const TOKEN_SECONDS: u64 = 3_600;

/// What the chart says of every pusher.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    pusher: settings::Pusher,
    injected_by: String,
}

impl Template {
    /// `version` is the operator's.
    pub(crate) fn new(version: &str, pusher: settings::Pusher) -> Self {
        let mut template = Self { pusher, injected_by: String::new() };
        let resources = template.pusher.resources.clone();
        let blank = template.container_with(&Asked::default(), GRACE_SECONDS, &resources);
        let secrets = &template.pusher.image_pull_secrets;
        let all = json!({ "container": blank, "volumes": volumes(), "secrets": secrets });
        let hash: String = Sha256::digest(all.to_string().as_bytes())
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        template.injected_by = format!("{version}/{hash}");
        template
    }

    /// The operator's version and a hash of all that is the same in every pod.
    pub(crate) fn injected_by(&self) -> &str {
        &self.injected_by
    }

    pub(super) fn image_pull_secrets(&self) -> impl Iterator<Item = &str> {
        self.pusher.image_pull_secrets.iter().map(String::as_str)
    }

    /// The container for one pod.
    ///
    /// # Errors
    ///
    /// Request and limit do not go together.
    pub(super) fn container(&self, asked: &Asked, grace_seconds: u64) -> Result<Value, Refusal> {
        let mut resources = self.pusher.resources.clone();
        set(&mut resources, "cpu", &asked.cpu)?;
        set(&mut resources, "memory", &asked.memory)?;
        Ok(self.container_with(asked, grace_seconds, &resources))
    }

    fn container_with(
        &self,
        asked: &Asked,
        grace_seconds: u64,
        resources: &ResourceRequirements,
    ) -> Value {
        let settings::Pusher { image, pull_policy, log_level, resources: _, image_pull_secrets: _ } =
            &self.pusher;
        json!({
            "name": CONTAINER,
            "image": image,
            "imagePullPolicy": pull_policy,
            "restartPolicy": "Always",
            "args": ["run"],
            "env": env(asked, grace_seconds, log_level),
            "ports": [{ "name": "pyramid-ops", "containerPort": OPS_PORT }],
            "startupProbe": {
                "httpGet": { "path": "/startupz", "port": OPS_PORT },
                "periodSeconds": 1,
                "timeoutSeconds": 3,
                "failureThreshold": 60,
            },
            "livenessProbe": {
                "httpGet": { "path": "/healthz", "port": OPS_PORT },
                "periodSeconds": 10,
                "timeoutSeconds": 5,
                "failureThreshold": 6,
            },
            "readinessProbe": {
                "httpGet": { "path": "/readyz", "port": OPS_PORT },
                "periodSeconds": 5,
                "timeoutSeconds": 3,
                "failureThreshold": 3,
            },
            "lifecycle": {
                "preStop": { "exec": { "command": ["/pyramid-pusher", "drain"] } },
            },
            "resources": resources,
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "capabilities": { "drop": ["ALL"] },
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [
                {
                    "name": BOOTSTRAP_VOLUME,
                    "mountPath": "/etc/pyramid/bootstrap",
                    "readOnly": true,
                },
                { "name": TOKEN_VOLUME, "mountPath": "/var/run/pyramid/token", "readOnly": true },
                { "name": IDENTITY_VOLUME, "mountPath": "/var/run/pyramid/identity" },
                {
                    "name": NO_TOKEN_VOLUME,
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                    "readOnly": true,
                },
            ],
        })
    }
}

/// What the pusher is told. A list that is empty is left out.
fn env(asked: &Asked, grace_seconds: u64, log_level: &str) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let fields = [
        field("PYRAMID_POD_NAME", "metadata.name"),
        field("PYRAMID_POD_NAMESPACE", "metadata.namespace"),
        field("PYRAMID_POD_UID", "metadata.uid"),
    ];
    let list = |names: &[String]| (!names.is_empty()).then(|| names.join(","));
    let values = [
        ("PYRAMID_SUBSCRIPTIONS", list(&asked.subscriptions)),
        ("PYRAMID_APPEND", list(&asked.append)),
        ("PYRAMID_APP_PORT", asked.app_port.map(|port| port.to_string())),
        ("PYRAMID_APPEND_PORT", Some(APPEND_PORT.to_string())),
        ("PYRAMID_OPS_PORT", Some(OPS_PORT.to_string())),
        ("PYRAMID_GRACE_SECONDS", Some(grace_seconds.to_string())),
        ("PYRAMID_READINESS", Some(asked.readiness.name().to_owned())),
        ("PYRAMID_LOG", Some(log_level.to_owned())),
    ];
    let values = values
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| json!({ "name": name, "value": value })));
    fields.into_iter().chain(values).collect()
}

/// What the pod says wins. A limit alone is the request too, as it is for every container: what is
/// asked for is then what is there, and two limits leave a `Guaranteed` pod as it was.
fn set(
    resources: &mut ResourceRequirements,
    resource: &'static str,
    amounts: &Amounts,
) -> Result<(), Refusal> {
    let put = |amounts: &mut Option<BTreeMap<String, Text>>, value: &Option<String>| {
        if let Some(value) = value {
            let amounts = amounts.get_or_insert_default();
            amounts.insert(resource.to_owned(), Text(value.clone()));
        }
    };
    put(&mut resources.limits, &amounts.limit);
    put(
        &mut resources.requests,
        amounts.request.as_ref().map_or(&amounts.limit, |_| &amounts.request),
    );
    let text = |amounts: &Option<BTreeMap<String, Text>>| {
        amounts.as_ref()?.get(resource).map(|text| text.0.clone())
    };
    let (Some(request), Some(limit)) = (text(&resources.requests), text(&resources.limits)) else {
        return Ok(());
    };
    // What the chart gives may be of no known form; that the API server will say.
    match (Quantity::parse(&request), Quantity::parse(&limit)) {
        (Some(least), Some(most)) if least > most => {
            Err(Refusal::RequestAboveLimit { resource, request, limit })
        }
        (_, _) => Ok(()),
    }
}

/// What the container mounts.
pub(super) fn volumes() -> Vec<Value> {
    vec![
        json!({
            "name": BOOTSTRAP_VOLUME,
            // A pod may start before the operator has written it.
            "configMap": { "name": CONFIG_MAP, "optional": true },
        }),
        json!({
            "name": TOKEN_VOLUME,
            "projected": {
                "sources": [{
                    "serviceAccountToken": {
                        "audience": ISSUER_AUDIENCE,
                        "expirationSeconds": TOKEN_SECONDS,
                        "path": "token",
                    },
                }],
            },
        }),
        json!({
            "name": IDENTITY_VOLUME,
            // Keys are never written to a disk.
            "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" },
        }),
        json!({ "name": NO_TOKEN_VOLUME, "emptyDir": { "sizeLimit": "1Ki" } }),
    ]
}
