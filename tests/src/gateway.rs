//! A TCP address behind which a server can be exchanged for another one at once.

#![expect(clippy::disallowed_methods, reason = "it stands beside what is tested, in real time")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::Result;

/// Passes connections on to one server on loopback. It ends with the test's process.
pub struct Gateway {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: AtomicU16,
    open: Mutex<Vec<TcpStream>>,
}

impl Gateway {
    /// Listens on a port of its own, before the server on `target`.
    pub fn start(target: u16) -> Result<Gateway> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared { target: target.into(), open: Mutex::default() });
        let own = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A server that is not there: the client's connection ends, as at the server itself.
                let _ = own.pass_on(client);
            }
        });
        Ok(Gateway { port, shared })
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all connections, as if the server had died; those to come go to the server on `target`.
    pub fn exchange(&self, target: u16) {
        let mut open = self.shared.open.lock().expect("nobody panics with the lock");
        self.shared.target.store(target, Ordering::SeqCst);
        for stream in open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn pass_on(&self, client: TcpStream) -> io::Result<()> {
        let mut open = self.open.lock().expect("nobody panics with the lock");
        let server = TcpStream::connect(("127.0.0.1", self.target.load(Ordering::SeqCst)))?;
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
            open.push(from.try_clone()?);
            thread::spawn(move || {
                let mut bytes = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    if to.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Write);
            });
        }
        Ok(())
    }
}
