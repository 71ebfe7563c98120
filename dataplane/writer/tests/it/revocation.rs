//! Rights that change while calls are open.

use std::sync::atomic::{AtomicBool, Ordering};

use pyramid_protocol::pb::v1::append_response::Answer;
use pyramid_protocol::pb::v1::attach_request::Message as ToWriter;
use pyramid_protocol::pb::v1::attach_response::Message as FromWriter;
use pyramid_protocol::pb::v1::read_response::Item;
use pyramid_protocol::pb::v1::{self as pb, Effect, Reason, Refusal};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::rights::{A, rights, subscription_of};
use crate::tenants::Tenant;
use crate::writer::{DEADLINE, Folder, Session, Writer, append, offsets, read, values, verdict};

/// A read that stays.
struct Follower(Streaming<pb::ReadResponse>);

impl Follower {
    async fn open(tenant: &mut Tenant, stream: &str) -> Self {
        let request = pb::ReadRequest { follow: true, ..read(stream, 0) };
        Self(tenant.calls.read(request).await.unwrap().into_inner())
    }

    async fn item(&mut self) -> Option<Item> {
        let item = timeout(DEADLINE, self.0.message()).await.expect("an item comes").unwrap();
        item.map(|response| response.item.unwrap())
    }

    /// Until this value comes.
    async fn reads(&mut self, expected: &str) {
        loop {
            let item = self.item().await.expect("the read goes on");
            assert!(!matches!(item, Item::Refused(_)), "{item:?}");
            if values(&item).iter().any(|(_, value)| value == expected) {
                return;
            }
        }
    }

    async fn caught_up(&mut self) {
        while !matches!(self.item().await, Some(Item::CaughtUp(_))) {}
    }

    /// Why it has ended.
    async fn refused(&mut self) -> Refusal {
        loop {
            let item = self.item().await.expect("a last word");
            if let Item::Refused(refusal) = item {
                assert_eq!(self.item().await, None);
                return refusal;
            }
            assert_eq!(values(&item), [], "no record after the right is gone");
        }
    }
}

struct Watcher(Streaming<pb::WatchResponse>);

impl Watcher {
    async fn open(tenant: &mut Tenant, streams: &[&str]) -> Self {
        let streams = streams.iter().map(|name| (*name).to_owned()).collect();
        Self(tenant.calls.watch(pb::WatchRequest { streams }).await.unwrap().into_inner())
    }

    async fn hears(&mut self) -> Vec<(String, Option<u64>)> {
        let told = timeout(DEADLINE, self.0.message()).await.expect("news").unwrap().unwrap();
        let next = |one: pb::WatchedStream| (one.stream, one.next.map(|next| next.offset));
        told.streams.into_iter().map(next).collect()
    }
}

struct Attached {
    _to: mpsc::Sender<pb::AttachRequest>,
    from: Streaming<pb::AttachResponse>,
}

impl Attached {
    async fn open(tenant: &mut Tenant, subscription: &str) -> Self {
        let (to, requests) = mpsc::channel(1);
        let hello = pb::AttachHello { subscription: subscription.into(), ..Default::default() };
        let message = Some(ToWriter::Hello(hello));
        to.send(pb::AttachRequest { message }).await.unwrap();
        let from = tenant.calls.attach(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Self { _to: to, from }
    }

    /// Names of the streams assigned, or the refusal.
    async fn hears(&mut self) -> Result<Vec<String>, Refusal> {
        let told = timeout(DEADLINE, self.from.message()).await.expect("an answer").unwrap();
        match told.expect("it goes on").message.unwrap() {
            FromWriter::Assignment(told) => {
                Ok(told.streams.into_iter().map(|stream| stream.stream).collect())
            }
            FromWriter::Refused(refusal) => {
                assert_eq!(self.from.message().await.unwrap(), None);
                Err(refusal)
            }
        }
    }
}

fn reasons(reason: Reason) -> (Reason, Effect, bool) {
    (reason, Effect::NoEffect, false)
}

/// Row A11: each of the four kinds of call that lasts ends for what the right is gone for, and goes
/// on for what it is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_ends_what_rests_on_it_and_nothing_else() {
    let folder = Folder::new();
    let (mut writer, tenants) = folder.found_for_many().await;
    let mut a = tenants.tenant(A);
    for name in ["gone", "kept"] {
        writer.put_rights(name, rights(&[A], &[A], &[])).await;
        writer.put_subscription(subscription_of(name, &[name], &[A])).await.unwrap();
        // The reads rest on the lists of the streams, the attachments on the subscriptions.
    }
    let mut session = Session::open(&mut a.calls).await;
    for name in ["gone", "kept"] {
        session.append(append(name, &["first"])).await.unwrap();
    }
    let (mut gone, mut kept) =
        (Follower::open(&mut a, "gone").await, Follower::open(&mut a, "kept").await);
    gone.reads("first").await;
    gone.caught_up().await;
    kept.reads("first").await;
    let mut watch = Watcher::open(&mut a, &["gone", "kept"]).await;
    assert_eq!(watch.hears().await, [("gone".into(), Some(1)), ("kept".into(), Some(1))]);
    let mut attached_gone = Attached::open(&mut a, "gone").await;
    let mut attached_kept = Attached::open(&mut a, "kept").await;
    assert_eq!(attached_gone.hears().await, Ok(vec!["gone".into()]));
    assert_eq!(attached_kept.hears().await, Ok(vec!["kept".into()]));

    writer.delete_subscription("gone").await;
    let refused = attached_gone.hears().await.unwrap_err();
    assert_eq!((refused.reason(), refused.retry), (Reason::NotFound, true), "it may come back");
    writer.append("gone", &["still read"]).await;
    gone.reads("still read").await;
    assert_eq!(watch.hears().await, [("gone".into(), Some(2))]);

    writer.put_rights("gone", rights(&[], &[], &[])).await;
    writer.append("gone", &["secret"]).await;
    assert_eq!(gone.refused().await.reason(), Reason::NotFound);
    assert_eq!(watch.hears().await, [("gone".into(), None)]);
    let append_to = |name: &str| append(name, &["second"]);
    assert_eq!(verdict(session.append(append_to("gone")).await), reasons(Reason::NotFound));
    assert_eq!(verdict(session.append(append_to("gone")).await), reasons(Reason::SessionBroken));

    assert_eq!(offsets(session.append(append_to("kept")).await), (1, 2));
    kept.reads("second").await;
    assert_eq!(watch.hears().await, [("kept".into(), Some(2))]);
    writer
        .put_subscription(pb::PutSubscription {
            paused: true,
            ..subscription_of("kept", &["kept"], &[A])
        })
        .await
        .unwrap();
    assert_eq!(attached_kept.hears().await, Ok(vec!["kept".into()]));
    assert_eq!(writer.info("gone").await.next_offset, 3, "nothing of A's was written after");
    writer.stop().await;
}

/// Row A11: a read that rests on a subscription ends with it, and with a place in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_subscription_ends_the_reads_that_rest_on_it() {
    let folder = Folder::new();
    let (mut writer, tenants) = folder.found_for_many().await;
    let mut a = tenants.tenant(A);
    for name in ["r", "s", "t"] {
        writer.put_rights(name, rights(&[], &[], &[])).await;
        writer.append(name, &["first"]).await;
    }
    writer.put_subscription(subscription_of("whole", &["r"], &[A])).await.unwrap();
    writer.put_subscription(subscription_of("part", &["s", "t"], &[A])).await.unwrap();
    let mut reads = Vec::new();
    for name in ["r", "s", "t"] {
        let mut follower = Follower::open(&mut a, name).await;
        follower.reads("first").await;
        reads.push(follower);
    }
    writer.delete_subscription("whole").await;
    writer.put_subscription(subscription_of("part", &["t"], &[A])).await.unwrap();
    assert_eq!(reads[0].refused().await.reason(), Reason::NotFound);
    assert_eq!(reads[1].refused().await.reason(), Reason::NotFound);
    writer.append("t", &["second"]).await;
    reads[2].reads("second").await;
    writer.stop().await;
}

/// Row A11: the answer to one who keeps another right names the right that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn who_keeps_another_right_is_told_which_one_is_gone() {
    let folder = Folder::new();
    let (mut writer, tenants) = folder.found_for_many().await;
    let mut a = tenants.tenant(A);
    writer.put_rights("x", rights(&[A], &[A], &[A])).await;
    let mut session = Session::open(&mut a.calls).await;
    session.append(append("x", &["first"])).await.unwrap();
    let mut follower = Follower::open(&mut a, "x").await;
    follower.reads("first").await;
    let mut watch = Watcher::open(&mut a, &["x"]).await;
    assert_eq!(watch.hears().await, [("x".into(), Some(1))]);
    writer.put_rights("x", rights(&[], &[], &[A])).await;
    let refused = follower.refused().await;
    assert_eq!(refused.reason(), Reason::Denied);
    assert!(refused.message.contains("has not the right to read"), "{}", refused.message);
    assert_eq!(verdict(session.append(append("x", &["no"])).await), reasons(Reason::Denied));
    writer.append("x", &["second"]).await;
    assert_eq!(watch.hears().await, [("x".into(), Some(2))], "any right lets it be watched");
    writer.stop().await;
}

/// What became of appends that were sent without waiting: how many were written, and why the others
/// were not. If the right is to be taken, it is sent on until that shows.
async fn pipelined(writer: &mut Writer, a: &mut Tenant, take: bool) -> (u64, Vec<Reason>) {
    const APPENDS: u64 = 3_000;
    let Session { requests, mut answers } = Session::open(&mut a.calls).await;
    let refusing = AtomicBool::new(false);
    let sending = async {
        let mut sent = 0;
        while (take || sent < APPENDS) && !refusing.load(Ordering::Relaxed) {
            requests.send(append("x", &[&sent.to_string()])).await.unwrap();
            sent += 1;
        }
        drop(requests);
        sent
    };
    let answering = async {
        let (mut written, mut refused) = (0, Vec::new());
        while let Some(response) = answers.message().await.unwrap() {
            match response.answer.unwrap() {
                Answer::Appended(appended) => {
                    assert_eq!(refused, [], "no append after a refused one");
                    assert_eq!(appended.first_offset, Some(written));
                    written += 1;
                }
                Answer::Refused(refusal) => {
                    assert_eq!(refusal.effect(), Effect::NoEffect);
                    refused.push(refusal.reason());
                    refusing.store(true, Ordering::Relaxed);
                }
            }
            if written == 100 && refused.is_empty() && take {
                writer.put_rights("x", rights(&[], &[A], &[])).await;
            }
        }
        (written, refused)
    };
    let (sent, (written, refused)) =
        timeout(DEADLINE, async { tokio::join!(sending, answering) }).await.expect("in time");
    assert_eq!(sent, written + u64::try_from(refused.len()).unwrap(), "each is answered once");
    (written, refused)
}

/// Row A11: while appends are on their way, each is answered with what became of it, in order.
#[tokio::test(flavor = "multi_thread")]
async fn appends_on_their_way_are_answered_truthfully_when_the_right_is_taken() {
    for take in [false, true] {
        let folder = Folder::new();
        let (mut writer, tenants) = folder.found_for_many().await;
        let mut a = tenants.tenant(A);
        writer.put_rights("x", rights(&[A], &[], &[])).await;
        let (written, refused) = pipelined(&mut writer, &mut a, take).await;
        crate::tell(&format!("taken: {take}; {written} written, {} refused", refused.len()));
        assert_eq!(writer.info("x").await.next_offset, written);
        let numbers: Vec<_> = (0..written).map(|number| (number, number.to_string())).collect();
        assert_eq!(writer.values("x", 0).await, numbers);
        match refused.split_first() {
            None => assert!(!take),
            Some((first, rest)) => {
                assert!(take);
                assert_eq!(*first, Reason::Denied);
                assert!(rest.iter().all(|reason| *reason == Reason::SessionBroken));
            }
        }
        writer.stop().await;
    }
}

/// A right that is given works at once, on the connection that was refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_given_works_without_a_new_connection() {
    let folder = Folder::new();
    let (mut writer, tenants) = folder.found_for_many().await;
    let mut a = tenants.tenant(A);
    writer.put_rights("x", rights(&[], &[], &[])).await;
    writer.append("x", &["first"]).await;
    let mut watch = Watcher::open(&mut a, &["x"]).await;
    assert_eq!(watch.hears().await, [("x".into(), None)]);
    let mut session = Session::open(&mut a.calls).await;
    assert_eq!(verdict(session.append(append("x", &["no"])).await), reasons(Reason::NotFound));
    assert_eq!(Follower::open(&mut a, "x").await.refused().await.reason(), Reason::NotFound);
    let mut attached = Attached::open(&mut a, "s").await;
    assert_eq!(attached.hears().await.unwrap_err().reason(), Reason::NotFound);

    writer.put_rights("x", rights(&[A], &[], &[])).await;
    assert_eq!(watch.hears().await, [("x".into(), Some(1))]);
    let mut session = Session::open(&mut a.calls).await;
    assert_eq!(offsets(session.append(append("x", &["second"])).await), (1, 2));
    assert_eq!(Follower::open(&mut a, "x").await.refused().await.reason(), Reason::Denied);
    writer.put_subscription(subscription_of("s", &["x"], &[A])).await.unwrap();
    Follower::open(&mut a, "x").await.reads("second").await;
    assert_eq!(Attached::open(&mut a, "s").await.hears().await, Ok(vec!["x".into()]));
    writer.stop().await;
}

/// Row A11: a right that rests on a whole namespace is taken as live as one of a single identity.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_of_a_whole_namespace_works_and_ends_live() {
    const EVERY: &str = "spiffe://td/ns/a/sa/*";
    let folder = Folder::new();
    let (mut writer, tenants) = folder.found_for_many().await;
    let (mut a, mut stranger) = (tenants.tenant(A), tenants.tenant(crate::rights::B));
    writer.put_rights("x", rights(&[EVERY], &[], &[])).await;
    writer.put_subscription(subscription_of("s", &["x"], &[EVERY])).await.unwrap();
    let mut session = Session::open(&mut a.calls).await;
    assert_eq!(offsets(session.append(append("x", &["first"])).await), (0, 1));
    let mut follower = Follower::open(&mut a, "x").await;
    follower.reads("first").await;
    let mut attached = Attached::open(&mut a, "s").await;
    assert_eq!(attached.hears().await, Ok(vec!["x".into()]));
    let mut other = Session::open(&mut stranger.calls).await;
    assert_eq!(verdict(other.append(append("x", &["no"])).await), reasons(Reason::NotFound));
    let refused = Attached::open(&mut stranger, "s").await.hears().await.unwrap_err();
    assert_eq!(refused.reason(), Reason::NotFound);

    writer.put_rights("x", rights(&["spiffe://td/ns/b/sa/*"], &[], &[])).await;
    assert_eq!(verdict(session.append(append("x", &["no"])).await), reasons(Reason::Denied));
    writer
        .put_subscription(subscription_of("s", &["x"], &["spiffe://td/ns/b/sa/*"]))
        .await
        .unwrap();
    assert_eq!(attached.hears().await.unwrap_err().reason(), Reason::NotFound);
    assert_eq!(follower.refused().await.reason(), Reason::NotFound);
    let mut other = Session::open(&mut stranger.calls).await;
    assert_eq!(offsets(other.append(append("x", &["second"])).await), (1, 2));
    assert_eq!(Attached::open(&mut stranger, "s").await.hears().await, Ok(vec!["x".into()]));
    writer.stop().await;
}
