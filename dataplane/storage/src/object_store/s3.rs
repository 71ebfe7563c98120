//! Objects in an S3 bucket.
//!
//! This file and those below it are the only ones that name the AWS SDK. One client lives as long
//! as the store, because it holds the pool of connections.
//!
//! - **The SDK tries nothing twice.** Whoever calls has the one layer that retries, with backoff and
//!   with a look at what was reached meanwhile; two layers would multiply their attempts. So every
//!   failure comes out as an [`Error`] that says which kind it is (see `failure`).
//! - **Checksums.** A put sends the SHA-256 of its body in the signature and its CRC-32C in a header
//!   of its own, so a server that looks notices a changed body. The trailing checksums that the SDK
//!   would add by itself are refused by several servers and are off; what is read is authenticated
//!   by whoever opens the chunk.
//! - **The clock of this machine counts.** The SDK would silently sign with the server's clock; but
//!   URLs are signed with ours, so a wrong clock is told instead.

mod answer;
mod client;
mod credentials;
mod failure;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::get_object::GetObjectOutput,
    presigning::PresigningConfig,
    primitives::ByteStream,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use pyramid_protocol::{Clock, SystemClock};
use tokio::time::timeout;

use self::failure::{Context, Failure};
use super::{
    Condition, Error, LISTING_LEN_MAX, Listed, Listing, Object, ObjectKey, ObjectStore, OpenError,
    S3Settings, Version, range_fragment,
};
use crate::{
    range::ContentRange,
    transport::{Cause, cause},
};

/// No put or delete is waited for longer.
pub const CALL_TIMEOUT_MAX: Duration = Duration::from_secs(240);

/// What a call may take that carries no bytes.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The slowest transfer that is waited for. Unit: bytes a second.
const TRANSFER_RATE_MIN: u64 = 128 << 10;

/// Positions behind it are taken for this one: no store has longer objects, and several fail on
/// numbers that fill 64 bits. Unit: bytes.
const POSITION_MAX: u64 = 1 << 50;

/// An object store in an S3 bucket.
pub struct S3Store {
    client: Client,
    bucket: String,
    /// Where the bucket is, for people.
    place: String,
    has_endpoint: bool,
    credentials: credentials::Source,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket {} at {}", self.bucket, self.place)
    }
}

impl S3Store {
    /// A store in the bucket of `settings`, which is not asked yet.
    ///
    /// # Errors
    ///
    /// A file of the settings cannot be used, or no region is known.
    pub async fn open(settings: &S3Settings) -> Result<Self, OpenError> {
        let client::Opened { client, place, credentials } = client::open(settings).await?;
        Ok(Self {
            client,
            bucket: settings.bucket().to_owned(),
            place,
            has_endpoint: settings.endpoint().is_some(),
            credentials,
            clock: Arc::new(SystemClock),
        })
    }

    /// Lets a test tell the time that errors about clocks speak of.
    #[cfg(test)]
    fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// One call of the SDK, bounded, with its failure in our words. `len` bytes are carried.
    async fn call<T, E>(
        &self,
        action: &'static str,
        key: &str,
        len: u64,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
    ) -> Result<T, Error>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        // On the heap: the SDK's futures are large.
        let failure = match timeout(call_timeout(len), Box::pin(call)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => answer::failure(&error),
            Err(_elapsed) => Failure::Transport(Cause::Timeout),
        };
        Err(self.error(action, key, &failure))
    }

    fn error(&self, action: &'static str, key: &str, failure: &Failure) -> Error {
        failure::classify(
            failure,
            &Context {
                action,
                key,
                bucket: &self.bucket,
                place: &self.place,
                has_endpoint: self.has_endpoint,
                credentials: &self.credentials,
                now_ms: self.clock.wall_ms(),
            },
        )
    }

    /// Length and version of an object behind whose end a range began: the server's refusal of such
    /// a range does not tell them.
    async fn end_of(&self, key: &ObjectKey) -> Result<Object, Error> {
        let call = self.client.head_object().bucket(&self.bucket).key(key.as_str()).send();
        let head = match timeout(CALL_TIMEOUT, Box::pin(call)).await {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => {
                // The bucket has just answered, so it is the object that is not there any more. An
                // answer to HEAD has no body that could say so.
                if error.raw_response().is_some_and(|raw| raw.status().as_u16() == 404) {
                    return Err(Error::NotFound { key: key.to_string() });
                }
                return Err(self.error("get", key.as_str(), &answer::failure(&error)));
            }
            Err(_elapsed) => {
                let failure = Failure::Transport(Cause::Timeout);
                return Err(self.error("get", key.as_str(), &failure));
            }
        };
        let Some(total_len) = head.content_length().and_then(|len| u64::try_from(len).ok()) else {
            return Err(self.unusable("get", key, "an answer without the object's length"));
        };
        Ok(Object { bytes: Bytes::new(), total_len, version: head.e_tag().map(Version::new) })
    }

    /// Reads the body of an answer that must not be longer than `wanted`.
    async fn part(
        &self,
        key: &ObjectKey,
        wanted: &Range<u64>,
        got: GetObjectOutput,
    ) -> Result<Object, Error> {
        let version = got.e_tag().map(Version::new);
        let body_len = got.content_length().and_then(|len| u64::try_from(len).ok());
        let total_len = match got.content_range() {
            Some(text) => text
                .parse::<ContentRange>()
                .ok()
                .filter(|found| found.range == (wanted.start..wanted.end.min(found.total_len)))
                .map(|found| found.total_len),
            // The whole object, because all of it was asked for, or because the server knows no
            // ranges.
            None => body_len.filter(|len| wanted.start == 0 && *len <= wanted.end),
        };
        let (Some(total_len), Some(body_len)) = (total_len, body_len) else {
            return Err(self.unusable("get", key, "another range than was asked for"));
        };
        if body_len > wanted.end - wanted.start {
            return Err(self.unusable("get", key, "more bytes than were asked for"));
        }
        let body = timeout(call_timeout(body_len), got.body.collect()).await;
        let cause = match body {
            Ok(Ok(body)) => {
                let bytes = body.into_bytes();
                if u64::try_from(bytes.len()).is_ok_and(|len| len == body_len) {
                    return Ok(Object { bytes, total_len, version });
                }
                Cause::Closed
            }
            Ok(Err(error)) => cause(&error),
            Err(_elapsed) => Cause::Timeout,
        };
        // A connection that worked so far: whatever broke it may pass.
        Err(Error::Unavailable {
            action: "get",
            key: key.to_string(),
            reason: cause.text(&self.place, failure::CA_SETTING),
            wait: None,
        })
    }

    fn unusable(&self, action: &'static str, key: &ObjectKey, what: &'static str) -> Error {
        self.error(action, key.as_str(), &Failure::Unusable(what))
    }
}

/// What a call that carries `len` bytes may take.
fn call_timeout(len: u64) -> Duration {
    (CALL_TIMEOUT + Duration::from_secs(len / TRANSFER_RATE_MIN)).min(CALL_TIMEOUT_MAX)
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<Version, Error> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let checksum = BASE64_STANDARD.encode(crc32c::crc32c(&bytes).to_be_bytes());
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .content_type("application/octet-stream")
            .checksum_crc32_c(checksum)
            .body(ByteStream::from(bytes));
        let put = match &condition {
            Condition::None => put,
            Condition::Absent => put.if_none_match("*"),
            Condition::Unchanged(version) => put.if_match(version.as_str()),
        };
        let done = match self.call("put", key.as_str(), len, put.send()).await {
            // Told of an object that must be there and is not.
            Err(Error::NotFound { key }) => Err(Error::ConditionFailed { key }),
            other => other,
        }?;
        done.e_tag()
            .map(Version::new)
            .ok_or_else(|| self.unusable("put", key, "an answer without the object's ETag"))
    }

    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Object, Error> {
        let start = range.start.min(POSITION_MAX);
        let end = range.end.min(POSITION_MAX + 1);
        // S3 has no empty ranges; one byte shows whether the object is there.
        let asked = start..end.max(start + 1);
        let len = end.saturating_sub(start);
        let header = format!("bytes={}-{}", asked.start, asked.end - 1);
        let get =
            self.client.get_object().bucket(&self.bucket).key(key.as_str()).range(header).send();
        let got = match timeout(CALL_TIMEOUT, Box::pin(get)).await {
            Ok(Ok(got)) => got,
            Ok(Err(error)) => {
                if error.raw_response().is_some_and(|raw| raw.status().as_u16() == 416) {
                    let end = self.end_of(key).await?;
                    if end.total_len > start {
                        return Err(self.unusable("get", key, "an object that just changed"));
                    }
                    return Ok(end);
                }
                return Err(self.error("get", key.as_str(), &answer::failure(&error)));
            }
            Err(_elapsed) => {
                let failure = Failure::Transport(Cause::Timeout);
                return Err(self.error("get", key.as_str(), &failure));
            }
        };
        let mut object = self.part(key, &asked, got).await?;
        object.bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(object)
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Listing, Error> {
        // Servers disagree about a start outside of the prefix.
        let after = match after {
            Some(after) if after.as_str() < prefix => None,
            Some(after) if !after.as_str().starts_with(prefix) => return Ok(Listing::default()),
            after => after,
        };
        let mut objects: Vec<Listed> = Vec::new();
        let mut token = None;
        loop {
            let room = LISTING_LEN_MAX - objects.len();
            let list = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(prefix)
                .max_keys(i32::try_from(room).unwrap_or(1))
                .set_start_after(after.map(|key| key.as_str().to_owned()))
                .set_continuation_token(token.take());
            let named = if prefix.is_empty() { "all keys" } else { prefix };
            let page = self.call("list", named, 0, list.send()).await?;
            for found in page.contents() {
                // Keys that are not ours, for instance of a bucket that others use as well.
                let Some(key) = found.key().and_then(|key| key.parse::<ObjectKey>().ok()) else {
                    continue;
                };
                let is_behind = objects.last().map(|last| &last.key).or(after) < Some(&key);
                if !is_behind || !key.as_str().starts_with(prefix) {
                    return Err(self.error("list", prefix, &Failure::Unordered));
                }
                let len = found.size().and_then(|len| u64::try_from(len).ok());
                let Some(len) = len else {
                    return Err(self.unusable("list", &key, "a key without its object's length"));
                };
                objects.push(Listed { key, len });
            }
            if !page.is_truncated().unwrap_or(false) {
                return Ok(Listing { objects, more: false });
            }
            if objects.len() >= LISTING_LEN_MAX {
                return Ok(Listing { objects, more: true });
            }
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                return Err(self.error("list", prefix, &Failure::Unusable("half of a list")));
            }
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Error> {
        let delete = self.client.delete_object().bucket(&self.bucket).key(key.as_str());
        match self.call("delete", key.as_str(), 0, delete.send()).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn locate(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        life: Duration,
    ) -> Result<String, Error> {
        let presigning = PresigningConfig::expires_in(life)
            .map_err(|_| self.error("locate", key.as_str(), &Failure::LifeTooLong))?;
        // The reader sends a range of its own choice, so the signature covers none.
        let get = self.client.get_object().bucket(&self.bucket).key(key.as_str());
        let signed = self.call("locate", key.as_str(), 0, get.presigned(presigning)).await?;
        if signed.headers().next().is_some() {
            return Err(self.unusable("locate", key, "a URL that needs headers"));
        }
        Ok(format!("{}{}", signed.uri(), range_fragment(&range)))
    }
}

#[cfg(test)]
mod tests;
