//! Start-up checks on this machine.

use std::time::Duration;

use super::super::options::{RingSetup, parse_cores};
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
fn a_core_has_one_process_that_may_spin() {
    let directory = tempfile::tempdir().unwrap();
    let set = rustix::thread::sched_getaffinity(None).unwrap();
    let core = (0..1024).rev().find(|core| set.is_set(*core)).unwrap();
    let spin = Duration::from_micros(100);
    let options = RuntimeOptions { spin, cores: vec![core], ..RuntimeOptions::default() };
    let first = check_start(&options, directory.path()).unwrap();
    let second = check_start(&options, directory.path()).unwrap();
    assert_eq!(second.options.spin, Duration::ZERO);
    let expected = format!("shards share cores [{core}] with another firn-node");
    assert!(second.degraded[0].starts_with(&expected), "{:?}", second.degraded);
    // Unless a node of somebody else runs on it.
    if first.options.spin == spin {
        drop(first);
        assert_eq!(check_start(&options, directory.path()).unwrap().options.spin, spin);
    }
}

#[test]
fn set_ups_of_older_kernels_are_said_to_be_slower() {
    let directory = tempfile::tempdir().unwrap();
    for (ring, lacks) in
        [(RingSetup::Cooperative, "DEFER_TASKRUN"), (RingSetup::Plain, "COOP_TASKRUN")]
    {
        let options = RuntimeOptions { ring, ..RuntimeOptions::default() };
        let checked = check_start(&options, directory.path()).unwrap();
        assert!(checked.degraded[0].contains(lacks), "{:?}", checked.degraded);
    }
}

#[test]
fn a_ring_that_does_not_fit_names_the_limit() {
    for (code, limit) in [(libc::ENOMEM, "RLIMIT_MEMLOCK"), (libc::EMFILE, "RLIMIT_NOFILE")] {
        let error = io::Error::from_raw_os_error(code);
        let advice = advice(&error);
        let text = StartError::TooManyRings { rings: 300, error, advice }.to_string();
        assert!(text.contains("300 io_urings") && text.contains(limit), "{text}");
    }
}

#[test]
fn core_lists_have_a_text_form() {
    assert_eq!(parse_cores("0-2,5").unwrap(), [0, 1, 2, 5]);
    assert_eq!(parse_cores("7").unwrap(), [7]);
    for wrong in ["", "a", "3-1", "1,", "0-99999", "1-2-3"] {
        assert!(parse_cores(wrong).is_err(), "{wrong}");
    }
}
