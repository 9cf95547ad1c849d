//! Messages with the init server.

use alloc::vec::Vec;

use gridseal_crypto::{Key, PublicKey, role::ActivationSecret, sha256};
use gridseal_types::{Code, Digest, EkName, Epoch, Nonce, OrderSeq};

use super::{
    cose::{Sign1, SignedType, key_id},
    document::{Redirect, Use, read_digest, read_name},
    voucher::{Voucher, VoucherKey},
    wire::{Read, Reader, encode},
};

/// Largest I1 in bytes.
pub const INIT_HELLO_SIZE_MAX: usize = 16 * 1024;
/// Largest I2, T1 in bytes.
pub const INIT_SIZE_MAX: usize = 64 * 1024;

const I1: u64 = 20;
const I1C: u64 = 21;
const I1P: u64 = 22;
const I2: u64 = 23;
const T1: u64 = 30;
const T2: u64 = 31;

/// I1: a device asks where its owner is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitHello {
    /// Fresh random value of the device.
    pub m: Nonce,
    /// Suites, best first.
    pub suites: Vec<u16>,
    /// Device.
    pub ek_name: EkName,
    /// Its epoch.
    pub epoch: Epoch,
    /// TPMT_PUBLIC of the identity key, to which a challenge is bound.
    pub iak_pub: Option<Vec<u8>>,
    /// TPMT_PUBLIC of the endorsement key, an extension of ours (member -1, see ADR 24): its Name is `ek_name`, so that
    /// an init server needs no register of keys to make a challenge.
    pub ek_pub: Option<Vec<u8>>,
}

impl InitHello {
    /// Encoded message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.array(4).uint(1u8).uint(I1).bytes(self.m.as_bytes());
            w.map(3 + usize::from(self.iak_pub.is_some()) + usize::from(self.ek_pub.is_some()));
            w.key(1).list(&self.suites, |w, suite| {
                w.uint(*suite);
            });
            w.key(2).bytes(self.ek_name.as_bytes()).key(3).uint(self.epoch);
            if let Some(public) = &self.iak_pub {
                w.key(4).bytes(public);
            }
            if let Some(public) = &self.ek_pub {
                w.key(-1).bytes(public);
            }
        })
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut suites, mut ek_name, mut epoch) = (None, None, None);
        let (mut iak_pub, mut ek_pub) = (None, None);
        Reader::whole(bytes, |r| {
            r.array(4..=4, |r, _| {
                r.constant(1)?;
                r.constant(I1)?;
                let m = Nonce(r.fixed()?);
                r.map(|r, key| {
                    match key {
                        1 => suites = Some(r.list(1..=8, Reader::suite)?),
                        2 => ek_name = Some(read_name(r)?),
                        3 => epoch = Some(r.uint32()?),
                        4 => iak_pub = Some(r.bytes(10..=600)?.to_vec()),
                        -1 => ek_pub = Some(r.bytes(10..=600)?.to_vec()),
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                Ok(Self {
                    m,
                    suites: r.required(suites)?,
                    ek_name: r.required(ek_name)?,
                    epoch: r.required(epoch)?,
                    iak_pub,
                    ek_pub,
                })
            })
        })
    }
}

/// I1C: the init server asks for proof of the endorsement key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitChallenge {
    /// m of the I1.
    pub m: Nonce,
    /// Credential for the identity key: TPM2B_ID_OBJECT with its size word.
    pub credential: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET with its size word.
    pub secret: Vec<u8>,
    /// Names the challenge.
    pub n: Nonce,
}

impl InitChallenge {
    /// Encoded message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.array(4).uint(1u8).uint(I1C).bytes(self.m.as_bytes()).map(3);
            w.key(1).bytes(&self.credential).key(2).bytes(&self.secret).key(3).bytes(self.n.as_bytes());
        })
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut credential, mut secret, mut n) = (None, None, None);
        Reader::whole(bytes, |r| {
            r.array(4..=4, |r, _| {
                r.constant(1)?;
                r.constant(I1C)?;
                let m = Nonce(r.fixed()?);
                r.map(|r, key| {
                    match key {
                        1 => credential = Some(r.bytes(2..=1_026)?.to_vec()),
                        2 => secret = Some(r.bytes(2..=1_026)?.to_vec()),
                        3 => n = Some(Nonce(r.fixed()?)),
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                let (credential, secret) = (r.required(credential)?, r.required(secret)?);
                Ok(Self { m, credential, secret, n: r.required(n)? })
            })
        })
    }
}

/// I1P: the device's answer to a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitProof {
    /// m of the I1.
    pub m: Nonce,
    /// Names the challenge.
    pub n: Nonce,
    /// [`init_proof`].
    pub proof: Digest,
}

impl InitProof {
    /// Encoded message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.array(4).uint(1u8).uint(I1P).bytes(self.m.as_bytes()).map(2);
            w.key(1).bytes(self.n.as_bytes()).key(2).bytes(self.proof.as_bytes());
        })
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut n, mut proof) = (None, None);
        Reader::whole(bytes, |r| {
            r.array(4..=4, |r, _| {
                r.constant(1)?;
                r.constant(I1P)?;
                let m = Nonce(r.fixed()?);
                r.map(|r, key| {
                    match key {
                        1 => n = Some(Nonce(r.fixed()?)),
                        2 => proof = Some(read_digest(r)?),
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                Ok(Self { m, n: r.required(n)?, proof: r.required(proof)? })
            })
        })
    }
}

/// `HMAC(K_chal, "gs-init-proof-v1" || SHA-256(I1 || I1C))` over the whole messages.
///
/// # Source
/// Onboarding specification, section 18.4.
#[must_use]
pub fn init_proof(credential: &Key<ActivationSecret, 32>, hello: &[u8], challenge: &[u8]) -> Digest {
    Digest(credential.mac(&[b"gs-init-proof-v1", &sha256(&[hello, challenge])]))
}

/// A redirect with what proves it: signed redirect, delegation when a delegate signed it, voucher.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct SignedRedirect {
    /// Encoded COSE_Sign1 of the redirect.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub redirect: Vec<u8>,
    /// Encoded COSE_Sign1 of the delegation.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub delegation: Option<Vec<u8>>,
    /// Encoded voucher.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub voucher: Vec<u8>,
}

/// What a verified redirect says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRedirect {
    /// Redirect.
    pub redirect: Redirect,
    /// Its voucher.
    pub voucher: super::voucher::VerifiedVoucher,
    /// Hash that identifies the redirect.
    pub hash: gridseal_types::Digest,
}

impl SignedRedirect {
    /// Checks voucher, delegation and redirect: signed by the voucher's current owner key or its delegate, for the
    /// device and the epoch that the voucher names.
    ///
    /// # Errors
    /// [`Code::Voucher`], [`Code::RedirectSig`].
    pub fn verify(&self, voucher_keys: &[VoucherKey]) -> Result<VerifiedRedirect, Code> {
        let voucher = Voucher::decode(&self.voucher).map_err(|_| Code::Voucher)?.verify(voucher_keys)?;
        let signed = Sign1::decode(&self.redirect).map_err(|_| Code::RedirectSig)?;
        let owner = voucher.owner().ok_or(Code::Voucher)?;
        let signer = match &self.delegation {
            None => owner,
            Some(delegation) => {
                voucher.delegate(delegation, Use::Redirect).map_err(|_| Code::RedirectSig)?.key
            }
        };
        if !signed.verify(SignedType::Redirect, &signer) {
            return Err(Code::RedirectSig);
        }
        let redirect = Redirect::decode(signed.payload).map_err(|_| Code::RedirectSig)?;
        if redirect.ek_name != voucher.header.ek_name || redirect.epoch != voucher.epoch {
            return Err(Code::RedirectSig);
        }
        Ok(VerifiedRedirect { redirect, voucher, hash: SignedType::Redirect.hash(signed.payload) })
    }

    fn write_members(&self, w: &mut super::wire::Writer, first: i64) {
        w.key(first).bytes(&self.redirect);
        if let Some(delegation) = &self.delegation {
            w.key(first.saturating_add(1)).bytes(delegation);
        }
        w.key(first.saturating_add(2)).bytes(&self.voucher);
    }
}

/// I2 before its signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitRedirect {
    /// Device.
    pub ek_name: EkName,
    /// m of the I1.
    pub m: Nonce,
    /// Chosen suite: the first of the device's list.
    pub suite: u16,
    /// Redirect.
    pub signed: SignedRedirect,
}

impl InitRedirect {
    /// Encoded payload, to be signed with K_init.
    #[must_use]
    pub fn encode_payload(&self) -> Vec<u8> {
        encode(|w| {
            w.map(5 + usize::from(self.signed.delegation.is_some())).key(1).bytes(self.ek_name.as_bytes());
            w.key(2).bytes(self.m.as_bytes()).key(3).uint(self.suite);
            self.signed.write_members(w, 4);
        })
    }

    /// The message around a signed payload.
    #[must_use]
    pub fn encode_message(m: &Nonce, sign1: &[u8]) -> Vec<u8> {
        encode(|w| {
            w.array(4).uint(1u8).uint(I2).bytes(m.as_bytes()).bytes(sign1);
        })
    }

    /// Decodes a message and checks the signature of one of the init keys and the nonce.
    ///
    /// # Errors
    /// [`Code::Size`], [`Code::Format`], [`Code::RedirectSig`], [`Code::Nonce`].
    pub fn open(bytes: &[u8], init_keys: &[PublicKey], m: &Nonce) -> Result<Self, Code> {
        if bytes.len() > INIT_SIZE_MAX {
            return Err(Code::Size);
        }
        let (outer_m, sign1) = Reader::whole(bytes, |r| {
            r.array(4..=4, |r, _| {
                r.constant(1)?;
                r.constant(I2)?;
                Ok((Nonce(r.fixed()?), r.bytes(1..=INIT_SIZE_MAX)?))
            })
        })?;
        let signed = Sign1::decode(sign1)?;
        let key = init_keys.iter().find(|key| key_id(key) == signed.key_id).ok_or(Code::RedirectSig)?;
        if !signed.verify(SignedType::I2, key) {
            return Err(Code::RedirectSig);
        }
        let payload = Self::decode_payload(signed.payload)?;
        if payload.m != *m || outer_m != *m {
            return Err(Code::Nonce);
        }
        Ok(payload)
    }

    pub(super) fn decode_payload(bytes: &[u8]) -> Read<Self> {
        let (mut ek_name, mut m, mut suite) = (None, None, None);
        let (mut redirect, mut delegation, mut voucher) = (None, None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => ek_name = Some(read_name(r)?),
                    2 => m = Some(Nonce(r.fixed()?)),
                    3 => suite = Some(r.suite()?),
                    4 => redirect = Some(r.bytes(1..=INIT_SIZE_MAX)?.to_vec()),
                    5 => delegation = Some(r.bytes(1..=INIT_SIZE_MAX)?.to_vec()),
                    6 => voucher = Some(r.bytes(1..=INIT_SIZE_MAX)?.to_vec()),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            let signed =
                SignedRedirect { redirect: r.required(redirect)?, delegation, voucher: r.required(voucher)? };
            Ok(Self { ek_name: r.required(ek_name)?, m: r.required(m)?, suite: r.required(suite)?, signed })
        })
    }
}

/// T1: an owner registers a redirect. Its signatures are the authority; there is no login.
///
/// Returns the encoded message.
#[must_use]
pub fn encode_registration(signed: &SignedRedirect) -> Vec<u8> {
    encode(|w| {
        w.array(3).uint(1u8).uint(T1).map(2 + usize::from(signed.delegation.is_some()));
        signed.write_members(w, 1);
    })
}

/// Decodes T1.
///
/// # Errors
/// [`super::wire::FormatError`].
pub fn decode_registration(bytes: &[u8]) -> Read<SignedRedirect> {
    let (mut redirect, mut delegation, mut voucher) = (None, None, None);
    Reader::whole(bytes, |r| {
        r.array(3..=3, |r, _| {
            r.constant(1)?;
            r.constant(T1)?;
            r.map(|r, key| {
                match key {
                    1 => redirect = Some(r.bytes(1..=INIT_SIZE_MAX)?.to_vec()),
                    2 => delegation = Some(r.bytes(1..=INIT_SIZE_MAX)?.to_vec()),
                    3 => voucher = Some(r.bytes(1..=INIT_SIZE_MAX)?.to_vec()),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(SignedRedirect { redirect: r.required(redirect)?, delegation, voucher: r.required(voucher)? })
        })
    })
}

/// T2: the highest sequence number that the init server stored.
#[must_use]
pub fn encode_registered(seq: OrderSeq) -> Vec<u8> {
    encode(|w| {
        w.array(3).uint(1u8).uint(T2).map(1).key(1).uint(seq);
    })
}

/// Decodes T2.
///
/// # Errors
/// [`super::wire::FormatError`].
pub fn decode_registered(bytes: &[u8]) -> Read<OrderSeq> {
    let mut seq = None;
    Reader::whole(bytes, |r| {
        r.array(3..=3, |r, _| {
            r.constant(1)?;
            r.constant(T2)?;
            r.map(|r, key| match key {
                1 => r.uint(1..=0x7fff_ffff_ffff_ffff).map(|value| seq = Some(value)).map(|()| true),
                _ => Ok(false),
            })?;
            r.required(seq)
        })
    })
}

/// Second element of a message with the init server.
fn kind_of(bytes: &[u8]) -> Option<u64> {
    let kind = Reader::new(bytes).array(3..=4, |r, _| {
        r.constant(1)?;
        r.uint(0..=u64::MAX)
    });
    kind.ok()
}

/// Whether a message claims to be T1.
#[must_use]
pub fn is_registration(bytes: &[u8]) -> bool {
    kind_of(bytes) == Some(T1)
}

/// Whether a message claims to be I1C.
#[must_use]
pub fn is_challenge(bytes: &[u8]) -> bool {
    kind_of(bytes) == Some(I1C)
}

/// Whether a message claims to be I1P.
#[must_use]
pub fn is_proof(bytes: &[u8]) -> bool {
    kind_of(bytes) == Some(I1P)
}
