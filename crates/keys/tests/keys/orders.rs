//! Orders: sealed once, numbered upwards, for devices in a state for them.

use gridseal_trust::enrol::{
    cose::{Sign1, SignedType},
    order::{
        Answer, Envelope, Kind, Order, OrderBody, PollBody, ResultBody, Task, order_digest, seal_poll,
        seal_result,
    },
};
use gridseal_types::{
    N16,
    service::keys::{OrderAct, OrderRequest, SealedOrder, TunnelPurpose},
};

use super::*;

fn request(world: &World, id: u8, act: OrderAct) -> KeyRequest {
    KeyRequest::Order(OrderRequest { device: world.device_name(), id: N16([id; 16]), act })
}

fn ordered(reply: KeyReply) -> SealedOrder {
    match reply {
        KeyReply::Ordered(sealed) => sealed,
        other => panic!("{other:?}"),
    }
}

fn secret(world: &World, epoch: u32) -> Key<gridseal_crypto::role::OwnerSecret, 32> {
    owner_secret(&Key::<DeviceRootSecret, 32>::take(&mut world.made.device_root.clone()), epoch)
}

/// What a device finds in an order, and its R.
fn opened(world: &World, wire: &[u8]) -> (Order, Digest, Nonce) {
    let envelope = Envelope::decode(wire).unwrap();
    let Envelope::Order { seq, r, .. } = envelope else { panic!("{envelope:?}") };
    let body = OrderBody::decode(&envelope.open(&secret(world, 1).seal_order(seq, &r)).unwrap()).unwrap();
    let signed = Sign1::decode(&body.signed).unwrap();
    let delegation = Sign1::decode(&body.delegation).unwrap();
    let delegated = gridseal_trust::enrol::document::Delegation::decode(delegation.payload).unwrap();
    assert!(signed.verify(SignedType::Order, &delegated.key));
    (Order::decode(signed.payload).unwrap(), order_digest(signed.payload), r)
}

fn poll(world: &World, last_seq: u64) -> KeyRequest {
    let (secret, r3) = (secret(world, 1), Nonce([3; 32]));
    let body = PollBody { last_seq };
    KeyRequest::OpenPoll { wire: seal_poll(&secret.seal_poll(&r3), &secret.kid(), &r3, &body).unwrap() }
}

#[test]
fn s1_an_order_is_sealed_once_and_another_one_has_a_higher_number() {
    let mut world = onboarded();
    world.asks_twice = true;
    let suspend = request(&world, 1, OrderAct::Suspend);
    let first = ordered(world.ask_keys(suspend.clone()));
    assert_eq!(ordered(world.ask_keys(suspend)), first, "byte for byte");
    let resume = request(&world, 2, OrderAct::Resume);
    let second = ordered(world.ask_keys(resume));
    assert!(second.seq > first.seq);
    let (order, digest, r) = opened(&world, &first.wire);
    assert_eq!((order.seq, order.epoch, order.task.kind()), (first.seq, 1, Kind::Suspend));
    assert_eq!(digest, first.digest);

    // The result of each is opened, that of an order which nobody remembers is not.
    let result = |world: &World, seq, r: &Nonce, order| {
        let r2 = Nonce([7; 32]);
        let body = ResultBody { order, outcome: Ok(Answer::Suspended) };
        let key = secret(world, 1).seal_result(seq, r, &r2);
        KeyRequest::OpenResult { wire: seal_result(&key, seq, &r2, &body).unwrap() }
    };
    let answer = result(&world, first.seq, &r, digest);
    let reply = world.ask_keys(answer.clone());
    assert!(
        matches!(reply, KeyReply::Answered { device, seq, .. } if device == world.device_name() && seq == first.seq)
    );
    let unknown = result(&world, first.seq + 1_000, &r, digest);
    assert_eq!(refusal(&world.decide(unknown)), Some(Code::Unknown));
    let other_r = result(&world, first.seq, &Nonce([9; 32]), digest);
    assert_eq!(refusal(&world.decide(other_r)), Some(Code::Grant));
    for id in 3..7 {
        let more = request(&world, id, OrderAct::Suspend);
        ordered(world.ask_keys(more));
    }
    assert_eq!(refusal(&world.decide(answer)), Some(Code::Unknown), "long ago");
}

#[test]
fn s5_a_restored_backup_numbers_no_order_twice() {
    let mut world = onboarded();
    let backup = world.key_records.clone();
    let act = || OrderAct::Attest { pcr_selection: vec![1], ima_next: 0 };
    let lost: Vec<SealedOrder> = (1..4)
        .map(|id| {
            let order = request(&world, id, act());
            ordered(world.ask_keys(order))
        })
        .collect();
    let newest = lost.last().unwrap().clone();
    world.key_records = backup;
    // The device has accepted an order that nobody here knows of.
    let asked = poll(&world, newest.seq);
    assert!(matches!(world.ask_keys(asked), KeyReply::Polled { last_seq, .. } if last_seq == newest.seq));
    let again = request(&world, 1, act());
    let again = ordered(world.ask_keys(again));
    assert!(again.seq > newest.seq);
    let fresh = opened(&world, &again.wire).2;
    assert!(
        lost.iter().all(|lost| opened(&world, &lost.wire).2 != fresh),
        "no (key, nonce) pair comes twice"
    );
    // What no lost backup explains does not move the counter of the fleet.
    let nonsense = poll(&world, 1 << 62);
    assert_eq!(refusal(&world.decide(nonsense)), Some(Code::Rollback));
}

#[test]
fn orders_are_for_devices_in_a_state_for_them() {
    let mut world = onboarded();
    let device = world.device_name();
    let attested_at = device_entry(&world).attested_at;
    let renew = || OrderAct::Renew { with_storage: false };
    for (state, suspends, renews) in [
        (DeviceState::Registered, false, false),
        (DeviceState::Installing, false, false),
        (DeviceState::Suspended, true, false),
        (DeviceState::Quarantined, true, false),
        (DeviceState::Operating, true, true),
    ] {
        world.ask_keys(KeyRequest::SetState { device, state, attested_at });
        for (act, may) in [(OrderAct::Resume, suspends), (renew(), renews)] {
            let id = device_entry(&world).order_seq as u8;
            let order = request(&world, id.wrapping_add(1), act);
            let reply = world.decide(order);
            assert_eq!(matches!(reply, KeyReply::Ordered(_)), may, "{state:?}: {reply:?}");
        }
    }
    let other = KeyRequest::SetState { device, state: DeviceState::Decommissioned, attested_at };
    assert_eq!(refusal(&world.decide(other)), Some(Code::State), "a receipt alone ends an ownership");
}

#[test]
fn a28_nobody_clears_a_tpm_whose_end_was_not_ordered() {
    let mut world = onboarded();
    let endorsement = gridseal_trust::tpm::endorsement_key(&world.entry().ek_pub.0).unwrap().bytes().to_vec();
    let sessions = |purpose| OrderAct::Sessions { endorsement: endorsement.clone(), purpose };
    let clear = request(&world, 1, sessions(TunnelPurpose::Clear));
    assert_eq!(refusal(&world.decide(clear)), Some(Code::Command));
    let end = request(&world, 2, OrderAct::Decommission);
    ordered(world.ask_keys(end));
    let clear = request(&world, 3, sessions(TunnelPurpose::Clear));
    let order = ordered(world.ask_keys(clear));
    let Task::Sessions { salts, .. } = opened(&world, &order.wire).0.task else { panic!("no sessions") };
    assert_eq!(salts.len(), 1);
    let renew = request(&world, 4, sessions(TunnelPurpose::Authorisations));
    assert_eq!(refusal(&world.decide(renew)), Some(Code::Command), "it is on its way to its end");
    let mut foreign = endorsement;
    foreign.rotate_left(1);
    let foreign = OrderAct::Sessions { endorsement: foreign, purpose: TunnelPurpose::Clear };
    let foreign = request(&world, 5, foreign);
    assert_eq!(refusal(&world.decide(foreign)), Some(Code::Endorsement));
}
