//! Single decisions; whole lives are in the model.

use super::*;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const OTHER: ClusterId = ClusterId([8; 16]);

/// A Writer at rest.
fn stable() -> Observed {
    Observed {
        replicas: 1,
        when_deleted: Fate::Retain,
        deletion: None,
        is_size_readable: true,
        has_finalizer: false,
        is_enabled: true,
        cluster_id: Some(CLUSTER),
        member: Some(MemberSeen { node_id: 1, volume_uid: Some("c1".to_owned()) }),
        foreign: None,
        kek: KekSeen::Present,
        missing: vec![],
        are_children_applied: true,
        is_tls_applied: true,
        set: Some(SetSeen {
            uid: "s1".to_owned(),
            is_ours: true,
            is_terminating: false,
            update_revision: Some("r1".to_owned()),
        }),
        pod: Some(PodSeen {
            uid: "p1".to_owned(),
            is_of_set: true,
            revision: Some("r1".to_owned()),
            is_ready: true,
            is_terminating: false,
        }),
        claim: Some(ClaimSeen {
            uid: "c1".to_owned(),
            stamp: Some(CLUSTER.to_string()),
            is_bound: true,
            is_terminating: false,
            size: SizeSeen::Enough,
        }),
        data: member_of(CLUSTER),
    }
}

fn member_of(cluster_id: ClusterId) -> DataSeen {
    DataSeen::Member { cluster_id, node_id: 1, leads: true }
}

fn claim(seen: &mut Observed) -> &mut ClaimSeen {
    seen.claim.as_mut().unwrap()
}

fn pod(seen: &mut Observed) -> &mut PodSeen {
    seen.pod.as_mut().unwrap()
}

/// The plan of a Writer at rest in which one thing is different.
fn with(change: impl FnOnce(&mut Observed)) -> Step {
    let mut seen = stable();
    change(&mut seen);
    plan(&seen)
}

/// A Writer whose replica waits to be founded, with one thing different.
fn unfounded(change: impl FnOnce(&mut Observed)) -> Step {
    with(|seen| {
        seen.member = None;
        claim(seen).stamp = None;
        seen.data = DataSeen::Empty;
        change(seen);
    })
}

#[test]
fn a_writer_at_rest_is_stable() {
    assert_eq!(with(|_| {}), Step::Stable);
}

#[test]
fn cluster_ids_have_one_text() {
    let text = "00112233445566778899aabbccddeeff";
    assert_eq!(text.parse::<ClusterId>().unwrap().to_string(), text);
    assert_eq!(ClusterId([0; 16]).to_string(), "0".repeat(32));
    for wrong in
        ["", &text[1..], &text.to_uppercase(), &text.replace('0', "g"), &format!("+{}", &text[1..])]
    {
        assert_eq!(wrong.parse::<ClusterId>(), Err(ParseClusterIdError), "{wrong}");
    }
}

#[test]
fn an_empty_replica_is_founded_only_if_nothing_says_that_it_was() {
    assert_eq!(unfounded(|_| {}), Step::Bootstrap { cluster_id: CLUSTER });
    let lost = Step::Stop(Stop::VolumeLost);
    let member = MemberSeen { node_id: 1, volume_uid: None };
    assert_eq!(unfounded(|seen| seen.member = Some(member)), lost);
    assert_eq!(unfounded(|seen| claim(seen).stamp = Some(CLUSTER.to_string())), lost);
    assert_eq!(unfounded(|seen| seen.pod = None), Step::Wait(Wait::Pod));
    assert_eq!(unfounded(|seen| pod(seen).is_of_set = false), Step::Wait(Wait::Pod));
    assert_eq!(unfounded(|seen| pod(seen).is_terminating = true), Step::Wait(Wait::Pod));
    assert_eq!(unfounded(|seen| claim(seen).is_bound = false), Step::Wait(Wait::Empty));
    assert_eq!(unfounded(|seen| claim(seen).is_terminating = true), Step::Wait(Wait::Empty));
    assert_eq!(unfounded(|seen| seen.data = DataSeen::Unknown), Step::Wait(Wait::Answer));
}

#[test]
fn a_founded_volume_is_marked_and_then_recorded() {
    let stamp = Step::StampClaim { uid: "c1".to_owned(), cluster_id: CLUSTER };
    assert_eq!(unfounded(|seen| seen.data = member_of(CLUSTER)), stamp);
    assert_eq!(with(|seen| claim(seen).stamp = None), stamp);
    let record = Step::RecordMember { node_id: 1, volume_uid: "c1".to_owned() };
    assert_eq!(with(|seen| seen.member = None), record);
    let other = MemberSeen { node_id: UNKNOWN_NODE, volume_uid: Some("c1".to_owned()) };
    assert_eq!(with(|seen| seen.member = Some(other)), record);
    let other = MemberSeen { node_id: 1, volume_uid: Some("c0".to_owned()) };
    assert_eq!(with(|seen| seen.member = Some(other)), record);
}

#[test]
fn data_of_another_cluster_stops_a_writer_that_was_founded() {
    let stops = |step: Step| matches!(step, Step::Stop(Stop::ForeignVolume(_)));
    assert!(stops(with(|seen| seen.data = member_of(OTHER))));
    assert!(stops(with(|seen| seen.data = DataSeen::Foreign)));
    assert!(stops(with(|seen| seen.data = DataSeen::Damaged)));
    assert!(stops(with(|seen| claim(seen).stamp = Some(OTHER.to_string()))));
    // One that was not takes the volume of its name.
    let adopt = Step::AdoptCluster { cluster_id: OTHER, volume_uid: "c1".to_owned() };
    assert_eq!(unfounded(|seen| seen.data = member_of(OTHER)), adopt);
}

#[test]
fn a_new_writer_takes_the_cluster_of_a_kept_volume() {
    let new = |change: fn(&mut Observed)| {
        with(|seen| {
            seen.cluster_id = None;
            seen.member = None;
            change(seen);
        })
    };
    let adopt = Step::AdoptCluster { cluster_id: CLUSTER, volume_uid: "c1".to_owned() };
    assert_eq!(new(|_| {}), adopt);
    assert_eq!(new(|seen| claim(seen).stamp = None), Step::NameCluster);
    assert_eq!(new(|seen| seen.claim = None), Step::NameCluster);
    assert_eq!(new(|seen| claim(seen).is_terminating = true), Step::Wait(Wait::EarlierClaim));
    let odd = new(|seen| claim(seen).stamp = Some("odd".to_owned()));
    assert!(matches!(odd, Step::Stop(Stop::ForeignVolume(_))), "{odd:?}");
}

#[test]
fn a_key_is_made_once_and_never_for_data_that_is_there() {
    assert_eq!(unfounded(|seen| seen.kek = KekSeen::Absent), Step::CreateKek);
    assert_eq!(with(|seen| seen.kek = KekSeen::Absent), Step::Stop(Stop::KekLost));
    assert_eq!(with(|seen| seen.kek = KekSeen::OfUser), Step::Stable);
    assert_eq!(with(|seen| seen.kek = KekSeen::OfUserAbsent), Step::Stop(Stop::KekLost));
    let unfounded = unfounded(|seen| seen.kek = KekSeen::OfUserAbsent);
    assert_eq!(unfounded, Step::Bootstrap { cluster_id: CLUSTER });
}

#[test]
fn three_replicas_change_nothing_but_keep_the_certificate() {
    let stop = Step::Stop(Stop::ReplicasNotSupported);
    assert_eq!(with(|seen| seen.replicas = 3), stop);
    let old = |seen: &mut Observed| (seen.replicas, seen.is_tls_applied) = (3, false);
    assert_eq!(with(old), Step::ApplyTls);
    let new = with(|seen| {
        old(seen);
        (seen.set, seen.cluster_id) = (None, None);
    });
    assert_eq!(new, stop);
}

#[test]
fn a_size_that_cannot_be_read_changes_nothing_but_keeps_the_certificate() {
    let stop = Step::Stop(Stop::SizeUnreadable);
    assert_eq!(with(|seen| seen.is_size_readable = false), stop);
    let old = |seen: &mut Observed| {
        (seen.is_size_readable, seen.are_children_applied, seen.is_tls_applied) =
            (false, false, false);
    };
    assert_eq!(with(old), Step::ApplyTls);
    let deletion = Deletion { is_namespace_terminating: false, is_forced: false, streams: 0 };
    let deleted = with(|seen| (seen.is_size_readable, seen.deletion) = (false, Some(deletion)));
    assert_eq!(deleted, Step::Gone);
}

#[test]
fn a_foreign_child_is_never_taken_over() {
    let foreign = ForeignChild {
        child: "Service billing-writer".to_owned(),
        owner: "nobody".to_owned(),
        is_of_earlier: false,
    };
    let stop = Step::Stop(Stop::ForeignChild(foreign.clone()));
    assert_eq!(with(|seen| seen.foreign = Some(foreign.clone())), stop);
    let earlier = ForeignChild { is_of_earlier: true, ..foreign };
    assert_eq!(with(|seen| seen.foreign = Some(earlier)), Step::Wait(Wait::EarlierWriter));
}

#[test]
fn a_namespace_that_is_not_enabled_stops_everything() {
    assert_eq!(with(|seen| seen.is_enabled = false), Step::Stop(Stop::NamespaceNotEnabled));
}

#[test]
fn a_new_set_waits_for_what_the_spec_names_and_one_that_is_there_does_not() {
    let missing = || vec!["Secret shop/acme-s3".to_owned()];
    assert_eq!(with(|seen| seen.missing = missing()), Step::Stable);
    let new = with(|seen| (seen.missing, seen.set) = (missing(), None));
    assert_eq!(new, Step::Wait(Wait::Missing));
}

#[test]
fn an_outdated_pod_is_evicted_whether_it_is_ready_or_not() {
    let evict = Step::EvictPod { uid: "p1".to_owned() };
    let old = |seen: &mut Observed| pod(seen).revision = Some("r0".to_owned());
    assert_eq!(with(old), evict);
    let broken = |seen: &mut Observed| {
        old(seen);
        pod(seen).is_ready = false;
        seen.data = DataSeen::Unknown;
    };
    assert_eq!(with(broken), evict);
    // Not before the controller has seen the newest template.
    let unseen = with(|seen| {
        old(seen);
        seen.set.as_mut().unwrap().update_revision = None;
    });
    assert_eq!(unseen, Step::Wait(Wait::StatefulSet));
    assert_eq!(with(|seen| pod(seen).is_terminating = true), Step::Wait(Wait::Pod));
}

#[test]
fn a_volume_grows_if_it_can() {
    let size = |size| with(|seen| claim(seen).size = size);
    assert_eq!(size(SizeSeen::Small), Step::GrowClaim { uid: "c1".to_owned() });
    assert_eq!(size(SizeSeen::Growing), Step::Wait(Wait::Growth));
    assert_eq!(size(SizeSeen::Fixed), Step::Stable);
}

#[test]
fn a_replica_that_does_not_lead_or_is_not_ready_is_waited_for() {
    let follows = DataSeen::Member { cluster_id: CLUSTER, node_id: 1, leads: false };
    assert_eq!(with(|seen| seen.data = follows), Step::Wait(Wait::Leader));
    assert_eq!(with(|seen| pod(seen).is_ready = false), Step::Wait(Wait::Leader));
}

#[test]
fn the_finalizer_is_there_exactly_if_volumes_go_with_the_writer() {
    assert_eq!(with(|seen| seen.when_deleted = Fate::Delete), Step::AddFinalizer);
    assert_eq!(with(|seen| seen.has_finalizer = true), Step::RemoveFinalizer);
}

#[test]
fn volumes_go_after_streams_set_and_pod_and_only_under_the_finalizer() {
    let deletion = Deletion { is_namespace_terminating: false, is_forced: false, streams: 0 };
    let deleting = |deletion: Deletion, change: fn(&mut Observed)| {
        with(|seen| {
            seen.when_deleted = Fate::Delete;
            seen.has_finalizer = true;
            seen.deletion = Some(deletion);
            change(seen);
        })
    };
    let keep = |_: &mut Observed| {};
    assert_eq!(deleting(deletion, |seen| seen.has_finalizer = false), Step::Gone);
    assert_eq!(deleting(deletion, |seen| seen.when_deleted = Fate::Retain), Step::RemoveFinalizer);
    assert_eq!(deleting(Deletion { is_forced: true, ..deletion }, keep), Step::RemoveFinalizer);
    let terminating = Deletion { is_namespace_terminating: true, ..deletion };
    assert_eq!(deleting(terminating, keep), Step::RemoveFinalizer);
    assert_eq!(deleting(Deletion { streams: 1, ..deletion }, keep), Step::Wait(Wait::Streams));
    assert_eq!(deleting(deletion, keep), Step::DeleteSet { uid: "s1".to_owned() });
    assert_eq!(deleting(deletion, |seen| seen.set = None), Step::Wait(Wait::Deletion));
    let claim_only = |seen: &mut Observed| (seen.set, seen.pod) = (None, None);
    assert_eq!(deleting(deletion, claim_only), Step::DeleteClaim { uid: "c1".to_owned() });
    let going = deleting(deletion, |seen| {
        (seen.set, seen.pod) = (None, None);
        claim(seen).is_terminating = true;
    });
    assert_eq!(going, Step::Wait(Wait::Deletion));
    let foreign = deleting(deletion, |seen| {
        (seen.set, seen.pod) = (None, None);
        claim(seen).stamp = Some(OTHER.to_string());
    });
    assert_eq!(foreign, Step::RemoveFinalizer);
    let gone = deleting(deletion, |seen| (seen.set, seen.pod, seen.claim) = (None, None, None));
    assert_eq!(gone, Step::RemoveFinalizer);
}
