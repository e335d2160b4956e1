//! The addresses of this machine's network interfaces. Reads what the kernel knows, and `/sys/class/net`.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::ptr;

use super::process;

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub ip: IpAddr,
    /// Whether the interface ends in a process of this machine (a TUN device), as a tunnel does.
    pub is_tunnel: bool,
}

/// Whether a process listens on this port of TCP; `None` where that cannot be seen.
pub fn listens(pid: u32, port: u16) -> Option<bool> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let sockets: Vec<PathBuf> =
        tables.iter().flat_map(|table| table.lines()).filter_map(|line| listener(line, port)).collect();
    process::has_open(pid, |file| std::fs::read_link(file).is_ok_and(|target| sockets.contains(&target)))
}

/// The socket of a line of `/proc/net/tcp` (proc_pid_net(5)), as descriptors name it, if it listens on this port.
fn listener(line: &str, port: u16) -> Option<PathBuf> {
    /// The state of a socket that listens.
    const LISTENS: &str = "0A";
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, LISTENS, _, _, _, _, _, inode, ..] = words[..] else { return None };
    let (_, found) = local.rsplit_once(':')?;
    (u16::from_str_radix(found, 16) == Ok(port)).then(|| PathBuf::from(format!("socket:[{inode}]")))
}

/// All addresses of all interfaces.
///
/// # Errors
/// When the kernel does not tell.
pub fn interface_addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `first` is a place for one pointer; on success it owns a list that is freed below.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut all = Vec::new();
    let mut next = first;
    // SAFETY: every element but the last points at another one of the list, which lives until it is freed.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: the address is null or one of the family that it names.
        let Some(ip) = (unsafe { address(entry.ifa_addr) }) else { continue };
        // SAFETY: the name is a NUL-terminated string of the list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
        all.push(InterfaceAddress { ip, is_tunnel: is_tunnel(&name) });
    }
    // SAFETY: the list that `getifaddrs` made, once.
    unsafe { libc::freeifaddrs(first) };
    Ok(all)
}

/// # Safety
/// The pointer is null, or points at a whole socket address of the family that it begins with.
unsafe fn address(pointer: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: as promised by the caller.
    let family = unsafe { pointer.as_ref() }?.sa_family;
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: an address of this family is a `sockaddr_in`; it need not be aligned as one.
            let v4 = unsafe { pointer.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: an address of this family is a `sockaddr_in6`; it need not be aligned as one.
            let v6 = unsafe { pointer.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

fn is_tunnel(interface: &str) -> bool {
    // Interface names hold no slash; the kernel makes this file for TUN and TAP devices only.
    Path::new("/sys/class/net").join(interface).join("tun_flags").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_an_interface_and_no_tunnel() {
        let all = interface_addresses().unwrap();
        let loopback = InterfaceAddress { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), is_tunnel: false };
        assert!(all.contains(&loopback), "{all:?}");
    }

    #[test]
    fn a_listener_is_known_by_its_port_and_its_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = std::process::id();
        assert_eq!(listens(own, port), Some(true));
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(listens(own, client.local_addr().unwrap().port()), Some(false), "it only talks");
        drop(listener);
        assert_eq!(listens(own, port), Some(false));
        assert_eq!(listens(u32::MAX, port), None);
    }
}
