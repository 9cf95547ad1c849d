//! The issuer through crashes between decision, durable account and token: no identifier twice, no request twice.

use std::collections::{BTreeMap, BTreeSet};

use gridseal_sts::{
    identity::{KeyAttributes, KeyExpiryNumber, KeyRevisionNumber, KeyType, SupplyGroupCode, TariffIndex},
    issuer::{Account, Issued, Order, Request, RequestId},
    tid::BaseDate,
    token::Commodity,
};
use gridseal_types::UtcTime;

use crate::meter::Draws;

fn attributes(krn: u8) -> KeyAttributes {
    KeyAttributes {
        key_type: KeyType::Unique,
        supply_group: SupplyGroupCode::new(201_457).unwrap(),
        tariff_index: TariffIndex::new(1).unwrap(),
        revision: KeyRevisionNumber::new(krn).unwrap(),
        expiry: KeyExpiryNumber(255),
        base: BaseDate::Y2014,
    }
}

/// What is on disk, and what has left.
struct World {
    durable: Account,
    left: BTreeMap<[u8; 16], Issued>,
    identifiers: BTreeSet<(u8, u32)>,
}

impl World {
    /// One call of a shell; `crash` says after which of its three steps it dies: decided, durable, token sent.
    fn ask(&mut self, request: Request, now: UtcTime, crash: u64) {
        let Ok((account, issued)) = self.durable.issue(request, now) else { return };
        if crash == 0 {
            return;
        }
        if let Some(account) = account {
            self.durable = account;
        }
        if crash == 1 {
            return;
        }
        let known = self.left.insert(request.id.0, issued);
        assert!(known.is_none_or(|known| known == issued), "a repeated request gets the same token");
        if known.is_none() {
            let tid = issued.content.tid().unwrap().bits();
            assert!(
                self.identifiers.insert((request.attributes.base.code().as_bytes()[0], tid)),
                "{tid} twice"
            );
        }
    }
}

#[test]
fn no_identifier_and_no_request_is_given_out_twice_over_crashes_and_retries() {
    for seed in 0..40 {
        let mut draws = Draws(seed);
        let mut world = World {
            durable: Account::new(attributes(1)),
            left: BTreeMap::new(),
            identifiers: BTreeSet::new(),
        };
        let mut now = 1_795_608_000u64;
        let mut asked: Vec<Request> = Vec::new();
        for number in 0..400u64 {
            // A clock that goes on, stands, and is now and then set back.
            now = if draws.below(20) == 0 { now - draws.below(300) } else { now + draws.below(90) };
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            let krn = world.durable.pending.unwrap_or(world.durable.attributes).revision.value();
            let krn = if draws.below(50) == 0 && krn < 9 { krn + 1 } else { krn };
            let request = Request {
                id: RequestId(id),
                order: Order::Credit(Commodity::Electricity, draws.below(1_000) as i64),
                random: draws.below(16) as u8,
                attributes: attributes(krn),
            };
            asked.push(request);
            world.ask(request, UtcTime(now), draws.below(3));
            // Retries of this one and of any earlier one, remembered or not.
            for _ in 0..2 {
                let again = asked[draws.below(asked.len() as u64) as usize];
                world.ask(again, UtcTime(now), draws.below(3));
            }
            if let Some(pending) = world.durable.pending.filter(|_| draws.below(30) == 0) {
                world.durable = world.durable.confirm(&pending).unwrap();
            }
        }
        assert!(world.left.len() > 150, "{} tokens left", world.left.len());
    }
}
