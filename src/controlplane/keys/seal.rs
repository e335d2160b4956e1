//! Sealing with AES-256-GCM and deriving with HKDF-SHA-256, both by `ring`. Pure functions over bytes.
//!
//! A sealed value is `1 ‖ nonce (12) ‖ ciphertext ‖ tag (16)`. The nonce is random: each key seals far fewer
//! than the 2³² values up to which a repeated one stays improbable. What a value belongs to is authenticated
//! with it, so it opens nowhere else.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom, SystemRandom};

use super::{KEY_BYTES, KeyBytes, KeyError};

/// First byte of a sealed value.
const VERSION: u8 = 1;
/// Salt of every derivation from the root key.
const SALT: &[u8] = b"ironclaw keystore v1";

/// Fills the slice from the system's random source.
pub(super) fn random(bytes: &mut [u8]) -> Result<(), KeyError> {
    SystemRandom::new().fill(bytes).map_err(|_| KeyError::NoRandom)
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

/// A key for one purpose.
pub(super) fn derive(root: &KeyBytes, purpose: &str) -> KeyBytes {
    let mut key = KeyBytes([0; KEY_BYTES]);
    let prk = Salt::new(HKDF_SHA256, SALT).extract(root.as_bytes());
    let filled = prk.expand(&[purpose.as_bytes()], Length).and_then(|okm| okm.fill(&mut key.0));
    if filled.is_err() {
        // One block of 255 allowed: cannot happen, and a key of zeros must never be used.
        panic!("HKDF refused to give 32 bytes");
    }
    key
}

/// What a sealed value is bound to: the purpose, and the thing inside that purpose.
pub(super) struct Bound<'a> {
    pub(super) purpose: &'a str,
    pub(super) id: &'a str,
}

impl Bound<'_> {
    /// Purposes hold no zero byte, so the two cannot run into each other.
    fn bytes(&self) -> Vec<u8> {
        [self.purpose.as_bytes(), b"\0", self.id.as_bytes()].concat()
    }
}

/// Seals.
pub(super) fn seal(key: &[u8; KEY_BYTES], bound: &Bound<'_>, plain: &[u8]) -> Result<Vec<u8>, KeyError> {
    let mut nonce = [0; NONCE_LEN];
    random(&mut nonce)?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).map_err(|_| KeyError::Sealed)?);
    let mut out = Vec::with_capacity(1 + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
    out.push(VERSION);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plain);
    let body = out.get_mut(1 + NONCE_LEN..).unwrap_or_default();
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound.bytes()), body)
        .map_err(|_| KeyError::Sealed)?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// Opens what [`seal`] made with the same key and the same binding.
pub(super) fn unseal(key: &[u8; KEY_BYTES], bound: &Bound<'_>, sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
    let (&version, rest) = sealed.split_first().ok_or(KeyError::Sealed)?;
    let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(KeyError::Sealed)?;
    if version != VERSION {
        return Err(KeyError::Sealed);
    }
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).map_err(|_| KeyError::Sealed)?);
    let mut body = body.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length =
        key.open_in_place(nonce, Aad::from(bound.bytes()), &mut body).map_err(|_| KeyError::Sealed)?.len();
    body.truncate(length);
    Ok(body)
}

/// Seals the text of one ledger row with its session's text key.
///
/// # Errors
/// [`KeyError::NoRandom`].
pub fn seal_text(text_key: &[u8; KEY_BYTES], row_id: &str, plain: &[u8]) -> Result<Vec<u8>, KeyError> {
    seal(text_key, &Bound { purpose: "row text", id: row_id }, plain)
}

/// Opens the text of one ledger row.
///
/// # Errors
/// [`KeyError::Sealed`] when it was changed, moved from another row, or sealed with another key.
pub fn open_text(text_key: &[u8; KEY_BYTES], row_id: &str, sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
    unseal(text_key, &Bound { purpose: "row text", id: row_id }, sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_opens_only_with_its_key_in_its_row() {
        let key = *KeyBytes::mint().unwrap().as_bytes();
        let other = *KeyBytes::mint().unwrap().as_bytes();
        let sealed = seal_text(&key, "msg_1", b"hello").unwrap();
        assert_eq!(open_text(&key, "msg_1", &sealed).unwrap(), b"hello");
        assert_ne!(seal_text(&key, "msg_1", b"hello").unwrap(), sealed);
        assert!(open_text(&other, "msg_1", &sealed).is_err());
        assert!(open_text(&key, "msg_2", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(open_text(&key, "msg_1", &damaged).is_err(), "byte {at}");
            assert!(open_text(&key, "msg_1", &sealed[..at]).is_err(), "cut at {at}");
        }
    }
}
