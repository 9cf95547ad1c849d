//! AES key wrap: how a meter gets a new key under its master key.

use aes::{
    Aes128,
    cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit},
};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{Key, role::Kek, role::Role};

/// Size of a wrapped 16-byte key in bytes.
pub const WRAPPED_SIZE: usize = 24;
/// Initial value of the integrity check register.
const INITIAL: [u8; 8] = [0xA6; 8];
/// Half blocks of a 16-byte key.
const HALVES: u8 = 2;
/// Rounds over all half blocks.
const ROUNDS: u8 = 6;

fn count_into(register: &mut [u8; 8], count: u8) {
    register[7] ^= count;
}

impl Key<Kek, 16> {
    /// Wraps a key for the meter that holds this master key. The same two keys give the same bytes, so a transfer can be
    /// repeated byte for byte.
    ///
    /// # Source
    /// RFC 3394, section 2.2.1; vector `key-wrap/rfc3394.toml`.
    #[must_use]
    pub fn wrap_for_meter<R: Role>(&self, key: &Key<R, 16>) -> [u8; WRAPPED_SIZE] {
        let cipher = Aes128::new(self.bytes().into());
        let mut wrapped = [0; WRAPPED_SIZE];
        wrapped[8..].copy_from_slice(key.bytes());
        let mut register = INITIAL;
        for round in 0..ROUNDS {
            for half in 0..HALVES {
                let at = 8 + 8 * usize::from(half);
                let mut block = Zeroizing::new([0; 16]);
                block[..8].copy_from_slice(&register);
                block[8..].copy_from_slice(&wrapped[at..at + 8]);
                cipher.encrypt_block((&mut *block).into());
                register.copy_from_slice(&block[..8]);
                count_into(&mut register, HALVES * round + half + 1);
                wrapped[at..at + 8].copy_from_slice(&block[8..]);
            }
        }
        wrapped[..8].copy_from_slice(&register);
        wrapped
    }

    /// Opens a wrapped key, as the meter does; `None` when the integrity check fails.
    ///
    /// # Source
    /// RFC 3394, section 2.2.2.
    #[must_use]
    pub fn unwrap_transferred<R: Role>(&self, wrapped: &[u8; WRAPPED_SIZE]) -> Option<Key<R, 16>> {
        let cipher = Aes128::new(self.bytes().into());
        let mut plain = Zeroizing::new([0; 16]);
        plain.copy_from_slice(&wrapped[8..]);
        let mut register = [0; 8];
        register.copy_from_slice(&wrapped[..8]);
        for round in (0..ROUNDS).rev() {
            for half in (0..HALVES).rev() {
                let at = 8 * usize::from(half);
                let mut block = Zeroizing::new([0; 16]);
                count_into(&mut register, HALVES * round + half + 1);
                block[..8].copy_from_slice(&register);
                block[8..].copy_from_slice(&plain[at..at + 8]);
                cipher.decrypt_block((&mut *block).into());
                register.copy_from_slice(&block[..8]);
                plain[at..at + 8].copy_from_slice(&block[8..]);
            }
        }
        let is_intact: bool = register.ct_eq(&INITIAL).into();
        register.zeroize();
        is_intact.then(|| Key::take(&mut plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Guek;

    fn key<R: Role>(first: u8, step: u8) -> Key<R, 16> {
        let mut bytes = [0; 16];
        (0u8..).zip(&mut bytes).for_each(|(at, byte)| *byte = first.wrapping_add(at.wrapping_mul(step)));
        Key::take(&mut bytes)
    }

    #[test]
    fn a_changed_byte_or_another_master_key_opens_nothing() {
        let master = key::<Kek>(0, 1);
        let wrapped = master.wrap_for_meter(&key::<Guek>(0, 0x11));
        let opened = master.unwrap_transferred::<Guek>(&wrapped).expect("intact");
        assert!(bool::from(opened.ct_eq(&key(0, 0x11))));
        for at in 0..WRAPPED_SIZE {
            let mut changed = wrapped;
            changed[at] ^= 0x40;
            assert!(master.unwrap_transferred::<Guek>(&changed).is_none(), "byte {at}");
        }
        assert!(key::<Kek>(1, 1).unwrap_transferred::<Guek>(&wrapped).is_none());
    }
}
