//! One run: key objects first, then all others in the order of their keys, a few at once.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use pyramid_protocol::{Offset, StreamId};
use tokio::task::JoinSet;

use super::{
    Error, Expected, Options, Progress, chain,
    chunks::{self, Candidate, Context, unreadable},
    keys::{KeyTable, ReadKeyObject},
    reading::Patient,
    record::{Record, sort},
    report::{Finding, Kind, Note, NoteKind, Report, Span, StreamLabel},
    snapshots,
};
use crate::{
    cluster_file::{self, ClusterFile},
    key_object::KEY_OBJECT_BYTES_MAX,
    keys::Keks,
    object_names::ObjectNames,
    object_store::{Listed, ObjectKey, ObjectStore},
};

/// See [`super::verify`].
pub(super) async fn run(
    store: Arc<dyn ObjectStore>,
    names: &ObjectNames,
    keks: &Keks,
    options: &Options,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Report, Error> {
    let store = Patient(store);
    let mut record = Record::new(names.cluster_id(), progress);
    let cluster_file_is_there = check_cluster_file(&store, names, &mut record).await?;
    let keys = read_keys(&store, names, keks, options, &mut record).await?;
    let wanted = wanted(&keys, options)?;
    for (stream_id, stream) in keys.iter() {
        if wanted.as_ref().is_none_or(|wanted| wanted.contains(&stream_id)) {
            record.keys_of(&keys.label(stream_id), stream);
        }
    }
    let context = Arc::new(Context { store, names: names.clone(), keys });
    let mut run = Run {
        context,
        keks: keks.clone(),
        options,
        record,
        tasks: JoinSet::new(),
        open: BTreeMap::new(),
        done: BTreeSet::new(),
    };
    match &wanted {
        None => run.all_objects().await?,
        Some(wanted) => {
            for stream_id in wanted {
                run.objects_below(&names.chunks_prefix(*stream_id)).await?;
            }
        }
    }
    run.finish(wanted.as_ref(), cluster_file_is_there).await
}

/// Returns whether there is one.
async fn check_cluster_file(
    store: &Patient,
    names: &ObjectNames,
    record: &mut Record<'_>,
) -> Result<bool, Error> {
    let key = names.cluster_file();
    let bytes = match store.get(&key, 0..cluster_file::BYTES_MAX).await {
        Ok(Some((bytes, total_len))) => {
            record.looked_at(total_len);
            bytes
        }
        Ok(None) => {
            record.find_object(&key, Kind::MissingClusterFile);
            return Ok(false);
        }
        Err(error) => {
            let problem = unreadable(&error);
            record.count_unreadable(Some(&problem))?;
            record.find_object(&key, problem);
            return Ok(true);
        }
    };
    match ClusterFile::decode(&bytes) {
        Some(file) if file.cluster_id == names.cluster_id() => {
            record.report.epoch = Some(file.epoch);
        }
        Some(_) => record.find_object(&key, Kind::Foreign),
        None if ClusterFile::is_of_another_format(&bytes) => {
            record.find_object(&key, Kind::UnknownVersion);
        }
        None => record.find_object(&key, Kind::Damaged),
    }
    Ok(true)
}

/// Reads and opens all key objects, a few at once.
async fn read_keys(
    store: &Patient,
    names: &ObjectNames,
    keks: &Keks,
    options: &Options,
    record: &mut Record<'_>,
) -> Result<KeyTable, Error> {
    let mut objects = Vec::new();
    let mut tasks: JoinSet<Option<(ReadKeyObject, u64)>> = JoinSet::new();
    let mut take = |read: Option<(ReadKeyObject, u64)>, record: &mut Record<'_>| {
        let Some((object, len)) = read else { return Ok(()) };
        record.looked_at(len);
        record.count_unreadable(object.bytes.as_ref().err())?;
        objects.push(object);
        Ok(())
    };
    let mut pages = Pages::new(names.all_key_objects_prefix());
    while let Some(Listed { key, len }) = pages.next(store).await? {
        // The listing of all objects names what has another name.
        let Some(stream_id) = names.parse_key_object(&key) else { continue };
        if tasks.len() >= options.parallel.max(1)
            && let Some(read) = tasks.join_next().await
        {
            take(read.ok().flatten(), record)?;
        }
        let store = store.clone();
        tasks.spawn(async move {
            // One more than there can be, so that a longer one is noticed.
            let bytes = match store.get(&key, 0..KEY_OBJECT_BYTES_MAX + 1).await {
                Ok(Some((bytes, _))) => Ok(bytes),
                Ok(None) => return None,
                Err(error) => Err(unreadable(&error)),
            };
            Some((ReadKeyObject { key, stream_id, bytes }, len))
        });
    }
    while let Some(read) = tasks.join_next().await {
        take(read.ok().flatten(), record)?;
    }
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(KeyTable::open(objects, names, keks))
}

/// The streams of the names that were asked for. `None`: all.
fn wanted(keys: &KeyTable, options: &Options) -> Result<Option<BTreeSet<StreamId>>, Error> {
    if options.streams.is_empty() {
        return Ok(None);
    }
    let mut wanted = BTreeSet::new();
    for name in &options.streams {
        let stored = keys.iter().filter(|(_, stream)| stream.name.as_ref() == Some(name));
        let known = options.writer.iter().flat_map(|writer| &writer.streams);
        let known = known.filter(|(_, stream)| stream.name == *name).map(|(id, _)| *id);
        let found: Vec<_> = stored.map(|(id, _)| id).chain(known).collect();
        if found.is_empty() {
            return Err(Error::NoStream { name: name.clone() });
        }
        wanted.extend(found);
    }
    Ok(Some(wanted))
}

/// Objects page by page.
struct Pages {
    prefix: String,
    page: VecDeque<Listed>,
    after: Option<ObjectKey>,
    more: bool,
}

impl Pages {
    fn new(prefix: String) -> Self {
        Self { prefix, page: VecDeque::new(), after: None, more: true }
    }

    async fn next(&mut self, store: &Patient) -> Result<Option<Listed>, Error> {
        while self.page.is_empty() && self.more {
            let listing = store.list(&self.prefix, self.after.as_ref()).await;
            let listing = listing.map_err(Error::Store)?;
            self.more = listing.more && !listing.objects.is_empty();
            self.page = listing.objects.into();
            self.after = self.page.back().map(|last| last.key.clone()).or(self.after.take());
        }
        Ok(self.page.pop_front())
    }
}

/// What one task has found.
enum Checked {
    Chunk(StreamId, Option<Box<Candidate>>),
    Snapshot(ObjectKey, Option<Kind>),
}

/// A stream whose chunks are being read.
#[derive(Default)]
struct Open {
    candidates: Vec<Candidate>,
    outstanding: u64,
    /// The listing is past it.
    is_listed: bool,
}

struct Run<'a, 'p> {
    context: Arc<Context>,
    keks: Keks,
    options: &'a Options,
    record: Record<'p>,
    tasks: JoinSet<(Checked, u64)>,
    open: BTreeMap<StreamId, Open>,
    /// Streams that are judged.
    done: BTreeSet<StreamId>,
}

impl Run<'_, '_> {
    async fn all_objects(&mut self) -> Result<(), Error> {
        let prefix = self.context.names.root_prefix();
        self.objects_below(&prefix).await
    }

    async fn objects_below(&mut self, prefix: &str) -> Result<(), Error> {
        let mut pages = Pages::new(prefix.to_owned());
        let mut current = None;
        while let Some(listed) = pages.next(&self.context.store).await? {
            let names = &self.context.names;
            if let Some(name) = names.parse_chunk(&listed.key) {
                // Keys of one stream are neighbours.
                if current != Some(name.stream_id) {
                    self.listed(current.replace(name.stream_id));
                }
                self.chunk(listed, name).await?;
            } else if let Some(place) = names.parse_snapshot(&listed.key) {
                self.snapshot(listed, place).await?;
            } else if names.parse_key_object(&listed.key).is_none()
                && listed.key != names.cluster_file()
            {
                self.record.looked_at(listed.len);
                self.record.find_object(&listed.key, Kind::Foreign);
            }
        }
        self.listed(current);
        Ok(())
    }

    async fn chunk(
        &mut self,
        listed: Listed,
        name: crate::object_names::ChunkName,
    ) -> Result<(), Error> {
        let Listed { key, len } = listed;
        let stream_id = name.stream_id;
        if self.context.keys.of(stream_id).is_empty() {
            // Nothing opens it, and that is said once, of the stream.
            self.record.looked_at(len);
            let lost = Candidate {
                key,
                name,
                facts: None,
                problem: Some(Kind::MissingKey),
                claimed_next: None,
            };
            let open = self.open.entry(stream_id).or_default();
            if open.candidates.is_empty() {
                open.candidates.push(lost);
            }
            return Ok(());
        }
        self.make_room().await?;
        self.open.entry(stream_id).or_default().outstanding += 1;
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            let candidate = chunks::check(&context, key, name).await.map(Box::new);
            (Checked::Chunk(stream_id, candidate), len)
        });
        Ok(())
    }

    async fn snapshot(&mut self, listed: Listed, place: (u64, u64)) -> Result<(), Error> {
        let Listed { key, len } = listed;
        self.make_room().await?;
        let (context, keks) = (Arc::clone(&self.context), self.keks.clone());
        self.tasks.spawn(async move {
            let Context { store, names, .. } = &*context;
            let problem = snapshots::check(store, names, &keks, &key, place).await;
            (Checked::Snapshot(key, problem), len)
        });
        Ok(())
    }

    /// Waits until one more object may be read.
    async fn make_room(&mut self) -> Result<(), Error> {
        while self.tasks.len() >= self.options.parallel.max(1) {
            self.take_next().await?;
        }
        Ok(())
    }

    async fn take_next(&mut self) -> Result<(), Error> {
        let Some(checked) = self.tasks.join_next().await else { return Ok(()) };
        // A task is lost only by a panic or when the runtime ends.
        let (checked, len) = checked.map_err(|lost| Error::GaveUp { reason: lost.to_string() })?;
        self.record.looked_at(len);
        match checked {
            Checked::Snapshot(key, problem) => {
                self.record.count_unreadable(problem.as_ref())?;
                if let Some(problem) = problem {
                    self.record.find_object(&key, problem);
                }
            }
            Checked::Chunk(stream_id, candidate) => {
                let problem = candidate.as_ref().and_then(|found| found.problem.as_ref());
                self.record.count_unreadable(problem)?;
                let open = self.open.entry(stream_id).or_default();
                open.outstanding -= 1;
                open.candidates.extend(candidate.map(|candidate| *candidate));
                self.judge_if_read(stream_id);
            }
        }
        Ok(())
    }

    fn listed(&mut self, stream_id: Option<StreamId>) {
        let Some(stream_id) = stream_id else { return };
        self.open.entry(stream_id).or_default().is_listed = true;
        self.judge_if_read(stream_id);
    }

    fn judge_if_read(&mut self, stream_id: StreamId) {
        let is_read =
            self.open.get(&stream_id).is_some_and(|open| open.is_listed && open.outstanding == 0);
        if is_read && let Some(open) = self.open.remove(&stream_id) {
            self.judge(stream_id, open.candidates);
        }
    }

    fn judge(&mut self, stream_id: StreamId, candidates: Vec<Candidate>) {
        self.done.insert(stream_id);
        let expected = self.expected(stream_id).cloned();
        let mut label = self.context.keys.label(stream_id);
        if label.name.is_none() {
            label.name = expected.as_ref().map(|expected| expected.name.clone());
        }
        if self.context.keys.of(stream_id).is_empty() && !candidates.is_empty() {
            self.without_key(&label, &candidates, expected.as_ref());
            return;
        }
        let outcome = chain::chain(&label, candidates, expected.as_ref());
        outcome.findings.into_iter().for_each(|finding| self.record.find(finding));
        outcome.notes.into_iter().for_each(|note| self.record.note(note));
        self.record.report.streams.push(outcome.total);
    }

    fn expected(&self, stream_id: StreamId) -> Option<&Expected> {
        self.options.writer.as_ref()?.streams.get(&stream_id)
    }

    /// Chunks that nothing opens.
    fn without_key(
        &mut self,
        label: &StreamLabel,
        candidates: &[Candidate],
        expected: Option<&Expected>,
    ) {
        if self.context.keys.holds(label.id) {
            // The key object is a finding already.
            return;
        }
        let from = candidates.first().map_or(Offset::START, |first| first.name.base_offset);
        let (stream, offsets) = (Some(label.clone()), Some(Span { from, to: None }));
        let object = None;
        if self.options.writer.is_some() && expected.is_none() {
            let kind = NoteKind::DeletedStream;
            self.record.note(Note { kind, object, stream, offsets });
        } else {
            self.record.find(Finding { kind: Kind::MissingKey, object, stream, offsets });
        }
    }

    async fn finish(
        mut self,
        wanted: Option<&BTreeSet<StreamId>>,
        cluster_file_is_there: bool,
    ) -> Result<Report, Error> {
        while !self.tasks.is_empty() {
            self.take_next().await?;
        }
        // Streams without a single chunk: nothing of them may be missing.
        let known: BTreeSet<StreamId> = self.context.keys.iter().map(|(id, _)| id).collect();
        let of_writer = self.options.writer.iter().flat_map(|writer| writer.streams.keys());
        let all: BTreeSet<StreamId> = known.iter().chain(of_writer).copied().collect();
        for stream_id in all {
            if self.done.contains(&stream_id)
                || wanted.is_some_and(|wanted| !wanted.contains(&stream_id))
            {
                continue;
            }
            let has_shipped = self
                .expected(stream_id)
                .is_some_and(|expected| expected.first_offset < expected.shipped_offset);
            if known.contains(&stream_id) || has_shipped {
                self.judge(stream_id, Vec::new());
            }
        }
        let Record { mut report, .. } = self.record;
        if report.objects == 0 && !cluster_file_is_there {
            let prefix = self.context.names.root_prefix();
            return Err(Error::NothingThere { prefix });
        }
        sort(&mut report);
        Ok(report)
    }
}
