//! When a stream is cut, and where. Pure.

use std::time::Duration;

use pyramid_protocol::Offset;
use pyramid_protocol::pb::v1::StreamSettings;

use super::Defaults;
use crate::live_index::{SealRange, Unsealed};

/// While the log is pressed for space, chunks may be this many times smaller and younger.
const PRESSURE: u64 = 8;

/// When one stream is cut now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Most record bytes of a chunk with more than one batch.
    pub(super) chunk_bytes: u64,
    seal_bytes: u64,
    seal_age_ms: u64,
}

/// Most record bytes of one chunk of this stream.
pub(super) fn chunk_bytes(settings: &StreamSettings, defaults: Defaults) -> u64 {
    if settings.chunk_bytes == 0 { defaults.chunk_bytes } else { settings.chunk_bytes }
}

impl Rule {
    pub(super) fn new(settings: &StreamSettings, defaults: Defaults, pressed: bool) -> Self {
        let chunk_bytes = chunk_bytes(settings, defaults);
        let age_ms = match settings.chunk_age_ms {
            0 => millis(defaults.chunk_age),
            age_ms => age_ms,
        };
        let part = if pressed { PRESSURE } else { 1 };
        Self { chunk_bytes, seal_bytes: chunk_bytes / part, seal_age_ms: age_ms / part }
    }

    /// Where to seal up to, if it is time. A stream that has several chunks' worth is sealed up to
    /// the end of the last full one; `next` is where the first of them ends.
    pub(super) fn seal_upto(
        &self,
        unsealed: &Unsealed,
        next: SealRange,
        now_ms: u64,
    ) -> Option<Offset> {
        let old = now_ms.saturating_sub(unsealed.oldest_ms) >= self.seal_age_ms;
        if old {
            return Some(unsealed.next);
        }
        (unsealed.len_bytes >= self.seal_bytes).then_some(next.next)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults =
        Defaults { chunk_bytes: 8_000, chunk_age: Duration::from_millis(600) };

    fn unsealed(len_bytes: u64) -> Unsealed {
        Unsealed { base: Offset::new(5), next: Offset::new(25), len_bytes, oldest_ms: 1_000 }
    }

    const FIRST: SealRange =
        SealRange { base: Offset::new(5), next: Offset::new(15), len_bytes: 7_900 };

    fn upto(settings: StreamSettings, pressed: bool, len_bytes: u64, now_ms: u64) -> Option<u64> {
        let rule = Rule::new(&settings, DEFAULTS, pressed);
        rule.seal_upto(&unsealed(len_bytes), FIRST, now_ms).map(Offset::get)
    }

    #[test]
    fn a_full_chunk_is_sealed_and_the_rest_stays_live() {
        assert_eq!(upto(StreamSettings::default(), false, 8_000, 1_000), Some(15));
        assert_eq!(upto(StreamSettings::default(), false, 7_999, 1_000), None);
    }

    #[test]
    fn an_old_record_seals_all() {
        assert_eq!(upto(StreamSettings::default(), false, 1, 1_600), Some(25));
        assert_eq!(upto(StreamSettings::default(), false, 1, 1_599), None);
    }

    #[test]
    fn a_stream_may_say_otherwise() {
        let settings = StreamSettings { chunk_bytes: 100, chunk_age_ms: 50 };
        assert_eq!(upto(settings, false, 100, 1_000), Some(15));
        assert_eq!(upto(settings, false, 99, 1_049), None);
        assert_eq!(upto(settings, false, 99, 1_050), Some(25));
    }

    #[test]
    fn pressure_seals_smaller_and_younger() {
        assert_eq!(upto(StreamSettings::default(), true, 1_000, 1_000), Some(15));
        assert_eq!(upto(StreamSettings::default(), true, 999, 1_074), None);
        assert_eq!(upto(StreamSettings::default(), true, 999, 1_075), Some(25));
    }
}
