use super::*;
use crate::role::{Gak, Guek};

struct Counting(u8);

impl Rng for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), RngError> {
        for byte in bytes {
            *byte = self.0;
            self.0 = self.0.wrapping_add(1);
        }
        Ok(())
    }
}

fn key<R: Role, const N: usize>(first: u8) -> Key<R, N> {
    Key::generate(&mut Counting(first)).unwrap()
}

const CONTEXT: EnvelopeContext =
    EnvelopeContext { tenant: [0x11; 16], object: [0x22; 16], version: 7, suite: 2, origin: Origin::Vendor };

/// Made with the AES-GCM of another library (Python's cryptography), from the layout alone.
const ENVELOPE_5: &str = "4753453101000000000000000005404142434445464748494a4b\
     e2b8ac2022398104c5cd1d3d97691d54e2707f7312ea03d9c66bdb7361fc5d7e";
/// The same for suite 0, made here, under the one data key there was before they had numbers.
const ENVELOPE_0: &str = "4753453101000000000000000000404142434445464748494a4b\
     e2b8ac2022398104c5cd1d3d97691d54418deaad9950040ae8b1a90c9b024861";

#[test]
fn the_layout_is_that_of_an_independent_implementation() {
    let guek: Key<Guek, 16> = key(0);
    let dek = DataKey::new(5, key(0));
    let wrapped = guek.wrap(&dek, &CONTEXT, &mut Counting(0x40)).unwrap();
    assert_eq!(hex::encode(&wrapped.0), ENVELOPE_5);
    let context = EnvelopeContext::new([0x11; 16], [0x22; 16], 7);
    let wrapped = guek.wrap(dek.key(), &context, &mut Counting(0x40)).unwrap();
    assert_eq!(hex::encode(&wrapped.0), ENVELOPE_0);
}

#[test]
fn an_envelope_from_before_suites_origins_and_numbers_opens() {
    let wrapped = WrappedKey(hex::decode(ENVELOPE_0).unwrap());
    let context = EnvelopeContext::new([0x11; 16], [0x22; 16], 7);
    let bare: Key<Dek, 32> = key(0);
    assert!(Key::<Guek, 16>::unwrap_key(&bare, &context, &wrapped).is_ok());
    assert!(Key::<Guek, 16>::unwrap_key(&DataKey::new(0, key(0)), &context, &wrapped).is_ok());
    assert_eq!(wrapped.data_key_id(), Some(0));
}

#[test]
fn an_envelope_swapped_in_any_part_of_its_place_does_not_open() {
    let dek = DataKey::new(5, key(0));
    let wrapped = WrappedKey(hex::decode(ENVELOPE_5).unwrap());
    let opens = |context: &EnvelopeContext| Key::<Guek, 16>::unwrap_key(&dek, context, &wrapped).is_ok();
    assert!(opens(&CONTEXT));
    assert!(!opens(&EnvelopeContext { tenant: [0x12; 16], ..CONTEXT }), "another tenant's row");
    assert!(!opens(&EnvelopeContext { object: [0x23; 16], ..CONTEXT }), "another meter's row");
    assert!(!opens(&EnvelopeContext { version: 6, ..CONTEXT }), "an older version in place of a newer");
    assert!(!opens(&EnvelopeContext { suite: 0, ..CONTEXT }), "a key of one suite in another");
    assert!(!opens(&EnvelopeContext { origin: Origin::Operator, ..CONTEXT }), "a vendor's key as our own");
    assert!(!opens(&EnvelopeContext { origin: Origin::Derived, ..CONTEXT }));
    assert!(Key::<Gak, 16>::unwrap_key(&dek, &CONTEXT, &wrapped).is_err(), "a key of another kind");
    assert!(Key::<Guek, 32>::unwrap_key(&dek, &CONTEXT, &wrapped).is_err(), "a key of another length");
    assert!(open_bytes(&dek, &CONTEXT, &wrapped.0).is_err(), "a key as bytes");
}

#[test]
fn an_envelope_names_its_data_key_and_opens_under_no_other() {
    let wrapped = WrappedKey(hex::decode(ENVELOPE_5).unwrap());
    assert_eq!(wrapped.data_key_id(), Some(5));
    let opens = |dek: &DataKey, wrapped| Key::<Guek, 16>::unwrap_key(dek, &CONTEXT, wrapped).is_ok();
    assert!(!opens(&DataKey::new(6, key(0)), &wrapped), "right key, other number");
    assert!(!opens(&DataKey::new(5, key(1)), &wrapped), "right number, other key");
    let mut renamed = wrapped.clone();
    renamed.0[13] = 6;
    assert!(!opens(&DataKey::new(6, key(1)), &renamed));
    assert_eq!(renamed.data_key_id(), Some(6));
    for cut in 0..HEADER_SIZE {
        assert_eq!(WrappedKey(wrapped.0[..cut].to_vec()).data_key_id(), None);
    }
}

#[test]
fn no_flipped_bit_and_no_cut_end_opens() {
    let dek = DataKey::new(5, key(0));
    let wrapped = hex::decode(ENVELOPE_5).unwrap();
    for bit in 0..wrapped.len() * 8 {
        let mut flipped = wrapped.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Key::<Guek, 16>::unwrap_key(&dek, &CONTEXT, &WrappedKey(flipped)).is_err(), "bit {bit}");
    }
    for size in 0..wrapped.len() {
        let cut = WrappedKey(wrapped[..size].to_vec());
        assert!(Key::<Guek, 16>::unwrap_key(&dek, &CONTEXT, &cut).is_err(), "{size} bytes");
    }
}

#[test]
fn a_data_key_opens_under_its_tenants_key_and_its_own_number_only() {
    let kek: Key<KeystoreKek, 32> = key(0x80);
    let wrapped = DataKey::new(5, key(0)).wrap(&kek, [1; 16], &mut Counting(3)).unwrap();
    let opens = |kek, tenant, id| DataKey::unwrap_key(kek, tenant, id, &wrapped).is_ok();
    assert!(opens(&kek, [1; 16], 5));
    assert!(!opens(&kek, [2; 16], 5), "another tenant's");
    assert!(!opens(&kek, [1; 16], 6), "under another number");
    assert!(!opens(&key(0x81), [1; 16], 5), "under another tenant key");
}

#[test]
fn a_rewrapped_key_is_the_same_under_the_next_data_key_alone() {
    let (old, new) = (DataKey::new(1, key(0)), DataKey::new(2, key(0x60)));
    let guek: Key<Guek, 16> = key(9);
    let wrapped = guek.wrap(&old, &CONTEXT, &mut Counting(0)).unwrap();
    let moved = wrapped.rewrap::<Guek>(&old, &new, &CONTEXT, &mut Counting(7)).unwrap();
    assert_eq!(moved.data_key_id(), Some(2));
    let opened = Key::<Guek, 16>::unwrap_key(&new, &CONTEXT, &moved).unwrap();
    assert!(bool::from(opened.ct_eq(&guek)));
    assert!(Key::<Guek, 16>::unwrap_key(&old, &CONTEXT, &moved).is_err());
    assert!(moved.rewrap::<Guek>(&old, &new, &CONTEXT, &mut Counting(7)).is_err(), "not twice");
    assert!(wrapped.rewrap::<Gak>(&old, &new, &CONTEXT, &mut Counting(7)).is_err(), "not as another kind");
}
