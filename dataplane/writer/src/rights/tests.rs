use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::pb::stored::v1::command::Command;
use pyramid_protocol::pb::v1::StreamRights;
use tonic::Code;

use super::*;
use crate::entry::{Entry, LogId, Stamp};

const WEB: &str = "spiffe://td/ns/a/sa/web";

fn known(identity: &str) -> Caller {
    Caller::Known(identity.parse().unwrap())
}

/// A state with streams `a` and `b`, where `a` has these rights, and these subscriptions.
fn state(rights: StreamRights, subscriptions: Vec<Subscription>) -> State {
    let object = || Some(stored::ObjectRef { uid: "u".into(), generation: 1 });
    let create = |name: &str, stream_id, rights| {
        let wrapped = vec![0; crate::state::WRAPPED_KEY_LEN].into();
        Command::CreateStream(stored::CreateStream {
            object: object(),
            name: name.into(),
            stream_id,
            rights: Some(rights),
            wrapped_key: Some(stored::WrappedKey { wrapped, ..Default::default() }),
            ..Default::default()
        })
    };
    let cluster_id = vec![7; 16].into();
    let mut commands = vec![
        Command::Bootstrap(stored::Bootstrap { cluster_id }),
        create("a", 1, rights),
        create("b", 2, StreamRights::default()),
    ];
    commands.extend(subscriptions.into_iter().map(|one| {
        let subscription = Some(Subscription { object: object(), ..one });
        Command::PutSubscription(stored::PutSubscription { subscription })
    }));
    let mut state = State::default();
    for (number, command) in (1..).zip(commands) {
        let stamp = Stamp { term: 1, number, time_ms: 1 };
        let applied =
            state.apply(LogId { term: 1, index: number }, &Entry::Control { stamp, command });
        let outcome = applied.control.unwrap();
        assert!(!matches!(outcome, crate::state::ControlOutcome::Refused(_)), "{outcome:?}");
    }
    state
}

fn subscription(name: &str, streams: &[&str], identities: &[&str]) -> Subscription {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Subscription {
        name: name.into(),
        streams: texts(streams),
        service_accounts: texts(identities),
        start_from: stored::StoredStartFrom::Earliest.into(),
        mode: stored::StoredDeliveryMode::Broadcast.into(),
        ..Default::default()
    }
}

/// What a caller may do with a stream: append, read, manage.
fn access(caller: &Caller, state: &State, stream: &str) -> [Access; 3] {
    let stream = state.stream_by_name(&stream.parse().unwrap()).unwrap();
    RIGHTS.map(|right| caller.may(right, stream, state))
}

#[test]
fn one_right_is_not_another_and_none_hides_the_stream() {
    use Access::{Allowed, Denied, Hidden};

    let list = || vec!["spiffe://td/ns/other/sa/x".to_owned(), WEB.to_owned()];
    let rights = |appends: bool, reads: bool, manages: bool| StreamRights {
        appenders: if appends { list() } else { vec![] },
        readers: if reads { list() } else { vec![] },
        managers: if manages { list() } else { vec![] },
    };
    let with = |rights| access(&known(WEB), &state(rights, vec![]), "a");
    assert_eq!(with(rights(false, false, false)), [Hidden; 3]);
    assert_eq!(with(rights(true, false, false)), [Allowed, Denied, Denied]);
    assert_eq!(with(rights(false, true, false)), [Denied, Allowed, Denied]);
    assert_eq!(with(rights(false, false, true)), [Denied, Denied, Allowed]);
    assert_eq!(with(rights(true, true, true)), [Allowed; 3]);
    let all = state(rights(true, true, true), vec![]);
    assert_eq!(access(&known(WEB), &all, "b"), [Hidden; 3], "another stream");
    for other in ["spiffe://td/ns/a/sa/webb", "spiffe://td/ns/a/sa/we", "spiffe://td/operator"] {
        assert_eq!(access(&known(other), &all, "a"), [Hidden; 3], "{other}");
    }
    assert_eq!(
        access(&Caller::Local, &state(rights(false, false, false), vec![]), "a"),
        [Allowed; 3]
    );
}

#[test]
fn who_may_attach_may_read_what_the_subscription_names() {
    use Access::{Allowed, Denied, Hidden};

    let other = "spiffe://td/ns/a/sa/other";
    let subscriptions =
        vec![subscription("s", &["a"], &[WEB]), subscription("t", &["b"], &[other])];
    let state = state(StreamRights::default(), subscriptions);
    assert_eq!(access(&known(WEB), &state, "a"), [Denied, Allowed, Denied]);
    assert_eq!(access(&known(WEB), &state, "b"), [Hidden; 3]);
    let may = |caller: &Caller, name: &str| caller.may_attach(state.subscription(name).unwrap());
    assert_eq!((may(&known(WEB), "s"), may(&known(WEB), "t")), (true, false));
    assert_eq!((may(&known(other), "s"), may(&known(other), "t")), (false, true));
    assert!(may(&Caller::Local, "s"));
}

#[test]
fn a_right_of_a_namespace_is_that_of_each_of_its_service_accounts() {
    use Access::{Allowed, Denied, Hidden};

    let every = || vec!["spiffe://td/ns/a/sa/*".to_owned()];
    let rights = StreamRights { appenders: every(), ..Default::default() };
    let subscriptions = vec![subscription("s", &["b"], &["spiffe://td/ns/a/sa/*"])];
    let state = state(rights, subscriptions);
    let may_attach = |caller: &str| known(caller).may_attach(state.subscription("s").unwrap());
    for inside in [WEB, "spiffe://td/ns/a/sa/other"] {
        assert_eq!(access(&known(inside), &state, "a"), [Allowed, Denied, Denied], "{inside}");
        assert_eq!(access(&known(inside), &state, "b"), [Denied, Allowed, Denied], "{inside}");
        assert!(may_attach(inside), "{inside}");
    }
    for outside in [
        "spiffe://td/ns/aa/sa/web",
        "spiffe://te/ns/a/sa/web",
        "spiffe://td/ns/a/sa/web/x",
        "spiffe://td/ns/a/writer/web",
        "spiffe://td/operator",
    ] {
        assert_eq!(access(&known(outside), &state, "a"), [Hidden; 3], "{outside}");
        assert_eq!(access(&known(outside), &state, "b"), [Hidden; 3], "{outside}");
        assert!(!may_attach(outside), "{outside}");
    }
}

#[test]
fn a_refusal_names_the_caller_and_what_is_missing() {
    let rights = StreamRights { readers: vec![WEB.into()], ..Default::default() };
    let state = state(rights, vec![]);
    let a = state.stream_by_name(&"a".parse().unwrap()).unwrap();
    let denied = known(WEB).check(Right::Append, a, &state).unwrap_err();
    let text = "spiffe://td/ns/a/sa/web may use stream \"a\" but has not the right to append; ask whoever manages it for the right to append";
    assert_eq!(denied, Refusal::new(Reason::Denied, text));
    let b = state.stream_by_name(&"b".parse().unwrap()).unwrap();
    let hidden = known(WEB).check(Right::Append, b, &state).unwrap_err();
    assert_eq!(hidden, known(WEB).no_stream("b"));
    assert!(hidden.message.contains("no stream \"b\" that spiffe://td/ns/a/sa/web may use"));
    assert_eq!(known(WEB).check(Right::Read, a, &state), Ok(()));
}

#[test]
fn only_the_operator_and_local_callers_pass_to_admin() {
    let call = |peer: Option<Peer>| {
        let mut request = Request::new(());
        peer.map(|peer| request.extensions_mut().insert(peer));
        operator_only(request).map(drop).map_err(|status| status.code())
    };
    let peer = |identity: &str| {
        Some(Peer { address: "x".into(), identity: Some(identity.parse().unwrap()) })
    };
    assert_eq!(call(peer("spiffe://td/operator")), Ok(()));
    assert_eq!(call(Some(Peer::default())), Ok(()));
    for other in [
        WEB,
        "spiffe://td/ns/a/writer/operator",
        "spiffe://td/operator/x",
        "spiffe://td/x/operator",
    ] {
        assert_eq!(call(peer(other)), Err(Code::PermissionDenied), "{other}");
    }
    assert_eq!(call(None), Err(Code::Internal), "nothing is known of the connection");
}

#[test]
fn a_producer_belongs_to_the_identity_that_made_it() {
    assert!(known(WEB).owns(known(WEB).identity()));
    assert!(!known(WEB).owns(Caller::Local.identity()));
    assert!(!known(WEB).owns("spiffe://td/ns/a/sa/web2"));
    assert!(Caller::Local.owns(WEB));
}
