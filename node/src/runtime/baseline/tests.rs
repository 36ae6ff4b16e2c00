//! Every baseline runs and reports what it did.

use std::cell::Cell;
use std::time::Duration;

use super::super::{TaskClass, block_on};
use super::{device, echo, files};

/// A few operations on any machine; nothing here depends on how many.
const SHORT: Duration = Duration::from_millis(50);

#[test]
fn device_and_files_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_path_buf();
    block_on(|runtime| async move {
        let count = Cell::new(0);
        let heard = |_, _| count.set(count.get() + 1);
        let file = path.join("device");
        device::prepare(&runtime, &file).await.unwrap();
        device::run(&runtime, &file, (5_000, 3, true), runtime.now() + SHORT, &heard)
            .await
            .unwrap();
        assert!(count.replace(0) >= 3);
        files::prepare(&runtime, &path, 4).await.unwrap();
        files::run(&runtime, &path, 4, (512, 2), runtime.now() + SHORT, &heard).await.unwrap();
        assert!(count.get() >= 8);
    })
    .unwrap();
}

#[test]
fn requests_are_answered() {
    block_on(|runtime| async move {
        let listener = runtime.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().to_string();
        let serving = echo::serve(runtime.clone(), listener, 8_192, 60);
        runtime.spawn(TaskClass::Latency, serving).detach();
        let count = Cell::new(0);
        let heard = |_, _| count.set(count.get() + 1);
        let until = runtime.now() + SHORT;
        echo::ask(&runtime, &address, (2, 2), (8_192, 60), until, &heard).await.unwrap();
        assert!(count.get() >= 4);
    })
    .unwrap();
}

#[cfg(feature = "baselines")]
#[test]
fn all_runtimes_do_the_same_work() {
    use super::others::{Which, Work, prepare};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    prepare(&path).unwrap();
    for work in Work::ALL {
        assert_eq!(work.to_string().parse(), Ok(work));
        for which in Which::ALL {
            let measured = which.run(work, &path, 64).unwrap();
            assert_eq!(measured.latencies_ns.len(), 64, "{work} on {which}");
        }
    }
}
