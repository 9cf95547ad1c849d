//! `gridseal key propose`, `approve` and `execute`: acts that need two persons. The act travels as a file; each person looks
//! at it and signs it with a key of their own, and the key service's core verifies both signatures.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use gridseal_api::KeysClient;
use gridseal_crypto::{Signer, SigningKey, role::ConsentSigning};
use gridseal_io::{clock::utc_now, rng::OsRng};
use gridseal_keys::{
    needs_consent,
    site::{EPOCHS_ROTATE, next_of_site},
};
use gridseal_types::{
    N16, SystemTitle, UtcTime,
    service::keys::{
        Bytes, CONSENT_PERIOD_S, ClaimState, Consent, ConsentedAct, Denial, ExchangeReply, KeyAct, KeyRef,
        KeyRequest, ProposedAct, SiteMode, SiteRequest, SiteStatus,
    },
};
use serde_json::{Value, json};

use super::{
    Usage,
    key::{failed, parse_key, parse_title},
};
use crate::{
    config,
    fault::{Coded, coded},
    files::{Zone, read, write_atomic},
    observe::say,
    process::inner_client,
};

/// Name of a person's signing key in their directory.
pub const CONSENT_KEY: &str = "consent";
/// Largest file of an act, bytes.
const FILE_SIZE_MAX: usize = 1 << 20;

/// Acts that need two persons.
#[derive(Debug, clap::Subcommand)]
pub enum Propose {
    /// Let a site serve again whose database was put back from a backup: in a new epoch, so that no counter is used twice.
    Restore {
        /// Highest epoch that a witness has seen; without it the marker outside the database has to be there.
        #[arg(long, value_name = "EPOCH")]
        witness: Option<u32>,
        /// Meters whose keys changed after the backup: each is probed.
        #[arg(long, value_name = "METER", value_parser = parse_title)]
        changed_since: Vec<SystemTitle>,
        #[command(flatten)]
        site: AtSite,
        #[command(flatten)]
        of: File,
    },
    /// Let a standby take over, in an epoch above this one.
    Promote {
        /// Highest epoch known from elsewhere: the other site, a witness.
        #[arg(long, value_name = "EPOCH")]
        above: u32,
        #[command(flatten)]
        site: AtSite,
        #[command(flatten)]
        of: File,
    },
    /// Stop a site because another one serves in this epoch.
    Fence {
        /// That epoch.
        #[arg(long, value_name = "EPOCH")]
        epoch: u32,
        #[command(flatten)]
        of: File,
    },
    /// Let key changes go on for a while although no standby acknowledges.
    Degraded {
        /// For how long, minutes from now.
        #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=10_080))]
        minutes: u64,
        #[command(flatten)]
        of: File,
    },
    /// Raise the sending counter of a meter with plain counters, which is in doubt since a restore.
    RaiseCounter {
        /// Lowest counter that was certainly never released.
        #[arg(long, value_name = "COUNTER")]
        at_least: u32,
        /// Meter, by system title.
        #[arg(value_name = "METER", value_parser = parse_title)]
        meter: SystemTitle,
        #[command(flatten)]
        of: File,
    },
    /// Declare a key known to others, and everything that it leads to.
    Compromise {
        /// Key: METER/KIND/VERSION.
        #[arg(value_name = "KEY", value_parser = parse_key)]
        key: KeyRef,
        #[command(flatten)]
        of: File,
    },
    /// Overwrite a key that no meter can need any more.
    Destroy {
        /// Key: METER/KIND/VERSION.
        #[arg(value_name = "KEY", value_parser = parse_key)]
        key: KeyRef,
        #[command(flatten)]
        of: File,
    },
    /// Declare a meter stolen or missing: all its keys count as known to others.
    Lost {
        /// Meter, by system title.
        #[arg(value_name = "METER", value_parser = parse_title)]
        meter: SystemTitle,
        #[command(flatten)]
        of: File,
    },
}

/// The site that an act gives another epoch: it is asked in which one it is, so that both persons see what comes of it.
#[derive(Debug, clap::Args)]
pub struct AtSite {
    /// Configuration of the operator's commands (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Where the act goes, and why.
#[derive(Debug, clap::Args)]
pub struct File {
    /// File to write the act to; it must not be there.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `key approve`.
#[derive(Debug, clap::Args)]
pub struct Approve {
    /// The person's directory, as `ceremony approver` has made it.
    #[arg(long, value_name = "DIR")]
    person: PathBuf,
    /// Sign it. Without this it is only shown.
    #[arg(long)]
    yes: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// The act.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Arguments of `key execute`.
#[derive(Debug, clap::Args)]
pub struct Execute {
    /// Configuration of the operator's commands (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// The act, with the consents of two persons.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Arguments of `key site`.
#[derive(Debug, clap::Args)]
pub struct Site {
    /// Configuration of the operator's commands (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl Propose {
    /// Whether one JSON object is wanted.
    pub const fn json(&self) -> bool {
        let (Self::Restore { of, .. }
        | Self::Promote { of, .. }
        | Self::Fence { of, .. }
        | Self::Degraded { of, .. }
        | Self::RaiseCounter { of, .. }
        | Self::Compromise { of, .. }
        | Self::Destroy { of, .. }
        | Self::Lost { of, .. }) = self;
        of.json
    }
}

/// Writes an act to a file.
pub fn propose(propose: &Propose) -> Result<ExitCode> {
    let now = utc_now();
    let approvals = Vec::new;
    let site = KeyRequest::Site;
    let act = |key: &KeyRef, act, reason: &str| KeyRequest::KeyAct {
        key: *key,
        act,
        approvals: Vec::new(),
        reason: reason.to_owned(),
    };
    let (request, of) = match propose {
        Propose::Restore { witness, changed_since, of, .. } => {
            let (witness, changed_since) = (*witness, changed_since.clone());
            (site(SiteRequest::Restore { witness, changed_since, approvals: approvals() }), of)
        }
        Propose::Promote { above, of, .. } => {
            (site(SiteRequest::Promote { above: *above, approvals: approvals() }), of)
        }
        Propose::Fence { epoch, of } => (site(SiteRequest::Fence { epoch: *epoch }), of),
        Propose::Degraded { minutes, of } => {
            let until = UtcTime(now.0.saturating_add(minutes.saturating_mul(60)));
            (site(SiteRequest::ApproveDegraded { until, approvals: approvals() }), of)
        }
        Propose::RaiseCounter { at_least, meter, of } => {
            let (system_title, at_least) = (*meter, *at_least);
            (site(SiteRequest::RaiseCounter { system_title, at_least, approvals: approvals() }), of)
        }
        Propose::Compromise { key, of } => (act(key, KeyAct::Compromise, &of.reason), of),
        Propose::Destroy { key, of } => (act(key, KeyAct::Destroy, &of.reason), of),
        Propose::Lost { meter, of } => {
            (KeyRequest::SetClaim { system_title: *meter, claim: ClaimState::Lost }, of)
        }
    };
    if of.out.exists() {
        bail!(Usage(format!("{} is there already", of.out.display())));
    }
    let epochs = match propose {
        Propose::Restore { witness, site, .. } => {
            Some(epochs_of(site, witness.unwrap_or_default(), Some(SiteMode::Outdated))?)
        }
        Propose::Promote { above, site, .. } => Some(epochs_of(site, *above, None)?),
        _ => None,
    };
    let proposed = ProposedAct {
        id: N16(gridseal_crypto::random(&mut OsRng)?),
        not_after: UtcTime(now.0.saturating_add(CONSENT_PERIOD_S)),
        reason: of.reason.clone(),
        request: Bytes(minicbor::to_vec(&request)?),
        epochs,
    };
    let file = ConsentedAct { act: Bytes(minicbor::to_vec(&proposed)?), consents: Vec::new() };
    write_atomic(&of.out, &minicbor::to_vec(&file)?)?;
    show(&proposed, &request, &file, of.json);
    Ok(ExitCode::SUCCESS)
}

/// The epoch of a site, and the one it comes to above `above`. In another mode than `expected` the site would deny it.
fn epochs_of(at: &AtSite, above: u32, expected: Option<SiteMode>) -> Result<(u32, u32)> {
    let (config, dir): (config::Operator, _) = config::load(&at.config)?;
    let client = KeysClient::new(&config.keys.address, inner_client(&Zone::open(&dir)?)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let SiteStatus { index, count, epoch, highest, mode, .. } =
        runtime.block_on(client.site()).map_err(|error| {
            let code = error.name();
            anyhow::Error::new(error).context(Coded { code, message: "the site was asked".into() })
        })?;
    if expected.is_some_and(|expected| mode != expected) {
        let message = format!(
            "the site is {} in epoch {epoch}: only one that is outdated is restored, and each epoch takes counters of \
             every key",
            mode.name()
        );
        return Err(coded(Denial::IllegalTransition.name(), message));
    }
    let next = Some(highest.max(above))
        .filter(|known| known.saturating_sub(highest) <= EPOCHS_ROTATE)
        .and_then(|known| next_of_site(known, index, count));
    let next = next.ok_or_else(|| {
        let message = format!(
            "the site knows of epoch {highest}: {above} is too far above it, and would use up the counters of keys"
        );
        coded(Denial::CounterExhausted.name(), message)
    })?;
    Ok((epoch, next))
}

/// Shows an act to a person, and signs it.
pub fn approve(approve: &Approve) -> Result<ExitCode> {
    let (mut file, proposed, request) = load(&approve.file)?;
    if approve.yes {
        let name = approve.person.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let name = name.with_context(|| format!("{} names no person", approve.person.display()))?;
        let key = Zone::open(&approve.person)?.load::<ConsentSigning>(CONSENT_KEY)?;
        let signature = SigningKey::new(&key)?.sign(&ProposedAct::to_be_signed(&file.act.0))?;
        file.consents.retain(|consent| consent.by != name);
        file.consents.push(Consent { by: name, signature });
        write_atomic(&approve.file, &minicbor::to_vec(&file)?)?;
    }
    show(&proposed, &request, &file, approve.json);
    if !approve.yes {
        eprintln!("gridseal: not signed: --yes signs it");
    }
    Ok(ExitCode::SUCCESS)
}

/// Has the key service carry an act out.
pub async fn execute(client: &KeysClient, execute: &Execute) -> Result<bool> {
    let (file, ..) = load(&execute.file)?;
    Ok(match client.consented(file).await {
        Ok(reply) if execute.json => {
            say(&json!({ "done": true, "site": site_of(&reply).map(site_json) }).to_string());
            true
        }
        Ok(reply) => {
            say("done");
            site_of(&reply).iter().for_each(|status| say(&site_line(status)));
            true
        }
        Err(error) => {
            failed(execute.json, &execute.file.display().to_string(), &error);
            false
        }
    })
}

/// State of the site.
pub async fn site(client: &KeysClient, site: &Site) -> bool {
    match client.site().await {
        Ok(status) if site.json => say(&site_json(status).to_string()),
        Ok(status) => say(&site_line(&status)),
        Err(error) => {
            failed(site.json, "site", &error);
            return false;
        }
    }
    true
}

const fn site_of(reply: &ExchangeReply) -> Option<SiteStatus> {
    match reply {
        ExchangeReply::Site(status) => Some(*status),
        _ => None,
    }
}

fn site_json(status: SiteStatus) -> Value {
    json!({
        "index": status.index, "sites": status.count, "epoch": status.epoch, "highest": status.highest,
        "mode": status.mode.name(), "degraded_until": status.degraded_until.to_string(),
    })
}

fn site_line(status: &SiteStatus) -> String {
    let SiteStatus { index, count, epoch, highest, mode, .. } = status;
    format!("site {index} of {count}: {}, epoch {epoch}, highest known {highest}", mode.name())
}

fn load(path: &Path) -> Result<(ConsentedAct, ProposedAct, KeyRequest)> {
    let wrong = || Usage(format!("{} holds no act that two persons may decide", path.display()));
    let bytes = read(path)?;
    let file: ConsentedAct = Some(bytes)
        .filter(|bytes| bytes.len() <= FILE_SIZE_MAX)
        .and_then(|bytes| minicbor::decode(&bytes).ok())
        .ok_or_else(wrong)?;
    let proposed: ProposedAct = minicbor::decode(&file.act.0).map_err(|_| wrong())?;
    let request: KeyRequest = minicbor::decode(&proposed.request.0).map_err(|_| wrong())?;
    if !needs_consent(&request) {
        bail!(wrong());
    }
    Ok((file, proposed, request))
}

/// What an act does, in words that a person can decide on.
fn words(request: &KeyRequest) -> String {
    let list = |meters: &[SystemTitle]| meters.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    match request {
        KeyRequest::Site(SiteRequest::Restore { witness, changed_since, .. }) => format!(
            "restore this site (witness: {}; changed since: {})",
            witness.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string()),
            list(changed_since)
        ),
        KeyRequest::Site(SiteRequest::Promote { above, .. }) => {
            format!("promote this site above epoch {above}")
        }
        KeyRequest::Site(SiteRequest::Fence { epoch }) => {
            format!("stop this site, because another serves in epoch {epoch}")
        }
        KeyRequest::Site(SiteRequest::ApproveDegraded { until, .. }) => {
            format!("let key changes go without a standby until {until}")
        }
        KeyRequest::Site(SiteRequest::RaiseCounter { system_title, at_least, .. }) => {
            format!("raise the sending counter of {system_title} to at least {at_least}")
        }
        KeyRequest::KeyAct { key, act: KeyAct::Compromise, .. } => {
            format!("declare {key} compromised, and everything that it leads to")
        }
        KeyRequest::KeyAct { key, .. } => format!("destroy {key}"),
        KeyRequest::SetClaim { system_title, .. } => {
            format!("declare {system_title} lost: all its keys count as known to others")
        }
        _ => String::new(),
    }
}

fn show(proposed: &ProposedAct, request: &KeyRequest, file: &ConsentedAct, json: bool) {
    let by: Vec<&str> = file.consents.iter().map(|consent| consent.by.as_str()).collect();
    let digest = hex::encode(gridseal_crypto::sha256(&[&file.act.0]));
    let epochs = proposed.epochs;
    if json {
        let act = json!({
            "act": words(request), "epoch": epochs.map(|(from, _)| from), "next_epoch": epochs.map(|(_, to)| to),
            "reason": proposed.reason, "not_after": proposed.not_after.to_string(),
            "sha256": digest, "signed_by": by,
        });
        return say(&act.to_string());
    }
    say(&words(request));
    if let Some((from, to)) = epochs {
        say(&format!("  the site goes from epoch {from} to epoch {to}"));
    }
    say(&format!("  because: {}", proposed.reason));
    say(&format!("  until {}, SHA-256 {digest}", proposed.not_after));
    say(&format!("  signed by: {}", if by.is_empty() { "nobody".to_owned() } else { by.join(", ") }));
}
