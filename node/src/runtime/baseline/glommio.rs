//! The work of [`super::others`] on glommio. Durable writes are those of a file opened with O_DSYNC: it has no RWF_DSYNC.
#![expect(clippy::disallowed_types, reason = "the baseline is of this library")]

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::path::Path;
use std::rc::Rc;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::channels::shared_channel;
use glommio::io::{DmaFile, OpenOptions};
use glommio::net::{TcpListener, TcpStream};
use glommio::{GlommioError, LocalExecutorBuilder, Placement};

use super::super::threads;
use super::others::{BLOCK_BYTES, Measured, Meter, REQUEST_BYTES, Work, at_once, offset_of};

/// Does `operations` operations of a kind. Files lie in a file of [`super::others::FILE_BYTES`].
///
/// # Errors
/// Those of the system, and of a runtime that cannot start.
pub fn run(work: Work, path: &Path, operations: u64) -> io::Result<Measured> {
    let path = path.to_path_buf();
    match work {
        Work::Wakes => wakes(operations),
        _ => executor()?.run(async move {
            match work {
                Work::Requests { connections } => requests(connections, operations).await,
                Work::DurableWrites { depth } => blocks(&path, depth, operations, true).await,
                Work::Reads { depth } => blocks(&path, depth, operations, false).await,
                Work::Wakes => unreachable!("handled above"),
            }
        }),
    }
}

fn executor() -> io::Result<glommio::LocalExecutor> {
    Ok(LocalExecutorBuilder::new(Placement::Unbound).make()?)
}

async fn blocks(path: &Path, depth: u64, operations: u64, write: bool) -> io::Result<Measured> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if write {
        options.custom_flags(libc::O_DSYNC);
    }
    let file = options.dma_open(path).await?;
    let lane = |lane, meter| block_lane(&file, meter, (lane, depth), operations, write);
    let measured = at_once(0..depth, lane).await?;
    file.close().await?;
    Ok(measured)
}

async fn block_lane(
    file: &DmaFile,
    meter: Rc<RefCell<Meter>>,
    (lane, depth): (u64, u64),
    operations: u64,
    write: bool,
) -> io::Result<()> {
    for number in (lane..operations).step_by(depth as usize) {
        let started = Meter::now();
        let offset_bytes = offset_of(number, write);
        if write {
            let buffer = file.alloc_dma_buffer(BLOCK_BYTES);
            file.write_at(buffer, offset_bytes).await?;
        } else {
            file.read_at_aligned(offset_bytes, BLOCK_BYTES).await?;
        }
        meter.borrow_mut().record(started);
    }
    Ok(())
}

async fn requests(connections: u64, operations: u64) -> io::Result<Measured> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut clients = Vec::new();
    for _ in 0..connections {
        let (client, served) =
            futures_util::future::try_join(TcpStream::connect(address), listener.accept()).await?;
        client.set_nodelay(true)?;
        served.set_nodelay(true)?;
        glommio::spawn_local(serve(served)).detach();
        clients.push(client);
    }
    let each = operations.div_ceil(connections);
    at_once(clients, |client, meter| ask(client, each, meter)).await
}

async fn serve(mut stream: TcpStream) {
    let mut request = [0; REQUEST_BYTES];
    let reply = vec![0; BLOCK_BYTES];
    while stream.read_exact(&mut request).await.is_ok() {
        if stream.write_all(&reply).await.is_err() {
            return;
        }
    }
}

async fn ask(mut stream: TcpStream, count: u64, meter: Rc<RefCell<Meter>>) -> io::Result<()> {
    let request = [0; REQUEST_BYTES];
    let mut reply = vec![0; BLOCK_BYTES];
    for _ in 0..count {
        let started = Meter::now();
        stream.write_all(&request).await?;
        stream.read_exact(&mut reply).await?;
        meter.borrow_mut().record(started);
    }
    stream.shutdown(Shutdown::Both).await?;
    Ok(())
}

/// A question to another executor and its answer, over a pair of its channels.
fn wakes(operations: u64) -> io::Result<Measured> {
    let (questions, asked) = shared_channel::new_bounded::<u64>(1);
    let (answers, answered) = shared_channel::new_bounded::<u64>(1);
    let answering = threads::spawn("answers", move || -> io::Result<()> {
        executor()?.run(async move {
            let (asked, answers) = (asked.connect().await, answers.connect().await);
            while let Some(question) = asked.recv().await {
                answers.send(question).await.map_err(in_io::<u64>)?;
            }
            Ok(())
        })
    })?;
    let measured = executor()?.run(async move {
        let (questions, answered) = (questions.connect().await, answered.connect().await);
        let mut meter = Meter::begin();
        for number in 0..operations {
            let started = Meter::now();
            questions.send(number).await.map_err(in_io::<u64>)?;
            if answered.recv().await.is_none() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            meter.record(started);
        }
        Ok(meter.end())
    });
    let joined = answering.join();
    joined.map_err(|_| io::Error::other("the answering thread panicked"))??;
    measured
}

fn in_io<T>(error: GlommioError<T>) -> io::Error {
    io::Error::other(error.to_string())
}
