use pyramid_protocol::pb::stored::v1 as stored;
use stored::command::Command;

use super::fixture::*;
use crate::entry::{Entry, LogId};
use crate::state::State;

/// A state with something in every part.
fn full() -> Log {
    let mut log = Log::with_orders(1);
    log.appended(op(ORDERS, 1));
    log.appended(op(ORDERS, 1));
    log.command(key_stored(ORDERS, 3));
    let intent = log.next_id().index;
    log.command(seal(ORDERS, 0, 1));
    log.command(Command::ChunkCommitted(commit(intent, 0, 1, (0, 1))));
    log.command(seal(ORDERS, 1, 2));
    log.producer("p", 70);
    log.producer("q", 71);
    log.appended(from_producer(op(ORDERS, 2), 70, 1, 0));
    log.appended(from_producer(op(ORDERS, 1), 70, 1, 2));
    for number in 100..110 {
        log.command(create(&format!("s{number}"), number));
    }
    log.command(delete(105));
    log.command(delete(101));
    for name in ["t", "s"] {
        let subscription = stored::Subscription {
            object: object(1),
            name: name.into(),
            streams: vec!["a".into()],
            start_from: 1,
            mode: 1,
            ..stored::Subscription::default()
        };
        let put = stored::PutSubscription { subscription: Some(subscription) };
        log.command(Command::PutSubscription(put));
    }
    for nodes in [&[1, 2][..], &[2], &[]] {
        log.apply(&Entry::Membership(stored::Membership {
            configurations: vec![stored::Voters { node_ids: vec![2] }],
            nodes: nodes.iter().map(|id| stored::Node { id: *id, ..Default::default() }).collect(),
        }));
    }
    log
}

#[test]
fn an_image_is_restored_as_it_was() {
    for state in [State::default(), full().state] {
        let image = state.encode();
        let restored = State::decode(&image).unwrap();
        assert_eq!(restored, state);
        assert_eq!(restored.encode(), image);
        assert_eq!(restored.hash(), state.hash());
    }
    assert_ne!(State::default().hash(), full().state.hash());
}

#[test]
fn a_log_id_that_is_not_there_has_an_index_of_all_ones() {
    let image = State::default().to_image();
    assert_eq!((image.applied_index, image.membership_index), (u64::MAX, u64::MAX));
    let mut state = State::default();
    state.apply(LogId { term: 0, index: 0 }, &Entry::Membership(stored::Membership::default()));
    let image = state.to_image();
    assert_eq!((image.applied_index, image.membership_index), (0, 0));
    assert_eq!(State::from_image(image).unwrap(), state);
}

#[test]
fn equal_states_are_equal_bytes_whatever_the_way() {
    let mut there = Log::founded();
    let mut back = Log::founded();
    for number in 1..=300 {
        there.command(create(&format!("s{number}"), number));
        back.command(create(&format!("s{}", 301 - number), 301 - number));
    }
    assert_eq!(there.state, back.state);
    assert_eq!(there.state.encode(), back.state.encode());
}

#[test]
fn an_image_of_a_newer_program_is_refused() {
    let mut bytes = full().state.encode().to_vec();
    // Field 31 of State, which is not there (yet).
    bytes.extend([0xf8, 0x01, 0x01]);
    assert!(State::decode(&bytes.into()).is_err());
    let mut image = full().state.to_image();
    image.feature_level = 2;
    assert!(State::from_image(image).is_err());
}

#[test]
fn an_image_that_breaks_a_rule_is_refused() {
    let full = full().state.to_image();
    State::from_image(full.clone()).unwrap();
    let breaks: &[fn(&mut stored::State)] = &[
        |image| image.cluster_id = vec![1; 15].into(),
        |image| image.feature_level = 0,
        |image| image.leaderless_ms = image.time_ms + 1,
        |image| image.membership = None,
        |image| image.membership_index = u64::MAX,
        |image| image.streams.swap(0, 1),
        |image| image.streams[1].name = image.streams[0].name.clone(),
        |image| image.streams[0].name = String::new(),
        |image| image.streams[0].id = 0,
        |image| image.streams[0].object = None,
        |image| image.streams[0].wrapped_key = None,
        |image| image.streams[0].wrapped_key = wrapped_key(39),
        |image| image.streams[0].first_offset = image.streams[0].next_offset + 1,
        |image| image.streams[1].shipped_offset = 1,
        |image| image.streams[0].shipped_offset = 2,
        |image| image.streams[0].last_digest = vec![0; 31].into(),
        |image| image.streams[0].chunks[0].next_offset = 2,
        |image| image.streams[0].chunks[0].base_offset = 1,
        |image| image.streams[0].open_seals[0].base_offset = 2,
        |image| image.streams[0].open_seals[0].next_offset = 1,
        |image| image.streams[0].open_seals[0].next_offset = 100,
        |image| image.streams[0].producers.swap(0, 1),
        |image| image.streams[0].producers[0].id = 0,
        |image| image.streams[0].producers[1].name = "p".into(),
        |image| image.streams[0].producers[0].next_sequence = 4,
        |image| image.streams[0].producers[1].next_sequence = 1,
        |image| image.streams[0].producers[0].batches[1].first_sequence = 3,
        |image| image.streams[0].safe_offsets = vec![stored::SafeOffset { epoch: 1, offset: 0 }],
        |image| image.used_stream_ids.swap(0, 1),
        |image| image.used_stream_ids[0] = ORDERS,
        |image| image.used_stream_ids[0] = 0,
        |image| image.deleting_streams.swap(0, 1),
        |image| image.deleting_streams[0].stream_id = 0,
        |image| image.deleting_streams[0].stream_id = ORDERS,
        |image| image.deleting_streams[0].stream_id = 99,
        |image| image.subscriptions.swap(0, 1),
        |image| image.subscriptions[0].mode = 9,
        |image| image.removed_node_ids.swap(0, 1),
    ];
    for (number, breaks) in breaks.iter().enumerate() {
        let mut image = full.clone();
        breaks(&mut image);
        assert!(State::from_image(image).is_err(), "break {number} was not noticed");
    }
    let mut image = full;
    image.epoch = 1;
    image.streams[0].safe_offsets = vec![stored::SafeOffset { epoch: 1, offset: 0 }];
    State::from_image(image).unwrap();
}
