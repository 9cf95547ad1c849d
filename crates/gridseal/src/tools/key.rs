//! `gridseal key`: what an operator asks the key service, over mutual TLS with an operator's certificate. No answer holds
//! a key.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use gridseal_api::{KeysCallError, KeysClient};
use gridseal_io::clock::utc_now;
use gridseal_pki::{CertificateRecord, Holder};
use gridseal_store::{SqliteRecords, certificates};
use gridseal_types::{
    DeviceState, SystemTitle,
    service::keys::{
        ChangeOutcome, ChangeReply, ChangeStatus, DeviceKeyStatus, KeyKind, KeyRef, SiteMode, VersionState,
    },
};
use serde_json::{Value, json};

mod shown;

use shown::{change_line, change_status_json, next_step, status_json, status_lines};

use super::{Usage, claim, consent};
use crate::{config, fault::as_json, files::Zone, observe::say, process::inner_client};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 the key service denied it or could not be asked (for at least one \
                          meter), 2 wrong usage.\nWhat was not done names its code, in --json as {\"error\":CODE,\
                          \"message\":TEXT,\"retryable\":BOOL}.";

/// Commands on meters' keys.
#[derive(Debug, clap::Subcommand)]
pub enum Key {
    /// Versions of a meter's keys, their states and counters, and the key change that is not resolved.
    #[command(after_help = format!(
        "{EXIT_CODES}\n\nExamples:\n  gridseal key status --config owner/operator/config.toml 47534c0102030405\n  \
         gridseal key status --config owner/operator/config.toml --json 47534c0102030405 47534c0102030406"
    ))]
    Status(Meters),
    /// Change a meter's keys, or look how far that is.
    ///
    /// The command prepares the change and prints its phase. The meter's head-end finds it, sends it over the meter's link
    /// and brings the answer back, and only an APDU under the new keys confirms. Until then the keys in use stay in use.
    #[command(after_help = format!(
        "{EXIT_CODES}\nA change that is not resolved is shown in place of a new one (\"existing\"); 1 when it replaces other keys \
         than were asked for.\nWith --wait: 0 when the new keys of every meter are in use, 1 when a change ended \
         otherwise or not in time; it goes on then.\n\nExamples:\n  gridseal key rotate --config owner/operator/config.toml --wait \
         47534c0102030405\n  \
         gridseal key rotate --config owner/operator/config.toml --kind kek --json 47534c0102030405\n  \
         gridseal key rotate --config owner/operator/config.toml --suite 1 --wait 47534c0102030405\n  \
         gridseal key rotate --config owner/operator/config.toml --abandon 47534c0102030405"
    ))]
    Rotate(Rotate),
    /// Bring the certificate of a meter's signing key: what suites 1 and 2 need to agree on keys.
    ///
    /// It counts when an authority of the key service's configuration has issued it: the owner's, or a manufacturer's, whose
    /// certificate counts once and never after the owner's.
    #[command(after_help = format!(
        "{EXIT_CODES}\n\nExample:\n  gridseal key certificate --config owner/operator/config.toml 47534c0102030405 \
         meter.der"
    ))]
    Certificate(CertificateOf),
    /// What happened to a meter's keys, oldest first; each line names the entry of the audit log.
    #[command(after_help = format!(
        "{EXIT_CODES}\n\nExample:\n  gridseal key history --config owner/operator/config.toml 47534c0102030405"
    ))]
    History(Meters),
    /// What the compromise of a key reaches: the key, what it wrapped, what that wrapped, and so on; of the certificate
    /// authority's key, what it issued.
    #[command(after_help = format!(
        "{EXIT_CODES}\n\nExamples:\n  gridseal key compromise --dry-run --config owner/operator/config.toml \
         47534c0102030405/kek/1\n  gridseal key compromise --dry-run --pki-db owner/pki/pki.db ca/issuing"
    ))]
    Compromise(Compromise),
    /// Take a meter over that came with its manufacturer's keys: replace them, and show that they are closed.
    ///
    /// The command speaks with the meter and carries what the key service seals; it holds no key. Whatever dies, the same
    /// command goes on where the claim was.
    #[command(
        after_help = "Exit codes: 0 claimed, and the factory's keys shown closed, 1 denied or not done in time, 2 \
        wrong usage, 3 the meter still takes the factory's keys.\n\nExample:\n  gridseal key claim --config \
        owner/headend/config.toml --connect 192.0.2.7:4059 --json 47534c0102030405"
    )]
    Claim(claim::Direct),
    /// Bring a meter the key change that is prepared for it, over a connection to the meter.
    ///
    /// For meters without a link to the head-end, after `key rotate`. The command carries what the key service seals and
    /// holds no key; broken off, the same command goes on.
    #[command(
        after_help = "Exit codes: 0 the new keys are in use, or no change is prepared, 1 denied, ended otherwise or not \
        done in time, 2 wrong usage.\n\nExample:\n  gridseal key carry --config owner/headend/config.toml --connect \
        192.0.2.7:4059 --json 47534c0102030405"
    )]
    Carry(claim::Direct),
    /// Propose an act that needs two persons: restore, promotion, raised counters, a declared compromise, destruction.
    #[command(subcommand, after_help = format!(
        "Exit codes: 0 written, 1 failed, 2 wrong usage. --json prints one object.\n\nExample:\n  gridseal key propose \
         raise-counter --at-least 4096 --reason \"restored on 1 December\" --out act.cbor 47534c0102030405"
    ))]
    Propose(consent::Propose),
    /// Look at a proposed act, and sign it.
    #[command(after_help = format!(
        "Exit codes: 0 shown or signed, 1 failed, 2 wrong usage or no such act. --json prints one object.\n\nExample:\n  \
         gridseal key approve --person owner/approvers/alice --yes act.cbor"
    ))]
    Approve(consent::Approve),
    /// Have an act carried out that two persons have signed within 72 hours. Once.
    #[command(after_help = format!(
        "{EXIT_CODES}\n\nExample:\n  gridseal key execute --config owner/operator/config.toml act.cbor"
    ))]
    Execute(consent::Execute),
    /// State of the key service's site: whether it serves, and in which epoch.
    #[command(after_help = format!(
        "{EXIT_CODES}\n\nExample:\n  gridseal key site --config owner/operator/config.toml"
    ))]
    Site(consent::Site),
}

/// Arguments of the commands on whole meters.
#[derive(Debug, clap::Args)]
pub struct Meters {
    /// Configuration of the operator's commands (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON object for each meter; of a history, for each entry.
    #[arg(long)]
    json: bool,
    /// Meters, by system title: 16 hex digits each.
    #[arg(required = true, value_name = "METER", value_parser = parse_title)]
    meters: Vec<SystemTitle>,
}

/// Arguments of `key certificate`.
#[derive(Debug, clap::Args)]
pub struct CertificateOf {
    /// Configuration of the operator's commands (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Meter, by system title.
    #[arg(value_name = "METER", value_parser = parse_title)]
    meter: SystemTitle,
    /// Certificate, DER.
    #[arg(value_name = "FILE")]
    certificate: PathBuf,
}

/// Arguments of `key rotate`.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    #[command(flatten)]
    of: Meters,
    /// Which keys: encryption and authentication key together, one of them, or the master key alone.
    #[arg(long, value_enum, default_value = "guek+gak", conflicts_with_all = ["abandon", "suite"])]
    kind: Kind,
    /// Raise the meter's security suite to this one, with new keys: the master key is agreed upon. There is no way back.
    #[arg(long, value_name = "SUITE", conflicts_with = "abandon", value_parser = clap::value_parser!(u8).range(1..=2))]
    suite: Option<u8>,
    /// Give the change up that is not resolved, unless it was sent and may still be answered. What was sent stays known,
    /// and usable if the meter took it.
    #[arg(long)]
    abandon: bool,
    /// Wait until the change is resolved, and print each phase as it comes.
    #[arg(long, conflicts_with = "abandon")]
    wait: bool,
    /// How long to wait for all meters together, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "wait")]
    timeout: u64,
}

/// How often a change is looked at while it is waited for.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// What one change may replace.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// Both.
    #[value(name = "guek+gak")]
    Both,
    /// Encryption key.
    Guek,
    /// Authentication key.
    Gak,
    /// Master key.
    Kek,
}

impl Kind {
    fn kinds(self) -> Vec<KeyKind> {
        match self {
            Self::Both => vec![KeyKind::Guek, KeyKind::Gak],
            Self::Guek => vec![KeyKind::Guek],
            Self::Gak => vec![KeyKind::Gak],
            Self::Kek => vec![KeyKind::Kek],
        }
    }
}

/// Arguments of `key compromise`.
#[derive(Debug, clap::Args)]
pub struct Compromise {
    /// Configuration of the operator's commands (TOML); for a meter's key.
    #[arg(long, value_name = "FILE", required_unless_present = "pki_db")]
    config: Option<PathBuf>,
    /// Database of the certificate authority; for its key.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pki_db: Option<PathBuf>,
    /// Only tell what would be reached. Required: to declare a compromise takes two persons (`key propose compromise`).
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Key: METER/KIND/VERSION, kind guek, gak or kek; or ca/issuing.
    #[arg(value_name = "KEY", value_parser = parse_subject)]
    key: Subject,
}

/// Whose compromise is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Meter(KeyRef),
    Issuing,
}

/// Name of the certificate authority's key.
const ISSUING: &str = "ca/issuing";
/// Certificates read at a time.
const STEP: usize = 1_000;

fn parse_subject(text: &str) -> Result<Subject, String> {
    if text == ISSUING { Ok(Subject::Issuing) } else { parse_key(text).map(Subject::Meter) }
}

pub fn parse_title(text: &str) -> Result<SystemTitle, String> {
    let bytes = hex::decode(text).ok();
    bytes.and_then(|bytes| SystemTitle::from_slice(&bytes)).ok_or_else(|| "expected 16 hex digits".to_owned())
}

pub fn parse_key(text: &str) -> Result<KeyRef, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let [title, kind, version] = parts.as_slice() else {
        return Err("expected METER/KIND/VERSION".to_owned());
    };
    let kind = KeyKind::ALL.into_iter().find(|known| known.name() == *kind);
    Ok(KeyRef {
        system_title: parse_title(title)?,
        kind: kind.ok_or("kind is guek, gak or kek")?,
        version: version.parse().map_err(|_| "version is no number")?,
    })
}

impl Key {
    /// Whether JSON is wanted.
    const fn json(&self) -> bool {
        match self {
            Self::Status(of) | Self::History(of) => of.json,
            Self::Rotate(rotate) => rotate.of.json,
            Self::Compromise(compromise) => compromise.json,
            Self::Certificate(of) => of.json,
            Self::Claim(direct) | Self::Carry(direct) => direct.json,
            Self::Propose(propose) => propose.json(),
            Self::Approve(approve) => approve.json,
            Self::Execute(execute) => execute.json,
            Self::Site(site) => site.json,
        }
    }
}

/// Runs a command. What fails before the key service is asked is told in the same shape as its denials.
pub fn run(key: &Key) -> Result<ExitCode> {
    match run_one(key) {
        Err(error) if key.json() => {
            say(&as_json(&error).to_string());
            Ok(if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE })
        }
        done => done,
    }
}

fn run_one(key: &Key) -> Result<ExitCode> {
    let config = match key {
        Key::Status(of) | Key::History(of) => &of.config,
        Key::Rotate(rotate) => &rotate.of.config,
        Key::Certificate(of) => &of.config,
        Key::Claim(direct) => return claim::claim(direct),
        Key::Carry(direct) => return claim::carry(direct),
        Key::Propose(propose) => return consent::propose(propose),
        Key::Approve(approve) => return consent::approve(approve),
        Key::Execute(execute) => &execute.config,
        Key::Site(site) => &site.config,
        Key::Compromise(compromise) if !compromise.dry_run => {
            return Err(Usage(
                "to declare a compromise takes the consent of two persons: `key propose compromise`; --dry-run tells \
                 what it would reach"
                    .to_owned(),
            )
            .into());
        }
        Key::Compromise(Compromise { key: Subject::Issuing, pki_db: Some(path), json, .. }) => {
            issued(path, *json)?;
            return Ok(ExitCode::SUCCESS);
        }
        Key::Compromise(Compromise { key: Subject::Meter(_), config: Some(config), .. }) => config,
        Key::Compromise(_) => {
            let usage = format!("a meter's key is asked for with --config, {ISSUING} with --pki-db");
            return Err(Usage(usage).into());
        }
    };
    let (config, dir): (config::Operator, _) = config::load(config)?;
    let client = KeysClient::new(&config.keys.address, inner_client(&Zone::open(&dir)?)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let done = match key {
            Key::Status(of) => status(&client, of).await,
            Key::Rotate(rotate) => change(&client, rotate).await,
            Key::Certificate(of) => certificate(&client, of).await?,
            Key::History(of) => history(&client, of).await,
            Key::Compromise(of) => compromise(&client, of).await,
            Key::Execute(execute) => return consent::execute(&client, execute).await,
            Key::Site(site) => consent::site(&client, site).await,
            Key::Claim(_) | Key::Carry(_) | Key::Propose(_) | Key::Approve(_) => false,
        };
        Ok(done)
    })?;
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn certificate(client: &KeysClient, of: &CertificateOf) -> Result<bool> {
    let der = crate::files::read(&of.certificate)?;
    Ok(match client.meter_certificate(of.meter, der).await {
        Ok(status) if of.json => {
            say(&status_json(&status).to_string());
            true
        }
        Ok(status) => {
            status_lines(&status).iter().for_each(|line| say(line));
            true
        }
        Err(error) => {
            failed(of.json, &of.meter.to_string(), &error);
            false
        }
    })
}

/// Tells why it was not done, in one line.
pub fn failed(json: bool, subject: &str, error: &KeysCallError) {
    let message = match error {
        KeysCallError::Call(cause) => format!("{:#}", anyhow::Error::new(std::sync::Arc::clone(cause))),
        other => other.to_string(),
    };
    if json {
        let told = json!({
            "of": subject, "error": error.name(), "message": message, "retryable": error.is_retryable(),
        });
        return say(&told.to_string());
    }
    let why = if message == error.name() { String::new() } else { format!(": {message}") };
    let again = if error.is_retryable() { " (may be tried again)" } else { "" };
    eprintln!("gridseal: {subject}: {}{why}{again}", error.name());
}

async fn status(client: &KeysClient, of: &Meters) -> bool {
    let mut all = true;
    for meter in &of.meters {
        match client.status(*meter).await {
            Ok(status) if of.json => say(&status_json(&status).to_string()),
            Ok(status) => status_lines(&status).iter().for_each(|line| say(line)),
            Err(error) => {
                failed(of.json, &meter.to_string(), &error);
                all = false;
            }
        }
    }
    all
}

async fn change(client: &KeysClient, rotate: &Rotate) -> bool {
    let Rotate { of, kind, suite, abandon, wait, timeout } = rotate;
    let mut all = true;
    let mut waiting = Vec::new();
    for meter in &of.meters {
        let wish = match suite {
            _ if *abandon => Wish::GiveUp,
            Some(suite) => Wish::Suite(*suite),
            None => Wish::Keys(kind.kinds()),
        };
        let told = match change_one(client, *meter, wish).await {
            Ok(told) => told,
            Err(error) => {
                failed(of.json, &meter.to_string(), &error);
                all = false;
                continue;
            }
        };
        if of.json {
            say(&told.json().to_string());
        } else {
            told.lines().iter().for_each(|line| say(line));
        }
        // What was asked for has to wait until the other change is resolved.
        all &= !told.is_another;
        if *wait {
            waiting.push((*meter, told.change, told.blocked));
        }
    }
    if waiting.is_empty() {
        return all;
    }
    let limit = std::time::Duration::from_secs(*timeout);
    let mut blocked = None;
    match tokio::time::timeout(limit, wait_for(client, of, waiting, &mut blocked)).await {
        Ok(activated) => all && activated,
        Err(_) => {
            let why = blocked.map(|why| format!(": {why}")).unwrap_or_default();
            eprintln!("gridseal: not resolved in time; the change goes on{why}");
            false
        }
    }
}

/// A change as it was begun or found.
struct Begun {
    meter: SystemTitle,
    change: ChangeStatus,
    /// It was there before.
    existing: bool,
    /// And it replaces other keys than were asked for.
    is_another: bool,
    blocked: Option<Blocked>,
}

/// What is to become of a meter's keys.
enum Wish {
    Keys(Vec<KeyKind>),
    Suite(u8),
    GiveUp,
}

/// Begins a change of these keys, or shows the one that is not resolved, or gives that one up.
async fn change_one(client: &KeysClient, meter: SystemTitle, wish: Wish) -> Result<Begun, KeysCallError> {
    let before = client.status(meter).await?.change;
    let change = match &wish {
        Wish::GiveUp => give_up(client, before.as_ref()).await,
        Wish::Suite(suite) => client.raise_suite(meter, *suite).await,
        Wish::Keys(kinds) => client.prepare_key_change(meter, kinds.clone()).await,
    }?
    .status;
    let (mut existing, mut is_another) = (false, false);
    if let Wish::Keys(mut kinds) = wish {
        existing = before.is_some_and(|before| before.change == change.change);
        kinds.sort_unstable();
        is_another = kinds != change.items;
    }
    let blocked = if change.phase.is_resolved() { None } else { blocked_by(client, meter).await };
    Ok(Begun { meter, change, existing, is_another, blocked })
}

impl Begun {
    fn json(&self) -> Value {
        let mut object = change_status_json(&self.change, self.blocked);
        if let Some(fields) = object.as_object_mut() {
            fields.insert("meter".into(), self.meter.to_string().into());
            fields.insert("resolved".into(), self.change.phase.is_resolved().into());
            fields.insert("existing".into(), self.existing.into());
        }
        object
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![change_line(&format!("{} ", self.meter), &self.change)];
        if self.is_another {
            lines.push(
                "  this change was open before; the keys asked for wait until it is resolved".to_owned(),
            );
        } else if self.existing {
            lines.push("  this change was open before".to_owned());
        }
        lines.push(format!("  next: {}", next_step(&self.change, self.blocked)));
        lines
    }
}

/// What keeps a change from going on that neither meter nor head-end can lift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    Site(SiteMode),
    State(DeviceState),
    Counters,
}

impl std::fmt::Display for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Site(mode) => {
                write!(f, "nothing is sent: the key service's site is {} (FENCED)", mode.name())
            }
            Self::State(state) => {
                write!(f, "nothing is sent while the meter is {} (STATE_FORBIDS)", state.name())
            }
            Self::Counters => {
                f.write_str("nothing can be sealed under the meter's key any more (COUNTER_EXHAUSTED)")
            }
        }
    }
}

impl Blocked {
    /// By what is known of the meter.
    fn of(status: &DeviceKeyStatus) -> Option<Self> {
        let sends =
            status.state.may_exchange() || (status.state == DeviceState::Installing && !status.attested);
        if !sends {
            return Some(Self::State(status.state));
        }
        let mut active = status.versions.iter().filter(|version| {
            version.kind == KeyKind::Guek
                && matches!(version.state, VersionState::Active | VersionState::Suspended)
        });
        active.any(|version| version.next_counter.is_none()).then_some(Self::Counters)
    }
}

async fn blocked_by(client: &KeysClient, meter: SystemTitle) -> Option<Blocked> {
    // Who cannot be asked here is asked again by whoever waits.
    match client.site().await {
        Ok(site) if site.mode != SiteMode::Active => Some(Blocked::Site(site.mode)),
        _ => client.status(meter).await.ok().as_ref().and_then(Blocked::of),
    }
}

/// Waits for changes, one after the other; whether the new keys of all are in use. `told` is what blocks the one that is
/// waited for, as far as that was told.
async fn wait_for(
    client: &KeysClient,
    of: &Meters,
    waiting: Vec<(SystemTitle, ChangeStatus, Option<Blocked>)>,
    told: &mut Option<Blocked>,
) -> bool {
    let mut all = true;
    for (meter, mut change, blocked) in waiting {
        *told = blocked;
        let status = loop {
            match client.status(meter).await {
                Ok(status) => match &status.change {
                    Some(now) if now.change == change.change => {
                        if now.phase != change.phase {
                            tell_phase(of.json, meter, &change, now.phase.name(), None);
                        }
                        change = now.clone();
                        let blocked = blocked_by(client, meter).await;
                        if blocked != *told {
                            tell_phase(of.json, meter, &change, change.phase.name(), blocked);
                            *told = blocked;
                        }
                    }
                    _ => break status,
                },
                // The key service may be starting again.
                Err(error) if error.is_retryable() => {}
                Err(error) => {
                    failed(of.json, &meter.to_string(), &error);
                    return false;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let is_proven = |kind: &KeyKind| {
            let mut versions = status.versions.iter();
            versions.any(|version| {
                version.kind == *kind && version.change == Some(change.change) && version.proven_at.is_some()
            })
        };
        let is_activated = change.items.iter().all(is_proven);
        let phase = if is_activated { "activated" } else { "refused or given up" };
        tell_phase(of.json, meter, &change, phase, None);
        all &= is_activated;
    }
    all
}

fn tell_phase(json: bool, meter: SystemTitle, change: &ChangeStatus, phase: &str, blocked: Option<Blocked>) {
    if json {
        let blocked = blocked.map(|blocked| blocked.to_string());
        let change = change.change.to_string();
        say(&json!({ "meter": meter.to_string(), "change": change, "phase": phase, "blocked": blocked })
            .to_string());
    } else {
        let blocked = blocked.map(|blocked| format!("; {blocked}")).unwrap_or_default();
        say(&format!("{meter} change {}: {phase}{blocked}", change.change));
    }
}

async fn give_up(
    client: &KeysClient,
    unresolved: Option<&ChangeStatus>,
) -> Result<ChangeReply, KeysCallError> {
    let none = gridseal_types::service::keys::Denial::UnknownChange;
    let change = unresolved.ok_or(KeysCallError::Denied(none))?.change;
    client.report_key_change(change, ChangeOutcome::Abandon).await
}

async fn history(client: &KeysClient, of: &Meters) -> bool {
    let mut all = true;
    for meter in &of.meters {
        let entries = match client.history(*meter).await {
            Ok(entries) => entries,
            Err(error) => {
                failed(of.json, &meter.to_string(), &error);
                all = false;
                continue;
            }
        };
        for entry in entries {
            if of.json {
                let entry = json!({
                    "meter": meter.to_string(), "at": entry.at.to_string(), "act": entry.act,
                    "detail": entry.detail, "audit": entry.sequence,
                });
                say(&entry.to_string());
            } else {
                say(&format!("{} {:<24} {} (audit {})", entry.at, entry.act, entry.detail, entry.sequence));
            }
        }
    }
    all
}

/// The closure over "issued by": every certificate that the authority's key has signed and that is still valid.
fn issued(path: &Path, json: bool) -> Result<()> {
    if !path.is_file() {
        anyhow::bail!("{} does not exist", path.display());
    }
    let records = SqliteRecords::open(path).context("cannot open the certificate store")?;
    let (now, mut above, mut reached) = (utc_now(), Vec::new(), Vec::new());
    loop {
        let page = certificates::issued(&records, &above, STEP)?;
        let Some(last) = page.last() else { break };
        above.clone_from(&last.serial);
        reached.extend(page.into_iter().filter(|record| record.not_after >= now));
    }
    let holder = |record: &CertificateRecord| match &record.holder {
        Holder::Device(device) => format!("device {device}"),
        Holder::Service(service) => format!("service {service}"),
    };
    if json {
        let reached: Vec<Value> = reached
            .iter()
            .map(|record| {
                json!({
                    "key": format!("certificate/{}", hex::encode(&record.serial)), "by": ISSUING,
                    "holder": holder(record), "not_after": record.not_after.to_string(),
                })
            })
            .collect();
        say(&json!({ "dry_run": true, "key": ISSUING, "reached": reached }).to_string());
        return Ok(());
    }
    say(ISSUING);
    for record in &reached {
        let serial = hex::encode(&record.serial);
        say(&format!(
            "certificate/{serial} of {} until {}, issued by {ISSUING}",
            holder(record),
            record.not_after
        ));
    }
    say(&format!("{} valid certificates would have to be issued anew; nothing was changed", reached.len()));
    Ok(())
}

async fn compromise(client: &KeysClient, of: &Compromise) -> bool {
    let Subject::Meter(key) = of.key else { return false };
    let plan = match client.compromise_plan(key).await {
        Ok(plan) => plan,
        Err(error) => {
            failed(of.json, &key.to_string(), &error);
            return false;
        }
    };
    if of.json {
        let reached: Vec<Value> = plan
            .reached
            .iter()
            .map(|reached| {
                json!({
                    "key": reached.key.to_string(), "state": reached.state.name(),
                    "by": reached.by.map(|by| by.to_string()),
                })
            })
            .collect();
        let devices: Vec<String> = plan.devices.iter().map(ToString::to_string).collect();
        say(&json!({ "dry_run": true, "reached": reached, "devices": devices }).to_string());
        return true;
    }
    for reached in &plan.reached {
        let by = reached.by.map(|by| format!(" wrapped by {by}")).unwrap_or_default();
        say(&format!("{} {}{by}", reached.key, reached.state.name()));
    }
    let devices: Vec<String> = plan.devices.iter().map(ToString::to_string).collect();
    say(&format!("needs new keys: {}", devices.join(" ")));
    say("nothing was changed");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_as_it_is_printed() {
        let key = KeyRef { system_title: SystemTitle(*b"GSL12345"), kind: KeyKind::Gak, version: 7 };
        assert_eq!(parse_subject(&key.to_string()), Ok(Subject::Meter(key)));
        assert_eq!(parse_subject(ISSUING), Ok(Subject::Issuing));
        for wrong in ["", "47534c3132333435", "47534c3132333435/gak", "47534c3132333435/gbek/1", "00/gak/1"] {
            assert!(parse_subject(wrong).is_err(), "{wrong}");
        }
    }
}
