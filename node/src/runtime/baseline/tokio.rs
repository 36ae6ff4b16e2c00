//! The work of [`super::others`] on tokio: one thread, and its pool of threads for files, which it cannot wait for
//! otherwise.
#![expect(clippy::disallowed_types, reason = "the baseline is of this library")]

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::super::{Buffer, threads};
use super::others::{BLOCK_BYTES, Measured, Meter, REQUEST_BYTES, Work, at_once, offset_of};

/// Does `operations` operations of a kind. Files lie in a file of [`super::others::FILE_BYTES`].
///
/// # Errors
/// Those of the system.
pub fn run(work: Work, path: &Path, operations: u64) -> io::Result<Measured> {
    match work {
        Work::Wakes => wakes(operations),
        Work::Requests { connections } => runtime()?.block_on(requests(connections, operations)),
        Work::DurableWrites { depth } => runtime()?.block_on(blocks(path, depth, operations, true)),
        Work::Reads { depth } => runtime()?.block_on(blocks(path, depth, operations, false)),
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn blocks(path: &Path, depth: u64, operations: u64, write: bool) -> io::Result<Measured> {
    let flags = libc::O_DIRECT | if write { libc::O_DSYNC } else { 0 };
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    let file = Arc::new(file);
    let lane = |lane, meter| block_lane(&file, meter, (lane, depth), operations, write);
    at_once(0..depth, lane).await
}

async fn block_lane(
    file: &Arc<File>,
    meter: Rc<RefCell<Meter>>,
    (lane, depth): (u64, u64),
    operations: u64,
    write: bool,
) -> io::Result<()> {
    let mut buffer = Buffer::zeroed(BLOCK_BYTES);
    for number in (lane..operations).step_by(depth as usize) {
        let started = Meter::now();
        let (file, offset_bytes) = (file.clone(), offset_of(number, write));
        let operation = tokio::task::spawn_blocking(move || {
            let result = match write {
                true => file.write_all_at(&buffer, offset_bytes),
                false => file.read_exact_at(&mut buffer, offset_bytes),
            };
            result.map(|()| buffer)
        });
        buffer = operation.await??;
        meter.borrow_mut().record(started);
    }
    Ok(())
}

async fn requests(connections: u64, operations: u64) -> io::Result<Measured> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let mut clients = Vec::new();
            for _ in 0..connections {
                let client = TcpStream::connect(address).await?;
                let (served, _) = listener.accept().await?;
                client.set_nodelay(true)?;
                served.set_nodelay(true)?;
                tokio::task::spawn_local(serve(served));
                clients.push(client);
            }
            let each = operations.div_ceil(connections);
            at_once(clients, |client, meter| ask(client, each, meter)).await
        })
        .await
}

async fn serve(stream: TcpStream) {
    let mut request = [0; REQUEST_BYTES];
    let reply = vec![0; BLOCK_BYTES];
    while read(&stream, &mut request).await.is_ok() {
        if write(&stream, &reply).await.is_err() {
            return;
        }
    }
}

async fn ask(stream: TcpStream, count: u64, meter: Rc<RefCell<Meter>>) -> io::Result<()> {
    let request = [0; REQUEST_BYTES];
    let mut reply = vec![0; BLOCK_BYTES];
    for _ in 0..count {
        let started = Meter::now();
        write(&stream, &request).await?;
        read(&stream, &mut reply).await?;
        meter.borrow_mut().record(started);
    }
    Ok(())
}

async fn read(stream: &TcpStream, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        stream.readable().await?;
        match stream.try_read(into) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => into = &mut into[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn write(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A question to another thread's runtime and its answer, over a pair of channels.
fn wakes(operations: u64) -> io::Result<Measured> {
    let (questions, mut asked) = mpsc::channel::<u64>(1);
    let (answers, mut answered) = mpsc::channel::<u64>(1);
    let answering = threads::spawn("answers", move || -> io::Result<()> {
        runtime()?.block_on(async move {
            while let Some(question) = asked.recv().await {
                // Who asked may have given up.
                let _ = answers.send(question).await;
            }
        });
        Ok(())
    })?;
    let measured = runtime()?.block_on(async move {
        let mut meter = Meter::begin();
        for number in 0..operations {
            let started = Meter::now();
            let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            questions.send(number).await.map_err(closed)?;
            answered.recv().await.ok_or(io::ErrorKind::BrokenPipe)?;
            meter.record(started);
        }
        Ok(meter.end())
    });
    let joined = answering.join();
    joined.map_err(|_| io::Error::other("the answering thread panicked"))??;
    measured
}
