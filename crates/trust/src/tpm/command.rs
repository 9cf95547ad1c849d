//! The allow-list of commands that an owner may run on a device's TPM.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use gridseal_types::Code;
use tpm2_protocol::{
    data::{TpmCc, TpmSt},
    frame::TpmCommand,
};

use super::{RH_LOCKOUT, RH_OWNER, Reader, StructureError};

/// First byte of the handle of an HMAC session.
const HMAC_SESSION: u32 = 0x02;
/// Session attributes of HierarchyChangeAuth: `decrypt`, with or without `continueSession`.
const CHANGE_ATTRIBUTES: [u8; 2] = [0x20, 0x21];
/// Session attributes of Clear, which has no parameter: with or without `continueSession` and `audit`.
const CLEAR_ATTRIBUTES: [u8; 4] = [0x00, 0x01, AUDITED, AUDITED | 0x01];
/// Session attribute `audit`.
const AUDITED: u8 = 0x80;
/// Largest nonce and HMAC of a SHA-256 session.
const DIGEST_SIZE: usize = 32;

/// What a tunnelled command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tunnelled {
    /// HierarchyChangeAuth of the owner or the lockout hierarchy.
    ChangeAuth,
    /// Clear by the lockout hierarchy.
    Clear {
        /// The session, when it lives on and has audited the command: its digest can then be signed.
        audited: Option<u32>,
    },
}

/// What a tunnelled command is, when it may go to the TPM: a well-formed HierarchyChangeAuth of the owner or lockout
/// hierarchy, or a Clear by the lockout hierarchy, with exactly one authorisation, an HMAC session out of `sessions` (those
/// that the device opened for this exchange). Whether a Clear is in turn the caller knows.
///
/// # Errors
/// [`Code::Command`] for everything else, so that a taken-over owner side cannot run arbitrary commands. ClearControl is
/// not on the list: it could make every later Clear impossible.
///
/// # Source
/// Onboarding specification, section 6.5. Its lock-out parameters and EvictControl are not offered yet.
pub fn check_tunnelled(command: &[u8], sessions: &[u32]) -> Result<Tunnelled, Code> {
    let frame = TpmCommand::cast(command).map_err(|_| Code::Command)?;
    frame.validate().map_err(|_| Code::Command)?;
    if !matches!(frame.tag(), Ok(TpmSt::Sessions)) {
        return Err(Code::Command);
    }
    let hierarchies: &[u32] = match frame.cc() {
        Ok(TpmCc::HierarchyChangeAuth) => &[RH_OWNER, RH_LOCKOUT],
        Ok(TpmCc::Clear) => &[RH_LOCKOUT],
        _ => return Err(Code::Command),
    };
    let handles = frame.handles().map_err(|_| Code::Command)?;
    let parameters = frame.parameters().map_err(|_| Code::Command)?;
    let area = frame.auth_area().map_err(|_| Code::Command)?;
    let session = single_session(area, sessions).map_err(|_| Code::Command)?.ok_or(Code::Command)?;
    if !hierarchies.iter().any(|hierarchy| handles == hierarchy.to_be_bytes()) {
        return Err(Code::Command);
    }
    match frame.cc() {
        Ok(TpmCc::HierarchyChangeAuth) => {
            let fits = CHANGE_ATTRIBUTES.contains(&session.attributes) && single_value(parameters).is_ok();
            if fits { Ok(Tunnelled::ChangeAuth) } else { Err(Code::Command) }
        }
        _ if CLEAR_ATTRIBUTES.contains(&session.attributes) && parameters.is_empty() => {
            let is_kept = session.attributes == AUDITED | 0x01;
            Ok(Tunnelled::Clear { audited: is_kept.then_some(session.handle) })
        }
        _ => Err(Code::Command),
    }
}

/// newAuth alone, a TPM2B. The frame's own validation leaves parameters unread: they may be encrypted.
fn single_value(parameters: &[u8]) -> Result<(), StructureError> {
    let mut reader = Reader::new(parameters);
    reader.tpm2b(DIGEST_SIZE, "newAuth")?;
    reader.finish("parameters")
}

struct Session {
    handle: u32,
    attributes: u8,
}

/// The one session of a command, when it is an HMAC session out of `sessions`.
fn single_session(area: &[u8], sessions: &[u32]) -> Result<Option<Session>, StructureError> {
    let mut reader = Reader::new(area);
    let handle = reader.u32("sessionHandle")?;
    reader.tpm2b(DIGEST_SIZE, "nonceCaller")?;
    let attributes = reader.u8("sessionAttributes")?;
    let hmac = reader.tpm2b(DIGEST_SIZE, "hmac")?;
    reader.finish("authorizationArea")?;
    let fits =
        handle.wrapping_shr(24) == HMAC_SESSION && sessions.contains(&handle) && hmac.len() == DIGEST_SIZE;
    Ok(fits.then_some(Session { handle, attributes }))
}
