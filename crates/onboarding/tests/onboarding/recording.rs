//! Makes the recorded onboarding: one run under fixed seeds, written down with every key and every value between, so that
//! somebody who has only `docs/protocol.md` can check each step. The keys belong to this run and to nothing else.

use gridseal_crypto::{
    AgreementKey, Key, PublicKey, SecondSigner, Signer, SigningKey, delivery_open,
    role::{
        CaSigning, ConfigSigning, Gak, Guek, InitSigning, Kek, OwnerEncryption, OwnerSecond, OwnerSigning,
        Role, Seal, SoftwareRootKey, TpmSeed, VoucherSecond, VoucherSigning,
    },
    sha256,
    tpm::{
        AuthInForce, CommandAuth, SecretLabel, SessionNonces, execute_change_auth, open_credential,
        open_duplicate, recover_secret,
    },
};
use gridseal_trust::{
    enrol::{
        cose::{Sign1, SignedType, key_id, sign},
        delivery::{encode_delivery, hand_over},
        document::{Entry, EntryKind, Header, Policy},
        init::{InitChallenge, SignedRedirect, encode_registered, encode_registration},
        installation::InstallRequest,
        label::{LabelA, LabelB},
        relay::{RelayItem, RelayPull, RelayWork},
        secrets::{OwnerSecretExt, SessionSecretExt},
        session::{
            ChallengeBody, ChallengePayload, Configuration, Envelope, EvidenceBody, HelloBody, OwnPayload,
            ResponsesBody, Step, Transcript, encode_error, qualifying, sid_of,
        },
        shipment::{Papers, Shipment},
        voucher::Voucher,
        voucher_log::{LogEntry, LogProof, VoucherLog},
        wire::{Reader, encode},
    },
    measured::{Logs, ima},
    root::{MeasurementSource, RootError, software::SoftwareRoot},
    tpm,
};
use gridseal_types::{Code, Digest, N16, Sid};

use crate::support::{
    Leg, START, TestRng, World,
    factory::{Factory, MEASURED, MODEL, Made, Owner},
    spy::open_init_redirect,
};

pub(crate) const SERIAL: &str = "GS-0000001";
pub(crate) const POINT: &str = "DE-0001.7";
const OTHER_OWNER: u64 = 2;

/// The file: tables of named values, bytes in hex.
#[derive(Default)]
struct Sheet(String);

impl Sheet {
    fn table(&mut self, name: &str) {
        self.0.push_str(&format!("\n[{name}]\n"));
    }

    fn note(&mut self, text: &str) {
        self.0.push_str(&format!("# {text}\n"));
    }

    fn text(&mut self, name: &str, value: &str) {
        self.0.push_str(&format!("{name} = \"{value}\"\n"));
    }

    fn number(&mut self, name: &str, value: u64) {
        self.0.push_str(&format!("{name} = {value}\n"));
    }

    fn bytes(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.text(name, &hex::encode(value));
    }

    fn key<R: Role, const N: usize>(&mut self, name: &str, key: &Key<R, N>) {
        self.text(name, &key.danger_reveal_hex());
    }
}

/// The private key of a public one, among what a seeded source draws.
fn private(label: &str, public: &PublicKey) -> Key<SoftwareRootKey, 32> {
    let mut rng = TestRng::new(label, 1);
    let drawn = core::iter::repeat_with(|| Key::generate_scalar(&mut rng).unwrap()).take(64);
    let mut found = drawn.filter(|key| SigningKey::new(key).unwrap().public() == *public);
    found.next().expect("drawn from this source")
}

/// The elements of an envelope before its box, as an array of their own.
fn aad(wire: &[u8]) -> Vec<u8> {
    encode(|w| match Envelope::decode(wire).unwrap() {
        Envelope::Hello { kid, m, .. } => {
            w.array(4).uint(1u8).uint(1u8).bytes(kid.as_bytes()).bytes(m.as_bytes());
        }
        Envelope::Challenge { sid, m_em, .. } => {
            w.array(4).uint(1u8).uint(2u8).bytes(sid.as_bytes()).bytes(m_em.as_bytes());
        }
        Envelope::Message { step, sid, .. } => {
            w.array(3).uint(1u8).uint(step.number()).bytes(sid.as_bytes());
        }
        Envelope::Error { .. } => panic!("an error has no box"),
    })
}

/// What the device has measured: an event log over PCR 0 and 4, and two files.
struct Boot {
    event_log: Vec<u8>,
    ima_log: Vec<u8>,
}

const FILES: [(&str, [u8; 32]); 2] = [("/usr/bin/agent", [0xa1; 32]), ("/usr/lib/metering.so", [0xa2; 32])];

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn counted(contents: &[u8]) -> Vec<u8> {
    [words(&[u32::try_from(contents.len()).unwrap()]), contents.to_vec()].concat()
}

impl Boot {
    /// Measures the files of [`FILES`] into the root; PCR 0 and 4 are there already.
    fn of(root: &mut SoftwareRoot) -> Self {
        let spec_id = [
            b"Spec ID Event03\0".as_slice(),
            &words(&[0]),
            &[0, 2, 0, 2],
            &words(&[1]),
            &[0x0b, 0, 32, 0, 0],
        ]
        .concat();
        let mut event_log = [words(&[0, 3]), vec![0; 20], counted(&spec_id)].concat();
        for (pcr, what) in MEASURED {
            event_log.extend(
                [words(&[u32::from(pcr), 8, 1]), vec![0x0b, 0], sha256(&[what]).to_vec(), counted(what)]
                    .concat(),
            );
        }
        let mut ima_log = Vec::new();
        for (path, digest) in FILES {
            let data = [
                counted(&[b"sha256:\0".as_slice(), &digest].concat()),
                counted(&[path.as_bytes(), &[0]].concat()),
            ]
            .concat();
            let hash = sha256(&[&data]);
            root.extend_pcr(ima::PCR, &Digest(hash)).unwrap();
            ima_log.extend([words(&[10]), hash[..20].to_vec(), counted(b"ima-ng"), counted(&data)].concat());
        }
        Self { event_log, ima_log }
    }
}

impl MeasurementSource for Boot {
    fn read(&mut self, ima_next: u64) -> Result<Logs, RootError> {
        let (ima_first, rest) = ima::from(&self.ima_log, ima_next).unwrap();
        Ok(Logs { event_log: self.event_log.clone(), ima_first, ima_log: rest.to_vec() })
    }
}

/// The policy of the recorded run: both PCRs, both files.
pub(crate) fn policy() -> Policy {
    let ima_paths = FILES.iter().map(|(path, digest)| ((*path).into(), Digest(*digest))).collect();
    Policy { ima_paths, logs_may_be_empty: false, ..Owner::policy() }
}

/// The run, and what is read out of it again and again.
struct Run {
    world: World,
    factory: Factory,
    owner: Owner,
    made: Made,
    endorsement: AgreementKey,
    storage: AgreementKey,
    hello: HelloBody,
    challenge: ChallengePayload,
    evidence: EvidenceBody,
    sid: Sid,
    th: Vec<Digest>,
}

impl Run {
    fn new() -> Self {
        let mut world = World::with_rules(Owner::rules_of([policy()]), |made, _| {
            let boot = Boot::of(&mut made.root);
            made.root.set_measurements(Box::new(boot));
        })
        .at(POINT);
        world.start();
        world.run();
        assert_eq!(world.sent.len(), 12, "{:?}", world.meter.events);
        let (factory, owner) = (Factory::new(), Owner::new(1));
        let made = factory.make(SERIAL, &owner);
        let sent = |step| world.sent.iter().find(|(leg, _)| *leg == Leg::Session(step)).unwrap().1.clone();
        let c1 = sent(Step::HELLO);
        let hello = HelloBody::decode(&world.spy.opened(&c1)).unwrap();
        let c2 = ChallengeBody::decode(&world.spy.opened(&sent(Step::CHALLENGE))).unwrap();
        let challenge = ChallengePayload::decode(Sign1::decode(&c2.signed).unwrap().payload).unwrap();
        let evidence = EvidenceBody::decode(&world.spy.opened(&sent(Step::EVIDENCE))).unwrap();
        let point = |public: &[u8]| tpm::PublicArea::parse(public).unwrap().point.unwrap();
        let agreement = |public: &[u8]| AgreementKey::new(&private(SERIAL, &point(public))).unwrap();
        let mut transcript = Transcript::new();
        let mut th = vec![transcript.value()];
        for step in STEPS {
            transcript = transcript.after(step, &sent(step));
            th.push(transcript.value());
        }
        Self {
            endorsement: agreement(&hello.ek_pub),
            storage: agreement(&hello.sto_pub),
            sid: sid_of(&c1),
            world,
            factory,
            owner,
            made,
            hello,
            challenge,
            evidence,
            th,
        }
    }

    fn sent(&self, leg: Leg) -> &[u8] {
        &self.world.sent.iter().find(|(at, _)| *at == leg).unwrap().1
    }

    fn step(&self, step: Step) -> &[u8] {
        self.sent(Leg::Session(step))
    }

    fn opened(&self, step: Step) -> Vec<u8> {
        self.world.spy.opened(self.step(step))
    }

    fn shared(&self, label: SecretLabel, key: &AgreementKey, secret: &[u8]) -> Key<TpmSeed, 32> {
        recover_secret(label, key, secret).expect("shared to this key")
    }

    fn redirect(&self) -> SignedRedirect {
        open_init_redirect(self.sent(Leg::InitRedirect)).1.signed
    }
}

/// C1 to C8.
pub(crate) const STEPS: [Step; 8] = [
    Step::HELLO,
    Step::CHALLENGE,
    Step::EVIDENCE,
    Step::COMMANDS,
    Step::RESPONSES,
    Step::PROVISION,
    Step::INSTALLED,
    Step::DONE,
];

/// The whole file.
pub(crate) fn record() -> String {
    let run = Run::new();
    let mut sheet = Sheet::default();
    sheet.text(
        "source",
        "Gridseal's own code under fixed seeds: crates/onboarding/tests/onboarding/recording.rs",
    );
    sheet.text("clause", "docs/protocol.md; docs/protocol/vectors.md says what each value is");
    sheet.text("made_by", "GRIDSEAL_BLESS=1 cargo nextest run -p gridseal-onboarding recorded");
    keys(&run, &mut sheet);
    papers(&run, &mut sheet);
    delivery(&run, &mut sheet);
    log_of_vouchers(&run, &mut sheet);
    init(&run, &mut sheet);
    device(&run, &mut sheet);
    derived(&run, &mut sheet);
    session(&run, &mut sheet);
    tunnel(&run, &mut sheet);
    objects(&run, &mut sheet);
    others(&run, &mut sheet);
    sheet.0
}

fn signer<R: Role>(sheet: &mut Sheet, name: &str, key: &Key<R, 32>) {
    let public = SigningKey::new(key).unwrap().public();
    sheet.key(&format!("{name}_d"), key);
    sheet.bytes(&format!("{name}_public"), public.point());
    sheet.bytes(&format!("{name}_id"), key_id(&public).as_bytes());
}

fn seeded<R: Role>(label: &str, number: u64) -> Key<R, 32> {
    Key::generate_scalar(&mut TestRng::new(label, number)).unwrap()
}

/// Keys of people and services: private scalar, x || y, id.
fn keys(run: &Run, sheet: &mut Sheet) {
    sheet.table("key");
    signer(sheet, "voucher", &seeded::<VoucherSigning>("voucher", 0));
    signer(sheet, "init", &seeded::<InitSigning>("init", 0));
    signer(sheet, "owner", &seeded::<OwnerSigning>("owner", 1));
    signer(sheet, "config", &seeded::<ConfigSigning>("keystore", 1));
    let mut keystore = TestRng::new("keystore", 1);
    drop(Key::<ConfigSigning, 32>::generate_scalar(&mut keystore).unwrap());
    let encryption = Key::<OwnerEncryption, 32>::generate_scalar(&mut keystore).unwrap();
    assert_eq!(AgreementKey::new(&encryption).unwrap().public(), run.owner.encryption());
    signer(sheet, "owner_encryption", &encryption);
    signer(sheet, "root_ca", &seeded::<CaSigning>("root", 0));
    signer(sheet, "issuing_ca", &seeded::<CaSigning>("issuing", 0));
    sheet.note("ML-DSA-65: seed of the manufacturer's second voucher key, SHA-256 of its public key");
    sheet.bytes("voucher_second_seed", sha256(&[b"second voucher key"]));
    sheet.bytes("voucher_second_id", run.factory.second.public().id());
}

/// What comes with the device, but for its secret.
fn papers(run: &Run, sheet: &mut Sheet) {
    let Made { manifest, voucher, .. } = &run.made;
    let verified = Voucher::decode(voucher).unwrap().verify(&[run.factory.voucher_key()]).unwrap();
    let parsed = Voucher::decode(voucher).unwrap();
    sheet.table("paper");
    sheet.text(
        "label_a",
        &LabelA { model: MODEL.into(), serial: SERIAL.into(), device: run.made.ek_name }.to_string(),
    );
    let label_b = LabelB::text(SERIAL, &run.world.spy.owner_secret());
    sheet.text("label_b", core::str::from_utf8(label_b.as_slice()).unwrap());
    sheet.bytes("manifest", manifest);
    sheet.bytes("manifest_payload", Sign1::decode(manifest).unwrap().payload);
    sheet.bytes("voucher_header_payload", Sign1::decode(&parsed.header).unwrap().payload);
    sheet.bytes("voucher_entry_payload", Sign1::decode(&parsed.entries[0]).unwrap().payload);
    sheet.bytes("voucher", voucher);
    sheet.bytes("voucher_header_hash", verified.hashes()[0].as_bytes());
    sheet.bytes("voucher_head", verified.head().as_bytes());
    resold(run, sheet);
    let delegation = run.owner.working_delegation();
    sheet.bytes("delegation", &delegation);
    sheet.bytes("delegation_payload", Sign1::decode(&delegation).unwrap().payload);
    let policy = policy().encode();
    let owner = SigningKey::<OwnerSigning>::new(&seeded("owner", 1)).unwrap();
    sheet.note("In this version the owner key signs policies too.");
    sheet.bytes("policy", sign(&owner, SignedType::Policy, &policy).unwrap());
    sheet.bytes("policy_payload", &policy);
    sheet.bytes("policy_digest", SignedType::Policy.hash(&policy).as_bytes());
}

/// A device that was sold twice in a row, by owners with a second key.
fn resold(run: &Run, sheet: &mut Sheet) {
    let second = SecondSigner::<OwnerSecond>::new(&Key::take(&mut sha256(&[b"second owner key"]))).unwrap();
    let parsed = Voucher::decode(&run.made.voucher).unwrap();
    let header = Header::decode(Sign1::decode(&parsed.header).unwrap().payload).unwrap();
    let mut voucher = run.factory.header_for(header);
    let entry = |owner: &Owner, epoch, owner_second: Option<&SecondSigner<OwnerSecond>>| Entry {
        index: 0,
        epoch,
        kind: EntryKind::Transfer,
        previous: Digest([0; 32]),
        owner: owner.signing.public(),
        encryption: owner.encryption(),
        issued: START,
        second_key: None,
        owner_second: owner_second.map(|second| Digest(second.public().id())),
    };
    let first = entry(&run.owner, 1, Some(&second));
    voucher
        .extend(first, &run.factory.voucher, Some::<&SecondSigner<VoucherSecond>>(&run.factory.second))
        .unwrap();
    voucher.extend(entry(&Owner::new(OTHER_OWNER), 2, None), &run.owner.signing, Some(&second)).unwrap();
    let verified = voucher.verify(&[run.factory.voucher_key()]).unwrap();
    sheet.bytes("owner_second_seed", sha256(&[b"second owner key"]));
    sheet.bytes("owner_second_id", second.public().id());
    sheet.bytes("voucher_resold", voucher.encode());
    sheet.bytes("voucher_resold_head", verified.head().as_bytes());
}

/// Ephemeral key, content nonce and ciphertext of a delivery record.
fn parts_of(record: &[u8]) -> (PublicKey, [u8; 12], Vec<u8>) {
    use gridseal_trust::enrol::cose::read_key;
    Reader::whole(record, |r| {
        r.array(4..=4, |r, _| {
            r.bytes(0..=16)?;
            let (mut nonce, mut ephemeral) = (None, None);
            r.map(|r, _| r.fixed().map(|value| nonce = Some(value)).map(|()| true))?;
            let sealed = r.bytes(16..=2_048)?.to_vec();
            r.array(1..=1, |r, _| {
                r.array(3..=3, |r, _| {
                    r.bytes(0..=16)?;
                    r.map(|r, key| match key {
                        -1 => read_key(r).map(|key| ephemeral = Some(key)).map(|()| true),
                        _ => r.skip().map(|()| true),
                    })?;
                    r.bytes(0..=0)
                })
            })?;
            Ok((ephemeral.unwrap(), nonce.unwrap(), sealed))
        })
    })
    .unwrap()
}

/// The owner secret on its way to the owner: in a delivery file, and from label B.
fn delivery(run: &Run, sheet: &mut Sheet) {
    let mut keystore = TestRng::new("keystore", 1);
    drop(Key::<ConfigSigning, 32>::generate_scalar(&mut keystore).unwrap());
    let encryption = Key::<OwnerEncryption, 32>::generate_scalar(&mut keystore).unwrap();
    let encryption = AgreementKey::new(&encryption).unwrap();
    let label_b = LabelB::text(SERIAL, &run.world.spy.owner_secret());
    let label_b = LabelB::parse(core::str::from_utf8(label_b.as_slice()).unwrap()).unwrap();
    let rng = &mut TestRng::new("label", 0);
    let handed_over = hand_over(&label_b, run.made.ek_name, &encryption.public(), rng).unwrap();
    let info = encode(|w| {
        w.array(4).uint(3u8);
        for _ in 0..2 {
            w.array(3).null().null().null();
        }
        w.array(2).uint(256u16).bytes(&[0xa1, 0x01, 0x38, 0x18]);
    });
    sheet.table("delivery");
    sheet.bytes("kdf_info", &info);
    sheet.bytes("file", encode_delivery(core::slice::from_ref(&run.made.delivery)));
    for (name, kind, record) in
        [("record", "gso1-release", &run.made.delivery), ("label_record", "gso1-label", &handed_over)]
    {
        let (ephemeral, nonce, sealed) = parts_of(record);
        let aad = encode(|w| {
            w.array(3).text("Encrypt").bytes(&[0xa1, 0x01, 0x03]).bytes(kind.as_bytes());
        });
        let plain =
            delivery_open(&encryption, &ephemeral, &info, &nonce, &aad, &sealed).expect("to the owner");
        sheet.bytes(name, record);
        sheet.bytes(&format!("{name}_aad"), &aad);
        sheet.bytes(&format!("{name}_plain"), &*plain);
    }
}

/// The manufacturer's log with the device's entry as one of five, and the shipment.
fn log_of_vouchers(run: &Run, sheet: &mut Sheet) {
    let verified = Voucher::decode(&run.made.voucher).unwrap().verify(&[run.factory.voucher_key()]).unwrap();
    let ours = LogEntry::last_of(&verified).unwrap();
    let mut log = VoucherLog::default();
    let stranger =
        |number: u8| LogEntry { previous: Digest([number; 32]), entry: Digest([number + 100; 32]) };
    [stranger(1), stranger(2), stranger(3), ours, stranger(4)].into_iter().for_each(|entry| {
        log.append(entry).unwrap();
    });
    let path = log.proofs().inclusion(3).unwrap();
    let head = log.head(&run.factory.voucher, START).unwrap();
    sheet.table("log");
    sheet.bytes("file", log.encode(&run.factory.voucher, START).unwrap());
    sheet.bytes("head", &head);
    sheet.bytes("leaf", ours.leaf().as_bytes());
    sheet.number("index", 3);
    sheet.bytes("path", path.iter().flat_map(|digest| *digest.as_bytes()).collect::<Vec<u8>>());
    sheet.bytes("root", log.head_at(5).unwrap().root.as_bytes());
    let logged = LogProof { index: 3, path };
    let papers = Papers { manifest: run.made.manifest.clone(), voucher: run.made.voucher.clone(), logged };
    sheet.bytes("shipment", Shipment { log_head: head, devices: vec![papers] }.encode());
}

/// I1 to I2, T1 and T2.
fn init(run: &Run, sheet: &mut Sheet) {
    let challenge = InitChallenge::decode(run.sent(Leg::InitChallenge)).unwrap();
    let seed = run.shared(SecretLabel::Identity, &run.endorsement, &challenge.secret);
    let iak_name = tpm::name(&run.hello.iak_pub);
    let credential = open_credential(&seed, iak_name.as_bytes(), &challenge.credential).unwrap();
    let redirect = run.redirect();
    sheet.table("init");
    sheet.bytes("i1", run.sent(Leg::InitHello));
    sheet.bytes("i1c", run.sent(Leg::InitChallenge));
    sheet.bytes("i1p", run.sent(Leg::InitProof));
    sheet.bytes("i2", run.sent(Leg::InitRedirect));
    sheet.key("seed", &seed);
    sheet.key("k_chal", &credential);
    sheet.bytes("redirect", &redirect.redirect);
    sheet.bytes("redirect_payload", Sign1::decode(&redirect.redirect).unwrap().payload);
    sheet.bytes("redirect_hash", run.hello.redirect.as_bytes());
    sheet.bytes("t1", encode_registration(&redirect));
    sheet.bytes("t2", encode_registered(1));
}

/// Keys of the device and what its TPM says of itself.
fn device(run: &Run, sheet: &mut Sheet) {
    let HelloBody { ek_pub, ak_pub, sto_pub, tls_pub, iak_pub, .. } = &run.hello;
    sheet.table("device");
    sheet.bytes("n_root", run.made.device_root);
    for (name, public) in
        [("ek", ek_pub), ("ak", ak_pub), ("sto", sto_pub), ("tls", tls_pub), ("iak", iak_pub)]
    {
        let point = tpm::PublicArea::parse(public).unwrap().point.unwrap();
        sheet.key(&format!("{name}_d"), &private(SERIAL, &point));
        sheet.bytes(&format!("{name}_public"), public);
        sheet.bytes(&format!("{name}_name"), tpm::name(public).as_bytes());
    }
    sheet.note("Values after the boot; PCR 10 follows from the list in C3, all others are zero.");
    for (pcr, what) in MEASURED {
        sheet.bytes(&format!("pcr_{pcr}"), sha256(&[&[0; 32], &sha256(&[what])]));
    }
}

/// What follows from N_root, M, M_em and K_act.
fn derived(run: &Run, sheet: &mut Sheet) {
    let secret = run.world.spy.owner_secret();
    let (m, m_em) = (run.challenge.m, run.challenge.m_em);
    let root = run.world.spy.session_secret(&run.sid);
    sheet.table("derived");
    sheet.key("n_1", &secret);
    sheet.bytes("n_commit", secret.commitment().as_bytes());
    sheet.bytes("kid", secret.kid().as_bytes());
    sheet.bytes("sid", run.sid.as_bytes());
    sheet.bytes("m", m.as_bytes());
    sheet.bytes("m_em", m_em.as_bytes());
    sheet.key("k_c1", &secret.seal_c1(&m));
    sheet.key("k_c2", &secret.seal_c2(&m, &m_em));
    let seed = run.shared(SecretLabel::Identity, &run.endorsement, &run.challenge.secret);
    sheet.key("credential_seed", &seed);
    sheet.key("k_act", &run.world.spy.activation(&run.sid));
    sheet.key("k_s", &root);
    sheet.key("k_m2e", &root.device_to_owner());
    sheet.key("k_e2m", &root.owner_to_device());
    for (number, th) in run.th.iter().enumerate() {
        sheet.bytes(&format!("th{number}"), th.as_bytes());
    }
    for (purpose, name) in [(1, "qd_sto"), (2, "qd_tls"), (3, "qd_iak"), (4, "qd_quote")] {
        sheet.bytes(name, qualifying(purpose, &run.th[2]).as_bytes());
    }
    let grant = ChallengeBody::decode(&run.opened(Step::CHALLENGE)).unwrap().grant;
    sheet.bytes("grant", grant.as_bytes());
    sheet.bytes("act", run.evidence.act.as_bytes());
    let installed =
        gridseal_trust::enrol::session::InstalledBody::decode(&run.opened(Step::INSTALLED)).unwrap();
    sheet.bytes("receipt", installed.receipt.as_bytes());
    sheet.bytes(
        "configuration_hash",
        SignedType::C6.hash(&run.world.spy.payload(run.step(Step::PROVISION))).as_bytes(),
    );
}

/// The key that seals a message.
fn seal_key(run: &Run, step: Step) -> Key<Seal, 32> {
    let secret = run.world.spy.owner_secret();
    match step.number() {
        1 => secret.seal_c1(&run.challenge.m),
        2 => secret.seal_c2(&run.challenge.m, &run.challenge.m_em),
        number if number % 2 == 1 => run.world.spy.session_secret(&run.sid).device_to_owner(),
        _ => run.world.spy.session_secret(&run.sid).owner_to_device(),
    }
}

/// C1 to C8: key, nonce, associated data, plaintext, what is signed in it, and the message.
fn session(run: &Run, sheet: &mut Sheet) {
    for step in STEPS {
        let number = step.number();
        let mut nonce = [0; 12];
        nonce[11] = number;
        sheet.table(&format!("c{number}"));
        sheet.key("key", &seal_key(run, step));
        sheet.bytes("nonce", nonce);
        sheet.bytes("aad", aad(run.step(step)));
        sheet.bytes("body", run.opened(step));
        match number {
            2 => sheet.bytes("payload", run.challenge.encode()),
            4 | 6 | 8 => sheet.bytes("payload", run.world.spy.payload(run.step(step))),
            _ => {}
        }
        sheet.bytes("wire", run.step(step));
    }
}

/// The two tunnelled commands: salts, session keys, new authorisations.
fn tunnel(run: &Run, sheet: &mut Sheet) {
    let commands = OwnPayload::decode(&run.world.spy.payload(run.step(Step::COMMANDS))).unwrap().commands;
    let responses = ResponsesBody::decode(&run.opened(Step::RESPONSES)).unwrap().responses;
    for (place, name) in ["owner", "lockout"].into_iter().enumerate() {
        let caller = run.challenge.nonce_callers[place].0;
        let opened = run.evidence.sessions[place];
        let salt = run.shared(SecretLabel::Secret, &run.endorsement, &run.challenge.salts[place]);
        let key = SessionNonces { caller, tpm: opened.nonce_tpm.0 }.session_key(&salt);
        let command = CommandAuth::parse(&commands[place]).unwrap();
        let (new, _) =
            execute_change_auth(&command, &key, AuthInForce::Empty, &opened.nonce_tpm.0, &[0; 16]).unwrap();
        sheet.table(&format!("tunnel.{name}"));
        sheet.key("salt", &salt);
        sheet.bytes("nonce_caller_0", caller);
        sheet.bytes("nonce_tpm_0", opened.nonce_tpm.0);
        sheet.key("session_key", &key);
        sheet.key("new_auth", &new);
        sheet.bytes("command", &commands[place]);
        sheet.bytes("response", &responses[place]);
    }
}

/// The delivered keys.
fn objects(run: &Run, sheet: &mut Sheet) {
    let configuration = Configuration::decode(&run.world.spy.payload(run.step(Step::PROVISION))).unwrap();
    for object in configuration.config.objects {
        let seed = run.shared(SecretLabel::Duplicate, &run.storage, &object.in_sym_seed);
        let secret = open_duplicate(&seed, &object.public, &object.duplicate).unwrap();
        sheet.table(&format!("object.{}", object.id));
        sheet.key("seed", &seed);
        match object.id {
            1 => sheet.key("secret", &secret.into_key::<Guek, 16>().unwrap()),
            2 => sheet.key("secret", &secret.into_key::<Gak, 16>().unwrap()),
            _ => sheet.key("secret", &secret.into_key::<Kek, 16>().unwrap()),
        }
        sheet.bytes("name", tpm::name(&object.public).as_bytes());
        sheet.bytes("public", &object.public);
        sheet.bytes("duplicate", &object.duplicate);
        sheet.bytes("in_sym_seed", &object.in_sym_seed);
    }
}

/// Messages that a smooth run has not: an error, the relay's, an installer's.
fn others(run: &Run, sheet: &mut Sheet) {
    let c1 = run.step(Step::HELLO).to_vec();
    let item = RelayItem { id: 1, source: N16([7; 16]), message: c1 };
    let pull =
        RelayPull { replies: vec![(1, Some(run.step(Step::CHALLENGE).to_vec())), (2, None)], most: 64 };
    let label = LabelA { model: MODEL.into(), serial: SERIAL.into(), device: run.made.ek_name };
    sheet.table("other");
    sheet.bytes("err", encode_error(&run.sid.0, Code::Refused, 30));
    sheet.bytes("relay_work", RelayWork(vec![item]).encode());
    sheet.bytes("relay_pull", pull.encode());
    sheet.bytes("install", InstallRequest { label, point: POINT.into(), at: START }.encode());
}
