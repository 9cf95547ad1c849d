//! COSE_Sign1 with ES256, and COSE_Key: exactly the forms that the protocol allows.

use alloc::vec::Vec;

use gridseal_crypto::{PublicKey, Signature, Signer, sha256};
use gridseal_types::Digest;

use super::wire::{Read, Reader, Writer, encode};

/// What a signature is for: the external_aad of COSE. A signature for one type never verifies for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedType {
    /// Manifest of a device, by the manufacturer.
    Manifest,
    /// Voucher header, by the manufacturer.
    Voucher,
    /// Owner secret handed over, by the manufacturer's release service.
    Release,
    /// Voucher entry.
    Entry,
    /// Delegation to an online key, by the owner key.
    Delegation,
    /// Redirect, by the owner key or a delegate.
    Redirect,
    /// Answer of the init server.
    I2,
    /// Challenge.
    C2,
    /// Ownership commands.
    C4,
    /// Configuration.
    C6,
    /// End of a session.
    C8,
    /// Order to a device that has an owner.
    Order,
    /// Receipt of an ended ownership.
    Receipt,
    /// Attestation policy, by the owner's policy key.
    Policy,
    /// Head of the log of voucher entries, by the manufacturer.
    Log,
    /// A witness's word on such a head.
    Witness,
    /// Manifest of a firmware image.
    Firmware,
}

impl SignedType {
    /// The type string.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Manifest => "gso1-manifest",
            Self::Voucher => "gso1-voucher",
            Self::Release => "gso1-release",
            Self::Entry => "gso1-entry",
            Self::Delegation => "gso1-delegation",
            Self::Redirect => "gso1-redirect",
            Self::I2 => "gso1-i2",
            Self::C2 => "gso1-c2",
            Self::C4 => "gso1-c4",
            Self::C6 => "gso1-c6",
            Self::C8 => "gso1-c8",
            Self::Order => "gso1-order",
            Self::Receipt => "gso1-receipt",
            Self::Policy => "gso1-policy",
            Self::Log => "gso1-log",
            Self::Witness => "gso1-witness",
            Self::Firmware => "gsf1-manifest",
        }
    }

    /// Hash that identifies a document: over type string and payload, never over a signature.
    #[must_use]
    pub fn hash(self, payload: &[u8]) -> Digest {
        Digest(sha256(&[self.text().as_bytes(), payload]))
    }
}

/// Largest payload of a COSE_Sign1 in bytes.
const PAYLOAD_SIZE_MAX: usize = 65_536;

/// An encoded COSE_Sign1, taken apart. Its signature is unchecked until [`Sign1::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign1<'b> {
    /// Key id that the signer put in; used to look a key up, never trusted.
    pub key_id: Digest,
    /// Payload as received.
    pub payload: &'b [u8],
    signature: Signature,
}

fn protected(key_id: &Digest) -> Vec<u8> {
    encode(|w| {
        w.map(2).key(1).key(-7).key(4).bytes(key_id.as_bytes());
    })
}

fn signed_bytes(signed_type: SignedType, key_id: &Digest, payload: &[u8]) -> Vec<u8> {
    encode(|w| {
        w.array(4).text("Signature1").bytes(&protected(key_id));
        w.bytes(signed_type.text().as_bytes()).bytes(payload);
    })
}

impl<'b> Sign1<'b> {
    /// Takes an encoded COSE_Sign1 apart: untagged, protected header exactly `{1: -7, 4: key_id}`, empty unprotected
    /// header, attached payload, 64-byte signature.
    ///
    /// # Errors
    /// [`super::wire::FormatError`] for any other form.
    pub fn decode(bytes: &'b [u8]) -> Read<Self> {
        Reader::whole(bytes, |r| {
            r.array(4..=4, |r, _| {
                let header = r.bytes(38..=38)?;
                let key_id = Reader::whole(header, |r| {
                    let (mut algorithm, mut key_id) = (false, None);
                    r.map(|r, key| match key {
                        1 => r.algorithm_es256().map(|()| algorithm = true).map(|()| true),
                        4 => r.fixed().map(|id| key_id = Some(Digest(id))).map(|()| true),
                        _ => r.fail("unexpected protected header"),
                    })?;
                    if algorithm { r.required(key_id) } else { r.fail("algorithm missing") }
                })?;
                r.map(|r, _| r.fail("unprotected header not empty"))?;
                let payload = r.bytes(1..=PAYLOAD_SIZE_MAX)?;
                Ok(Self { key_id, payload, signature: r.fixed()? })
            })
        })
    }

    /// Whether `key` made this signature for this type, and said so.
    #[must_use]
    pub fn verify(&self, signed_type: SignedType, key: &PublicKey) -> bool {
        self.key_id == key_id(key)
            && key.verifies(&signed_bytes(signed_type, &self.key_id, self.payload), &self.signature)
    }
}

impl Reader<'_> {
    fn algorithm_es256(&mut self) -> Read<()> {
        let before = self.position();
        self.skip()?;
        // ES256 is -7, one byte: 0x26.
        if self.position() == before.saturating_add(1) && self.byte_before() == Some(0x26) {
            Ok(())
        } else {
            self.fail("algorithm is not ES256")
        }
    }
}

/// Signs a payload.
///
/// # Errors
/// As given by the signer.
pub fn sign<S: Signer>(signer: &S, signed_type: SignedType, payload: &[u8]) -> Result<Vec<u8>, S::Error> {
    let key_id = key_id(&signer.public());
    let signature = signer.sign(&signed_bytes(signed_type, &key_id, payload))?;
    Ok(encode(|w| {
        w.array(4).bytes(&protected(&key_id)).map(0).bytes(payload).bytes(&signature);
    }))
}

/// Deterministic COSE_Key of a P-256 point: `{1: 2, -1: 1, -2: x, -3: y}`.
pub fn write_key(w: &mut Writer, key: &PublicKey) {
    let (x, y) = key.point().split_at(32);
    w.map(4).key(1).uint(2u8).key(-1).uint(1u8).key(-2).bytes(x).key(-3).bytes(y);
}

/// Reads a COSE_Key; the point must lie on the curve.
///
/// # Errors
/// [`super::wire::FormatError`].
pub fn read_key(r: &mut Reader<'_>) -> Read<PublicKey> {
    let (mut kind, mut curve, mut x, mut y) = (false, false, None, None);
    r.map(|r, key| {
        match key {
            1 => kind = r.constant(2).map(|()| true)?,
            -1 => curve = r.constant(1).map(|()| true)?,
            -2 => x = Some(r.fixed::<32>()?),
            -3 => y = Some(r.fixed::<32>()?),
            _ => return r.fail("unexpected member of a key"),
        }
        Ok(true)
    })?;
    let (x, y) = (r.required(x)?, r.required(y)?);
    let mut point = [0; 64];
    point.iter_mut().zip(x.iter().chain(&y)).for_each(|(to, from)| *to = *from);
    match PublicKey::from_point(&point) {
        Some(key) if kind && curve => Ok(key),
        _ => r.fail("not a P-256 public key"),
    }
}

/// Identifier of a key: SHA-256 of its deterministic COSE_Key.
///
/// # Source
/// RFC 9679.
#[must_use]
pub fn key_id(key: &PublicKey) -> Digest {
    Digest(sha256(&[&encode(|w| write_key(w, key))]))
}
