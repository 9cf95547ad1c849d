//! aws-lc-rs: for servers.

use alloc::vec::Vec;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey},
    digest, hmac,
    rand::SystemRandom,
    signature::{
        self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ML_DSA_65,
        ML_DSA_65_SIGNING, PqdsaKeyPair,
    },
};

use super::{Backend, sec1};
use crate::{SECOND_KEY_SIZE, SECOND_SIGNATURE_SIZE};

/// The server back end.
#[derive(Debug, Clone, Copy)]
pub struct AwsLc;

fn gcm(key: &[u8; 32]) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?))
}

fn point_of(sec1: &[u8]) -> Option<[u8; 64]> {
    sec1.get(1..)?.try_into().ok()
}

/// A prepared agreement key with its point, which is asked for more often than it is agreed with.
#[allow(missing_debug_implementations, reason = "holds a private key")]
pub struct Agreement {
    key: PrivateKey,
    point: [u8; 64],
}

impl Backend for AwsLc {
    type SigningKey = EcdsaKeyPair;
    type GcmKey = LessSafeKey;
    type AgreementKey = Agreement;
    type SecondSigner = PqdsaKeyPair;

    fn sha256(parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = digest::Context::new(&digest::SHA256);
        parts.iter().for_each(|part| hash.update(part));
        let mut out = [0; 32];
        out.copy_from_slice(hash.finish().as_ref());
        out
    }

    fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
        parts.iter().for_each(|part| mac.update(part));
        let mut out = [0; 32];
        out.copy_from_slice(mac.sign().as_ref());
        out
    }

    fn gcm_seal(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = Vec::with_capacity(plain.len() + 16);
        buffer.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        gcm(key)?.seal_in_place_append_tag(nonce, Aad::from(aad), &mut buffer).ok()?;
        Some(buffer)
    }

    fn gcm_open(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = gcm(key)?.open_in_place(nonce, Aad::from(aad), &mut buffer).ok()?.len();
        buffer.truncate(length);
        Some(buffer)
    }

    fn gcm_key(key: &[u8; 32]) -> Self::GcmKey {
        gcm(key).expect("AES-256-GCM takes any 32 bytes")
    }

    fn gcm_seal_in_place(key: &Self::GcmKey, nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; 16] {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), text);
        let mut out = [0; 16];
        out.copy_from_slice(tag.expect("far below the limits of the mode").as_ref());
        out
    }

    fn gcm_open_in_place(key: &Self::GcmKey, nonce: &[u8; 12], aad: &[u8], sealed: &mut [u8]) -> bool {
        key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), sealed).is_ok()
    }

    fn signing_key(scalar: &[u8; 32]) -> Option<Self::SigningKey> {
        let public = Self::agreement_key(scalar)?.point;
        let point = sec1(&public);
        EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, scalar, &point).ok()
    }

    fn signing_point(key: &Self::SigningKey) -> [u8; 64] {
        point_of(key.public_key().as_ref()).unwrap_or([0; 64])
    }

    fn sign(key: &Self::SigningKey, message: &[u8]) -> Option<[u8; 64]> {
        key.sign(&SystemRandom::new(), message).ok()?.as_ref().try_into().ok()
    }

    fn verify(point: &[u8; 64], message: &[u8], signature: &[u8; 64]) -> bool {
        signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, sec1(point))
            .verify(message, signature)
            .is_ok()
    }

    fn agreement_key(scalar: &[u8; 32]) -> Option<Self::AgreementKey> {
        let key = PrivateKey::from_private_key(&ECDH_P256, scalar).ok()?;
        let point = point_of(key.compute_public_key().ok()?.as_ref())?;
        Some(Agreement { key, point })
    }

    fn agreement_point(key: &Self::AgreementKey) -> [u8; 64] {
        key.point
    }

    fn agree(key: &Self::AgreementKey, peer: &[u8; 64]) -> Option<[u8; 32]> {
        let peer = UnparsedPublicKey::new(&ECDH_P256, sec1(peer));
        agreement::agree(&key.key, peer, (), |shared| shared.try_into().map_err(|_| ())).ok()
    }

    fn second_signer(seed: &[u8; 32]) -> Option<Self::SecondSigner> {
        PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, seed).ok()
    }

    fn second_public(key: &Self::SecondSigner) -> Option<[u8; SECOND_KEY_SIZE]> {
        key.public_key().as_ref().try_into().ok()
    }

    fn second_sign(key: &Self::SecondSigner, message: &[u8]) -> Option<[u8; SECOND_SIGNATURE_SIZE]> {
        let mut signature = [0; SECOND_SIGNATURE_SIZE];
        (key.sign(message, &mut signature).ok()? == SECOND_SIGNATURE_SIZE).then_some(signature)
    }

    fn second_verifies(
        public: &[u8; SECOND_KEY_SIZE],
        message: &[u8],
        signature: &[u8; SECOND_SIGNATURE_SIZE],
    ) -> bool {
        signature::UnparsedPublicKey::new(&ML_DSA_65, public).verify(message, signature).is_ok()
    }
}
