//! Messages that hold keys in clear, printed without them: a log line must never open a chunk.

use std::fmt;

use crate::pb::stored::v1::StreamKey;
use crate::pb::v1::ChunkLocation;

impl fmt::Debug for ChunkLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may be signed, so it is a key as well.
        f.debug_struct("ChunkLocation")
            .field("stream_id", &self.stream_id)
            .field("base_offset", &self.base_offset)
            .field("next_offset", &self.next_offset)
            .field("generation", &self.generation)
            .field("total_len", &self.total_len)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamKey")
            .field("stream_id", &self.stream_id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_urls_are_not_printed() {
        let location = ChunkLocation {
            url: "https://secret-url".into(),
            encryption_key: vec![231; 32].into(),
            mac_key: vec![232; 32].into(),
            base_offset: 7,
            ..Default::default()
        };
        let key =
            StreamKey { key: vec![233; 32].into(), name: "orders".into(), ..Default::default() };
        let printed = format!("{location:?} {key:?}");
        assert!(printed.contains("base_offset: 7") && printed.contains("orders"), "{printed}");
        for secret in ["secret-url", "231", "232", "233", "\\xe7", "\\xe8", "\\xe9"] {
            assert!(!printed.contains(secret), "{secret} in {printed}");
        }
    }
}
