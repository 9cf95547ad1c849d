//! `gridseal device attest`, `suspend`, `resume`, `update`, `renew`, `rotate`, `rekey`, `release`, `decommission`: what is to be done with
//! devices that have an owner. The commands put it on record; the endpoint manager does it when the device asks.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use gridseal_io::clock::utc_now;
use gridseal_onboarding::endpoint_manager::{
    orders::{self, Job},
    register::{self, RegisterEntry},
};
use gridseal_store::SqliteRecords;
use gridseal_trust::enrol::{shipment::Transfer, voucher::Voucher};
use gridseal_types::{Code, service::keys::Bytes};

use super::install::{Failure, change};
use crate::{files::read, observe::say, process::endpoint_manager::set_up};

/// Which devices, and why.
#[derive(Debug, clap::Args)]
pub struct Devices {
    /// Configuration of the endpoint manager.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Serial numbers.
    #[arg(required = true, value_name = "SERIAL")]
    serials: Vec<String>,
    /// Recorded in the audit log.
    #[arg(long)]
    reason: String,
    /// Say what would be ordered, and order nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object for each device.
    #[arg(long)]
    json: bool,
}

/// Arguments of `device renew`.
#[derive(Debug, clap::Args)]
pub struct Renew {
    #[command(flatten)]
    of: Devices,
    /// Make a new storage key too, and new channel secrets for it.
    #[arg(long)]
    with_storage: bool,
}

/// Arguments of `device rotate`.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    #[command(flatten)]
    of: Devices,
    /// What is replaced.
    #[arg(long, value_enum, default_value = "channel")]
    what: What,
}

/// Secrets of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Its channel secrets: the DLMS keys.
    Channel,
    /// The authorisations of its TPM's owner and lockout hierarchy.
    Owner,
}

/// Arguments of `device release`.
#[derive(Debug, clap::Args)]
pub struct Release {
    #[command(flatten)]
    of: Devices,
    /// The transfer that names the next owner, as `ceremony transfer` has made it; of `device rekey` the one that names the
    /// owner's next key, as `ceremony rekey` has made it.
    #[arg(long, value_name = "FILE")]
    transfer: PathBuf,
}

/// Attests devices now.
pub fn attest(arguments: &Devices) -> Result<()> {
    order(arguments, |_| Ok(Job::Attest))
}

/// Holds devices and tells them to stop.
pub fn suspend(arguments: &Devices) -> Result<()> {
    order(arguments, |_| Ok(Job::Suspend))
}

/// Lets devices work again, once they have proven their software.
pub fn resume(arguments: &Devices) -> Result<()> {
    order(arguments, |_| Ok(Job::Resume))
}

/// Says that the software of devices, or of their TPMs, is being changed.
pub fn update(arguments: &Devices) -> Result<()> {
    order(arguments, |_| Ok(Job::Update))
}

/// Gives devices new certificates.
pub fn renew(arguments: &Renew) -> Result<()> {
    order(&arguments.of, |_| Ok(Job::Renew { with_storage: arguments.with_storage }))
}

/// Gives devices new secrets.
pub fn rotate(arguments: &Rotate) -> Result<()> {
    order(&arguments.of, |_| {
        Ok(match arguments.what {
            What::Channel => Job::Rotate,
            What::Owner => Job::Authorise,
        })
    })
}

/// Ends the ownership of devices that are taken out of service.
pub fn decommission(arguments: &Devices) -> Result<()> {
    order(arguments, |_| Ok(Job::Decommission))
}

/// Ends the ownership of devices that were sold.
pub fn release(arguments: &Release) -> Result<()> {
    let path = &arguments.transfer;
    let transfer =
        Transfer::decode(&read(path)?).with_context(|| format!("{} is no transfer", path.display()))?;
    order(&arguments.of, |entry| {
        let ours = Voucher::decode(&entry.voucher.0).context("own voucher does not decode")?;
        let continues = |voucher: &Voucher| {
            let entries = voucher.entries.get(..ours.entries.len());
            voucher.header == ours.header
                && entries == Some(&ours.entries)
                && voucher.entries.len() == ours.entries.len() + 1
        };
        let vouchers = transfer.0.iter().filter_map(|papers| Voucher::decode(&papers.voucher).ok());
        let voucher = vouchers.into_iter().find(continues);
        let voucher =
            voucher.with_context(|| format!("{} does not sell {}", path.display(), entry.serial))?;
        let next = voucher.entries.last().cloned().unwrap_or_default();
        let second = voucher.second.last().cloned().unwrap_or_default();
        Ok(Job::Release { entry: Bytes(next), second: Bytes(second) })
    })
}

/// Tells devices that their owner has a new key.
pub fn rekey(arguments: &Release) -> Result<()> {
    let path = &arguments.transfer;
    let transfer =
        Transfer::decode(&read(path)?).with_context(|| format!("{} is no transfer", path.display()))?;
    order(&arguments.of, |entry| {
        let ours = Voucher::decode(&entry.voucher.0).context("own voucher does not decode")?;
        let vouchers = transfer.0.iter().filter_map(|papers| Voucher::decode(&papers.voucher).ok());
        let count = ours.entries.len();
        let mut vouchers = vouchers.filter(|voucher| {
            let is_longer = voucher.entries.len() > count;
            is_longer && voucher.header == ours.header && voucher.entries.starts_with(&ours.entries)
        });
        let voucher = vouchers
            .next()
            .with_context(|| format!("{} has no new key for {}", path.display(), entry.serial))?;
        let new = |list: &[Vec<u8>], from: usize| list.iter().skip(from).cloned().map(Bytes).collect();
        // The header has a second signature too.
        Ok(Job::Rekey { entries: new(&voucher.entries, count), second: new(&voucher.second, count + 1) })
    })
}

fn order(arguments: &Devices, job: impl Fn(&RegisterEntry) -> Result<Job>) -> Result<()> {
    let Devices { config, serials, reason, dry_run, json } = arguments;
    let (setup, dir) = set_up(config)?;
    let voucher_keys = setup.registration.voucher_keys;
    let mut refused = 0;
    for serial in serials {
        let records = SqliteRecords::open(dir.join("register.db"))?;
        let entry = match register::find(&records, serial)? {
            Some(device) => register::entry(&records, &device)?,
            None => None,
        };
        let outcome = match &entry {
            None => Err(anyhow::anyhow!("{}: no device of this serial number", Code::Unknown)),
            Some(entry) => job(entry).and_then(|job| {
                if *dry_run {
                    let (_, decided) = orders::request(
                        &records,
                        utc_now(),
                        &entry.device,
                        job.clone(),
                        (reason, &voucher_keys),
                    )?;
                    decided.map_err(|code| anyhow::anyhow!("{code}"))?;
                    return Ok(job);
                }
                drop(records);
                change(config, |records| {
                    let (writes, changed) = orders::request(
                        records,
                        utc_now(),
                        &entry.device,
                        job.clone(),
                        (reason, &voucher_keys),
                    )?;
                    let why = "the device is in no state for it";
                    Ok((writes, changed.map_err(|code| Failure::Refused(code, why))?))
                })?;
                Ok(job)
            }),
        };
        refused += usize::from(outcome.is_err());
        report(serial, entry.as_ref(), &outcome, (*dry_run, *json));
    }
    if *dry_run && !json {
        say(&format!(
            "{} of {} devices would be ordered; nothing was",
            serials.len() - refused,
            serials.len()
        ));
    }
    if refused > 0 {
        bail!("{refused} of {} devices were refused", serials.len());
    }
    Ok(())
}

fn report(serial: &str, entry: Option<&RegisterEntry>, outcome: &Result<Job>, (dry_run, json): (bool, bool)) {
    let state = entry.map(|entry| entry.state.name());
    match (outcome, json) {
        (Ok(job), true) => say(&format!(
            "{}",
            serde_json::json!({
                "serial": serial, "job": job.name(), "ordered": !dry_run, "dry_run": dry_run, "state": state,
            })
        )),
        (Ok(job), false) if dry_run => {
            say(&format!("would {} {serial}, which is {}", job.name(), state.unwrap_or("unknown")));
        }
        (Ok(job), false) => say(&format!("{} ordered for {serial}", job.name())),
        (Err(error), true) => say(&format!(
            "{}",
            serde_json::json!({ "serial": serial, "ordered": false, "error": format!("{error:#}"), "state": state })
        )),
        (Err(error), false) => say(&format!("refused {serial}: {error:#}")),
    }
}
