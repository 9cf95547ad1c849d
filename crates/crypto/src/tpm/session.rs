//! Taking ownership through a salted HMAC session: the owner's side and the TPM's side.

use alloc::vec::Vec;

use zeroize::Zeroizing;

use super::{
    kdf::{cfb_decrypt, cfb_encrypt, kdfa_key_iv},
    kdfa, split_tpm2b, tpm2b, whole_tpm2b,
};
use crate::{
    Key,
    backend::{Active, Backend},
    role::{AuthValue, TpmSeed, TpmSession},
};

const CC_HIERARCHY_CHANGE_AUTH: u32 = 0x0000_0129;
pub(super) const ST_SESSIONS: u16 = 0x8002;
/// Session attribute `decrypt`: the first parameter of the command is encrypted.
const DECRYPT: u8 = 0x20;
/// Session attribute `continueSession`.
pub(super) const CONTINUE_SESSION: u8 = 0x01;

/// Key of a salted, unbound HMAC session.
pub type TpmSessionKey = Key<TpmSession, 32>;

/// The two nonces that open a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionNonces {
    /// nonceCaller of StartAuthSession.
    pub caller: [u8; 16],
    /// nonceTPM of its response.
    pub tpm: [u8; 16],
}

impl SessionNonces {
    /// `KDFa(salt, "ATH", nonceTPM, nonceCaller)`.
    #[must_use]
    pub fn session_key(&self, salt: &Key<TpmSeed, 32>) -> TpmSessionKey {
        kdfa(salt, "ATH", &self.tpm, &self.caller)
    }
}

/// The authorisation in force for a hierarchy before the command.
#[derive(Debug, Clone, Copy)]
pub enum AuthInForce<'k> {
    /// The TPM reports the hierarchy's auth as not set.
    Empty,
    /// The value that we set, or may have set, earlier.
    Value(&'k Key<AuthValue, 32>),
}

impl AuthInForce<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Empty => &[],
            Self::Value(key) => key.bytes(),
        }
    }
}

/// One HierarchyChangeAuth to be tunnelled.
#[derive(Debug)]
pub struct ChangeAuth<'k> {
    /// Hierarchy handle: owner `40000001`, lockout `4000000A`.
    pub hierarchy: u32,
    /// Session handle at the device.
    pub session_handle: u32,
    /// Session key.
    pub session: &'k TpmSessionKey,
    /// Authorisation in force.
    pub in_force: AuthInForce<'k>,
    /// Value to be set; its last byte is not zero.
    pub new: &'k Key<AuthValue, 32>,
    /// nonceTPM last received.
    pub nonce_tpm: [u8; 16],
    /// Fresh nonceCaller of this command.
    pub nonce_caller: [u8; 16],
    /// Whether the TPM keeps the session after the command.
    pub keep_session: bool,
}

/// `sessionKey || authValue`, the key of session HMACs and of parameter encryption.
pub(super) fn keyed(session: &TpmSessionKey, auth: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(64));
    key.extend_from_slice(session.bytes());
    key.extend_from_slice(auth);
    key
}

fn command_hash(hierarchy: u32, parameter: &[u8]) -> [u8; 32] {
    Active::sha256(&[&CC_HIERARCHY_CHANGE_AUTH.to_be_bytes(), &hierarchy.to_be_bytes(), parameter])
}

/// HMAC of a response with rc 0 and no parameters.
pub(super) fn response_hmac(
    code: u32,
    key: &[u8],
    (nonce_tpm, nonce_caller): (&[u8], &[u8]),
    attributes: u8,
) -> [u8; 32] {
    let response_hash = Active::sha256(&[&0u32.to_be_bytes(), &code.to_be_bytes()]);
    Active::hmac_sha256(key, &[&response_hash, nonce_tpm, nonce_caller, &[attributes]])
}

/// nonceTPM, attributes and HMAC of a response with one session, rc 0 and no parameters; `None` for any other.
pub(super) fn response_parts(response: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let (head, rest) = response.split_first_chunk::<14>()?;
    let size = u32::try_from(response.len()).ok()?.to_be_bytes();
    // Tag, size, rc 0, parameterSize 0.
    if head[..2] != ST_SESSIONS.to_be_bytes() || head[2..6] != size || head[6..] != [0; 8] {
        return None;
    }
    let (nonce_tpm, rest) = split_tpm2b(rest)?;
    let (&attributes, rest) = rest.split_first()?;
    Some((nonce_tpm, attributes, whole_tpm2b(rest)?))
}

/// A response with rc 0 and no parameters. 67 bytes.
pub(super) fn response_of(next_nonce_tpm: &[u8; 16], attributes: u8, hmac: &[u8; 32]) -> Vec<u8> {
    let mut response = ST_SESSIONS.to_be_bytes().to_vec();
    response.extend_from_slice(&67u32.to_be_bytes());
    response.extend_from_slice(&[0; 8]);
    tpm2b(&mut response, next_nonce_tpm);
    response.push(attributes);
    tpm2b(&mut response, hmac);
    response
}

/// The complete command: the new value is encrypted to the session, the HMAC authorises it. 109 bytes.
///
/// # Source
/// Onboarding specification, section 6.5.
#[must_use]
pub fn change_auth_command(change: &ChangeAuth<'_>) -> Vec<u8> {
    let key = keyed(change.session, change.in_force.bytes());
    let (sym, iv) = kdfa_key_iv(&key, &change.nonce_caller, &change.nonce_tpm);
    let mut encrypted = *change.new.bytes();
    cfb_encrypt(&sym, &iv, &mut encrypted);
    let mut parameter = Vec::with_capacity(34);
    tpm2b(&mut parameter, &encrypted);
    let cp_hash = command_hash(change.hierarchy, &parameter);
    let attributes = if change.keep_session { DECRYPT | CONTINUE_SESSION } else { DECRYPT };
    let hmac = Active::hmac_sha256(&key, &[&cp_hash, &change.nonce_caller, &change.nonce_tpm, &[attributes]]);
    let mut auth = Vec::with_capacity(57);
    auth.extend_from_slice(&change.session_handle.to_be_bytes());
    tpm2b(&mut auth, &change.nonce_caller);
    auth.push(attributes);
    tpm2b(&mut auth, &hmac);
    let mut command = Vec::with_capacity(109);
    command.extend_from_slice(&ST_SESSIONS.to_be_bytes());
    command.extend_from_slice(&u32::try_from(18 + auth.len() + parameter.len()).unwrap_or(0).to_be_bytes());
    command.extend_from_slice(&CC_HIERARCHY_CHANGE_AUTH.to_be_bytes());
    command.extend_from_slice(&change.hierarchy.to_be_bytes());
    command.extend_from_slice(&u32::try_from(auth.len()).unwrap_or(0).to_be_bytes());
    command.extend_from_slice(&auth);
    command.extend_from_slice(&parameter);
    command
}

/// Whether the response proves that this TPM set `new`: rc 0 and an HMAC that only the TPM which decrypted the salt can
/// make. After the change the response HMAC uses the new value.
#[must_use]
pub fn change_auth_confirmed(
    session: &TpmSessionKey,
    new: &Key<AuthValue, 32>,
    nonce_caller: &[u8; 16],
    response: &[u8],
) -> bool {
    let Some((nonce_tpm, attributes, hmac)) = response_parts(response) else { return false };
    let key = keyed(session, new.bytes());
    let expected =
        response_hmac(CC_HIERARCHY_CHANGE_AUTH, &key, (nonce_tpm, nonce_caller.as_slice()), attributes);
    crate::ct_eq(&expected, hmac)
}

/// The authorisation area of a received HierarchyChangeAuth, for a software root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandAuth {
    /// Hierarchy that the command names.
    pub hierarchy: u32,
    /// Session that authorises it.
    pub session_handle: u32,
    nonce_caller: [u8; 16],
    attributes: u8,
    hmac: [u8; 32],
    parameter: [u8; 34],
}

impl CommandAuth {
    /// Whether the session lives on after the command.
    #[must_use]
    pub const fn keeps_session(&self) -> bool {
        self.attributes & CONTINUE_SESSION != 0
    }

    /// Parses a command of exactly the shape that [`change_auth_command`] makes; `None` for any other.
    #[must_use]
    pub fn parse(command: &[u8]) -> Option<Self> {
        let command: &[u8; 109] = command.try_into().ok()?;
        let word = |at: usize| Some(u32::from_be_bytes(command.get(at..at + 4)?.try_into().ok()?));
        let shape = command[..2] == ST_SESSIONS.to_be_bytes()
            && word(2)? == 109
            && word(6)? == CC_HIERARCHY_CHANGE_AUTH
            && word(14)? == 57
            && command[22..24] == [0, 16]
            && command[41..43] == [0, 32];
        if !shape {
            return None;
        }
        Some(Self {
            hierarchy: word(10)?,
            session_handle: word(18)?,
            nonce_caller: command[24..40].try_into().ok()?,
            attributes: command[40],
            hmac: command[43..75].try_into().ok()?,
            parameter: command[75..].try_into().ok()?,
        })
    }
}

/// What a TPM does with the command: checks the HMAC under the authorisation in force, decrypts the new value and makes
/// the response. `None` when the HMAC does not verify: nothing changes.
#[must_use]
pub fn execute_change_auth(
    command: &CommandAuth,
    session: &TpmSessionKey,
    in_force: AuthInForce<'_>,
    nonce_tpm: &[u8; 16],
    next_nonce_tpm: &[u8; 16],
) -> Option<(Key<AuthValue, 32>, Vec<u8>)> {
    let key = keyed(session, in_force.bytes());
    let cp_hash = command_hash(command.hierarchy, &command.parameter);
    let expected =
        Active::hmac_sha256(&key, &[&cp_hash, &command.nonce_caller, nonce_tpm, &[command.attributes]]);
    if !crate::ct_eq(&expected, &command.hmac) || command.attributes & DECRYPT == 0 {
        return None;
    }
    let (sym, iv) = kdfa_key_iv(&key, &command.nonce_caller, nonce_tpm);
    let mut value = Zeroizing::new(<[u8; 32]>::try_from(whole_tpm2b(&command.parameter)?).ok()?);
    cfb_decrypt(&sym, &iv, value.as_mut_slice());
    let new = Key::take(&mut value);
    let attributes = command.attributes;
    let nonces = (next_nonce_tpm.as_slice(), command.nonce_caller.as_slice());
    let hmac = response_hmac(CC_HIERARCHY_CHANGE_AUTH, &keyed(session, new.bytes()), nonces, attributes);
    Some((new, response_of(next_nonce_tpm, attributes, &hmac)))
}
