//! `firn-bench runtime`: the runtime's own cost, beneath journal and protocol.
//!
//! CPU and enters are those of the measuring shard's thread, per operation; durable writes are `RWF_DSYNC` into a
//! zero-filled file.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use firn_node::runtime::baseline::others::FILE_BYTES;
use firn_node::runtime::baseline::uring::{request, serve};
use firn_node::runtime::baseline::zero_filled;
use firn_node::runtime::{
    Buffer, Device, File, OneshotSender, Runtime, RuntimeOptions, TaskClass, block_on_with,
    mailbox, oneshot, start_shards,
};
use futures_util::future::try_join_all;

use crate::measure::{Row, print_head};

/// A page, and the reply to one.
const BLOCK_BYTES: usize = 8192;
/// Spin budget of the row that spins.
const SPIN: Duration = Duration::from_micros(100);

/// Measures all rows and prints them.
pub fn run(directory: &Path, operations: u64, device: Device) -> anyhow::Result<()> {
    let path = directory.join("firn-bench-runtime");
    let options = RuntimeOptions { device, ..RuntimeOptions::default() };
    println!("device {device:?}, {operations} operations of {BLOCK_BYTES} bytes per row");
    print_head();
    block_on_with(&options, |runtime| async move {
        let measured = disk(&runtime, &path, operations).await;
        let removed = runtime.remove_file(&path).await;
        measured?;
        removed?;
        tcp(&runtime, operations).await
    })
    .context("io_uring")??;
    for spin in [Duration::ZERO, SPIN] {
        wakes(spin, operations)?;
    }
    Ok(())
}

async fn disk(runtime: &Runtime, path: &Path, operations: u64) -> anyhow::Result<()> {
    let file = zero_filled(runtime, path, FILE_BYTES).await?;
    file.fdatasync().await?;
    for depth in [1, 2, 4, 8] {
        let name = format!("durable write, depth {depth}");
        blocks(runtime, &file, &name, (operations, depth), Access::Append).await?;
    }
    for depth in [1, 8, 32] {
        let name = format!("random read, depth {depth}");
        blocks(runtime, &file, &name, (operations, depth), Access::Read).await?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Access {
    Append,
    Read,
}

/// `depth` operations at a time until there were as many as asked for.
async fn blocks(
    runtime: &Runtime,
    file: &File,
    name: &str,
    (operations, depth): (u64, u64),
    access: Access,
) -> anyhow::Result<()> {
    let row = Rc::new(RefCell::new(Row::begin(runtime)?));
    let next = Rc::new(RefCell::new(0..operations));
    let lanes = (0..depth).map(|_| async {
        let mut buffer = Buffer::zeroed(BLOCK_BYTES);
        loop {
            let Some(number) = next.borrow_mut().next() else { return anyhow::Ok(()) };
            let blocks = FILE_BYTES / BLOCK_BYTES as u64;
            let started = runtime.now();
            let result = match access {
                Access::Append => {
                    let offset_bytes = number % blocks * BLOCK_BYTES as u64;
                    let (result, returned) = file.write_durable_at(buffer, offset_bytes).await;
                    buffer = returned;
                    result
                }
                Access::Read => {
                    // A step that is prime to the number of blocks visits all of them, none near the last.
                    let offset_bytes = number * 2_654_435_761 % blocks * BLOCK_BYTES as u64;
                    let (result, returned) = file.read_at(buffer, offset_bytes).await;
                    buffer = returned;
                    result.map(drop)
                }
            };
            result?;
            row.borrow_mut().record(runtime.now() - started);
        }
    });
    try_join_all(lanes).await?;
    let row = Rc::into_inner(row).context("the lanes have ended")?;
    row.into_inner().print(name)
}

/// Small requests, replies of a page; clients and server are tasks of one shard.
async fn tcp(runtime: &Runtime, operations: u64) -> anyhow::Result<()> {
    let listener = runtime.listen("127.0.0.1:0").await?;
    let address = listener.local_addr().to_string();
    for connections in [1, 16] {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(runtime.connect(&address).await?);
            let served = listener.accept().await?;
            runtime.spawn(TaskClass::Latency, serve(served)).detach();
        }
        let row = RefCell::new(Row::begin(runtime)?);
        let each = operations.div_ceil(connections);
        let answered = |started| row.borrow_mut().record(runtime.now() - started);
        let requests = clients.into_iter().map(|client| request(client, each, answered));
        try_join_all(requests).await?;
        row.into_inner().print(&format!("TCP replies, {connections} connections"))?;
    }
    Ok(())
}

/// A question to another shard and its answer.
fn wakes(spin: Duration, operations: u64) -> anyhow::Result<()> {
    let (questions, asked) = mailbox::<OneshotSender<()>>(1);
    let asked = Mutex::new(Some(asked));
    let questions = Mutex::new(Some(questions));
    let options = RuntimeOptions { shards: 2, spin, ..RuntimeOptions::default() };
    let shards = start_shards(&options, move |runtime| {
        let take = "each shard takes its end once";
        let first = runtime.shard_index() == 0;
        let questions = first.then(|| questions.lock().ok()?.take());
        let asked = if first { None } else { asked.lock().ok().and_then(|mut end| end.take()) };
        async move {
            if let Some(mut asked) = asked {
                while let Some(answer) = asked.recv().await {
                    // The asker may have given up.
                    let _ = answer.send(());
                }
                return anyhow::Ok(());
            }
            let questions = questions.flatten().context(take)?;
            let mut row = Row::begin(&runtime)?;
            for _ in 0..operations {
                let started = runtime.now();
                let (answer, answered) = oneshot();
                questions.send(answer).await?;
                answered.await?;
                row.record(runtime.now() - started);
            }
            row.print(&format!("question to a shard, spin {spin:?}"))
        }
    })?;
    shards.join()?.into_iter().collect()
}
