//! Delivery of an owner secret: a signed release, encrypted to the owner's encryption key.
//!
//! # Source
//! Onboarding specification, section 18.7.

use alloc::{string::String, vec::Vec};

use gridseal_crypto::{
    AgreementKey, Key, KeyError, PublicKey, Rng, SecretBytes, Signer, delivery_open, delivery_seal, random,
    role::{Ephemeral, OwnerSecret},
};
use gridseal_types::{Code, Digest, EkName, Epoch};

use super::{
    cose::{Sign1, SignedType, key_id, read_key, sign, write_key},
    document::{Header, read_digest, read_name},
    label::LabelB,
    secrets::OwnerSecretExt,
    shipment::SHIPMENT_MAX,
    voucher::VoucherKey,
    wire::{Read, Reader, encode},
};

/// Largest delivery record in bytes.
pub const RECORD_SIZE_MAX: usize = 2_048;

/// What a release says (payload ReleaseP) besides the secret itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Device.
    pub ek_name: EkName,
    /// Epoch of the secret.
    pub epoch: Epoch,
    /// Serial number.
    pub serial: String,
    /// Hash of the voucher entry it belongs to, zero for N_1.
    pub entry: Digest,
}

fn protected() -> Vec<u8> {
    // {1: 3}: A256GCM.
    encode(|w| {
        w.map(1).key(1).uint(3u8);
    })
}

fn recipient_protected() -> Vec<u8> {
    // {1: -25}: ECDH-ES + HKDF-256, direct.
    encode(|w| {
        w.map(1).key(1).key(-25);
    })
}

fn kdf_info() -> Vec<u8> {
    encode(|w| {
        w.array(4).uint(3u8);
        for _ in 0..2 {
            w.array(3).null().null().null();
        }
        w.array(2).uint(256u16).bytes(&recipient_protected());
    })
}

/// Type string of a secret that a person typed from label B.
const LABEL: &str = "gso1-label";

fn aad(kind: &str) -> Vec<u8> {
    encode(|w| {
        w.array(3).text("Encrypt").bytes(&protected()).bytes(kind.as_bytes());
    })
}

fn release_payload(release: &Release, secret: &Key<OwnerSecret, 32>) -> SecretBytes {
    let mut payload = SecretBytes::starting_with(&encode(|w| {
        w.map(5).key(1).bytes(release.ek_name.as_bytes()).key(2).uint(release.epoch).key(3);
    }));
    // Head of a byte string of 32 bytes.
    payload.append(&[0x58, 32]);
    payload.append_owner_secret(secret);
    payload.append(&encode(|w| {
        w.key(4).text(&release.serial).key(5).bytes(release.entry.as_bytes());
    }));
    payload
}

/// Signs and encrypts an owner secret for one owner. The secret leaves only encrypted.
///
/// # Errors
/// [`KeyError`] when the random source or the signer fails.
pub fn deliver<S: Signer<Error = KeyError>>(
    release: &Release,
    secret: &Key<OwnerSecret, 32>,
    vendor: &S,
    recipient: &PublicKey,
    rng: &mut dyn Rng,
) -> Result<Vec<u8>, KeyError> {
    let payload = release_payload(release, secret);
    let signed = SecretBytes::starting_with(&sign(vendor, SignedType::Release, payload.as_slice())?);
    encrypt(SignedType::Release.text(), &signed, recipient, rng)
}

fn encrypt(
    kind: &str,
    plain: &SecretBytes,
    recipient: &PublicKey,
    rng: &mut dyn Rng,
) -> Result<Vec<u8>, KeyError> {
    let ephemeral = AgreementKey::new(&Key::<Ephemeral, 32>::generate_scalar(rng)?)?;
    let nonce = random::<12>(rng)?;
    let sealed = delivery_seal(&ephemeral, recipient, &kdf_info(), &nonce, &aad(kind), plain.as_slice())
        .ok_or(KeyError::Scalar)?;
    Ok(encode(|w| {
        w.array(4).bytes(&protected()).map(1).key(5).bytes(&nonce).bytes(&sealed);
        w.array(1).array(3).bytes(&recipient_protected()).map(2);
        w.key(4).bytes(key_id(recipient).as_bytes());
        write_key(w.key(-1), &ephemeral.public());
        w.bytes(&[]);
    }))
}

struct Record<'b> {
    nonce: [u8; 12],
    sealed: &'b [u8],
    ephemeral: PublicKey,
    recipient: Digest,
}

fn decode(bytes: &[u8]) -> Read<Record<'_>> {
    Reader::whole(bytes, |r| {
        r.array(4..=4, |r, _| {
            if r.bytes(0..=16)? != protected() {
                return r.fail("content algorithm is not A256GCM");
            }
            let mut nonce = None;
            r.map(|r, key| match key {
                5 => r.fixed().map(|value| nonce = Some(value)).map(|()| true),
                _ => r.fail("unexpected header"),
            })?;
            let sealed = r.bytes(16..=RECORD_SIZE_MAX)?;
            let (ephemeral, recipient) = r.array(1..=1, |r, _| r.array(3..=3, |r, _| read_recipient(r)))?;
            Ok(Record { nonce: r.required(nonce)?, sealed, ephemeral, recipient })
        })
    })
}

fn read_recipient(r: &mut Reader<'_>) -> Read<(PublicKey, Digest)> {
    if r.bytes(0..=16)? != recipient_protected() {
        return r.fail("key algorithm is not ECDH-ES + HKDF-256");
    }
    let (mut ephemeral, mut recipient) = (None, None);
    r.map(|r, key| {
        match key {
            4 => recipient = Some(read_digest(r)?),
            -1 => ephemeral = Some(read_key(r)?),
            _ => return r.fail("unexpected header"),
        }
        Ok(true)
    })?;
    r.bytes(0..=0)?;
    Ok((r.required(ephemeral)?, r.required(recipient)?))
}

/// Encrypts an owner secret from label B to the owner's own key service: the same record, unsigned and of another type. What
/// vouches for the secret is its commitment in the voucher.
///
/// # Errors
/// [`KeyError`] when the random source fails.
pub fn hand_over(
    label: &LabelB,
    ek_name: EkName,
    recipient: &PublicKey,
    rng: &mut dyn Rng,
) -> Result<Vec<u8>, KeyError> {
    let release = Release { ek_name, epoch: 1, serial: label.serial.clone(), entry: Digest([0; 32]) };
    encrypt(LABEL, &release_payload(&release, &label.secret), recipient, rng)
}

/// Opens what [`hand_over`] made and checks it against the voucher's header: device, serial number and commitment.
///
/// # Errors
/// [`Code::Label`].
pub fn open_handed_over(
    bytes: &[u8],
    owner: &AgreementKey,
    header: &Header,
) -> Result<(Release, Key<OwnerSecret, 32>), Code> {
    let plain = decrypt(LABEL, bytes, owner)?;
    let (release, secret) = decode_release(&plain).map_err(|_| Code::Label)?;
    let fits = release.ek_name == header.ek_name
        && release.serial == header.serial
        && release.epoch == 1
        && secret.commitment() == header.n_commit
        && !secret.is_weak();
    if fits { Ok((release, secret)) } else { Err(Code::Label) }
}

/// Opens a delivery record and checks the manufacturer's signature.
///
/// # Errors
/// [`Code::Label`] when it does not open for this owner, is not signed by one of `voucher_keys`, or its secret has less than
/// 128 bits of entropy.
pub fn open_delivery(
    bytes: &[u8],
    owner: &AgreementKey,
    voucher_keys: &[VoucherKey],
) -> Result<(Release, Key<OwnerSecret, 32>), Code> {
    let plain = decrypt(SignedType::Release.text(), bytes, owner)?;
    let signed = Sign1::decode(&plain).map_err(|_| Code::Label)?;
    let vendor = voucher_keys.iter().find(|trusted| key_id(&trusted.key) == signed.key_id);
    if !signed.verify(SignedType::Release, &vendor.ok_or(Code::Label)?.key) {
        return Err(Code::Label);
    }
    let (release, secret) = decode_release(signed.payload)?;
    if secret.is_weak() { Err(Code::Label) } else { Ok((release, secret)) }
}

fn decrypt(
    kind: &str,
    bytes: &[u8],
    owner: &AgreementKey,
) -> Result<impl core::ops::Deref<Target = Vec<u8>>, Code> {
    if bytes.len() > RECORD_SIZE_MAX {
        return Err(Code::Size);
    }
    let record = decode(bytes)?;
    if record.recipient != key_id(&owner.public()) {
        return Err(Code::Label);
    }
    delivery_open(owner, &record.ephemeral, &kdf_info(), &record.nonce, &aad(kind), record.sealed)
        .ok_or(Code::Label)
}

fn decode_release(bytes: &[u8]) -> Read<(Release, Key<OwnerSecret, 32>)> {
    let (mut ek_name, mut epoch, mut secret, mut serial, mut entry) = (None, None, None, None, None);
    Reader::whole(bytes, |r| {
        r.map(|r, key| {
            match key {
                1 => ek_name = Some(read_name(r)?),
                2 => epoch = Some(r.uint32()?),
                3 => secret = Some(Key::take(&mut r.fixed()?)),
                4 => serial = Some(r.text(1..=20)?.into()),
                5 => entry = Some(read_digest(r)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let release = Release {
            ek_name: r.required(ek_name)?,
            epoch: r.required(epoch)?,
            serial: r.required(serial)?,
            entry: r.required(entry)?,
        };
        Ok((release, r.required(secret)?))
    })
}

/// Encodes a delivery file: an array of records.
#[must_use]
pub fn encode_delivery(records: &[Vec<u8>]) -> Vec<u8> {
    encode(|w| {
        w.list(records, |w, record| {
            w.raw(record);
        });
    })
}

/// Takes a delivery file apart into its records, unopened, in order.
///
/// # Errors
/// [`super::wire::FormatError`].
pub fn decode_delivery(bytes: &[u8]) -> Read<Vec<Vec<u8>>> {
    Reader::whole(bytes, |r| {
        r.list(0..=SHIPMENT_MAX, |r| {
            let start = r.position();
            r.skip()?;
            match bytes.get(start..r.position()) {
                Some(record) if record.len() <= RECORD_SIZE_MAX => Ok(record.to_vec()),
                _ => r.fail("record too large"),
            }
        })
    })
}

/// Both decoders on any bytes: no panic, and equal input gives equal output.
pub(super) fn fuzz_entry(bytes: &[u8]) {
    let parts =
        |bytes| decode(bytes).map(|record: Record<'_>| (record.nonce, record.sealed.len(), record.recipient));
    assert_eq!(parts(bytes), parts(bytes), "equal input gives equal output");
    let release = |bytes| decode_release(bytes).map(|(release, _)| release);
    assert_eq!(release(bytes), release(bytes), "equal input gives equal output");
}
