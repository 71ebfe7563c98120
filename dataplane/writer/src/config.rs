//! Flags and environment → [`Config`], once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser};
use pyramid_storage::object_store::{S3Options, SettingsError, StoreSettings};
use pyramid_telemetry::logs;

use crate::raft::Timing;
use crate::shipper::{CHUNK_MEMORY, Defaults, UPLOADS_MAX};

/// Parts of the memory limit: the live cache, bytes in flight, uploads. The live index counts in the
/// budget of the log instead, since it grows with it.
const CACHE_PART: u64 = 4;
const IN_FLIGHT_PART: u64 = 16;
const UPLOADS_PART: u64 = 4;

/// Live cache at most, whatever the memory: what is older is read from the log. Unit: bytes.
const CACHE_BYTES_MAX: u64 = 512 << 20;

/// Bytes in flight at most, whatever the memory. Unit: bytes.
const IN_FLIGHT_BYTES_MAX: u64 = 256 << 20;

/// Bytes in flight of one stream. Unit: bytes.
const STREAM_IN_FLIGHT_BYTES_MAX: usize = 64 << 20;

/// The Writer: accepts appends, makes them durable, ships chunks to the object store.
#[derive(Debug, Parser)]
#[command(name = "pyramid-writer", version)]
pub struct Args {
    /// What makes up a replica.
    #[command(flatten)]
    pub replica: ReplicaArgs,

    /// Where producers, pushers and the command connect. Port 0: a free one, printed.
    #[arg(long, env = "PYRAMID_LISTEN", default_value = "127.0.0.1:7400", value_name = "ADDRESS")]
    pub listen: SocketAddr,

    /// Where the operator connects. Port 0: a free one, printed.
    #[arg(
        long,
        env = "PYRAMID_ADMIN_LISTEN",
        default_value = "127.0.0.1:7402",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,

    /// Where health and metrics are served, over plain HTTP to anybody. Port 0: a free one, printed.
    #[arg(
        long,
        env = "PYRAMID_OPS_LISTEN",
        default_value = "127.0.0.1:7403",
        value_name = "ADDRESS"
    )]
    pub ops_listen: SocketAddr,

    /// What is logged, and how it looks.
    #[command(flatten)]
    pub logs: logs::Args,
}

/// What makes up a replica, whoever starts it.
#[derive(Clone, Debug, ClapArgs)]
pub struct ReplicaArgs {
    /// Directory of this replica: its identity and write-ahead log. One process at a time.
    #[arg(long, env = "PYRAMID_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Where chunks are kept: `file:DIR` or `s3://BUCKET`.
    #[arg(long, env = "PYRAMID_OBJECT_STORE", value_name = "URL")]
    pub object_store: String,

    /// More about the object store.
    #[command(flatten)]
    pub objects: ObjectArgs,

    /// Key-encryption keys: a file with one `id = 64 hexadecimal digits` per line, the last one
    /// wraps; or a directory, as a Secret is mounted, with files `1`, `2` and so on of 32 bytes each,
    /// the highest one wraps.
    #[arg(long, env = "PYRAMID_KEK_FILE", value_name = "PATH")]
    pub kek_file: PathBuf,

    /// Directory with `tls.key`, `tls.crt` and `ca.crt`, read again when they change. Without it
    /// there is no TLS, and only loopback addresses are served.
    #[arg(long, env = "PYRAMID_TLS", value_name = "DIR")]
    pub tls: Option<PathBuf>,

    /// Sizes and ages.
    #[command(flatten)]
    pub limits: LimitArgs,

    /// How long objects outlive what needed them.
    #[command(flatten)]
    pub waits: WaitArgs,
}

/// How the object store is reached, for every program that opens one.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct ObjectArgs {
    /// Put in front of all object keys.
    #[arg(long, env = "PYRAMID_OBJECT_PREFIX", default_value = "", value_name = "PREFIX")]
    pub object_prefix: String,

    /// Where the S3 server is, if it is not that of AWS: `https://HOST[:PORT]`. Buckets are then
    /// part of the path.
    #[arg(long, env = "PYRAMID_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,

    /// The bucket's region. Default: that of `AWS_REGION` or of the profile, else us-east-1 with
    /// --s3-endpoint, and without it that of this machine at AWS.
    #[arg(long, env = "PYRAMID_S3_REGION", value_name = "REGION")]
    pub s3_region: Option<String>,

    /// Authorities that the S3 server's certificate may come from, as PEM. Default: the machine's.
    #[arg(long, env = "PYRAMID_S3_CA", value_name = "FILE")]
    pub s3_ca: Option<PathBuf>,

    /// Directory with the files `accessKeyId`, `secretAccessKey` and, if there is one,
    /// `sessionToken`, read again when they change. Default: the credentials of the environment, as
    /// the AWS command takes them.
    #[arg(long, env = "PYRAMID_S3_CREDENTIALS", value_name = "DIR")]
    pub s3_credentials: Option<PathBuf>,
}

impl ObjectArgs {
    /// The store that `url` names, and the prefix of its keys.
    ///
    /// # Errors
    ///
    /// The flag that must be changed.
    pub fn into_settings(self, url: &str) -> Result<(StoreSettings, String), SettingsError> {
        let Self { object_prefix, s3_endpoint, s3_region, s3_ca, s3_credentials } = self;
        let options = S3Options {
            endpoint: s3_endpoint,
            region: s3_region,
            ca_file: s3_ca,
            credentials_dir: s3_credentials,
        };
        Ok((StoreSettings::parse(url, options)?, object_prefix))
    }
}

/// When chunks are cut, and how much log and memory a replica may use.
#[derive(Clone, Debug, ClapArgs)]
pub struct LimitArgs {
    /// Seal a chunk at this many bytes of records: 1 to 67108864.
    #[arg(long, env = "PYRAMID_CHUNK_BYTES", default_value_t = 8 << 20, value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(1..=crate::shipper::CHUNK_BYTES_MAX))]
    pub chunk_bytes: u64,

    /// Seal a chunk when its oldest record is this old.
    #[arg(long, env = "PYRAMID_CHUNK_AGE_MS", default_value_t = 600_000, value_name = "MS",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub chunk_age_ms: u64,

    /// Budget of the write-ahead log. Above 70% of it appends are slowed down, above 90% refused.
    /// Default: 60% of the volume, at most 32 GiB.
    #[arg(long, env = "PYRAMID_WAL_BYTES_MAX", value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub wal_bytes_max: Option<u64>,

    /// Size of one file of the write-ahead log: 16777216 to 1073741824, a multiple of 4096. Fixed
    /// for the life of a data directory.
    #[arg(long, env = "PYRAMID_SEGMENT_BYTES", default_value_t = 64 << 20, value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(16 << 20..=1 << 30))]
    pub segment_bytes: u64,

    /// Memory that live cache, uploads and appends in flight are parts of: at least 67108864.
    /// Default: the limit of its cgroup, else the machine's.
    #[arg(long, env = "PYRAMID_MEMORY_BYTES_MAX", value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(64 << 20..))]
    pub memory_bytes_max: Option<u64>,
}

/// How long objects outlive what needed them.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct WaitArgs {
    /// How long the URL of a chunk works that is given to a reader: 1 to 604800 seconds.
    #[arg(long, env = "PYRAMID_URL_LIFE_SECONDS", default_value_t = 300, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub url_life_seconds: u64,

    /// How long the objects of a deleted stream stay in the object store: at least twice the life of
    /// a URL, which is the default.
    #[arg(long, env = "PYRAMID_DELETE_WAIT_SECONDS", value_name = "SECONDS")]
    pub delete_wait_seconds: Option<u64>,
}

/// A replica's settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its directory.
    pub data_dir: PathBuf,
    /// What holds the objects.
    pub object_store: StoreSettings,
    /// In front of all object keys.
    pub object_prefix: String,
    /// The file with the KEKs.
    pub kek_file: PathBuf,
    /// Key, certificate and trust bundle; `None`: no TLS, loopback only.
    pub tls: Option<PathBuf>,
    /// When streams are cut.
    pub chunks: Defaults,
    /// How long a URL given to a reader works.
    pub url_life: Duration,
    /// Budget of the log; `None`: a part of the volume. Unit: bytes.
    pub wal_bytes_max: Option<u64>,
    /// Size of a file of the log. Unit: bytes.
    pub segment_bytes: u64,
    /// Payloads kept in memory for readers. Unit: bytes.
    pub cache_bytes_max: u64,
    /// Bytes in flight, of all and of one stream.
    pub admission: crate::admission::Limits,
    /// Elections.
    pub timing: Timing,
}

/// A setting cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object store.
    #[error(transparent)]
    ObjectStore(#[from] SettingsError),
    /// Readers still use what would be deleted.
    #[error(
        "--delete-wait-seconds {wait_seconds}: give at least twice --url-life-seconds, which is \
         {url_life_seconds}"
    )]
    DeleteWait {
        /// What was given.
        wait_seconds: u64,
        /// How long a URL works.
        url_life_seconds: u64,
    },
    /// Segments lie on block borders.
    #[error("--segment-bytes {bytes}: give a multiple of 4096")]
    SegmentBytes {
        /// What was given.
        bytes: u64,
    },
}

impl ReplicaArgs {
    /// Checks what clap cannot.
    ///
    /// # Errors
    ///
    /// The flag that must be changed.
    pub fn into_config(self) -> Result<Config, Error> {
        let Self { data_dir, object_store, objects, kek_file, tls, limits, waits } = self;
        let WaitArgs { url_life_seconds, delete_wait_seconds } = waits;
        let wait_seconds_min = 2 * url_life_seconds;
        let wait_seconds = delete_wait_seconds.unwrap_or(wait_seconds_min);
        if wait_seconds < wait_seconds_min {
            return Err(Error::DeleteWait { wait_seconds, url_life_seconds });
        }
        let LimitArgs { chunk_bytes, chunk_age_ms, wal_bytes_max, segment_bytes, memory_bytes_max } =
            limits;
        let (object_store, object_prefix) = objects.into_settings(&object_store)?;
        if segment_bytes % 4096 != 0 {
            return Err(Error::SegmentBytes { bytes: segment_bytes });
        }
        let memory = memory_bytes_max.unwrap_or_else(memory_limit);
        let in_flight = (memory / IN_FLIGHT_PART).min(IN_FLIGHT_BYTES_MAX);
        let process_bytes_max = usize::try_from(in_flight).unwrap_or(usize::MAX);
        Ok(Config {
            data_dir,
            object_store,
            object_prefix,
            kek_file,
            tls,
            chunks: Defaults {
                chunk_bytes,
                chunk_age: Duration::from_millis(chunk_age_ms),
                uploads_max: uploads_max(memory, chunk_bytes),
                delete_wait: Duration::from_secs(wait_seconds),
            },
            url_life: Duration::from_secs(url_life_seconds),
            wal_bytes_max,
            segment_bytes,
            cache_bytes_max: (memory / CACHE_PART).min(CACHE_BYTES_MAX),
            admission: crate::admission::Limits {
                process_bytes_max,
                stream_bytes_max: process_bytes_max.min(STREAM_IN_FLIGHT_BYTES_MAX),
            },
            timing: Timing {
                heartbeat: Duration::from_millis(100),
                election_min: Duration::from_millis(500),
                election_max: Duration::from_millis(1_000),
            },
        })
    }
}

/// At least one, or nothing is ever shipped.
fn uploads_max(memory: u64, chunk_bytes: u64) -> usize {
    let uploads = memory / UPLOADS_PART / (CHUNK_MEMORY * chunk_bytes);
    usize::try_from(uploads).unwrap_or(UPLOADS_MAX).clamp(1, UPLOADS_MAX)
}

/// The cgroup's limit, else the machine's memory. Unit: bytes.
fn memory_limit() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let cgroup = read("/sys/fs/cgroup/memory.max")
        .or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
        .and_then(|text| text.trim().parse().ok());
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib << 10)
    });
    // Unknown: small enough for any machine.
    let machine = machine.unwrap_or(1 << 30);
    cgroup.map_or(machine, |limit: u64| limit.min(machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Result<Config, Error> {
        let line = ["pyramid-writer", "--data-dir=d", "--object-store=file:o", "--kek-file=k"];
        Args::parse_from(line.iter().chain(flags)).replica.into_config()
    }

    #[test]
    fn objects_stay_for_at_least_two_lives_of_a_url() {
        let waits = |flags: &[&str]| {
            let config = config(flags).map_err(|error| error.to_string())?;
            Ok((config.url_life.as_secs(), config.chunks.delete_wait.as_secs()))
        };
        assert_eq!(waits(&[]), Ok((300, 600)));
        assert_eq!(waits(&["--url-life-seconds=3"]), Ok((3, 6)));
        assert_eq!(waits(&["--url-life-seconds=3", "--delete-wait-seconds=6"]), Ok((3, 6)));
        let text = "--delete-wait-seconds 5: give at least twice --url-life-seconds, which is 3";
        let short = waits(&["--url-life-seconds=3", "--delete-wait-seconds=5"]);
        assert_eq!(short, Err(text.to_owned()));
    }

    #[test]
    fn uploads_take_a_quarter_of_the_memory_and_one_is_always_allowed() {
        let chunk = 8 << 20;
        assert_eq!(uploads_max(1 << 30, chunk), 4);
        assert_eq!(uploads_max(4 * 4 * 2 * chunk, chunk), 2);
        assert_eq!(uploads_max(4 * 4 * 2 * chunk - 1, chunk), 1);
        assert_eq!(uploads_max(64 << 20, 64 << 20), 1);
    }
}
