//! Who holds the secret signs: Standard Webhooks for what goes out and comes in, and the older header of GitHub for
//! what comes in. The signature is of the bytes of the body, before anything is read in them. Pure: the clock is the
//! caller's.

use std::fmt;

use ring::hmac;

use super::base64;

/// How far the time of a request may be from ours, either way, in seconds.
pub const WINDOW_SECONDS: i64 = 300;

/// The shortest secret, in bytes.
pub const SHORTEST_SECRET: usize = 16;

/// The longest secret, in bytes, as it is written.
const LONGEST_SECRET: usize = 512;

/// The longest identifier of a message, in bytes.
const LONGEST_ID: usize = 256;

/// The most signatures of one request that are looked at: one for each secret while they are changed.
const MOST_SIGNATURES: usize = 16;

/// A shared secret. It is never shown.
pub struct Secret(hmac::Key);

/// The three headers of Standard Webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// `webhook-id`: the message's name, the same when it is sent again.
    pub id: String,
    /// `webhook-timestamp`: seconds since 1970.
    pub timestamp: String,
    /// `webhook-signature`: one or more of `v1,` and Base64, with spaces between.
    pub signature: String,
}

/// Why a request is not believed. The words hold nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsigned {
    /// A header is missing or not what it should be.
    Header(&'static str),
    /// Older or newer than [`WINDOW_SECONDS`].
    Time,
    /// None of the signatures is the secret's.
    Signature,
}

impl fmt::Display for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "the header {name} is missing or malformed"),
            Self::Time => write!(f, "the request is more than {WINDOW_SECONDS} s old or from the future"),
            Self::Signature => f.write_str("the signature is not of this secret and this body"),
        }
    }
}

impl std::error::Error for Unsigned {}

/// The secret is too short, too long, or begins with `whsec_` and is no Base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSecret;

impl fmt::Display for BadSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the webhook secret must be whsec_ and Base64, or plain text, of {SHORTEST_SECRET} bytes or more; make one \
             with: openssl rand -base64 32"
        )
    }
}

impl std::error::Error for BadSecret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Reads a secret as it is written in a configuration: `whsec_` and Base64, or any other text as its bytes.
    ///
    /// # Errors
    /// When it is too short to be one, or malformed.
    pub fn read(text: &str) -> Result<Secret, BadSecret> {
        let text = text.trim();
        let bytes = match text.strip_prefix("whsec_") {
            Some(encoded) if text.len() <= LONGEST_SECRET => base64::decode(encoded).ok_or(BadSecret)?,
            _ => text.as_bytes().to_vec(),
        };
        if bytes.len() < SHORTEST_SECRET || bytes.len() > LONGEST_SECRET {
            return Err(BadSecret);
        }
        Ok(Secret(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The headers for a request that goes out at `now`, in seconds since 1970. `None` for an identifier that has a dot
    /// or is no header's value: with a dot, two requests could have the same signature.
    pub fn sign(&self, id: &str, now: i64, body: &[u8]) -> Option<Headers> {
        if !is_id(id) || id.contains('.') {
            return None;
        }
        let timestamp = now.to_string();
        let tag = hmac::sign(&self.0, &signed(id, &timestamp, body));
        Some(Headers {
            id: id.to_owned(),
            timestamp,
            signature: format!("v1,{}", base64::encode(tag.as_ref())),
        })
    }

    /// Whether a request that came in at `now` was signed with this secret.
    ///
    /// # Errors
    /// Why it is not believed. The time is judged only of what was signed.
    pub fn check(&self, headers: &Headers, now: i64, body: &[u8]) -> Result<(), Unsigned> {
        if !is_id(&headers.id) {
            return Err(Unsigned::Header("webhook-id"));
        }
        let time = &headers.timestamp;
        let is_number =
            !time.is_empty() && time.len() <= 12 && time.bytes().all(|byte| byte.is_ascii_digit());
        let sent: i64 = match time.parse() {
            Ok(sent) if is_number => sent,
            _ => return Err(Unsigned::Header("webhook-timestamp")),
        };
        let signed = signed(&headers.id, time, body);
        let mut signatures = headers
            .signature
            .split(' ')
            .take(MOST_SIGNATURES)
            .filter_map(|signature| signature.strip_prefix("v1,").and_then(base64::decode));
        // `verify` takes the same time for every wrong tag.
        if !signatures.any(|tag| hmac::verify(&self.0, &signed, &tag).is_ok()) {
            return Err(Unsigned::Signature);
        }
        if now.saturating_sub(sent).saturating_abs() > WINDOW_SECONDS {
            return Err(Unsigned::Time);
        }
        Ok(())
    }

    /// Whether the header `X-Hub-Signature-256` is of this secret and this body. It has no time: whoever takes such
    /// requests must remember their identifiers.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn check_hub(&self, header: &str, body: &[u8]) -> Result<(), Unsigned> {
        const NAME: &str = "X-Hub-Signature-256";
        let tag = header.strip_prefix("sha256=").and_then(hex).ok_or(Unsigned::Header(NAME))?;
        hmac::verify(&self.0, body, &tag).map_err(|_| Unsigned::Signature)
    }
}

fn signed(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The 32 bytes of 64 hexadecimal digits.
fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes =
        pairs.iter().map(|[high, low]| u8::try_from(high << 4 | low).ok()).collect::<Option<Vec<u8>>>()?;
    (bytes.len() == 32 && rest.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the specification of Standard Webhooks.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const NOW: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    fn example() -> Headers {
        Headers {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned(),
            timestamp: NOW.to_string(),
            signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned(),
        }
    }

    fn secret() -> Secret {
        Secret::read(SECRET).unwrap()
    }

    #[test]
    fn the_example_of_the_specification() {
        assert_eq!(secret().check(&example(), NOW, BODY), Ok(()));
        assert_eq!(secret().sign(&example().id, NOW, BODY), Some(example()));
    }

    #[test]
    fn only_the_signed_body_id_and_time_are_believed() {
        let changed = |change: fn(&mut Headers)| {
            let mut headers = example();
            change(&mut headers);
            secret().check(&headers, NOW, BODY).unwrap_err()
        };
        assert_eq!(changed(|h| h.id.push('x')), Unsigned::Signature);
        assert_eq!(changed(|h| h.timestamp = (NOW + 1).to_string()), Unsigned::Signature);
        assert_eq!(changed(|h| h.signature = h.signature.replace('g', "h")), Unsigned::Signature);
        assert_eq!(changed(|h| h.signature = h.signature.replace("v1", "v2")), Unsigned::Signature);
        assert_eq!(changed(|h| h.signature.clear()), Unsigned::Signature);
        assert_eq!(changed(|h| h.signature = "v1,".to_owned()), Unsigned::Signature);
        assert_eq!(changed(|h| h.signature.truncate(20)), Unsigned::Signature);
        assert_eq!(changed(|h| h.id.clear()), Unsigned::Header("webhook-id"));
        assert_eq!(changed(|h| h.id.push('\n')), Unsigned::Header("webhook-id"));
        for time in ["", "x", "-5", "+1614265330", "1614265330.0", "99999999999999999999"] {
            let headers = Headers { timestamp: time.to_owned(), ..example() };
            assert_eq!(
                secret().check(&headers, NOW, BODY),
                Err(Unsigned::Header("webhook-timestamp")),
                "{time}"
            );
        }
        assert_eq!(secret().check(&example(), NOW, b"{}"), Err(Unsigned::Signature));
        let other = Secret::read("another secret of length").unwrap();
        assert_eq!(other.check(&example(), NOW, BODY), Err(Unsigned::Signature));
    }

    #[test]
    fn the_window_is_open_both_ways() {
        for (now, expected) in [
            (NOW + 300, Ok(())),
            (NOW + 301, Err(Unsigned::Time)),
            (NOW - 300, Ok(())),
            (NOW - 301, Err(Unsigned::Time)),
            (i64::MIN, Err(Unsigned::Time)),
            (i64::MAX, Err(Unsigned::Time)),
        ] {
            assert_eq!(secret().check(&example(), now, BODY), expected, "{now}");
        }
    }

    #[test]
    fn one_of_several_signatures_is_enough() {
        let mut headers = example();
        headers.signature = format!("v1a,AAAA v1,AAAA {} v2,x", headers.signature);
        assert_eq!(secret().check(&headers, NOW, BODY), Ok(()));
        headers.signature = format!("{}{}", "v1,AAAA ".repeat(MOST_SIGNATURES), example().signature);
        assert_eq!(secret().check(&headers, NOW, BODY), Err(Unsigned::Signature));
    }

    #[test]
    fn secrets_are_long_enough_and_never_shown() {
        for bad in ["", "short", "whsec_", "whsec_!!!!", "whsec_c2hvcnQ=", &"x".repeat(513)] {
            assert_eq!(Secret::read(bad).err(), Some(BadSecret), "{bad}");
        }
        assert_eq!(format!("{:?}", secret()), "Secret");
        assert_eq!(secret().sign("a.b", NOW, BODY), None);
        assert_eq!(secret().sign("a\r\nb", NOW, BODY), None);
    }

    #[test]
    fn the_header_of_github() {
        // From its documentation of validating deliveries.
        let secret = Secret::read("It's a Secret to Everybody").unwrap();
        let header = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(secret.check_hub(header, b"Hello, World!"), Ok(()));
        assert_eq!(secret.check_hub(&header.to_uppercase().replace("SHA", "sha"), b"Hello, World!"), Ok(()));
        assert_eq!(secret.check_hub(header, b"Hello, World"), Err(Unsigned::Signature));
        assert_eq!(secret.check_hub(&header.replace('7', "8"), b"Hello, World!"), Err(Unsigned::Signature));
        for bad in ["", "sha256=", "sha1=aa", &header[..70], &format!("{header}0"), "sha256=é"] {
            assert!(matches!(secret.check_hub(bad, b"x"), Err(Unsigned::Header(_))), "{bad}");
        }
    }
}
