#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use alloc::vec::Vec;

use gridseal_crypto::{
    Key, PublicKey, Rng, RngError, Signer, SigningKey,
    role::{AuthValue, SoftwareRootKey, TpmSession},
    tpm::{AuthInForce, ChangeAuth, EndorsementKey, change_auth_command},
};
use gridseal_types::Code;

use super::{
    attest::{Quoted, verify_certify, verify_quote},
    *,
};
use crate::root::Attest;

extern crate std;

struct Vector(toml::Table);

impl Vector {
    fn load(name: &str) -> Self {
        let path = std::format!("{}/../../tests/vectors/onboarding/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let table: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
        Self(table["value"].as_table().unwrap().clone())
    }

    fn bytes(&self, field: &str) -> Vec<u8> {
        hex::decode(self.0[field].as_str().unwrap()).unwrap()
    }

    fn digest(&self, field: &str) -> Digest {
        Digest::from_slice(&self.bytes(field)).unwrap()
    }

    fn attest(&self) -> Attest {
        Attest { attest: self.bytes("attest"), signature: self.bytes("signature") }
    }
}

/// Counts up: every key of these tests is as good as any other.
struct Counting(u8);

impl Rng for Counting {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        buffer.iter_mut().for_each(|byte| {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        });
        Ok(())
    }
}

fn signing_key() -> SigningKey<SoftwareRootKey> {
    SigningKey::new(&Key::generate_scalar(&mut Counting(0)).unwrap()).unwrap()
}

fn signed(key: &SigningKey<SoftwareRootKey>, attest: Vec<u8>) -> Attest {
    let signature = signature_structure(&key.sign(&attest).unwrap());
    Attest { attest, signature }
}

const QUALIFYING: Digest = Digest([7; 32]);
const NAME: EkName = EkName([9; 34]);

/// Offsets in an attest whose qualified signer is empty: magic 0, type 4, signer 6, extraData 8, clock 42, safe 58, rest 67.
fn attest_head(kind: u16) -> Vec<u8> {
    let mut bytes = attest::GENERATED.to_be_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_be_bytes());
    tpm2b(&mut bytes, &[]);
    tpm2b(&mut bytes, QUALIFYING.as_bytes());
    bytes.extend_from_slice(&[0; 16]);
    bytes.push(1);
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

fn certify_bytes() -> Vec<u8> {
    let mut bytes = attest_head(attest::ST_CERTIFY);
    tpm2b(&mut bytes, NAME.as_bytes());
    tpm2b(&mut bytes, &[]);
    bytes
}

fn quote_bytes(selection: &[u8]) -> Vec<u8> {
    let mut bytes = attest_head(attest::ST_QUOTE);
    bytes.extend_from_slice(selection);
    tpm2b(&mut bytes, &[3; 32]);
    bytes
}

#[test]
fn certify_vector_verifies_and_no_flipped_byte_does() {
    let v = Vector::load("certify");
    let key = attestation_key(&v.bytes("ak_public")).unwrap();
    let object = name(&v.bytes("object_public"));
    let (good, qualifying) = (v.attest(), v.digest("qualifyingData"));
    assert_eq!(verify_certify(&good, &key, &qualifying, &object), Ok(()));
    for at in 0..good.attest.len() {
        let mut changed = good.clone();
        changed.attest[at] ^= 1;
        assert_eq!(
            verify_certify(&changed, &key, &qualifying, &object),
            Err(Code::Certify),
            "attest byte {at}"
        );
    }
    for at in 0..good.signature.len() {
        let mut changed = good.clone();
        changed.signature[at] ^= 1;
        assert_eq!(
            verify_certify(&changed, &key, &qualifying, &object),
            Err(Code::Certify),
            "signature byte {at}"
        );
    }
}

#[test]
fn quote_vector_verifies_and_its_digest_is_that_of_the_pcr_values() {
    let v = Vector::load("quote");
    let key = attestation_key(&Vector::load("certify").bytes("ak_public")).unwrap();
    let (good, qualifying) = (v.attest(), v.digest("qualifyingData"));
    let selection = PcrSelection::new(&[7, 10]).unwrap().encode();
    let expected = pcr_digest(&[v.digest("pcr7"), v.digest("pcr10")]);
    let quoted = verify_quote(&good, &key, &qualifying, &selection, Some(&expected)).unwrap();
    assert!(quoted.safe && quoted.pcr_digest == expected);
    for at in 0..good.attest.len() {
        let mut changed = good.clone();
        changed.attest[at] ^= 1;
        let verdict = verify_quote(&changed, &key, &qualifying, &selection, Some(&expected));
        assert_eq!(verdict, Err(Code::Quote), "attest byte {at}");
    }
    let other = pcr_digest(&[v.digest("pcr10"), v.digest("pcr7")]);
    assert_eq!(verify_quote(&good, &key, &qualifying, &selection, Some(&other)), Err(Code::Quote));
    let fewer = PcrSelection::new(&[10]).unwrap().encode();
    assert_eq!(verify_quote(&good, &key, &qualifying, &fewer, None), Err(Code::Quote));
}

/// Each change is signed again by the right key, so that only the check it is aimed at can refuse it.
#[test]
fn each_field_of_a_certify_is_checked_by_itself() {
    let key = signing_key();
    let check = |bytes: Vec<u8>| verify_certify(&signed(&key, bytes), &key.public(), &QUALIFYING, &NAME);
    assert_eq!(check(certify_bytes()), Ok(()));
    let flipped = |at: usize| {
        let mut bytes = certify_bytes();
        bytes[at] ^= 1;
        check(bytes)
    };
    for (at, what) in [(0, "magic"), (5, "type"), (10, "extraData"), (69, "name")] {
        assert_eq!(flipped(at), Err(Code::Certify), "{what}");
    }
    let mut unsafe_value = certify_bytes();
    unsafe_value[58] = 2;
    assert_eq!(check(unsafe_value), Err(Code::Certify), "safe is yes or no");
    let mut longer = certify_bytes();
    longer.push(0);
    assert_eq!(check(longer), Err(Code::Certify), "whole buffer consumed");
    let mut shorter = certify_bytes();
    shorter.pop();
    assert_eq!(check(shorter), Err(Code::Certify), "buffer complete");
    let other =
        SigningKey::<SoftwareRootKey>::new(&Key::generate_scalar(&mut Counting(99)).unwrap()).unwrap();
    let by_other = signed(&other, certify_bytes());
    assert_eq!(verify_certify(&by_other, &key.public(), &QUALIFYING, &NAME), Err(Code::Certify), "signer");
    let quote = quote_bytes(&PcrSelection::new(&[0]).unwrap().encode());
    assert_eq!(check(quote), Err(Code::Certify), "a quote is no certification");
}

#[test]
fn each_field_of_a_quote_is_checked_by_itself() {
    let key = signing_key();
    let selection = PcrSelection::new(&[0, 9]).unwrap().encode();
    let check = |bytes: Vec<u8>, wanted: &[u8]| -> Result<Quoted, Code> {
        verify_quote(&signed(&key, bytes), &key.public(), &QUALIFYING, wanted, Some(&Digest([3; 32])))
    };
    assert!(check(quote_bytes(&selection), &selection).unwrap().safe);
    let mut not_safe = quote_bytes(&selection);
    not_safe[58] = 0;
    assert!(!check(not_safe, &selection).unwrap().safe, "recorded, not refused");
    for (at, what) in [(0, "magic"), (5, "type"), (10, "extraData"), (74, "pcrSelect"), (79, "pcrDigest")] {
        let mut bytes = quote_bytes(&selection);
        bytes[at] ^= 1;
        assert_eq!(check(bytes, &selection), Err(Code::Quote), "{what}");
    }
    let mut longer = quote_bytes(&selection);
    longer.push(0);
    assert_eq!(check(longer, &selection), Err(Code::Quote), "whole buffer consumed");
    let sha1 = {
        let mut bytes = selection.clone();
        bytes[5] = 0x04;
        bytes
    };
    assert_eq!(check(quote_bytes(&sha1), &sha1), Err(Code::Quote), "no SHA-1 bank, even when asked for");
    assert_eq!(check(certify_bytes(), &selection), Err(Code::Quote), "a certification is no quote");
}

#[test]
fn short_r_and_s_are_padded_and_empty_or_long_ones_refused() {
    let mut bytes = [0x00, 0x18, 0x00, 0x0b, 0x00, 0x01, 5, 0x00, 0x02, 6, 7].to_vec();
    let signature = parse_signature(&bytes).unwrap();
    assert_eq!((signature[31], signature[62], signature[63]), (5, 6, 7));
    assert_eq!(signature.iter().filter(|byte| **byte != 0).count(), 3);
    bytes.push(0);
    assert_eq!(parse_signature(&bytes).unwrap_err().flaw, Flaw::Trailing);
    let empty = [0x00, 0x18, 0x00, 0x0b, 0x00, 0x00, 0x00, 0x01, 7];
    assert_eq!(parse_signature(&empty).unwrap_err().field, "signatureR");
    let mut long = [0x00, 0x18, 0x00, 0x0b, 0x00, 33].to_vec();
    long.extend_from_slice(&[1; 40]);
    assert_eq!(
        parse_signature(&long).unwrap_err(),
        StructureError { field: "signatureR", offset: 4, flaw: Flaw::Length }
    );
    let rsa = [0x00, 0x14, 0x00, 0x0b, 0x00, 0x01, 5, 0x00, 0x01, 6];
    assert_eq!(
        parse_signature(&rsa).unwrap_err(),
        StructureError { field: "sigAlg", offset: 0, flaw: Flaw::Value }
    );
    let real = signing_key().sign(b"x").unwrap();
    assert_eq!(parse_signature(&signature_structure(&real)).unwrap(), real);
}

type Check = fn(&[u8]) -> Result<PublicKey, Code>;

fn p256_endorsement_key(public: &[u8]) -> Result<PublicKey, Code> {
    match endorsement_key(public)? {
        EndorsementKey::P256(key) => Ok(key),
        EndorsementKey::Rsa2048(_) => Err(Code::Endorsement),
    }
}

const CHECKS: [(&[u8], Check, Code); 5] = [
    (&ENDORSEMENT_TEMPLATE, p256_endorsement_key, Code::Endorsement),
    (&ATTESTATION_TEMPLATE, attestation_key, Code::AkAttr),
    (&STORAGE_TEMPLATE, storage_key, Code::Certify),
    (&TLS_TEMPLATE, tls_key, Code::Certify),
    (&ATTESTATION_TEMPLATE, identity_key, Code::Certify),
];

#[test]
fn a_key_passes_its_own_check_and_no_changed_bit_of_its_head_does() {
    let key = signing_key().public();
    for (template, check, code) in CHECKS {
        let public = with_point(template, &key);
        assert_eq!(check(&public), Ok(key));
        for bit in 0..template.len() * 8 {
            let mut changed = public.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(check(&changed), Err(code), "bit {bit}");
        }
        let mut off_curve = public.clone();
        *off_curve.last_mut().unwrap() ^= 1;
        assert_eq!(check(&off_curve), Err(code));
        let mut longer = public.clone();
        longer.push(0);
        assert_eq!(check(&longer), Err(code));
        assert_eq!(check(&public[..public.len() - 1]), Err(code));
        for (other_template, _, _) in CHECKS.iter().filter(|(other, ..)| *other != template) {
            assert_eq!(check(&with_point(other_template, &key)), Err(code));
        }
    }
}

#[test]
fn a_coordinate_without_its_leading_zero_is_the_same_key() {
    let key = (0u32..)
        .filter_map(|number| {
            let mut scalar = gridseal_crypto::sha256(&[&number.to_be_bytes()]);
            SigningKey::new(&Key::<SoftwareRootKey, 32>::take(&mut scalar)).ok()
        })
        .map(|key| key.public())
        .find(|key| key.point()[0] == 0)
        .unwrap();
    let mut public = ATTESTATION_TEMPLATE.to_vec();
    tpm2b(&mut public, &key.point()[1..32]);
    tpm2b(&mut public, &key.point()[32..]);
    assert_eq!(attestation_key(&public), Ok(key));
}

#[test]
fn an_rsa_endorsement_key_is_its_template_and_nothing_else() {
    let mut rsa = ENDORSEMENT_RSA_TEMPLATE.to_vec();
    tpm2b(&mut rsa, &[0xc5; 256]);
    let key = endorsement_key(&rsa).unwrap();
    assert_eq!(key.bytes(), [0xc5; 256]);
    assert_eq!(PublicArea::parse(&rsa).unwrap().object_type, ALG_RSA);
    for (at, what) in [(3, "nameAlg"), (7, "attributes"), (20, "policy"), (45, "key bits"), (55, "exponent")]
    {
        let mut changed = rsa.clone();
        changed[at] ^= 0x10;
        assert_eq!(endorsement_key(&changed), Err(Code::Endorsement), "{what}");
    }
    let mut even = rsa.clone();
    *even.last_mut().unwrap() = 0xc4;
    assert_eq!(endorsement_key(&even), Err(Code::Endorsement), "even modulus");
    let mut short = ENDORSEMENT_RSA_TEMPLATE.to_vec();
    tpm2b(&mut short, &[0xc5; 255]);
    assert_eq!(endorsement_key(&short), Err(Code::Endorsement), "short modulus");
    rsa.push(0);
    assert_eq!(endorsement_key(&rsa), Err(Code::Endorsement), "trailing byte");
}

#[test]
fn a_p384_endorsement_key_is_recognised_and_has_no_suite() {
    let mut p384 = hex::decode("0023000c000300f20000000601000043001000040010").unwrap();
    tpm2b(&mut p384, &[1; 48]);
    tpm2b(&mut p384, &[2; 48]);
    let area = PublicArea::parse(&p384).unwrap();
    assert_eq!((area.point, area.symmetric_bits, area.curve), (None, Some(256), Some(4)));
    assert_eq!(endorsement_key(&p384), Err(Code::Suite));
    p384[5] = 0x04;
    assert_eq!(endorsement_key(&p384), Err(Code::Endorsement), "a signing key is no endorsement key");
}

#[test]
fn a_flaw_in_a_public_area_is_named_with_its_offset() {
    let public = with_point(&ENDORSEMENT_TEMPLATE, &signing_key().public());
    let flaw = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = public.clone();
        change(&mut bytes);
        let StructureError { field, offset, flaw } = PublicArea::parse(&bytes).unwrap_err();
        (field, offset, flaw)
    };
    assert_eq!(flaw(&|b| b[1] = 0x99), ("type", 0, Flaw::Value));
    assert_eq!(flaw(&|b| b[9] = 0xff), ("authPolicy", 8, Flaw::Length));
    assert_eq!(flaw(&|b| b[43] = 0x99), ("symmetric", 42, Flaw::Value));
    assert_eq!(flaw(&|b| b[51] = 0x99), ("curveID", 50, Flaw::Value));
    assert_eq!(flaw(&|b| b[60] ^= 1), ("unique", 54, Flaw::Point));
    assert_eq!(flaw(&|b| b.truncate(60)), ("x", 56, Flaw::Truncated));
    assert_eq!(flaw(&|b| b.push(0)), ("TPMT_PUBLIC", 122, Flaw::Trailing));
    let template = [STORAGE_TEMPLATE.as_slice(), &[0; 4]].concat();
    assert_eq!(PublicArea::parse(&template).unwrap().point, None);
    assert_eq!(storage_key(&template), Err(Code::Certify));
    assert_eq!(PublicArea::parse(&DEVICE_ROOT_TEMPLATE).unwrap().object_type, ALG_KEYEDHASH);
}

#[test]
fn a_pcr_selection_has_one_encoding() {
    let all: Vec<u8> = (0..12).collect();
    let selection = PcrSelection::new(&all).unwrap();
    assert_eq!(hex::encode(selection.encode()), "00000001000b03ff0f00");
    assert_eq!(PcrSelection::decode(&selection.encode()), Ok(selection));
    assert_eq!(selection.indices().collect::<Vec<_>>(), all);
    assert_eq!(PcrSelection::new(&[24]), None);
    assert_eq!(PcrSelection::new(&[]), None);
    for (wrong, field) in [
        ("00000000", "count"),
        ("00000002000b03ff0f00000403ff0f00", "count"),
        ("00000001000403ff0f00", "hash"),
        ("00000001000b04ff0f0000", "sizeofSelect"),
        ("00000001000b03000000", "pcrSelect"),
        ("00000001000b03ff0f0000", "TPML_PCR_SELECTION"),
    ] {
        assert_eq!(PcrSelection::decode(&hex::decode(wrong).unwrap()).unwrap_err().field, field);
    }
}

fn change_auth(hierarchy: u32, session_handle: u32) -> Vec<u8> {
    let session: Key<TpmSession, 32> = Key::generate(&mut Counting(1)).unwrap();
    let new: Key<AuthValue, 32> = Key::generate(&mut Counting(2)).unwrap();
    change_auth_command(&ChangeAuth {
        hierarchy,
        session_handle,
        session: &session,
        in_force: AuthInForce::Empty,
        new: &new,
        nonce_tpm: [1; 16],
        nonce_caller: [2; 16],
        keep_session: false,
    })
}

#[test]
fn only_the_two_ownership_commands_in_the_opened_sessions_may_run() {
    let sessions = [0x0200_0000, 0x0200_0001];
    for session in sessions {
        assert_eq!(check_tunnelled(&change_auth(RH_OWNER, session), &sessions), Ok(Tunnelled::ChangeAuth));
        assert_eq!(check_tunnelled(&change_auth(RH_LOCKOUT, session), &sessions), Ok(Tunnelled::ChangeAuth));
    }
    let refused = |command: &[u8]| assert_eq!(check_tunnelled(command, &sessions), Err(Code::Command));
    refused(&change_auth(RH_ENDORSEMENT, 0x0200_0000));
    refused(&change_auth(RH_PLATFORM, 0x0200_0000));
    refused(&change_auth(RH_OWNER, 0x0200_0002));
    let good = change_auth(RH_OWNER, 0x0200_0000);
    assert_eq!(
        check_tunnelled(&change_auth(RH_OWNER, 0x0300_0000), &[0x0300_0000]),
        Err(Code::Command),
        "a policy session authorises nothing here"
    );
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let size = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        bytes[2..6].copy_from_slice(&size);
        refused(&bytes);
    };
    changed(&|b| b[9] = 0x26); // Clear
    changed(&|b| b[9] = 0x27); // ClearControl
    changed(&|b| b[1] = 1); // no sessions
    changed(&|b| b.push(0));
    changed(&|b| b.truncate(80));
    changed(&|b| b[40] = 0x60); // decrypt and encrypt
    changed(&|b| b[40] = 0x01); // new value in clear
    changed(&|b| b.extend_from_slice(&[0, 0]));
    // A session's HMAC of 31 bytes.
    changed(&|b| {
        b[17] -= 1;
        b[42] -= 1;
        b.remove(74);
    });
    // A second authorisation.
    changed(&|b| {
        let second = [0x40, 0, 0, 0x09, 0, 0, 0, 0, 0];
        b[17] += 9;
        b.splice(75..75, second);
    });
    // No authorisation.
    changed(&|b| {
        b[17] = 0;
        b.drain(18..75);
    });
    let mut wrong_size = good.clone();
    wrong_size[5] ^= 1;
    refused(&wrong_size);
    refused(&[]);
}

#[test]
fn the_names_of_the_vectors_are_those_of_the_tpm() {
    let v = Vector::load("make_credential_ecc_p256");
    assert_eq!(name(&v.bytes("ak_public")).as_bytes().to_vec(), v.bytes("object_name"));
}

#[test]
fn no_input_makes_the_parsers_panic() {
    let v = Vector::load("quote");
    let mut seeds = CHECKS.map(|(template, ..)| with_point(template, &signing_key().public())).to_vec();
    seeds.push([&[116][..], &v.bytes("attest"), &v.bytes("signature")].concat());
    seeds.push(change_auth(RH_OWNER, 0x0200_0000));
    for seed in seeds {
        fuzz_entry(&seed);
        for at in 0..seed.len() {
            fuzz_entry(&seed[..at]);
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = seed.clone();
                changed[at] = value;
                fuzz_entry(&changed);
            }
        }
    }
}
