//! The wrappers on a real directory.

use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::extents::Extents;

fn options(device: Device) -> RuntimeOptions {
    RuntimeOptions { device, ..RuntimeOptions::default() }
}

fn page(byte: u8) -> Buffer {
    Buffer::padded_copy(&[byte; ALIGNMENT_BYTES])
}

#[test]
fn volatile_bytes_reach_the_file_by_a_flush_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let on_disk = path.clone();
    block_on_with(&options(Device::Volatile), |runtime| async move {
        let file = runtime.open(&path, OpenOptions::read_write().create()).await.unwrap();
        file.write_at(page(1), 0).await.0.unwrap();
        file.write_at(page(2), 4096).await.0.unwrap();
        assert_eq!(file.len().await.unwrap(), 8192);
        assert_eq!(std::fs::read(&path).unwrap().len(), 0);

        file.write_durable_at(page(3), 4096).await.0.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes[0], bytes[4096]), (0, 3), "a durable write covers its own range only");
        drop(file);

        let file = runtime.open(&path, OpenOptions::read_write()).await.unwrap();
        let (count, buffer) = file.read_at(Buffer::zeroed(16384), 0).await;
        assert_eq!((count.unwrap(), buffer[0], buffer[4096]), (8192, 1, 3));
        file.fdatasync().await.unwrap();
        file.write_at(page(4), 0).await.0.unwrap();
        runtime.remove_file(&path).await.unwrap();
        let file = runtime.open(&path, OpenOptions::read_write().create_new()).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 0, "a new file has nothing of a removed one");
        file.write_at(page(5), 0).await.0.unwrap();
        file.fdatasync().await.unwrap();
        file.write_at(page(6), 0).await.0.unwrap();
        file.set_len(0).await.unwrap();
        assert_eq!(file.read_at(Buffer::zeroed(4096), 0).await.0.unwrap(), 0);
        file.write_at(page(7), 0).await.0.unwrap();
    })
    .unwrap();
    assert_eq!(std::fs::read(on_disk).unwrap().len(), 0, "the end of a process flushes nothing");
}

#[test]
fn modelled_completions_are_held_and_run_in_parallel() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let write = Duration::from_millis(20);
    let device = Device::Modelled { write, read: Duration::from_millis(5) };
    block_on_with(&options(device), |runtime| async move {
        let file = runtime.open(&path, OpenOptions::read_write().create()).await.unwrap();
        let started = runtime.now();
        let writes = (0..16u64).map(|index| file.write_durable_at(page(1), index * 4096));
        for (result, _) in futures_util::future::join_all(writes).await {
            result.unwrap();
        }
        assert!(runtime.now() - started >= write);
        let started = runtime.now();
        assert_eq!(file.read_at(Buffer::zeroed(65536), 0).await.0.unwrap(), 65536);
        assert!(runtime.now() - started >= Duration::from_millis(5));
    })
    .unwrap();
}

#[test]
fn devices_have_a_text_form() {
    let modelled =
        Device::Modelled { write: Duration::from_micros(20), read: Duration::from_micros(80) };
    assert_eq!("real".parse(), Ok(Device::Real));
    assert_eq!("volatile".parse(), Ok(Device::Volatile));
    for text in ["modelled", "modelled:20us", "modelled:20us:80us"] {
        assert_eq!(text.parse(), Ok(modelled), "{text}");
    }
    let other = Device::Modelled { write: Duration::ZERO, read: Duration::from_micros(5) };
    assert_eq!("modelled:0us:5us".parse(), Ok(other));
    for wrong in ["", "modelled:", "modelled:1", "modelled:2000000us", "real:1us", "modelled:1us:x"]
    {
        assert!(wrong.parse::<Device>().is_err(), "{wrong}");
    }
}

/// The modelled device is meant for a file system in memory, where the kernel has O_DIRECT for it (tmpfs: Linux 6.6).
#[test]
fn modelled_runs_on_a_file_system_in_memory() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = options("modelled".parse().unwrap());
    match check_start(&options, directory.path()) {
        Ok(checked) => assert_eq!(checked.options.device, options.device),
        Err(error) => {
            assert!(matches!(error, StartError::NoDirectIo { .. }), "{error}");
            return;
        }
    }
    let path = directory.path().join("file");
    block_on_with(&options, |runtime| async move {
        let file = runtime.open(&path, OpenOptions::read_write().create()).await.unwrap();
        file.fallocate(0, 1 << 20).await.unwrap();
        let started = runtime.now();
        file.write_durable_at(page(3), 8192).await.0.unwrap();
        file.fdatasync().await.unwrap();
        assert!(runtime.now() - started >= 2 * Duration::from_micros(20));
        let (count, buffer) = file.read_at(Buffer::zeroed(4096), 8192).await;
        assert_eq!((count.unwrap(), buffer[0]), (4096, 3));
    })
    .unwrap();
}

proptest! {
    /// Extents against plain bytes: `None` is what was not written or was removed.
    #[test]
    fn extents_hold_the_latest_write_of_each_byte(
        steps in proptest::collection::vec((0..60u64, 1..20u64, any::<u8>(), any::<bool>()), 1..40),
    ) {
        let mut extents = Extents::default();
        let mut model = vec![None; 100];
        for (start, len, byte, remove) in steps {
            if remove {
                extents.remove(start..start + len, u64::MAX);
                model[start as usize..(start + len) as usize].fill(None);
            } else {
                extents.insert(start, &vec![byte; len as usize]);
                model[start as usize..(start + len) as usize].fill(Some(byte));
            }
            let mut held = vec![None; 100];
            for (at, bytes) in extents.copy(0..100) {
                for (index, byte) in bytes.into_iter().enumerate() {
                    held[at + index] = Some(byte);
                }
            }
            prop_assert_eq!(&held, &model);
            let end = model.iter().rposition(Option::is_some).map_or(0, |last| last as u64 + 1);
            prop_assert_eq!(extents.end(), end);
        }
    }
}
