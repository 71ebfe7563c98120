//! Waits and watches of the controller.

use pyramid_protocol::SeededEntropy;

use super::*;

#[test]
fn failures_in_a_row_are_retried_after_one_second_doubling_to_five_minutes() {
    let waits: Vec<_> = (1..=10).map(|failures| retry_after(failures).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    assert_eq!(retry_after(u32::MAX), RETRY_MAX);
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
