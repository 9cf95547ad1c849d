//! The software root does what every root does, and what only it can: be saved, and repeat a run.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

#[path = "root/contract.rs"]
mod contract;

use contract::{Bench, Owner};
use gridseal_crypto::{Key, Rng, RngError, role::Dek, sha256};
use gridseal_trust::{
    root::{Assurance, DeviceRoot, OwnerKeys, RootError, RootReply, RootRequest, software::SoftwareRoot},
    tpm,
};
use gridseal_types::Digest;

/// A repeatable source: SHA-256 of seed and counter.
struct Seeded(u64, u64);

impl Rng for Seeded {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        for chunk in buffer.chunks_mut(32) {
            self.1 += 1;
            let block = sha256(&[&self.0.to_be_bytes(), &self.1.to_be_bytes()]);
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
        Ok(())
    }
}

fn seeded(seed: u64) -> Box<Seeded> {
    Box::new(Seeded(seed, 0))
}

struct InProcess(SoftwareRoot);

impl Bench for InProcess {
    fn root(&mut self) -> &mut dyn DeviceRoot {
        &mut self.0
    }

    fn power_cut(&mut self) {
        self.0.power_cut();
    }

    fn start_for_recovery(&mut self) {
        self.power_cut();
        self.0.start_for_recovery();
    }

    fn loaded(&mut self) -> (usize, usize) {
        (self.0.open_sessions(), 0)
    }
}

/// A power cut here is a process that ends and another that reads the state from disk.
struct Saved(SoftwareRoot, Key<Dek, 32>);

impl Bench for Saved {
    fn root(&mut self) -> &mut dyn DeviceRoot {
        &mut self.0
    }

    fn power_cut(&mut self) {
        let saved = self.0.save(&self.1).unwrap();
        self.0 = SoftwareRoot::restore(seeded(1000), &self.1, &saved).unwrap();
    }

    fn start_for_recovery(&mut self) {
        self.power_cut();
        self.0.start_for_recovery();
    }

    fn loaded(&mut self) -> (usize, usize) {
        (self.0.open_sessions(), 0)
    }
}

fn keys_of_another_root() -> OwnerKeys {
    let mut other = InProcess(SoftwareRoot::new(seeded(77)));
    contract::manufacture(&mut other);
    contract::create_keys(&mut other)
}

#[test]
fn software_root_lives_a_whole_life() {
    let mut bench = InProcess(SoftwareRoot::new(seeded(1)));
    assert_eq!(bench.0.assurance(), Assurance::Software);
    contract::whole_life(&mut bench, &mut Seeded(2, 0), &keys_of_another_root());
}

#[test]
fn saved_software_root_lives_a_whole_life() {
    let dek = Key::generate(&mut Seeded(3, 0)).unwrap();
    let mut bench = Saved(SoftwareRoot::new(seeded(4)), dek);
    contract::whole_life(&mut bench, &mut Seeded(5, 0), &keys_of_another_root());
}

#[test]
fn one_wrong_lockout_authorisation_disables_the_hierarchy_for_the_right_one_too() {
    let mut bench = InProcess(SoftwareRoot::new(seeded(6)));
    contract::manufacture(&mut bench);
    let mut rng = Seeded(7, 0);
    let mut owner = Owner::new(&mut rng);
    let (keys, _) = contract::onboard(&mut bench, &mut owner);
    contract::wrong_lockout_authorisation(&mut bench, &mut owner, &keys);
    bench.power_cut();
    assert_eq!(contract::lockout_code_with_the_right_value(&mut bench, &mut owner, &keys), 0x921);
}

#[test]
fn saved_bytes_hold_no_key_and_open_only_under_their_data_key() {
    let dek: Key<Dek, 32> = Key::generate(&mut Seeded(8, 0)).unwrap();
    let mut bench = InProcess(SoftwareRoot::new(seeded(9)));
    contract::manufacture(&mut bench);
    let saved = bench.0.save(&dek).unwrap();
    let n_root: [u8; 32] = core::array::from_fn(|index| u8::try_from(index).unwrap());
    assert!(!saved.windows(8).any(|window| window == &n_root[..8]));
    let other: Key<Dek, 32> = Key::generate(&mut Seeded(10, 0)).unwrap();
    assert!(SoftwareRoot::restore(seeded(0), &other, &saved).is_err());
    for at in (0..saved.len()).step_by(17) {
        let mut changed = saved.clone();
        changed.truncate(at);
        assert!(SoftwareRoot::restore(seeded(0), &dek, &changed).is_err(), "cut at {at}");
    }
    let mut longer = saved.clone();
    longer.push(0);
    assert!(SoftwareRoot::restore(seeded(0), &dek, &longer).is_err());
    let mut swapped = saved;
    let envelope = 32 + gridseal_crypto::ENVELOPE_OVERHEAD;
    // Array head, then byte strings of two bytes of head each: endorsement is the second, identity the third.
    let second = 1 + 2 + envelope + 2;
    let (left, right) = swapped.split_at_mut(second + envelope + 2);
    left[second..second + envelope].swap_with_slice(&mut right[..envelope]);
    assert!(matches!(SoftwareRoot::restore(seeded(0), &dek, &swapped), Err(RootError::Unsuitable)));
}

#[test]
fn equal_seeds_give_equal_roots() {
    let life = |seed| {
        let mut bench = InProcess(SoftwareRoot::new(seeded(seed)));
        contract::manufacture(&mut bench);
        (contract::describe(&mut bench), contract::create_keys(&mut bench))
    };
    assert_eq!(life(11), life(11));
    assert_ne!(life(11).0.ek_public, life(12).0.ek_public);
}

#[test]
fn clear_frees_the_hierarchies_and_kills_what_was_under_the_storage_root() {
    let mut bench = InProcess(SoftwareRoot::new(seeded(13)));
    contract::manufacture(&mut bench);
    let mut rng = Seeded(14, 0);
    let mut owner = Owner::new(&mut rng);
    let (keys, _) = contract::onboard(&mut bench, &mut owner);
    let before = contract::describe(&mut bench);
    bench.0.clear().unwrap();
    let after = contract::describe(&mut bench);
    assert_eq!((after.permanent, &after.ek_public, after.epoch), (0x400, &before.ek_public, before.epoch));
    let sign = RootRequest::Sign { tls: keys.tls.clone(), message: Vec::new() };
    assert_eq!(bench.0.perform(sign).unwrap_err(), RootError::Refused { command: 0x157, rc: 0x1df });
    assert_eq!(contract::create_keys(&mut bench).iak_public, keys.iak_public, "the identity key comes back");
}

#[test]
fn a_key_of_one_use_does_not_serve_another() {
    let mut bench = InProcess(SoftwareRoot::new(seeded(15)));
    contract::manufacture(&mut bench);
    let keys = contract::create_keys(&mut bench);
    let sign = RootRequest::Sign { tls: keys.attestation.clone(), message: Vec::new() };
    assert_eq!(bench.0.perform(sign).unwrap_err(), RootError::Unsuitable);
    let mut mixed = keys.tls.clone();
    mixed.private = keys.attestation.private;
    let sign = RootRequest::Sign { tls: mixed, message: Vec::new() };
    assert_eq!(bench.0.perform(sign).unwrap_err(), RootError::Refused { command: 0x157, rc: 0x1df });
}

#[test]
fn a_measurement_changes_the_quote() {
    let mut bench = InProcess(SoftwareRoot::new(seeded(16)));
    contract::manufacture(&mut bench);
    let keys = contract::create_keys(&mut bench);
    let mut rng = Seeded(17, 0);
    let mut owner = Owner::new(&mut rng);
    bench.0.extend_pcr(7, &Digest([1; 32])).unwrap();
    assert_eq!(bench.0.extend_pcr(24, &Digest([1; 32])), Err(RootError::Unsuitable));
    let challenge = owner.challenge(&contract::describe(&mut bench), &keys);
    let attested = contract::attest_with(&mut bench, &challenge);
    let key = tpm::attestation_key(&keys.attestation.public).unwrap();
    let extended = Digest(sha256(&[&[0; 32], &[1; 32]]));
    let expected = tpm::pcr_digest(&[Digest([0; 32]), extended, Digest([0; 32])]);
    let (quote, request) = (&attested.quote, &challenge.request);
    tpm::attest::verify_quote(quote, &key, &request.qualifying[3], &request.pcr_selection, Some(&expected))
        .unwrap();
}

#[test]
fn platform_open_is_reported() {
    let mut bench = InProcess(SoftwareRoot::new(seeded(18)));
    contract::manufacture(&mut bench);
    bench.0.set_platform_open(true);
    assert!(contract::describe(&mut bench).platform_open);
}

#[test]
fn a_command_that_is_none_is_answered_and_changes_nothing() {
    let mut bench = InProcess(SoftwareRoot::new(seeded(19)));
    contract::manufacture(&mut bench);
    let reply = bench.0.perform(RootRequest::Execute([Vec::new(), Vec::new()].into())).unwrap();
    let RootReply::Responses(responses) = reply else { panic!("{reply:?}") };
    assert_eq!(responses, [[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x43]]);
    assert_eq!(contract::describe(&mut bench).permanent, 0x400);
}
