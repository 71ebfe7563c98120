//! The end of a pod: pushes end, appends go on.

use std::time::Duration;

use pyramid_protocol::pb::v1 as pb;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::fake_application::{FakeApplication, Mood};
use crate::fake_writer::network::DEADLINE;
use crate::fake_writer::records;
use crate::local::{append, local};
use crate::ops::answers;
use crate::{Pusher, config, writer_with_a};

fn request(value: &str) -> pb::AppendRequest {
    pb::AppendRequest {
        stream: "a".to_owned(),
        records: records(&[value]).bytes().clone(),
        ..pb::AppendRequest::default()
    }
}

#[tokio::test]
async fn a_drain_waits_for_the_push_on_its_way_and_leaves_appends_open() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let mut config = config(&writer, &[("s", &application)]);
    config.timing.push_timeout = Duration::from_secs(20);
    let pusher = Pusher::start_with(&writer, config).await;
    application.wait_for_values("a", &writer.values("a")).await;
    let opened = CancellationToken::new();
    application.mood("a", Some(Mood::Gate(opened.clone())));
    let pushes = application.look(|state| state.pushes["a"]);
    writer.append("a", &["on its way"]);
    application.wait_for("a push", |state| state.pushes["a"] > pushes).await;
    let expected = writer.values("a");

    let (mut draining, mut local) = (local(&pusher).await, local(&pusher).await);
    let drain = draining.drain(pb::DrainRequest {});
    let meanwhile = async {
        answers(&pusher, "/readyz", (503, "no: it stops\n")).await;
        assert_eq!(append(&mut local, vec![request("during the drain")]).await, [Ok(41)]);
        assert_eq!(application.values("a").len(), 40, "the answer is still waited for");
        opened.cancel();
    };
    let (drained, ()) = tokio::join!(timeout(DEADLINE, drain), meanwhile);
    drained.unwrap().unwrap();
    assert_eq!(application.values("a"), expected);
    let attached = writer.look(|state| state.attached);
    assert_eq!(attached, 0, "the Writer gives the leases to others");

    assert_eq!(append(&mut local, vec![request("after the drain")]).await, [Ok(42)]);
    let again = local.drain(pb::DrainRequest {}).await;
    assert!(again.is_ok(), "it is drained");
    assert_eq!(application.values("a"), expected);
    application.check();
    drop((draining, local));
    pusher.stop().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_longer_than_the_pod_has() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let mut config = config(&writer, &[("s", &application)]);
    config.timing.push_timeout = Duration::from_secs(60);
    config.timing.drain = Duration::from_millis(100);
    let pusher = Pusher::start_with(&writer, config).await;
    application.wait_for_values("a", &writer.values("a")).await;
    application.mood("a", Some(Mood::Hang));
    let pushes = application.look(|state| state.pushes["a"]);
    writer.append("a", &["never answered"]);
    application.wait_for("a push", |state| state.pushes["a"] > pushes).await;
    let mut local = local(&pusher).await;
    timeout(DEADLINE, local.drain(pb::DrainRequest {})).await.unwrap().unwrap();
    application.check();
    drop(local);
    pusher.stop().await;
}
