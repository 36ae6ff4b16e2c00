//! The report as one page without anything from elsewhere.

use maud::{DOCTYPE, PreEscaped, html};

use super::{QUANTILES, Report, Series, chart, text};
use crate::figures::figure::number;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .6em;text-align:right;border-bottom:1px solid #ddd}\
    td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}svg text{font-size:11px;fill:#555}\
    .grid{stroke:#e3e3e3}.curve{fill:none;stroke-width:2}.key{display:inline-block;width:1em;height:.6em;margin-right:.4em}\
    ul{padding-left:1.2em}h2{margin-top:1.6em}";

/// The page of one report, or of several under names.
pub fn html(reports: &[(Option<&str>, &Report)]) -> String {
    let named: Vec<(String, &Series)> = reports
        .iter()
        .flat_map(|(name, report)| {
            let series = report.series.iter();
            series.map(move |series| match name {
                Some(name) => (format!("{name}: {}", series.name), series),
                None => (series.name.clone(), series),
            })
        })
        .collect();
    let all: Vec<&Series> = named.iter().map(|(_, series)| *series).collect();
    let cost = |value: Option<f64>| value.map_or("-".to_string(), number);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "firn-bench wal" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Acknowledged appends of WAL" }
                @for (name, report) in reports {
                    @if let Some(name) = name { h2 { (name) } }
                    ul { @for line in text::lines(report) { li { (line) } } }
                }
                table {
                    tr {
                        th { "latencies in us" } th { "per s" }
                        @for (_, name) in QUANTILES { th { (name) } }
                        th { "CPU us" } th { "enters" } th { "flushes" }
                    }
                    @for (place, (name, series)) in named.iter().enumerate() {
                        tr {
                            td {
                                span.key style={ "background:" (chart::colour(place)) } {}
                                (name)
                            }
                            td { (number(series.per_s)) }
                            @for (quantile, _) in QUANTILES {
                                td { (number(series.latency_us(quantile))) }
                            }
                            td { (cost(series.cost.cpu_us)) }
                            td { (cost(series.cost.enters)) }
                            td { (cost(series.cost.flushes)) }
                        }
                    }
                }
                p {
                    "CPU time, enters of the kernel and flushes of the device are per operation, of acceptors or of the \
                     baseline's thread. Baselines are closed loops."
                }
                h2 { "Latency by percentile" }
                (PreEscaped(chart::percentiles(&all)))
                h2 { "Throughput over time" }
                (PreEscaped(chart::throughput(&all)))
            }
        }
    };
    page.into_string()
}
