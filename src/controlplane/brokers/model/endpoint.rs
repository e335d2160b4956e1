//! Where an upstream is: scheme, host, port and the path that its operations stand below, all fixed by the operator.
//! Pure.

use std::fmt;

use crate::contract::address::{Host, Name};

/// Longest path of a base.
const PATH_BYTES: usize = 256;

/// Scheme, host, port and base path of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is spoken to through TLS.
    pub is_tls: bool,
    /// The host.
    pub host: Name,
    /// The port.
    pub port: u16,
    /// What operations stand below; empty or begins with `/` and does not end with one.
    pub base: String,
}

impl Endpoint {
    /// Reads `http[s]://HOST[:PORT][/PATH]`.
    ///
    /// # Errors
    /// A sentence that says what is expected. It does not repeat what was given, which may hold a password.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "expected http[s]://HOST[:PORT][/PATH], without a user, a query or a fragment";
        let (is_tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(EXPECTED),
        };
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, path),
            None => (rest, ""),
        };
        let host = Host::parse(authority).ok_or(EXPECTED)?;
        let path = path.trim_end_matches('/');
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~');
        let is_odd = |part: &str| matches!(part, "" | "." | "..");
        if path.len() > PATH_BYTES
            || !path.bytes().all(plain)
            || (!path.is_empty() && path.split('/').any(is_odd))
        {
            return Err(EXPECTED);
        }
        let base = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self { is_tls, port: host.port_or(if is_tls { 443 } else { 80 }), host: host.name, base })
    }

    /// Host and port as a `host` header and `CONNECT` have them: the port only where it is not the scheme's.
    pub fn authority(&self) -> String {
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => self.host.to_string(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.is_tls { "https" } else { "http" }, self.authority(), self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_whole_or_not_at_all() {
        for (text, shown) in [
            ("https://api.example.com", "https://api.example.com"),
            ("https://API.example.com:443/v1/", "https://api.example.com/v1"),
            ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
            ("http://[::1]:8080/a/b", "http://[::1]:8080/a/b"),
            ("https://h:8443/x~y", "https://h:8443/x~y"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for bad in [
            "",
            "api.example.com",
            "ftp://h",
            "https://",
            "https://u:p@h/",
            "https://h/?k=v",
            "https://h/#f",
            "https://h/a/../b",
            "https://h//b",
            "https://h/a b",
            "https://h:x/",
            "https://h:99999",
            "https://h/%2e",
            "https://h\\x",
            "HTTPS://h\n",
        ] {
            let wrong = Endpoint::parse(bad);
            assert!(wrong.is_err(), "{bad}");
            assert!(!wrong.unwrap_err().contains("u:p"));
        }
    }
}
