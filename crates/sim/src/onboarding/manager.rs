//! The endpoint manager's shell: it registers what was shipped, pulls work, asks services and commits.

use std::collections::{BTreeMap, VecDeque};

use gridseal_crypto::sha256;
use gridseal_onboarding::endpoint_manager::{
    EndpointManager, EventKind, Input, Output, Task,
    register::{DEVICES, RegisterEntry, RegistrationRules, Shipped, Told, outbox, told},
};
use gridseal_trust::enrol::{
    init::{SignedRedirect, decode_registered},
    relay::{RelayPull, RelayWork},
};
use gridseal_types::{
    DeviceState, Digest, EkName, Tick,
    records::{Commit, MemoryRecords, Records, Write},
    service::keys::{KeyReply, KeyRequest},
};

use super::{
    network::Content,
    report::{Fault, Point, Rule, Violation},
    world::{Actor, Step, World},
};

use crate::works::{Made, Owner, owner};

/// How long a service may take to answer.
const CALL_MS: u64 = 3_000;
/// How long a pull may take: longer than the config server holds it.
const PULL_MS: u64 = 8_000;
/// Pause between two looks at what is still to be told.
const OUTBOX_MS: u64 = 2_500;

/// Probability that a device gets a newer redirect, in a million per look.
const RENEWAL: u32 = 10_000;

/// The papers of a shipped device.
struct Papers {
    manifest: Vec<u8>,
    voucher: Vec<u8>,
    delivery: Vec<u8>,
    name: EkName,
}

/// What an answer is for.
enum Waiting {
    Task(Task),
    Admit(Task, EkName, u64),
    AdmitLater(EkName, u64),
    Deliver(usize),
    Sign(usize, Vec<u8>),
    Register(EkName),
}

/// The process.
pub(super) struct ManagerProcess {
    pub(super) records: MemoryRecords,
    papers: Vec<Papers>,
    rules: RegistrationRules,
    memory: Memory,
}

/// What a crash takes.
struct Memory {
    machine: EndpointManager,
    inbox: VecDeque<Content>,
    calls: BTreeMap<u64, (Tick, Waiting)>,
    /// Digest of the message of each task.
    messages: BTreeMap<Task, Vec<u8>>,
    replies: Vec<(Task, Option<Vec<u8>>)>,
    pull: Option<(u64, Tick)>,
    /// A planted bug commits late.
    late: Option<Vec<Write>>,
    outbox_at: Tick,
    is_woken: bool,
}

impl Memory {
    fn new() -> Self {
        Self {
            machine: EndpointManager::new(Owner::rules()),
            inbox: VecDeque::new(),
            calls: BTreeMap::new(),
            messages: BTreeMap::new(),
            replies: Vec::new(),
            pull: None,
            late: None,
            outbox_at: Tick(0),
            is_woken: false,
        }
    }
}

impl ManagerProcess {
    pub(super) fn new(made: &[Made]) -> Self {
        let papers = made.iter().map(|made| Papers {
            manifest: made.manifest.clone(),
            voucher: made.voucher.clone(),
            delivery: made.delivery.clone(),
            name: made.name,
        });
        Self {
            records: MemoryRecords::default(),
            papers: papers.collect(),
            rules: owner(0).registration_rules(),
            memory: Memory::new(),
        }
    }

    pub(super) fn lose_memory(&mut self) {
        self.memory = Memory::new();
    }

    pub(super) fn receive(&mut self, content: Content) {
        self.memory.inbox.push_back(content);
    }

    pub(super) const fn wake(&mut self) {
        self.memory.is_woken = true;
    }

    /// The register's entry of a device.
    pub(super) fn entry(&self, name: &EkName) -> Option<RegisterEntry> {
        let bytes = self.records.get(DEVICES, name.as_bytes()).ok()??;
        minicbor::decode(&bytes).ok()
    }
}

fn failed(error: impl std::fmt::Display) -> Violation {
    Violation::new(Rule::Contract, format!("endpoint manager: {error}"))
}

impl World {
    pub(super) fn manager_starts(&mut self) {
        self.manager.memory.outbox_at = self.now;
    }

    pub(super) fn manager_acts(&mut self) -> Step {
        if let Some(output) = self.manager.memory.machine.poll() {
            self.manager_output(output)?;
        } else if let Some(writes) = self.manager.memory.late.take() {
            self.manager_commit(writes)?;
        } else if let Some(content) = self.manager.memory.inbox.pop_front() {
            self.manager_input(content)?;
        } else if self.manager.memory.is_woken {
            self.manager.memory.is_woken = false;
            self.manager_timeouts()?;
        } else if !self.manager.memory.replies.is_empty() || self.manager.memory.pull.is_none() {
            self.pull();
        } else {
            let memory = &self.manager.memory;
            let calls = memory.calls.values().map(|(until, _)| *until);
            let next = calls.chain(memory.pull.map(|(_, until)| until)).chain([memory.outbox_at]).min();
            if let Some(next) = next {
                self.wake_at(Actor::Manager, next);
            }
            return Ok(());
        }
        self.stir(Actor::Manager);
        Ok(())
    }

    fn pull(&mut self) {
        let connection = self.number();
        let until = Tick(self.now.0 + PULL_MS);
        let memory = &mut self.manager.memory;
        let pull = RelayPull { replies: std::mem::take(&mut memory.replies), most: 8 };
        memory.pull = Some((connection, until));
        self.send(Actor::Manager, Actor::ConfigServer, Content::Pull { connection, bytes: pull.encode() });
    }

    fn tell(&mut self, input: Input) -> Step {
        let utc = self.utc();
        let ManagerProcess { records, memory, .. } = &mut self.manager;
        memory.machine.handle(records, utc, input).map_err(failed)
    }

    fn call(&mut self, to: Actor, waiting: Waiting, content: impl FnOnce(u64) -> Content) {
        let call = self.number();
        let until = Tick(self.now.0 + CALL_MS);
        self.manager.memory.calls.insert(call, (until, waiting));
        self.send(Actor::Manager, to, content(call));
    }

    fn manager_output(&mut self, output: Output) -> Step {
        match output {
            Output::Keys(task, request) => {
                self.ask_keys(Waiting::Task(task), request);
                Ok(())
            }
            Output::Certificate(task, request) => {
                let request = Box::new(request);
                self.call(Actor::Authority, Waiting::Task(task), |call| Content::CertificateCall {
                    call,
                    request,
                });
                Ok(())
            }
            Output::Commit => self.machine_commits(),
            Output::Admit(task, admission) => {
                let device = self.device_of(&admission.meter);
                self.check.admits(&admission, self.manager.entry(&device).as_ref())?;
                let waiting = Waiting::Admit(task, device, admission.revision);
                self.call(Actor::HeadEnd, waiting, |call| Content::Admit { call, admission });
                Ok(())
            }
            Output::Reply(task, reply) => {
                if let (Some(message), Some(reply)) = (self.manager.memory.messages.get(&task), &reply) {
                    self.check.manager_replies(message, reply)?;
                }
                self.manager.memory.replies.push((task, reply));
                Ok(())
            }
            Output::Event(event) => {
                self.note(format_args!("manager: {} {:?}", event.serial, event.kind));
                match event.kind {
                    EventKind::Quarantined(code) => {
                        Err(Violation::new(Rule::S5, format!("a good device is in quarantine: {code:?}")))
                    }
                    _ => Ok(()),
                }
            }
            other => Err(failed(format!("unknown output {other:?}"))),
        }
    }

    fn device_of(&self, title: &gridseal_types::SystemTitle) -> EkName {
        self.meters.iter().find(|meter| meter.title == *title).map_or(EkName([0; 34]), |meter| meter.name)
    }

    fn ask_keys(&mut self, waiting: Waiting, request: KeyRequest) {
        self.call(Actor::Keys, waiting, |call| Content::KeyCall { call, requests: vec![request] });
    }

    fn machine_commits(&mut self) -> Step {
        let utc = self.utc();
        let ManagerProcess { records, memory, .. } = &mut self.manager;
        let writes = memory.machine.writes(records, utc).map_err(failed)?;
        if self.plant == Some(Fault::ManagerRepliesBeforeCommit) {
            self.manager.memory.late = Some(writes);
            return self.tell(Input::Committed);
        }
        if self.crashes(Actor::Manager, Point::BeforeCommit) {
            return Ok(());
        }
        self.manager_commit(writes)?;
        if self.crashes(Actor::Manager, Point::AfterCommit) {
            return Ok(());
        }
        self.tell(Input::Committed)
    }

    fn manager_commit(&mut self, writes: Vec<Write>) -> Step {
        self.check.manager_commits(&writes)?;
        self.manager.records.commit(writes).expect("memory");
        Ok(())
    }

    fn manager_input(&mut self, content: Content) -> Step {
        match content {
            Content::Work { connection, bytes } => {
                if self.manager.memory.pull.is_none_or(|(asked, _)| asked != connection) {
                    return Ok(());
                }
                self.manager.memory.pull = None;
                let work = RelayWork::decode(&bytes).map_err(failed)?.0;
                for item in &work {
                    self.manager.memory.messages.insert(item.id, item.message.clone());
                }
                if work.is_empty() { Ok(()) } else { self.tell(Input::Work(work)) }
            }
            Content::KeyAnswer { call, mut replies } => match (self.answered_call(call), replies.pop()) {
                (Some(waiting), Some(reply)) => self.keys_answered(waiting, reply),
                _ => Ok(()),
            },
            Content::CertificateAnswer { call, reply } => match self.answered_call(call) {
                Some(Waiting::Task(task)) => self.tell(Input::Certificate(task, *reply)),
                _ => Ok(()),
            },
            Content::AdmitAnswer { call } => match self.answered_call(call) {
                Some(Waiting::Admit(task, device, revision)) => {
                    self.told(device, Told::Admission(revision))?;
                    self.tell(Input::Admitted(task, true))
                }
                Some(Waiting::AdmitLater(device, revision)) => self.told(device, Told::Admission(revision)),
                _ => Ok(()),
            },
            Content::Registered { call, wire } => match self.answered_call(call) {
                Some(Waiting::Register(device)) if decode_registered(&wire).is_ok() => {
                    self.told(device, Told::Registration)
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn answered_call(&mut self, call: u64) -> Option<Waiting> {
        self.manager.memory.calls.remove(&call).map(|(_, waiting)| waiting)
    }

    fn told(&mut self, device: EkName, what: Told) -> Step {
        let writes = told(&self.manager.records, &[(device, what)]).map_err(failed)?;
        if self.crashes(Actor::Manager, Point::BeforeCommit) {
            return Ok(());
        }
        self.manager_commit(writes)
    }

    fn keys_answered(&mut self, waiting: Waiting, reply: KeyReply) -> Step {
        let utc = self.utc();
        match waiting {
            Waiting::Task(task) => self.tell(Input::Keys(task, reply)),
            Waiting::Deliver(number) => {
                let Some(shipped) = self.shipped(number)? else { return Ok(()) };
                shipped.delivered(&reply).map_err(|code| failed(format!("delivery: {code:?}")))?;
                // Time gives a number that rises with every attempt.
                let seq = self.now.0 + 1;
                let payload = shipped.redirect(&self.manager.rules, utc, seq);
                let request = KeyRequest::SignRedirect { payload: payload.clone() };
                self.ask_keys(Waiting::Sign(number, payload), request);
                Ok(())
            }
            Waiting::Sign(number, payload) => {
                let KeyReply::Signed { sign1, delegation } = reply else {
                    return Err(failed(format!("redirect: {reply:?}")));
                };
                let Some(shipped) = self.shipped(number)? else { return Ok(()) };
                let Some(papers) = self.manager.papers.get(number) else { return Ok(()) };
                let signed = SignedRedirect {
                    redirect: sign1,
                    delegation: Some(delegation),
                    voucher: papers.voucher.clone(),
                };
                let writes = shipped.enter(&self.manager.records, utc, &payload, signed).map_err(failed)?;
                if self.crashes(Actor::Manager, Point::BeforeCommit) {
                    return Ok(());
                }
                self.manager_commit(writes)
            }
            _ => Ok(()),
        }
    }

    fn shipped(&self, number: usize) -> Result<Option<Shipped>, Violation> {
        let Some(papers) = self.manager.papers.get(number) else { return Ok(None) };
        let shipped = Shipped::check(&self.manager.rules, &papers.manifest, &papers.voucher);
        shipped.map(Some).map_err(|code| failed(format!("papers: {code:?}")))
    }

    fn manager_timeouts(&mut self) -> Step {
        let now = self.now;
        let memory = &mut self.manager.memory;
        if memory.pull.is_some_and(|(_, until)| until <= now) {
            memory.pull = None;
        }
        let late: Vec<u64> =
            memory.calls.iter().filter(|(_, (until, _))| *until <= now).map(|(call, _)| *call).collect();
        for call in late {
            match self.answered_call(call) {
                Some(Waiting::Task(task)) => self.tell(Input::Unavailable(task))?,
                Some(Waiting::Admit(task, ..)) => self.tell(Input::Admitted(task, false))?,
                _ => {}
            }
        }
        if self.manager.memory.outbox_at <= now {
            self.manager.memory.outbox_at = Tick(now.0 + OUTBOX_MS);
            self.send_outbox()?;
        }
        Ok(())
    }

    /// What is not registered yet, and what is still to be told.
    fn send_outbox(&mut self) -> Step {
        for number in 0..self.manager.papers.len() {
            let Some(papers) = self.manager.papers.get(number) else { continue };
            let is_under_way = self.manager.memory.calls.values().any(|(_, waiting)| {
                matches!(waiting, Waiting::Deliver(of) | Waiting::Sign(of, _) if *of == number)
            });
            let (is_known, delivery) = (self.manager.entry(&papers.name).is_some(), papers.delivery.clone());
            // An owner may publish a newer redirect at any time; devices under way go on with the one they have.
            let is_renewed = !self.calm && self.chance.happens(RENEWAL);
            if is_under_way || (is_known && !is_renewed) {
                continue;
            }
            let Some(shipped) = self.shipped(number)? else { continue };
            self.ask_keys(Waiting::Deliver(number), shipped.deliver(delivery));
        }
        let (open, _) = outbox(&self.manager.records, &[], 100).map_err(failed)?;
        for (device, wire) in open.registrations {
            self.call(Actor::InitServer, Waiting::Register(device), |call| Content::Register { call, wire });
        }
        for (device, admission) in open.admissions {
            self.check.admits(&admission, self.manager.entry(&device).as_ref())?;
            let waiting = Waiting::AdmitLater(device, admission.revision);
            self.call(Actor::HeadEnd, waiting, |call| Content::Admit { call, admission });
        }
        Ok(())
    }

    /// Whether the register has come to its end for a device.
    pub(super) fn manager_is_done(&self, name: &EkName) -> bool {
        self.manager
            .entry(name)
            .is_some_and(|entry| entry.state == DeviceState::Operating && !entry.admission_pending)
    }

    pub(super) fn describe_register(&self, name: &EkName) -> String {
        self.manager.entry(name).map_or("nothing".into(), |entry| {
            let (state, sessions) = (entry.state.name(), entry.sessions.len());
            format!("it {state}, {sessions} sessions, admission pending {}", entry.admission_pending)
        })
    }
}

/// Digest of a message.
pub(super) fn digest(wire: &[u8]) -> Digest {
    Digest(sha256(&[wire]))
}
