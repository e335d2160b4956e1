//! Where a host is: an address as it is written, a name by asking. Touches the name service.

use std::net::SocketAddr;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::Scheme;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// The resolver of every request. An address needs no name service, and no thread that waits for one.
#[derive(Debug, Default)]
pub(super) struct Plain {
    names: DefaultResolver,
}

impl Resolver for Plain {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        match written(uri) {
            Some(address) => {
                let mut addresses = self.empty();
                addresses.push(address);
                Ok(addresses)
            }
            None => self.names.resolve(uri, config, timeout),
        }
    }
}

fn written(uri: &Uri) -> Option<SocketAddr> {
    let scheme: &Scheme = uri.scheme()?;
    DefaultResolver::host_and_port(scheme, uri.authority()?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_as_it_is_written() {
        for (uri, expected) in [
            ("http://127.0.0.1:8787/v1", Some("127.0.0.1:8787")),
            ("https://[::1]/", Some("[::1]:443")),
            ("http://localhost:1/", None),
        ] {
            let address = expected.map(|text| text.parse().unwrap());
            assert_eq!(written(&uri.parse().unwrap()), address, "{uri}");
        }
    }
}
