//! What a change of a TPM breaks and what survives it: the owner's authorisations, the endorsement seed, the platform seed.
//! The table in `docs/operations.md` is this, with what it means for a meter.

use gridseal_crypto::{
    Key,
    role::{Guek, OwnerSecret},
    tpm::SecretLabel,
};
use gridseal_io::{rng::OsRng, tpm::Swtpm};
use gridseal_trust::{
    root::{
        DeviceRoot, OwnerKeys, QuoteRequest, RootError, RootReply, RootRequest, TpmTransport, tpm2::Tpm2Root,
    },
    tpm,
};
use gridseal_types::{Digest, N16};

use super::{
    Emulated,
    contract::{self, Bench, Owner},
};

/// TPM2_ChangeEPS and TPM2_ChangePPS: a new seed of the endorsement or of the platform hierarchy.
const CHANGE_EPS: u32 = 0x124;
const CHANGE_PPS: u32 = 0x125;

/// A command by the platform hierarchy, after power came and before firmware has closed it; how firmware starts then.
fn platform(bench: &mut Emulated, command: u32) -> Result<(), RootError> {
    let transport = bench.root.transport_mut();
    transport.power_cut();
    transport.power_on().unwrap();
    let password = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
    let change = super::command(command, &[&[0x40, 0, 0, 0x0c], &password], true);
    assert_eq!(transport.transmit(&change).unwrap()[6..10], [0; 4]);
    transport.power_cut();
    bench.root = Tpm2Root::new(Swtpm::start(&bench.state).unwrap(), Box::new(OsRng));
    bench.root.boot()
}

fn owner_secret(bench: &mut Emulated, epoch: u32) -> Option<Key<OwnerSecret, 32>> {
    match bench.root.perform(RootRequest::OwnerSecret(epoch)) {
        Ok(RootReply::OwnerSecret(secret)) => Some(secret),
        _ => None,
    }
}

fn quotes(bench: &mut Emulated, keys: &OwnerKeys) -> bool {
    let selection = tpm::pcr_selection(&[0]);
    let request = QuoteRequest {
        attestation: keys.attestation.clone(),
        qualifying: Digest([5; 32]),
        pcr_selection: selection.clone(),
        ima_next: 0,
    };
    let Ok(RootReply::Quoted { quote, .. }) = bench.root.perform(RootRequest::Quote(request)) else {
        return false;
    };
    let key = tpm::attestation_key(&keys.attestation.public).unwrap();
    tpm::attest::verify_quote(&quote, &key, &Digest([5; 32]), &selection, None).is_ok()
}

/// Whether a session opens that is salted to this endorsement key.
fn opens(bench: &mut Emulated, ek_public: &[u8]) -> bool {
    let endorsement = tpm::endorsement_key(ek_public).unwrap();
    let (_, salt) = endorsement.share_secret(SecretLabel::Secret, &mut OsRng).unwrap();
    let opened = bench.root.perform(RootRequest::OpenSessions(vec![(salt, N16([1; 16]))]));
    bench.root.perform(RootRequest::Flush).unwrap();
    opened.is_ok()
}

#[test]
fn a_new_endorsement_seed_takes_every_session() {
    let Some(mut bench) = Emulated::start("change-eps") else { return };
    contract::manufacture(&mut bench);
    let mut rng = OsRng;
    let mut owner = Owner::new(&mut rng);
    let (keys, _) = contract::onboard(&mut bench, &mut owner);
    let before = contract::describe(&mut bench);
    assert!(owner_secret(&mut bench, 1).is_some() && opens(&mut bench, &before.ek_public));

    // The endorsement key is gone, and only its owner can have another kept: firmware can not close the platform hierarchy,
    // and does not go on.
    let refused = platform(&mut bench, CHANGE_EPS).unwrap_err();
    assert!(matches!(refused, RootError::Refused { command: 0x120, .. }), "{refused}");
    assert!(bench.root.perform(RootRequest::Describe).is_err());
    assert!(owner_secret(&mut bench, 1).is_none(), "no session for it: no order, no onboarding");
    assert!(!opens(&mut bench, &before.ek_public), "none for who knows the former key");
    // What the TPM itself still does: a Clear by the platform hierarchy, at the meter, and new papers bring it back.
    assert!(quotes(&mut bench, &keys), "its owner's keys are there");
}

#[test]
fn a_new_platform_seed_takes_n_root_and_leaves_the_owners_keys() {
    let Some(mut bench) = Emulated::start("change-pps") else { return };
    contract::manufacture(&mut bench);
    let mut rng = OsRng;
    let mut owner = Owner::new(&mut rng);
    let (keys, blobs) = contract::onboard(&mut bench, &mut owner);
    let before = contract::describe(&mut bench);
    let secret = owner_secret(&mut bench, 1).unwrap();

    platform(&mut bench, CHANGE_PPS).unwrap();
    let survives = owner_secret(&mut bench, 1).is_some_and(|found| bool::from(found.ct_eq(&secret)));
    assert!(!survives, "N_root is gone: no pseudonym, no seal, no order");
    assert!(quotes(&mut bench, &keys));
    contract::sign(&mut bench, &keys);
    contract::unseal::<Guek>(&mut bench, &keys, &blobs[0]);
    assert!(opens(&mut bench, &before.ek_public));
}

/// Owner and lockout authorisation are replaced three times: nothing else changes, and no wrong value is tried.
#[test]
fn new_owner_authorisations_leave_everything_else() {
    let Some(mut bench) = Emulated::start("new-authorisations") else { return };
    contract::manufacture(&mut bench);
    let mut rng = OsRng;
    let mut owner = Owner::new(&mut rng);
    let (keys, blobs) = contract::onboard(&mut bench, &mut owner);
    let before = contract::describe(&mut bench);
    for _ in 0..3 {
        contract::own_again(&mut bench, &mut owner, &keys);
        bench.power_cut();
    }
    assert_eq!(contract::describe(&mut bench), before);
    assert!(quotes(&mut bench, &keys));
    contract::unseal::<Guek>(&mut bench, &keys, &blobs[0]);
    assert_eq!(bench.root.property(super::PT_LOCKOUT_COUNTER).unwrap(), 0);
}
