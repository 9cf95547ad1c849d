//! `gridseal device register` and `show`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gridseal_io::clock::utc_now;
use gridseal_onboarding::endpoint_manager::register::{self, DEVICES, RegisterEntry, Shipped};
use gridseal_store::SqliteRecords;
use gridseal_trust::enrol::init::SignedRedirect;
use gridseal_types::{
    DeviceState, UtcTime,
    records::{Records, RecordsError},
    service::{
        Batch,
        keys::{KeyReply, KeyRequest},
    },
};

use crate::{
    files::read,
    process::{
        endpoint_manager::{Setup, set_up},
        keys,
    },
    setup::factory::{Papers, decode_shipment},
};

/// Arguments of `device register`.
#[derive(Debug, clap::Args)]
pub struct Register {
    /// Configuration of the endpoint manager.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Shipment file of the manufacturer.
    shipment: PathBuf,
    /// Print one JSON object per device.
    #[arg(long)]
    json: bool,
}

/// Arguments of `device show`.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Configuration of the endpoint manager.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON object per device.
    #[arg(long)]
    json: bool,
}

/// Arguments of `device release`.
#[derive(Debug, clap::Args)]
pub struct Release {
    /// Configuration of the endpoint manager.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Serial number.
    serial: String,
    /// Why it may try again: recorded in the audit log.
    #[arg(long)]
    reason: String,
}

/// Devices asked for in one step.
const STEP: usize = 64;

/// Takes a shipment into the register.
pub fn register(arguments: &Register) -> Result<()> {
    let papers = decode_shipment(&read(&arguments.shipment)?)
        .with_context(|| format!("{} is no shipment file", arguments.shipment.display()))?;
    let (setup, dir) = set_up(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let refused = runtime.block_on(register_all(&setup, &dir, &papers, arguments.json))?;
    if refused > 0 {
        bail!("{refused} of {} devices were refused", papers.len());
    }
    Ok(())
}

async fn register_all(setup: &Setup, dir: &Path, papers: &[Papers], json: bool) -> Result<usize> {
    let mut records = SqliteRecords::open(dir.join("register.db"))?;
    let mut refused = 0;
    for (step, chunk) in papers.chunks(STEP).enumerate() {
        for outcome in register_chunk(setup, &mut records, chunk).await? {
            refused += usize::from(outcome.1.is_some());
            report(json, &outcome);
        }
        if papers.len() > STEP {
            eprintln!("{}/{}", (step * STEP + chunk.len()), papers.len());
        }
    }
    Ok(refused)
}

/// Serial number, and why the device was refused.
type Outcome = (String, Option<gridseal_types::Code>);

fn report(json: bool, (serial, refused): &Outcome) {
    match (json, refused) {
        (true, None) => {
            crate::observe::say(&format!("{}", serde_json::json!({"serial": serial, "registered": true})))
        }
        (true, Some(code)) => {
            crate::observe::say(&format!(
                "{}",
                serde_json::json!({"serial": serial, "registered": false, "code": code.name()})
            ));
        }
        (false, None) => crate::observe::say(&format!("registered {serial}")),
        (false, Some(code)) => crate::observe::say(&format!("refused    {serial}: {code}")),
    }
}

/// Checks papers, gives owner secrets to the key service, has redirects signed, and enters all of it in the register.
async fn register_chunk(
    setup: &Setup,
    records: &mut SqliteRecords,
    papers: &[Papers],
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut shipped = Vec::new();
    let mut deliveries = Vec::new();
    for paper in papers {
        match Shipped::check(&setup.registration, &paper.manifest, &paper.voucher) {
            Ok(device) => {
                deliveries.push(device.deliver(paper.delivery.clone()));
                shipped.push(device);
            }
            Err(code) => outcomes.push(("?".to_owned(), Some(code))),
        }
    }
    let delivered = ask(setup, deliveries).await?;
    let mut entering = Vec::new();
    let mut redirects = Vec::new();
    let now = utc_now();
    // Sequence numbers rise with the clock, so that a restored register does not repeat one.
    let seq = now.0;
    for (device, reply) in shipped.into_iter().zip(delivered) {
        match device.delivered(&reply) {
            Ok(()) => {
                let payload = device.redirect(&setup.registration, now, seq);
                redirects.push(KeyRequest::SignRedirect { payload: payload.clone() });
                entering.push((device, payload));
            }
            Err(code) => outcomes.push((device.serial().to_owned(), Some(code))),
        }
    }
    let signed = ask(setup, redirects).await?;
    for ((device, payload), reply) in entering.into_iter().zip(signed) {
        let serial = device.serial().to_owned();
        let KeyReply::Signed { sign1, delegation } = reply else {
            outcomes.push((serial, Some(gridseal_types::Code::ConfigChain)));
            continue;
        };
        let redirect = SignedRedirect {
            redirect: sign1,
            delegation: Some(delegation),
            voucher: device.voucher().to_vec(),
        };
        records.transact(|view| Ok::<_, RecordsError>((device.enter(view, now, &payload, redirect)?, ())))?;
        outcomes.push((serial, None));
    }
    Ok(outcomes)
}

async fn ask(setup: &Setup, requests: Vec<KeyRequest>) -> Result<Vec<KeyReply>> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let Batch(replies) = setup.peers.keys.call(keys::PATH, &Batch(requests)).await.context("key service")?;
    Ok(replies)
}

/// Lets a quarantined device try again. Every check is made again: a release overrides none.
pub fn release(arguments: &Release) -> Result<()> {
    let (setup, dir) = set_up(&arguments.config)?;
    let mut records = SqliteRecords::open(dir.join("register.db"))?;
    let released =
        records.transact(|view| register::release(view, utc_now(), &arguments.serial, &arguments.reason))?;
    let Some(device) = released else { bail!("no device {} is in quarantine", arguments.serial) };
    let request = KeyRequest::SetState { device, state: DeviceState::Registered, attested_at: UtcTime(0) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(ask(&setup, vec![request]))?.pop() {
        Some(KeyReply::Done) => {
            crate::observe::say(&format!("released {}: it may onboard again", arguments.serial));
            Ok(())
        }
        _ => bail!("the key service did not take it; release it again"),
    }
}

/// Shows the register.
pub fn show(arguments: &Show) -> Result<()> {
    let dir = arguments.config.parent().context("config has no directory")?;
    let records = SqliteRecords::open(dir.join("register.db"))?;
    let mut after: Vec<u8> = Vec::new();
    loop {
        let rows = records.range(DEVICES, &after, STEP)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        after.clone_from(last);
        for (_, value) in &rows {
            let entry: RegisterEntry = minicbor::decode(value).context("register row does not decode")?;
            let quarantine = entry.quarantine.map(|code| code.name());
            if arguments.json {
                crate::observe::say(&format!(
                    "{}",
                    serde_json::json!({
                        "serial": entry.serial, "model": entry.model, "device": entry.device.to_string(),
                        "system_title": entry.system_title.to_string(), "state": entry.state.name(),
                        "assurance": if entry.software_root { "software" } else { "manifest" },
                        "epoch": entry.epoch, "quarantine": quarantine,
                        "redirect_registered": entry.registration_pending.is_none(),
                    })
                ));
            } else {
                let reason = quarantine.map(|code| format!(" ({code})")).unwrap_or_default();
                crate::observe::say(&format!(
                    "{} {} {}{reason}",
                    entry.serial,
                    entry.system_title,
                    entry.state.name()
                ));
            }
        }
    }
}
