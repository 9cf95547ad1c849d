//! Master keys that are agreed upon, in suites 1 and 2, and suites that are raised.

use gridseal_crypto::{Curve, CurvePublic, CurveSigner};
use gridseal_dlms::{
    suite::agreement::{Parties, Side, read_key_data},
    wire::Data,
};
use gridseal_keys::{MeterKey, PartyAnchors};
use gridseal_trust::party::{
    Certificate, Draft, Purpose, Role, Subject, assemble, csr_to_be_signed, parse_csr,
};
use gridseal_types::{
    DeviceState,
    service::keys::{ClaimState, ClaimStep, KeyOrigin},
};

use super::*;

fn signer(curve: Curve, seed: u8) -> CurveSigner {
    CurveSigner::take(curve, &mut vec![seed; curve.coordinate_size()]).unwrap()
}

/// Authorities: 1 of the owner, 2 of the manufacturer, anything else of nobody.
fn authority(curve: Curve, seed: u8) -> (CurveSigner, Subject) {
    (signer(curve, seed), Subject::Authority(format!("authority {seed} of {curve:?}")))
}

fn certificate(of: &Subject, role: Role, key: &CurvePublic, by: (Curve, u8)) -> Vec<u8> {
    let (signer, name) = authority(by.0, by.1);
    let draft = Draft {
        serial: &[&[by.1], &key.point()[..4]].concat(),
        issuer: &name.name(),
        issuer_key: &signer.public(),
        subject: of,
        validity: (START, UtcTime(START.0 + 400 * 86_400)),
        key,
        role,
    };
    let body = draft.to_be_signed();
    let signature = signer.sign(&body).unwrap();
    assemble(&body, by.0, &signature)
}

/// A certificate of the meter's signing key by an authority.
fn of_meter(curve: Curve, by: u8) -> Vec<u8> {
    let key = signer(curve, 10).public();
    certificate(&Subject::Party(METER), Role::Party(Purpose::Signature), &key, (curve, by))
}

fn anchor(curve: Curve, seed: u8) -> Certificate {
    let (signer, name) = authority(curve, seed);
    let der = certificate(&name, Role::Authority(None), &signer.public(), (curve, seed));
    Certificate::parse(&der).unwrap()
}

fn core() -> &'static Core {
    static CORE: std::sync::OnceLock<Core> = std::sync::OnceLock::new();
    CORE.get_or_init(|| {
        let both = |seed| [Curve::P256, Curve::P384].map(|curve| anchor(curve, seed)).into();
        let core = Owner::new(1).open_keys(&Factory::new());
        let client = |curve| {
            let key = core.keystore().signing_public(curve).unwrap();
            let signs = Role::Party(Purpose::Signature);
            Certificate::parse(&certificate(&Subject::Party(CLIENT), signs, &key, (curve, 1))).unwrap()
        };
        let client = [Curve::P256, Curve::P384].map(client).into();
        core.with_parties(PartyAnchors { owner: both(1), vendors: both(2), client })
    })
}

/// A meter that speaks any suite, and agrees.
struct SuiteMeter {
    suite: u8,
    guek: Vec<u8>,
    gak: Vec<u8>,
    kek: Vec<u8>,
    sent: u32,
    received: Option<u32>,
    rng: TestRng,
    /// Its answer to an agreement is signed with this.
    signer: u8,
    /// Certificates that it has, DER.
    certificates: Vec<Vec<u8>>,
    /// It has made another pair.
    has_pair: bool,
}

fn of_size<R: gridseal_crypto::role::Role, const N: usize>(bytes: &[u8]) -> Key<R, N> {
    Key::take_slice(&mut bytes.to_vec()).unwrap()
}

impl SuiteMeter {
    fn new(suite: u8) -> Self {
        let size = if suite == 2 { 32 } else { 16 };
        let [guek, gak, kek] = [1, 2, 3].map(|value| vec![value; size]);
        Self {
            suite,
            guek,
            gak,
            kek,
            sent: 0,
            received: None,
            rng: TestRng::new("meter", 1),
            signer: 10,
            certificates: Vec::new(),
            has_pair: false,
        }
    }

    fn header(&self, originator: SystemTitle) -> apdu::Header {
        apdu::Header { originator, security_control: 0x30 | self.suite }
    }

    fn open(&self, sealed: &[u8]) -> Option<(u32, Vec<u8>)> {
        let general = GeneralGlo::from_bytes(sealed).unwrap();
        if general.security_control.0 != 0x30 | self.suite {
            return None;
        }
        let counter = general.invocation_counter;
        let (header, body) = (self.header(CLIENT), general.body);
        let plain = if self.suite == 2 {
            let (guek, gak) = (of_size::<Guek, 32>(&self.guek), of_size::<Gak, 32>(&self.gak));
            apdu::unprotect(&guek, &gak, header, counter, body)
        } else {
            let (guek, gak) = (of_size::<Guek, 16>(&self.guek), of_size::<Gak, 16>(&self.gak));
            apdu::unprotect(&guek, &gak, header, counter, body)
        };
        Some((counter, plain?))
    }

    fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let ticket = ticket(self.sent);
        let counter = self.sent;
        self.sent += 1;
        let header = self.header(METER);
        let body = if self.suite == 2 {
            let (guek, gak) = (of_size::<Guek, 32>(&self.guek), of_size::<Gak, 32>(&self.gak));
            apdu::protect(&guek, &gak, header, ticket, plain).unwrap()
        } else {
            let (guek, gak) = (of_size::<Guek, 16>(&self.guek), of_size::<Gak, 16>(&self.gak));
            apdu::protect(&guek, &gak, header, ticket, plain).unwrap()
        };
        let mut all = vec![0xDB, 8];
        all.extend_from_slice(&METER.0);
        match body.len() + 5 {
            size @ 0..=127 => all.push(size as u8),
            size @ 128..=255 => all.extend_from_slice(&[0x81, size as u8]),
            size => all.extend_from_slice(&[0x82, (size >> 8) as u8, size as u8]),
        }
        all.push(header.security_control);
        all.extend_from_slice(&counter.to_be_bytes());
        all.extend_from_slice(&body);
        all
    }

    /// Serves a key_agreement or a key_transfer.
    fn serve(&mut self, sealed: &Sealed) -> Option<Vec<u8>> {
        let (counter, plain) = self.open(&sealed.apdu)?;
        if self.received.is_some_and(|last| counter <= last) {
            return None;
        }
        self.received = Some(counter);
        match (plain[0], plain[11]) {
            (0xC0, _) => Some(self.list()),
            (_, 3) => Some(self.agree(&plain)),
            (_, 2) => Some(self.transfer(&plain)),
            (_, method) => Some(self.setup(method, &plain[13..])),
        }
    }

    /// The list of its certificates.
    fn list(&mut self) -> Vec<u8> {
        let parsed: Vec<Certificate> =
            self.certificates.iter().map(|der| Certificate::parse(der).unwrap()).collect();
        let entry = |one: &'_ Certificate| {
            Data::Structure(vec![
                Data::Enum(0),
                Data::Enum(0),
                Data::OctetString(one.serial()),
                Data::OctetString(one.issuer()),
                Data::OctetString(one.subject()),
                Data::OctetString(&[]),
            ])
            .to_bytes()
        };
        let entries: Vec<Vec<u8>> = parsed.iter().map(entry).collect();
        let list = Data::Array(entries.iter().map(|bytes| Data::from_bytes(bytes).unwrap()).collect());
        self.seal(&[&[0xC4, 1, 0xC1, 0][..], &list.to_bytes()].concat())
    }

    /// Methods 4, 5, 6 and 8 of its security setup.
    fn setup(&mut self, method: u8, parameters: &[u8]) -> Vec<u8> {
        let curve = Curve::of_suite(self.suite);
        let value = Data::from_bytes(parameters).unwrap();
        let new = signer(curve, 12);
        match (method, value) {
            (4, _) => self.has_pair = true,
            (5, _) if self.has_pair => {
                let body = csr_to_be_signed(METER, &new.public());
                let csr = assemble(&body, curve, &new.sign(&body).unwrap());
                let octets = Data::OctetString(&csr).to_bytes();
                return self.seal(&[&[0xC7, 1, 0xC1, 0, 1, 0][..], &octets].concat());
            }
            (6, Data::OctetString(der)) => {
                if *Certificate::parse(der).unwrap().key() == new.public() {
                    self.signer = 12;
                }
                self.certificates.retain(|known| known != der);
                self.certificates.push(der.to_vec());
            }
            (8, Data::Structure(fields)) => {
                let [_, Data::Structure(named)] = fields.as_slice() else { panic!("{fields:?}") };
                let [Data::OctetString(serial), Data::OctetString(issuer)] = named.as_slice() else {
                    panic!("{named:?}")
                };
                self.certificates.retain(|known| {
                    let known = Certificate::parse(known).unwrap();
                    known.serial() != *serial || known.issuer() != *issuer
                });
            }
            _ => return self.seal(&[0xC7, 1, 0xC1, 3, 0]),
        }
        self.seal(&[0xC7, 1, 0xC1, 0, 0])
    }

    fn agree(&mut self, plain: &[u8]) -> Vec<u8> {
        let at = if plain[20] == 0x81 { 22 } else { 21 };
        let key_data = &plain[at..];
        let curve = if key_data.len() == 128 { Curve::P256 } else { Curve::P384 };
        let client = core().keystore().signing_public(curve).unwrap();
        let point = read_key_data(curve, 3, key_data, &[client]).expect("the service signs what it offers");
        let side = Side::new(3, curve, &mut self.rng).unwrap();
        let parties = Parties { client: CLIENT, server: METER };
        self.kek = if curve == Curve::P256 {
            hex::decode(side.key::<Kek, 16>(&point, parties).unwrap().danger_reveal_hex()).unwrap()
        } else {
            hex::decode(side.key::<Kek, 32>(&point, parties).unwrap().danger_reveal_hex()).unwrap()
        };
        let answer = side.key_data(&signer(curve, self.signer)).unwrap();
        let head = [0xC7, 1, 0xC1, 0, 1, 0, 1, 1, 2, 2, 0x16, 3, 9];
        let size = if answer.len() == 128 { [0x81, 128] } else { [0x81, 192] };
        self.seal(&[&head[..], &size, &answer].concat())
    }

    /// The answer is under the keys before.
    fn transfer(&mut self, plain: &[u8]) -> Vec<u8> {
        let size = self.kek.len() + 8;
        let mut taken = Vec::new();
        for item in plain[15..].chunks(6 + size) {
            let key = if size == 40 {
                let kek = of_size::<Kek, 32>(&self.kek);
                kek.unwrap_transferred::<Guek>(&item[6..]).map(|key| key.danger_reveal_hex())
            } else {
                let kek = of_size::<Kek, 16>(&self.kek);
                kek.unwrap_transferred::<Guek>(&item[6..]).map(|key| key.danger_reveal_hex())
            };
            let Some(key) = key else { return self.seal(&[0xC7, 1, 0xC1, 3, 0]) };
            taken.push((item[3], hex::decode(key).unwrap()));
        }
        let answer = self.seal(&[0xC7, 1, 0xC1, 0, 0]);
        for (kind, key) in taken {
            match kind {
                0 => (self.guek, self.sent, self.received) = (key, 0, None),
                2 => self.gak = key,
                _ => self.kek = key,
            }
        }
        answer
    }
}

/// A service with one meter of a suite, whose certificate is an authority's.
fn of_suite(suite: u8, by: u8) -> (Driver, SuiteMeter) {
    let mut keys = Driver::load_with(core(), MemoryRecords::default(), Site::single(CLIENT), 5);
    keys.take_in(|import| Import {
        suite,
        guek: key_of(suite, 1),
        gak: key_of(suite, 2),
        kek: key_of(suite, 3),
        certificate: (suite > 0).then(|| of_meter(Curve::of_suite(suite), by)),
        ..import
    });
    (keys, SuiteMeter::new(suite))
}

fn key_of<R: gridseal_crypto::role::Role>(suite: u8, value: u8) -> MeterKey<R> {
    if suite == 2 { Key::take(&mut [value; 32]).into() } else { Key::take(&mut [value; 16]).into() }
}

fn reply(apdu: Vec<u8>) -> ChangeOutcome {
    ChangeOutcome::Reply { apdu }
}

fn chain(keys: &mut Driver, meter: &mut SuiteMeter, begun: ChangeReply) -> ChangeReply {
    let (change, mut told) = (begun.status.change, begun);
    while let Some(sealed) = told.transfer.take() {
        let outcome = meter.serve(&sealed).map_or(ChangeOutcome::NoReply, reply);
        told = keys.report(change, outcome);
    }
    told
}

/// What the meter has, by the service's records.
fn assert_known(keys: &mut Driver, meter: &mut SuiteMeter) {
    let push = meter.seal(&[0x0F, 1, 2, 3]);
    assert!(keys.is_fresh(push), "what it sends opens");
    let inventory = core().danger_inventory(&keys.records).unwrap();
    assert!(inventory["Kek"].contains(&hex::encode(&meter.kek)), "its master key is on record");
    assert!(!inventory.contains_key("Ephemeral") || inventory["Ephemeral"].is_empty(), "and ours is gone");
}

//= S3: a KEK is confirmed by a key that was delivered under it
#[test]
fn a_master_key_is_agreed_upon_and_proven_by_fresh_keys_under_it() {
    for suite in [1, 2] {
        let (mut keys, mut meter) = of_suite(suite, 1);
        let before = meter.kek.clone();
        let begun = keys.begin(&[KeyKind::Kek]);
        assert_eq!((begun.status.phase, keys.active(KeyKind::Kek)), (ChangePhase::Sent, Some(1)));
        let change = begun.status.change;
        let answer = meter.serve(&begun.transfer.unwrap()).unwrap();
        assert_ne!(meter.kek, before);
        let told = keys.report(change, reply(answer));
        assert_eq!((told.status.phase, keys.active(KeyKind::Kek)), (ChangePhase::Sent, Some(1)), "not yet");
        let told = chain(&mut keys, &mut meter, told);
        assert_eq!(told.status.phase, ChangePhase::Sent, "a yes under the keys before proves nothing");
        assert_known(&mut keys, &mut meter);
        let status = keys.status();
        assert_eq!((status.suite, status.change), (suite, None), "suite {suite}");
        assert_ne!(keys.active(KeyKind::Kek), Some(1));
        // From now on keys come by transfer under it.
        let begun = keys.begin(&BOTH);
        assert_eq!(begun.status.items, BOTH);
        chain(&mut keys, &mut meter, begun);
        assert_known(&mut keys, &mut meter);
        assert_eq!(keys.status().change, None);
    }
}

//= S3: the only key a meter knows is never forgotten
#[test]
fn s3_an_agreement_whose_answer_is_lost_or_late_ends_with_the_key_that_the_meter_has() {
    for (late, dies) in [(false, false), (true, false), (false, true), (true, true)] {
        let (mut keys, mut meter) = of_suite(1, 1);
        let begun = keys.begin(&[KeyKind::Kek]);
        let change = begun.status.change;
        let first = meter.serve(&begun.transfer.unwrap()).unwrap();
        // The meter has a master key that nobody else knows, and answers under its other keys.
        assert_eq!(keys.report(change, ChangeOutcome::NoReply).status.phase, ChangePhase::Unknown);
        if dies {
            keys.restart();
        }
        let probe = keys.probes().remove(0);
        let (_, plain) = meter.open(&probe.sealed.apdu).unwrap();
        let answer = meter.seal(&[0xC4, 1, plain[2], 0, 9, 1, 7]);
        assert!(keys.is_fresh(answer));
        let again = keys.begin(&[]);
        assert_eq!((again.status.change, again.status.attempts), (change, 2), "the same change");
        let second = meter.serve(&again.transfer.unwrap()).unwrap();
        if late {
            // The first answer comes now: a master key that the meter had. Then the second is lost.
            let told = keys.report(change, reply(first));
            let refusal = meter.serve(&told.transfer.expect("a proof under the first")).unwrap();
            let told = keys.report(change, reply(refusal));
            assert_eq!(told.transfer, None, "asked again later, not at once");
            let third = keys.begin(&[]);
            chain(&mut keys, &mut meter, third);
        } else {
            let told = keys.report(change, reply(second));
            chain(&mut keys, &mut meter, told);
        }
        assert_known(&mut keys, &mut meter);
        assert_eq!(keys.status().change, None, "late {late}");
    }
}

//= S2: no state is transmitted before it is durable
#[test]
fn s2_an_offer_is_on_record_before_it_leaves_and_is_the_same_ever_after() {
    let (mut keys, mut meter) = of_suite(2, 1);
    let prepared =
        keys.exchange(KeyRequest::PrepareKeyChange { system_title: METER, items: vec![KeyKind::Kek] });
    let ExchangeReply::Change(prepared) = prepared else { panic!("{prepared:?}") };
    assert_eq!((prepared.status.phase, prepared.transfer), (ChangePhase::Prepared, None));
    keys.restart();
    let sent = keys.begin(&[]).transfer.unwrap();
    keys.restart();
    assert_eq!(keys.begin(&[]).transfer.unwrap(), sent, "byte for byte");
    let (_, first) = meter.open(&sent.apdu).unwrap();
    keys.report(prepared.status.change, ChangeOutcome::NoReply);
    let probe = keys.probes().remove(0);
    let (_, plain) = meter.open(&probe.sealed.apdu).unwrap();
    let answer = meter.seal(&[0xC4, 1, plain[2], 0, 9, 1, 7]);
    assert!(keys.is_fresh(answer));
    keys.restart();
    let (_, again) = meter.open(&keys.begin(&[]).transfer.unwrap().apdu).unwrap();
    assert_eq!(again, first, "under another counter, the same point");
}

#[test]
fn an_answer_that_the_meter_did_not_sign_and_one_thrown_back_give_no_key() {
    let (mut keys, mut meter) = of_suite(1, 1);
    let begun = keys.begin(&[KeyKind::Kek]);
    let sealed = begun.transfer.unwrap();
    meter.signer = 11;
    let answer = meter.serve(&sealed).unwrap();
    let told = keys.report(begun.status.change, reply(answer));
    assert_eq!((told.status.phase, told.transfer), (ChangePhase::Sent, None));
    // Our own key data as the answer.
    let (_, plain) = meter.open(&sealed.apdu).unwrap();
    let thrown_back = [&[0xC7, 1, 0xC1, 0, 1, 0, 1, 1, 2, 2, 0x16, 3, 9][..], &plain[20..]].concat();
    let thrown_back = meter.seal(&thrown_back);
    let told = keys.report(begun.status.change, reply(thrown_back));
    assert_eq!(told.transfer, None);
    let status = keys.status();
    assert_eq!(status.versions.iter().filter(|version| version.kind == KeyKind::Kek).count(), 1);
}

//= design S5: a suite is raised and never lowered
#[test]
fn s5_a_suite_is_raised_step_by_step_and_never_lowered() {
    let (mut keys, mut meter) = of_suite(0, 1);
    let raise =
        |keys: &mut Driver, suite| keys.exchange(KeyRequest::RaiseSuite { system_title: METER, suite });
    assert_eq!(raise(&mut keys, 1), ExchangeReply::Denied(Denial::NoCertificate), "nobody vouches for it");
    for (suite, curve) in [(1, Curve::P256), (2, Curve::P384)] {
        let der = of_meter(curve, 1);
        let taken = keys.exchange(KeyRequest::MeterCertificate { system_title: METER, der });
        assert!(matches!(taken, ExchangeReply::Status(_)), "{taken:?}");
        let old = meter.seal(&[0x0F, 9]);
        let ExchangeReply::Change(prepared) = raise(&mut keys, suite) else { panic!("not prepared") };
        assert_eq!(prepared.status.phase, ChangePhase::Prepared);
        let begun = keys.begin(&[]);
        let answer = meter.serve(&begun.transfer.unwrap()).unwrap();
        let told = keys.report(begun.status.change, reply(answer));
        assert_eq!(keys.status().suite, suite - 1, "not before it is spoken");
        chain(&mut keys, &mut meter, told);
        meter.suite = suite;
        assert_known(&mut keys, &mut meter);
        assert_eq!(keys.status().suite, suite);
        assert!(keys.is_fresh(old), "what was on its way is a reading all the same");
        for lower in 0..suite {
            assert_eq!(raise(&mut keys, lower), ExchangeReply::Denied(Denial::PolicyDenied), "{lower}");
        }
        assert_eq!(raise(&mut keys, suite), ExchangeReply::Denied(Denial::IllegalTransition));
        // An APDU that says another suite than its keys are of.
        let mut other = meter.seal(&[0x0F, 1]);
        let control = 11;
        other[control] = 0x30 | (suite - 1);
        assert_eq!(keys.open(other), OpenVerdict::Rejected);
    }
    assert_eq!(raise(&mut keys, 3), ExchangeReply::Denied(Denial::PolicyDenied));
}

//= design S5: a meter that goes back to a lower suite gets new keys and nothing else
#[test]
fn s5_a_meter_that_has_gone_back_is_sent_nothing_but_the_way_up() {
    let (mut keys, mut meter) = of_suite(0, 1);
    let der = of_meter(Curve::P256, 1);
    keys.exchange(KeyRequest::MeterCertificate { system_title: METER, der });
    keys.exchange(KeyRequest::RaiseSuite { system_title: METER, suite: 1 });
    let begun = keys.begin(&[]);
    chain(&mut keys, &mut meter, begun);
    meter.suite = 1;
    assert_known(&mut keys, &mut meter);
    assert!(matches!(keys.get(1), ExchangeReply::Sealed(_)));
    // An old copy of its flash comes back, and it proves so.
    let mut meter = SuiteMeter { sent: 100, ..SuiteMeter::new(0) };
    let answered = keys.probes().iter().any(|probe| {
        let Some((_, plain)) = meter.open(&probe.sealed.apdu) else { return false };
        let answer = meter.seal(&[0xC4, 1, plain[2], 0, 9, 1, 7]);
        keys.is_fresh(answer)
    });
    assert!(answered, "it is found");
    assert_eq!(keys.status().suite, 1, "what was proven once stays the least");
    assert_eq!(keys.get(2), ExchangeReply::Denied(Denial::StateForbids));
    let pending = keys.exchange(KeyRequest::PendingChanges { after: None });
    let ExchangeReply::Pending { meters, .. } = pending else { panic!("{pending:?}") };
    assert_eq!(meters, [METER], "without an operator's order");
    let begun = keys.begin(&[]);
    assert_eq!(begun.status.items, [KeyKind::Kek], "the master key first, by agreement");
    meter.received = None;
    chain(&mut keys, &mut meter, begun);
    meter.suite = 1;
    assert_known(&mut keys, &mut meter);
    assert!(matches!(keys.get(3), ExchangeReply::Sealed(_)));
}

#[test]
fn a_factory_certificate_counts_once_and_never_after_the_owner_s() {
    let (mut keys, _) = of_suite(0, 1);
    let mut bring = |der: Vec<u8>| keys.exchange(KeyRequest::MeterCertificate { system_title: METER, der });
    let bad = ExchangeReply::Denied(Denial::BadCertificate);
    let key = signer(Curve::P256, 10).public();
    let other = Subject::Party(SystemTitle([9; 8]));
    let signs = Role::Party(Purpose::Signature);
    for (what, der) in [
        ("no certificate", vec![0x30, 0]),
        ("of an authority that nobody knows", of_meter(Curve::P256, 3)),
        ("of another meter", certificate(&other, signs, &key, (Curve::P256, 1))),
        (
            "for key agreement",
            certificate(&Subject::Party(METER), Role::Party(Purpose::Agreement), &key, (Curve::P256, 1)),
        ),
    ] {
        assert_eq!(bring(der), bad, "{what}");
    }
    // The meter is the owner's already: its manufacturer vouches for nothing.
    assert_eq!(bring(of_meter(Curve::P256, 2)), bad);
    assert!(matches!(bring(of_meter(Curve::P256, 1)), ExchangeReply::Status(_)));

    let first = of_meter(Curve::P256, 2);
    let mut keys = Driver::load_with(core(), MemoryRecords::default(), Site::single(CLIENT), 6);
    keys.take_in(|import| Import {
        origin: KeyOrigin::Vendor,
        state: DeviceState::Installing,
        claim: ClaimState::InStock,
        suite: 1,
        certificate: Some(first.clone()),
        ..import
    });
    let mut bring = |der: Vec<u8>| keys.exchange(KeyRequest::MeterCertificate { system_title: METER, der });
    let again = bring(first.clone());
    assert!(matches!(again, ExchangeReply::Status(_)), "the same one again is none: {again:?}");
    let second =
        certificate(&Subject::Party(METER), signs, &signer(Curve::P256, 12).public(), (Curve::P256, 2));
    assert_eq!(bring(second.clone()), bad, "once");
    assert!(matches!(bring(of_meter(Curve::P256, 1)), ExchangeReply::Status(_)));
    assert_eq!(bring(second), bad);
    assert_eq!(bring(first), bad, "not even the one that counted");
}

#[test]
fn a_meter_that_agrees_and_agrees_and_takes_nothing_is_refused_in_the_end() {
    let (mut keys, mut meter) = of_suite(1, 1);
    let mut told = keys.begin(&[KeyKind::Kek]);
    let change = told.status.change;
    let mut rounds = 0;
    while !told.status.phase.is_resolved() {
        rounds += 1;
        assert!(rounds < 100, "{:?}", told.status);
        let Some(sealed) = told.transfer.take() else {
            told = keys.begin(&[]);
            continue;
        };
        let answer = meter.serve(&sealed).unwrap();
        // It forgets what it has agreed upon.
        meter.kek = vec![0; 16];
        told = keys.report(change, reply(answer));
    }
    assert_eq!(told.status.phase, ChangePhase::Refused);
    let push = meter.seal(&[0x0F, 1]);
    assert!(keys.is_fresh(push), "and is spoken to as before");
}

//= S3: what the meter may have taken is not forgotten
#[test]
fn s3_a_raise_that_was_given_up_and_may_have_been_taken_leaves_the_way_up_alone() {
    for takes in [true, false] {
        let (mut keys, mut meter) = of_suite(0, 1);
        let der = of_meter(Curve::P256, 1);
        keys.exchange(KeyRequest::MeterCertificate { system_title: METER, der });
        keys.exchange(KeyRequest::RaiseSuite { system_title: METER, suite: 1 });
        let begun = keys.begin(&[]);
        if takes {
            meter.serve(&begun.transfer.unwrap()).unwrap();
        }
        keys.report(begun.status.change, ChangeOutcome::NoReply);
        let given_up = keys.report(begun.status.change, ChangeOutcome::Abandon);
        assert_eq!(given_up.status.phase, ChangePhase::Abandoned);
        if takes {
            // Transfers under the old master key are refused; then the next change agrees on one again.
            let refused = keys.begin(&BOTH);
            let refused = chain(&mut keys, &mut meter, refused);
            assert_eq!(refused.status.phase, ChangePhase::Refused);
            let up = keys.begin(&BOTH);
            assert_eq!(up.status.items, [KeyKind::Kek]);
            chain(&mut keys, &mut meter, up);
            meter.suite = 1;
            assert_known(&mut keys, &mut meter);
            assert_eq!(keys.status().suite, 1);
        } else {
            // One that is installed shows that the meter has taken nothing else.
            let begun = keys.begin(&BOTH);
            chain(&mut keys, &mut meter, begun);
            assert_known(&mut keys, &mut meter);
            let plain = keys.begin(&[KeyKind::Kek]);
            let answer = meter.serve(&plain.transfer.unwrap()).unwrap();
            let told = keys.report(plain.status.change, reply(answer));
            chain(&mut keys, &mut meter, told);
            assert_known(&mut keys, &mut meter);
            assert_eq!((keys.status().suite, keys.status().change), (0, None));
        }
    }
}

/// A claim with one message lost on its way there (`true`) or back, and the key service dead after it. How many messages
/// there were.
fn claimed(suite: u8, mishap: Option<(usize, bool)>) -> usize {
    let curve = Curve::of_suite(suite);
    let mut keys = Driver::load_with(core(), MemoryRecords::default(), Site::single(CLIENT), 8);
    keys.take_in(|import| Import {
        origin: KeyOrigin::Vendor,
        state: DeviceState::Installing,
        claim: ClaimState::InStock,
        suite,
        guek: key_of(suite, 1),
        gak: key_of(suite, 2),
        kek: key_of(suite, 3),
        certificate: Some(of_meter(curve, 2)),
        ..import
    });
    let mut meter = SuiteMeter::new(suite);
    let (vendor, name) = authority(curve, 2);
    meter.certificates.push(certificate(&name, Role::Authority(None), &vendor.public(), (curve, 2)));
    meter.certificates.push(of_meter(curve, 2));
    let hello = meter.seal(&[0x0F, 1]);
    keys.open(hello);
    let mut messages = 0;
    let mut send = |keys: &mut Driver, meter: &mut SuiteMeter, sealed: &Sealed| {
        let lost = mishap.filter(|(at, _)| *at == messages).map(|(_, there)| there);
        messages += 1;
        let answer = if lost == Some(true) { None } else { meter.serve(sealed) };
        if lost.is_some() {
            keys.restart();
        }
        answer.filter(|_| lost.is_none())
    };
    let mut next = None;
    for _ in 0..80 {
        keys.now = UtcTime(keys.now.0 + 7_200);
        let reply = next.take().unwrap_or_else(|| keys.exchange(KeyRequest::Claim { system_title: METER }));
        let step = match reply {
            ExchangeReply::Claim(step) => step,
            other => panic!("{mishap:?}: {other:?} {:?}", keys.status()),
        };
        match step {
            ClaimStep::Ask { sealed, .. } => {
                // What is to be done next comes with the answer; after a loss the claim begins with the list again.
                next = send(&mut keys, &mut meter, &sealed)
                    .map(|apdu| keys.exchange(KeyRequest::ReportClaim { system_title: METER, apdu }));
            }
            ClaimStep::Change(mut reply) => {
                let change = reply.status.change;
                if reply.transfer.is_none() {
                    for probe in keys.probes() {
                        let Some((_, plain)) = meter.open(&probe.sealed.apdu) else { continue };
                        let answer = meter.seal(&[0xC4, 1, plain[2], 0, 9, 1, 7]);
                        keys.open(answer);
                    }
                }
                while let Some(sealed) = reply.transfer.take() {
                    let answer = send(&mut keys, &mut meter, &sealed);
                    reply =
                        keys.report(change, answer.map_or(ChangeOutcome::NoReply, super::agreement::reply));
                }
                let push = meter.seal(&[0x0F, 2]);
                keys.open(push);
            }
            ClaimStep::Certify(request) => {
                let (_, key) = parse_csr(&request.csr.0).unwrap();
                let signs = Role::Party(Purpose::Signature);
                let der = certificate(&Subject::Party(METER), signs, &key, (curve, 1));
                let forged =
                    certificate(&Subject::Party(METER), signs, &signer(curve, 30).public(), (curve, 1));
                let bad = keys.exchange(KeyRequest::ClaimCertificate { system_title: METER, der: forged });
                assert_eq!(bad, ExchangeReply::Denied(Denial::BadCertificate));
                next = Some(keys.exchange(KeyRequest::ClaimCertificate { system_title: METER, der }));
            }
            ClaimStep::Show { .. } => {
                let status = keys.status();
                assert_eq!((status.claim, status.state), (ClaimState::Claimed, DeviceState::Operating));
                assert_eq!(meter.certificates.len(), 3, "the owner's three alone");
                assert_known(&mut keys, &mut meter);
                return messages;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("{mishap:?}: no end, {:?}", keys.status());
}

//= S3: the only key a meter knows is never forgotten
#[test]
fn s3_a_claim_with_certificates_ends_well_whatever_is_lost_at_whichever_message() {
    let messages = claimed(1, None);
    assert!(messages > 10, "{messages}");
    for at in 0..messages {
        claimed(1, Some((at, true)));
        claimed(1, Some((at, false)));
    }
    // In suite 2 the steps are the same, and the curve is dear: every fourth message.
    let messages = claimed(2, None);
    for at in (0..messages).step_by(4) {
        claimed(2, Some((at, at % 8 == 0)));
    }
}
