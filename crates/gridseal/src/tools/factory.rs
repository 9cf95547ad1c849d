//! `gridseal factory make`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    config,
    files::parse_public_key,
    setup::{
        factory::{self, Anchor, Order, Vendor},
        owner::OwnerKeys,
    },
};

/// Arguments of `factory make`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Manufacturer's name.
    #[arg(long)]
    vendor: String,
    /// Model: 1 to 20 characters of 0-9, A-Z, dash and full stop.
    #[arg(long)]
    model: String,
    /// How many devices.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Root of trust.
    #[arg(long, value_enum, default_value = "tpm")]
    anchor: Anchor,
    /// Public keys of the buyer, as `ceremony owner` wrote them.
    #[arg(long, value_name = "FILE")]
    owner: PathBuf,
    /// Address at which the init server will listen; devices know it for life.
    #[arg(long, value_name = "IP:PORT")]
    init_listen: SocketAddr,
    /// Where devices, shipment file and the manufacturer's keys go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Length of a load-profile interval, seconds.
    #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    interval_s: u32,
}

/// An owner's public keys: what a manufacturer needs for a sale.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerFile {
    /// Owner key, x || y in hex.
    pub owner_key: String,
    /// Owner encryption key.
    pub encryption_key: String,
}

impl OwnerFile {
    /// The keys in it.
    pub fn keys(&self) -> Result<OwnerKeys> {
        Ok(OwnerKeys {
            owner: parse_public_key(&self.owner_key)?,
            encryption: parse_public_key(&self.encryption_key)?,
        })
    }
}

/// Makes devices.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !crate::cli::anchor_available(arguments.anchor) {
        bail!("no TPM emulator: install the package swtpm, or choose --anchor software (tests only)");
    }
    let (owner, _): (OwnerFile, _) = config::load(&arguments.owner)?;
    let init_dir = arguments.out.join("init-server");
    let vendor = Vendor::open_or_found(
        &arguments.out.join("vendor"),
        &init_dir,
        &arguments.vendor,
        &arguments.init_listen,
    )?;
    write_init_config(&init_dir, &vendor, arguments.init_listen, false)?;
    let order = Order {
        model: arguments.model.clone(),
        count: arguments.count,
        anchor: arguments.anchor,
        init_servers: vec![format!("https://{}", arguments.init_listen)],
        buyer: owner.keys()?,
        interval_s: arguments.interval_s,
        backoff_ms: 30_000,
        simulated_w: 420,
    };
    let mut number = 0;
    let made = factory::make(&vendor, &order, &arguments.out, |device| {
        number += 1;
        eprintln!("{number}/{} {} {}", arguments.count, device.serial, device.label);
    })?;
    println!("{} devices in {}", made.len(), arguments.out.display());
    println!("shipment for the owner: {}", arguments.out.join("shipment.cbor").display());
    println!("init server: gridseal init-server --config {}", init_dir.join("config.toml").display());
    Ok(())
}

/// Configuration of the manufacturer's init server.
pub fn write_init_config(dir: &Path, vendor: &Vendor, listen: SocketAddr, log_frames: bool) -> Result<()> {
    let init = config::InitServer { listen, voucher_keys: vec![vendor.voucher_key()], log_frames };
    config::save(&dir.join("config.toml"), &init).context("init server")
}
