//! [`Histogram`]: how long something took, in fixed buckets.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;

use super::label::Key;

/// Upper bounds of the buckets of every latency, so that they can be compared; one more bucket holds
/// what took longer. Unit: microseconds.
pub const LATENCY_BOUNDS_US: [u64; BOUNDS] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
];
const BOUNDS: usize = 19;

/// Latencies. Clones are the same histogram.
#[derive(Clone, Default)]
pub struct Histogram(Arc<Inner>);

#[derive(Default)]
struct Inner {
    counts: [AtomicU64; BOUNDS + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Records one.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // The first bound that is not below it: exact to the microsecond, which is rounded down.
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(count) = self.0.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
            self.0.sum_us.fetch_add(us, Ordering::Relaxed);
        }
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn write(&self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        let bounds = LATENCY_BOUNDS_US.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
        let counts = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        // From the same look, so that the last bucket and the count agree.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = seconds(self.0.sum_us.load(Ordering::Relaxed));
        encoder.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)
    }
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.counts.fmt(f)
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.write(&mut encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Latencies, one [`Histogram`] for each key.
#[derive(Clone)]
pub struct Histograms<K> {
    each: Arc<[Histogram]>,
    keys: PhantomData<fn(K)>,
}

impl<K: Key> Histograms<K> {
    /// Records one.
    pub fn observe(&self, key: K, took: Duration) {
        if let Some(histogram) = key.index().and_then(|index| self.each.get(index)) {
            histogram.observe(took);
        }
    }
}

impl<K: Key> Default for Histograms<K> {
    fn default() -> Self {
        let each = K::all().iter().map(|_| Histogram::default()).collect();
        Self { each, keys: PhantomData }
    }
}

impl<K> fmt::Debug for Histograms<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.each.fmt(f)
    }
}

impl<K: Key> EncodeMetric for Histograms<K> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (key, histogram) in K::all().into_iter().zip(self.each.iter()) {
            let labels = key.labels();
            histogram.write(&mut encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
