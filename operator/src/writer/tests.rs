//! Waits and watches of the controller.

use futures::FutureExt as _;
use pyramid_protocol::SeededEntropy;

use super::*;

#[test]
fn failures_in_a_row_are_retried_after_one_second_doubling_to_five_minutes() {
    let wait = |failures| retries::doubled(failures, Failure::Lasting).as_secs();
    let waits: Vec<_> = (1..=10).map(wait).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    assert_eq!(wait(u32::MAX), 300);
}

#[test]
fn a_replica_that_does_not_answer_is_called_again_soon_and_one_that_refuses_later() {
    let message = "m".to_owned();
    let silent = admin::Error::Unreachable { address: "a".to_owned(), message: message.clone() };
    let wait = |error: admin::Error| retries::doubled(20, Error::Admin(error).failure());
    assert_eq!(wait(silent), Duration::from_secs(12));
    assert_eq!(wait(admin::Error::OtherCluster { message }), Duration::from_secs(300));
}

#[test]
fn jitter_is_at_most_a_tenth_in_both_directions() {
    let entropy = SeededEntropy::new(1);
    let waits: Vec<_> = (0..1000).map(|_| jittered(Duration::from_secs(100), &entropy)).collect();
    assert_eq!(waits.iter().min(), Some(&Duration::from_secs(90)));
    assert_eq!(waits.iter().max(), Some(&Duration::from_secs(110)));
}

#[test]
fn children_are_watched_where_writers_may_run() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(namespaces(&names(&["a", "b"])), [Some("a"), Some("b")]);
    assert_eq!(namespaces(&names(&["a", "*"])), [None]);
    assert_eq!(namespaces(&names(&[])), []);
}

#[tokio::test(start_paused = true)]
async fn many_new_numbers_of_streams_are_told_once_in_five_seconds() {
    let bound = Arc::new(Bound::default());
    let mut told = std::pin::pin!(bindings(Arc::clone(&bound)));
    assert_eq!(told.next().now_or_never(), None);
    let begun = Instant::now();
    bound.replace(&[]);
    told.next().await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    bound.replace(&[]);
    bound.replace(&[]);
    told.next().await.unwrap();
    // A timer of the runtime ends within a millisecond.
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert!(tokio::time::timeout(10 * COUNT_AGAIN, told.next()).await.is_err());
}

#[test]
fn only_the_refusal_of_a_namespace_that_goes_counts_as_done() {
    let error = |message: &str, code| {
        let status = kube::core::Status::failure(message, "Forbidden").with_code(code);
        Error::kube("apply a child")(kube::Error::Api(Box::new(status)))
    };
    let terminating = "unable to create new content in namespace t because it is being terminated";
    assert!(error(terminating, 403).is_namespace_terminating());
    assert!(!error("pods is forbidden", 403).is_namespace_terminating());
    assert!(!error(terminating, 403).is_conflict());
}
