//! The driver on a thread of its own, and another one that makes spares.

use std::{
    io,
    sync::{Arc, PoisonError, mpsc},
    thread::JoinHandle,
};

use pyramid_telemetry::health::BEAT_EVERY;

use crate::wal::driver::{Driver, SpareMaker, Turn, make_spare};

/// Starts both threads. They end when the log stops or fails.
pub(crate) fn start(mut driver: Driver) -> io::Result<Vec<JoinHandle<()>>> {
    let (numbers, wanted) = mpsc::sync_channel(1);
    driver.spare_maker = SpareMaker::Thread(numbers);
    let (shared, disk) = (Arc::clone(&driver.shared), Arc::clone(&driver.disk));
    let spares = std::thread::Builder::new().name("wal-spares".to_owned()).spawn(move || {
        while let Ok(number) = wanted.recv() {
            let result = make_spare(&disk, &shared.config, number);
            shared.inner().spare = Some((number, result));
            shared.wake();
        }
    })?;
    let writer = std::thread::Builder::new().name("wal".to_owned()).spawn(move || run(driver))?;
    Ok(vec![writer, spares])
}

fn run(mut driver: Driver) {
    let shared = Arc::clone(&driver.shared);
    loop {
        let wake_at = match driver.turn(driver.opened_at.elapsed()) {
            Turn::Stopped => return,
            Turn::Idle(wake_at) => wake_at,
        };
        let inner = shared.inner();
        let is_quiet = |inner: &mut super::Inner| {
            inner.items.is_empty()
                && inner.spare.is_none()
                && (!inner.is_stopping || driver.stop_was_told)
        };
        // Also an idle thread shows now and then that it lives.
        let wait = wake_at
            .map_or(BEAT_EVERY, |at| at.saturating_sub(driver.opened_at.elapsed()).min(BEAT_EVERY));
        drop(
            shared
                .wake
                .wait_timeout_while(inner, wait, is_quiet)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}
