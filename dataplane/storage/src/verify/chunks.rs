//! One chunk object: is it the one that its name promises, from its first byte to its last?

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use pyramid_protocol::{Offset, StreamId};
use sha2::{Digest, Sha256};

use super::{
    keys::KeyTable,
    reading::{self, Framed, PIECE_LEN, Patient, Stopped},
    report::Kind,
};
use crate::{
    chunk::{Chunk, DIGEST_LEN, DigestChain, Header},
    frame::Bad,
    keys::StreamKey,
    object_names::{ChunkName, ObjectNames},
    object_store::{Error, ObjectKey},
};

/// Reads of an object before it is called damaged: bytes may be changed on the way, too.
const READS_MAX: u32 = 2;

/// What is authentic of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) next_offset: Offset,
    pub(super) epoch: u32,
    pub(super) generation: u32,
    pub(super) first_time_ms: u64,
    pub(super) last_time_ms: u64,
    pub(super) plain_bytes: u64,
    pub(super) total_len: u64,
    pub(super) digest_before: [u8; DIGEST_LEN],
    pub(super) digest_after: [u8; DIGEST_LEN],
    pub(super) head_sha256: [u8; 32],
}

/// An object that claims to hold a range of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) key: ObjectKey,
    pub(super) name: ChunkName,
    /// Set if the head is authentic and is that of this name; frames may still be damaged.
    pub(super) facts: Option<Facts>,
    /// What is wrong with it.
    pub(super) problem: Option<Kind>,
    /// Where a head that is not authentic says that it ends: better than nothing, for people.
    pub(super) claimed_next: Option<Offset>,
}

/// What all checks of one run share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) store: Patient,
    pub(super) names: ObjectNames,
    pub(super) keys: KeyTable,
}

/// One attempt.
struct Attempt {
    facts: Option<Facts>,
    problem: Option<Kind>,
    claimed_next: Option<Offset>,
}

impl Attempt {
    fn bad(problem: Kind, claimed_next: Option<Offset>) -> Self {
        Self { facts: None, problem: Some(problem), claimed_next }
    }
}

/// Checks the chunk `name`, which lies under `key`. `None`: it was removed meanwhile.
pub(super) async fn check(context: &Context, key: ObjectKey, name: ChunkName) -> Option<Candidate> {
    let mut read = 1;
    loop {
        let attempt = attempt(context, &key, &name).await?;
        let is_damaged = matches!(attempt.problem, Some(Kind::Damaged | Kind::UnknownVersion));
        if !is_damaged || read == READS_MAX {
            let Attempt { facts, problem, claimed_next } = attempt;
            return Some(Candidate { key, name, facts, problem, claimed_next });
        }
        read += 1;
    }
}

async fn attempt(context: &Context, key: &ObjectKey, name: &ChunkName) -> Option<Attempt> {
    let (front, total_len) = match context.store.get(key, 0..PIECE_LEN).await {
        Ok(read) => read?,
        Err(error) => return Some(Attempt::bad(unreadable(&error), None)),
    };
    let (chunk, stream_key) = match open_head(context, name, &front) {
        Ok(opened) => opened,
        Err(problem) => return Some(Attempt::bad(problem, claimed_next(name, &front))),
    };
    let facts = facts(&chunk, &front);
    let mut found = Attempt { facts, problem: None, claimed_next: None };
    let header = chunk.header().clone();
    if header.total_len != total_len {
        found.problem = Some(Kind::Damaged);
        return Some(found);
    }
    let digest = DigestChain::new(&stream_key, header.digest_before);
    let opened = reading::open_frames(&context.store, key, &Arc::new(chunk), &front, digest).await;
    found.problem = match opened {
        Ok(digest) if digest.digest() == header.digest_after => None,
        Ok(_) | Err(Stopped::Bad) => Some(Kind::Damaged),
        Err(Stopped::Store(error)) => Some(unreadable(&error)),
        Err(Stopped::Gone) => return None,
    };
    Some(found)
}

impl Framed for Chunk {
    type State = DigestChain;

    /// Tag, cipher, compression, checksums, places and times are [`Chunk::open_frame`]'s.
    fn open(&self, frame: usize, ciphertext: &[u8], digest: &mut DigestChain) -> Result<(), Bad> {
        let batches = self.open_frame(frame, ciphertext).map_err(|_damaged| Bad)?;
        batches.iter().for_each(|batch| digest.push(batch));
        Ok(())
    }

    fn total_len(&self) -> u64 {
        self.header().total_len
    }

    fn frame_count(&self) -> usize {
        self.frame_count()
    }

    fn frame_range(&self, frame: usize) -> Option<Range<u64>> {
        self.frame_range(frame)
    }
}

/// The store's error as a finding.
pub(super) fn unreadable(error: &Error) -> Kind {
    Kind::Unreadable { reason: error.to_string() }
}

/// Opens the head with a key of the stream that the name names, or tells what else it is.
fn open_head(
    context: &Context,
    name: &ChunkName,
    front: &[u8],
) -> Result<(Chunk, StreamKey), Kind> {
    let Context { names, keys, .. } = context;
    let Ok(header) = Header::decode(front) else {
        let is_newer = Header::is_of_another_version(front);
        return Err(if is_newer { Kind::UnknownVersion } else { Kind::Damaged });
    };
    let open = |stream_id: StreamId| {
        keys.of(stream_id)
            .iter()
            .find_map(|key| Chunk::open("", key, front).ok().map(|chunk| (chunk, key.clone())))
    };
    if let Some(opened) = open(name.stream_id) {
        let is_named = header.cluster_id == names.cluster_id()
            && header.stream_id == name.stream_id
            && header.base_offset == name.base_offset
            && header.intent == name.intent;
        return if is_named { Ok(opened) } else { Err(Kind::Misplaced) };
    }
    // The wrap of the chunk key tells for whom it was made; what else the header says is not
    // authentic.
    let own = keys.of(name.stream_id).iter().any(|key| key.unwrap(&header.wrapped_key).is_some());
    if own {
        Err(Kind::Damaged)
    } else if header.stream_id != name.stream_id && open(header.stream_id).is_some() {
        Err(Kind::Misplaced)
    } else if header.cluster_id != names.cluster_id() {
        Err(Kind::Foreign)
    } else {
        Err(Kind::Damaged)
    }
}

fn facts(chunk: &Chunk, front: &Bytes) -> Option<Facts> {
    let header = chunk.header();
    let head_len = usize::try_from(chunk.frame_range(0)?.start).ok()?;
    Some(Facts {
        next_offset: header.next_offset,
        epoch: header.epoch,
        generation: header.generation,
        first_time_ms: header.first_time_ms,
        last_time_ms: header.last_time_ms,
        plain_bytes: header.plain_bytes,
        total_len: header.total_len,
        digest_before: header.digest_before,
        digest_after: header.digest_after,
        head_sha256: Sha256::digest(front.get(..head_len)?).into(),
    })
}

fn claimed_next(name: &ChunkName, front: &[u8]) -> Option<Offset> {
    let header = Header::decode(front).ok()?;
    (header.base_offset == name.base_offset).then_some(header.next_offset)
}
