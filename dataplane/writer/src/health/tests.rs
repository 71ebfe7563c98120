use pyramid_telemetry::health::STILL_MAX;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A replica that leads and serves, and of which everything has just moved.
const WELL: Seen = Seen {
    stage: Stage::Serving,
    recovery_still: Duration::ZERO,
    runtime_still: Duration::ZERO,
    raft_still: Some(Duration::ZERO),
    disk_still: Some(Duration::ZERO),
    leader_lost: Some(Duration::ZERO),
    behind: 0,
};

/// Nothing that a restart cannot mend.
const UNLUCKY: Seen = Seen { leader_lost: None, behind: u64::MAX, ..WELL };

fn answers(seen: Seen) -> [bool; 3] {
    [started(&seen).is_ok(), alive(&seen).is_ok(), ready(&seen).is_ok()]
}

#[test]
fn each_stage_has_its_answers() {
    let table = [
        (Stage::Empty, [true, true, false]),
        (Stage::Recovering, [true, true, false]),
        (Stage::Recovered, [true, true, false]),
        (Stage::Serving, [true, true, true]),
        (Stage::Stopping, [true, true, false]),
    ];
    for (stage, expected) in table {
        assert_eq!(answers(Seen { stage, ..WELL }), expected, "{stage:?}");
    }
}

#[test]
fn a_start_counts_while_it_moves_and_once_it_is_over() {
    let still = |stage, recovery_still| started(&Seen { stage, recovery_still, ..WELL });
    assert_eq!(still(Stage::Recovering, STILL_MAX), Ok(()));
    let expected = Err("the start has not moved for 61 s".to_owned());
    assert_eq!(still(Stage::Recovering, STILL_MAX + SECOND), expected);
    for stage in [Stage::Empty, Stage::Recovered, Stage::Serving, Stage::Stopping] {
        assert_eq!(still(stage, STILL_MAX + SECOND), Ok(()), "{stage:?}");
    }
}

#[test]
fn a_thread_that_is_still_for_too_long_is_dead() {
    let late = STILL_MAX + SECOND;
    let parts = [
        ("the runtime", Seen { runtime_still: late, ..WELL }),
        ("the thread of Raft", Seen { raft_still: Some(late), ..WELL }),
        ("the thread of the write-ahead log", Seen { disk_still: Some(late), ..WELL }),
    ];
    for (part, seen) in parts {
        assert_eq!(alive(&seen), Err(format!("{part} has not moved for 61 s")));
    }
    let just = Seen {
        runtime_still: STILL_MAX,
        raft_still: Some(STILL_MAX),
        disk_still: Some(STILL_MAX),
        ..WELL
    };
    assert_eq!(alive(&just), Ok(()));
    assert_eq!(alive(&Seen { raft_still: None, disk_still: None, ..WELL }), Ok(()));
}

#[test]
fn what_a_restart_cannot_mend_is_no_reason_for_one() {
    assert_eq!(answers(UNLUCKY), [true, true, false]);
    let replays = Seen { stage: Stage::Recovering, ..UNLUCKY };
    assert_eq!(answers(replays), [true, true, false]);
}

#[test]
fn a_lost_leader_is_forgiven_for_ten_seconds() {
    let lost = |leader_lost| ready(&Seen { leader_lost, ..WELL });
    assert_eq!(lost(Some(LEADER_LOSS_MAX)), Ok(()));
    let expected = Err("no leader is known for 11 s".to_owned());
    assert_eq!(lost(Some(LEADER_LOSS_MAX + SECOND)), expected);
    assert_eq!(lost(None), Err("no leader is known".to_owned()));
}

#[test]
fn a_replica_may_be_ten_thousand_entries_behind() {
    let behind = |behind| ready(&Seen { behind, ..WELL });
    assert_eq!(behind(10_000), Ok(()));
    assert_eq!(behind(10_001), Err("it is 10001 entries behind".to_owned()));
}
