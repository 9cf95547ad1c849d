//! Configuration files of the owner's processes, for a first start on one machine. An operator edits them afterwards.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use gridseal_crypto::{Signer, SigningKey, role::OwnerSigning};
use gridseal_io::tls::spki_hash;
use gridseal_types::Digest;

use super::{factory::Anchor, owner};
use crate::{
    config::{self, Service},
    files::{format_public_key, read_certificates, write_atomic},
};

/// PCRs that the first policy covers, all zero: an emulator without measured boot.
const PCRS: [u8; 3] = [0, 7, 11];

/// What an owner knows of a manufacturer.
#[derive(Debug, Clone)]
pub struct Manufacturer {
    /// Voucher key, x || y in hex.
    pub voucher_key: String,
    /// CA of its init servers, PEM.
    pub init_ca: String,
    /// Init server's address.
    pub init_server: SocketAddr,
}

/// Choices that only a test or a demo makes otherwise.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// Tell messages in hex.
    pub log_frames: bool,
    /// Have the key service write an inventory of its keys.
    pub inventory: Option<PathBuf>,
    /// Plant keys of this file in the head-end.
    pub plant: Option<PathBuf>,
    /// Length of the meters' load-profile interval, seconds.
    pub interval_s: u32,
    /// Let the key service run where memory cannot be locked.
    pub unlocked_memory: bool,
}

/// Key service.
pub fn keys(owner: &Path, listen: SocketAddr, manufacturer: &Manufacturer, choices: &Choices) -> Result<()> {
    let keys = config::Keys {
        listen,
        voucher_keys: vec![manufacturer.voucher_key.clone()],
        attestation_age_max_s: gridseal_keys::Core::ATTESTATION_AGE_DEFAULT_S,
        marker: "keys.marker".into(),
        accept_restored: None,
        meter_authorities: Vec::new(),
        client_title: None,
        danger_unlocked_memory: choices.unlocked_memory,
        danger_inventory: choices.inventory.clone(),
        postgres: None,
        approvers: BTreeMap::new(),
    };
    config::save(&owner.join("keys/config.toml"), &keys)
}

/// An operator's commands.
pub fn operator(owner: &Path, keys: SocketAddr) -> Result<()> {
    config::save(&owner.join("operator/config.toml"), &config::Operator { keys: service(keys) })
}

/// Certificate authority; `headend` is the host under which meters reach the head-end.
pub fn pki(owner: &Path, listen: SocketAddr, headend: &SocketAddr) -> Result<()> {
    let pki = config::Pki { listen, headend_names: vec![headend.ip().to_string()], est: None };
    config::save(&owner.join("pki/config.toml"), &pki)
}

/// Config server.
pub fn config_server(
    owner: &Path,
    listen: SocketAddr,
    listen_inner: SocketAddr,
    choices: &Choices,
) -> Result<()> {
    let limits = gridseal_onboarding::config_server::Limits::DEFAULT;
    let relay = config::ConfigServer {
        listen,
        listen_inner,
        hold_s: 20,
        source_per_hour: limits.source_per_hour,
        pseudonym_per_hour: limits.pseudonym_per_hour,
        log_frames: choices.log_frames,
    };
    config::save(&owner.join("config-server/config.toml"), &relay)
}

/// Head-end.
pub fn headend(owner: &Path, addresses: &Inner, choices: &Choices) -> Result<()> {
    let headend = config::Headend {
        listen: addresses.headend,
        listen_inner: addresses.headend_inner,
        keys: service(addresses.keys),
        pki: service(addresses.pki),
        interval_s: choices.interval_s,
        log_frames: false,
        key_change_pace_ms: None,
        danger_plant: choices.plant.clone(),
    };
    config::save(&owner.join("headend/config.toml"), &headend)
}

/// Where the owner's processes listen.
#[derive(Debug, Clone, Copy)]
pub struct Inner {
    /// Config server, for devices.
    pub config: SocketAddr,
    /// Config server, for the endpoint manager.
    pub config_inner: SocketAddr,
    /// Key service.
    pub keys: SocketAddr,
    /// Certificate authority.
    pub pki: SocketAddr,
    /// Head-end, for meters.
    pub headend: SocketAddr,
    /// Head-end, for the endpoint manager.
    pub headend_inner: SocketAddr,
}

fn service(address: SocketAddr) -> Service {
    Service { address: address.to_string() }
}

/// Endpoint manager, with a first policy for a model. Returns its configuration file.
#[expect(clippy::too_many_arguments, reason = "everything the endpoint manager is told")]
pub fn endpoint_manager(
    owner_dir: &Path,
    owner_key: &SigningKey<OwnerSigning>,
    manufacturer: &Manufacturer,
    addresses: &Inner,
    model: &str,
    anchor: Anchor,
) -> Result<PathBuf> {
    let dir = owner_dir.join("endpoint-manager");
    let pcrs = PCRS.map(|pcr| (pcr, vec![Digest([0; 32])]));
    owner::sign_policy(owner_key, &dir.join("policy.cose"), model, pcrs.into())?;
    write_atomic(&dir.join("init-ca.pem"), manufacturer.init_ca.as_bytes())?;
    let certificates = read_certificates(&owner_dir.join("config-server/field.pem"))?;
    let pin = spki_hash(certificates.first().context("config server has no certificate")?)?;
    let key = format_public_key(&owner_key.public());
    let manager = config::EndpointManager {
        config_server: service(addresses.config_inner),
        keys: service(addresses.keys),
        pki: service(addresses.pki),
        headend: service(addresses.headend_inner),
        init_server: format!("https://{}", manufacturer.init_server),
        init_server_ca: "init-ca.pem".into(),
        voucher_keys: vec![manufacturer.voucher_key.clone()],
        owner_key: key.clone(),
        config_urls: vec![format!("https://{}", addresses.config)],
        config_pins: vec![pin.to_string()],
        terminus: vec![format!("tls://{}", addresses.headend)],
        policy: "policy.cose".into(),
        policies: Vec::new(),
        ima_keys: Vec::new(),
        endorsement_issuers: Vec::new(),
        endorsement_required: false,
        policy_key: key,
        witnesses: None,
        danger_accept_software_roots: anchor == Anchor::Software,
        danger_accept_open_platform: false,
        hellos_per_hour: gridseal_onboarding::endpoint_manager::HELLOS_PER_HOUR,
        redirect_days: 3_650,
        orders: config::Orders::default(),
    };
    let path = dir.join("config.toml");
    config::save(&path, &manager)?;
    Ok(path)
}
