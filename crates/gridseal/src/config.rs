//! Configuration files: one TOML file per process, unknown fields rejected, paths relative to the file.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use gridseal_onboarding::endpoint_manager::orders::OrderRules;
use gridseal_trust::root::EndorsementKind;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    fault::{Coded, coded},
    files::directory_of,
};

/// Reads a configuration file and the directory that its paths are relative to.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<(T, PathBuf)> {
    let text = std::fs::read_to_string(path).with_context(|| Coded {
        code: "config.unreadable",
        message: format!("cannot read {}", path.display()),
    })?;
    // In one line: what is wrong, and where.
    let config = toml::from_str(&text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count().saturating_add(1);
        let what = error.message().replace('\n', " ");
        coded("config.invalid", format!("{} is not as it must be: line {line}: {what}", path.display()))
    })?;
    Ok((config, directory_of(path).to_path_buf()))
}

/// Writes a configuration file.
pub fn save<T: Serialize>(path: &Path, config: &T) -> Result<()> {
    crate::files::write_atomic(path, toml::to_string(config)?.as_bytes())
}

/// Where another inner service is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// `host:port`.
    pub address: String,
}

/// Init server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitServer {
    /// Address for devices and owners.
    pub listen: SocketAddr,
    /// Manufacturers' voucher keys: x || y in hex, colon, SHA-256 of the second, post-quantum key in hex.
    pub voucher_keys: Vec<String>,
    /// Tell a device where its owner is only once its TPM has proven its endorsement key.
    #[serde(default = "default_challenge")]
    pub challenge: bool,
    /// Most messages from one source in an hour.
    #[serde(default = "default_source_per_hour")]
    pub source_per_hour: u32,
    /// Most questions about one device in an hour.
    #[serde(default = "default_device_per_hour")]
    pub device_per_hour: u32,
    /// Tell every message in hex: for evidence of a run.
    #[serde(default)]
    pub log_frames: bool,
}

const fn default_challenge() -> bool {
    true
}

/// Default of `source_per_hour`.
pub const fn default_source_per_hour() -> u32 {
    gridseal_onboarding::config_server::Limits::DEFAULT.source_per_hour
}

/// Default of the init server's `device_per_hour`.
pub const fn default_device_per_hour() -> u32 {
    24
}

/// Config server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigServer {
    /// Address for devices.
    pub listen: SocketAddr,
    /// Address for the endpoint manager, in the DMZ's inner network.
    pub listen_inner: SocketAddr,
    /// How long a device's call is held before it is told to come back, seconds.
    #[serde(default = "default_hold_s")]
    pub hold_s: u64,
    /// Most new messages from one source in an hour.
    #[serde(default = "default_source_per_hour")]
    pub source_per_hour: u32,
    /// Most sessions that one pseudonym may begin in an hour.
    #[serde(default = "default_pseudonym_per_hour")]
    pub pseudonym_per_hour: u32,
    /// Tell every message in hex, sealed as it is: for evidence of a run.
    #[serde(default)]
    pub log_frames: bool,
}

const fn default_pseudonym_per_hour() -> u32 {
    gridseal_onboarding::config_server::Limits::DEFAULT.pseudonym_per_hour
}

const fn default_hold_s() -> u64 {
    20
}

/// Endpoint manager.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointManager {
    /// Config server, inner side.
    pub config_server: Service,
    /// Key service.
    pub keys: Service,
    /// Certificate authority.
    pub pki: Service,
    /// Head-end, inner side.
    pub headend: Service,
    /// Init server: `https://host:port`.
    pub init_server: String,
    /// CA of the init server's certificate, PEM.
    pub init_server_ca: PathBuf,
    /// Manufacturers' voucher keys.
    pub voucher_keys: Vec<String>,
    /// Our owner key.
    pub owner_key: String,
    /// Config server addresses for devices.
    pub config_urls: Vec<String>,
    /// SHA-256 of the config servers' SubjectPublicKeyInfo, hex.
    pub config_pins: Vec<String>,
    /// Terminus addresses for devices: `host:port`.
    pub terminus: Vec<String>,
    /// Signed attestation policy (COSE_Sign1).
    pub policy: PathBuf,
    /// More of them: other models, and releases that are known but not current. The highest version of a model is current.
    #[serde(default)]
    pub policies: Vec<PathBuf>,
    /// Keys whose signatures of files policies may name: SubjectPublicKeyInfo, PEM.
    #[serde(default)]
    pub ima_keys: Vec<PathBuf>,
    /// Key that signs policies.
    pub policy_key: String,
    /// Whom to believe about the TPMs of which models.
    #[serde(default)]
    pub endorsement_issuers: Vec<EndorsementIssuers>,
    /// Refuse devices without a certificate of their endorsement key that is believed.
    #[serde(default)]
    pub endorsement_required: bool,
    /// Who has to have signed the heads of manufacturers' logs of voucher entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witnesses: Option<Witnesses>,
    /// Accept devices whose root is software. Test mode.
    #[serde(default)]
    pub danger_accept_software_roots: bool,
    /// Accept devices whose platform hierarchy is open. Test mode.
    #[serde(default)]
    pub danger_accept_open_platform: bool,
    /// Most sessions that a device may begin in an hour.
    #[serde(default = "default_hellos_per_hour")]
    pub hellos_per_hour: u32,
    /// How long a redirect is good for, days.
    #[serde(default = "default_redirect_days")]
    pub redirect_days: u32,
    /// What is due by the calendar with devices that have an owner.
    #[serde(default)]
    pub orders: Orders,
}

/// What is due by the calendar, seconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Orders {
    /// From one attestation to the next.
    pub attest_every_s: u64,
    /// Age of an attestation at which a device is held; as `attestation_age_max_s` of the key service.
    pub attest_max_s: u64,
    /// A device that did not ask for so long is attested when it comes back.
    pub reconnect_gap_s: u64,
    /// When a device for which there is nothing asks again.
    pub poll_s: u32,
    /// A device that did not ask for so long is silent: an alarm.
    pub silence_s: u64,
    /// How often the register is looked through for silence and old attestations.
    pub watch_every_s: u64,
    /// Make a new storage key with every new TLS key.
    pub renew_storage: bool,
    /// For how long a device may be `updating`.
    pub update_max_s: u64,
}

impl Default for Orders {
    fn default() -> Self {
        let OrderRules {
            attest_every_s,
            attest_max_s,
            reconnect_gap_s,
            poll_s,
            silence_s,
            renew_storage,
            update_max_s,
        } = OrderRules::default();
        Self {
            attest_every_s,
            attest_max_s,
            reconnect_gap_s,
            poll_s,
            silence_s,
            watch_every_s: 60,
            renew_storage,
            update_max_s,
        }
    }
}

impl From<Orders> for OrderRules {
    fn from(orders: Orders) -> Self {
        let Orders {
            attest_every_s,
            attest_max_s,
            reconnect_gap_s,
            poll_s,
            silence_s,
            watch_every_s: _,
            renew_storage,
            update_max_s,
        } = orders;
        Self { attest_every_s, attest_max_s, reconnect_gap_s, poll_s, silence_s, renew_storage, update_max_s }
    }
}

const fn default_hellos_per_hour() -> u32 {
    gridseal_onboarding::endpoint_manager::HELLOS_PER_HOUR
}

const fn default_redirect_days() -> u32 {
    3_650
}

/// Key service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Address for endpoint manager and head-end.
    pub listen: SocketAddr,
    /// Manufacturers' voucher keys, against which delivery records are checked.
    pub voucher_keys: Vec<String>,
    /// Longest age of an attestation, seconds (rule S13).
    #[serde(default = "default_attestation_age")]
    pub attestation_age_max_s: u64,
    /// File that tells an older `keys.db` from the newest; it belongs where the database's backups are not.
    #[serde(default = "default_marker")]
    pub marker: PathBuf,
    /// The commits at which a restored `keys.db` and its marker stand, as the refusal to start names them (0 for a
    /// marker that is missing): that database is accepted, once, for the marker then stands elsewhere.
    #[serde(default)]
    pub accept_restored: Option<[u64; 2]>,
    /// System title under which this service seals for head-ends, 16 hex digits.
    #[serde(default)]
    pub client_title: Option<String>,
    /// Go on where this process's memory cannot be kept out of swap. Test mode.
    #[serde(default)]
    pub danger_unlocked_memory: bool,
    /// Write every key this service makes into a file, in hex. For a demo's search of other processes only.
    #[serde(default)]
    pub danger_inventory: Option<PathBuf>,
    /// Keep the records in PostgreSQL, not in `keys.db`.
    #[serde(default)]
    pub postgres: Option<Postgres>,
    /// Persons whose consents count, by name, each with the public key of `ceremony approver`: two of them together restore
    /// this service, raise counters, declare compromises, destroy keys.
    #[serde(default)]
    pub approvers: BTreeMap<String, String>,
    /// Certificates of manufacturers' authorities (DER), which certify the signing keys of meters as they are delivered; the
    /// owner's own are beside the keystore.
    #[serde(default)]
    pub meter_authorities: Vec<PathBuf>,
}

/// A PostgreSQL database, 15 or later, on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// As libpq takes it: `host=/run/postgresql dbname=gridseal user=keys`.
    pub connection: String,
    /// Schema that holds the records.
    #[serde(default = "default_schema")]
    pub schema: String,
}

fn default_schema() -> String {
    "keys".into()
}

fn default_marker() -> PathBuf {
    "keys.marker".into()
}

const fn default_attestation_age() -> u64 {
    gridseal_keys::Core::ATTESTATION_AGE_DEFAULT_S
}

/// An operator's commands.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// Key service.
    pub keys: Service,
}

/// Certificate authority.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pki {
    /// Address for endpoint manager and head-end.
    pub listen: SocketAddr,
    /// Names under which the head-end's field side is reached.
    pub headend_names: Vec<String>,
    /// EST for other servers of the inner network; none unless it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub est: Option<Est>,
}

/// EST (RFC 7030).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Est {
    /// Address.
    pub listen: SocketAddr,
    /// Who may enrol, by the name in its identity, and the names and addresses under which it is reached.
    pub servers: BTreeMap<String, Vec<String>>,
}

/// Head-end.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headend {
    /// Address for meters.
    pub listen: SocketAddr,
    /// Address for the endpoint manager.
    pub listen_inner: SocketAddr,
    /// Key service.
    pub keys: Service,
    /// Certificate authority.
    pub pki: Service,
    /// Length of a load-profile interval of the meters' model, seconds.
    #[serde(default = "default_interval_s")]
    pub interval_s: u32,
    /// Tell every order and result in hex, sealed as it is: for evidence of a run.
    #[serde(default)]
    pub log_frames: bool,
    /// How often the key service is asked for key changes, milliseconds; the other waits of a key change follow from it.
    /// Default: every 5 seconds, and waits of 30 seconds.
    #[serde(default)]
    pub key_change_pace_ms: Option<u64>,
    /// Plant keys of this file into memory and files, to prove that a search finds them. Tests only.
    #[serde(default)]
    pub danger_plant: Option<PathBuf>,
}

/// Witnesses of logs of voucher entries, and how many of them an owner wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witnesses {
    /// How many of them must have signed the head that comes with a shipment, and that of a log that is read.
    pub required: usize,
    /// Their keys, as `witness key` prints them.
    pub keys: Vec<String>,
}

/// A meter's firmware: the same for all devices of a model, but for the names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
    /// DLMS system title, hex.
    pub system_title: String,
    /// Init servers, `https://host:port`.
    pub init_servers: Vec<String>,
    /// Keys of the init servers (K_init).
    pub init_keys: Vec<String>,
    /// CA of the init servers' certificates, PEM.
    pub init_server_ca: String,
    /// Manufacturer's voucher keys.
    pub voucher_keys: Vec<String>,
    /// Root of trust.
    pub root: Root,
    /// Logs of what was measured; without it the meter hands over empty ones.
    #[serde(default)]
    pub measurements: Option<Measurements>,
    /// Length of a load-profile interval, seconds.
    #[serde(default = "default_interval_s")]
    pub interval_s: u32,
    /// First ceiling of the back-off, milliseconds.
    #[serde(default = "default_backoff_ms")]
    pub backoff_ms: u64,
    /// Average consumption of the simulated household, watts.
    #[serde(default = "default_simulated_w")]
    pub simulated_w: u32,
    /// Longest time between two questions for orders, seconds; the owner may want to be asked sooner.
    #[serde(default = "default_orders_every_s")]
    pub orders_every_s: u32,
}

const fn default_orders_every_s() -> u32 {
    300
}

const fn default_interval_s() -> u32 {
    900
}

const fn default_simulated_w() -> u32 {
    420
}

const fn default_backoff_ms() -> u64 {
    30_000
}

/// Issuers of certificates of endorsement keys. Nothing is ever fetched: what a path needs is here or is presented.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndorsementIssuers {
    /// Models; without any, all that no other entry names.
    #[serde(default)]
    pub models: Vec<String>,
    /// Trust anchors, PEM.
    pub anchors: PathBuf,
    /// Other authorities of the vendor, PEM.
    #[serde(default)]
    pub intermediates: Option<PathBuf>,
    /// Revocation lists, PEM or DER.
    #[serde(default)]
    pub revocations: Vec<PathBuf>,
    /// TPM manufacturers that are allowed, for example `id:53544D20`; without any, all.
    #[serde(default)]
    pub manufacturers: Vec<String>,
}

/// Where a device's measurement logs are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurements {
    /// TCG event log, for example `binary_bios_measurements` of the kernel.
    #[serde(default)]
    pub event_log: Option<PathBuf>,
    /// IMA list, binary or text, for example `binary_runtime_measurements` of the kernel.
    #[serde(default)]
    pub ima_log: Option<PathBuf>,
}

/// Where a device's root of trust is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "kebab-case")]
pub enum Root {
    /// A TPM device file, such as `/dev/tpmrm0`.
    Device {
        /// Path.
        path: PathBuf,
        /// Endorsement key that the device was made with.
        #[serde(default)]
        endorsement: Endorsement,
    },
    /// A TPM emulator that the meter runs for itself.
    Emulator {
        /// Directory with its state.
        dir: PathBuf,
        /// Endorsement key that the device was made with.
        #[serde(default)]
        endorsement: Endorsement,
    },
    /// A software stand-in: never with an owner's real meters.
    Software {
        /// File that holds its state.
        state: PathBuf,
    },
}

/// Kinds of endorsement keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
pub enum Endorsement {
    /// P-256, suite 1.
    #[default]
    #[serde(rename = "p256")]
    #[value(name = "p256")]
    P256,
    /// RSA 2048, suite 2.
    #[serde(rename = "rsa-2048")]
    #[value(name = "rsa-2048")]
    Rsa2048,
}

impl From<Endorsement> for EndorsementKind {
    fn from(kind: Endorsement) -> Self {
        match kind {
            Endorsement::P256 => Self::P256,
            Endorsement::Rsa2048 => Self::Rsa2048,
        }
    }
}
