use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::pb::v1::{StreamRights, StreamSettings};
use pyramid_protocol::{Offset, StreamName};
use stored::command::Command;

use super::fixture::*;
use crate::state::{
    Change, ControlOutcome, ControlRefused, Deleting, FIRST_DIGEST, Outcome, Refused,
};

fn is_invalid(log: &mut Log, command: Command) {
    let shown = format!("{command:?}");
    let refused = log.refused(command);
    assert!(matches!(refused, ControlRefused::Invalid { .. }), "{shown}: {refused:?}");
}

fn name(name: &str) -> StreamName {
    name.parse().unwrap()
}

#[test]
fn nothing_comes_before_the_cluster_is_founded() {
    let mut log = Log::empty();
    assert_eq!(log.refused(create("orders", ORDERS)), ControlRefused::NotFounded);
    for len in [0, 15, 17] {
        let cluster_id = vec![7; len].into();
        is_invalid(&mut log, Command::Bootstrap(stored::Bootstrap { cluster_id }));
    }
    let applied = log.control(bootstrap(7));
    assert_eq!(applied.control, Some(ControlOutcome::Founded));
    assert_eq!(applied.change, Some(Change::Cluster));
    assert_eq!(log.state.cluster_id(), Some([7; 16]));
    let again = log.control(bootstrap(7));
    assert_eq!((again.control, again.change), (Some(ControlOutcome::Founded), None));
    assert_eq!(log.refused(bootstrap(8)), ControlRefused::Foreign);
    assert_eq!((log.state.epoch(), log.state.feature_level()), (0, 1));
}

#[test]
fn a_new_stream_is_empty_and_open() {
    let mut log = Log::founded();
    let command = Command::CreateStream(stored::CreateStream {
        object: object(3),
        name: "orders".into(),
        stream_id: ORDERS,
        settings: Some(StreamSettings { chunk_bytes: 5, chunk_age_ms: 6 }),
        rights: Some(StreamRights { appenders: vec!["a".into()], ..StreamRights::default() }),
        wrapped_key: wrapped_key(40),
    });
    let applied = log.control(command);
    assert_eq!(applied.control, Some(ControlOutcome::Created));
    let (stream_id, stream_name) = (id(ORDERS), name("orders"));
    let created = Change::StreamCreated { stream_id, name: stream_name.clone() };
    assert_eq!(applied.change, Some(created));
    let stream = log.state.stream_by_name(&stream_name).unwrap();
    assert_eq!(stream, log.state.stream(stream_id).unwrap());
    assert_eq!(
        (stream.id, &stream.name, stream.closed, stream.revision),
        (stream_id, &stream_name, false, 1)
    );
    assert_eq!(log.ends(ORDERS), (0, 0, 0));
    assert_eq!(stream.object, object(3).unwrap());
    assert_eq!(stream.settings, StreamSettings { chunk_bytes: 5, chunk_age_ms: 6 });
    assert_eq!(stream.rights.appenders, ["a"]);
    assert_eq!((stream.key_object_r, stream.last_digest), (None, FIRST_DIGEST));
}

#[test]
fn a_name_has_one_stream_and_an_id_is_used_once() {
    let mut log = Log::with_orders(1);
    let taken = ControlRefused::NameTaken { stream_id: id(ORDERS) };
    assert_eq!(log.refused(create("orders", 12)), taken);
    assert_eq!(log.refused(create("second", ORDERS)), ControlRefused::IdUsed);
    assert!(!log.state.is_id_used(id(12)));
    let applied = log.control(delete(ORDERS));
    let deleted = Change::StreamDeleted { stream_id: id(ORDERS), name: name("orders") };
    assert_eq!((applied.control, applied.change), (Some(ControlOutcome::Deleted), Some(deleted)));
    assert_eq!(log.refused(delete(ORDERS)), ControlRefused::NotFound);
    assert_eq!(log.state.stream_by_name(&name("orders")), None);
    assert!(log.state.is_id_used(id(ORDERS)));
    // The name is free again, the id is not.
    assert_eq!(log.refused(create("orders", ORDERS)), ControlRefused::IdUsed);
    assert_eq!(log.command(create("orders", 12)), ControlOutcome::Created);
    assert_eq!((log.state.stream_count(), log.ends(12)), (1, (0, 0, 0)));
}

#[test]
fn what_a_deletion_leaves_is_the_id_and_what_is_left_to_delete() {
    let mut log = Log::with_orders(3);
    log.command(key_stored(ORDERS, 1));
    let intent = log.next_id().index;
    log.command(seal(ORDERS, 0, 3));
    log.command(Command::ChunkCommitted(commit(intent, 0, 3, (0, 1))));
    log.producer("p", 70);
    let (at, deleted_ms) = (log.next_id(), log.state.time_ms());
    log.command(delete(ORDERS));
    let left = Deleting { index: at.index, deleted_ms, object_count: 2, had_uploads: true };
    let image = log.state.to_image();
    assert_eq!((image.streams, image.used_stream_ids), (vec![], vec![ORDERS]));
    assert_eq!(log.state.all_deleting().collect::<Vec<_>>(), [(id(ORDERS), &left)]);
    assert_eq!((log.live.len_bytes(), log.live.memory_bytes()), (0, 0));
}

#[test]
fn a_deletion_tells_whether_an_upload_may_have_begun() {
    let deleted_after = |command: Option<Command>| {
        let mut log = Log::with_orders(3);
        command.map(|command| log.command(command));
        log.command(delete(ORDERS));
        let left = log.state.deleting(id(ORDERS)).unwrap();
        (left.object_count, left.had_uploads)
    };
    assert_eq!(deleted_after(None), (0, false));
    assert_eq!(deleted_after(Some(seal(ORDERS, 0, 3))), (0, true));
    assert_eq!(deleted_after(Some(key_stored(ORDERS, 1))), (1, true));
}

#[test]
fn the_objects_of_a_deleted_stream_are_deleted_once() {
    let done =
        |stream_id| Command::StreamObjectsDeleted(stored::StreamObjectsDeleted { stream_id });
    let mut log = Log::with_orders(1);
    log.command(create("second", 12));
    log.command(delete(12));
    assert_eq!(log.refused(done(ORDERS)), ControlRefused::StreamAlive);
    for unknown in [0, 13] {
        assert_eq!(log.refused(done(unknown)), ControlRefused::NotFound);
    }
    assert!(log.state.deleting(id(12)).is_some(), "a refusal changes nothing");
    let applied = log.control(done(12));
    let change = Change::ObjectsDeleted { stream_id: id(12) };
    assert_eq!(applied.change, Some(change));
    assert_eq!(log.state.deleting(id(12)), None);
    let again = log.control(done(12));
    assert_eq!((again.control, again.change), (Some(ControlOutcome::ObjectsDeleted), None));
    assert!(log.state.is_id_used(id(12)), "an id is never used again");
}

#[test]
fn a_stream_that_can_never_be_is_refused() {
    let mut log = Log::founded();
    for bad in [String::new(), "n".repeat(513), "a\nb".into()] {
        is_invalid(&mut log, create(&bad, ORDERS));
    }
    for bad in [0, 1 << 53, u64::MAX] {
        is_invalid(&mut log, create("orders", bad));
    }
    let with = |change: fn(&mut stored::CreateStream)| {
        let Command::CreateStream(mut command) = create("orders", ORDERS) else { panic!() };
        change(&mut command);
        Command::CreateStream(command)
    };
    is_invalid(&mut log, with(|create| create.object = None));
    is_invalid(&mut log, with(|create| create.object.as_mut().unwrap().uid = String::new()));
    is_invalid(&mut log, with(|create| create.object.as_mut().unwrap().uid = "u".repeat(257)));
    is_invalid(&mut log, with(|create| create.wrapped_key = None));
    is_invalid(&mut log, with(|create| create.wrapped_key = wrapped_key(39)));
    is_invalid(&mut log, with(|create| create.wrapped_key = wrapped_key(41)));
    log.command(create(&"n".repeat(512), (1 << 53) - 1));
    log.command(with(|create| create.object.as_mut().unwrap().uid = "u".repeat(256)));
    assert_eq!(log.state.stream_count(), 2);
}

fn put(uid: &str, generation: u64, chunk_bytes: u64) -> Command {
    Command::PutStream(stored::PutStream {
        object: Some(stored::ObjectRef { uid: uid.into(), generation }),
        stream_id: ORDERS,
        settings: Some(StreamSettings { chunk_bytes, chunk_age_ms: 0 }),
        rights: None,
        expected: None,
        opens_for_another: false,
    })
}

#[test]
fn what_was_declared_since_it_was_read_is_not_replaced() {
    let mut log = Log::with_orders(0);
    log.command(put("uid", 4, 44));
    let put_if = |uid: &str, generation, of_uid: &str, of_generation| {
        let Command::PutStream(mut command) = put(uid, generation, 0) else { panic!() };
        let expected = stored::ObjectRef { uid: of_uid.into(), generation: of_generation };
        command.expected = Some(expected);
        Command::PutStream(command)
    };
    for (uid, generation) in [("uid", 3), ("uid", 5), ("other", 4)] {
        let refused = log.refused(put_if("uid", 5, uid, generation));
        assert_eq!(refused, ControlRefused::DeclaredSince, "{uid} {generation}");
    }
    assert_eq!(log.state.stream(id(ORDERS)).unwrap().settings.chunk_bytes, 44);
    log.command(put_if("uid", 5, "uid", 4));
    // Whoever read the same and comes second.
    assert_eq!(log.refused(put_if("uid", 5, "uid", 4)), ControlRefused::DeclaredSince);
    assert_eq!(
        log.refused(put_if("uid", 4, "uid", 5)),
        ControlRefused::OlderGeneration { generation: 5 }
    );
}

#[test]
fn an_older_generation_of_the_same_object_is_refused() {
    let mut log = Log::with_orders(0);
    let chunk_bytes = |log: &Log| log.state.stream(id(ORDERS)).unwrap().settings.chunk_bytes;
    let applied = log.control(put("uid", 4, 44));
    let changed = Change::StreamChanged { stream_id: id(ORDERS) };
    assert_eq!((applied.control, applied.change), (Some(ControlOutcome::StreamPut), Some(changed)));
    for generation in [0, 3] {
        let older = ControlRefused::OlderGeneration { generation: 4 };
        assert_eq!(log.refused(put("uid", generation, 33)), older);
    }
    assert_eq!(chunk_bytes(&log), 44);
    let same = log.control(put("uid", 4, 44));
    assert_eq!((same.control, same.change), (Some(ControlOutcome::StreamPut), None));
    log.command(put("uid", 5, 55));
    assert_eq!(chunk_bytes(&log), 55);
    // Another object has generations of its own.
    log.command(put("other", 1, 11));
    assert_eq!(chunk_bytes(&log), 11);
    log.command(delete(ORDERS));
    assert_eq!(log.refused(put("other", 2, 22)), ControlRefused::NotFound);
}

#[test]
fn another_object_opens_what_was_closed_for_one_that_is_gone() {
    let put = |uid: &str, generation, opens_for_another| {
        let Command::PutStream(put) = put(uid, generation, 5) else { panic!() };
        Command::PutStream(stored::PutStream { opens_for_another, ..put })
    };
    let mut log = Log::with_orders(1);
    let close = Command::SetClosed(stored::SetClosed { stream_id: ORDERS, closed: true });
    let seen = |log: &Log| {
        let stream = log.state.stream(id(ORDERS)).unwrap();
        (stream.closed, stream.revision)
    };
    log.command(put("old", 1, true));
    assert_eq!(seen(&log), (false, 1), "it was open");
    log.command(close);
    log.command(put("old", 2, true));
    log.command(put("another", 1, false));
    assert_eq!(seen(&log), (true, 2));
    log.command(put("third", 1, true));
    assert_eq!(seen(&log), (false, 3));
    log.command(put("fourth", 1, true));
    assert_eq!(seen(&log), (false, 3));
}

#[test]
fn the_revision_rises_when_a_stream_is_closed_and_when_it_is_opened() {
    let mut log = Log::with_orders(0);
    for (closed, revision, changes) in
        [(false, 1, false), (true, 2, true), (true, 2, false), (false, 3, true)]
    {
        let applied = log.control(set_closed(ORDERS, closed));
        assert_eq!(applied.control, Some(ControlOutcome::ClosedSet { revision }));
        assert_eq!(applied.change.is_some(), changes, "{revision}");
        assert_eq!(log.state.stream(id(ORDERS)).unwrap().closed, closed);
    }
    assert_eq!(log.refused(set_closed(99, true)), ControlRefused::NotFound);
    let mut log = log.recovered(|image| image.streams[0].revision = u32::MAX);
    assert_eq!(log.refused(set_closed(ORDERS, true)), ControlRefused::UsedUp);
    assert_eq!(log.control(set_closed(ORDERS, false)).change, None);
}

#[test]
fn the_first_offset_never_goes_back_nor_past_the_end() {
    let mut log = Log::with_orders(5);
    let trimmed = |first| ControlOutcome::Trimmed { first: Offset::new(first) };
    for (to, first) in [(0, 0), (3, 3), (3, 3), (2, 3), (0, 3), (5, 5)] {
        let moves = to > log.ends(ORDERS).0;
        let applied = log.control(trim(ORDERS, to));
        assert_eq!(applied.control, Some(trimmed(first)), "trim to {to}");
        assert_eq!(applied.change.is_some(), moves, "trim to {to}");
    }
    let beyond = ControlRefused::BeyondNext { next: Offset::new(5) };
    assert_eq!(log.refused(trim(ORDERS, 6)), beyond);
    assert_eq!(log.refused(trim(99, 0)), ControlRefused::NotFound);
    assert_eq!(log.ends(ORDERS), (5, 0, 5));
    // A trimmed record does not count as shipped.
    assert_eq!(log.live.live_bytes(id(ORDERS)), 50);
    assert_eq!(log.appended(op(ORDERS, 1)), 5);
}

#[test]
fn the_feature_level_only_rises() {
    let level = |level| Command::SetFeatureLevel(stored::SetFeatureLevel { level });
    let mut log = Log::founded();
    let same = log.control(level(1));
    assert_eq!((same.control, same.change), (Some(ControlOutcome::FeatureLevelSet), None));
    assert_eq!(log.refused(level(0)), ControlRefused::LowerLevel { level: 1 });
    let raised = log.control(level(2));
    let done = (Some(ControlOutcome::FeatureLevelSet), Some(Change::Cluster));
    assert_eq!((raised.control, raised.change), done);
    assert_eq!(log.refused(level(1)), ControlRefused::LowerLevel { level: 2 });
    assert_eq!(log.state.feature_level(), 2);
}

fn subscription(name: &str, generation: u64) -> stored::Subscription {
    stored::Subscription {
        object: object(generation),
        name: name.into(),
        streams: vec!["a".into(), "b".into()],
        start_from: stored::StoredStartFrom::Earliest.into(),
        mode: stored::StoredDeliveryMode::Broadcast.into(),
        service_accounts: vec!["x".into(), "y".into()],
        ..stored::Subscription::default()
    }
}

fn put_subscription(subscription: stored::Subscription) -> Command {
    Command::PutSubscription(stored::PutSubscription { subscription: Some(subscription) })
}

#[test]
fn subscriptions_are_put_by_generation_and_removed_by_name() {
    let mut log = Log::founded();
    let remove =
        |name: &str| Command::DeleteSubscription(stored::DeleteSubscription { name: name.into() });
    assert_eq!(log.refused(remove("s")), ControlRefused::NotFound);
    let changed = Some(Change::Subscription { name: "s".into() });
    let applied = log.control(put_subscription(subscription("s", 2)));
    let done = Some(ControlOutcome::SubscriptionPut);
    assert_eq!((&applied.control, &applied.change), (&done, &changed));
    let same = log.control(put_subscription(subscription("s", 2)));
    assert_eq!((&same.control, same.change), (&done, None));
    let older = ControlRefused::OlderGeneration { generation: 2 };
    assert_eq!(log.refused(put_subscription(subscription("s", 1))), older);
    let newer = stored::Subscription { paused: true, ..subscription("s", 3) };
    log.command(put_subscription(newer.clone()));
    assert_eq!(**log.state.subscription("s").unwrap(), newer);
    log.command(put_subscription(subscription("r", 1)));
    let names =
        |after| -> Vec<_> { log.state.subscriptions(after).map(|one| one.name.as_str()).collect() };
    assert_eq!((names(""), names("r"), names("s")), (vec!["r", "s"], vec!["s"], vec![]));
    let applied = log.control(remove("s"));
    assert_eq!(applied.control, Some(ControlOutcome::SubscriptionDeleted));
    assert_eq!(applied.change, changed);
    // Its generations are forgotten with it.
    log.command(put_subscription(subscription("s", 1)));
}

#[test]
fn a_subscription_that_can_never_be_is_refused() {
    let mut log = Log::founded();
    is_invalid(&mut log, Command::PutSubscription(stored::PutSubscription { subscription: None }));
    let many = |count: usize| (0..count).map(|number| format!("{number:04}")).collect();
    let bad: [fn(&mut stored::Subscription); 12] = [
        |one| one.object = None,
        |one| one.name = String::new(),
        |one| one.name = "n".repeat(257),
        |one| one.streams = vec![],
        |one| one.streams = (0..1025).map(|number| format!("{number:04}")).collect(),
        |one| one.streams = vec!["b".into(), "a".into()],
        |one| one.streams = vec!["a".into(), "a".into()],
        |one| one.streams = vec![String::new()],
        |one| one.service_accounts = vec!["y".into(), "x".into()],
        |one| one.start_from = 0,
        |one| one.mode = 0,
        |one| one.mode = 3,
    ];
    for bad in bad {
        let mut subscription = subscription("s", 1);
        bad(&mut subscription);
        is_invalid(&mut log, put_subscription(subscription));
    }
    let largest = stored::Subscription { streams: many(1024), ..subscription(&"n".repeat(256), 1) };
    assert_eq!(log.command(put_subscription(largest)), ControlOutcome::SubscriptionPut);
}

#[test]
fn streams_are_listed_by_name() {
    let mut log = Log::founded();
    let mut names: Vec<String> = (0..700).map(|number| format!("s{number}")).collect();
    names.extend(["a", "ab", "b", "é", "s"].map(String::from));
    for (number, name) in (1..).zip(&names) {
        assert_eq!(log.command(create(name, number * 7919)), ControlOutcome::Created);
    }
    names.sort();
    for prefix in ["", "s", "s1", "s123", "ab", "z", "\n"] {
        for after in [None, Some("a"), Some("s"), Some("s1"), Some("s999"), Some("zz"), Some("b")] {
            let after = after.map(name);
            let listed: Vec<_> = log
                .state
                .streams_by_name(prefix, after.as_ref())
                .map(|stream| stream.name.as_str())
                .collect();
            let expected: Vec<_> = names
                .iter()
                .map(String::as_str)
                .filter(|name| name.starts_with(prefix))
                .filter(|name| after.as_ref().is_none_or(|after| *name > after.as_str()))
                .collect();
            assert_eq!(listed, expected, "{prefix:?} after {after:?}");
        }
    }
    assert_eq!(log.state.stream_count(), names.len());
    assert_eq!(log.state.streams().count(), names.len());
}

#[test]
fn an_image_stays_as_it_was() {
    let mut log = Log::with_orders(2);
    let image = log.state.clone();
    let held = log.state.stream(id(ORDERS)).unwrap().clone();
    log.appended(op(ORDERS, 1));
    log.command(create("second", 12));
    assert_eq!((image.stream_count(), held.next), (1, Offset::new(2)));
    assert_eq!(image.stream(id(ORDERS)).unwrap(), &held);
    assert_ne!(image, log.state);
    log.command(delete(ORDERS));
    assert_eq!(log.not_written(op(ORDERS, 1)), Outcome::Refused(Refused::NoStream));
    assert_eq!(image.stream(id(ORDERS)).unwrap(), &held);
}
