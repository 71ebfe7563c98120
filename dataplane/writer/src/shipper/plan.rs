//! When a stream is cut, and where. Pure.

use std::time::Duration;

use pyramid_protocol::pb::v1::StreamSettings;

use super::Defaults;
use crate::live_index::Unsealed;

/// Largest size that a chunk may be cut at: it is built in memory. Unit: bytes of records.
pub(crate) const CHUNK_BYTES_MAX: u64 = 64 << 20;

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
    let bytes = if settings.chunk_bytes == 0 { defaults.chunk_bytes } else { settings.chunk_bytes };
    // A Writer of another version may have let more in.
    bytes.min(CHUNK_BYTES_MAX)
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

    /// Whether it is time, and how much to seal then. Cheap: it is asked for every stream.
    pub(super) fn due(&self, unsealed: &Unsealed, now_ms: u64) -> Option<Due> {
        if now_ms.saturating_sub(unsealed.oldest_ms) >= self.seal_age_ms {
            return Some(Due::All);
        }
        (unsealed.len_bytes >= self.seal_bytes).then_some(Due::OneChunk)
    }
}

/// How much of a stream is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// All that there is: its oldest record is old.
    All,
    /// The first chunk's worth; the rest stays live.
    OneChunk,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use pyramid_protocol::Offset;

    use super::*;

    const DEFAULTS: Defaults = Defaults {
        chunk_bytes: 8_000,
        chunk_age: Duration::from_millis(600),
        uploads_max: 1,
        delete_wait: Duration::from_secs(6),
    };

    fn unsealed(len_bytes: u64) -> Unsealed {
        Unsealed { base: Offset::new(5), next: Offset::new(25), len_bytes, oldest_ms: 1_000 }
    }

    fn due(settings: StreamSettings, pressed: bool, len_bytes: u64, now_ms: u64) -> Option<Due> {
        Rule::new(&settings, DEFAULTS, pressed).due(&unsealed(len_bytes), now_ms)
    }

    #[test]
    fn a_full_chunk_is_sealed_and_the_rest_stays_live() {
        assert_eq!(due(StreamSettings::default(), false, 8_000, 1_000), Some(Due::OneChunk));
        assert_eq!(due(StreamSettings::default(), false, 7_999, 1_000), None);
    }

    #[test]
    fn an_old_record_seals_all() {
        assert_eq!(due(StreamSettings::default(), false, 1, 1_600), Some(Due::All));
        assert_eq!(due(StreamSettings::default(), false, 1, 1_599), None);
    }

    #[test]
    fn a_stream_may_say_otherwise() {
        let settings = StreamSettings { chunk_bytes: 100, chunk_age_ms: 50 };
        assert_eq!(due(settings, false, 100, 1_000), Some(Due::OneChunk));
        assert_eq!(due(settings, false, 99, 1_049), None);
        assert_eq!(due(settings, false, 99, 1_050), Some(Due::All));
    }

    #[test]
    fn pressure_seals_smaller_and_younger() {
        assert_eq!(due(StreamSettings::default(), true, 1_000, 1_000), Some(Due::OneChunk));
        assert_eq!(due(StreamSettings::default(), true, 999, 1_074), None);
        assert_eq!(due(StreamSettings::default(), true, 999, 1_075), Some(Due::All));
    }

    #[test]
    fn a_chunk_never_has_more_than_fits_in_memory_whatever_a_stream_says() {
        let chunk_of = |bytes| {
            chunk_bytes(&StreamSettings { chunk_bytes: bytes, ..Default::default() }, DEFAULTS)
        };
        let sizes = [0, 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, u64::MAX].map(chunk_of);
        assert_eq!(sizes, [8_000, 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX]);
    }
}
