//! [`Counters`]: one number for each value of a label.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::Gauge;

use super::label::Key;

/// Counters, one for each key. Clones are the same counters.
pub struct Counters<K> {
    counts: Arc<[AtomicU64]>,
    keys: PhantomData<fn(K)>,
}

impl<K: Key> Counters<K> {
    /// Counts one more.
    pub fn inc(&self, key: K) {
        self.inc_by(key, 1);
    }

    /// Counts `by` more.
    pub fn inc_by(&self, key: K, by: u64) {
        if let Some(count) = key.index().and_then(|index| self.counts.get(index)) {
            count.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self, key: K) -> u64 {
        let count = key.index().and_then(|index| self.counts.get(index));
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl<K: Key> Default for Counters<K> {
    fn default() -> Self {
        let counts = K::all().iter().map(|_| AtomicU64::new(0)).collect();
        Self { counts, keys: PhantomData }
    }
}

impl<K> Clone for Counters<K> {
    fn clone(&self) -> Self {
        Self { counts: Arc::clone(&self.counts), keys: PhantomData }
    }
}

impl<K> fmt::Debug for Counters<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.fmt(f)
    }
}

impl<K: Key> EncodeMetric for Counters<K> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for key in K::all() {
            let labels = key.labels();
            encoder.encode_family(&labels)?.encode_counter::<[(&str, &str); 0], _, u64>(
                &self.get(key),
                None,
            )?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// Counts as one in a gauge until it is dropped.
#[derive(Debug)]
pub struct Held(Gauge);

impl Held {
    /// One more, from now on.
    #[must_use]
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}
