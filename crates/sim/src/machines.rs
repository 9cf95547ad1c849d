//! One device and its owner's machines under a script of faults: what a fuzzer plays, and what its kept inputs replay.
//!
//! The script is eaten byte by byte: each thing that the device's machine asks for takes one that says what becomes of it.
//! Messages are lost, cut, changed, repeated or replaced by bytes of the script in either direction; the root fails, power
//! is cut before and after each write. When the script is at its end nothing goes wrong any more, and the device must come
//! to operate for its owner: nothing of all that may have counted.
//!
//! A device that somebody has taken over says what it likes under the right keys: the second entry changes what the key
//! service has opened before the owner's machine checks it. Such a device may be held, and may harm itself; nobody else.

use std::cell::RefCell;

use gridseal_crypto::Rng;
use gridseal_onboarding::endpoint_manager::{
    EndpointManager, Input as ManagerInput, Output as ManagerOutput,
    register::{DEVICES, RegisterEntry, Shipped, outbox},
};
use gridseal_pki::{Call, CertificateRecord, CertificateRecords, ENDPOINT_MANAGER, RecordsError};
use gridseal_trust::{
    enrol::{
        device::{Device, DeviceRecord, Event, Firmware, Input, Output, Peer},
        init::SignedRedirect,
        relay::RelayItem,
    },
    root::{Description, DeviceRoot, RootError, RootReply, RootRequest, software::SoftwareRoot},
};
use gridseal_types::{
    DeviceState, Digest, EkName, N16, Tick, UtcTime,
    records::{Commit, MemoryRecords, Records},
    service::keys::{KeyReply, KeyRequest},
};

use crate::{
    HashRng,
    works::{Owner, START, measured_boot, owner, vendor},
};

/// Things that a device asks for after which a run has no end.
const STEPS_MAX: usize = 5_000;
/// The same for a device that may never come to its end.
const STEPS_MAX_HOSTILE: usize = 800;
/// Messages that are kept for a later repetition.
const KEPT_COUNT_MAX: usize = 32;

/// What is left of the script.
struct Script<'s>(&'s [u8]);

impl<'s> Script<'s> {
    /// The next byte; zero, which says that all is well, at the end.
    fn byte(&mut self) -> usize {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first.into()
    }

    fn bytes(&mut self) -> &'s [u8] {
        let length = self.byte().min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    /// Flips a bit, cuts, replaces or lengthens.
    fn change(&mut self, how: usize, wire: &mut Vec<u8>) {
        match how {
            2 => {
                let at = self.place(wire);
                let bit = self.byte() % 8;
                wire.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
            }
            3 => wire.truncate(self.place(wire)),
            4 => *wire = self.bytes().to_vec(),
            5 => wire.extend_from_slice(self.bytes()),
            _ => {}
        }
    }

    fn place(&mut self, wire: &[u8]) -> usize {
        (self.byte() << 8 | self.byte()) % wire.len().max(1)
    }
}

#[derive(Default)]
struct Issued(RefCell<Vec<CertificateRecord>>);

impl CertificateRecords for Issued {
    fn newest_for_key(&self, key: &Digest) -> Result<Option<CertificateRecord>, RecordsError> {
        Ok(self.0.borrow().iter().rev().find(|record| record.key == *key).cloned())
    }
}

struct Pair<'s> {
    script: Script<'s>,
    now: Tick,
    name: EkName,
    root: SoftwareRoot,
    firmware: Firmware,
    device: Device,
    flash: Vec<u8>,
    starts: u64,
    rng: HashRng,
    init: MemoryRecords,
    manager: EndpointManager,
    register: MemoryRecords,
    keys: MemoryRecords,
    calls: u64,
    issued: Issued,
    kept: Vec<Vec<u8>>,
    /// Whether the script changes what the device says under its keys, in place of what happens on the way.
    is_hostile: bool,
}

impl<'s> Pair<'s> {
    /// A shipped device that its owner knows, powered off.
    fn new(script: &'s [u8], is_hostile: bool) -> Self {
        let made = vendor().make(0, 1, owner(0));
        let mut pair = Self {
            script: Script(&[]),
            now: Tick(0),
            name: made.name,
            root: made.root,
            device: Device::new(made.firmware.clone(), DeviceRecord::default()),
            firmware: made.firmware,
            flash: DeviceRecord::default().encode(),
            starts: 0,
            rng: HashRng::new(0, "device", 0),
            init: MemoryRecords::default(),
            manager: EndpointManager::new(Owner::rules()).with_hellos_per_hour(1_000_000),
            register: MemoryRecords::default(),
            keys: MemoryRecords::default(),
            calls: 0,
            issued: Issued::default(),
            kept: Vec::new(),
            is_hostile,
        };
        let rules = owner(0).registration_rules();
        let shipped = Shipped::check(&rules, &made.manifest, &made.voucher).expect("own papers");
        let reply = pair.ask_keys(shipped.deliver(made.delivery));
        shipped.delivered(&reply).expect("own delivery");
        let payload = shipped.redirect(&rules, pair.utc(), 1);
        let KeyReply::Signed { sign1, delegation } =
            pair.ask_keys(KeyRequest::SignRedirect { payload: payload.clone() })
        else {
            unreachable!("own redirect")
        };
        let signed = SignedRedirect { redirect: sign1, delegation: Some(delegation), voucher: made.voucher };
        let writes = shipped.enter(&pair.register, pair.utc(), &payload, signed).expect("memory");
        pair.register.commit(writes).expect("memory");
        let (pending, _) = outbox(&pair.register, &[], 10).expect("memory");
        for (_, registration) in pending.registrations {
            pair.ask_init(&registration);
        }
        pair.script = Script(script);
        pair
    }

    /// What becomes of the next thing outside the machines; all is well with a hostile device.
    fn fault(&mut self) -> usize {
        if self.is_hostile { 0 } else { self.script.byte() }
    }

    const fn utc(&self) -> UtcTime {
        UtcTime(START.0 + self.now.0 / 1_000)
    }

    fn power_on(&mut self) {
        self.root.power_cut();
        measured_boot(&mut self.root);
        self.starts += 1;
        self.rng = HashRng::new(0, "device", self.starts);
        let record = DeviceRecord::decode(&self.flash).expect("the flash is never torn");
        self.device = Device::new(self.firmware.clone(), record);
        self.feed(Input::Start);
    }

    fn feed(&mut self, input: Input<'_>) {
        self.device.handle(self.now, input).expect("the state takes what it has asked for");
    }

    /// One thing that the device asks for, or its next deadline. `false` when it waits for nothing.
    fn step(&mut self) -> bool {
        let Some(output) = self.device.poll() else {
            let Some(deadline) = self.device.deadline() else { return false };
            self.now = self.now.max(deadline);
            self.feed(Input::Timeout);
            return true;
        };
        match output {
            Output::Root(request) => match self.fault() {
                1 => self.feed(Input::Root(Err(RootError::Transport))),
                2 => self.power_on(),
                done => {
                    let reply = self.root.perform(request);
                    if done == 3 { self.power_on() } else { self.feed(Input::Root(reply)) }
                }
            },
            Output::Random(length) => {
                let mut bytes = vec![0; length];
                self.rng.fill(&mut bytes).expect("a hash does not fail");
                self.feed(Input::Random(&bytes));
            }
            Output::Persist => match self.fault() {
                1 => self.power_on(),
                done => {
                    self.flash = self.device.record().encode();
                    if done == 2 { self.power_on() } else { self.feed(Input::Persisted) }
                }
            },
            Output::Transmit(peer, wire) => {
                let arrived = self.on_the_way(wire);
                let reply = arrived.and_then(|wire| match peer {
                    Peer::InitServer => Some(self.ask_init(&wire)),
                    _ => self.ask_manager(wire),
                });
                match reply.and_then(|reply| self.on_the_way(reply)) {
                    Some(reply) if reply.is_empty() => self.feed(Input::Taken),
                    Some(reply) => self.feed(Input::Received(&reply)),
                    None => self.feed(Input::NoReply),
                }
            }
            Output::Event(Event::Decommissioned) => unreachable!("nobody has ordered that"),
            Output::Event(_) => {}
            _ => unreachable!("no application keeps anything"),
        }
        true
    }

    /// What becomes of a message.
    fn on_the_way(&mut self, mut wire: Vec<u8>) -> Option<Vec<u8>> {
        let how = self.fault();
        let kept = wire.clone();
        match how {
            1 => return None,
            2..=5 => self.script.change(how, &mut wire),
            6 => {
                let number = self.script.byte() % self.kept.len().max(1);
                wire = self.kept.get(number).cloned().unwrap_or(wire);
            }
            // The owner gets it twice.
            7 => drop(self.ask_manager(wire.clone())),
            _ => {}
        }
        if self.kept.len() < KEPT_COUNT_MAX {
            self.kept.push(kept);
        }
        Some(wire)
    }

    fn ask_init(&mut self, wire: &[u8]) -> Vec<u8> {
        let answer = vendor().init.answer(&self.init, self.utc(), wire).expect("memory");
        self.init.commit(answer.writes).expect("memory");
        answer.reply
    }

    fn ask_keys(&mut self, request: KeyRequest) -> KeyReply {
        self.calls += 1;
        let mut rng = HashRng::new(0, "keys", self.calls);
        let decision = owner(0).keys.decide(&self.keys, self.utc(), &mut rng, vec![request]).expect("memory");
        self.keys.commit(decision.writes).expect("memory");
        decision.replies.into_iter().next().expect("one reply for one request")
    }

    /// What the owner answers, as the config server passes it on: `None` is "not yet".
    fn ask_manager(&mut self, message: Vec<u8>) -> Option<Vec<u8>> {
        let item = RelayItem { id: self.calls, source: N16([7; 16]), message };
        self.tell_manager(ManagerInput::Work(vec![item]));
        let mut answer = None;
        while let Some(output) = self.manager.poll() {
            match output {
                ManagerOutput::Keys(task, request) => {
                    let mut reply = self.ask_keys(request);
                    if let KeyReply::Hello { body, .. } | KeyReply::Opened { body } = &mut reply
                        && self.is_hostile
                    {
                        let how = self.script.byte();
                        self.script.change(how, body);
                    }
                    self.tell_manager(ManagerInput::Keys(task, reply));
                }
                ManagerOutput::Certificate(task, request) => {
                    let call = Call { request: &request, caller: ENDPOINT_MANAGER, now: self.utc() };
                    let mut rng = HashRng::new(0, "authority", self.calls);
                    let (reply, record) = owner(0).authorities[0].decide(call, &mut rng, &self.issued);
                    self.issued.0.borrow_mut().extend(record);
                    self.tell_manager(ManagerInput::Certificate(task, reply));
                }
                ManagerOutput::Commit => {
                    let writes = self.manager.writes(&self.register, self.utc()).expect("memory");
                    self.register.commit(writes).expect("memory");
                    self.tell_manager(ManagerInput::Committed);
                }
                ManagerOutput::Admit(task, _) => self.tell_manager(ManagerInput::Admitted(task, true)),
                ManagerOutput::Reply(_, reply) => answer = reply,
                _ => {}
            }
        }
        answer
    }

    fn tell_manager(&mut self, input: ManagerInput) {
        self.manager.handle(&self.register, self.utc(), input).expect("memory");
    }

    fn entry(&self) -> RegisterEntry {
        let row = self.register.get(DEVICES, self.name.as_bytes()).expect("memory");
        minicbor::decode(&row.expect("registered")).expect("own entry")
    }

    fn description(&mut self) -> Description {
        match self.root.perform(RootRequest::Describe) {
            Ok(RootReply::Described(description)) => description,
            other => unreachable!("{other:?}"),
        }
    }

    fn is_confirmed(&self) -> bool {
        self.device.is_operating()
            && self.device.record().installed.as_ref().is_some_and(|installed| installed.confirmed)
    }
}

impl Pair<'_> {
    /// Lets the device go its way until its owner has confirmed it and the script is at its end, or for so many steps.
    fn run(&mut self, steps: usize) {
        self.power_on();
        for _ in 0..steps {
            if self.is_confirmed() && self.script.0.is_empty() {
                return;
            }
            if !self.step() {
                // Installed, and the last word is missing: the terminus tells whether C7 has arrived. Otherwise it asks for
                // orders, as it does on each connection.
                let word = match self.entry().state {
                    _ if self.is_confirmed() => Input::FetchOrders,
                    DeviceState::Operating => Input::TerminusAccepted,
                    _ => Input::TerminusRefused,
                };
                self.feed(word);
            }
        }
    }

    fn has_what_its_owner_knows(&self) -> bool {
        let installed = self.device.record().installed.as_ref().map(|installed| installed.digest);
        installed == Some(self.entry().configuration)
    }
}

/// Plays a script between an honest device and its owner.
///
/// # Panics
/// When the device does not come to operate once the script is at its end, or when it is held or owned in another way than
/// its owner's register says.
pub fn device(script: &[u8]) {
    let mut pair = Pair::new(script, false);
    pair.run(STEPS_MAX);
    let (entry, description) = (pair.entry(), pair.description());
    assert!(pair.is_confirmed(), "{:?} does not come to operate: {entry:?}", pair.device);
    assert_eq!((entry.state, entry.quarantine), (DeviceState::Operating, None));
    assert_eq!((description.epoch, description.permanent & 0b101), (1, 0b101), "owned once, by both values");
    assert!(pair.has_what_its_owner_knows(), "{entry:?}");
}

/// Plays a script of what a device says under its own keys.
///
/// # Panics
/// When the register says that the device operates, and it does so with another configuration than its owner's.
pub fn registrar(script: &[u8]) {
    let mut pair = Pair::new(script, true);
    pair.run(STEPS_MAX_HOSTILE);
    let entry = pair.entry();
    let is_held = entry.state == DeviceState::Quarantined;
    assert_eq!(is_held, entry.quarantine.is_some(), "held with a reason: {entry:?}");
    assert!(!pair.is_confirmed() || pair.has_what_its_owner_knows(), "{entry:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each fault alone, wherever an onboarding gives it a place.
    #[test]
    fn one_fault_at_any_place_is_survived() {
        let whole = {
            let script = [0; 200];
            let mut pair = Pair::new(&script, false);
            pair.run(STEPS_MAX);
            200 - pair.script.0.len()
        };
        assert!(whole > 20, "{whole} places");
        for place in 0..whole {
            for fault in [&[1][..], &[2, 0, 7, 1], &[3, 0, 40], &[4, 3, 1, 2, 3], &[5, 1, 0], &[6, 0], &[7]] {
                device(&[&vec![0; place], fault].concat());
            }
        }
    }

    /// A hostile word in each message that the owner opens.
    #[test]
    fn a_hostile_word_is_refused_or_held() {
        for message in 0..4 {
            for word in [&[2, 0, 9, 0][..], &[2, 1, 3, 5], &[3, 0, 30], &[4, 4, 0xa1, 1, 2, 3], &[5, 1, 0]] {
                registrar(&[&vec![0; message], word].concat());
            }
        }
    }
}
