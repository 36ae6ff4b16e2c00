//! `firn-bench runtime` runs to its end and leaves nothing behind. Its figures are for people.

use std::process::Command;

#[test]
fn every_row_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let bench = env!("CARGO_BIN_EXE_firn-bench");
    let output = Command::new(bench)
        .args(["runtime", "--operations", "20", "--directory"])
        .arg(directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for row in ["durable write, depth 8", "random read, depth 32", "TCP replies", "question"] {
        assert!(text.contains(row), "no {row} in {text}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
