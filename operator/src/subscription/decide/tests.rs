use bytes::Bytes;
use pyramid_crds::Writer;

use super::super::resolve::resolve;
use super::super::resolve::tests::{Listed, stream, subscription};
use super::*;
use crate::kinds::configured::Declared;

const BOUND: &str = "{writerRef: {name: w, namespace: a}}";
const PROGRAMMED: &str = "conditions: [{type: Programmed, status: 'True', reason: Programmed,
    message: '', lastTransitionTime: '2030-01-01T00:00:00Z'}]";

fn founded(name: &str) -> Founded {
    let yaml = format!(
        "metadata: {{name: {name}, namespace: a}}
spec: {{objectStorage: {{bucket: abc}}}}
status: {{clusterID: 00112233445566778899aabbccddeeff, members: [{{name: x, id: '1'}}]}}"
    );
    let writer: Writer = serde_saphyr::from_str(&yaml).unwrap();
    Founded::of(&writer).unwrap()
}

fn programmed(name: &str, spec: &str) -> pyramid_crds::Stream {
    let yaml = format!(
        "metadata: {{name: {name}, namespace: shop}}\nspec: {spec}\nstatus: {{{PROGRAMMED}}}"
    );
    serde_saphyr::from_str(&yaml).unwrap()
}

/// What is there, beside the Subscription.
struct Scene {
    streams: Listed,
    writer: Option<Founded>,
    service: Service,
    former: Vec<Founded>,
    asked: Asked,
    is_in_bootstrap: bool,
}

impl Scene {
    fn new(streams: Vec<pyramid_crds::Stream>, asked: Asked) -> Self {
        Self {
            streams: Listed(streams),
            writer: Some(founded("w")),
            service: Service::Up,
            former: Vec::new(),
            asked,
            is_in_bootstrap: true,
        }
    }

    fn decide(&self, subscription: &Subscription) -> Decision {
        decide(&Observed {
            subscription,
            resolution: &resolve(subscription, &self.streams),
            writer: self.writer.as_ref(),
            service: &self.service,
            former: &self.former,
            trust_domain: "td",
            asked: &self.asked,
            is_in_bootstrap: self.is_in_bootstrap,
        })
    }
}

fn declaration() -> pb::PutSubscription {
    pb::PutSubscription {
        object: Some(pb::ObjectRef { uid: "u".into(), generation: 4 }),
        name: "shop/s".into(),
        streams: vec!["shop/bills".into(), "shop/orders".into()],
        start_from: pb::StartFrom::Latest.into(),
        paused: true,
        mode: pb::DeliveryMode::Exclusive.into(),
        ack_timeout_ms: 5_000,
        service_accounts: vec![
            "spiffe://td/ns/shop/sa/a".into(),
            "spiffe://td/ns/shop/sa/b".into(),
        ],
    }
}

fn full() -> Subscription {
    subscription(
        "{streams: [{name: orders}, {name: bills}], startFrom: {position: Latest}, state: Paused,
          delivery: {mode: Exclusive, ackTimeoutSeconds: 5}, serviceAccounts: [b, a, b]}",
    )
}

fn two() -> Vec<pyramid_crds::Stream> {
    vec![programmed("orders", BOUND), programmed("bills", BOUND)]
}

fn declared() -> Asked {
    let wanted = Wanted::subscription(&declaration());
    let declared = Declared {
        object: wanted.object,
        content_sha256: wanted.content_sha256,
        stream_id: 0,
        info: None,
    };
    Asked::Known(Known { declared: Some(declared), put: None })
}

fn nothing() -> Asked {
    Asked::Known(Known::default())
}

fn said(decision: &Decision) -> Vec<(&'static str, &'static str, &'static str)> {
    decision.verdicts.iter().map(|one| (one.r#type, one.truth.as_str(), one.reason)).collect()
}

#[test]
fn a_subscription_is_asked_for_declared_and_ready() {
    let resolved = ("ResolvedRefs", "True", "ResolvedRefs");
    let asking = Scene::new(two(), Asked::NotYet).decide(&full());
    assert_eq!(asking.step, Step::Ask(founded("w")));
    assert_eq!(
        said(&asking),
        [("Ready", "Unknown", "Pending"), resolved, ("Programmed", "Unknown", "Pending")]
    );
    let absent = Scene::new(two(), nothing()).decide(&full());
    let put = declaration();
    assert_eq!(absent.step, Step::Put { writer: founded("w"), put, is_drift: false });
    let mut scene = Scene::new(two(), declared());
    let done = scene.decide(&full());
    assert_eq!((done.step, done.stream_count), (Step::Rest, 2));
    assert_eq!(
        done.verdicts,
        [
            Verdict::new("Ready", Truth::True, "Ready", "pushers can attach"),
            Verdict::new("ResolvedRefs", Truth::True, "ResolvedRefs", "it has 2 Streams"),
            Verdict::new("Programmed", Truth::True, "Programmed", "Writer a/w knows it"),
        ]
    );
    scene.is_in_bootstrap = false;
    assert_eq!(said(&scene.decide(&full()))[0], ("Ready", "False", "Pending"));
}

#[test]
fn a_writer_that_is_down_makes_its_subscriptions_not_ready_and_leaves_them_programmed() {
    let mut scene = Scene::new(two(), declared());
    let mut ready_with = |service: Service| {
        scene.service = service;
        let mut verdicts = scene.decide(&full()).verdicts;
        assert_eq!(verdicts[2].truth, Truth::True);
        verdicts.swap_remove(0)
    };
    let text = "Writer a/w is away";
    assert_eq!(
        ready_with(Service::Down(text.to_owned())),
        Verdict::new("Ready", Truth::False, "WriterNotReady", text)
    );
    let failing = ready_with(Service::Failing(std::time::Duration::from_secs(1)));
    assert_eq!(failing, Verdict::new("Ready", Truth::True, "Ready", "pushers can attach"));
    let resolved = subscription("{streams: [{name: orders}, {name: none}]}");
    scene.service = Service::Down(text.to_owned());
    assert_eq!(said(&scene.decide(&resolved))[0], ("Ready", "False", "StreamNotFound"));
}

/// Whoever installs an application waits for its Subscription before there is a pusher.
#[test]
fn a_halt_is_in_the_way_of_ready_and_nothing_else_of_delivering_is() {
    let ready_with = |reason: &str| {
        let mut subscription = full();
        let status = format!(
            "conditions: [{{type: Delivering, status: 'False', reason: {reason}, message: look,
                lastTransitionTime: '2030-01-01T00:00:00Z'}}]"
        );
        subscription.status = Some(serde_saphyr::from_str(&status).unwrap());
        Scene::new(two(), declared()).decide(&subscription).verdicts.swap_remove(0)
    };
    for halt in ["StreamReplaced", "EpochChanged", "Trimmed", "AheadOfStream", "Rejected"] {
        assert_eq!(ready_with(halt), Verdict::new("Ready", Truth::False, halt, "look"));
    }
    for other in ["NoConsumers", "ConsumerUnreachable", "Paused", "Pending"] {
        let ready = Verdict::new("Ready", Truth::True, "Ready", "pushers can attach");
        assert_eq!(ready_with(other), ready, "{other}");
    }
}

#[test]
fn absent_service_accounts_are_those_of_the_namespace() {
    let bare = subscription("{streams: [{name: orders}]}");
    let step = Scene::new(two(), nothing()).decide(&bare).step;
    let Step::Put { put, .. } = step else { panic!("{step:?}") };
    let expected = pb::PutSubscription {
        object: Some(pb::ObjectRef { uid: "u".into(), generation: 4 }),
        name: "shop/s".into(),
        streams: vec!["shop/orders".into()],
        start_from: pb::StartFrom::Earliest.into(),
        paused: false,
        mode: pb::DeliveryMode::Broadcast.into(),
        ack_timeout_ms: 30_000,
        service_accounts: vec!["spiffe://td/ns/shop/sa/*".into()],
    };
    assert_eq!(put, expected);
}

#[test]
fn what_is_wrong_with_the_streams_is_told_and_the_good_ones_are_declared() {
    let both = subscription("{streams: [{name: orders}, {name: none}]}");
    let missing = Scene::new(two(), nothing()).decide(&both);
    assert!(matches!(missing.step, Step::Put { .. }));
    assert_eq!(said(&missing)[0], ("Ready", "False", "StreamNotFound"));

    let elsewhere = stream("web", "clicks", BOUND);
    let named = "{streams: [{name: orders}, {name: clicks, namespace: web}]}";
    let streams = [two(), vec![elsewhere]].concat();
    let forbidden = Scene::new(streams, nothing()).decide(&subscription(named));
    let Step::Put { put, .. } = &forbidden.step else { panic!("{forbidden:?}") };
    assert_eq!(put.streams, ["shop/orders"]);
    assert!(said(&forbidden).contains(&("Stalled", "True", "RefNotPermitted")));

    let other = programmed("bills", "{writerRef: {name: v, namespace: a}}");
    let streams = vec![programmed("orders", BOUND), other];
    let several = Scene::new(streams, nothing()).decide(&full());
    assert_eq!(several.step, Step::Rest);
    assert!(said(&several).contains(&("Stalled", "True", "SeveralWriters")));
}

#[test]
fn it_waits_for_streams_that_are_not_ready() {
    let unbound = vec![programmed("orders", BOUND), stream("shop", "bills", "{}")];
    let waiting = Scene::new(unbound, nothing()).decide(&full());
    let Step::Put { put, .. } = &waiting.step else { panic!("{waiting:?}") };
    assert_eq!(put.streams, ["shop/orders"]);
    let new = vec![programmed("orders", BOUND), stream("shop", "bills", BOUND)];
    let waiting = Scene::new(new, declared()).decide(&full());
    assert_eq!(waiting.step, Step::Rest);
    assert_eq!(said(&waiting)[2], ("Programmed", "False", "StreamNotReady"));
    let mut scene = Scene::new(two(), Asked::NotYet);
    scene.writer = None;
    assert_eq!(said(&scene.decide(&full()))[0], ("Ready", "False", "StreamNotReady"));
}

#[test]
fn a_writer_that_has_none_of_its_streams_any_more_forgets_it_first() {
    let mut scene = Scene::new(two(), nothing());
    scene.former = vec![founded("v")];
    assert_eq!(scene.decide(&full()).step, Step::Remove(founded("v")));
    let mut none = Scene::new(Vec::new(), nothing());
    assert_eq!(none.decide(&full()).step, Step::Rest);
    none.former = vec![founded("w")];
    assert_eq!(none.decide(&full()).step, Step::Remove(founded("w")));
    let unreachable = admin::Error::Unreachable { address: "v".into(), message: String::new() };
    scene.asked = Asked::Failed(unreachable);
    let silent = scene.decide(&full());
    assert_eq!(silent.step, Step::Retry);
    assert_eq!(said(&silent)[0], ("Ready", "Unknown", "AdminUnreachable"));
}

#[test]
fn another_content_of_the_same_generation_has_drifted_if_we_put_it() {
    let put = Some(Wanted::subscription(&declaration()));
    let Asked::Known(known) = declared() else { panic!("known") };
    let other =
        known.declared.map(|one| Declared { content_sha256: Bytes::from_static(b"other"), ..one });
    for (put, expected) in [(None, false), (put, true)] {
        let asked = Asked::Known(Known { declared: other.clone(), put });
        let step = Scene::new(two(), asked).decide(&full()).step;
        assert!(matches!(step, Step::Put { is_drift, .. } if is_drift == expected), "{step:?}");
    }
}

#[test]
fn a_subscription_has_at_most_1024_streams() {
    let count = |count: usize| {
        let streams = (0..count).map(|n| programmed(&format!("s{n}"), BOUND)).collect();
        let decision =
            Scene::new(streams, nothing()).decide(&subscription("{selector: {matchLabels: {}}}"));
        (matches!(decision.step, Step::Put { .. }), said(&decision)[1].2)
    };
    assert_eq!(count(1_024), (true, "ResolvedRefs"));
    assert_eq!(count(1_025), (false, "InvalidSpec"));
}
