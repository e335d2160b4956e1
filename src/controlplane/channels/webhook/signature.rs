//! Signatures of webhooks, as <https://www.standardwebhooks.com> describes them: HMAC-SHA-256 over the request's name, its
//! time and its body, with a name and a time that cannot be used again. Pure.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::hmac;

use crate::contract::time::Millis;

/// A request that is older, or from later, is refused, in seconds.
pub const WINDOW: i64 = 300;
/// Longest name of a request, in bytes.
const MOST_ID: usize = 256;
/// Signatures in one header: an old secret's and a new one's, and some more.
const MOST_SIGNATURES: usize = 8;

/// What both sides know.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Secret {
    /// Reads it: `whsec_` and 24 to 64 bytes in base64, or a text of 24 to 128 bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let key = match text.strip_prefix("whsec_") {
            Some(encoded) => {
                let bytes =
                    STANDARD.decode(encoded).map_err(|_| "secret is no base64 after whsec_".to_owned())?;
                if !(24..=64).contains(&bytes.len()) {
                    return Err("secret must have 24 to 64 bytes after whsec_".to_owned());
                }
                bytes
            }
            None if (24..=128).contains(&text.len()) => text.as_bytes().to_vec(),
            None => return Err("secret must have 24 to 128 bytes, or be whsec_BASE64".to_owned()),
        };
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The signature of a request, as its header has it; the time is in seconds.
    pub fn sign(&self, id: &str, at: &str, body: &[u8]) -> String {
        format!("v1,{}", STANDARD.encode(hmac::sign(&self.0, &signed(id, at, body))))
    }

    /// The signature of a body alone, as receivers know it that were made for GitHub's `X-Hub-Signature-256`. Nothing of
    /// ours is believed by it: it can be used again.
    pub fn sign_body(&self, body: &[u8]) -> String {
        let tag = hmac::sign(&self.0, body);
        tag.as_ref().iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
    }

    /// Checks a request's headers.
    ///
    /// # Errors
    /// Which of them is wrong, for the log.
    pub fn check(
        &self,
        id: &str,
        at: &str,
        body: &[u8],
        signatures: &str,
        now: Millis,
    ) -> Result<(), &'static str> {
        // A dot would let a part of one field be taken for a part of the next.
        let is_name = |b: u8| b.is_ascii_graphic() && b != b'.';
        if id.is_empty() || id.len() > MOST_ID || !id.bytes().all(is_name) {
            return Err("bad_id");
        }
        let is_number = !at.is_empty() && at.len() <= 12 && at.bytes().all(|b| b.is_ascii_digit());
        let seconds: i64 = at.parse().ok().filter(|_| is_number).ok_or("bad_time")?;
        // Computed once, however many are offered: only their comparison is anybody's to order.
        let own = hmac::sign(&self.0, &signed(id, at, body));
        let mut is_signed = false;
        for one in signatures.split(' ').take(MOST_SIGNATURES) {
            let Some(encoded) = one.strip_prefix("v1,") else { continue };
            // Of digests: how long the comparison takes says nothing.
            let hashed = |bytes: &[u8]| digest(&SHA256, bytes).as_ref().to_vec();
            is_signed |= STANDARD.decode(encoded).is_ok_and(|bytes| hashed(&bytes) == hashed(own.as_ref()));
        }
        if !is_signed {
            return Err("bad_signature");
        }
        // After the signature: nobody else learns what time it is here.
        if (now.0 / 1000 - seconds).abs() > WINDOW { Err("too_old") } else { Ok(()) }
    }
}

fn signed(id: &str, at: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", at.as_bytes(), b".", body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_614_265_330_000);

    /// The example of the description of the scheme.
    #[test]
    fn the_published_example_is_signed_alike() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let (id, at, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(secret.sign(id, at, body), signature);
        assert_eq!(secret.check(id, at, body, signature, NOW), Ok(()));
    }

    /// The example of GitHub's manual.
    #[test]
    fn a_body_alone_is_signed_as_github_does() {
        let secret = Secret(hmac::Key::new(hmac::HMAC_SHA256, b"It's a Secret to Everybody"));
        assert_eq!(
            secret.sign_body(b"Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }

    #[test]
    fn only_the_same_request_in_its_time_is_signed() {
        let secret = Secret::parse(&"s".repeat(24)).unwrap();
        let good = secret.sign("a", "1614265330", b"body");
        let check =
            |id: &str, at: &str, body: &[u8], signature: &str| secret.check(id, at, body, signature, NOW);
        assert_eq!(check("a", "1614265330", b"body", &good), Ok(()));
        assert_eq!(check("a", "1614265330", b"body", &format!("v1,AAAA {good} v2,x")), Ok(()));
        assert_eq!(check("b", "1614265330", b"body", &good), Err("bad_signature"));
        assert_eq!(check("a", "1614265331", b"body", &good), Err("bad_signature"));
        assert_eq!(check("a", "1614265330", b"bodY", &good), Err("bad_signature"));
        for bad in ["", "v1", "v1,", "v1,!", "v2,AAAA", &good[3..], &good.replace("v1", "v1a")] {
            assert_eq!(check("a", "1614265330", b"body", bad), Err("bad_signature"), "{bad}");
        }
        for id in ["", "a.b", "a b", "ü", &"x".repeat(300)] {
            let signature = secret.sign(id, "1614265330", b"");
            assert_eq!(check(id, "1614265330", b"", &signature), Err("bad_id"), "{id}");
        }
        for at in ["", "x", "-5", "+1614265330", "9999999999999", "1614265330.5"] {
            assert_eq!(check("a", at, b"", &secret.sign("a", at, b"")), Err("bad_time"), "{at}");
        }
        for (at, ok) in
            [(1_614_265_030, true), (1_614_265_029, false), (1_614_265_630, true), (1_614_265_631, false)]
        {
            let at = format!("{at}");
            let told = check("a", &at, b"", &secret.sign("a", &at, b""));
            assert_eq!(told, if ok { Ok(()) } else { Err("too_old") }, "{at}");
        }
        let other = Secret::parse(&"t".repeat(24)).unwrap();
        assert_eq!(other.check("a", "1614265330", b"body", &good, NOW), Err("bad_signature"));
    }

    #[test]
    fn secrets_are_long_enough() {
        for bad in ["", "short", "whsec_", "whsec_!!", "whsec_AAAA"] {
            assert!(Secret::parse(bad).is_err(), "{bad}");
        }
    }
}
