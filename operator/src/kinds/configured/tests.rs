use super::*;
use crate::kinds::writers::WriterName;

fn writer() -> Founded {
    let name = WriterName { namespace: "a".into(), name: "w".into() };
    Founded { name, cluster_id: [7; 16], ordinal: 0 }
}

fn object(generation: u64) -> pb::ObjectRef {
    pb::ObjectRef { uid: "u".into(), generation }
}

fn declared(generation: u64, closed: bool) -> Declared {
    Declared {
        object: object(generation),
        content_sha256: Bytes::from_static(b"x"),
        stream_id: 5,
        info: Some(pb::StreamInfo { closed, ..pb::StreamInfo::default() }),
    }
}

fn wanted(generation: u64) -> Wanted {
    Wanted { object: object(generation), content_sha256: Bytes::from_static(b"x") }
}

fn listed(name: &str, declared: &Declared) -> pb::ConfiguredObject {
    pb::ConfiguredObject {
        kind: "stream".into(),
        name: name.into(),
        object: Some(declared.object.clone()),
        content_sha256: declared.content_sha256.clone(),
        stream_id: declared.stream_id,
        stream: declared.info.clone(),
    }
}

#[test]
fn what_differs_from_what_was_put_is_told_at_each_listing() {
    let configured = Configured::default();
    let orders = Name::stream("shop", "orders");
    configured.put(&writer(), &orders, wanted(2), declared(2, false));
    let list = |objects: Vec<pb::ConfiguredObject>| {
        configured.replace(&writer(), objects, configured.moment(&writer()))
    };
    let none: [Name; 0] = [];
    assert_eq!(list(vec![listed("shop/orders", &declared(2, false))]), none);
    let other = Declared { content_sha256: Bytes::from_static(b"y"), ..declared(2, false) };
    for drift in [declared(1, false), declared(2, true), other] {
        assert_eq!(
            list(vec![listed("shop/orders", &drift)]),
            std::slice::from_ref(&orders),
            "{drift:?}"
        );
    }
    assert_eq!(list(Vec::new()), std::slice::from_ref(&orders));
    assert_eq!(list(Vec::new()), [orders]);
}

#[test]
fn a_change_during_a_listing_is_newer_than_the_listing() {
    let configured = Configured::default();
    let [orders, bills] = ["orders", "bills"].map(|name| Name::stream("shop", name));
    let begun = configured.moment(&writer());
    configured.put(&writer(), &orders, wanted(2), declared(2, false));
    let old = [("shop/orders", 1), ("shop/bills", 1), ("no-object", 1)];
    let old = old.map(|(name, generation)| listed(name, &declared(generation, false)));
    let none: [Name; 0] = [];
    assert_eq!(configured.replace(&writer(), old.to_vec(), begun), none);
    let expected = [(bills.clone(), declared(1, false)), (orders, declared(2, false))];
    assert_eq!(configured.all(&writer()), expected.into());
    assert_eq!(configured.holders(&[writer()], &bills), [&writer()]);
    configured.removed(&writer(), &bills);
    assert_eq!(configured.holders(&[writer()], &bills), [] as [&Founded; 0]);
}

#[test]
fn who_found_records_of_an_earlier_stream_is_remembered_by_its_uid() {
    let configured = Configured::default();
    let orders = Name::stream("shop", "orders");
    configured.put(&writer(), &orders, wanted(1), declared(1, false));
    assert!(!configured.is_reattached(&orders, Some("mine")));
    configured.reattached(&writer(), &orders, "mine".to_owned());
    // Neither a listing nor a later declaration changes what was found.
    let begun = configured.moment(&writer());
    configured.replace(&writer(), vec![listed("shop/orders", &declared(1, false))], begun);
    configured.put(&writer(), &orders, wanted(2), declared(2, false));
    assert!(configured.is_reattached(&orders, Some("mine")));
    assert!(!configured.is_reattached(&orders, Some("other")));
    assert!(!configured.is_reattached(&orders, None));
}

#[test]
fn a_writer_that_was_made_anew_holds_nothing() {
    let configured = Configured::default();
    let orders = Name::stream("shop", "orders");
    configured.put(&writer(), &orders, wanted(1), declared(1, false));
    let anew = Founded { cluster_id: [8; 16], ..writer() };
    assert_eq!(configured.all(&anew), BTreeMap::new());
    let other_leader = Founded { ordinal: 2, ..writer() };
    assert_eq!(configured.all(&other_leader).len(), 1);
    configured.retain(&[anew]);
    assert_eq!(configured.all(&writer()), BTreeMap::new());
}
