//! [`Scrape`]: metrics that are looked at when somebody asks for them.

use std::fmt;

use prometheus_client::collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

/// Looks, each time somebody asks.
pub trait Collector: Send + Sync + 'static {
    /// Writes what it finds. Every metric is named each time, also one without series, so that the
    /// list of names is always the whole one.
    ///
    /// # Errors
    ///
    /// What the [`Scrape`] says.
    fn collect(&self, scrape: &mut Scrape<'_>) -> fmt::Result;
}

/// Where a [`Collector`] writes.
pub struct Scrape<'a>(DescriptorEncoder<'a>);

/// Labels of one series.
type Labels<'a> = [(&'static str, &'a str)];

#[expect(clippy::needless_pass_by_value, reason = "a line for each metric is easier to read")]
impl Scrape<'_> {
    /// A gauge with one series.
    ///
    /// # Errors
    ///
    /// The text cannot be written.
    pub fn gauge(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.metric(name, unit.as_ref(), help, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A gauge with one series if there is a value, else with none.
    ///
    /// # Errors
    ///
    /// The text cannot be written.
    pub fn gauge_if(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        value: Option<impl EncodeGaugeValue>,
    ) -> fmt::Result {
        let mut metric = self.metric(name, unit.as_ref(), help, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| metric.encode_gauge(&value))
    }

    /// A counter with one series.
    ///
    /// # Errors
    ///
    /// The text cannot be written.
    pub fn counter(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        let mut metric = self.metric(name, unit.as_ref(), help, MetricType::Counter)?;
        metric.encode_counter::<[(&str, &str); 0], _, u64>(&value, None)
    }

    /// A gauge with a series for each labels.
    ///
    /// # Errors
    ///
    /// The text cannot be written.
    pub fn gauges<'l, V: EncodeGaugeValue, const N: usize>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        series: impl IntoIterator<Item = ([(&'static str, &'l str); N], V)>,
    ) -> fmt::Result {
        let mut metric = self.metric(name, unit.as_ref(), help, MetricType::Gauge)?;
        for (labels, value) in series {
            let labels: &Labels<'_> = &labels;
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A counter with a series for each labels.
    ///
    /// # Errors
    ///
    /// The text cannot be written.
    pub fn counters<'l, V: EncodeCounterValue, const N: usize>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        series: impl IntoIterator<Item = ([(&'static str, &'l str); N], V)>,
    ) -> fmt::Result {
        let mut metric = self.metric(name, unit.as_ref(), help, MetricType::Counter)?;
        for (labels, value) in series {
            let labels: &Labels<'_> = &labels;
            metric
                .encode_family(&labels)?
                .encode_counter::<[(&str, &str); 0], _, u64>(&value, None)?;
        }
        Ok(())
    }

    /// Facts that do not change, as labels.
    ///
    /// # Errors
    ///
    /// The text cannot be written.
    pub fn info(&mut self, name: &str, help: &str, labels: &Labels<'_>) -> fmt::Result {
        self.metric(name, None, help, MetricType::Info)?.encode_info(&labels)
    }

    fn metric<'s>(
        &'s mut self,
        name: &'s str,
        unit: Option<&'s Unit>,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        // Registered metrics get their full stop from the registry.
        self.0.encode_descriptor(name, &format!("{help}."), unit, kind)
    }
}

struct Registered<C>(C);

impl<C> fmt::Debug for Registered<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}

impl<C: Collector> collector::Collector for Registered<C> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.collect(&mut Scrape(encoder))
    }
}

/// Has `collector` asked each time that metrics are asked for.
pub fn register(registry: &mut Registry, collector: impl Collector) {
    registry.register_collector(Box::new(Registered(collector)));
}
