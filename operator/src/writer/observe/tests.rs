//! What is concluded from objects.

use pyramid_crds::writer::Fate;
use serde_json::json;

use super::super::fixture::{self, CLUSTER, from, parent, writer};
use super::*;

/// A Writer that runs.
fn live() -> Live {
    let id: ClusterId = CLUSTER.parse().unwrap();
    let info = pb::GetInfoResponse {
        cluster_id: id.0.to_vec().into(),
        node_id: 1,
        data_state: DataState::Member.into(),
        leader: true,
        ..Default::default()
    };
    Live {
        is_enabled: true,
        kek: Some(Secret::default()),
        set: Some(fixture::set()),
        pod: Some(fixture::pod()),
        claim: Some(fixture::claim()),
        streams: 2,
        answer: Some(Ok(info)),
        ..Live::default()
    }
}

fn observed(live: &Live) -> Observed {
    live.observed(parent(&writer()), Pass::default()).unwrap()
}

#[test]
fn a_writer_that_runs_is_seen_whole() {
    let id = CLUSTER.parse().unwrap();
    let expected = Observed {
        replicas: 1,
        when_deleted: Fate::Retain,
        deletion: None,
        is_size_readable: true,
        has_finalizer: false,
        is_enabled: true,
        cluster_id: Some(id),
        member: Some(MemberSeen { node_id: 1, volume_uid: Some("c1".to_owned()) }),
        foreign: None,
        kek: KekSeen::Present,
        missing: vec![],
        are_children_applied: false,
        is_tls_applied: false,
        set: Some(SetSeen {
            uid: "s1".to_owned(),
            is_ours: true,
            is_terminating: false,
            update_revision: Some("r2".to_owned()),
        }),
        pod: Some(PodSeen {
            uid: "p1".to_owned(),
            is_of_set: true,
            revision: Some("r2".to_owned()),
            is_ready: true,
            is_terminating: false,
        }),
        claim: Some(ClaimSeen {
            uid: "c1".to_owned(),
            stamp: Some(CLUSTER.to_owned()),
            is_bound: true,
            is_terminating: false,
            size: SizeSeen::Enough,
        }),
        data: DataSeen::Member { cluster_id: id, node_id: 1, leads: true },
    };
    assert_eq!(observed(&live()), expected);
}

#[test]
fn the_revision_counts_only_when_the_newest_template_was_seen() {
    let mut live = live();
    live.set.as_mut().unwrap().metadata.generation = Some(3);
    assert_eq!(observed(&live).set.unwrap().update_revision, None);
}

#[test]
fn a_child_of_another_owner_is_named() {
    let mut live = live();
    let of = |owner: Option<serde_json::Value>, labels: serde_json::Value| {
        from::<Service>(json!({
            "metadata": {
                "name": "billing-writer", "labels": labels,
                "ownerReferences": owner.into_iter().collect::<Vec<_>>(),
            },
        }))
    };
    let ours = json!({
        "app.kubernetes.io/managed-by": "pyramid-operator",
        "app.kubernetes.io/instance": "billing",
    });
    let foreign = |owner: &str, is_of_earlier| {
        Some(ForeignChild {
            child: "Service billing-writer".to_owned(),
            owner: owner.to_owned(),
            is_of_earlier,
        })
    };
    let somebody = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d", "controller": true,
    });
    for (service, expected) in [
        (of(Some(fixture::owner("w1")), json!({})), None),
        (of(Some(fixture::owner("w0")), ours.clone()), foreign("Writer billing", true)),
        (of(Some(somebody), ours.clone()), foreign("Deployment web", false)),
        (of(None, json!({})), foreign("nobody", false)),
        (of(None, ours), None),
    ] {
        live.client_service = Some(service);
        assert_eq!(observed(&live).foreign, expected);
    }
}

#[test]
fn a_pod_of_an_earlier_set_is_not_of_this_one() {
    let mut live = live();
    live.set.as_mut().unwrap().metadata.uid = Some("s2".to_owned());
    assert!(!observed(&live).pod.unwrap().is_of_set);
}

#[test]
fn sizes_are_compared_with_what_is_asked_for() {
    let mut live = live();
    let mut writer = writer();
    let mut size = |wanted: &str, requested: &str, capacity: &str, class_grows| {
        writer.spec.storage.size = wanted.to_owned();
        let mut claim = fixture::claim();
        let requests = [("storage".to_owned(), from(json!(requested)))].into();
        claim.spec.as_mut().unwrap().resources.as_mut().unwrap().requests = Some(requests);
        let capacity = [("storage".to_owned(), from(json!(capacity)))].into();
        claim.status.as_mut().unwrap().capacity = Some(capacity);
        live.claim = Some(claim);
        live.class_grows = class_grows;
        let seen = live.observed(parent(&writer), Pass::default()).unwrap();
        (seen.claim.unwrap().size, live.volume(&writer).unwrap().bytes >> 30)
    };
    assert_eq!(size("10Gi", "10Gi", "10Gi", false), (SizeSeen::Enough, 10));
    // A local volume is as large as its disk.
    assert_eq!(size("10Gi", "10Gi", "900Gi", false), (SizeSeen::Enough, 10));
    assert_eq!(size("20Gi", "10Gi", "10Gi", true), (SizeSeen::Small, 10));
    assert_eq!(size("20Gi", "10Gi", "10Gi", false), (SizeSeen::Fixed, 10));
    assert_eq!(size("20Gi", "20Gi", "10Gi", true), (SizeSeen::Growing, 10));
    assert_eq!(size("20Gi", "20Gi", "20Gi", true), (SizeSeen::Enough, 20));
}

#[test]
fn a_key_of_the_user_that_is_gone_is_seen() {
    let mut writer = writer();
    writer.spec.encryption = Some(from(json!({"keySecretRef": {"name": "acme-key"}})));
    let kek = |live: &Live| live.observed(parent(&writer), Pass::default()).unwrap().kek;
    assert_eq!(kek(&live()), KekSeen::OfUser);
    let missing = |input| vec![Missing { input, text: "Secret shop/acme-key".to_owned() }];
    let gone = Live { missing: missing(Input::Key), ..live() };
    assert_eq!(kek(&gone), KekSeen::OfUserAbsent);
    let other = Live { missing: missing(Input::Credentials), ..live() };
    assert_eq!(kek(&other), KekSeen::OfUser);
}

#[test]
fn a_size_that_cannot_be_read_makes_no_volume() {
    let mut writer = writer();
    let mut readable = |size: &str| {
        writer.spec.storage.size = size.to_owned();
        let seen = live().observed(parent(&writer), Pass::default()).unwrap();
        (seen.is_size_readable, live().volume(&writer).map(|volume| volume.bytes >> 30))
    };
    assert_eq!(readable("15Ei"), (true, Some(10)));
    for size in ["16Ei", "99999999Ei", "1073741824000m", "0"] {
        assert_eq!(readable(size), (false, None), "{size}");
    }
}

#[test]
fn a_driver_that_says_no_capacity_leaves_the_size_as_it_was_asked_for() {
    let mut live = live();
    let mut bytes = |capacity: &str| {
        let capacity = [("storage".to_owned(), from(json!(capacity)))].into();
        live.claim.as_mut().unwrap().status.as_mut().unwrap().capacity = Some(capacity);
        live.volume(&writer()).unwrap().bytes
    };
    assert_eq!((bytes("0"), bytes("1")), (10 << 30, 1));
}

#[test]
fn the_claim_template_of_a_set_that_exists_stays() {
    let mut writer = writer();
    writer.spec.storage.size = "20Gi".to_owned();
    assert_eq!(live().volume(&writer).unwrap().claim_size, "10Gi");
    let new = Live { set: None, claim: None, ..live() };
    let volume = Volume { claim_size: "20Gi", bytes: 20 << 30 };
    assert_eq!(new.volume(&writer), Some(volume));
}

#[test]
fn answers_about_data_are_taken_as_they_are_meant() {
    let mut live = live();
    let mut data = |answer: Result<pb::GetInfoResponse, admin::Error>| {
        live.answer = Some(answer);
        observed(&live).data
    };
    let info = |state: DataState, id: &[u8]| {
        Ok(pb::GetInfoResponse {
            data_state: state.into(),
            cluster_id: id.to_vec().into(),
            ..Default::default()
        })
    };
    assert_eq!(data(info(DataState::Empty, &[])), DataSeen::Empty);
    assert_eq!(data(info(DataState::ForeignData, &[])), DataSeen::Foreign);
    assert_eq!(data(info(DataState::DamagedData, &[])), DataSeen::Damaged);
    assert_eq!(data(info(DataState::Unspecified, &[])), DataSeen::Unknown);
    assert_eq!(data(info(DataState::Member, &[1; 15])), DataSeen::Unknown);
    let cluster_id = ClusterId([1; 16]);
    let member = DataSeen::Member { cluster_id, node_id: 0, leads: false };
    assert_eq!(data(info(DataState::Member, &[1; 16])), member);
    let message = "starts".to_owned();
    let later = admin::Error::Later { message, retry_after: std::time::Duration::ZERO };
    assert_eq!(data(Err(later)), DataSeen::Unknown);
}

#[test]
fn a_deletion_is_seen_with_what_is_bound_and_asked_for() {
    let mut writer = writer();
    writer.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
    writer.metadata.finalizers = Some(vec!["pyramid.dev/protect-volumes".to_owned()]);
    let look = |writer: &Writer| live().observed(parent(writer), Pass::default()).unwrap();
    let deletion = Deletion { is_namespace_terminating: false, is_forced: false, streams: 2 };
    let seen = look(&writer);
    assert_eq!((seen.deletion, seen.has_finalizer), (Some(deletion), true));
    let forced = [("pyramid.dev/force-delete".to_owned(), "true".to_owned())];
    writer.metadata.annotations = Some(forced.into());
    assert_eq!(look(&writer).deletion, Some(Deletion { is_forced: true, ..deletion }));
}

#[test]
fn a_cluster_id_that_somebody_wrote_by_hand_is_an_error() {
    let mut writer = writer();
    writer.status.as_mut().unwrap().cluster_id = Some("mine".to_owned());
    let error = live().observed(parent(&writer), Pass::default()).unwrap_err();
    assert!(matches!(error, Error::ClusterId { .. }), "{error:?}");
}

#[test]
fn only_a_pod_that_runs_and_has_an_address_is_asked() {
    let pod = |ip: Option<&str>, state: &str| {
        from::<Pod>(json!({
            "metadata": {},
            "status": {
                "podIP": ip,
                "containerStatuses": [{
                    "name": "writer", "image": "i", "imageID": "", "ready": false,
                    "restartCount": 0, "state": {state: {}},
                }],
            },
        }))
    };
    assert!(runs(&pod(Some("10.0.0.1"), "running")));
    assert!(!runs(&pod(None, "running")));
    assert!(!runs(&pod(Some("10.0.0.1"), "waiting")));
    assert!(!runs(&fixture::pod()));
}

#[test]
fn keys_of_the_user_are_numbers() {
    let secret = |key: &str| from::<Secret>(json!({"data": {key: ""}}));
    assert!(has_kek(&secret("1")) && has_kek(&secret("17")));
    assert!(!has_kek(&secret("key")) && !has_kek(&Secret::default()));
}
