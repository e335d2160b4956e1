//! Requests to the control plane: where it is, which token goes with them, what its refusals say. Touches
//! the network and the token file.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::{Response, Uri};
use ureq::unversioned::transport::{Connector, TcpConnector};
use ureq::{Agent, Body};

use super::resolve::Plain;
use super::tls::{self, TlsConnector, Trust, distrust};
use super::{Failure, Globals};
use crate::contract::address::{Name, is_tailnet};
use crate::contract::json::{self, Value};
use crate::contract::time::Millis;
use crate::contract::{chain, places, plain};

/// Where a control plane listens unless told otherwise.
const DEFAULT: &str = "http://127.0.0.1:8787";
/// Larger answers are not ours.
const ANSWER_BYTES: u64 = 8 << 20;
/// A token is one short line.
const TOKEN_FILE_BYTES: u64 = 4096;
/// The event stream says something every 15 s; after three of them it is dead.
const STREAM_QUIET: Duration = Duration::from_secs(45);

/// Where requests go and with which token.
#[derive(Clone)]
pub(super) struct Target {
    base: String,
    token: Option<String>,
    trust: Trust,
}

impl Target {
    /// From options, environment, and the state directory of this machine.
    pub(super) fn find(globals: &Globals) -> Result<Self, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let addr = globals.addr.clone().or_else(|| variable("IRONCLAW_ADDR"));
        let base = base(addr.as_deref().unwrap_or(DEFAULT))?;
        let token = match (&globals.token, &globals.token_file) {
            (Some(_), Some(_)) => return Err(Failure::usage("--token and --token-file exclude each other")),
            (Some(token), None) => Some(token.clone()),
            (None, Some(file)) => Some(read_token(&PathBuf::from(file)).map_err(|error| {
                Failure::of(format!(
                    "the token file {file} cannot be read: {error}; check the path and its mode"
                ))
            })?),
            (None, None) => variable("IRONCLAW_API_TOKEN").or_else(|| {
                let named = variable("IRONCLAW_API_TOKEN_FILE").map(PathBuf::from);
                let file = named.or_else(|| Some(state_dir(globals, &variable)?.join("api-token")))?;
                // What cannot be read is no token; the refusal says where tokens come from.
                read_token(&file).ok()
            }),
        };
        if token
            .as_ref()
            .is_some_and(|token| token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(Failure::usage("the token must be visible ASCII without spaces"));
        }
        let either = |option: &Option<String>, other: &Option<String>, name: &str| {
            // An option says it all: what the environment has of the other kind is not meant then.
            option.clone().or_else(|| other.is_none().then(|| variable(name)).flatten())
        };
        let trust = Trust::of(
            either(&globals.ca_file, &globals.tls_fingerprint, "IRONCLAW_CA_FILE"),
            either(&globals.tls_fingerprint, &globals.ca_file, "IRONCLAW_TLS_FINGERPRINT"),
        )?;
        // Where the token of this machine is, there is the certificate too; elsewhere it says nothing.
        let own = || tls::own(&state_dir(globals, &variable)?);
        let trust = match trust {
            Trust::Public if is_this_machine(&base) => own().map_or(Trust::Public, Trust::Fingerprint),
            trust => trust,
        };
        Ok(Self { base, token, trust })
    }
}

/// Where the control plane of this machine keeps the token.
fn state_dir(globals: &Globals, variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(named) = globals.state_dir.clone().or_else(|| variable("IRONCLAW_STATE_DIR")) {
        return Some(PathBuf::from(named));
    }
    places::default_state_dir(rustix::process::geteuid().as_raw(), variable)
}

fn read_token(path: &std::path::Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(TOKEN_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// Checks an address: plain HTTP only where nobody listens in, because the token travels in it.
fn base(addr: &str) -> Result<String, Failure> {
    let shown = plain::line(addr);
    let expected = || {
        Failure::usage(format!(
            "--addr {shown} is not an address; expected http://127.0.0.1:PORT or https://HOST:PORT"
        ))
    };
    let with_scheme = if addr.contains("://") { addr.to_owned() } else { format!("http://{addr}") };
    let uri: Uri = with_scheme.parse().map_err(|_| expected())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(expected());
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
        return Err(expected());
    }
    let name = Name::parse(authority.host()).ok_or_else(expected)?;
    let private = name.is_loopback() || matches!(name, Name::Ip(ip) if is_tailnet(ip));
    if scheme == "http" && !private {
        let text = format!(
            "{shown} is not this machine, and the token would travel unprotected; use https:// (ironclaw help tls), or \
             ssh -L and 127.0.0.1"
        );
        return Err(Failure::usage(text));
    }
    Ok(format!("{scheme}://{authority}"))
}

/// Whether a checked address can be nobody's but this machine's.
fn is_this_machine(base: &str) -> bool {
    let host = base.parse::<Uri>().ok().and_then(|uri| Name::parse(uri.host()?));
    host.is_some_and(|name| name.is_loopback())
}

/// Why a request was not served.
#[derive(Debug)]
pub(super) enum Refused {
    /// Nobody listens there.
    Nobody(String),
    /// The connection broke, so it is not known what became of the request.
    Broken(String),
    /// The control plane said no; trying the same again will not help.
    Problem(String),
    /// The control plane cannot now.
    Later(String),
}

impl Refused {
    /// The line for people.
    pub(super) fn text(&self) -> &str {
        let (Self::Nobody(text) | Self::Broken(text) | Self::Problem(text) | Self::Later(text)) = self;
        text
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::of(refused.text())
    }
}

/// Sends requests.
pub(super) struct Client {
    target: Target,
    quick: Agent,
    streaming: Agent,
}

impl Client {
    /// # Errors
    /// When the roots that it is to trust cannot be used.
    pub(super) fn new(target: Target) -> Result<Self, Failure> {
        // No proxy: one named in the environment would see the token. No redirect: none is ever sent.
        let common = || {
            Agent::config_builder()
                .http_status_as_error(false)
                .proxy(None)
                .max_redirects(0)
                .timeout_connect(Some(Duration::from_secs(5)))
        };
        // The roots of the world are many; who speaks no TLS does not wait until they are read.
        let tls = match &target.trust {
            Trust::Public if target.base.starts_with("http://") => TlsConnector::absent(),
            trust => trust.connector()?,
        };
        let agent = |config| {
            let connector = ().chain(TcpConnector::default()).chain(tls.clone());
            Agent::with_parts(config, connector, Plain::default())
        };
        let quick = agent(common().timeout_global(Some(Duration::from_secs(30))).build());
        let streaming = agent(common().timeout_per_read(Some(STREAM_QUIET)).build());
        Ok(Self { target, quick, streaming })
    }

    /// The address, for people.
    pub(super) fn base(&self) -> &str {
        &self.target.base
    }

    /// The SHA-256 of the certificate that the control plane must show, where one is known.
    pub(super) fn certificate(&self) -> Option<String> {
        match &self.target.trust {
            Trust::Fingerprint(sha256) if self.target.base.starts_with("https:") => Some(chain::hex(sha256)),
            _ => None,
        }
    }

    /// The document at a path.
    pub(super) fn get(&self, path: &str) -> Result<Value, Refused> {
        self.judge(self.get_any(path)?)
    }

    /// The document at a path whose answer may take long to begin; signs of life come meanwhile.
    pub(super) fn get_slowly(&self, path: &str) -> Result<Value, Refused> {
        let mut request = self.streaming.get(format!("{}{path}", self.target.base));
        if let Some(token) = &self.target.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = self.document(request.call())?;
        self.judge(answer)
    }

    /// Status and document of a path, whatever the status.
    pub(super) fn get_any(&self, path: &str) -> Result<(u16, Value), Refused> {
        let mut request = self.quick.get(format!("{}{path}", self.target.base));
        if let Some(token) = &self.target.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.document(request.call())
    }

    /// Status, date and document of a path, whatever the status.
    pub(super) fn get_dated(&self, path: &str) -> Result<(u16, Option<Millis>, Value), Refused> {
        let answer = self.quick.get(format!("{}{path}", self.target.base)).call();
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        let date =
            answer.headers().get("date").and_then(|date| date.to_str().ok()).and_then(Millis::parse_http);
        let (status, document) = self.document(Ok(answer))?;
        Ok((status, date, document))
    }

    /// The text at a path.
    pub(super) fn get_text(&self, path: &str) -> Result<String, Refused> {
        let mut request = self.quick.get(format!("{}{path}", self.target.base));
        if let Some(token) = &self.target.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut answer = request.call().map_err(|error| self.unreachable(&error))?;
        if !answer.status().is_success() {
            let answer = self.document(Ok(answer))?;
            return self
                .judge(answer)
                .and(Err(Refused::Problem("the control plane sent no text".to_owned())));
        }
        let bytes = answer.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec();
        let bytes = bytes.map_err(|error| self.unreachable(&error))?;
        String::from_utf8(bytes).map_err(|_| Refused::Problem("the control plane sent no text".to_owned()))
    }

    /// The answer to a document.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Refused> {
        let answer = self.post_any(path, body)?;
        self.judge(answer)
    }

    /// Status and document of what a document is answered with, whatever the status.
    pub(super) fn post_any(&self, path: &str, body: &Value) -> Result<(u16, Value), Refused> {
        self.post_keyed(path, body, None)
    }

    /// The same with a key of the caller's own, by which a request that is sent again is known.
    pub(super) fn post_keyed(
        &self,
        path: &str,
        body: &Value,
        key: Option<&str>,
    ) -> Result<(u16, Value), Refused> {
        let mut request =
            self.quick.post(format!("{}{path}", self.target.base)).content_type("application/json");
        if let Some(token) = &self.target.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.document(request.send(body.to_string()))
    }

    /// The answer to the wish that something be gone.
    pub(super) fn delete(&self, path: &str) -> Result<Value, Refused> {
        let mut request = self.quick.delete(format!("{}{path}", self.target.base));
        if let Some(token) = &self.target.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = self.document(request.call())?;
        self.judge(answer)
    }

    /// The document, unless it is a refusal.
    pub(super) fn judged(&self, answer: (u16, Value)) -> Result<Value, Refused> {
        self.judge(answer)
    }

    /// An event stream, from after an event on.
    pub(super) fn stream(&self, path: &str, last_event: Option<&str>) -> Result<impl Read + use<>, Refused> {
        let mut request = self.streaming.get(format!("{}{path}", self.target.base));
        if let Some(last_event) = last_event {
            request = request.header("last-event-id", last_event);
        }
        if let Some(token) = &self.target.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = request.call().map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response.into_body().into_reader());
        }
        let answer = self.document(Ok(response))?;
        match self.judge(answer) {
            Err(refused) => Err(refused),
            Ok(_) => Err(Refused::Problem("the control plane sent no event stream".to_owned())),
        }
    }

    fn document(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<(u16, Value), Refused> {
        let mut response = answer.map_err(|error| self.unreachable(&error))?;
        let status = response.status().as_u16();
        let bytes = response.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec();
        let bytes = bytes.map_err(|error| self.unreachable(&error))?;
        match json::parse(&bytes) {
            Ok(document) => Ok((status, document)),
            Err(_) => Err(Refused::Problem(format!(
                "what answers at {} is not ironclaw (status {status}); check --addr",
                self.target.base
            ))),
        }
    }

    fn judge(&self, (status, document): (u16, Value)) -> Result<Value, Refused> {
        if (200..300).contains(&status) {
            return Ok(document);
        }
        let detail = document.get("detail").and_then(Value::as_str).unwrap_or("the request was refused");
        let mut text = plain::line(detail).into_owned();
        if status == 401 {
            text = match &self.target.token {
                Some(_) => "the control plane does not know this token; use --token-file FILE with the api-token \
                            of its state directory, or set IRONCLAW_API_TOKEN"
                    .to_owned(),
                None => "no token was found; use --token-file FILE with the api-token of the control plane's state \
                         directory, or set IRONCLAW_API_TOKEN"
                    .to_owned(),
            };
        }
        Err(if status == 503 { Refused::Later(text) } else { Refused::Problem(text) })
    }

    fn unreachable(&self, error: &ureq::Error) -> Refused {
        if let Some(wrong) = distrust(error, &self.target.trust) {
            return Refused::Problem(format!("{} is not to be trusted: {wrong}", self.target.base));
        }
        let text = format!(
            "no control plane answers at {} ({error}); start one with `ironclaw serve`, or name its address with --addr",
            self.target.base
        );
        match error {
            ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Refused::Nobody(text)
            }
            ureq::Error::ConnectionFailed => Refused::Nobody(text),
            _ => Refused::Broken(text),
        }
    }
}

/// A text as one segment or value of a URL.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_sent_to_this_machine_only() {
        for (addr, expected) in [
            ("http://127.0.0.1:8787", "http://127.0.0.1:8787"),
            ("http://localhost:1/", "http://localhost:1"),
            ("127.0.0.1:9", "http://127.0.0.1:9"),
            ("http://[::1]:9", "http://[::1]:9"),
        ] {
            assert_eq!(base(addr).unwrap(), expected);
        }
        for (addr, expected) in [
            ("https://127.0.0.1", "https://127.0.0.1"),
            ("https://box.example:8787/", "https://box.example:8787"),
            ("http://100.64.1.2:1", "http://100.64.1.2:1"),
            ("http://[fd7a:115c:a1e0::1]:1", "http://[fd7a:115c:a1e0::1]:1"),
        ] {
            assert_eq!(base(addr).unwrap(), expected);
        }
        for bad in [
            "https://box.example/x",
            "https://a@box.example",
            "https://",
            "http://10.0.0.1:1",
            "http://evil.example",
            "ftp://127.0.0.1",
            "http://127.0.0.1/x",
            "http://a@127.0.0.1",
            "",
        ] {
            assert_eq!(base(bad).unwrap_err().code, 2, "{bad}");
        }
    }

    #[test]
    fn what_is_not_plain_is_encoded() {
        assert_eq!(encode("mock-agent"), "mock-agent");
        assert_eq!(encode("a/b c?ü"), "a%2Fb%20c%3F%C3%BC");
    }
}
