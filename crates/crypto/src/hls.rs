//! Secrets of low and high level security, and the replies that they give to challenges.

use alloc::vec::Vec;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    Key,
    role::{Guek, Kek},
};

/// A password (mechanism 1) or secret (mechanisms 3, 4, 6) of one association; wiped on drop, never printed.
///
/// ```compile_fail
/// fn print(secret: gridseal_crypto::hls::Secret) { println!("{secret}"); }
/// ```
/// ```compile_fail
/// fn twice(secret: gridseal_crypto::hls::Secret) { let _ = (secret.clone(), secret); }
/// ```
/// ```compile_fail
/// fn same(secret: gridseal_crypto::hls::Secret) -> bool { secret == secret }
/// ```
pub struct Secret(Zeroizing<Vec<u8>>);

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret")
    }
}

fn digest<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
    let mut hash = D::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().to_vec()
}

impl Secret {
    /// Takes the bytes over and wipes the source.
    #[must_use]
    pub fn take(source: &mut [u8]) -> Self {
        let bytes = Zeroizing::new(source.to_vec());
        source.zeroize();
        Self(bytes)
    }

    /// Opens a secret of the size of the master key that a client sent wrapped under it; `None` when the integrity check
    /// fails.
    ///
    /// # Source
    /// RFC 3394; that a secret travels like a key is not verified \[check\].
    #[must_use]
    pub fn unwrap_transferred<const N: usize>(master: &Key<Kek, N>, wrapped: &[u8]) -> Option<Self> {
        let key: Key<Guek, N> = master.unwrap_transferred(wrapped)?;
        Some(Self(Zeroizing::new(key.bytes().to_vec())))
    }

    /// Whether a password that arrived is this one, in time that depends on the lengths alone.
    #[must_use]
    pub fn is_password(&self, password: &[u8]) -> bool {
        self.0.as_slice().ct_eq(password).into()
    }

    /// The password, to be sent in clear: mechanism 1 has no other way (rule S4).
    #[must_use]
    pub fn danger_password(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// Mechanism 3: `MD5(challenge || secret)`, 16 bytes. Legacy profile only.
    #[must_use]
    pub fn md5_reply(&self, challenge: &[u8]) -> Vec<u8> {
        digest::<Md5>(&[challenge, &self.0])
    }

    /// Mechanism 4: `SHA-1(challenge || secret)`, 20 bytes. Legacy profile only.
    #[must_use]
    pub fn sha1_reply(&self, challenge: &[u8]) -> Vec<u8> {
        digest::<Sha1>(&[challenge, &self.0])
    }

    /// Mechanism 6: `SHA-256(secret || own title || peer's title || peer's challenge || own challenge)`, 32 bytes.
    ///
    /// # Source
    /// DLMS fact sheet, section 4.
    #[must_use]
    pub fn sha256_reply(&self, titles_and_challenges: [&[u8]; 4]) -> Vec<u8> {
        let [own_title, peer_title, peer_challenge, own_challenge] = titles_and_challenges;
        digest::<Sha256>(&[&self.0, own_title, peer_title, peer_challenge, own_challenge])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= DLMS 4: mechanism 6 hashes secret, titles and challenges in this order
    #[test]
    fn replies_of_both_passes_are_those_of_the_fact_sheet() {
        let secret = Secret::take(&mut b"DLMSsecret123456".to_vec());
        let (client, server) = (*b"MMM\0\0\0\0\x01", [0x4D, 0x4D, 0x4D, 0, 0, 0xBC, 0x61, 0x4E]);
        let (of_client, of_server) = (b"K56iVagY", b"P6wRJ21F");
        let pass_3 = secret.sha256_reply([&client, &server, of_server, of_client]);
        let pass_4 = secret.sha256_reply([&server, &client, of_client, of_server]);
        assert_eq!(hex::encode(pass_3), "1bce23b3aaa81c6caa4dd85c376131ea93ab13fd4ece28ca795304f73ad7d7a3");
        assert_eq!(hex::encode(pass_4), "eaf93388a2d941e8f3191d05ce4c0ce6e76d7e4c6505ee66591c2d1553b5bab9");
    }

    #[test]
    fn a_secret_arrives_wrapped_and_a_changed_byte_opens_nothing() {
        let mut kek: [u8; 16] = core::array::from_fn(|at| u8::try_from(at).unwrap());
        let kek: Key<Kek, 16> = Key::take(&mut kek);
        let mut wrapped = hex::decode("1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5").unwrap();
        let secret = Secret::unwrap_transferred(&kek, &wrapped).unwrap();
        assert!(secret.is_password(&hex::decode("00112233445566778899AABBCCDDEEFF").unwrap()));
        wrapped[9] ^= 1;
        assert!(Secret::unwrap_transferred(&kek, &wrapped).is_none());
    }

    #[test]
    fn legacy_replies_have_their_published_digests() {
        // MD5 and SHA-1 of "abc" (RFC 1321, FIPS 180).
        let secret = Secret::take(&mut b"c".to_vec());
        assert_eq!(hex::encode(secret.md5_reply(b"ab")), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(hex::encode(secret.sha1_reply(b"ab")), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert!(secret.is_password(b"c") && !secret.is_password(b"cc") && !secret.is_password(b""));
    }
}
