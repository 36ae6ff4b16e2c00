//! A batch says what it met, and a failing seed the one line that replays it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use firn_core::marks;
use firn_tests::simulation::runner::Runner;

const FAILING_SEED: u64 = 7;

fn fails_in_one_seed(seed: u64) -> Result<u64, String> {
    match seed {
        FAILING_SEED => Err("a byte is gone".to_string()),
        _ => Ok(1),
    }
}

#[test]
fn a_failing_seed_prints_the_line_that_replays_it() {
    let report = Runner::new(10, &|_| None).report(&[], fails_in_one_seed);
    assert_eq!(report.problem.as_deref(), Some("1 seeds failed"));
    let line = format!("replay: ./test simulation --seed {FAILING_SEED}");
    assert!(report.text.contains(&format!("seed 7: a byte is gone\n{line}\n")), "{}", report.text);

    // The line, with a cargo that tells its environment instead of testing.
    let directory = tempfile::tempdir().unwrap();
    let cargo = directory.path().join("cargo");
    std::fs::write(&cargo, "#!/bin/sh\nenv | grep ^FIRN_SIMULATION\n").unwrap();
    std::fs::set_permissions(&cargo, PermissionsExt::from_mode(0o755)).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let words: Vec<&str> = line.split(' ').skip(2).collect();
    let mut test = Command::new(root.join("test"));
    let output = test
        .args(words)
        .current_dir(root)
        .env("PATH", path)
        .env_remove("FIRN_SIMULATION_SEED")
        .env_remove("FIRN_SIMULATION_SEEDS")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let variables: BTreeMap<&str, &str> =
        said.lines().filter_map(|line| line.split_once('=')).collect();

    let ran = Mutex::new(Vec::new());
    let replayer = Runner::new(10, &|name| variables.get(name).map(ToString::to_string));
    let replayed = replayer.report(&["a mark that one seed need not hit"], |seed| {
        ran.lock().unwrap().push(seed);
        fails_in_one_seed(seed)
    });
    assert_eq!(ran.into_inner().unwrap(), [FAILING_SEED]);
    assert!(replayed.text.contains("seed 7: a byte is gone"), "{}", replayed.text);
}

#[test]
fn a_batch_counts_marks_and_fails_on_zero() {
    let report = Runner::new(10, &|_| None).report(&["test.even", "test.never"], |seed| {
        if seed.is_multiple_of(2) {
            marks::hit("test.even");
        }
        Ok(1)
    });
    assert_eq!(report.problem.as_deref(), Some("no seed hit [\"test.never\"]"));
    assert!(report.text.contains("           5  test.even\n"), "{}", report.text);
    assert!(report.text.contains("           0  test.never\n"), "{}", report.text);
}

#[test]
fn a_broken_assertion_is_a_failure_of_its_seed() {
    let report = Runner::new(2, &|_| None).report(&[], |seed| {
        assert!(seed != 2, "seed {seed} broke an assertion");
        Ok(1)
    });
    assert!(report.text.contains("seed 2: seed 2 broke an assertion\nreplay: "), "{}", report.text);
}
