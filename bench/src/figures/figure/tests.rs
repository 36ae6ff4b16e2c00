//! Goals and text forms of figures.

use super::{Figure, Goal, number};

fn figure(measured: f64, baseline: Option<f64>, goal: Goal) -> Figure {
    let baseline = baseline.map(|value| ("device".to_string(), value));
    Figure { name: "appends".to_string(), unit: "us", measured, baseline, goal }
}

#[test]
fn goals_are_met_at_their_bounds() {
    let met = |measured, baseline, goal| figure(measured, baseline, goal).met();
    assert_eq!(met(60.0, None, Goal::AtMost(60.0)), Some(true));
    assert_eq!(met(60.1, None, Goal::AtMost(60.0)), Some(false));
    assert_eq!(met(5.0, None, Goal::AtLeast(6.0)), Some(false));
    assert_eq!(met(10.0, Some(2.0), Goal::RatioAtLeast(5.0)), Some(true));
    assert_eq!(met(10.0, Some(2.0), Goal::RatioAtMost(4.9)), Some(false));
    assert_eq!(met(45.0, Some(20.0), Goal::AboveBaselineAtMost(25.0)), Some(true));
    assert_eq!(met(45.0, None, Goal::AboveBaselineAtMost(25.0)), Some(false));
    assert_eq!(met(f64::NAN, Some(1.0), Goal::RatioAtMost(1.0)), Some(false));
    assert_eq!(met(1.0, None, Goal::None), None);
}

#[test]
fn texts_say_what_the_numbers_do() {
    let figure = figure(45.25, Some(20.0), Goal::RatioAtMost(1.35));
    let json = figure.to_json();
    assert_eq!(json["measured"], 45.25);
    assert_eq!(json["baseline"], 20.0);
    assert_eq!(json["goal"], "at most 1.35x");
    assert_eq!(json["met"], false);
    assert_eq!(
        figure.to_markdown(),
        "| appends | 45.25 us | 20 us (device) | 2.26 | at most 1.35x | **not met** |"
    );
}

#[test]
fn numbers_are_short() {
    for (value, text) in [
        (0.0, "0"),
        (2.5, "2.5"),
        (124.4, "124"),
        (1_000.0, "1,000"),
        (1_234_567.0, "1,234,567"),
        (-12_345.0, "-12,345"),
        (f64::INFINITY, "none"),
    ] {
        assert_eq!(number(value), text);
    }
}
