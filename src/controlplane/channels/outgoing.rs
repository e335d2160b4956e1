//! Short requests to platforms: verified TLS, no redirects, no proxy of the environment, a time for each. Touches nothing
//! by itself.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use ureq::tls::{RootCerts, TlsConfig};

/// The longest a request takes, its answer included, unless the platform holds it open on purpose.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// Makes requests. What is answered with an error status is an answer.
pub fn agent(https_only: bool, timeout: Duration) -> ureq::Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::WebPki)
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build();
    ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(timeout))
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .https_only(https_only)
        .proxy(None)
        .user_agent(concat!("ironclaw/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// What went wrong on the way, without the address, which may hold a secret.
pub fn words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        ureq::Error::HostNotFound => "its host is not found".to_owned(),
        ureq::Error::ConnectionFailed => "it cannot be reached".to_owned(),
        ureq::Error::Io(error) => format!("it cannot be reached: {}", error.kind()),
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => "its certificate is not accepted".to_owned(),
        _ => "the request failed".to_owned(),
    }
}
