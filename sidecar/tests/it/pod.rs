//! A pusher in a pod, which finds out everything while it runs.

mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use pyramid_protocol::SpiffeId;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_sidecar::health::Readiness;
use pyramid_sidecar::pod;
use pyramid_tls::bundle;
use tonic::Code;

use self::world::{FakeIssuer, TOKEN, TRUST_DOMAIN, World, authority};
use crate::fake_application::FakeApplication;
use crate::fake_writer::{FakeWriter, records};
use crate::local::{append, local};
use crate::ops::answers;

const OK: (u16, &str) = (200, "ok\n");
const ORDERS: &str = "shop/orders";

/// A Writer with the stream `shop/orders` and a subscription to it.
async fn writer_with_orders(world: &mut World, application: &FakeApplication) -> FakeWriter {
    let writer = world.writer("default", &[ORDERS]).await;
    writer.assign("shop/projector", &[ORDERS]);
    writer.append(ORDERS, &["1", "2", "3"]);
    world.subscription("projector", "default", application.address);
    writer
}

#[tokio::test]
async fn a_pod_may_start_before_anything_else() {
    let (mut world, application) = (World::new(), FakeApplication::start().await);
    let config = world.config(&["projector"]);
    let pusher = world.pusher(config).await;
    answers(&pusher, "/startupz", OK).await;
    answers(&pusher, "/healthz", OK).await;
    let lost = |why: &str| format!("no: 1 of 1 subscriptions are not attached: {why}\n");
    let absent = lost("the bootstrap configuration is not there yet");
    answers(&pusher, "/readyz", (503, &absent)).await;
    let mut local = local(&pusher).await;
    let status = local.get_stream(get("orders")).await.unwrap_err();
    let message = "this pod has no Writer yet: the bootstrap configuration is not there yet; try \
                   again";
    assert_eq!((status.code(), status.message()), (Code::Unavailable, message));

    // The issuer is away.
    let writer = writer_with_orders(&mut world, &application).await;
    let issuer = FakeIssuer::start(&mut world).await;
    let address = issuer.address;
    issuer.stop().await;
    world.publish();
    answers(&pusher, "/readyz", (503, &lost("the issuer has given no certificate yet"))).await;

    let operator = SpiffeId::operator(TRUST_DOMAIN).unwrap();
    let _issuer = FakeIssuer::start_as(&world, operator, address).await;
    application.wait_for_values(ORDERS, &writer.values(ORDERS)).await;
    answers(&pusher, "/readyz", OK).await;
    let mode = fs::metadata(world.path("identity").join("tls.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    application.check();
    drop(local);
    pusher.stop().await;
}

fn get(stream: &str) -> pb::GetStreamRequest {
    pb::GetStreamRequest { stream: stream.to_owned(), min_next_offset: None }
}

#[tokio::test]
async fn a_container_that_starts_again_needs_no_issuer() {
    let (mut world, application) = (World::new(), FakeApplication::start().await);
    let writer = writer_with_orders(&mut world, &application).await;
    let issuer = FakeIssuer::start(&mut world).await;
    world.publish();
    let pusher = world.pusher(world.config(&["projector"])).await;
    application.wait_for_values(ORDERS, &writer.values(ORDERS)).await;
    pusher.stop().await;
    assert_eq!(issuer.asked(TOKEN), 1);
    issuer.stop().await;
    let before = world.kept();

    writer.append(ORDERS, &["4"]);
    let pusher = world.pusher(world.config(&["projector"])).await;
    application.wait_for_values(ORDERS, &writer.values(ORDERS)).await;
    assert_eq!(world.kept(), before);
    pusher.stop().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_after_half_of_its_life() {
    let (mut world, application) = (World::new(), FakeApplication::start().await);
    let writer = writer_with_orders(&mut world, &application).await;
    let issuer = FakeIssuer::start(&mut world).await;
    world.publish();
    let pusher = world.pusher(world.config(&["projector"])).await;
    application.wait_for_values(ORDERS, &writer.values(ORDERS)).await;
    let first = world.kept().unwrap();
    world.clock.forward(Duration::from_secs(11 * 3600));
    writer.append(ORDERS, &["4"]);
    application.wait_for_values(ORDERS, &writer.values(ORDERS)).await;
    assert_eq!((issuer.asked(TOKEN), world.kept().unwrap()), (1, first.clone()));

    // A tenth of the life is for chance.
    world.clock.forward(Duration::from_secs(4 * 3600));
    issuer.wait_until_asked(TOKEN, 2).await;
    world.wait_for_kept("another certificate", |leaf, _| leaf != first.0).await;
    // Past the end of the first one: new connections need the second.
    world.clock.forward(Duration::from_secs(10 * 3600));
    writer.network.break_connections();
    writer.append(ORDERS, &["5"]);
    application.wait_for_values(ORDERS, &writer.values(ORDERS)).await;
    pusher.stop().await;
}

#[tokio::test]
async fn whom_to_believe_follows_the_configuration() {
    let (mut world, application) = (World::new(), FakeApplication::start().await);
    let writer = writer_with_orders(&mut world, &application).await;
    let issuer = FakeIssuer::start(&mut world).await;
    let (old, new) = (world.authority.bundle_pem().to_owned(), authority());
    world.publish();
    let pusher = world.pusher(world.config(&["projector"])).await;
    let (first, bundle) = world.wait_for_kept("a certificate", |_, _| true).await;
    assert_eq!(bundle, old);
    says_hello(&writer, &old).await;

    // Both are believed: a new certificate comes soon.
    let both = bundle::join(&[&old, new.bundle_pem()]).unwrap();
    issuer.change(|state| state.authority = new.clone());
    world.publish_with(&both);
    let is_second = |leaf: &str, bundle: &str| leaf != first && bundle == both;
    let (second, _) = world.wait_for_kept("a certificate of the new authority", is_second).await;
    // An operator that exchanges the authority hears of it from the Writer.
    says_hello(&writer, &both).await;

    // The old one is taken out: the certificate stays good.
    world.publish_with(new.bundle_pem());
    world.wait_for_kept("the new bundle", |_, bundle| bundle == new.bundle_pem()).await;
    assert_ne!(first, second);
    pusher.stop().await;
}

/// Waits until the Writer was told this bundle.
async fn says_hello(writer: &FakeWriter, bundle_pem: &str) {
    let expected = pb::AttachHello {
        subscription: "shop/projector".to_owned(),
        pod: "projector-0".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_bundle_sha256: bundle::hex(&bundle::digest(bundle_pem).unwrap()),
    };
    writer.wait_for("hello", |state| state.hellos.get("shop/projector") == Some(&expected)).await;
}

#[tokio::test]
async fn a_certificate_that_a_new_bundle_does_not_vouch_for_is_replaced() {
    let mut world = World::new();
    let issuer = FakeIssuer::start(&mut world).await;
    let new = authority();
    world.publish();
    // Nothing but the need for another certificate can be why there is one.
    let mut config = world.config(&[]);
    config.pod_timing.spread = Duration::from_secs(3600);
    let pusher = world.pusher(config).await;
    let (first, _) = world.wait_for_kept("a certificate", |_, _| true).await;
    issuer.stop().await;
    world.authority = new;
    let _issuer = FakeIssuer::start(&mut world).await;
    world.publish();
    let bundle = world.authority.bundle_pem().to_owned();
    world.wait_for_kept("another", |leaf, kept| leaf != first && kept == bundle).await;
    pusher.stop().await;
}

#[tokio::test]
async fn a_token_that_is_refused_is_read_again() {
    let (mut world, application) = (World::new(), FakeApplication::start().await);
    let writer = writer_with_orders(&mut world, &application).await;
    let issuer = FakeIssuer::start(&mut world).await;
    world.publish();
    fs::write(world.path("token"), "of another cluster\n").unwrap();
    let pusher = world.pusher(world.config(&["projector"])).await;
    issuer.wait_until_asked("of another cluster", 2).await;
    assert_eq!(world.kept(), None);
    fs::write(world.path("token"), format!("{TOKEN}\n")).unwrap();
    application.wait_for_values(ORDERS, &writer.values(ORDERS)).await;
    pusher.stop().await;
}

#[tokio::test]
async fn a_token_is_shown_to_the_operator_only() {
    let mut world = World::new();
    let operator = FakeIssuer::start(&mut world).await;
    let writer = SpiffeId::writer(TRUST_DOMAIN, "system", "default").unwrap();
    let another = FakeIssuer::start_as(&world, writer, crate::FREE).await;
    let good = world.bootstrap.issuer.clone();
    world.bootstrap.issuer = format!("localhost:{}", another.address.port());
    world.publish();
    let pusher = world.pusher(world.config(&[])).await;
    let mut local = local(&pusher).await;
    let told = async {
        loop {
            let status = local.get_stream(get("orders")).await.unwrap_err();
            if status.message().contains("no certificate") {
                return;
            }
        }
    };
    tokio::time::timeout(crate::fake_writer::network::DEADLINE, told).await.unwrap();
    world.bootstrap.issuer = good;
    world.publish();
    operator.wait_until_asked(TOKEN, 1).await;
    assert_eq!(another.asked(TOKEN), 0);
    drop(local);
    pusher.stop().await;
}

#[tokio::test]
async fn appends_go_to_the_writer_of_their_stream() {
    let (mut world, application) = (World::new(), FakeApplication::start().await);
    let default = writer_with_orders(&mut world, &application).await;
    let other = world.writer("other", &["stock/items"]).await;
    let _issuer = FakeIssuer::start(&mut world).await;
    world.publish();
    let pusher = world.pusher(world.config(&["projector"])).await;
    application.wait_for_values(ORDERS, &default.values(ORDERS)).await;
    let mut local = local(&pusher).await;
    let request = |stream: &str, value: &str| pb::AppendRequest {
        stream: stream.to_owned(),
        records: records(&[value]).bytes().clone(),
        ..pb::AppendRequest::default()
    };
    let requests = vec![
        request("orders", "4"),
        request("stock/items", "a"),
        request("returns", "x"),
        request("shop/orders", "5"),
        request("stock/items", "b"),
    ];
    let unknown = "the stream shop/returns is not known in the namespace shop, at least not yet; \
                   see `kubectl get streams`, and who may append to it";
    let refusal = Refusal::new(Reason::NotFound, unknown);
    let answers = append(&mut local, requests).await;
    assert_eq!(answers, [Ok(3), Ok(0), Err(refusal), Ok(4), Ok(1)]);
    assert_eq!(default.values(ORDERS), ["1", "2", "3", "4", "5"]);
    assert_eq!(other.values("stock/items"), ["a", "b"]);
    application.wait_for_values(ORDERS, &default.values(ORDERS)).await;

    // What the Writer says is passed on.
    default.change(|state| {
        state.refuse_appends.push_back(Refusal::new(Reason::Denied, "shop/projector may not"));
    });
    let answers = append(&mut local, vec![request("orders", "6")]).await;
    assert_eq!(answers, [Err(Refusal::new(Reason::Denied, "shop/projector may not"))]);

    let info = local.get_stream(get("orders")).await.unwrap().into_inner();
    assert_eq!((info.name.as_str(), info.next_offset), (ORDERS, 5));
    let position = Some(pb::Position { stream_id: 1, epoch: 1, offset: 5 });
    let wait = pb::WaitAppliedRequest { stream: "orders".to_owned(), position, timeout_ms: 30_000 };
    assert_eq!(local.wait_applied(wait).await.unwrap().into_inner().accepted, position);
    drop(local);
    pusher.stop().await;
}

#[tokio::test]
async fn what_is_refused_once_stays_refused_until_a_new_session() {
    let mut world = World::new();
    let _issuer = FakeIssuer::start(&mut world).await;
    world.publish();
    let pusher = world.pusher(world.config(&[])).await;
    let mut local = local(&pusher).await;
    let request = |value: &str| pb::AppendRequest {
        stream: "orders".to_owned(),
        records: records(&[value]).bytes().clone(),
        ..pb::AppendRequest::default()
    };
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    sender.send(request("0")).await.unwrap();
    let mut session = local.append(requests).await.unwrap().into_inner();
    let reason = |answer: Option<pb::AppendResponse>| match answer.unwrap().answer.unwrap() {
        pb::append_response::Answer::Refused(refusal) => Some(refusal.reason()),
        pb::append_response::Answer::Appended(_) => None,
    };
    let first = reason(session.message().await.unwrap());
    assert!(matches!(first, Some(Reason::NotFound | Reason::Unavailable)), "{first:?}");

    let writer = world.writer("default", &[ORDERS]).await;
    world.publish();
    let known = async {
        while local.get_stream(get("orders")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::fake_writer::network::DEADLINE, known).await.unwrap();
    sender.send(request("1")).await.unwrap();
    assert_eq!(reason(session.message().await.unwrap()), Some(Reason::SessionBroken));
    assert_eq!(append(&mut local, vec![request("2")]).await, [Ok(0)]);
    assert_eq!(writer.values(ORDERS), ["2"]);
    drop((sender, session, local));
    pusher.stop().await;
}

#[tokio::test]
async fn changes_of_the_configuration_need_no_restart() {
    let (mut world, first) = (World::new(), FakeApplication::start().await);
    let second = FakeApplication::start().await;
    let writer = writer_with_orders(&mut world, &first).await;
    let _issuer = FakeIssuer::start(&mut world).await;
    world.publish();
    let config =
        pod::Config { readiness: Readiness::Connected, ..world.config(&["projector", "later"]) };
    let pusher = world.pusher(config).await;
    first.wait_for_values(ORDERS, &writer.values(ORDERS)).await;
    answers(&pusher, "/readyz", (503, "no: 1 of 2 subscriptions are not attached\n")).await;

    // A subscription comes, of another Writer.
    let other = world.writer("other", &["shop/items"]).await;
    other.assign("shop/later", &["shop/items"]);
    other.append("shop/items", &["a"]);
    world.subscription("later", "other", second.address);
    world.publish();
    second.wait_for_values("shop/items", &other.values("shop/items")).await;
    answers(&pusher, "/readyz", OK).await;

    // The application has another port.
    world.subscription("projector", "default", second.address);
    world.publish();
    second.wait_for_values(ORDERS, &writer.values(ORDERS)).await;

    // The first Writer has moved: what it has now comes from the new address.
    let moved = writer_with_orders(&mut world, &second).await;
    moved.append(ORDERS, &["4", "5"]);
    world.publish();
    writer.stop().await;
    second.wait_for_values(ORDERS, &moved.values(ORDERS)).await;

    // A subscription goes.
    world.bootstrap.subscriptions.remove("later");
    world.publish();
    answers(&pusher, "/readyz", (503, "no: 1 of 2 subscriptions are not attached\n")).await;
    first.check();
    second.check();
    pusher.stop().await;
}

#[tokio::test]
async fn a_configuration_that_cannot_be_read_changes_nothing() {
    let (mut world, application) = (World::new(), FakeApplication::start().await);
    let writer = writer_with_orders(&mut world, &application).await;
    let _issuer = FakeIssuer::start(&mut world).await;
    world.publish_with("not a bundle");
    let config = pod::Config { readiness: Readiness::Connected, ..world.config(&["projector"]) };
    let pusher = world.pusher(config).await;
    let why = "no: 1 of 1 subscriptions are not attached: the trust bundle of the bootstrap \
               configuration\n";
    answers(&pusher, "/readyz", (503, why)).await;
    world.publish();
    application.wait_for_values(ORDERS, &writer.values(ORDERS)).await;
    world.publish_with("not a bundle");
    fs::remove_file(world.path("bootstrap").join("..data")).unwrap();
    writer.append(ORDERS, &["4"]);
    application.wait_for_values(ORDERS, &writer.values(ORDERS)).await;
    answers(&pusher, "/readyz", OK).await;
    pusher.stop().await;
}
