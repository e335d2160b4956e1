//! How the API can be reached, and what protects the token on the way: an address and TLS, a proxy, or a network
//! that needs neither. An address that others can listen in on is refused without one of them. Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::{ConfigError, Flags, absolute, usage};
use crate::contract::address::{Host, Name, is_loopback, is_tailnet};
use crate::contract::values;

/// The port that everybody expects.
const PORT: u16 = 8787;
/// More names than these are a mistake.
const NAMES: usize = 64;
/// Requests of one token in a second.
const TOKEN_RATE: u64 = 100;

/// How the API can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// Where it listens.
    pub listen: Listen,
    /// What protects the token on its way.
    pub protection: Protection,
    /// Names of this control plane beside loopback and the listener's address.
    pub names: Vec<Name>,
    /// Requests of one token in a second; 0 for no limit.
    pub token_rate: u32,
}

/// Where the API listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Here. Port 0 takes a free one.
    At(SocketAddr),
    /// On this machine's address in its tailnet, at this port.
    Tailnet(u16),
}

/// What protects the token on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// The way itself: it stays on this machine, or goes through the tailnet's tunnel.
    Way,
    /// TLS with a certificate of our own making.
    SelfSigned,
    /// TLS with the certificate and key of these files.
    Files {
        /// The certificate and those that lead to its root, PEM.
        certificate: PathBuf,
        /// Its key, PEM.
        key: PathBuf,
    },
    /// TLS that ends at a proxy before us, where people see `https://` and this host.
    Proxy(Host),
}

/// Where platforms reach this machine. What they send is signed, but not all of it is secret only then: so it stays on
/// this machine, where a proxy that ends TLS may pass it on.
pub(super) fn ingress(flags: &Flags) -> Result<Option<SocketAddr>, ConfigError> {
    let Some(text) = flags.ingress_addr.as_deref() else { return Ok(None) };
    let wrong = || usage("--ingress-addr", &format!("{text:?} is no address; expected IP:PORT"));
    let address: SocketAddr = text.parse().map_err(|_| wrong())?;
    if !is_loopback(address.ip()) && !flags.api_behind_proxy {
        let wrong = format!(
            "{address} can be listened in on; name an address of 127.0.0.0/8 and let a proxy that ends TLS pass requests \
             on to it, or say with --api-behind-proxy that one stands before all of them"
        );
        return Err(usage("--ingress-addr", &wrong));
    }
    Ok(Some(address))
}

/// Reads the door's settings.
pub(super) fn door(flags: &Flags) -> Result<Door, ConfigError> {
    let protection = protection(flags)?;
    let listen = match flags.api_addr.as_deref() {
        None => Listen::At(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))),
        Some(text) => listen(text)?,
    };
    if let (Listen::At(address), Protection::Way) = (listen, &protection)
        && !is_loopback(address.ip())
        && !is_tailnet(address.ip())
    {
        return Err(unprotected(address));
    }
    let token_rate = match &flags.token_rate {
        None => TOKEN_RATE,
        Some(text) => values::count(text, 0, 1_000_000).map_err(|wrong| usage("--token-rate", &wrong))?,
    };
    Ok(Door {
        listen,
        protection,
        names: names(flags.api_host.as_deref().unwrap_or_default())?,
        token_rate: u32::try_from(token_rate).unwrap_or(u32::MAX),
    })
}

fn unprotected(address: SocketAddr) -> ConfigError {
    let port = address.port();
    let wrong = format!(
        "others could read the token on its way to {address}; either keep to this machine (127.0.0.1:{port}, reached \
         through ssh -L) or to the tailnet (tailscale:{port}), or add --tls self-signed, or --tls-cert FILE and \
         --tls-key FILE, or --api-behind-proxy where a proxy ends TLS"
    );
    usage("--api-addr", &wrong)
}

fn listen(text: &str) -> Result<Listen, ConfigError> {
    let wrong = || {
        let expected = "expected IP:PORT as in 127.0.0.1:8787, tailscale, or tailscale:PORT";
        usage("--api-addr", &format!("{text:?} is not an address; {expected}"))
    };
    match text.strip_prefix("tailscale") {
        Some("") => return Ok(Listen::Tailnet(PORT)),
        Some(port) => {
            let port = port.strip_prefix(':').and_then(|port| values::count(port, 0, 65_535).ok());
            return port.and_then(|port| u16::try_from(port).ok()).map(Listen::Tailnet).ok_or_else(wrong);
        }
        None => {}
    }
    let with_number = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    with_number.as_deref().unwrap_or(text).parse().map(Listen::At).map_err(|_| wrong())
}

fn protection(flags: &Flags) -> Result<Protection, ConfigError> {
    let tls = match (flags.tls.as_deref(), &flags.tls_cert, &flags.tls_key) {
        (None, None, None) => None,
        (Some("self-signed"), None, None) => Some(Protection::SelfSigned),
        (Some("self-signed"), _, _) => {
            let wrong = "self-signed makes its own certificate; leave out --tls-cert and --tls-key, or --tls";
            return Err(usage("--tls", wrong));
        }
        (Some(other), _, _) => {
            let wrong =
                format!("{other:?} is unknown; expected self-signed, or use --tls-cert and --tls-key");
            return Err(usage("--tls", &wrong));
        }
        (None, Some(certificate), Some(key)) => Some(Protection::Files {
            certificate: absolute("--tls-cert", certificate)?,
            key: absolute("--tls-key", key)?,
        }),
        (None, Some(_), None) => return Err(usage("--tls-cert", "its key is missing; add --tls-key FILE")),
        (None, None, Some(_)) => {
            return Err(usage("--tls-key", "its certificate is missing; add --tls-cert FILE"));
        }
    };
    match (flags.api_behind_proxy, &flags.api_public_url, tls) {
        (true, _, Some(_)) => {
            let wrong =
                "the proxy ends TLS, so this side has none; leave out --tls, --tls-cert and --tls-key";
            Err(usage("--api-behind-proxy", wrong))
        }
        (true, Some(url), None) => Ok(Protection::Proxy(public(url)?)),
        (true, None, None) => {
            let wrong = "the name that people use is missing; add --api-public-url https://NAME";
            Err(usage("--api-behind-proxy", wrong))
        }
        (false, Some(_), _) => {
            let wrong =
                "it belongs to --api-behind-proxy; for more names of this machine use --api-host NAME";
            Err(usage("--api-public-url", wrong))
        }
        (false, None, tls) => Ok(tls.unwrap_or(Protection::Way)),
    }
}

fn public(url: &str) -> Result<Host, ConfigError> {
    let host = url.strip_prefix("https://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    host.and_then(Host::parse).ok_or_else(|| {
        usage(
            "--api-public-url",
            &format!("{url:?} is not what is expected: https://NAME or https://NAME:PORT"),
        )
    })
}

fn names(text: &str) -> Result<Vec<Name>, ConfigError> {
    let words: Vec<&str> = text.split(',').filter(|_| !text.is_empty()).collect();
    if words.len() > NAMES {
        return Err(usage("--api-host", &format!("at most {NAMES} names are taken")));
    }
    let name = |word: &&str| {
        // An IPv6 address is as clear without the brackets that a URL needs.
        let bare = word.parse::<IpAddr>().ok().map(Name::Ip);
        bare.or_else(|| Name::parse(word)).ok_or_else(|| {
            let wrong = format!(
                "{word:?} is not a host name; expected names without scheme or port, as in box.example"
            );
            usage("--api-host", &wrong)
        })
    };
    words.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Door, ConfigError> {
        door(&Flags::from_words(words)?)
    }

    #[test]
    fn what_leaves_this_machine_is_protected() {
        for (words, protected) in [
            (&[][..], true),
            (&["--api-addr", "[::1]:1"], true),
            (&["--api-addr", "localhost:1"], true),
            (&["--api-addr", "100.64.1.2:1"], true),
            (&["--api-addr", "[fd7a:115c:a1e0::1]:1"], true),
            (&["--api-addr", "tailscale"], true),
            (&["--api-addr", "0.0.0.0:1"], false),
            (&["--api-addr", "[::]:1"], false),
            (&["--api-addr", "192.168.1.2:1"], false),
            (&["--api-addr", "[::ffff:192.0.2.1]:1"], false),
            (&["--api-addr", "0.0.0.0:1", "--tls", "self-signed"], true),
            (&["--api-addr", "0.0.0.0:1", "--tls-cert", "a", "--tls-key", "b"], true),
            (&["--api-addr", "0.0.0.0:1", "--api-behind-proxy", "--api-public-url", "https://x.y"], true),
        ] {
            let read = read(words);
            match &read {
                Ok(_) => assert!(protected, "{words:?}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(!protected && error.exit_code() == 2, "{words:?}: {text}");
                    for choice in
                        ["ssh -L", "tailscale", "--tls self-signed", "--tls-cert", "--api-behind-proxy"]
                    {
                        assert!(text.contains(choice), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn settings_that_do_not_fit_together_are_refused() {
        for (words, expected) in [
            (&["--tls", "on"][..], "expected self-signed"),
            (&["--tls", "self-signed", "--tls-cert", "a", "--tls-key", "b"], "leave out"),
            (&["--tls-cert", "a"], "--tls-key"),
            (&["--tls-key", "a"], "--tls-cert"),
            (&["--api-behind-proxy"], "--api-public-url"),
            (&["--api-behind-proxy", "--api-public-url", "http://x"], "https://NAME"),
            (&["--api-behind-proxy", "--api-public-url", "https://x/y"], "https://NAME"),
            (&["--api-behind-proxy", "--api-public-url", "https://x", "--tls", "self-signed"], "leave out"),
            (&["--api-public-url", "https://x"], "--api-behind-proxy"),
            (&["--api-host", "https://x"], "not a host name"),
            (&["--api-host", "a:1"], "not a host name"),
            (&["--api-host", "a,,b"], "not a host name"),
            (&["--api-host", "*"], "not a host name"),
            (&["--token-rate", "-1"], "whole number"),
            (&["--api-addr", "tailscale8787"], "tailscale:PORT"),
            (&["--api-addr", "tailscale:99999"], "tailscale:PORT"),
        ] {
            let error = read(words).unwrap_err();
            let text = error.to_string();
            let named = words.iter().any(|word| text.starts_with(word));
            assert!(named && text.contains(expected), "{words:?}: {text}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn values_are_what_was_typed() {
        let door = read(&[]).unwrap();
        assert_eq!((door.token_rate, door.protection), (100, Protection::Way));
        let words =
            ["--api-host", "Box.Example", "--token-rate=7", "--api-host", "::1", "--api-addr=tailscale:9"];
        let door = read(&words).unwrap();
        assert_eq!(door.names, [Name::Dns("box.example".into()), Name::Ip("::1".parse().unwrap())]);
        assert_eq!((door.token_rate, door.listen), (7, Listen::Tailnet(9)));
        let words = ["--api-behind-proxy", "--api-public-url", "https://Box.Example:8443/"];
        let host = Host { name: Name::Dns("box.example".into()), port: Some(8443) };
        assert_eq!(read(&words).unwrap().protection, Protection::Proxy(host));
    }
}
