//! What is said of an annotation of ours that nobody knows: which one may have been meant.

use strsim::levenshtein;

use super::annotations::{GIVEN, PREFIX};

/// Letters to add, take away or exchange, by which a name may differ from the one that was meant.
const SLIPS_MAX: usize = 3;

/// The warning.
pub(super) fn warning(annotation: &str) -> String {
    let given = annotation.strip_prefix(PREFIX).unwrap_or(annotation);
    let known = || GIVEN.into_iter().map(|name| name.strip_prefix(PREFIX).unwrap_or(name));
    let nearest = known().map(|name| (levenshtein(given, name), name)).min();
    let text = format!("annotation {annotation} is unknown and does nothing");
    match nearest.filter(|(slips, _)| *slips <= SLIPS_MAX) {
        Some((_, name)) => format!("{text}; {PREFIX}{name} is known"),
        None => format!("{text}; known are {}", known().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_added_taken_away_or_exchanged() {
        for (one, other, expected) in [
            ("", "", 0),
            ("append", "append", 0),
            ("", "append", 6),
            ("append", "", 6),
            ("subscription", "subscriptions", 1),
            ("subscribtion", "subscriptions", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(levenshtein(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn the_nearest_name_is_told_or_all_are() {
        for (given, meant) in [
            ("subscription", "subscriptions"),
            ("appendxyz", "append"),
            ("appport", "app-port"),
            ("pusher-memory-limits", "pusher-memory-limit"),
        ] {
            let expected = format!(
                "annotation pyramid.dev/{given} is unknown and does nothing; pyramid.dev/{meant} is \
                 known"
            );
            assert_eq!(warning(&format!("pyramid.dev/{given}")), expected);
        }
        let all = "annotation pyramid.dev/appendwxyz is unknown and does nothing; known are \
                   subscriptions, append, inject, app-port, readiness, pusher-cpu-request, \
                   pusher-cpu-limit, pusher-memory-request, pusher-memory-limit";
        assert_eq!(warning("pyramid.dev/appendwxyz"), all);
    }
}
