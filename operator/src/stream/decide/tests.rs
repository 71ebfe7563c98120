use std::time::Duration;

use bytes::Bytes;
use pyramid_crds::condition::Truth;
use serde_json::json;

use super::*;

const WRITER: &str = "
metadata: {name: w, namespace: pyramid-system}
spec: {objectStorage: {bucket: abc}, allowedStreams: {from: All}}
status:
  clusterID: 00112233445566778899aabbccddeeff
  leader: w-writer-0
  members: [{name: w-writer-0, id: '1'}]";

const BOUND: &str = "writerRef: {name: w, namespace: pyramid-system}";

fn stream(metadata: &str, spec: &str, status: &str) -> Stream {
    let yaml = format!(
        "metadata: {{name: orders, namespace: shop, uid: mine, generation: 2 {metadata}}}
spec: {{{spec}}}
status: {{{status}}}"
    );
    serde_saphyr::from_str(&yaml).unwrap()
}

fn writer(yaml: &str) -> Arc<Writer> {
    Arc::new(serde_saphyr::from_str(yaml).unwrap())
}

/// What is there, beside the Stream.
struct Scene {
    writers: Vec<Arc<Writer>>,
    service: Service,
    settings: DefaultWriter,
    asked: Asked,
    objects_left: Option<u64>,
    is_reattached: bool,
    is_in_bootstrap: bool,
    is_terminating: bool,
}

impl Scene {
    fn new(asked: Asked) -> Self {
        Self {
            writers: vec![writer(WRITER)],
            service: Service::Up,
            settings: DefaultWriter::default(),
            asked,
            objects_left: None,
            is_reattached: false,
            is_in_bootstrap: true,
            is_terminating: false,
        }
    }

    fn decide(&self, stream: &Stream) -> Decision {
        decide(&Observed {
            stream,
            is_terminating: self.is_terminating,
            writers: &self.writers,
            service: &self.service,
            operators: "pyramid-system",
            default_writer: &self.settings,
            trust_domain: "td",
            asked: &self.asked,
            objects_left: self.objects_left,
            is_reattached: self.is_reattached,
            is_in_bootstrap: self.is_in_bootstrap,
        })
    }
}

fn founded() -> Founded {
    Founded::of(&writer(WRITER)).unwrap()
}

fn declaration() -> pb::PutStream {
    let own = || vec!["spiffe://td/ns/shop/sa/*".to_owned()];
    pb::PutStream {
        object: Some(pb::ObjectRef { uid: "mine".into(), generation: 2 }),
        name: "shop/orders".into(),
        settings: Some(pb::StreamSettings::default()),
        rights: Some(pb::StreamRights { appenders: own(), readers: own(), managers: Vec::new() }),
        expected: None,
    }
}

fn declared(uid: &str, generation: u64, closed: bool) -> Asked {
    let wanted = Wanted::stream(&declaration());
    let declared = Declared {
        object: pb::ObjectRef { uid: uid.into(), generation },
        content_sha256: wanted.content_sha256,
        stream_id: 7,
        info: Some(pb::StreamInfo { closed, ..pb::StreamInfo::default() }),
    };
    Asked::Known(Known { declared: Some(declared), put: None })
}

fn nothing() -> Asked {
    Asked::Known(Known::default())
}

fn unreachable() -> Asked {
    Asked::Failed(admin::Error::Unreachable { address: "w:1".into(), message: "gone".into() })
}

/// Type, status and reason of each condition.
fn said(decision: &Decision) -> Vec<(&'static str, &'static str, &'static str)> {
    decision.verdicts.iter().map(|one| (one.r#type, one.truth.as_str(), one.reason)).collect()
}

#[test]
fn a_bare_stream_is_bound_asked_for_declared_and_ready() {
    let mut scene = Scene::new(Asked::NotYet);
    let default = WRITER.replace(
        "pyramid-system}\nspec",
        "pyramid-system, annotations: {pyramid.dev/is-default-writer: 'true'}}\nspec",
    );
    scene.writers = vec![writer(&default)];
    let name = WriterName { namespace: "pyramid-system".into(), name: "w".into() };
    let bare = scene.decide(&stream("", "", ""));
    assert_eq!(bare.step, Step::Bind { writer: name, ignored: Vec::new() });
    let unknown = |one| (one, "Unknown", "Pending");
    assert_eq!(said(&bare), [unknown("Ready"), unknown("Accepted"), unknown("Programmed")]);

    let bound = stream("", BOUND, "");
    let accepted = ("Accepted", "True", "Accepted");
    let asking = scene.decide(&bound);
    assert_eq!(asking.step, Step::Ask(founded()));
    assert_eq!(said(&asking), [unknown("Ready"), accepted, unknown("Programmed")]);

    let absent = Scene::new(nothing()).decide(&bound);
    let put = declaration();
    assert_eq!(absent.step, Step::Put { writer: founded(), put, is_drift: false });

    let done = Scene::new(declared("mine", 2, false)).decide(&bound);
    let text = "it is stream 7 of Writer pyramid-system/w";
    let expected = Decision {
        step: Step::Rest,
        stream_id: Some(7),
        verdicts: vec![
            Verdict::new("Ready", Truth::True, "Ready", "it takes appends"),
            Verdict::new("Accepted", Truth::True, "Accepted", "Writer pyramid-system/w keeps it"),
            Verdict::new("Programmed", Truth::True, "Programmed", text),
        ],
    };
    assert_eq!(done, expected);
}

#[test]
fn it_is_ready_only_after_its_namespace_was_told() {
    let mut scene = Scene::new(declared("mine", 2, false));
    scene.is_in_bootstrap = false;
    let decision = scene.decide(&stream("", BOUND, ""));
    assert_eq!(
        said(&decision),
        [
            ("Ready", "False", "Pending"),
            ("Accepted", "True", "Accepted"),
            ("Programmed", "True", "Programmed")
        ]
    );
}

#[test]
fn a_writer_that_is_down_makes_its_streams_not_ready_and_leaves_them_programmed() {
    let bound = stream("", BOUND, "");
    let ready_of = |service: Service, asked: Asked| {
        let mut scene = Scene::new(asked);
        scene.service = service;
        let decision = scene.decide(&bound);
        let said: Vec<_> = decision.verdicts.iter().map(|one| (one.truth, one.reason)).collect();
        (decision.verdicts[0].message.clone(), said)
    };
    let down = || Service::Down("Writer a/w is away".to_owned());
    let accepted = (Truth::True, "Accepted");
    let programmed = (Truth::True, "Programmed");
    let not_ready = (Truth::False, "WriterNotReady");
    let declared = || declared("mine", 2, false);
    assert_eq!(
        ready_of(down(), declared()),
        ("Writer a/w is away".to_owned(), vec![not_ready, accepted, programmed])
    );
    let restarting = ready_of(Service::Failing(Duration::from_secs(1)), declared());
    assert_eq!(restarting.1, [(Truth::True, "Ready"), accepted, programmed]);
    let silent = (Truth::Unknown, "AdminUnreachable");
    assert_eq!(ready_of(down(), unreachable()).1, [not_ready, accepted, silent]);
    let refused = Asked::Failed(admin::Error::Invalid { message: "no".into() });
    assert_eq!(ready_of(down(), refused).1[0], (Truth::False, "RejectedByWriter"));
}

#[test]
fn what_is_declared_otherwise_is_declared_again_and_what_we_put_has_drifted() {
    let bound = stream("", BOUND, "");
    for asked in [declared("mine", 1, false), declared("other", 2, false), nothing()] {
        let step = Scene::new(asked.clone()).decide(&bound).step;
        assert!(matches!(step, Step::Put { is_drift: false, .. }), "{step:?}");
        let Asked::Known(known) = asked else { panic!("known") };
        let put = Some(Wanted::stream(&declaration()));
        let step = Scene::new(Asked::Known(Known { put, ..known })).decide(&bound).step;
        assert!(matches!(step, Step::Put { is_drift: true, .. }), "{step:?}");
    }
}

#[test]
fn a_stream_that_comes_back_is_opened_and_says_so_from_then_on() {
    let bound = stream("", BOUND, "");
    let closed = Scene::new(declared("mine", 2, true)).decide(&bound);
    assert_eq!(closed.step, Step::Open { writer: founded(), stream_id: 7 });
    let mut scene = Scene::new(declared("mine", 2, false));
    scene.is_reattached = true;
    assert_eq!(said(&scene.decide(&bound))[2], ("Programmed", "True", "Reattached"));
    let later = stream(
        "",
        BOUND,
        "conditions: [{type: Programmed, status: 'True', reason: Reattached, message: '',
            lastTransitionTime: '2030-01-01T00:00:00Z'}]",
    );
    let scene = Scene::new(declared("mine", 2, false));
    assert_eq!(said(&scene.decide(&later))[2], ("Programmed", "True", "Reattached"));
    assert_eq!(said(&scene.decide(&bound))[2], ("Programmed", "True", "Programmed"));
}

#[test]
fn a_writer_that_is_absent_elsewhere_or_not_founded_is_told_apart() {
    let bound = stream("", BOUND, "");
    let with = |writers: Vec<Arc<Writer>>| {
        let mut scene = Scene::new(Asked::NotYet);
        scene.writers = writers;
        let decision = scene.decide(&bound);
        let all = said(&decision);
        let failing = all.iter().find(|(one, ..)| *one != "Ready" && !all[0].2.is_empty()).copied();
        assert_eq!((all[0].1, all[0].2), {
            let failing = all[1..].iter().find(|(_, status, _)| *status != "True").unwrap();
            (failing.1, failing.2)
        });
        assert!(failing.is_some());
        let stalled = all.iter().any(|(one, ..)| *one == "Stalled");
        (all[0].2, stalled, decision.step)
    };
    assert_eq!(with(Vec::new()), ("WriterNotFound", false, Step::Rest));
    let closed = WRITER.replace("from: All", "from: Same");
    assert_eq!(with(vec![writer(&closed)]), ("NotAllowedByWriter", true, Step::Rest));
    let empty = WRITER.replace("[{name: w-writer-0, id: '1'}]", "[]");
    assert_eq!(with(vec![writer(&empty)]), ("WriterNotReady", false, Step::Rest));
    let going = WRITER.replace(
        "pyramid-system}\nspec",
        "pyramid-system, deletionTimestamp: '2030-01-01T00:00:00Z'}\nspec",
    );
    assert_eq!(with(vec![writer(&going)]), ("WriterNotReady", false, Step::Rest));
    let pending = with(vec![writer(WRITER)]);
    assert_eq!(pending, ("Pending", false, Step::Ask(founded())));
}

#[test]
fn a_default_writer_that_is_gone_is_told_how_to_be_made_again() {
    let text = |writer: &str, create: bool| {
        let mut scene = Scene::new(Asked::NotYet);
        scene.writers = Vec::new();
        let spec = Some(json!({"objectStorage": {"bucket": "acme"}}));
        scene.settings = DefaultWriter { create, spec };
        let bound = stream("", &format!("writerRef: {{{writer}}}"), "");
        let decision = scene.decide(&bound);
        assert_eq!(said(&decision)[0], ("Ready", "False", "WriterNotFound"));
        assert_eq!(decision.step, Step::Rest);
        decision.verdicts[0].message.clone()
    };
    let default = "name: default, namespace: pyramid-system";
    assert_eq!(
        text(default, true),
        "there is no Writer pyramid-system/default; create it, or a Stream without spec.writerRef in \
         namespace shop, for which the operator makes it"
    );
    let create = "there is no Writer pyramid-system/default; create it";
    assert_eq!(text(default, false), create);
    let other = "there is no Writer pyramid-system/other; create it";
    assert_eq!(text("name: other, namespace: pyramid-system", true), other);
    assert_eq!(text("name: default", true), "there is no Writer shop/default; create it");
}

#[test]
fn a_writer_that_refuses_stalls_and_one_that_is_silent_is_unknown() {
    let bound = stream("", BOUND, "");
    let silent = Scene::new(unreachable()).decide(&bound);
    assert_eq!(silent.step, Step::Retry);
    assert_eq!(
        said(&silent),
        [
            ("Ready", "Unknown", "AdminUnreachable"),
            ("Accepted", "True", "Accepted"),
            ("Programmed", "Unknown", "AdminUnreachable")
        ]
    );
    let refused = Asked::Failed(admin::Error::Invalid { message: "no".into() });
    let refused = Scene::new(refused).decide(&bound);
    assert_eq!(refused.step, Step::Retry);
    assert_eq!(
        said(&refused),
        [
            ("Ready", "False", "RejectedByWriter"),
            ("Accepted", "True", "Accepted"),
            ("Programmed", "False", "RejectedByWriter"),
            ("Stalled", "True", "RejectedByWriter")
        ]
    );
}

#[test]
fn without_a_bucket_it_is_stalled_with_the_command_that_mends_it() {
    let mut scene = Scene::new(Asked::NotYet);
    scene.writers = Vec::new();
    scene.settings = DefaultWriter { create: true, spec: None };
    let decision = scene.decide(&stream("", "", ""));
    assert_eq!(decision.step, Step::Rest);
    assert_eq!(
        said(&decision),
        [
            ("Ready", "False", "NoObjectStorage"),
            ("Accepted", "False", "NoObjectStorage"),
            ("Programmed", "Unknown", "Pending"),
            ("Stalled", "True", "NoObjectStorage")
        ]
    );
    let command = "--reset-then-reuse-values --set defaultWriter.spec.objectStorage.bucket=";
    assert!(decision.verdicts[0].message.contains(command));
    let spec = json!({"objectStorage": {"bucket": "acme"}});
    scene.settings = DefaultWriter { create: true, spec: Some(spec) };
    assert!(matches!(scene.decide(&stream("", "", "")).step, Step::CreateDefault(_)));
}

#[test]
fn the_finalizer_is_there_exactly_while_the_policy_is_delete() {
    let scene = Scene::new(nothing());
    let finalizer = ", finalizers: [pyramid.dev/purge-stream]";
    let delete = "deletionPolicy: Delete";
    assert_eq!(scene.decide(&stream("", delete, "")).step, Step::AddFinalizer);
    assert_eq!(scene.decide(&stream(finalizer, BOUND, "")).step, Step::RemoveFinalizer);
    let both = stream(finalizer, &format!("{delete}, {BOUND}"), "");
    assert!(matches!(scene.decide(&both).step, Step::Put { .. }));
    let mut terminating = Scene::new(nothing());
    terminating.is_terminating = true;
    let late = stream("", &format!("{delete}, {BOUND}"), "");
    assert!(matches!(terminating.decide(&late).step, Step::Put { .. }));
}

const GOING: &str =
    ", deletionTimestamp: '2030-01-01T00:00:00Z', finalizers: [pyramid.dev/purge-stream]";

fn going(more: &str, status: &str) -> Stream {
    stream(&format!("{GOING} {more}"), &format!("deletionPolicy: Delete, {BOUND}"), status)
}

#[test]
fn a_stream_that_goes_is_purged_until_no_object_is_left() {
    let mut scene = Scene::new(Asked::NotYet);
    let stream = going("", "streamID: '7'");
    assert_eq!(scene.decide(&stream).step, Step::Ask(founded()));
    scene.asked = declared("mine", 1, false);
    let purge = scene.decide(&stream);
    assert_eq!(purge.step, Step::Purge { writer: founded(), stream_id: 7 });
    assert!(said(&purge).contains(&("Deleting", "True", "PurgePending")));
    // The Writer has forgotten it, and its objects are still there.
    scene.asked = nothing();
    assert_eq!(scene.decide(&stream).step, Step::Purge { writer: founded(), stream_id: 7 });
    scene.objects_left = Some(1);
    assert_eq!(scene.decide(&stream).step, Step::Look);
    scene.objects_left = Some(0);
    assert_eq!(scene.decide(&stream).step, Step::RemoveFinalizer);
    scene.asked = unreachable();
    let silent = scene.decide(&stream);
    assert_eq!(silent.step, Step::Retry);
    assert!(said(&silent).contains(&("Deleting", "True", "WriterUnreachable")));
}

#[test]
fn a_stream_that_goes_waits_for_nothing_that_cannot_come() {
    let known = || declared("mine", 2, false);
    let step = |change: &dyn Fn(&mut Scene), stream: &Stream| {
        let mut scene = Scene::new(known());
        change(&mut scene);
        scene.decide(stream).step
    };
    let keep = |_: &mut Scene| {};
    assert!(matches!(step(&keep, &going("", "")), Step::Purge { .. }));
    let forced = going(", annotations: {pyramid.dev/force-delete: 'true'}", "");
    assert_eq!(step(&keep, &forced), Step::RemoveFinalizer);
    let not_forced = going(", annotations: {pyramid.dev/force-delete: 'false'}", "");
    assert!(matches!(step(&keep, &not_forced), Step::Purge { .. }));
    assert_eq!(step(&|scene| scene.is_terminating = true, &going("", "")), Step::RemoveFinalizer);
    let name = WriterName { namespace: "pyramid-system".into(), name: "w".into() };
    let gone = step(&|scene| scene.writers.clear(), &going("", ""));
    assert_eq!(gone, Step::ReleaseWithout(name));
    assert_eq!(step(&keep, &stream(GOING, BOUND, "")), Step::RemoveFinalizer);
    assert_eq!(step(&keep, &stream(GOING, "deletionPolicy: Delete", "")), Step::RemoveFinalizer);
    let no_finalizer = ", deletionTimestamp: '2030-01-01T00:00:00Z'";
    assert_eq!(step(&keep, &stream(no_finalizer, BOUND, "")), Step::Rest);
}

#[test]
fn records_of_another_stream_are_never_purged() {
    let stream = going("", "streamID: '7'");
    assert!(matches!(
        Scene::new(declared("mine", 2, false)).decide(&stream).step,
        Step::Purge { .. }
    ));
    let others = Scene::new(declared("other", 2, false)).decide(&stream);
    assert_eq!(others.step, Step::RemoveFinalizer);
    let never = Scene::new(nothing()).decide(&going("", ""));
    assert_eq!(never.step, Step::RemoveFinalizer);
}

mod any_state {
    use proptest::prelude::*;

    use super::*;

    fn asked() -> impl Strategy<Value = Asked> {
        prop_oneof![
            Just(Asked::NotYet),
            Just(nothing()),
            Just(unreachable()),
            Just(Asked::Failed(admin::Error::Later {
                message: "later".into(),
                retry_after: Duration::ZERO
            })),
            ("(mine|other)", 1..4_u64, any::<bool>())
                .prop_map(|(uid, generation, closed)| declared(&uid, generation, closed)),
            Just(Asked::Known(Known {
                declared: Some(Declared {
                    object: pb::ObjectRef { uid: "mine".into(), generation: 2 },
                    content_sha256: Bytes::from_static(b"other"),
                    stream_id: 7,
                    info: None,
                }),
                put: None,
            })),
        ]
    }

    proptest! {
        /// Purging needs all of: our finalizer, a deletion timestamp, the policy, and records that
        /// are this object's. Ready needs all of: declared as it is now, open, and told.
        #[test]
        fn nothing_is_purged_or_ready_without_cause(
            asked in asked(),
            is_going in any::<bool>(),
            has_finalizer in any::<bool>(),
            wants_purge in any::<bool>(),
            is_bound in any::<bool>(),
            has_id in any::<bool>(),
            objects_left in proptest::option::of(0..3_u64),
            is_in_bootstrap in any::<bool>(),
            is_terminating in any::<bool>(),
        ) {
            let deletion = if is_going { ", deletionTimestamp: '2030-01-01T00:00:00Z'" } else { "" };
            let finalizer =
                if has_finalizer { ", finalizers: [pyramid.dev/purge-stream]" } else { "" };
            let policy = if wants_purge { "Delete" } else { "Retain" };
            let bound = if is_bound { BOUND } else { "" };
            let stream = stream(
                &format!("{deletion}{finalizer}"),
                &format!("deletionPolicy: {policy}, {bound}"),
                if has_id { "streamID: '7'" } else { "" },
            );
            let mut scene = Scene::new(asked.clone());
            scene.objects_left = objects_left;
            scene.is_in_bootstrap = is_in_bootstrap;
            scene.is_terminating = is_terminating;
            let decision = scene.decide(&stream);
            let is_ours = match &asked {
                Asked::Known(Known { declared: Some(declared), .. }) => {
                    declared.object.uid == "mine"
                }
                Asked::Known(Known { declared: None, .. }) => has_id,
                Asked::NotYet | Asked::Failed(_) => false,
            };
            if matches!(decision.step, Step::Purge { .. }) {
                prop_assert!(is_going && has_finalizer && wants_purge && is_bound && is_ours);
                prop_assert!(!is_terminating);
            }
            if matches!(decision.step, Step::Put { .. } | Step::Open { .. }) {
                prop_assert!(!is_going && is_bound);
            }
            let is_ready = said(&decision)[0] == ("Ready", "True", "Ready");
            let is_as_declared = asked == declared("mine", 2, false);
            let is_settled = is_terminating && !has_finalizer || wants_purge == has_finalizer;
            let shall_be =
                is_as_declared && is_bound && is_in_bootstrap && !is_going && is_settled;
            prop_assert_eq!(is_ready, shall_be, "{:?}", decision);
            let types: std::collections::BTreeSet<_> =
                decision.verdicts.iter().map(|one| one.r#type).collect();
            prop_assert_eq!(types.len(), decision.verdicts.len());
            for one in ["Ready", "Accepted", "Programmed"] {
                prop_assert!(types.contains(one));
            }
        }
    }
}
