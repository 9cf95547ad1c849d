//! `gridseal factory make`, `sell`, `release` and `recover`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_trust::enrol::shipment::{Papers, Shipment, Sold, Transfer};
use gridseal_types::DeviceType;
use serde::{Deserialize, Serialize};

use crate::{
    config,
    files::{parse_digest, parse_public_key, read, write_atomic},
    setup::{
        factory::{self, Anchor, Order, Vendor},
        owner::OwnerKeys,
        sale::{self, RecoverySigner, Stock, VoucherSigner},
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
    /// Endorsement keys of the TPMs.
    #[arg(long, value_enum, default_value = "p256")]
    endorsement: config::Endorsement,
    /// What they are.
    #[arg(long, value_enum, default_value = "meter")]
    device_type: Kind,
    /// Public keys of the buyer, as `ceremony owner` wrote them. Without it the devices stay in stock for `factory sell`.
    #[arg(long, value_name = "FILE")]
    owner: Option<PathBuf>,
    /// Address at which the init server will listen; devices know it for life.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7440")]
    init_listen: SocketAddr,
    /// Print label B of each device for its sealed insert: the owner secret, readable, in a directory `inserts`.
    #[arg(long)]
    inserts: bool,
    /// Where devices, shipment file and the manufacturer's keys go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Length of a load-profile interval, seconds.
    #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    interval_s: u32,
    /// First ceiling of the devices' waits, milliseconds: after power came a device waits up to four times as long.
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    backoff_ms: u64,
}

/// Arguments of `factory sell`.
#[derive(Debug, clap::Args)]
pub struct Sell {
    /// Where `factory make` has left devices in stock.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Public keys of the buyer, as `ceremony owner` wrote them.
    #[arg(long, value_name = "FILE")]
    owner: PathBuf,
}

/// Arguments of `factory release`.
#[derive(Debug, clap::Args)]
pub struct Release {
    /// The manufacturer's directory, with its log and its escrow.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The transfer that the seller has signed, as `ceremony transfer` has made it.
    #[arg(long, value_name = "FILE")]
    transfer: PathBuf,
    /// Where the buyer's shipment and delivery files go.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Arguments of `factory recover`.
#[derive(Debug, clap::Args)]
pub struct Recover {
    /// Directory of the recovery key, as `factory make` has made it; offline.
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// Papers of the devices as they were sold last: a shipment file, or papers of `device papers`.
    #[arg(long, value_name = "FILE")]
    papers: PathBuf,
    /// Public keys of the next owner, as `ceremony owner` wrote them.
    #[arg(long, value_name = "FILE")]
    buyer: PathBuf,
    /// Where the signed transfer goes.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Say what would be signed, and sign nothing.
    #[arg(long)]
    dry_run: bool,
    /// Serial numbers; without any, all devices of the papers.
    #[arg(value_name = "SERIAL")]
    serials: Vec<String>,
}

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A meter.
    Meter,
    /// A data concentrator.
    Concentrator,
    /// A smart meter gateway.
    Gateway,
}

impl From<Kind> for DeviceType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Meter => Self::Meter,
            Kind::Concentrator => Self::Concentrator,
            Kind::Gateway => Self::Gateway,
        }
    }
}

/// An owner's public keys: what a manufacturer needs for a sale.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerFile {
    /// Owner key, x || y in hex.
    pub owner_key: String,
    /// Owner encryption key.
    pub encryption_key: String,
    /// SHA-256 of the owner's second, post-quantum key.
    #[serde(default)]
    pub second_key: Option<String>,
}

impl OwnerFile {
    /// The keys in it.
    pub fn keys(&self) -> Result<OwnerKeys> {
        Ok(OwnerKeys {
            owner: parse_public_key(&self.owner_key)?,
            encryption: parse_public_key(&self.encryption_key)?,
            second: self.second_key.as_deref().map(parse_digest).transpose()?,
        })
    }
}

/// Makes devices.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !crate::cli::anchor_available(arguments.anchor) {
        bail!("no TPM emulator: install the package swtpm, or choose --anchor software (tests only)");
    }
    if arguments.anchor == Anchor::Software && arguments.endorsement != config::Endorsement::P256 {
        bail!("a software root has a P-256 endorsement key: choose --anchor tpm for --endorsement rsa-2048");
    }
    let buyer = arguments.owner.as_deref().map(buyer).transpose()?;
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
        endorsement: arguments.endorsement,
        init_servers: vec![format!("https://{}", arguments.init_listen)],
        device_type: arguments.device_type.into(),
        buyer,
        inserts: arguments.inserts,
        interval_s: arguments.interval_s,
        backoff_ms: arguments.backoff_ms,
        simulated_w: 420,
    };
    let mut number = 0;
    let made = factory::make(&vendor, &order, &arguments.out, |device| {
        number += 1;
        eprintln!("{number}/{} {} {}", arguments.count, device.serial, device.label);
    })?;
    println!("{} devices in {}", made.len(), arguments.out.display());
    match buyer {
        Some(_) => say_sold(&arguments.out),
        None => println!(
            "in stock; to sell them: gridseal factory sell --out {} --owner FILE",
            arguments.out.display()
        ),
    }
    if arguments.inserts {
        println!("labels B, each an owner secret: {}", arguments.out.join("inserts").display());
    }
    println!("recovery key, to be kept offline: {}", arguments.out.join(factory::RECOVERY).display());
    println!("init server: gridseal init-server --config {}", init_dir.join("config.toml").display());
    Ok(())
}

fn buyer(path: &Path) -> Result<OwnerKeys> {
    let (owner, _): (OwnerFile, _) = config::load(path)?;
    owner.keys()
}

fn say_sold(out: &Path) {
    println!("papers for the owner: {}", out.join(sale::SHIPMENT_FILE).display());
    println!("owner secrets, for the owner alone: {}", out.join(sale::DELIVERY_FILE).display());
    println!("public log of voucher entries: {}", out.join(sale::LOG_FILE).display());
}

/// Sells what is in stock.
pub fn sell(arguments: &Sell) -> Result<()> {
    let out = &arguments.out;
    let buyer = buyer(&arguments.owner)?;
    sale::refuse_second_shipment(out)?;
    let (vendor, stock) = (VoucherSigner::open(&out.join("vendor"))?, Stock::open_or_create(out)?);
    let devices = stock.list()?;
    let serials: Vec<_> = devices.iter().map(|device| device.serial.clone()).collect();
    if serials.is_empty() {
        bail!("no device in stock in {}", out.display());
    }
    sale::sell(&vendor, devices, &buyer, out)?;
    serials.iter().try_for_each(|serial| stock.remove(serial))?;
    println!("{} devices sold", serials.len());
    say_sold(out);
    Ok(())
}

/// Logs a resale and hands the buyer the secrets of the new epoch.
pub fn release(arguments: &Release) -> Result<()> {
    let Release { out, transfer: path, to } = arguments;
    let transfer =
        Transfer::decode(&read(path)?).with_context(|| format!("{} is no transfer", path.display()))?;
    let vendor = VoucherSigner::open(&out.join("vendor"))?;
    let serials = sale::release(&vendor, transfer, out, to)?;
    println!("{} devices go to their next owners", serials.len());
    println!("papers for the buyer: {}", to.join(sale::SHIPMENT_FILE).display());
    println!("owner secrets, for the buyer alone: {}", to.join(sale::DELIVERY_FILE).display());
    Ok(())
}

/// Signs devices over to a new owner in place of one who has vanished.
pub fn recover(arguments: &Recover) -> Result<()> {
    let Recover { keys, papers: path, buyer: to_whom, to, dry_run, serials } = arguments;
    let (signer, buyer) = (RecoverySigner::open(keys)?, buyer(to_whom)?);
    let bytes = read(path)?;
    let papers = match Shipment::decode(&bytes) {
        Ok(shipment) => {
            let sold = |papers: Papers| Sold { manifest: papers.manifest, voucher: papers.voucher };
            shipment.devices.into_iter().map(sold).collect()
        }
        Err(_) => Transfer::decode(&bytes).with_context(|| format!("{} are no papers", path.display()))?.0,
    };
    let mut signed = Vec::new();
    for sold in papers {
        let (serial, sold) = signer.recover(sold, &buyer)?;
        if serials.is_empty() || serials.contains(&serial) {
            signed.push((serial, sold));
        }
    }
    let is_there = |serial: &&String| signed.iter().any(|(known, _)| known == *serial);
    if let Some(missing) = serials.iter().find(|serial| !is_there(serial)) {
        bail!("{} has no papers of {missing}", path.display());
    }
    if *dry_run {
        println!("would sign {} devices over; nothing was signed", signed.len());
        return Ok(());
    }
    let count = signed.len();
    write_atomic(to, &Transfer(signed.into_iter().map(|(_, sold)| sold).collect()).encode())?;
    println!("{count} devices signed over: {}", to.display());
    println!("give it to the release service (factory release), which logs it first come, first served;");
    println!("at each device somebody then holds the button while power comes");
    Ok(())
}

/// Configuration of the manufacturer's init server.
pub fn write_init_config(dir: &Path, vendor: &Vendor, listen: SocketAddr, log_frames: bool) -> Result<()> {
    let init = config::InitServer {
        listen,
        voucher_keys: vec![vendor.voucher_key()],
        challenge: true,
        source_per_hour: config::default_source_per_hour(),
        device_per_hour: config::default_device_per_hour(),
        log_frames,
    };
    config::save(&dir.join("config.toml"), &init).context("init server")
}
