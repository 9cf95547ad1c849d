//! Vectors made by others, on both back ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use gridseal_crypto::{
    AgreementKey, Curve, CurveAgreement, CurvePublic, CurveSigner, InvocationCounter, Key, KeyAlgorithm,
    PairContext, PairSeal, PublicKey, RsaPublicKey, SecondKey, SecondSigner, apdu,
    backend::{Backend, rustcrypto::RustCrypto},
    role::{Ephemeral, Gak, Guek, Kek, SoftwareRootKey, VoucherSecond},
    tpm::{
        AuthInForce, ChangeAuth, CommandAuth, SecretLabel, SessionNonces, change_auth_command,
        change_auth_confirmed, duplicate_with, encrypt_secret_with, execute_change_auth, make_credential,
        open_credential, open_duplicate, recover_secret, share_secret_with,
    },
};
use gridseal_types::SystemTitle;

struct Vector(toml::Table);

impl Vector {
    fn load(name: &str) -> Self {
        let path = format!("{}/../../tests/vectors/onboarding/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let table: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
        assert!(table["source"].as_str().is_some_and(|source| !source.is_empty()), "vector without source");
        Self(table["value"].as_table().unwrap().clone())
    }

    fn bytes(&self, field: &str) -> Vec<u8> {
        hex::decode(self.0[field].as_str().unwrap()).unwrap()
    }

    fn array<const N: usize>(&self, field: &str) -> [u8; N] {
        self.bytes(field).try_into().unwrap()
    }

    fn key<R: gridseal_crypto::role::Role>(&self, field: &str) -> Key<R, 32> {
        Key::take(&mut self.array(field))
    }
}

/// Point of a P-256 TPMT_PUBLIC: its last two TPM2Bs of 32 bytes.
fn point_of(public: &[u8]) -> PublicKey {
    let tail = &public[public.len() - 68..];
    let mut point = [0; 64];
    point[..32].copy_from_slice(&tail[2..34]);
    point[32..].copy_from_slice(&tail[36..]);
    PublicKey::from_point(&point).unwrap()
}

#[test]
fn make_credential_matches_and_only_the_right_name_and_blob_open_it() {
    let v = Vector::load("make_credential_ecc_p256");
    let parent = point_of(&v.bytes("parent_public"));
    let (seed, secret) =
        share_secret_with(&v.key::<Ephemeral>("ephemeral_d"), SecretLabel::Identity, &parent).unwrap();
    assert_eq!(secret, v.bytes("secret"));
    let name: [u8; 34] = v.array("object_name");
    let blob = make_credential(&seed, &name, &v.key("credential"));
    assert_eq!(blob, v.bytes("credentialBlob"));

    let private = AgreementKey::new(&v.key::<SoftwareRootKey>("parent_private_d")).unwrap();
    let recover = || recover_secret(SecretLabel::Identity, &private, &secret).unwrap();
    let opened = open_credential(&recover(), &name, &blob).unwrap();
    assert!(bool::from(opened.ct_eq(&v.key("credential"))));

    for position in [2, 3, 4, 40, blob.len() - 1] {
        let mut changed = blob.clone();
        changed[position] ^= 1;
        assert!(open_credential(&recover(), &name, &changed).is_none(), "byte {position}");
    }
    let mut other_name = name;
    other_name[33] ^= 1;
    assert!(open_credential(&recover(), &other_name, &blob).is_none());
    let other_label = recover_secret(SecretLabel::Secret, &private, &secret).unwrap();
    assert!(open_credential(&other_label, &name, &blob).is_none());
}

/// An RSA endorsement key: same credential, the seed in OAEP. The TPM that accepted it would refuse another label.
#[test]
fn make_credential_to_an_rsa_key_matches() {
    let v = Vector::load("make_credential_rsa_2048");
    let public = v.bytes("parent_public");
    let key = RsaPublicKey::from_modulus(&public[public.len() - 256..]).unwrap();
    let (oaep_seed, seed) = (v.array("oaep_seed"), v.key("seed"));
    let secret = encrypt_secret_with(&oaep_seed, SecretLabel::Identity, &key, &seed);
    assert_eq!(secret, v.bytes("secret"));
    assert_ne!(encrypt_secret_with(&oaep_seed, SecretLabel::Secret, &key, &seed), secret, "label");
    let blob = make_credential(&seed, &v.array("object_name"), &v.key("credential"));
    assert_eq!(blob, v.bytes("credentialBlob"));
}

#[test]
fn duplicate_matches_and_a_changed_one_does_not_open() {
    let v = Vector::load("duplicate_import_ecc_p256");
    let parent = Vector::load("make_credential_ecc_p256");
    let point = point_of(&parent.bytes("parent_public"));
    let (seed, in_sym_seed) =
        share_secret_with(&v.key::<Ephemeral>("ephemeral_d"), SecretLabel::Duplicate, &point).unwrap();
    assert_eq!(in_sym_seed, v.bytes("inSymSeed"));
    let secret = Key::<SoftwareRootKey, 48>::take(&mut v.array("secret"));
    let made = duplicate_with(&v.key("seed_value"), &seed, &secret);
    assert_eq!(made.public, v.bytes("object_public"));
    assert_eq!(made.duplicate, v.bytes("duplicate"));

    let private = AgreementKey::new(&parent.key::<SoftwareRootKey>("parent_private_d")).unwrap();
    let seed = recover_secret(SecretLabel::Duplicate, &private, &in_sym_seed).unwrap();
    let opened = open_duplicate(&seed, &made.public, &made.duplicate).unwrap();
    let key: Key<SoftwareRootKey, 48> = opened.into_key().unwrap();
    assert!(bool::from(key.ct_eq(&secret)));
    let mut public = made.public.clone();
    public[20] ^= 1;
    assert!(open_duplicate(&seed, &public, &made.duplicate).is_none());
    let mut blob = made.duplicate.clone();
    *blob.last_mut().unwrap() ^= 1;
    assert!(open_duplicate(&seed, &made.public, &blob).is_none());
}

#[test]
fn tunnelled_ownership_command_matches_and_a_real_response_confirms_it() {
    let v = Vector::load("salted_session_hierarchy_change_auth");
    let nonces = SessionNonces { caller: v.array("nonceCaller0"), tpm: v.array("nonceTPM0") };
    let session = nonces.session_key(&v.key("salt"));
    assert!(bool::from(session.ct_eq(&v.key("sessionKey"))));
    let new = v.key("newAuth");
    let change = ChangeAuth {
        hierarchy: 0x4000_0001,
        session_handle: 0x0200_0000,
        session: &session,
        in_force: AuthInForce::Empty,
        new: &new,
        nonce_tpm: nonces.tpm,
        nonce_caller: v.array("nonceCaller1"),
        keep_session: true,
    };
    let command = change_auth_command(&change);
    assert_eq!(command, v.bytes("command"));
    let caller = v.array("nonceCaller1");
    let response = v.bytes("response");
    assert!(change_auth_confirmed(&session, &new, &caller, &response));
    for position in 0..response.len() {
        let mut changed = response.clone();
        changed[position] ^= 1;
        assert!(!change_auth_confirmed(&session, &new, &caller, &changed), "byte {position}");
    }

    let parsed = CommandAuth::parse(&command).unwrap();
    let (set, made) =
        execute_change_auth(&parsed, &session, AuthInForce::Empty, &nonces.tpm, &v.array("nonceTPM1"))
            .unwrap();
    assert!(bool::from(set.ct_eq(&new)));
    assert_eq!(made, response, "the software root answers what a TPM answers");
    assert!(
        execute_change_auth(&parsed, &session, AuthInForce::Value(&new), &nonces.tpm, &[0; 16]).is_none()
    );
    assert!(execute_change_auth(&parsed, &session, AuthInForce::Empty, &[0; 16], &[0; 16]).is_none());
}

#[test]
fn suite_0_apdu_matches_the_fact_sheet() {
    let mut key: [u8; 16] = core::array::from_fn(|i| u8::try_from(i).unwrap());
    let mut auth: [u8; 16] = core::array::from_fn(|i| 0xd0 + u8::try_from(i).unwrap());
    let (guek, gak) = (Key::take(&mut key), Key::take(&mut auth));
    let title = SystemTitle([0x4d, 0x4d, 0x4d, 0, 0, 0xbc, 0x61, 0x4e]);
    let apdu = hex::decode("C0010000080000010000FF0200").unwrap();
    let mut counter = InvocationCounter::resume(0x0123_4567);
    counter.extend(counter.reserve(1).unwrap());
    let body = apdu::seal(&guek, &gak, title, 0x30, counter.take().unwrap(), &apdu).unwrap();
    assert_eq!(hex::encode_upper(&body), "411312FF935A47566827C467BC7D825C3BE4A77C3FCC056B6B");
    assert_eq!(apdu::open(&guek, &gak, title, 0x30, 0x0123_4567, &body).unwrap(), apdu);
    assert!(apdu::open(&guek, &gak, title, 0x30, 0x0123_4568, &body).is_none());
    assert!(apdu::open(&guek, &gak, title, 0x20, 0x0123_4567, &body).is_none());
    for bit in 0..body.len() * 8 {
        let mut changed = body.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(apdu::open(&guek, &gak, title, 0x30, 0x0123_4567, &changed).is_none(), "bit {bit}");
    }
}

/// The same checks for any back end: known answers, agreement between the two sides, refusal of changed input.
fn back_end_agrees<B: Backend>() {
    let hex32 = |text: &str| -> [u8; 32] { hex::decode(text).unwrap().try_into().unwrap() };
    // FIPS 180-4 and RFC 4231 (case 2).
    let abc = hex32("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(B::sha256(&[b"a", b"bc"]), abc);
    let mac = hex32("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    assert_eq!(B::hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"]), mac);
    // GCM specification, test case 16.
    let key = hex32("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
    let nonce: [u8; 12] = hex::decode("cafebabefacedbaddecaf888").unwrap().try_into().unwrap();
    let aad = hex::decode("feedfacedeadbeeffeedfacedeadbeefabaddad2").unwrap();
    let plain = hex::decode(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    )
    .unwrap();
    let sealed = B::gcm_seal(&key, &nonce, &aad, &plain).unwrap();
    assert_eq!(hex::encode(&sealed[plain.len()..]), "76fc6ece0f4e1768cddf8853bb2d551b");
    assert_eq!(B::gcm_open(&key, &nonce, &aad, &sealed).unwrap(), plain);
    let mut changed = sealed;
    changed[0] ^= 1;
    assert!(B::gcm_open(&key, &nonce, &aad, &changed).is_none());
    // RFC 6979, A.2.5: key, and the signature of "sample" with SHA-256.
    let scalar = hex32("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721");
    let signing = B::signing_key(&scalar).unwrap();
    let point = B::signing_point(&signing);
    assert_eq!(point[..32], hex32("60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"));
    let known: [u8; 64] = hex::decode(
        "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
    )
    .unwrap()
    .try_into()
    .unwrap();
    assert!(B::verify(&point, b"sample", &known));
    assert!(!B::verify(&point, b"simple", &known));
    assert!(B::verify(&point, b"again", &B::sign(&signing, b"again").unwrap()));
    assert!(!B::verify(&point, b"sample", &[0; 64]));
    // ECDH: NIST CAVS 14.1, P-256, count 0.
    let private = hex32("7d7dc5f71eb29ddaf80d6214632eeae03d9058af1fb6d22ed80badb62bc1a534");
    let peer: [u8; 64] = hex::decode(
        "700c48f77f56584c5cc632ca65640db91b6bacce3a4df6b42ce7cc838833d287db71e509e3fd9b060ddb20ba5c51dcc5948d46fbf640dfe0441782cab85fa4ac",
    )
    .unwrap()
    .try_into()
    .unwrap();
    let agreement = B::agreement_key(&private).unwrap();
    let z = hex32("46fc62106420ff012e54a434fbdd2d25ccc5852060561e68040dd7778997bd7b");
    assert_eq!(B::agree(&agreement, &peer), Some(z));
    assert!(B::agreement_key(&[0; 32]).is_none());
    assert!(B::signing_key(&[0xff; 32]).is_none());
}

#[test]
fn rustcrypto_back_end_matches_known_answers() {
    back_end_agrees::<RustCrypto>();
}

#[cfg(feature = "aws-lc")]
#[test]
fn aws_lc_back_end_matches_known_answers() {
    back_end_agrees::<gridseal_crypto::backend::aws_lc::AwsLc>();
}

#[test]
fn a_point_off_the_curve_is_no_public_key() {
    assert!(PublicKey::from_point(&[1; 64]).is_none());
    assert!(PublicKey::from_point(&[0; 64]).is_none());
    assert!(PublicKey::from_sec1(&[0]).is_none());
}

/// One vector of tests/vectors.
fn vector(name: &str) -> toml::Table {
    let path = format!("{}/../../tests/vectors/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn key_wrap<const N: usize>(name: &str) {
    let vector = vector(name);
    let field = |part: &str, name: &str| hex::decode(vector[part][name].as_str().unwrap()).unwrap();
    let kek: Key<Kek, N> = Key::take_slice(&mut field("input", "kek")).unwrap();
    let key = || Key::<Guek, N>::take_slice(&mut field("input", "key")).unwrap();
    let wrapped = kek.wrap_for_meter(&key());
    assert_eq!(wrapped, field("expect", "wrapped"));
    assert!(bool::from(kek.unwrap_transferred::<Guek>(&wrapped).unwrap().ct_eq(&key())));
    for at in 0..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[at] ^= 1;
        assert!(kek.unwrap_transferred::<Guek>(&changed).is_none(), "byte {at}");
    }
}

#[test]
fn key_wrap_matches_and_opens_again() {
    key_wrap::<16>("key-wrap/rfc3394");
    key_wrap::<32>("key-wrap/rfc3394-256");
}

/// The fields of a vector of key agreement.
struct Agreement(toml::Table);

impl Agreement {
    fn bytes(&self, field: &str) -> Vec<u8> {
        hex::decode(self.0[field].as_str().unwrap()).unwrap()
    }

    fn private(&self, field: &str) -> CurveAgreement {
        CurveAgreement::take(Curve::P256, &mut self.bytes(field)).unwrap()
    }

    fn public(&self, field: &str) -> CurvePublic {
        CurvePublic::from_point(Curve::P256, &self.bytes(field)).unwrap()
    }
}

//= DLMS 6.1: keys are derived from the shared secret, the algorithm and both parties
//= DLMS 12.12: the derivation has the hash and the size of the suite
#[test]
fn agreed_keys_are_those_of_the_green_book_and_depend_on_everything_that_goes_in() {
    for (name, signs_key_id) in
        [("two-ephemeral", true), ("one-pass", false), ("one-pass-from-the-server", false), ("static", false)]
    {
        let table = vector(&format!("key-agreement/{name}"));
        let (input, expect) = (
            Agreement(table["input"].as_table().unwrap().clone()),
            Agreement(table["expect"].as_table().unwrap().clone()),
        );
        let own = input.private("private");
        assert_eq!(own.public().point(), expect.bytes("public"), "{name}");
        let shared = own.agree(&input.public("peer_public")).unwrap();
        let (u, v) = (input.bytes("party_u"), input.bytes("party_v"));
        let key: Key<Guek, 16> = shared.derive(KeyAlgorithm::Gcm, &u, &v).unwrap();
        let is =
            |key: &Key<Guek, 16>| bool::from(key.ct_eq(&Key::take_slice(&mut expect.bytes("key")).unwrap()));
        assert!(is(&key), "{name}");
        assert!(!is(&shared.derive(KeyAlgorithm::Wrap, &u, &v).unwrap()), "{name}: algorithm");
        assert!(!is(&shared.derive(KeyAlgorithm::Gcm, &v, &u).unwrap()), "{name}: parties swapped");
        assert!(!is(&shared.derive(KeyAlgorithm::Gcm, &u[..7], &v).unwrap()), "{name}: party cut");
        assert!(shared.derive::<Guek, 32>(KeyAlgorithm::Gcm, &u, &v).is_none(), "no 32 bytes out of P-256");
        if !input.0.contains_key("signer") {
            continue;
        }
        let (signer, signature) = (input.public("signer"), input.bytes("signature"));
        let mut signed = input.bytes("signed_public");
        if signs_key_id {
            signed.insert(0, 0);
        }
        assert!(signer.verifies(&signed, &signature), "{name}");
        assert!(!signer.verifies(&signed[1..], &signature), "{name}");
        assert!(!signer.verifies(&signed, &signature[1..]), "{name}: truncated");
    }
}

//= DLMS 5.5: a point that is not on the curve is refused
#[test]
fn points_off_the_curve_and_keys_of_the_other_curve_agree_on_nothing() {
    for curve in [Curve::P256, Curve::P384] {
        let size = curve.point_size();
        let own = CurveAgreement::generate(curve, &mut CountingRng(1)).unwrap();
        let good = own.public().point().to_vec();
        assert_eq!((own.public().curve(), good.len()), (curve, size));
        assert!(CurvePublic::from_point(curve, &good).is_some());
        for bad in
            [vec![0; size], vec![1; size], vec![0xFF; size], good[1..].to_vec(), [&good[..], &[0]].concat()]
        {
            assert!(CurvePublic::from_point(curve, &bad).is_none());
        }
        for bit in (0..8 * size).step_by(29) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(CurvePublic::from_point(curve, &bad).is_none(), "bit {bit}");
        }
        let swapped = [&good[size / 2..], &good[..size / 2]].concat();
        assert!(CurvePublic::from_point(curve, &swapped).is_none(), "y || x");
        let mut zero = vec![0; size / 2];
        assert!(
            CurveAgreement::take(curve, &mut zero).is_none() && CurveSigner::take(curve, &mut zero).is_none()
        );
        let mut large = vec![0xFF; size / 2];
        assert!(CurveAgreement::take(curve, &mut large).is_none());
        assert!(CurveSigner::take(curve, &mut [0xFF; 48]).is_none() && large == vec![0; size / 2]);
    }
    let short = CurveAgreement::generate(Curve::P256, &mut CountingRng(2)).unwrap();
    let long = CurveAgreement::generate(Curve::P384, &mut CountingRng(3)).unwrap();
    assert!(short.agree(&long.public()).is_none() && long.agree(&short.public()).is_none());
}

#[test]
fn both_sides_derive_one_key_of_32_bytes_on_p384() {
    let one = CurveAgreement::generate(Curve::P384, &mut CountingRng(4)).unwrap();
    let two = CurveAgreement::generate(Curve::P384, &mut CountingRng(5)).unwrap();
    let here: Key<Guek, 32> =
        one.agree(&two.public()).unwrap().derive(KeyAlgorithm::Gcm, b"u", b"v").unwrap();
    let there: Key<Guek, 32> =
        two.agree(&one.public()).unwrap().derive(KeyAlgorithm::Gcm, b"u", b"v").unwrap();
    assert!(bool::from(here.ct_eq(&there)));
    assert!(one.agree(&two.public()).unwrap().derive::<Guek, 16>(KeyAlgorithm::Gcm, b"u", b"v").is_none());
}

//= DLMS 4: mechanism 7 signs titles and challenges, r and s as they are
#[test]
fn signatures_on_p384_verify_and_der_or_a_changed_bit_does_not() {
    let table = vector("key-agreement/p384-signature");
    let input = Agreement(table["input"].as_table().unwrap().clone());
    let signer = CurveSigner::take(Curve::P384, &mut input.bytes("private")).unwrap();
    let (message, signature) =
        (table["input"]["message"].as_str().unwrap().as_bytes(), input.bytes("signature"));
    assert!(signer.public().verifies(message, &signature));
    let own = signer.sign(message).unwrap();
    assert_eq!(own.len(), 96);
    assert!(signer.public().verifies(message, &own));
    for bit in (0..768).step_by(23) {
        let mut changed = own.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(!signer.public().verifies(message, &changed), "bit {bit}");
    }
    let der = [&[0x30, 0x64, 0x02, 0x30][..], &own[..48], &[0x02, 0x30], &own[48..]].concat();
    for wrong in [&der[..], &own[..95], &own[..64], &[0; 96], &[]] {
        assert!(!signer.public().verifies(message, wrong));
    }
}

/// Draws a different byte each time.
struct CountingRng(u8);

impl gridseal_crypto::Rng for CountingRng {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), gridseal_crypto::RngError> {
        for byte in buffer {
            self.0 = self.0.wrapping_mul(37).wrapping_add(11);
            *byte = self.0;
        }
        Ok(())
    }
}

/// Draws nothing but zeros.
struct ZeroRng;

impl gridseal_crypto::Rng for ZeroRng {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), gridseal_crypto::RngError> {
        buffer.fill(0);
        Ok(())
    }
}

fn counted<R: gridseal_crypto::role::Role>(first: u8) -> Key<R, 16> {
    let mut bytes = [0; 16];
    (first..).zip(&mut bytes).for_each(|(value, byte)| *byte = value);
    Key::take(&mut bytes)
}

#[test]
fn a_sealed_pair_opens_in_its_context_alone_and_does_what_its_keys_do() {
    let title = SystemTitle(*b"GSL\0\0\0\0\x01");
    let context = PairContext { system_title: title, guek_version: 1, gak_version: 2 };
    let mut seal = PairSeal::generate(&mut ZeroRng).unwrap();
    let pair = seal.seal(&counted(0), &counted(0xD0), &context).unwrap();
    for other in [
        PairContext { system_title: SystemTitle([0; 8]), ..context },
        PairContext { guek_version: 2, ..context },
        PairContext { gak_version: 1, ..context },
    ] {
        assert!(seal.open(&pair, &other).is_none());
    }
    let keys = seal.open(&pair, &context).unwrap();
    let expected = apdu::seal(&counted(0), &counted(0xD0), title, 0x30, ticket(7), b"reading").unwrap();
    let mut sealed = b"reading".to_vec();
    let tag = keys.seal_in_place(title, 0x30, &ticket(7), &mut sealed).unwrap();
    sealed.extend_from_slice(&tag);
    assert_eq!(sealed, expected);
    let mut changed = sealed.clone();
    changed[3] ^= 1;
    assert_eq!(keys.open_in_place(title, 0x30, 7, &mut changed), None);
    assert_eq!(keys.open_in_place(title, 0x30, 7, &mut sealed), Some(7));
    assert_eq!(sealed[..7], *b"reading");
    assert_eq!(keys.open_in_place(title, 0x30, 7, &mut [0; 11]), None, "shorter than a tag");
}

#[test]
fn a_sealed_pair_of_suite_2_does_what_its_keys_do_and_one_of_another_size_is_none() {
    let title = SystemTitle(*b"GSL\0\0\0\0\x01");
    let context = PairContext { system_title: title, guek_version: 1, gak_version: 2 };
    let mut seal = PairSeal::generate(&mut ZeroRng).unwrap();
    let (guek, gak) = (Key::<Guek, 32>::take(&mut [7; 32]), Key::<Gak, 32>::take(&mut [9; 32]));
    let pair = seal.seal(&guek, &gak, &context).unwrap();
    let keys = seal.open(&pair, &context).unwrap();
    let header = apdu::Header { originator: title, security_control: 0x32 };
    let expected = apdu::protect(&guek, &gak, header, ticket(7), b"reading").unwrap();
    let mut sealed = b"reading".to_vec();
    let tag = keys.seal_in_place(title, 0x32, &ticket(7), &mut sealed).unwrap();
    sealed.extend_from_slice(&tag);
    assert_eq!(sealed, expected);
    assert_eq!(keys.open_in_place(title, 0x31, 7, &mut sealed.clone()), None, "of another suite");
    assert_eq!(keys.open_in_place(title, 0x32, 7, &mut sealed), Some(7));
    let challenge = apdu::gmac(&guek, &gak, header, ticket(8), b"challenge!");
    assert_eq!(keys.gmac(title, 0x32, 8, b"challenge!"), challenge);
    let (short, other) = (Key::<Guek, 24>::take(&mut [7; 24]), Key::<Gak, 24>::take(&mut [9; 24]));
    assert!(seal.seal(&short, &other, &context).is_none());
}

#[test]
fn gmac_of_an_association_matches_the_green_book() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/hls/gmac-green-book.toml");
    let vector: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    let bytes = |part: &str, name: &str| hex::decode(vector[part][name].as_str().unwrap()).unwrap();
    let title = |name| SystemTitle::from_slice(&bytes("input", name)).unwrap();
    let counter = |name: &str| u32::try_from(vector["input"][name].as_integer().unwrap()).unwrap();
    let mut seal = PairSeal::generate(&mut ZeroRng).unwrap();
    let context = PairContext { system_title: title("server_title"), guek_version: 1, gak_version: 1 };
    let guek = Key::<Guek, 16>::take_slice(&mut bytes("input", "guek")).unwrap();
    let gak = Key::take_slice(&mut bytes("input", "gak")).unwrap();
    let pair = seal.seal(&guek, &gak, &context).unwrap();
    let keys = seal.open(&pair, &context).unwrap();
    let challenge = bytes("input", "server_to_client");
    let tag = keys.gmac(title("client_title"), 0x10, counter("client_counter"), &challenge).unwrap();
    assert_eq!(tag.as_slice(), bytes("expect", "client_tag"));
    let challenge = bytes("input", "client_to_server");
    let tag = keys.gmac(title("server_title"), 0x10, counter("server_counter"), &challenge).unwrap();
    assert_eq!(tag.as_slice(), bytes("expect", "server_tag"));
}

fn ticket(value: u64) -> gridseal_crypto::Ticket {
    let mut counter = InvocationCounter::resume(value);
    counter.extend(counter.reserve(1).unwrap());
    counter.take().unwrap()
}

/// The same key, signatures of others and signatures for others, on one back end.
fn second_signatures<B: Backend>(v: &Vector) {
    let (message, public) = (v.bytes("message"), v.array("public_key"));
    let signer = B::second_signer(&v.array("seed")).unwrap();
    assert_eq!(B::second_public(&signer).unwrap(), public);
    let signature = v.array("signature");
    assert!(B::second_verifies(&public, &message, &signature));
    let own = B::second_sign(&signer, &message).unwrap();
    assert!(B::second_verifies(&public, &message, &own));
    assert!(RustCrypto::second_verifies(&public, &message, &own));
    for at in (0..signature.len()).step_by(211).chain([signature.len() - 1]) {
        let mut changed = signature;
        changed[at] ^= 1;
        assert!(!B::second_verifies(&public, &message, &changed), "byte {at}");
    }
    assert!(!B::second_verifies(&public, &message[1..], &signature));
    let mut other = public;
    other[0] ^= 1;
    assert!(!B::second_verifies(&other, &message, &signature));
}

#[test]
fn second_signatures_of_others_verify_and_changed_ones_do_not() {
    let v = Vector::load("ml_dsa_65");
    second_signatures::<RustCrypto>(&v);
    #[cfg(feature = "aws-lc")]
    second_signatures::<gridseal_crypto::backend::aws_lc::AwsLc>(&v);
    let key = SecondKey::from_bytes(&v.bytes("public_key")).unwrap();
    let signer = SecondSigner::new(&v.key::<VoucherSecond>("seed")).unwrap();
    assert_eq!(*signer.public(), key);
    assert!(key.verifies(&[b"gso1-voucher", &v.bytes("message")[12..]], &v.bytes("signature")));
    assert!(!key.verifies(&[&v.bytes("message")], &v.bytes("signature")[1..]));
    assert!(SecondKey::from_bytes(&v.bytes("public_key")[1..]).is_none());
}
