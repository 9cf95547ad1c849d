//! The device's half of orders, against an owner that this file plays: every kind, every refusal, and power that fails
//! between any two steps.

use std::{collections::BTreeMap, sync::OnceLock};

use gridseal_crypto::{
    Key, PublicKey, Rng, RngError, SecondSigner, Signer, SigningKey, random,
    role::{
        AuthValue, ConfigSigning, Dek, DeviceRootSecret, Gak, Guek, OwnerSecond, OwnerSecret, OwnerSigning,
        TpmSeed, VoucherSecond, VoucherSigning,
    },
    sha256,
    tpm::{
        AuthInForce, ChangeAuth, Clear, EndorsementKey, SecretLabel, SessionNonces, TpmSessionKey,
        change_auth_command, change_auth_confirmed, clear_command, clear_confirmed, duplicate, share_secret,
    },
};
use gridseal_trust::{
    csr::{parse_csr, subject_public_key_info},
    enrol::{
        cose::{SignedType, key_id, sign},
        device::{
            Device, DeviceRecord, Event, Firmware, Input, Installed, OFFER_TIME, Output, OwnerChain, Pace,
            Peer,
        },
        document::{Delegation, Entry, EntryKind, Header, Redirect},
        init::SignedRedirect,
        order::{
            Answer, Envelope, Kind, Order, OrderBody, PollBody, QUOTE_PURPOSE, RENEWED_STORAGE_PURPOSE,
            RENEWED_TLS_PURPOSE, ResultBody, Task, order_digest, seal_order,
        },
        secrets::{OwnerSecretExt, owner_secret},
        session::{Config, DeliveredObject, config_digest, encode_error, qualifying},
        voucher::{Voucher, VoucherKey},
    },
    root::{DeviceRoot, KeyBlob, OwnerKeys, OwnerPin, RootReply, RootRequest, software::SoftwareRoot},
    tpm::{self, attest},
};
use gridseal_types::{
    Code, Digest, EkName, N16, Nonce, Tick, UtcTime,
    service::keys::{Bytes, TpmSession},
};

const START: UtcTime = UtcTime(1_800_000_000);
const DEVICE_ROOT: [u8; 32] = [7; 32];
const PACE: Pace = Pace {
    first: core::time::Duration::from_secs(30),
    most: core::time::Duration::from_secs(86_400),
    reply: core::time::Duration::from_secs(60),
};
/// TPM_PT_PERMANENT: owner and lockout authorisation set, and neither.
const OWNED: u32 = 0x405;
const FRESH: u32 = 0x400;

struct Hashed([u8; 32], u64);

impl Hashed {
    fn new(label: &str, number: u64) -> Self {
        Self(sha256(&[label.as_bytes(), &number.to_be_bytes()]), 0)
    }
}

impl Rng for Hashed {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        for chunk in buffer.chunks_mut(32) {
            self.1 += 1;
            chunk.copy_from_slice(&sha256(&[&self.0, &self.1.to_be_bytes()])[..chunk.len()]);
        }
        Ok(())
    }
}

fn signer<R: gridseal_crypto::role::Role>(label: &str) -> SigningKey<R> {
    SigningKey::new(&Key::generate_scalar(&mut Hashed::new(label, 0)).unwrap()).unwrap()
}

fn second<R: gridseal_crypto::role::Role>(label: &str) -> SecondSigner<R> {
    SecondSigner::new(&Key::generate(&mut Hashed::new(label, 0)).unwrap()).unwrap()
}

fn vendor() -> VoucherKey {
    let second = second::<VoucherSecond>("vendor second").public().id();
    VoucherKey { key: signer::<VoucherSigning>("vendor").public(), second: Some(Digest(second)) }
}

/// A certificate as far as a device looks into one: a TLV structure with the key in its place.
fn certificate(key: &PublicKey) -> Vec<u8> {
    let tlv = |tag: u8, content: &[u8]| {
        assert!(content.len() < 256);
        let mut out = vec![tag];
        if content.len() >= 128 {
            out.push(0x81);
        }
        out.push(u8::try_from(content.len()).unwrap());
        out.extend_from_slice(content);
        out
    };
    let empty = tlv(0x30, &[]);
    let body = [
        tlv(0x02, &[1]),
        empty.clone(),
        empty.clone(),
        empty.clone(),
        empty.clone(),
        subject_public_key_info(key).to_vec(),
    ];
    tlv(0x30, &tlv(0x30, &body.concat()))
}

/// Sessions that the owner has asked for, and what it needs to use them.
struct Tunnel {
    seeds: Vec<Key<TpmSeed, 32>>,
    callers: Vec<N16>,
    opened: Vec<TpmSession>,
    permanent: u32,
}

impl Tunnel {
    fn session(&self, which: usize) -> TpmSessionKey {
        let nonces = SessionNonces { caller: self.callers[which].0, tpm: self.opened[which].nonce_tpm.0 };
        nonces.session_key(&self.seeds[which])
    }
}

/// The owner: signs and seals orders, opens results.
struct Owner {
    rng: Hashed,
    key: SigningKey<OwnerSigning>,
    config: SigningKey<ConfigSigning>,
    generation: u32,
    voucher: Voucher,
    secret: Key<OwnerSecret, 32>,
    ek_name: EkName,
    endorsement: EndorsementKey,
    epoch: u32,
    seq: u64,
    now: UtcTime,
    /// Lockout authorisation that the device's TPM was given, and the owner's.
    auth: [Key<AuthValue, 32>; 2],
    in_force: [Key<AuthValue, 32>; 2],
    /// Order without a result: number, R, payload, message.
    pending: Option<(u64, Nonce, Vec<u8>, Vec<u8>)>,
    tunnel: Option<Tunnel>,
    clear_nonce: [u8; 16],
    change_nonces: Vec<[u8; 16]>,
    has_receipt: bool,
    /// Every result by number: a second one must be the same bytes.
    results: BTreeMap<u64, Vec<u8>>,
    answers: Vec<(Kind, Result<Answer, Code>)>,
}

impl Owner {
    fn new(ek_public: &[u8]) -> Self {
        let ek_name = tpm::name(ek_public);
        let key = signer("owner key");
        let voucher = sold(ek_name, &key);
        let values = [[3u8; 32], [5; 32]];
        Self {
            rng: Hashed::new("owner", 2),
            key,
            config: signer("config"),
            generation: 1,
            voucher,
            secret: owner_secret(&Key::<DeviceRootSecret, 32>::take(&mut DEVICE_ROOT.clone()), 1),
            ek_name,
            endorsement: tpm::endorsement_key(ek_public).unwrap(),
            epoch: 1,
            seq: 100,
            now: START,
            auth: values.map(|mut value| Key::take(&mut value)),
            in_force: values.map(|mut value| Key::take(&mut value)),
            pending: None,
            tunnel: None,
            clear_nonce: [0; 16],
            change_nonces: Vec::new(),
            has_receipt: false,
            results: BTreeMap::new(),
            answers: Vec::new(),
        }
    }

    fn order(&mut self, task: Task) -> Vec<u8> {
        self.seq += 1;
        let order = Order { ek_name: self.ek_name, epoch: self.epoch, seq: self.seq, task, now: self.now };
        self.seal(order.seq, &order.encode(), |delegation| delegation)
    }

    fn delegation(&self) -> Delegation {
        Delegation {
            owner_key: key_id(&self.key.public()),
            uses: 1,
            key: self.config.public(),
            generation: self.generation,
            not_before: START,
            not_after: UtcTime(START.0 + 1_000_000),
        }
    }

    fn seal(&mut self, seq: u64, payload: &[u8], change: impl Fn(Delegation) -> Delegation) -> Vec<u8> {
        let r = Nonce(random(&mut self.rng).unwrap());
        let delegation = change(self.delegation()).encode();
        let body = OrderBody {
            signed: sign(&self.config, SignedType::Order, payload).unwrap(),
            delegation: sign(&self.key, SignedType::Delegation, &delegation).unwrap(),
        };
        let wire = seal_order(&self.secret.seal_order(seq, &r), seq, &r, &body).unwrap();
        self.pending = Some((seq, r, payload.to_vec(), wire.clone()));
        wire
    }

    /// Orders sessions for the owner and the lockout hierarchy.
    fn sessions(&mut self, count: usize) -> Task {
        let (mut seeds, mut salts, mut callers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let (seed, salt) = self.endorsement.share_secret(SecretLabel::Secret, &mut self.rng).unwrap();
            seeds.push(seed);
            salts.push(salt);
            callers.push(N16(random(&mut self.rng).unwrap()));
        }
        let nonce_callers = callers.clone();
        self.tunnel = Some(Tunnel { seeds, callers, opened: Vec::new(), permanent: 0 });
        Task::Sessions { salts, nonce_callers }
    }

    /// A Clear in the last session, under the authorisation that the permanent bits show.
    fn clear(&mut self) -> Task {
        let tunnel = self.tunnel.as_ref().unwrap();
        let which = tunnel.opened.len() - 1;
        self.clear_nonce = random(&mut self.rng).unwrap();
        let in_force = if tunnel.permanent & 4 == 0 {
            AuthInForce::Empty
        } else {
            AuthInForce::Value(&self.in_force[1])
        };
        Task::Commands(vec![clear_command(&Clear {
            session_handle: tunnel.opened[which].handle,
            session: &tunnel.session(which),
            in_force,
            nonce_tpm: tunnel.opened[which].nonce_tpm.0,
            nonce_caller: self.clear_nonce,
        })])
    }

    /// Sets both authorisations to the owner's values.
    fn own(&mut self) -> Task {
        let tunnel = self.tunnel.as_ref().unwrap();
        self.change_nonces = (0..2).map(|_| random(&mut self.rng).unwrap()).collect();
        let command = |which: usize| {
            change_auth_command(&ChangeAuth {
                hierarchy: [tpm::RH_OWNER, tpm::RH_LOCKOUT][which],
                session_handle: tunnel.opened[which].handle,
                session: &tunnel.session(which),
                in_force: match tunnel.permanent & [1, 4][which] {
                    0 => AuthInForce::Empty,
                    _ => AuthInForce::Value(&self.in_force[which]),
                },
                new: &self.auth[which],
                nonce_tpm: tunnel.opened[which].nonce_tpm.0,
                nonce_caller: self.change_nonces[which],
                keep_session: false,
            })
        };
        Task::Commands(vec![command(0), command(1)])
    }

    /// What the owner answers: an order, the uniform error, or nothing to a result.
    fn answer(&mut self, wire: &[u8]) -> Reply {
        match Envelope::decode(wire).unwrap() {
            envelope @ Envelope::Poll { kid, r3, .. } => {
                assert_eq!(kid, self.secret.kid());
                let body = envelope.open(&self.secret.seal_poll(&r3)).unwrap();
                assert!(PollBody::decode(&body).unwrap().last_seq <= self.seq);
                match &self.pending {
                    Some((.., wire)) => Reply::Message(wire.clone()),
                    None => Reply::Message(encode_error(&kid.0, Code::Busy, 60)),
                }
            }
            envelope @ Envelope::Result { seq, r2, .. } => {
                let before = self.results.insert(seq, wire.to_vec());
                assert!(before.is_none_or(|before| before == wire), "two results of order {seq}");
                let pending = self.pending.take_if(|(pending, ..)| *pending == seq);
                let Some((_, r, payload, _)) = pending else { return Reply::Taken };
                let body = envelope.open(&self.secret.seal_result(seq, &r, &r2)).unwrap();
                let kind = Order::decode(&payload).unwrap().task.kind();
                let result = ResultBody::decode(&body, kind).unwrap();
                assert_eq!(result.order, order_digest(&payload));
                self.note(&result.outcome);
                self.answers.push((kind, result.outcome));
                Reply::Taken
            }
            Envelope::Order { .. } => panic!("an order from a device"),
        }
    }

    fn note(&mut self, outcome: &Result<Answer, Code>) {
        match outcome {
            Ok(Answer::Sessions { sessions, permanent }) => {
                let tunnel = self.tunnel.as_mut().unwrap();
                (tunnel.opened, tunnel.permanent) = (sessions.clone(), *permanent);
            }
            Ok(Answer::Responses { responses, .. }) => {
                let tunnel = self.tunnel.as_ref().unwrap();
                if let (Some(last), false) = (responses.last(), tunnel.opened.is_empty()) {
                    let session = tunnel.session(tunnel.opened.len() - 1);
                    self.has_receipt |= clear_confirmed(&session, &self.clear_nonce, last);
                }
            }
            _ => {}
        }
    }
}

enum Reply {
    Message(Vec<u8>),
    Taken,
}

/// Where power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Before,
    After,
}

struct Rig {
    device: Device,
    root: SoftwareRoot,
    flash: Vec<u8>,
    firmware: Firmware,
    owner: Owner,
    now: Tick,
    rng: Hashed,
    events: Vec<Event>,
    wiped: usize,
    is_headend_up: bool,
    is_config_up: bool,
    /// Whether the init server was asked.
    looked_for_owner: bool,
    /// In place of the owner's answer to the next question.
    instead: Option<Vec<u8>>,
    /// Power fails at this one of the steps with an effect.
    cut_at: Option<(usize, Cut)>,
    steps: usize,
    boots: u64,
}

/// Root and flash of a device that works for its owner, made once for all runs of a test.
static OWNED_DEVICE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();

fn dek() -> Key<Dek, 32> {
    Key::take(&mut [6; 32])
}

impl Rig {
    /// A device that works for its owner, in epoch 1.
    fn new() -> Self {
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
    fn make() -> Self {
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

    fn with(root: SoftwareRoot, record: DeviceRecord, owner: Owner) -> Self {
        let firmware = Firmware {
            init_keys: Vec::new(),
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
        }
    }

    fn description(&mut self) -> gridseal_trust::root::Description {
        match perform(&mut self.root, RootRequest::Describe) {
            RootReply::Described(description) => description,
            other => panic!("{other:?}"),
        }
    }

    fn record(&self) -> DeviceRecord {
        DeviceRecord::decode(&self.flash).unwrap()
    }

    fn power_on(&mut self) {
        self.boots += 1;
        self.rng = Hashed::new("device", self.boots);
        self.device = Device::new(self.firmware.clone(), self.record());
        self.device.handle(self.now, Input::Start).unwrap();
    }

    /// Whether power fails here; then it has, and has come back.
    fn is_cut(&mut self, cut: Cut) -> bool {
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
    fn step(&mut self) -> bool {
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
            (None, true) if self.device.state_name() == "wiping" => Input::Wiped,
            (None, true) => Input::Persisted,
        };
        self.device.handle(self.now, input).unwrap();
        true
    }

    fn exchange(&mut self, peer: Peer, wire: &[u8]) -> Option<Reply> {
        let is_up = match peer {
            Peer::HeadEnd => {
                let is_ending = self.device.record().orders.ending.is_some();
                assert!(!is_ending || self.root_permanent() == OWNED, "the TLS key is gone");
                self.is_headend_up
            }
            Peer::ConfigServer => {
                assert_eq!(self.device.config_servers().unwrap().0, ["https://config.example"]);
                self.is_config_up
            }
            Peer::FormerOwner => {
                assert_eq!(self.device.former_owner().unwrap().0, ["https://config.example"]);
                self.is_config_up
            }
            Peer::InitServer => {
                self.looked_for_owner = true;
                false
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

    fn root_permanent(&mut self) -> u32 {
        self.description().permanent
    }

    /// Lets the device fetch until it has nothing more to say.
    fn fetch(&mut self) {
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
    fn give(&mut self, task: Task) -> Result<Answer, Code> {
        let count = self.owner.answers.len();
        self.owner.order(task);
        self.fetch();
        assert_eq!(self.owner.answers.len(), count + 1, "{:?} {:?}", self.device, self.events);
        self.owner.answers[count].1.clone()
    }

    fn refusals(&self) -> Vec<Code> {
        let code = |event: &Event| match event {
            Event::Refused(code) => Some(*code),
            _ => None,
        };
        self.events.iter().filter_map(code).collect()
    }

    /// A configuration that follows the installed one.
    fn config(&self, tls: &PublicKey, objects: Vec<DeliveredObject>) -> Config {
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

impl Owner {
    fn pin(&self) -> OwnerPin {
        let verified = self.voucher.verify(&[vendor()]).unwrap();
        OwnerPin { index: verified.index(), generation: self.generation, entry: verified.head() }
    }

    /// The voucher's next entry, its second signature, and the voucher with it.
    fn entry(&self, kind: EntryKind, to: &SigningKey<OwnerSigning>) -> (Vec<u8>, Vec<u8>, Voucher) {
        let mut voucher = self.voucher.clone();
        let entry = Entry {
            index: 0,
            epoch: self.epoch + u32::from(kind == EntryKind::Transfer),
            kind,
            previous: Digest([0; 32]),
            owner: to.public(),
            encryption: to.public(),
            issued: START,
            second_key: None,
            owner_second: Some(Digest(second::<OwnerSecond>("owner second").public().id())),
        };
        let second = second::<OwnerSecond>("owner second");
        voucher.extend(entry, &self.key, Some(&second)).unwrap();
        let last = voucher.entries.len();
        (voucher.entries[last - 1].clone(), voucher.second[last].clone(), voucher)
    }
}

fn perform(root: &mut SoftwareRoot, request: RootRequest) -> RootReply {
    root.perform(request).unwrap()
}

/// A voucher with its first entry: to this owner, whose second key it names.
fn sold(ek_name: EkName, to: &SigningKey<OwnerSigning>) -> Voucher {
    let header = Header {
        ek_name,
        model: "GS-1".into(),
        serial: "GS-0000001".into(),
        n_commit: Digest([1; 32]),
        second_key: None,
    };
    let (key, second_vendor) = (signer::<VoucherSigning>("vendor"), second::<VoucherSecond>("vendor second"));
    let mut voucher = Voucher::issue(header, &key, Some(&second_vendor)).unwrap();
    let entry = Entry {
        index: 1,
        epoch: 1,
        kind: EntryKind::Transfer,
        previous: Digest([0; 32]),
        owner: to.public(),
        encryption: to.public(),
        issued: START,
        second_key: None,
        owner_second: Some(Digest(second::<OwnerSecond>("owner second").public().id())),
    };
    voucher.extend(entry, &key, Some(&second_vendor)).unwrap();
    voucher
}

/// Channel keys for a storage key: as delivered, and as imported.
fn deliver(
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

fn wrapped(rng: &mut Hashed, storage_public: &[u8]) -> Vec<DeliveredObject> {
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

fn attestation(keys: &OwnerKeys) -> PublicKey {
    tpm::attestation_key(&keys.attestation.public).unwrap()
}

#[test]
fn an_order_is_on_flash_before_it_is_carried_out_and_the_same_bytes_get_the_same_result() {
    let mut rig = Rig::new();
    let wire = rig.owner.order(Task::Suspend);
    rig.fetch();
    assert_eq!(rig.owner.answers, [(Kind::Suspend, Ok(Answer::Suspended))]);
    assert_eq!(
        rig.events[1..],
        [
            Event::OrderAccepted { seq: rig.owner.seq, kind: Kind::Suspend },
            Event::OrderAnswered { seq: rig.owner.seq, kind: Kind::Suspend, refused: None },
            Event::OrdersFetched { reached: true, again_s: 60 },
        ]
    );
    assert!(rig.record().orders.is_suspended && !rig.device.is_at_work());
    let result = rig.record().orders.accepted.unwrap().result.unwrap();
    for _ in 0..2 {
        rig.instead = Some(wire.clone());
        rig.fetch();
        assert_eq!(rig.owner.results[&rig.owner.seq], result.0, "byte for byte");
        rig.power_on();
    }
    rig.give(Task::Resume).unwrap();
    assert!(rig.device.is_at_work());
    // The order before the last is an old one, however genuine it is.
    rig.events.clear();
    rig.instead = Some(wire);
    rig.fetch();
    assert_eq!(rig.refusals(), [Code::Rollback]);
    assert!(!rig.record().orders.is_suspended);
}

#[test]
fn an_order_that_is_not_for_this_device_epoch_and_number_changes_nothing() {
    let mut rig = Rig::new();
    rig.give(Task::Suspend).unwrap();
    let before = (rig.flash.clone(), rig.description());
    let order = |rig: &Rig| Order {
        ek_name: rig.owner.ek_name,
        epoch: 1,
        seq: rig.owner.seq + 1,
        task: Task::Resume,
        now: START,
    };
    type Forge = fn(&mut Rig, Order) -> Vec<u8>;
    let cases: [(&str, Code, Forge); 12] = [
        ("another device", Code::Rollback, |rig, mut order| {
            order.ek_name.0[9] ^= 1;
            rig.owner.seal(order.seq, &order.encode(), |d| d)
        }),
        ("another epoch", Code::Rollback, |rig, mut order| {
            order.epoch = 2;
            rig.owner.seal(order.seq, &order.encode(), |d| d)
        }),
        ("another number outside than inside", Code::Rollback, |rig, order| {
            rig.owner.seal(order.seq + 1, &order.encode(), |d| d)
        }),
        ("an old number", Code::Rollback, |rig, mut order| {
            order.seq -= 1;
            rig.owner.seal(order.seq, &order.encode(), |d| d)
        }),
        ("sealed under another secret", Code::Grant, |rig, order| {
            let own = std::mem::replace(&mut rig.owner.secret, Key::take(&mut [8; 32]));
            let wire = rig.owner.seal(order.seq, &order.encode(), |d| d);
            rig.owner.secret = own;
            wire
        }),
        ("sealed for the next epoch", Code::Grant, |rig, order| {
            let next = owner_secret(&Key::<DeviceRootSecret, 32>::take(&mut DEVICE_ROOT.clone()), 2);
            let own = std::mem::replace(&mut rig.owner.secret, next);
            let wire = rig.owner.seal(order.seq, &order.encode(), |d| d);
            rig.owner.secret = own;
            wire
        }),
        ("a replaced delegation", Code::ConfigChain, |rig, order| {
            rig.owner.seal(order.seq, &order.encode(), |d| Delegation { generation: 0, ..d })
        }),
        ("an expired delegation", Code::ConfigChain, |rig, order| {
            rig.owner
                .seal(order.seq, &order.encode(), |d| Delegation { not_after: UtcTime(START.0 - 1), ..d })
        }),
        ("a delegation for redirects", Code::ConfigChain, |rig, order| {
            rig.owner.seal(order.seq, &order.encode(), |d| Delegation { uses: 2, ..d })
        }),
        ("a delegation of somebody else", Code::ConfigChain, |rig, order| {
            let own = std::mem::replace(&mut rig.owner.key, signer("somebody"));
            let wire = rig.owner.seal(order.seq, &order.encode(), |d| d);
            rig.owner.key = own;
            wire
        }),
        ("signed by somebody else", Code::ConfigChain, |rig, order| {
            let own = rig.owner.config.public();
            let config = std::mem::replace(&mut rig.owner.config, signer("somebody"));
            let wire = rig.owner.seal(order.seq, &order.encode(), |d| Delegation { key: own, ..d });
            rig.owner.config = config;
            wire
        }),
        ("no order", Code::Format, |_, _| vec![0x80]),
    ];
    for (what, code, forge) in cases {
        let order = order(&rig);
        let wire = forge(&mut rig, order);
        rig.owner.pending = None;
        rig.events.clear();
        rig.instead = Some(wire);
        rig.fetch();
        assert_eq!(rig.refusals(), [code], "{what}");
        assert_eq!((rig.flash.clone(), rig.description()), before, "{what}");
    }
    assert_eq!(rig.give(Task::Resume), Ok(Answer::Resumed));
}

#[test]
fn a_newer_delegation_is_pinned_before_its_order_is_carried_out() {
    let mut rig = Rig::new();
    rig.owner.generation = 4;
    rig.give(Task::Suspend).unwrap();
    assert_eq!(rig.description().pin.unwrap().generation, 4);
    // The key that was replaced has no say any more, after a power cut neither.
    rig.power_on();
    rig.owner.generation = 3;
    rig.owner.order(Task::Resume);
    rig.fetch();
    assert_eq!(rig.refusals().last(), Some(&Code::ConfigChain));
    assert!(rig.record().orders.is_suspended);
}

#[test]
fn through_the_config_server_when_the_head_end_does_not_answer() {
    let mut rig = Rig::new();
    rig.is_headend_up = false;
    assert_eq!(rig.give(Task::Suspend), Ok(Answer::Suspended));
    rig.is_config_up = false;
    rig.events.clear();
    rig.owner.order(Task::Resume);
    rig.fetch();
    assert_eq!(rig.events, [Event::Unanswered, Event::OrdersFetched { reached: false, again_s: 0 }]);
    assert_eq!(rig.device.state_name(), "operating");
}

#[test]
fn a_quote_answers_its_order_and_no_other() {
    let mut rig = Rig::new();
    let pcr_selection = tpm::pcr_selection(&[0, 7]);
    let task = Task::Attest { pcr_selection: pcr_selection.clone(), ima_next: 0 };
    let answer = rig.give(task).unwrap();
    let Answer::Attested { quote, permanent, platform_open, .. } = answer else { panic!("{answer:?}") };
    assert_eq!((permanent, platform_open), (OWNED, false));
    let keys = rig.record().keys.unwrap();
    let payload = Order {
        ek_name: rig.owner.ek_name,
        epoch: 1,
        seq: rig.owner.seq,
        task: Task::Attest { pcr_selection: pcr_selection.clone(), ima_next: 0 },
        now: START,
    };
    let digest = order_digest(&payload.encode());
    let verified = |purpose| {
        attest::verify_quote(&quote, &attestation(&keys), &qualifying(purpose, &digest), &pcr_selection, None)
    };
    assert!(verified(QUOTE_PURPOSE).is_ok());
    assert_eq!(verified(4), Err(Code::Quote));
}

#[test]
fn a_provision_order_replaces_the_configuration_and_its_secrets_at_once() {
    let mut rig = Rig::new();
    let before = rig.record();
    let keys = before.keys.clone().unwrap();
    let tls = tpm::tls_key(&keys.tls.public).unwrap();
    let objects = wrapped(&mut rig.rng, &keys.storage.public);
    let names: Vec<_> = objects.iter().map(|object| tpm::name(&object.public)).collect();
    let config = rig.config(&tls, objects.clone());
    let payload = |rig: &Rig, config: &Config| {
        Order {
            ek_name: rig.owner.ek_name,
            epoch: 1,
            seq: rig.owner.seq,
            task: Task::Provision(Box::new(config.clone())),
            now: START,
        }
        .encode()
    };
    let answer = rig.give(Task::Provision(Box::new(config.clone())));
    assert_eq!(answer, Ok(Answer::Provisioned(names)));
    let installed = rig.record().installed.unwrap();
    assert_eq!(installed.digest, config_digest(&payload(&rig, &config)));
    assert_eq!((installed.policy_version, installed.confirmed, installed.is_counting), (2, true, false));
    assert_eq!(installed.terminus_urls, ["tls://other.example:4059"]);

    // One without secrets keeps those, and the counter that they have.
    let without = rig.config(&tls, Vec::new());
    assert_eq!(rig.give(Task::Provision(Box::new(without))), Ok(Answer::Provisioned(Vec::new())));
    let kept = rig.record().installed.unwrap();
    assert_eq!((kept.keys, kept.policy_version), (installed.keys, 3));

    // What does not follow is refused by name, and leaves everything as it was.
    type Change = fn(&mut Config);
    let cases: [(Change, Code); 7] = [
        (|config| config.policy_version -= 1, Code::Rollback),
        (|config| config.previous.0[0] ^= 1, Code::Rollback),
        (|config| config.epoch = 2, Code::EpochMismatch),
        (|config| config.pin.generation += 1, Code::Pin),
        (|config| config.ldevid_chain = vec![vec![0x30; 16]], Code::Csr),
        (|config| config.now = UtcTime(START.0 - 1), Code::Rollback),
        (|config| config.objects[0].duplicate[5] ^= 1, Code::Object),
    ];
    for (change, code) in cases {
        let before = rig.record();
        let objects = wrapped(&mut rig.rng, &keys.storage.public);
        let mut config = rig.config(&tls, objects);
        change(&mut config);
        assert_eq!(rig.give(Task::Provision(Box::new(config))), Err(code));
        assert_eq!(rig.record().installed, before.installed, "{code:?}");
    }
}

#[test]
fn a_renewed_key_waits_for_its_certificate_beside_the_old_one() {
    let mut rig = Rig::new();
    let old = rig.record().keys.unwrap();
    let answer = rig.give(Task::Renew { with_storage: true }).unwrap();
    let Answer::Renewed { tls_pub, certify_tls, csr, storage: Some(storage) } = answer else {
        panic!("renewed")
    };
    let task = Task::Renew { with_storage: true };
    let payload =
        Order { ek_name: rig.owner.ek_name, epoch: 1, seq: rig.owner.seq, task, now: START }.encode();
    let digest = order_digest(&payload);
    let certified = |attest, purpose, public: &[u8]| {
        attest::verify_certify(attest, &attestation(&old), &qualifying(purpose, &digest), &tpm::name(public))
    };
    assert_eq!(certified(&certify_tls, RENEWED_TLS_PURPOSE, &tls_pub), Ok(()));
    assert_eq!(certified(&storage.certify, RENEWED_STORAGE_PURPOSE, &storage.public), Ok(()));
    let tls = tpm::tls_key(&tls_pub).unwrap();
    assert_eq!(parse_csr(&csr), Ok(tls));
    assert_eq!(rig.record().keys.as_ref(), Some(&old), "the old keys stay in use");

    // A configuration for the old key still counts, and the new one goes on waiting.
    let old_tls = tpm::tls_key(&old.tls.public).unwrap();
    let config = rig.config(&old_tls, Vec::new());
    assert!(rig.give(Task::Provision(Box::new(config))).is_ok());
    assert!(rig.record().orders.renewed.is_some());

    let objects = wrapped(&mut rig.rng, &storage.public);
    let config = rig.config(&tls, objects);
    assert!(rig.give(Task::Provision(Box::new(config))).is_ok());
    let record = rig.record();
    let keys = record.keys.unwrap();
    assert_eq!((&keys.tls.public, &keys.storage.public), (&tls_pub, &storage.public));
    assert_eq!((keys.attestation, record.orders.renewed), (old.attestation, None));
    for key in record.installed.unwrap().keys {
        let request = RootRequest::Unseal { storage: keys.storage.clone(), object: key.blob };
        assert!(rig.root.perform(request).is_ok());
    }
}

#[test]
fn a_new_owner_key_is_pinned_and_the_old_one_is_done() {
    let mut rig = Rig::new();
    let next: SigningKey<OwnerSigning> = signer("second owner key");
    let (entry, second, voucher) = rig.owner.entry(EntryKind::Rekey, &next);
    let pin = {
        let verified = voucher.verify(&[vendor()]).unwrap();
        OwnerPin { index: 2, generation: 0, entry: verified.head() }
    };
    // Without the second signature that the owner's entry demands it is no entry.
    let without = Task::Rekey { entries: vec![entry.clone()], second: Vec::new() };
    assert_eq!(rig.give(without), Err(Code::Voucher));
    let (transfer, transfer_second, _) = rig.owner.entry(EntryKind::Transfer, &next);
    let sale = Task::Rekey { entries: vec![transfer], second: vec![transfer_second] };
    assert_eq!(rig.give(sale), Err(Code::Voucher));

    let answer = rig.give(Task::Rekey { entries: vec![entry], second: vec![second] });
    assert_eq!(answer, Ok(Answer::Rekeyed(pin)));
    assert_eq!(rig.description().pin, Some(pin));
    rig.power_on();
    rig.owner.order(Task::Suspend);
    rig.fetch();
    assert_eq!(rig.refusals(), [Code::ConfigChain]);
    rig.owner.key = next;
    rig.owner.voucher = voucher;
    rig.owner.generation = 0;
    assert_eq!(rig.give(Task::Suspend), Ok(Answer::Suspended));
}

#[test]
fn commands_go_through_sessions_of_the_order_before_and_clear_only_at_the_end() {
    let mut rig = Rig::new();
    let task = rig.owner.sessions(2);
    rig.give(task).unwrap();
    let clear = rig.owner.clear();
    assert_eq!(rig.give(clear.clone()), Err(Code::Command), "no end was ordered");
    assert_eq!(rig.description().permanent, OWNED);
    let Task::Commands(commands) = clear else { panic!("commands") };
    let junk = Task::Commands(vec![commands[0][..20].to_vec()]);
    assert_eq!(rig.give(junk), Err(Code::Command));
    // After a power cut the sessions are gone.
    rig.root.power_cut();
    rig.power_on();
    assert_eq!(rig.give(Task::Commands(commands)), Err(Code::State));
}

/// The owner goes on with whatever is next, until it has its receipt; `true` when it has.
fn next_order(rig: &mut Rig, first: Task) -> bool {
    if rig.owner.has_receipt {
        rig.owner.pending = None;
        return true;
    }
    if rig.owner.pending.is_some() {
        return false;
    }
    let accepted = rig.record().orders.ending.is_some() || rig.record().ended.is_some();
    let last = rig.owner.answers.last().map(|(kind, outcome)| (*kind, outcome.is_ok()));
    let task = match last {
        _ if !accepted => first,
        Some((Kind::Sessions, true)) => rig.owner.clear(),
        _ => rig.owner.sessions(1),
    };
    rig.owner.order(task);
    false
}

/// Runs an ending with power that fails once, and checks what must hold whatever happened.
fn end(cut_at: Option<(usize, Cut)>, kind: Kind) -> (Rig, bool) {
    let mut rig = Rig::new();
    let buyer: SigningKey<OwnerSigning> = signer("buyer");
    let (entry, second, voucher) = rig.owner.entry(EntryKind::Transfer, &buyer);
    let first = match kind {
        Kind::Release => Task::Release { entry, second },
        _ => Task::Decommission,
    };
    rig.cut_at = cut_at;
    let ending = rig.owner.order(first.clone());
    let payload = rig.owner.pending.clone().unwrap();
    let mut stored = false;
    for _ in 0..4_000 {
        if rig.record().orders.ending.is_some() && !stored {
            stored = true;
            // Its answer comes last; the owner goes on meanwhile.
            rig.owner.pending = None;
        }
        if stored && !rig.owner.has_receipt {
            next_order(&mut rig, first.clone());
        }
        if !rig.step() {
            match rig.device.state_name() {
                "operating" => rig.device.handle(rig.now, Input::FetchOrders).unwrap(),
                _ => break,
            }
        }
        if rig.owner.has_receipt && rig.owner.pending.is_none() && !rig.owner.results.contains_key(&payload.0)
        {
            // What is waited for now.
            rig.owner.pending = Some(payload.clone());
        }
        if rig.looked_for_owner {
            break;
        }
    }
    let is_hit = rig.cut_at.is_none();
    drop(ending);
    assert!(rig.owner.has_receipt, "{cut_at:?}: no receipt, {:?} {:?}", rig.device, rig.events);
    assert!(rig.owner.results.contains_key(&payload.0), "{cut_at:?}: {:?} {:?}", rig.device, rig.events);
    assert!(!rig.root.is_locked_out(), "{cut_at:?}");
    let record = rig.record();
    assert_eq!((record.installed, record.keys, record.redirect), (None, None, None), "{cut_at:?}");
    assert_eq!(record.orders, Default::default(), "{cut_at:?}");
    assert!(rig.wiped >= 1);
    let description = rig.description();
    assert_eq!(description.permanent, FRESH);
    match kind {
        Kind::Release => {
            assert!(rig.looked_for_owner);
            let head = voucher.verify(&[vendor()]).unwrap().head();
            let pin = OwnerPin { index: 2, generation: 0, entry: head };
            assert_eq!((description.epoch, description.pin), (2, Some(pin)), "{cut_at:?}");
        }
        _ => {
            assert_eq!(rig.device.state_name(), "decommissioned");
            assert_eq!(description.epoch, 1);
        }
    }
    (rig, is_hit)
}

#[test]
fn a_released_device_gives_a_receipt_and_goes_to_its_next_owner() {
    let (rig, _) = end(None, Kind::Release);
    let audited = rig.owner.answers.iter().rev().find_map(|(_, outcome)| match outcome {
        Ok(Answer::Responses { audit, .. }) => Some(audit.clone()),
        _ => None,
    });
    let audit = audited.flatten().expect("the identity key signed for the session");
    assert!(audit.attest.windows(32).any(|part| part == gridseal_crypto::tpm::clear_audit_digest()));
    assert_eq!(rig.owner.answers.last(), Some(&(Kind::Release, Ok(Answer::Released))));
}

#[test]
fn a_flash_that_is_put_back_does_not_lead_to_the_owner_before() {
    let (mut rig, _) = end(None, Kind::Release);
    let redirect = Redirect {
        ek_name: rig.owner.ek_name,
        epoch: 1,
        urls: vec!["https://config.example".into()],
        pins: vec![Digest([3; 32])],
        not_before: START,
        expires: UtcTime(START.0 + 1_000_000),
        seq: 1,
    };
    let signed = SignedRedirect {
        redirect: sign(&rig.owner.key, SignedType::Redirect, &redirect.encode()).unwrap(),
        delegation: None,
        voucher: rig.owner.voucher.encode(),
    };
    assert!(signed.verify(&[vendor()]).is_ok(), "it was genuine once");
    let old = DeviceRecord { redirect: Some(signed), redirect_seq: Some((1, 1)), ..DeviceRecord::default() };
    (rig.flash, rig.looked_for_owner) = (old.encode(), false);
    rig.power_on();
    // Another peer than the init server would be asked for a session.
    rig.fetch_until(|rig| rig.looked_for_owner);
}

#[test]
fn a_release_survives_a_power_cut_between_any_two_steps() {
    sweep(Kind::Release);
}

#[test]
fn a_decommissioning_survives_a_power_cut_between_any_two_steps() {
    sweep(Kind::Decommission);
}

fn sweep(kind: Kind) {
    let (rig, _) = end(None, kind);
    let steps = rig.steps;
    assert!(steps > 20, "{steps}");
    for at in 1..=steps {
        for cut in [Cut::Before, Cut::After] {
            let (_, is_hit) = end(Some((at, cut)), kind);
            assert!(is_hit || at > steps - 4, "step {at} {cut:?} was not reached");
        }
    }
}

#[test]
fn after_an_end_is_stored_nothing_but_its_commands_is_taken() {
    let mut rig = Rig::new();
    rig.owner.order(Task::Decommission);
    for _ in 0..60 {
        if rig.record().orders.ending.is_some() {
            break;
        }
        if !rig.step() {
            rig.device.handle(rig.now, Input::FetchOrders).unwrap();
        }
    }
    let count = rig.owner.answers.len();
    rig.owner.pending = None;
    rig.owner.order(Task::Resume);
    for _ in 0..400 {
        if rig.owner.answers.len() > count {
            break;
        }
        rig.step();
    }
    assert_eq!(rig.owner.answers.last(), Some(&(Kind::Resume, Err(Code::State))));
}

#[test]
fn a_cleared_device_goes_on_when_its_owner_is_silent_for_good() {
    let mut rig = Rig::new();
    let buyer: SigningKey<OwnerSigning> = signer("buyer");
    let (entry, second, _) = rig.owner.entry(EntryKind::Transfer, &buyer);
    rig.owner.order(Task::Release { entry, second });
    rig.fetch_until(|rig| rig.record().orders.ending.is_some());
    rig.owner.pending = None;
    let task = rig.owner.sessions(1);
    rig.owner.order(task);
    rig.fetch_until(|rig| rig.owner.pending.is_none());
    let task = rig.owner.clear();
    rig.owner.order(task);
    rig.fetch_until(|rig| rig.root_permanent() == FRESH);
    rig.is_config_up = false;
    let began = rig.now;
    rig.fetch_until(|rig| rig.looked_for_owner);
    let waited = rig.now.since(began);
    assert!(waited > core::time::Duration::from_secs(3_600), "{waited:?}");
    assert_eq!(rig.description().epoch, 2);
    // The last result is offered for a week, and no longer.
    assert!(rig.record().ended.unwrap().result.is_some());
    assert!(OFFER_TIME > waited);
}

impl Rig {
    fn fetch_until(&mut self, condition: impl Fn(&mut Self) -> bool) {
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
