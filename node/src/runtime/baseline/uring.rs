//! The work of [`super::others`] on the product's own runtime, as the product does it.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;

use super::super::{
    Buffer, File, MonotonicTime, OneshotSender, OpenOptions, Runtime, RuntimeOptions, Stream,
    TaskClass, block_on, mailbox, oneshot, start_shards,
};
use super::others::{BLOCK_BYTES, Measured, Meter, REQUEST_BYTES, Work, at_once, offset_of};

/// Does `operations` operations of a kind. Files lie in a file of [`super::others::FILE_BYTES`].
///
/// # Errors
/// Those of the system.
pub fn run(work: Work, path: &Path, operations: u64) -> io::Result<Measured> {
    let path = path.to_path_buf();
    if work == Work::Wakes {
        return wakes(operations);
    }
    block_on(|runtime| async move {
        match work {
            Work::Requests { connections } => requests(&runtime, connections, operations).await,
            Work::DurableWrites { depth } => blocks(&runtime, &path, depth, operations, true).await,
            Work::Reads { depth } => blocks(&runtime, &path, depth, operations, false).await,
            Work::Wakes => unreachable!("handled above"),
        }
    })?
}

async fn blocks(
    runtime: &Runtime,
    path: &Path,
    depth: u64,
    operations: u64,
    write: bool,
) -> io::Result<Measured> {
    let file = runtime.open(path, OpenOptions::read_write()).await?;
    let lane = |lane, meter| block_lane(&file, meter, (lane, depth), operations, write);
    at_once(0..depth, lane).await
}

async fn block_lane(
    file: &File,
    meter: Rc<RefCell<Meter>>,
    (lane, depth): (u64, u64),
    operations: u64,
    write: bool,
) -> io::Result<()> {
    let mut buffer = Buffer::zeroed(BLOCK_BYTES);
    for number in (lane..operations).step_by(depth as usize) {
        let started = Meter::now();
        let offset_bytes = offset_of(number, write);
        buffer = if write {
            let (result, returned) = file.write_durable_at(buffer, offset_bytes).await;
            result?;
            returned
        } else {
            let (result, returned) = file.read_at(buffer, offset_bytes).await;
            result?;
            returned
        };
        meter.borrow_mut().record(started);
    }
    Ok(())
}

async fn requests(runtime: &Runtime, connections: u64, operations: u64) -> io::Result<Measured> {
    let listener = runtime.listen("127.0.0.1:0").await?;
    let address = listener.local_addr().to_string();
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(runtime.connect(&address).await?);
        let served = listener.accept().await?;
        runtime.spawn(TaskClass::Latency, serve(served)).detach();
    }
    let each = operations.div_ceil(connections);
    at_once(clients, |client, meter| ask(client, each, meter)).await
}

/// Answers requests until the client is gone.
pub async fn serve(stream: Stream) {
    let mut request = Vec::with_capacity(REQUEST_BYTES);
    let mut reply = vec![0; BLOCK_BYTES];
    loop {
        request.clear();
        let (received, returned) = stream.recv(request).await;
        request = returned;
        if !matches!(received, Ok(1..)) {
            return;
        }
        let (sent, returned) = stream.send_all(reply).await;
        reply = returned;
        if sent.is_err() {
            return;
        }
    }
}

async fn ask(stream: Stream, count: u64, meter: Rc<RefCell<Meter>>) -> io::Result<()> {
    request(stream, count, |started| meter.borrow_mut().record(started)).await
}

/// Sends so many requests, one after the other, and tells of each when it began and has been answered.
///
/// # Errors
/// Those of the sockets, and if the server ends.
pub async fn request(
    stream: Stream,
    count: u64,
    mut answered: impl FnMut(MonotonicTime),
) -> io::Result<()> {
    let mut request = vec![0; REQUEST_BYTES];
    let mut reply = Vec::with_capacity(BLOCK_BYTES);
    for _ in 0..count {
        let started = Meter::now();
        let (sent, returned) = stream.send_all(request).await;
        sent?;
        request = returned;
        reply.clear();
        while reply.len() < BLOCK_BYTES {
            let (received, returned) = stream.recv(reply).await;
            reply = returned;
            if received? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        answered(started);
    }
    Ok(())
}

/// A question to another shard and its answer.
fn wakes(operations: u64) -> io::Result<Measured> {
    let (questions, asked) = mailbox::<OneshotSender<()>>(1);
    let ends = Mutex::new((Some(questions), Some(asked)));
    let options = RuntimeOptions { shards: 2, ..RuntimeOptions::default() };
    let shards = start_shards(&options, move |runtime| {
        let mut ends = ends.lock().expect("no shard panics with the ends in its hands");
        let first = runtime.shard_index() == 0;
        let questions = if first { ends.0.take() } else { None };
        let asked = if first { None } else { ends.1.take() };
        async move {
            if let Some(mut asked) = asked {
                while let Some(answer) = asked.recv().await {
                    // The asker may have given up.
                    let _ = answer.send(());
                }
                return Ok(None);
            }
            let questions = questions.expect("the first shard asks");
            let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
            let mut meter = Meter::begin();
            for _ in 0..operations {
                let started = Meter::now();
                let (answer, answered) = oneshot();
                questions.send(answer).await.map_err(|_| closed())?;
                answered.await.map_err(|_| closed())?;
                meter.record(started);
            }
            Ok(Some(meter.end()))
        }
    })?;
    let ended = shards.join().map_err(io::Error::other)?;
    let measured: io::Result<Vec<Option<Measured>>> = ended.into_iter().collect();
    let measured = measured?.into_iter().flatten().next();
    Ok(measured.expect("the first shard measures"))
}
