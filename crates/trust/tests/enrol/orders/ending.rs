//! Release and decommissioning, with power that fails between any two steps.

use gridseal_crypto::{SigningKey, role::OwnerSigning};
use gridseal_trust::{
    enrol::{
        cose::{SignedType, sign},
        device::{DeviceRecord, Input, OFFER_TIME},
        document::{EntryKind, Redirect},
        init::SignedRedirect,
        order::{Answer, Kind, Task},
    },
    root::OwnerPin,
};
use gridseal_types::{Code, Digest, UtcTime};

use super::owner::{FRESH, START, signer, vendor};
use super::rig::{Cut, Rig};

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
pub(super) fn end(cut_at: Option<(usize, Cut)>, kind: Kind) -> (Rig, bool) {
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
