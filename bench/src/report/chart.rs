//! Charts as SVG: latency over percentile, both axes logarithmic, and throughput over time.

use std::fmt::Write;

use super::Series;
use crate::figures::figure::number;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 44.0;
/// Told apart by people who see few colours, too.
const COLOURS: [&str; 10] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333", "#8c564b",
    "#7f7f7f", "#17becf",
];
/// Percentiles on the axis: how much is left above each.
const PERCENTILES: [(f64, &str); 7] = [
    (1.0, "0"),
    (0.5, "50 %"),
    (0.1, "90 %"),
    (0.01, "99 %"),
    (0.001, "99.9 %"),
    (0.0001, "99.99 %"),
    (0.00001, "99.999 %"),
];
/// The right end of the percentile axis: beyond it is the maximum only.
const REST_MIN: f64 = 0.000_005;

/// The colour of a curve by its place.
pub fn colour(place: usize) -> &'static str {
    COLOURS[place % COLOURS.len()]
}

/// Percentile curves.
pub fn percentiles(curves: &[&Series]) -> String {
    let latencies = || curves.iter().flat_map(|series| series.curve.iter().map(|(_, y)| *y));
    let lowest = latencies().filter(|y| *y > 0.0).fold(f64::INFINITY, f64::min);
    let highest = latencies().fold(0.0, f64::max);
    if !lowest.is_finite() {
        return String::new();
    }
    let (low, high) =
        (lowest.log10().floor(), highest.log10().ceil().max(lowest.log10().floor() + 1.0));
    let x =
        |rest: f64| LEFT + (WIDTH - LEFT - RIGHT) * rest.max(REST_MIN).log10() / REST_MIN.log10();
    let y = |value: f64| height((value.max(lowest).log10() - low) / (high - low));
    let mut svg = begin("Latency by percentile");
    let mut decade = low;
    while decade <= high {
        let value = 10_f64.powf(decade);
        grid_line(&mut svg, y(value), &format!("{} us", number(value)));
        decade += 1.0;
    }
    for (rest, name) in PERCENTILES {
        upright(&mut svg, x(rest), name);
    }
    for (place, series) in curves.iter().enumerate() {
        let points = series.curve.iter().map(|(quantile, us)| (x(1.0 - quantile), y(*us)));
        polyline(&mut svg, points, colour(place));
    }
    svg + "</svg>"
}

/// Operations per second over the measured time.
pub fn throughput(curves: &[&Series]) -> String {
    let highest = curves.iter().flat_map(|series| series.over_time_per_s.iter().copied());
    let highest = highest.fold(1.0, f64::max);
    let mut svg = begin("Throughput over time");
    for part in 0..=4 {
        let value = highest * f64::from(part) / 4.0;
        grid_line(&mut svg, height(value / highest), &format!("{}/s", number(value)));
    }
    for (share, name) in [(0.0, "begin"), (1.0, "end of the measured time")] {
        upright(&mut svg, LEFT + (WIDTH - LEFT - RIGHT) * share, name);
    }
    for (place, series) in curves.iter().enumerate() {
        let last = series.over_time_per_s.len().saturating_sub(1).max(1) as f64;
        let points = series.over_time_per_s.iter().enumerate().map(|(index, value)| {
            let x = LEFT + (WIDTH - LEFT - RIGHT) * index as f64 / last;
            (x, height(value / highest))
        });
        polyline(&mut svg, points, colour(place));
    }
    svg + "</svg>"
}

fn height(share: f64) -> f64 {
    TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - share)
}

fn begin(label: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">")
}

fn grid_line(svg: &mut String, y: f64, label: &str) {
    let (end, text_x, text_y) = (WIDTH - RIGHT, LEFT - 6.0, y + 4.0);
    // Writing to a string does not fail.
    let _ = write!(
        svg,
        "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{end}\" y2=\"{y:.1}\" class=\"grid\"/>\
         <text x=\"{text_x}\" y=\"{text_y:.1}\" text-anchor=\"end\">{label}</text>"
    );
}

fn upright(svg: &mut String, x: f64, label: &str) {
    let (bottom, text_y) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM + 18.0);
    let anchor = if x > WIDTH - 2.0 * RIGHT { "end" } else { "middle" };
    let _ = write!(
        svg,
        "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" class=\"grid\"/>\
         <text x=\"{x:.1}\" y=\"{text_y}\" text-anchor=\"{anchor}\">{label}</text>"
    );
}

fn polyline(svg: &mut String, points: impl Iterator<Item = (f64, f64)>, colour: &str) {
    *svg += "<polyline points=\"";
    for (x, y) in points {
        let _ = write!(svg, "{x:.1},{y:.1} ");
    }
    let _ = write!(svg, "\" stroke=\"{colour}\" class=\"curve\"/>");
}
