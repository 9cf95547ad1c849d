//! The claim of a meter with its manufacturer's keys, with one mishap at each of its messages.

use std::collections::BTreeMap;

use gridseal_types::{
    DeviceState,
    service::keys::{ClaimState, ClaimStep, KeyOrigin},
};

use super::*;

/// What goes wrong at one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    /// It does not reach the meter.
    RequestLost,
    /// The meter's answer does not come back.
    AnswerLost,
    /// The key service dies, and whoever carries has to begin again.
    KeysDie,
}

const MISHAPS: [Mishap; 3] = [Mishap::RequestLost, Mishap::AnswerLost, Mishap::KeysDie];

struct World {
    keys: Driver,
    meter: Meter,
    mishap: Option<(usize, Mishap)>,
    messages: usize,
    /// Rule S1: what each counter of each key covers.
    nonces: BTreeMap<(u32, u32), Vec<u8>>,
    /// It will still answer under the keys that it came with when it is asked to show, and does so.
    will_keep_factory_keys: bool,
    keeps_factory_keys: bool,
}

impl World {
    fn new(mishap: Option<(usize, Mishap)>) -> Self {
        let mut keys = Driver::load(MemoryRecords::default(), Site::single(CLIENT), 7);
        keys.take_in(|import| Import {
            origin: KeyOrigin::Vendor,
            state: DeviceState::Installing,
            claim: ClaimState::InStock,
            ..import
        });
        let nonces = BTreeMap::new();
        Self {
            keys,
            meter: Meter::new(),
            mishap,
            messages: 0,
            nonces,
            will_keep_factory_keys: false,
            keeps_factory_keys: false,
        }
    }

    /// A message to the meter and back.
    fn send<T>(&mut self, sealed: &Sealed, act: impl FnOnce(&mut Meter) -> Option<T>) -> Option<T> {
        let known =
            self.nonces.entry((sealed.version, sealed.counter)).or_insert_with(|| sealed.apdu.clone());
        assert_eq!(*known, sealed.apdu, "S1");
        let mishap = self.mishap.filter(|(at, _)| *at == self.messages).map(|(_, mishap)| mishap);
        self.messages += 1;
        if mishap == Some(Mishap::RequestLost) {
            return None;
        }
        let answer = act(&mut self.meter);
        match mishap {
            Some(Mishap::AnswerLost) => None,
            Some(Mishap::KeysDie) => {
                self.keys.restart();
                None
            }
            _ => answer,
        }
    }

    /// Asks, and waits as long as is denied.
    fn ask(&mut self, request: &KeyRequest) -> ExchangeReply {
        loop {
            match self.keys.exchange(request.clone()) {
                ExchangeReply::Denied(Denial::RetryLater { at }) => self.keys.now = UtcTime(at.0 + 1),
                other => return other,
            }
        }
    }

    fn associate(&mut self, candidate: u8) -> bool {
        let request = OpenAssociation { system_title: METER, mechanism: 5, candidate };
        let ExchangeReply::Association { association, client_to_server, .. } =
            self.ask(&KeyRequest::OpenAssociation(request))
        else {
            return false;
        };
        let step = HlsStep::Initiate { apdu: vec![1, 0, 0, 0, 6] };
        let ExchangeReply::Sealed(initiate) =
            self.keys.exchange(KeyRequest::ContinueHls { association, step })
        else {
            panic!("no initiate-request")
        };
        assert_eq!(initiate.apdu[0], 0x21);
        self.nonces.insert((initiate.version, initiate.counter), initiate.apdu);
        let step = HlsStep::Challenge { server_to_client: vec![9; 16] };
        let ExchangeReply::HlsReply { sealed, .. } =
            self.keys.exchange(KeyRequest::ContinueHls { association, step })
        else {
            panic!("no pass 3")
        };
        let keeps = self.keeps_factory_keys;
        let answer = self.send(&sealed, |meter| {
            let mut factory = Meter { sent: meter.sent + 1_000, ..Meter::new() };
            let meter = if keeps && meter.open(&sealed.apdu).is_none() { &mut factory } else { meter };
            meter.open(&sealed.apdu)?;
            let ((guek, gak), ticket) = (meter.keys(), meter.next());
            let counter = ticket.value();
            let header = apdu::Header { originator: METER, security_control: 0x10 };
            let tag = apdu::gmac(&guek, &gak, header, ticket, &client_to_server).unwrap();
            Some([&[0x10][..], &counter.to_be_bytes(), &tag].concat())
        });
        let Some(answer) = answer else { return false };
        let step = HlsStep::Answer { answer };
        self.keys.exchange(KeyRequest::ContinueHls { association, step }) == ExchangeReply::HlsVerified
    }

    /// Whether a connection stands under the pair in use.
    fn reach(&mut self) -> bool {
        (0..4).find(|candidate| self.associate(*candidate)) == Some(0)
    }

    fn change(&mut self, reply: ChangeReply) {
        if !self.reach() {
            return;
        }
        let change = reply.status.change;
        let (mut transfer, mut is_acknowledged) = (reply.transfer, false);
        let mut transfers = 0;
        while let Some(sealed) = transfer.take() {
            transfers += 1;
            let status = self.keys.status();
            assert!(transfers < 6, "{:?}, message {}: {status:?}", self.mishap, self.messages);
            let answer = self.send(&sealed, |meter| meter.take(&sealed));
            is_acknowledged = answer.is_some();
            let outcome = answer.map_or(ChangeOutcome::NoReply, |apdu| ChangeOutcome::Reply { apdu });
            match self.keys.exchange(KeyRequest::ReportKeyChange { change, outcome }) {
                ExchangeReply::Change(reply) => {
                    is_acknowledged &= !reply.status.phase.is_resolved();
                    transfer = reply.transfer;
                }
                ExchangeReply::Denied(Denial::Rejected) => is_acknowledged = false,
                other => panic!("{other:?}"),
            }
        }
        if is_acknowledged {
            self.associate(1);
        }
    }

    /// Until nothing is left to be done; the number of steps.
    fn claim(&mut self) -> Result<usize, ClaimStep> {
        for steps in 0..40 {
            let step = match self.ask(&KeyRequest::Claim { system_title: METER }) {
                ExchangeReply::Claim(step) => step,
                other => panic!("{other:?}"),
            };
            self.keeps_factory_keys = self.will_keep_factory_keys && matches!(step, ClaimStep::Show { .. });
            match step {
                ClaimStep::Contact => drop(self.reach()),
                ClaimStep::Change(reply) => self.change(reply),
                ClaimStep::Show { candidate } if self.associate(candidate) => {
                    return Err(ClaimStep::Show { candidate });
                }
                ClaimStep::Show { .. } => drop(self.reach()),
                ClaimStep::Closed { .. } => return Ok(steps),
                other => panic!("{other:?}"),
            }
        }
        panic!("not claimed: {:?}", self.keys.status());
    }

    fn assert_claimed(&mut self) {
        let status = self.keys.status();
        assert_eq!((status.claim, status.state), (ClaimState::Claimed, DeviceState::Operating));
        for kind in KeyKind::ALL {
            let active =
                status.versions.iter().find(|one| one.kind == kind && one.state == VersionState::Active);
            assert_eq!(active.unwrap().origin, KeyOrigin::Operator, "{kind:?}");
        }
        let sealed = self.keys.sealed(9);
        assert!(self.meter.open(&sealed.apdu).is_some(), "the meter is reached under its new keys");
        let ExchangeReply::History(history) =
            self.keys.exchange(KeyRequest::KeyHistory { system_title: METER })
        else {
            panic!("no history")
        };
        let of = |act: &str| history.iter().filter(|entry| entry.act == act).count();
        assert_eq!((of("claim.claimed"), of("claim.factory-closed"), of("claim.factory-open")), (1, 1, 0));
    }
}

#[test]
fn a_claim_replaces_all_keys_and_shows_the_factory_s_closed() {
    let mut world = World::new(None);
    assert_eq!(world.claim(), Ok(4), "contact, two changes, the proof of closing");
    world.assert_claimed();
    assert_eq!(world.claim(), Ok(0), "nothing is left to be done");
}

#[test]
fn s3_a_claim_ends_well_whatever_is_lost_or_dies_at_whichever_message() {
    let mut world = World::new(None);
    assert!(world.claim().is_ok());
    let messages = world.messages;
    for mishap in MISHAPS {
        for at in 0..messages {
            let mut world = World::new(Some((at, mishap)));
            assert!(world.claim().is_ok(), "{mishap:?} at {at}");
            world.assert_claimed();
        }
    }
}

#[test]
fn factory_keys_that_still_open_the_meter_are_found_and_told() {
    let mut world = World::new(None);
    world.will_keep_factory_keys = true;
    let open = world.claim();
    assert!(matches!(open, Err(ClaimStep::Show { .. })), "{open:?}");
    let history = world.keys.exchange(KeyRequest::KeyHistory { system_title: METER });
    let ExchangeReply::History(history) = history else { panic!("no history") };
    assert!(history.iter().any(|entry| entry.act == "claim.factory-open"));
    // That an answer under the owner's keys came before is no proof: only one to a later challenge is.
    world.reach();
    let step = world.ask(&KeyRequest::Claim { system_title: METER });
    assert!(!matches!(step, ExchangeReply::Claim(ClaimStep::Closed { .. })), "{step:?}");
}

#[test]
fn before_its_claim_nothing_is_read_from_a_meter_and_one_with_a_root_of_trust_has_none() {
    let mut world = World::new(None);
    let push = world.meter.push();
    assert!(matches!(world.keys.open(push), OpenVerdict::Rejected));
    assert!(matches!(world.keys.get(1), ExchangeReply::Denied(Denial::StateForbids)));
    let dedicated = HlsStep::Initiate { apdu: vec![1, 1, 16, 0, 0] };
    let request = OpenAssociation { system_title: METER, mechanism: 5, candidate: 0 };
    let ExchangeReply::Association { association, .. } =
        world.keys.exchange(KeyRequest::OpenAssociation(request))
    else {
        panic!("no association")
    };
    let refused = world.keys.exchange(KeyRequest::ContinueHls { association, step: dedicated });
    assert_eq!(refused, ExchangeReply::Denied(Denial::PolicyDenied), "no key comes from outside");
}
