//! `gridseal device install`, `correct`, `exchange`, `return`: which device hangs where.
//!
//! The installer's command knows labels and names of connection points. It reads no key and no register, dials nobody, and
//! what it leaves in the inbox is data that the endpoint manager checks (row A40).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gridseal_io::clock::utc_now;
use gridseal_onboarding::endpoint_manager::{
    installation::{self, Changed},
    register,
};
use gridseal_store::SqliteRecords;
use gridseal_trust::enrol::{
    installation::{InstallRequest, is_point},
    label::LabelA,
};
use gridseal_types::{
    Code, EkName,
    records::{RecordsError, Write},
    service::keys::KeyRequest,
};

use super::device::ask;
use crate::{
    files::write_atomic,
    observe::say,
    process::endpoint_manager::{Setup, set_up},
};

/// Arguments of `device install`.
#[derive(Debug, clap::Args)]
pub struct Install {
    /// Label A of the device: text as scanned or typed.
    #[arg(long)]
    label: String,
    /// Connection point.
    #[arg(long)]
    point: String,
    /// Directory from which the endpoint manager takes requests.
    #[arg(long, value_name = "DIR")]
    inbox: PathBuf,
}

/// Arguments of `device correct`.
#[derive(Debug, clap::Args)]
pub struct Correct {
    /// Configuration of the endpoint manager.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Serial number of one.
    first: String,
    /// Serial number of the other.
    second: String,
    /// Recorded in the audit log.
    #[arg(long)]
    reason: String,
}

/// Arguments of `device exchange`.
#[derive(Debug, clap::Args)]
pub struct Exchange {
    /// Configuration of the endpoint manager.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Label A of the new device.
    #[arg(long)]
    label: String,
    /// Connection point.
    #[arg(long)]
    point: String,
    /// Recorded in the audit log.
    #[arg(long)]
    reason: String,
}

/// Arguments of `device return`.
#[derive(Debug, clap::Args)]
pub struct Return {
    /// Configuration of the endpoint manager.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Serial number.
    serial: String,
    /// Recorded in the audit log.
    #[arg(long)]
    reason: String,
}

fn request(label: &str, point: &str) -> Result<InstallRequest> {
    let label = LabelA::parse(label).context("label A (E_LABEL)")?;
    if !is_point(point) {
        bail!("connection point: 1 to 40 of 0-9 A-Z a-z - . / _ :");
    }
    Ok(InstallRequest { label, point: point.into(), at: utc_now() })
}

/// Leaves a request in the inbox. The same label and point give the same file, so that a repetition replaces it.
pub fn install(arguments: &Install) -> Result<()> {
    let request = request(&arguments.label, &arguments.point)?;
    let name = gridseal_crypto::sha256(&[request.label.device.as_bytes(), arguments.point.as_bytes()]);
    std::fs::create_dir_all(&arguments.inbox)
        .with_context(|| format!("cannot make {}", arguments.inbox.display()))?;
    let path = arguments.inbox.join(format!("{}.cbor", hex::encode(&name[..16])));
    write_atomic(&path, &request.encode())?;
    say(&format!("{} at {}: request left for the endpoint manager", request.label.serial, request.point));
    Ok(())
}

/// Exchanges the bindings of two devices.
pub fn correct(arguments: &Correct) -> Result<()> {
    let Correct { config, first, second, reason } = arguments;
    change(config, |records| {
        let find = |serial: &str| {
            register::find(records, serial)?
                .ok_or(Failure::Refused(Code::Unknown, "no device of this serial number"))
        };
        let devices = [find(first)?, find(second)?];
        let (writes, changed) = installation::correct(records, utc_now(), devices, reason)?;
        Ok((writes, changed.map_err(|code| Failure::Refused(code, "both must be bound to a point"))?))
    })
}

/// Puts another device in the place of one.
pub fn exchange(arguments: &Exchange) -> Result<()> {
    let request = request(&arguments.label, &arguments.point)?;
    change(&arguments.config, |records| {
        let (writes, changed) = installation::exchange(records, utc_now(), &request, &arguments.reason)?;
        let why = "the new device must be registered and free, and another one must hang at the point";
        Ok((writes, changed.map_err(|code| Failure::Refused(code, why))?))
    })
}

/// Takes a device back.
pub fn take_back(arguments: &Return) -> Result<()> {
    change(&arguments.config, |records| {
        let device = register::find(records, &arguments.serial)?;
        let device = device.ok_or(Failure::Refused(Code::Unknown, "no device of this serial number"))?;
        let (writes, changed) = installation::take_back(records, utc_now(), &device, &arguments.reason)?;
        Ok((writes, changed.map_err(|code| Failure::Refused(code, "it is bound to no point"))?))
    })
}

/// Why nothing was changed.
#[derive(Debug)]
pub(super) enum Failure {
    Refused(Code, &'static str),
    Records(RecordsError),
}

impl From<RecordsError> for Failure {
    fn from(error: RecordsError) -> Self {
        Self::Records(error)
    }
}

/// Changes the register, then tells the key service the new states. Repeating a command whose second half failed is refused
/// for its first half, so the states are told before the register is written.
pub(super) fn change(
    config: &Path,
    decide: impl Fn(&SqliteRecords) -> Result<(Vec<Write>, Vec<Changed>), Failure>,
) -> Result<()> {
    let (setup, dir) = set_up(config)?;
    let mut records = SqliteRecords::open(dir.join("register.db"))?;
    let failed = |failure| match failure {
        Failure::Refused(code, why) => anyhow::anyhow!("{code}: {why}"),
        Failure::Records(error) => error.into(),
    };
    let (_, planned) = decide(&records).map_err(failed)?;
    tell(&setup, &planned)?;
    let changed = records.transact(|view| decide(view)).map_err(failed)?;
    for Changed { device, state, .. } in changed {
        say(&format!("{} is {}", serial_of(&records, &device)?, state.name()));
    }
    Ok(())
}

fn tell(setup: &Setup, changed: &[Changed]) -> Result<()> {
    let requests: Vec<_> = changed
        .iter()
        .map(|Changed { device, state, attested_at }| KeyRequest::SetState {
            device: *device,
            state: *state,
            attested_at: *attested_at,
        })
        .collect();
    let count = requests.len();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let replies = runtime.block_on(ask(setup, requests))?;
    let is_done = |reply: &gridseal_types::service::keys::KeyReply| {
        matches!(reply, gridseal_types::service::keys::KeyReply::Done)
    };
    if replies.len() == count && replies.iter().all(is_done) {
        return Ok(());
    }
    bail!("the key service did not take the new states; nothing was changed in the register")
}

fn serial_of(records: &SqliteRecords, device: &EkName) -> Result<String> {
    Ok(register::entry(records, device)?.map(|entry| entry.serial).unwrap_or_default())
}
