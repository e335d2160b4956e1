//! Addresses and host names as both ends of the API see them: which address needs no TLS, what a `Host` header or
//! an `Origin` names. Pure.

use std::fmt;
use std::net::IpAddr;

/// Whether what is sent to this address stays on this machine.
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Whether this address is one that Tailscale gives: 100.64.0.0/10 or fd7a:115c:a1e0::/48. What is sent there goes
/// through an encrypted tunnel, if it is the tunnel's: others use 100.64.0.0/10 too.
pub fn is_tailnet(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_bits() >> 22 == u32::from_be_bytes([100, 64, 0, 0]) >> 22,
        IpAddr::V6(v6) => v6.segments().starts_with(&[0xfd7a, 0x115c, 0xa1e0]),
    }
}

/// A host as it stands in a URL: a name or an address, and a port where one is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Which machine.
    pub name: Name,
    /// The port, when it is not the scheme's.
    pub port: Option<u16>,
}

/// A name in lower case without a final dot, or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl Host {
    /// Reads `NAME`, `NAME:PORT`, `1.2.3.4:PORT` or `[::1]:PORT`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !text.ends_with(']') => (name, Some(number(port)?)),
            _ => (text, None),
        };
        Some(Self { name: Name::parse(name)?, port })
    }

    /// The port, or that of the scheme.
    pub fn port_or(&self, default: u16) -> u16 {
        self.port.unwrap_or(default)
    }
}

fn number(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

impl Name {
    /// Reads a name, an IPv4 address, or an IPv6 address in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(literal) = text.strip_prefix('[') {
            return literal.strip_suffix(']')?.parse().ok().map(|v6| Self::Ip(IpAddr::V6(v6)));
        }
        if let Ok(v4) = text.parse() {
            return Some(Self::Ip(IpAddr::V4(v4)));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |label: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(fits) && !label.starts_with('-')
        };
        // A last label of digits alone would be taken for an address by some and for a name by others.
        let last_is_a_word = name.rsplit('.').next().is_some_and(|l| !l.bytes().all(|b| b.is_ascii_digit()));
        (name.len() <= 253 && name.split('.').all(label) && last_is_a_word).then_some(Self::Dns(name))
    }

    /// Whether it can only be this machine.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Dns(name) => name == "localhost",
            Self::Ip(ip) => is_loopback(*ip),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Ip(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tailnet_addresses_are_two_networks() {
        let tailnet = |text: &str| is_tailnet(text.parse().unwrap());
        for good in ["100.64.0.0", "100.101.102.103", "100.127.255.255", "fd7a:115c:a1e0::1"] {
            assert!(tailnet(good), "{good}");
        }
        for bad in ["100.63.255.255", "100.128.0.0", "10.64.0.1", "fd7a:115c:a1e1::1", "::1", "127.0.0.1"] {
            assert!(!tailnet(bad), "{bad}");
        }
        assert!(tailnet("::ffff:100.64.0.1"));
    }

    #[test]
    fn hosts_are_names_or_addresses_with_or_without_a_port() {
        for (text, shown, port) in [
            ("localhost", "localhost", None),
            ("Box.Example.:8787", "box.example:8787", Some(8787)),
            ("127.0.0.1:1", "127.0.0.1:1", Some(1)),
            ("[::1]", "[::1]", None),
            ("[::1]:443", "[::1]:443", Some(443)),
            ("a_b-c.d", "a_b-c.d", None),
        ] {
            let host = Host::parse(text).unwrap();
            assert_eq!((host.to_string().as_str(), host.port), (shown, port), "{text}");
        }
        for bad in [
            "", ":", ":1", "a:", "a:x", "a:+1", "a:99999", "::1", "[::1", "[a]", "a..b", "-a", "a b", "a/b",
            "a@b", "1.2.3", "127.1", "0x7f.1", "é", "a:1:2", "[::1]x",
        ] {
            assert_eq!(Host::parse(bad), None, "{bad}");
        }
        assert_eq!(Host::parse(&"a".repeat(64)), None);
    }

    #[test]
    fn loopback_by_name_and_by_address() {
        for good in ["localhost", "LOCALHOST", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]"] {
            assert!(Name::parse(good).unwrap().is_loopback(), "{good}");
        }
        for bad in ["localhost.evil.example", "10.0.0.1", "127.0.0.1.evil"] {
            assert!(!Name::parse(bad).unwrap().is_loopback(), "{bad}");
        }
    }
}
