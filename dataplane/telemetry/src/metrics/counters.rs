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
            encoder
                .encode_family(&labels)?
                .encode_counter::<[(&str, &str); 0], _, u64>(&self.get(key), None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// How many there are now, for each key. Clones are the same.
pub struct Gauges<K> {
    each: Arc<[Gauge]>,
    keys: PhantomData<fn(K)>,
}

impl<K: Key> Gauges<K> {
    /// One more, until the returned value is dropped.
    #[must_use]
    pub fn hold(&self, key: K) -> Held {
        let gauge = key.index().and_then(|index| self.each.get(index)).cloned();
        if let Some(gauge) = &gauge {
            gauge.inc();
        }
        Held(gauge)
    }
}

impl<K: Key> Default for Gauges<K> {
    fn default() -> Self {
        Self { each: K::all().iter().map(|_| Gauge::default()).collect(), keys: PhantomData }
    }
}

impl<K> Clone for Gauges<K> {
    fn clone(&self) -> Self {
        Self { each: Arc::clone(&self.each), keys: PhantomData }
    }
}

impl<K> fmt::Debug for Gauges<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.each.fmt(f)
    }
}

impl<K: Key> EncodeMetric for Gauges<K> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (key, gauge) in K::all().into_iter().zip(self.each.iter()) {
            let labels = key.labels();
            encoder.encode_family(&labels)?.encode_gauge(&gauge.get())?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// Counts as one until it is dropped.
#[derive(Debug)]
pub struct Held(Option<Gauge>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(gauge) = &self.0 {
            gauge.dec();
        }
    }
}
