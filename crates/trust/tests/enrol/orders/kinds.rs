//! What an order of each kind makes of a device.

use gridseal_crypto::{SigningKey, role::OwnerSigning};
use gridseal_trust::{
    csr::parse_csr,
    enrol::{
        document::EntryKind,
        order::{
            Answer, Order, QUOTE_PURPOSE, RENEWED_STORAGE_PURPOSE, RENEWED_TLS_PURPOSE, Task, order_digest,
        },
        session::{Config, config_digest, qualifying},
    },
    root::{DeviceRoot, OwnerPin, RootRequest},
    tpm::{self, attest},
};
use gridseal_types::{Code, UtcTime};

use super::owner::{OWNED, START, signer, vendor};
use super::rig::{Rig, attestation, wrapped};

#[test]
fn a_quote_answers_its_order_and_no_other() {
    let mut rig = Rig::new();
    let pcr_selection = tpm::pcr_selection(&[0, 7]);
    let task = Task::Attest { pcr_selection: pcr_selection.clone(), ima_next: 0 };
    let answer = rig.give(task).unwrap();
    let Answer::Attested { quote, permanent, platform_open, .. } = answer else { panic!("{answer:?}") };
    assert_eq!((permanent, platform_open), (OWNED, false));
    let keys = rig.record().keys.unwrap();
    let payload = Order {
        ek_name: rig.owner.ek_name,
        epoch: 1,
        seq: rig.owner.seq,
        task: Task::Attest { pcr_selection: pcr_selection.clone(), ima_next: 0 },
        now: START,
    };
    let digest = order_digest(&payload.encode());
    let verified = |purpose| {
        attest::verify_quote(&quote, &attestation(&keys), &qualifying(purpose, &digest), &pcr_selection, None)
    };
    assert!(verified(QUOTE_PURPOSE).is_ok());
    assert_eq!(verified(4), Err(Code::Quote));
}

#[test]
fn a_provision_order_replaces_the_configuration_and_its_secrets_at_once() {
    let mut rig = Rig::new();
    let before = rig.record();
    let keys = before.keys.clone().unwrap();
    let tls = tpm::tls_key(&keys.tls.public).unwrap();
    let objects = wrapped(&mut rig.rng, &keys.storage.public);
    let names: Vec<_> = objects.iter().map(|object| tpm::name(&object.public)).collect();
    let config = rig.config(&tls, objects.clone());
    let payload = |rig: &Rig, config: &Config| {
        Order {
            ek_name: rig.owner.ek_name,
            epoch: 1,
            seq: rig.owner.seq,
            task: Task::Provision(Box::new(config.clone())),
            now: START,
        }
        .encode()
    };
    let answer = rig.give(Task::Provision(Box::new(config.clone())));
    assert_eq!(answer, Ok(Answer::Provisioned(names)));
    let installed = rig.record().installed.unwrap();
    assert_eq!(installed.digest, config_digest(&payload(&rig, &config)));
    assert_eq!((installed.policy_version, installed.confirmed, installed.is_counting), (2, true, false));
    assert_eq!(installed.terminus_urls, ["tls://other.example:4059"]);

    // One without secrets keeps those, and the counter that they have.
    let without = rig.config(&tls, Vec::new());
    assert_eq!(rig.give(Task::Provision(Box::new(without))), Ok(Answer::Provisioned(Vec::new())));
    let kept = rig.record().installed.unwrap();
    assert_eq!((kept.keys, kept.policy_version), (installed.keys, 3));

    // What does not follow is refused by name, and leaves everything as it was.
    type Change = fn(&mut Config);
    let cases: [(Change, Code); 7] = [
        (|config| config.policy_version -= 1, Code::Rollback),
        (|config| config.previous.0[0] ^= 1, Code::Rollback),
        (|config| config.epoch = 2, Code::EpochMismatch),
        (|config| config.pin.generation += 1, Code::Pin),
        (|config| config.ldevid_chain = vec![vec![0x30; 16]], Code::Csr),
        (|config| config.now = UtcTime(START.0 - 1), Code::Rollback),
        (|config| config.objects[0].duplicate[5] ^= 1, Code::Object),
    ];
    for (change, code) in cases {
        let before = rig.record();
        let objects = wrapped(&mut rig.rng, &keys.storage.public);
        let mut config = rig.config(&tls, objects);
        change(&mut config);
        assert_eq!(rig.give(Task::Provision(Box::new(config))), Err(code));
        assert_eq!(rig.record().installed, before.installed, "{code:?}");
    }
}

#[test]
fn a_renewed_key_waits_for_its_certificate_beside_the_old_one() {
    let mut rig = Rig::new();
    let old = rig.record().keys.unwrap();
    let answer = rig.give(Task::Renew { with_storage: true }).unwrap();
    let Answer::Renewed { tls_pub, certify_tls, csr, storage: Some(storage) } = answer else {
        panic!("renewed")
    };
    let task = Task::Renew { with_storage: true };
    let payload =
        Order { ek_name: rig.owner.ek_name, epoch: 1, seq: rig.owner.seq, task, now: START }.encode();
    let digest = order_digest(&payload);
    let certified = |attest, purpose, public: &[u8]| {
        attest::verify_certify(attest, &attestation(&old), &qualifying(purpose, &digest), &tpm::name(public))
    };
    assert_eq!(certified(&certify_tls, RENEWED_TLS_PURPOSE, &tls_pub), Ok(()));
    assert_eq!(certified(&storage.certify, RENEWED_STORAGE_PURPOSE, &storage.public), Ok(()));
    let tls = tpm::tls_key(&tls_pub).unwrap();
    assert_eq!(parse_csr(&csr), Ok(tls));
    assert_eq!(rig.record().keys.as_ref(), Some(&old), "the old keys stay in use");

    // A configuration for the old key still counts, and the new one goes on waiting.
    let old_tls = tpm::tls_key(&old.tls.public).unwrap();
    let config = rig.config(&old_tls, Vec::new());
    assert!(rig.give(Task::Provision(Box::new(config))).is_ok());
    assert!(rig.record().orders.renewed.is_some());

    let objects = wrapped(&mut rig.rng, &storage.public);
    let config = rig.config(&tls, objects);
    assert!(rig.give(Task::Provision(Box::new(config))).is_ok());
    let record = rig.record();
    let keys = record.keys.unwrap();
    assert_eq!((&keys.tls.public, &keys.storage.public), (&tls_pub, &storage.public));
    assert_eq!((keys.attestation, record.orders.renewed), (old.attestation, None));
    for key in record.installed.unwrap().keys {
        let request = RootRequest::Unseal { storage: keys.storage.clone(), object: key.blob };
        assert!(rig.root.perform(request).is_ok());
    }
}

#[test]
fn a_new_owner_key_is_pinned_and_the_old_one_is_done() {
    let mut rig = Rig::new();
    let next: SigningKey<OwnerSigning> = signer("second owner key");
    let (entry, second, voucher) = rig.owner.entry(EntryKind::Rekey, &next);
    let pin = {
        let verified = voucher.verify(&[vendor()]).unwrap();
        OwnerPin { index: 2, generation: 0, entry: verified.head() }
    };
    // Without the second signature that the owner's entry demands it is no entry.
    let without = Task::Rekey { entries: vec![entry.clone()], second: Vec::new() };
    assert_eq!(rig.give(without), Err(Code::Voucher));
    let (transfer, transfer_second, _) = rig.owner.entry(EntryKind::Transfer, &next);
    let sale = Task::Rekey { entries: vec![transfer], second: vec![transfer_second] };
    assert_eq!(rig.give(sale), Err(Code::Voucher));

    let answer = rig.give(Task::Rekey { entries: vec![entry], second: vec![second] });
    assert_eq!(answer, Ok(Answer::Rekeyed(pin)));
    assert_eq!(rig.description().pin, Some(pin));
    rig.power_on();
    rig.owner.order(Task::Suspend);
    rig.fetch();
    assert_eq!(rig.refusals(), [Code::ConfigChain]);
    rig.owner.key = next;
    rig.owner.voucher = voucher;
    rig.owner.generation = 0;
    assert_eq!(rig.give(Task::Suspend), Ok(Answer::Suspended));
}

#[test]
fn commands_go_through_sessions_of_the_order_before_and_clear_only_at_the_end() {
    let mut rig = Rig::new();
    let task = rig.owner.sessions(2);
    rig.give(task).unwrap();
    let clear = rig.owner.clear();
    assert_eq!(rig.give(clear.clone()), Err(Code::Command), "no end was ordered");
    assert_eq!(rig.description().permanent, OWNED);
    let Task::Commands(commands) = clear else { panic!("commands") };
    let junk = Task::Commands(vec![commands[0][..20].to_vec()]);
    assert_eq!(rig.give(junk), Err(Code::Command));
    // After a power cut the sessions are gone.
    rig.root.power_cut();
    rig.power_on();
    assert_eq!(rig.give(Task::Commands(commands)), Err(Code::State));
}
