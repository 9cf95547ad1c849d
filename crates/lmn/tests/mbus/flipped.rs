//! Every bit of every protected vector, and every length of it.

use gridseal_lmn::mbus::{Header, KeySource, OpenOptions, Opener, registry::Registry};
use gridseal_types::Tick;

use super::telegram::{key_and_input, open};

/// A registry that knows the meter of a vector by its whole address, and the vector's input.
fn configured(name: &str) -> (Registry, Vec<u8>) {
    let (key, input) = key_and_input(name);
    let (header, _) = open(&key, &OpenOptions::default(), &input).unwrap();
    let mut registry = Registry::default();
    registry.danger_accept_well_known_keys();
    registry.insert(header.meter.unwrap(), &key.0, None).unwrap();
    (registry, input)
}

/// Bits that may change without the telegram being refused, and whether its readings stay or nothing is proven.
fn flips_that_open(keys: &impl KeySource, input: &[u8]) -> Vec<(usize, bool)> {
    let (_, line) = open(keys, &OpenOptions::default(), input).unwrap();
    let readings = line.split_once(" | ").unwrap().1.to_owned();
    let mut opened = Vec::new();
    for bit in 0..input.len() * 8 {
        let mut flipped = input.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok((_, line)) = open(keys, &OpenOptions::default(), &flipped) {
            let same = line.split_once(" | ").is_some_and(|(_, found)| found == readings);
            opened.push((bit, same || !line.starts_with("verified")));
        }
    }
    opened
}

#[test]
fn no_flipped_bit_of_an_authenticated_vector_gives_another_verified_reading() {
    for name in ["t2-profile-b-short", "t3-profile-b-long", "t6-profile-d", "t7-profile-d-format-a"] {
        let (registry, input) = configured(name);
        let opened = flips_that_open(&registry, &input);
        assert!(opened.iter().all(|(_, is_harmless)| *is_harmless), "{name}: {opened:?}");
        // What is left is what the standard leaves open: the control byte of the link, the extended link layer, where
        // the transport layer names the meter the address of the adapter, and the layers' CI and fragment fields, which
        // then make something without readings of it.
        let head = match name {
            "t3-profile-b-long" => 26,
            "t2-profile-b-short" => 17,
            _ => 13,
        };
        assert!(opened.iter().all(|(bit, _)| bit / 8 < head), "{name}: {opened:?}");
    }
}

#[test]
fn a_short_header_in_mode_7_proves_the_identification_and_not_the_rest_of_the_address() {
    let (key, input) = key_and_input("t2-profile-b-short");
    for (byte, opens) in
        [(2, true), (3, true), (4, false), (5, false), (6, false), (7, false), (8, true), (9, true)]
    {
        let mut flipped = input.clone();
        flipped[byte] ^= 1;
        let mut opener = Opener::default();
        let mut header = Header::default();
        let result = opener.open(Tick(0), &flipped, &key, &OpenOptions::default(), &mut header);
        assert_eq!(result.is_ok(), opens, "byte {byte}");
        assert!(result.is_ok_and(|opened| !opened.address_is_proven) == opens);
        let (registry, _) = configured("t2-profile-b-short");
        assert!(open(&registry, &OpenOptions::default(), &flipped).is_err(), "byte {byte}");
    }
}

#[test]
fn every_flipped_bit_of_format_a_is_refused() {
    for name in ["t1-mode-5-format-a", "t7-profile-d-format-a"] {
        let (key, input) = key_and_input(name);
        assert_eq!(flips_that_open(&key, &input), [], "{name}");
    }
}

#[test]
fn unauthenticated_vectors_with_a_flipped_bit_are_never_verified() {
    for name in ["t4-ell-ctr-compact", "t5-ell-ctr-full", "t8-mode-5-long"] {
        let (key, input) = key_and_input(name);
        for bit in 0..input.len() * 8 {
            let mut flipped = input.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok((_, line)) = open(&key, &OpenOptions::default(), &flipped) {
                assert!(!line.starts_with("verified"), "{name} bit {bit}");
            }
        }
    }
}

#[test]
fn truncated_and_over_long_vectors_are_refused() {
    for name in ["t1-mode-5-format-a", "t2-profile-b-short", "t6-profile-d", "t8-mode-5-long"] {
        let (key, input) = key_and_input(name);
        for end in 0..input.len() {
            assert!(open(&key, &OpenOptions::default(), &input[..end]).is_err(), "{name} cut at {end}");
        }
        for extra in [1, 2, 16, 200] {
            let long = [input.as_slice(), &vec![0; extra]].concat();
            assert!(open(&key, &OpenOptions::default(), &long).is_err(), "{name} with {extra} more");
        }
    }
}

#[test]
fn a_length_that_follows_the_cut_does_not_help_an_authenticated_telegram() {
    for name in ["t2-profile-b-short", "t3-profile-b-long", "t6-profile-d"] {
        let (key, input) = key_and_input(name);
        for end in 1..input.len() {
            let mut cut = input[..end].to_vec();
            cut[0] = u8::try_from(end - 1).unwrap();
            let opened = open(&key, &OpenOptions::default(), &cut).map(|(_, line)| line);
            assert!(!opened.is_ok_and(|line| line.contains(" | ")), "{name} cut at {end}");
        }
    }
}
