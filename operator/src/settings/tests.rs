use std::io::Write as _;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tempfile::NamedTempFile;

use super::*;

fn read(text: &str) -> Result<Settings, Error> {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Settings::read(file.path())
}

const LEAST: &str = "
writerImage: writer:1
writerNamespaces: [pyramid-system]
pusher:
  image: pusher:1
";

#[test]
fn what_is_left_out_has_the_documented_values() {
    let expected = Settings {
        trust_domain: None,
        cluster_domain: "cluster.local".to_owned(),
        writer_image: "writer:1".to_owned(),
        writer_pull_policy: "IfNotPresent".to_owned(),
        image_pull_secrets: Vec::new(),
        writer_namespaces: vec!["pyramid-system".to_owned()],
        default_writer: DefaultWriter { create: false, spec: None },
        pusher: Pusher {
            image: "pusher:1".to_owned(),
            pull_policy: "IfNotPresent".to_owned(),
            log_level: "info".to_owned(),
            resources: ResourceRequirements::default(),
            image_pull_secrets: Vec::new(),
        },
        pki: Pki {
            root_life_seconds: 157_680_000,
            writer_life_seconds: 2_592_000,
            operator_life_seconds: 86_400,
            pod_life_seconds: 86_400,
            unbound_life_seconds: 3_600,
        },
        waits: Waits {
            resync_seconds: 300,
            progress_seconds: 5,
            stats_seconds: 30,
            drift_seconds: 300,
            lease_seconds: 15,
            chunk_url_seconds: 300,
        },
    };
    assert_eq!(read(LEAST).unwrap(), expected);
}

#[test]
fn everything_can_be_said() {
    let text = "
trustDomain: prod.example
clusterDomain: corp.example
writerImage: writer:1
writerPullPolicy: Never
imagePullSecrets: [registry]
writerNamespaces: ['*']
defaultWriter:
  create: true
  spec: {objectStorage: {bucket: b}}
pusher:
  image: pusher:1
  pullPolicy: Always
  logLevel: debug
  resources: {requests: {cpu: 10m}}
  imagePullSecrets: [registry]
pki:
  rootLifeSeconds: 3960
  writerLifeSeconds: 361
  operatorLifeSeconds: 362
  podLifeSeconds: 363
  unboundLifeSeconds: 360
waits:
  {resyncSeconds: 1, progressSeconds: 2, statsSeconds: 3, driftSeconds: 4, leaseSeconds: 5, chunkUrlSeconds: 6}
";
    let cpu = ("cpu".to_owned(), Quantity("10m".to_owned()));
    let expected = Settings {
        trust_domain: Some("prod.example".to_owned()),
        cluster_domain: "corp.example".to_owned(),
        writer_image: "writer:1".to_owned(),
        writer_pull_policy: "Never".to_owned(),
        image_pull_secrets: vec!["registry".to_owned()],
        writer_namespaces: vec!["*".to_owned()],
        default_writer: DefaultWriter {
            create: true,
            spec: Some(serde_json::json!({"objectStorage": {"bucket": "b"}})),
        },
        pusher: Pusher {
            image: "pusher:1".to_owned(),
            pull_policy: "Always".to_owned(),
            log_level: "debug".to_owned(),
            resources: ResourceRequirements {
                requests: Some([cpu].into()),
                ..ResourceRequirements::default()
            },
            image_pull_secrets: vec!["registry".to_owned()],
        },
        pki: Pki {
            root_life_seconds: 3_960,
            writer_life_seconds: 361,
            operator_life_seconds: 362,
            pod_life_seconds: 363,
            unbound_life_seconds: 360,
        },
        waits: Waits {
            resync_seconds: 1,
            progress_seconds: 2,
            stats_seconds: 3,
            drift_seconds: 4,
            lease_seconds: 5,
            chunk_url_seconds: 6,
        },
    };
    assert_eq!(read(text).unwrap(), expected);
}

#[test]
fn a_part_may_be_said_in_part() {
    let settings = read(&format!("{LEAST}waits: {{leaseSeconds: 3}}\npki: {{}}\n")).unwrap();
    let expected =
        Settings { waits: Waits { lease_seconds: 3, ..Waits::default() }, ..read(LEAST).unwrap() };
    assert_eq!(settings, expected);
}

#[test]
fn a_name_that_means_nothing_is_an_error() {
    for line in [
        "leaseSecond: 3",
        "waits: {leaseSecond: 3}",
        "pki: {life: 3}",
        "defaultWriter: {created: true}",
    ] {
        let error = read(&format!("{LEAST}{line}\n")).unwrap_err();
        assert!(matches!(error, Error::Parse { .. }), "{line}: {error}");
    }
    assert!(read(&format!("{LEAST}waits: {{leaseSeconds: 3}}\n")).is_ok());
}

#[test]
fn a_certificate_that_would_be_due_at_once_is_an_error() {
    let root_alone = u64::from(ROOT_LIFE_SECONDS_MIN - LIFE_SECONDS_MIN);
    assert_eq!(root_alone, pyramid_tls::authority::BEFORE_ROOT.as_secs());
    let with = |life: &str| read(&format!("{LEAST}pki: {{{life}}}\n"));
    for (name, least) in [
        ("rootLifeSeconds", ROOT_LIFE_SECONDS_MIN),
        ("writerLifeSeconds", LIFE_SECONDS_MIN),
        ("operatorLifeSeconds", LIFE_SECONDS_MIN),
        ("podLifeSeconds", LIFE_SECONDS_MIN),
        ("unboundLifeSeconds", LIFE_SECONDS_MIN),
    ] {
        assert!(with(&format!("{name}: {least}")).is_ok(), "{name}");
        let short = least - 1;
        let error = with(&format!("{name}: {short}")).unwrap_err().to_string();
        assert_eq!(error, format!("pki.{name} is {short}; the shortest life is {least} seconds"));
    }
}

#[test]
fn what_has_no_sensible_default_must_be_said() {
    for part in
        ["writerImage: writer:1\n", "writerNamespaces: [pyramid-system]\n", "  image: pusher:1\n"]
    {
        let rest = LEAST.replace(part, "");
        assert_ne!(rest, LEAST, "{part}");
        assert!(matches!(read(&rest), Err(Error::Parse { .. })), "{part}");
    }
    let missing = Settings::read(Path::new("/nonexistent/settings.yaml"));
    assert!(matches!(missing, Err(Error::Read { .. })));
}

#[test]
fn a_namespace_is_enabled_by_its_name_or_by_a_star() {
    let named = read(LEAST).unwrap();
    assert!(named.enables("pyramid-system"));
    assert!(!named.enables("shop"));
    let all = Settings { writer_namespaces: vec!["*".to_owned()], ..named };
    assert!(all.enables("shop"));
}
