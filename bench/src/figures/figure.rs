//! One line of the figures table: what was measured, what it is held against, and what it should be.

use serde_json::{Value, json};

/// A measured figure. Its text forms never say more than its numbers do.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What was measured, under which load, on which device.
    pub name: String,
    /// Unit of `measured` and `baseline`, as "us" or "appends/s".
    pub unit: &'static str,
    /// The product's value: the median of the runs.
    pub measured: f64,
    /// What it is held against and its value in the same unit, measured in the same run; `None` for an absolute goal.
    pub baseline: Option<(String, f64)>,
    /// What it should be.
    pub goal: Goal,
}

/// What a figure should be. Bounds are met when reached exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// The value, in the figure's unit.
    AtMost(f64),
    /// The value, in the figure's unit.
    AtLeast(f64),
    /// The value over the baseline's.
    RatioAtMost(f64),
    /// The value over the baseline's.
    RatioAtLeast(f64),
    /// The value less the baseline's, in the figure's unit.
    AboveBaselineAtMost(f64),
    /// Reported beside others, with nothing to reach.
    None,
}

impl Figure {
    /// The value over the baseline's.
    pub fn ratio(&self) -> Option<f64> {
        let (_, baseline) = self.baseline.as_ref()?;
        Some(self.measured / baseline)
    }

    /// Whether the goal is reached; `None` where there is none. A goal over a baseline that is missing or a value that
    /// is no number is not reached.
    pub fn met(&self) -> Option<bool> {
        let ratio = self.ratio().unwrap_or(f64::NAN);
        let baseline = self.baseline.as_ref().map_or(f64::NAN, |(_, value)| *value);
        Some(match self.goal {
            Goal::AtMost(bound) => self.measured <= bound,
            Goal::AtLeast(bound) => self.measured >= bound,
            Goal::RatioAtMost(bound) => ratio <= bound,
            Goal::RatioAtLeast(bound) => ratio >= bound,
            Goal::AboveBaselineAtMost(bound) => self.measured - baseline <= bound,
            Goal::None => return None,
        })
    }

    /// The goal as text.
    pub fn goal_text(&self) -> String {
        let unit = self.unit;
        match self.goal {
            Goal::AtMost(bound) => format!("at most {} {unit}", number(bound)),
            Goal::AtLeast(bound) => format!("at least {} {unit}", number(bound)),
            Goal::RatioAtMost(bound) => format!("at most {}x", number(bound)),
            Goal::RatioAtLeast(bound) => format!("at least {}x", number(bound)),
            Goal::AboveBaselineAtMost(bound) => {
                format!("at most {} {unit} above the baseline", number(bound))
            }
            Goal::None => "-".to_string(),
        }
    }

    /// The figure for programs.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            "measured": finite(self.measured),
            "baseline_name": self.baseline.as_ref().map(|(name, _)| name),
            "baseline": self.baseline.as_ref().and_then(|(_, value)| finite(*value)),
            "ratio": self.ratio().and_then(finite),
            "goal": self.goal_text(),
            "met": self.met(),
        })
    }

    /// The figure as a row of a Markdown table under [`MARKDOWN_HEAD`].
    pub fn to_markdown(&self) -> String {
        let baseline = match &self.baseline {
            Some((name, value)) => format!("{} {} ({name})", number(*value), self.unit),
            None => "-".to_string(),
        };
        let ratio = self.ratio().map_or("-".to_string(), |ratio| format!("{ratio:.2}"));
        let met = match self.met() {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "-",
        };
        format!(
            "| {} | {} {} | {baseline} | {ratio} | {} | {met} |",
            self.name,
            number(self.measured),
            self.unit,
            self.goal_text()
        )
    }
}

/// Heads of the columns of [`Figure::to_markdown`].
pub const MARKDOWN_HEAD: &str = "| figure | measured | baseline | ratio | goal | |\n\
     | --- | --- | --- | --- | --- | --- |";

/// A number with as many digits as carry something: thousands in groups, small values with two places.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "none".to_string();
    }
    if value.abs() >= 1_000.0 {
        let whole = format!("{:.0}", value.abs());
        let mut grouped = if value < 0.0 { "-".to_string() } else { String::new() };
        for (index, digit) in whole.chars().enumerate() {
            if index > 0 && (whole.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return grouped;
    }
    let places = if value.abs() >= 100.0 { 0 } else { 2 };
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

/// JSON has no number for what is none.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests;
