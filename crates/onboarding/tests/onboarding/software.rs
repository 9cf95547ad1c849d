//! What becomes of a device by what it has measured, and by the certificate of its endorsement key.

use std::sync::{Arc, Mutex};

use gridseal_crypto::{Signer, SigningKey, role::CaSigning, sha256};
use gridseal_onboarding::endpoint_manager::EventKind;
use gridseal_trust::{
    csr::{endorsement_key_info, signature_to_der, subject_public_key_info},
    endorsement::{Fault, Issuers},
    enrol::{
        document::{OutOfDate, Policy},
        session::Step,
    },
    measured::{Logs, Reason, Verdict, ima},
    root::{MeasurementSource, RootError, software::SoftwareRoot},
    tpm,
};
use gridseal_types::{Code, DeviceState, Digest};

use crate::support::{
    Leg, World,
    factory::{self, Owner},
    signing_key,
};

fn appraisals(world: &World) -> Vec<Result<Verdict, Reason>> {
    let found = |event: &EventKind| match event {
        EventKind::Appraised(verdict) => Some(*verdict),
        _ => None,
    };
    world.register_events.iter().filter_map(found).collect()
}

fn newer(out_of_date: OutOfDate) -> [Policy; 2] {
    let old = Policy { out_of_date, ..Owner::policy() };
    let pcrs = old.pcrs.iter().map(|(pcr, _)| (*pcr, vec![Digest([0x77; 32])])).collect();
    [Policy { version: 2, release: "2".into(), pcrs, ..old.clone() }, old]
}

#[test]
fn a_release_that_is_not_current_is_provisioned_with_grace_or_refused_as_its_policy_says() {
    let mut world = World::with_rules(Owner::rules_of(newer(OutOfDate::Grace)), |_, _| ());
    world.start();
    world.run();
    assert!(world.is_confirmed());
    assert_eq!(appraisals(&world), [Ok(Verdict::Grace)]);
    assert_eq!(world.entry().software.unwrap().verdict, Verdict::Grace);

    let mut world = World::with_rules(Owner::rules_of(newer(OutOfDate::Fail)), |_, _| ());
    world.start();
    assert!(world.run_until(|world| !world.owner_refusals().is_empty()));
    assert_eq!(
        (world.owner_refusals(), appraisals(&world)),
        (vec![Code::Policy], vec![Err(Reason::NotCurrent)])
    );
    assert_eq!(world.entry().state, DeviceState::Quarantined);
}

#[test]
fn a_model_without_a_policy_is_held() {
    let rules = Owner::rules_of([Policy { model: "Other".into(), ..Owner::policy() }]);
    let mut world = World::with_rules(rules, |_, _| ());
    world.start();
    assert!(world.run_until(|world| !world.owner_refusals().is_empty()));
    assert_eq!(world.owner_refusals(), [Code::Policy]);
    assert_eq!(appraisals(&world), [Err(Reason::NoPolicy)]);
    assert_eq!(world.entry().state, DeviceState::Quarantined);
}

/// The kernel of a device: measures files into PCR 10 and keeps the list.
#[derive(Clone, Default)]
struct Kernel(Arc<Mutex<Vec<u8>>>);

impl MeasurementSource for Kernel {
    fn read(&mut self, ima_next: u64) -> Result<Logs, RootError> {
        let list = self.0.lock().unwrap().clone();
        let (ima_first, rest) = ima::from(&list, ima_next).unwrap();
        Ok(Logs { event_log: Vec::new(), ima_first, ima_log: rest.to_vec() })
    }
}

impl Kernel {
    fn measure(&self, root: &mut SoftwareRoot, path: &str, digest: [u8; 32]) {
        let field = |parts: &[&[u8]]| {
            let contents = parts.concat();
            [&u32::try_from(contents.len()).unwrap().to_le_bytes()[..], &contents].concat()
        };
        let data = [field(&[b"sha256:\0", &digest]), field(&[path.as_bytes(), &[0]])].concat();
        let hash = sha256(&[&data]);
        let entry = [&10u32.to_le_bytes()[..], &hash[..20], &field(&[b"ima-ng"]), &field(&[&data])].concat();
        root.extend_pcr(10, &Digest(hash)).unwrap();
        self.0.lock().unwrap().extend(entry);
    }

    fn restart(&self) {
        self.0.lock().unwrap().clear();
    }
}

fn with_files() -> Policy {
    Policy {
        ima_paths: vec![("/bin/a".into(), Digest([1; 32])), ("/bin/b".into(), Digest([2; 32]))],
        ..Owner::policy()
    }
}

/// A device whose evidence was accepted, and that begins anew because no answer came.
fn begun_anew(kernel: &Kernel) -> World {
    let mut world = World::with_rules(Owner::rules_of([with_files()]), |made, _| {
        kernel.measure(&mut made.root, "/bin/a", [1; 32]);
        made.root.set_measurements(Box::new(kernel.clone()));
    });
    for _ in 0..3 {
        world.lose(Leg::Session(Step::COMMANDS));
    }
    world.start();
    let hellos = |world: &World| {
        let hellos = world.sent.iter().filter(|(leg, _)| *leg == Leg::Session(Step::HELLO));
        hellos.map(|(_, wire)| wire.clone()).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert!(world.run_until(|world| hellos(world) == 2));
    assert_eq!(world.entry().software.unwrap().progress.unwrap().next, 1);
    world
}

#[test]
fn a_second_session_sends_new_entries_only() {
    let kernel = Kernel::default();
    let mut world = begun_anew(&kernel);
    kernel.measure(&mut world.meter.root, "/bin/b", [2; 32]);
    world.run();
    assert!(world.is_confirmed(), "{:?}", world.register_events);
    assert_eq!(appraisals(&world), [Ok(Verdict::Pass), Ok(Verdict::Pass)]);
    let progress = world.entry().software.unwrap().progress.unwrap();
    assert_eq!(progress.next, 2);
}

#[test]
fn a_file_that_nobody_allowed_quarantines_also_in_a_second_session() {
    let kernel = Kernel::default();
    let mut world = begun_anew(&kernel);
    kernel.measure(&mut world.meter.root, "/bin/evil", [2; 32]);
    assert!(world.run_until(|world| world.entry().state == DeviceState::Quarantined));
    assert_eq!(appraisals(&world).last(), Some(&Err(Reason::ImaFile(1))));
    assert_eq!(world.owner_refusals().last(), Some(&Code::Policy));
}

/// A restart in between: what is sent does not continue what was judged. That proves nothing, so nobody is locked out; the
/// next session brings the whole list.
#[test]
fn a_restart_between_two_sessions_has_the_whole_list_asked_for_again() {
    let kernel = Kernel::default();
    let mut world = begun_anew(&kernel);
    kernel.restart();
    world.reboot();
    // Another order than before the restart, and more: the first entry is not the one that was judged.
    for (path, digest) in [("/bin/b", [2; 32]), ("/bin/a", [1; 32])] {
        kernel.measure(&mut world.meter.root, path, digest);
    }
    world.run();
    assert!(world.is_confirmed(), "{:?}", world.register_events);
    let found = appraisals(&world);
    assert!(found.contains(&Err(Reason::ImaDiscontinuous)), "{found:?}");
    assert_eq!(found.last(), Some(&Ok(Verdict::Pass)));
    assert!(world.owner_refusals().iter().all(|code| matches!(code, Code::Quote)));
    assert_eq!(world.entry().quarantine, None);
}

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let size = u16::try_from(contents.len()).unwrap().to_be_bytes();
    [&[tag, 0x82][..], &size, &contents].concat()
}

/// A certificate with these extensions, by a vendor called V.
fn certificate(
    subject: &[u8],
    spki: &[u8],
    extensions: &[Vec<u8>],
    signer: &SigningKey<CaSigning>,
) -> Vec<u8> {
    const ES256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let vendor = vendor_name();
    let times: [&[u8]; 2] = [b"\x17\x0d200101000000Z", b"\x18\x0f99991231235959Z"];
    let body = element(
        0x30,
        &[
            &element(0xa0, &[&[2, 1, 2]]),
            &[2, 1, 9],
            ES256,
            &vendor,
            &element(0x30, &times),
            subject,
            spki,
            &element(0xa3, &[&element(0x30, &[&extensions.concat()])]),
        ],
    );
    let signature = signature_to_der(&signer.sign(&body).unwrap());
    element(0x30, &[&body, ES256, &element(3, &[&[0], &signature])])
}

fn vendor_name() -> Vec<u8> {
    let attribute = element(0x30, &[&[6, 3, 0x55, 4, 3], &element(0x0c, &[b"V"])]);
    element(0x30, &[&element(0x31, &[&attribute])])
}

fn extension(identifier: &[u8], value: &[u8]) -> Vec<u8> {
    element(0x30, &[&element(6, &[identifier]), &element(4, &[value])])
}

/// The vendor's root, and the certificate of a TPM of its.
fn vendor(ek_public: &[u8]) -> (Issuers, Vec<u8>) {
    let signer: SigningKey<CaSigning> = signing_key("TPM vendor");
    let authority = [extension(&[0x55, 0x1d, 0x13], &element(0x30, &[&[1, 1, 0xff]]))];
    let root = certificate(&vendor_name(), &subject_public_key_info(&signer.public()), &authority, &signer);
    let sets: Vec<u8> = (1u8..)
        .zip(["id:54455354", "Model 1", "id:1"])
        .flat_map(|(number, text)| {
            let identifier = [6, 5, 0x67, 0x81, 5, 2, number];
            element(0x31, &[&element(0x30, &[&identifier, &element(0x0c, &[text.as_bytes()])])])
        })
        .collect();
    let names = element(0x30, &[&element(0xa4, &[&element(0x30, &[&sets])])]);
    let purpose = element(0x30, &[&[6, 5, 0x67, 0x81, 5, 8, 1]]);
    let extensions = [extension(&[0x55, 0x1d, 0x11], &names), extension(&[0x55, 0x1d, 0x25], &purpose)];
    let spki = endorsement_key_info(&tpm::endorsement_key(ek_public).unwrap());
    let leaf = certificate(&element(0x30, &[]), &spki, &extensions, &signer);
    let mut issuers = Issuers::default();
    issuers.anchor(&root).unwrap();
    (issuers, leaf)
}

#[test]
fn an_owner_who_wants_certificates_of_tpms_gets_them_as_evidence_or_no_device() {
    let (issuers, leaf) = vendor(&World::new().meter.description().ek_public);
    let rules = || {
        let mut rules = Owner::rules_of([Owner::policy()]);
        rules.endorsements.required = true;
        rules.endorsements.believe(&[factory::MODEL.into()], &issuers);
        rules
    };
    let mut world = World::with_rules(rules(), |_, _| ());
    world.start();
    assert!(world.run_until(|world| !world.owner_refusals().is_empty()));
    assert_eq!(world.owner_refusals(), [Code::Endorsement]);
    assert!(world.register_events.contains(&EventKind::Unendorsed(Fault::Missing)));
    assert!(!world.key_requests.contains(&"challenge"));
    assert_eq!((world.entry().state, world.entry().assurance()), (DeviceState::Registered, "software"));

    let mut forged = leaf.clone();
    *forged.last_mut().unwrap() ^= 1;
    for (certificate, is_good) in [(leaf, true), (forged, false)] {
        let kept = certificate.clone();
        let mut world = World::with_rules(rules(), |made, _| made.root.set_certificate(certificate));
        world.start();
        if is_good {
            world.run();
            assert!(world.is_confirmed(), "{:?}", world.register_events);
            let entry = world.entry();
            assert_eq!(entry.ek_chain.unwrap()[0].0, kept);
            assert_eq!(entry.endorsed.unwrap().tpm.manufacturer, "id:54455354");
        } else {
            assert!(world.run_until(|world| !world.owner_refusals().is_empty()));
            assert!(world.register_events.contains(&EventKind::Unendorsed(Fault::Signature)));
            assert_eq!(world.entry().endorsed, None);
        }
    }
}
