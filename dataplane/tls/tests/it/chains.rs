//! Chains and certificates out of the ordinary: row A5.

use std::time::Duration;

use pyramid_tls::{INTERMEDIATES_MAX, LEAF_BYTES_MAX, NAMES_MAX, Reason};
use rcgen::{BasicConstraints, GeneralSubtree, IsCa, NameConstraints};
use tokio::time::Instant;

use crate::forge::{Forge, ballast, dns, uri};
use crate::world::{World, user_id};

/// Refusing takes no longer than taking, give or take a busy machine.
const QUICK: Duration = Duration::from_secs(5);

/// A5.
#[tokio::test]
async fn an_intermediate_must_be_an_authority() {
    let world = World::new();
    let root = Forge::root();
    let server = world.greeter_believing(&root).await;
    for (is_ca, is_taken) in [
        (IsCa::NoCa, false),
        (IsCa::ExplicitNoCa, false),
        (IsCa::Ca(BasicConstraints::Unconstrained), true),
    ] {
        let intermediate = root.intermediate("intermediate", |it| it.is_ca = is_ca);
        let result = world.attack(&server, intermediate.leaf(|_| {})).await;
        assert_eq!(result.is_ok(), is_taken, "{is_ca:?}");
    }
    server.refused(&[(Reason::Untrusted, 2)]).await;
}

/// A5.
#[tokio::test]
async fn an_intermediate_vouches_no_deeper_than_it_may() {
    let world = World::new();
    let root = Forge::root();
    let server = world.greeter_believing(&root).await;
    for (length, is_taken) in [(0, false), (1, true)] {
        let limited = root.intermediate("limited", |it| {
            it.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        });
        let below = limited.intermediate("below", |_| {});
        let result = world.attack(&server, below.leaf(|_| {})).await;
        assert_eq!(result.is_ok(), is_taken, "path length {length}");
    }
    server.refused(&[(Reason::Untrusted, 1)]).await;
}

/// A5.
#[tokio::test]
async fn an_intermediate_vouches_for_no_other_names_than_it_may() {
    let world = World::new();
    let root = Forge::root();
    let server = world.greeter_believing(&root).await;
    let limited = root.intermediate("limited", |it| {
        it.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("shop.example".to_owned())],
            excluded_subtrees: vec![],
        });
    });
    for (name, is_taken) in [("web.other.example", false), ("web.shop.example", true)] {
        let shown =
            limited.leaf(|leaf| leaf.subject_alt_names = vec![uri(user_id().as_str()), dns(name)]);
        let result = world.attack(&server, shown).await;
        assert_eq!(result.is_ok(), is_taken, "{name}");
    }
    server.refused(&[(Reason::Untrusted, 1)]).await;
}

/// A5.
#[tokio::test]
async fn a_chain_has_at_most_4_intermediates() {
    let world = World::new();
    let root = Forge::root();
    let server = world.greeter_believing(&root).await;
    let mut last = root;
    for depth in 1..=INTERMEDIATES_MAX + 1 {
        last = last.intermediate(&format!("depth {depth}"), |_| {});
        let is_taken = depth <= INTERMEDIATES_MAX;
        assert_eq!(world.attack(&server, last.leaf(|_| {})).await.is_ok(), is_taken, "{depth}");
    }
    server.refused(&[(Reason::Identity, 1)]).await;
}

/// A5.
#[tokio::test]
async fn a_certificate_has_at_most_64_names() {
    let world = World::new();
    let root = Forge::root();
    let server = world.greeter_believing(&root).await;
    let with = |names: usize| {
        root.leaf(|leaf| {
            let more = (1..names).map(|name| dns(&format!("{name:04}")));
            leaf.subject_alt_names.extend(more);
        })
    };
    let start = Instant::now();
    for names in [NAMES_MAX + 1, 10_000] {
        assert!(world.attack(&server, with(names)).await.is_err(), "{names}");
    }
    assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
    server.refused(&[(Reason::Identity, 2)]).await;
    world.attack(&server, with(NAMES_MAX)).await.unwrap();
}

/// A5.
#[tokio::test]
async fn a_certificate_has_at_most_16_kib() {
    let world = World::new();
    let root = Forge::root();
    let server = world.greeter_believing(&root).await;
    let with = |bytes: usize| {
        let shown = root.leaf(|leaf| leaf.custom_extensions = vec![ballast(bytes)]);
        (shown.chain[0].len(), shown)
    };
    // Lengths of signatures differ by a few bytes.
    let (overhead, _) = with(LEAF_BYTES_MAX);
    let overhead = overhead - LEAF_BYTES_MAX;
    let (len, fits) = with(LEAF_BYTES_MAX - overhead - 16);
    assert!((LEAF_BYTES_MAX - 40..=LEAF_BYTES_MAX).contains(&len), "{len}");
    let start = Instant::now();
    for bytes in [LEAF_BYTES_MAX - overhead + 16, 60_000, 100_000, 1_000_000] {
        assert!(world.attack(&server, with(bytes).1).await.is_err(), "{bytes}");
    }
    assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
    server.refused(&[(Reason::Identity, 4)]).await;
    world.attack(&server, fits).await.unwrap();
}
