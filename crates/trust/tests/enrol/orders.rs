//! The device's half of orders, against an owner that these tests play: every kind, every refusal, and power that fails
//! between any two steps.

#[path = "orders/ending.rs"]
mod ending;
#[path = "orders/kinds.rs"]
mod kinds;
#[path = "orders/owner.rs"]
mod owner;
#[path = "orders/recovery.rs"]
mod recovery;
#[path = "orders/rig.rs"]
mod rig;

use gridseal_crypto::{Key, Signer, role::DeviceRootSecret};
use gridseal_trust::enrol::{
    device::Event,
    document::Delegation,
    order::{Answer, Kind, Order, Task},
    secrets::owner_secret,
};
use gridseal_types::{Code, UtcTime};

use owner::{DEVICE_ROOT, START, signer};
use rig::Rig;

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
