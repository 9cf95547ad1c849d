//! TPMT_PUBLIC: what a key is, and the checks that it is the kind of key it is presented as.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use alloc::vec::Vec;

use gridseal_crypto::{PublicKey, RsaPublicKey, tpm::EndorsementKey};
use gridseal_types::Code;

use super::{
    ALG_AES, ALG_ECC, ALG_ECDSA, ALG_KEYEDHASH, ALG_NULL, ALG_RSA, ALG_SHA256, ATTESTATION_TEMPLATE,
    CURVE_P256, ENDORSEMENT_RSA_TEMPLATE, ENDORSEMENT_TEMPLATE, Flaw, Reader, STORAGE_TEMPLATE,
    StructureError, TLS_TEMPLATE, signature::pad, tpm2b,
};

const ALG_SHA384: u16 = 0x000c;
const ALG_CFB: u16 = 0x0043;
const ALG_ECDH: u16 = 0x0019;
const ALG_HMAC: u16 = 0x0005;
const ALG_RSASSA: u16 = 0x0014;
const ALG_RSAPSS: u16 = 0x0016;
const ALG_OAEP: u16 = 0x0017;
const CURVE_P384: u16 = 0x0004;
const COORDINATE_SIZE_MAX: usize = 48;
const POLICY_SIZE_MAX: usize = 48;
const MODULUS_SIZE_MAX: usize = 512;
const HASHES: &[u16] = &[ALG_SHA256, ALG_SHA384];

/// Scheme of a key: algorithm and its hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EccScheme {
    /// TPM_ALG_ID of the scheme.
    pub algorithm: u16,
    /// TPM_ALG_ID of its hash.
    pub hash: u16,
}

/// A TPMT_PUBLIC, read whole.
///
/// Field list: type u16, nameAlg u16, objectAttributes u32, authPolicy TPM2B, then for ECC symmetric, scheme, curveID u16,
/// kdf, and x and y as TPM2B; RSA: symmetric, scheme, keyBits u16, exponent u32, modulus TPM2B; KEYEDHASH: scheme,
/// digest TPM2B. Curves P-256 and P-384; symmetric NULL or AES in CFB mode; kdf NULL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicArea {
    /// TPM_ALG_ID of the type.
    pub object_type: u16,
    /// TPM_ALG_ID of the Name's hash.
    pub name_alg: u16,
    /// TPMA_OBJECT.
    pub attributes: u32,
    /// authPolicy, may be empty.
    pub auth_policy: Vec<u8>,
    /// Key bits of the AES-CFB of a storage parent, else `None`.
    pub symmetric_bits: Option<u16>,
    /// Scheme, `None` for TPM_ALG_NULL.
    pub scheme: Option<EccScheme>,
    /// TPM_ECC_CURVE of an elliptic key.
    pub curve: Option<u16>,
    /// The point of a P-256 key; `None` for other types and for a template, whose `unique` is empty or zero.
    pub point: Option<PublicKey>,
    /// The key of an RSA area with 2,048 bits and the default exponent (written 0); `None` otherwise.
    pub rsa: Option<RsaPublicKey>,
}

impl PublicArea {
    /// Reads a whole TPMT_PUBLIC.
    ///
    /// # Errors
    /// [`StructureError`] with field and offset; a P-256 point off the curve is [`Flaw::Point`].
    pub fn parse(bytes: &[u8]) -> Result<Self, StructureError> {
        let mut reader = Reader::new(bytes);
        let object_type = reader.one_of(&[ALG_ECC, ALG_RSA, ALG_KEYEDHASH], "type")?;
        let name_alg = reader.one_of(HASHES, "nameAlg")?;
        let attributes = reader.u32("objectAttributes")?;
        let auth_policy = reader.tpm2b(POLICY_SIZE_MAX, "authPolicy")?.to_vec();
        let mut area = Self {
            object_type,
            name_alg,
            attributes,
            auth_policy,
            symmetric_bits: None,
            scheme: None,
            curve: None,
            point: None,
            rsa: None,
        };
        match object_type {
            ALG_ECC => area.read_ecc(&mut reader)?,
            ALG_RSA => area.read_rsa(&mut reader)?,
            _ => area.read_keyed_hash(&mut reader)?,
        }
        reader.finish("TPMT_PUBLIC")?;
        Ok(area)
    }

    fn read_ecc(&mut self, reader: &mut Reader<'_>) -> Result<(), StructureError> {
        self.symmetric_bits = read_symmetric(reader)?;
        self.scheme = read_scheme(reader, &[ALG_ECDSA, ALG_ECDH])?;
        let curve = reader.one_of(&[CURVE_P256, CURVE_P384], "curveID")?;
        self.curve = Some(curve);
        reader.one_of(&[ALG_NULL], "kdf")?;
        let at_point = reader.error("unique", Flaw::Point);
        let x = reader.tpm2b(COORDINATE_SIZE_MAX, "x")?;
        let y = reader.tpm2b(COORDINATE_SIZE_MAX, "y")?;
        let is_template = x.iter().chain(y).all(|byte| *byte == 0);
        if curve == CURVE_P256 && !is_template {
            self.point = Some(point(x, y).ok_or(at_point)?);
        }
        Ok(())
    }

    fn read_rsa(&mut self, reader: &mut Reader<'_>) -> Result<(), StructureError> {
        self.symmetric_bits = read_symmetric(reader)?;
        self.scheme = read_scheme(reader, &[ALG_RSASSA, ALG_RSAPSS, ALG_OAEP])?;
        let bits = reader.u16("keyBits")?;
        let exponent = reader.u32("exponent")?;
        let modulus = reader.tpm2b(MODULUS_SIZE_MAX, "unique")?;
        if bits == 2_048 && exponent == 0 && modulus.len() == 256 {
            self.rsa = RsaPublicKey::from_modulus(modulus);
        }
        Ok(())
    }

    fn read_keyed_hash(&mut self, reader: &mut Reader<'_>) -> Result<(), StructureError> {
        self.scheme = read_scheme(reader, &[ALG_HMAC])?;
        reader.tpm2b(POLICY_SIZE_MAX, "unique")?;
        Ok(())
    }
}

fn read_symmetric(reader: &mut Reader<'_>) -> Result<Option<u16>, StructureError> {
    if reader.one_of(&[ALG_NULL, ALG_AES], "symmetric")? == ALG_NULL {
        return Ok(None);
    }
    let bits = reader.one_of(&[128, 256], "keyBits")?;
    reader.one_of(&[ALG_CFB], "mode")?;
    Ok(Some(bits))
}

fn read_scheme(reader: &mut Reader<'_>, known: &[u16]) -> Result<Option<EccScheme>, StructureError> {
    let at_scheme = reader.error("scheme", Flaw::Value);
    let algorithm = reader.u16("scheme")?;
    if algorithm == ALG_NULL {
        return Ok(None);
    }
    if !known.contains(&algorithm) {
        return Err(at_scheme);
    }
    Ok(Some(EccScheme { algorithm, hash: reader.one_of(HASHES, "hashAlg")? }))
}

/// The point of two coordinates, which a TPM may give without leading zeros.
fn point(x: &[u8], y: &[u8]) -> Option<PublicKey> {
    let mut bytes = [0; 64];
    let (x_half, y_half) = bytes.split_at_mut(32);
    if x.len() > x_half.len() || y.len() > y_half.len() {
        return None;
    }
    pad(x, x_half);
    pad(y, y_half);
    PublicKey::from_point(&bytes)
}

/// The key of a public area that equals `template` byte for byte up to `unique`.
fn key_of(public: &[u8], template: &[u8], code: Code) -> Result<PublicKey, Code> {
    if !public.starts_with(template) {
        return Err(code);
    }
    PublicArea::parse(public).ok().and_then(|area| area.point).ok_or(code)
}

/// TPMA_OBJECT of every endorsement key: restricted, decrypt, fixedTPM, fixedParent, sensitiveDataOrigin.
const ENDORSEMENT_ATTRIBUTES: u32 = 0x0003_0032;

/// The endorsement key: a template of the TCG, P-256 or RSA 2048, byte for byte apart from `unique`.
///
/// # Errors
/// [`Code::Suite`] for a well-formed endorsement key on P-384, which no suite covers yet; [`Code::Endorsement`] for
/// anything else.
pub fn endorsement_key(public: &[u8]) -> Result<EndorsementKey, Code> {
    let area = PublicArea::parse(public).map_err(|_| Code::Endorsement)?;
    if public.starts_with(&ENDORSEMENT_TEMPLATE) {
        area.point.map(EndorsementKey::P256).ok_or(Code::Endorsement)
    } else if public.starts_with(&ENDORSEMENT_RSA_TEMPLATE) {
        area.rsa.map(EndorsementKey::Rsa2048).ok_or(Code::Endorsement)
    } else if area.curve == Some(CURVE_P384)
        && area.attributes & ENDORSEMENT_ATTRIBUTES == ENDORSEMENT_ATTRIBUTES
    {
        Err(Code::Suite)
    } else {
        Err(Code::Endorsement)
    }
}

/// The attestation key: exactly P-256, `00050472`, ECDSA with SHA-256, symmetric and kdf NULL, empty policy.
///
/// # Errors
/// [`Code::AkAttr`].
///
/// # Source
/// Onboarding specification, section 6.3.
pub fn attestation_key(public: &[u8]) -> Result<PublicKey, Code> {
    key_of(public, &ATTESTATION_TEMPLATE, Code::AkAttr)
}

/// The storage key: exactly `00030472`, AES-128-CFB.
///
/// # Errors
/// [`Code::Certify`].
pub fn storage_key(public: &[u8]) -> Result<PublicKey, Code> {
    key_of(public, &STORAGE_TEMPLATE, Code::Certify)
}

/// The TLS key: exactly `00040472`, ECDSA with SHA-256.
///
/// # Errors
/// [`Code::Certify`].
pub fn tls_key(public: &[u8]) -> Result<PublicKey, Code> {
    key_of(public, &TLS_TEMPLATE, Code::Certify)
}

/// The identity key (IAK): exactly the attributes of an attestation key.
///
/// # Errors
/// [`Code::Certify`].
pub fn identity_key(public: &[u8]) -> Result<PublicKey, Code> {
    key_of(public, &ATTESTATION_TEMPLATE, Code::Certify)
}

/// The TPMT_PUBLIC of an endorsement key: its template, then the point or the modulus. Its Name is the device's.
#[must_use]
pub fn endorsement_public(key: &EndorsementKey) -> Vec<u8> {
    match key {
        EndorsementKey::P256(key) => with_point(&ENDORSEMENT_TEMPLATE, key),
        EndorsementKey::Rsa2048(key) => {
            let mut public = ENDORSEMENT_RSA_TEMPLATE.to_vec();
            tpm2b(&mut public, key.modulus());
            public
        }
    }
}

/// The TPMT_PUBLIC of a P-256 key: template, then x and y of 32 bytes.
#[must_use]
pub fn with_point(template: &[u8], key: &PublicKey) -> Vec<u8> {
    let mut public = Vec::with_capacity(template.len().saturating_add(68));
    public.extend_from_slice(template);
    key.point().chunks(32).for_each(|coordinate| tpm2b(&mut public, coordinate));
    public
}
