//! `gridseal device register` and `show`.

use std::{
    collections::HashMap,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_io::{clock::utc_now, rng::OsRng};
use gridseal_onboarding::endpoint_manager::{
    installation::{self, By},
    orders::{self, OrderStatus},
    register::{self, DEVICES, RegisterEntry, Shipped},
    voucher_log,
};
use gridseal_store::SqliteRecords;
use gridseal_trust::enrol::{
    delivery::{decode_delivery, hand_over},
    delivery_list::{self, Points, Row, RowError},
    init::SignedRedirect,
    installation::InstallRequest,
    label::{LabelA, LabelB},
    receipt::ReceiptFile,
    shipment::{Papers, Shipment, Sold, Transfer},
    voucher_log::LogHead,
};
use gridseal_types::{
    Code, DeviceState, UtcTime,
    records::{Records, RecordsError},
    service::{
        Batch,
        keys::{KeyReply, KeyRequest},
    },
};

use super::{mapping, witness};
use crate::{
    config,
    files::{read, read_if_there, write_atomic},
    process::{
        endpoint_manager::{Setup, set_up},
        keys,
    },
    setup::sale::DELIVERY_FILE,
};

/// Arguments of `device register`.
#[derive(Debug, clap::Args)]
pub struct Register {
    /// Configuration of the endpoint manager.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Label A of the one device of the shipment to register: text as scanned or typed. Without it all are registered.
    #[arg(long, value_name = "LABEL", requires = "insert")]
    label: Option<String>,
    /// File with the text of its label B, `-` for standard input: it holds the owner secret.
    #[arg(long, value_name = "FILE", requires = "label")]
    insert: Option<PathBuf>,
    /// Owner secrets of the shipment; `delivery.cbor` beside the shipment file when not given.
    #[arg(long, value_name = "FILE")]
    delivery: Option<PathBuf>,
    /// Directory with the sellers' receipts, `SERIAL.receipt`: of a device that had an owner before, the receipt must end
    /// that ownership, for the very entry that makes us the owner.
    #[arg(long, value_name = "DIR")]
    receipts: Option<PathBuf>,
    /// The key service's database is lost: derive the authorisations of the devices' TPMs again from its keystore, and try
    /// them when the devices onboard next. For devices that were ours before and nobody else's since.
    #[arg(long)]
    recover: bool,
    /// File that `ceremony rekey` has written: with --recover, for devices that have the owner's next key. The
    /// manufacturer's shipment names the one before.
    #[arg(long, value_name = "FILE", requires = "recover")]
    rekeyed: Option<PathBuf>,
    /// A witness's word on the head of the manufacturer's log that comes with the shipment; as often as there are words.
    #[arg(long, value_name = "FILE")]
    witnessed: Vec<PathBuf>,
    /// Which device goes to which connection point: a list of the vendor (CSV with columns serial or label, point, model,
    /// `device_type`, `system_title`), or TOML that names such a list and its columns. All of the shipment is imported, or,
    /// when a row or a paper is wrong, nothing.
    #[arg(long, value_name = "FILE", conflicts_with = "label")]
    mapping: Option<PathBuf>,
    /// Check everything that can be checked without the key service, and change nothing.
    #[arg(long)]
    dry_run: bool,
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

/// Arguments of `device papers`.
#[derive(Debug, clap::Args)]
pub struct PapersArguments {
    /// Configuration of the endpoint manager.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where they go.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Serial numbers.
    #[arg(required = true, value_name = "SERIAL")]
    serials: Vec<String>,
}

/// Arguments of `device readmit`.
#[derive(Debug, clap::Args)]
pub struct Readmit {
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

/// How the owner secret of a device comes.
enum Secret {
    /// As a delivery record.
    Delivered(Vec<u8>),
    /// From label B, which a person read.
    Typed(LabelB),
}

/// Papers of a device with its owner secret.
struct Delivered {
    papers: Papers,
    secret: Secret,
}

/// What holds for a whole shipment.
struct Intake<'a> {
    head: &'a LogHead,
    receipts: Option<&'a Path>,
    recovers: bool,
    /// Vouchers with the owner's next key, by manifest.
    rekeyed: HashMap<Vec<u8>, Vec<u8>>,
    points: Points,
}

/// Takes a shipment into the register, or one device of it by its labels.
pub fn register(arguments: &Register) -> Result<()> {
    let shipment = Shipment::decode(&read(&arguments.shipment)?)
        .with_context(|| format!("{} is no shipment file", arguments.shipment.display()))?;
    let (setup, dir) = set_up(&arguments.config)?;
    let head = LogHead::verify(&shipment.log_head, &setup.registration.voucher_keys).map_err(|code| {
        anyhow::anyhow!("{code}: the shipment's log is not signed by a manufacturer of `voucher_keys`")
    })?;
    let words = witness::words(&arguments.witnessed)?;
    let signed =
        setup.witnesses.check(&head, &words).map_err(|code| witness::lacking(&setup.witnesses, code))?;
    let devices = match (&arguments.label, &arguments.insert) {
        (Some(label), Some(insert)) => vec![by_label(&setup, shipment.devices, label, insert)?],
        _ => with_deliveries(arguments, shipment.devices)?,
    };
    let count = devices.len();
    let mut intake = Intake {
        head: &head,
        receipts: arguments.receipts.as_deref(),
        recovers: arguments.recover,
        rekeyed: arguments.rekeyed.as_deref().map(rekeyed).transpose()?.unwrap_or_default(),
        points: Points::new(),
    };
    let mut records = SqliteRecords::open(dir.join("register.db"))?;
    if arguments.mapping.is_some() || arguments.dry_run {
        let list = arguments.mapping.as_deref().map(mapping::load).transpose()?;
        match look_through(&setup, &records, &intake, (&devices, list))? {
            Ok(points) => intake.points = points,
            Err(errors) => return refuse_all(arguments, &errors),
        }
    }
    if arguments.dry_run {
        let bound = intake.points.len();
        if arguments.json {
            let told = serde_json::json!({"dry_run": true, "devices": count, "points": bound});
            crate::observe::say(&told.to_string());
        } else {
            crate::observe::say(&format!(
                "would register {count} devices, {bound} of them at connection points"
            ));
        }
        return Ok(());
    }
    for seen in std::iter::once(&head).chain(&signed) {
        records.transact(|view| voucher_log::remember(view, seen))?.map_err(|code| {
            anyhow::anyhow!("{code}: read the manufacturer's log: gridseal import voucher-log")
        })?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let refused = runtime.block_on(register_all(&setup, &mut records, &intake, (devices, arguments.json)))?;
    if refused > 0 {
        bail!("{refused} of {count} devices were refused");
    }
    Ok(())
}

/// The vouchers that `ceremony rekey` has signed.
fn rekeyed(path: &Path) -> Result<HashMap<Vec<u8>, Vec<u8>>> {
    let file = Transfer::decode(&read(path)?);
    let Transfer(all) = file.with_context(|| format!("{} is no file of ceremony rekey", path.display()))?;
    Ok(all.into_iter().map(|sold| (sold.manifest, sold.voucher)).collect())
}

/// The rows of a list, or every line that is wrong.
type List = std::result::Result<Vec<Row>, Vec<RowError>>;

/// Checks all papers, and compares them with a list where there is one, before anything is imported. Gives where devices
/// go, or every device and row that is wrong.
fn look_through(
    setup: &Setup,
    records: &SqliteRecords,
    intake: &Intake<'_>,
    (devices, list): (&[Delivered], Option<List>),
) -> Result<std::result::Result<Points, Vec<RowError>>> {
    let mut errors = Vec::new();
    let mut checked = Vec::new();
    for Delivered { papers, .. } in devices {
        match checked_papers(setup, intake, papers)? {
            Ok(device) => checked.push(device),
            Err((serial, code)) => errors.push(RowError { line: 0, why: format!("{serial}: {code}") }),
        }
    }
    let shipped: Vec<_> = checked
        .iter()
        .map(|device| delivery_list::Shipped {
            device: device.device(),
            serial: device.serial(),
            model: device.model(),
            device_type: device.device_type(),
            system_title: device.system_title(),
        })
        .collect();
    let assigned = match list {
        None => Ok(Points::new()),
        Some(rows) => rows.and_then(|rows| delivery_list::assign(&rows, &shipped)),
    };
    let points = match assigned {
        Ok(points) => points,
        Err(rows) => {
            errors.extend(rows);
            Points::new()
        }
    };
    for (device, (line, point)) in &points {
        let elsewhere = installation::of(records, device)?.map(|bound| bound.point);
        if let Some(bound) = elsewhere.filter(|bound| bound != point) {
            let why = format!("the device is at {bound} already: gridseal device return, then install");
            errors.push(RowError { line: *line, why });
        } else if installation::at(records, point)?.is_some_and(|other| other != *device) {
            let why = format!("another device is at {point}: gridseal device exchange");
            errors.push(RowError { line: *line, why });
        }
    }
    errors.sort_by_key(|error| error.line);
    Ok(if errors.is_empty() { Ok(points) } else { Err(errors) })
}

fn refuse_all(arguments: &Register, errors: &[RowError]) -> Result<()> {
    for RowError { line, why } in errors {
        let line = Some(*line).filter(|line| *line > 0);
        if arguments.json {
            crate::observe::say(&serde_json::json!({"line": line, "error": why}).to_string());
        } else {
            let place = line.map_or_else(|| "shipment".to_owned(), |line| format!("line {line}"));
            crate::observe::say(&format!("{place}: {why}"));
        }
    }
    bail!("{} errors; nothing was imported", errors.len());
}

/// The records of a delivery file are in the order of the shipment.
fn with_deliveries(arguments: &Register, papers: Vec<Papers>) -> Result<Vec<Delivered>> {
    let path = arguments.delivery.clone().unwrap_or_else(|| arguments.shipment.with_file_name(DELIVERY_FILE));
    let records =
        decode_delivery(&read(&path)?).with_context(|| format!("{} is no delivery file", path.display()))?;
    if records.len() != papers.len() {
        bail!("{} has {} records for {} devices", path.display(), records.len(), papers.len());
    }
    let deliver = |(papers, record)| Delivered { papers, secret: Secret::Delivered(record) };
    Ok(papers.into_iter().zip(records).map(deliver).collect())
}

/// Labels A and B of one device: both must be its own.
fn by_label(setup: &Setup, shipped: Vec<Papers>, label: &str, insert: &Path) -> Result<Delivered> {
    let label = LabelA::parse(label).context("label A (E_LABEL)")?;
    let secret = LabelB::parse(&read_text(insert)?).context("label B (E_LABEL)")?;
    if secret.serial != label.serial {
        bail!("E_LABEL: label B is for {}, label A for {}", secret.serial, label.serial);
    }
    let is_it = |papers: &Papers| {
        let checked = Shipped::check(&setup.registration, &papers.manifest, &papers.voucher);
        checked.is_ok_and(|device| device.device() == label.device && device.serial() == label.serial)
    };
    let papers = shipped.into_iter().find(is_it);
    let papers = papers.with_context(|| format!("E_LABEL: no papers of {} that hold", label.serial))?;
    Ok(Delivered { papers, secret: Secret::Typed(secret) })
}

/// A short text that holds a secret: from a file, or from standard input, so that it is in no list of processes.
fn read_text(path: &Path) -> Result<String> {
    if path.as_os_str() != "-" {
        return String::from_utf8(read(path)?).context("label B is not text");
    }
    let mut text = String::new();
    std::io::stdin().take(1_024).read_to_string(&mut text)?;
    Ok(text)
}

async fn register_all(
    setup: &Setup,
    records: &mut SqliteRecords,
    intake: &Intake<'_>,
    (devices, json): (Vec<Delivered>, bool),
) -> Result<usize> {
    let (count, mut refused, mut done) = (devices.len(), 0, 0);
    for chunk in devices.chunks(STEP) {
        for outcome in register_chunk(setup, records, intake, chunk).await? {
            refused += usize::from(outcome.1.is_some());
            report(json, &outcome);
        }
        done += chunk.len();
        if count > STEP {
            eprintln!("{done}/{count}");
        }
    }
    Ok(refused)
}

/// Serial number, and why the device was refused.
type Outcome = (String, Option<Code>);

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
    intake: &Intake<'_>,
    devices: &[Delivered],
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut shipped = Vec::new();
    let mut deliveries = Vec::new();
    for Delivered { papers, secret } in devices {
        let device = match checked_papers(setup, intake, papers)? {
            Ok(device) => device,
            Err((serial, code)) => {
                outcomes.push((serial, Some(code)));
                continue;
            }
        };
        deliveries.push(match secret {
            Secret::Delivered(record) => device.deliver(record.clone()),
            Secret::Typed(label) => {
                let recipient = device.encryption().context("voucher has no owner")?;
                device.deliver_label(hand_over(label, device.device(), &recipient, &mut OsRng)?)
            }
        });
        shipped.push(device);
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
    if intake.recovers {
        let recover = |(device, _): &(Shipped, Vec<u8>)| KeyRequest::Recover { device: device.device() };
        for (reply, (device, _)) in
            ask(setup, entering.iter().map(recover).collect()).await?.iter().zip(&entering)
        {
            if let KeyReply::Refused { code } = reply {
                bail!(
                    "{}: {code}: nothing to derive its authorisations from, or they are on record",
                    device.serial()
                );
            }
        }
    }
    let signed = ask(setup, redirects).await?;
    for ((device, payload), reply) in entering.into_iter().zip(signed) {
        let serial = device.serial().to_owned();
        let KeyReply::Signed { sign1, delegation } = reply else {
            outcomes.push((serial, Some(Code::ConfigChain)));
            continue;
        };
        let redirect = SignedRedirect {
            redirect: sign1,
            delegation: Some(delegation),
            voucher: device.voucher().to_vec(),
        };
        let point = intake.points.get(&device.device()).map(|(_, point)| InstallRequest {
            label: LabelA {
                model: device.model().to_owned(),
                serial: serial.clone(),
                device: device.device(),
            },
            point: point.clone(),
            at: now,
        });
        records.transact(|view| Ok::<_, RecordsError>((device.enter(view, now, &payload, redirect)?, ())))?;
        // A device that was registered before this one failed is bound when it is imported again.
        let bound = match point {
            Some(request) => {
                records.transact(|view| installation::bind(view, now, By::Operator, &request))?.err()
            }
            None => None,
        };
        outcomes.push((serial, bound));
    }
    Ok(outcomes)
}

/// The papers of a device, checked with all that came with them; or its serial number and why it is refused.
fn checked_papers(
    setup: &Setup,
    intake: &Intake<'_>,
    papers: &Papers,
) -> Result<std::result::Result<Shipped, (String, Code)>> {
    let grown = intake.rekeyed.get(&papers.manifest);
    let voucher = grown.unwrap_or(&papers.voucher);
    let mut device = match Shipped::check(&setup.registration, &papers.manifest, voucher) {
        Ok(device) => device,
        Err(code) => return Ok(Err(("?".to_owned(), code))),
    };
    let refused = |device: &Shipped, code| Ok(Err((device.serial().to_owned(), code)));
    if let Err(fault) = device.endorse(&setup.registration, utc_now()) {
        return refused(&device, fault.into());
    }
    let logged = match grown {
        None => device.logged(intake.head, &papers.logged),
        Some(_) => device.grown(&setup.registration, &papers.voucher, (intake.head, &papers.logged)),
    };
    if let Err(code) = logged {
        return refused(&device, code);
    }
    match former_owners_receipt(setup, &device, intake.receipts)? {
        Ok(receipt) => {
            device.keep_receipt(receipt);
            Ok(Ok(device))
        }
        Err(code) => refused(&device, code),
    }
}

/// The receipt of the owner before, verified, where one is asked for and there was an owner before.
fn former_owners_receipt(
    setup: &Setup,
    device: &Shipped,
    receipts: Option<&Path>,
) -> Result<std::result::Result<Option<Vec<u8>>, Code>> {
    // An owner who has vanished gives no receipt.
    let had_owner = device.epoch() > 1 && !device.is_recovered();
    let Some(dir) = receipts.filter(|_| had_owner) else { return Ok(Ok(None)) };
    let path = dir.join(format!("{}.receipt", device.serial()));
    let Some(bytes) = read_if_there(&path)? else {
        eprintln!("{}: no receipt {}", device.serial(), path.display());
        return Ok(Err(Code::Refused));
    };
    let ended = ReceiptFile::decode(&bytes).map_err(|error| error.to_string()).and_then(|file| {
        file.verify(&setup.registration.voucher_keys).map_err(|fault| format!("{}: {fault}", fault.name()))
    });
    match ended {
        Ok(ended)
            if ended.device == device.device()
                && ended.next.is_some_and(|next| next.entry == device.head()) =>
        {
            Ok(Ok(Some(bytes)))
        }
        Ok(_) => {
            eprintln!("{}: the receipt is of another sale", device.serial());
            Ok(Err(Code::Refused))
        }
        Err(why) => {
            eprintln!("{}: the receipt does not hold: {why}", device.serial());
            Ok(Err(Code::Refused))
        }
    }
}

pub(super) async fn ask(setup: &Setup, requests: Vec<KeyRequest>) -> Result<Vec<KeyReply>> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let Batch(replies) = setup.peers.keys.call(keys::PATH, &Batch(requests)).await.context("key service")?;
    Ok(replies)
}

/// The register beside an endpoint manager's configuration, which must be one.
pub(super) fn register_of(config: &Path) -> Result<SqliteRecords> {
    let (_, dir): (config::EndpointManager, _) = config::load(config)?;
    Ok(SqliteRecords::open(dir.join("register.db"))?)
}

/// Writes manifests and vouchers of devices that are to be sold.
pub fn papers(arguments: &PapersArguments) -> Result<()> {
    let records = register_of(&arguments.config)?;
    let mut all = Vec::new();
    for serial in &arguments.serials {
        let device = register::find(&records, serial)?.with_context(|| format!("no device {serial}"))?;
        let entry = register::entry(&records, &device)?.context("no entry")?;
        if entry.manifest.0.is_empty() {
            bail!("{serial}: the register has no manifest of it; register its shipment again");
        }
        all.push(Sold { manifest: entry.manifest.0, voucher: entry.voucher.0 });
    }
    let count = all.len();
    write_atomic(&arguments.out, &Transfer(all).encode())?;
    crate::observe::say(&format!("papers of {count} devices: {}", arguments.out.display()));
    Ok(())
}

/// Lets a quarantined device try again. Every check is made again: this overrides none.
pub fn readmit(arguments: &Readmit) -> Result<()> {
    let (setup, dir) = set_up(&arguments.config)?;
    let mut records = SqliteRecords::open(dir.join("register.db"))?;
    let readmitted =
        records.transact(|view| register::readmit(view, utc_now(), &arguments.serial, &arguments.reason))?;
    let Some(device) = readmitted else { bail!("no device {} is in quarantine", arguments.serial) };
    let request = KeyRequest::SetState { device, state: DeviceState::Registered, attested_at: UtcTime(0) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(ask(&setup, vec![request]))?.pop() {
        Some(KeyReply::Done) => {
            crate::observe::say(&format!("readmitted {}: it may onboard again", arguments.serial));
            Ok(())
        }
        _ => bail!("the key service did not take it; readmit it again"),
    }
}

/// Shows the register.
pub fn show(arguments: &Show) -> Result<()> {
    let records = register_of(&arguments.config)?;
    let mut after: Vec<u8> = Vec::new();
    loop {
        let rows = records.range(DEVICES, &after, STEP)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        after.clone_from(last);
        for (_, value) in &rows {
            let entry: RegisterEntry = minicbor::decode(value).context("register row does not decode")?;
            let quarantine = entry.quarantine.map(|code| code.name());
            let OrderStatus { jobs, order, polled_at } = orders::status(&records, &entry.device)?;
            let point = installation::of(&records, &entry.device)?.map(|bound| bound.point);
            if arguments.json {
                crate::observe::say(&format!(
                    "{}",
                    serde_json::json!({
                        "serial": entry.serial, "model": entry.model, "device": entry.device.to_string(),
                        "system_title": entry.system_title.to_string(), "state": entry.state.name(),
                        "assurance": entry.assurance(),
                        "tpm": entry.endorsed.as_ref().map(|assured| &assured.tpm.manufacturer),
                        "epoch": entry.epoch, "voucher_entry": entry.entry_index, "quarantine": quarantine,
                        "device_type": entry.device_type.name(), "point": point,
                        "redirect_registered": entry.registration_pending.is_none(),
                        "software": entry.software.map(|software| software.verdict.name()),
                        "attested_at": entry.attested_at.0, "polled_at": polled_at.0, "jobs": jobs,
                        "order": order.map(|(kind, _)| kind),
                        "certificate_until": entry.certificate.as_ref().map(|issued| issued.not_after.0),
                        "policy_version": entry.policy_version,
                        "silent_since": entry.silent_since.map(|since| since.0),
                    })
                ));
            } else {
                let reason = quarantine.map(|code| format!(" ({code})")).unwrap_or_default();
                crate::observe::say(&format!(
                    "{} {} {}{reason} {} {}",
                    entry.serial,
                    entry.system_title,
                    entry.state.name(),
                    point.as_deref().unwrap_or("-"),
                    jobs.join(",")
                ));
            }
        }
    }
}
