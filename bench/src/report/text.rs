//! A report as text for a terminal.

use super::{QUANTILES, Report};
use crate::figures::figure::number;

/// The whole report.
pub fn page(report: &Report) -> String {
    let mut out = lines(report).join("\n");
    out += &format!("\n\n{:<22} {:>10}", "latencies in us", "per s");
    for (_, name) in QUANTILES {
        out += &format!(" {name:>9}");
    }
    out += &format!(" {:>8} {:>7} {:>8}\n", "CPU us", "enters", "flushes");
    for series in &report.series {
        out += &format!("{:<22} {:>10}", series.name, number(series.per_s));
        for (quantile, _) in QUANTILES {
            out += &format!(" {:>9}", number(series.latency_us(quantile)));
        }
        let cost = |value: Option<f64>| value.map_or("-".to_string(), number);
        let (cpu, enters) = (cost(series.cost.cpu_us), cost(series.cost.enters));
        out += &format!(" {cpu:>8} {enters:>7} {:>8}\n", cost(series.cost.flushes));
    }
    out
}

/// What was run on what, a line each.
pub fn lines(report: &Report) -> Vec<String> {
    let setting = &report.setting;
    let [one, five, fifteen] = report.load_after;
    vec![
        format!("load: {}", setting.load),
        format!("durability: {}; quorum {}", setting.durability, setting.quorum),
        format!("acceptors: {}; walproposer protocol {}", setting.acceptors, setting.protocol),
        format!("device: {}", setting.device),
        format!("load generator: {}", setting.generator),
        format!(
            "measured: {:.1} s in {} rounds, {:.1} s of warm-up before each",
            setting.seconds, setting.rounds, setting.warm_up_s
        ),
        format!("machine: {}; afterwards {one:.2} {five:.2} {fifteen:.2}", report.machine),
    ]
}
