//! A device over a software root, whose power may fail between any two steps.

use std::sync::OnceLock;

use gridseal_crypto::{
    Key, PublicKey, Rng, Signer,
    role::{Dek, Gak, Guek, InitSigning},
    tpm::{SecretLabel, change_auth_confirmed, duplicate, share_secret},
};
use gridseal_trust::{
    enrol::{
        cose::{SignedType, sign},
        device::{Device, DeviceRecord, Event, Firmware, Input, Installed, Output, OwnerChain, Peer},
        init::{InitHello, InitRedirect, SignedRedirect},
        order::{Answer, Task},
        session::{self, Config, DeliveredObject},
    },
    root::{DeviceRoot, KeyBlob, OwnerKeys, RootReply, RootRequest, software::SoftwareRoot},
    tpm,
};
use gridseal_types::{Code, Digest, Kid, Tick, service::keys::Bytes};

use super::owner::{DEVICE_ROOT, Hashed, OWNED, Owner, PACE, START, certificate, perform, signer, vendor};

pub(super) enum Reply {
    Message(Vec<u8>),
    Taken,
}

/// Where power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Before,
    After,
}

pub(super) struct Rig {
    pub(super) device: Device,
    pub(super) root: SoftwareRoot,
    pub(super) flash: Vec<u8>,
    pub(super) firmware: Firmware,
    pub(super) owner: Owner,
    pub(super) now: Tick,
    pub(super) rng: Hashed,
    pub(super) events: Vec<Event>,
    pub(super) wiped: usize,
    pub(super) is_headend_up: bool,
    pub(super) is_config_up: bool,
    /// Whether the init server was asked.
    pub(super) looked_for_owner: bool,
    /// In place of the owner's answer to the next question.
    pub(super) instead: Option<Vec<u8>>,
    /// Power fails at this one of the steps with an effect.
    pub(super) cut_at: Option<(usize, Cut)>,
    pub(super) steps: usize,
    pub(super) boots: u64,
    /// The button is held when power comes next.
    pub(super) button: bool,
    /// What the init server answers with.
    pub(super) redirect: Option<SignedRedirect>,
    /// Pseudonym in the last C1, which nobody answers.
    pub(super) hello: Option<Kid>,
}

/// Root and flash of a device that works for its owner, made once for all runs of a test.
pub(super) static OWNED_DEVICE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();

pub(super) fn dek() -> Key<Dek, 32> {
    Key::take(&mut [6; 32])
}

impl Rig {
    /// A device that works for its owner, in epoch 1.
    pub(super) fn new() -> Self {
        let (root, flash) = OWNED_DEVICE.get_or_init(|| {
            let mut rig = Self::make();
            (rig.root.save(&dek()).unwrap(), rig.flash)
        });
        let mut root = SoftwareRoot::restore(Box::new(Hashed::new("root", 1)), &dek(), root).unwrap();
        let RootReply::Described(described) = perform(&mut root, RootRequest::Describe) else {
            panic!("root")
        };
        let owner = Owner::new(&described.ek_public);
        let mut rig = Self::with(root, DeviceRecord::decode(flash).unwrap(), owner);
        rig.owner.seq = 102;
        rig.power_on();
        rig
    }

    /// The same, from production on.
    pub(super) fn make() -> Self {
        let mut root = SoftwareRoot::new(Box::new(Hashed::new("root", 0)));
        let made = perform(&mut root, RootRequest::Manufacture(Key::take(&mut DEVICE_ROOT.clone())));
        let RootReply::Described(made) = made else { panic!("{made:?}") };
        let mut owner = Owner::new(&made.ek_public);
        let pin = owner.pin();
        perform(&mut root, RootRequest::WritePin(pin));
        perform(&mut root, RootRequest::RaiseEpoch);
        let RootReply::Keys(keys) = perform(&mut root, RootRequest::CreateKeys) else { panic!("keys") };
        let tls_key = tpm::tls_key(&keys.tls.public).unwrap();
        let blobs = deliver(&mut root, &mut owner.rng, &keys.storage);
        let record = DeviceRecord {
            keys: Some(keys),
            installed: Some(Installed {
                ldevid_chain: vec![Bytes(certificate(&tls_key))],
                ca_bundle: vec![Bytes(vec![0x30; 16])],
                terminus_urls: vec!["tls://head.example:4059".into()],
                terminus_pins: Vec::new(),
                keys: blobs,
                policy_version: 1,
                digest: Digest([9; 32]),
                pin,
                confirmed: true,
                is_counting: true,
                generation: 0,
            }),
            orders: gridseal_trust::enrol::device::Orders {
                owner: Some(OwnerChain {
                    voucher: Bytes(owner.voucher.encode()),
                    urls: vec!["https://config.example".into()],
                    pins: vec![Digest([3; 32])],
                }),
                ..Default::default()
            },
            suite: 1,
            floor: START,
            ..DeviceRecord::default()
        };
        let mut rig = Self::with(root, record, owner);
        rig.power_on();
        // Ownership, by the same orders that renew it later.
        let task = rig.owner.sessions(2);
        rig.give(task).unwrap();
        let task = rig.owner.own();
        let answer = rig.give(task);
        let Ok(Answer::Responses { responses, .. }) = answer else { panic!("{answer:?}") };
        for (which, response) in responses.iter().enumerate() {
            let session = rig.owner.tunnel.as_ref().unwrap().session(which);
            assert!(change_auth_confirmed(
                &session,
                &rig.owner.auth[which],
                &rig.owner.change_nonces[which],
                response
            ));
        }
        assert_eq!(rig.description().permanent, OWNED);
        rig
    }

    pub(super) fn with(root: SoftwareRoot, record: DeviceRecord, owner: Owner) -> Self {
        let firmware = Firmware {
            init_keys: vec![signer::<InitSigning>("init").public()],
            voucher_keys: vec![vendor()],
            subject: "GS-0000001".into(),
            pace: PACE,
            place: None,
        };
        Self {
            device: Device::new(firmware.clone(), record.clone()),
            root,
            flash: record.encode(),
            firmware,
            owner,
            now: Tick(0),
            rng: Hashed::new("device", 0),
            events: Vec::new(),
            wiped: 0,
            is_headend_up: true,
            is_config_up: true,
            looked_for_owner: false,
            instead: None,
            cut_at: None,
            steps: 0,
            boots: 0,
            button: false,
            redirect: None,
            hello: None,
        }
    }

    pub(super) fn description(&mut self) -> gridseal_trust::root::Description {
        match perform(&mut self.root, RootRequest::Describe) {
            RootReply::Described(description) => description,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn record(&self) -> DeviceRecord {
        DeviceRecord::decode(&self.flash).unwrap()
    }

    pub(super) fn power_on(&mut self) {
        self.boots += 1;
        self.rng = Hashed::new("device", self.boots);
        self.device = Device::new(self.firmware.clone(), self.record());
        let button = core::mem::take(&mut self.button);
        if button || self.record().recovery.is_some() {
            // As boot firmware does.
            self.root.start_for_recovery();
        }
        if button {
            self.device.handle(self.now, Input::Presence).unwrap();
        }
        self.device.handle(self.now, Input::Start).unwrap();
    }

    /// Whether power fails here; then it has, and has come back.
    pub(super) fn is_cut(&mut self, cut: Cut) -> bool {
        if cut == Cut::Before {
            self.steps += 1;
        }
        let is_hit = self.cut_at.take_if(|at| *at == (self.steps, cut)).is_some();
        if is_hit {
            self.root.power_cut();
            self.power_on();
        }
        is_hit
    }

    /// One output, or the next deadline. `false` when the device waits for an order to be fetched, or for nothing.
    pub(super) fn step(&mut self) -> bool {
        let Some(output) = self.device.poll() else {
            let Some(deadline) = self.device.deadline() else { return false };
            self.now = self.now.max(deadline);
            self.device.handle(self.now, Input::Timeout).unwrap();
            return true;
        };
        let has_effect = !matches!(output, Output::Event(_) | Output::Random(_));
        if has_effect && self.is_cut(Cut::Before) {
            return true;
        }
        let input: Input<'_>;
        let (mut bytes, mut reply) = (Vec::new(), None);
        match output {
            Output::Root(request) => reply = Some(self.root.perform(request)),
            Output::Random(length) => {
                bytes = vec![0; length];
                self.rng.fill(&mut bytes).unwrap();
            }
            Output::Persist => self.flash = self.device.record().encode(),
            Output::Wipe => self.wiped += 1,
            Output::Event(event) => {
                self.events.push(event);
                return true;
            }
            Output::Transmit(peer, wire) => {
                let reply = self.exchange(peer, &wire);
                if self.is_cut(Cut::After) {
                    return true;
                }
                let input = match &reply {
                    None => Input::NoReply,
                    Some(Reply::Taken) => Input::Taken,
                    Some(Reply::Message(wire)) => Input::Received(wire),
                };
                self.device.handle(self.now, input).unwrap();
                return true;
            }
            other => panic!("{other:?}"),
        }
        if has_effect && self.is_cut(Cut::After) {
            return true;
        }
        input = match (reply, bytes.is_empty()) {
            (Some(reply), _) => Input::Root(reply),
            (None, false) => Input::Random(&bytes),
            (None, true) if self.device.state_name().starts_with("wiping") => Input::Wiped,
            (None, true) => Input::Persisted,
        };
        self.device.handle(self.now, input).unwrap();
        true
    }

    pub(super) fn exchange(&mut self, peer: Peer, wire: &[u8]) -> Option<Reply> {
        let is_up = match peer {
            Peer::HeadEnd => {
                let is_ending = self.device.record().orders.ending.is_some();
                assert!(!is_ending || self.root_permanent() == OWNED, "the TLS key is gone");
                self.is_headend_up
            }
            Peer::ConfigServer => {
                if let Ok(session::Envelope::Hello { kid, .. }) = session::Envelope::decode(wire) {
                    self.hello = Some(kid);
                    return None;
                }
                assert_eq!(self.device.config_servers().unwrap().0, ["https://config.example"]);
                self.is_config_up
            }
            Peer::FormerOwner => {
                assert_eq!(self.device.former_owner().unwrap().0, ["https://config.example"]);
                self.is_config_up
            }
            Peer::InitServer => {
                self.looked_for_owner = true;
                return self.redirected(wire).map(Reply::Message);
            }
        };
        if !is_up {
            return None;
        }
        match self.instead.take() {
            Some(other) => Some(Reply::Message(other)),
            None => Some(self.owner.answer(wire)),
        }
    }

    /// I2 in answer to this I1.
    fn redirected(&self, wire: &[u8]) -> Option<Vec<u8>> {
        let InitHello { m, ek_name, .. } = InitHello::decode(wire).unwrap();
        let payload = InitRedirect { ek_name, m, suite: 1, signed: self.redirect.clone()? };
        let signed = sign(&signer::<InitSigning>("init"), SignedType::I2, &payload.encode_payload());
        Some(InitRedirect::encode_message(&m, &signed.unwrap()))
    }

    pub(super) fn root_permanent(&mut self) -> u32 {
        self.description().permanent
    }

    /// Lets the device fetch until it has nothing more to say.
    pub(super) fn fetch(&mut self) {
        for _ in 0..400 {
            if !self.step() {
                if self.device.state_name() != "operating" {
                    return;
                }
                break;
            }
        }
        self.device.handle(self.now, Input::FetchOrders).unwrap();
        for _ in 0..400 {
            if !self.step() {
                return;
            }
        }
        panic!("no end: {:?}", self.device);
    }

    /// Gives an order and returns its answer.
    pub(super) fn give(&mut self, task: Task) -> Result<Answer, Code> {
        let count = self.owner.answers.len();
        self.owner.order(task);
        self.fetch();
        assert_eq!(self.owner.answers.len(), count + 1, "{:?} {:?}", self.device, self.events);
        self.owner.answers[count].1.clone()
    }

    pub(super) fn refusals(&self) -> Vec<Code> {
        let code = |event: &Event| match event {
            Event::Refused(code) => Some(*code),
            _ => None,
        };
        self.events.iter().filter_map(code).collect()
    }

    /// A configuration that follows the installed one.
    pub(super) fn config(&self, tls: &PublicKey, objects: Vec<DeliveredObject>) -> Config {
        let installed = self.record().installed.unwrap();
        Config {
            ldevid_chain: vec![certificate(tls)],
            ca_bundle: vec![vec![0x31; 16]],
            terminus_urls: vec!["tls://other.example:4059".into()],
            terminus_pins: Vec::new(),
            objects,
            policy_version: installed.policy_version + 1,
            previous: installed.digest,
            epoch: self.owner.epoch,
            pin: self.owner.pin(),
            now: self.owner.now,
        }
    }
}

/// Channel keys for a storage key: as delivered, and as imported.
pub(super) fn deliver(
    root: &mut SoftwareRoot,
    rng: &mut Hashed,
    storage: &KeyBlob,
) -> Vec<gridseal_trust::enrol::device::DeliveredKey> {
    let objects = wrapped(rng, &storage.public);
    let imports = objects.iter().map(|object| gridseal_trust::root::ImportObject {
        public: object.public.clone(),
        duplicate: object.duplicate.clone(),
        in_sym_seed: object.in_sym_seed.clone(),
    });
    let request = RootRequest::Import { storage: storage.clone(), objects: imports.collect() };
    let RootReply::Imported(imported) = perform(root, request) else { panic!("import") };
    objects
        .iter()
        .zip(imported)
        .map(|(object, (blob, _))| gridseal_trust::enrol::device::DeliveredKey { id: object.id, blob })
        .collect()
}

pub(super) fn wrapped(rng: &mut Hashed, storage_public: &[u8]) -> Vec<DeliveredObject> {
    let point = tpm::storage_key(storage_public).unwrap();
    let (seed, in_sym_seed) = share_secret(SecretLabel::Duplicate, &point, rng).unwrap();
    let guek: Key<Guek, 16> = Key::generate(rng).unwrap();
    let gak: Key<Gak, 16> = Key::generate(rng).unwrap();
    let made = [duplicate(&seed, &guek, rng).unwrap(), duplicate(&seed, &gak, rng).unwrap()];
    (1u8..)
        .zip(made)
        .map(|(id, made)| DeliveredObject {
            id,
            public: made.public,
            duplicate: made.duplicate,
            in_sym_seed: in_sym_seed.clone(),
        })
        .collect()
}

pub(super) fn attestation(keys: &OwnerKeys) -> PublicKey {
    tpm::attestation_key(&keys.attestation.public).unwrap()
}

impl Rig {
    pub(super) fn fetch_until(&mut self, condition: impl Fn(&mut Self) -> bool) {
        for _ in 0..4_000 {
            if condition(self) {
                return;
            }
            if !self.step() && self.device.state_name() == "operating" {
                self.device.handle(self.now, Input::FetchOrders).unwrap();
            }
        }
        panic!("never: {:?} {:?}", self.device, self.events);
    }
}
