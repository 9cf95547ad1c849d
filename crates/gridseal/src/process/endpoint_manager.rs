//! `gridseal endpoint-manager`: dials out to everybody and listens to nobody.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use gridseal_api::client::{Client, FieldClient};
use gridseal_io::{
    clock::{tick_now, utc_now},
    tls::{Alpn, ClientTls, dateless},
};
use gridseal_onboarding::endpoint_manager::{
    EndpointManager, Event, EventKind, Input, Output, Task,
    orders::{Alarm, OrderRules, watch},
    register::{self, RegistrationRules, Told},
};
use gridseal_store::SqliteRecords;
use gridseal_trust::{
    endorsement::{Endorsements, Issuers, RevocationList},
    enrol::{
        cose::{Sign1, SignedType},
        document::Policy,
        init::decode_registered,
        registrar::Rules,
        relay::{RELAY_BATCH_MAX, RelayItem, RelayPull, RelayWork},
        witness::WitnessPolicy,
    },
    measured::{ImaKeys, PolicySet},
};
use gridseal_types::{
    EkName, Tick, UtcTime,
    service::{
        BATCH_MAX, Batch,
        admission::{Admission, AdmissionReply},
        certificates::{CertificateReply, CertificateRequest},
        keys::{KeyReply, KeyRequest},
    },
};

use tokio::task::JoinSet;

use crate::{
    config,
    files::{
        Zone, lock_directory, parse_digest, parse_public_key, parse_voucher_key, read, read_certificates,
    },
    observe::Observer,
    process::{headend, inbox, inner_client, keys, pki, relay},
};

/// Pause after the config server could not be reached.
const PULL_PAUSE: Duration = Duration::from_millis(500);
/// How often the outbox is looked through.
const OUTBOX_PAUSE: Duration = Duration::from_millis(500);
/// Pause after a redirect that the init server has refused: twice as long each time, up to the second.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
const REFUSED_PAUSE_MAX: Duration = Duration::from_mins(10);
/// How long the reply of a finished session waits for the head-end.
const ADMIT_WAIT: Duration = Duration::from_secs(2);
/// Devices looked at in one step of the outbox.
const OUTBOX_STEP: usize = 256;

/// Everything the endpoint manager calls.
pub struct Peers {
    /// Config server and head-end, each with messages of devices.
    relays: [Client; 2],
    pub(crate) keys: Client,
    pki: Client,
    headend: Client,
    init_tls: ClientTls,
    init_server: String,
}

/// What the configuration comes to.
pub struct Setup {
    /// For the sessions.
    pub rules: Rules,
    /// For the register.
    pub registration: RegistrationRules,
    /// Others.
    pub peers: Peers,
    /// Sessions that a device may begin in an hour.
    pub hellos_per_hour: u32,
    /// What is due by the calendar.
    orders: config::Orders,
    /// Who has to have signed the heads of manufacturers' logs.
    pub witnesses: WitnessPolicy,
}

/// Reads configuration and keys.
pub fn set_up(path: &Path) -> Result<(Setup, std::path::PathBuf)> {
    let (config, dir): (config::EndpointManager, _) = config::load(path)?;
    let zone = Zone::open(&dir)?;
    let tls = inner_client(&zone)?;
    let voucher_keys = config.voucher_keys.iter().map(|key| parse_voucher_key(key)).collect::<Result<_>>()?;
    let pins = config.config_pins.iter().map(|pin| parse_digest(pin)).collect::<Result<_>>()?;
    let policies = load_policies(&dir, &config)?;
    let endorsements = load_endorsements(&dir, &config)?;
    let ca = read_certificates(&dir.join(&config.init_server_ca))?;
    let setup = Setup {
        hellos_per_hour: config.hellos_per_hour,
        orders: config.orders,
        witnesses: witnesses(config.witnesses.as_ref())?,
        rules: Rules {
            policies,
            endorsements: endorsements.clone(),
            danger_accept_open_platform: config.danger_accept_open_platform,
            terminus: config.terminus.clone(),
        },
        registration: RegistrationRules {
            voucher_keys,
            owner: parse_public_key(&config.owner_key)?,
            danger_accept_software_roots: config.danger_accept_software_roots,
            config_urls: config.config_urls.clone(),
            config_pins: pins,
            redirect_lifetime_s: u64::from(config.redirect_days) * 86_400,
            endorsements,
        },
        peers: Peers {
            relays: [
                Client::new(&config.config_server.address, tls.clone(), "config-server"),
                Client::new(&config.headend.address, tls.clone(), "headend"),
            ],
            keys: Client::new(&config.keys.address, tls.clone(), "keys"),
            pki: Client::new(&config.pki.address, tls.clone(), "pki"),
            headend: Client::new(&config.headend.address, tls, "headend").with_timeout(ADMIT_WAIT),
            init_tls: dateless(&ca, UtcTime(0), None, Alpn::Http1)?,
            init_server: config.init_server,
        },
    };
    Ok((setup, dir))
}

fn witnesses(config: Option<&config::Witnesses>) -> Result<WitnessPolicy> {
    let Some(config::Witnesses { required, keys }) = config else { return Ok(WitnessPolicy::default()) };
    let named: std::collections::BTreeSet<&String> = keys.iter().collect();
    if *required == 0 || *required > named.len() {
        bail!("witnesses: {required} of {} different keys cannot be asked for", named.len());
    }
    let witnesses = named.into_iter().map(|key| parse_public_key(key)).collect::<Result<_>>()?;
    Ok(WitnessPolicy { witnesses, required: *required })
}

/// The signed policies of the configuration, each verified, as one set.
fn load_policies(dir: &Path, config: &config::EndpointManager) -> Result<PolicySet> {
    let mut keys = ImaKeys::default();
    for path in &config.ima_keys {
        let (_, spki) = der::pem::decode_vec(&read(&dir.join(path))?)
            .map_err(|error| anyhow::anyhow!("{} is not PEM: {error}", path.display()))?;
        keys.add(&spki).with_context(|| format!("{} is no key that is supported", path.display()))?;
    }
    let signer = parse_public_key(&config.policy_key)?;
    let mut policies = PolicySet::new(keys);
    for path in std::iter::once(&config.policy).chain(&config.policies) {
        let bytes = read(&dir.join(path))?;
        let signed = Sign1::decode(&bytes).with_context(|| format!("{} is not signed", path.display()))?;
        if !signed.verify(SignedType::Policy, &signer) {
            bail!("{} is not signed by the policy key", path.display());
        }
        policies
            .add(SignedType::Policy.hash(signed.payload), Policy::decode(signed.payload)?)
            .with_context(|| format!("{} cannot be used", path.display()))?;
    }
    Ok(policies)
}

/// The issuers of certificates of endorsement keys that the configuration names.
fn load_endorsements(dir: &Path, config: &config::EndpointManager) -> Result<Endorsements> {
    let mut endorsements = Endorsements::new(config.endorsement_required);
    for entry in &config.endorsement_issuers {
        let mut issuers = Issuers::default();
        for anchor in read_certificates(&dir.join(&entry.anchors))? {
            issuers.anchor(&anchor).with_context(|| format!("an anchor in {}", entry.anchors.display()))?;
        }
        if let Some(path) = &entry.intermediates {
            for authority in read_certificates(&dir.join(path))? {
                issuers.intermediate(&authority);
            }
        }
        for path in &entry.revocations {
            let bytes = read(&dir.join(path))?;
            let list = match der::pem::decode_vec(&bytes) {
                Ok((_, list)) => list,
                Err(_) => bytes,
            };
            let list = RevocationList::parse(&list);
            issuers.revocation_list(list.with_context(|| format!("revocation list {}", path.display()))?);
        }
        entry.manufacturers.iter().for_each(|id| issuers.manufacturer(id));
        endorsements.believe(&entry.models, &issuers);
    }
    Ok(endorsements)
}

/// Runs the endpoint manager.
pub async fn run(path: &Path) -> Result<()> {
    let (setup, dir) = set_up(path)?;
    let _lock = lock_directory(&dir)?;
    let observer = Observer::new("endpoint-manager").with_journal(&dir)?;
    let records = SqliteRecords::open(dir.join("register.db")).context("cannot open the register")?;
    let outbox_records = SqliteRecords::open(dir.join("register.db")).context("cannot open the register")?;
    let peers = Arc::new(setup.peers);
    let machine = EndpointManager::new(setup.rules)
        .with_hellos_per_hour(setup.hellos_per_hour)
        .with_orders(setup.orders.into())
        .with_redirects(setup.registration.redirects());
    observer.event("started", &[]);
    let origins = Origins::default();
    let mut manager = Manager { machine, records, peers: Arc::clone(&peers), observer, origins };
    let observer = manager.observer.clone();
    let inbox = inbox::make(&dir)?;
    let watch_records = SqliteRecords::open(dir.join("register.db")).context("cannot open the register")?;
    tokio::try_join!(
        manager.run(),
        run_outbox(outbox_records, peers, observer.clone(), &inbox),
        run_watch(watch_records, setup.orders, observer),
    )?;
    Ok(())
}

struct Manager {
    machine: EndpointManager,
    records: SqliteRecords,
    peers: Arc<Peers>,
    observer: Observer,
    origins: Origins,
}

/// Where messages came from: each relay numbers its own.
#[derive(Default)]
struct Origins {
    next: Task,
    /// Relay and its number by ours.
    by_task: HashMap<Task, (usize, u64)>,
}

impl Origins {
    fn enter(&mut self, relay: usize, item: RelayItem) -> RelayItem {
        self.next += 1;
        self.by_task.insert(self.next, (relay, item.id));
        RelayItem { id: self.next, ..item }
    }
}

/// What the machine asks for, until it is on its way.
#[derive(Default)]
struct Waiting {
    keys: Vec<(Task, KeyRequest)>,
    certificates: Vec<(Task, CertificateRequest)>,
    admissions: Vec<(Task, Admission)>,
    replies: [Replies; 2],
}

type Replies = Vec<(u64, Option<Vec<u8>>)>;

/// A call that has ended.
enum Done {
    /// The config server took the replies and gave work, or could not be reached.
    Pulled {
        relay: usize,
        replies: Replies,
        work: Option<RelayWork>,
    },
    Keys(Vec<(Task, Option<KeyReply>)>),
    Certificates(Vec<(Task, Option<CertificateReply>)>),
    Admissions(Vec<(Task, Option<AdmissionReply>)>),
    /// The pause after an unreachable relay is over.
    Paused(usize),
}

/// Batches to one service at a time (decision D1); what comes meanwhile goes together in the next.
const BATCHES_MAX: usize = 8;

/// How many calls are under way, by kind.
#[derive(Default)]
struct UnderWay {
    pulls: [usize; 2],
    keys: usize,
    is_paused: [bool; 2],
}

/// Names of the relays, as logged.
const RELAYS: [&str; 2] = ["config-server", "headend"];

impl Manager {
    /// Pulls work, answers it, pulls again. Calls to the other services overlap: while one batch is away, the next
    /// messages are taken in, and one commit serves whatever waits for it.
    async fn run(&mut self) -> Result<()> {
        let mut calls = JoinSet::new();
        let mut waiting = Waiting::default();
        let mut under_way = UnderWay::default();
        loop {
            self.drain(&mut waiting)?;
            self.send(&mut waiting, &mut under_way, &mut calls)?;
            let Some(first) = calls.join_next().await else {
                bail!("the endpoint manager waits for nothing")
            };
            self.take(first?, &mut waiting, &mut under_way, &mut calls)?;
            // What has ended meanwhile goes into the same round.
            while let Some(more) = calls.try_join_next() {
                self.take(more?, &mut waiting, &mut under_way, &mut calls)?;
            }
        }
    }

    /// Sends what waits: at most one held pull, at most [`BATCHES_MAX`] batches to the key service.
    fn send(&self, waiting: &mut Waiting, under_way: &mut UnderWay, calls: &mut JoinSet<Done>) -> Result<()> {
        let peers = &self.peers;
        if !waiting.keys.is_empty() && under_way.keys < BATCHES_MAX {
            under_way.keys += 1;
            let (peers, asked) = (Arc::clone(peers), batch_of(&mut waiting.keys));
            calls.spawn(async move { Done::Keys(ask(&peers.keys, keys::PATH, asked).await) });
        }
        if !waiting.certificates.is_empty() {
            let (peers, asked) = (Arc::clone(peers), batch_of(&mut waiting.certificates));
            calls.spawn(async move { Done::Certificates(ask(&peers.pki, pki::PATH, asked).await) });
        }
        if !waiting.admissions.is_empty() {
            let (peers, asked) = (Arc::clone(peers), batch_of(&mut waiting.admissions));
            calls.spawn(async move { Done::Admissions(ask(&peers.headend, headend::PATH, asked).await) });
        }
        for relay in 0..RELAYS.len() {
            let replies = &mut waiting.replies[relay];
            while !under_way.is_paused[relay] && (under_way.pulls[relay] == 0 || !replies.is_empty()) {
                under_way.pulls[relay] += 1;
                let count = replies.len().min(RELAY_BATCH_MAX);
                let replies: Replies = replies.drain(..count).collect();
                let pull = RelayPull { replies: replies.clone(), most: u32::try_from(RELAY_BATCH_MAX)? };
                let peers = Arc::clone(peers);
                calls.spawn(async move {
                    let answer = peers.relays[relay].post(relay::PATH, pull.encode()).await.ok();
                    let answer = answer.filter(|answer| answer.status == 200);
                    let work = answer.and_then(|answer| RelayWork::decode(&answer.body).ok());
                    Done::Pulled { relay, replies, work }
                });
            }
        }
        Ok(())
    }

    /// Gives what came back to the machine.
    fn take(
        &mut self,
        done: Done,
        waiting: &mut Waiting,
        under_way: &mut UnderWay,
        calls: &mut JoinSet<Done>,
    ) -> Result<()> {
        match done {
            Done::Pulled { relay, work: Some(RelayWork(items)), .. } => {
                under_way.pulls[relay] -= 1;
                let items = items.into_iter().map(|item| self.origins.enter(relay, item)).collect();
                self.machine.handle(&self.records, utc_now(), Input::Work(items))?;
            }
            Done::Pulled { relay, replies, work: None } => {
                under_way.pulls[relay] -= 1;
                // Not delivered, as far as we know: again, a relay takes a reply once.
                waiting.replies[relay].extend(replies);
                if !std::mem::replace(&mut under_way.is_paused[relay], true) {
                    self.observer.event(&format!("{}-unreachable", RELAYS[relay]), &[]);
                    calls.spawn(async move {
                        tokio::time::sleep(PULL_PAUSE).await;
                        Done::Paused(relay)
                    });
                }
            }
            Done::Paused(relay) => under_way.is_paused[relay] = false,
            Done::Keys(replies) => {
                under_way.keys -= 1;
                for (task, reply) in replies {
                    let input = reply.map_or(Input::Unavailable(task), |reply| Input::Keys(task, reply));
                    self.machine.handle(&self.records, utc_now(), input)?;
                }
            }
            Done::Certificates(replies) => {
                for (task, reply) in replies {
                    let input =
                        reply.map_or(Input::Unavailable(task), |reply| Input::Certificate(task, reply));
                    self.machine.handle(&self.records, utc_now(), input)?;
                }
            }
            Done::Admissions(replies) => {
                for (task, reply) in replies {
                    self.machine.handle(&self.records, utc_now(), Input::Admitted(task, reply.is_some()))?;
                }
            }
        }
        Ok(())
    }

    /// Takes everything out of the machine, commits included.
    fn drain(&mut self, waiting: &mut Waiting) -> Result<()> {
        loop {
            let mut has_commit = false;
            while let Some(output) = self.machine.poll() {
                match output {
                    Output::Keys(task, request) => waiting.keys.push((task, request)),
                    Output::Certificate(task, request) => waiting.certificates.push((task, request)),
                    Output::Admit(task, admission) => waiting.admissions.push((task, admission)),
                    Output::Commit => has_commit = true,
                    Output::Reply(task, reply) => {
                        if let Some((relay, id)) = self.origins.by_task.remove(&task) {
                            waiting.replies[relay].push((id, reply));
                        }
                    }
                    Output::Event(event) => tell(&self.observer, &event),
                    _ => {}
                }
            }
            if !has_commit {
                return Ok(());
            }
            let machine = &mut self.machine;
            self.records.transact(|view| {
                Ok::<_, gridseal_types::records::RecordsError>((machine.writes(view, utc_now())?, ()))
            })?;
            self.machine.handle(&self.records, utc_now(), Input::Committed)?;
        }
    }
}

/// As much of what waits as one batch takes.
fn batch_of<T>(waiting: &mut Vec<T>) -> Vec<T> {
    let count = waiting.len().min(BATCH_MAX);
    waiting.drain(..count).collect()
}

fn tell(observer: &Observer, event: &Event) {
    let (serial, message) = (&event.serial, &event.message);
    match event.kind {
        EventKind::Accepted(step) => {
            observer.event("accepted", &[("serial", serial), ("message", &format!("C{}", step.number()))]);
        }
        EventKind::Refused(code) => {
            observer.event("refused", &[("serial", serial), ("code", &code.name()), ("message", message)]);
        }
        EventKind::Quarantined(code) => {
            let fields: [(&str, &dyn std::fmt::Display); 3] =
                [("serial", serial), ("code", &code.name()), ("message", message)];
            observer.event("quarantined", &fields);
        }
        EventKind::Unendorsed(fault) => {
            observer.event("endorsement-refused", &[("serial", serial), ("reason", &fault.name())]);
        }
        EventKind::Appraised(Ok(verdict)) => {
            observer.event("software", &[("serial", serial), ("verdict", &verdict.name())]);
        }
        EventKind::Appraised(Err(reason)) => {
            let details: [(&str, &dyn std::fmt::Display); 4] =
                [("serial", serial), ("verdict", &"fail"), ("reason", &reason.name()), ("detail", &reason)];
            observer.event("software", &details);
        }
        EventKind::Ordered(kind) => {
            observer.event("ordered", &[("serial", serial), ("order", &kind.name())]);
        }
        EventKind::Answered(kind) => {
            observer.event("answered", &[("serial", serial), ("order", &kind.name())]);
        }
        EventKind::OrderFailed(kind, code) => {
            let fields: [(&str, &dyn std::fmt::Display); 3] =
                [("serial", serial), ("order", &kind.name()), ("code", &code.name())];
            observer.event("order-failed", &fields);
        }
        EventKind::JobRefused(code) => {
            observer.event("job-refused", &[("serial", serial), ("code", &code.name())]);
        }
        EventKind::CertificateRefused => observer.event("certificate-refused", &[("serial", serial)]),
        EventKind::Ended(state) => {
            observer.event("ended-ownership", &[("serial", serial), ("state", &state.name())]);
        }
        _ => observer.event("operating", &[("serial", serial)]),
    }
}

/// Asks a service for a batch; each task gets its reply, or none when the service could not be asked.
async fn ask<Request, Reply>(
    client: &Client,
    path: &str,
    asked: Vec<(Task, Request)>,
) -> Vec<(Task, Option<Reply>)>
where
    Request: minicbor::Encode<()>,
    Reply: for<'b> minicbor::Decode<'b, ()>,
{
    if asked.is_empty() {
        return Vec::new();
    }
    let (tasks, requests): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    match client.call::<Request, Reply>(path, &Batch(requests)).await {
        Ok(Batch(replies)) => tasks.into_iter().zip(replies.into_iter().map(Some)).collect(),
        Err(_) => tasks.into_iter().map(|task| (task, None)).collect(),
    }
}

/// Tells init server and head-end what they do not know yet, again and again until they do.
async fn run_outbox(
    mut records: SqliteRecords,
    peers: Arc<Peers>,
    observer: Observer,
    inbox: &Path,
) -> Result<()> {
    let address = peers.init_server.trim_start_matches("https://").to_owned();
    let name = host_of(&address).to_owned();
    let mut init = FieldClient::new(address, peers.init_tls.clone(), name);
    let mut after: Vec<u8> = Vec::new();
    // What the init server refuses it will refuse again, until somebody has done something about it.
    let mut refused: HashMap<EkName, (Tick, Duration)> = HashMap::new();
    loop {
        inbox::take(inbox, &mut records, &observer)?;
        let (outbox, next) = register::outbox(&records, &after, OUTBOX_STEP)?;
        let mut told = Vec::new();
        for (device, registration) in outbox.registrations {
            if refused.get(&device).is_some_and(|(until, _)| tick_now() < *until) {
                continue;
            }
            let answer = init.post("/gso/v1/init", registration).await;
            match answer.ok().filter(|answer| answer.status == 200).map(|a| decode_registered(&a.body)) {
                Some(Ok(seq)) => {
                    observer.event("redirect-registered", &[("device", &device), ("seq", &seq)]);
                    told.push((device, Told::Registration));
                    refused.remove(&device);
                }
                Some(Err(_)) => {
                    let pause = refused.get(&device).map_or(REFUSED_PAUSE, |(_, pause)| *pause * 2);
                    let pause = pause.min(REFUSED_PAUSE_MAX);
                    refused.insert(device, (tick_now().after(pause), pause));
                    observer.event("redirect-refused", &[("device", &device)]);
                }
                None => break,
            }
        }
        if !outbox.states.is_empty() {
            let (devices, requests): (Vec<_>, Vec<_>) = outbox.states.into_iter().unzip();
            let revisions: Vec<_> = requests.iter().map(|(revision, _)| *revision).collect();
            let batch = Batch(requests.into_iter().map(|(_, request)| request).collect());
            if let Ok(Batch(replies)) = peers.keys.call::<KeyRequest, KeyReply>(keys::PATH, &batch).await {
                for ((device, revision), reply) in devices.into_iter().zip(revisions).zip(replies) {
                    if let KeyReply::Refused { code } = &reply {
                        observer.event("state-refused", &[("device", &device), ("code", &code.name())]);
                    }
                    told.push((device, Told::State(revision)));
                }
            }
        }
        if !outbox.admissions.is_empty() {
            let (devices, admissions): (Vec<_>, Vec<_>) = outbox.admissions.into_iter().unzip();
            let batch = Batch(admissions.clone());
            if peers.headend.call::<Admission, AdmissionReply>(headend::PATH, &batch).await.is_ok() {
                let revisions = admissions.iter().map(|admission| Told::Admission(admission.revision));
                told.extend(devices.into_iter().zip(revisions));
            }
        }
        if !told.is_empty() {
            records.transact(|view| {
                Ok::<_, gridseal_types::records::RecordsError>((register::told(view, &told)?, ()))
            })?;
        }
        if next.is_none() {
            tokio::time::sleep(OUTBOX_PAUSE).await;
        }
        after = next.unwrap_or_default();
    }
}

/// Looks through the register for who is silent and whose attestation has grown too old.
async fn run_watch(mut records: SqliteRecords, orders: config::Orders, observer: Observer) -> Result<()> {
    let rules: OrderRules = orders.into();
    loop {
        let mut after = Some(Vec::new());
        while let Some(from) = after {
            let (alarms, next) = records.transact(|view| {
                let (writes, alarms, next) = watch(view, utc_now(), &rules, (&from, OUTBOX_STEP))?;
                Ok::<_, gridseal_types::records::RecordsError>((writes, (alarms, next)))
            })?;
            for Alarm { serial, what, for_s } in alarms {
                let fields: [(&str, &dyn std::fmt::Display); 3] =
                    [("serial", &serial), ("what", &what), ("for_s", &for_s)];
                observer.event("alarm", &fields);
            }
            after = next;
        }
        tokio::time::sleep(Duration::from_secs(orders.watch_every_s.max(1))).await;
    }
}

/// Host of `host:port`, without brackets.
pub fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}
