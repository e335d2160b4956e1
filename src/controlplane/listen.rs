//! Where the API listens: the address that was named, or this machine's in its tailnet. Touches the listener, and
//! asks the kernel for the addresses of the interfaces.

use std::net::{IpAddr, SocketAddr, TcpListener};

use super::config::{Config, Door, Listen, Protection};
use super::serve::StartError;
use super::state::{StateDir, Wall};
use crate::contract::address::{Name, is_loopback, is_tailnet};
use crate::os::network::{self, InterfaceAddress};

/// Takes the API's address. What a daemon was just starting when it was killed may hold it for a moment, and the
/// lock of its state with it: so one that is in use is tried again when that lock is ours.
///
/// # Errors
/// When there is no such address, or others use it.
pub(super) fn listen(config: &Config, wall: Wall) -> Result<(TcpListener, Option<StateDir>), StartError> {
    let address = resolve(&config.door)?;
    let bind = || TcpListener::bind(address);
    let failed = |error| StartError::Listen(address, error);
    match bind() {
        Ok(listener) => Ok((listener, None)),
        Err(error)
            if error.kind() == std::io::ErrorKind::AddrInUse && StateDir::was_claimed(&config.state_dir) =>
        {
            let state = StateDir::claim(&config.state_dir, wall)?;
            Ok((bind().map_err(failed)?, Some(state)))
        }
        Err(error) => Err(failed(error)),
    }
}

/// What a certificate for this listener should be for.
pub(super) fn names(door: &Door, address: SocketAddr) -> Vec<Name> {
    let loopback = [Name::Dns("localhost".to_owned()), Name::Ip([127, 0, 0, 1].into())];
    let mut names = Vec::from(loopback);
    names.push(Name::Ip(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)));
    // All addresses at once is none to write down; whoever uses one of them names it.
    let own = (!address.ip().is_unspecified()).then(|| Name::Ip(address.ip().to_canonical()));
    for name in own.into_iter().chain(door.names.iter().cloned()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The address that a door names; nothing is listened on.
///
/// # Errors
/// When there is no such address.
pub(crate) fn resolve(door: &Door) -> Result<SocketAddr, StartError> {
    let interfaces = || {
        network::interface_addresses()
            .map_err(|error| StartError::System("the addresses of this machine cannot be listed", error))
    };
    match (door.listen, &door.protection) {
        (Listen::Tailnet(port), _) => match tailnet(&interfaces()?) {
            Some(ip) => Ok(SocketAddr::new(ip, port)),
            None => Err(StartError::Tailnet(
                "this machine has no tailnet address: no tunnel has one of 100.64.0.0/10 or fd7a:115c:a1e0::/48; \
                 run `tailscale up` and look at `tailscale ip`, or name another address with --api-addr"
                    .to_owned(),
            )),
        },
        (Listen::At(address), Protection::Way) if !is_loopback(address.ip()) => {
            let in_tunnel = |found: &InterfaceAddress| found.is_tunnel && same(found.ip, address.ip());
            if interfaces()?.iter().any(in_tunnel) {
                return Ok(address);
            }
            Err(StartError::Tailnet(format!(
                "{address} looks like a tailnet address, but no tunnel of this machine has it, so nothing would \
                 protect the token on its way there; run `tailscale up`, or add --tls self-signed"
            )))
        }
        (Listen::At(address), _) => Ok(address),
    }
}

fn same(one: IpAddr, other: IpAddr) -> bool {
    one.to_canonical() == other.to_canonical()
}

/// The address of this machine in its tailnet, IPv4 before IPv6. Others use 100.64.0.0/10 too, providers for one;
/// only what is a tunnel's counts.
fn tailnet(all: &[InterfaceAddress]) -> Option<IpAddr> {
    let mut found: Vec<IpAddr> =
        all.iter().filter(|found| found.is_tunnel && is_tailnet(found.ip)).map(|found| found.ip).collect();
    found.sort();
    found.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, is_tunnel: bool) -> InterfaceAddress {
        InterfaceAddress { ip: text.parse().unwrap(), is_tunnel }
    }

    #[test]
    fn the_tailnet_address_is_a_tunnels_and_rather_ipv4() {
        for (all, expected) in [
            (&[][..], None),
            (&[address("127.0.0.1", false), address("192.0.2.1", false)], None),
            (&[address("100.64.0.1", false)], None),
            (&[address("10.8.0.1", true)], None),
            (&[address("fd7a:115c:a1e0::1", true), address("100.101.1.2", true)], Some("100.101.1.2")),
            (&[address("100.64.0.1", false), address("fd7a:115c:a1e0::1", true)], Some("fd7a:115c:a1e0::1")),
        ] {
            assert_eq!(tailnet(all), expected.map(|text| text.parse().unwrap()), "{all:?}");
        }
    }

    #[test]
    fn a_certificate_is_for_loopback_the_address_and_the_names() {
        let door = Door {
            listen: Listen::Tailnet(1),
            protection: Protection::SelfSigned,
            names: vec![Name::Dns("box.example".to_owned()), Name::Dns("localhost".to_owned())],
            token_rate: 0,
        };
        let shown = |address: &str| {
            let all = names(&door, address.parse().unwrap());
            all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown("0.0.0.0:1"), "localhost 127.0.0.1 [::1] box.example");
        assert_eq!(shown("192.0.2.1:1"), "localhost 127.0.0.1 [::1] 192.0.2.1 box.example");
    }
}
