use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, WebhookClientConfig};
use pyramid_protocol::{SeededEntropy, SystemClock};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn authority() -> Authority {
    Authority::generate("test.local", 100 * DAY, &SystemClock).unwrap()
}

/// With a trust domain, if it has a name.
fn settings(trust_domain: &str) -> Settings {
    let trust_domain = Some(trust_domain.to_owned()).filter(|name| !name.is_empty());
    Settings { trust_domain, ..Settings::for_tests() }
}

fn read(secret: &Secret, settings: &Settings) -> Result<String, String> {
    let trust = Trust::read(secret, settings).map_err(|error| causes(&error))?;
    Ok(trust.trust_domain)
}

fn data(secret: &mut Secret) -> &mut std::collections::BTreeMap<String, ByteString> {
    secret.data.as_mut().unwrap()
}

#[test]
fn what_was_made_is_what_is_read() {
    let made = Trust::of(authority());
    let secret = secret_of(&made.authority);
    assert!(Trust::read(&secret, &settings("")).unwrap().is_same(&made));
    // A root is no part of any object that may go: nothing owns it.
    let labels = [
        ("app.kubernetes.io/managed-by", "pyramid-operator"),
        ("app.kubernetes.io/part-of", "pyramid"),
    ];
    let metadata = ObjectMeta {
        name: Some("pyramid-ca".to_owned()),
        labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
        ..ObjectMeta::default()
    };
    assert_eq!(secret.metadata, metadata);
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
}

#[test]
fn a_new_trust_domain_is_the_clusters_with_a_suffix_unless_the_settings_name_one() {
    let entropy = || SeededEntropy::new(7);
    let mut suffix = [0; 4];
    entropy().fill(&mut suffix);
    let expected = format!("cluster.local-{}", bundle::hex(&suffix));
    assert_eq!(new_trust_domain(&settings(""), &entropy()), expected);
    assert_eq!(new_trust_domain(&settings("prod.example"), &entropy()), "prod.example");
}

#[test]
fn the_trust_domain_of_the_settings_must_be_the_roots() {
    let secret = secret_of(&authority());
    for same in ["", "test.local"] {
        assert_eq!(read(&secret, &settings(same)), Ok("test.local".to_owned()));
    }
    let other = "the settings say trustDomain \"other.example\" and the Secret pyramid-ca is of \
                 \"test.local\"; it cannot be changed, set it back";
    assert_eq!(read(&secret, &settings("other.example")), Err(other.to_owned()));
}

#[test]
fn a_secret_that_is_not_whole_says_what_to_restore() {
    let good = secret_of(&authority());
    assert!(read(&good, &settings("")).is_ok());
    for key in ["tls.crt", "tls.key"] {
        let mut without = good.clone();
        data(&mut without).remove(key);
        let mut binary = good.clone();
        data(&mut binary).insert(key.to_owned(), ByteString(vec![0xff]));
        let text = format!("the Secret pyramid-ca has no {key}; restore it from a copy");
        for secret in [without, binary] {
            assert_eq!(read(&secret, &settings("")), Err(text.clone()));
        }
        let mut junk = good.clone();
        data(&mut junk).insert(key.to_owned(), ByteString(b"junk".to_vec()));
        let error = read(&junk, &settings("")).unwrap_err();
        assert!(error.contains("restore it from a copy"), "{key}: {error}");
    }
}

#[test]
fn a_writers_certificate_tells_that_there_was_an_authority() {
    let secret = |name: &str| {
        let (name, namespace) = (Some(name.to_owned()), Some("shop".to_owned()));
        let metadata = ObjectMeta { name, namespace, ..ObjectMeta::default() };
        Secret { metadata, ..Secret::default() }
    };
    let others = [secret("main-writer-kek"), secret("tls")];
    assert_eq!(certificate_in(&others), None);
    let with = [&others[..], &[secret("main-writer-tls")]].concat();
    let expected = Evidence {
        place: "the Secret shop/main-writer-tls".to_owned(),
        removal: "`kubectl delete secret --namespace shop main-writer-tls`".to_owned(),
    };
    assert_eq!(certificate_in(&with), Some(expected));
}

#[test]
fn a_webhooks_root_tells_that_there_was_an_authority() {
    let configuration = |bundles: &[Option<&str>]| {
        let webhook = |pem: &Option<&str>| {
            let ca_bundle = pem.map(|pem| ByteString(pem.as_bytes().to_vec()));
            let client_config = WebhookClientConfig { ca_bundle, ..WebhookClientConfig::default() };
            MutatingWebhook { client_config, ..MutatingWebhook::default() }
        };
        let webhooks = Some(bundles.iter().map(webhook).collect());
        MutatingWebhookConfiguration { webhooks, ..MutatingWebhookConfiguration::default() }
    };
    // The chart's configuration is there before the operator.
    let none = [MutatingWebhookConfiguration::default(), configuration(&[None, Some("")])];
    assert_eq!(root_in(None), None);
    assert_eq!(none.iter().find_map(|it| root_in(Some(it))), None);
    let Evidence { place, removal } = root_in(Some(&configuration(&[None, Some("root")]))).unwrap();
    assert_eq!(place, "the caBundle of MutatingWebhookConfiguration pyramid-sidecar-injector");
    let expected = "`helm uninstall` of this release and `helm install` again, or `kubectl patch \
                    mutatingwebhookconfiguration pyramid-sidecar-injector --type=json --patch='\
                    [{\"op\":\"remove\",\"path\":\"/webhooks/1/clientConfig/caBundle\"}]'`";
    assert_eq!(removal, expected);
}

#[test]
fn an_authority_that_is_gone_says_what_to_restore_or_which_command_to_run() {
    let error = Error::Gone { evidence: "X".to_owned(), removal: "`remove X`".to_owned() };
    let expected = "the Secret pyramid-ca is gone, but X holds what its authority made; restore \
                    pyramid-ca from a copy. To begin with a new authority that no running program \
                    believes, remove X first: `remove X`";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn writers_are_looked_for_where_they_may_run() {
    let looked = |names: &[&str]| {
        let writer_namespaces = names.iter().map(|name| (*name).to_owned()).collect();
        let settings = Settings { writer_namespaces, ..Settings::for_tests() };
        let names = places("pyramid-system", &settings)?;
        Some(names.join(" "))
    };
    assert_eq!(looked(&["shop", "*"]), None);
    assert_eq!(looked(&[]).as_deref(), Some("pyramid-system"));
    let both = Some("pyramid-system shop");
    assert_eq!(looked(&["shop", "pyramid-system"]).as_deref(), both);
}

#[test]
fn roots_that_are_exchanged_are_believed_as_well() {
    let (old, new) = (authority(), authority());
    let mut secret = secret_of(&new);
    let settings = Settings::for_tests();
    let alone = Trust::read(&secret, &settings).unwrap();
    assert_eq!(bundle::fingerprints(&alone.bundle_pem).unwrap().len(), 1);
    let previous = ByteString(old.bundle_pem().as_bytes().to_vec());
    secret.data.as_mut().unwrap().insert("previous.crt".to_owned(), previous);
    let both = Trust::read(&secret, &settings).unwrap();
    let expected = bundle::join(&[new.bundle_pem(), old.bundle_pem()]).unwrap();
    assert_eq!(both.bundle_pem, expected);
    assert!(!both.is_same(&alone));
    assert_eq!(both.authority.bundle_pem(), new.bundle_pem());
    let junk = ByteString(b"junk".to_vec());
    secret.data.as_mut().unwrap().insert("next.crt".to_owned(), junk);
    assert!(matches!(Trust::read(&secret, &settings), Ok(_) | Err(Error::Bundle(_))));
}

#[test]
fn what_cannot_be_used_changes_nothing() {
    let (old, new) = (authority(), authority());
    let settings = Settings::for_tests();
    let (sender, mut trust) = watch::channel(Arc::new(Trust::of(old)));
    take(&secret_of(&new), &settings, &sender);
    assert!(trust.has_changed().unwrap());
    assert_eq!(trust.borrow_and_update().authority.bundle_pem(), new.bundle_pem());
    take(&secret_of(&new), &settings, &sender);
    take(&Secret::default(), &settings, &sender);
    assert!(!trust.has_changed().unwrap());
}
