//! What every implementation of the façade must do.

use std::time::Duration;

use super::*;

#[test]
fn writes_durably_and_reads_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    block_on(|runtime| async move {
        let options = OpenOptions::read_write().create();
        let file = runtime.open(&path, options).await.unwrap();
        let (result, _) = file.write_durable_at(Buffer::padded_copy(b"snow"), 4096).await;
        result.unwrap();
        let (count, buffer) = file.read_at(Buffer::zeroed(16384), 0).await;
        assert_eq!(count.unwrap(), 8192);
        assert_eq!(&buffer[4096..4100], b"snow");
    })
    .unwrap();
}

#[test]
fn streams_carry_bytes_and_move_between_shards() {
    let options = RuntimeOptions { shards: 2, ..RuntimeOptions::default() };
    let (sender, receiver) = mailbox::<RawStream>(1);
    let receiver = std::sync::Mutex::new(Some(receiver));
    let shards = start_shards(&options, move |runtime| {
        let sender = sender.clone();
        let receiver =
            (runtime.shard_index() == 1).then(|| receiver.lock().unwrap().take().unwrap());
        async move {
            match receiver {
                None => {
                    let listener = runtime.listen("127.0.0.1:0").await.unwrap();
                    let address = listener.local_addr().to_string();
                    let client = runtime.connect(&address).await.unwrap();
                    let server = listener.accept().await.unwrap();
                    sender.send(server.into_raw().unwrap()).await.unwrap();
                    client.send_all(b"hello".to_vec()).await.0.unwrap();
                    let (count, buffer) = client.recv(Vec::with_capacity(16)).await;
                    assert_eq!((count.unwrap(), &buffer[..]), (5, &b"hello"[..]));
                }
                Some(mut receiver) => {
                    let stream = Stream::from_raw(&runtime, receiver.recv().await.unwrap());
                    let (_, buffer) = stream.recv(Vec::with_capacity(16)).await;
                    runtime.sleep(Duration::from_millis(1)).await;
                    stream.send_all(buffer).await.0.unwrap();
                }
            }
        }
    });
    shards.unwrap().join().unwrap();
}
