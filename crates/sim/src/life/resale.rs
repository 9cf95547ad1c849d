//! A meter changes its owner, or comes to its end: the receipt, and what the former owner can still do. Nothing.

use std::cell::Cell;

use gridseal_onboarding::endpoint_manager::orders::Job;
use gridseal_trust::enrol::{device::Peer, receipt::ReceiptFile};
use gridseal_types::{
    DeviceState, Tick, UtcTime,
    records::MemoryRecords,
    service::keys::{Bytes, KeyRequest},
};

use super::{
    fleet::{Fleet, Stage, Step, asked_init, broken, found},
    report::{Fault, Rule},
    service::described,
};
use crate::works::{owner, vendor};

/// TPM_PT_PERMANENT: ownerAuthSet and lockoutAuthSet.
const OWNED: u32 = 1 | 1 << 2;
/// How long a device may take to give its owner up.
const ENDING_MS: u64 = 1_200_000;
/// How long it waits before power comes back.
const DARK_MS: u64 = 60_000;

/// What a former owner has of a meter.
#[derive(Debug, Default)]
pub(super) struct Spoils {
    /// Place of the meter at his side.
    place: usize,
    owner: usize,
    /// An order that he has signed and sealed.
    pub(super) order: Option<Vec<u8>>,
    /// A request that he has sealed and held back.
    request: Option<Vec<u8>>,
    /// His redirect, with an init server that helps him.
    init: MemoryRecords,
}

impl Fleet<'_> {
    /// The ownership of a meter ends by an order; the receipt is kept and verified.
    fn give_up(&mut self, number: usize, job: Job, spoils: &mut Spoils) -> Step {
        // In the middle power fails for some, and nobody answers before it does.
        let is_cut = self.chance.happens(500_000);
        let answers = Cell::new(if is_cut { self.chance.below(8) } else { u64::MAX });
        self.asked(number, job)?;
        let (clock, now) = (self.clock(), self.tick());
        let is_loyal = self.plan.plant == Some(Fault::OldOwner);
        let Self { meters, sides, report, .. } = self;
        let meter = &mut meters[number];
        let (owner, name) = (meter.owner, meter.device.name);
        let until = Tick(now.0 + ENDING_MS);
        let (mut exchanges, mut order) = (0_u32, None);
        let mut exchange = |at: Tick, peer, wire: Vec<u8>| {
            let at = (at, UtcTime(clock.0 + (at.0 - now.0) / 1_000));
            exchanges += 1;
            let Some(left) = answers.get().checked_sub(1) else { return Ok(None) };
            answers.set(left);
            match peer {
                // He has an init server on his side: it sends the device back to him.
                Peer::InitServer => {
                    report.count("former-owner-tried");
                    Ok(Some(asked_init(&mut spoils.init, at.1, &wire)?))
                }
                // The head-end takes it no more.
                Peer::HeadEnd => Ok(None),
                Peer::ConfigServer | Peer::FormerOwner => {
                    let reply = sides[owner].asked(&name, at, wire)?;
                    order = reply.clone().filter(|reply| reply.len() > 64).or(order.take());
                    Ok(reply)
                }
            }
        };
        let mut end = now;
        if is_cut {
            end = meter.device.fetch(now, Tick(now.0 + DARK_MS), &mut exchange)?;
            answers.set(u64::MAX);
            meter.device.boot(end)?;
            end = meter.device.run(end, until, &mut exchange)?;
        }
        if meter.device.is_operating() {
            end = meter.device.fetch(end, until, &mut exchange)?;
        }
        spoils.order = order;
        let wiped = std::mem::take(&mut meter.device.is_wiped);
        if !wiped {
            let state = sides[owner].entry(&meter.device.name).map(|entry| entry.state);
            return Err(broken(
                Rule::Receipt,
                format!("after {exchanges} messages it is not wiped, {state:?}"),
            ));
        }
        if !is_loyal {
            sides[owner].keys.wiped(meter.place);
        }
        sides[owner].keys.lost(meter.place);
        meter.stage = Stage::Gone;
        self.set_now(UtcTime(self.now.0 + (end.0 - now.0) / 1_000));
        self.receive(number)
    }

    /// The receipt is there and verifies; what is no receipt of this end does not.
    fn receive(&mut self, number: usize) -> Step {
        let keys = vendor().voucher_keys();
        let (meter, side) = self.of(number);
        let epoch = side.entry(&meter.device.name).map_or(0, |entry| entry.epoch);
        let permanent = described(&mut meter.device.root)?;
        if permanent & OWNED != 0 {
            return Err(broken(Rule::Receipt, "its TPM still has an authorisation"));
        }
        let Some(file) = side.receipt(&meter.device.name, epoch)? else {
            return Err(broken(Rule::Receipt, "there is no receipt"));
        };
        let ended = file.verify(&keys);
        let is_ours =
            ended.as_ref().is_ok_and(|ended| ended.device == meter.device.name && ended.epoch == epoch);
        if !is_ours {
            return Err(broken(Rule::Receipt, format!("its receipt does not verify: {ended:?}")));
        }
        // Of every part one bit is turned.
        let forged = |file: &ReceiptFile, part: usize| {
            let mut file = file.clone();
            let parts = [
                &mut file.receipt,
                &mut file.delegation,
                &mut file.voucher,
                &mut file.order,
                &mut file.commands,
                &mut file.response,
            ];
            if let Some(byte) = parts.into_iter().nth(part).and_then(|part| part.last_mut()) {
                *byte ^= 1;
            }
            file
        };
        if let Some(part) = (0..6).find(|part| forged(&file, *part).verify(&keys).is_ok()) {
            return Err(broken(Rule::Receipt, format!("a receipt with a false part {part} verifies")));
        }
        meter.papers.receipt = Some(file.encode());
        self.report.count_some("forged-receipts-refused", 6);
        self.report.count("receipts");
        Ok(())
    }

    /// The meter goes to the next owner.
    pub(super) fn sold(&mut self, number: usize) -> Step {
        self.connect(number)?;
        let (now, seed) = (self.clock(), self.plan.seed);
        let (meter, side) = self.of(number);
        let (seller, buyer) = (meter.owner, owner(meter.owner + 1));
        let (voucher, entry) = side.owner.sell_to(&meter.papers.voucher, buyer, now);
        let request = side.keys.sealed(meter.place).map_err(found)?;
        let mut spoils = Spoils {
            place: meter.place,
            owner: seller,
            order: None,
            request,
            init: MemoryRecords::default(),
        };
        side.register_again(&meter.papers, meter.device.name, (now, now.0 + 1), &mut spoils.init)?;
        let job = Job::Release { entry: Bytes(entry), second: Bytes(Vec::new()) };
        self.give_up(number, job, &mut spoils)?;
        if self.state_of(number) != Some(DeviceState::Released) {
            return Err(broken(Rule::Receipt, "it is sold and not released"));
        }
        self.report.count("sold");
        let (meter, _) = self.of(number);
        meter.papers.delivery = vendor().release(seed, meter.number, &voucher, buyer);
        meter.papers.voucher = voucher;
        meter.owner = seller + 1;
        meter.spoils = Some(spoils);
        self.onboard(number)
    }

    /// Everything that the former owner has, tried on a meter that has another owner now.
    pub(super) fn former_owner_tries(&mut self, number: usize) -> Step {
        let Some(spoils) = self.meters[number].spoils.take() else { return Ok(()) };
        let is_effective = |what: &str| Err(broken(Rule::OldOwner, format!("{what} of the former owner")));
        let clock = self.clock();
        let (meter, side) = self.of(number);
        let (place, name, key) = (meter.place, meter.device.name, meter.device.tls_key());
        let says = side.keys.push_of(place).map_err(found)?;
        let former = &mut self.sides[spoils.owner];
        // As if an old database had come back: for him the meter still operates.
        let back = KeyRequest::SetState { device: name, state: DeviceState::Operating, attested_at: clock };
        former.ask(back)?;
        if former.keys.opens(says.clone()).map_err(found)? {
            return is_effective("a reading is opened by the key service");
        }
        let sealed = former.keys.sealed(spoils.place).map_err(found)?;
        if key.is_some_and(|key| former.serves(&key).unwrap_or(true)) {
            return is_effective("the meter is taken by the head-end");
        }
        if former.request(&name, Job::Attest, clock)? {
            return is_effective("an order is made in the register");
        }
        for request in [spoils.request.clone(), sealed].into_iter().flatten() {
            let obeyed = self.sides[spoils.owner].keys.obeys(spoils.place, &request);
            let (_, side) = self.of(number);
            if obeyed || side.keys.obeys(place, &request) {
                return is_effective("the meter obeys a request");
            }
        }
        let (meter, side) = self.of(number);
        // What the meter has said is the new owner's all the same.
        if !side.keys.opens(says).map_err(found)? {
            return Err(broken(Rule::Reachable, "its new owner does not open its reading"));
        }
        // His order waits on the way to the meter.
        meter.spoils = Some(spoils);
        self.report.count_some("former-owner-tried", 6);
        Ok(())
    }

    /// The meter comes to its end.
    pub(super) fn ended(&mut self, number: usize) -> Step {
        if self.meters[number].stage == Stage::Serving {
            self.connect(number)?;
        }
        self.give_up(number, Job::Decommission, &mut Spoils::default())?;
        if !self.meters[number].device.is_decommissioned {
            return Err(broken(Rule::Receipt, "it has not come to rest"));
        }
        if self.state_of(number) != Some(DeviceState::Decommissioned) {
            return Err(broken(Rule::Receipt, "it is at its end and not decommissioned"));
        }
        self.report.ended += 1;
        self.report.count("decommissioned");
        Ok(())
    }
}
