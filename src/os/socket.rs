//! Unix sockets in two steps, so that owner and mode are set between binding and listening. Touches only the
//! path that the caller names.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen as listen_on, socket_with,
};

/// A stream socket with a name, to which nobody can connect yet. Non-blocking and close-on-exec.
pub fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Lets others connect; `backlog` of them may wait.
pub fn listen(socket: OwnedFd, backlog: i32) -> io::Result<UnixListener> {
    listen_on(&socket, backlog)?;
    Ok(UnixListener::from(socket))
}
