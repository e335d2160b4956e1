//! Who may come in: the Host and Origin of a request, and where its token is. Pure.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap};

use super::problem::Problem;
use crate::contract::address::{Host, Name};

/// What this control plane is called, and how the people at the other end of a connection speak to it.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// Names beside loopback and the address that a connection reached.
    names: Vec<Name>,
    way: Way,
}

/// What a browser's address bar begins with.
#[derive(Clone, Debug)]
enum Way {
    Http,
    Https,
    /// At the proxy `https://` and this host; on loopback `http://` as ever.
    Proxy(Host),
}

impl Site {
    /// One that is spoken to directly, without TLS.
    pub(super) fn http(names: Vec<Name>) -> Self {
        Self { names, way: Way::Http }
    }

    /// One that is spoken to directly, through TLS.
    pub(super) fn https(names: Vec<Name>) -> Self {
        Self { names, way: Way::Https }
    }

    /// One behind a proxy that ends TLS.
    pub(super) fn behind_proxy(names: Vec<Name>, public: Host) -> Self {
        Self { names, way: Way::Proxy(public) }
    }

    /// Whether whoever connects is a proxy that speaks for all.
    pub(super) fn is_behind_proxy(&self) -> bool {
        matches!(self.way, Way::Proxy(_))
    }

    /// Refuses what a browser sends for somebody else: another host's name resolved to this machine, or a page
    /// of another site. `local` is the address of ours that the connection reached.
    ///
    /// The port of a Host is not looked at: it differs behind `ssh -L`, and a page that rebinds a name cannot
    /// choose the name. What a proxy says about the request it forwards is not believed.
    ///
    /// # Errors
    /// With the problem to answer with.
    pub(super) fn check(&self, headers: &HeaderMap, local: IpAddr) -> Result<(), Problem> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = match (hosts.next().and_then(|host| Host::parse(host.to_str().ok()?)), hosts.next()) {
            (Some(host), None) if self.is_ours(&host.name, local) => host,
            _ => return Err(Problem::wrong_host()),
        };
        for origin in headers.get_all(header::ORIGIN) {
            if !origin.to_str().is_ok_and(|origin| self.is_same(origin, &host)) {
                return Err(Problem::cross_site());
            }
        }
        for site in headers.get_all("sec-fetch-site") {
            if !matches!(site.as_bytes(), b"same-origin" | b"none") {
                return Err(Problem::cross_site());
            }
        }
        Ok(())
    }

    fn is_ours(&self, name: &Name, local: IpAddr) -> bool {
        // An address cannot be rebound, so the one that was reached is as good as a listed name.
        let reached = matches!(name, Name::Ip(ip) if ip.to_canonical() == local.to_canonical());
        let public = matches!(&self.way, Way::Proxy(public) if public.name == *name);
        name.is_loopback() || reached || public || self.names.contains(name)
    }

    /// Whether a page of this origin was served by us under this host.
    fn is_same(&self, origin: &str, host: &Host) -> bool {
        let Some((scheme, page)) = origin.split_once("://") else { return false };
        let Some(page) = Host::parse(page) else { return false };
        let same =
            |other: &Host, port: u16| page.name == other.name && page.port_or(port) == other.port_or(port);
        match (scheme, &self.way) {
            ("http", Way::Http) => same(host, 80),
            ("https", Way::Https) => same(host, 443),
            // A proxy may put its own idea of a host into the request, so the public one counts as well.
            ("https", Way::Proxy(public)) => {
                same(public, 443) || (!host.name.is_loopback() && same(host, 443))
            }
            ("http", Way::Proxy(_)) => host.name.is_loopback() && same(host, 80),
            _ => false,
        }
    }
}

/// The token of `Authorization: Bearer`, if there is exactly one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let only = all.next().filter(|_| all.next().is_none())?.to_str().ok()?;
    let (scheme, token) = only.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn names(all: &[&str]) -> Vec<Name> {
        all.iter().map(|name| Name::parse(name).unwrap()).collect()
    }

    fn host_is_ours(site: &Site, host: &str, local: &str) -> bool {
        site.check(&headers(&[("host", host)]), local.parse().unwrap()).is_ok()
    }

    #[test]
    fn only_loopback_names_are_this_host() {
        let site = Site::http(Vec::new());
        for good in ["127.0.0.1:8787", "localhost", "LOCALHOST:1", "[::1]:8787", "127.1.2.3", "[::1]"] {
            assert!(host_is_ours(&site, good, "127.0.0.1"), "{good}");
        }
        for bad in [
            "evil.example:8787",
            "localhost.evil.example",
            "10.0.0.1:8787",
            "",
            "127.0.0.1:x",
            "127.0.0.1.evil",
        ] {
            assert!(!host_is_ours(&site, bad, "127.0.0.1"), "{bad}");
        }
        assert!(site.check(&headers(&[]), LOCAL).is_err());
        assert!(site.check(&headers(&[("host", "localhost"), ("host", "localhost")]), LOCAL).is_err());
    }

    #[test]
    fn the_address_that_was_reached_and_listed_names_are_this_host_too() {
        let site = Site::https(names(&["box.example", "192.0.2.7"]));
        for (host, local, ours) in [
            ("192.0.2.1:8787", "192.0.2.1", true),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("[2001:db8::1]:1", "2001:db8::1", true),
            ("BOX.example.:9", "192.0.2.1", true),
            ("192.0.2.7", "192.0.2.1", true),
            ("box.example.evil", "192.0.2.1", false),
            ("evil.box.example", "192.0.2.1", false),
            ("example", "192.0.2.1", false),
        ] {
            assert_eq!(host_is_ours(&site, host, local), ours, "{host} at {local}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let host = ("host", "127.0.0.1:8787");
        let site = Site::http(Vec::new());
        for good in [
            &[("origin", "http://127.0.0.1:8787")][..],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ] {
            assert_eq!(site.check(&headers(&[&[host][..], good].concat()), LOCAL), Ok(()));
        }
        for bad in [
            ("origin", "http://localhost:3000"),
            ("origin", "https://127.0.0.1:8787"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(site.check(&headers(&[host, bad]), LOCAL).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_origin_has_the_scheme_and_host_that_people_see() {
        let proxy = || Site::behind_proxy(names(&["also.example"]), Host::parse("box.example").unwrap());
        let tls = || Site::https(names(&["box.example"]));
        let plain = || Site::http(names(&["box.example"]));
        for (site, host, origin, same) in [
            (tls(), "box.example:8787", "https://box.example:8787", true),
            (tls(), "box.example", "https://box.example:443", true),
            (tls(), "box.example", "http://box.example", false),
            (tls(), "box.example:8787", "https://box.example", false),
            (tls(), "127.0.0.1:1", "https://box.example", false),
            (plain(), "box.example:80", "http://box.example", true),
            (plain(), "box.example:80", "https://box.example", false),
            (proxy(), "box.example", "https://box.example", true),
            (proxy(), "box.example", "http://box.example", false),
            (proxy(), "also.example:1", "https://also.example:1", true),
            (proxy(), "also.example", "http://also.example", false),
            (proxy(), "127.0.0.1:8787", "https://box.example", true),
            (proxy(), "127.0.0.1:8787", "http://127.0.0.1:8787", true),
            (proxy(), "127.0.0.1:8787", "https://127.0.0.1:8787", false),
            (proxy(), "box.example", "https://evil.example", false),
            (proxy(), "box.example", "https://box.example.evil", false),
            (proxy(), "box.example", "https://x@box.example", false),
            (proxy(), "box.example", "https://box.example/", false),
        ] {
            let found = site.check(&headers(&[("host", host), ("origin", origin)]), LOCAL).is_ok();
            assert_eq!(found, same, "{site:?} {host} {origin}");
        }
    }

    #[test]
    fn a_token_comes_in_one_header() {
        assert_eq!(bearer(&headers(&[("authorization", "Bearer abc")])), Some("abc"));
        assert_eq!(bearer(&headers(&[("authorization", "bearer abc")])), Some("abc"));
        for bad in [
            &[("authorization", "Basic abc")][..],
            &[("authorization", "abc")],
            &[],
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
        ] {
            assert_eq!(bearer(&headers(bad)), None);
        }
    }
}
