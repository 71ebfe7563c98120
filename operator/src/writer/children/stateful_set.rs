//! The `StatefulSet` of a Writer.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, HTTPGetAction,
    LocalObjectReference, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSecurityContext,
    PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource,
    SecurityContext, TopologySpreadConstraint, Volume as PodVolume, VolumeMount,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pyramid_crds::label;
use pyramid_crds::writer::{CA_KEY, ObjectStorage};

use super::{ADMIN_PORT, CLIENT_PORT, OPS_PORT, Parent, selector};
use crate::settings::Settings;

/// User and group of the image.
const GROUP: i64 = 65_532;
/// Read by the owner and its group, which is the Pod's.
const SECRET_MODE: i32 = 0o440;

const DATA: &str = "/var/lib/pyramid";
const TLS: &str = "/etc/pyramid/tls";
const KEK: &str = "/etc/pyramid/kek";
const S3: &str = "/etc/pyramid/s3";
const S3_CA: &str = "/etc/pyramid/s3-ca";

/// Name of the claim template, and so the beginning of the claim's.
const DATA_CLAIM: &str = "data";

/// A log of this size is replayed in minutes. Unit: bytes.
const WAL_BYTES_MAX: u64 = 32 << 30;
/// The log may fill this many hundredths of its volume.
const WAL_PERCENT: u64 = 60;

/// The volume of each replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Volume<'a> {
    /// Of the claim template. It can never be changed: the one of a `StatefulSet` that exists.
    pub(crate) claim_size: &'a str,
    /// What there is room for now. Unit: bytes.
    pub(crate) bytes: u64,
}

/// The `StatefulSet`. `replicas` is always in it: an apply without it would make it one.
pub(crate) fn stateful_set(
    parent: Parent<'_>,
    settings: &Settings,
    volume: Volume<'_>,
    replicas: i32,
    existing_uid: Option<&str>,
) -> StatefulSet {
    let names = parent.names();
    let retain = || Some("Retain".to_owned());
    StatefulSet {
        metadata: parent.metadata(names.main(), existing_uid),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            service_name: Some(names.peers()),
            // All at once: a restart of all replicas needs a majority of them.
            pod_management_policy: Some("Parallel".to_owned()),
            // The operator decides when a Pod goes.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            // A mistaken `kubectl scale` must not delete volumes.
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: retain(),
                    when_scaled: retain(),
                },
            ),
            selector: LabelSelector {
                match_labels: Some(selector(parent.name)),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels(parent.name)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(parent, settings, volume.bytes)),
            },
            volume_claim_templates: Some(vec![claim(parent, volume.claim_size)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// Without the version, or every release would restart every Pod.
fn pod_labels(writer: &str) -> BTreeMap<String, String> {
    let more = [(label::PART_OF, label::PYRAMID), (label::WRITER_NAME, writer)];
    let mut labels = selector(writer);
    labels.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels
}

fn claim(parent: Parent<'_>, size: &str) -> PersistentVolumeClaim {
    let requests = [("storage".to_owned(), Quantity(size.to_owned()))].into();
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(DATA_CLAIM.to_owned()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: parent.writer.spec.storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(requests),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

fn pod(parent: Parent<'_>, settings: &Settings, volume_bytes: u64) -> PodSpec {
    let spec = &parent.writer.spec;
    let scheduling = spec.scheduling.clone().unwrap_or_default();
    let pull_secrets: Vec<_> = settings
        .image_pull_secrets
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    PodSpec {
        service_account_name: Some(parent.names().main()),
        automount_service_account_token: Some(false),
        // A Service of an unlucky name would set one of the Writer's variables.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(60),
        image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            fs_group: Some(GROUP),
            // Else each start walks all files of the log to change their group.
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        node_selector: scheduling.node_selector,
        tolerations: scheduling.tolerations,
        topology_spread_constraints: Some(
            ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
                .map(|key| spread(parent.name, key))
                .into(),
        ),
        containers: vec![container(parent, settings, volume_bytes)],
        volumes: Some(volumes(parent)),
        ..PodSpec::default()
    }
}

/// Soft: a cluster of one node must do for a start.
fn spread(writer: &str, topology_key: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: topology_key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(selector(writer)),
            ..LabelSelector::default()
        }),
        ..TopologySpreadConstraint::default()
    }
}

fn container(parent: Parent<'_>, settings: &Settings, volume_bytes: u64) -> Container {
    let spec = &parent.writer.spec;
    let resources = spec.resources.clone().map_or_else(default_resources, Into::into);
    Container {
        name: "writer".to_owned(),
        image: Some(image(parent, settings).to_owned()),
        image_pull_policy: Some(settings.writer_pull_policy.clone()),
        args: Some(args(parent, settings, volume_bytes)),
        ports: Some(
            [("client", CLIENT_PORT), ("admin", ADMIN_PORT), ("ops", OPS_PORT)]
                .map(|(name, container_port)| ContainerPort {
                    name: Some(name.to_owned()),
                    container_port,
                    protocol: Some("TCP".to_owned()),
                    ..ContainerPort::default()
                })
                .into(),
        ),
        // An hour: a long log is replayed in it. A Writer that hangs is found later by liveness.
        startup_probe: Some(probe("/startupz", 5, 3, 720)),
        liveness_probe: Some(probe("/healthz", 10, 5, 6)),
        readiness_probe: Some(probe("/readyz", 5, 3, 3)),
        resources: Some(resources),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts(&spec.object_storage)),
        ..Container::default()
    }
}

/// The image of a Writer: its own, or the one that belongs to the operator.
pub(crate) fn image<'a>(parent: Parent<'a>, settings: &'a Settings) -> &'a str {
    parent.writer.spec.image.as_deref().unwrap_or(&settings.writer_image)
}

fn default_resources() -> ResourceRequirements {
    let quantities = |of: &[(&str, &str)]| {
        let of = of.iter().map(|(name, text)| ((*name).to_owned(), Quantity((*text).to_owned())));
        Some(of.collect())
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "250m"), ("memory", "512Mi")]),
        limits: quantities(&[("memory", "1Gi")]),
        claims: None,
    }
}

fn probe(path: &str, period_seconds: i32, timeout_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("ops".to_owned()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(timeout_seconds),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

fn args(parent: Parent<'_>, settings: &Settings, volume_bytes: u64) -> Vec<String> {
    let ObjectStorage {
        bucket,
        prefix,
        region,
        endpoint,
        credentials_secret_ref,
        ca_config_map_ref,
    } = &parent.writer.spec.object_storage;
    let prefix = prefix.clone().unwrap_or_else(|| format!("{}/{}", parent.namespace, parent.name));
    let mut args = vec![
        format!("--data-dir={DATA}"),
        format!("--listen=0.0.0.0:{CLIENT_PORT}"),
        format!("--admin-listen=0.0.0.0:{ADMIN_PORT}"),
        format!("--ops-listen=0.0.0.0:{OPS_PORT}"),
        format!("--tls={TLS}"),
        format!("--kek-file={KEK}"),
        format!("--object-store=s3://{bucket}"),
        format!("--object-prefix={prefix}"),
    ];
    args.extend(endpoint.iter().map(|endpoint| format!("--s3-endpoint={endpoint}")));
    args.extend(region.iter().map(|region| format!("--s3-region={region}")));
    args.extend(credentials_secret_ref.iter().map(|_| format!("--s3-credentials={S3}")));
    args.extend(ca_config_map_ref.iter().map(|_| format!("--s3-ca={S3_CA}/{CA_KEY}")));
    let wal_bytes = (volume_bytes / 100 * WAL_PERCENT).min(WAL_BYTES_MAX);
    args.push(format!("--wal-bytes-max={wal_bytes}"));
    args.push(format!("--url-life-seconds={}", settings.waits.chunk_url_seconds));
    args.push("--log-format=json".to_owned());
    args
}

fn mounts(objects: &ObjectStorage) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, is_read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: is_read_only.then_some(true),
        ..VolumeMount::default()
    };
    // Whole directories: what is mounted with `subPath` is never updated.
    let mut mounts =
        vec![mount(DATA_CLAIM, DATA, false), mount("tls", TLS, true), mount("kek", KEK, true)];
    mounts.extend(objects.credentials_secret_ref.iter().map(|_| mount("s3", S3, true)));
    mounts.extend(objects.ca_config_map_ref.iter().map(|_| mount("s3-ca", S3_CA, true)));
    mounts
}

fn volumes(parent: Parent<'_>) -> Vec<PodVolume> {
    let spec = &parent.writer.spec;
    let secret = |name: &str, secret: &str| PodVolume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            default_mode: Some(SECRET_MODE),
            ..SecretVolumeSource::default()
        }),
        ..PodVolume::default()
    };
    let names = parent.names();
    let kek = spec.encryption.as_ref().map(|encryption| encryption.key_secret_ref.name.clone());
    let mut volumes =
        vec![secret("tls", &names.tls()), secret("kek", &kek.unwrap_or_else(|| names.kek()))];
    if let Some(reference) = &spec.object_storage.credentials_secret_ref {
        volumes.push(secret("s3", &reference.name));
    }
    if let Some(reference) = &spec.object_storage.ca_config_map_ref {
        volumes.push(PodVolume {
            name: "s3-ca".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: reference.name.clone(),
                default_mode: Some(SECRET_MODE),
                ..ConfigMapVolumeSource::default()
            }),
            ..PodVolume::default()
        });
    }
    volumes
}
