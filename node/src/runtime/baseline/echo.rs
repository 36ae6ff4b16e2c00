//! A bare socket echo: requests of one size, answers of another, no work between them.

use std::io;

use futures_util::future::{try_join, try_join_all};

use super::super::{Listener, MonotonicTime, Runtime, Stream, TaskClass};
use super::Heard;

/// Bytes of one receive: as the node's.
const RECEIVE_BYTES: usize = 32 << 10;

/// Serves connections for ever: for every `request_bytes` received, `answer_bytes` go back.
pub async fn serve(
    runtime: Runtime,
    listener: Listener,
    request_bytes: usize,
    answer_bytes: usize,
) {
    while let Ok(stream) = listener.accept().await {
        let answering = answer(stream, request_bytes, answer_bytes);
        runtime.spawn(TaskClass::Latency, answering).detach();
    }
}

async fn answer(stream: Stream, request_bytes: usize, answer_bytes: usize) {
    let mut received = Vec::with_capacity(request_bytes.max(RECEIVE_BYTES));
    let mut answers = Vec::new();
    let mut unanswered_bytes = 0;
    loop {
        received.clear();
        let (result, returned) = stream.recv(received).await;
        received = returned;
        let Ok(count @ 1..) = result else { return };
        unanswered_bytes += count;
        answers.resize(unanswered_bytes / request_bytes * answer_bytes, 0);
        unanswered_bytes %= request_bytes;
        if answers.is_empty() {
            continue;
        }
        let (result, returned) = stream.send_all(answers).await;
        answers = returned;
        if result.is_err() {
            return;
        }
    }
}

/// Sends requests on so many connections, so many outstanding on each, until the given moment.
///
/// # Errors
/// Those of the sockets.
pub async fn ask(
    runtime: &Runtime,
    address: &str,
    (connections, outstanding): (usize, usize),
    (request_bytes, answer_bytes): (usize, usize),
    until: MonotonicTime,
    heard: Heard<'_>,
) -> io::Result<()> {
    let clients = (0..connections * outstanding).map(|_| async move {
        // A request at a time: connections stand for what is outstanding, so that answers need no bookkeeping.
        let stream = runtime.connect(address).await?;
        let mut request = vec![0; request_bytes];
        let mut answer = Vec::with_capacity(answer_bytes);
        loop {
            let started = runtime.now();
            if started >= until {
                return io::Result::Ok(());
            }
            let sending = async {
                let (result, returned) = stream.send_all(std::mem::take(&mut request)).await;
                request = returned;
                result
            };
            let receiving = async {
                answer.clear();
                while answer.len() < answer_bytes {
                    let (result, returned) = stream.recv(std::mem::take(&mut answer)).await;
                    answer = returned;
                    if result? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Ok(())
            };
            try_join(sending, receiving).await?;
            let ended = runtime.now();
            heard(ended, ended - started);
        }
    });
    try_join_all(clients).await.map(drop)
}
