//! AES-256 in CBC mode (NIST SP 800-38A), the page format of SQLCipher, over the block cipher of `aes`. The mode is a
//! dozen lines and lies under every page that is read or written; built for size, a generic one spent more time on
//! copying blocks than on the cipher. Touches nothing.

use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use aes::{Aes256Dec, Aes256Enc, Block};

/// Blocks that the cipher takes at once where one does not need the one before.
const ABREAST: usize = 8;

/// Encrypts whole blocks in place.
pub fn encrypt(key: &[u8; 32], vector: &[u8; 16], data: &mut [[u8; 16]]) {
    let cipher = Aes256Enc::new(key.into());
    let mut chain = u128::from_ne_bytes(*vector);
    for block in data {
        chain ^= u128::from_ne_bytes(*block);
        *block = chain.to_ne_bytes();
        cipher.encrypt_block(block.into());
        chain = u128::from_ne_bytes(*block);
    }
}

/// Decrypts whole blocks in place.
pub fn decrypt(key: &[u8; 32], vector: &[u8; 16], data: &mut [[u8; 16]]) {
    let cipher = Aes256Dec::new(key.into());
    let mut chain = u128::from_ne_bytes(*vector);
    for blocks in data.chunks_mut(ABREAST) {
        let mut plain = [Block::default(); ABREAST];
        for (plain, block) in plain.iter_mut().zip(&*blocks) {
            *plain = Block::from(*block);
        }
        cipher.decrypt_blocks(&mut plain);
        for (block, plain) in blocks.iter_mut().zip(plain) {
            let next = u128::from_ne_bytes(*block);
            *block = (chain ^ u128::from_ne_bytes(plain.into())).to_ne_bytes();
            chain = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::cbc::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit, block_padding::NoPadding};

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
    }

    /// The example of SP 800-38A, F.2.5 and F.2.6.
    #[test]
    fn the_published_example() {
        let key = bytes("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let vector = bytes("000102030405060708090a0b0c0d0e0f");
        let plain: [[u8; 16]; 4] = [
            bytes("6bc1bee22e409f96e93d7e117393172a"),
            bytes("ae2d8a571e03ac9c9eb76fac45af8e51"),
            bytes("30c81c46a35ce411e5fbc1191a0a52ef"),
            bytes("f69f2445df4f9b17ad2b417be66c3710"),
        ];
        let sealed: [[u8; 16]; 4] = [
            bytes("f58c4c04d6e5f1ba779eabfb5f7bfbd6"),
            bytes("9cfc4e967edb808d679f777bc6702c7d"),
            bytes("39f23369a9d9bacfa530e26304231461"),
            bytes("b2eb05e2c39be9fcda6c19078c6a9d1b"),
        ];
        let mut work = plain;
        encrypt(&key, &vector, &mut work);
        assert_eq!(work, sealed);
        decrypt(&key, &vector, &mut work);
        assert_eq!(work, plain);
    }

    #[test]
    fn another_implementation_agrees_at_every_length() {
        for length in 0..40 {
            let (mut key, mut vector) = ([0; 32], [0; 16]);
            let mut data = vec![[0; 16]; length];
            let mut random = ring::rand::SystemRandom::new();
            let fill = |out: &mut [u8], random: &mut ring::rand::SystemRandom| {
                ring::rand::SecureRandom::fill(random, out).unwrap();
            };
            fill(&mut key, &mut random);
            fill(&mut vector, &mut random);
            fill(data.as_flattened_mut(), &mut random);
            let (mut ours, mut theirs) = (data.clone(), data.clone());
            encrypt(&key, &vector, &mut ours);
            ::cbc::Encryptor::<aes::Aes256>::new(&key.into(), &vector.into())
                .encrypt_padded_mut::<NoPadding>(theirs.as_flattened_mut(), length * 16)
                .unwrap();
            assert_eq!(ours, theirs, "{length}");
            decrypt(&key, &vector, &mut ours);
            ::cbc::Decryptor::<aes::Aes256>::new(&key.into(), &vector.into())
                .decrypt_padded_mut::<NoPadding>(theirs.as_flattened_mut())
                .unwrap();
            assert_eq!(ours, data, "{length}");
            assert_eq!(theirs, data, "{length}");
        }
    }
}
