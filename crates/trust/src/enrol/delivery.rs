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
    document::{read_digest, read_name},
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

fn aad() -> Vec<u8> {
    encode(|w| {
        w.array(3).text("Encrypt").bytes(&protected()).bytes(SignedType::Release.text().as_bytes());
    })
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
    let mut payload = SecretBytes::starting_with(&encode(|w| {
        w.map(5).key(1).bytes(release.ek_name.as_bytes()).key(2).uint(release.epoch).key(3);
    }));
    // Head of a byte string of 32 bytes.
    payload.append(&[0x58, 32]);
    payload.append_owner_secret(secret);
    payload.append(&encode(|w| {
        w.key(4).text(&release.serial).key(5).bytes(release.entry.as_bytes());
    }));
    let signed = SecretBytes::starting_with(&sign(vendor, SignedType::Release, payload.as_slice())?);
    let ephemeral = AgreementKey::new(&Key::<Ephemeral, 32>::generate_scalar(rng)?)?;
    let nonce = random::<12>(rng)?;
    let sealed = delivery_seal(&ephemeral, recipient, &kdf_info(), &nonce, &aad(), signed.as_slice())
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

/// Opens a delivery record and checks the manufacturer's signature.
///
/// # Errors
/// [`Code::Label`] when it does not open for this owner or is not signed by one of `voucher_keys`.
pub fn open_delivery(
    bytes: &[u8],
    owner: &AgreementKey,
    voucher_keys: &[PublicKey],
) -> Result<(Release, Key<OwnerSecret, 32>), Code> {
    if bytes.len() > RECORD_SIZE_MAX {
        return Err(Code::Size);
    }
    let record = decode(bytes)?;
    if record.recipient != key_id(&owner.public()) {
        return Err(Code::Label);
    }
    let plain = delivery_open(owner, &record.ephemeral, &kdf_info(), &record.nonce, &aad(), record.sealed)
        .ok_or(Code::Label)?;
    let signed = Sign1::decode(&plain).map_err(|_| Code::Label)?;
    let vendor = voucher_keys.iter().find(|key| key_id(key) == signed.key_id).ok_or(Code::Label)?;
    if !signed.verify(SignedType::Release, vendor) {
        return Err(Code::Label);
    }
    Ok(decode_release(signed.payload)?)
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

/// Both decoders on any bytes: no panic, and equal input gives equal output.
pub(super) fn fuzz_entry(bytes: &[u8]) {
    let parts =
        |bytes| decode(bytes).map(|record: Record<'_>| (record.nonce, record.sealed.len(), record.recipient));
    assert_eq!(parts(bytes), parts(bytes), "equal input gives equal output");
    let release = |bytes| decode_release(bytes).map(|(release, _)| release);
    assert_eq!(release(bytes), release(bytes), "equal input gives equal output");
}
