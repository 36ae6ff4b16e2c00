//! What the simulator must do beyond the façade: faults, and the same again from the same seed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::super::*;
use super::*;

const LONG: Duration = Duration::from_secs(3600);

/// A program that writes, talks and sleeps, so that a trace of it covers everything drawn by chance.
fn trace_of(seed: u64) -> Trace {
    let simulation = Simulation::new(seed);
    simulation.set_network(LinkFaults { reset: 2_000, late: 20_000, ..LinkFaults::default() });
    let server = simulation.add_machine("server");
    let client = simulation.add_machine("client");
    simulation.start(server, 2, |runtime| async move {
        let listener = runtime.listen(&format!("0.0.0.0:{}", 7000 + runtime.shard_index())).await;
        let listener = listener.unwrap();
        loop {
            let stream = listener.accept().await.unwrap();
            let echo = async move {
                loop {
                    let (count, bytes) = stream.recv(Vec::with_capacity(100)).await;
                    if !matches!(count, Ok(1..)) || stream.send_all(bytes).await.0.is_err() {
                        return;
                    }
                }
            };
            runtime.spawn(TaskClass::Latency, echo).detach();
        }
    });
    simulation.start(client, 1, |runtime| async move {
        runtime.sleep(Duration::from_millis(1)).await;
        let file = runtime.open("/log", OpenOptions::read_write().create()).await.unwrap();
        for round in 0..50u64 {
            let address = format!("server:{}", 7000 + round % 2);
            let Ok(stream) = runtime.connect(&address).await else { continue };
            let mut bytes = vec![0; 1 + runtime.random_u64() as usize % 300];
            runtime.fill_random(&mut bytes);
            let (sent, _) = stream.send_all(bytes.clone()).await;
            let (count, _) = stream.recv(Vec::with_capacity(64)).await;
            if sent.is_ok() && count.is_ok() {
                let padded = Buffer::padded_copy(&bytes);
                file.write_durable_at(padded, 4096 * round).await.0.unwrap();
            }
        }
    });
    simulation.run_until(LONG, || !simulation.is_running(client));
    simulation.kill(server);
    simulation.trace()
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let first = trace_of(7);
    assert!(first.events > 1000, "the program was to cause many events: {first:?}");
    assert_eq!(first, trace_of(7));
    assert_ne!(first, trace_of(8));
}

/// A first page of ones, durable with its name; then `writer` until it is done; then the power goes.
fn after_crash<F: Future<Output = ()> + 'static>(
    seed: u64,
    writer: impl Fn(Runtime, File) -> F + Clone + 'static,
) -> Simulation {
    let simulation = Simulation::new(seed);
    let machine = simulation.add_machine("node");
    let done = Rc::new(Cell::new(false));
    simulation.start(machine, 1, |runtime| {
        let (done, writer) = (done.clone(), writer.clone());
        async move {
            let file = runtime.open("/file", OpenOptions::read_write().create()).await.unwrap();
            let ones = Buffer::padded_copy(&[1; 4096]);
            file.write_durable_at(ones, 0).await.0.unwrap();
            runtime.sync_dir("/").await.unwrap();
            writer(runtime, file).await;
            done.set(true);
            std::future::pending().await
        }
    });
    assert!(simulation.run_until(LONG, || done.get()));
    simulation.kill(machine);
    simulation
}

fn file_of(simulation: &Simulation) -> Vec<u8> {
    simulation.file_contents(MachineId(0), "/file").unwrap()
}

#[test]
fn durable_writes_and_flushed_writes_survive() {
    for seed in 0..20 {
        let simulation = after_crash(seed, |_, file| async move {
            file.write_at(Buffer::padded_copy(&[2; 4096]), 0).await.0.unwrap();
            file.fdatasync().await.unwrap();
            file.write_durable_at(Buffer::padded_copy(&[3; 4096]), 4096).await.0.unwrap();
        });
        let bytes = file_of(&simulation);
        assert_eq!(bytes.len(), 8192);
        assert!(bytes[..4096].iter().all(|byte| *byte == 2));
        assert!(bytes[4096..].iter().all(|byte| *byte == 3));
    }
}

#[test]
fn unflushed_writes_are_lost_kept_or_torn_at_sectors() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..40 {
        let simulation = after_crash(seed, |_, file| async move {
            file.write_at(Buffer::padded_copy(&[2; 4096]), 0).await.0.unwrap();
        });
        let bytes = file_of(&simulation);
        let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        match (sectors.contains(&1), sectors.contains(&2)) {
            (true, false) => lost += 1,
            (false, true) => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 0 && kept > 0 && torn > 0, "{lost} lost, {kept} kept, {torn} torn");
}

#[test]
fn a_flush_covers_nothing_written_after_it_began() {
    let mut lost = 0;
    for seed in 0..40 {
        let simulation = after_crash(seed, |runtime, file| async move {
            let flushing = file.clone();
            let flush = runtime.spawn(TaskClass::Latency, async move {
                flushing.fdatasync().await.unwrap();
            });
            runtime.sleep(Duration::from_micros(5)).await;
            file.write_at(Buffer::padded_copy(&[2; 4096]), 0).await.0.unwrap();
            flush.await;
        });
        lost += u32::from(file_of(&simulation)[0] == 1);
    }
    assert!(lost > 0, "a write after the flush began survived every crash");
}

#[test]
fn names_need_a_directory_flush() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..40 {
        let simulation = after_crash(seed, |runtime, _| async move {
            let options = OpenOptions::read_write().create_new();
            let file = runtime.open("/new", options).await.unwrap();
            file.write_durable_at(Buffer::padded_copy(b"x"), 0).await.0.unwrap();
            runtime.create_dir_all("/a/b").await.unwrap();
            runtime.open("/a/b/c", options).await.unwrap();
            for directory in ["/a/b", "/a"] {
                runtime.sync_dir(directory).await.unwrap();
            }
        });
        match simulation.file_contents(MachineId(0), "/new") {
            Ok(bytes) => {
                assert_eq!(bytes[0], b'x');
                kept += 1;
            }
            Err(_) => lost += 1,
        }
    }
    assert!(lost > 0 && kept > 0, "{lost} lost, {kept} kept");
}

#[test]
fn a_rename_is_whole_after_a_crash() {
    for seed in 0..40 {
        let simulation = after_crash(seed, |runtime, _| async move {
            let options = OpenOptions::read_write().create_new();
            let file = runtime.open("/temporary", options).await.unwrap();
            file.write_durable_at(Buffer::padded_copy(&[9; 4096]), 0).await.0.unwrap();
            runtime.rename("/temporary", "/file").await.unwrap();
        });
        let first = file_of(&simulation)[0];
        assert!(first == 1 || first == 9, "neither the old nor the new file: {first}");
    }
}

#[test]
fn disks_fail_fill_up_rot_and_are_emptied() {
    let simulation = Simulation::new(1);
    let machine = simulation.add_machine("node");
    simulation.set_disk(
        machine,
        DiskFaults { flush_error: 1_000_000, capacity_bytes: 65536, ..DiskFaults::default() },
    );
    simulation.run_program(machine, LONG, |runtime| async move {
        let file = runtime.open("/file", OpenOptions::read_write().create()).await.unwrap();
        file.write_at(Buffer::padded_copy(&[1; 4096]), 0).await.0.unwrap();
        let error = file.fdatasync().await.unwrap_err();
        assert!(error.to_string().contains("/file"), "{error}");
        let error = file.write_at(Buffer::zeroed(4096), 65536).await.0.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    });
    let before = simulation.file_contents(machine, "/file").unwrap();
    assert_eq!(simulation.rot(machine, "fil", 3), 3);
    assert_ne!(before, simulation.file_contents(machine, "/file").unwrap());
    simulation.empty_disk(machine);
    assert!(simulation.file_contents(machine, "/file").is_err());
}

type Received = Rc<RefCell<Vec<u8>>>;
type Failed = Rc<RefCell<Option<std::io::ErrorKind>>>;

/// A server that keeps what it received, and a client that sends `count` bytes and tells how sending ended.
fn transfer(simulation: &Simulation, count: usize) -> (Received, Failed) {
    let (server, client) = (simulation.add_machine("server"), simulation.add_machine("client"));
    let received = Received::default();
    let failed = Failed::default();
    simulation.start(server, 1, |runtime| {
        let received = received.clone();
        async move {
            let listener = runtime.listen("0.0.0.0:7000").await.unwrap();
            let stream = listener.accept().await.unwrap();
            loop {
                let (count, bytes) = stream.recv(Vec::with_capacity(1000)).await;
                received.borrow_mut().extend(bytes);
                if !matches!(count, Ok(1..)) {
                    std::future::pending::<()>().await;
                }
            }
        }
    });
    simulation.start(client, 1, |runtime| {
        let failed = failed.clone();
        async move {
            runtime.sleep(Duration::from_millis(1)).await;
            let stream = runtime.connect("server:7000").await.unwrap();
            for chunk in 0..count / 100 {
                let (result, _) = stream.send_all(vec![chunk as u8; 100]).await;
                if let Err(error) = result {
                    *failed.borrow_mut() = Some(error.kind());
                }
                runtime.sleep(Duration::from_millis(1)).await;
            }
            let (result, _) = stream.recv(Vec::with_capacity(1)).await;
            if let Err(error) = result {
                *failed.borrow_mut() = Some(error.kind());
            }
        }
    });
    (received, failed)
}

fn expected(count: usize) -> Vec<u8> {
    (0..count / 100).flat_map(|chunk| [chunk as u8; 100]).collect()
}

#[test]
fn a_cut_link_holds_bytes_and_a_heal_in_time_delivers_them_in_order() {
    let simulation = Simulation::new(3);
    let (received, _) = transfer(&simulation, 5000);
    let (server, client) = (MachineId(0), MachineId(1));
    simulation.run_for(Duration::from_millis(20));
    let before = received.borrow().len();
    assert!(before > 0);
    simulation.cut(server, client);
    simulation.run_for(Duration::from_secs(5));
    assert!(received.borrow().len() <= before + 100);
    simulation.heal(server, client);
    simulation.run_for(Duration::from_secs(1));
    assert_eq!(*received.borrow(), expected(5000));
}

#[test]
fn a_long_cut_times_the_sender_out_and_leaves_the_receiver_half_open() {
    let simulation = Simulation::new(4);
    let (received, failed) = transfer(&simulation, 5000);
    simulation.run_for(Duration::from_millis(20));
    simulation.cut_one_way(MachineId(1), MachineId(0));
    simulation.run_for(TCP_TIMEOUT * 2);
    assert_eq!(*failed.borrow(), Some(std::io::ErrorKind::TimedOut));
    assert!(received.borrow().len() < 5000);
    assert!(simulation.is_running(MachineId(0)));
}

#[test]
fn a_killed_process_resets_its_peers_and_refuses_until_it_listens_again() {
    let simulation = Simulation::new(5);
    let (_, failed) = transfer(&simulation, 5000);
    simulation.run_for(Duration::from_millis(20));
    simulation.kill(MachineId(0));
    simulation.run_for(Duration::from_millis(100));
    assert_eq!(*failed.borrow(), Some(std::io::ErrorKind::ConnectionReset));
    let third = simulation.add_machine("third");
    let error = simulation.run_program(third, LONG, |runtime| async move {
        runtime.connect("server:7000").await.unwrap_err()
    });
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn wall_clocks_jump_and_monotonic_clocks_do_not() {
    let simulation = Simulation::new(6);
    let machine = simulation.add_machine("node");
    let read = |runtime: Runtime| async move { (runtime.now(), runtime.unix_time_us()) };
    let (before, wall_before) = simulation.run_program(machine, LONG, read);
    simulation.jump_clock(machine, -3_600_000_000);
    let (after, wall_after) = simulation.run_program(machine, LONG, read);
    assert!(after >= before);
    assert!(wall_after < wall_before - 3_500_000_000);
}
