use pyramid_protocol::{SeededEntropy, SystemClock};
use serde_json::{Value, json};

use super::*;
use crate::fake_api::{FakeApi, Mood};

const DAY: Duration = Duration::from_secs(86_400);
const PLACE: &str = "/api/v1/namespaces/pyramid-system/secrets/pyramid-ca";
const WRITER_PLACE: &str = "/api/v1/namespaces/shop/secrets/main-writer-tls";
const WEBHOOK_PLACE: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/pyramid-sidecar-injector";

async fn load_with(api: &FakeApi, settings: &Settings) -> Result<Trust, String> {
    let entropy = SeededEntropy::new(7);
    load_or_create(&api.client(), "pyramid-system", settings, &SystemClock, &entropy)
        .await
        .map_err(|error| causes(&error))
}

async fn load(api: &FakeApi) -> Result<Trust, String> {
    load_with(api, &Settings::for_tests()).await
}

fn authority() -> Authority {
    Authority::generate("test.local", 100 * DAY, &SystemClock).unwrap()
}

fn writer_secret(name: &str) -> Value {
    json!({
        "metadata": {
            "name": name,
            "namespace": "shop",
            "labels": {"app.kubernetes.io/managed-by": "pyramid-operator"},
        },
    })
}

fn webhook(bundle: Option<&str>) -> Value {
    let bundle = bundle.map(|bundle| ByteString(bundle.as_bytes().to_vec()));
    json!({
        "metadata": {"name": "pyramid-sidecar-injector"},
        "webhooks": [{
            "name": "inject.pyramid.dev",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "clientConfig": {"caBundle": bundle},
        }],
    })
}

#[tokio::test]
async fn the_first_authority_is_made_once_and_then_read() {
    let api = FakeApi::default();
    // The chart's configuration is there before the operator, and so may others' Secrets be.
    api.put(WEBHOOK_PLACE, webhook(None));
    api.put("/api/v1/namespaces/shop/secrets/main-writer-kek", writer_secret("main-writer-kek"));
    let made = load(&api).await.unwrap();
    let (domain, suffix) = made.trust_domain.rsplit_once('-').unwrap();
    assert_eq!((domain, suffix.len()), ("cluster.local", 8), "{}", made.trust_domain);
    let secret = api.get(PLACE).unwrap();
    assert_eq!(secret["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(secret["type"], "kubernetes.io/tls");
    let read = load(&api).await.unwrap();
    assert!(read.is_same(&made));
    assert_eq!(api.get(PLACE).unwrap(), secret);
}

#[tokio::test]
async fn the_trust_domain_of_the_settings_is_taken_and_cannot_change() {
    let api = FakeApi::default();
    let named =
        |name: &str| Settings { trust_domain: Some(name.to_owned()), ..Settings::for_tests() };
    assert_eq!(load_with(&api, &named("prod.example")).await.unwrap().trust_domain, "prod.example");
    assert!(load_with(&api, &named("prod.example")).await.is_ok());
    let error = load_with(&api, &named("other.example")).await.unwrap_err();
    assert!(error.contains("\"other.example\"") && error.contains("\"prod.example\""), "{error}");
    assert_eq!(load(&api).await.unwrap().trust_domain, "prod.example");
}

#[tokio::test]
async fn no_new_authority_is_made_while_something_of_another_is_left() {
    let evidence = [
        (WRITER_PLACE, writer_secret("main-writer-tls"), "the Secret shop/main-writer-tls holds"),
        (WEBHOOK_PLACE, webhook(Some("root")), "the caBundle of MutatingWebhookConfiguration"),
    ];
    for (place, object, named) in evidence {
        let api = FakeApi::default();
        api.put(place, object);
        let error = load(&api).await.unwrap_err();
        assert!(error.contains(named), "{error}");
        assert_eq!(api.get(PLACE), None);
        api.remove(place);
        assert!(load(&api).await.is_ok(), "{place}");
    }
}

#[tokio::test]
async fn writers_are_looked_for_where_they_may_run() {
    let enabled = |names: &[&str]| Settings {
        writer_namespaces: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Settings::for_tests()
    };
    for (names, is_made) in [(&["shop"][..], false), (&["*"], false), (&["bank"], true)] {
        let api = FakeApi::default();
        api.put(WRITER_PLACE, writer_secret("main-writer-tls"));
        assert_eq!(load_with(&api, &enabled(names)).await.is_ok(), is_made, "{names:?}");
    }
}

#[tokio::test]
async fn a_read_that_fails_is_not_taken_for_an_absent_secret() {
    let api = FakeApi::default();
    api.be(Mood::Forbids);
    let error = load(&api).await.unwrap_err();
    assert!(error.starts_with("read the Secret pyramid-ca: "), "{error}");
    assert_eq!(api.requests(), [format!("GET {PLACE}")]);
    api.be(Mood::Good);
    assert!(load(&api).await.is_ok());
}

#[tokio::test]
async fn a_damaged_secret_is_told_and_left_as_it_is() {
    let api = FakeApi::default();
    load(&api).await.unwrap();
    let good = api.get(PLACE).unwrap();
    for key in ["tls.crt", "tls.key"] {
        for value in [Value::Null, "AAAA".into()] {
            let mut damaged = good.clone();
            damaged["data"][key] = value.clone();
            if value.is_null() {
                damaged["data"].as_object_mut().unwrap().remove(key);
            }
            api.put(PLACE, damaged.clone());
            let error = load(&api).await.unwrap_err();
            assert!(error.contains("restore it from a copy"), "{key} {value}: {error}");
            assert_eq!(api.get(PLACE).unwrap()["data"], damaged["data"]);
        }
    }
    api.put(PLACE, good);
    assert!(load(&api).await.is_ok());
}

/// What is left after two replicas have begun at once.
#[tokio::test]
async fn who_loses_the_race_takes_the_authority_of_the_winner() {
    let api = FakeApi::default();
    let (one, other) = tokio::join!(load(&api), load(&api));
    let creates = api.requests().iter().filter(|it| it.starts_with("POST")).count();
    assert_eq!(creates, 2, "there was no race");
    assert!(one.unwrap().is_same(&other.unwrap()));
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
