//! One meter, its manufacturer and its owner in one process: every machine of an onboarding, joined without a socket.
//!
//! [`World`] carries messages and asks services the way the shells do, in simulated time and with seeded randomness. A
//! test may touch one message on its way ([`World::touch`]); whoever refuses it says why in its own events, and the run
//! goes on, so that a test also sees that a refusal changed nothing.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, shared by several binaries"
)]

pub mod factory;
pub mod spy;

use std::{cell::RefCell, collections::VecDeque, time::Duration};

use gridseal_crypto::{Key, Rng, RngError, SigningKey, role::CaSigning, role::InitSigning};
use gridseal_keys::{Core, front};
use gridseal_onboarding::{
    config_server::{Answer, ConfigServer},
    endpoint_manager::{
        self, EndpointManager, EventKind,
        register::{DEVICES, RegisterEntry, Shipped, Told, outbox, told},
    },
    init_server::{Challenges, InitServer},
};
use gridseal_pki::{Authority, Call, CertificateRecord, CertificateRecords, ENDPOINT_MANAGER, RecordsError};
use gridseal_trust::{
    enrol::{
        device::{Device, DeviceRecord, Event, Input, Output, Peer},
        init::{SignedRedirect, decode_registered, is_challenge, is_proof},
        order,
        registrar::Rules,
        relay::{RelayItem, RelayPull},
        session::{Envelope, Step},
    },
    root::{Description, DeviceRoot, RootReply, RootRequest, software::SoftwareRoot},
};
use gridseal_types::{
    Code, DeviceType, Digest, EkName, N16, Tick, UtcTime,
    records::{Commit, MemoryRecords, Records, Write},
    service::{
        admission::Admission,
        certificates::{CertificateReply, CertificateRequest},
        keys::{KeyReply, KeyRequest, OpenVerdict},
    },
};

use factory::{Factory, Made, Owner};
use spy::Spy;

/// Calendar time at the start of every run.
pub const START: UtcTime = UtcTime(1_800_000_000);

/// SHA-256 in counter mode: the same seed gives the same run.
pub struct TestRng {
    seed: [u8; 32],
    counter: u64,
}

impl TestRng {
    pub fn new(label: &str, number: u64) -> Self {
        Self { seed: gridseal_crypto::sha256(&[label.as_bytes(), &number.to_be_bytes()]), counter: 0 }
    }
}

impl Rng for TestRng {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        for chunk in buffer.chunks_mut(32) {
            self.counter += 1;
            let block = gridseal_crypto::sha256(&[&self.seed, &self.counter.to_be_bytes()]);
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
        Ok(())
    }
}

/// Which message a test touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// I1 on its way to the init server.
    InitHello,
    /// I1C on its way to the device.
    InitChallenge,
    /// I1P on its way to the init server.
    InitProof,
    /// I2 on its way to the device.
    InitRedirect,
    /// C1 to C8.
    Session(Step),
    /// A question for orders, an order, its result.
    Poll,
    Order,
    Result,
    /// Something else, as an error.
    Other,
}

/// What becomes of a touched message.
pub enum Touched {
    /// Another one in its place.
    Replaced(Vec<u8>),
    /// Nothing arrives.
    Lost,
}

/// What a side has on record: rows of the owner's tables.
pub type OwnerState = Vec<(Vec<u8>, Vec<u8>)>;
/// What a side has on record: flash, root, number of open TPM sessions.
pub type MeterState = (Vec<u8>, Description, usize);

/// A snapshot of both sides.
pub struct Before {
    pub meter: MeterState,
    pub owner: OwnerState,
}

type Meanwhile = Box<dyn FnOnce(&mut RegisterEntry)>;
type Touch = Box<dyn FnOnce(&Spy, &[u8]) -> Touched>;

/// The meter's side: machine, root, flash.
pub struct Meter {
    pub device: Device,
    pub root: SoftwareRoot,
    /// What is durable.
    pub flash: Vec<u8>,
    pub events: Vec<Event>,
    firmware: gridseal_trust::enrol::device::Firmware,
    rng: TestRng,
}

impl Meter {
    pub fn description(&mut self) -> Description {
        match self.root.perform(RootRequest::Describe) {
            Ok(RootReply::Described(description)) => description,
            other => panic!("{other:?}"),
        }
    }

    pub fn record(&self) -> DeviceRecord {
        DeviceRecord::decode(&self.flash).expect("own record")
    }
}

/// What the authority has issued.
#[derive(Default)]
pub struct Certificates(pub RefCell<Vec<CertificateRecord>>);

impl CertificateRecords for Certificates {
    fn newest_for_key(&self, key: &Digest) -> Result<Option<CertificateRecord>, RecordsError> {
        Ok(self.0.borrow().iter().rev().find(|record| record.key == *key).cloned())
    }
}

/// Whose clock is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The init server.
    Init,
    /// The endpoint manager.
    Manager,
    /// The key service.
    Keys,
    /// The certificate authority.
    Authority,
}

/// Everything.
pub struct World {
    pub now: Tick,
    pub meter: Meter,
    pub made: Made,
    pub init: InitServer<SigningKey<InitSigning>>,
    pub init_records: MemoryRecords,
    pub challenges: Challenges,
    init_rng: TestRng,
    pub init_refusals: Vec<Code>,
    pub relay: ConfigServer,
    pub manager: EndpointManager,
    pub register: MemoryRecords,
    pub register_events: Vec<EventKind>,
    pub keys: Core,
    pub key_records: MemoryRecords,
    pub authority: Authority<SigningKey<CaSigning>>,
    pub certificates: Certificates,
    /// The authority issues nothing.
    pub authority_refuses: bool,
    pub admissions: Vec<Admission>,
    pub spy: Spy,
    /// Every message between device and config server as it was sent, with its number.
    pub sent: Vec<(Leg, Vec<u8>)>,
    /// How often the key service was asked for each kind of request.
    pub key_requests: Vec<&'static str>,
    /// What both sides had on record when the device sent its last message.
    pub before: Option<Before>,
    touches: VecDeque<(Leg, Touch)>,
    /// Done to the register while the key service works on a request of this name.
    meanwhile: Option<(&'static str, Meanwhile)>,
    /// Whether each request to the key service is made twice, the second time without randomness.
    pub asks_twice: bool,
    /// Whose clock is wrong, and by how many seconds.
    pub wrong_clock: Option<(Party, i64)>,
    connection: u64,
    key_calls: u64,
}

/// A random source that has failed.
pub struct NoRng;

impl Rng for NoRng {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), RngError> {
        Err(RngError)
    }
}

impl World {
    /// A shipped device, registered with its owner, powered off.
    pub fn new() -> Self {
        Self::with(|_, _| ())
    }

    /// As [`World::new`], with a device that names its connection point.
    pub fn mounted_at(place: &str) -> Self {
        Self::new().at(place)
    }

    /// The same before its first power-on, with a device that names its connection point.
    pub fn at(mut self, place: &str) -> Self {
        self.meter.firmware.place = Some(place.into());
        self.meter.device = Device::new(self.meter.firmware.clone(), DeviceRecord::default());
        self
    }

    /// As [`World::new`], with something done to root and flash before its first power-on.
    pub fn with(prepare: impl FnOnce(&mut Made, &mut DeviceRecord)) -> Self {
        Self::made(DeviceType::Meter, Owner::new(1).rules(), prepare)
    }

    /// As [`World::with`], with another kind of device.
    pub fn of(device_type: DeviceType, prepare: impl FnOnce(&mut Made, &mut DeviceRecord)) -> Self {
        Self::made(device_type, Owner::new(1).rules(), prepare)
    }

    /// As [`World::with`], with rules of its own.
    pub fn with_rules(rules: Rules, prepare: impl FnOnce(&mut Made, &mut DeviceRecord)) -> Self {
        Self::made(DeviceType::Meter, rules, prepare)
    }

    fn made(
        device_type: DeviceType,
        rules: Rules,
        prepare: impl FnOnce(&mut Made, &mut DeviceRecord),
    ) -> Self {
        let (factory, owner) = (Factory::new(), Owner::new(1));
        let mut made = factory.make_as(device_type, "GS-0000001", &owner);
        let mut record = DeviceRecord::default();
        prepare(&mut made, &mut record);
        let registration = owner.registration_rules(&factory);
        let keys = owner.open_keys(&factory);
        let root = std::mem::replace(&mut made.root, SoftwareRoot::new(Box::new(TestRng::new("none", 0))));
        let firmware = factory.firmware("GS-0000001");
        let flash = record.encode();
        let mut world = Self {
            now: Tick(0),
            meter: Meter {
                device: Device::new(firmware.clone(), record),
                root,
                flash,
                events: Vec::new(),
                firmware,
                rng: TestRng::new("meter", 0),
            },
            init: InitServer::new(factory.init_key(), vec![factory.voucher_key()]),
            init_records: MemoryRecords::default(),
            challenges: Challenges::default(),
            init_rng: TestRng::new("init", 0),
            init_refusals: Vec::new(),
            relay: ConfigServer::new(1),
            manager: EndpointManager::new(rules),
            register: MemoryRecords::default(),
            register_events: Vec::new(),
            keys,
            key_records: MemoryRecords::default(),
            authority: factory::authority(),
            certificates: Certificates::default(),
            authority_refuses: false,
            admissions: Vec::new(),
            spy: Spy::new(made.device_root, owner),
            sent: Vec::new(),
            key_requests: Vec::new(),
            before: None,
            touches: VecDeque::new(),
            meanwhile: None,
            asks_twice: false,
            wrong_clock: None,
            connection: 0,
            key_calls: 0,
            made,
        };
        world.register_device(&registration, 1);
        world.spy.forget();
        world
    }

    pub fn utc(&self) -> UtcTime {
        UtcTime(START.0 + self.now.0 / 1000)
    }

    /// The time as a party's clock has it.
    fn utc_of(&self, party: Party) -> UtcTime {
        let shift = self.wrong_clock.filter(|(wrong, _)| *wrong == party).map_or(0, |(_, shift)| shift);
        UtcTime(self.utc().0.saturating_add_signed(shift))
    }

    /// Enters another device of the same shipment in the register, without a secret: it only hangs somewhere.
    pub fn register_neighbour(&mut self, serial: &str) -> EkName {
        let (factory, owner) = (Factory::new(), Owner::new(1));
        let made = factory.make(serial, &owner);
        let rules = owner.registration_rules(&factory);
        let shipped = Shipped::check(&rules, &made.manifest, &made.voucher).expect("papers");
        let payload = shipped.redirect(&rules, self.utc(), 1);
        let signed = SignedRedirect { redirect: Vec::new(), delegation: None, voucher: made.voucher.clone() };
        let writes = shipped.enter(&self.register, self.utc(), &payload, signed).expect("register");
        self.register.commit(writes).unwrap();
        made.ek_name
    }

    fn register_device(
        &mut self,
        rules: &gridseal_onboarding::endpoint_manager::register::RegistrationRules,
        seq: u64,
    ) {
        let now = self.utc();
        let shipped = Shipped::check(rules, &self.made.manifest, &self.made.voucher).expect("papers");
        let reply = self.ask_keys(shipped.deliver(self.made.delivery.clone()));
        shipped.delivered(&reply).expect("delivery");
        let payload = shipped.redirect(rules, now, seq);
        let reply = self.ask_keys(KeyRequest::SignRedirect { payload: payload.clone() });
        let KeyReply::Signed { sign1, delegation } = reply else { panic!("{reply:?}") };
        let signed = SignedRedirect {
            redirect: sign1,
            delegation: Some(delegation),
            voucher: self.made.voucher.clone(),
        };
        let writes = shipped.enter(&self.register, now, &payload, signed).expect("register");
        self.register.commit(writes).unwrap();
        let (pending, _) = outbox(&self.register, &[], 100).expect("register");
        for (device, registration) in pending.registrations {
            let answer = self.init.answer(&self.init_records, now, &registration).expect("init server");
            assert_eq!(answer.refused, None);
            assert_eq!(decode_registered(&answer.reply), Ok(seq));
            self.init_records.commit(answer.writes).unwrap();
            let writes = told(&self.register, &[(device, Told::Registration)]).unwrap();
            self.register.commit(writes).unwrap();
        }
    }

    /// Registers a newer redirect of the owner.
    pub fn new_redirect(&mut self, seq: u64) {
        let rules = Owner::new(1).registration_rules(&Factory::new());
        self.register_device(&rules, seq);
    }

    /// Touches the next message of this kind.
    pub fn touch(&mut self, leg: Leg, touch: impl FnOnce(&Spy, &[u8]) -> Touched + 'static) {
        self.touches.push_back((leg, Box::new(touch)));
    }

    /// Replaces the next message of this kind.
    pub fn replace(&mut self, leg: Leg, replace: impl FnOnce(&Spy, &[u8]) -> Vec<u8> + 'static) {
        self.touch(leg, |spy, wire| Touched::Replaced(replace(spy, wire)));
    }

    /// Loses the next message of this kind.
    pub fn lose(&mut self, leg: Leg) {
        self.touch(leg, |_, _| Touched::Lost);
    }

    /// Whether a prepared touch has not happened yet.
    pub fn untouched(&self) -> bool {
        !self.touches.is_empty()
    }

    fn on_the_way(&mut self, leg: Leg, wire: Vec<u8>) -> Option<Vec<u8>> {
        self.sent.push((leg, wire.clone()));
        self.spy.saw(leg, &wire);
        match self.touches.iter().position(|(at, _)| *at == leg) {
            Some(at) => match (self.touches.remove(at).expect("found").1)(&self.spy, &wire) {
                Touched::Replaced(other) => Some(other),
                Touched::Lost => None,
            },
            None => Some(wire),
        }
    }

    /// Power on.
    pub fn start(&mut self) {
        self.feed(Input::Start);
    }

    /// Power off and on: memory is lost, flash and non-volatile memory stay.
    pub fn reboot(&mut self) {
        self.reboot_with(factory::measured_boot);
    }

    /// The same with other software.
    pub fn reboot_with(&mut self, measure: impl Fn(&mut SoftwareRoot)) {
        self.meter.root.power_cut();
        measure(&mut self.meter.root);
        self.meter.device = Device::new(self.meter.firmware.clone(), self.meter.record());
        self.start();
    }

    fn feed(&mut self, input: Input<'_>) {
        self.meter.device.handle(self.now, input).expect("the state takes it");
    }

    /// One output of the device, or its next deadline. `false` when the device is done.
    pub fn step(&mut self) -> bool {
        let Some(output) = self.meter.device.poll() else {
            let Some(deadline) = self.meter.device.deadline() else { return false };
            self.now = self.now.max(deadline);
            self.feed(Input::Timeout);
            return true;
        };
        match output {
            Output::Root(request) => {
                let reply = self.meter.root.perform(request);
                self.feed(Input::Root(reply));
            }
            Output::Random(length) => {
                let mut bytes = vec![0; length];
                self.meter.rng.fill(&mut bytes).unwrap();
                self.feed(Input::Random(&bytes));
            }
            Output::Persist => {
                self.meter.flash = self.meter.device.record().encode();
                self.feed(Input::Persisted);
            }
            Output::Wipe => self.feed(Input::Wiped),
            Output::Transmit(peer, wire) => match self.exchange(peer, wire) {
                Some(reply) if reply.is_empty() && peer != Peer::InitServer => self.feed(Input::Taken),
                Some(reply) => self.feed(Input::Received(&reply)),
                None => self.feed(Input::NoReply),
            },
            Output::Event(event) => self.meter.events.push(event),
            other => panic!("{other:?}"),
        }
        true
    }

    /// Runs until the device does nothing more, or for so many steps.
    pub fn run(&mut self) {
        self.run_until(|_| false);
    }

    /// Runs until the condition holds or nothing is left to do; says whether it held.
    pub fn run_until(&mut self, mut condition: impl FnMut(&Self) -> bool) -> bool {
        for _ in 0..2_000 {
            if condition(self) {
                return true;
            }
            if !self.step() {
                return false;
            }
        }
        panic!("no end: {:?}, {:?}", self.meter.device, self.meter.events.last());
    }

    fn exchange(&mut self, peer: Peer, wire: Vec<u8>) -> Option<Vec<u8>> {
        self.before = Some(Before { meter: self.meter_state(), owner: self.owner_state() });
        match peer {
            Peer::InitServer => {
                let asked = if is_proof(&wire) { Leg::InitProof } else { Leg::InitHello };
                let wire = self.on_the_way(asked, wire)?;
                let reply = self.ask_init(&wire);
                let answered = if is_challenge(&reply) { Leg::InitChallenge } else { Leg::InitRedirect };
                self.on_the_way(answered, reply)
            }
            Peer::ConfigServer => {
                let leg = |wire: &[u8]| match order_leg_of(wire) {
                    Leg::Other => leg_of(wire),
                    leg => leg,
                };
                let wire = self.on_the_way(leg(&wire), wire)?;
                let reply = self.ask_relay(wire)?;
                self.on_the_way(leg(&reply), reply)
            }
            // The head-end relays as the config server does.
            Peer::HeadEnd | Peer::FormerOwner => {
                let wire = self.on_the_way(order_leg_of(&wire), wire)?;
                let reply = self.ask_relay(wire)?;
                self.on_the_way(order_leg_of(&reply), reply)
            }
        }
    }

    /// A message to the init server.
    pub fn ask_init(&mut self, wire: &[u8]) -> Vec<u8> {
        let utc = self.utc_of(Party::Init);
        let sources = (&self.init_records, &mut self.init_rng as &mut dyn Rng);
        let answer = self.challenges.answer(&self.init, sources, utc, wire).expect("records");
        self.init_refusals.extend(answer.refused);
        self.init_records.commit(answer.writes).unwrap();
        answer.reply
    }

    /// A message to the config server, and what comes back once the endpoint manager has done its part.
    pub fn ask_relay(&mut self, wire: Vec<u8>) -> Option<Vec<u8>> {
        self.connection += 1;
        let connection = self.connection;
        self.relay.message(self.now, connection, N16([7; 16]), wire);
        let mut pull = RelayPull { replies: Vec::new(), most: 8 };
        loop {
            let work = self.relay.pull(self.now, RelayPull::decode(&pull.encode()).expect("own message"));
            if work.0.is_empty() {
                break;
            }
            pull = RelayPull { replies: self.work(work.0), most: 8 };
        }
        let mut reply = None;
        while let Some(output) = self.relay.poll() {
            if output.connection == connection {
                reply = Some(output.answer);
            }
        }
        match reply {
            Some(Answer::Message(message)) => Some(message),
            _ => None,
        }
    }

    /// Messages straight to the endpoint manager; its replies by task.
    pub fn work(&mut self, items: Vec<RelayItem>) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut replies = Vec::new();
        self.tell_manager(endpoint_manager::Input::Work(items));
        while let Some(output) = self.manager.poll() {
            match output {
                endpoint_manager::Output::Keys(task, request) => {
                    let reply = self.ask_keys(request);
                    self.tell_manager(endpoint_manager::Input::Keys(task, reply));
                }
                endpoint_manager::Output::Certificate(task, request) => {
                    let reply = self.ask_authority(&request);
                    self.tell_manager(endpoint_manager::Input::Certificate(task, reply));
                }
                endpoint_manager::Output::Commit => {
                    let now = self.utc_of(Party::Manager);
                    let writes = self.manager.writes(&self.register, now).expect("register");
                    self.register.commit(writes).unwrap();
                    self.tell_manager(endpoint_manager::Input::Committed);
                }
                endpoint_manager::Output::Admit(task, admission) => {
                    self.admissions.push(admission);
                    self.tell_manager(endpoint_manager::Input::Admitted(task, true));
                }
                endpoint_manager::Output::Reply(task, reply) => replies.push((task, reply)),
                endpoint_manager::Output::Event(event) => self.register_events.push(event.kind),
                other => panic!("{other:?}"),
            }
        }
        replies
    }

    fn tell_manager(&mut self, input: endpoint_manager::Input) {
        let now = self.utc_of(Party::Manager);
        self.manager.handle(&self.register, now, input).expect("register");
    }

    /// One request to the key service, as the endpoint manager.
    pub fn ask_keys(&mut self, request: KeyRequest) -> KeyReply {
        assert!(front::allows(front::ENDPOINT_MANAGER, &request), "{request:?}");
        self.spy.watches(&request, self.key_calls);
        self.key_requests.push(name_of(&request));
        if let Some((_, change)) = self.meanwhile.take_if(|(name, _)| *name == name_of(&request)) {
            self.change_entry(change);
        }
        if !self.asks_twice {
            return self.decide(request);
        }
        let first = self.decide(request.clone());
        let name = name_of(&request);
        let now = self.utc_of(Party::Keys);
        let again = self.keys.decide(&self.key_records, now, &mut NoRng, vec![request]);
        let again = again.unwrap_or_else(|error| panic!("{name} draws again: {error}"));
        assert_eq!(minicbor::to_vec(&again.replies).unwrap(), minicbor::to_vec([&first]).unwrap(), "{name}");
        assert_eq!(again.writes, [], "{name} changes something again");
        first
    }

    /// One request to the key service, whoever asks.
    pub fn decide(&mut self, request: KeyRequest) -> KeyReply {
        let mut rng = TestRng::new("keys", self.key_calls);
        self.key_calls += 1;
        let now = self.utc_of(Party::Keys);
        let decision =
            self.keys.decide(&self.key_records, now, &mut rng, vec![request]).expect("key service");
        self.key_records.commit(decision.writes).unwrap();
        decision.replies.into_iter().next().expect("one reply")
    }

    fn ask_authority(&mut self, request: &CertificateRequest) -> CertificateReply {
        if self.authority_refuses {
            return CertificateReply::Refused { code: Code::Busy };
        }
        let call = Call { request, caller: ENDPOINT_MANAGER, now: self.utc_of(Party::Authority) };
        let mut rng = TestRng::new("authority", self.certificates.0.borrow().len() as u64);
        let (reply, record) = self.authority.decide(call, &mut rng, &self.certificates);
        self.certificates.0.borrow_mut().extend(record);
        reply
    }

    /// One APDU to the key service, as the head-end.
    pub fn open_apdu(&mut self, apdu: &[u8]) -> OpenVerdict {
        let request = KeyRequest::OpenApdu { apdu: apdu.to_vec() };
        assert!(front::allows(front::HEADEND, &request));
        match self.decide(request) {
            KeyReply::Apdu(verdict) => verdict,
            other => panic!("{other:?}"),
        }
    }

    /// An APDU sealed with what the meter was delivered in its installed configuration.
    pub fn seal_apdu(&mut self, counter: u64, plain: &[u8]) -> Vec<u8> {
        let keys = self.delivered_keys();
        factory::seal(&keys, factory::SYSTEM_TITLE, counter, plain)
    }

    /// The delivered DLMS keys, out of the root.
    pub fn delivered_keys(&mut self) -> factory::DeliveredKeys {
        let record = self.meter.record();
        let installed = record.installed.expect("installed");
        let storage = record.keys.expect("keys").storage;
        let mut unseal = |id| {
            let object = installed.key(id).expect("delivered").clone();
            let request = RootRequest::Unseal { storage: storage.clone(), object };
            match self.meter.root.perform(request) {
                Ok(RootReply::Unsealed(secret)) => secret,
                other => panic!("{other:?}"),
            }
        };
        factory::DeliveredKeys {
            guek: unseal(1).into_key().expect("16 bytes"),
            gak: unseal(2).into_key().expect("16 bytes"),
        }
    }

    pub fn device_name(&self) -> EkName {
        self.made.ek_name
    }

    /// The register's entry of the device.
    pub fn entry(&self) -> RegisterEntry {
        let bytes = self.register.get(DEVICES, self.device_name().as_bytes()).unwrap().expect("registered");
        minicbor::decode(&bytes).expect("entry")
    }

    /// Changes the register's entry of the device, as another session does.
    pub fn change_entry(&mut self, change: impl FnOnce(&mut RegisterEntry)) {
        let mut entry = self.entry();
        change(&mut entry);
        let (key, value) = (entry.device.as_bytes().to_vec(), minicbor::to_vec(&entry).unwrap());
        self.register.commit(vec![Write { table: DEVICES, key, value: Some(value) }]).unwrap();
    }

    /// Changes the register's entry while the key service works on the next request of this name.
    pub fn meanwhile(&mut self, name: &'static str, change: impl FnOnce(&mut RegisterEntry) + 'static) {
        self.meanwhile = Some((name, Box::new(change)));
    }

    /// Everything the owner's side has on record, without its audit logs.
    pub fn owner_state(&self) -> OwnerState {
        let mut state = Vec::new();
        for table in ["em_devices", "em_sessions"] {
            state.extend(self.register.range(table, &[], 1_000).unwrap());
        }
        for table in ["key_devices", "key_pseudonyms", "key_titles", "key_sessions", "key_versions"] {
            state.extend(self.key_records.range(table, &[], 1_000).unwrap());
        }
        state
    }

    /// Everything the meter has on record.
    pub fn meter_state(&mut self) -> MeterState {
        let description = self.meter.description();
        (self.meter.flash.clone(), description, self.meter.root.open_sessions())
    }

    /// Codes that the device refused with, in order.
    pub fn device_refusals(&self) -> Vec<Code> {
        let code = |event: &Event| match event {
            Event::Refused(code) => Some(*code),
            _ => None,
        };
        self.meter.events.iter().filter_map(code).collect()
    }

    /// Codes that the owner's side refused or quarantined with, in order.
    pub fn owner_refusals(&self) -> Vec<Code> {
        let code = |event: &EventKind| match event {
            EventKind::Refused(code) | EventKind::Quarantined(code) => Some(*code),
            _ => None,
        };
        self.register_events.iter().filter_map(code).collect()
    }

    pub fn is_confirmed(&self) -> bool {
        self.meter.events.last() == Some(&Event::Operating { confirmed: true })
    }
}

/// A message straight to the endpoint manager: what it replies, and the code it refuses with.
pub fn straight(world: &mut World, wire: &[u8]) -> (Option<Vec<u8>>, Option<Code>) {
    let earlier = world.owner_refusals().len();
    let item = RelayItem { id: 1_000_000, source: N16([0; 16]), message: wire.to_vec() };
    let mut replies = world.work(vec![item]);
    assert_eq!(replies.len(), 1);
    (replies.remove(0).1, world.owner_refusals().get(earlier).copied())
}

/// The number of a message.
pub fn leg_of(wire: &[u8]) -> Leg {
    match Envelope::decode(wire).ok().and_then(|envelope| envelope.step()) {
        Some(step) => Leg::Session(step),
        None => Leg::InitRedirect,
    }
}

fn order_leg_of(wire: &[u8]) -> Leg {
    match order::Envelope::decode(wire) {
        Ok(order::Envelope::Poll { .. }) => Leg::Poll,
        Ok(order::Envelope::Order { .. }) => Leg::Order,
        Ok(order::Envelope::Result { .. }) => Leg::Result,
        _ => Leg::Other,
    }
}

fn name_of(request: &KeyRequest) -> &'static str {
    match request {
        KeyRequest::Deliver { .. } => "deliver",
        KeyRequest::SignRedirect { .. } => "sign-redirect",
        KeyRequest::OpenHello { .. } => "open-hello",
        KeyRequest::Challenge(_) => "challenge",
        KeyRequest::OpenMessage { .. } => "open-message",
        KeyRequest::Own { .. } => "own",
        KeyRequest::ConfirmOwnership { .. } => "confirm-ownership",
        KeyRequest::Provision(_) => "provision",
        KeyRequest::Finish { .. } => "finish",
        KeyRequest::SetState { .. } => "set-state",
        _ => "open-apdu",
    }
}

/// Waiting times of a test meter.
pub const PACE: gridseal_trust::enrol::device::Pace = gridseal_trust::enrol::device::Pace {
    first: Duration::from_secs(30),
    most: Duration::from_secs(600),
    reply: Duration::from_secs(60),
};

/// A private key that every run has.
pub fn signing_key<R: gridseal_crypto::role::Role>(label: &str) -> SigningKey<R> {
    SigningKey::new(&Key::generate_scalar(&mut TestRng::new(label, 0)).unwrap()).unwrap()
}
