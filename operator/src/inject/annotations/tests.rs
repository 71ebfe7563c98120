use super::*;

fn read(annotations: &[(&'static str, &str)]) -> Result<Wish, Refusal> {
    Asked::read(&annotations.iter().copied().collect())
}

/// What a pod that wants something asks for.
fn asked(wish: Wish) -> Asked {
    let Wish::Inject(asked) = wish else { panic!("{wish:?}") };
    asked
}

fn with(name: &'static str, value: &str) -> Result<Asked, Refusal> {
    Ok(asked(read(&[(SUBSCRIPTIONS, "orders"), (name, value)])?))
}

fn subscriptions(text: &str) -> Result<Vec<String>, Refusal> {
    Ok(asked(read(&[(SUBSCRIPTIONS, text), (APPEND, "*")])?).subscriptions)
}

fn append(text: &str) -> Result<Vec<String>, Refusal> {
    with(APPEND, text).map(|asked| asked.append)
}

fn wrong<T>(annotation: &'static str, value: &str, remedy: &'static str) -> Result<T, Refusal> {
    Err(Refusal::Annotation { annotation, value: value.to_owned(), remedy })
}

const SUBSCRIPTION_NAMES: &str =
    "give names of Subscriptions in the pod's namespace, separated by commas";
const STREAM_NAMES: &str =
    "give names of Streams, as name or namespace/name, separated by commas, or only \"*\"";
const STRANGE: &str = "has characters other than a-z, 0-9, \"-\" and \".\"";
const ENDS: &str = "must begin and end with a letter or digit, also beside a point";

fn unfit<T>(
    annotation: &'static str,
    name: &str,
    flaw: &'static str,
    remedy: &'static str,
) -> Result<T, Refusal> {
    Err(Refusal::Name { annotation, name: name.to_owned(), flaw, remedy })
}

#[test]
fn a_pod_asks_with_either_of_two_annotations() {
    assert_eq!(read(&[]), Ok(Wish::Nothing));
    assert_eq!(read(&[(APP_PORT, "nonsense"), (INJECT, "nonsense")]), Ok(Wish::Nothing));
    let subscriptions = Asked { subscriptions: vec!["a".to_owned()], ..Asked::default() };
    assert_eq!(read(&[(SUBSCRIPTIONS, "a")]), Ok(Wish::Inject(subscriptions)));
    let append = Asked { append: vec!["a".to_owned()], ..Asked::default() };
    assert_eq!(read(&[(APPEND, "a")]), Ok(Wish::Inject(append)));
}

#[test]
fn empty_annotations_ask_for_nothing() {
    for annotations in
        [&[(SUBSCRIPTIONS, "")][..], &[(APPEND, " ")], &[(SUBSCRIPTIONS, " \t"), (APPEND, "")]]
    {
        assert_eq!(read(annotations), Err(Refusal::AsksNothing), "{annotations:?}");
    }
    assert!(matches!(read(&[(SUBSCRIPTIONS, ""), (APPEND, "a")]), Ok(Wish::Inject(_))));
}

#[test]
fn only_the_word_false_opts_out() {
    let inject = |value| read(&[(SUBSCRIPTIONS, "a"), (INJECT, value)]);
    assert_eq!(inject("false"), Ok(Wish::OptOut));
    assert!(matches!(inject("true"), Ok(Wish::Inject(_))));
    for value in ["", "no", "False", "0"] {
        let remedy = "give \"false\" to opt out, or remove it";
        assert_eq!(inject(value), wrong(INJECT, value, remedy));
    }
}

#[test]
fn names_are_those_of_objects() {
    let longest = "a".repeat(NAME_LEN_MAX);
    for name in ["a", "0", "a-b", "a.b-c.d", "9z", &longest] {
        assert_eq!(subscriptions(name), Ok(vec![name.to_owned()]));
        assert_eq!(append(name), Ok(vec![name.to_owned()]));
        let full = format!("shop/{name}");
        assert_eq!(append(&full), Ok(vec![full]));
    }
    for (name, flaw) in [
        ("A", STRANGE),
        ("a_b", STRANGE),
        ("ä", STRANGE),
        ("a b", STRANGE),
        ("a=1", STRANGE),
        ("-a", ENDS),
        ("a-", ENDS),
        ("a..b", ENDS),
        (".a", ENDS),
        ("a.", ENDS),
        ("a-.b", ENDS),
    ] {
        assert_eq!(subscriptions(name), unfit(SUBSCRIPTIONS, name, flaw, SUBSCRIPTION_NAMES));
        assert_eq!(append(name), unfit(APPEND, name, flaw, STREAM_NAMES));
    }
    let too_long = format!("{longest}a");
    let cut = format!("{}…", "a".repeat(SHOWN_MAX));
    let long =
        |name| unfit(SUBSCRIPTIONS, name, "is longer than 63 characters", SUBSCRIPTION_NAMES);
    assert_eq!(subscriptions(&too_long), long(&too_long));
    assert_eq!(subscriptions(&format!("{too_long}a")), long(&cut));
    assert_eq!(
        subscriptions("shop/a"),
        unfit(SUBSCRIPTIONS, "shop/a", STRANGE, SUBSCRIPTION_NAMES)
    );
    for (name, flaw) in [
        ("/a", ENDS),
        ("shop/", ENDS),
        ("a/b/c", STRANGE),
        ("a.b/c", "has a point in its namespace"),
        ("*/a", STRANGE),
        ("a/*", STRANGE),
    ] {
        assert_eq!(append(name), unfit(APPEND, name, flaw, STREAM_NAMES));
    }
}

#[test]
fn lists_keep_their_order_and_lose_their_spaces() {
    let expected = Ok(vec!["b".to_owned(), "a".to_owned()]);
    assert_eq!(subscriptions(" b ,\ta\n"), expected);
    assert_eq!(append("b,  a"), expected);
}

#[test]
fn an_element_is_neither_empty_nor_there_twice() {
    for text in ["a,", ",a", "a,,b"] {
        let remedy = SUBSCRIPTION_NAMES;
        let empty = Refusal::EmptyName { annotation: SUBSCRIPTIONS, remedy };
        assert_eq!(subscriptions(text), Err(empty));
        let empty = Refusal::EmptyName { annotation: APPEND, remedy: STREAM_NAMES };
        assert_eq!(append(text), Err(empty));
    }
    assert_eq!(subscriptions("a,b,a"), wrong(SUBSCRIPTIONS, "a", "name it once"));
    assert_eq!(append("a,b,b"), wrong(APPEND, "b", "name it once"));
}

#[test]
fn all_streams_stands_alone() {
    assert_eq!(append("*"), Ok(vec!["*".to_owned()]));
    assert_eq!(append("a,*"), unfit(APPEND, "*", STRANGE, STREAM_NAMES));
}

#[test]
fn a_pod_names_at_most_16_subscriptions_and_64_streams() {
    let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(subscriptions(&names(16)).unwrap().len(), 16);
    assert_eq!(subscriptions(&names(17)), Err(Refusal::TooManySubscriptions { given: 17 }));
    assert_eq!(append(&names(64)).unwrap().len(), 64);
    assert_eq!(append(&names(65)), Err(Refusal::TooManyAppends { given: 65 }));
}

#[test]
fn a_port_is_one_that_the_pusher_does_not_have() {
    for port in [1, 7409, 7412, 65_535] {
        assert_eq!(with(APP_PORT, &port.to_string()).unwrap().app_port, Some(port));
    }
    for text in ["", "0", "65536", "+1", "-1", "1.0", "http"] {
        let remedy = "give the port of the application, a number from 1 to 65535";
        assert_eq!(with(APP_PORT, text), wrong(APP_PORT, text, remedy));
    }
    for text in ["7410", "7411"] {
        let remedy = "that is a port of the pusher, give the application another one";
        assert_eq!(with(APP_PORT, text), wrong(APP_PORT, text, remedy));
    }
}

#[test]
fn readiness_is_chosen_by_its_name() {
    assert_eq!(with(INJECT, "true").unwrap().readiness, Readiness::Local);
    for readiness in [Readiness::Local, Readiness::Connected, Readiness::CaughtUp] {
        assert_eq!(with(READINESS, readiness.name()).unwrap().readiness, readiness);
    }
    for text in ["", "local", "Ready"] {
        let remedy = "give Local, Connected or CaughtUp";
        assert_eq!(with(READINESS, text), wrong(READINESS, text, remedy));
    }
}

#[test]
fn amounts_are_some_cpu_and_whole_bytes() {
    let amount = |text: &str| Some(text.to_owned());
    let none = Amounts::default();
    let asked = |name, text| with(name, text).map(|asked| (asked.cpu, asked.memory));
    let request = |text| Amounts { request: amount(text), limit: None };
    let limit = |text| Amounts { request: None, limit: amount(text) };
    assert_eq!(asked(CPU_REQUEST, "50m"), Ok((request("50m"), none.clone())));
    assert_eq!(asked(CPU_LIMIT, "0.5"), Ok((limit("0.5"), none.clone())));
    assert_eq!(asked(MEMORY_REQUEST, "64Mi"), Ok((none.clone(), request("64Mi"))));
    assert_eq!(asked(MEMORY_LIMIT, "64M"), Ok((none, limit("64M"))));
    for text in ["", "0", "-1", "much"] {
        let cpu = "give an amount of CPU such as 100m or 0.5";
        let memory = "give an amount of memory in whole bytes such as 128Mi";
        assert_eq!(asked(CPU_REQUEST, text), wrong(CPU_REQUEST, text, cpu));
        assert_eq!(asked(CPU_LIMIT, text), wrong(CPU_LIMIT, text, cpu));
        assert_eq!(asked(MEMORY_REQUEST, text), wrong(MEMORY_REQUEST, text, memory));
        assert_eq!(asked(MEMORY_LIMIT, text), wrong(MEMORY_LIMIT, text, memory));
    }
    // The common slip: it means an eighth of a byte.
    let memory = "give an amount of memory in whole bytes such as 128Mi";
    assert_eq!(asked(MEMORY_LIMIT, "128m"), wrong(MEMORY_LIMIT, "128m", memory));
}

#[test]
fn the_pusher_gets_16_mib_of_memory_or_more() {
    for text in ["16Mi", "16777216", "17M"] {
        assert_eq!(with(MEMORY_LIMIT, text).unwrap().memory.limit.as_deref(), Some(text));
    }
    for text in ["16777215", "16M", "1Mi"] {
        let remedy = "give 16Mi or more, with less the pusher cannot start";
        assert_eq!(with(MEMORY_LIMIT, text), wrong(MEMORY_LIMIT, text, remedy));
    }
    // What is asked for is no limit.
    assert!(with(MEMORY_REQUEST, "1Mi").is_ok());
}

#[test]
fn only_annotations_of_ours_are_called_unknown() {
    let asked = with("pyramid.dev/subscription", "a").unwrap();
    assert_eq!(asked.unknown, ["pyramid.dev/subscription"]);
    assert_eq!(with("example.org/subscription", "a").unwrap().unknown, [""; 0]);
    for known in GIVEN.into_iter().chain([INJECTED_BY]) {
        assert!(known.starts_with(PREFIX));
        assert_eq!(with(INJECTED_BY, known).unwrap().unknown, [""; 0]);
    }
}

#[test]
fn eight_unknown_annotations_are_warned_of() {
    let unknown = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("pyramid.dev/a{n}")).collect();
        let names = names.iter().map(|name| (name.as_str(), ""));
        asked(Asked::read(&names.chain([(APPEND, "*")]).collect()).unwrap()).unknown.len()
    };
    assert_eq!([unknown(7), unknown(8), unknown(9)], [7, 8, 8]);
}
