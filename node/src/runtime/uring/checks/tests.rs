//! Start-up checks on this machine.

use std::time::Duration;

use super::super::super::options::parse_cores;
use super::*;

#[test]
fn a_good_directory_passes_and_is_left_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let checked = check_start(&RuntimeOptions::default(), directory.path()).unwrap();
    assert_eq!(checked.options.shards, 1);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_missing_or_unwritable_directory_is_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().join("missing"), PathBuf::from("/proc")] {
        let error = check_start(&RuntimeOptions::default(), &path).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StartError::NotWritable { .. }), "{text}");
        assert!(text.contains(&*path.to_string_lossy()) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn a_core_that_is_not_there_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let options = RuntimeOptions { cores: vec![1000], ..RuntimeOptions::default() };
    let error = check_start(&options, directory.path()).unwrap_err();
    assert!(error.to_string().contains("core 1000"), "{error}");
}

#[test]
fn shards_without_cores_of_their_own_do_not_spin() {
    let directory = tempfile::tempdir().unwrap();
    let spin = Duration::from_micros(100);
    let options = RuntimeOptions { spin, shards: 2, ..RuntimeOptions::default() };
    let checked = check_start(&options, directory.path()).unwrap();
    assert_eq!(checked.options.spin, Duration::ZERO);
    assert!(checked.degraded.iter().any(|line| line.contains("spin")), "{:?}", checked.degraded);
}

#[test]
fn core_lists_have_a_text_form() {
    assert_eq!(parse_cores("0-2,5").unwrap(), [0, 1, 2, 5]);
    assert_eq!(parse_cores("7").unwrap(), [7]);
    for wrong in ["", "a", "3-1", "1,", "0-99999", "1-2-3"] {
        assert!(parse_cores(wrong).is_err(), "{wrong}");
    }
}
