//! TPM 2.0 structures as a server reads them: public areas, attestations, PCR selections, tunnelled commands.
//!
//! Everything here is SHA-256 and P-256, as the templates below fix it; an endorsement key may be RSA 2048. What comes from outside is read by one cursor that
//! names field and offset of a flaw; a structure counts only when its whole buffer was consumed.
//!
//! # Source
//! Onboarding specification, sections 3 and 6; TPM 2.0 Library, Part 2.

pub mod attest;
mod command;
mod pcr;
mod public;
mod read;
mod signature;

pub use command::{Tunnelled, check_tunnelled};
pub use pcr::{PCR_COUNT, PcrSelection, pcr_digest, pcr_selection};
pub use public::{
    EccScheme, PublicArea, attestation_key, endorsement_key, endorsement_public, identity_key, storage_key,
    tls_key, with_point,
};
pub use read::{Flaw, StructureError};
pub use signature::{parse_signature, signature_structure};

pub(crate) use read::Reader;

use gridseal_crypto::sha256;
use gridseal_types::{Digest, EkName};

/// TPM_ALG_ECC.
pub const ALG_ECC: u16 = 0x0023;
/// TPM_ALG_RSA.
pub const ALG_RSA: u16 = 0x0001;
/// TPM_ALG_KEYEDHASH.
pub const ALG_KEYEDHASH: u16 = 0x0008;
/// TPM_ALG_SHA256.
pub const ALG_SHA256: u16 = 0x000b;
/// TPM_ALG_AES.
pub const ALG_AES: u16 = 0x0006;
/// TPM_ALG_NULL.
pub const ALG_NULL: u16 = 0x0010;
/// TPM_ALG_ECDSA.
pub const ALG_ECDSA: u16 = 0x0018;
/// TPM_ECC_NIST_P256.
pub const CURVE_P256: u16 = 0x0003;
/// TPM_RH_OWNER.
pub const RH_OWNER: u32 = 0x4000_0001;
/// TPM_RH_LOCKOUT.
pub const RH_LOCKOUT: u32 = 0x4000_000a;
/// TPM_RH_ENDORSEMENT.
pub const RH_ENDORSEMENT: u32 = 0x4000_000b;
/// TPM_RH_PLATFORM.
pub const RH_PLATFORM: u32 = 0x4000_000c;
/// TPM_RH_NULL.
pub const RH_NULL: u32 = 0x4000_0007;

/// Template of the endorsement key, TPMT_PUBLIC up to `unique`: attributes `000300B2`, policy
/// PolicySecret(endorsement), AES-128-CFB, P-256.
pub const ENDORSEMENT_TEMPLATE: [u8; 54] = [
    0x00, 0x23, 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2, 0x00, 0x20, 0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3,
    0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64,
    0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x00,
    0x03, 0x00, 0x10,
];
/// Template of an RSA endorsement key up to `unique`: as [`ENDORSEMENT_TEMPLATE`], 2,048 bits, default exponent.
pub const ENDORSEMENT_RSA_TEMPLATE: [u8; 56] = [
    0x00, 0x01, 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2, 0x00, 0x20, 0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3,
    0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64,
    0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x08,
    0x00, 0x00, 0x00, 0x00, 0x00,
];
/// Template of storage root key and storage key up to `unique`: attributes `00030472`, AES-128-CFB, P-256.
pub const STORAGE_TEMPLATE: [u8; 22] = [
    0x00, 0x23, 0x00, 0x0b, 0x00, 0x03, 0x04, 0x72, 0x00, 0x00, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00,
    0x10, 0x00, 0x03, 0x00, 0x10,
];
/// Template of attestation and identity key up to `unique`: attributes `00050472` (restricted), ECDSA with SHA-256, P-256.
pub const ATTESTATION_TEMPLATE: [u8; 20] = [
    0x00, 0x23, 0x00, 0x0b, 0x00, 0x05, 0x04, 0x72, 0x00, 0x00, 0x00, 0x10, 0x00, 0x18, 0x00, 0x0b, 0x00,
    0x03, 0x00, 0x10,
];
/// Template of the TLS key up to `unique`: attributes `00040472` (unrestricted), ECDSA with SHA-256, P-256.
pub const TLS_TEMPLATE: [u8; 20] = [
    0x00, 0x23, 0x00, 0x0b, 0x00, 0x04, 0x04, 0x72, 0x00, 0x00, 0x00, 0x10, 0x00, 0x18, 0x00, 0x0b, 0x00,
    0x03, 0x00, 0x10,
];
/// Template of N_root with empty `unique`: KEYEDHASH, attributes `00040452`, HMAC with SHA-256.
pub const DEVICE_ROOT_TEMPLATE: [u8; 16] =
    [0x00, 0x08, 0x00, 0x0b, 0x00, 0x04, 0x04, 0x52, 0x00, 0x00, 0x00, 0x05, 0x00, 0x0b, 0x00, 0x00];

/// TPM Name of an object: `000b || SHA-256(TPMT_PUBLIC)`, 34 bytes.
#[must_use]
pub fn name(public: &[u8]) -> EkName {
    let mut name = [0; EkName::SIZE];
    let parts = ALG_SHA256.to_be_bytes().into_iter().chain(sha256(&[public]));
    name.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    EkName(name)
}

/// Entry of the fuzzer: bytes as a public area, as a selection, as a command, and split in two as an attest.
#[doc(hidden)]
pub fn fuzz_entry(data: &[u8]) {
    if let Ok(area) = PublicArea::parse(data) {
        let accepted = [attestation_key, storage_key, tls_key, identity_key]
            .into_iter()
            .filter_map(|check| check(data).ok())
            .all(|key| area.point == Some(key));
        assert!(accepted, "a check accepts only the point that is there");
        if let Ok(key) = endorsement_key(data) {
            let again = endorsement_key(&endorsement_public(&key));
            assert_eq!(again.as_ref(), Ok(&key), "a key is what its public area says");
        }
    }
    if let Ok(selection) = PcrSelection::decode(data) {
        assert_eq!(selection.encode(), data, "one selection, one encoding");
    }
    let _ = check_tunnelled(data, &[0x0200_0000, 0x0200_0001]);
    let _ = parse_signature(data);
    if let Some((length, rest)) = data.split_first()
        && let Some((attest, signature)) = rest.split_at_checked(usize::from(*length))
    {
        let _ = attest::fuzz_entry(attest, signature);
    }
}

/// Puts a digest where a TPM structure wants a TPM2B of 32 bytes.
pub(crate) fn tpm2b(out: &mut alloc::vec::Vec<u8>, value: &[u8]) {
    // Values here are digests, nonces and public areas; none comes near the limit.
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(value);
}

/// SHA-256 as a [`Digest`].
pub(crate) fn digest(parts: &[&[u8]]) -> Digest {
    Digest(sha256(parts))
}

#[cfg(test)]
mod tests;
