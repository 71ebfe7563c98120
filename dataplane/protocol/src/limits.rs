//! Every limit that both ends must know. Each is tested at its edge where it is enforced.

/// Longest record with its headers. Unit: bytes of the encoded `Record`.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// Longest append. Unit: bytes of the encoded `records` field, tags included.
pub const APPEND_BYTES_MAX: usize = 2 << 20;

/// Most records in one append.
pub const APPEND_RECORDS_MAX: u32 = 4096;

/// Most headers of one record.
pub const HEADERS_MAX: usize = 64;

/// Most bytes of names and values of one record's headers.
pub const HEADER_BYTES_MAX: usize = 32 << 10;

/// Header names that begin so are kept for Pyramid.
pub const RESERVED_HEADER_PREFIX: &str = "pyramid.";

/// Longest stream name. Unit: bytes of UTF-8.
pub const STREAM_NAME_BYTES_MAX: usize = 512;

/// Longest name of a producer or a subscription. Unit: bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 256;

/// Most streams that one subscription names.
pub const SUBSCRIPTION_STREAMS_MAX: usize = 1024;

/// Most streams that one `Watch` names, repeated ones counted: several times those of a subscription.
pub const WATCH_STREAMS_MAX: usize = 10_000;

/// Most identities in one list of rights.
pub const IDENTITIES_MAX: usize = 1024;

/// Longest identity, a SPIFFE URI. Unit: bytes. From the SPIFFE-ID standard, section 2.3.
pub const IDENTITY_BYTES_MAX: usize = 2048;

/// Largest message on any of our connections, in both directions. The largest append with its
/// surroundings fits, as does one batch in a push.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Most bytes of batches in one push. Receivers with gRPC's default settings stop at 4 MiB.
pub const PUSH_BYTES_MAX: usize = 3 << 20;

/// Most bytes of records that one pusher holds at once.
pub const PUSHER_BYTES_MAX: usize = 64 << 20;

/// Most chunk locations in one `Read`; then `Moved`.
pub const LOCATIONS_PER_READ_MAX: usize = 16;

/// Most producers of one stream.
pub const PRODUCERS_PER_STREAM_MAX: usize = 1024;

/// Appends of one producer that are remembered, and so may be on their way without an answer.
pub const PRODUCER_BATCHES_MAX: usize = 16;

/// Idle producers may be dropped after this much log time. Unit: milliseconds.
pub const PRODUCER_IDLE_MS: u64 = 24 * 60 * 60 * 1000;

/// Largest id of streams and producers: it fits every language's number.
pub const ID_MAX: u64 = (1 << 53) - 1;
