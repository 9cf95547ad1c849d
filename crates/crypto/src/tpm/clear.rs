//! TPM2_Clear through a salted HMAC session, authorised by the lockout hierarchy: the owner's side and the TPM's side; and
//! by the platform hierarchy, as the device's boot firmware gives it.
//!
//! The session may also audit: then the TPM keeps a digest over command and response, which its identity key signs when it
//! is asked to. Command and response of a Clear have no parameters, so that digest is always the same.

use alloc::vec::Vec;

use super::{
    AuthInForce, TpmSessionKey,
    session::{CONTINUE_SESSION, ST_SESSIONS, keyed, response_hmac, response_of, response_parts},
    tpm2b,
};
use crate::backend::{Active, Backend};

const CC_CLEAR: u32 = 0x0000_0126;
const RH_LOCKOUT: u32 = 0x4000_000a;
const RH_PLATFORM: u32 = 0x4000_000c;
/// Session attribute `audit`.
const AUDIT: u8 = 0x80;
/// The session lives on and has audited the command.
const ATTRIBUTES: u8 = AUDIT | CONTINUE_SESSION;
/// Whole command.
const COMMAND_SIZE: usize = 75;

/// One Clear to be tunnelled.
#[derive(Debug)]
pub struct Clear<'k> {
    /// Session handle at the device.
    pub session_handle: u32,
    /// Session key.
    pub session: &'k TpmSessionKey,
    /// Authorisation in force of the hierarchy: lockout, or platform for [`platform_clear_command`].
    pub in_force: AuthInForce<'k>,
    /// nonceTPM last received.
    pub nonce_tpm: [u8; 16],
    /// Fresh nonceCaller of this command.
    pub nonce_caller: [u8; 16],
}

fn command_hash(hierarchy: u32) -> [u8; 32] {
    Active::sha256(&[&CC_CLEAR.to_be_bytes(), &hierarchy.to_be_bytes()])
}

/// Digest of an audit session in which a Clear by the lockout hierarchy, and nothing else, was executed with rc 0.
///
/// # Source
/// TPM 2.0 Library, Part 1, "audit session": `H(0^32 || cpHash || rpHash)`.
#[must_use]
pub fn clear_audit_digest() -> [u8; 32] {
    let response_hash = Active::sha256(&[&0u32.to_be_bytes(), &CC_CLEAR.to_be_bytes()]);
    Active::sha256(&[&[0; 32], &command_hash(RH_LOCKOUT), &response_hash])
}

/// The complete command, 75 bytes: the session audits it and lives on.
///
/// # Source
/// Onboarding specification, sections 6.5 and 11.
#[must_use]
pub fn clear_command(clear: &Clear<'_>) -> Vec<u8> {
    command_of(RH_LOCKOUT, clear)
}

/// The same, authorised by the platform hierarchy: for boot firmware alone, never tunnelled.
#[must_use]
pub fn platform_clear_command(clear: &Clear<'_>) -> Vec<u8> {
    command_of(RH_PLATFORM, clear)
}

fn command_of(hierarchy: u32, clear: &Clear<'_>) -> Vec<u8> {
    let key = keyed(clear.session, clear.in_force.bytes());
    let hash = command_hash(hierarchy);
    let hmac = Active::hmac_sha256(&key, &[&hash, &clear.nonce_caller, &clear.nonce_tpm, &[ATTRIBUTES]]);
    let mut command = Vec::with_capacity(COMMAND_SIZE);
    command.extend_from_slice(&ST_SESSIONS.to_be_bytes());
    command.extend_from_slice(&[0, 0, 0, 75]);
    command.extend_from_slice(&CC_CLEAR.to_be_bytes());
    command.extend_from_slice(&hierarchy.to_be_bytes());
    command.extend_from_slice(&57u32.to_be_bytes());
    command.extend_from_slice(&clear.session_handle.to_be_bytes());
    tpm2b(&mut command, &clear.nonce_caller);
    command.push(ATTRIBUTES);
    tpm2b(&mut command, &hmac);
    command
}

/// Whether the response proves that this TPM has executed the Clear: rc 0 and an HMAC that only the TPM which decrypted the
/// salt can make. Clear empties the lockout authorisation, so the response is keyed by the session alone.
#[must_use]
pub fn clear_confirmed(session: &TpmSessionKey, nonce_caller: &[u8; 16], response: &[u8]) -> bool {
    is_answer(&keyed(session, &[]), nonce_caller, response)
}

/// Whether the response proves that this TPM has executed [`platform_clear_command`]: a Clear leaves the platform's
/// authorisation as it is.
#[must_use]
pub fn platform_clear_confirmed(clear: &Clear<'_>, response: &[u8]) -> bool {
    is_answer(&keyed(clear.session, clear.in_force.bytes()), &clear.nonce_caller, response)
}

fn is_answer(key: &[u8], nonce_caller: &[u8; 16], response: &[u8]) -> bool {
    let Some((nonce_tpm, attributes, hmac)) = response_parts(response) else { return false };
    let expected = response_hmac(CC_CLEAR, key, (nonce_tpm, nonce_caller), attributes);
    crate::ct_eq(&expected, hmac)
}

/// A received Clear of exactly the shape that [`clear_command`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClearAuth {
    /// Session that authorises it.
    pub session_handle: u32,
    nonce_caller: [u8; 16],
    attributes: u8,
    hmac: [u8; 32],
}

impl ClearAuth {
    /// Parses a command; `None` for any other.
    #[must_use]
    pub fn parse(command: &[u8]) -> Option<Self> {
        let command: &[u8; COMMAND_SIZE] = command.try_into().ok()?;
        let word = |at: usize| Some(u32::from_be_bytes(command.get(at..at + 4)?.try_into().ok()?));
        let shape = command[..2] == ST_SESSIONS.to_be_bytes()
            && word(2)? == 75
            && word(6)? == CC_CLEAR
            && word(10)? == RH_LOCKOUT
            && word(14)? == 57
            && command[22..24] == [0, 16]
            && command[41..43] == [0, 32];
        if !shape {
            return None;
        }
        Some(Self {
            session_handle: word(18)?,
            nonce_caller: command[24..40].try_into().ok()?,
            attributes: command[40],
            hmac: command[43..].try_into().ok()?,
        })
    }

    /// Whether the session lives on after the command.
    #[must_use]
    pub const fn keeps_session(&self) -> bool {
        self.attributes & CONTINUE_SESSION != 0
    }

    /// Whether the session audits the command.
    #[must_use]
    pub const fn is_audited(&self) -> bool {
        self.attributes & AUDIT != 0
    }
}

/// Whether a response says that a Clear was executed; who says so is not checked.
#[must_use]
pub fn is_clear_response(response: &[u8]) -> bool {
    response_parts(response).is_some()
}

/// What a TPM does with the command: checks the HMAC under the authorisation in force and makes the response. `None` when
/// the HMAC does not verify: nothing is to be cleared.
#[must_use]
pub fn execute_clear(
    command: &ClearAuth,
    session: &TpmSessionKey,
    in_force: AuthInForce<'_>,
    nonce_tpm: &[u8; 16],
    next_nonce_tpm: &[u8; 16],
) -> Option<Vec<u8>> {
    let ClearAuth { nonce_caller, attributes, hmac, .. } = command;
    let key = keyed(session, in_force.bytes());
    let expected =
        Active::hmac_sha256(&key, &[&command_hash(RH_LOCKOUT), nonce_caller, nonce_tpm, &[*attributes]]);
    if !crate::ct_eq(&expected, hmac) {
        return None;
    }
    let hmac = response_hmac(CC_CLEAR, &keyed(session, &[]), (next_nonce_tpm, nonce_caller), *attributes);
    Some(response_of(next_nonce_tpm, *attributes, &hmac))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, role::AuthValue};

    fn key(byte: u8) -> TpmSessionKey {
        Key::take(&mut [byte; 32])
    }

    #[test]
    fn a_clear_is_confirmed_by_the_tpm_of_its_session_alone_under_the_empty_authorisation() {
        let (session, other) = (key(1), key(2));
        let auth: Key<AuthValue, 32> = Key::take(&mut [7; 32]);
        let in_force = || AuthInForce::Value(&auth);
        let clear = |in_force| {
            clear_command(&Clear {
                session_handle: 0x0200_0001,
                session: &session,
                in_force,
                nonce_tpm: [3; 16],
                nonce_caller: [4; 16],
            })
        };
        let command = ClearAuth::parse(&clear(in_force())).expect("own shape");
        assert!(command.keeps_session() && command.is_audited());
        let response = execute_clear(&command, &session, in_force(), &[3; 16], &[5; 16]).expect("authorised");
        assert!(clear_confirmed(&session, &[4; 16], &response));
        assert!(is_clear_response(&response));
        assert!(!clear_confirmed(&other, &[4; 16], &response), "another TPM");
        assert!(!clear_confirmed(&session, &[6; 16], &response), "an earlier command");
        for at in 0..response.len() {
            let mut forged = response.clone();
            forged[at] ^= 1;
            assert!(!clear_confirmed(&session, &[4; 16], &forged), "byte {at}");
        }
        assert_eq!(execute_clear(&command, &session, AuthInForce::Empty, &[3; 16], &[5; 16]), None);
        assert_eq!(execute_clear(&command, &session, in_force(), &[9; 16], &[5; 16]), None, "replayed");
        assert_eq!(ClearAuth::parse(&clear(in_force())[..74]), None);
    }

    #[test]
    fn the_audit_digest_is_the_one_that_a_tpm_signs() {
        // From swtpm 0.7.1: TPM2_GetSessionAuditDigest after a Clear.
        let hex: alloc::string::String =
            clear_audit_digest().iter().map(|byte| alloc::format!("{byte:02x}")).collect();
        assert_eq!(hex, "b3021f3c782f662901c9af867163dabbb3b58dae0634df6d73816be49d2b2b73");
    }
}
