//! Reading with patience, and in pieces.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use crate::{
    frame::Bad,
    object_store::{Error, Listing, ObjectKey, ObjectStore},
};

/// Bytes of one object that are in memory at once. The longest head and the longest frame are
/// shorter. Unit: bytes.
pub(super) const PIECE_LEN: u64 = 4 << 20;

/// Tries of one call, so that a store that is restarted or sheds load for some seconds is waited
/// for.
pub(super) const TRIES_MAX: u32 = 6;

/// Wait after the first try; twice as long after each other one.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Longest wait that a store may ask for.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// One try of one call.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// An object store that is asked again when it is not available.
#[derive(Clone, Debug)]
pub(super) struct Patient(pub(super) Arc<dyn ObjectStore>);

impl Patient {
    /// The part of an object in `range`, and the length of the whole. `None`: there is no such
    /// object.
    pub(super) async fn get(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<Option<(Bytes, u64)>, Error> {
        match again("get", key.as_str(), || self.0.get(key, range.clone())).await {
            Ok(object) => Ok(Some((object.bytes, object.total_len))),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> Result<Listing, Error> {
        again("list", prefix, || self.0.list(prefix, after)).await
    }
}

/// Calls until there is an answer that would not change by asking again, or no try left.
async fn again<T, F, Fut>(action: &'static str, key: &str, call: F) -> Result<T, Error>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    let timed = || async {
        let late = |_elapsed| Error::Unavailable {
            action,
            key: key.to_owned(),
            reason: format!("no answer within {} s", CALL_TIMEOUT.as_secs()),
            wait: None,
        };
        timeout(CALL_TIMEOUT, call()).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    };
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES_MAX {
        match timed().await {
            // As long as the store asks for, but not for ever.
            Err(Error::Unavailable { wait: advised, .. }) => {
                sleep(advised.unwrap_or_default().clamp(wait, WAIT_MAX)).await;
            }
            answer => return answer,
        }
        wait *= 2;
    }
    timed().await
}

/// What is made of a table of frames, and is opened one frame after the other.
pub(super) trait Framed: Send + Sync + 'static {
    /// What is known of the frames so far.
    type State: Send + 'static;

    /// Opens the next frame.
    fn open(&self, frame: usize, ciphertext: &[u8], state: &mut Self::State) -> Result<(), Bad>;

    /// Length of the object. Unit: bytes.
    fn total_len(&self) -> u64;
    fn frame_count(&self) -> usize;
    fn frame_range(&self, frame: usize) -> Option<Range<u64>>;
}

/// Some neighbouring frames that are read at once.
struct Group {
    frames: Range<usize>,
    /// Of the object. Unit: bytes.
    range: Range<u64>,
}

/// The frames from `first` on that fit into one piece; at least one. `None` behind the last one.
fn group<O: Framed>(object: &O, first: usize) -> Option<Group> {
    let mut range = object.frame_range(first)?;
    let mut end = first.checked_add(1)?;
    while let Some(next) = object.frame_range(end) {
        if next.end - range.start > PIECE_LEN {
            break;
        }
        range.end = next.end;
        end = end.checked_add(1)?;
    }
    Some(Group { frames: first..end, range })
}

/// The part of `bytes`, which begin at `start` of the object, that lies in `range` of the object.
fn part(bytes: &Bytes, start: u64, range: &Range<u64>) -> Option<Bytes> {
    let from = usize::try_from(range.start.checked_sub(start)?).ok()?;
    let to = usize::try_from(range.end.checked_sub(start)?).ok()?;
    (from <= to && to <= bytes.len()).then(|| bytes.slice(from..to))
}

/// Why an object was not opened to its end.
#[derive(Debug)]
pub(super) enum Stopped {
    /// It is not what was stored.
    Bad,
    /// It is not there any more.
    Gone,
    /// The store did not deliver it.
    Store(Error),
}

/// Opens all frames, in order, on threads that may block. `front` are the first bytes of the
/// object, which are not read again. Holds one piece and one frame of the object in memory.
pub(super) async fn open_frames<O: Framed>(
    store: &Patient,
    key: &ObjectKey,
    object: &Arc<O>,
    front: &Bytes,
    mut state: O::State,
) -> Result<O::State, Stopped> {
    let mut next = 0;
    while let Some(Group { frames, range }) = group(object.as_ref(), next) {
        let bytes = match part(front, 0, &range) {
            Some(bytes) => bytes,
            None => read_piece(store, key, &range, object.total_len()).await?,
        };
        next = frames.end;
        let object = Arc::clone(object);
        let opened = tokio::task::spawn_blocking(move || {
            for frame in frames {
                let place = object.frame_range(frame).ok_or(Bad)?;
                let ciphertext = part(&bytes, range.start, &place).ok_or(Bad)?;
                object.open(frame, &ciphertext, &mut state)?;
            }
            Ok(state)
        });
        // A blocking task is lost only by a panic, and the decoder has none to offer.
        state = opened.await.unwrap_or(Err(Bad)).map_err(|Bad| Stopped::Bad)?;
    }
    if next == object.frame_count() { Ok(state) } else { Err(Stopped::Bad) }
}

async fn read_piece(
    store: &Patient,
    key: &ObjectKey,
    range: &Range<u64>,
    total_len: u64,
) -> Result<Bytes, Stopped> {
    let read = store.get(key, range.clone()).await.map_err(Stopped::Store)?;
    let (bytes, found_len) = read.ok_or(Stopped::Gone)?;
    if found_len == total_len { Ok(bytes) } else { Err(Stopped::Bad) }
}
