//! As one task on a paused clock, as a simulation runs it.

use std::time::Duration;

use bytes::Bytes;
use pyramid_writer::{
    disk::OperationKind,
    wal::{Error, Fatal, LogEntry, LogId},
};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};

use super::workload::{new_disk, open};

fn entry(index: u64) -> LogEntry {
    LogEntry { id: LogId { term: 1, index }, payload: Bytes::from_static(b"payload") }
}

#[tokio::test(start_paused = true)]
async fn a_task_flushes_writes_the_idle_block_and_then_rests() {
    let disk = new_disk();
    let (wal, _, driver) = open(&disk).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    let mut flushed = wal.flushed();
    let (told, was_told) = oneshot::channel();
    let began = Instant::now();
    wal.append(vec![entry(1)], Box::new(move |result| told.send(result.is_ok()).unwrap())).unwrap();
    assert!(was_told.await.unwrap());
    flushed.wait_for(|last| *last == Some(entry(1).id)).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "no timer delays a flush");

    let writes = || {
        let trace = disk.trace().into_iter();
        trace.filter(|op| op.kind == OperationKind::Write && op.path.starts_with("wal/0")).count()
    };
    let before = writes();
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(writes(), before);
    for _ in 0..100 {
        tokio::time::advance(Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(writes(), before + 1, "one idle block, then nothing");

    drop((wal, flushed));
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_told_to_everybody_who_waits() {
    let disk = new_disk();
    let (wal, _, driver) = open(&disk).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    tokio::task::yield_now().await;
    disk.fail_at(disk.operations() + 1, std::io::ErrorKind::Other);
    let (told, was_told) = oneshot::channel();
    wal.append(vec![entry(1)], Box::new(move |result| told.send(result.is_err()).unwrap()))
        .unwrap();
    let fatal = wal.fatal().await;
    assert!(was_told.await.unwrap());
    assert!(matches!(&fatal, Fatal::Io { action: "sync", .. }), "{fatal}");
    assert_eq!(*wal.flushed().borrow(), None);
    let refused = wal.append(vec![entry(2)], Box::new(|_| ()));
    assert!(matches!(refused, Err(Error::Stopped)));
    tasks.join_next().await.unwrap().unwrap();
    assert!(wal.close().is_err());
}
