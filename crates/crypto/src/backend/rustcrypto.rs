//! RustCrypto: `no_std`, pure Rust, for devices.

use alloc::vec::Vec;

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, AeadInOut, Payload},
};
use hmac::{Hmac, Mac};
use ml_dsa::{Keypair, MlDsa65};
use p256::ecdsa::{
    VerifyingKey,
    signature::{Signer, Verifier},
};
use sha2::{Digest, Sha256};

use super::{Backend, sec1};
use crate::{SECOND_KEY_SIZE, SECOND_SIGNATURE_SIZE};

/// The device back end.
#[derive(Debug, Clone, Copy)]
pub struct RustCrypto;

fn point_of(public: &p256::PublicKey) -> [u8; 64] {
    let mut point = [0; 64];
    point.copy_from_slice(&public.to_sec1_bytes()[1..]);
    point
}

impl Backend for RustCrypto {
    type SigningKey = p256::ecdsa::SigningKey;
    type GcmKey = Aes256Gcm;
    type AgreementKey = p256::SecretKey;
    type SecondSigner = ml_dsa::SigningKey<MlDsa65>;

    fn sha256(parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        hash.finalize().into()
    }

    fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    fn gcm_seal(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        Aes256Gcm::new(key.into()).encrypt(nonce.into(), Payload { msg: plain, aad }).ok()
    }

    fn gcm_open(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        Aes256Gcm::new(key.into()).decrypt(nonce.into(), Payload { msg: sealed, aad }).ok()
    }

    fn gcm_key(key: &[u8; 32]) -> Self::GcmKey {
        Aes256Gcm::new(key.into())
    }

    fn gcm_seal_in_place(key: &Self::GcmKey, nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; 16] {
        let tag = key.encrypt_inout_detached(nonce.into(), aad, text.into());
        tag.expect("far below the limits of the mode").into()
    }

    fn gcm_open_in_place(key: &Self::GcmKey, nonce: &[u8; 12], aad: &[u8], sealed: &mut [u8]) -> bool {
        let Some(size) = sealed.len().checked_sub(16) else { return false };
        let (text, tag) = sealed.split_at_mut(size);
        let Ok(tag) = <&[u8; 16]>::try_from(&*tag) else { return false };
        key.decrypt_inout_detached(nonce.into(), aad, text.into(), tag.into()).is_ok()
    }

    fn signing_key(scalar: &[u8; 32]) -> Option<Self::SigningKey> {
        p256::ecdsa::SigningKey::from_slice(scalar).ok()
    }

    fn signing_point(key: &Self::SigningKey) -> [u8; 64] {
        point_of(&p256::PublicKey::from(key.verifying_key()))
    }

    fn sign(key: &Self::SigningKey, message: &[u8]) -> Option<[u8; 64]> {
        let signature: p256::ecdsa::Signature = key.try_sign(message).ok()?;
        Some(signature.to_bytes().into())
    }

    fn verify(point: &[u8; 64], message: &[u8], signature: &[u8; 64]) -> bool {
        let Ok(key) = VerifyingKey::from_sec1_bytes(&sec1(point)) else { return false };
        p256::ecdsa::Signature::from_slice(signature).is_ok_and(|s| key.verify(message, &s).is_ok())
    }

    fn agreement_key(scalar: &[u8; 32]) -> Option<Self::AgreementKey> {
        p256::SecretKey::from_slice(scalar).ok()
    }

    fn agreement_point(key: &Self::AgreementKey) -> [u8; 64] {
        point_of(&key.public_key())
    }

    fn agree(key: &Self::AgreementKey, peer: &[u8; 64]) -> Option<[u8; 32]> {
        let peer = p256::PublicKey::from_sec1_bytes(&sec1(peer)).ok()?;
        let shared = p256::ecdh::diffie_hellman(key.to_nonzero_scalar(), peer.as_affine());
        Some((*shared.raw_secret_bytes()).into())
    }

    fn second_signer(seed: &[u8; 32]) -> Option<Self::SecondSigner> {
        Some(ml_dsa::SigningKey::from_seed(seed.into()))
    }

    fn second_public(key: &Self::SecondSigner) -> Option<[u8; SECOND_KEY_SIZE]> {
        key.verifying_key().encode().as_slice().try_into().ok()
    }

    fn second_sign(key: &Self::SecondSigner, message: &[u8]) -> Option<[u8; SECOND_SIGNATURE_SIZE]> {
        let signature = key.expanded_key().sign_deterministic(message, &[]).ok()?;
        signature.encode().as_slice().try_into().ok()
    }

    fn second_verifies(
        public: &[u8; SECOND_KEY_SIZE],
        message: &[u8],
        signature: &[u8; SECOND_SIGNATURE_SIZE],
    ) -> bool {
        let key = ml_dsa::VerifyingKey::<MlDsa65>::decode(public.into());
        ml_dsa::Signature::<MlDsa65>::decode(signature.into())
            .is_some_and(|signature| key.verify_with_context(message, &[], &signature))
    }
}
