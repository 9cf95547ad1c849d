//! Key derivation functions and AES-128-CFB.

use aes::{
    Aes128,
    cipher::{BlockCipherEncrypt, KeyInit},
};
use zeroize::Zeroizing;

use crate::{
    Key,
    backend::{Active, Backend},
    role::Role,
};

/// One block of KDFa; `bits` is part of the input, so fewer bits are not a prefix of more.
pub(super) fn kdfa_bytes(key: &[u8], label: &str, u: &[u8], v: &[u8], bits: u32) -> Zeroizing<[u8; 32]> {
    let bits = bits.to_be_bytes();
    Zeroizing::new(Active::hmac_sha256(key, &[&1u32.to_be_bytes(), label.as_bytes(), &[0], u, v, &bits]))
}

/// KDFa with SHA-256 and 256 bits: `HMAC(key, u32(1) || label || 00 || u || v || u32(256))`.
#[must_use]
pub fn kdfa<From: Role, To: Role>(key: &Key<From, 32>, label: &str, u: &[u8], v: &[u8]) -> Key<To, 32> {
    Key::take(&mut kdfa_bytes(key.bytes(), label, u, v, 256))
}

/// KDFe with SHA-256 and 256 bits: `H(u32(1) || z || use || 00 || u || v)`; z, u, v are x coordinates of 32 bytes.
#[must_use]
pub fn kdfe<To: Role>(z: &[u8; 32], purpose: &str, u: &[u8; 32], v: &[u8; 32]) -> Key<To, 32> {
    Key::take(&mut Active::sha256(&[&1u32.to_be_bytes(), z, purpose.as_bytes(), &[0], u, v]))
}

/// KDFa with SHA-256 and 128 + 128 bits as used for parameter encryption: key || iv.
pub(super) fn kdfa_key_iv(key: &[u8], newer: &[u8], older: &[u8]) -> (Zeroizing<[u8; 16]>, [u8; 16]) {
    let bytes = kdfa_bytes(key, "CFB", newer, older, 256);
    let (mut sym, mut iv) = (Zeroizing::new([0; 16]), [0; 16]);
    sym.copy_from_slice(&bytes[..16]);
    iv.copy_from_slice(&bytes[16..]);
    (sym, iv)
}

/// AES-128-CFB with full-block feedback, in place. Every caller authenticates the result.
pub(super) fn cfb_encrypt(key: &[u8; 16], iv: &[u8; 16], data: &mut [u8]) {
    let cipher = Aes128::new(key.into());
    let mut feedback = *iv;
    for chunk in data.chunks_mut(16) {
        let mut stream = feedback.into();
        cipher.encrypt_block(&mut stream);
        chunk.iter_mut().zip(stream.iter()).for_each(|(byte, mask)| *byte ^= mask);
        feedback[..chunk.len()].copy_from_slice(chunk);
    }
}

/// Inverse of [`cfb_encrypt`].
pub(super) fn cfb_decrypt(key: &[u8; 16], iv: &[u8; 16], data: &mut [u8]) {
    let cipher = Aes128::new(key.into());
    let mut feedback = *iv;
    for chunk in data.chunks_mut(16) {
        let mut stream = feedback.into();
        cipher.encrypt_block(&mut stream);
        feedback[..chunk.len()].copy_from_slice(chunk);
        chunk.iter_mut().zip(stream.iter()).for_each(|(byte, mask)| *byte ^= mask);
    }
}
