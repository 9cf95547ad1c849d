//! The service towards meters that have no root of trust: key changes and their proof, probes, sites, restarts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

#[path = "service/agreement.rs"]
mod agreement;
#[path = "service/claim.rs"]
mod claim;
#[path = "service/consents.rs"]
mod consents;
#[path = "service/invariants.rs"]
mod invariants;
#[path = "service/spoilt.rs"]
mod spoilt;
#[path = "../../onboarding/tests/support/mod.rs"]
mod support;

use gridseal_crypto::{
    InvocationCounter, Key, Ticket, apdu,
    role::{Gak, Guek, Kek},
};
use gridseal_dlms::{
    apdu::ciphered::GeneralGlo,
    suite::protect::{open_general_glo, seal_general_glo},
};
use gridseal_keys::{
    Core, Import, Service,
    site::{Site, Standby},
};
use gridseal_types::{
    N16, SystemTitle, UtcTime,
    records::{Commit, Durability, MemoryRecords},
    service::keys::{
        Approval, Carrier, ChangeOutcome, ChangePhase, ChangeReply, Denial, DeviceKeyStatus, ExchangeReply,
        HlsStep, KeyKind, KeyReply, KeyRequest, OpenAssociation, OpenVerdict, Probe, Seal, Sealed, SiteMode,
        SiteRequest, VersionState,
    },
};
use support::{
    START, TestRng,
    factory::{Factory, Owner},
};

const METER: SystemTitle = SystemTitle(*b"MTR\0\0\0\0\x01");
const CLIENT: SystemTitle = SystemTitle(*b"GSL\0\0\0\0\0");

fn ticket(counter: u32) -> Ticket {
    let mut counter = InvocationCounter::resume(u64::from(counter));
    counter.extend(counter.reserve(1).unwrap());
    counter.take().unwrap()
}

/// A meter: three keys, and a counter of its own.
#[derive(Clone)]
struct Meter {
    guek: [u8; 16],
    gak: [u8; 16],
    kek: [u8; 16],
    sent: u32,
}

impl Meter {
    const fn new() -> Self {
        Self { guek: [1; 16], gak: [2; 16], kek: [3; 16], sent: 0 }
    }

    fn keys(&self) -> (Key<Guek, 16>, Key<Gak, 16>) {
        (Key::take(&mut self.guek.clone()), Key::take(&mut self.gak.clone()))
    }

    fn open(&self, apdu: &[u8]) -> Option<Vec<u8>> {
        let (guek, gak) = self.keys();
        open_general_glo(&guek, &gak, CLIENT, &GeneralGlo::from_bytes(apdu).unwrap()).ok()
    }

    fn next(&mut self) -> Ticket {
        self.sent += 1;
        ticket(self.sent - 1)
    }

    fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let ((guek, gak), ticket) = (self.keys(), self.next());
        seal_general_glo(&guek, &gak, METER, ticket, plain).unwrap()
    }

    fn push(&mut self) -> Vec<u8> {
        self.seal(&[0x0F, 1, 2, 3])
    }

    /// Takes a transfer of new keys and says that it did.
    fn take(&mut self, transfer: &Sealed) -> Option<Vec<u8>> {
        let plain = self.open(&transfer.apdu)?;
        let kek: Key<Kek, 16> = Key::take(&mut self.kek.clone());
        for item in plain[15..].chunks(30) {
            let Some(key) = kek.unwrap_transferred::<Guek>(&item[6..]) else {
                return Some(self.seal(&[0xC7, 1, 0xC1, 3]));
            };
            let key: [u8; 16] = hex::decode(key.danger_reveal_hex()).unwrap().try_into().unwrap();
            match item[3] {
                0 => (self.guek, self.sent) = (key, 0),
                2 => self.gak = key,
                _ => self.kek = key,
            }
        }
        Some(self.seal(&[0xC7, 1, 0xC1, 0]))
    }

    /// Answers a GET, if it opens.
    fn answer(&mut self, sealed: &Sealed) -> Option<Vec<u8>> {
        let plain = self.open(&sealed.apdu)?;
        Some(self.seal(&[0xC4, 1, plain[2], 0, 9, 1, 7]))
    }
}

/// A service on its records, as a process drives it.
struct Driver {
    core: &'static Core,
    records: MemoryRecords,
    site: Site,
    service: Service<&'static Core>,
    now: UtcTime,
    rng: TestRng,
    durability: Durability,
}

impl Driver {
    fn load(records: MemoryRecords, site: Site, number: u64) -> Self {
        // Making its keys takes longer than most tests.
        static CORE: std::sync::OnceLock<Core> = std::sync::OnceLock::new();
        let core = CORE.get_or_init(|| Owner::new(1).open_keys(&Factory::new()));
        Self::load_with(core, records, site, number)
    }

    fn load_with(core: &'static Core, records: MemoryRecords, site: Site, number: u64) -> Self {
        let mut rng = TestRng::new("service", number);
        let service = Service::load(core, &records, site, &mut rng).unwrap();
        Self { core, records, site, service, now: START, rng, durability: Durability::Local }
    }

    fn new() -> Self {
        let mut driver = Self::load(MemoryRecords::default(), Site::single(CLIENT), 0);
        driver.import();
        driver
    }

    /// Site `index` of two, on a copy of the records of another.
    fn of_two(records: MemoryRecords, index: u8, marker: Option<u32>) -> Self {
        let site = Site { index, count: 2, marker, standby: Standby::Reachable, ..Site::single(CLIENT) };
        Self::load(records, site, u64::from(index) + 1)
    }

    fn import(&mut self) {
        self.take_in(|import| import);
    }

    fn take_in(&mut self, change: impl FnOnce(Import) -> Import) {
        let Meter { mut guek, mut gak, mut kek, .. } = Meter::new();
        let (guek, gak, kek) = (Key::take(&mut guek), Key::take(&mut gak), Key::take(&mut kek));
        let import = change(Import::operating(METER, guek, gak, kek));
        let decision = self.service.import(&self.records, self.now, &mut self.rng, &import).unwrap();
        self.site.marker = decision.marker.or(self.site.marker);
        self.records.commit(decision.writes).unwrap();
    }

    fn restart(&mut self) {
        let (core, site) = (self.core, self.site);
        self.service = Service::load(core, &self.records, site, &mut self.rng).unwrap();
    }

    fn ask(&mut self, request: KeyRequest) -> KeyReply {
        let mut decision =
            self.service.decide(&self.records, self.now, &mut self.rng, vec![request]).unwrap();
        self.site.marker = decision.marker.or(self.site.marker);
        self.durability = decision.durability;
        self.records.commit(decision.writes).unwrap();
        decision.replies.remove(0)
    }

    fn exchange(&mut self, request: KeyRequest) -> ExchangeReply {
        match self.ask(request) {
            KeyReply::Exchange(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn begin(&mut self, items: &[KeyKind]) -> ChangeReply {
        let request = KeyRequest::BeginKeyChange { system_title: METER, items: items.to_vec() };
        match self.exchange(request) {
            ExchangeReply::Change(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn report(&mut self, change: N16, outcome: ChangeOutcome) -> ChangeReply {
        match self.exchange(KeyRequest::ReportKeyChange { change, outcome }) {
            ExchangeReply::Change(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn probes(&mut self) -> Vec<Probe> {
        match self.exchange(KeyRequest::ProbePlan { system_title: METER }) {
            ExchangeReply::Probes(probes) => probes,
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self, apdu: Vec<u8>) -> OpenVerdict {
        match self.ask(KeyRequest::OpenApdu { apdu }) {
            KeyReply::Apdu(verdict) => verdict,
            other => panic!("{other:?}"),
        }
    }

    fn is_fresh(&mut self, apdu: Vec<u8>) -> bool {
        matches!(self.open(apdu), OpenVerdict::Fresh { .. })
    }

    fn get(&mut self, number: u8) -> ExchangeReply {
        let apdu = vec![0xC0, 1, 0xC1, 0, 3, 1, 0, 1, 8, 0, 255, 2, 0];
        let idempotency = N16([number; 16]);
        self.exchange(KeyRequest::Seal(Seal {
            system_title: METER,
            apdu,
            carrier: Carrier::GeneralGlo,
            idempotency,
        }))
    }

    fn sealed(&mut self, number: u8) -> Sealed {
        match self.get(number) {
            ExchangeReply::Sealed(sealed) => sealed,
            other => panic!("{other:?}"),
        }
    }

    fn status(&mut self) -> DeviceKeyStatus {
        match self.exchange(KeyRequest::KeyStatus { system_title: METER }) {
            ExchangeReply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn active(&mut self, kind: KeyKind) -> Option<u32> {
        let status = self.status();
        let mut versions = status.versions.iter().filter(|version| version.kind == kind);
        versions.find(|version| version.state == VersionState::Active).map(|version| version.version)
    }

    fn site_act(&mut self, request: SiteRequest) -> ExchangeReply {
        self.exchange(KeyRequest::Site(request))
    }
}

fn approvals() -> Vec<Approval> {
    vec![Approval("first".into()), Approval("second".into())]
}

const BOTH: [KeyKind; 2] = [KeyKind::Guek, KeyKind::Gak];

//= S3: confirmed only by an APDU under the new key that the key service itself verified
#[test]
fn a_change_is_confirmed_by_the_meter_and_not_by_what_is_told_of_it() {
    let (mut keys, mut meter) = (Driver::new(), Meter::new());
    let begun = keys.begin(&BOTH);
    assert_eq!(begun.status.phase, ChangePhase::Sent);
    let before = meter.clone();
    let answer = meter.take(&begun.transfer.unwrap()).unwrap();
    let mut forged = answer.clone();
    *forged.last_mut().unwrap() ^= 1;
    let change = begun.status.change;
    let refused =
        keys.exchange(KeyRequest::ReportKeyChange { change, outcome: ChangeOutcome::Reply { apdu: forged } });
    assert_eq!(refused, ExchangeReply::Denied(Denial::Rejected));
    let says_yes = before.clone().seal(&[0xC7, 1, 0xC1, 0]);
    let told = keys.report(change, ChangeOutcome::Reply { apdu: says_yes });
    assert_eq!(told.status.phase, ChangePhase::Sent, "yes under the old key is a hint");
    assert_eq!(
        keys.report(change, ChangeOutcome::Reply { apdu: answer }).status.phase,
        ChangePhase::Activated
    );
    assert_ne!(keys.sealed(1).version, 1);
    assert!(meter.open(&keys.sealed(2).apdu).is_some() && before.open(&keys.sealed(3).apdu).is_none());
}

//= S3: a KEK is confirmed by a key that was delivered under it
#[test]
fn a_master_key_is_proven_by_a_key_that_is_delivered_under_it() {
    let (mut keys, mut meter) = (Driver::new(), Meter::new());
    let mixed = KeyRequest::BeginKeyChange { system_title: METER, items: vec![KeyKind::Kek, KeyKind::Guek] };
    assert_eq!(keys.exchange(mixed), ExchangeReply::Denied(Denial::Malformed), "alone");
    let begun = keys.begin(&[KeyKind::Kek]);
    let answer = meter.take(&begun.transfer.unwrap()).unwrap();
    let told = keys.report(begun.status.change, ChangeOutcome::Reply { apdu: answer });
    assert_eq!((told.status.phase, keys.active(KeyKind::Kek)), (ChangePhase::Sent, Some(1)));
    let answer = meter.take(&told.transfer.expect("the proof")).unwrap();
    let told = keys.report(begun.status.change, ChangeOutcome::Reply { apdu: answer });
    assert_eq!((told.status.phase, keys.active(KeyKind::Kek)), (ChangePhase::Activated, Some(2)));
}

#[test]
fn a_master_key_that_was_not_installed_is_found_out_under_the_old_one() {
    let (mut keys, mut meter) = (Driver::new(), Meter::new());
    let begun = keys.begin(&[KeyKind::Kek]);
    let change = begun.status.change;
    let told = keys.report(change, ChangeOutcome::NoReply);
    let refusal = meter.take(&told.transfer.expect("a proof under the new one")).unwrap();
    let told = keys.report(change, ChangeOutcome::Reply { apdu: refusal });
    let answer = meter.take(&told.transfer.expect("a proof under the old one")).unwrap();
    let told = keys.report(change, ChangeOutcome::Reply { apdu: answer });
    assert_eq!((told.status.phase, keys.active(KeyKind::Kek)), (ChangePhase::NotInstalled, Some(1)));
    assert_eq!(told.transfer, None, "before another proof the master key itself is sent again");
    let again = keys.begin(&[KeyKind::Kek]);
    assert_eq!((again.status.change, again.status.phase), (change, ChangePhase::Sent));
    assert!(meter.take(&again.transfer.unwrap()).is_some());
}

#[test]
fn a_master_key_of_a_change_that_was_given_up_is_tried_when_the_meter_refuses_the_other() {
    let (mut keys, mut meter) = (Driver::new(), Meter::new());
    let begun = keys.begin(&[KeyKind::Kek]);
    meter.take(&begun.transfer.unwrap()).unwrap();
    keys.report(begun.status.change, ChangeOutcome::NoReply);
    let lost = keys.report(begun.status.change, ChangeOutcome::Abandon);
    assert_eq!(lost.status.phase, ChangePhase::Abandoned, "and the meter has the new master key");
    let first = keys.begin(&BOTH);
    let refusal = meter.take(&first.transfer.unwrap()).unwrap();
    let told = keys.report(first.status.change, ChangeOutcome::Reply { apdu: refusal });
    assert_eq!(told.status.phase, ChangePhase::Refused);
    let second = keys.begin(&BOTH);
    let answer = meter.take(&second.transfer.unwrap()).unwrap();
    let told = keys.report(second.status.change, ChangeOutcome::Reply { apdu: answer });
    assert_eq!((told.status.phase, keys.active(KeyKind::Kek)), (ChangePhase::Activated, Some(2)));
}

#[test]
fn a_change_without_an_answer_is_settled_by_a_probe() {
    for installed in [true, false] {
        let (mut keys, mut meter) = (Driver::new(), Meter::new());
        let begun = keys.begin(&BOTH);
        if installed {
            meter.take(begun.transfer.as_ref().unwrap());
        }
        let told = keys.report(begun.status.change, ChangeOutcome::NoReply);
        assert_eq!(told.status.phase, ChangePhase::Unknown);
        keys.restart();
        let probes = keys.probes();
        assert_eq!(probes.len(), 4, "old, new, and both mixtures");
        let again = keys.exchange(KeyRequest::ProbePlan { system_title: METER });
        assert!(matches!(again, ExchangeReply::Denied(Denial::RetryLater { .. })));
        let answers: Vec<Vec<u8>> = probes.iter().filter_map(|probe| meter.answer(&probe.sealed)).collect();
        assert!(answers.len() == 1 && keys.is_fresh(answers[0].clone()));
        let expected = if installed { ChangePhase::Activated } else { ChangePhase::NotInstalled };
        let change = keys.begin(&BOTH);
        if installed {
            assert_ne!(change.status.change, begun.status.change, "that one is over");
        } else {
            assert_eq!(
                (change.status.change, change.status.attempts),
                (begun.status.change, 2),
                "{expected}"
            );
        }
    }
}

#[test]
fn probes_take_turns_when_the_budget_is_smaller_than_their_number() {
    let mut keys = Driver::new();
    for _ in 0..4 {
        let begun = keys.begin(&BOTH);
        keys.report(begun.status.change, ChangeOutcome::NoReply);
        keys.report(begun.status.change, ChangeOutcome::Abandon);
    }
    let mut tried = std::collections::BTreeSet::new();
    for _ in 0..4 {
        tried.extend(keys.probes().iter().map(|probe| probe.candidate));
        keys.now = UtcTime(keys.now.0 + 3 * 86_400);
    }
    assert_eq!(tried.len(), 25, "five versions of each");
}

#[test]
fn probes_that_may_come_after_the_one_that_was_answered_count_as_tries() {
    let mut keys = Driver::load(MemoryRecords::default(), Site::single(CLIENT), 0);
    keys.take_in(|import| Import { lockout: 5, ..import });
    let mut meter = Meter::new();
    keys.begin(&BOTH);
    let probes = keys.probes();
    assert_eq!(probes.len(), 4);
    let answer = meter.answer(&probes[0].sealed).expect("it has its old keys");
    assert!(keys.is_fresh(answer));
    keys.now = UtcTime(keys.now.0 + 3_600);
    assert_eq!(keys.probes().len(), 1, "three others may fail yet, and the fifth failure locks");
    keys.now = UtcTime(keys.now.0 + 3 * 86_400);
    assert_eq!(keys.probes().len(), 4);
}

#[test]
fn probes_begin_with_the_keys_that_were_sent_last() {
    let mut keys = Driver::new();
    for _ in 0..4 {
        let begun = keys.begin(&BOTH);
        keys.report(begun.status.change, ChangeOutcome::NoReply);
        keys.report(begun.status.change, ChangeOutcome::Abandon);
    }
    assert_eq!(keys.probes().len(), 9, "others have their turn the next time");
    keys.now = UtcTime(keys.now.0 + 3 * 86_400);
    keys.begin(&BOTH);
    let probes = keys.probes();
    assert!(probes.iter().any(|probe| (probe.sealed.version, probe.gak_version) == (6, 6)));
}

#[test]
fn the_pair_that_the_meter_uses_is_known_although_it_was_compromised() {
    let (mut keys, mut meter) = (Driver::new(), Meter::new());
    let begun = keys.begin(&BOTH);
    meter.take(&begun.transfer.unwrap()).unwrap();
    for (kind, version) in [(KeyKind::Guek, 2), (KeyKind::Gak, 2)] {
        let key = gridseal_types::service::keys::KeyRef { system_title: METER, kind, version };
        let act = gridseal_types::service::keys::KeyAct::Compromise;
        keys.exchange(KeyRequest::KeyAct { key, act, approvals: approvals(), reason: "test".into() });
    }
    assert_eq!(keys.open(meter.push()), OpenVerdict::Rejected, "nothing is read under it");
    let next = keys.begin(&BOTH);
    let answer = meter.take(&next.transfer.unwrap()).expect("sealed under what the meter has");
    let told = keys.report(next.status.change, ChangeOutcome::Reply { apdu: answer });
    assert_eq!(told.status.phase, ChangePhase::Activated);
}

#[test]
fn an_apdu_in_another_carrier_is_rejected_and_its_counter_stays_free() {
    let (mut keys, mut meter) = (Driver::new(), Meter::new());
    let general = meter.seal(&[0xC4, 1, 0xC1, 0, 9, 1, 7]);
    let inside = &general[10..];
    let carried = |tag: u8| [&[tag], inside].concat();
    let mut open = |apdu| keys.ask(KeyRequest::OpenFrom { system_title: METER, apdu });
    assert!(matches!(open(carried(0xC8)), KeyReply::Apdu(OpenVerdict::Rejected)));
    assert!(matches!(open(carried(0xCC)), KeyReply::Apdu(OpenVerdict::Fresh { .. })));
}

//= D1: open is idempotent, also across a restart
#[test]
fn seals_and_openings_are_idempotent_across_a_restart() {
    let (mut keys, mut meter) = (Driver::new(), Meter::new());
    let (first, push) = (keys.sealed(1), meter.push());
    assert!(keys.is_fresh(push.clone()));
    keys.restart();
    assert_eq!(keys.sealed(1), first);
    assert!(keys.sealed(2).counter > first.counter);
    assert!(matches!(keys.open(push.clone()), OpenVerdict::Duplicate { .. }));
    // Folded, too: rows instead of the log.
    loop {
        let writes = keys.service.fold(&keys.records, keys.now, 1).unwrap();
        if writes.is_empty() && !keys.service.is_folding() {
            break;
        }
        keys.records.commit(writes).unwrap();
    }
    let (before, next) = (keys.status(), keys.sealed(3).counter);
    keys.restart();
    assert_eq!(keys.sealed(1), first);
    assert!(matches!(keys.open(push), OpenVerdict::Duplicate { .. }));
    let after = keys.status();
    assert_eq!(after.versions[0].received, before.versions[0].received);
    assert!(keys.sealed(4).counter > next, "no counter comes again");
}

#[test]
fn an_authentication_ends_with_a_restart_and_proves_the_keys_otherwise() {
    let (mut keys, mut meter) = (Driver::new(), Meter::new());
    let mut authenticate = |keys: &mut Driver, restarts: bool| {
        let request = OpenAssociation { system_title: METER, mechanism: 5, candidate: 0 };
        let ExchangeReply::Association { association, client_to_server, .. } =
            keys.exchange(KeyRequest::OpenAssociation(request))
        else {
            panic!("no association")
        };
        let step = HlsStep::Challenge { server_to_client: vec![9; 16] };
        let pass_3 = keys.exchange(KeyRequest::ContinueHls { association, step });
        assert!(matches!(pass_3, ExchangeReply::HlsReply { .. }));
        if restarts {
            keys.restart();
        }
        let ((guek, gak), ticket) = (meter.keys(), meter.next());
        let counter = ticket.value();
        let header = apdu::Header { originator: METER, security_control: 0x10 };
        let tag = apdu::gmac(&guek, &gak, header, ticket, &client_to_server).unwrap();
        let answer = [&[0x10][..], &counter.to_be_bytes(), &tag].concat();
        keys.exchange(KeyRequest::ContinueHls { association, step: HlsStep::Answer { answer } })
    };
    assert_eq!(authenticate(&mut keys, false), ExchangeReply::HlsVerified);
    assert_eq!(authenticate(&mut keys, true), ExchangeReply::Denied(Denial::UnknownAssociation));
    assert_eq!(authenticate(&mut keys, false), ExchangeReply::HlsVerified, "it is begun again");
}

#[test]
fn a_site_whose_marker_is_lost_or_raised_serves_only_after_a_restore_by_two() {
    for marker in [None, Some(2)] {
        let mut keys = Driver::new();
        let used = keys.sealed(1);
        assert_eq!((keys.site.marker, keys.service.mode()), (Some(1), SiteMode::Active));
        keys.site.marker = marker;
        keys.restart();
        assert_eq!(keys.service.mode(), SiteMode::Outdated, "{marker:?}");
        assert_eq!(keys.get(2), ExchangeReply::Denied(Denial::Fenced { epoch: 1 }));
        let restore =
            |witness, approvals| SiteRequest::Restore { witness, changed_since: vec![METER], approvals };
        let one = vec![Approval("first".into()), Approval("first ".into())];
        assert_eq!(keys.site_act(restore(Some(1), one)), ExchangeReply::Denied(Denial::NeedsApproval));
        let promote = SiteRequest::Promote { above: 9, approvals: approvals() };
        assert_eq!(keys.site_act(promote), ExchangeReply::Denied(Denial::NoWitness));
        if marker.is_none() {
            let denied = keys.site_act(restore(None, approvals()));
            assert_eq!(denied, ExchangeReply::Denied(Denial::NoWitness));
        }
        keys.site_act(restore(Some(5), approvals()));
        assert_eq!((keys.service.mode(), keys.service.epoch()), (SiteMode::Active, 6));
        assert_eq!(keys.site.marker, Some(6));
        assert!(keys.sealed(3).counter > used.counter);
    }
}

#[test]
fn a_promoted_copy_counts_above_the_old_site_which_is_fenced_and_joined() {
    let mut first = Driver::of_two(MemoryRecords::default(), 0, None);
    first.import();
    let mut meter = Meter::new();
    first.sealed(1);
    let copy = first.records.clone();
    // Never replicated: a change that the meter takes.
    first.service.set_standby(Standby::Lost);
    assert_eq!(
        first.exchange(KeyRequest::BeginKeyChange { system_title: METER, items: BOTH.to_vec() }),
        ExchangeReply::Denied(Denial::NoStandby)
    );
    first.site_act(SiteRequest::ApproveDegraded { until: UtcTime(START.0 + 60), approvals: approvals() });
    let begun = first.begin(&BOTH);
    meter.take(&begun.transfer.unwrap()).unwrap();
    let old = first.sealed(2);

    let mut second = Driver::of_two(copy, 1, None);
    assert_eq!(second.service.mode(), SiteMode::Standby);
    second.site_act(SiteRequest::Promote { above: first.service.epoch(), approvals: approvals() });
    assert_eq!((second.service.mode(), second.site.marker), (SiteMode::Active, Some(3)));
    assert!(second.sealed(3).counter > old.counter);
    assert_eq!(second.open(meter.push()), OpenVerdict::Rejected, "it does not know the new keys");

    first.site_act(SiteRequest::Fence { epoch: 3 });
    first.restart();
    assert_eq!(first.service.mode(), SiteMode::Fenced);
    assert_eq!(first.get(4), ExchangeReply::Denied(Denial::Fenced { epoch: 3 }));
    let ExchangeReply::Rows(rows) = first.site_act(SiteRequest::Export { after: None }) else {
        panic!("rows")
    };
    let joined = second.site_act(SiteRequest::Reconcile { rows: rows.clone() });
    assert_eq!(joined, ExchangeReply::Reconciled { devices: vec![METER] });
    assert_eq!(second.durability, Durability::Replicated);
    let again = second.site_act(SiteRequest::Reconcile { rows });
    assert_eq!(again, ExchangeReply::Reconciled { devices: vec![] }, "joined once");
    assert!(second.is_fresh(meter.push()));
    assert!(meter.open(&second.sealed(5).apdu).is_some());
}

#[test]
fn a_number_that_was_given_twice_after_a_restore_names_two_keys() {
    given_twice(1);
    given_twice(2);
}

/// After the backup the site has changed the keys so many times.
fn given_twice(changes: usize) {
    let mut first = Driver::of_two(MemoryRecords::default(), 0, None);
    first.import();
    let mut meter = Meter::new();
    let backup = first.records.clone();
    let mut numbers = Vec::new();
    for _ in 0..changes {
        let begun = first.begin(&BOTH);
        let apdu = meter.take(&begun.transfer.unwrap()).unwrap();
        first.report(begun.status.change, ChangeOutcome::Reply { apdu });
        numbers.push(first.status().versions.last().unwrap().version);
    }
    let mut copy = Driver::of_two(first.records.clone(), 1, None);
    let mut restored = Driver::of_two(backup, 0, Some(9));
    restored.rng = TestRng::new("another", 0);
    restored.site_act(SiteRequest::Restore {
        witness: None,
        changed_since: vec![METER],
        approvals: approvals(),
    });
    let other = restored.begin(&BOTH);
    assert_eq!(restored.status().versions.last().map(|version| version.version), numbers.first().copied());
    restored.report(other.status.change, ChangeOutcome::NoReply);
    let ExchangeReply::Rows(rows) = copy.site_act(SiteRequest::Export { after: None }) else {
        panic!("rows")
    };
    restored.site_act(SiteRequest::Reconcile { rows });
    assert!(restored.is_fresh(meter.push()), "the key under the number of another is not lost");
}

//= S1: plain counters wait for the standby, whatever was approved
#[test]
fn plain_counters_are_not_leased_without_the_standby() {
    let mut keys = Driver::of_two(MemoryRecords::default(), 0, None);
    let Meter { mut guek, mut gak, mut kek, .. } = Meter::new();
    let import = Import {
        layout: gridseal_keys::lease::CounterLayout::Plain,
        ..Import::operating(METER, Key::take(&mut guek), Key::take(&mut gak), Key::take(&mut kek))
    };
    let decision = keys.service.import(&keys.records, START, &mut keys.rng, &import).unwrap();
    keys.site.marker = decision.marker;
    keys.records.commit(decision.writes).unwrap();
    keys.service.set_standby(Standby::Lost);
    keys.site_act(SiteRequest::ApproveDegraded { until: UtcTime(START.0 + 60), approvals: approvals() });
    for number in 1..4 {
        assert_eq!(keys.get(number), ExchangeReply::Denied(Denial::NoStandby), "{number}");
    }
    keys.service.set_standby(Standby::Reachable);
    assert_eq!((keys.sealed(4).counter, keys.durability), (0, Durability::Replicated));
    keys.service.set_standby(Standby::Lost);
    assert_eq!(keys.sealed(5).counter, 1, "what is leased may be used");
    assert_eq!(keys.get(4), ExchangeReply::Denied(Denial::NoStandby), "the lease may not have got there");
}

//= S2: what no standby has acknowledged does not leave later, either
#[test]
fn what_was_not_replicated_is_not_repeated_without_the_standby() {
    let mut keys = Driver::of_two(MemoryRecords::default(), 0, None);
    keys.import();
    let begun = keys.begin(&BOTH);
    assert!(begun.transfer.is_some() && keys.durability == Durability::Replicated);
    // The commit was durable here, and came back as unreplicated.
    keys.site.standby = Standby::Lost;
    keys.restart();
    let items = BOTH.to_vec();
    let again = keys.exchange(KeyRequest::BeginKeyChange { system_title: METER, items });
    assert_eq!(again, ExchangeReply::Denied(Denial::NoStandby));
    keys.site.standby = Standby::Reachable;
    keys.restart();
    let again = keys.begin(&BOTH);
    assert_eq!((again.transfer, keys.durability), (begun.transfer, Durability::Replicated));
}
