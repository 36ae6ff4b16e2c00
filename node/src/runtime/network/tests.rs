//! What sockets are set to, asked of the kernel.

use futures_util::future::join;

use super::super::{RuntimeName, RuntimeOptions, block_on_with};
use super::*;

/// Both ends of a connection notice a peer that is gone without a word, on each runtime, also after a move.
#[test]
fn connections_ask_silent_peers_and_send_at_once() {
    for runtime in [RuntimeName::Uring, RuntimeName::Glommio] {
        let options = RuntimeOptions { runtime, ..RuntimeOptions::default() };
        let ended = block_on_with(&options, |runtime| async move {
            let listener = runtime.listen("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().to_string();
            let (client, server) = join(runtime.connect(&address), listener.accept()).await;
            let moved = Stream::from_raw(&runtime, server.unwrap().into_raw().unwrap());
            for stream in [client.unwrap(), moved] {
                let socket = stream.0.handle.descriptor();
                assert!(sockopt::socket_keepalive(socket).unwrap());
                assert_eq!(sockopt::tcp_keepidle(socket).unwrap(), KEEPALIVE_IDLE);
                assert_eq!(sockopt::tcp_keepintvl(socket).unwrap(), KEEPALIVE_INTERVAL);
                assert_eq!(sockopt::tcp_keepcnt(socket).unwrap(), KEEPALIVE_QUESTIONS);
                assert_eq!(sockopt::tcp_user_timeout(socket).unwrap(), UNACKNOWLEDGED_MS_MAX);
                assert!(sockopt::tcp_nodelay(socket).unwrap());
                let flags = rustix::io::fcntl_getfd(socket).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            }
        });
        ended.unwrap();
    }
}
