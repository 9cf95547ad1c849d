//! `gridseal device receipt export` and `verify`: proof that an ownership has ended.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use gridseal_onboarding::endpoint_manager::{orders, register};
use gridseal_trust::enrol::{
    receipt::{Ended, Proof, RECEIPT_SIZE_MAX, ReceiptFile},
    shipment::Shipment,
    voucher::{Voucher, VoucherKey},
};

use crate::{
    config,
    files::{parse_voucher_key, read, write_atomic},
    observe::say,
    tools::{Usage, device::register_of},
};

/// Receipts.
#[derive(Debug, clap::Subcommand)]
pub enum Receipt {
    /// Write the receipt of a device whose ownership has ended.
    #[command(
        after_help = "Example:\n  gridseal device receipt export --config endpoint-manager/config.toml 4C1F2A000001 \
        --out 4C1F2A000001.receipt"
    )]
    Export(Export),
    /// Check a receipt, offline: it needs nothing but the manufacturer's voucher key.
    #[command(
        after_help = "Example:\n  gridseal device receipt verify 4C1F2A000001.receipt --voucher-key HEX \
        --shipment shipment.cbor\n\nExit codes: 0 it holds, 1 it does not, 2 wrong usage or no receipt."
    )]
    Verify(Verify),
}

/// Arguments of `device receipt export`.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// Configuration of the endpoint manager.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Serial number.
    serial: String,
    /// Epoch that ended; the one of the register when not given.
    #[arg(long)]
    epoch: Option<u32>,
    /// Where the receipt goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Arguments of `device receipt verify`.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Receipt.
    file: PathBuf,
    /// Manufacturer's voucher key, as its init server's configuration has it.
    #[arg(long, value_name = "HEX", required_unless_present = "config")]
    voucher_key: Vec<String>,
    /// Take the voucher keys from this configuration of an endpoint manager.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A buyer's shipment: the receipt has to be for one of its devices and for the very entry that names the buyer.
    #[arg(long, value_name = "FILE")]
    shipment: Option<PathBuf>,
    /// Accept only what the TPM itself has signed.
    #[arg(long)]
    tpm: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the commands.
pub fn run(receipt: &Receipt) -> Result<ExitCode> {
    match receipt {
        Receipt::Export(arguments) => export(arguments).map(|()| ExitCode::SUCCESS),
        Receipt::Verify(arguments) => verify(arguments),
    }
}

fn export(arguments: &Export) -> Result<()> {
    let records = register_of(&arguments.config)?;
    let device = register::find(&records, &arguments.serial)?;
    let device = device.with_context(|| format!("no device {}", arguments.serial))?;
    let entry = register::entry(&records, &device)?.context("no entry")?;
    let epoch = arguments.epoch.unwrap_or(entry.epoch);
    let Some(file) = orders::receipt(&records, &device, epoch)? else {
        bail!("no receipt of {} for epoch {epoch}: it is {}", arguments.serial, entry.state.name())
    };
    write_atomic(&arguments.out, &file.encode())?;
    say(&format!("receipt of {} for epoch {epoch}: {}", arguments.serial, arguments.out.display()));
    Ok(())
}

/// The keys to believe, and what a buyer expects.
fn trusted(arguments: &Verify) -> Result<Vec<VoucherKey>> {
    let mut keys = arguments.voucher_key.clone();
    if let Some(path) = &arguments.config {
        let (config, _): (config::EndpointManager, _) = config::load(path)?;
        keys.extend(config.voucher_keys);
    }
    keys.iter().map(|key| parse_voucher_key(key)).collect()
}

fn verify(arguments: &Verify) -> Result<ExitCode> {
    // What is no receipt, no key or no file proves nothing, one way or the other.
    let wrong = |error: anyhow::Error| Usage(format!("{error:#}"));
    let keys = trusted(arguments).map_err(wrong)?;
    let bytes = read(&arguments.file).map_err(wrong)?;
    if bytes.len() > RECEIPT_SIZE_MAX {
        return Err(Usage(format!("{} is too large for a receipt", arguments.file.display())).into());
    }
    let file = ReceiptFile::decode(&bytes)
        .map_err(|error| Usage(format!("{} is no receipt: {error}", arguments.file.display())))?;
    let outcome = file.verify(&keys).map_err(|fault| (fault.name(), fault.to_string()));
    let outcome = match (outcome, &arguments.shipment) {
        (Ok(ended), Some(path)) => {
            let bytes = read(path).map_err(wrong)?;
            let shipment = Shipment::decode(&bytes)
                .map_err(|_| Usage(format!("{} is no shipment file", path.display())))?;
            expected(ended, &shipment, &keys)
        }
        (outcome, _) => outcome,
    };
    let outcome = match outcome {
        Ok(ended) if arguments.tpm && ended.proof == Proof::Owner => {
            Err(("receipt.no-statement", "the tpm itself has signed nothing".to_owned()))
        }
        outcome => outcome,
    };
    Ok(tell(&outcome, arguments.json))
}

/// The receipt is for a device of the shipment, and for the entry that names its buyer: one of an earlier sale is not.
fn expected(ended: Ended, shipment: &Shipment, keys: &[VoucherKey]) -> Result<Ended, (&'static str, String)> {
    let verified = shipment
        .devices
        .iter()
        .filter_map(|papers| Voucher::decode(&papers.voucher).ok()?.verify(keys).ok())
        .find(|voucher| voucher.header.ek_name == ended.device);
    match verified {
        None => Err(("receipt.other-device", format!("the shipment has no device {}", ended.serial))),
        Some(voucher) if ended.next.is_some_and(|next| next.entry == voucher.head()) => Ok(ended),
        Some(_) => Err(("receipt.other-sale", "it ends another ownership than the one before ours".into())),
    }
}

fn tell(outcome: &Result<Ended, (&'static str, String)>, json: bool) -> ExitCode {
    match outcome {
        Ok(ended) => {
            let after_ms = match ended.proof {
                Proof::Tpm { after_ms } => Some(after_ms),
                Proof::Owner => None,
            };
            if json {
                say(&format!(
                    "{}",
                    serde_json::json!({
                        "ok": true, "serial": ended.serial, "device": ended.device.to_string(),
                        "epoch": ended.epoch, "at": ended.at.0, "proof": ended.proof.name(),
                        "signed_after_ms": after_ms,
                        "next_owner": ended.next.map(|next| next.key.to_string()),
                        "next_entry": ended.next.map(|next| next.entry.to_string()),
                    })
                ));
            } else {
                let end = match &ended.next {
                    Some(next) => format!("released to the owner of key {}", next.key),
                    None => "decommissioned".into(),
                };
                say(&format!("{} {end}; its TPM was cleared (epoch {})", ended.serial, ended.epoch));
                say(match ended.proof {
                    Proof::Tpm { .. } => "proof: signed by the TPM itself and by its owner",
                    Proof::Owner => "proof: the signed word of its owner alone",
                });
            }
            ExitCode::SUCCESS
        }
        Err((code, why)) => {
            if json {
                say(&format!("{}", serde_json::json!({ "ok": false, "code": code, "error": why })));
            } else {
                say(&format!("{code}: {why}"));
            }
            ExitCode::FAILURE
        }
    }
}
