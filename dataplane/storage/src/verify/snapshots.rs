//! One snapshot object: every byte of it is authentic. What it holds is the Writer's.

use std::{ops::Range, sync::Arc};

use super::{
    chunks::unreadable,
    reading::{self, Framed, PIECE_LEN, Patient, Stopped},
    report::Kind,
};
use crate::{
    frame::Bad,
    keys::Keks,
    object_names::ObjectNames,
    object_store::ObjectKey,
    sealed_object::{self, Kind as SealedKind, Name, OpenError, Sealed},
};

/// What is wrong with the snapshot of this place of the log. `None`: nothing, or it was removed
/// meanwhile.
pub(super) async fn check(
    store: &Patient,
    names: &ObjectNames,
    keks: &Keks,
    key: &ObjectKey,
    (index, term): (u64, u64),
) -> Option<Kind> {
    let front = match front(store, key).await {
        Ok(front) => front?,
        Err(problem) => return Some(problem),
    };
    let name =
        Name { kind: SealedKind::Snapshot, cluster_id: names.cluster_id(), ident: [index, term] };
    let object = match Sealed::open(&name, &front.bytes, keks) {
        Ok(object) => object,
        Err(OpenError::UnknownKek { kek_id }) => {
            return Some(Kind::WrongKek { kek_id, is_known: false });
        }
        Err(OpenError::WrongKek { kek_id }) => {
            return Some(Kind::WrongKek { kek_id, is_known: true });
        }
        Err(OpenError::Damaged) => return Some(misfit(&name, &front.bytes)),
    };
    if object.total_len() != front.total_len {
        return Some(Kind::Damaged);
    }
    match reading::open_frames(store, key, &Arc::new(object), &front.bytes, ()).await {
        Ok(()) | Err(Stopped::Gone) => None,
        Err(Stopped::Bad) => Some(Kind::Damaged),
        Err(Stopped::Store(error)) => Some(unreadable(&error)),
    }
}

/// The first bytes of an object.
struct Front {
    bytes: bytes::Bytes,
    total_len: u64,
}

/// One piece, or the whole head if that is longer: the table of a large snapshot is.
async fn front(store: &Patient, key: &ObjectKey) -> Result<Option<Front>, Kind> {
    let get = async |len| store.get(key, 0..len).await.map_err(|error| unreadable(&error));
    let Some((bytes, total_len)) = get(PIECE_LEN).await? else { return Ok(None) };
    let head_len = Sealed::head_len(&bytes).and_then(|len| u64::try_from(len).ok());
    match head_len {
        Some(len) if len > PIECE_LEN && len <= total_len => {
            Ok(get(len).await?.map(|(bytes, total_len)| Front { bytes, total_len }))
        }
        Some(_) | None => Ok(Some(Front { bytes, total_len })),
    }
}

fn misfit(expected: &Name, bytes: &[u8]) -> Kind {
    if sealed_object::is_of_another_version(bytes) {
        return Kind::UnknownVersion;
    }
    match sealed_object::claims(bytes) {
        Some((name, _)) if name.cluster_id != expected.cluster_id => Kind::Foreign,
        Some(_) | None => Kind::Damaged,
    }
}

impl Framed for Sealed {
    type State = ();

    fn open(&self, frame: usize, ciphertext: &[u8], (): &mut ()) -> Result<(), Bad> {
        self.open_frame(frame, ciphertext).map(|_content| ()).map_err(|_damaged| Bad)
    }

    fn total_len(&self) -> u64 {
        self.total_len()
    }

    fn frame_count(&self) -> usize {
        self.frame_count()
    }

    fn frame_range(&self, frame: usize) -> Option<Range<u64>> {
        self.frame_range(frame)
    }
}
