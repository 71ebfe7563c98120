//! The children against golden files, and what must not be in them.

use pyramid_crds::writer::{Encryption, LocalRef, Resources, Scheduling};
use serde_json::{Value, json};

use super::super::fixture::{from, parent, settings, writer};
use super::*;
use crate::settings::Settings;

const GIB: u64 = 1 << 30;

fn golden(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn value<T: serde::Serialize>(object: &T) -> Value {
    serde_json::to_value(object).unwrap()
}

fn build(writer: &Writer, settings: &Settings) -> Value {
    let volume = Volume { claim_size: "10Gi", bytes: 10 * GIB };
    value(&stateful_set(parent(writer), settings, volume, 1, None))
}

#[test]
fn the_stateful_set_of_a_plain_writer() {
    let expected = golden(include_str!("../../../tests/golden/writer_plain.yaml"));
    assert_eq!(build(&writer(), &settings()), expected);
}

#[test]
fn the_stateful_set_of_a_writer_with_everything() {
    let mut writer = writer();
    let reference = |name: &str| LocalRef { name: name.to_owned() };
    let spec = &mut writer.spec;
    spec.image = Some("example.com/writer:2".to_owned());
    spec.storage.storage_class_name = Some("fast".to_owned());
    spec.object_storage.prefix = Some("events".to_owned());
    spec.object_storage.region = Some("eu-north-1".to_owned());
    spec.object_storage.endpoint = Some("https://s3.example.com".to_owned());
    spec.object_storage.credentials_secret_ref = Some(reference("acme-s3"));
    spec.object_storage.ca_config_map_ref = Some(reference("acme-ca"));
    spec.encryption = Some(Encryption { key_secret_ref: reference("acme-key") });
    spec.scheduling = Some(from::<Scheduling>(json!({
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "only", "operator": "Exists"}],
    })));
    spec.resources = Some(from::<Resources>(json!({"limits": {"memory": "4Gi"}})));
    let settings = Settings {
        writer_pull_policy: "Never".to_owned(),
        image_pull_secrets: vec!["registry".to_owned()],
        ..settings()
    };
    let volume = Volume { claim_size: "5Gi", bytes: 100 * GIB };
    let set = stateful_set(parent(&writer), &settings, volume, 1, Some("s1"));
    let expected = golden(include_str!("../../../tests/golden/writer_full.yaml"));
    assert_eq!(value(&set), expected);
}

#[test]
fn the_other_children() {
    let writer = writer();
    let parent = parent(&writer);
    let children = json!([
        value(&service_account(parent, None)),
        value(&client_service(parent, Some("u1"))),
        value(&peers_service(parent, None)),
    ]);
    let expected = golden(include_str!("../../../tests/golden/writer_others.yaml"));
    assert_eq!(children, expected);
}

/// Of two visits at different times to a Writer with another history, only the spec tells.
#[test]
fn what_is_applied_has_no_time_and_no_history_in_it() {
    let young = writer();
    let mut old = writer();
    old.metadata.generation = Some(99);
    old.metadata.resource_version = Some("12345".to_owned());
    old.metadata.creation_timestamp = Some(from(json!("2020-01-01T00:00:00Z")));
    old.metadata.annotations = Some([("pyramid.dev/any".to_owned(), "1".to_owned())].into());
    old.status = None;
    assert_eq!(build(&old, &settings()), build(&young, &settings()));
    let mut other = writer();
    other.spec.image = Some("another".to_owned());
    assert_ne!(build(&other, &settings()), build(&young, &settings()));
}

#[test]
fn the_log_takes_sixty_hundredths_of_the_volume_and_at_most_32_gib() {
    let wal = |bytes: u64| {
        let writer = writer();
        let volume = Volume { claim_size: "10Gi", bytes };
        let set = value(&stateful_set(parent(&writer), &settings(), volume, 1, None));
        let args = set["spec"]["template"]["spec"]["containers"][0]["args"].clone();
        let args: Vec<String> = serde_json::from_value(args).unwrap();
        let arg = args.iter().find_map(|arg| arg.strip_prefix("--wal-bytes-max="));
        arg.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(wal(1000), 600);
    assert_eq!(wal(10 * GIB), 6_442_450_920);
    let most = 32 * GIB;
    assert!(wal(53 * GIB) < most);
    assert_eq!(wal(54 * GIB), most);
}

#[test]
fn the_key_has_no_owner_and_the_certificate_has() {
    let writer = writer();
    let kek = kek_secret(parent(&writer), [7; KEK_BYTES]);
    assert_eq!(kek.metadata.owner_references, None);
    assert_eq!(kek.metadata.name.as_deref(), Some("billing-writer-kek"));
    let data = kek.data.unwrap();
    assert_eq!(data.into_iter().collect::<Vec<_>>(), [("1".to_owned(), ByteString(vec![7; 32]))]);

    let mut issued = Secret::default();
    issued.metadata.name = Some("billing-writer-tls".to_owned());
    issued.metadata.uid = Some("t1".to_owned());
    let tls = tls_secret(parent(&writer), issued);
    assert_eq!(tls.metadata.uid.as_deref(), Some("t1"));
    let owners = tls.metadata.owner_references.unwrap();
    assert_eq!((owners.len(), &*owners[0].uid, owners[0].controller), (1, "w1", Some(true)));
}

#[test]
fn labels_of_the_longest_writer_are_short_enough() {
    let longest = "w".repeat(pyramid_crds::writer::NAME_LEN_MAX);
    let names = Names::of(&longest);
    // Of a Pod: the name of the StatefulSet, and a hash of ten characters.
    let longest_label = [names.peers(), format!("{}-0123456789", names.main()), names.pod()]
        .iter()
        .map(String::len)
        .max();
    assert!(longest_label < Some(64), "{longest_label:?}");
}
