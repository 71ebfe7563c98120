//! [`Leases`]: which pusher of an Exclusive subscription pushes which stream. Pure.
//!
//! A lease lasts [`LEASE`] from the last word of its holder. Whoever is quiet for longer has lost it,
//! whatever its connection looks like. A free stream goes to the pusher that holds the fewest, of
//! several to the one that attached first; those whose application gives trouble come last. A lease
//! that is held never moves: the pusher that would get it has not shown yet that its application
//! answers.
//!
//! Leases only save work. Two that push the same stream, because a clock runs wrong or a message is
//! late, are told apart by the application's offset check.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long a lease lasts without a word of its holder. After a change of the leader nothing is
/// granted for as long: those that the leader before has granted run out meanwhile.
pub const LEASE: Duration = Duration::from_secs(3);

/// One who could push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Attached earlier: smaller.
    pub(super) id: u64,
    /// When it last said something.
    pub(super) heard: Instant,
    /// Whether it says that it cannot push something.
    pub(super) is_troubled: bool,
}

/// The leases of one subscription.
#[derive(Debug, Default)]
pub(super) struct Leases(BTreeMap<String, Lease>);

#[derive(Debug)]
struct Lease {
    holder: u64,
    /// The pod of the holder; empty: it has said none.
    pod: String,
    until: Instant,
}

impl Leases {
    /// Renews the leases of those who were heard, ends the others, and grants what is free if
    /// `grants`. `candidates` are in the order of their ids. Whether any lease was ended or granted.
    pub(super) fn update<'a>(
        &mut self,
        now: Instant,
        grants: bool,
        streams: &[String],
        candidates: &[Candidate],
        pod_of: impl Fn(u64) -> &'a str,
    ) -> bool {
        let before = self.0.len();
        self.0.retain(|stream, lease| {
            let place = candidates.binary_search_by_key(&lease.holder, |candidate| candidate.id);
            if let Some(holder) = place.ok().and_then(|place| candidates.get(place)) {
                lease.until = holder.heard + LEASE;
            }
            now < lease.until && streams.binary_search(stream).is_ok()
        });
        let mut changed = self.0.len() != before;
        if !grants {
            return changed;
        }
        let mut loads: BTreeMap<u64, usize> = BTreeMap::new();
        for lease in self.0.values() {
            *loads.entry(lease.holder).or_default() += 1;
        }
        let mut able: Vec<_> = candidates
            .iter()
            .filter(|candidate| now < candidate.heard + LEASE)
            .map(|one| (one.is_troubled, loads.get(&one.id).copied().unwrap_or(0), one))
            .collect();
        for stream in streams {
            if self.0.contains_key(stream) {
                continue;
            }
            let first =
                able.iter_mut().min_by_key(|(troubled, load, one)| (*troubled, *load, one.id));
            let Some((_, load, one)) = first else { break };
            *load += 1;
            let lease =
                Lease { holder: one.id, pod: pod_of(one.id).to_owned(), until: one.heard + LEASE };
            self.0.insert(stream.clone(), lease);
            changed = true;
        }
        changed
    }

    /// A pusher has come again before its leases ran out: they stay its own. Pods are different
    /// pushers, one that says no pod is always a new one.
    pub(super) fn take_over(&mut self, pod: &str, id: u64, heard: Instant) {
        if pod.is_empty() {
            return;
        }
        for lease in self.0.values_mut().filter(|lease| lease.pod == pod) {
            lease.holder = id;
            lease.until = heard + LEASE;
        }
    }

    /// Frees all that somebody holds, because it has said that it stops. Whether it held any.
    pub(super) fn free(&mut self, holder: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|_, lease| lease.holder != holder);
        self.0.len() != before
    }

    /// Ends all. Whether there was any.
    pub(super) fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }

    /// Until when somebody holds the stream.
    pub(super) fn held(&self, stream: &str, by: u64) -> Option<Instant> {
        self.0.get(stream).filter(|lease| lease.holder == by).map(|lease| lease.until)
    }

    /// When the next one runs out, unless its holder is heard before.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.0.values().map(|lease| lease.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn streams(names: &str) -> Vec<String> {
        names.chars().map(String::from).collect()
    }

    /// Candidates by id, each heard so many seconds after `begin`.
    fn heard(begin: Instant, all: &[(u64, u32)]) -> Vec<Candidate> {
        let candidate =
            |&(id, after)| Candidate { id, heard: begin + SECOND * after, is_troubled: false };
        all.iter().map(candidate).collect()
    }

    /// Who holds which stream.
    fn holders(leases: &Leases) -> String {
        leases.0.iter().map(|(stream, lease)| format!("{stream}{} ", lease.holder)).collect()
    }

    fn update(leases: &mut Leases, now: Instant, names: &str, all: &[Candidate]) -> (bool, String) {
        let changed = leases.update(now, true, &streams(names), all, |_| "");
        (changed, holders(leases))
    }

    #[test]
    fn the_first_one_gets_a_stream_and_keeps_it_while_it_is_heard() {
        let (begin, mut leases) = (Instant::now(), Leases::default());
        let all = heard(begin, &[(1, 0), (2, 0)]);
        assert_eq!(update(&mut leases, begin, "a", &all), (true, "a1 ".into()));
        let all = heard(begin, &[(1, 2), (2, 3)]);
        let later = begin + SECOND * 4;
        assert_eq!(update(&mut leases, later, "a", &all), (false, "a1 ".into()));
        assert_eq!(leases.held("a", 1), Some(begin + SECOND * 5));
        assert_eq!((leases.held("a", 2), leases.held("b", 1)), (None, None));
        assert_eq!(leases.next_end(), Some(begin + SECOND * 5));
    }

    #[test]
    fn who_is_quiet_for_three_seconds_loses_its_lease_to_one_who_is_not() {
        let (begin, mut leases) = (Instant::now(), Leases::default());
        update(&mut leases, begin, "a", &heard(begin, &[(1, 0)]));
        let all = heard(begin, &[(1, 0), (2, 2)]);
        let just_before = begin + LEASE - Duration::from_nanos(1);
        assert_eq!(update(&mut leases, just_before, "a", &all), (false, "a1 ".into()));
        assert_eq!(update(&mut leases, begin + LEASE, "a", &all), (true, "a2 ".into()));
        let all = heard(begin, &[(1, 4), (2, 4)]);
        let later = begin + SECOND * 5;
        assert_eq!(update(&mut leases, later, "a", &all), (false, "a2 ".into()), "it stays");
    }

    #[test]
    fn nobody_gets_what_one_who_has_gone_without_a_word_still_holds() {
        let (begin, mut leases) = (Instant::now(), Leases::default());
        update(&mut leases, begin, "a", &heard(begin, &[(1, 0)]));
        let all = heard(begin, &[(2, 2)]);
        assert_eq!(update(&mut leases, begin + SECOND * 2, "a", &all), (false, "a1 ".into()));
        assert_eq!(update(&mut leases, begin + SECOND * 3, "a", &all), (true, "a2 ".into()));
        // Said, it is free at once.
        assert!(leases.free(2));
        assert!(!leases.free(2));
        let all = heard(begin, &[(3, 3)]);
        assert_eq!(update(&mut leases, begin + SECOND * 3, "a", &all), (true, "a3 ".into()));
    }

    #[test]
    fn free_streams_are_spread_and_held_ones_stay() {
        let (begin, mut leases) = (Instant::now(), Leases::default());
        let all = heard(begin, &[(1, 0), (2, 0), (3, 0)]);
        let told = update(&mut leases, begin, "abcde", &all);
        assert_eq!(told, (true, "a1 b2 c3 d1 e2 ".into()));
        leases.free(1);
        let all = heard(begin, &[(2, 0), (3, 0), (4, 0)]);
        let told = update(&mut leases, begin, "abcdef", &all);
        assert_eq!(told, (true, "a4 b2 c3 d3 e2 f4 ".into()));
        // Another one, and nothing is free.
        let all = heard(begin, &[(2, 0), (3, 0), (4, 0), (5, 0)]);
        assert!(!update(&mut leases, begin, "abcdef", &all).0);
        let told = update(&mut leases, begin, "bf", &all);
        assert_eq!(told, (true, "b2 f4 ".into()), "streams that left the subscription");
    }

    #[test]
    fn one_whose_application_gives_trouble_comes_last() {
        let (begin, mut leases) = (Instant::now(), Leases::default());
        let mut all = heard(begin, &[(1, 0), (2, 0)]);
        all[0].is_troubled = true;
        assert_eq!(update(&mut leases, begin, "ab", &all), (true, "a2 b2 ".into()));
        leases.free(2);
        assert_eq!(update(&mut leases, begin, "ab", &all[..1]), (true, "a1 b1 ".into()));
    }

    #[test]
    fn nothing_is_granted_while_leases_of_another_leader_may_be_held() {
        let (begin, mut leases) = (Instant::now(), Leases::default());
        let (names, all) = (streams("a"), heard(begin, &[(1, 0)]));
        assert!(!leases.update(begin, false, &names, &all, |_| ""));
        assert_eq!((holders(&leases), leases.next_end()), (String::new(), None));
        assert!(leases.update(begin, true, &names, &all, |_| ""));
        assert!(leases.clear());
        assert!(!leases.clear());
    }

    #[test]
    fn a_pod_that_comes_again_goes_on_with_its_leases() {
        let (begin, mut leases) = (Instant::now(), Leases::default());
        let pods = |id| if id == 1 { "pod-1" } else { "pod-2" };
        leases.update(begin, true, &streams("ab"), &heard(begin, &[(1, 0), (2, 0)]), pods);
        leases.take_over("pod-1", 3, begin + SECOND);
        leases.take_over("", 4, begin + SECOND);
        assert_eq!(holders(&leases), "a3 b2 ");
        assert_eq!(leases.held("a", 3), Some(begin + SECOND * 4));
    }
}
