//! Messages C1 to C8 between device and endpoint manager, the error message, and the transcript.

pub(super) mod body;
pub(super) mod payload;

pub use body::{EvidenceBody, HelloBody, InstalledBody, ResponsesBody};
pub use payload::{
    ChallengeBody, ChallengePayload, Config, Configuration, DeliveredObject, FinishedPayload, OwnPayload,
    config_digest,
};

use alloc::vec::Vec;

use gridseal_crypto::{Key, role::Seal, sha256, tpm::EndorsementKey};
use gridseal_types::{Code, Digest, Kid, Nonce, Sid};

use super::wire::{FormatError, Read, Reader, encode};

/// Suite 1: P-256 endorsement key, ES256, SHA-256, AES-128-CFB TPM wrap, AES-256-GCM seal.
pub const SUITE_P256: u16 = 1;
/// Suite 2: RSA 2048 endorsement key, otherwise as suite 1.
pub const SUITE_RSA_2048: u16 = 2;
/// Largest C1 in bytes.
pub const HELLO_SIZE_MAX: usize = 16 * 1024;
/// Largest C3 in bytes.
pub const EVIDENCE_SIZE_MAX: usize = 528 * 1024;
/// Largest other message in bytes.
pub const MESSAGE_SIZE_MAX: usize = 64 * 1024;

/// The suite of an endorsement key (TPMT_PUBLIC): a device offers this one and no other.
///
/// # Errors
/// As [`crate::tpm::endorsement_key`].
pub fn suite_of(ek_pub: &[u8]) -> Result<u16, Code> {
    Ok(match crate::tpm::endorsement_key(ek_pub)? {
        EndorsementKey::P256(_) => SUITE_P256,
        EndorsementKey::Rsa2048(_) => SUITE_RSA_2048,
    })
}

/// Number of a message in a session: 1 is C1, 8 is C8. Odd ones come from the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step(u8);

impl Step {
    /// C1: hello of the device.
    pub const HELLO: Self = Self(1);
    /// C2: challenge of the owner.
    pub const CHALLENGE: Self = Self(2);
    /// C3: evidence.
    pub const EVIDENCE: Self = Self(3);
    /// C4: ownership commands.
    pub const COMMANDS: Self = Self(4);
    /// C5: responses of the TPM.
    pub const RESPONSES: Self = Self(5);
    /// C6: configuration.
    pub const PROVISION: Self = Self(6);
    /// C7: installed.
    pub const INSTALLED: Self = Self(7);
    /// C8: done.
    pub const DONE: Self = Self(8);

    /// Number on the wire and last byte of the seal's nonce.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Largest whole message of this number in bytes.
    #[must_use]
    pub const fn size_max(self) -> usize {
        match self.0 {
            1 => HELLO_SIZE_MAX,
            3 => EVIDENCE_SIZE_MAX,
            _ => MESSAGE_SIZE_MAX,
        }
    }

    const fn transcript_label(self) -> &'static [u8] {
        match self.0 {
            1 => b"gso1-c1",
            2 => b"gso1-c2",
            3 => b"gso1-c3",
            4 => b"gso1-c4",
            5 => b"gso1-c5",
            6 => b"gso1-c6",
            7 => b"gso1-c7",
            _ => b"gso1-c8",
        }
    }
}

/// Running hash over the complete wire messages of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcript(Digest);

impl Transcript {
    /// `th_0 = SHA-256("GSO-v1")`.
    #[must_use]
    pub fn new() -> Self {
        Self(Digest(sha256(&[b"GSO-v1"])))
    }

    /// Continues from a stored value.
    #[must_use]
    pub const fn resume(value: Digest) -> Self {
        Self(value)
    }

    /// `th_n = SHA-256(th_{n-1} || type_n || wire_n)`.
    #[must_use]
    pub fn after(self, step: Step, wire: &[u8]) -> Self {
        Self(Digest(sha256(&[self.0.as_bytes(), step.transcript_label(), wire])))
    }

    /// The current value.
    #[must_use]
    pub const fn value(self) -> Digest {
        self.0
    }
}

impl Default for Transcript {
    fn default() -> Self {
        Self::new()
    }
}

/// qualifyingData of a TPM statement: `SHA-256("gs-qd-v1" || u8(purpose) || x)`, so that one statement serves one
/// purpose. In C3 x is th_2 and the purposes are 1 storage key, 2 TLS key, 3 identity key, 4 quote.
#[must_use]
pub fn qualifying(purpose: u8, x: &Digest) -> Digest {
    Digest(sha256(&[b"gs-qd-v1", &[purpose], x.as_bytes()]))
}

/// Session identifier of a C1.
#[must_use]
pub fn sid_of(c1: &[u8]) -> Sid {
    let hash = sha256(&[c1]);
    Sid(*hash.first_chunk().expect("a hash has 32 bytes"))
}

/// Envelope of a message, its box unopened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope<'b> {
    /// C1.
    Hello {
        /// Pseudonym.
        kid: Kid,
        /// Fresh value of the device.
        m: Nonce,
        /// Sealed body.
        sealed: &'b [u8],
    },
    /// C2.
    Challenge {
        /// Session.
        sid: Sid,
        /// Fresh value of the owner.
        m_em: Nonce,
        /// Sealed body.
        sealed: &'b [u8],
    },
    /// C3 to C8.
    Message {
        /// Which.
        step: Step,
        /// Session.
        sid: Sid,
        /// Sealed body.
        sealed: &'b [u8],
    },
    /// The uniform error: unauthenticated, only ever a reason to wait.
    Error {
        /// 28 busy or 30 refused.
        code: Code,
        /// Seconds to wait, at most a day.
        retry_after_s: u32,
    },
}

const BOX_SIZE_MIN: usize = 16;
const BOX_SIZE_MAX: usize = 540_000;

/// The sealed box at the end of an envelope, unopened.
pub(super) fn read_box<'b>(r: &mut Reader<'b>) -> Read<&'b [u8]> {
    r.bytes(BOX_SIZE_MIN..=BOX_SIZE_MAX)
}

impl<'b> Envelope<'b> {
    /// Decodes an envelope.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(bytes: &'b [u8]) -> Read<Self> {
        Reader::whole(bytes, |r| {
            r.array(4..=5, |r, count| {
                r.constant(1)?;
                match (r.uint(0..=8)?, count) {
                    (1, 5) => {
                        Ok(Self::Hello { kid: Kid(r.fixed()?), m: Nonce(r.fixed()?), sealed: read_box(r)? })
                    }
                    (2, 5) => Ok(Self::Challenge {
                        sid: Sid(r.fixed()?),
                        m_em: Nonce(r.fixed()?),
                        sealed: read_box(r)?,
                    }),
                    (step @ 3..=8, 4) => Ok(Self::Message {
                        step: Step(u8::try_from(step).unwrap_or(u8::MAX)),
                        sid: Sid(r.fixed()?),
                        sealed: read_box(r)?,
                    }),
                    (0, 5) => {
                        r.bytes(16..=32)?;
                        let code = match r.uint(28..=30)? {
                            28 => Code::Busy,
                            30 => Code::Refused,
                            _ => return r.fail("code not allowed in clear"),
                        };
                        let wait = r.uint(0..=86_400)?;
                        Ok(Self::Error { code, retry_after_s: u32::try_from(wait).unwrap_or(86_400) })
                    }
                    _ => r.fail("unknown message"),
                }
            })
        })
    }

    /// The pseudonym or session that a message names, for limits and look-up before anything is opened.
    #[must_use]
    pub const fn step(&self) -> Option<Step> {
        match self {
            Self::Hello { .. } => Some(Step::HELLO),
            Self::Challenge { .. } => Some(Step::CHALLENGE),
            Self::Message { step, .. } => Some(*step),
            Self::Error { .. } => None,
        }
    }
}

/// The uniform error message. `id` is the kid or sid of the refused message, else 16 zero bytes.
#[must_use]
pub fn encode_error(id: &[u8; 16], code: Code, retry_after_s: u32) -> Vec<u8> {
    let code = if matches!(code, Code::Busy) { Code::Busy } else { Code::Refused };
    encode(|w| {
        w.array(5).uint(1u8).uint(0u8).bytes(id).uint(code.number()).uint(retry_after_s.min(86_400));
    })
}

/// The identifier to put into an error about `wire`.
#[must_use]
pub fn id_of(wire: &[u8]) -> [u8; 16] {
    match Envelope::decode(wire) {
        Ok(Envelope::Hello { kid, .. }) => kid.0,
        Ok(Envelope::Challenge { sid, .. } | Envelope::Message { sid, .. }) => sid.0,
        _ => [0; 16],
    }
}

/// Associated data: the deterministic array of the envelope's elements before the box. An array head counts all its
/// elements, so it is written for the shorter array.
fn aad_hello(kid: &Kid, m: &Nonce) -> Vec<u8> {
    encode(|w| {
        w.array(4).uint(1u8).uint(1u8).bytes(kid.as_bytes()).bytes(m.as_bytes());
    })
}

fn aad_challenge(sid: &Sid, m_em: &Nonce) -> Vec<u8> {
    encode(|w| {
        w.array(4).uint(1u8).uint(2u8).bytes(sid.as_bytes()).bytes(m_em.as_bytes());
    })
}

fn aad_message(step: Step, sid: &Sid) -> Vec<u8> {
    encode(|w| {
        w.array(3).uint(1u8).uint(step.0).bytes(sid.as_bytes());
    })
}

/// Seals C1.
///
/// # Errors
/// [`Code::Size`] beyond the cipher's limits.
pub fn seal_hello(key: &Key<Seal, 32>, kid: &Kid, m: &Nonce, body: &[u8]) -> Result<Vec<u8>, Code> {
    let sealed = key.seal(1, &aad_hello(kid, m), body).map_err(|_| Code::Size)?;
    Ok(encode(|w| {
        w.array(5).uint(1u8).uint(1u8).bytes(kid.as_bytes()).bytes(m.as_bytes()).bytes(&sealed);
    }))
}

/// Seals C2.
///
/// # Errors
/// [`Code::Size`] beyond the cipher's limits.
pub fn seal_challenge(key: &Key<Seal, 32>, sid: &Sid, m_em: &Nonce, body: &[u8]) -> Result<Vec<u8>, Code> {
    let sealed = key.seal(2, &aad_challenge(sid, m_em), body).map_err(|_| Code::Size)?;
    Ok(encode(|w| {
        w.array(5).uint(1u8).uint(2u8).bytes(sid.as_bytes()).bytes(m_em.as_bytes()).bytes(&sealed);
    }))
}

/// Seals C3 to C8.
///
/// # Errors
/// [`Code::Size`] beyond the cipher's limits.
pub fn seal_message(key: &Key<Seal, 32>, step: Step, sid: &Sid, body: &[u8]) -> Result<Vec<u8>, Code> {
    let sealed = key.seal(step.0, &aad_message(step, sid), body).map_err(|_| Code::Size)?;
    Ok(encode(|w| {
        w.array(4).uint(1u8).uint(step.0).bytes(sid.as_bytes()).bytes(&sealed);
    }))
}

/// Opens the box of an envelope.
///
/// # Errors
/// [`Code::Grant`] when the seal does not open.
pub fn open(key: &Key<Seal, 32>, envelope: &Envelope<'_>) -> Result<Vec<u8>, Code> {
    let opened = match envelope {
        Envelope::Hello { kid, m, sealed } => key.open(1, &aad_hello(kid, m), sealed),
        Envelope::Challenge { sid, m_em, sealed } => key.open(2, &aad_challenge(sid, m_em), sealed),
        Envelope::Message { step, sid, sealed } => key.open(step.0, &aad_message(*step, sid), sealed),
        Envelope::Error { .. } => return Err(Code::Format),
    };
    opened.map_err(|_| Code::Grant)
}

/// Decodes, re-encodes and compares: for the fuzzer.
pub fn fuzz_entry(data: &[u8]) {
    let _: Result<Envelope<'_>, FormatError> = Envelope::decode(data);
    if let Ok(body) = HelloBody::decode(data) {
        assert_eq!(HelloBody::decode(&body.encode()), Ok(body));
    }
    if let Ok(body) = EvidenceBody::decode(data) {
        assert_eq!(EvidenceBody::decode(&body.encode()), Ok(body));
    }
    if let Ok(body) = InstalledBody::decode(data) {
        assert_eq!(InstalledBody::decode(&body.encode()), Ok(body));
    }
    if let Ok(body) = ResponsesBody::decode(data) {
        assert_eq!(ResponsesBody::decode(&body.encode()), Ok(body));
    }
    if let Ok(payload) = ChallengePayload::decode(data) {
        assert_eq!(ChallengePayload::decode(&payload.encode()), Ok(payload));
    }
    if let Ok(payload) = Configuration::decode(data) {
        assert_eq!(Configuration::decode(&payload.encode()), Ok(payload));
    }
    if let Ok(payload) = OwnPayload::decode(data) {
        assert_eq!(OwnPayload::decode(&payload.encode()), Ok(payload));
    }
}
