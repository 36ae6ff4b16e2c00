//! `firn-bench compare A B`: two runs side by side.

use std::path::Path;

use anyhow::Context;

use super::{QUANTILES, Report, page, read, text};
use crate::figures::figure::number;

/// Prints both runs with their ratios and writes one page with both.
pub fn run(first: &Path, second: &Path, output: &Path) -> anyhow::Result<()> {
    let (a, b) = (read(first)?, read(second)?);
    print!("{}", table(&a, &b));
    for (name, report) in [("A", &a), ("B", &b)] {
        println!("\n{name}:");
        text::lines(report).iter().for_each(|line| println!("  {line}"));
    }
    let html = page::html(&[(Some("A"), &a), (Some("B"), &b)]);
    std::fs::write(output, html).with_context(|| output.display().to_string())?;
    println!("\nwritten: {}", output.display());
    Ok(())
}

/// Appends of both runs, line by line.
fn table(a: &Report, b: &Report) -> String {
    let mut out = format!("{:<16} {:>12} {:>12} {:>7}\n", "", "A", "B", "B/A");
    let mut line = |name: &str, a: f64, b: f64| {
        out += &format!("{name:<16} {:>12} {:>12} {:>7.2}\n", number(a), number(b), b / a);
    };
    let (Some(a), Some(b)) = (a.series.first(), b.series.first()) else { return out };
    line("appends/s", a.per_s, b.per_s);
    for (quantile, name) in QUANTILES {
        line(&format!("{name} us"), a.latency_us(quantile), b.latency_us(quantile));
    }
    let costs = [
        ("CPU us", a.cost.cpu_us, b.cost.cpu_us),
        ("enters", a.cost.enters, b.cost.enters),
        ("flushes", a.cost.flushes, b.cost.flushes),
    ];
    for (name, a, b) in costs {
        if let (Some(a), Some(b)) = (a, b) {
            line(name, a, b);
        }
    }
    out
}
