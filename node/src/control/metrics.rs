//! `/metrics`: every shard's figures as OpenMetrics text. Names and meanings are in [`crate::shard::metrics`].

use std::fmt;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::control::respond::Refusal;
use crate::control::server::ControlState;
use crate::shard::metrics::{FigureKind, ShardFigures};
use crate::shard::request::Request;

/// Upper bounds of the latency buckets in microseconds: from a memory copy to a disk that hangs.
const BUCKETS_US: [u64; 16] = [
    5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 100_000, 1_000_000,
    10_000_000, 60_000_000,
];

/// Asks all shards and writes what they say.
pub(super) async fn scrape(State(state): State<ControlState>) -> Result<Response, Refusal> {
    Ok(exposition("firn", state.node.ask_all(Request::Metrics).await?))
}

/// The figures of all shards as OpenMetrics text, every name after `prefix`.
pub(super) fn exposition(prefix: &str, shards: Vec<ShardFigures>) -> Response {
    let mut registry = Registry::with_prefix(prefix);
    registry.register_collector(Box::new(Scrape(shards)));
    let mut body = String::new();
    text::encode(&mut body, &registry).expect("writing to a string does not fail");
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], body).into_response()
}

/// The figures of one moment.
#[derive(Debug)]
struct Scrape(Vec<ShardFigures>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Scrape(shards) = self;
        let first = shards.first().map_or(&[][..], |shard| &shard.figures);
        for (index, figure) in first.iter().enumerate() {
            let metric_type = match figure.kind {
                FigureKind::Counter => MetricType::Counter,
                FigureKind::Gauge => MetricType::Gauge,
            };
            let mut family =
                encoder.encode_descriptor(figure.name, figure.help, None, metric_type)?;
            for shard in shards {
                let value = shard.figures[index].value;
                let labels = [("shard", shard.shard.to_string())];
                let metric = family.encode_family(&labels)?;
                match figure.kind {
                    FigureKind::Counter => ConstCounter::new(value).encode(metric)?,
                    FigureKind::Gauge => {
                        let value = i64::try_from(value).unwrap_or(i64::MAX);
                        ConstGauge::new(value).encode(metric)?;
                    }
                }
            }
        }
        encode_stages(shards, encoder)
    }
}

fn encode_stages(
    shards: &[ShardFigures],
    mut encoder: DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let Some(family) = shards.first().map(|shard| shard.family) else { return Ok(()) };
    let stages = family.stages;
    let mut family =
        encoder.encode_descriptor(family.name, family.help, None, MetricType::Histogram)?;
    for shard in shards {
        for (stage, histogram) in stages.iter().zip(&shard.stages) {
            let mut buckets = Vec::with_capacity(BUCKETS_US.len() + 1);
            let mut below_ns = 0;
            for bound_us in BUCKETS_US {
                let bound_ns = bound_us * 1_000;
                let count = histogram.count_between(below_ns, bound_ns - 1);
                buckets.push((bound_us as f64 / 1e6, count));
                below_ns = bound_ns;
            }
            let counted: u64 = buckets.iter().map(|(_, count)| count).sum();
            buckets.push((f64::INFINITY, histogram.len().saturating_sub(counted)));
            let sum_seconds = histogram.mean() * histogram.len() as f64 / 1e9;
            let labels = [("shard", shard.shard.to_string()), ("stage", (*stage).to_string())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<[(String, String); 0]>(
                sum_seconds,
                histogram.len(),
                &buckets,
                None,
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::latencies::Latencies;
    use crate::shard::metrics::ShardMetrics;

    #[test]
    fn there_is_one_series_per_shard() {
        let shards = (0..2).map(|shard| {
            let metrics = ShardMetrics::default();
            metrics.counters.append_bytes.add(shard as u64 + 5);
            let (queue, device) = (Latencies::default(), Latencies::default());
            device.record(Duration::from_micros(150));
            metrics.snapshot(shard, &queue, &device)
        });
        let mut registry = Registry::with_prefix("firn");
        registry.register_collector(Box::new(Scrape(shards.collect())));
        let mut body = String::new();
        text::encode(&mut body, &registry).unwrap();
        assert!(body.contains("firn_append_bytes_total{shard=\"1\"} 6\n"), "{body}");
        assert!(body.contains("firn_connections{shard=\"0\"} 0\n"), "{body}");
        let bucket = |bound, count| {
            let labels = format!("le=\"{bound}\",shard=\"0\",stage=\"device\"");
            body.contains(&format!("firn_append_stage_seconds_bucket{{{labels}}} {count}\n"))
        };
        assert!(bucket("0.0001", 0) && bucket("0.0002", 1) && bucket("+Inf", 1), "{body}");
    }
}
