//! What the key service keeps, each in a table of its own. Secrets are in it only as envelopes.

use alloc::{string::String, vec::Vec};

use gridseal_crypto::{EnvelopeContext, Key, WrappedKey, role::Role};
use gridseal_types::{
    DeviceState, Digest, EkName, Epoch, Kid, N16, Nonce, Sid, SystemTitle, UtcTime, records::Table,
    service::keys::Bytes,
};

/// Devices by the Name of their endorsement key.
pub const DEVICES: Table = "key_devices";
/// Device Names by pseudonym.
pub const PSEUDONYMS: Table = "key_pseudonyms";
/// Device Names by system title.
pub const TITLES: Table = "key_titles";
/// Sessions by their identifier.
pub const SESSIONS: Table = "key_sessions";
/// Channel keys by device and version.
pub const CHANNELS: Table = "key_channels";

/// One device.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
pub struct DeviceEntry {
    /// Device.
    #[n(0)]
    pub device: EkName,
    /// Epoch of the secret.
    #[n(1)]
    pub epoch: Epoch,
    /// Pseudonym in that epoch.
    #[n(2)]
    pub kid: Kid,
    /// N_e, wrapped.
    #[n(3)]
    pub secret: Bytes,
    /// System title.
    #[n(4)]
    pub system_title: SystemTitle,
    /// Serial number.
    #[n(5)]
    pub serial: String,
    /// State, which seal and open follow.
    #[n(6)]
    pub state: DeviceState,
    /// When its attestation was last verified, zero before.
    #[n(7)]
    pub attested_at: UtcTime,
    /// Owner and lockout authorisation, wrapped; drawn once, re-used in every retry.
    #[n(8)]
    pub auth: [Option<Bytes>; 2],
    /// Whether a response of its TPM has confirmed both.
    #[n(9)]
    pub auth_confirmed: bool,
    /// Newest version of the channel keys, 0 before.
    #[n(10)]
    pub channel_version: u32,
    /// Commitment to the secret.
    #[n(11)]
    pub n_commit: Digest,
    /// Version of the channel keys that an APDU has confirmed last, 0 before.
    #[n(12)]
    pub active_version: u32,
}

/// One onboarding session.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
pub struct SessionEntry {
    /// Session.
    #[n(0)]
    pub sid: Sid,
    /// Device.
    #[n(1)]
    pub device: EkName,
    /// M_em.
    #[n(2)]
    pub m_em: Nonce,
    /// Transcript after C2: what K_s depends on.
    #[n(3)]
    pub th2: Digest,
    /// K_act, wrapped.
    #[n(4)]
    pub activation: Bytes,
    /// Salts of owner and lockout session, wrapped.
    #[n(5)]
    pub salts: [Bytes; 2],
    /// nonceCaller of their start.
    #[n(6)]
    pub nonce_callers: [N16; 2],
    /// TPM session keys and nonceCaller of the commands, once C4 was made.
    #[n(7)]
    pub commands: Option<[TunnelEntry; 2]>,
    /// Whether the TPM's responses were verified.
    #[n(8)]
    pub owned: bool,
    /// C2, C4, C6, C8 as sealed; each is sealed once and repeated byte for byte.
    #[n(9)]
    pub sealed: [Option<Bytes>; 4],
    /// Names of the objects in C6.
    #[n(10)]
    pub objects: Vec<EkName>,
    /// Hash of the configuration in C6.
    #[n(11)]
    pub configuration: Digest,
}

/// One tunnelled command that waits for its response.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
pub struct TunnelEntry {
    /// Key of the TPM session, wrapped.
    #[n(0)]
    pub session_key: Bytes,
    /// nonceCaller of the command.
    #[n(1)]
    pub nonce_caller: N16,
}

/// State of one version of a meter's channel keys (rule S3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum ChannelState {
    /// Made and stored, and with the same commit on its way to the meter.
    #[n(2)]
    Sent,
    /// An APDU under it was verified here.
    #[n(3)]
    Active,
    /// A newer version is active; kept, opens nothing.
    #[n(4)]
    Deactivated,
}

/// One version of a meter's channel keys, with its replay window.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
pub struct ChannelEntry {
    /// State.
    #[n(0)]
    pub state: ChannelState,
    /// GUEK, wrapped.
    #[n(1)]
    pub guek: Bytes,
    /// GAK, wrapped.
    #[n(2)]
    pub gak: Bytes,
    /// KEK, wrapped.
    #[n(3)]
    pub kek: Bytes,
    /// Counters received under it.
    #[n(4)]
    pub window: crate::Window,
}

/// Key of a channel entry: device, then version, big-endian.
#[must_use]
pub fn channel_key(device: &EkName, version: u32) -> Vec<u8> {
    let mut key = device.as_bytes().to_vec();
    key.extend_from_slice(&version.to_be_bytes());
    key
}

/// What binds an envelope to its row: half of the device's digest and a version.
#[must_use]
pub fn context(tenant: &[u8; 16], device: &EkName, version: u32) -> EnvelopeContext {
    let mut object = [0; 16];
    object.iter_mut().zip(device.as_bytes().iter().skip(2)).for_each(|(to, from)| *to = *from);
    EnvelopeContext::new(*tenant, object, version)
}

/// An envelope as stored.
pub(crate) fn stored(wrapped: WrappedKey) -> Bytes {
    Bytes(wrapped.0)
}

/// Opens a stored envelope.
pub(crate) fn opened<R: Role, const N: usize>(
    keys: &crate::DataKeys,
    context: &EnvelopeContext,
    bytes: &Bytes,
) -> Result<Key<R, N>, crate::KeysError> {
    let wrapped = WrappedKey(bytes.0.clone());
    let key = keys.of(&wrapped).ok_or(crate::KeysError::Keystore)?;
    Ok(Key::unwrap_key(key, context, &wrapped)?)
}
