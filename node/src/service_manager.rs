//! What a service manager is told that started this process and waits for it (`sd_notify(3)`; `Type=notify` in systemd).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The socket that the manager listens on: a path, or an abstract name behind `@`. Without it nobody asked.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Says that the node serves.
pub fn ready() {
    tell("READY=1");
}

fn tell(state: &str) {
    let Ok(name) = std::env::var(SOCKET_VARIABLE) else { return };
    if let Err(error) = send(&name, state) {
        // The manager will say that it heard nothing; the node serves all the same.
        tracing::warn!("{SOCKET_VARIABLE} {name}: {error}");
    }
}

fn send(name: &str, state: &str) -> io::Result<()> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}
