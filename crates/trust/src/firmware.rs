//! Signed images of firmware: a manifest with two signatures in front of the contents.
//!
//! An image is one deterministic CBOR array `[manifest, second key, second signature, contents]`. The manifest is a
//! COSE_Sign1 (ES256) over
//!
//! ```cddl
//! FirmwareP = { 1: tstr, 2: uint, 3: bstr, 4: uint, 5: digest, 6: secs, -1: digest }
//!             ; model, version, identification, size of the contents, SHA-256 of them, issued, SHA-256 of the second key
//! ```
//!
//! Both signatures must be there: a meter must still tell a forged image when P-256 can be broken (decision D12). The second
//! one (ML-DSA-65) is over type string and payload, like those of vouchers.
//!
//! # Source
//! DLMS fact sheet, section 8 (class 18 has no cryptography); design, rule S6 and decision D12; COSE forms as in the
//! onboarding specification, section 18.

use alloc::{string::String, vec::Vec};

use gridseal_crypto::{
    KeyError, PublicKey, SECOND_KEY_SIZE, SECOND_SIGNATURE_SIZE, SecondKey, SecondSigner, Signer, role::Role,
    sha256,
};
use gridseal_types::{Digest, UtcTime};

use crate::enrol::{
    cose::{Sign1, SignedType, sign},
    wire::{Read, Reader, encode},
};

/// Longest name of a model, bytes.
const MODEL_SIZE_MAX: usize = 64;
/// Longest identification, bytes.
const IDENTIFIER_SIZE_MAX: usize = 64;
/// Largest signed manifest, bytes.
const MANIFEST_SIZE_MAX: usize = 1_024;
/// Largest contents, bytes.
const CONTENTS_SIZE_MAX: usize = 1 << 24;

/// What a manifest says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareManifest {
    /// Model that it is for, 1..=64 bytes.
    pub model: String,
    /// Version; a lower one never follows a higher one.
    pub version: u32,
    /// Identification, as class 18 has it; 1..=64 bytes.
    pub identifier: Vec<u8>,
    /// Size of the contents, bytes.
    pub size: u32,
    /// SHA-256 of the contents.
    pub digest: Digest,
    /// When it was made; for people, nothing is decided by it (rule S14).
    pub issued: UtcTime,
    /// SHA-256 of the signer's second, post-quantum key.
    pub second_key: Digest,
}

/// Why an image is refused. Its order is that of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FirmwareRefusal {
    /// No image with a manifest in front of it.
    #[error("not an image with a manifest")]
    Format,
    /// The first signature is none of the trusted key.
    #[error("signature of the manifest does not verify")]
    Signature,
    /// The second key is not the trusted one.
    #[error("second key is not the trusted one")]
    SecondKey,
    /// The second, post-quantum signature does not verify.
    #[error("second signature of the manifest does not verify")]
    SecondSignature,
    /// It is for another model.
    #[error("image is for another model")]
    Model,
    /// It is older than what runs.
    #[error("version {found} is older than version {active}, which runs")]
    Older {
        /// Version found.
        found: u32,
        /// Version that runs.
        active: u32,
    },
    /// The manifest names another size.
    #[error("image has another size than its manifest says")]
    Size,
    /// The contents are others.
    #[error("image has other contents than its manifest says")]
    Contents,
    /// It was announced under another identification.
    #[error("image was announced under another identification")]
    Identifier,
}

impl FirmwareManifest {
    fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(7).key(1).text(&self.model).key(2).uint(self.version).key(3).bytes(&self.identifier);
            w.key(4).uint(self.size).key(5).bytes(self.digest.as_bytes()).key(6).uint(self.issued.0);
            w.key(-1).bytes(self.second_key.as_bytes());
        })
    }

    fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut model, mut version, mut identifier, mut size) = (None, None, None, None);
        let (mut digest, mut issued, mut second_key) = (None, None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => model = Some(String::from(r.text(1..=MODEL_SIZE_MAX)?)),
                    2 => version = Some(r.uint32()?),
                    3 => identifier = Some(r.bytes(1..=IDENTIFIER_SIZE_MAX)?.to_vec()),
                    4 => size = Some(r.uint32()?),
                    5 => digest = Some(Digest(r.fixed()?)),
                    6 => issued = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                    -1 => second_key = Some(Digest(r.fixed()?)),
                    // A member that this version does not know may be one that matters.
                    _ => return r.fail("unexpected member of a firmware manifest"),
                }
                Ok(true)
            })?;
            Ok(Self {
                model: r.required(model)?,
                version: r.required(version)?,
                identifier: r.required(identifier)?,
                size: r.required(size)?,
                digest: r.required(digest)?,
                issued: r.required(issued)?,
                second_key: r.required(second_key)?,
            })
        })
    }
}

/// What is said of an image before it is signed.
#[derive(Debug, Clone, Copy)]
pub struct FirmwareDraft<'d> {
    /// Model, 1..=64 bytes.
    pub model: &'d str,
    /// Version.
    pub version: u32,
    /// Identification, 1..=64 bytes.
    pub identifier: &'d [u8],
    /// When it is made.
    pub issued: UtcTime,
}

/// Puts a manifest with both signatures in front of the contents. `None` for a draft beyond its sizes, or contents above
/// 16 MiB.
///
/// # Errors
/// As given by the signers.
pub fn sign_image<S: Signer<Error = KeyError>, R: Role>(
    draft: FirmwareDraft<'_>,
    contents: &[u8],
    (signer, second): (&S, &SecondSigner<R>),
) -> Result<Option<Vec<u8>>, KeyError> {
    let FirmwareDraft { model, version, identifier, issued } = draft;
    let is_sound = (1..=MODEL_SIZE_MAX).contains(&model.len())
        && (1..=IDENTIFIER_SIZE_MAX).contains(&identifier.len())
        && (1..=CONTENTS_SIZE_MAX).contains(&contents.len());
    let Some(size) = u32::try_from(contents.len()).ok().filter(|_| is_sound) else { return Ok(None) };
    let manifest = FirmwareManifest {
        model: model.into(),
        version,
        identifier: identifier.to_vec(),
        size,
        digest: Digest(sha256(&[contents])),
        issued,
        second_key: Digest(second.public().id()),
    };
    let payload = manifest.encode();
    let signed = sign(signer, SignedType::Firmware, &payload)?;
    let second_signature = second.sign(&[SignedType::Firmware.text().as_bytes(), &payload])?;
    Ok(Some(encode(|w| {
        w.array(4).bytes(&signed).bytes(second.public().as_bytes()).bytes(&second_signature).bytes(contents);
    })))
}

/// An image, taken apart.
struct Parts<'i> {
    manifest: &'i [u8],
    second_key: &'i [u8],
    second_signature: &'i [u8],
    contents: &'i [u8],
}

fn parts(image: &[u8]) -> Read<Parts<'_>> {
    Reader::whole(image, |r| {
        r.array(4..=4, |r, _| {
            Ok(Parts {
                manifest: r.bytes(1..=MANIFEST_SIZE_MAX)?,
                second_key: r.bytes(SECOND_KEY_SIZE..=SECOND_KEY_SIZE)?,
                second_signature: r.bytes(SECOND_SIGNATURE_SIZE..=SECOND_SIGNATURE_SIZE)?,
                contents: r.bytes(1..=CONTENTS_SIZE_MAX)?,
            })
        })
    })
}

/// What an image says of itself; nothing is verified.
#[must_use]
pub fn claims(image: &[u8]) -> Option<FirmwareManifest> {
    let signed = Sign1::decode(parts(image).ok()?.manifest).ok()?;
    FirmwareManifest::decode(signed.payload).ok()
}

/// First signature of an image's manifest, r || s; nothing is verified.
#[must_use]
pub fn signature(image: &[u8]) -> Option<&[u8]> {
    let manifest = parts(image).ok()?.manifest;
    Sign1::decode(manifest).ok()?;
    // The signature is the last element.
    manifest.get(manifest.len().checked_sub(64)?..)
}

/// Whose images a device takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareTrust {
    /// P-256 key.
    pub key: PublicKey,
    /// SHA-256 of its ML-DSA-65 key.
    pub second: Digest,
    /// Model of the device.
    pub model: String,
}

/// An image that may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified<'i> {
    /// Its version.
    pub version: u32,
    /// First signature of its manifest.
    pub signature: &'i [u8],
    /// Its contents.
    pub contents: &'i [u8],
}

impl FirmwareTrust {
    /// Judges an image that was announced under an identification, on a device that runs version `active`. The same
    /// version may come again.
    ///
    /// # Errors
    /// The first [`FirmwareRefusal`] in their order.
    pub fn verify<'i>(
        &self,
        image: &'i [u8],
        identifier: &[u8],
        active: u32,
    ) -> Result<Verified<'i>, FirmwareRefusal> {
        let parts = parts(image).map_err(|_| FirmwareRefusal::Format)?;
        let signed = Sign1::decode(parts.manifest).map_err(|_| FirmwareRefusal::Format)?;
        if !signed.verify(SignedType::Firmware, &self.key) {
            return Err(FirmwareRefusal::Signature);
        }
        let manifest = FirmwareManifest::decode(signed.payload).map_err(|_| FirmwareRefusal::Format)?;
        let second = SecondKey::from_bytes(parts.second_key).ok_or(FirmwareRefusal::Format)?;
        if second.id() != self.second.0 || manifest.second_key != self.second {
            return Err(FirmwareRefusal::SecondKey);
        }
        let covered = [SignedType::Firmware.text().as_bytes(), signed.payload];
        if !second.verifies(&covered, parts.second_signature) {
            return Err(FirmwareRefusal::SecondSignature);
        }
        if manifest.model != self.model {
            return Err(FirmwareRefusal::Model);
        }
        if manifest.version < active {
            return Err(FirmwareRefusal::Older { found: manifest.version, active });
        }
        if usize::try_from(manifest.size) != Ok(parts.contents.len()) {
            return Err(FirmwareRefusal::Size);
        }
        if sha256(&[parts.contents]) != manifest.digest.0 {
            return Err(FirmwareRefusal::Contents);
        }
        if manifest.identifier != identifier {
            return Err(FirmwareRefusal::Identifier);
        }
        let signature = signature(image).ok_or(FirmwareRefusal::Format)?;
        Ok(Verified { version: manifest.version, signature, contents: parts.contents })
    }
}

/// The base point of P-256: a key that nobody trusts.
const ANY_POINT: [u8; 64] = [
    0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77,
    0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f, 0xe3,
    0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33,
    0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];

/// Entry of the fuzzer: bytes as an image, and as the payload of a manifest.
#[doc(hidden)]
pub fn fuzz_entry(bytes: &[u8]) {
    if let Ok(manifest) = FirmwareManifest::decode(bytes) {
        assert_eq!(manifest.encode(), bytes, "one encoding for one manifest");
    }
    let _ = (signature(bytes), claims(bytes));
    let Some(key) = PublicKey::from_point(&ANY_POINT) else { return };
    let trust = FirmwareTrust { key, second: Digest([0; 32]), model: "m".into() };
    assert!(trust.verify(bytes, b"i", 0).is_err(), "nobody has this second key");
}

#[cfg(test)]
mod tests;
