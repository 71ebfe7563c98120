//! What is pushed changes while the pusher runs.

use std::sync::Arc;

use pyramid_protocol::net::{TcpConnect, channel};
use pyramid_protocol::pb::v1::local_client::LocalClient;
use pyramid_protocol::pb::v1::{self as pb, PushState, Reason, Refusal};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::fake_application::FakeApplication;
use crate::fake_writer::FakeWriter;
use crate::fake_writer::network::DEADLINE;
use crate::{Pusher, config, reported, writer_with_a};

#[tokio::test]
async fn streams_are_added_and_removed_without_a_restart() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let _pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &writer.values("a")).await;
    writer.create("b");
    writer.append("b", &["1", "2"]);
    writer.assign("s", &["a", "b"]);
    application.wait_for_values("b", &writer.values("b")).await;

    let before = application.values("a");
    writer.assign("s", &["b"]);
    // A push after the removal shows that it has reached the pusher.
    reported(&writer, "b", PushState::Waiting).await;
    let asked = application.look(|state| state.questions["a"]);
    writer.append("b", &["3"]);
    application.wait_for_values("b", &writer.values("b")).await;
    application.wait_for("b is asked", |state| state.questions["b"] > asked + 1).await;
    writer.append("a", &["while it is not assigned"]);
    application.wait_for("b is asked", |state| state.questions["b"] > asked + 3).await;
    assert_eq!(application.values("a"), before);

    writer.assign("s", &["a"]);
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn a_stream_that_does_not_exist_yet_is_waited_for() {
    let (writer, application) = (FakeWriter::start().await, FakeApplication::start().await);
    writer.assign("s", &["a"]);
    let _pusher = Pusher::start(&writer, &application).await;
    let message = reported(&writer, "a", PushState::Retrying).await;
    assert_eq!(message, "the stream does not exist");
    writer.create("a");
    writer.append("a", &["1"]);
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn a_paused_subscription_pushes_nothing() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    writer.change_assignment("s", |assignment| assignment.paused = true);
    let _pusher = Pusher::start(&writer, &application).await;
    reported(&writer, "a", PushState::Paused).await;
    assert_eq!(application.look(|state| (state.pushes.len(), state.questions.len())), (0, 0));
    writer.change_assignment("s", |assignment| assignment.paused = false);
    application.wait_for_values("a", &writer.values("a")).await;
    writer.change_assignment("s", |assignment| assignment.paused = true);
    reported(&writer, "a", PushState::Paused).await;
    writer.append("a", &["later"]);
    writer.change_assignment("s", |assignment| assignment.paused = false);
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn each_subscription_has_its_own_application() {
    let (writer, first) = (writer_with_a().await, FakeApplication::start().await);
    let second = FakeApplication::start().await;
    writer.assign("t", &["a"]);
    let config = config(&writer, &[("s", &first), ("t", &second)]);
    let pusher = Pusher::start_with(&writer, config).await;
    first.wait_for_values("a", &writer.values("a")).await;
    second.wait_for_values("a", &writer.values("a")).await;
    pusher.stop().await;
    first.check();
    second.check();
}

#[tokio::test]
async fn an_unknown_subscription_is_waited_for() {
    let (writer, application) = (FakeWriter::start().await, FakeApplication::start().await);
    writer.create("a");
    writer.append("a", &["1"]);
    let _pusher = Pusher::start(&writer, &application).await;
    writer.wait_for("no report", |state| state.reports.is_empty()).await;
    writer.assign("s", &["a"]);
    application.wait_for_values("a", &writer.values("a")).await;
    application.check();
}

#[tokio::test]
async fn the_leader_is_followed() {
    let (leader, application) = (writer_with_a().await, FakeApplication::start().await);
    let follower = FakeWriter::start().await;
    follower.change(|state| state.leader = Some(leader.address.to_string()));
    let mut config = config(&leader, &[("s", &application)]);
    config.writers = follower.addresses();
    let _pusher = Pusher::start_with(&leader, config).await;
    application.wait_for_values("a", &leader.values("a")).await;
    application.check();
}

async fn is_connected(local: &mut LocalClient<Channel>) -> bool {
    local.status(pb::StatusRequest {}).await.unwrap().into_inner().connected
}

#[tokio::test]
async fn a_subscription_that_is_taken_stops_pushes_and_goes_on_when_it_is_given_back() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let pusher = Pusher::start(&writer, &application).await;
    let address = pusher.local.to_string();
    let mut local = LocalClient::new(channel(Arc::new(TcpConnect), &address).unwrap());
    application.wait_for_values("a", &writer.values("a")).await;
    assert!(is_connected(&mut local).await);
    let before = application.values("a");
    writer.change(|state| state.assignments.remove("s"));
    let stopped = async {
        let request = pb::StatusRequest {};
        loop {
            let status = local.status(request).await.unwrap().into_inner();
            if !status.connected && status.streams.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, stopped).await.expect("it says that it is not attached");
    writer.append("a", &["while the right is gone"]);
    let refused = writer.look(|state| state.refused_attachments);
    writer.wait_for("it asks again", |state| state.refused_attachments > refused + 1).await;
    assert_eq!(application.values("a"), before);
    writer.assign("s", &["a"]);
    application.wait_for_values("a", &writer.values("a")).await;
    assert!(is_connected(&mut local).await);
    application.check();
    pusher.stop().await;
}

#[tokio::test]
async fn a_read_that_is_denied_is_said_and_tried_again_until_it_is_allowed() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    for reason in [Reason::NotFound, Reason::Denied] {
        let refusal = Refusal::new(reason, "ask for the right to read");
        writer.change(|state| state.refuse_reads.extend(vec![refusal; 2]));
    }
    let pusher = Pusher::start(&writer, &application).await;
    let message = reported(&writer, "a", PushState::Retrying).await;
    assert!(message.contains("ask for the right to read"), "{message}");
    application.wait_for_values("a", &writer.values("a")).await;
    assert_eq!(writer.look(|state| state.refuse_reads.len()), 0);
    application.check();
    pusher.stop().await;
}
