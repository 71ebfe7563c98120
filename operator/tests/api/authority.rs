//! The Secret of the authority: made once, and never on account of an answer that did not come.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use pyramid_e2e::process::wait_until;
use pyramid_operator::Trust;
use pyramid_operator::authority::{self, Error, SECRET};
use pyramid_operator::settings::Settings;
use pyramid_protocol::{SystemClock, SystemEntropy};
use pyramid_tls::{Authority, bundle};
use serde_json::{Value, json};
use tokio::sync::{Barrier, RwLock, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::wire::{Way, Wire};
use crate::world::{SOON, World};

/// There is one configuration of the webhook in a cluster. Who makes an authority looks at it.
static WEBHOOK: RwLock<()> = RwLock::const_new(());

/// Writers run in the operator's namespace and in these.
fn settings(writer_namespaces: &[&str]) -> Settings {
    let settings = json!({
        "writerImage": "writer:1",
        "writerNamespaces": writer_namespaces,
        "pusher": {"image": "pusher:1"},
    });
    serde_json::from_value(settings).unwrap()
}

async fn load(world: &World, wire: &Wire, settings: &Settings) -> Result<Trust, Error> {
    let client = wire.client();
    let loading = authority::load_or_create(
        &client,
        &world.namespace,
        settings,
        &SystemClock,
        &SystemEntropy,
    );
    loading.await
}

async fn secret(world: &World) -> Option<Secret> {
    world.get(SECRET).await
}

/// A Secret that the operator made for a Writer, by its name.
fn of_writer(name: &str) -> Value {
    let labels = json!({"app.kubernetes.io/managed-by": "pyramid-operator"});
    json!({"metadata": {"name": name, "labels": labels}})
}

#[tokio::test]
async fn the_first_authority_is_made_and_then_read() {
    let _shared = WEBHOOK.read().await;
    let world = World::new("authority-first").await;
    // Others' Secrets may be there before.
    world.create::<Secret>(of_writer("main-writer-kek")).await;
    let made = load(&world, &world.wire(), &settings(&[])).await.unwrap();
    let found = secret(&world).await.unwrap();
    assert_eq!(found.type_.as_deref(), Some("kubernetes.io/tls"));
    assert_eq!(found.metadata.owner_references, None);
    let keys: Vec<String> = found.data.clone().unwrap().into_keys().collect();
    assert_eq!(keys, ["tls.crt", "tls.key"]);
    let manager = found.metadata.managed_fields.clone().unwrap()[0].manager.clone();
    assert_eq!(manager.as_deref(), Some("pyramid-operator"));

    let read = load(&world, &world.wire(), &settings(&[])).await.unwrap();
    assert!(read.is_same(&made));
    assert_eq!(read.trust_domain, made.trust_domain);
    assert_eq!(secret(&world).await.unwrap(), found);
}

#[tokio::test]
async fn of_several_replicas_that_begin_at_once_one_makes_it_and_all_take_it() {
    const REPLICAS: usize = 4;
    let _shared = WEBHOOK.read().await;
    let world = Arc::new(World::new("authority-at-once").await);
    // All have seen that there is none before the first one writes.
    let together = Arc::new(Barrier::new(REPLICAS));
    let mut tasks = JoinSet::new();
    for _ in 0..REPLICAS {
        let world = Arc::clone(&world);
        let wire = world.wire();
        wire.be(Way::Together(Arc::clone(&together)));
        tasks.spawn(async move { load(&world, &wire, &settings(&[])).await.unwrap() });
    }
    let all = tasks.join_all().await;
    assert_eq!(all.len(), REPLICAS);
    assert!(all.iter().all(|trust| trust.is_same(&all[0])), "there are several authorities");
    let read = load(&world, &world.wire(), &settings(&[])).await.unwrap();
    assert!(read.is_same(&all[0]));
}

#[tokio::test]
async fn who_made_it_and_did_not_hear_of_it_reads_it_the_next_time() {
    let _shared = WEBHOOK.read().await;
    let world = World::new("authority-unheard").await;
    let wire = world.wire();
    wire.be(Way::DeafOnce);
    let error = load(&world, &wire, &settings(&[])).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("create the Secret pyramid-ca: "), "{text}");
    let made = secret(&world).await.unwrap();
    let read = load(&world, &wire, &settings(&[])).await.unwrap();
    assert_eq!(secret(&world).await.unwrap(), made);
    let ByteString(root) = made.data.unwrap()["tls.crt"].clone();
    assert_eq!(read.bundle_pem.as_bytes(), root);
}

#[tokio::test]
async fn a_read_that_is_refused_is_not_taken_for_an_absent_secret() {
    let _shared = WEBHOOK.read().await;
    let world = World::new("authority-forbidden").await;
    let wire = world.wire();
    wire.be(Way::Stranger);
    let error = load(&world, &wire, &settings(&[])).await.unwrap_err();
    let text = "read the Secret pyramid-ca: secrets \"pyramid-ca\" is forbidden: User \"stranger\" \
                cannot get resource \"secrets\" in API group \"\" in the namespace \
                \"authority-forbidden\"";
    assert_eq!(error.to_string(), text);
    assert_eq!(secret(&world).await, None);
    wire.be(Way::Open);
    assert!(load(&world, &wire, &settings(&[])).await.is_ok());
}

#[tokio::test]
async fn none_is_made_while_a_writer_has_a_certificate_of_another() {
    let _shared = WEBHOOK.read().await;
    let world = World::new("authority-gone").await;
    let shop = World::new("authority-gone-shop").await;
    shop.create::<Secret>(of_writer("main-writer-tls")).await;
    let wire = world.wire();
    let error = load(&world, &wire, &settings(&["authority-gone-shop"])).await.unwrap_err();
    let Error::Gone { evidence, removal } = error else { panic!("{error}") };
    assert_eq!(evidence, "the Secret authority-gone-shop/main-writer-tls");
    let command = "`kubectl delete secret --namespace authority-gone-shop main-writer-tls`";
    assert_eq!(removal, command);
    assert_eq!(secret(&world).await, None);
    // No Writer of ours runs there.
    assert!(load(&world, &wire, &settings(&[])).await.is_ok());
    world.delete::<Secret>(SECRET).await;
    shop.delete::<Secret>("main-writer-tls").await;
    assert!(load(&world, &wire, &settings(&["authority-gone-shop"])).await.is_ok());
}

#[tokio::test]
async fn none_is_made_while_the_webhook_has_the_root_of_another() {
    let _alone = WEBHOOK.write().await;
    let world = World::new("authority-webhook").await;
    let root = Authority::generate("test.local", Duration::from_secs(86_400), &SystemClock);
    let configuration = |bundle: Value| {
        json!({
            "metadata": {"name": "pyramid-sidecar-injector"},
            "webhooks": [{
                "name": "inject.pyramid.dev",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "clientConfig": {"caBundle": bundle, "url": "https://localhost:1/"},
            }],
        })
    };
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    let root = ByteString(root.unwrap().bundle_pem().as_bytes().to_vec());
    let root = serde_json::to_value(root).unwrap();
    // The chart's configuration is there before the operator, and has none.
    for (bundle, is_made) in [(root, false), (Value::Null, true)] {
        let object = serde_json::from_value(configuration(bundle)).unwrap();
        webhooks.create(&PostParams::default(), &object).await.unwrap();
        let loaded = load(&world, &world.wire(), &settings(&[])).await;
        webhooks.delete("pyramid-sidecar-injector", &DeleteParams::default()).await.unwrap();
        assert_eq!(secret(&world).await.is_some(), is_made);
        match loaded {
            Ok(_) => assert!(is_made),
            Err(Error::Gone { evidence, .. }) => assert_eq!(
                evidence,
                "the caBundle of MutatingWebhookConfiguration pyramid-sidecar-injector"
            ),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_damaged_secret_is_told_and_left_as_it_is() {
    let _shared = WEBHOOK.read().await;
    let world = World::new("authority-damaged").await;
    load(&world, &world.wire(), &settings(&[])).await.unwrap();
    let good = secret(&world).await.unwrap();
    // The API server keeps a Secret of this type from losing a key.
    let damage = json!({"data": {"tls.key": ByteString(b"junk".to_vec())}});
    let damaged = world.change::<Secret>(SECRET, damage).await;
    let error = load(&world, &world.wire(), &settings(&[])).await.unwrap_err();
    assert!(matches!(error, Error::Damaged(_)), "{error}");
    assert_eq!(secret(&world).await.unwrap(), damaged);
    world.change::<Secret>(SECRET, json!({"data": good.data})).await;
    assert!(load(&world, &world.wire(), &settings(&[])).await.is_ok());
}

#[tokio::test]
async fn a_running_replica_takes_what_the_secret_says_and_keeps_what_it_has_when_that_is_no_use() {
    let _shared = WEBHOOK.read().await;
    let world = World::new("authority-watched").await;
    let made = load(&world, &world.wire(), &settings(&[])).await.unwrap();
    let root = made.bundle_pem.clone();
    let next = Authority::generate(&made.trust_domain, Duration::from_secs(86_400), &SystemClock);
    let next = next.unwrap().bundle_pem().to_owned();
    let (sender, trust) = watch::channel(Arc::new(made));
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(authority::watch(
        world.client.clone(),
        world.namespace.clone(),
        settings(&[]),
        sender,
        shutdown.clone(),
    ));
    let believed = || trust.borrow().bundle_pem.clone();
    let both = bundle::join(&[&root, &next]).unwrap();
    let with_next = json!({"data": {"next.crt": ByteString(next.clone().into_bytes())}});
    world.change::<Secret>(SECRET, with_next.clone()).await;
    wait_until("both are believed", SOON, async || Ok(believed() == both)).await.unwrap();

    // Junk, and then a change that can be used: by then the junk has been looked at.
    let good = secret(&world).await.unwrap().data;
    let junk = ByteString(b"junk".to_vec());
    world.change::<Secret>(SECRET, json!({"data": {"tls.key": junk, "next.crt": null}})).await;
    world.delete::<Secret>(SECRET).await;
    assert_eq!(believed(), both);
    let without = json!({
        "metadata": {"name": SECRET},
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": good.as_ref().unwrap()["tls.crt"], "tls.key": good.unwrap()["tls.key"]},
    });
    let mut seen = trust.clone();
    seen.mark_unchanged();
    world.create::<Secret>(without).await;
    seen.changed().await.unwrap();
    assert_eq!(believed(), root);
    shutdown.cancel();
    tasks.join_next().await.unwrap().unwrap();
}
