//! The owner's endpoint manager: it accepts no connection, pulls messages from the config server, runs one registrar per
//! session, keeps the device register, and tells the head-end which meters are admitted.
//!
//! It parses everything that comes from a device and holds nothing secret: the key service does what needs a key.

pub mod installation;
pub mod orders;
pub mod register;
pub mod voucher_log;

use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
    sync::Arc,
    vec::Vec,
};

use gridseal_trust::{
    audit::{self, Act},
    endorsement::Fault,
    enrol::{
        order,
        registrar::{self, DeviceChange, Endorsed, NotBegun, Phase, Registrar, Rules, SessionRecord},
        relay::RelayItem,
        session::{EVIDENCE_SIZE_MAX, Envelope, HelloBody, Step, sid_of},
    },
    measured::{Appraisal, Reason, Verdict},
};
use gridseal_types::{
    Code, DeviceState, Digest, EkName, N16, Sid, Tick, UtcTime,
    records::{Overlay, Records, RecordsError, Table, Write},
    service::{
        admission::Admission,
        certificates::{CertificateReply, CertificateRequest},
        keys::{KeyReply, KeyRequest},
    },
};

use crate::limits::Buckets;
use installation::Comparison;
use orders::{
    OrderRules,
    course::{Course, Turned, Turning},
};
use register::{DEVICES, Redirects, RegisterEntry, Software};

/// Sessions by their identifier.
const SESSIONS: Table = "em_sessions";
/// Proven sessions that were replaced, by device: their C1 opens nothing again.
const REPLACED: Table = "em_replaced";
/// Most unproven sessions that are kept per device; the oldest is dropped. A proven one is only replaced by a proven one.
pub const SESSIONS_PER_DEVICE_MAX: usize = 4;
/// Most replaced sessions that are remembered per device.
const REPLACED_COUNT_MAX: usize = 64;
/// Most sessions that one source may begin for a device in an hour, unless said otherwise.
pub const HELLOS_PER_HOUR: u32 = 12;
/// Most pairs of device and source that are counted at a time.
const COUNTED_DEVICES_MAX: usize = 100_000;

/// Names one message under way: the work id of the config server.
pub type Task = u64;

/// What the shell must do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Ask the key service; give back [`Input::Keys`]. Requests of several tasks go in one batch.
    Keys(Task, KeyRequest),
    /// Ask the certificate authority; give back [`Input::Certificate`].
    Certificate(Task, CertificateRequest),
    /// Commit [`EndpointManager::writes`]; give back [`Input::Committed`].
    Commit,
    /// Tell the head-end; give back [`Input::Admitted`].
    Admit(Task, Admission),
    /// Answer a message; `None` drops it.
    Reply(Task, Option<Vec<u8>>),
    /// Something worth telling.
    Event(Event),
}

/// What happened to a device, by its serial number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Serial number; empty when no device is known.
    pub serial: String,
    /// SHA-256 of the message that it is about.
    pub message: Digest,
    /// What.
    pub kind: EventKind,
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A message was checked and accepted.
    Accepted(Step),
    /// A message was refused; the wire does not tell why.
    Refused(Code),
    /// An authenticated check failed.
    Quarantined(Code),
    /// The certificate of its endorsement key was not believed.
    Unendorsed(Fault),
    /// The measured software was judged.
    Appraised(Result<Verdict, Reason>),
    /// The device operates for its owner.
    Operating,
    /// An order was made.
    Ordered(order::Kind),
    /// It was answered.
    Answered(order::Kind),
    /// The device did not do it.
    OrderFailed(order::Kind, Code),
    /// The key service makes no such order.
    JobRefused(Code),
    /// The authority gave no certificate for new keys: it is asked again later.
    CertificateRefused,
    /// The ownership has ended, with a verified receipt.
    Ended(DeviceState),
}

/// What the shell tells.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// Messages from the config server.
    Work(Vec<RelayItem>),
    /// Answer of the key service.
    Keys(Task, KeyReply),
    /// Answer of the certificate authority.
    Certificate(Task, CertificateReply),
    /// A service could not be reached: the message is dropped, the device repeats it.
    Unavailable(Task),
    /// The writes are durable.
    Committed,
    /// The head-end has recorded the admission, or could not be reached: then it is told later.
    Admitted(Task, bool),
}

enum Running {
    /// The seal of a C1 is being opened.
    Opening { wire: Vec<u8>, source: N16 },
    /// A registrar waits for an answer.
    Session { registrar: alloc::boxed::Box<Registrar>, serial: String },
    /// A message about orders.
    Order(alloc::boxed::Box<Course>),
    /// Stored; the head-end is being told before the reply goes.
    Admitting { reply: Vec<u8> },
    /// Refused; the key service is being told of so many quarantines.
    Quarantining { left: usize },
}

/// A change that waits for its commit.
struct Pending {
    task: Task,
    record: SessionRecord,
    change: Option<DeviceChange>,
}

/// A place that a device named in its C1, to be compared in the commit.
struct Contact {
    /// The message that is refused when it does not fit; without one the place fitted.
    task: Option<Task>,
    device: EkName,
    serial: String,
    place: String,
}

/// What follows a commit.
enum Outcome {
    /// The registrar goes on; the head-end is told before the reply leaves.
    Stored(Option<Admission>),
    /// The device was quarantined.
    Quarantined(EkName, Code),
    /// The device hangs elsewhere than it is bound: these were held.
    Held(String, Vec<EkName>),
    /// Overtaken by another session of the device: nothing was stored.
    Overtaken(Code),
    /// An order went on.
    Turned(Turned),
}

/// The endpoint manager. One mutation, then drain [`EndpointManager::poll`].
pub struct EndpointManager {
    rules: Arc<Rules>,
    running: BTreeMap<Task, Running>,
    /// Hashes of the messages under way, for the log.
    messages: BTreeMap<Task, Digest>,
    /// How many sessions were begun lately for a device from one source: who has a device's label counts by himself.
    hellos: Buckets<(EkName, N16)>,
    /// Sessions with a message under way: a second one waits for its device to repeat it.
    busy: BTreeMap<Sid, Task>,
    pending: Vec<Pending>,
    contacts: Vec<Contact>,
    turning: Vec<Turning>,
    order_rules: OrderRules,
    redirects: Option<Redirects>,
    committing: Vec<(Task, Outcome)>,
    outputs: VecDeque<Output>,
    walked: BTreeMap<registrar::Transition, u64>,
}

impl core::fmt::Debug for EndpointManager {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "EndpointManager({} under way)", self.running.len())
    }
}

impl EndpointManager {
    /// An endpoint manager with the owner's rules.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules: Arc::new(rules),
            running: BTreeMap::new(),
            messages: BTreeMap::new(),
            hellos: Buckets::new(HELLOS_PER_HOUR, COUNTED_DEVICES_MAX),
            busy: BTreeMap::new(),
            pending: Vec::new(),
            contacts: Vec::new(),
            turning: Vec::new(),
            order_rules: OrderRules::default(),
            redirects: None,
            committing: Vec::new(),
            outputs: VecDeque::new(),
            walked: BTreeMap::new(),
        }
    }

    /// How often sessions have made each step of [`registrar::TRANSITIONS`] since this process began.
    #[must_use]
    pub const fn walked(&self) -> &BTreeMap<registrar::Transition, u64> {
        &self.walked
    }

    /// Lets one source begin so many sessions for a device in an hour, in place of [`HELLOS_PER_HOUR`].
    #[must_use]
    pub fn with_hellos_per_hour(mut self, count: u32) -> Self {
        self.hellos = Buckets::new(count, COUNTED_DEVICES_MAX);
        self
    }

    /// Does what is due by this calendar, in place of the default one.
    #[must_use]
    pub const fn with_orders(mut self, rules: OrderRules) -> Self {
        self.order_rules = rules;
        self
    }

    /// Publishes a new redirect for a device that has learnt of a new owner key. Without this none is made.
    #[must_use]
    pub fn with_redirects(mut self, redirects: Redirects) -> Self {
        self.redirects = Some(redirects);
        self
    }

    /// Next output. Drain after every [`EndpointManager::handle`].
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Feed one input.
    ///
    /// # Errors
    /// [`RecordsError`] when the register cannot be read: the process should stop.
    pub fn handle<R: Records>(
        &mut self,
        records: &R,
        now: UtcTime,
        input: Input,
    ) -> Result<(), RecordsError> {
        match input {
            Input::Work(items) => {
                for item in items {
                    self.message(records, now, item)?;
                }
            }
            Input::Keys(task, reply) => self.keys_answered(records, now, task, reply)?,
            Input::Certificate(task, reply) => match self.running.remove(&task) {
                Some(Running::Order(course)) => self.order_certificate(now, task, (*course, Some(reply))),
                Some(running) => {
                    self.running.insert(task, running);
                    self.step(task, now, registrar::Input::Certificate(reply));
                }
                None => {}
            },
            Input::Unavailable(task) => match self.running.remove(&task) {
                Some(Running::Order(course)) if matches!(*course, Course::Certifying { .. }) => {
                    self.order_certificate(now, task, (*course, None));
                }
                // Of several requests of a task the first that fails ends it.
                Some(_) => self.finish(task, None),
                None => {}
            },
            Input::Committed => self.committed(now),
            Input::Admitted(task, _) => {
                if let Some(Running::Admitting { reply }) = self.running.remove(&task) {
                    self.finish(task, Some(reply));
                }
            }
        }
        Ok(())
    }

    fn event(&mut self, task: Task, serial: &str, kind: EventKind) {
        let message = self.messages.get(&task).copied().unwrap_or(Digest([0; 32]));
        self.outputs.push_back(Output::Event(Event { serial: serial.into(), message, kind }));
    }

    fn finish(&mut self, task: Task, reply: Option<Vec<u8>>) {
        self.running.remove(&task);
        self.messages.remove(&task);
        self.busy.retain(|_, owner| *owner != task);
        self.outputs.push_back(Output::Reply(task, reply));
    }

    fn refuse(&mut self, task: Task, serial: &str, code: Code) {
        self.event(task, serial, EventKind::Refused(code));
        self.finish(task, None);
    }

    fn message<R: Records>(
        &mut self,
        records: &R,
        now: UtcTime,
        item: RelayItem,
    ) -> Result<(), RecordsError> {
        let (task, source, wire) = (item.id, item.source, item.message);
        self.messages.insert(task, Digest(gridseal_crypto::sha256(&[&wire])));
        let envelope = Envelope::decode(&wire);
        let size_max =
            envelope.as_ref().ok().and_then(Envelope::step).map_or(EVIDENCE_SIZE_MAX, Step::size_max);
        if wire.len() > size_max {
            self.refuse(task, "", Code::Size);
            return Ok(());
        }
        let sid = match envelope {
            Ok(Envelope::Hello { .. }) => sid_of(&wire),
            Ok(Envelope::Message { sid, .. }) => sid,
            _ => {
                if self.order_message(task, &wire).is_none() {
                    self.refuse(task, "", Code::Format);
                }
                return Ok(());
            }
        };
        if self.busy.contains_key(&sid) {
            self.messages.remove(&task);
            self.finish_busy(task);
            return Ok(());
        }
        self.busy.insert(sid, task);
        let overlay = Overlay::new(records);
        let Some(record) = overlay.load::<SessionRecord>(SESSIONS, sid.as_bytes())? else {
            if matches!(Envelope::decode(&wire), Ok(Envelope::Hello { .. })) {
                // Only the seal tells whether this deserves more than a look-up.
                self.outputs.push_back(Output::Keys(task, KeyRequest::OpenHello { wire: wire.clone() }));
                self.running.insert(task, Running::Opening { wire, source });
            } else {
                self.refuse(task, "", Code::Nonce);
            }
            return Ok(());
        };
        let Some(entry) = overlay.load::<RegisterEntry>(DEVICES, record.device.as_bytes())? else {
            self.refuse(task, "", Code::Unknown);
            return Ok(());
        };
        let registrar = Registrar::resume(entry.facts(), Arc::clone(&self.rules), record);
        self.run(task, registrar, entry.serial);
        self.step(task, now, registrar::Input::Message(&wire));
        Ok(())
    }

    /// The session has a message under way; the busy mark stays with that one.
    fn finish_busy(&mut self, task: Task) {
        self.outputs.push_back(Output::Reply(task, None));
    }

    fn run(&mut self, task: Task, registrar: Registrar, serial: String) {
        let registrar = alloc::boxed::Box::new(registrar);
        self.running.insert(task, Running::Session { registrar, serial });
    }

    fn keys_answered<R: Records>(
        &mut self,
        records: &R,
        now: UtcTime,
        task: Task,
        reply: KeyReply,
    ) -> Result<(), RecordsError> {
        match self.running.remove(&task) {
            Some(Running::Opening { wire, source }) => {
                self.hello_opened(records, now, task, (&wire, source), reply)
            }
            Some(Running::Order(course)) => self.order_keys_answered(records, now, task, (*course, reply)),
            Some(Running::Quarantining { left }) => {
                match left.saturating_sub(1) {
                    0 => self.finish(task, None),
                    left => drop(self.running.insert(task, Running::Quarantining { left })),
                }
                Ok(())
            }
            Some(running) => {
                self.running.insert(task, running);
                self.step(task, now, registrar::Input::Keys(reply));
                Ok(())
            }
            None => Ok(()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one C1 with everything that is known about it")]
    fn hello_opened<R: Records>(
        &mut self,
        records: &R,
        now: UtcTime,
        task: Task,
        (wire, source): (&[u8], N16),
        reply: KeyReply,
    ) -> Result<(), RecordsError> {
        let (device, epoch, body) = match reply {
            KeyReply::Hello { device, epoch, body } => (device, epoch, body),
            KeyReply::Refused { code } => {
                self.refuse(task, "", code);
                return Ok(());
            }
            _ => {
                self.refuse(task, "", Code::State);
                return Ok(());
            }
        };
        let entry = Overlay::new(records).load::<RegisterEntry>(DEVICES, device.as_bytes())?;
        let Some(entry) = entry.filter(|entry| entry.epoch == epoch) else {
            self.refuse(task, "", Code::Unknown);
            return Ok(());
        };
        if replaced(&Overlay::new(records), &device)?.contains(&sid_of(wire)) {
            self.refuse(task, &entry.serial, Code::Nonce);
            return Ok(());
        }
        // The seal proves who asks; public-key work begins below.
        if self.hellos.take(Tick(now.0.saturating_mul(1_000)), (device, source)).is_err() {
            self.refuse(task, &entry.serial, Code::Busy);
            return Ok(());
        }
        match Registrar::begin(entry.facts(), Arc::clone(&self.rules), wire, &body, now) {
            Ok(registrar) => {
                if !self.is_in_place(records, task, &entry, &body)? {
                    return Ok(());
                }
                self.run(task, registrar, entry.serial);
                self.drain(task);
            }
            Err(not_begun) => {
                if let NotBegun::Endorsement(fault) = not_begun {
                    self.event(task, &entry.serial, EventKind::Unendorsed(fault));
                }
                self.refuse(task, &entry.serial, not_begun.code());
            }
        }
        Ok(())
    }

    /// Whether a device hangs where it is bound. What does not fit is held by the next commit.
    fn is_in_place<R: Records>(
        &mut self,
        records: &R,
        task: Task,
        entry: &RegisterEntry,
        body: &[u8],
    ) -> Result<bool, RecordsError> {
        let device = entry.device;
        let Some(place) = HelloBody::decode(body).ok().and_then(|hello| hello.place) else { return Ok(true) };
        let mut overlay = Overlay::new(records);
        let fits = installation::compare(&mut overlay, &device, Some(&place))? == Comparison::Fits;
        if !fits {
            self.ask_for_commit();
        }
        if !fits || !overlay.into_writes().is_empty() {
            let serial = entry.serial.clone();
            self.contacts.push(Contact { task: (!fits).then_some(task), device, serial, place });
        }
        Ok(fits)
    }

    /// Once for all changes that wait.
    fn ask_for_commit(&mut self) {
        let is_asked = !self.pending.is_empty()
            || !self.turning.is_empty()
            || self.contacts.iter().any(|contact| contact.task.is_some());
        if !is_asked {
            self.outputs.push_back(Output::Commit);
        }
    }

    fn step(&mut self, task: Task, now: UtcTime, input: registrar::Input<'_>) {
        let Some(Running::Session { registrar, serial }) = self.running.get_mut(&task) else { return };
        let serial = serial.clone();
        let (before, name) = (registrar.state_name(), input.name());
        let outcome = registrar.handle(now, input);
        *self.walked.entry((before, name, registrar.state_name())).or_default() += 1;
        match outcome {
            Ok(()) => self.drain(task),
            Err(code) => self.refuse(task, &serial, code),
        }
    }

    /// Passes the outputs of a registrar on.
    fn drain(&mut self, task: Task) {
        loop {
            let Some(Running::Session { registrar, serial }) = self.running.get_mut(&task) else { return };
            let Some(output) = registrar.poll() else { return };
            match output {
                registrar::Output::Keys(request) => self.outputs.push_back(Output::Keys(task, request)),
                registrar::Output::Certificate(request) => {
                    self.outputs.push_back(Output::Certificate(task, request));
                }
                registrar::Output::Persist(change) => {
                    let record = registrar.record().clone();
                    self.ask_for_commit();
                    self.pending.push(Pending { task, record, change });
                }
                registrar::Output::Reply(wire) => self.finish(task, Some(wire)),
                registrar::Output::Accepted(step) => {
                    let serial = serial.clone();
                    self.event(task, &serial, EventKind::Accepted(step));
                }
                registrar::Output::Appraised(verdict) => {
                    let serial = serial.clone();
                    self.event(task, &serial, EventKind::Appraised(verdict));
                }
                _ => {}
            }
        }
    }

    /// All changes that wait, as one transaction.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn writes<R: Records>(&mut self, records: &R, now: UtcTime) -> Result<Vec<Write>, RecordsError> {
        let mut overlay = Overlay::new(records);
        for Pending { task, record, change } in core::mem::take(&mut self.pending) {
            let Some(mut entry) = overlay.load::<RegisterEntry>(DEVICES, record.device.as_bytes())? else {
                return Err(RecordsError::Damaged);
            };
            let advances = !matches!(change, Some(DeviceChange::Quarantined(..)));
            if advances && !entry.state.may_onboard() {
                self.committing.push((task, Outcome::Overtaken(Code::State)));
                continue;
            }
            if !keep(&mut overlay, &mut entry, &record)? {
                self.committing.push((task, Outcome::Overtaken(Code::Nonce)));
                continue;
            }
            if let Some(DeviceChange::Operating { .. }) = &change {
                entry.keys = Some(record.keys.clone());
                entry.certificate.clone_from(&record.issued);
            }
            let outcome = apply(&mut overlay, now, &mut entry, change.as_ref())?;
            overlay.save(SESSIONS, record.sid.as_bytes(), &record);
            overlay.save(DEVICES, entry.device.as_bytes(), &entry);
            self.committing.push((task, outcome));
        }
        for Contact { task, device, serial, place } in core::mem::take(&mut self.contacts) {
            let compared = installation::compare(&mut overlay, &device, Some(&place))?;
            let Some(task) = task else { continue };
            let Comparison::Elsewhere { held, finding } = compared else {
                // Corrected meanwhile: the device repeats its message.
                self.committing.push((task, Outcome::Held(serial, Vec::new())));
                continue;
            };
            let mut changed = Vec::new();
            for device in held {
                if installation::hold(&mut overlay, now, &device, &finding)? {
                    changed.push(device);
                }
            }
            self.committing.push((task, Outcome::Held(serial, changed)));
        }
        for (task, turned) in self.turn_books(&mut overlay, now)? {
            self.committing.push((task, Outcome::Turned(turned)));
        }
        Ok(overlay.into_writes())
    }

    fn committed(&mut self, now: UtcTime) {
        for (task, outcome) in core::mem::take(&mut self.committing) {
            let admission = match outcome {
                Outcome::Stored(admission) => admission,
                Outcome::Quarantined(device, code) => {
                    let serial = self.serial(task);
                    self.event(task, &serial, EventKind::Quarantined(code));
                    self.quarantined(task, &[device]);
                    continue;
                }
                Outcome::Held(serial, devices) => {
                    if !devices.is_empty() {
                        self.event(task, &serial, EventKind::Quarantined(Code::Label));
                    }
                    self.quarantined(task, &devices);
                    continue;
                }
                Outcome::Turned(Turned { serial, reply, event }) => {
                    if let Some(kind) = event {
                        self.event(task, &serial, kind);
                    }
                    self.finish(task, reply);
                    continue;
                }
                Outcome::Overtaken(code) => {
                    let serial = self.serial(task);
                    self.refuse(task, &serial, code);
                    continue;
                }
            };
            self.step(task, now, registrar::Input::Persisted);
            let Some(admission) = admission else { continue };
            // The reply is held back until the head-end knows the meter, or cannot be told now.
            let held = self
                .outputs
                .iter()
                .position(|output| matches!(output, Output::Reply(of, Some(_)) if *of == task));
            if let Some(Output::Reply(_, Some(reply))) = held.and_then(|at| self.outputs.remove(at)) {
                self.running.insert(task, Running::Admitting { reply });
                self.outputs.push_back(Output::Admit(task, admission));
            }
        }
    }

    fn serial(&self, task: Task) -> String {
        match self.running.get(&task) {
            Some(Running::Session { serial, .. }) => serial.clone(),
            _ => String::new(),
        }
    }

    /// Tells the key service, then drops the message.
    fn quarantined(&mut self, task: Task, devices: &[EkName]) {
        if devices.is_empty() {
            return self.finish(task, None);
        }
        for device in devices {
            let request = KeyRequest::SetState {
                device: *device,
                state: DeviceState::Quarantined,
                attested_at: UtcTime(0),
            };
            self.outputs.push_back(Output::Keys(task, request));
        }
        self.running.insert(task, Running::Quarantining { left: devices.len() });
    }
}

fn replaced<R: Records>(overlay: &Overlay<'_, R>, device: &EkName) -> Result<Vec<Sid>, RecordsError> {
    Ok(overlay.load(REPLACED, device.as_bytes())?.unwrap_or_default())
}

/// Puts a session on its device's list, or finds that it was dropped meanwhile. Unproven sessions push only one another
/// out; a session that becomes proven replaces the proven one before it.
fn keep<R: Records>(
    overlay: &mut Overlay<'_, R>,
    entry: &mut RegisterEntry,
    record: &SessionRecord,
) -> Result<bool, RecordsError> {
    let is_new = !entry.sessions.contains(&record.sid);
    if is_new && record.phase != Phase::Challenged {
        return Ok(false);
    }
    let (mut unproven, mut proven) = (Vec::new(), Vec::new());
    for sid in entry.sessions.iter().filter(|sid| **sid != record.sid) {
        match overlay.load::<SessionRecord>(SESSIONS, sid.as_bytes())?.map(|other| other.phase) {
            Some(Phase::Challenged) => unproven.push(*sid),
            Some(_) => proven.push(*sid),
            None => {}
        }
    }
    let mut dropped = Vec::new();
    if is_new {
        entry.sessions.push(record.sid);
        let surplus = unproven.len().saturating_add(1).saturating_sub(SESSIONS_PER_DEVICE_MAX);
        dropped.extend(unproven.into_iter().take(surplus));
    }
    if record.phase == Phase::Owning && !proven.is_empty() {
        let mut before = replaced(overlay, &record.device)?;
        before.extend(&proven);
        let surplus = before.len().saturating_sub(REPLACED_COUNT_MAX);
        before.drain(..surplus);
        overlay.save(REPLACED, record.device.as_bytes(), &before);
        dropped.extend(proven);
    }
    for sid in dropped {
        entry.sessions.retain(|kept| *kept != sid);
        overlay.delete(SESSIONS, sid.as_bytes());
    }
    Ok(true)
}

/// Applies a change to a device's entry, with its audit record.
fn apply<R: Records>(
    overlay: &mut Overlay<'_, R>,
    now: UtcTime,
    entry: &mut RegisterEntry,
    change: Option<&DeviceChange>,
) -> Result<Outcome, RecordsError> {
    let (state, detail): (DeviceState, String) = match change {
        None => return Ok(Outcome::Stored(None)),
        Some(DeviceChange::Endorsed(Endorsed { chain, assured })) => {
            entry.endorse(chain.clone(), assured.clone());
            let act = Act {
                actor: "endpoint-manager",
                act: "device.endorsed",
                subject: &entry.device,
                detail: &assured.tpm.manufacturer,
            };
            audit::append(overlay, now, act)?;
            return Ok(Outcome::Stored(None));
        }
        Some(DeviceChange::MeasureAnew) => {
            entry.software = None;
            return Ok(Outcome::Stored(None));
        }
        Some(DeviceChange::Installing(appraisal)) => {
            let Appraisal { verdict, policy, progress } = *appraisal;
            entry.software = Some(Software { verdict, policy, progress, tpm_firmware: None });
            (DeviceState::Installing, alloc::format!("software {}", verdict.name()))
        }
        Some(DeviceChange::Operating { tls_key, policy_version, configuration, attested_at }) => {
            entry.tls_key = Some(*tls_key);
            entry.policy_version = *policy_version;
            entry.configuration = *configuration;
            entry.attested_at = *attested_at;
            (DeviceState::Operating, String::new())
        }
        Some(DeviceChange::Quarantined(code, reason)) => {
            entry.quarantine = Some(*code);
            // A head-end that serves the device has to stop.
            entry.admission_pending = entry.tls_key.is_some();
            let detail = match reason {
                Some(reason) => alloc::format!("{} {reason}", code.name()),
                None => code.name().into(),
            };
            (DeviceState::Quarantined, detail)
        }
    };
    entry.state = state;
    entry.revision = entry.revision.saturating_add(1);
    let act = alloc::format!("device.{}", state.name());
    audit::append(
        overlay,
        now,
        Act { actor: "endpoint-manager", act: &act, subject: &entry.device, detail: &detail },
    )?;
    match change {
        Some(DeviceChange::Operating { .. }) => {
            entry.admission_pending = true;
            Ok(Outcome::Stored(entry.admission()))
        }
        Some(DeviceChange::Quarantined(code, _)) => Ok(Outcome::Quarantined(entry.device, *code)),
        _ => Ok(Outcome::Stored(None)),
    }
}
