//! What is said in each state.

use serde_json::json;

use super::super::fixture::{self, CLUSTER, from, parent, settings, writer};
use super::super::observe::{Missing, Pass};
use super::super::plan::ForeignChild;
use super::*;
use crate::admin;
use k8s_openapi::api::core::v1::Secret;
use pyramid_crds::Writer;
use pyramid_protocol::pb::v1::{self as pb, DataState};

const NOW: &str = "2026-03-01T00:00:00Z";

fn info(leader: bool, shipping_error: &str) -> pb::GetInfoResponse {
    let id: super::super::plan::ClusterId = CLUSTER.parse().unwrap();
    pb::GetInfoResponse {
        cluster_id: id.0.to_vec().into(),
        node_id: 1,
        data_state: DataState::Member.into(),
        leader,
        shipping_error: shipping_error.to_owned(),
        ..Default::default()
    }
}

/// A Writer that runs.
fn live() -> Live {
    Live {
        is_enabled: true,
        kek: Some(Secret::default()),
        set: Some(fixture::set()),
        pod: Some(fixture::pod()),
        claim: Some(fixture::claim()),
        streams: 2,
        answer: Some(Ok(info(true, ""))),
        ..Live::default()
    }
}

fn status_of(writer: &Writer, live: &Live, step: &Step) -> WriterStatus {
    let parent = parent(writer);
    let seen = live.observed(parent, Pass::default()).unwrap();
    let facts = Facts { parent, settings: &settings(), live, seen: &seen, step };
    facts.status(&from(json!(NOW)))
}

/// Type, status and reason of all conditions.
fn verdicts(status: &WriterStatus) -> Vec<(&str, &str, &str)> {
    let conditions = status.conditions.iter();
    conditions.map(|of| (&*of.type_, &*of.status, &*of.reason)).collect()
}

fn message<'a>(status: &'a WriterStatus, r#type: &str) -> &'a str {
    &find(&status.conditions, r#type).unwrap().message
}

#[test]
fn a_writer_that_serves_is_told_whole() {
    let status = status_of(&writer(), &live(), &Step::Stable);
    let condition = |r#type: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": r#type, "status": status, "reason": reason, "message": message,
            "observedGeneration": 3, "lastTransitionTime": NOW,
        })
    };
    let expected = json!({
        "observedGeneration": 3,
        "replicas": 1,
        "readyReplicas": 1,
        "selector": "app.kubernetes.io/instance=billing,app.kubernetes.io/name=pyramid-writer",
        "leader": "billing-writer-0",
        "streams": 2,
        "clusterID": CLUSTER,
        "image": "running:1",
        "members": [{"name": "billing-writer-0", "id": "1", "volumeUid": "c1"}],
        "conditions": [
            condition("Ready", "True", "Ready", "takes appends"),
            condition("Progressing", "False", "Stable", ""),
            condition("StorageReady", "True", "VolumesBound", ""),
            condition("ObjectStorageReady", "True", "Reachable", ""),
        ],
    });
    assert_eq!(serde_json::to_value(&status).unwrap(), expected);

    let mut later = writer();
    later.status = Some(status.clone());
    later.metadata.generation = Some(4);
    let again = status_of(&later, &live(), &Step::Stable);
    let times = |status: &WriterStatus| {
        status.conditions.iter().map(|of| of.last_transition_time.clone()).collect::<Vec<_>>()
    };
    assert_eq!(times(&again), times(&status));
    assert_eq!(again.conditions[0].observed_generation, Some(4));
}

#[test]
fn a_new_writer_says_what_it_waits_for() {
    let mut writer = writer();
    writer.status = None;
    let mut live = Live { claim: None, answer: None, ..live() };
    live.pod = Some(from(json!({
        "metadata": {"name": "billing-writer-0"},
        "status": {
            "containerStatuses": [{
                "name": "writer", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
            }],
        },
    })));
    let status = status_of(&writer, &live, &Step::Wait(Wait::Pod));
    assert_eq!(
        verdicts(&status),
        [
            ("Ready", "False", "Bootstrapping"),
            ("Progressing", "True", "Bootstrapping"),
            ("StorageReady", "False", "VolumesPending"),
            ("ObjectStorageReady", "Unknown", "Pending"),
        ]
    );
    assert_eq!(
        message(&status, "Ready"),
        "waits for the first replica: ImagePullBackOff: no such image"
    );
}

#[test]
fn a_lost_volume_stalls_and_is_news_once() {
    let step = Step::Stop(Stop::VolumeLost);
    let mut writer = writer();
    let status = status_of(&writer, &live(), &step);
    assert_eq!(
        verdicts(&status),
        [
            ("Ready", "False", "VolumeLost"),
            ("Progressing", "False", "Stalled"),
            ("StorageReady", "False", "VolumeLost"),
            ("ObjectStorageReady", "True", "Reachable"),
            ("Stalled", "True", "VolumeLost"),
        ]
    );
    let before = writer.status.clone().unwrap();
    let told = news(&before, &status);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].type_, &*told[0].reason), (EventType::Warning, "VolumeLost"));
    writer.status = Some(status.clone());
    assert_eq!(news(&status, &status_of(&writer, &live(), &step)), []);
    let healed = news(&status, &status_of(&writer, &live(), &Step::Stable));
    assert_eq!(healed.len(), 1);
    assert_eq!((healed[0].type_, &*healed[0].reason), (EventType::Normal, "Ready"));
}

#[test]
fn each_stop_says_what_to_do() {
    let foreign = ForeignChild {
        child: "Service billing-writer".to_owned(),
        owner: "nobody".to_owned(),
        is_of_earlier: false,
    };
    for (stop, reason, does) in [
        (Stop::NamespaceNotEnabled, "NamespaceNotEnabled", "writerNamespaces"),
        (Stop::ReplicasNotSupported, "ReplicasNotSupported", "set spec.replicas to 1"),
        (Stop::SizeUnreadable, "InvalidSpec", "storage.size 10Gi is no size"),
        (Stop::ForeignChild(foreign), "ForeignChild", "Service billing-writer belongs to nobody"),
        (
            Stop::KekLost,
            "KeyLost",
            "restore it from your copy, and do not restart the Pod meanwhile",
        ),
        (Stop::VolumeLost, "VolumeLost", "delete the Writer billing, then this claim"),
        (Stop::ForeignVolume("odd".to_owned()), "ForeignVolume", "is not this Writer's: odd"),
    ] {
        let silent = Live { answer: None, ..live() };
        let status = status_of(&writer(), &silent, &Step::Stop(stop));
        for r#type in ["Ready", "Stalled"] {
            let condition = find(&status.conditions, r#type).unwrap();
            assert_eq!(condition.reason, reason, "{type}", type = r#type);
            assert!(condition.message.contains(does), "{}", condition.message);
        }
    }
}

/// The types of conditions that hold, and the reason of `Stalled`.
fn stands(live: &Live, stop: Stop) -> (Vec<(String, String)>, String) {
    let status = status_of(&writer(), live, &Step::Stop(stop));
    assert_eq!(status.observed_generation, Some(3));
    let said = verdicts(&status).into_iter().map(|(r#type, is, _)| (r#type.into(), is.into()));
    (said.collect(), message(&status, "Stalled").to_owned())
}

#[test]
fn what_the_server_refuses_stalls_and_leaves_a_replica_that_serves_ready() {
    let said = |ready: &str, objects: &str| {
        [
            ("Ready", ready),
            ("Progressing", "False"),
            ("StorageReady", "True"),
            ("ObjectStorageReady", objects),
            ("Stalled", "True"),
        ]
        .map(|(r#type, is)| (r#type.to_owned(), is.to_owned()))
        .to_vec()
    };
    let refused = || Stop::Refused("requests: must be less than the limit".to_owned());
    let (conditions, words) = stands(&live(), refused());
    assert_eq!(conditions, said("True", "True"));
    assert!(words.ends_with(": requests: must be less than the limit"), "{words}");
    let silent = Live { answer: None, ..live() };
    assert_eq!(stands(&silent, refused()).0, said("False", "Unknown"));
    assert_eq!(stands(&live(), Stop::SizeUnreadable).0, said("True", "True"));
    assert_eq!(stands(&live(), Stop::KekLost).0, said("False", "True"));
    let long = "x".repeat(2 * TROUBLE_BYTES_MAX);
    assert!(stands(&live(), Stop::Refused(long)).1.len() < 2 * TROUBLE_BYTES_MAX);
}

#[test]
fn trouble_with_the_bucket_is_told_and_leaves_the_writer_ready() {
    let live = Live { answer: Some(Ok(info(true, "connection refused"))), ..live() };
    let status = status_of(&writer(), &live, &Step::Stable);
    assert_eq!(
        verdicts(&status)[..4],
        [
            ("Ready", "True", "Ready"),
            ("Progressing", "False", "Stable"),
            ("StorageReady", "True", "VolumesBound"),
            ("ObjectStorageReady", "False", "Unreachable"),
        ]
    );
    assert!(message(&status, "ObjectStorageReady").ends_with(": connection refused"));
}

#[test]
fn missing_credentials_are_named() {
    let missing = Missing { input: Input::Credentials, text: "Secret shop/acme-s3".to_owned() };
    let live = Live { missing: vec![missing], set: None, pod: None, answer: None, ..live() };
    let status = status_of(&writer(), &live, &Step::Wait(Wait::Missing));
    let [ready, _, _, objects] = verdicts(&status)[..] else { panic!("{status:?}") };
    assert_eq!(ready, ("Ready", "False", "InputMissing"));
    assert_eq!(objects, ("ObjectStorageReady", "False", "CredentialsMissing"));
    assert_eq!(message(&status, "Ready"), "make Secret shop/acme-s3");
}

#[test]
fn a_replica_that_is_ready_but_not_to_be_asked_is_unknown() {
    let message = "timed out".to_owned();
    let address = "a:1".to_owned();
    let answer = Some(Err(admin::Error::Unreachable { address, message }));
    let mut live = Live { answer, ..live() };
    let status = status_of(&writer(), &live, &Step::Wait(Wait::Answer));
    assert_eq!(verdicts(&status)[0], ("Ready", "Unknown", "AdminUnreachable"));
    live.pod.as_mut().unwrap().status = None;
    let status = status_of(&writer(), &live, &Step::Wait(Wait::Answer));
    assert_eq!(verdicts(&status)[0], ("Ready", "False", "NoLeader"));
    assert_eq!(verdicts(&status)[1], ("Progressing", "True", "RollingUpdate"));
}

#[test]
fn a_kept_volume_is_taken_over_until_its_replica_serves() {
    let mut writer = writer();
    writer.status.as_mut().unwrap().members[0].id = UNKNOWN_NODE.to_string();
    let live = Live { answer: None, ..live() };
    let status = status_of(&writer, &live, &Step::Wait(Wait::Answer));
    assert_eq!(
        verdicts(&status)[..2],
        [("Ready", "False", "AdoptingVolumes"), ("Progressing", "True", "AdoptingVolumes")]
    );
}

#[test]
fn a_volume_that_cannot_grow_is_told_and_leaves_the_writer_ready() {
    let mut writer = writer();
    writer.spec.storage.size = "20Gi".to_owned();
    let status = status_of(&writer, &live(), &Step::Stable);
    assert_eq!(verdicts(&status)[0], ("Ready", "True", "Ready"));
    assert_eq!(verdicts(&status)[2], ("StorageReady", "False", "ExpansionUnsupported"));
}

#[test]
fn a_deletion_tells_what_holds_it_up() {
    let mut writer = writer();
    writer.metadata.deletion_timestamp = Some(from(json!(NOW)));
    let mut live = live();
    let status = status_of(&writer, &live, &Step::Wait(Wait::Streams));
    let deleting = *verdicts(&status).last().unwrap();
    assert_eq!(deleting, ("Deleting", "False", "StreamsBound"));
    live.streams = 0;
    let status = status_of(&writer, &live, &Step::Wait(Wait::Deletion));
    assert_eq!(*verdicts(&status).last().unwrap(), ("Deleting", "True", "Deleting"));
}

#[test]
fn why_a_pod_is_not_ready_is_told_in_the_words_of_the_cluster() {
    let pod = |status: serde_json::Value| trouble(&from(json!({"metadata": {}, "status": status})));
    let unscheduled = json!({
        "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}],
    });
    assert_eq!(pod(unscheduled).as_deref(), Some("0/3 nodes"));
    let crashed = json!({
        "containerStatuses": [{
            "name": "writer", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 78, "message": "no such bucket\n"}},
        }],
    });
    assert_eq!(pod(crashed).as_deref(), Some("it ended with code 78: no such bucket"));
    let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    assert_eq!(pod(ready), None);
    assert_eq!(pod(json!({})), None);
}

#[test]
fn of_a_log_the_last_line_is_told_and_of_json_its_message_and_error() {
    let warn = r#"{"timestamp":"t","level":"WARN","message":"slow","error":"e"}"#;
    for (log, expected) in [
        (
            format!("{warn}\n{warn}\npyramid-writer: no such bucket\n\n"),
            "pyramid-writer: no such bucket",
        ),
        (format!("starts\n{warn}\n"), "slow: e"),
        (r#"{"level":"ERROR","message":"panicked"}"#.to_owned(), "panicked"),
        (r#"{"level":"ERROR"}"#.to_owned(), r#"{"level":"ERROR"}"#),
        (r#"sage":"cut off"}"#.to_owned(), r#"sage":"cut off"}"#),
        (" \n".to_owned(), ""),
    ] {
        assert_eq!(last_words(&log), expected, "{log}");
    }
}

#[test]
fn a_long_text_is_cut_between_characters() {
    let long = "ä".repeat(TROUBLE_BYTES_MAX);
    assert_eq!(shortened(&long).len(), TROUBLE_BYTES_MAX);
    let odd = format!("x{long}");
    assert_eq!(shortened(&odd).len(), TROUBLE_BYTES_MAX - 1);
    assert_eq!(shortened("short"), "short");
}
