use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use super::*;

type Told = oneshot::Receiver<Answer>;

/// A queue of appends; a name in capitals has a producer.
fn queue_of(streams: &[&str]) -> (Queue, Vec<Told>) {
    let mut queue = Queue::default();
    let told = streams.iter().map(|stream| push(&mut queue, stream)).collect();
    (queue, told)
}

fn push(queue: &mut Queue, stream: &str) -> Told {
    let (answer, told) = oneshot::channel();
    let producer = stream.starts_with(char::is_uppercase).then_some(pb::Producer {
        id: 1,
        epoch: 1,
        sequence: 0,
    });
    let request = pb::AppendRequest {
        stream: stream.to_lowercase(),
        producer,
        ..pb::AppendRequest::default()
    };
    let places = Arc::new(Semaphore::new(2));
    let permit = || Arc::clone(&places).try_acquire_owned().unwrap();
    let deadline = Instant::now() + Duration::from_secs(9);
    queue.push(Entry::new(request, answer, deadline, [permit(), permit()]));
    told
}

fn send_all(queue: &mut Queue) -> usize {
    let mut sent = 0;
    while queue.next_to_send().is_some() {
        queue.mark_sent();
        sent += 1;
    }
    sent
}

/// What each caller was told: its reason and effect, or `None` while it waits.
fn told(told: &mut [Told]) -> Vec<Option<(Reason, Effect)>> {
    told.iter_mut()
        .map(|told| {
            let refusal = told.try_recv().ok()?.err()?;
            Some((refusal.reason(), refusal.effect()))
        })
        .collect()
}

fn refuse(queue: &mut Queue, reason: Reason) {
    assert!(queue.answered(Err(Refusal::new(reason, "made up"))));
}

const BROKEN: Option<(Reason, Effect)> = Some((Reason::SessionBroken, Effect::NoEffect));
const UNKNOWN: Option<(Reason, Effect)> = Some((Reason::Unavailable, Effect::Unknown));

fn made_up() -> Refusal {
    Refusal::new(Reason::WalFull, "made up")
}

#[tokio::test]
async fn no_more_of_a_producer_is_on_its_way_than_the_writer_remembers() {
    let (mut queue, _told) = queue_of(&["A"; PRODUCER_BATCHES_MAX + 1]);
    assert_eq!(send_all(&mut queue), PRODUCER_BATCHES_MAX);
    assert!(queue.answered(Ok(pb::Appended::default())));
    assert_eq!(send_all(&mut queue), 1);
    let (mut queue, _told) = queue_of(&["a"; PRODUCER_BATCHES_MAX + 1]);
    assert_eq!(send_all(&mut queue), PRODUCER_BATCHES_MAX + 1);
}

#[tokio::test]
async fn a_lost_connection_leaves_unknown_only_what_may_have_left_without_a_producer() {
    let (mut queue, mut callers) = queue_of(&["a", "B", "c", "d"]);
    send_all(&mut queue);
    queue.disconnected(3, Instant::now(), &made_up());
    assert_eq!(told(&mut callers), [UNKNOWN, None, UNKNOWN, None]);
    assert_eq!(queue.next_to_send().unwrap().stream, "b");
    assert_eq!(send_all(&mut queue), 2);
}

#[tokio::test]
async fn a_lost_append_holds_up_the_later_ones_of_its_stream() {
    let (mut queue, mut callers) = queue_of(&["a", "a", "A", "b"]);
    queue.mark_sent();
    queue.disconnected(1, Instant::now(), &made_up());
    assert_eq!(told(&mut callers), [UNKNOWN, BROKEN, BROKEN, None]);
    let mut later = [push(&mut queue, "a"), push(&mut queue, "b")];
    assert_eq!(told(&mut later), [BROKEN, None]);
}

#[tokio::test]
async fn an_append_that_may_be_written_never_claims_to_have_no_effect() {
    let (mut queue, mut callers) = queue_of(&["A", "A"]);
    send_all(&mut queue);
    queue.disconnected(2, Instant::now(), &made_up());
    send_all(&mut queue);
    refuse(&mut queue, Reason::Fenced);
    refuse(&mut queue, Reason::SessionBroken);
    assert_eq!(
        told(&mut callers),
        [Some((Reason::Fenced, Effect::Unknown)), Some((Reason::SessionBroken, Effect::Unknown))]
    );
}

#[tokio::test]
async fn what_was_refused_for_now_goes_first_over_the_next_connection() {
    let (mut queue, mut callers) = queue_of(&["a", "b", "a", "a"]);
    for _ in 0..3 {
        queue.mark_sent();
    }
    refuse(&mut queue, Reason::Unavailable);
    assert!(queue.needs_new_connection() && queue.next_to_send().is_none());
    assert!(queue.answered(Ok(pb::Appended::default())));
    refuse(&mut queue, Reason::SessionBroken);
    assert_eq!(queue.sent(), 0);
    queue.disconnected(0, Instant::now(), &made_up());
    assert_eq!(send_all(&mut queue), 3);
    assert_eq!(told(&mut callers), [None, None, None, None]);
}

#[tokio::test]
async fn a_session_that_broke_for_good_is_not_sent_again() {
    let (mut queue, mut callers) = queue_of(&["a", "a", "a", "b"]);
    queue.mark_sent();
    queue.mark_sent();
    refuse(&mut queue, Reason::WrongOffset);
    refuse(&mut queue, Reason::SessionBroken);
    let wrong = Some((Reason::WrongOffset, Effect::NoEffect));
    assert_eq!(told(&mut callers), [wrong, BROKEN, BROKEN, None]);
    assert!(!queue.needs_new_connection());
    assert_eq!(queue.next_to_send().unwrap().stream, "b");
}

#[tokio::test]
async fn a_deadline_tells_what_is_known() {
    let (mut queue, mut callers) = queue_of(&["A", "b", "A"]);
    let later = queue.deadline().unwrap();
    queue.mark_sent();
    queue.disconnected(1, later - Duration::from_millis(1), &made_up());
    assert_eq!(told(&mut callers), [None, None, None]);
    queue.disconnected(0, later + Duration::from_millis(100), &made_up());
    // With the reason for which it could not be written all the time.
    let full = |effect| Some((Reason::WalFull, effect));
    assert_eq!(told(&mut callers), [full(Effect::Unknown), full(Effect::NoEffect), BROKEN]);
    assert!(queue.is_empty());
}

#[tokio::test]
async fn an_answer_to_nothing_is_noticed() {
    let (mut queue, _told) = queue_of(&["a"]);
    assert!(!queue.answered(Ok(pb::Appended::default())));
    queue.mark_sent();
    assert!(queue.answered(Ok(pb::Appended::default())));
}
