//! Invariants I2, I4 and I5 of the specification, section 7.2, under any order of what operator, head-end and meter do.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

/// One thing that somebody does.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// An operator, or with `true` the head-end, asks for a change of these keys, one bit each.
    Ask(bool, u8),
    /// The head-end asks for the transfer and sends it: lost on its way, taken and the answer lost, or answered.
    Carry(u8),
    /// The head-end tells that no answer came.
    NoReply,
    /// Probes are planned, and the meter answers, or not.
    Probe(bool),
    /// The meter pushes.
    Push,
    /// The operator gives the change up.
    Abandon,
    /// `keys-core` starts again.
    Restart,
    /// Time passes, seconds.
    Wait(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (any::<bool>(), 0u8..8).prop_map(|(headend, items)| Step::Ask(headend, items)),
        4 => (0u8..3).prop_map(Step::Carry),
        2 => Just(Step::NoReply),
        2 => any::<bool>().prop_map(Step::Probe),
        2 => Just(Step::Push),
        1 => Just(Step::Abandon),
        1 => Just(Step::Restart),
        2 => (0u32..100_000).prop_map(Step::Wait),
    ];
    vec(step, 1..40)
}

fn items_of(bits: u8) -> Vec<KeyKind> {
    let kinds = [KeyKind::Guek, KeyKind::Gak, KeyKind::Kek];
    (0..3).zip(kinds).filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, kind)| kind).collect()
}

/// The service, a meter, and what was seen of changes.
struct World {
    keys: Driver,
    meter: Meter,
    /// Pairs of keys that the meter has had.
    pairs: Vec<Meter>,
    unresolved: Option<N16>,
    /// The last transfer, while nothing is known of it.
    last: Option<(N16, Sealed)>,
    /// What wraps each key of each change: change, key, master key's place among the distinct ones.
    wrapped: BTreeMap<(N16, u8), Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let meter = Meter::new();
        let pairs = vec![meter.clone()];
        let keys = Driver::new();
        Self { keys, meter, pairs, unresolved: None, last: None, wrapped: BTreeMap::new() }
    }

    /// I2: one unresolved change at most, and it is the one that is pending.
    fn check(&mut self) {
        self.unresolved = self.keys.status().change.map(|change| change.change);
        let pending = self.keys.exchange(KeyRequest::PendingChanges { after: None });
        let meters: Vec<SystemTitle> = self.unresolved.iter().map(|_| METER).collect();
        assert_eq!(pending, ExchangeReply::Pending { meters, is_last: true });
    }

    fn take(&mut self, sealed: &Sealed) -> Option<Vec<u8>> {
        let answer = self.meter.take(sealed);
        self.pairs.push(self.meter.clone());
        answer
    }

    fn ask(&mut self, is_headend: bool, items: Vec<KeyKind>) {
        let request = if is_headend {
            KeyRequest::BeginKeyChange { system_title: METER, items: items.clone() }
        } else {
            KeyRequest::PrepareKeyChange { system_title: METER, items: items.clone() }
        };
        let reply = self.keys.exchange(request);
        match (self.unresolved, reply) {
            (Some(before), ExchangeReply::Change(reply)) => {
                assert_eq!(reply.status.change, before, "I2: the one that is not resolved");
                self.look(&reply);
                assert!(is_headend || reply.transfer.is_none(), "nothing leaves by an operator's word");
            }
            (None, ExchangeReply::Change(reply)) => {
                //= I5: the master key is changed alone
                let is_alone = !reply.status.items.contains(&KeyKind::Kek) || reply.status.items.len() == 1;
                assert!(is_alone && reply.status.items == items, "I5: {items:?}");
                self.look(&reply);
            }
            (None, ExchangeReply::Denied(denial)) => {
                let is_mixed = items.contains(&KeyKind::Kek) && items.len() > 1;
                assert!(is_mixed || items.is_empty(), "{items:?}: {denial:?}");
            }
            (unresolved, other) => panic!("{unresolved:?}: {other:?}"),
        }
    }

    /// I4: a transfer is repeated byte for byte while nothing is known of it, and its keys stay wrapped as they were.
    fn look(&mut self, reply: &ChangeReply) {
        let Some(transfer) = &reply.transfer else { return };
        let change = reply.status.change;
        if let Some((of, before)) = &self.last
            && *of == change
            && reply.status.phase == ChangePhase::Sent
            && transfer.counter == before.counter
            && transfer.version == before.version
        {
            assert_eq!(transfer, before, "I4: one counter, one APDU");
        }
        self.last = Some((change, transfer.clone()));
        let plain = self.pairs.iter().find_map(|meter| meter.open(&transfer.apdu));
        let plain = plain.expect("sealed under keys that the meter has had");
        let list: Vec<(u8, &[u8])> = plain[15..].chunks(30).map(|item| (item[3], &item[6..])).collect();
        assert!(list.len() == 1 || list.iter().all(|(id, _)| *id != 3), "I5: the master key alone");
        if reply.status.items.contains(&KeyKind::Kek) && list[0].0 != 3 {
            // The proof of a master key: a fresh key for each try under another one.
            return;
        }
        for (id, wrapped) in list {
            let known = self.wrapped.entry((change, id)).or_insert_with(|| wrapped.to_vec());
            assert_eq!(known, wrapped, "I4: key {id} of a change is one key");
        }
    }

    fn carry(&mut self, how: u8) {
        let request = KeyRequest::BeginKeyChange { system_title: METER, items: vec![] };
        let ExchangeReply::Change(reply) = self.keys.exchange(request) else {
            assert_eq!(self.unresolved, None, "without a change there is nothing to go on with");
            return;
        };
        self.look(&reply);
        let (change, Some(transfer)) = (reply.status.change, reply.transfer) else { return };
        // What the meter has taken it refuses the second time, by its counter: here by not opening it any more.
        let answer = if how == 0 { None } else { self.take(&transfer) };
        if let Some(apdu) = answer.filter(|_| how == 2) {
            let outcome = ChangeOutcome::Reply { apdu };
            let reply = self.keys.exchange(KeyRequest::ReportKeyChange { change, outcome });
            let ExchangeReply::Change(reply) = reply else { panic!("{reply:?}") };
            self.look(&reply);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask(headend, bits) => self.ask(headend, items_of(bits)),
            Step::Carry(how) => self.carry(how),
            Step::NoReply => {
                if let Some(change) = self.unresolved {
                    let outcome = ChangeOutcome::NoReply;
                    if let ExchangeReply::Change(reply) =
                        self.keys.exchange(KeyRequest::ReportKeyChange { change, outcome })
                    {
                        self.look(&reply);
                    }
                }
            }
            Step::Probe(is_answered) => {
                let plan = self.keys.exchange(KeyRequest::ProbePlan { system_title: METER });
                let ExchangeReply::Probes(probes) = plan else { return };
                let answers: Vec<Vec<u8>> =
                    probes.iter().filter_map(|probe| self.meter.answer(&probe.sealed)).collect();
                answers.into_iter().filter(|_| is_answered).for_each(|apdu| drop(self.keys.open(apdu)));
            }
            Step::Push => {
                let apdu = self.meter.push();
                assert!(self.keys.is_fresh(apdu), "the meter is heard under whatever keys it has");
            }
            Step::Abandon => {
                if let Some(change) = self.unresolved {
                    let outcome = ChangeOutcome::Abandon;
                    self.keys.exchange(KeyRequest::ReportKeyChange { change, outcome });
                }
            }
            Step::Restart => self.keys.restart(),
            Step::Wait(seconds) => self.keys.now.0 += u64::from(seconds),
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    //= DLMS 12.18: one key change of a meter at a time, whoever asks for another
    #[test]
    fn i2_i4_i5_hold_in_any_order_of_requests_losses_and_restarts(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
    }
}
