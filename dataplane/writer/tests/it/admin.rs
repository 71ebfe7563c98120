//! The Admin service.

use pyramid_protocol::OperatorTerm;
use pyramid_protocol::pb::v1::put_stream_result::Result as PutResult;
use pyramid_protocol::pb::v1::{self as pb, DataState, Effect, Reason, Refusal};

use tonic::Request;

use crate::writer::{CLUSTER, Folder, Writer, append, offsets, refusal, subscription};

fn put(name: &str, uid: &str, generation: u64) -> pb::PutStream {
    let object = Some(pb::ObjectRef { uid: uid.to_owned(), generation });
    pb::PutStream { object, name: name.to_owned(), ..Default::default() }
}

async fn put_streams(
    writer: &mut Writer,
    streams: Vec<pb::PutStream>,
) -> Vec<Result<(u64, bool), Refusal>> {
    let request = pb::PutStreamsRequest { cluster_id: CLUSTER.to_vec().into(), streams };
    let response = writer.admin.put_streams(request).await.unwrap().into_inner();
    let results = response.results.into_iter().map(|result| match result.result.unwrap() {
        PutResult::Stream(info) => Ok((info.stream_id, result.created)),
        PutResult::Refused(refusal) => Err(refusal),
    });
    results.collect()
}

async fn info(writer: &mut Writer) -> pb::GetInfoResponse {
    writer.admin.get_info(pb::GetInfoRequest {}).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_replica_waits_and_is_founded_once() {
    let folder = Folder::new();
    let mut writer = folder.start(&[]).await;
    let empty = info(&mut writer).await;
    assert_eq!((empty.data_state(), empty.node_id, empty.leader), (DataState::Empty, 0, false));
    let early = writer.calls.get_stream(pb::GetStreamRequest::default()).await.unwrap_err();
    assert_eq!(
        (refusal(early).reason(), writer.session_refusal().await),
        (Reason::Unavailable, Reason::Unavailable)
    );
    let early = writer.admin.list_config(pb::ListConfigRequest::default()).await.unwrap_err();
    assert_eq!(refusal(early).reason(), Reason::Unavailable);
    let short = pb::BootstrapRequest { cluster_id: vec![7; 15].into() };
    let wrong = refusal(writer.admin.bootstrap(short).await.unwrap_err());
    assert_eq!(wrong.reason(), Reason::Invalid);

    assert_eq!(writer.bootstrap(CLUSTER).await, Ok(1));
    assert_eq!(writer.bootstrap(CLUSTER).await, Ok(1));
    let foreign = writer.bootstrap([8; 16]).await.unwrap_err();
    assert_eq!(
        (foreign.reason(), foreign.effect(), foreign.retry),
        (Reason::Foreign, Effect::NoEffect, false)
    );
    let member = info(&mut writer).await;
    assert_eq!((member.data_state(), member.node_id, member.leader), (DataState::Member, 1, true));
    assert_eq!(member.cluster_id, CLUSTER.to_vec());
    assert!(member.wal_bytes > 0 && member.wal_bytes_max > member.wal_bytes, "{member:?}");
    assert!(member.applied_index > 0 && member.committed_index > 0, "{member:?}");

    let request = pb::PutStreamsRequest { cluster_id: vec![8; 16].into(), streams: vec![] };
    let foreign = refusal(writer.admin.put_streams(request).await.unwrap_err());
    assert_eq!(foreign.reason(), Reason::Foreign);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_starts_is_never_called_empty() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    writer.stop().await;
    let mut config = folder.config(&[]);
    // Long enough that the first answers come before the election.
    config.timing.election_min = std::time::Duration::from_millis(400);
    config.timing.election_max = std::time::Duration::from_millis(500);
    let mut starting = folder.begin_start(config).await;
    let mut looks = 0;
    loop {
        let info = info(&mut starting).await;
        assert_eq!((info.data_state(), info.node_id), (DataState::Member, 1));
        assert_eq!(info.cluster_id, CLUSTER.to_vec());
        if info.leader {
            break;
        }
        let refused = starting.session_refusal().await;
        assert!(matches!(refused, Reason::Unavailable | Reason::Unspecified), "{refused:?}");
        looks += 1;
    }
    assert!(looks > 0, "too quiet: it served before the first look");
    starting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_declared_again_and_never_by_an_older_object() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let streams = vec![put("a", "u", 5), put("b", "v", 1), put("", "w", 1), put("c", "", 1)];
    let results = put_streams(&mut writer, streams).await;
    let (id, created) = *results[0].as_ref().unwrap();
    assert!(created && results[1].as_ref().unwrap().1);
    for wrong in &results[2..] {
        assert_eq!(wrong.as_ref().unwrap_err().reason(), Reason::Invalid);
    }
    let again = put_streams(&mut writer, vec![put("a", "u", 5), put("a", "u", 6)]).await;
    assert_eq!(again, [Ok((id, false)), Ok((id, false))]);
    let older = put_streams(&mut writer, vec![put("a", "u", 5)]).await.remove(0).unwrap_err();
    assert_eq!((older.reason(), older.effect()), (Reason::AlreadyExists, Effect::NoEffect));
    let other = put_streams(&mut writer, vec![put("a", "another object", 1)]).await;
    assert_eq!(other, [Ok((id, false))]);

    let settings = |chunk_bytes| Some(pb::StreamSettings { chunk_bytes, chunk_age_ms: 0 });
    let largest = pb::PutStream { settings: settings(64 << 20), ..put("d", "d", 1) };
    let larger = pb::PutStream { settings: settings((64 << 20) + 1), ..put("e", "e", 1) };
    let results = put_streams(&mut writer, vec![largest, larger]).await;
    assert!(results[0].is_ok());
    assert_eq!(results[1].as_ref().unwrap_err().reason(), Reason::Invalid);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_frees_its_name_and_never_its_id() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let old = writer.put_stream("a").await.stream_id;
    writer.append("a", &["x"]).await;
    let cluster_id = bytes::Bytes::from(CLUSTER.to_vec());
    let delete = |stream_id| pb::DeleteStreamRequest {
        cluster_id: cluster_id.clone(),
        name: "a".into(),
        stream_id,
    };
    let other = writer.put_stream("b").await.stream_id;
    let wrong = refusal(writer.admin.delete_stream(delete(other)).await.unwrap_err());
    assert_eq!(wrong.reason(), Reason::StreamRecreated, "the id of a stream of another name");
    let wrong = refusal(writer.admin.delete_stream(delete(0)).await.unwrap_err());
    assert_eq!(wrong.reason(), Reason::Invalid);
    let admin = writer.admin.clone();
    let left = async |stream_id| {
        let deleted = admin.clone().delete_stream(delete(stream_id)).await;
        deleted.map(|deleted| deleted.into_inner().objects_left).map_err(refusal)
    };
    let unused = (1..).find(|id| ![old, other].contains(id)).unwrap();
    assert_eq!(left(unused).await, Ok(0), "no such stream ever was");
    assert_eq!(left(old).await, Ok(0), "none of its records was shipped");
    assert_eq!(left(old).await, Ok(0));
    let anew = writer.put_stream("a").await;
    assert_eq!(left(old).await, Ok(0), "the name is of another stream by now, which stays");
    assert_ne!(anew.stream_id, old);
    assert_eq!((anew.first_offset, anew.next_offset), (0, 0));
    assert_eq!(offsets(writer.session().await.append(append("a", &["y"])).await), (0, 1));
    writer.set_closed("a", true).await;
    assert!(writer.info("a").await.closed);
    writer.set_closed("a", true).await;
    writer.set_closed("a", false).await;
    assert!(!writer.info("a").await.closed);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_is_read_changed_and_put_back_unless_somebody_was_faster() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let object = |uid: &str, generation| pb::ObjectRef { uid: uid.to_owned(), generation };
    let rights = |reader: &str| pb::StreamRights {
        readers: vec![reader.to_owned()],
        ..pb::StreamRights::default()
    };
    let settings = Some(pb::StreamSettings { chunk_bytes: 7, chunk_age_ms: 8 });
    let new = pb::PutStream {
        settings,
        rights: Some(rights("spiffe://td/a")),
        expected: Some(object("", 0)),
        ..put("a", "u", 1)
    };
    let id = put_streams(&mut writer, vec![new.clone()]).await.remove(0).unwrap().0;
    let reason = |refused: Result<_, Refusal>| refused.unwrap_err().reason();
    let again = put_streams(&mut writer, vec![new.clone()]).await.remove(0);
    assert_eq!(reason(again), Reason::AlreadyExists);

    let get = |name: &str| pb::GetStreamConfigRequest { name: name.to_owned() };
    let read = writer.admin.get_stream_config(get("a")).await.unwrap().into_inner();
    let stream = read.stream.unwrap();
    assert_eq!((stream.stream_id, stream.settings), (id, settings));
    assert_eq!((read.object, read.rights), (Some(object("u", 1)), new.rights.clone()));
    let missing = refusal(writer.admin.get_stream_config(get("b")).await.unwrap_err());
    assert_eq!(missing.reason(), Reason::NotFound);

    let changed = |expected: pb::ObjectRef| pb::PutStream {
        rights: Some(rights("spiffe://td/b")),
        expected: Some(expected),
        ..put("a", "u", 2)
    };
    let put_changed = vec![changed(object("u", 1)), changed(object("u", 1))];
    let mut results = put_streams(&mut writer, put_changed).await;
    assert_eq!(reason(results.pop().unwrap()), Reason::AlreadyExists);
    assert_eq!(results, [Ok((id, false))]);
    let read = writer.admin.get_stream_config(get("a")).await.unwrap().into_inner();
    assert_eq!(read.rights, Some(rights("spiffe://td/b")));
    let gone = pb::PutStream { name: "b".to_owned(), ..changed(object("u", 1)) };
    let gone = put_streams(&mut writer, vec![gone]).await.remove(0);
    assert_eq!(reason(gone), Reason::NotFound);
    writer.stop().await;
}

async fn config_page(writer: &mut Writer, after: &str, limit: u32) -> pb::ListConfigResponse {
    let request = pb::ListConfigRequest { after: after.to_owned(), limit };
    writer.admin.list_config(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_comes_in_pages_with_a_hash_of_what_was_declared() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    for name in ["b", "a/x", "c"] {
        writer.put_stream(name).await;
    }
    writer.append("b", &["x", "y"]).await;
    for name in ["t", "s"] {
        writer.put_subscription(subscription(name, 3, &["a/x"])).await.unwrap();
    }
    let all = config_page(&mut writer, "", 0).await;
    assert_eq!(all.next, "");
    let found: Vec<_> =
        all.objects.iter().map(|object| (object.kind.as_str(), object.name.as_str())).collect();
    let expected = [
        ("stream", "a/x"),
        ("stream", "b"),
        ("stream", "c"),
        ("subscription", "s"),
        ("subscription", "t"),
    ];
    assert_eq!(found, expected);
    for object in &all.objects {
        let expected = match object.kind.as_str() {
            "stream" => Some(pb::StreamInfo { settings: None, ..writer.info(&object.name).await }),
            _ => None,
        };
        assert_eq!(object.stream, expected, "{}", object.name);
    }
    let of_t = pb::ObjectRef { uid: "uid of t".into(), generation: 3 };
    assert_eq!(all.objects[4].object, Some(of_t));
    for limit in 1..=6 {
        let (mut after, mut objects) = (String::new(), Vec::new());
        loop {
            let page = config_page(&mut writer, &after, limit).await;
            assert!(page.objects.len() <= limit as usize);
            objects.extend(page.objects);
            if page.next.is_empty() {
                break;
            }
            after = page.next;
        }
        assert_eq!(objects, all.objects, "pages of {limit}");
    }
    for odd in ["a", "other/a", "stream/"] {
        let request = pb::ListConfigRequest { after: odd.to_owned(), limit: 0 };
        let refused = refusal(writer.admin.list_config(request).await.unwrap_err());
        assert_eq!(refused.reason(), Reason::Invalid, "{odd}");
    }

    let settings = pb::StreamSettings { chunk_bytes: 5, chunk_age_ms: 0 };
    writer.put_stream_with("b", settings).await;
    let paused = pb::PutSubscription { paused: true, ..subscription("s", 3, &["a/x"]) };
    writer.put_subscription(paused).await.unwrap();
    let changed = config_page(&mut writer, "", 0).await;
    let same: Vec<_> = all
        .objects
        .iter()
        .zip(&changed.objects)
        .map(|(before, after)| before.content_sha256 == after.content_sha256)
        .collect();
    assert_eq!(same, [true, false, true, false, true]);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_cannot_be_served_is_refused() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let many: Vec<String> = (0..1025).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let wrong = [
        subscription("", 1, &["a"]),
        subscription(&"s".repeat(257), 1, &["a"]),
        subscription("s", 1, &[]),
        subscription("s", 1, &[""]),
        subscription("s", 1, &many),
        pb::PutSubscription { object: None, ..subscription("s", 1, &["a"]) },
    ];
    for wrong in wrong {
        assert_eq!(writer.put_subscription(wrong).await.unwrap_err().reason(), Reason::Invalid);
    }
    assert_eq!(writer.put_subscription(subscription("s", 2, &many[1..])).await, Ok(()));
    let older = writer.put_subscription(subscription("s", 1, &["a"])).await.unwrap_err();
    assert_eq!(older.reason(), Reason::AlreadyExists);
    assert_eq!(writer.put_subscription(subscription("s", 2, &["b"])).await, Ok(()));
    writer.stop().await;
}

/// A stream that is kept when its object goes is the next object's of its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_stream_is_taken_over_by_another_object_and_opened() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let id = put_streams(&mut writer, vec![put("a", "old", 7)]).await.remove(0).unwrap().0;
    writer.append("a", &["x"]).await;
    writer.set_closed("a", true).await;
    let late = put_streams(&mut writer, vec![put("a", "old", 8)]).await;
    assert_eq!(late, [Ok((id, false))]);
    assert!(writer.info("a").await.closed, "the object that is gone comes late");

    let new = vec![put("a", "new", 1)];
    assert_eq!(put_streams(&mut writer, new.clone()).await, [Ok((id, false))]);
    let info = writer.info("a").await;
    assert_eq!((info.closed, info.stream_id, info.next_offset), (false, id, 1));
    assert_eq!(offsets(writer.session().await.append(append("a", &["y"])).await), (1, 2));
    // Generations are those of one uid.
    assert_eq!(put_streams(&mut writer, vec![put("a", "new", 2)]).await, [Ok((id, false))]);
    let older = put_streams(&mut writer, new).await.remove(0).unwrap_err();
    assert_eq!(older.reason(), Reason::AlreadyExists);

    // Who has read it first changes what it has read, and opens nothing.
    writer.set_closed("a", true).await;
    let expected = Some(pb::ObjectRef { uid: "new".into(), generation: 2 });
    let changed = pb::PutStream { expected, ..put("a", "third", 1) };
    assert_eq!(put_streams(&mut writer, vec![changed]).await, [Ok((id, false))]);
    assert!(writer.info("a").await.closed);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_does_not_lead_any_more_changes_nothing() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let call = async |writer: &mut Writer, term: u64, name: &str| {
        let streams = vec![put(name, name, 1)];
        let cluster_id = CLUSTER.to_vec().into();
        let mut request = Request::new(pb::PutStreamsRequest { cluster_id, streams });
        OperatorTerm::new(term).put(request.metadata_mut());
        let put = writer.admin.put_streams(request).await;
        put.map(drop).map_err(|status| refusal(status).reason())
    };
    assert_eq!(call(&mut writer, 7, "a").await, Ok(()));
    assert_eq!(call(&mut writer, 8, "b").await, Ok(()));
    assert_eq!(call(&mut writer, 7, "c").await, Err(Reason::Fenced));
    assert_eq!(call(&mut writer, 8, "d").await, Ok(()));
    let page = config_page(&mut writer, "", 0).await;
    let names: Vec<_> = page.objects.iter().map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "d"]);
    writer.stop().await;
}
