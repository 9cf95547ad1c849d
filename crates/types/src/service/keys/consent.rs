//! Acts that need the consent of two persons: what they sign.

use alloc::{string::String, vec::Vec};

use super::Bytes;
use crate::{N16, UtcTime};

/// Longest time between the proposal of an act and its execution, seconds: 72 hours.
///
/// # Source
/// Key service specification, section 15.
pub const CONSENT_PERIOD_S: u64 = 72 * 3_600;

/// What the signature of a consent begins with, so that it is good for nothing else.
const LABEL: &[u8] = b"gridseal consent v1\0";

/// An act as it is proposed.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct ProposedAct {
    /// Random, so that it is carried out once.
    #[n(0)]
    pub id: N16,
    /// Not carried out after this time.
    #[n(1)]
    pub not_after: UtcTime,
    /// Why, for the audit log.
    #[n(2)]
    pub reason: String,
    /// The encoded [`super::KeyRequest`], without consents in it.
    #[n(3)]
    pub request: Bytes,
    /// Of an act that gives the site another epoch: the one in which it was proposed, and the one it leads to. Carried out
    /// only if both are so.
    #[cbor(n(4), default)]
    pub epochs: Option<(u32, u32)>,
}

impl ProposedAct {
    /// What a person signs: a label and the encoded act.
    #[must_use]
    pub fn to_be_signed(encoded: &[u8]) -> Vec<u8> {
        [LABEL, encoded].concat()
    }
}

/// One person's consent to an act.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Consent {
    /// Who, by the name in the key service's configuration.
    #[n(0)]
    pub by: String,
    /// ECDSA P-256 with SHA-256 over [`ProposedAct::to_be_signed`], r || s.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: [u8; 64],
}

/// An act with the consents to it.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct ConsentedAct {
    /// The encoded [`ProposedAct`], byte for byte as it was signed.
    #[n(0)]
    pub act: Bytes,
    /// Consents.
    #[n(1)]
    pub consents: Vec<Consent>,
}
