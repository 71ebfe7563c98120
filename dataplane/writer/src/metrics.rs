//! What is counted and measured. Names, units and meanings stand here, and for users in
//! `docs/operating.md`; a test compares the two.
//!
//! [`Metrics`] is recorded where things happen, with an atomic operation or two. What only has to be
//! looked at is collected when somebody asks: [`collected`].

mod collected;

use std::time::Duration;

use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_telemetry::metrics::{
    Counter, Counters, Gauges, Histogram, Histograms, Label, Registry, Unit,
};

pub(crate) use self::collected::Collected;

/// In front of all names.
pub const PREFIX: &str = "pyramid_writer";

/// What a call is, among those that clients make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `Writer.Append`.
    Append,
    /// `Writer.Read`.
    Read,
    /// `Writer.Watch`.
    Watch,
    /// `Writer.Attach`.
    Attach,
    /// All others, and calls that were refused before they began.
    Other,
}

impl Label for Call {
    const NAME: &'static str = "call";
    const ALL: &'static [Self] =
        &[Self::Append, Self::Read, Self::Watch, Self::Attach, Self::Other];

    fn text(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Read => "read",
            Self::Watch => "watch",
            Self::Attach => "attach",
            Self::Other => "other",
        }
    }
}

/// Where records that were sent came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentFrom {
    /// The log.
    Live,
    /// A chunk that was read for a caller that cannot do so itself.
    Chunk,
}

impl Label for SentFrom {
    const NAME: &'static str = "from";
    const ALL: &'static [Self] = &[Self::Live, Self::Chunk];

    fn text(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Chunk => "chunk",
        }
    }
}

/// Which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// That of producers, pushers and the command.
    Writer,
    /// That of the operator.
    Admin,
}

impl Label for Port {
    const NAME: &'static str = "port";
    const ALL: &'static [Self] = &[Self::Writer, Self::Admin];

    fn text(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Admin => "admin",
        }
    }
}

/// A call of the object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreCall {
    /// See [`pyramid_storage::ObjectStore::put`].
    Put,
    /// See [`pyramid_storage::ObjectStore::get`].
    Get,
    /// See [`pyramid_storage::ObjectStore::list`].
    List,
    /// See [`pyramid_storage::ObjectStore::delete`].
    Delete,
    /// See [`pyramid_storage::ObjectStore::locate`].
    Locate,
}

impl Label for StoreCall {
    const NAME: &'static str = "call";
    const ALL: &'static [Self] = &[Self::Put, Self::Get, Self::List, Self::Delete, Self::Locate];

    fn text(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Locate => "locate",
        }
    }
}

/// How a call of the object store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreResult {
    /// Done.
    Ok,
    /// No such object.
    NotFound,
    /// Another object is there.
    ConditionFailed,
    /// Tried again: the network, a timeout, a busy store.
    Unavailable,
    /// Somebody must change credentials, rights or settings.
    Refused,
}

impl Label for StoreResult {
    const NAME: &'static str = "result";
    const ALL: &'static [Self] =
        &[Self::Ok, Self::NotFound, Self::ConditionFailed, Self::Unavailable, Self::Refused];

    fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotFound => "not_found",
            Self::ConditionFailed => "condition_failed",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
        }
    }
}

/// Why an attempt to ship a chunk failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadFailure {
    /// The log cannot be read.
    Read,
    /// The stream's key cannot be opened.
    Key,
    /// The chunk cannot be built, or was not what was built.
    Chunk,
    /// The store did not do a call.
    Store,
    /// The store holds another cluster, or lost this one.
    OtherStore,
    /// The attempt took too long.
    Timeout,
    /// The log did not take the chunk.
    Log,
}

impl Label for UploadFailure {
    const NAME: &'static str = "reason";
    const ALL: &'static [Self] = &[
        Self::Read,
        Self::Key,
        Self::Chunk,
        Self::Store,
        Self::OtherStore,
        Self::Timeout,
        Self::Log,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Key => "key",
            Self::Chunk => "chunk",
            Self::Store => "store",
            Self::OtherStore => "other_store",
            Self::Timeout => "timeout",
            Self::Log => "log",
        }
    }
}

/// Recorded where things happen. Clones are the same metrics.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    appends: Counter,
    appended_records: Counter,
    appended_bytes: Counter,
    duplicates: Counter,
    append_latency: Histogram,
    refusals: Counters<(Call, Reason)>,
    /// Calls that last and are open now.
    pub(crate) open_calls: Gauges<Call>,
    /// Connections that are open now.
    pub(crate) connections: Gauges<Port>,
    sent: Counters<SentFrom>,
    pub(crate) locations: Counter,
    /// Of blocks of the log.
    pub(crate) wal_sync: Histogram,
    pub(crate) uploads: Counter,
    pub(crate) upload_failures: Counters<UploadFailure>,
    pub(crate) upload_latency: Histogram,
    chunks: Counter,
    chunk_plain_bytes: Counter,
    chunk_stored_bytes: Counter,
    store_calls: Counters<(StoreCall, StoreResult)>,
    store_latency: Histograms<StoreCall>,
    pub(crate) store_received: Counter,
    pub(crate) store_sent: Counter,
}

impl Metrics {
    /// An append got its answer; `bytes` of records, `took` since it came to the door.
    pub(crate) fn answered(
        &self,
        answer: &Result<pb::Appended, Refusal>,
        bytes: usize,
        took: Duration,
    ) {
        match answer {
            Ok(appended) if appended.duplicate => {
                self.duplicates.inc();
            }
            Ok(appended) => {
                let next = appended.next_offset.unwrap_or(0);
                self.appends.inc();
                self.appended_records
                    .inc_by(next - appended.first_offset.unwrap_or(next).min(next));
                self.appended_bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
            }
            Err(refusal) => self.refused(Call::Append, refusal),
        }
        self.append_latency.observe(took);
    }

    /// A call, or a part of it, was refused.
    pub(crate) fn refused(&self, call: Call, refusal: &Refusal) {
        self.refusals.inc((call, refusal.reason()));
    }

    /// Batches go to a reader.
    pub(crate) fn sent(&self, from: SentFrom, bytes: usize) {
        self.sent.inc_by(from, u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// A chunk is committed.
    pub(crate) fn shipped(&self, plain_bytes: u64, stored_bytes: u64) {
        self.chunks.inc();
        self.chunk_plain_bytes.inc_by(plain_bytes);
        self.chunk_stored_bytes.inc_by(stored_bytes);
    }

    /// The object store answered, or did not.
    pub(crate) fn store_called(&self, call: StoreCall, result: StoreResult, took: Duration) {
        self.store_calls.inc((call, result));
        self.store_latency.observe(call, took);
    }

    /// Names them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.register_requests(registry);
        self.register_shipping(registry);
        registry.register_with_unit(
            "wal_sync",
            "Time that the disk takes to make a block of the write-ahead log durable",
            Unit::Seconds,
            self.wal_sync.clone(),
        );
    }

    fn register_requests(&self, registry: &mut Registry) {
        registry.register("appends", "Appends written", self.appends.clone());
        registry.register("appended_records", "Records written", self.appended_records.clone());
        registry.register_with_unit(
            "appended",
            "Encoded records written",
            Unit::Bytes,
            self.appended_bytes.clone(),
        );
        registry.register(
            "append_duplicates",
            "Appends of producers that were written before, and answered again",
            self.duplicates.clone(),
        );
        registry.register_with_unit(
            "append_latency",
            "Time from the arrival of an append to its answer, written or refused by the log",
            Unit::Seconds,
            self.append_latency.clone(),
        );
        registry.register("refusals", "Requests refused", self.refusals.clone());
        registry.register("open_calls", "Calls that last and are open", self.open_calls.clone());
        registry.register("connections", "Connections that are open", self.connections.clone());
        registry.register_with_unit(
            "sent",
            "Batches sent to readers by the Writer itself",
            Unit::Bytes,
            self.sent.clone(),
        );
        registry.register(
            "locations",
            "Places of chunks given to readers, which fetch the chunks themselves",
            self.locations.clone(),
        );
    }

    fn register_shipping(&self, registry: &mut Registry) {
        registry.register("uploads", "Attempts to ship a chunk", self.uploads.clone());
        registry.register(
            "upload_failures",
            "Attempts to ship a chunk that failed and are repeated",
            self.upload_failures.clone(),
        );
        registry.register_with_unit(
            "upload_latency",
            "Time from the begin of a successful attempt to ship a chunk to its end",
            Unit::Seconds,
            self.upload_latency.clone(),
        );
        registry.register("chunks_shipped", "Chunks shipped", self.chunks.clone());
        registry.register_with_unit(
            "chunks_shipped_plain",
            "Batches in chunks shipped, before compression",
            Unit::Bytes,
            self.chunk_plain_bytes.clone(),
        );
        registry.register_with_unit(
            "chunks_shipped_stored",
            "Chunks shipped, as they are stored",
            Unit::Bytes,
            self.chunk_stored_bytes.clone(),
        );
        registry.register("store_calls", "Calls of the object store", self.store_calls.clone());
        registry.register_with_unit(
            "store_latency",
            "Time that calls of the object store take, whatever their result",
            Unit::Seconds,
            self.store_latency.clone(),
        );
        registry.register_with_unit(
            "store_received",
            "Objects read from the object store",
            Unit::Bytes,
            self.store_received.clone(),
        );
        registry.register_with_unit(
            "store_sent",
            "Objects written to the object store",
            Unit::Bytes,
            self.store_sent.clone(),
        );
    }
}

/// A registry with everything that this program counts.
pub(crate) fn registry(metrics: &Metrics, collected: Collected) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    metrics.register(&mut registry);
    pyramid_telemetry::metrics::register(&mut registry, collected);
    registry
}
