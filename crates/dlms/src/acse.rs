//! Association control: the messages that open and close an association, and what they negotiate.

mod aare;
mod aarq;
mod conformance;
mod initiate;
mod name;
mod release;

pub use aare::{Aare, AssociateResult, Diagnostic};
pub use aarq::Aarq;
pub use conformance::Conformance;
pub use initiate::{
    DLMS_VERSION, DedicatedKeyBytes, InitiateError, InitiateErrorKind, InitiateRequest, InitiateResponse,
    MAX_PDU_MIN, VAA_LOGICAL_NAME,
};
pub use name::{ContextName, Mechanism};
pub use release::{RELEASE_NORMAL, Release};

/// Tag of [`Aarq`].
pub const AARQ: u8 = 0x60;
/// Tag of [`Aare`].
pub const AARE: u8 = 0x61;
/// Tag of a [`Release`] request.
pub const RLRQ: u8 = 0x62;
/// Tag of a [`Release`] response.
pub const RLRE: u8 = 0x63;

/// Shortest challenge that is accepted, bytes.
pub const CHALLENGE_SIZE_MIN: usize = 8;
/// Longest challenge, bytes.
pub const CHALLENGE_SIZE_MAX: usize = 64;
