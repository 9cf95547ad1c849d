//! Orders to a device that has an owner: their envelopes, seals, and signed payload.
//!
//! An order is signed by K_config under a delegation of the current owner, and sealed under N_e. It reaches the device
//! through the head-end, or through the config server while the device has no TLS key; both carry it unread. A result names
//! no device: an owner that draws `seq` for all its devices from one rising counter finds the device by it.
//!
//! R, R2 and R3 are fresh random values, so that a restored backup never repeats a (key, nonce) pair (rule S1).
//!
//! # Source
//! Onboarding specification, section 18.6.

mod answer;
mod task;

pub use answer::{Answer, RenewedStorage, ResultBody};
pub use task::{Kind, Task};

use alloc::vec::Vec;

use gridseal_crypto::{Key, role::Seal, sha256};
use gridseal_types::{Code, Digest, EkName, Epoch, Kid, Nonce, OrderSeq, UtcTime};

use super::{
    document::read_name,
    session::{EVIDENCE_SIZE_MAX, MESSAGE_SIZE_MAX, read_box},
    wire::{Read, Reader, encode},
};

/// Largest order in bytes.
pub const ORDER_SIZE_MAX: usize = MESSAGE_SIZE_MAX;
/// Largest result in bytes: one with logs.
pub const RESULT_SIZE_MAX: usize = EVIDENCE_SIZE_MAX;
/// Largest question for orders in bytes.
pub const POLL_SIZE_MAX: usize = 256;
/// Largest sequence number.
const SEQ_MAX: u64 = i64::MAX.unsigned_abs();

/// qualifyingData of the quote of an attest order; x is always [`order_digest`].
pub const QUOTE_PURPOSE: u8 = 5;
/// qualifyingData of the certification of a renewed TLS key.
pub const RENEWED_TLS_PURPOSE: u8 = 6;
/// qualifyingData of the quote by the identity key that may accompany the end of a decommissioning.
pub const IDENTITY_QUOTE_PURPOSE: u8 = 7;
/// qualifyingData of what the identity key signs about the session of a Clear.
pub const AUDIT_PURPOSE: u8 = 9;
/// qualifyingData of the certification of a renewed storage key.
pub const RENEWED_STORAGE_PURPOSE: u8 = 8;

/// What names an order in its result and in TPM statements: SHA-256 of its payload.
#[must_use]
pub fn order_digest(payload: &[u8]) -> Digest {
    Digest(sha256(&[payload]))
}

/// Envelope of an order, a result or a poll, its box unopened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope<'b> {
    /// From the owner.
    Order {
        /// Sequence number.
        seq: OrderSeq,
        /// R: fresh value of the owner.
        r: Nonce,
        /// Sealed [`OrderBody`].
        sealed: &'b [u8],
    },
    /// From the device.
    Result {
        /// Sequence number of the order that is answered.
        seq: OrderSeq,
        /// R2: fresh value of the device.
        r2: Nonce,
        /// Sealed [`ResultBody`].
        sealed: &'b [u8],
    },
    /// Question of the device for its next order.
    Poll {
        /// Pseudonym.
        kid: Kid,
        /// R3: fresh value of the device.
        r3: Nonce,
        /// Sealed [`PollBody`].
        sealed: &'b [u8],
    },
}

const ORDER: u8 = 9;
const RESULT: u8 = 10;
const POLL: u8 = 11;

impl<'b> Envelope<'b> {
    /// Decodes an envelope.
    ///
    /// # Errors
    /// [`Code::Size`] for one larger than its kind may be, [`Code::Format`].
    pub fn decode(bytes: &'b [u8]) -> Result<Self, Code> {
        if bytes.len() > RESULT_SIZE_MAX {
            return Err(Code::Size);
        }
        let envelope = Reader::whole(bytes, |r| {
            r.array(5..=5, |r, _| {
                r.constant(1)?;
                Ok(match r.uint(u64::from(ORDER)..=u64::from(POLL))? {
                    9 => Self::Order { seq: read_seq(r)?, r: Nonce(r.fixed()?), sealed: read_box(r)? },
                    10 => Self::Result { seq: read_seq(r)?, r2: Nonce(r.fixed()?), sealed: read_box(r)? },
                    _ => Self::Poll { kid: Kid(r.fixed()?), r3: Nonce(r.fixed()?), sealed: read_box(r)? },
                })
            })
        })?;
        let most = match envelope {
            Self::Order { .. } => ORDER_SIZE_MAX,
            Self::Result { .. } => RESULT_SIZE_MAX,
            Self::Poll { .. } => POLL_SIZE_MAX,
        };
        if bytes.len() > most { Err(Code::Size) } else { Ok(envelope) }
    }

    /// Opens the box.
    ///
    /// # Errors
    /// [`Code::Grant`] when the seal does not open.
    pub fn open(&self, key: &Key<Seal, 32>) -> Result<Vec<u8>, Code> {
        let opened = match self {
            Self::Order { seq, r, sealed } => key.open(ORDER, &aad_numbered(ORDER, *seq, r), sealed),
            Self::Result { seq, r2, sealed } => key.open(RESULT, &aad_numbered(RESULT, *seq, r2), sealed),
            Self::Poll { kid, r3, sealed } => key.open(POLL, &aad_poll(kid, r3), sealed),
        };
        opened.map_err(|_| Code::Grant)
    }
}

fn read_seq(r: &mut Reader<'_>) -> Read<OrderSeq> {
    r.uint(1..=SEQ_MAX)
}

/// Associated data: the deterministic array of the envelope's elements before the box.
fn aad_numbered(number: u8, seq: OrderSeq, fresh: &Nonce) -> Vec<u8> {
    encode(|w| {
        w.array(4).uint(1u8).uint(number).uint(seq).bytes(fresh.as_bytes());
    })
}

fn aad_poll(kid: &Kid, r3: &Nonce) -> Vec<u8> {
    encode(|w| {
        w.array(4).uint(1u8).uint(POLL).bytes(kid.as_bytes()).bytes(r3.as_bytes());
    })
}

fn seal_numbered(
    key: &Key<Seal, 32>,
    number: u8,
    (seq, fresh): (OrderSeq, &Nonce),
    body: &[u8],
) -> Result<Vec<u8>, Code> {
    let sealed = key.seal(number, &aad_numbered(number, seq, fresh), body).map_err(|_| Code::Size)?;
    Ok(encode(|w| {
        w.array(5).uint(1u8).uint(number).uint(seq).bytes(fresh.as_bytes()).bytes(&sealed);
    }))
}

/// Seals an order: `[1, 9, seq, R, box]`. The key is that of `seq` and R.
///
/// # Errors
/// [`Code::Size`] beyond the cipher's limits.
pub fn seal_order(key: &Key<Seal, 32>, seq: OrderSeq, r: &Nonce, body: &OrderBody) -> Result<Vec<u8>, Code> {
    seal_numbered(key, ORDER, (seq, r), &body.encode())
}

/// Seals a result: `[1, 10, seq, R2, box]`. The key is that of `seq`, the order's R, and R2.
///
/// # Errors
/// [`Code::Size`] beyond the cipher's limits.
pub fn seal_result(
    key: &Key<Seal, 32>,
    seq: OrderSeq,
    r2: &Nonce,
    body: &ResultBody,
) -> Result<Vec<u8>, Code> {
    seal_numbered(key, RESULT, (seq, r2), &body.encode())
}

/// Seals a question for orders: `[1, 11, kid, R3, box]`. The key is that of R3.
///
/// # Errors
/// [`Code::Size`] beyond the cipher's limits.
pub fn seal_poll(key: &Key<Seal, 32>, kid: &Kid, r3: &Nonce, body: &PollBody) -> Result<Vec<u8>, Code> {
    let sealed = key.seal(POLL, &aad_poll(kid, r3), &body.encode()).map_err(|_| Code::Size)?;
    Ok(encode(|w| {
        w.array(5).uint(1u8).uint(POLL).bytes(kid.as_bytes()).bytes(r3.as_bytes()).bytes(&sealed);
    }))
}

/// Body of an order: signed payload and the delegation of its signer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderBody {
    /// Encoded COSE_Sign1 of an [`Order`].
    pub signed: Vec<u8>,
    /// Encoded COSE_Sign1 of the delegation.
    pub delegation: Vec<u8>,
}

impl OrderBody {
    /// Encoded body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.array(2).bytes(&self.signed).bytes(&self.delegation);
        })
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        Reader::whole(bytes, |r| {
            r.array(2..=2, |r, _| {
                Ok(Self {
                    signed: r.bytes(1..=ORDER_SIZE_MAX)?.to_vec(),
                    delegation: r.bytes(1..=1_024)?.to_vec(),
                })
            })
        })
    }
}

/// Body of a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollBody {
    /// Sequence number that the device accepted last, 0 before the first.
    pub last_seq: OrderSeq,
}

impl PollBody {
    /// Encoded body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(1).key(1).uint(self.last_seq);
        })
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let mut last_seq = None;
        Reader::whole(bytes, |r| {
            r.map(|r, key| match key {
                1 => r.uint(0..=SEQ_MAX).map(|seq| last_seq = Some(seq)).map(|()| true),
                _ => Ok(false),
            })?;
            Ok(Self { last_seq: r.required(last_seq)? })
        })
    }
}

/// What K_config signs: an order for one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Device.
    pub ek_name: EkName,
    /// Epoch.
    pub epoch: Epoch,
    /// Sequence number, above every earlier one of the epoch.
    pub seq: OrderSeq,
    /// What is to be done.
    pub task: Task,
    /// For the floor clock.
    pub now: UtcTime,
}

impl Order {
    /// Encoded payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(6).key(1).bytes(self.ek_name.as_bytes()).key(2).uint(self.epoch).key(3).uint(self.seq);
            w.key(4).uint(self.task.kind().number()).key(5);
            self.task.write(w);
            w.key(6).uint(self.now.0);
        })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut ek_name, mut epoch, mut seq) = (None, None, None);
        let (mut kind, mut task, mut now) = (None, None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => ek_name = Some(read_name(r)?),
                    2 => epoch = Some(r.uint32()?),
                    3 => seq = Some(read_seq(r)?),
                    4 => kind = Some(Kind::read(r)?),
                    // Keys ascend, so the kind is known before the body.
                    5 => task = Some(Task::read(r, r.required(kind)?)?),
                    6 => now = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self {
                ek_name: r.required(ek_name)?,
                epoch: r.required(epoch)?,
                seq: r.required(seq)?,
                task: r.required(task)?,
                now: r.required(now)?,
            })
        })
    }
}

#[cfg(test)]
mod tests;
