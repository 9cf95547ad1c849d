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
/// Session attributes a tunnelled command may have: `decrypt`, with or without `continueSession`.
const SESSION_ATTRIBUTES: [u8; 2] = [0x20, 0x21];
/// Largest nonce and HMAC of a SHA-256 session.
const DIGEST_SIZE: usize = 32;

/// Whether a tunnelled command may go to the TPM: a well-formed HierarchyChangeAuth of the owner or lockout hierarchy with
/// exactly one authorisation, an HMAC session out of `sessions` (those that the device opened for this exchange).
///
/// # Errors
/// [`Code::Command`] for everything else, so that a taken-over owner side cannot run arbitrary commands.
///
/// # Source
/// Onboarding specification, section 6.5; its other commands belong to later orders.
pub fn check_tunnelled(command: &[u8], sessions: &[u32]) -> Result<(), Code> {
    let frame = TpmCommand::cast(command).map_err(|_| Code::Command)?;
    frame.validate().map_err(|_| Code::Command)?;
    let is_allowed = matches!(frame.tag(), Ok(TpmSt::Sessions))
        && matches!(frame.cc(), Ok(TpmCc::HierarchyChangeAuth))
        && frame.handles().is_ok_and(|handles| {
            [RH_OWNER, RH_LOCKOUT].iter().any(|hierarchy| handles == hierarchy.to_be_bytes())
        })
        && frame.auth_area().is_ok_and(|area| single_session(area, sessions) == Ok(true))
        && frame.parameters().is_ok_and(|parameters| single_value(parameters).is_ok());
    if is_allowed { Ok(()) } else { Err(Code::Command) }
}

/// newAuth alone, a TPM2B. The frame's own validation leaves parameters unread: they may be encrypted.
fn single_value(parameters: &[u8]) -> Result<(), StructureError> {
    let mut reader = Reader::new(parameters);
    reader.tpm2b(DIGEST_SIZE, "newAuth")?;
    reader.finish("parameters")
}

fn single_session(area: &[u8], sessions: &[u32]) -> Result<bool, StructureError> {
    let mut reader = Reader::new(area);
    let handle = reader.u32("sessionHandle")?;
    reader.tpm2b(DIGEST_SIZE, "nonceCaller")?;
    let attributes = reader.u8("sessionAttributes")?;
    let hmac = reader.tpm2b(DIGEST_SIZE, "hmac")?;
    reader.finish("authorizationArea")?;
    Ok(handle.wrapping_shr(24) == HMAC_SESSION
        && sessions.contains(&handle)
        && SESSION_ATTRIBUTES.contains(&attributes)
        && hmac.len() == DIGEST_SIZE)
}
