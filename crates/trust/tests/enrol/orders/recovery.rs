//! Recovery: the owner has vanished, and somebody holds the button.

use gridseal_crypto::{
    Key, SecondSigner, Signer, SigningKey,
    role::{
        DeviceRootSecret, OwnerSecond, OwnerSigning, RecoverySecond, RecoverySigning, Role, VoucherSigning,
    },
};
use gridseal_trust::{
    enrol::{
        cose::{SignedType, sign},
        device::{Event, Input},
        document::{Entry, EntryKind, Redirect},
        init::SignedRedirect,
        order::{Kind, Task},
        secrets::{OwnerSecretExt, owner_secret},
        voucher::{RecoveryKey, Voucher, VoucherKey},
        voucher_log::LogHead,
        witness::WitnessPolicy,
    },
    root::{OwnerPin, RootRequest},
};
use gridseal_types::{Code, Digest, Tick, UtcTime};

use super::{
    ending::end,
    owner::{DEVICE_ROOT, FRESH, OWNED, START, perform, second, signer, vendor},
    rig::{Cut, Rig},
};

fn next_owner() -> SigningKey<OwnerSigning> {
    signer("next owner")
}

/// A voucher with one more entry of this kind, for the next owner, signed by whom the caller says.
fn extended<R: Role, S: Role>(
    voucher: &Voucher,
    kind: EntryKind,
    (key, second_key): (&SigningKey<R>, Option<&SecondSigner<S>>),
) -> Voucher {
    let epoch = voucher.verify(&[vendor()]).unwrap().epoch + u32::from(kind != EntryKind::Rekey);
    let next = next_owner().public();
    let entry = Entry {
        index: 0,
        epoch,
        kind,
        previous: Digest([0; 32]),
        owner: next,
        encryption: next,
        issued: START,
        second_key: None,
        owner_second: Some(Digest(second::<OwnerSecond>("owner second").public().id())),
    };
    let mut voucher = voucher.clone();
    voucher.extend(entry, key, second_key).unwrap();
    voucher
}

fn recovered(voucher: &Voucher) -> Voucher {
    let seconds = second::<RecoverySecond>("recovery second");
    extended(voucher, EntryKind::Recovery, (&signer::<RecoverySigning>("recovery"), Some(&seconds)))
}

/// The redirect of the owner that a voucher names.
fn redirected(rig: &Rig, voucher: &Voucher, to: &SigningKey<OwnerSigning>, epoch: u32) -> SignedRedirect {
    let redirect = Redirect {
        ek_name: rig.owner.ek_name,
        epoch,
        urls: vec!["https://config.example".into()],
        pins: vec![Digest([3; 32])],
        not_before: START,
        expires: UtcTime(START.0 + 1_000_000),
        seq: 7,
    };
    SignedRedirect {
        redirect: sign(to, SignedType::Redirect, &redirect.encode()).unwrap(),
        delegation: None,
        voucher: voucher.encode(),
    }
}

/// A device of an owner who has vanished, whose init server knows the next one.
fn orphan() -> Rig {
    let mut rig = Rig::new();
    (rig.is_headend_up, rig.is_config_up) = (false, false);
    let voucher = recovered(&rig.owner.voucher);
    rig.redirect = Some(redirected(&rig, &voucher, &next_owner(), 2));
    rig
}

/// Holds the button while power comes.
fn hold_the_button(rig: &mut Rig) {
    rig.root.power_cut();
    rig.button = true;
    rig.power_on();
}

/// Runs until the device is where it was, and checks that nothing has changed.
fn is_refused(rig: &mut Rig, code: Code) {
    let before = rig.record();
    rig.events.clear();
    for _ in 0..2_000 {
        if !rig.step() || (rig.device.state_name() == "operating" && rig.refusals().contains(&code)) {
            break;
        }
    }
    assert_eq!(rig.refusals().first(), Some(&code), "{:?} {:?}", rig.device, rig.events);
    let now = rig.record();
    assert_eq!((now.installed, now.keys, now.recovery), (before.installed, before.keys, None));
    assert_eq!((rig.wiped, rig.hello), (0, None));
    let description = rig.description();
    assert_eq!((description.epoch, description.permanent), (1, OWNED));
}

fn pin_of(voucher: &Voucher) -> OwnerPin {
    let verified = voucher.verify(&[vendor()]).unwrap();
    OwnerPin { index: verified.index(), generation: 0, entry: verified.head() }
}

/// A recovery with power that fails once; whether it did.
fn recover(cut_at: Option<(usize, Cut)>) -> (Rig, bool) {
    let mut rig = orphan();
    rig.cut_at = cut_at;
    hold_the_button(&mut rig);
    rig.steps = 0;
    for _ in 0..2_000 {
        if rig.hello.is_some() {
            break;
        }
        // Until the recovery is on record somebody has to hold the button again.
        if rig.device.state_name() == "operating" {
            hold_the_button(&mut rig);
        }
        rig.step();
    }
    let n_2 = owner_secret(&Key::<DeviceRootSecret, 32>::take(&mut DEVICE_ROOT.clone()), 2);
    assert_eq!(rig.hello, Some(n_2.kid()), "{cut_at:?}: {:?} {:?}", rig.device, rig.events);
    let (record, description) = (rig.record(), rig.description());
    assert_eq!((description.epoch, description.permanent), (2, FRESH), "{cut_at:?}");
    assert_eq!((record.installed.is_none(), record.recovery), (true, None), "{cut_at:?}");
    assert_eq!(record.orders, Default::default(), "{cut_at:?}");
    assert!(rig.wiped >= 1, "{cut_at:?}");
    // The next owner becomes the pin when it has shown that it has the new secret.
    assert_eq!(description.pin.map(|pin| pin.index), Some(1), "{cut_at:?}");
    let is_hit = rig.cut_at.is_none();
    (rig, is_hit)
}

#[test]
fn onboarding_7_5_with_the_button_held_a_recovery_entry_leads_to_the_next_owner() {
    let (rig, _) = recover(None);
    for event in [Event::RecoveryAccepted, Event::Recovered] {
        assert!(rig.events.contains(&event), "{:?}", rig.events);
    }
    assert_eq!(rig.refusals(), []);
}

#[test]
fn a_recovery_survives_a_power_cut_between_any_two_steps() {
    let (rig, _) = recover(None);
    let steps = rig.steps;
    assert!(steps > 10, "{steps}");
    for at in 1..=steps {
        for cut in [Cut::Before, Cut::After] {
            let (_, is_hit) = recover(Some((at, cut)));
            assert!(is_hit || at > steps - 2, "step {at} {cut:?} was not reached");
        }
    }
}

#[test]
fn without_the_button_nothing_is_recovered() {
    let mut rig = orphan();
    rig.fetch();
    rig.device.handle(rig.now, Input::OwnerLost).unwrap();
    is_refused(&mut rig, Code::State);
    // Nor when the time of the button is over.
    let mut rig = orphan();
    let redirect = rig.redirect.take();
    hold_the_button(&mut rig);
    let began = rig.now;
    rig.fetch_until(|rig| rig.device.state_name() == "operating");
    assert!(rig.now.since(began) < core::time::Duration::from_secs(3_600));
    rig.redirect = redirect;
    rig.now = Tick(rig.now.0 + 600_000);
    rig.device.handle(rig.now, Input::OwnerLost).unwrap();
    is_refused(&mut rig, Code::State);
    // The root has kept nothing: it was not started for a recovery.
    rig.root.power_cut();
    assert!(gridseal_trust::root::DeviceRoot::perform(&mut rig.root, RootRequest::Clear).is_err());
}

#[test]
fn the_button_alone_changes_nothing() {
    let mut rig = orphan();
    let voucher = rig.owner.voucher.clone();
    rig.redirect = Some(redirected(&rig, &voucher, &rig.owner.key, 1));
    hold_the_button(&mut rig);
    is_refused(&mut rig, Code::State);
    assert_eq!(rig.device.state_name(), "operating");
}

#[test]
fn a_device_at_its_end_stays_there_unless_it_is_recovered() {
    let (mut rig, _) = end(None, Kind::Decommission);
    let sold = rig.owner.voucher.clone();
    rig.redirect = Some(redirected(&rig, &sold, &rig.owner.key, 1));
    rig.events.clear();
    hold_the_button(&mut rig);
    for _ in 0..200 {
        rig.step();
    }
    assert_eq!((rig.refusals(), rig.hello), (vec![Code::State], None));
    assert_eq!(rig.device.state_name(), "decommissioned");
    rig.redirect = Some(redirected(&rig, &recovered(&sold), &next_owner(), 2));
    hold_the_button(&mut rig);
    for _ in 0..200 {
        rig.step();
    }
    assert!(rig.hello.is_some(), "{:?}", rig.events);
}

#[test]
fn a_recovery_entry_is_signed_by_both_recovery_keys_and_no_other() {
    let mut rig = orphan();
    let seconds = second::<RecoverySecond>("recovery second");
    let (recovery, vendor_key) = (signer::<RecoverySigning>("recovery"), signer::<VoucherSigning>("vendor"));
    let kind = EntryKind::Recovery;
    let none = None::<&SecondSigner<RecoverySecond>>;
    let other = second::<RecoverySecond>("another second");
    let sold = &rig.owner.voucher.clone();
    let forged = [
        extended(sold, kind, (&vendor_key, Some(&seconds))),
        extended(sold, kind, (&rig.owner.key, Some(&seconds))),
        extended(sold, kind, (&signer::<RecoverySigning>("another"), Some(&seconds))),
        extended(sold, kind, (&recovery, none)),
        extended(sold, kind, (&recovery, Some(&other))),
        // What a recovery key signs is a recovery, not a sale.
        extended(sold, EntryKind::Transfer, (&recovery, Some(&seconds))),
    ];
    for voucher in forged {
        assert_eq!(voucher.verify(&[vendor()]).err(), Some(Code::Voucher));
        rig.redirect = Some(redirected(&rig, &voucher, &next_owner(), 2));
        hold_the_button(&mut rig);
        is_refused(&mut rig, Code::Voucher);
    }
    // Who trusts no recovery key takes no recovery; nobody recovers what was never sold.
    let voucher = recovered(sold);
    assert!(voucher.verify(&[vendor()]).unwrap().is_recovered());
    let without = VoucherKey { recovery: None, ..vendor() };
    assert_eq!(voucher.verify(&[without]).err(), Some(Code::Voucher));
    let mut unsold = sold.clone();
    unsold.entries.clear();
    unsold.second.truncate(1);
    assert_eq!(recovered(&unsold).verify(&[vendor()]).err(), Some(Code::Voucher));
}

#[test]
fn a_recovery_of_another_chain_is_refused_by_the_pin() {
    let mut rig = orphan();
    let resold = extended(
        &rig.owner.voucher,
        EntryKind::Rekey,
        (&rig.owner.key, Some(&second::<OwnerSecond>("owner second"))),
    );
    perform(&mut rig.root, RootRequest::WritePin(pin_of(&resold)));
    hold_the_button(&mut rig);
    is_refused(&mut rig, Code::Pin);
}

#[test]
fn a_recovery_beside_a_release_on_record_is_a_fork_and_one_after_it_is_taken() {
    let release = |rig: &mut Rig| {
        rig.is_config_up = true;
        let (entry, second, voucher) = rig.owner.entry(EntryKind::Transfer, &signer("buyer"));
        rig.owner.order(Task::Release { entry, second });
        rig.fetch_until(|rig| rig.record().orders.ending.is_some());
        rig.is_config_up = false;
        voucher
    };
    let mut rig = orphan();
    release(&mut rig);
    hold_the_button(&mut rig);
    rig.events.clear();
    for _ in 0..200 {
        rig.step();
    }
    assert!(rig.refusals().contains(&Code::Fork), "{:?}", rig.events);
    assert_eq!((rig.wiped, rig.hello, rig.description().epoch), (0, None, 1));

    // The seller vanished in the middle of it: the buyer is recovered from, too.
    let mut rig = orphan();
    let sold = release(&mut rig);
    let voucher = recovered(&sold);
    rig.redirect = Some(redirected(&rig, &voucher, &next_owner(), 3));
    hold_the_button(&mut rig);
    for _ in 0..400 {
        if rig.hello.is_some() {
            break;
        }
        rig.step();
    }
    let n_3 = owner_secret(&Key::<DeviceRootSecret, 32>::take(&mut DEVICE_ROOT.clone()), 3);
    assert_eq!((rig.hello, rig.description().epoch), (Some(n_3.kid()), 3), "{:?}", rig.events);
}

#[test]
fn after_a_recovery_the_owner_before_and_the_entry_played_again_are_refused() {
    let (mut rig, _) = recover(None);
    let old = rig.owner.voucher.clone();
    rig.redirect = Some(redirected(&rig, &old, &rig.owner.key, 1));
    // Nobody answers its C1: it asks the init server again, which a former owner has in its hands.
    for _ in 0..2_000 {
        if rig.refusals().contains(&Code::EpochMismatch) {
            break;
        }
        rig.step();
    }
    assert!(rig.refusals().contains(&Code::EpochMismatch), "{:?}", rig.events);
    // Two owners later the recovery is long past, button or not.
    let voucher = recovered(&old);
    let later = extended(
        &voucher,
        EntryKind::Transfer,
        (&next_owner(), Some(&second::<OwnerSecond>("owner second"))),
    );
    perform(&mut rig.root, RootRequest::WritePin(pin_of(&later)));
    perform(&mut rig.root, RootRequest::RaiseEpoch);
    rig.events.clear();
    rig.redirect = Some(redirected(&rig, &voucher, &next_owner(), 2));
    hold_the_button(&mut rig);
    for _ in 0..200 {
        rig.step();
    }
    assert!(rig.refusals().contains(&Code::EpochMismatch), "{:?}", rig.events);
    assert!(!rig.events.contains(&Event::RecoveryAccepted));
}

/// Vouchers and a witness's word that an independent script has signed.
#[test]
fn a_recovery_entry_that_others_have_signed_verifies() {
    let text = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/onboarding/gso_recovery.toml"
    ));
    let table: toml::Table = text.parse().unwrap();
    let value = |name: &str| hex::decode(table["value"][name].as_str().unwrap()).unwrap();
    let public = |name: &str| {
        let mut scalar: [u8; 32] = value(&format!("{name}_key_d")).try_into().unwrap();
        SigningKey::<OwnerSigning>::new(&Key::take(&mut scalar)).unwrap().public()
    };
    let hash = |name: &str| Some(Digest(gridseal_crypto::sha256(&[&value(name)])));
    let recovery = RecoveryKey { key: public("recovery"), second: hash("recovery_second") };
    let trusted =
        VoucherKey { key: public("voucher"), second: hash("voucher_second"), recovery: Some(recovery) };
    let verified = Voucher::decode(&value("voucher")).unwrap().verify(&[trusted]).unwrap();
    assert_eq!((verified.owner(), verified.epoch, verified.is_recovered()), (Some(public("next")), 2, true));
    assert_eq!(verified.head().as_bytes().to_vec(), value("voucher_head"));
    let once =
        VoucherKey { second: None, recovery: Some(RecoveryKey { second: None, ..recovery }), ..trusted };
    assert!(Voucher::decode(&value("plain")).unwrap().verify(&[once]).is_ok());
    // Who trusts several recovery keys names the voucher key once for each.
    let other = VoucherKey { recovery: Some(RecoveryKey { key: public("owner"), second: None }), ..once };
    assert!(Voucher::decode(&value("plain")).unwrap().verify(&[other, once]).is_ok());
    assert_eq!(Voucher::decode(&value("plain")).unwrap().verify(&[other]).err(), Some(Code::Voucher));
    for name in ["vendor", "owner", "first", "epoch", "sale", "unknown"] {
        let voucher = Voucher::decode(&value(&format!("refused_{name}"))).unwrap();
        assert_eq!(voucher.verify(&[once]).err(), Some(Code::Voucher), "{name}");
    }
    let head = LogHead::verify(&value("log_head"), &[trusted]).unwrap();
    let policy = WitnessPolicy { witnesses: vec![public("witness")], required: 1 };
    assert_eq!(policy.check(&head, &[value("witness_word")]).map(|seen| seen.len()), Ok(1));
    assert_eq!(policy.check(&head, &[value("witness_other_word")]), Err(Code::Fork));
}
