//! One owner: device register, key service on two sites, certificate authorities, config server and admissions.

use std::collections::{BTreeMap, VecDeque};

use gridseal_crypto::Rng;
use gridseal_headend::{
    admission::{Standing, lookup, record},
    memory::MemoryAdmissions,
};
use gridseal_keys::front;
use gridseal_onboarding::{
    config_server::{Answer, ConfigServer},
    endpoint_manager::{
        EndpointManager, EventKind, Input, Output,
        orders::{Job, OrderRules, receipt, request, status, watch},
        register::{RegisterEntry, RegistrationRules, Shipped, Told, entry, outbox, readmit, told},
    },
};
use gridseal_pki::{Call, CertificateRecord, CertificateRecords, ENDPOINT_MANAGER, Holder, RecordsError};
use gridseal_trust::{
    audit::{AUDIT, AUDIT_BATCH},
    enrol::{
        init::{SignedRedirect, decode_registered},
        receipt::ReceiptFile,
        relay::{RelayItem, RelayPull},
    },
};
use gridseal_types::{
    Code, DeviceState, Digest, EkName, N16, SystemTitle, Tick, UtcTime,
    records::{Commit, MemoryRecords, Write},
    service::{
        certificates::{CertificateReply, CertificateRequest},
        keys::{KeyReply, KeyRequest},
    },
};

use super::{
    fleet::{Broken, broken, found},
    report::Rule,
};
use crate::{
    HashRng,
    keys::World,
    works::{AUTHORITIES, ISSUING_EVERY_DAYS, Owner, START, vendor},
};

/// Source of every message, as the config server names it: devices are behind one gateway.
const SOURCE: N16 = N16([7; 16]);

/// Events of the endpoint manager that a failure shows.
const EVENTS_MAX: usize = 12;

/// Replies to messages, by task.
type Replies = Vec<(u64, Option<Vec<u8>>)>;

/// What an owner's authorities have issued, newest by key.
#[derive(Debug, Default)]
struct Issued(BTreeMap<Digest, CertificateRecord>);

impl CertificateRecords for Issued {
    fn newest_for_key(&self, key: &Digest) -> Result<Option<CertificateRecord>, RecordsError> {
        Ok(self.0.get(key).cloned())
    }
}

/// An owner's side.
pub(super) struct Side<'e> {
    pub(super) owner: &'static Owner,
    /// Key service, and the head-ends with the DLMS side of the meters.
    pub(super) keys: World<'e>,
    pub(super) manager: EndpointManager,
    pub(super) register: MemoryRecords,
    rules: RegistrationRules,
    relay: ConfigServer,
    issued: Issued,
    pub(super) admissions: MemoryAdmissions,
    rng: HashRng,
    connection: u64,
    /// Serial numbers and codes of what went into quarantine.
    pub(super) quarantined: Vec<(String, Code)>,
    names: BTreeMap<SystemTitle, EkName>,
    /// The last that the endpoint manager has told.
    events: VecDeque<String>,
    /// Of how many answers of the key service and the authority in a million there is trouble: they refuse, or what a device
    /// has sealed is something else than it should be.
    pub(super) trouble: u32,
    /// The same once: after so many answers, and how: 0 says something else, 1 refuses, 2 says nothing that has a form.
    pub(super) trouble_at: (u64, u64),
    answers: u64,
    /// A planted fault: no certificate before the one on record has ended.
    pub(super) is_slow: bool,
    /// The authorities issue nothing for the time being, and how often they were asked meanwhile.
    pub(super) is_out: bool,
    pub(super) refused: u64,
}

fn failed(error: impl std::fmt::Display) -> Broken {
    broken(Rule::Contract, error.to_string())
}

/// The authority that issues at some time.
pub(super) fn authority_at(now: UtcTime) -> usize {
    let days = now.0.saturating_sub(START.0) / 86_400;
    usize::try_from(days / ISSUING_EVERY_DAYS).unwrap_or(0).min(AUTHORITIES - 1)
}

impl<'e> Side<'e> {
    pub(super) fn new(seed: u64, number: usize, owner: &'static Owner, keys: World<'e>) -> Self {
        Self {
            owner,
            keys,
            manager: EndpointManager::new(Owner::rules_of_two_releases()),
            register: MemoryRecords::default(),
            rules: owner.registration_rules(),
            relay: ConfigServer::new(0),
            issued: Issued::default(),
            admissions: MemoryAdmissions::default(),
            rng: HashRng::new(seed, "owner", number as u64),
            connection: 0,
            quarantined: Vec::new(),
            names: BTreeMap::new(),
            events: VecDeque::new(),
            trouble: 0,
            trouble_at: (u64::MAX, 1),
            answers: 0,
            is_slow: false,
            is_out: false,
            refused: 0,
        }
    }

    /// The register's entry of a device.
    pub(super) fn entry(&self, device: &EkName) -> Option<RegisterEntry> {
        entry(&self.register, device).expect("memory")
    }

    fn commit(&mut self, writes: Vec<Write>) {
        // The audit log is read by nobody here; its end is kept.
        let kept = |write: &Write| write.table != AUDIT && write.table != AUDIT_BATCH;
        self.register.commit(writes.into_iter().filter(kept).collect()).expect("memory");
    }

    /// One request of the endpoint manager's to the key service that serves.
    pub(super) fn ask(&mut self, request: KeyRequest) -> Result<KeyReply, Broken> {
        if !front::allows(front::ENDPOINT_MANAGER, &request) {
            return Err(broken(Rule::Contract, "the endpoint manager asks for what it must not"));
        }
        self.keys.answered(request).map_err(found)
    }

    /// A shipped device comes into the register, and its redirect to the init server.
    pub(super) fn register(
        &mut self,
        (device, title): (EkName, SystemTitle),
        papers: &Papers,
        (now, seq): (UtcTime, u64),
        init: &mut MemoryRecords,
    ) -> Result<(), Broken> {
        self.names.insert(title, device);
        let mut shipped = Shipped::check(&self.rules, &papers.manifest, &papers.voucher)
            .map_err(|code| broken(Rule::Contract, format!("papers: {code:?}")))?;
        shipped.keep_receipt(papers.receipt.clone());
        let reply = self.ask(shipped.deliver(papers.delivery.clone()))?;
        shipped
            .delivered(&reply)
            .map_err(|code| broken(Rule::Contract, format!("delivery: {code:?} {reply:?}")))?;
        let payload = shipped.redirect(&self.rules, now, seq);
        let KeyReply::Signed { sign1, delegation } =
            self.ask(KeyRequest::SignRedirect { payload: payload.clone() })?
        else {
            return Err(broken(Rule::Contract, "a redirect is not signed"));
        };
        let signed =
            SignedRedirect { redirect: sign1, delegation: Some(delegation), voucher: papers.voucher.clone() };
        let writes = shipped.enter(&self.register, now, &payload, signed).map_err(failed)?;
        self.commit(writes);
        let (pending, _) = outbox(&self.register, &[], usize::MAX).map_err(failed)?;
        for (device, wire) in pending.registrations {
            let answer = vendor().init.answer(init, now, &wire).map_err(failed)?;
            if let Some(code) = answer.refused {
                return Err(broken(Rule::Contract, format!("the init server refuses a redirect: {code:?}")));
            }
            init.commit(answer.writes).expect("memory");
            decode_registered(&answer.reply).map_err(failed)?;
            self.is_told(&device, Told::Registration)?;
        }
        Ok(())
    }

    /// A redirect of this owner's that is signed and kept aside.
    pub(super) fn register_again(
        &mut self,
        papers: &Papers,
        device: EkName,
        (now, seq): (UtcTime, u64),
        init: &mut MemoryRecords,
    ) -> Result<(), Broken> {
        let title = self.names.iter().find(|(_, name)| **name == device).map(|(title, _)| *title);
        let title = title.ok_or_else(|| broken(Rule::Contract, "a device that nobody has registered"))?;
        self.register((device, title), papers, (now, seq), init)
    }

    /// A person lets a device in quarantine try again; `false` when it is not there.
    pub(super) fn readmit(&mut self, device: &EkName, now: UtcTime) -> Result<bool, Broken> {
        let Some(entry) = self.entry(device) else { return Ok(false) };
        if entry.state != DeviceState::Quarantined {
            return Ok(false);
        }
        let (writes, known) = readmit(&self.register, now, &entry.serial, "life").map_err(failed)?;
        self.commit(writes);
        let (state, attested_at) = (DeviceState::Registered, entry.attested_at);
        self.ask(KeyRequest::SetState { device: *device, state, attested_at })?;
        Ok(known.is_some())
    }

    /// How a device stands, for a failure.
    pub(super) fn describe(&self, device: &EkName) -> String {
        let entry = self.entry(device);
        let (state, quarantine) = (entry.as_ref().map(|entry| entry.state), entry.and_then(|e| e.quarantine));
        let orders = status(&self.register, device).expect("memory");
        format!("{state:?} {quarantine:?}, {orders:?}, {:?}", self.events)
    }

    /// An operator's job for a device. Refused: `false`.
    pub(super) fn request(&mut self, device: &EkName, job: Job, now: UtcTime) -> Result<bool, Broken> {
        let keys = vendor().voucher_keys();
        let decided = request(&self.register, now, device, job, ("life", &keys)).map_err(failed)?;
        self.commit(decided.0);
        self.tell_of(device)?;
        Ok(decided.1.is_ok())
    }

    /// Silence and old attestations: who is held.
    pub(super) fn look(&mut self, now: UtcTime) -> Result<u64, Broken> {
        let (writes, alarms, _) =
            watch(&self.register, now, &OrderRules::default(), (&[], usize::MAX)).map_err(failed)?;
        self.commit(writes);
        let held: Vec<EkName> = self.names.values().copied().collect();
        held.iter().try_for_each(|device| self.tell_of(device))?;
        Ok(alarms.len() as u64)
    }

    /// The receipt of the end of an ownership, as it is on record.
    pub(super) fn receipt(&self, device: &EkName, epoch: u32) -> Result<Option<ReceiptFile>, Broken> {
        receipt(&self.register, device, epoch).map_err(failed)
    }

    /// Tells the key service and the head-end what is still to be told of a device.
    pub(super) fn tell_of(&mut self, device: &EkName) -> Result<(), Broken> {
        let Some(entry) = self.entry(device) else { return Ok(()) };
        let revision = entry.revision;
        if entry.state_pending {
            let (state, attested_at) = (entry.state, entry.attested_at);
            self.ask(KeyRequest::SetState { device: *device, state, attested_at })?;
            self.is_told(device, Told::State(revision))?;
        }
        if let Some(admission) = entry.admission().filter(|_| entry.admission_pending) {
            record(&mut self.admissions, &admission).map_err(failed)?;
            self.is_told(device, Told::Admission(revision))?;
        }
        Ok(())
    }

    fn is_told(&mut self, device: &EkName, what: Told) -> Result<(), Broken> {
        let writes = told(&self.register, &[(*device, what)]).map_err(failed)?;
        self.commit(writes);
        Ok(())
    }

    /// A message of a device that has this owner, and what comes back; whoever has to be told of it is told.
    pub(super) fn asked(
        &mut self,
        device: &EkName,
        now: (Tick, UtcTime),
        wire: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, Broken> {
        let reply = self.exchange(now, wire)?;
        self.tell_of(device)?;
        Ok(reply)
    }

    /// A device's message to the config server, and what comes back once the endpoint manager has done its part.
    pub(super) fn exchange(
        &mut self,
        now: (Tick, UtcTime),
        wire: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, Broken> {
        self.connection += 1;
        let connection = self.connection;
        self.relay.message(now.0, connection, SOURCE, wire);
        let mut replies = Vec::new();
        loop {
            let work = self.relay.pull(now.0, RelayPull { replies, most: 8 });
            if work.0.is_empty() {
                break;
            }
            replies = self.work(now.1, work.0)?;
        }
        let mut reply = None;
        while let Some(output) = self.relay.poll() {
            if output.connection == connection {
                reply = Some(output.answer);
            }
        }
        Ok(match reply {
            Some(Answer::Message(message)) => Some(message),
            _ => None,
        })
    }

    /// Messages to the endpoint manager; its replies by task.
    fn work(&mut self, now: UtcTime, items: Vec<RelayItem>) -> Result<Replies, Broken> {
        self.tell(now, Input::Work(items))?;
        let mut replies = Vec::new();
        self.drain(now, &mut replies)?;
        Ok(replies)
    }

    fn tell(&mut self, now: UtcTime, input: Input) -> Result<(), Broken> {
        self.manager.handle(&self.register, now, input).map_err(failed)
    }

    /// Does what the endpoint manager asks for until it asks for nothing more.
    fn drain(&mut self, now: UtcTime, replies: &mut Replies) -> Result<(), Broken> {
        while let Some(output) = self.manager.poll() {
            match output {
                Output::Keys(task, request) => {
                    let reply = self.ask(request)?;
                    let reply = self.troubled(reply);
                    self.tell(now, Input::Keys(task, reply))?;
                }
                Output::Certificate(task, request) => {
                    let reply = match self.is_troubled() {
                        true => CertificateReply::Refused { code: Code::Busy },
                        false => self.certificate(now, &request),
                    };
                    self.tell(now, Input::Certificate(task, reply))?;
                }
                Output::Commit => {
                    let writes = self.manager.writes(&self.register, now).map_err(failed)?;
                    self.commit(writes);
                    self.tell(now, Input::Committed)?;
                }
                Output::Admit(task, admission) => {
                    record(&mut self.admissions, &admission).map_err(failed)?;
                    if let Some(device) = self.names.get(&admission.meter).copied() {
                        self.is_told(&device, Told::Admission(admission.revision))?;
                    }
                    self.tell(now, Input::Admitted(task, true))?;
                }
                Output::Reply(task, reply) => replies.push((task, reply)),
                Output::Event(event) => {
                    if self.events.len() >= EVENTS_MAX {
                        self.events.pop_front();
                    }
                    self.events.push_back(format!("{} {:?}", event.serial, event.kind));
                    if let EventKind::Quarantined(code) = event.kind {
                        self.quarantined.push((event.serial, code));
                    }
                }
                other => return Err(broken(Rule::Contract, format!("unknown output {other:?}"))),
            }
        }
        Ok(())
    }

    /// The config server forgets everything.
    pub(super) fn relay_restarts(&mut self) {
        self.relay = ConfigServer::new(self.connection << 32);
    }

    fn is_troubled(&mut self) -> bool {
        self.answers += 1;
        if self.answers == self.trouble_at.0 {
            return true;
        }
        // Without trouble nothing is drawn.
        if self.trouble == 0 {
            return false;
        }
        let mut drawn = [0; 4];
        self.rng.fill(&mut drawn).expect("a hash does not fail");
        u64::from(u32::from_be_bytes(drawn)) * 1_000_000 < u64::from(self.trouble) << 32
    }

    fn troubled(&mut self, reply: KeyReply) -> KeyReply {
        if !self.is_troubled() {
            return reply;
        }
        match reply {
            KeyReply::Opened { mut body } if self.trouble_at.1 != 1 => {
                // A short body begins with the transcript; in a long one the evidence is in the middle.
                let at = match (self.trouble_at.1, body.len()) {
                    (2, _) => 0,
                    (_, size) if size > 1_000 => size / 2,
                    _ => 10,
                };
                body.get_mut(at).into_iter().for_each(|byte| *byte ^= 1);
                KeyReply::Opened { body }
            }
            _ => KeyReply::Refused { code: Code::Busy },
        }
    }

    fn certificate(&mut self, now: UtcTime, request: &CertificateRequest) -> CertificateReply {
        if self.is_out {
            self.refused += 1;
            return CertificateReply::Refused { code: Code::Busy };
        }
        if self.is_slow
            && let CertificateRequest::LDevId { device, .. } = request
            && self
                .issued
                .0
                .values()
                .any(|known| known.holder == Holder::Device(*device) && known.not_after > now)
        {
            return CertificateReply::Refused { code: Code::Busy };
        }
        let call = Call { request, caller: ENDPOINT_MANAGER, now };
        let authority = &self.owner.authorities[authority_at(now)];
        let (reply, record) = authority.decide(call, &mut self.rng, &self.issued);
        self.issued.0.extend(record.map(|record| (record.key, record)));
        reply
    }

    /// Whether the head-end serves the meter that proves this key.
    pub(super) fn serves(&self, tls_key: &Digest) -> Result<bool, Broken> {
        Ok(matches!(lookup(&self.admissions, tls_key).map_err(failed)?, Standing::Served(_)))
    }
}

/// What comes to an owner with a device.
#[derive(Debug, Clone)]
pub(super) struct Papers {
    pub(super) manifest: Vec<u8>,
    pub(super) voucher: Vec<u8>,
    pub(super) delivery: Vec<u8>,
    /// That the owner before has nothing of it any more.
    pub(super) receipt: Option<Vec<u8>>,
}
