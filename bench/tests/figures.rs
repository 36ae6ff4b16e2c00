//! `firn-bench figures --quick` measures every figure of a part and tells it in both forms. Its numbers are for people.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::process::Command;

fn figures(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_firn-bench"))
        .args(["figures", "--quick"])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn the_append_path_has_its_figures() {
    let text = figures(&["--json", "--only", "wal"]);
    let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert!(list.len() >= 12, "{text}");
    for figure in &list {
        for field in ["name", "measured", "baseline", "ratio", "goal", "met"] {
            assert!(figure.get(field).is_some(), "{field} of {figure}");
        }
        assert!(figure["measured"].as_f64().is_some(), "{figure}");
    }
}

#[test]
fn an_unknown_part_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_firn-bench"))
        .args(["figures", "--only", "nothing"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("expected one of"), "{errors}");
}
