//! Makes a certificate that vouches for itself (RFC 5280): a fresh P-256 key, the names it is for, and nothing that
//! would let it vouch for others. Pure but for random numbers.

use std::net::IpAddr;

use ring::error::Unspecified;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use crate::contract::address::Name;

/// Whoever trusts it compares its fingerprint, so its end is far away; a machine whose clock has not been set yet
/// is behind, not ahead.
const VALID: (&[u8], &[u8]) = (b"20250101000000Z", b"20991231235959Z");

/// A certificate and its key, both DER.
pub(super) struct Made {
    /// The certificate.
    pub(super) certificate: Vec<u8>,
    /// Its key, PKCS #8.
    pub(super) key: Vec<u8>,
}

/// Makes one for these names.
///
/// # Errors
/// When there are no random numbers.
pub(super) fn make(names: &[Name]) -> Result<Made, Unspecified> {
    make_valid(names, VALID)
}

/// The same, valid between two times in the form of [`time`].
pub(super) fn make_valid(names: &[Name], valid: (&[u8], &[u8])) -> Result<Made, Unspecified> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.as_ref(), &random)
        .map_err(|_| Unspecified)?;
    let mut serial = [0; 16];
    random.fill(&mut serial)?;
    // Positive, and not of fewer bytes than it seems: both are rules of DER.
    serial[0] = serial[0] & 0x7f | 0x40;

    let algorithm = sequence(&[&tlv(OID, ECDSA_WITH_SHA256)]);
    let common_name = sequence(&[&tlv(OID, COMMON_NAME), &tlv(UTF8, b"ironclaw")]);
    let subject = sequence(&[&tlv(SET, &common_name)]);
    let validity = sequence(&[&time(valid.0), &time(valid.1)]);
    let public = sequence(&[
        &sequence(&[&tlv(OID, EC_PUBLIC_KEY), &tlv(OID, PRIME256V1)]),
        &bits(0, pair.public_key().as_ref()),
    ]);
    let names: Vec<Vec<u8>> = names.iter().map(alternative).collect();
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let extensions = sequence(&[
        &extension(BASIC_CONSTRAINTS, Critical::Yes, &sequence(&[])),
        // Only digitalSignature, the first of the bits.
        &extension(KEY_USAGE, Critical::Yes, &bits(7, &[0x80])),
        &extension(EXTENDED_KEY_USAGE, Critical::No, &sequence(&[&tlv(OID, SERVER_AUTH)])),
        &extension(SUBJECT_ALT_NAME, Critical::No, &sequence(&names)),
    ]);
    let signed = sequence(&[
        &tlv(CONTEXT, &tlv(INTEGER, &[2])),
        &tlv(INTEGER, &serial),
        &algorithm,
        &subject,
        &validity,
        &subject,
        &public,
        &tlv(CONTEXT | 3, &extensions),
    ]);
    let signature = pair.sign(&random, &signed)?;
    let certificate = sequence(&[&signed, &algorithm, &bits(0, signature.as_ref())]);
    Ok(Made { certificate, key: key.as_ref().to_vec() })
}

const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// Of the surrounding type's own, constructed; its number is added.
const CONTEXT: u8 = 0xa0;

const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];

/// Type, length, value.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let length = length.split_at(value.len().leading_zeros() as usize / 8).1;
    let mut all = vec![tag];
    if value.len() >= 0x80 {
        all.push(0x80 | length.len() as u8);
    }
    all.extend(if value.is_empty() { &[0] } else { length });
    all.extend(value);
    all
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

fn bits(unused: u8, bytes: &[u8]) -> Vec<u8> {
    tlv(BITS, &[&[unused], bytes].concat())
}

/// `YYYYMMDDhhmmssZ`, without the century up to 2049, as RFC 5280 has it.
fn time(text: &[u8]) -> Vec<u8> {
    match text.strip_prefix(b"20") {
        Some(short) if text < b"2050".as_slice() => tlv(UTC_TIME, short),
        _ => tlv(GENERALIZED_TIME, text),
    }
}

/// Whether who does not know an extension must refuse the certificate.
enum Critical {
    Yes,
    No,
}

fn extension(name: &[u8], critical: Critical, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = match critical {
        Critical::Yes => &[1, 1, 0xff],
        Critical::No => &[],
    };
    sequence(&[&tlv(OID, name), critical, &tlv(OCTETS, value)])
}

fn alternative(name: &Name) -> Vec<u8> {
    match name {
        Name::Dns(name) => tlv(0x82, name.as_bytes()),
        Name::Ip(IpAddr::V4(v4)) => tlv(0x87, &v4.octets()),
        Name::Ip(IpAddr::V6(v6)) => tlv(0x87, &v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_as_short_as_they_can_be() {
        assert_eq!(tlv(4, &[]), [4, 0]);
        assert_eq!(tlv(4, &[7]), [4, 1, 7]);
        assert_eq!(tlv(4, &[0; 127])[..2], [4, 127]);
        assert_eq!(tlv(4, &[0; 128])[..3], [4, 0x81, 128]);
        assert_eq!(tlv(4, &[0; 256])[..4], [4, 0x82, 1, 0]);
    }

    #[test]
    fn times_are_short_up_to_2049() {
        assert_eq!(time(b"20250101000000Z"), tlv(UTC_TIME, b"250101000000Z"));
        assert_eq!(time(b"20500101000000Z"), tlv(GENERALIZED_TIME, b"20500101000000Z"));
    }
}
