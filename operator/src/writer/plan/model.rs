//! A small model of a cluster, in which the plan is followed through random trouble.
//!
//! The model has what matters to the plan: the Writer object with its version, the `StatefulSet`,
//! the Pod, the claim with its data, the key, and controllers that move them on. Each act has the
//! preconditions of the real one. Trouble comes between any two steps, also between deciding a step
//! and doing it.

mod world;

use proptest::prelude::*;

use super::*;
use world::{Event, HARMLESS, LOSSES, World};

/// An event, and perhaps one that comes between deciding and doing.
fn happening(events: Vec<Event>) -> impl Strategy<Value = (Event, Option<Event>)> {
    let event = proptest::sample::select(events);
    // Mostly the operator and the cluster work.
    let what = prop_oneof![
        4 => Just(Event::Operate),
        2 => Just(Event::Controllers),
        2 => event.clone(),
    ];
    (what, proptest::option::weighted(0.2, event))
}

fn follow(happenings: &[(Event, Option<Event>)]) -> World {
    let mut world = World::default();
    world.happen(Event::CreateWriter);
    for (event, meanwhile) in happenings {
        if *event == Event::Operate {
            world.operate(*meanwhile);
        } else {
            world.happen(*event);
        }
    }
    world
}

/// The user comes to rest: one Writer, not being deleted, of one replica.
fn settle_user(world: &mut World) {
    for event in [Event::Rejoin, Event::WantOne] {
        world.happen(event);
    }
    if world.writer.as_ref().is_some_and(|writer| writer.is_deleting) {
        world.streams = 0;
        world.rest();
        assert!(world.writer.is_none(), "it cannot be deleted: {:?}", world.done);
    }
    world.happen(Event::CreateWriter);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_lost_nothing_is_founded_or_destroyed_twice(
        happenings in proptest::collection::vec(
            happening([&HARMLESS[..], &LOSSES[..]].concat()), 0..120,
        )
    ) {
        let mut world = follow(&happenings);
        settle_user(&mut world);
        let last = world.rest();
        // It serves what it has always served, or asks for a person.
        prop_assert!(matches!(last, Some(Step::Stable | Step::Stop(_))), "{:?}", world.done);
    }

    #[test]
    fn with_a_healthy_volume_every_writer_becomes_stable(
        happenings in proptest::collection::vec(happening(HARMLESS.to_vec()), 0..120)
    ) {
        let mut world = follow(&happenings);
        settle_user(&mut world);
        prop_assert_eq!(world.rest(), Some(Step::Stable), "{:?}", world.done);
        let steps = world.done.len();
        world.operate(None);
        // At rest it looks after its children, and changes nothing.
        prop_assert_eq!(world.operate(None), Some(Step::Stable));
        prop_assert_eq!(&world.done[steps..], [Step::ApplyChildren, Step::Stable]);
    }
}

#[test]
fn a_new_writer_comes_up_in_this_order() {
    let mut world = World::default();
    world.happen(Event::CreateWriter);
    assert_eq!(world.rest(), Some(Step::Stable));
    let mut acts = world.done;
    acts.retain(|step| !matches!(step, Step::Wait(_) | Step::Stable | Step::ApplyChildren));
    let names: Vec<_> = acts.iter().map(|step| format!("{step:?}")).collect();
    let begins = ["NameCluster", "CreateKek", "Bootstrap", "StampClaim", "RecordMember"];
    assert_eq!(names.len(), begins.len(), "{names:?}");
    for (name, begin) in names.iter().zip(begins) {
        assert!(name.starts_with(begin), "{names:?}");
    }
    assert_eq!(world.bootstrapped.len(), 1);
}

/// When the operator dies: right before a step has its effect, or right after.
#[derive(Clone, Copy, Debug)]
enum Death {
    Before,
    After,
}

/// A new Writer after so many steps of the operator, with the controllers of the cluster going on
/// whenever it waits. `None` if that Writer is stable before.
fn alive_for(steps: usize) -> Option<World> {
    let mut world = World::default();
    world.happen(Event::CreateWriter);
    for _ in 0..steps {
        match world.operate(None) {
            Some(Step::Wait(_)) => world.happen(Event::Controllers),
            Some(Step::Stable) => return None,
            Some(_) => {}
            None => unreachable!("nobody deletes it"),
        }
    }
    Some(world)
}

/// It dies at each step of the way, and its successor comes at once, or finds that the cluster has
/// gone on without it.
#[test]
fn wherever_the_operator_dies_one_cluster_is_founded() {
    let lives = (0..).map_while(|steps| Some((steps, alive_for(steps)?)));
    let mut died_at = Vec::new();
    for (steps, world) in lives {
        died_at.extend(world.observe().map(|seen| plan(&seen)));
        for (death, is_late) in
            [Death::Before, Death::After].into_iter().flat_map(|d| [(d, false), (d, true)])
        {
            let mut world = world.clone();
            match death {
                Death::Before => {}
                Death::After => drop(world.operate(None)),
            }
            world.happen(Event::Crash);
            if is_late {
                world.happen(Event::Controllers);
            }
            let named = world.observe().and_then(|seen| seen.cluster_id);
            let what = format!("{death:?} step {steps}, late: {is_late}");
            assert_eq!(world.rest(), Some(Step::Stable), "{what}: {:?}", world.done);
            let seen = world.observe().expect("there is a Writer");
            let cluster_id = seen.cluster_id.expect("it has a name");
            assert_eq!(named.unwrap_or(cluster_id), cluster_id, "{what}: {:?}", world.done);
            assert_eq!(
                world.bootstrapped,
                [cluster_id.to_string()].into(),
                "{what}: {:?}",
                world.done
            );
            let claim = seen.claim.expect("it has a volume");
            assert_eq!(claim.stamp, Some(cluster_id.to_string()), "{what}: {:?}", world.done);
            let member = MemberSeen { node_id: 1, volume_uid: Some(claim.uid) };
            assert_eq!(seen.member, Some(member), "{what}: {:?}", world.done);
        }
    }
    let died_at: Vec<_> = died_at.iter().map(|step| format!("{step:?}")).collect();
    for step in
        ["NameCluster", "CreateKek", "ApplyChildren", "Bootstrap", "StampClaim", "RecordMember"]
    {
        assert!(died_at.iter().any(|died| died.starts_with(step)), "{step}: {died_at:?}");
    }
}

/// A volume that was never marked cannot hide that its key is gone.
#[test]
fn a_lost_key_of_a_kept_volume_is_never_replaced() {
    let mut world = World::default();
    world.happen(Event::CreateWriter);
    while !matches!(world.done.last(), Some(Step::RecordMember { .. })) {
        world.operate(None);
        world.happen(Event::Controllers);
    }
    world.happen(Event::DeleteWriter);
    world.happen(Event::LoseKek);
    world.happen(Event::CreateWriter);
    assert_eq!(world.rest(), Some(Step::Stop(Stop::KekLost)));
    assert_eq!(world.kek, None);
}

#[test]
fn the_model_notices_a_cluster_that_is_founded_twice() {
    let mut world = World::default();
    world.happen(Event::CreateWriter);
    assert_eq!(world.rest(), Some(Step::Stable));
    let seen = world.observe().expect("there is a Writer");
    let cluster_id = seen.cluster_id.expect("it has a name");
    let found =
        std::panic::AssertUnwindSafe(|| world.check(&seen, &Step::Bootstrap { cluster_id }));
    assert!(std::panic::catch_unwind(found).is_err());
}
