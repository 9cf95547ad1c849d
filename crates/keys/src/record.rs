//! What the key service keeps, each in a table of its own. Secrets are in it only as envelopes.

use alloc::{string::String, vec::Vec};

use gridseal_crypto::{EnvelopeContext, Key, WrappedKey, role::Role};
use gridseal_types::{
    DeviceState, Digest, EkName, Epoch, Kid, N16, Nonce, OrderSeq, Sid, SystemTitle, UtcTime,
    records::Table,
    service::keys::{
        Bytes, Carrier, ChangePhase, ClaimState, KeyKind, KeyOrigin, TunnelPurpose, Tunnelled, VersionState,
    },
};

/// Devices by the Name of their endorsement key.
pub const DEVICES: Table = "key_devices";
/// Device Names by pseudonym.
pub const PSEUDONYMS: Table = "key_pseudonyms";
/// Device Names by system title.
pub const TITLES: Table = "key_titles";
/// Sessions by their identifier.
pub const SESSIONS: Table = "key_sessions";
/// Orders that are remembered, by their sequence number, big-endian.
pub const ORDERS: Table = "key_orders";
/// Sequence number of an order that was drawn last, for any device: one row, empty key.
pub const ORDER_SEQ: Table = "key_order_seq";
/// Versions of meters' keys by device, kind and version.
pub const VERSIONS: Table = "key_versions";
/// Key changes by their identifier.
pub const CHANGES: Table = "key_changes";
/// Identifiers of key changes that are not resolved, by system title.
pub const PENDING: Table = "key_pending";
/// The site: one row, empty key.
pub const SITE: Table = "key_site";
/// History of devices' keys, by device and number.
pub const HISTORY: Table = "key_history";
/// Counters and windows of devices, by slot, as folded.
pub const TRAFFIC: Table = "key_traffic";
/// What became of counters and windows since, by sequence number.
pub const TRAFFIC_LOG: Table = "key_traffic_log";

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
    /// Place in the traffic table, for good.
    #[n(13)]
    pub slot: u32,
    /// State of its credentials.
    #[n(14)]
    pub claim: ClaimState,
    /// Whether it proves its state by a root of trust of its own (rule S13).
    #[n(15)]
    pub attested: bool,
    /// How counters for it are made.
    #[n(16)]
    pub layout: crate::lease::CounterLayout,
    /// How probes and transfers to it are carried.
    #[n(17)]
    pub carrier: Carrier,
    /// Versions of its keys, oldest first.
    #[n(18)]
    pub versions: Vec<(KeyKind, u32)>,
    /// Key change that is not resolved.
    #[n(19)]
    pub change: Option<N16>,
    /// Number of acts on its keys: what they are ordered by.
    #[n(20)]
    pub acts: u64,
    /// Versions of encryption and authentication key under which it was heard last, when they are not the active ones.
    #[n(21)]
    pub heard: Option<(u32, u32)>,
    /// What it may still be asked to prove.
    #[n(22)]
    pub probe: ProbeBudget,
    /// Failed authentications after which it locks out.
    #[n(23)]
    pub lockout: u16,
    /// Number of entries in its history.
    #[n(25)]
    pub history: u32,
    /// Counts used for it are in doubt since a restore (plain layout).
    #[n(24)]
    pub doubt: bool,
    /// Transfers that have failed since a new key was proven last, a refused one counted three times: whether the meter has
    /// the master key that wraps them comes into doubt.
    #[cbor(n(26), default)]
    pub transfers_failed: u8,
    /// Highest sequence number of an order that was drawn for it or that it has accepted.
    #[cbor(n(40), default)]
    pub order_seq: OrderSeq,
    /// Orders that are remembered, oldest first.
    #[cbor(n(41), default)]
    pub orders: Vec<OrderSeq>,
    /// The newest order for release or decommissioning.
    #[cbor(n(42), default)]
    pub closing: Option<OrderSeq>,
    /// Authorisations that are to take the place of [`DeviceEntry::auth`], wrapped; drawn once, re-used in every retry.
    #[cbor(n(43), default)]
    pub auth_next: [Option<Bytes>; 2],
    /// Whether the TPM may have them already.
    #[cbor(n(44), default)]
    pub auth_doubt: bool,
    /// How often they were renewed: which of those that are derived are in force.
    #[cbor(n(45), default)]
    pub auth_number: u32,
    /// Its TPM is owned by values of ours that were lost, and they may be derived and tried.
    #[cbor(n(46), default)]
    pub is_recovering: bool,
    /// The register has said that its keys are being changed by order.
    #[cbor(n(47), default)]
    pub is_rekeyed_by_order: bool,
    /// Key id of the owner key that it was rekeyed to.
    #[cbor(n(48), default)]
    pub owner_key: Option<Digest>,
    /// Highest security suite that a key of its was proven in: nothing goes below it any more (rule S5).
    #[cbor(n(49), default)]
    pub suite: u8,
    /// Highest suite in which an agreement on a master key was offered to it, and the place of the newest such offer among
    /// its acts: a meter that took one has no master key of a lower suite any more.
    #[cbor(n(50), default)]
    pub offered: (u8, u64),
}

/// One order that is remembered.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
pub struct OrderEntry {
    /// Sequence number.
    #[n(0)]
    pub seq: OrderSeq,
    /// Device.
    #[n(1)]
    pub device: EkName,
    /// Name of the request.
    #[n(2)]
    pub id: N16,
    /// Epoch.
    #[n(3)]
    pub epoch: Epoch,
    /// Number of its kind.
    #[n(4)]
    pub kind: u8,
    /// R.
    #[n(5)]
    pub r: Nonce,
    /// SHA-256 of its payload.
    #[n(6)]
    pub digest: Digest,
    /// As sealed, repeated byte for byte.
    #[n(7)]
    pub wire: Bytes,
    /// Encoded COSE_Sign1 of its payload.
    #[n(8)]
    pub signed: Bytes,
    /// Names of the objects in it.
    #[n(9)]
    pub objects: Vec<EkName>,
    /// What its sessions or commands are for; none once the sessions were used.
    #[n(10)]
    pub purpose: Option<TunnelPurpose>,
    /// Salts of its sessions, wrapped.
    #[n(11)]
    pub salts: Vec<Bytes>,
    /// nonceCaller of their start.
    #[n(12)]
    pub nonce_callers: Vec<N16>,
    /// Keys and nonceCaller of its commands.
    #[n(13)]
    pub tunnels: Vec<TunnelEntry>,
    /// What became of its commands.
    #[n(14)]
    pub outcome: Option<Tunnelled>,
    /// Hash of the configuration in it.
    #[n(15)]
    pub configuration: Digest,
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

/// One version of one of a meter's keys.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct VersionEntry {
    /// Which key.
    #[n(0)]
    pub kind: KeyKind,
    /// Version, unique for the device; the keys of one delivery or change share it.
    #[n(1)]
    pub version: u32,
    /// State.
    #[n(2)]
    pub state: VersionState,
    /// Where it comes from.
    #[n(3)]
    pub origin: KeyOrigin,
    /// The key, wrapped; empty once destroyed.
    #[n(4)]
    pub envelope: Bytes,
    /// Whether it may have left for the meter.
    #[n(5)]
    pub sent: bool,
    /// When it was made.
    #[n(6)]
    pub created_at: UtcTime,
    /// When it was proven installed.
    #[n(7)]
    pub proven_at: Option<UtcTime>,
    /// When it was deactivated.
    #[n(8)]
    pub deactivated_at: Option<UtcTime>,
    /// Version of the master key that wraps it for the meter; none when its way was another.
    #[n(9)]
    pub wrapped_by: Option<u32>,
    /// Key change that made it.
    #[n(10)]
    pub change: Option<N16>,
    /// Site epoch when it was made: counters start from it.
    #[n(11)]
    pub first_epoch: u32,
    /// Place among the device's acts when it was sent last, 0 before: order does not rest on a clock.
    #[n(12)]
    pub sent_order: u64,
    /// Place among the device's acts when it was proven last, 0 before.
    #[n(13)]
    pub proven_order: u64,
    /// Its recipient period has ended: it opens nothing more.
    #[n(14)]
    pub closed: bool,
    /// Whether it was delivered together with the other keys of this version, in one piece that holds or fails as one.
    #[n(15)]
    pub bundled: bool,
    /// Number of the device's acts when the newest challenge was drawn that the meter has answered under it, 0 before: at
    /// that time it was certainly in use.
    #[cbor(n(16), default)]
    pub challenged_order: u64,
    /// Sites that have sent it to the meter, one bit each: each has a title of its own, and the meter counts by title.
    #[cbor(n(20), default)]
    pub sent_by: u8,
    /// Sites that have drawn that newest challenge, one bit each.
    #[cbor(n(21), default)]
    pub challenged_by: u8,
    /// Security suite that it is a key of.
    #[cbor(n(17), default)]
    pub suite: u8,
}

impl VersionEntry {
    /// Whether the key is there, and not destroyed.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        !self.envelope.0.is_empty()
    }
}

/// A change of keys.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct ChangeEntry {
    /// Change.
    #[n(0)]
    pub id: N16,
    /// Device.
    #[n(1)]
    pub device: EkName,
    /// Keys it replaces: all of the same new version.
    #[n(2)]
    pub items: Vec<KeyKind>,
    /// The new version.
    #[n(3)]
    pub version: u32,
    /// Phase.
    #[n(4)]
    pub phase: ChangePhase,
    /// How often the transfer was sent.
    #[n(5)]
    pub attempts: u32,
    /// When it was begun.
    #[n(6)]
    pub begun_at: UtcTime,
    /// When its phase changed last.
    #[n(7)]
    pub changed_at: UtcTime,
    /// Version of the master key that wraps the new keys.
    #[n(8)]
    pub wrapped_by: u32,
    /// Proof of a new master key (7.4 of the specification).
    #[n(9)]
    pub proof: Option<ProofEntry>,
    /// The newest transfer as sealed: repeated byte for byte as long as nothing is known of it.
    #[n(10)]
    pub transfer: Option<TransferEntry>,
    /// Security suite of the new keys.
    #[cbor(n(11), default)]
    pub suite: u8,
    /// How the new master key is agreed upon; none when it is drawn here and transferred.
    #[cbor(n(12), default)]
    pub agreement: Option<AgreementEntry>,
}

/// Our side of an agreement on a master key. It is one transaction, however often it has to be sent: the same offer each
/// time, and a master key for each answer, because the meter draws a new ephemeral key for each.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct AgreementEntry {
    /// Our ephemeral private key, wrapped; empty once the change is resolved.
    #[n(0)]
    pub ephemeral: Bytes,
    /// Our key data: the point and the signature over it.
    #[n(1)]
    pub offer: Bytes,
    /// Client's title in the offer that was sent last: the derivation has it.
    #[n(2)]
    pub client: SystemTitle,
    /// Answers of the meter: SHA-256 of its key data, and the version of the master key that followed.
    #[n(3)]
    pub answers: Vec<(Digest, u32)>,
}

impl AgreementEntry {
    /// Version of the master key that the newest answer gave.
    #[must_use]
    pub fn newest(&self) -> Option<u32> {
        self.answers.last().map(|(_, version)| *version)
    }

    /// Whether a master key was agreed upon here.
    #[must_use]
    pub fn has(&self, version: u32) -> bool {
        self.answers.iter().any(|(_, agreed)| *agreed == version)
    }
}

/// A sealed transfer.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct TransferEntry {
    /// Whole APDU.
    #[n(0)]
    pub apdu: Bytes,
    /// Version of the encryption key that seals it.
    #[n(1)]
    pub version: u32,
    /// Counter.
    #[n(2)]
    pub counter: u32,
}

/// The transfer of a fresh encryption key by which a master key is proven: the new one, or else the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct ProofEntry {
    /// Version of the fresh key; of both fresh keys where the suite rises.
    #[n(0)]
    pub version: u32,
    /// Version of the master key that wraps it.
    #[n(1)]
    pub wrapped_by: u32,
    /// Phase of its transfer.
    #[n(2)]
    pub phase: ChangePhase,
    /// How often it was sent.
    #[n(3)]
    pub attempts: u32,
}

/// What a meter may still be asked to prove, so that it is never driven into its lock-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
pub struct ProbeBudget {
    /// No probe before.
    #[n(0)]
    pub next_at: UtcTime,
    /// Seconds from one plan to the next, doubled each time.
    #[n(1)]
    pub backoff_s: u64,
    /// Tries that may have failed at the meter since it answered last.
    #[n(2)]
    pub tries: u16,
    /// Invoke identifier of the newest plan, 0 to 15; none when it was answered.
    #[n(3)]
    pub invoke: Option<u8>,
    /// Number of plans, for the next identifier.
    #[n(4)]
    pub plans: u32,
    /// Place among the candidates where the next plan begins: when the budget is smaller than their number, each has its
    /// turn.
    #[cbor(n(5), default)]
    pub first: u8,
    /// Tries of the newest plan, and single ones since, that no answer came to: they may still be under way, and fail after
    /// another was answered.
    #[cbor(n(6), default)]
    pub under_way: u16,
}

/// Key of a version: device, kind, version, big-endian.
#[must_use]
pub fn version_key(device: &EkName, kind: KeyKind, version: u32) -> Vec<u8> {
    let mut key = device.as_bytes().to_vec();
    key.push(kind.number());
    key.extend_from_slice(&version.to_be_bytes());
    key
}

/// Key of an entry of a device's history.
#[must_use]
pub fn history_key(device: &EkName, number: u32) -> Vec<u8> {
    let mut key = device.as_bytes().to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// What binds our ephemeral key of an agreement to its change.
#[must_use]
pub fn ephemeral_context(tenant: &[u8; 16], change: &ChangeEntry) -> EnvelopeContext {
    EnvelopeContext { suite: change.suite, ..EnvelopeContext::new(*tenant, change.id.0, 0) }
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
