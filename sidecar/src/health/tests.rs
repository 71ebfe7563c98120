use super::*;

const SECOND: Duration = Duration::from_secs(1);
const ALL: [Readiness; 3] = [Readiness::Local, Readiness::Connected, Readiness::CaughtUp];

const ATTACHED: LinkStatus = LinkStatus { lost_for: Some(Duration::ZERO), knows_streams: true };

fn lost(lost_for: Option<Duration>) -> LinkStatus {
    LinkStatus { lost_for, knows_streams: false }
}

/// A pusher of two subscriptions whose streams have all caught up.
fn well() -> Seen {
    Seen {
        serves: true,
        stops: false,
        links: vec![ATTACHED, ATTACHED],
        waiting_for: None,
        behind: 0,
        streams: 3,
        was_caught_up: false,
    }
}

fn answers(seen: &Seen) -> [bool; 3] {
    ALL.map(|readiness| ready(readiness, seen).is_ok())
}

#[test]
fn each_readiness_asks_for_more_than_the_one_before() {
    let table = [
        (well(), [true, true, true]),
        (Seen { serves: false, ..well() }, [false, false, false]),
        (Seen { stops: true, ..well() }, [false, false, false]),
        (Seen { links: vec![ATTACHED, lost(None)], ..well() }, [true, false, false]),
        (Seen { behind: 1, ..well() }, [true, true, false]),
    ];
    for (seen, expected) in table {
        assert_eq!(answers(&seen), expected, "{seen:?}");
    }
}

#[test]
fn a_lost_attachment_is_forgiven_for_ten_seconds() {
    let answer = |lost_for| connected(&Seen { links: vec![ATTACHED, lost(lost_for)], ..well() });
    assert_eq!(answer(Some(ATTACH_LOSS_MAX)), Ok(()));
    let expected = Err("1 of 2 subscriptions are not attached".to_owned());
    assert_eq!(answer(Some(ATTACH_LOSS_MAX + SECOND)), expected);
    assert_eq!(answer(None), expected);
}

#[test]
fn a_subscription_that_does_not_know_its_streams_has_not_caught_up() {
    let seen = Seen { links: vec![ATTACHED, lost(Some(SECOND))], streams: 0, ..well() };
    let expected = Err("1 subscriptions do not know their streams yet".to_owned());
    assert_eq!(ready(Readiness::CaughtUp, &seen), expected);
}

#[test]
fn who_was_caught_up_once_stays_so_while_it_is_connected() {
    let behind = Seen { behind: 2, ..well() };
    let expected = Err("2 of 3 streams have not caught up".to_owned());
    assert_eq!(ready(Readiness::CaughtUp, &behind), expected);
    let was = Seen { was_caught_up: true, ..behind };
    assert_eq!(ready(Readiness::CaughtUp, &was), Ok(()));
    let lost = Seen { links: vec![ATTACHED, lost(None)], ..was };
    assert_eq!(answers(&lost), [true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn an_end_counts_that_the_stream_had_ten_seconds_before() {
    let news = News { end: Offset::new(5), at: Instant::now() };
    let caught_up =
        |accepted, after| has_caught_up(Offset::new(accepted), Some(news), news.at + after);
    assert!(caught_up(5, CAUGHT_UP_WITHIN));
    assert!(!caught_up(5, CAUGHT_UP_WITHIN + SECOND));
    assert!(!caught_up(4, Duration::ZERO));
    assert!(caught_up(6, Duration::ZERO));
    assert!(!has_caught_up(Offset::new(5), None, news.at), "nothing is known yet");
}
