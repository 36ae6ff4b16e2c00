//! What every implementation of the façade must do: one suite, written once, run on each.

use std::cell::Cell;
use std::net::Shutdown;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, join, select};

use super::sim::Simulation;
use super::*;

/// Runs a test on one shard of every implementation, with every set-up of the ring and behind every device, each with an
/// empty directory.
fn on_each<F>(test: impl Fn(Runtime, PathBuf) -> F)
where
    F: Future<Output = ()> + 'static,
{
    let modelled =
        Device::Modelled { write: Duration::from_micros(50), read: Duration::from_micros(20) };
    let deferred = RingSetup::default();
    let (uring, glommio) = (RuntimeName::Uring, RuntimeName::Glommio);
    for (runtime, device, ring) in [
        (uring, Device::Real, deferred),
        (uring, Device::Real, RingSetup::Cooperative),
        (uring, Device::Real, RingSetup::Plain),
        (uring, modelled, deferred),
        (uring, Device::Volatile, deferred),
        (glommio, Device::Real, deferred),
        (glommio, modelled, deferred),
        (glommio, Device::Volatile, deferred),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let options = RuntimeOptions { device, runtime, ring, ..RuntimeOptions::default() };
        block_on_with(&options, |runtime| test(runtime, directory.path().into())).unwrap();
    }
    for seed in 0..10 {
        let simulation = Simulation::new(seed);
        let machine = simulation.add_machine("node");
        simulation.run_program(machine, Duration::from_secs(600), |runtime| {
            test(runtime, PathBuf::from("/"))
        });
    }
}

fn page(byte: u8) -> Buffer {
    Buffer::padded_copy(&[byte; ALIGNMENT_BYTES])
}

#[test]
fn files_are_written_and_read_back() {
    on_each(|runtime, directory| async move {
        let path = directory.join("file");
        let file = runtime.open(&path, OpenOptions::read_write().create()).await.unwrap();
        file.write_durable_at(page(7), 4096).await.0.unwrap();
        file.write_at(page(8), 0).await.0.unwrap();
        file.fdatasync().await.unwrap();
        assert_eq!(file.len().await.unwrap(), 8192);
        let (count, buffer) = file.read_at(Buffer::zeroed(16384), 0).await;
        assert_eq!(count.unwrap(), 8192);
        assert_eq!((buffer[0], buffer[4095], buffer[4096], buffer[8191]), (8, 8, 7, 7));
        assert_eq!(file.read_at(Buffer::zeroed(4096), 1 << 20).await.0.unwrap(), 0);

        file.fallocate(0, 65536).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 65536);
        file.set_len(4096).await.unwrap();
        assert_eq!(file.read_at(Buffer::zeroed(8192), 0).await.0.unwrap(), 4096);
    });
}

#[test]
fn buffered_files_take_any_length() {
    on_each(|runtime, directory| async move {
        let options = OpenOptions::read_write().create().buffered();
        let file = runtime.open(directory.join("small"), options).await.unwrap();
        let mut buffer = Buffer::zeroed(5);
        buffer.copy_from_slice(b"hello");
        file.write_at(buffer, 3).await.0.unwrap();
        let (count, buffer) = file.read_at(Buffer::zeroed(100), 0).await;
        assert_eq!(&buffer[..count.unwrap()], b"\0\0\0hello");
    });
}

#[test]
fn open_says_what_is_wrong() {
    on_each(|runtime, directory| async move {
        let path = directory.join("missing");
        let error = runtime.open(&path, OpenOptions::read()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        assert!(error.to_string().contains("missing"), "{error}");
        let options = OpenOptions::read_write().create_new();
        runtime.open(&path, options).await.unwrap();
        let error = runtime.open(&path, options).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    });
}

#[test]
fn directories_list_rename_and_remove() {
    on_each(|runtime, directory| async move {
        let below = directory.join("a/b");
        runtime.create_dir_all(&below).await.unwrap();
        for name in ["two", "one"] {
            let options = OpenOptions::read_write().create();
            runtime.open(below.join(name), options).await.unwrap();
        }
        runtime.rename(below.join("two"), below.join("three")).await.unwrap();
        runtime.sync_dir(&below).await.unwrap();
        let names = |entries: Vec<DirectoryEntry>| {
            entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>()
        };
        assert_eq!(names(runtime.list_dir(&below).await.unwrap()), ["one", "three"]);
        runtime.remove_file(below.join("one")).await.unwrap();
        assert!(!runtime.exists(below.join("one")).await.unwrap());
        assert!(runtime.list_dir(directory.join("a")).await.unwrap()[0].is_directory);
        runtime.remove_dir_all(directory.join("a")).await.unwrap();
        assert!(!runtime.exists(&below).await.unwrap());
    });
}

#[test]
fn a_file_is_locked_once() {
    on_each(|runtime, directory| async move {
        let path = directory.join("lock");
        let held = runtime.lock_file(&path).await.unwrap();
        assert!(held.is_some());
        assert!(runtime.lock_file(&path).await.unwrap().is_none());
        drop(held);
        assert!(runtime.lock_file(&path).await.unwrap().is_some());
    });
}

#[test]
fn streams_carry_more_than_their_buffers_hold() {
    on_each(|runtime, _| async move {
        let listener = runtime.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().to_string();
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
        let client = async {
            let stream = runtime.connect(&address).await.unwrap();
            let (first, rest) = sent.split_at(1_000_000);
            stream.send_all(first.to_vec()).await.0.unwrap();
            let parts = rest.split_at(700_000);
            stream.send_parts(parts.0.to_vec().into(), parts.1.to_vec().into()).await.unwrap();
            stream.shutdown(Shutdown::Write).await.unwrap();
            stream.recv(Vec::with_capacity(10)).await.0.unwrap()
        };
        let server = async {
            let stream = listener.accept().await.unwrap();
            let mut received = Vec::new();
            loop {
                received.reserve(65536);
                let (count, buffer) = stream.recv(received).await;
                received = buffer;
                if count.unwrap() == 0 {
                    return received;
                }
            }
        };
        let (end, received) = join(client, server).await;
        assert_eq!(end, 0, "the server closed its end");
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    });
}

#[test]
fn a_dropped_receive_loses_no_byte() {
    on_each(|runtime, _| async move {
        let listener = runtime.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().to_string();
        // A dropped accept loses no connection either.
        for _ in 0..3 {
            let accept = std::pin::pin!(listener.accept());
            let pause = std::pin::pin!(runtime.yield_now());
            assert!(matches!(select(accept, pause).await, Either::Right(_)));
        }
        let (client, server) = join(runtime.connect(&address), listener.accept()).await;
        let (client, server) = (client.unwrap(), server.unwrap());
        let sending = runtime.spawn(TaskClass::Latency, {
            let runtime = runtime.clone();
            async move {
                for byte in 0..100 {
                    client.send_all(vec![byte; 10]).await.0.unwrap();
                    runtime.sleep(Duration::from_micros(50)).await;
                }
                client
            }
        });
        let mut received: Vec<u8> = Vec::new();
        while received.len() < 1000 {
            let receive = std::pin::pin!(server.recv(Vec::with_capacity(64)));
            let pause = std::pin::pin!(runtime.sleep(Duration::from_micros(30)));
            if let Either::Left(((count, bytes), _)) = select(receive, pause).await {
                assert!(count.unwrap() > 0);
                received.extend(bytes);
            }
        }
        let expected: Vec<u8> = (0..100).flat_map(|byte| [byte; 10]).collect();
        assert_eq!(received, expected);
        drop(sending.await);
    });
}

#[test]
fn dropping_a_stream_with_a_waiting_receive_closes_it() {
    on_each(|runtime, _| async move {
        let listener = runtime.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().to_string();
        let (client, server) = join(runtime.connect(&address), listener.accept()).await;
        let (client, server) = (client.unwrap(), server.unwrap());
        {
            let receive = std::pin::pin!(client.recv(Vec::with_capacity(64)));
            let pause = std::pin::pin!(runtime.sleep(Duration::from_millis(1)));
            assert!(matches!(select(receive, pause).await, Either::Right(_)));
        }
        drop(client);
        assert_eq!(server.recv(Vec::with_capacity(8)).await.0.unwrap(), 0);
    });
}

/// Names are looked up on a bounded number of threads, also when nobody waits for the answers any more.
#[test]
fn many_names_at_once_take_few_threads() {
    let resolvers = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name.starts_with("firn-resolve")).count()
    };
    block_on(|runtime| async move {
        let listener = runtime.listen("localhost:0").await.unwrap();
        let address = format!("localhost:{}", listener.local_addr().port());
        for wait in [false, true] {
            let connecting: Vec<_> = (0..40)
                .map(|_| {
                    let (own, address) = (runtime.clone(), address.clone());
                    let connect = async move { own.connect(&address).await.is_ok() };
                    runtime.spawn(TaskClass::Latency, connect)
                })
                .collect();
            runtime.yield_now().await;
            assert!(resolvers() <= 4);
            for task in connecting {
                assert!(!wait || task.await);
            }
        }
    })
    .unwrap();
}

#[test]
fn connecting_to_nobody_is_refused() {
    on_each(|runtime, _| async move {
        let listener = runtime.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().to_string();
        let error = runtime.listen(&address).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        drop(listener);
        runtime.sleep(Duration::from_millis(1)).await;
        let error = runtime.connect(&address).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&address), "{error}");
    });
}

#[test]
fn tasks_sleep_long_enough_and_end_when_dropped() {
    on_each(|runtime, _| async move {
        let tasks = [3u64, 1, 2].map(|number| {
            let sleeper = runtime.clone();
            let deadline = runtime.now() + Duration::from_millis(number);
            runtime.spawn(TaskClass::Background, async move {
                sleeper.sleep_until(deadline).await;
                assert!(sleeper.now() >= deadline, "woken before its time");
            })
        });
        for task in tasks {
            task.await;
        }

        let dropped = Rc::new(Cell::new(false));
        struct OnDrop(Rc<Cell<bool>>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.set(true);
            }
        }
        let guard = OnDrop(dropped.clone());
        let task = runtime.spawn(TaskClass::Latency, async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        assert!(task.cancel().await.is_none());
        assert!(dropped.get());
    });
}

#[test]
fn notify_and_watch_miss_nothing() {
    on_each(|runtime, _| async move {
        let watch = sync::Watch::new(0);
        let waiting = runtime.spawn(TaskClass::Latency, {
            let watch = watch.clone();
            async move { watch.wait_until(|value| *value >= 10).await }
        });
        for value in 1..=10 {
            watch.set(value);
            runtime.yield_now().await;
        }
        waiting.await;
        let notify = sync::Notify::new();
        let notified = notify.notified();
        notify.notify_all();
        notified.await;
    });
}

#[test]
fn background_tasks_run_beside_busy_latency_tasks() {
    on_each(|runtime, _| async move {
        let busy = runtime.spawn(TaskClass::Latency, {
            let runtime = runtime.clone();
            async move {
                loop {
                    runtime.yield_now().await;
                }
            }
        });
        let background = runtime.spawn(TaskClass::Background, async { 5 });
        assert_eq!(background.await, 5);
        drop(busy);
    });
}

#[test]
fn streams_move_between_shards() {
    // Without a name: simulated.
    let run = |runtime: Option<RuntimeName>| {
        let (sender, receiver) = mailbox::<RawStream>(1);
        let receiver = std::sync::Arc::new(std::sync::Mutex::new(Some(receiver)));
        let main = move |runtime: Runtime| {
            let sender = sender.clone();
            let receiver = receiver.clone();
            async move {
                if runtime.shard_index() == 0 {
                    let listener = runtime.listen("127.0.0.1:0").await.unwrap();
                    let address = listener.local_addr().to_string();
                    let (client, server) = join(runtime.connect(&address), listener.accept()).await;
                    let client = client.unwrap();
                    sender.send(server.unwrap().into_raw().unwrap()).await.unwrap();
                    client.send_all(b"hello".to_vec()).await.0.unwrap();
                    let (count, buffer) = client.recv(Vec::with_capacity(5)).await;
                    assert!(b"hello".starts_with(&buffer) && count.unwrap() > 0);
                } else {
                    let mut receiver = receiver.lock().unwrap().take().unwrap();
                    let stream = Stream::from_raw(&runtime, receiver.recv().await.unwrap());
                    let (_, buffer) = stream.recv(Vec::with_capacity(16)).await;
                    runtime.sleep(Duration::from_millis(1)).await;
                    stream.send_all(buffer).await.0.unwrap();
                }
            }
        };
        if let Some(runtime) = runtime {
            let options = RuntimeOptions { shards: 2, runtime, ..RuntimeOptions::default() };
            start_shards(&options, main).unwrap().join().unwrap();
        } else {
            let simulation = Simulation::new(1);
            let machine = simulation.add_machine("node");
            simulation.start(machine, 2, main);
            let ended =
                simulation.run_until(Duration::from_secs(60), || !simulation.is_running(machine));
            assert!(ended);
        }
    };
    run(Some(RuntimeName::Uring));
    run(Some(RuntimeName::Glommio));
    run(None);
}

#[test]
fn a_durable_append_is_one_enter() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    block_on(|runtime| async move {
        let file = runtime.open(&path, OpenOptions::read_write().create()).await.unwrap();
        // A zero-filled file, as the journal's segments are: writes neither grow it nor change its extents.
        file.write_durable_at(Buffer::zeroed(4096 * 100), 0).await.0.unwrap();
        let mut buffer = page(1);
        let before = runtime.ring_enters();
        for round in 0..100 {
            let (result, returned) = file.write_durable_at(buffer, 4096 * round).await;
            result.unwrap();
            buffer = returned;
        }
        // The wake event's own poll is armed once; nothing else enters.
        let enters = runtime.ring_enters() - before;
        assert!(enters <= 101, "100 durable appends took {enters} enters");
    })
    .unwrap();
}

/// A ring expects small sends to complete at once: one that has to wait for its peer keeps nobody else waiting.
#[test]
fn a_small_send_that_waits_holds_nothing_back() {
    on_each(|runtime, directory| async move {
        let listener = runtime.listen("127.0.0.1:0").await.unwrap();
        let full = runtime.connect(&listener.local_addr().to_string()).await.unwrap();
        let _unread = listener.accept().await.unwrap();
        let file = runtime.open(directory.join("file"), OpenOptions::read_write().create()).await;
        let file = file.unwrap();
        let sender = full.clone();
        let sending = runtime.spawn(TaskClass::Latency, async move {
            while sender.send_all(vec![1; 4096]).await.0.is_ok() {}
        });
        let mut buffer = page(1);
        for _ in 0..500 {
            let (result, returned) = file.write_at(buffer, 0).await;
            result.unwrap();
            buffer = returned;
        }
        full.shutdown(Shutdown::Both).await.unwrap();
        sending.await;
    });
}

#[test]
fn an_idle_shard_sleeps_in_the_kernel() {
    block_on(|runtime| async move {
        let before = runtime.ring_enters();
        runtime.sleep(Duration::from_millis(20)).await;
        // One wait to the deadline, and one more should the kernel's timer be early.
        let enters = runtime.ring_enters() - before;
        assert!(enters <= 2, "20 ms of sleep took {enters} enters");
    })
    .unwrap();
}

#[test]
fn other_threads_wake_a_sleeping_shard() {
    for runtime in [RuntimeName::Uring, RuntimeName::Glommio] {
        let (request, requests) = mailbox::<OneshotSender<u64>>(4);
        let requests = std::sync::Mutex::new(Some(requests));
        let options = RuntimeOptions { runtime, ..RuntimeOptions::default() };
        let shards = start_shards(&options, move |_| {
            let mut requests = requests.lock().unwrap().take().unwrap();
            async move {
                let mut served = 0;
                while let Some(answer) = requests.recv().await {
                    served += 1;
                    answer.send(served).unwrap();
                }
                served
            }
        });
        for expected in 1..=100 {
            let (answer, receiver) = oneshot();
            let request = request.clone();
            // Another shard of its own on this thread, asleep until the answer comes.
            let answered = block_on_with(&options, move |_| async move {
                request.send(answer).await.unwrap();
                receiver.await
            });
            assert_eq!(answered.unwrap(), Ok(expected));
        }
        drop(request);
        assert_eq!(shards.unwrap().join().unwrap(), [100]);
    }
}

#[test]
fn a_shard_that_panics_is_named() {
    for runtime in [RuntimeName::Uring, RuntimeName::Glommio] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let options = RuntimeOptions { shards: 2, runtime, ..RuntimeOptions::default() };
        let shards = start_shards(&options, move |runtime| {
            let path = path.clone();
            async move {
                if runtime.shard_index() == 0 {
                    return;
                }
                let listener = runtime.listen("127.0.0.1:0").await.unwrap();
                let accept = async move { drop(listener.accept().await) };
                runtime.spawn(TaskClass::Latency, accept).detach();
                let open = OpenOptions::read_write().create();
                let file = runtime.open(&path, open).await.unwrap();
                let write = async move { drop(file.write_durable_at(page(1), 0).await) };
                runtime.spawn(TaskClass::Background, write).detach();
                runtime.yield_now().await;
                panic!("as the test wants");
            }
        });
        let error = shards.unwrap().join().unwrap_err();
        assert!(matches!(error, ShardPanicked::Panicked(1)), "{error}");
    }
}

#[test]
fn a_shard_ends_with_operations_in_flight() {
    on_each(|runtime, directory| async move {
        let listener = runtime.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().to_string();
        let (client, server) = join(runtime.connect(&address), listener.accept()).await;
        let (client, server) = (client.unwrap(), server.unwrap());
        let file = runtime.open(directory.join("file"), OpenOptions::read_write().create()).await;
        let file = file.unwrap();
        let accept = async move { drop(listener.accept().await) };
        let receive = async move { drop(client.recv(Vec::with_capacity(64)).await) };
        let write = async move { drop(file.write_durable_at(Buffer::zeroed(1 << 20), 0).await) };
        runtime.spawn(TaskClass::Latency, accept).detach();
        runtime.spawn(TaskClass::Latency, receive).detach();
        runtime.spawn(TaskClass::Background, write).detach();
        runtime
            .spawn(
                TaskClass::Latency,
                async move { drop((std::future::pending::<()>().await, server)) },
            )
            .detach();
        // Once each has submitted its operation the main future ends, and with it the shard.
        for _ in 0..4 {
            runtime.yield_now().await;
        }
    });
}
