//! Who may do what, and that strangers learn nothing.

use pyramid_protocol::pb::v1::read_response::Item;
use pyramid_protocol::pb::v1::{self as pb, Effect, Reason, Refusal};
use tonic::Code;

use crate::answers::{answers, differing};
use crate::tenants::{OPERATOR, Tenant, Tenants};
use crate::writer::{
    CLUSTER, DEADLINE, Folder, Session, Writer, append, offsets, refusal, subscription, verdict,
};

pub(crate) const A: &str = "spiffe://td/ns/a/sa/app";
pub(crate) const B: &str = "spiffe://td/ns/b/sa/app";

/// Lists of appenders, readers, managers.
pub(crate) fn rights(appenders: &[&str], readers: &[&str], managers: &[&str]) -> pb::StreamRights {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    pb::StreamRights {
        appenders: texts(appenders),
        readers: texts(readers),
        managers: texts(managers),
    }
}

/// A subscription that these may attach to.
pub(crate) fn subscription_of(
    name: &str,
    streams: &[&str],
    accounts: &[&str],
) -> pb::PutSubscription {
    let service_accounts = accounts.iter().map(|account| (*account).to_owned()).collect();
    pb::PutSubscription { service_accounts, ..subscription(name, 1, streams) }
}

/// A replica with a stream and a subscription `a` that A may use.
async fn with_a(folder: &Folder) -> (Writer, Tenants) {
    let (mut writer, tenants) = folder.found_for_many().await;
    writer.put_rights("a", rights(&[A], &[], &[])).await;
    writer.put_subscription(subscription_of("a", &["a"], &[A])).await.unwrap();
    (writer, tenants)
}

/// Row A8: whatever a stranger asks of a stream or subscription of B's, each answer is byte for
/// byte the one from before there was any. B, and A once it has a right, hear something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_others_is_answered_like_one_that_does_not_exist() {
    let folder = Folder::new();
    let (mut writer, tenants) = with_a(&folder).await;
    let (a, b) = (tenants.tenant(A), tenants.tenant(B));
    let of_b = || rights(&[B], &[B], &[B]);
    let old_id = writer.put_rights("b", of_b()).await.stream_id;
    writer.delete_stream("b").await;
    let names = [
        "b", "bb", "B", "\u{ff42}", "b\u{301}", "b/", "a/../b", "../b", "./b", "b\0", "b%00", " b",
        "b*",
    ];
    let mut before = Vec::new();
    for name in names {
        for stream_id in [None, Some(old_id), Some(0)] {
            before.push((name, stream_id, answers(&a, name, stream_id).await));
        }
    }
    let bs_before = answers(&b, "b", None).await;

    let new_id = writer.put_rights("b", of_b()).await.stream_id;
    writer.put_rights("bb", of_b()).await;
    for name in ["b", "bb"] {
        writer.put_subscription(subscription_of(name, &[name], &[B])).await.unwrap();
        writer.append(name, &["secret"]).await;
    }
    writer.seal("b").await;
    for (name, stream_id, before) in &before {
        let after = answers(&a, name, *stream_id).await;
        assert_eq!(differing(before, &after), [""; 0], "{name:?} {stream_id:?}");
    }
    let with_right_id = answers(&a, "b", Some(new_id)).await;
    assert_eq!(differing(&before[0].2, &with_right_id), [""; 0], "its id opens nothing");
    let operator = answers(&tenants.tenant(OPERATOR), "b", None).await;
    let nobodys = answers(&tenants.tenant(OPERATOR), "b", Some(old_id)).await;
    assert_eq!(differing(&operator, &nobodys), [""; 0], "the operator has no right by itself");

    // One change each: another caller, a right.
    let bs = answers(&b, "b", None).await;
    let (differ, all) = (differing(&bs_before, &bs).len(), bs.len());
    crate::tell(&format!(
        "{} calls a name, {} names; B hears {differ} of {all} differ",
        all,
        names.len()
    ));
    assert_eq!(differ, all, "{:?}", differing(&bs_before, &bs));
    writer.put_rights("b", rights(&[B], &[B, A], &[B])).await;
    let allowed = answers(&a, "b", None).await;
    assert!(
        differing(&before[0].2, &allowed).len() + 2 >= all,
        "{:?}",
        differing(&before[0].2, &allowed)
    );
    writer.stop().await;
}

async fn read_reason(tenant: &mut Tenant, request: pb::ReadRequest) -> Reason {
    let mut items = tenant.calls.read(request).await.unwrap().into_inner();
    let first = items.message().await.unwrap().unwrap().item.unwrap();
    if let Item::Refused(refusal) = first { refusal.reason() } else { Reason::Unspecified }
}

/// Row A8: a name that was A's and is another's now tells A nothing; if it is A's again, its new id.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_became_anothers_stream_is_gone_for_who_had_it() {
    for (new, expected) in [(B, Reason::NotFound), (A, Reason::StreamRecreated)] {
        let folder = Folder::new();
        let (mut writer, tenants) = folder.found_for_many().await;
        let mut a = tenants.tenant(A);
        let id = writer.put_rights("x", rights(&[A], &[A], &[A])).await.stream_id;
        let mut session = Session::open(&mut a.calls).await;
        session.append(append("x", &["1"])).await.unwrap();
        let follow = pb::ReadRequest { follow: true, ..crate::writer::read("x", 0) };
        let mut items = a.calls.read(follow).await.unwrap().into_inner();
        items.message().await.unwrap();
        writer.delete_stream("x").await;
        writer.put_rights("x", rights(&[new], &[new], &[new])).await;
        assert_eq!(verdict(session.append(append("x", &["2"])).await).0, expected);
        let last = loop {
            let item = items.message().await.unwrap().unwrap().item.unwrap();
            if let Item::Refused(refusal) = item {
                break refusal.reason();
            }
        };
        // Between the deletion and the new stream there was none.
        assert!([Reason::NotFound, expected].contains(&last), "{last:?}");
        let by_id = pb::ReadRequest { stream_id: Some(id), ..crate::writer::read("x", 0) };
        assert_eq!(read_reason(&mut a, by_id).await, expected);
        writer.stop().await;
    }
}

fn code<T>(answer: Result<T, tonic::Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// The codes of all calls of Admin.
async fn admin_codes(tenant: &Tenant) -> Vec<Code> {
    let mut admin = tenant.admin.clone();
    let cluster_id = bytes::Bytes::from(CLUSTER.to_vec());
    let put = pb::PutStreamsRequest { cluster_id: cluster_id.clone(), streams: vec![] };
    let delete =
        pb::DeleteStreamRequest { cluster_id: cluster_id.clone(), name: "a".into(), stream_id: 1 };
    let close = pb::SetClosedRequest {
        cluster_id: cluster_id.clone(),
        name: "a".into(),
        stream_id: 1,
        closed: true,
    };
    let subscribe =
        pb::PutSubscriptionsRequest { cluster_id: cluster_id.clone(), subscriptions: vec![] };
    let unsubscribe = pb::DeleteSubscriptionRequest {
        cluster_id: cluster_id.clone(),
        name: "a".into(),
        object: None,
    };
    vec![
        code(admin.get_info(pb::GetInfoRequest {}).await),
        code(admin.bootstrap(pb::BootstrapRequest { cluster_id }).await),
        code(admin.put_streams(put).await),
        code(admin.delete_stream(delete).await),
        code(admin.set_closed(close).await),
        code(admin.put_subscriptions(subscribe).await),
        code(admin.delete_subscription(unsubscribe).await),
        code(admin.list_config(pb::ListConfigRequest::default()).await),
        code(admin.watch_stats(pb::WatchStatsRequest::default()).await),
        code(admin.adopt(pb::AdoptRequest::default()).await),
        code(admin.add_learner(pb::AddLearnerRequest::default()).await),
        code(admin.change_membership(pb::ChangeMembershipRequest::default()).await),
        code(admin.transfer_leadership(pb::TransferLeadershipRequest::default()).await),
    ]
}

/// Row A9: only the operator calls Admin, any call of it; and it needs no right to a stream.
#[tokio::test(flavor = "multi_thread")]
async fn admin_is_for_the_operator_alone() {
    let folder = Folder::new();
    let (mut writer, tenants) = with_a(&folder).await;
    for stranger in [A, B, "spiffe://td/ns/a/writer/w", "spiffe://td/ns/a/operator"] {
        let codes = admin_codes(&tenants.tenant(stranger)).await;
        assert_eq!(codes, [Code::PermissionDenied; 13], "{stranger}");
    }
    let mut a = tenants.tenant(A);
    let refused = refusal(a.admin.get_info(pb::GetInfoRequest {}).await.unwrap_err());
    assert_eq!((refused.reason(), refused.effect()), (Reason::Denied, Effect::NoEffect));
    assert!(refused.message.contains(A), "{}", refused.message);

    let operators = admin_codes(&tenants.tenant(OPERATOR)).await;
    assert!(!operators.contains(&Code::PermissionDenied), "{operators:?}");
    assert_eq!(operators[0], Code::Ok);
    assert_eq!(admin_codes(&tenants.local()).await, operators);
    writer.info("a").await;
    writer.stop().await;
}

async fn init(tenant: &mut Tenant, stream: &str) -> Result<pb::InitProducerResponse, Refusal> {
    let request =
        pb::InitProducerRequest { stream: stream.into(), name: "p".into(), resume_sequence: None };
    tenant.calls.init_producer(request).await.map(tonic::Response::into_inner).map_err(refusal)
}

/// Row A9: who may only attach and read is told which right is missing, and with it all of it works.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_may_not_append_nor_manage() {
    let folder = Folder::new();
    let (mut writer, tenants) = folder.found_for_many().await;
    writer.put_rights("a", rights(&[], &[], &[])).await;
    writer.put_subscription(subscription_of("s", &["a"], &[A])).await.unwrap();
    let mut a = tenants.tenant(A);
    let append_once =
        async |a: &mut Tenant| Session::open(&mut a.calls).await.append(append("a", &["x"])).await;
    let trim = pb::TrimRequest { stream: "a".into(), stream_id: None, first_offset: 1 };
    let seal = pb::SealRequest { stream: "a".into(), stream_id: None };
    let refused = [
        append_once(&mut a).await.unwrap_err(),
        init(&mut a, "a").await.unwrap_err(),
        refusal(a.calls.trim(trim.clone()).await.unwrap_err()),
        refusal(a.calls.seal(seal.clone()).await.unwrap_err()),
    ];
    for (refused, right) in refused.iter().zip(["append", "append", "manage", "manage"]) {
        let text = format!(
            "{A} may use stream \"a\" but has not the right to {right}; ask whoever manages it for the right to {right}"
        );
        assert_eq!(*refused, Refusal::new(Reason::Denied, text));
    }
    assert_eq!(read_reason(&mut a, crate::writer::read("a", 0)).await, Reason::Unspecified);

    writer.put_rights("a", rights(&[A], &[], &[A])).await;
    assert_eq!(offsets(append_once(&mut a).await), (0, 1));
    assert!(init(&mut a, "a").await.is_ok());
    assert_eq!(a.calls.trim(trim).await.unwrap().into_inner().first_offset, 1);
    assert_eq!(a.calls.seal(seal).await.unwrap().into_inner().sealed_offset, 1);
    writer.delete_subscription("s").await;
    assert_eq!(read_reason(&mut a, crate::writer::read("a", 1)).await, Reason::Denied);
    writer.stop().await;
}

/// Row A9: a producer's name belongs to the identity that uses it, and so does its id.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_of_another_identity_is_another_producer() {
    let folder = Folder::new();
    let (mut writer, tenants) = folder.found_for_many().await;
    writer.put_rights("a", rights(&[A, B], &[], &[])).await;
    let (mut a, mut b) = (tenants.tenant(A), tenants.tenant(B));
    let of_a = init(&mut a, "a").await.unwrap();
    let of_b = init(&mut b, "a").await.unwrap();
    let local = writer.init_producer("a", "p", None).await.unwrap();
    assert!(of_a.id != of_b.id && of_a.id != local.id && of_b.id != local.id);
    assert_eq!((of_a.known, of_b.known, local.known), (false, false, false));
    let request = |of: &pb::InitProducerResponse| {
        let producer = Some(pb::Producer { id: of.id, epoch: of.epoch, sequence: 0 });
        pb::AppendRequest { producer, ..append("a", &["x"]) }
    };
    let foreign = Session::open(&mut b.calls).await.append(request(&of_a)).await.unwrap_err();
    let unheld = pb::InitProducerResponse { id: of_a.id ^ 1, ..of_a };
    let unknown = Session::open(&mut b.calls).await.append(request(&unheld)).await.unwrap_err();
    assert_eq!((foreign.reason(), &foreign), (Reason::UnknownProducer, &unknown));
    let own = Session::open(&mut a.calls).await.append(request(&of_a)).await;
    assert_eq!(offsets(own), (0, 1), "nobody has fenced it");
    let again = init(&mut a, "a").await.unwrap();
    assert_eq!((again.id, again.known, again.next_sequence), (of_a.id, true, 1));
    writer.stop().await;
}

async fn names(tenant: &mut Tenant, after: &str, prefix: &str, limit: u32) -> (String, bool) {
    let request = pb::ListStreamsRequest { after: after.into(), prefix: prefix.into(), limit };
    let list = tenant.calls.list_streams(request).await.unwrap().into_inner();
    let names: Vec<_> = list.streams.into_iter().map(|info| info.name).collect();
    (names.join(" "), list.more)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_holds_the_callers_streams_and_pages_over_those_of_others() {
    let folder = Folder::new();
    let (mut writer, tenants) = folder.found_for_many().await;
    let object = |name: &str| Some(pb::ObjectRef { uid: name.into(), generation: 1 });
    let streams = (0..2_100).map(|number| {
        let name = format!("{number:04}");
        let is_as = [0, 999, 1_000, 2_099].contains(&number);
        let list: &[&str] = if is_as { &[A] } else { &[B] };
        let rights = Some(rights(list, &[], &[]));
        pb::PutStream { object: object(&name), name, rights, ..Default::default() }
    });
    let (cluster_id, streams) = (CLUSTER.to_vec().into(), streams.collect());
    writer.admin.put_streams(pb::PutStreamsRequest { cluster_id, streams }).await.unwrap();
    let mut a = tenants.tenant(A);
    assert_eq!(names(&mut a, "", "", 0).await, ("0000 0999 1000 2099".into(), false));
    assert_eq!(names(&mut a, "", "", 4).await, ("0000 0999 1000 2099".into(), false));
    assert_eq!(names(&mut a, "", "", 3).await, ("0000 0999 1000".into(), true));
    assert_eq!(names(&mut a, "1000", "", 3).await, ("2099".into(), false));
    assert_eq!(names(&mut a, "0500", "0", 9).await, ("0999".into(), false));
    assert_eq!(names(&mut tenants.tenant(OPERATOR), "", "", 0).await, (String::new(), false));
    assert_eq!(names(&mut tenants.tenant(B), "", "", 2).await, ("0001 0002".into(), true));
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_for_whom_none_can_be_given_are_refused() {
    let folder = Folder::new();
    let (mut writer, _tenants) = folder.found_for_many().await;
    let odd = "spiffe://td/ns/*/sa/app";
    for list in 0..3 {
        let lists: Vec<Vec<&str>> =
            (0..3).map(|n| if n == list { vec![A, odd] } else { vec![A] }).collect();
        let put = pb::PutStream {
            object: Some(pb::ObjectRef { uid: "u".into(), generation: 1 }),
            name: "a".into(),
            rights: Some(rights(&lists[0], &lists[1], &lists[2])),
            ..Default::default()
        };
        let request =
            pb::PutStreamsRequest { cluster_id: CLUSTER.to_vec().into(), streams: vec![put] };
        let mut results = writer.admin.put_streams(request).await.unwrap().into_inner().results;
        let Some(pb::put_stream_result::Result::Refused(refused)) = results.remove(0).result else {
            panic!("taken")
        };
        let what = ["appenders", "readers", "managers"][list];
        assert_eq!(refused.reason(), Reason::Invalid);
        assert!(
            refused.message.starts_with(&format!("{what}: {odd:?} is none")),
            "{}",
            refused.message
        );
    }
    let refused =
        writer.put_subscription(subscription_of("s", &["a"], &[A, odd])).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::Invalid);
    assert_eq!(writer.put_subscription(subscription_of("s", &["a"], &[A, B])).await, Ok(()));
    writer.put_rights("a", rights(&[A, B], &[A], &[B])).await;
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_refused_for_256_streams_ends() {
    let folder = Folder::new();
    let (mut writer, tenants) = folder.found_for_many().await;
    writer.put_rights("a", rights(&[A], &[], &[])).await;
    let mut a = tenants.tenant(A);
    for refused in [255, 256] {
        let mut session = Session::open(&mut a.calls).await;
        for number in 0..refused {
            let answer = session.append(append(&format!("unknown {number}"), &["x"])).await;
            assert_eq!(verdict(answer).0, Reason::NotFound);
        }
        if refused == 255 {
            assert!(session.append(append("a", &["x"])).await.is_ok());
        } else {
            let end = tokio::time::timeout(DEADLINE, session.answers.message()).await;
            assert!(matches!(end, Ok(Ok(None))), "{end:?}");
        }
    }
    writer.stop().await;
}
