//! Sessions: salted ones that encrypt a parameter, policy sessions, and closing whatever is open.

use alloc::vec::Vec;

use gridseal_crypto::{
    random, sha256,
    tpm::{SealedSecret, SecretLabel, SessionNonces, TpmSessionKey, decrypted_response},
};
use gridseal_types::N16;

use super::{
    Tpm2Root,
    wire::{Answer, Auth, Call, PARAMETER_SIZE_MAX, cc},
};
use crate::{
    root::{RootError, TpmTransport},
    tpm::{self, ALG_AES, ALG_NULL, ALG_SHA256, RH_NULL, Reader, tpm2b},
};

/// Session attribute `encrypt`: the first response parameter is encrypted.
const ENCRYPT: u8 = 0x40;
/// Session attribute `decrypt`: the first command parameter is encrypted.
const DECRYPT: u8 = 0x20;
const SE_HMAC: u8 = 0;
const SE_POLICY: u8 = 1;
const ALG_CFB: u16 = 0x0043;
/// First handles of loaded sessions and of transient objects.
const FIRST_SESSION: u32 = 0x0200_0000;
const FIRST_TRANSIENT: u32 = 0x8000_0000;
const CAP_HANDLES: u32 = 1;
const CAP_TPM_PROPERTIES: u32 = 6;
/// Handles asked for at once; a TPM has at most 3 loaded sessions and a few more objects.
const HANDLES_MAX: u32 = 32;

/// How a session takes part in one command.
struct Part<'a> {
    session: &'a Salted,
    nonce_caller: &'a [u8; 16],
    attributes: u8,
    /// Names of the command's handles, in order.
    names: &'a [&'a [u8]],
}

/// A session salted to the endorsement key.
pub(super) struct Salted {
    pub(super) handle: u32,
    pub(super) key: TpmSessionKey,
    pub(super) nonce_tpm: [u8; 16],
}

impl<T: TpmTransport> Tpm2Root<T> {
    /// StartAuthSession with the endorsement key and an encrypted salt (TPM2B with its size word).
    pub(super) fn start_salted(
        &mut self,
        nonce_caller: &[u8; 16],
        salt: &[u8],
    ) -> Result<(u32, [u8; 16]), RootError> {
        self.start_session(super::ENDORSEMENT_HANDLE, nonce_caller, salt, SE_HMAC)
    }

    fn start_session(
        &mut self,
        key: u32,
        nonce_caller: &[u8; 16],
        salt: &[u8],
        kind: u8,
    ) -> Result<(u32, [u8; 16]), RootError> {
        let mut parameters = Vec::with_capacity(320);
        tpm2b(&mut parameters, nonce_caller);
        parameters.extend_from_slice(salt);
        parameters.push(kind);
        if kind == SE_HMAC {
            for word in [ALG_AES, 128, ALG_CFB] {
                parameters.extend_from_slice(&word.to_be_bytes());
            }
        } else {
            parameters.extend_from_slice(&ALG_NULL.to_be_bytes());
        }
        parameters.extend_from_slice(&ALG_SHA256.to_be_bytes());
        let call = Call {
            cc: cc::START_AUTH_SESSION,
            handles: &[key, RH_NULL],
            auths: &[],
            parameters: &parameters,
        };
        let answer = self.run(&call)?;
        let mut reader = Reader::new(&answer.parameters);
        let nonce_tpm = N16::from_slice(reader.tpm2b(16, "nonceTPM")?);
        match nonce_tpm {
            Some(nonce_tpm) => Ok((answer.handle, nonce_tpm.0)),
            None => {
                self.flush_context(answer.handle)?;
                Err(RootError::Malformed)
            }
        }
    }

    /// A session of our own: fresh salt, fresh nonce.
    pub(super) fn own_session(&mut self) -> Result<Salted, RootError> {
        let endorsement_public = self.endorsement_public()?;
        let endorsement = tpm::endorsement_key(&endorsement_public).map_err(|_| RootError::Unsuitable)?;
        let (seed, salt) =
            endorsement.share_secret(SecretLabel::Secret, &mut *self.rng).map_err(|_| RootError::Rng)?;
        let caller = random::<16>(&mut *self.rng).map_err(|_| RootError::Rng)?;
        let (handle, nonce_tpm) = self.start_salted(&caller, &salt)?;
        let key = SessionNonces { caller, tpm: nonce_tpm }.session_key(&seed);
        Ok(Salted { handle, key, nonce_tpm })
    }

    /// Runs `work` in a policy session that has satisfied PolicySecret of a hierarchy with an empty authorisation. The
    /// session is gone afterwards, however `work` ends.
    pub(super) fn with_policy_secret<R>(
        &mut self,
        hierarchy: u32,
        work: impl FnOnce(&mut Self, u32) -> Result<R, RootError>,
    ) -> Result<R, RootError> {
        let caller = random::<16>(&mut *self.rng).map_err(|_| RootError::Rng)?;
        let (session, _) = self.start_session(RH_NULL, &caller, &[0, 0], SE_POLICY)?;
        // nonceTPM, cpHashA and policyRef empty, expiration 0.
        let call = Call {
            cc: cc::POLICY_SECRET,
            handles: &[hierarchy, session],
            auths: &[Auth::Empty],
            parameters: &[0; 10],
        };
        let result = self.run(&call).and_then(|_| work(self, session));
        // A command that used the session has ended it: then there is nothing to flush.
        if self.loaded_handles(FIRST_SESSION)?.contains(&session) {
            self.flush_context(session)?;
        }
        result
    }

    /// Runs a command whose first response parameter comes encrypted; `names` are those of its handles, in order.
    pub(super) fn run_encrypted(
        &mut self,
        call: Call<'_>,
        auths: Vec<Auth>,
        names: &[&[u8]],
    ) -> Result<SealedSecret, RootError> {
        let session = self.own_session()?;
        let caller = random::<16>(&mut *self.rng).map_err(|_| RootError::Rng)?;
        let part = Part { session: &session, nonce_caller: &caller, attributes: ENCRYPT, names };
        let (answer, nonce_tpm) = self.run_in_session(&part, call, auths)?;
        let mut reader = Reader::new(&answer.parameters);
        let encrypted = reader.tpm2b(PARAMETER_SIZE_MAX, "encrypted parameter")?;
        reader.finish("parameters")?;
        Ok(decrypted_response(&session.key, &nonce_tpm, &caller, encrypted))
    }

    /// Runs a command whose first parameter the caller has encrypted to `session` under `nonce_caller`.
    pub(super) fn run_decrypting(
        &mut self,
        session: &Salted,
        nonce_caller: &[u8; 16],
        call: Call<'_>,
        names: &[&[u8]],
    ) -> Result<Answer, RootError> {
        let part = Part { session, nonce_caller, attributes: DECRYPT, names };
        self.run_in_session(&part, call, [Auth::Empty].into()).map(|(answer, _)| answer)
    }

    /// Adds the session to the authorisations, runs the command, and checks the session's HMAC over the response.
    fn run_in_session(
        &mut self,
        part: &Part<'_>,
        call: Call<'_>,
        mut auths: Vec<Auth>,
    ) -> Result<(Answer, [u8; 16]), RootError> {
        let Part { session, nonce_caller, attributes, names } = *part;
        let command_code = call.cc.to_be_bytes();
        let mut parts: Vec<&[u8]> = Vec::with_capacity(names.len() + 2);
        parts.push(&command_code);
        parts.extend_from_slice(names);
        parts.push(call.parameters);
        let hmac = session.key.mac(&[&sha256(&parts), nonce_caller, &session.nonce_tpm, &[attributes]]);
        auths.push(Auth::Hmac { handle: session.handle, nonce_caller: *nonce_caller, attributes, hmac });
        let answer = match self.run(&Call { auths: &auths, ..call }) {
            Ok(answer) => answer,
            Err(error) => {
                // The session lives on after a refusal: three of them would exhaust the TPM.
                self.flush_context(session.handle)?;
                return Err(error);
            }
        };
        let response_hash = sha256(&[&[0; 4], &command_code, &answer.parameters]);
        let mut reader = Reader::new(&answer.auths);
        for _ in 1..auths.len() {
            reader.tpm2b(32, "nonceTPM")?;
            reader.u8("sessionAttributes")?;
            reader.tpm2b(32, "hmac")?;
        }
        let nonce_tpm = N16::from_slice(reader.tpm2b(16, "nonceTPM")?).ok_or(RootError::Malformed)?;
        let returned = reader.u8("sessionAttributes")?;
        let hmac = reader.tpm2b(32, "hmac")?.try_into().map_err(|_| RootError::Malformed)?;
        reader.finish("authorizationArea")?;
        let parts: [&[u8]; 4] = [&response_hash, &nonce_tpm.0, nonce_caller, &[returned]];
        if session.key.mac_verifies(&parts, hmac) {
            Ok((answer, nonce_tpm.0))
        } else {
            Err(RootError::Malformed)
        }
    }

    pub(super) fn flush_context(&mut self, handle: u32) -> Result<(), RootError> {
        let parameters = handle.to_be_bytes();
        self.run(&Call { cc: cc::FLUSH_CONTEXT, handles: &[], auths: &[], parameters: &parameters })
            .map(|_| ())
    }

    /// Closes all loaded sessions and transient objects, those of an earlier process included.
    pub(super) fn flush_all(&mut self) -> Result<(), RootError> {
        for first in [FIRST_SESSION, FIRST_TRANSIENT] {
            for handle in self.loaded_handles(first)? {
                self.flush_context(handle)?;
            }
        }
        Ok(())
    }

    fn capability(&mut self, capability: u32, property: u32, count: u32) -> Result<Answer, RootError> {
        let parameters = [capability, property, count].map(u32::to_be_bytes).concat();
        self.run(&Call { cc: cc::GET_CAPABILITY, handles: &[], auths: &[], parameters: &parameters })
    }

    fn loaded_handles(&mut self, first: u32) -> Result<Vec<u32>, RootError> {
        let answer = self.capability(CAP_HANDLES, first, HANDLES_MAX)?;
        let mut reader = Reader::new(&answer.parameters);
        reader.u8("moreData")?;
        reader.u32("capability")?;
        let count = reader.u32("count")?.min(HANDLES_MAX);
        let handles: Result<Vec<u32>, _> = (0..count).map(|_| reader.u32("handle")).collect();
        Ok(handles?)
    }

    /// Number of loaded sessions and of transient objects: both 0 between two requests, but for the owner's two sessions.
    ///
    /// # Errors
    /// [`RootError`] when the TPM does not answer.
    pub fn loaded(&mut self) -> Result<(usize, usize), RootError> {
        Ok((self.loaded_handles(FIRST_SESSION)?.len(), self.loaded_handles(FIRST_TRANSIENT)?.len()))
    }

    /// One property of the TPM, such as TPM_PT_PERMANENT (`200`) or TPM_PT_LOCKOUT_COUNTER (`20E`).
    ///
    /// # Errors
    /// [`RootError::Malformed`] when the TPM does not have it.
    pub fn property(&mut self, property: u32) -> Result<u32, RootError> {
        let answer = self.capability(CAP_TPM_PROPERTIES, property, 1)?;
        let mut reader = Reader::new(&answer.parameters);
        reader.u8("moreData")?;
        reader.u32("capability")?;
        let is_it = reader.u32("count")? == 1 && reader.u32("property")? == property;
        if is_it { Ok(reader.u32("value")?) } else { Err(RootError::Malformed) }
    }
}
