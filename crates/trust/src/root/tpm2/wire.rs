//! Commands as bytes: built from fragments, checked by `tpm2-protocol` before they leave and when they come back.

use alloc::vec::Vec;

use tpm2_protocol::{
    data::TpmCc,
    frame::{TpmCommand, TpmResponse},
};

use crate::{
    root::{RootError, TpmTransport},
    tpm::{Reader, StructureError, tpm2b},
};

/// Command codes, TPM 2.0 Library, Part 2.
pub(super) mod cc {
    pub(in super::super) const EVICT_CONTROL: u32 = 0x120;
    pub(in super::super) const CLEAR: u32 = 0x126;
    pub(in super::super) const HIERARCHY_CHANGE_AUTH: u32 = 0x129;
    pub(in super::super) const NV_DEFINE_SPACE: u32 = 0x12a;
    pub(in super::super) const CREATE_PRIMARY: u32 = 0x131;
    pub(in super::super) const NV_INCREMENT: u32 = 0x134;
    pub(in super::super) const NV_WRITE: u32 = 0x137;
    pub(in super::super) const NV_WRITE_LOCK: u32 = 0x138;
    pub(in super::super) const STARTUP: u32 = 0x144;
    pub(in super::super) const ACTIVATE_CREDENTIAL: u32 = 0x147;
    pub(in super::super) const CERTIFY: u32 = 0x148;
    pub(in super::super) const GET_SESSION_AUDIT_DIGEST: u32 = 0x14d;
    pub(in super::super) const NV_READ: u32 = 0x14e;
    pub(in super::super) const POLICY_SECRET: u32 = 0x151;
    pub(in super::super) const CREATE: u32 = 0x153;
    pub(in super::super) const HMAC: u32 = 0x155;
    pub(in super::super) const IMPORT: u32 = 0x156;
    pub(in super::super) const LOAD: u32 = 0x157;
    pub(in super::super) const QUOTE: u32 = 0x158;
    pub(in super::super) const SIGN: u32 = 0x15d;
    pub(in super::super) const UNSEAL: u32 = 0x15e;
    pub(in super::super) const FLUSH_CONTEXT: u32 = 0x165;
    pub(in super::super) const NV_READ_PUBLIC: u32 = 0x169;
    pub(in super::super) const READ_PUBLIC: u32 = 0x173;
    pub(in super::super) const START_AUTH_SESSION: u32 = 0x176;
    pub(in super::super) const GET_CAPABILITY: u32 = 0x17a;
}

/// Response codes that we act on.
pub(super) mod rc {
    /// The TPM is already started.
    pub(in super::super) const INITIALIZE: u32 = 0x100;
    /// Wrong password in session 1; not counted.
    pub(in super::super) const BAD_AUTH_S1: u32 = 0x9a2;
    /// The object or index of handle 1 does not exist.
    pub(in super::super) const HANDLE_H1: u32 = 0x18b;
    /// The NV index was never written.
    pub(in super::super) const NV_UNINITIALIZED: u32 = 0x14a;
    /// The NV index is locked.
    pub(in super::super) const NV_LOCKED: u32 = 0x148;
    /// The NV index exists.
    pub(in super::super) const NV_DEFINED: u32 = 0x14c;
    /// Retry, yielded, testing, NV rate, NV unavailable: the command was not executed and may be sent again.
    pub(in super::super) const AGAIN: [u32; 5] = [0x922, 0x908, 0x90a, 0x920, 0x923];
}

const ST_NO_SESSIONS: u16 = 0x8001;
const ST_SESSIONS: u16 = 0x8002;
const RS_PASSWORD: u32 = 0x4000_0009;
/// How often a command is sent that the TPM asks to repeat. The transport may wait in between.
const ATTEMPTS_MAX: u32 = 64;
/// Largest parameter that we read: a public area, a blob or an attest.
pub(super) const PARAMETER_SIZE_MAX: usize = 1024;

/// One authorisation of a command.
pub(super) enum Auth {
    /// An empty password.
    Empty,
    /// A session whose policy is satisfied; it ends with the command.
    Policy(u32),
    /// A session with nonceCaller, attributes and HMAC.
    Hmac { handle: u32, nonce_caller: [u8; 16], attributes: u8, hmac: [u8; 32] },
}

impl Auth {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Empty | Self::Policy(_) => {
                let handle = if let Self::Policy(handle) = self { *handle } else { RS_PASSWORD };
                out.extend_from_slice(&handle.to_be_bytes());
                out.extend_from_slice(&[0; 5]);
            }
            Self::Hmac { handle, nonce_caller, attributes, hmac } => {
                out.extend_from_slice(&handle.to_be_bytes());
                tpm2b(out, nonce_caller);
                out.push(*attributes);
                tpm2b(out, hmac);
            }
        }
    }
}

/// A command before it is bytes.
pub(super) struct Call<'a> {
    pub(super) cc: u32,
    pub(super) handles: &'a [u32],
    pub(super) auths: &'a [Auth],
    pub(super) parameters: &'a [u8],
}

impl Call<'_> {
    fn encode(&self) -> Vec<u8> {
        let mut auths = Vec::new();
        self.auths.iter().for_each(|auth| auth.encode(&mut auths));
        let is_authorised = !auths.is_empty();
        let auth_size = if is_authorised { auths.len() + 4 } else { 0 };
        let size = 10 + 4 * self.handles.len() + auth_size + self.parameters.len();
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(&(if is_authorised { ST_SESSIONS } else { ST_NO_SESSIONS }).to_be_bytes());
        bytes.extend_from_slice(&length_u32(size));
        bytes.extend_from_slice(&self.cc.to_be_bytes());
        self.handles.iter().for_each(|handle| bytes.extend_from_slice(&handle.to_be_bytes()));
        if is_authorised {
            bytes.extend_from_slice(&length_u32(auths.len()));
            bytes.extend_from_slice(&auths);
        }
        bytes.extend_from_slice(self.parameters);
        bytes
    }
}

/// Lengths of commands are far below 4 GiB; one that is not would be refused by the check before sending.
fn length_u32(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// A successful response, split.
pub(super) struct Answer {
    /// Handle, of the commands that return one.
    pub(super) handle: u32,
    /// Parameter area.
    pub(super) parameters: Vec<u8>,
    /// Authorisation area.
    pub(super) auths: Vec<u8>,
}

impl From<StructureError> for RootError {
    fn from(_: StructureError) -> Self {
        Self::Malformed
    }
}

/// Sends a whole command and returns the whole response; repeats where the TPM asks for it.
///
/// # Errors
/// [`RootError::Unsuitable`] for bytes that are no command, [`RootError::Malformed`] for those that are no response.
pub(super) fn transmit(transport: &mut impl TpmTransport, command: &[u8]) -> Result<Vec<u8>, RootError> {
    let frame = TpmCommand::cast(command).map_err(|_| RootError::Unsuitable)?;
    frame.validate().map_err(|_| RootError::Unsuitable)?;
    let cc = frame.cc().map_err(|_| RootError::Unsuitable)?;
    let mut response = transport.transmit(command)?;
    for _ in 1..ATTEMPTS_MAX {
        if !rc::AGAIN.contains(&response_code(&response)?) {
            break;
        }
        response = transport.transmit(command)?;
    }
    check(&response, cc)?;
    Ok(response)
}

fn check(response: &[u8], cc: TpmCc) -> Result<(), RootError> {
    TpmResponse::cast(response).and_then(|frame| frame.validate(cc)).map_err(|_| RootError::Malformed)
}

/// The response code of a whole response.
pub(super) fn response_code(response: &[u8]) -> Result<u32, RootError> {
    let mut reader = Reader::new(response);
    reader.u16("tag")?;
    reader.u32("responseSize")?;
    Ok(reader.u32("responseCode")?)
}

/// Runs one command; rc other than 0 is [`RootError::Refused`].
pub(super) fn run(transport: &mut impl TpmTransport, call: &Call<'_>) -> Result<Answer, RootError> {
    let response = transmit(transport, &call.encode())?;
    let rc = response_code(&response)?;
    if rc != 0 {
        return Err(RootError::Refused { command: call.cc, rc });
    }
    let mut reader = Reader::new(&response);
    let tag = reader.u16("tag")?;
    reader.take(8, "header")?;
    let returns_handle = [cc::CREATE_PRIMARY, cc::LOAD, cc::START_AUTH_SESSION].contains(&call.cc);
    let handle = if returns_handle { reader.u32("handle")? } else { 0 };
    if tag != ST_SESSIONS {
        return Ok(Answer { handle, parameters: reader.rest().to_vec(), auths: Vec::new() });
    }
    let size = usize::try_from(reader.u32("parameterSize")?).map_err(|_| RootError::Malformed)?;
    let parameters = reader.take(size, "parameters")?.to_vec();
    Ok(Answer { handle, parameters, auths: reader.rest().to_vec() })
}
