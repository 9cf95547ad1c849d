//! Everything that may be asked of one device, under one seed: it is made, finds its owner, gets orders of every kind, and
//! goes to its next owner, is recovered, or comes to its end; with lost, repeated and changed messages, a root that fails,
//! power that fails between any two acts, a key service that refuses, and a device that says something else than it should.
//!
//! What is counted is every step of both machines, by the tables that they have themselves. The schedules end calm: then the
//! device must be where it was to go.

use std::collections::BTreeMap;

use gridseal_crypto::Rng;
use gridseal_onboarding::{
    endpoint_manager::orders::{Job, status},
    init_server::Challenges,
};
use gridseal_trust::{
    enrol::{
        device::{
            Device as Machine, DeviceRecord, EndingStage, Event, Firmware, Input, Output, Peer, Transition,
        },
        session::encode_error,
    },
    measured::{LOG_SIZE_MAX, Logs},
    root::{DeviceRoot, MeasurementSource, RootError, RootReply, RootRequest, software::SoftwareRoot},
};
use gridseal_types::{
    Code, DeviceState, EkName, SystemTitle, Tick, UtcTime,
    records::{Commit, MemoryRecords},
    service::keys::Bytes,
};

use super::{
    fleet::{Broken, asked_init, broken},
    owner::{Papers, Side},
    report::Rule,
};
use crate::{
    HashRng, Schedule,
    keys::{Watch, World},
    works::{START, measured_boot, owner, vendor},
};

/// Acts of a run that ends in any case: some thousand are usual.
const ACTS_MAX: u64 = 60_000;
/// Acts for one errand before the next one comes.
const ERRAND_ACTS: u64 = 400;

/// States in which the device waits for its root.
const ROOT_STATES: [&str; 28] = [
    "describing",
    "proving-identity",
    "making-keys",
    "deriving-secret",
    "pinning",
    "raising-epoch",
    "attesting",
    "signing-request",
    "executing",
    "importing",
    "flushing",
    "deriving-order-secret",
    "pinning-for-order",
    "describing-for-order",
    "quoting-for-order",
    "opening-sessions",
    "executing-for-order",
    "signing-audit",
    "recreating-keys",
    "closing-sessions",
    "renewing-keys",
    "signing-renewal",
    "importing-for-order",
    "deriving-last-secret",
    "pinning-next-owner",
    "raising-for-next-owner",
    "raising-for-recovery",
    "clearing",
];
/// States in which it waits for somebody's answer.
const ANSWER_STATES: [&str; 8] = [
    "awaiting-redirect",
    "awaiting-challenge",
    "awaiting-commands",
    "awaiting-configuration",
    "awaiting-done",
    "asking-for-orders",
    "telling-result",
    "offering-last-result",
];

/// What this seed is out for, besides what chance brings: each state gets its turn.
#[derive(Debug)]
struct Aim {
    /// The root fails here, first without an answer, then with a refusal; again while the ownership ends.
    root: &'static str,
    root_hits: [u32; 2],
    /// Nobody answers here, or nothing that makes sense.
    answer: &'static str,
    answer_mode: u64,
    answer_hits: [u32; 2],
    /// Power fails at this one of the acts of each part of an end.
    cut: u64,
    parts: [u64; 3],
    /// More is measured than a message carries, once.
    is_loud: bool,
}

impl Aim {
    fn of(seed: u64) -> Self {
        let of = |list: &[&'static str], number: u64| list[(number % list.len() as u64) as usize];
        Self {
            root: of(&ROOT_STATES, seed),
            root_hits: [0; 2],
            answer: of(&ANSWER_STATES, seed),
            answer_mode: seed / ANSWER_STATES.len() as u64 % 3,
            answer_hits: [0; 2],
            cut: seed % 11,
            parts: [0; 3],
            is_loud: seed % 9 == 4,
        }
    }
}

/// Logs that are too long, once.
struct Loud(bool);

impl MeasurementSource for Loud {
    fn read(&mut self, ima_first: u64) -> Result<Logs, RootError> {
        let size = if core::mem::take(&mut self.0) { LOG_SIZE_MAX + 1 } else { 0 };
        Ok(Logs { event_log: vec![0; size], ima_first, ima_log: Vec::new() })
    }
}

/// How the ownership ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By a sale.
    Released,
    /// For good.
    Decommissioned,
    /// The owner vanishes, and somebody holds the button.
    Recovered,
    /// Sold, but never given up: the buyer holds it.
    Unreleased,
}

/// What a run has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Errands {
    /// Runs.
    pub runs: u64,
    /// Steps of the device machine.
    pub device: BTreeMap<Transition, u64>,
    /// Steps of the owner's sessions.
    pub registrar: BTreeMap<Transition, u64>,
    /// Orders that were accepted, by kind.
    pub kinds: BTreeMap<&'static str, u64>,
}

impl Errands {
    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        for (to, from) in [(&mut self.device, &other.device), (&mut self.registrar, &other.registrar)] {
            from.iter().for_each(|(step, count)| *to.entry(*step).or_default() += count);
        }
        other.kinds.iter().for_each(|(kind, count)| *self.kinds.entry(kind).or_default() += count);
    }
}

/// How bad the world is; probabilities in a million.
#[derive(Debug, Clone, Copy)]
struct Faults {
    loss: u32,
    forged: u32,
    root: u32,
    cut: u32,
    /// The key service or the authority refuses, or what a device has sealed is something else.
    owner: u32,
}

const CALM: Faults = Faults { loss: 0, forged: 0, root: 0, cut: 0, owner: 0 };

struct Run {
    chance: Schedule,
    faults: Faults,
    aim: Aim,
    /// An order that is not to be interrupted is under way.
    is_delicate: bool,
    /// Somebody has emptied the flash: it looks for its owner anew.
    is_emptied: bool,
    /// An authorisation was changed while power failed, and then the wrong one was tried: the software root never gives the
    /// hierarchy back, so the run ends here (docs/operations.md).
    is_locked: bool,
    /// The last order that came.
    heard: Vec<u8>,
    sides: [Side<'static>; 2],
    init: MemoryRecords,
    challenges: Option<Challenges>,
    rng: HashRng,
    seed: u64,
    starts: u64,
    now: Tick,
    title: SystemTitle,
    name: EkName,
    root: SoftwareRoot,
    firmware: Firmware,
    flash: Vec<u8>,
    machine: Machine,
    papers: Papers,
    /// Somebody holds the button when power comes next.
    button: bool,
    is_decommissioned: bool,
    acts: u64,
    report: Errands,
}

/// Runs the schedule of one seed.
///
/// # Errors
/// What broke, in words, with the seed.
pub fn run(seed: u64) -> Result<Errands, String> {
    let mut run = Run::new(seed).map_err(|(_, detail)| format!("seed {seed}: {detail}"))?;
    match run.live() {
        Ok(()) => {
            for side in &run.sides {
                for (step, count) in side.manager.walked() {
                    *run.report.registrar.entry(*step).or_default() += count;
                }
            }
            run.report.runs = 1;
            Ok(run.report)
        }
        Err((rule, detail)) => {
            let how = run.sides.each_ref().map(|side| side.describe(&run.name));
            Err(format!(
                "seed {seed}, act {}: {}: {detail}; {:?}; {how:?}",
                run.acts,
                rule.name(),
                run.machine
            ))
        }
    }
}

impl Run {
    fn new(seed: u64) -> Result<Self, Broken> {
        let mut chance = Schedule::new(seed);
        let side = |number: usize| {
            let owner = owner(number);
            let seed = seed ^ (number as u64) << 56;
            let keys = World::founded(&owner.keys, seed, None, Watch::new(seed, None))
                .map_err(super::fleet::found)?;
            Ok::<_, Broken>(Side::new(seed, number, owner, keys))
        };
        let mut sides = [side(0)?, side(1)?];
        // Each step of a session has its turn to go wrong.
        sides[0].trouble_at = (seed % 12, seed / 12 % 3);
        let is_double = chance.below(16) == 0;
        let made = vendor().make_signed(seed, 1, owner(0), is_double);
        let mut one_of = |values: &[u32]| chance.pick(values).unwrap_or(0);
        let faults = Faults {
            loss: one_of(&[0, 50_000, 200_000, 400_000]),
            forged: one_of(&[0, 0, 50_000, 150_000]),
            root: one_of(&[0, 10_000, 40_000]),
            cut: one_of(&[0, 5_000, 20_000]),
            owner: one_of(&[0, 0, 30_000]),
        };
        let challenges = (one_of(&[0, 1]) == 1).then(Challenges::default);
        let flash = DeviceRecord::default();
        let papers =
            Papers { manifest: made.manifest, voucher: made.voucher, delivery: made.delivery, receipt: None };
        let mut root = made.root;
        if Aim::of(seed).is_loud {
            root.set_measurements(Box::new(Loud(true)));
        }
        Ok(Self {
            faults,
            aim: Aim::of(seed),
            is_delicate: false,
            is_emptied: false,
            is_locked: false,
            heard: Vec::new(),
            sides,
            init: MemoryRecords::default(),
            challenges,
            rng: HashRng::new(seed, "errands", 0),
            seed,
            starts: 0,
            now: Tick(0),
            title: made.title,
            name: made.name,
            root,
            machine: Machine::new(made.firmware.clone(), flash.clone()),
            firmware: made.firmware,
            flash: flash.encode(),
            papers,
            button: false,
            is_decommissioned: false,
            acts: 0,
            report: Errands::default(),
            chance,
        })
    }

    const fn utc(&self) -> UtcTime {
        UtcTime(START.0 + self.now.0 / 1_000)
    }

    fn record(&self) -> DeviceRecord {
        DeviceRecord::decode(&self.flash).expect("own record")
    }

    fn epoch(&mut self) -> u32 {
        match self.root.perform(RootRequest::Describe) {
            Ok(RootReply::Described(description)) => description.epoch,
            _ => 0,
        }
    }

    /// Papers come to an owner, and his redirect to the init server.
    fn register(&mut self, side: usize) -> Result<(), Broken> {
        let at = (self.utc(), self.now.0 + 1);
        let Self { sides, papers, init, name, title, .. } = self;
        sides[side].keys.set_time(at.0, at.0);
        sides[side].register((*name, *title), papers, at, init)
    }

    fn boot(&mut self) -> Result<(), Broken> {
        self.root.power_cut();
        measured_boot(&mut self.root);
        self.starts += 1;
        self.rng = HashRng::new(self.seed, "errands", self.starts);
        let record = self.record();
        let button = std::mem::take(&mut self.button);
        if button || record.recovery.is_some() {
            self.root.start_for_recovery();
        }
        self.machine = Machine::new(self.firmware.clone(), record);
        if button {
            self.feed(Input::Presence)?;
        }
        self.feed(Input::Start)
    }

    fn feed(&mut self, input: Input<'_>) -> Result<(), Broken> {
        let (before, name) = (self.machine.state_name(), input.name());
        if self.machine.handle(self.now, input).is_err() {
            return Err(broken(Rule::Contract, format!("{before} refuses {name}")));
        }
        let step = (before, name, self.machine.state_name());
        if name == "presence" && step.0 == step.2 {
            // Noted, in any state.
            return Ok(());
        }
        *self.report.device.entry(step).or_default() += 1;
        Ok(())
    }

    /// Whether power fails here; then it has, and has come back.
    fn is_cut(&mut self) -> Result<bool, Broken> {
        if !self.chance.happens(self.faults.cut) {
            return Ok(false);
        }
        self.boot()?;
        Ok(true)
    }

    /// One act. `false` when the machine waits for nothing.
    fn act(&mut self) -> Result<bool, Broken> {
        self.acts += 1;
        let Some(output) = self.machine.poll() else {
            let Some(deadline) = self.machine.deadline() else { return Ok(false) };
            if self.machine.state_name() == "waiting" && self.chance.happens(self.faults.cut) {
                return self.feed(Input::Presence).map(|()| true);
            }
            self.now = self.now.max(deadline);
            self.feed(Input::Timeout)?;
            return Ok(true);
        };
        let has_effect = !matches!(output, Output::Event(_) | Output::Random(_));
        if has_effect && (self.is_aimed_cut()? || self.is_cut()?) {
            return Ok(true);
        }
        match output {
            Output::Root(request) => {
                if self.is_aimed_root()? {
                    return Ok(true);
                }
                if self.chance.happens(self.faults.root) {
                    let refused = RootError::Refused { command: 0x157, rc: 0x1df };
                    let error = self.chance.pick(&[RootError::Transport, refused]).unwrap_or(refused);
                    return self.feed(Input::Root(Err(error))).map(|()| true);
                }
                let is_session = self.machine.state_name() == "executing";
                let reply = self.root.perform(request);
                if self.root.is_locked_out() && !std::mem::replace(&mut self.is_locked, true) && is_session {
                    // Row A30: a session never guesses.
                    return Err(broken(Rule::Contract, "a session has sent a wrong lockout authorisation"));
                }
                if self.is_cut()? {
                    return Ok(true);
                }
                self.feed(Input::Root(reply))?;
            }
            Output::Random(length) => {
                let mut bytes = vec![0; length];
                self.rng.fill(&mut bytes).expect("a hash does not fail");
                self.feed(Input::Random(&bytes))?;
            }
            Output::Persist => {
                self.flash = self.machine.record().encode();
                if self.is_cut()? {
                    return Ok(true);
                }
                self.feed(Input::Persisted)?;
            }
            Output::Wipe => self.feed(Input::Wiped)?,
            Output::Transmit(peer, wire) => {
                if self.is_aimed_answer()? {
                    return Ok(true);
                }
                let reply = self.exchange(peer, wire)?;
                if self.is_cut()? {
                    return Ok(true);
                }
                match reply {
                    Some(reply) if reply.is_empty() => self.feed(Input::Taken)?,
                    Some(reply) => self.feed(Input::Received(&reply))?,
                    None if self.chance.happens(500_000) => self.feed(Input::NoReply)?,
                    // The deadline will tell.
                    None => {}
                }
            }
            Output::Event(event) => match event {
                Event::Decommissioned => self.is_decommissioned = true,
                Event::OrderAccepted { kind, .. } => {
                    *self.report.kinds.entry(kind.name()).or_default() += 1;
                }
                _ => {}
            },
            other => return Err(broken(Rule::Contract, format!("unknown output {other:?}"))),
        }
        Ok(true)
    }

    /// While the root is asked: whether the aim has made it fail.
    fn is_aimed_root(&mut self) -> Result<bool, Broken> {
        let is_ending = usize::from(self.machine.record().orders.ending.is_some());
        if self.machine.state_name() != self.aim.root || self.is_delicate {
            return Ok(false);
        }
        let hits = &mut self.aim.root_hits[is_ending];
        *hits += 1;
        let refused = RootError::Refused { command: 0x157, rc: 0x1df };
        let reply = match *hits {
            1 => Err(RootError::Transport),
            2 => Err(refused),
            // Names of something else.
            3 if self.aim.root == "importing" => Ok(RootReply::Imported(Vec::new())),
            _ => return Ok(false),
        };
        self.feed(Input::Root(reply)).map(|()| true)
    }

    /// When something is sent: whether the aim has let it be lost, or answered by something that makes no sense.
    fn is_aimed_answer(&mut self) -> Result<bool, Broken> {
        let is_ending = usize::from(self.machine.record().orders.ending.is_some());
        if self.machine.state_name() != self.aim.answer {
            return Ok(false);
        }
        if self.aim.answer_mode == 2 && self.aim.answer == "asking-for-orders" && self.heard.is_empty() {
            // There is no older order yet.
            return Ok(false);
        }
        let hits = &mut self.aim.answer_hits[is_ending];
        *hits += 1;
        if *hits > 6 {
            return Ok(false);
        }
        let old = Some(self.heard.clone()).filter(|heard| !heard.is_empty() && hits.is_multiple_of(2));
        match self.aim.answer_mode {
            0 => self.feed(Input::NoReply)?,
            1 => {}
            _ => self.feed(Input::Received(&old.unwrap_or_else(|| vec![0])))?,
        }
        Ok(true)
    }

    /// Whether power fails here, once in each part of an end.
    fn is_aimed_cut(&mut self) -> Result<bool, Broken> {
        let record = self.machine.record();
        let is_told = record.orders.ending.as_ref().is_some_and(|ending| ending.stage == EndingStage::Told);
        let in_parts = [is_told, record.recovery.is_some(), record.ended.is_some()];
        for (part, is_in) in self.aim.parts.iter_mut().zip(in_parts) {
            if is_in {
                *part += 1;
                if *part == self.aim.cut {
                    self.boot()?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// A message to somebody, and what comes back.
    fn exchange(&mut self, peer: Peer, wire: Vec<u8>) -> Result<Option<Vec<u8>>, Broken> {
        if self.chance.happens(self.faults.loss / 2) {
            return Ok(None);
        }
        let at = (self.now, self.utc());
        self.sides.iter_mut().for_each(|side| {
            side.keys.set_time(at.1, at.1);
            side.trouble = self.faults.owner;
        });
        let side = match peer {
            Peer::InitServer => {
                let reply = self.ask_init(&wire)?;
                return Ok(self.on_the_way(reply));
            }
            Peer::FormerOwner => 0,
            Peer::ConfigServer | Peer::HeadEnd => usize::from(self.is_emptied || self.epoch() > 1),
        };
        let is_question = self.machine.state_name() == "asking-for-orders";
        let reply = self.sides[side].asked(&self.name, at, wire)?;
        if let Some(order) = reply.as_ref().filter(|reply| is_question && reply.len() > 64) {
            self.heard.clone_from(order);
        }
        if let Some(entry) = self.sides[side].entry(&self.name)
            && entry.state == DeviceState::Quarantined
        {
            // A person looks at it, and lets it try again.
            self.sides[side].readmit(&self.name, at.1)?;
        }
        Ok(reply.and_then(|reply| self.on_the_way(reply)))
    }

    fn ask_init(&mut self, wire: &[u8]) -> Result<Vec<u8>, Broken> {
        let now = self.utc();
        let Self { challenges, init, rng, .. } = self;
        let Some(challenges) = challenges else { return asked_init(init, now, wire) };
        let answer = challenges.answer(&vendor().init, (&*init, rng), now, wire);
        let answer = answer.map_err(|error| broken(Rule::Contract, error.to_string()))?;
        init.commit(answer.writes).expect("memory");
        Ok(answer.reply)
    }

    /// What arrives of an answer.
    fn on_the_way(&mut self, mut reply: Vec<u8>) -> Option<Vec<u8>> {
        if self.chance.happens(self.faults.loss / 2) {
            if self.chance.happens(500_000) {
                // It has forgotten what it has answered.
                self.sides.iter_mut().for_each(Side::relay_restarts);
            }
            return None;
        }
        if self.chance.happens(self.faults.forged) {
            if reply.is_empty() {
                return Some(vec![0]);
            }
            if self.chance.happens(300_000) {
                return Some(encode_error(&[0; 16], Code::Busy, 1));
            }
            let at = self.chance.below(reply.len() as u64) as usize;
            reply[at] ^= 1 << self.chance.below(8);
        }
        Some(reply)
    }

    /// What happens to a device that works.
    fn visit(&mut self) -> Result<(), Broken> {
        let state = self.sides[usize::from(self.epoch() > 1)].entry(&self.name).map(|entry| entry.state);
        let is_served = state == Some(DeviceState::Operating);
        let is_confirmed = self.record().installed.is_some_and(|installed| installed.confirmed);
        let input = match self.chance.below(24) {
            0 => Input::CounterBegun,
            1 if is_confirmed && self.faults.cut > 0 => Input::OwnerLost,
            2 if self.faults.cut > 0 => Input::Presence,
            3..=9 if is_served => Input::TerminusAccepted,
            3..=9 => Input::TerminusRefused,
            _ => Input::FetchOrders,
        };
        self.feed(input)
    }

    /// Acts until `is_done`, or so many times.
    fn go(&mut self, acts: u64, is_done: impl Fn(&mut Self) -> bool) -> Result<bool, Broken> {
        for _ in 0..acts {
            if self.is_locked || is_done(self) {
                return Ok(true);
            }
            if !self.act()? {
                if self.machine.state_name() != "operating" {
                    return Ok(is_done(self));
                }
                // Some time goes by between two contacts.
                self.now = Tick(self.now.0 + 1_000 + self.chance.below(60_000));
                self.visit()?;
            }
        }
        Ok(false)
    }

    fn operates(&mut self, side: usize) -> bool {
        let is_confirmed = self.machine.state_name() == "operating"
            && self.machine.record().installed.as_ref().is_some_and(|installed| installed.confirmed);
        let state = self.sides[side].entry(&self.name).map(|entry| entry.state);
        is_confirmed && state == Some(DeviceState::Operating) && self.epoch() == side as u32 + 1
    }

    fn is_idle(&mut self) -> bool {
        let books = status(&self.sides[0].register, &self.name).expect("memory");
        books.jobs.is_empty() && books.order.is_none() && self.machine.state_name() == "operating"
    }

    fn live(&mut self) -> Result<(), Broken> {
        self.register(0)?;
        self.boot()?;
        if !self.go(ACTS_MAX / 4, |run| run.operates(0))? {
            self.faults = CALM;
            if !self.go(ACTS_MAX / 4, |run| run.operates(0))? {
                return Err(broken(Rule::Reachable, "it does not come to operate"));
            }
        }
        self.errands()?;
        // Each state has its turn with each end.
        let number = self.seed / ROOT_STATES.len() as u64 + self.seed / 7;
        self.end(match number % 7 {
            0 | 3 => End::Released,
            1 | 4 => End::Decommissioned,
            2 | 5 => End::Recovered,
            _ => End::Unreleased,
        })
    }

    /// Orders in any order, some of them twice.
    fn errands(&mut self) -> Result<(), Broken> {
        for _ in 0..8 {
            let job = match self.chance.below(9) {
                0 => Job::Attest,
                1 => Job::Suspend,
                2 => Job::Resume,
                3 => Job::Renew { with_storage: false },
                4 => Job::Renew { with_storage: true },
                5 => Job::Rotate,
                6 => Job::Authorise,
                7 => Job::Resume,
                _ => self.rekey(),
            };
            let is_rekey = matches!(job, Job::Rekey { .. });
            let before = self.faults;
            if job == Job::Authorise {
                // Power that fails between the TPM's act and its record costs a try at the lockout hierarchy, which the
                // software root never gives back (docs/operations.md).
                self.faults = Faults { root: 0, cut: 0, ..before };
                self.is_delicate = true;
                self.go(ERRAND_ACTS, Self::is_idle)?;
            }
            let now = self.utc();
            self.sides[0].keys.set_time(now, now);
            self.sides[0].request(&self.name, job, now)?;
            self.go(ERRAND_ACTS, Self::is_idle)?;
            if is_rekey || self.faults.cut != before.cut || self.faults.root != before.root {
                self.faults = CALM;
                self.go(ERRAND_ACTS * 8, Self::is_idle)?;
            }
            (self.faults, self.is_delicate) = (before, false);
        }
        Ok(())
    }

    /// The owner's key in the place of itself: an entry that changes nothing else.
    fn rekey(&mut self) -> Job {
        use gridseal_trust::enrol::document::EntryKind;
        let (voucher, entry, second) =
            self.sides[0].owner.entry(&self.papers.voucher, EntryKind::Rekey, owner(0), self.utc());
        self.papers.voucher = voucher;
        let second = if second.is_empty() { Vec::new() } else { vec![Bytes(second)] };
        Job::Rekey { entries: vec![Bytes(entry)], second }
    }

    fn end(&mut self, end: End) -> Result<(), Broken> {
        let now = self.utc();
        match end {
            End::Recovered => return self.recovered(),
            End::Unreleased => return self.unreleased(),
            End::Released | End::Decommissioned => {}
        }
        let mut next = self.papers.clone();
        let job = match end {
            End::Released => {
                use gridseal_trust::enrol::document::EntryKind;
                let (voucher, entry, second) =
                    self.sides[0].owner.entry(&self.papers.voucher, EntryKind::Transfer, owner(1), now);
                next.delivery = vendor().release(self.seed, 1, &voucher, owner(1));
                next.voucher = voucher;
                Job::Release { entry: Bytes(entry), second: Bytes(second) }
            }
            _ => Job::Decommission,
        };
        if end == End::Released {
            self.papers = next;
            self.register(1)?;
        }
        let is_over = move |run: &mut Self| match end {
            End::Released => run.operates(1),
            _ => run.is_decommissioned,
        };
        // Who is held back for a job that came before gets the last one too.
        for _ in 0..40 {
            let now = self.utc();
            self.sides[0].keys.set_time(now, now);
            self.sides[0].request(&self.name, job.clone(), now)?;
            if self.go(ACTS_MAX / 40, is_over)? {
                // What is at its end stays there.
                self.boot()?;
                return self.go(100, |_| false).map(|_| ());
            }
            self.faults = CALM;
        }
        Err(broken(Rule::Reachable, format!("it does not come to its end: {end:?}")))
    }

    /// The seller has signed the entry and given nothing up; somebody has emptied the flash.
    fn unreleased(&mut self) -> Result<(), Broken> {
        use gridseal_trust::enrol::document::EntryKind;
        let now = self.utc();
        let (voucher, ..) =
            self.sides[0].owner.entry(&self.papers.voucher, EntryKind::Transfer, owner(1), now);
        self.papers.delivery = vendor().release(self.seed, 1, &voucher, owner(1));
        self.papers.voucher = voucher;
        self.register(1)?;
        self.faults = CALM;
        (self.flash, self.is_emptied) = (DeviceRecord::default().encode(), true);
        self.boot()?;
        let is_held = |run: &mut Self| run.sides[1].quarantined.iter().any(|(_, code)| *code == Code::Owned);
        let is_held = self.go(ACTS_MAX / 20, is_held)?;
        if is_held {
            Ok(())
        } else {
            Err(broken(Rule::Reachable, "the buyer of a meter that was never given up does not hold it"))
        }
    }

    /// The owner has vanished; his servers still answer.
    fn recovered(&mut self) -> Result<(), Broken> {
        self.papers.voucher = vendor().recover(&self.papers.voucher, owner(1), self.utc());
        self.papers.delivery = vendor().release(self.seed, 1, &self.papers.voucher, owner(1));
        self.register(1)?;
        for _ in 0..40 {
            self.button = true;
            self.boot()?;
            if self.go(ACTS_MAX / 40, |run| run.operates(1))? {
                return Ok(());
            }
            self.faults = CALM;
        }
        Err(broken(Rule::Reachable, "it is not recovered"))
    }
}
