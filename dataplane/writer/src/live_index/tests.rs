use pyramid_protocol::{Entropy, SeededEntropy};

use super::*;
use crate::entry::LogId;

const STREAMS: u64 = 3;

fn id(id: u64) -> StreamId {
    StreamId::new(id).unwrap()
}

fn applied(index: u64, written: Vec<Written>, change: Option<Change>) -> Applied {
    Applied {
        at: LogId { term: 1, index },
        voided: false,
        outcomes: vec![],
        control: None,
        written,
        grown: vec![],
        change,
    }
}

fn written(stream: u64, op: u32, base: u64, record_count: u32, len_bytes: u32) -> Written {
    let (stream_id, base) = (id(stream), Offset::new(base));
    Written { stream_id, op, base, record_count, len_bytes, time_ms: 1000 + base.get() }
}

/// One batch of two records and 20 bytes an entry, from entry 1 on.
fn index_of(batches: u64) -> LiveIndex {
    let mut live = LiveIndex::default();
    for number in 0..batches {
        live.apply(&applied(number + 1, vec![written(1, 0, number * 2, 2, 20)], None));
    }
    live
}

fn sealed(next: u64) -> Option<Change> {
    Some(Change::Sealed { stream_id: id(1), intent: 0, next: Offset::new(next) })
}

fn shipped(next: u64) -> Option<Change> {
    Some(Change::Shipped { stream_id: id(1), next: Offset::new(next) })
}

#[test]
fn a_record_is_found_in_its_batch() {
    // Around the edges of a block of 128 batches.
    for batches in [1, 2, 127, 128, 129, 257] {
        let live = index_of(batches);
        for offset in 0..batches * 2 {
            let batch = live.batch_at(id(1), Offset::new(offset)).unwrap();
            let number = offset / 2;
            let expected = LiveBatch {
                base: Offset::new(number * 2),
                record_count: 2,
                index: number + 1,
                op: 0,
                time_ms: 1000 + number * 2,
                len_bytes: 20,
            };
            assert_eq!(batch, expected, "{offset} of {batches} batches");
            assert_eq!(live.is_border(id(1), Offset::new(offset)), Some(offset % 2 == 0));
        }
        let end = Offset::new(batches * 2);
        assert_eq!(live.batch_at(id(1), end), None);
        assert_eq!(live.is_border(id(1), end), Some(true));
        assert_eq!(live.is_border(id(1), Offset::new(batches * 2 + 1)), None);
        assert_eq!(live.batch_at(id(2), Offset::START), None);
    }
}

#[test]
fn a_range_to_seal_has_about_a_million_batches_and_no_more() {
    let most = u64::try_from(SEAL_BLOCKS_MAX).unwrap() * 128;
    let live = index_of(most + 200);
    let first = live.seal_range(id(1), u64::MAX).unwrap();
    assert_eq!((first.base.get(), first.len_bytes * 2), (0, first.next.get() * 20));
    // The block in which the bound falls is looked at as a whole.
    assert!((most - 128..=most).contains(&(first.next.get() / 2)), "{first:?}");
    let fits = index_of(most - 128);
    let all = SealRange {
        base: Offset::START,
        next: Offset::new((most - 128) * 2),
        len_bytes: (most - 128) * 20,
    };
    assert_eq!(fits.seal_range(id(1), u64::MAX), Some(all));
}

#[test]
fn a_range_to_seal_has_whole_batches_and_at_least_one() {
    let mut live = index_of(300);
    let range = |base, next, len_bytes| {
        Some(SealRange { base: Offset::new(base), next: Offset::new(next), len_bytes })
    };
    for (bytes_max, batches) in
        [(0, 1), (19, 1), (20, 1), (39, 1), (40, 2), (59, 2), (u64::MAX, 300)]
    {
        assert_eq!(live.seal_range(id(1), bytes_max), range(0, batches * 2, batches * 20));
    }
    live.apply(&applied(301, vec![], sealed(598)));
    assert_eq!(live.seal_range(id(1), 1000), range(598, 600, 20));
    let unsealed =
        Unsealed { base: Offset::new(598), next: Offset::new(600), len_bytes: 20, oldest_ms: 1598 };
    assert_eq!(live.unsealed(id(1)), Some(unsealed));
    assert_eq!(live.all_unsealed().collect::<Vec<_>>(), [(id(1), unsealed)]);
    live.apply(&applied(302, vec![], sealed(600)));
    assert_eq!((live.seal_range(id(1), 1000), live.unsealed(id(1))), (None, None));
    assert_eq!(live.all_unsealed().count(), 0);
    // Sealed is still live.
    assert_eq!((live.live_bytes(id(1)), live.len_bytes()), (6000, 6000));
    live.apply(&applied(303, vec![written(1, 0, 600, 1, 5)], None));
    assert_eq!(live.seal_range(id(1), 0), range(600, 601, 5));
}

#[test]
fn what_is_shipped_or_deleted_is_forgotten() {
    let mut live = index_of(300);
    live.apply(&applied(301, vec![written(2, 0, 0, 1, 7)], None));
    assert_eq!(live.oldest_index(), Some(1));
    live.apply(&applied(302, vec![], sealed(600)));
    let mut memory = live.memory_bytes();
    // Blocks of 128 batches, so of 256 records, go as soon as nothing in them is live.
    for (next, left, blocks) in
        [(2, 299, 3), (254, 173, 3), (256, 172, 2), (258, 171, 2), (512, 44, 1), (598, 1, 1)]
    {
        live.apply(&applied(303, vec![], shipped(next)));
        assert_eq!(live.live_from(id(1)), Some(Offset::new(next)));
        assert_eq!(live.batch_at(id(1), Offset::new(next - 1)), None);
        assert_eq!(live.batches(id(1), Offset::START).count(), left);
        assert_eq!(live.live_bytes(id(1)), left as u64 * 20);
        assert_eq!(live.len_bytes(), left as u64 * 20 + 7);
        assert_eq!(live.streams[&id(1)].blocks.len(), blocks);
        assert!(live.memory_bytes() <= memory);
        memory = live.memory_bytes();
    }
    assert_eq!(live.oldest_index(), Some(300));
    live.apply(&applied(304, vec![], shipped(600)));
    assert_eq!((live.live_from(id(1)), live.live_bytes(id(1)), live.len_bytes()), (None, 0, 7));
    let name = "two".parse().unwrap();
    let deleted = Some(Change::StreamDeleted { stream_id: id(2), name });
    live.apply(&applied(305, vec![], deleted));
    assert_eq!((live.len_bytes(), live.memory_bytes(), live.oldest_index()), (0, 0, None));
    assert_eq!(live, LiveIndex::default());
}

/// One busy stream, in entries of many appends; and many slow streams, one append an entry.
#[test]
fn an_append_takes_about_six_bytes() {
    let mut live = LiveIndex::default();
    let mut base = 0;
    for index in 0..400 {
        let mut batches = Vec::new();
        for op in 0..50 {
            batches.push(Written { time_ms: index * 3, ..written(1, op, base, 100, 102_000) });
            base += 100;
        }
        live.apply(&applied(1_000_000 + index, batches, None));
    }
    let per_append = live.memory_bytes() / (400 * 50);
    assert!(per_append <= 7, "{per_append} bytes for each append of a busy stream");

    let mut live = LiveIndex::default();
    for number in 0..20_000 {
        let (stream, base) = (number % 10 + 1, number / 10);
        let written = Written { time_ms: number * 3, ..written(stream, 0, base, 1, 1030) };
        live.apply(&applied(1_000_000 + number, vec![written], None));
    }
    let per_append = live.memory_bytes() / 20_000;
    assert!(per_append <= 9, "{per_append} bytes for each append of slow streams");
}

/// All that a naive index needs: the batches that are live, as they are.
#[derive(Default)]
struct Naive {
    batches: Vec<(u64, LiveBatch)>,
    sealed: BTreeMap<u64, u64>,
    ends: BTreeMap<u64, u64>,
}

impl Naive {
    fn end(&self, stream: u64) -> u64 {
        self.ends.get(&stream).copied().unwrap_or(0)
    }

    fn sealed(&self, stream: u64) -> u64 {
        self.sealed.get(&stream).copied().unwrap_or(0)
    }

    /// A random Seal that ends between two batches.
    fn seal(&mut self, stream: u64, random: u64) -> Option<Change> {
        let mut open = self.of(stream);
        open.retain(|batch| batch.base.get() >= self.sealed(stream));
        let next = open.get(usize::try_from(random).unwrap() % open.len().max(1))?.next();
        self.sealed.insert(stream, next.get());
        Some(Change::Sealed { stream_id: id(stream), intent: 0, next })
    }

    /// The commit of all that is sealed.
    fn ship(&mut self, stream: u64) -> Change {
        let next = Offset::new(self.sealed(stream));
        self.batches.retain(|(id, batch)| *id != stream || batch.base >= next);
        Change::Shipped { stream_id: id(stream), next }
    }

    fn delete(&mut self, stream: u64) -> Change {
        self.batches.retain(|(id, _)| *id != stream);
        self.sealed.insert(stream, self.end(stream));
        Change::StreamDeleted { stream_id: id(stream), name: "gone".parse().unwrap() }
    }

    fn write(&mut self, stream: u64, batch: LiveBatch) -> Written {
        self.ends.insert(stream, batch.next().get());
        self.batches.push((stream, batch));
        let LiveBatch { base, record_count, op, time_ms, len_bytes, .. } = batch;
        Written { stream_id: id(stream), op, base, record_count, len_bytes, time_ms }
    }

    fn of(&self, stream: u64) -> Vec<LiveBatch> {
        let its = self.batches.iter().filter(|(id, _)| *id == stream);
        its.map(|(_, batch)| *batch).collect()
    }

    fn compare(&self, live: &LiveIndex, entropy: &SeededEntropy) {
        let total: u64 = self.batches.iter().map(|(_, batch)| u64::from(batch.len_bytes)).sum();
        assert_eq!(live.len_bytes(), total);
        assert_eq!(live.oldest_index(), self.batches.iter().map(|(_, batch)| batch.index).min());
        for stream in 1..=STREAMS {
            let batches = self.of(stream);
            let bytes: u64 = batches.iter().map(|batch| u64::from(batch.len_bytes)).sum();
            assert_eq!(live.live_bytes(id(stream)), bytes);
            assert_eq!(live.live_from(id(stream)), batches.first().map(|batch| batch.base));
            let offset = Offset::new(entropy.u64() % (self.end(stream) + 2));
            let told: Vec<_> = live.batches(id(stream), offset).collect();
            let expected: Vec<_> =
                batches.iter().copied().filter(|batch| batch.next() > offset).collect();
            assert_eq!(told, expected, "from {offset}");
            let time_ms = entropy.u64() % 5000;
            let since = batches.iter().find(|batch| batch.time_ms >= time_ms);
            assert_eq!(live.batch_since(id(stream), time_ms).as_ref(), since);
            self.compare_unsealed(live, stream, entropy.u64() % (bytes * 2 + 1));
        }
    }

    fn compare_unsealed(&self, live: &LiveIndex, stream: u64, bytes_max: u64) {
        let mut unsealed = self.of(stream);
        unsealed.retain(|batch| batch.base.get() >= self.sealed(stream));
        let expected = unsealed.first().zip(unsealed.last()).map(|(first, last)| Unsealed {
            base: first.base,
            next: last.next(),
            len_bytes: unsealed.iter().map(|batch| u64::from(batch.len_bytes)).sum(),
            oldest_ms: first.time_ms,
        });
        assert_eq!(live.unsealed(id(stream)), expected);
        let mut range = None;
        let mut len_bytes = 0;
        for batch in &unsealed {
            len_bytes += u64::from(batch.len_bytes);
            if range.is_none() || len_bytes <= bytes_max {
                let base = unsealed[0].base;
                range = Some(SealRange { base, next: batch.next(), len_bytes });
            } else {
                break;
            }
        }
        assert_eq!(live.seal_range(id(stream), bytes_max), range);
    }
}

#[test]
fn the_index_tells_what_a_naive_one_tells() {
    let (mut ships, mut deletes, mut longest) = (0, 0, 0);
    for seed in 0..60 {
        let entropy = SeededEntropy::new(seed);
        let below = |end: u64| entropy.u64() % end;
        let small = |end: u64| u32::try_from(below(end)).unwrap();
        let (mut live, mut naive) = (LiveIndex::default(), Naive::default());
        let (mut index, mut time_ms) = (0, 0);
        let largest = 1 + below(40);
        for _ in 0..150 {
            index += 1 + below(3) * below(200);
            time_ms += below(30) * below(5);
            let mut batches = Vec::new();
            let mut change = None;
            let stream = 1 + below(STREAMS);
            match below(10) {
                0 => change = naive.seal(stream, below(1000)),
                1 => {
                    change = Some(naive.ship(stream));
                    ships += 1;
                }
                2 if below(20) == 0 => {
                    change = Some(naive.delete(stream));
                    deletes += 1;
                }
                _ => {
                    for op in (0..small(largest)).filter(|_| below(4) > 0) {
                        let stream = 1 + below(STREAMS);
                        let base = Offset::new(naive.end(stream));
                        let record_count = 1 + small(300);
                        let len_bytes = small(700);
                        let batch = LiveBatch { base, record_count, index, op, time_ms, len_bytes };
                        batches.push(naive.write(stream, batch));
                    }
                }
            }
            live.apply(&applied(index, batches, change));
            naive.compare(&live, &entropy);
            longest = longest.max(naive.of(stream).len());
        }
        let memory_bytes: usize = live.streams.values().map(Stream::memory_bytes).sum();
        assert_eq!(live.memory_bytes(), memory_bytes);
    }
    assert!(ships > 500 && deletes > 20 && longest > 500, "{ships} {deletes} {longest}");
}
