//! Tunnelled commands: what the software root answers in place of a TPM.

use alloc::vec::Vec;

use gridseal_crypto::{
    random,
    tpm::{AuthInForce, ClearAuth, CommandAuth, clear_audit_digest, execute_change_auth, execute_clear},
};

use super::{RootError, SoftwareRoot, tpm::RH_LOCKOUT, tpm::RH_OWNER};

/// TPM_RC_COMMAND_CODE.
const COMMAND_CODE: u32 = 0x143;
/// TPM_RC_REFERENCE_S0: the first session does not exist.
const REFERENCE_S0: u32 = 0x918;
/// TPM_RC_BAD_AUTH of session 1: wrong, not counted.
const BAD_AUTH_S1: u32 = 0x9a2;
/// TPM_RC_AUTH_FAIL of session 1: wrong and counted.
const AUTH_FAIL_S1: u32 = 0x98e;
/// TPM_RC_LOCKOUT.
const LOCKOUT: u32 = 0x921;
/// TPM_RC_VALUE of handle 1.
const VALUE_H1: u32 = 0x184;

fn error_response(rc: u32) -> Vec<u8> {
    let mut response = [0x80, 0x01, 0, 0, 0, 10].to_vec();
    response.extend_from_slice(&rc.to_be_bytes());
    response
}

impl SoftwareRoot {
    /// Runs commands in order, stops after the first that fails and then closes the sessions.
    pub(super) fn execute(&mut self, commands: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, RootError> {
        let mut responses = Vec::with_capacity(commands.len());
        for command in commands {
            match self.execute_one(command)? {
                Ok(response) => responses.push(response),
                Err(rc) => {
                    responses.push(error_response(rc));
                    self.volatile.sessions.clear();
                    break;
                }
            }
        }
        Ok(responses)
    }

    /// The response, or the response code of a TPM that refuses.
    fn execute_one(&mut self, command: &[u8]) -> Result<Result<Vec<u8>, u32>, RootError> {
        if let Some(clear) = ClearAuth::parse(command) {
            return self.execute_clear(&clear);
        }
        let kept = self.kept.as_mut().ok_or(RootError::Unsuitable)?;
        let Some(command) = CommandAuth::parse(command) else { return Ok(Err(COMMAND_CODE)) };
        let position =
            self.volatile.sessions.iter().position(|session| session.handle == command.session_handle);
        let Some(position) = position else { return Ok(Err(REFERENCE_S0)) };
        let Some(session) = self.volatile.sessions.get_mut(position) else { return Ok(Err(REFERENCE_S0)) };
        let slot = match command.hierarchy {
            RH_OWNER => &mut kept.owner_auth,
            RH_LOCKOUT if kept.is_locked_out => return Ok(Err(LOCKOUT)),
            RH_LOCKOUT => &mut kept.lockout_auth,
            _ => return Ok(Err(VALUE_H1)),
        };
        let in_force = slot.as_ref().map_or(AuthInForce::Empty, AuthInForce::Value);
        let next_nonce = random::<16>(&mut *self.rng).map_err(|_| RootError::Rng)?;
        let done = execute_change_auth(&command, &session.key, in_force, &session.nonce_tpm, &next_nonce);
        let Some((new, response)) = done else {
            // One wrong lockout authorisation disables the lockout hierarchy; a wrong owner authorisation is not counted.
            if command.hierarchy == RH_LOCKOUT {
                kept.is_locked_out = true;
                return Ok(Err(AUTH_FAIL_S1));
            }
            return Ok(Err(BAD_AUTH_S1));
        };
        *slot = Some(new);
        if command.keeps_session() {
            session.nonce_tpm = next_nonce;
        } else {
            self.volatile.sessions.remove(position);
        }
        Ok(Ok(response))
    }

    fn execute_clear(&mut self, command: &ClearAuth) -> Result<Result<Vec<u8>, u32>, RootError> {
        let kept = self.kept.as_mut().ok_or(RootError::Unsuitable)?;
        let position =
            self.volatile.sessions.iter().position(|session| session.handle == command.session_handle);
        let session = position.and_then(|at| self.volatile.sessions.get_mut(at));
        let (Some(position), Some(session)) = (position, session) else { return Ok(Err(REFERENCE_S0)) };
        if kept.is_locked_out {
            return Ok(Err(LOCKOUT));
        }
        let in_force = kept.lockout_auth.as_ref().map_or(AuthInForce::Empty, AuthInForce::Value);
        let next_nonce = random::<16>(&mut *self.rng).map_err(|_| RootError::Rng)?;
        let done = execute_clear(command, &session.key, in_force, &session.nonce_tpm, &next_nonce);
        let Some(response) = done else {
            kept.is_locked_out = true;
            return Ok(Err(AUTH_FAIL_S1));
        };
        kept.clear(&mut *self.rng)?;
        session.nonce_tpm = next_nonce;
        session.audited = command.is_audited().then(clear_audit_digest);
        if !command.keeps_session() {
            self.volatile.sessions.remove(position);
        }
        Ok(Ok(response))
    }
}
