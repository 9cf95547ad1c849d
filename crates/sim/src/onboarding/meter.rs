//! A meter: root, flash, the device machine, the push, and power that fails.

use std::collections::VecDeque;

use gridseal_crypto::{Rng, sha256};
use gridseal_headend::ConnectionId;
use gridseal_meter::{Consumption, LoadProfile, Push, PushConfig, PushKeys, Row};
use gridseal_trust::{
    csr::subject_public_key_info,
    enrol::{
        device::{Device, DeviceRecord, Event, Firmware, Input, Output, Peer},
        session::Step as Message,
    },
    root::{DeviceRoot, RootError, RootReply, RootRequest, software::SoftwareRoot},
    tpm,
};
use gridseal_types::{Digest, EkName, SystemTitle, Tick};

use super::{
    check::question,
    network::Content,
    report::{Fault, Point, Rule, Violation},
    world::{Actor, Step, World},
};
use crate::{
    HashRng,
    works::{Made, measured_boot},
};

/// Length of a load-profile interval, seconds.
pub(super) const INTERVAL_S: u32 = 60;
/// Rows that a meter pushes before a run may end.
pub(super) const ROWS_WANTED: usize = 4;
/// Pause before the terminus is tried again.
const TERMINUS_PAUSE_MS: u64 = 5_000;

/// A meter.
pub(super) struct Meter {
    pub(super) title: SystemTitle,
    pub(super) name: EkName,
    pub(super) root: SoftwareRoot,
    firmware: Firmware,
    /// Durable: record of the device machine.
    pub(super) flash: Vec<u8>,
    /// The one before, which a planted bug reads.
    older_flash: Option<Vec<u8>>,
    /// Durable: record of the push.
    push_flash: Option<Vec<u8>>,
    starts: u64,
    rng: HashRng,
    seed: u64,
    memory: Option<Memory>,
}

/// What a power cut takes.
struct Memory {
    device: Device,
    inbox: VecDeque<Arrived>,
    /// Connection and question that wait for their answer.
    asked: Option<(u64, Digest)>,
    terminus: Terminus,
    terminus_at: Tick,
    push: Option<Push>,
    profile: Option<LoadProfile>,
    /// Rows that no durable record holds yet.
    captured: Vec<Row>,
    capture_at: Option<Tick>,
}

enum Arrived {
    Answer { connection: u64, wire: Option<Vec<u8>> },
    Link(Content),
    Time,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Terminus {
    Away,
    Connecting(ConnectionId),
    Up(ConnectionId),
}

impl Meter {
    pub(super) fn new(seed: u64, made: Made) -> Self {
        Self {
            title: made.title,
            name: made.name,
            root: made.root,
            firmware: made.firmware,
            flash: DeviceRecord::default().encode(),
            older_flash: None,
            push_flash: None,
            starts: 0,
            rng: HashRng::new(seed, "meter", 0),
            seed,
            memory: None,
        }
    }

    /// What is on flash.
    pub(super) fn record(&self) -> DeviceRecord {
        DeviceRecord::decode(&self.flash).expect("the simulated flash is never torn")
    }
}

const fn input_name(input: &Input<'_>) -> &'static str {
    match input {
        Input::Start => "start",
        Input::Root(Ok(_)) => "root done",
        Input::Root(Err(_)) => "root failed",
        Input::Random(_) => "random",
        Input::Persisted => "persisted",
        Input::Received(_) => "received",
        Input::NoReply => "no reply",
        Input::Timeout => "timeout",
        Input::TerminusAccepted => "terminus accepted",
        Input::TerminusRefused => "terminus refused",
        _ => "other",
    }
}

impl World {
    fn memory(&mut self, number: usize) -> Option<&mut Memory> {
        self.meters.get_mut(number)?.memory.as_mut()
    }

    pub(super) fn meter_loses_power(&mut self, number: usize) {
        let memory = self.meters.get_mut(number).and_then(|meter| {
            meter.root.power_cut();
            meter.memory.take()
        });
        if let Some(Memory { terminus: Terminus::Up(link) | Terminus::Connecting(link), .. }) = memory {
            self.break_link(link);
        }
    }

    pub(super) fn meter_starts(&mut self, number: usize) -> Step {
        let plant = self.plant;
        let now = self.now;
        let Some(meter) = self.meters.get_mut(number) else { return Ok(()) };
        measured_boot(&mut meter.root);
        meter.starts += 1;
        let repeats = plant == Some(Fault::DeviceRepeatsRandomness);
        meter.rng = HashRng::new(meter.seed, meter.title_label(), if repeats { 0 } else { meter.starts });
        let mut record = meter.record();
        if plant == Some(Fault::DeviceReadsOldFlash) {
            let older = meter.older_flash.take().and_then(|older| DeviceRecord::decode(&older).ok());
            record = older.unwrap_or(record);
        }
        let flash = record.encode();
        meter.memory = Some(Memory {
            device: Device::new(meter.firmware.clone(), record),
            inbox: VecDeque::new(),
            asked: None,
            terminus: Terminus::Away,
            terminus_at: now,
            push: None,
            profile: None,
            captured: Vec::new(),
            capture_at: None,
        });
        self.check.flash_is(number, &flash)?;
        self.feed(number, Input::Start)
    }

    pub(super) fn meter_receives(&mut self, number: usize, content: Content) {
        let Some(memory) = self.memory(number) else { return };
        memory.inbox.push_back(match content {
            Content::Answer { connection, wire } => Arrived::Answer { connection, wire },
            other => Arrived::Link(other),
        });
    }

    pub(super) fn meter_wakes(&mut self, number: usize) {
        if let Some(memory) = self.memory(number) {
            memory.inbox.push_back(Arrived::Time);
        }
    }

    /// One output of a machine, or one input once nothing is left to do.
    pub(super) fn meter_acts(&mut self, number: usize) -> Step {
        let Some(memory) = self.memory(number) else { return Ok(()) };
        if let Some(output) = memory.device.poll() {
            self.device_output(number, output)?;
        } else if let Some(output) = memory.push.as_mut().and_then(Push::poll) {
            self.push_output(number, output)?;
        } else if let Some(arrived) = memory.inbox.pop_front() {
            self.meter_input(number, arrived)?;
        } else {
            self.plan(number);
            return Ok(());
        }
        self.stir(Actor::Meter(number));
        Ok(())
    }

    /// Next deadline.
    fn plan(&mut self, number: usize) {
        let Some(memory) = self.memory(number) else { return };
        let is_operating = memory.device.state_name() == "operating";
        let terminus = match memory.terminus {
            Terminus::Away => is_operating.then_some(memory.terminus_at),
            Terminus::Connecting(_) => Some(memory.terminus_at),
            Terminus::Up(_) => None,
        };
        let push = memory.push.as_ref().and_then(Push::deadline);
        let next =
            memory.device.deadline().into_iter().chain(terminus).chain(push).chain(memory.capture_at).min();
        if let Some(next) = next {
            self.wake_at(Actor::Meter(number), next);
        }
    }

    /// Gives an input to the device machine and counts it.
    fn feed(&mut self, number: usize, input: Input<'_>) -> Step {
        let now = self.now;
        let name = input_name(&input);
        let is_due = !matches!(input, Input::Received(_) | Input::NoReply | Input::Timeout);
        let Some(memory) = self.memory(number) else { return Ok(()) };
        let state = memory.device.state_name();
        let outcome = memory.device.handle(now, input);
        let after = memory.device.state_name();
        if outcome.is_err() && (is_due || after != state) {
            let detail = format!("device {number} in state {state} refused {name}, now {after}");
            return Err(Violation::new(Rule::Contract, detail));
        }
        if outcome.is_ok() {
            *self.report.transitions.entry((state, name)).or_default() += 1;
            self.note(format_args!("meter {number}: {state} + {name} -> {after}"));
        }
        Ok(())
    }

    fn device_output(&mut self, number: usize, output: Output) -> Step {
        let actor = Actor::Meter(number);
        match output {
            Output::Root(request) => self.ask_root(number, request),
            Output::Random(length) => {
                let mut bytes = vec![0; length];
                if let Some(meter) = self.meters.get_mut(number) {
                    meter.rng.fill(&mut bytes).expect("a hash does not fail");
                }
                self.feed(number, Input::Random(&bytes))
            }
            Output::Persist => {
                if self.crashes(actor, Point::BeforeFlash) {
                    return Ok(());
                }
                let Some(meter) = self.meters.get_mut(number) else { return Ok(()) };
                let Some(memory) = &meter.memory else { return Ok(()) };
                let written = memory.device.record().encode();
                meter.older_flash = Some(std::mem::replace(&mut meter.flash, written.clone()));
                self.check.flash_is(number, &written)?;
                self.check_channel(number)?;
                if self.crashes(actor, Point::AfterFlash) {
                    return Ok(());
                }
                self.feed(number, Input::Persisted)
            }
            Output::Transmit(peer, wire) => self.device_transmits(number, peer, wire),
            Output::Event(event) => self.device_event(number, event),
            other => Err(Violation::new(Rule::Contract, format!("unknown output {other:?}"))),
        }
    }

    fn device_event(&mut self, number: usize, event: Event) -> Step {
        self.note(format_args!("meter {number}: {event:?}"));
        match event {
            Event::Sent(Message::HELLO) => self.report.sessions += 1,
            Event::Operating { .. } => {
                let now = self.now;
                if let Some(memory) = self.memory(number) {
                    memory.terminus_at = now;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn device_transmits(&mut self, number: usize, peer: Peer, wire: Vec<u8>) -> Step {
        let actor = Actor::Meter(number);
        if self.crashes(actor, Point::BeforeTransmit) {
            return Ok(());
        }
        let Some(meter) = self.meters.get(number) else { return Ok(()) };
        let record = meter.record();
        self.check.device_sends(&wire, &record)?;
        let connection = self.number();
        let digest = question(&wire);
        if let Some(memory) = self.memory(number) {
            memory.asked = Some((connection, digest));
        }
        let to = match peer {
            Peer::InitServer => Actor::InitServer,
            // Orders travel through the config server here, and its answer to the last result is the owner's.
            Peer::ConfigServer | Peer::HeadEnd | Peer::FormerOwner => Actor::ConfigServer,
        };
        self.send(actor, to, Content::Ask { connection, wire });
        self.crashes(actor, Point::AfterTransmit);
        Ok(())
    }

    fn ask_root(&mut self, number: usize, request: RootRequest) -> Step {
        let actor = Actor::Meter(number);
        if self.crashes(actor, Point::BeforeRoot) {
            return Ok(());
        }
        if !self.calm && self.chance.happens(self.profile.root_failure) {
            return self.feed(number, Input::Root(Err(RootError::Transport)));
        }
        // A power cut between two commands is rare and matters most: it gets ten times the usual probability.
        let is_torn = matches!(request, RootRequest::Execute(_)) && self.is_hit(10);
        let Some(meter) = self.meters.get_mut(number) else { return Ok(()) };
        if let RootRequest::Execute(commands) = &request
            && is_torn
            && let Some((first, rest)) = commands.split_first()
            && !rest.is_empty()
        {
            let _ = meter.root.perform(RootRequest::Execute(vec![first.clone()]));
            self.check_root(number)?;
            self.crash(actor, Point::InsideExecute);
            return Ok(());
        }
        let reply = meter.root.perform(request);
        self.check_root(number)?;
        if self.crashes(actor, Point::AfterRoot) {
            return Ok(());
        }
        if let Err(error) = &reply {
            self.note(format_args!("meter {number}: root failed: {error}"));
        }
        self.feed(number, Input::Root(reply))
    }

    fn meter_input(&mut self, number: usize, arrived: Arrived) -> Step {
        match arrived {
            Arrived::Answer { connection, wire } => self.answered(number, connection, wire),
            Arrived::Link(content) => self.link_event(number, content),
            Arrived::Time => self.time_passed(number),
        }
    }

    fn answered(&mut self, number: usize, connection: u64, wire: Option<Vec<u8>>) -> Step {
        let Some(memory) = self.memory(number) else { return Ok(()) };
        // Whoever sits between may answer a connection with what belongs to another, so old answers count too.
        let Some((asked, digest)) = memory.asked else { return Ok(()) };
        let Some(wire) = wire else {
            return if asked == connection { self.feed(number, Input::NoReply) } else { Ok(()) };
        };
        let before = (memory.device.state_name(), memory.device.record().clone());
        let is_genuine = self.check.is_genuine(&digest, &wire);
        self.feed(number, Input::Received(&wire))?;
        let Some(memory) = self.memory(number) else { return Ok(()) };
        let mut after = (memory.device.state_name(), memory.device.record().clone());
        if after.0 == "flushing" && after.1.redirect.is_none() {
            // After so many failures it asks the init server again; its flash keeps the redirect until there is another.
            after.1.redirect.clone_from(&before.1.redirect);
        }
        let is_refused = after.1 == before.1
            && (after.0 == before.0 || matches!(after.0, "jittering" | "flushing" | "operating"));
        if !is_genuine && !is_refused {
            let detail = format!("device {number} went from {} to {} for a forged answer", before.0, after.0);
            return Err(Violation::new(Rule::S5, detail));
        }
        Ok(())
    }

    fn time_passed(&mut self, number: usize) -> Step {
        let now = self.now;
        let utc = self.utc();
        let Some(memory) = self.memory(number) else { return Ok(()) };
        if memory.device.deadline().is_some_and(|deadline| deadline <= now) {
            return self.feed(number, Input::Timeout);
        }
        let is_operating = memory.device.state_name() == "operating";
        if memory.terminus_at <= now {
            match memory.terminus {
                Terminus::Away if is_operating => return self.connect(number),
                // Nobody answered: that says nothing about the owner.
                Terminus::Connecting(link) => {
                    memory.terminus = Terminus::Away;
                    memory.terminus_at = Tick(now.0 + TERMINUS_PAUSE_MS);
                    self.break_link(link);
                    return Ok(());
                }
                _ => {}
            }
        }
        if memory.capture_at.is_some_and(|at| at <= now) {
            memory.capture_at = Some(Tick(now.0 + u64::from(INTERVAL_S) * 1_000));
            let row = memory.profile.as_mut().and_then(|profile| profile.capture(utc));
            if let (Some(row), Some(push)) = (row, &mut memory.push) {
                memory.captured.push(row);
                push.handle(now, gridseal_meter::Input::Captured(row)).expect("rows come in order");
            }
            return Ok(());
        }
        if let Some(push) = memory.push.as_mut().filter(|push| push.deadline().is_some_and(|at| at <= now)) {
            push.handle(now, gridseal_meter::Input::Timeout).expect("a deadline is always taken");
        }
        Ok(())
    }

    fn connect(&mut self, number: usize) -> Step {
        let link = ConnectionId(self.number());
        let Some(meter) = self.meters.get_mut(number) else { return Ok(()) };
        let keys = meter.record().keys;
        let Some(key) = keys.and_then(|keys| tpm::tls_key(&keys.tls.public).ok()) else {
            return Err(Violation::new(Rule::S2, format!("meter {number} operates without keys on flash")));
        };
        let tls_key = Digest(sha256(&[&subject_public_key_info(&key)]));
        let at = Tick(self.now.0 + 4 * TERMINUS_PAUSE_MS);
        if let Some(memory) = self.memory(number) {
            memory.terminus = Terminus::Connecting(link);
            memory.terminus_at = at;
        }
        self.links.insert(link, number);
        self.send(Actor::Meter(number), Actor::HeadEnd, Content::Connect { link, tls_key });
        Ok(())
    }

    fn link_event(&mut self, number: usize, content: Content) -> Step {
        let now = self.now;
        let pause = Tick(now.0 + TERMINUS_PAUSE_MS);
        let Some(memory) = self.memory(number) else { return Ok(()) };
        match content {
            Content::LinkUp { link } if memory.terminus == Terminus::Connecting(link) => {
                memory.terminus = Terminus::Up(link);
                if memory.device.state_name() == "operating" {
                    self.feed(number, Input::TerminusAccepted)?;
                }
                if self.profile.readings { self.start_push(number) } else { Ok(()) }
            }
            Content::LinkRefused { link } if memory.terminus == Terminus::Connecting(link) => {
                memory.terminus = Terminus::Away;
                memory.terminus_at = pause;
                let is_operating = memory.device.state_name() == "operating";
                if is_operating { self.feed(number, Input::TerminusRefused) } else { Ok(()) }
            }
            Content::LinkDown { link }
                if [Terminus::Up(link), Terminus::Connecting(link)].contains(&memory.terminus) =>
            {
                memory.terminus = Terminus::Away;
                memory.terminus_at = pause;
                if let Some(push) = &mut memory.push {
                    push.handle(now, gridseal_meter::Input::Disconnected).expect("always taken");
                }
                Ok(())
            }
            Content::Frame { link, bytes } if memory.terminus == Terminus::Up(link) => {
                if let Some(push) = &mut memory.push {
                    push.handle(now, gridseal_meter::Input::Received(&bytes)).expect("always taken");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Begins or goes on pushing over a link that stands.
    fn start_push(&mut self, number: usize) -> Step {
        let forgets = self.plant == Some(Fault::MeterForgetsCounter);
        let (now, utc) = (self.now, self.utc());
        let Some(keys) = self.push_keys(number) else {
            return Err(Violation::new(Rule::S3, format!("meter {number} operates without its keys")));
        };
        let Some(meter) = self.meters.get_mut(number) else { return Ok(()) };
        let generation =
            u32::try_from(meter.record().installed.map_or(0, |installed| installed.policy_version));
        let config = PushConfig { system_title: meter.title, key_generation: generation.unwrap_or(0) };
        let Some(memory) = &mut meter.memory else { return Ok(()) };
        if memory.push.is_none() {
            let kept = meter.push_flash.as_ref().filter(|_| !forgets);
            let push = match kept {
                Some(record) => Push::resume(config, keys, record).expect("own record"),
                None => Push::begin(config, keys),
            };
            let consumption = Consumption::new(meter.seed, 500);
            memory.profile = Some(LoadProfile::resume(INTERVAL_S, consumption, push.last_row()));
            memory.capture_at = Some(now);
            memory.push = Some(push);
        }
        let _ = utc;
        if let Some(push) = &mut memory.push {
            push.handle(now, gridseal_meter::Input::Connected).expect("always taken");
        }
        Ok(())
    }

    /// The delivered keys, out of the root.
    pub(super) fn push_keys(&mut self, number: usize) -> Option<PushKeys> {
        let meter = self.meters.get_mut(number)?;
        let record = meter.record();
        let (installed, storage) = (record.installed?, record.keys?.storage);
        let mut unseal = |id| {
            let request =
                RootRequest::Unseal { storage: storage.clone(), object: installed.key(id)?.clone() };
            match meter.root.perform(request) {
                Ok(RootReply::Unsealed(secret)) => Some(secret),
                _ => None,
            }
        };
        Some(PushKeys {
            guek: unseal(1)?.into_key()?,
            gak: unseal(2)?.into_key()?,
            kek: unseal(3)?.into_key()?,
        })
    }

    fn push_output(&mut self, number: usize, output: gridseal_meter::Output) -> Step {
        let actor = Actor::Meter(number);
        let now = self.now;
        match output {
            gridseal_meter::Output::Persist { id, record, .. } => {
                if self.crashes(actor, Point::BeforeFlash) {
                    return Ok(());
                }
                let Some(meter) = self.meters.get_mut(number) else { return Ok(()) };
                meter.push_flash = Some(record);
                let Some(memory) = &mut meter.memory else { return Ok(()) };
                self.check.rows_are_durable(number, &mut memory.captured);
                if self.crashes(actor, Point::AfterFlash) {
                    return Ok(());
                }
                let Some(Memory { push: Some(push), .. }) = self.memory(number) else { return Ok(()) };
                push.handle(now, gridseal_meter::Input::Persisted(id)).expect("the record was asked for");
                Ok(())
            }
            gridseal_meter::Output::Transmit(bytes) => {
                self.check.meter_pushes(number, &bytes)?;
                if self.crashes(actor, Point::BeforeTransmit) {
                    return Ok(());
                }
                if let Some(Memory { terminus: Terminus::Up(link), .. }) = self.memory(number) {
                    let link = *link;
                    self.send(actor, Actor::HeadEnd, Content::Frame { link, bytes });
                }
                self.crashes(actor, Point::AfterTransmit);
                Ok(())
            }
            gridseal_meter::Output::Random => {
                let mut bytes = [0; 8];
                if let Some(meter) = self.meters.get_mut(number) {
                    meter.rng.fill(&mut bytes).expect("a hash does not fail");
                }
                if let Some(Memory { push: Some(push), .. }) = self.memory(number) {
                    push.handle(now, gridseal_meter::Input::Random(bytes)).expect("it was asked for");
                }
                Ok(())
            }
            gridseal_meter::Output::Event(gridseal_meter::Event::Confirmed { start }) => {
                self.note(format_args!("meter {number}: row {start} is confirmed"));
                self.check_confirmed(number, start)
            }
            gridseal_meter::Output::Event(event) => {
                self.note(format_args!("meter {number}: push {event:?}"));
                Ok(())
            }
            other => Err(Violation::new(Rule::Contract, format!("unknown output {other:?}"))),
        }
    }

    /// Whether nothing is left to do for a meter.
    pub(super) fn meter_is_done(&self, number: usize) -> bool {
        let Some(meter) = self.meters.get(number) else { return true };
        let Some(memory) = &meter.memory else { return false };
        let is_confirmed = memory.device.state_name() == "operating"
            && memory.device.record().installed.as_ref().is_some_and(|installed| installed.confirmed);
        is_confirmed
            && self.manager_is_done(&meter.name)
            && (!self.profile.readings || self.check.rows_confirmed(number) >= ROWS_WANTED)
    }

    pub(super) fn describe_meter(&self, number: usize) -> String {
        let Some(meter) = self.meters.get(number) else { return String::new() };
        let state = meter.memory.as_ref().map_or("off", |memory| memory.device.state_name());
        let installed = meter.record().installed.map(|installed| installed.confirmed);
        let register = self.describe_register(&meter.name);
        let rows = self.check.rows_confirmed(number);
        format!("meter {number} is {state}, confirmed {installed:?}, {rows} rows; its owner has {register}")
    }
}

impl Meter {
    const fn title_label(&self) -> &'static str {
        ["meter 0", "meter 1", "meter 2", "meter 3"][(self.title.0[7] & 3) as usize]
    }
}
