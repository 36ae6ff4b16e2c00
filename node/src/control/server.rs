//! The control thread: one single-threaded tokio that serves the HTTP port.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is the control thread: tokio lives here, outside of the simulator"
)]

use std::future::{IntoFuture, pending};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use futures_util::future::{Either, select};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::credentials::Credentials;
use crate::shard::request::NodeHandle;

/// HTTP connections at a time: people, scripts, a scraper and restores, each a few. Over it new ones wait.
const CONNECTIONS_MAX: usize = 256;

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every HTTP request may use.
#[derive(Clone)]
pub struct ControlState {
    /// The way to the shards.
    pub node: NodeHandle,
    /// What the node shows and trusts.
    pub credentials: Arc<Credentials>,
    /// Host under which others reach the Postgres-protocol port; none when it is every address of the machine.
    pub pg_host: Option<String>,
    /// Its port there.
    pub pg_port: u16,
    /// The wall clock, for the expiry of tokens.
    pub unix_time_us: fn() -> i64,
}

/// The control thread before it runs.
pub struct Control {
    listener: TcpListener,
    tokio: Runtime,
    hangups: Option<Signal>,
}

impl Control {
    /// Takes the HTTP port before anything is served, so that a port in use is a line at start.
    ///
    /// # Errors
    /// Those of listening, which name the address, and of making a tokio.
    pub fn bind(address: SocketAddr) -> io::Result<Control> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        let listener = TcpListener::bind(address).map_err(named)?;
        listener.set_nonblocking(true)?;
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Control { listener, tokio, hangups: None })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// From now on SIGHUP does not end the process: one that comes before [`Self::start`] is not lost.
    pub fn take_hangups(&mut self) -> io::Result<()> {
        let _tokio = self.tokio.enter();
        self.hangups = Some(signal(SignalKind::hangup())?);
        Ok(())
    }

    /// Starts the control thread, which serves these routes, and calls `on_hangup` for SIGHUPs that were taken. It runs
    /// until the process ends.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        self,
        router: Router,
        on_hangup: impl Fn() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let Control { listener, tokio, hangups } = self;
        let serving = move || {
            tokio.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener)
                    .expect("a bound, non-blocking listener can be registered");
                let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
                let served = axum::serve(BoundedListener { listener, connections }, router);
                let served = pin!(served.into_future());
                let heard = pin!(hear(hangups, on_hangup));
                if let Either::Left((Err(error), _)) = select(served, heard).await {
                    tracing::error!(%error, "the HTTP port stopped");
                }
            });
        };
        std::thread::Builder::new().name("control".to_string()).spawn(serving)
    }
}

/// For ever; also when there is nothing to hear.
async fn hear(hangups: Option<Signal>, on_hangup: impl Fn()) {
    let Some(mut hangups) = hangups else { return pending().await };
    while hangups.recv().await.is_some() {
        on_hangup();
    }
    pending().await
}

/// The wall clock of this machine, in microseconds since 1970.
pub fn unix_time_us() -> i64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A listener that takes the next connection when one of [`CONNECTIONS_MAX`] places is free.
struct BoundedListener {
    listener: tokio::net::TcpListener,
    connections: Arc<Semaphore>,
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        let place = self.connections.clone().acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    return (BoundedStream { stream, _place: place }, address);
                }
                Err(error) => {
                    tracing::warn!(%error, "accept on the HTTP port");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection and its place among [`CONNECTIONS_MAX`].
struct BoundedStream {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

mod io_impl {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::BoundedStream;

    impl AsyncRead for BoundedStream {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for BoundedStream {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }
}
