//! The API's certificate: read from files and checked, or made at the first start and kept. Everything wrong with
//! it is found before the API listens. Touches the files it is named and `tls/` in the state directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore, ServerConfig};

use super::certificate;
use super::handshake::Acceptor;
use crate::contract::address::Name;
use crate::controlplane::state::{self, Readers, StateError};
use crate::controlplane::telemetry::log;
use crate::os::files;
use crate::os::memory::wipe;

/// A chain of a handful of certificates has a few KiB each.
const CERTIFICATE_BYTES: usize = 256 << 10;
/// The longest RSA key in use has 12 KiB.
const KEY_BYTES: usize = 64 << 10;
/// In the state directory.
const DIRECTORY: &str = "tls";
const CERTIFICATE_FILE: &str = "certificate.der";
const KEY_FILE: &str = "key.der";

/// Why there is no certificate. Each message ends with the next step.
#[derive(Debug)]
pub enum TlsError {
    /// A file cannot be used; the text says what was expected in it.
    File(PathBuf, String),
    /// A file cannot be read, or is not as private as it must be.
    State(StateError),
    /// Two files do not belong together.
    Mismatch(PathBuf, PathBuf),
    /// None can be made.
    Unmade(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, wrong) => write!(f, "{} {wrong}", path.display()),
            Self::State(error) => error.fmt(f),
            Self::Mismatch(certificate, key) => write!(
                f,
                "the key {} is not that of the certificate {}; name the two that belong together with --tls-cert \
                 and --tls-key",
                key.display(),
                certificate.display()
            ),
            Self::Unmade(error) => write!(
                f,
                "no certificate can be made: {error}; use one from files with --tls-cert and --tls-key"
            ),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<StateError> for TlsError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// A certificate with its key, ready to be used.
pub struct Certificate {
    config: Arc<ServerConfig>,
    fingerprint: String,
}

impl Certificate {
    /// Reads certificate and key from PEM files.
    ///
    /// # Errors
    /// For what cannot be read or used, what does not belong together, a key that others may read, and a
    /// certificate that is not valid now.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let wrong = |path: &Path, text: &str| TlsError::File(path.to_owned(), text.to_owned());
        let bytes = read_public(certificate)?;
        let no_certificate = || {
            wrong(
                certificate,
                "holds no certificate; a PEM file is expected that begins with BEGIN CERTIFICATE",
            )
        };
        let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(no_certificate)?;
        let first = chain.first().ok_or_else(no_certificate)?;
        check(first).map_err(|text| wrong(certificate, text))?;

        // The tools that renew certificates put a link where the newest key is; it is the key that must be private.
        let real = std::fs::canonicalize(key).map_err(|error| {
            wrong(key, &format!("cannot be found: {error}; name the key's PEM file with --tls-key"))
        })?;
        let mut bytes = state::read_private(&real, KEY_BYTES, Readers::GroupToo)?.unwrap_or_default();
        let parsed = PrivateKeyDer::from_pem_slice(&bytes);
        wipe(&mut bytes);
        let no_key =
            || wrong(key, "holds no key; a PEM file is expected with BEGIN PRIVATE KEY and no passphrase");
        let parsed = parsed.map_err(|_| no_key())?;
        Self::new(chain, parsed).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch(certificate.to_owned(), key.to_owned()),
            _ => no_key(),
        })
    }

    /// The certificate that vouches for itself, from the state directory; made when there is none, when what is
    /// there cannot be used, or when it lacks one of the names.
    ///
    /// # Errors
    /// When it cannot be made or kept.
    pub fn self_signed(state: &Path, names: &[Name]) -> Result<Self, TlsError> {
        let directory = state.join(DIRECTORY);
        files::directory(&directory, None, 0o700).map_err(|error| {
            TlsError::File(directory.clone(), format!("cannot be made: {error}; remove it"))
        })?;
        let paths = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
        let kept = state::read_private(&paths.0, CERTIFICATE_BYTES, Readers::OwnerOnly)?;
        let key = state::read_private(&paths.1, KEY_BYTES, Readers::OwnerOnly)?;
        if let (Some(kept), Some(key)) = (kept, key) {
            let kept = CertificateDer::from(kept);
            let fits = check(&kept).is_ok() && names.iter().all(|name| is_for(&kept, name));
            if let (true, Ok(found)) = (fits, Self::pair(kept, key)) {
                return Ok(found);
            }
            log::warn("api.certificate_replaced", &[("path", &paths.0.display())]);
        }
        let made = certificate::make(names)
            .map_err(|_| TlsError::Unmade("the system gives no random numbers".to_owned()))?;
        // The key first: a certificate without its key would only be thrown away at the next start.
        state::write_durably(&paths.1, 0o600, &made.key)?;
        state::write_durably(&paths.0, 0o600, &made.certificate)?;
        Self::pair(CertificateDer::from(made.certificate), made.key)
            .map_err(|error| TlsError::Unmade(error.to_string()))
    }

    fn pair(certificate: CertificateDer<'static>, key: Vec<u8>) -> Result<Self, rustls::Error> {
        Self::new(vec![certificate], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)))
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, rustls::Error> {
        let fingerprint = chain.first().map(|first| fingerprint(first)).unwrap_or_default();
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), fingerprint })
    }

    /// SHA-256 of the certificate, as hexadecimal digits: what `ironctl --tls-fingerprint` wants.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn acceptor(&self) -> Acceptor {
        Acceptor::from(self.config.clone())
    }
}

fn read_public(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let wrong = |text: String| TlsError::File(path.to_owned(), text);
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path);
    opened
        .and_then(|file| file.take(CERTIFICATE_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| wrong(format!("cannot be read: {error}; name the certificate with --tls-cert")))?;
    if bytes.len() > CERTIFICATE_BYTES {
        return Err(wrong(format!("is longer than {CERTIFICATE_BYTES} bytes; it cannot be a certificate")));
    }
    Ok(bytes)
}

fn fingerprint(certificate: &[u8]) -> String {
    digest(&SHA256, certificate).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a certificate can be read and is valid now. Who vouches for it is for its readers to judge.
fn check(certificate: &CertificateDer<'_>) -> Result<(), &'static str> {
    let parsed = ParsedCertificate::try_from(certificate)
        .map_err(|_| "holds a certificate that cannot be read; get a new copy of it")?;
    let algorithms = default_provider().signature_verification_algorithms.all;
    let nobody = RootCertStore::empty();
    let judged = rustls::client::verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &nobody,
        &[],
        UnixTime::now(),
        algorithms,
    );
    match judged {
        Err(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => Err("holds a certificate that has expired; renew it, or set this machine's clock"),
        Err(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Err("holds a certificate that is not valid yet; set this machine's clock, or wait"),
        // That nobody is trusted here is no news.
        _ => Ok(()),
    }
}

fn is_for(certificate: &CertificateDer<'_>, name: &Name) -> bool {
    let name = match name {
        Name::Dns(name) => ServerName::try_from(name.as_str()).ok(),
        Name::Ip(ip) => Some(ServerName::from(*ip)),
    };
    let parsed = ParsedCertificate::try_from(certificate).ok();
    name.zip(parsed).is_some_and(|(name, parsed)| rustls::client::verify_server_name(&parsed, &name).is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(all: &[&str]) -> Vec<Name> {
        all.iter().map(|name| Name::parse(name).unwrap()).collect()
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ironclaw-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn one_is_made_once_and_again_when_a_name_is_missing() {
        let state = scratch("self");
        let few = names(&["localhost", "127.0.0.1", "[::1]"]);
        let first = Certificate::self_signed(&state, &few).unwrap();
        let mode = |name: &str| std::fs::metadata(state.join("tls").join(name)).unwrap().permissions().mode();
        assert_eq!((mode(KEY_FILE) & 0o777, mode("") & 0o777), (0o600, 0o700));
        let again = Certificate::self_signed(&state, &few[..2]).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint(), "fewer names need no other one");
        let more = names(&["localhost", "127.0.0.1", "[::1]", "box.example"]);
        let other = Certificate::self_signed(&state, &more).unwrap();
        assert_ne!(first.fingerprint(), other.fingerprint());
        // Half of it, or something else in its place, is no certificate.
        std::fs::write(state.join("tls").join(KEY_FILE), b"x").unwrap();
        let mended = Certificate::self_signed(&state, &more).unwrap();
        assert_ne!(mended.fingerprint(), other.fingerprint());
        std::fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn a_made_one_is_for_its_names_and_no_others() {
        let made = certificate::make(&names(&["box.example", "192.0.2.1", "[2001:db8::1]"])).unwrap();
        let certificate = CertificateDer::from(made.certificate);
        assert_eq!(check(&certificate), Ok(()));
        for name in names(&["box.example", "192.0.2.1", "[2001:db8::1]"]) {
            assert!(is_for(&certificate, &name), "{name}");
        }
        for name in names(&["other.example", "a.box.example", "192.0.2.2", "localhost"]) {
            assert!(!is_for(&certificate, &name), "{name}");
        }
    }

    #[test]
    fn one_that_is_not_valid_now_is_found() {
        for (from, to, word) in [
            ("20200101000000Z", "20210101000000Z", Some("expired")),
            ("20980101000000Z", "20990101000000Z", Some("not valid yet")),
            ("20200101000000Z", "20980101000000Z", None),
        ] {
            let made =
                certificate::make_valid(&names(&["localhost"]), (from.as_bytes(), to.as_bytes())).unwrap();
            let found = check(&CertificateDer::from(made.certificate));
            assert_eq!(
                found.err().map(|text| text.contains(word.unwrap_or("?"))),
                word.map(|_| true),
                "{to}"
            );
        }
        assert!(check(&CertificateDer::from(vec![0x30, 0x00])).is_err());
    }
}
