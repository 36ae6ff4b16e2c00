//! `firn-bench figures`: every published figure, measured here and now, beside its baseline and its goal.
//!
//! Read first: [`figure`] (what a figure is), then a part, as `wal.rs` with `runs.rs`. Each part of the product measures its own: a function
//! `figures(quick) -> anyhow::Result<Vec<Figure>>`, listed in [`PARTS`].

pub mod figure;
mod idle;
mod pgbench;
mod runs;
mod wal;

use anyhow::Context;
use serde_json::Value;

use crate::machine::Machine;
use figure::{Figure, MARKDOWN_HEAD};
pub use runs::median;

/// One part's figures. `quick`: one short run instead of five, to see that all of it works; its numbers are not for
/// publishing.
type Measure = fn(quick: bool) -> anyhow::Result<Vec<Figure>>;

/// The parts that have figures, by the name that `--only` takes, in the order of the table.
const PARTS: &[(&str, Measure)] = &[
    ("wal", wal::figures),
    ("idle", idle::figures),
    ("pgbench", pgbench::figures),
    ("redo", crate::redo::figures),
];

/// Measures all figures, or those of one part, and prints them.
pub fn run(quick: bool, as_json: bool, only: Option<&str>) -> anyhow::Result<()> {
    let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    if let Some(only) = only {
        let known = names.contains(&only);
        anyhow::ensure!(known, "--only {only}: expected one of {}", names.join(", "));
    }
    let before = Machine::now();
    let mut all = Vec::new();
    for (name, measure) in PARTS {
        if only.is_none_or(|only| only == *name) {
            eprintln!("measuring {name}");
            all.extend(measure(quick).with_context(|| name.to_string())?);
        }
    }
    if as_json {
        return print_json(&all);
    }
    println!("Measured on {before}; load at the end {:?}.", Machine::now().load);
    if quick {
        println!("A quick run: one short round each, not for publishing.");
    }
    print_table(&all);
    Ok(())
}

/// Prints figures as a list of objects.
pub fn print_json(figures: &[Figure]) -> anyhow::Result<()> {
    let list: Vec<Value> = figures.iter().map(Figure::to_json).collect();
    println!("{}", serde_json::to_string_pretty(&list)?);
    Ok(())
}

/// Prints figures as a Markdown table.
pub fn print_table(figures: &[Figure]) {
    println!("\n{MARKDOWN_HEAD}");
    for figure in figures {
        println!("{}", figure.to_markdown());
    }
}
