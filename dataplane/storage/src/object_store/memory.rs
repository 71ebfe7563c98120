//! Objects in memory, with the semantics of a real store and faults on demand.

use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Condition, Error, LISTING_LEN_MAX, Listed, Listing, Object, ObjectKey, ObjectStore, Version,
    memory_faults::{Call, Fault, FaultRates, Faults},
    part, range_fragment,
};

/// For unit tests and simulations. Its URLs are `mem:<key>#range=<start>..<end>`.
#[derive(Debug, Default)]
pub struct MemoryStore {
    content: Mutex<Content>,
    faults: Mutex<Faults>,
}

#[derive(Debug, Default)]
struct Content {
    objects: BTreeMap<ObjectKey, (Bytes, Version)>,
    /// Puts that were done. Numbers versions.
    puts: u64,
}

impl MemoryStore {
    /// An empty store that does as it is told.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next call of this kind meets this fault; several are met in the order they were added.
    pub fn fail_next(&self, call: Call, fault: Fault) {
        self.faults().add(call, fault);
    }

    /// From now on calls meet faults at random, at these rates. The same seed and calls give the
    /// same faults. Rates of zero end it.
    pub fn fail_at_random(&self, rates: FaultRates, seed: u64) {
        self.faults().set_rates(rates, seed);
    }

    /// How many faults were met so far: a test confirms that its faults did happen.
    #[must_use]
    pub fn faults_met(&self) -> u64 {
        self.faults().met()
    }

    /// All objects: for assertions, without faults.
    #[must_use]
    pub fn objects(&self) -> Vec<(ObjectKey, Bytes)> {
        let content = self.content();
        content.objects.iter().map(|(key, (bytes, _))| (key.clone(), bytes.clone())).collect()
    }

    /// Puts bytes where an object is or is not, as somebody with access to the bucket would.
    pub fn tamper(&self, key: &ObjectKey, bytes: Bytes) {
        self.content().put(key, bytes);
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // A test that panicked has failed already; what it left is still consistent.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Meets a fault before the call is done. `Ok` holds one that changes the answer.
    async fn before(&self, call: Call, key: &str) -> Result<Option<Fault>, Error> {
        let fault = self.faults().take(call);
        match fault {
            Some(Fault::FailBefore) => Err(unavailable(call, key, "refused by a fault")),
            Some(Fault::Refuse) => Err(Error::Refused {
                action: call.action(),
                key: key.to_owned(),
                reason: "refused by a fault".to_owned(),
            }),
            Some(Fault::Busy(wait)) => Err(Error::Unavailable {
                action: call.action(),
                key: key.to_owned(),
                reason: "asked by a fault to wait".to_owned(),
                wait: Some(wait),
            }),
            Some(Fault::Expire) => {
                Err(Error::Expired { key: key.to_owned(), reason: "expired by a fault".to_owned() })
            }
            Some(Fault::NotFound) => Err(Error::NotFound { key: key.to_owned() }),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                Ok(None)
            }
            Some(Fault::TimeoutAfter | Fault::CutBody { .. } | Fault::WrongBit { .. }) | None => {
                Ok(fault)
            }
        }
    }
}

impl Content {
    fn put(&mut self, key: &ObjectKey, bytes: Bytes) -> Version {
        self.puts += 1;
        let version = Version::new(&self.puts.to_string());
        self.objects.insert(key.clone(), (bytes, version.clone()));
        version
    }
}

fn unavailable(call: Call, key: &str, reason: &str) -> Error {
    Error::Unavailable {
        action: call.action(),
        key: key.to_owned(),
        reason: reason.to_owned(),
        wait: None,
    }
}

/// What is answered after the call was done.
fn after<T>(fault: Option<&Fault>, call: Call, key: &str, answer: T) -> Result<T, Error> {
    if matches!(fault, Some(Fault::TimeoutAfter)) {
        return Err(unavailable(call, key, "timed out by a fault"));
    }
    Ok(answer)
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<Version, Error> {
        let fault = self.before(Call::Put, key.as_str()).await?;
        let version = {
            let mut content = self.content();
            let found = content.objects.get(key).map(|(_, version)| version);
            let holds = match &condition {
                Condition::None => true,
                Condition::Absent => found.is_none(),
                Condition::Unchanged(expected) => found == Some(expected),
            };
            if !holds {
                return Err(Error::ConditionFailed { key: key.to_string() });
            }
            content.put(key, bytes)
        };
        after(fault.as_ref(), Call::Put, key.as_str(), version)
    }

    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Object, Error> {
        let fault = self.before(Call::Get, key.as_str()).await?;
        let found = self.content().objects.get(key).cloned();
        let (bytes, version) = found.ok_or_else(|| Error::NotFound { key: key.to_string() })?;
        let total_len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let mut object = Object { bytes: part(&bytes, &range), total_len, version: Some(version) };
        if let Some(fault) = &fault {
            fault.change(&mut object, range.start);
        }
        after(fault.as_ref(), Call::Get, key.as_str(), object)
    }

    async fn list(&self, prefix: &str, after_key: Option<&ObjectKey>) -> Result<Listing, Error> {
        let fault = self.before(Call::List, prefix).await?;
        let mut listing = Listing::default();
        {
            let content = self.content();
            let from = after_key.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
            let wanted = content.objects.range((from, Bound::Unbounded));
            for (key, (bytes, _)) in wanted.filter(|(key, _)| key.as_str().starts_with(prefix)) {
                if listing.objects.len() == LISTING_LEN_MAX {
                    listing.more = true;
                    break;
                }
                let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                listing.objects.push(Listed { key: key.clone(), len });
            }
        }
        after(fault.as_ref(), Call::List, prefix, listing)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Error> {
        let fault = self.before(Call::Delete, key.as_str()).await?;
        self.content().objects.remove(key);
        after(fault.as_ref(), Call::Delete, key.as_str(), ())
    }

    async fn locate(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        _life: Duration,
    ) -> Result<String, Error> {
        let fault = self.before(Call::Locate, key.as_str()).await?;
        let url = format!("mem:{key}{}", range_fragment(&range));
        after(fault.as_ref(), Call::Locate, key.as_str(), url)
    }
}

#[cfg(test)]
mod tests;
