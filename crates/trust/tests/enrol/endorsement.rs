//! A vendor of our own, whose certificates are changed in one way each; and chains that others made.

use gridseal_crypto::{
    Key, PublicKey, Rng, RngError, RsaPublicKey, Signer, SigningKey, role::CaSigning, tpm::EndorsementKey,
};
use gridseal_types::UtcTime;

use gridseal_trust::{
    csr::{endorsement_key_info, signature_to_der, subject_public_key_info},
    endorsement::*,
};

/// 2026-11-29.
const NOW: UtcTime = UtcTime(1_795_910_400);

struct Counting(u8);
impl Rng for Counting {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        for byte in buffer {
            self.0 = self.0.wrapping_mul(5).wrapping_add(7);
            *byte = self.0;
        }
        Ok(())
    }
}

type Signing = SigningKey<CaSigning>;

fn key(seed: u8) -> Signing {
    SigningKey::new(&Key::generate_scalar(&mut Counting(seed)).unwrap()).unwrap()
}

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let mut der = vec![tag, 0x82];
    der.extend_from_slice(&u16::try_from(contents.len()).unwrap().to_be_bytes());
    der.extend_from_slice(&contents);
    der
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(0x30, parts)
}

fn name(text: &str) -> Vec<u8> {
    let attribute = sequence(&[&[0x06, 3, 0x55, 0x04, 0x03], &element(0x0c, &[text.as_bytes()])]);
    sequence(&[&element(0x31, &[&attribute])])
}

fn extension(identifier: &[u8], is_critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if is_critical { &[0x01, 1, 0xff] } else { &[] };
    sequence(&[&element(0x06, &[identifier]), critical, &element(0x04, &[value])])
}

const ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const PURPOSES: &[u8] = &[0x55, 0x1d, 0x25];
const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];

fn tpm_attributes(values: [&str; 3]) -> Vec<u8> {
    let sets: Vec<Vec<u8>> = (1u8..)
        .zip(values)
        .map(|(number, value)| {
            let identifier = [0x06, 5, 0x67, 0x81, 0x05, 0x02, number];
            element(0x31, &[&sequence(&[&identifier, &element(0x0c, &[value.as_bytes()])])])
        })
        .collect();
    let sets: Vec<&[u8]> = sets.iter().map(Vec::as_slice).collect();
    sequence(&[&element(0xa4, &[&sequence(&sets)])])
}

/// What a certificate is made of; a test changes one part.
struct Draft {
    serial: u8,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    from: &'static [u8],
    to: &'static [u8],
    spki: Vec<u8>,
    algorithm: &'static [u8],
    extensions: Vec<Vec<u8>>,
}

const ES256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const SHA1_WITH_RSA: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05, 0x05, 0x00];

impl Draft {
    /// As vendors issue them: no subject, valid for ever, attributes in a critical subjectAltName.
    fn leaf(endorsement: &EndorsementKey) -> Self {
        let usage: &[u8] = match endorsement {
            EndorsementKey::P256(_) => &[0x03, 2, 3, 0x08],
            EndorsementKey::Rsa2048(_) => &[0x03, 2, 5, 0x20],
        };
        Self {
            serial: 7,
            subject: sequence(&[]),
            issuer: name("Vendor issuing"),
            from: b"\x17\x0d250101000000Z",
            to: b"\x18\x0f99991231235959Z",
            spki: endorsement_key_info(endorsement),
            algorithm: ES256,
            extensions: vec![
                extension(ALT_NAME, true, &tpm_attributes(["id:54455354", "Model 1", "id:00010002"])),
                extension(USAGE, true, usage),
                extension(CONSTRAINTS, true, &sequence(&[])),
                extension(PURPOSES, false, &sequence(&[&[0x06, 5, 0x67, 0x81, 0x05, 0x08, 0x01]])),
            ],
        }
    }

    fn authority(subject: &str, issuer: &str, key: &PublicKey) -> Self {
        Self {
            serial: 1,
            subject: name(subject),
            issuer: name(issuer),
            from: b"\x17\x0d200101000000Z",
            to: b"\x17\x0d400101000000Z",
            spki: subject_public_key_info(key).to_vec(),
            algorithm: ES256,
            extensions: vec![
                extension(CONSTRAINTS, true, &sequence(&[&[0x01, 1, 0xff]])),
                extension(USAGE, true, &[0x03, 2, 2, 0x04]),
            ],
        }
    }

    fn sign(&self, signer: &Signing) -> Vec<u8> {
        let extensions: Vec<&[u8]> = self.extensions.iter().map(Vec::as_slice).collect();
        let body = sequence(&[
            &element(0xa0, &[&[0x02, 1, 2]]),
            &[0x02, 1, self.serial],
            self.algorithm,
            &self.issuer,
            &sequence(&[self.from, self.to]),
            &self.subject,
            &self.spki,
            &element(0xa3, &[&sequence(&extensions)]),
        ]);
        let signature = signature_to_der(&signer.sign(&body).unwrap());
        sequence(&[&body, self.algorithm, &element(0x03, &[&[0], &signature])])
    }
}

fn endorsement() -> EndorsementKey {
    EndorsementKey::P256(key(3).public())
}

/// Root, issuing authority, device.
struct Vendor {
    issuers: Issuers,
    issuing: Vec<u8>,
}

impl Vendor {
    fn new() -> Self {
        let root = Draft::authority("Vendor root", "Vendor root", &key(1).public()).sign(&key(1));
        let mut issuers = Issuers::default();
        issuers.anchor(&root).unwrap();
        let issuing = Draft::authority("Vendor issuing", "Vendor root", &key(2).public()).sign(&key(1));
        Self { issuers, issuing }
    }

    fn judge(&self, leaf: &Draft) -> Result<Assured, Fault> {
        self.issuers.judge(&endorsement(), &[leaf.sign(&key(2)), self.issuing.clone()], NOW)
    }
}

#[test]
fn a_certificate_with_the_oddities_of_vendors_is_believed() {
    let vendor = Vendor::new();
    let assured = vendor.judge(&Draft::leaf(&endorsement())).unwrap();
    assert_eq!(assured.tpm.manufacturer, "id:54455354");
    assert_eq!((assured.tpm.model.as_str(), assured.tpm.version.as_str()), ("Model 1", "id:00010002"));
    assert_eq!(assured.path.len(), 3);
    // Padding of an NV index, and issuers that the owner has and nobody presents.
    let mut leaf = Draft::leaf(&endorsement()).sign(&key(2));
    leaf.extend_from_slice(&[0xff; 100]);
    assert_eq!(cut(&leaf).unwrap().len(), leaf.len() - 100);
    let mut issuers = vendor.issuers.clone();
    assert!(issuers.intermediate(&vendor.issuing));
    let again = issuers.judge(&endorsement(), &[leaf], NOW).unwrap();
    assert_eq!((&again.path[1..], again.tpm), (&assured.path[1..], assured.tpm));
    // An RSA key, named RSAES-OAEP as some do.
    let rsa = EndorsementKey::Rsa2048(RsaPublicKey::from_modulus(&[0xc5; 256]).unwrap());
    let mut draft = Draft::leaf(&rsa);
    assert!(issuers.judge(&rsa, &[draft.sign(&key(2))], NOW).is_ok());
    let at =
        draft.spki.windows(9).position(|nine| nine == [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]).unwrap();
    draft.spki[at + 8] = 7;
    assert!(issuers.judge(&rsa, &[draft.sign(&key(2))], NOW).is_ok());
}

#[test]
fn each_check_of_a_devices_certificate_refuses_by_itself() {
    let vendor = Vendor::new();
    type Change = fn(&mut Draft);
    let rows: [(&str, Fault, Change); 15] = [
        ("another key", Fault::OtherKey, |leaf| leaf.spki = subject_public_key_info(&key(9).public()).into()),
        ("a key that is none", Fault::OtherKey, |leaf| *leaf.spki.last_mut().unwrap() ^= 1),
        ("an authority", Fault::Authority, |leaf| {
            leaf.extensions[2] = extension(CONSTRAINTS, true, &sequence(&[&[0x01, 1, 0xff]]))
        }),
        ("name constraints", Fault::CriticalExtension, |leaf| {
            leaf.extensions.push(extension(NAME_CONSTRAINTS, true, &sequence(&[])))
        }),
        ("no purpose", Fault::Purpose, |leaf| drop(leaf.extensions.pop())),
        ("another purpose", Fault::Purpose, |leaf| {
            leaf.extensions[3] = extension(PURPOSES, false, &sequence(&[&[0x06, 3, 0x55, 0x1d, 0x25]]))
        }),
        ("a signing key", Fault::Purpose, |leaf| {
            leaf.extensions[1] = extension(USAGE, true, &[0x03, 2, 7, 0x80])
        }),
        ("no TPM named", Fault::Attributes, |leaf| drop(leaf.extensions.remove(0))),
        ("no version named", Fault::Attributes, |leaf| {
            leaf.extensions[0] = extension(ALT_NAME, true, &tpm_attributes(["id:54455354", "Model 1", ""]))
        }),
        ("not yet valid", Fault::Time, |leaf| leaf.from = b"\x17\x0d270101000000Z"),
        ("expired", Fault::Time, |leaf| leaf.to = b"\x17\x0d260101000000Z"),
        ("issuer nobody knows", Fault::NoPath, |leaf| leaf.issuer = name("Somebody")),
        ("SHA-1", Fault::Algorithm, |leaf| leaf.algorithm = SHA1_WITH_RSA),
        ("a time that is none", Fault::Format, |leaf| leaf.to = b"\x17\x0d261301000000Z"),
        ("an extension twice", Fault::Format, |leaf| leaf.extensions.push(leaf.extensions[1].clone())),
    ];
    for (what, fault, change) in rows {
        let mut leaf = Draft::leaf(&endorsement());
        change(&mut leaf);
        assert_eq!(vendor.judge(&leaf), Err(fault), "{what}");
    }
    let leaf = Draft::leaf(&endorsement());
    let forged = [leaf.sign(&key(9)), vendor.issuing.clone()];
    assert_eq!(vendor.issuers.judge(&endorsement(), &forged, NOW), Err(Fault::Signature), "forged");
    let mut some = vendor.issuers.clone();
    some.manufacturer("id:53544D20");
    let chain = [leaf.sign(&key(2)), vendor.issuing.clone()];
    assert_eq!(some.judge(&endorsement(), &chain, NOW), Err(Fault::Manufacturer));
    some.manufacturer("ID:54455354");
    assert!(some.judge(&endorsement(), &chain, NOW).is_ok());
    assert_eq!(vendor.issuers.judge(&endorsement(), &[], NOW), Err(Fault::Missing));
    let five = vec![chain[0].clone(); 5];
    assert_eq!(vendor.issuers.judge(&endorsement(), &five, NOW), Err(Fault::Size));
}

#[test]
fn an_issuer_that_may_not_issue_makes_no_path() {
    let judge = |change: fn(&mut Draft)| {
        let vendor = Vendor::new();
        let mut issuing = Draft::authority("Vendor issuing", "Vendor root", &key(2).public());
        change(&mut issuing);
        let chain = [Draft::leaf(&endorsement()).sign(&key(2)), issuing.sign(&key(1))];
        vendor.issuers.judge(&endorsement(), &chain, NOW).map(|assured| assured.path.len())
    };
    assert_eq!(judge(|_| ()), Ok(3));
    assert_eq!(judge(|issuing| drop(issuing.extensions.remove(0))), Err(Fault::NoPath), "no authority");
    assert_eq!(
        judge(|issuing| issuing.extensions[1] = extension(USAGE, true, &[0x03, 2, 7, 0x80])),
        Err(Fault::NoPath),
        "no right to sign certificates"
    );
    assert_eq!(
        judge(|issuing| issuing.extensions.push(extension(NAME_CONSTRAINTS, true, &sequence(&[])))),
        Err(Fault::NoPath),
        "constraints that we cannot check"
    );
    assert_eq!(judge(|issuing| issuing.to = b"\x17\x0d260101000000Z"), Err(Fault::Time));
    // The issuing authority above the device's certificate is one more than this root allows below itself.
    let mut root = Draft::authority("Vendor root", "Vendor root", &key(1).public());
    root.extensions[0] = extension(CONSTRAINTS, true, &sequence(&[&[0x01, 1, 0xff], &[0x02, 1, 0]]));
    let mut issuers = Issuers::default();
    issuers.anchor(&root.sign(&key(1))).unwrap();
    let issuing = Draft::authority("Vendor issuing", "Vendor root", &key(2).public()).sign(&key(1));
    let chain = [Draft::leaf(&endorsement()).sign(&key(2)), issuing];
    assert_eq!(issuers.judge(&endorsement(), &chain, NOW), Err(Fault::NoPath), "path length");
}

/// Authorities that certify one another in a circle, and a ladder that is too long: neither costs more than a few
/// signatures, whatever is presented.
#[test]
fn circles_and_ladders_end() {
    let mut issuers = Vendor::new().issuers;
    let names = ["Vendor issuing", "B", "C"];
    for (at, subject) in names.iter().enumerate() {
        for issuer in names {
            let seed = u8::try_from(at).unwrap() + 2;
            let signer = u8::try_from(names.iter().position(|n| *n == issuer).unwrap()).unwrap() + 2;
            issuers.intermediate(&Draft::authority(subject, issuer, &key(seed).public()).sign(&key(signer)));
        }
    }
    let leaf = Draft::leaf(&endorsement()).sign(&key(2));
    assert_eq!(issuers.judge(&endorsement(), core::slice::from_ref(&leaf), NOW), Err(Fault::NoPath));
    let ladder: Vec<std::string::String> = (0..6).map(|step| std::format!("Step {step}")).collect();
    let mut issuers = Vendor::new().issuers;
    for step in 0..5usize {
        let subject = if step == 0 { "Vendor issuing" } else { &ladder[step] };
        let above = if step == 4 { "Vendor root" } else { &ladder[step + 1] };
        let signer = if step == 4 { key(1) } else { key(10 + u8::try_from(step).unwrap()) };
        let own = if step == 0 { key(2) } else { key(9 + u8::try_from(step).unwrap()) };
        issuers.intermediate(&Draft::authority(subject, above, &own.public()).sign(&signer));
    }
    assert_eq!(issuers.judge(&endorsement(), &[leaf], NOW), Err(Fault::NoPath));
}

#[test]
fn what_an_issuer_revoked_is_refused_and_only_its_own_list_counts() {
    let vendor = Vendor::new();
    let list = |issuer: &str, serial: u8, signer: &Signing| {
        let entry = sequence(&[&[0x02, 1, serial], b"\x17\x0d260101000000Z"]);
        let body = sequence(&[
            &[0x02, 1, 1],
            ES256,
            &name(issuer),
            b"\x17\x0d260101000000Z",
            b"\x17\x0d260201000000Z",
            &sequence(&[&entry]),
        ]);
        let signature = signature_to_der(&signer.sign(&body).unwrap());
        sequence(&[&body, ES256, &element(0x03, &[&[0], &signature])])
    };
    let judge = |bytes: Vec<u8>| {
        let mut issuers = vendor.issuers.clone();
        issuers.revocation_list(RevocationList::parse(&bytes).unwrap());
        let chain = [Draft::leaf(&endorsement()).sign(&key(2)), vendor.issuing.clone()];
        issuers.judge(&endorsement(), &chain, NOW).map(|_| ())
    };
    assert_eq!(judge(list("Vendor issuing", 7, &key(2))), Err(Fault::Revoked));
    assert_eq!(judge(list("Vendor issuing", 8, &key(2))), Ok(()), "another serial number");
    assert_eq!(judge(list("Vendor issuing", 7, &key(9))), Ok(()), "forged list");
    assert_eq!(judge(list("Vendor root", 1, &key(1))), Err(Fault::Revoked), "the issuing authority");
    assert_eq!(RevocationList::parse(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), Err(Fault::Format));
    assert_eq!(RevocationList::parse(&vec![0; REVOCATION_LIST_SIZE_MAX + 1]), Err(Fault::Size));
}

#[test]
fn hostile_bytes_are_refused_with_bounded_work() {
    let vendor = Vendor::new();
    let judge = |bytes: Vec<u8>| vendor.issuers.judge(&endorsement(), &[bytes], NOW);
    assert_eq!(judge(vec![0x30; 262_144]), Err(Fault::Size), "256 KiB");
    assert_eq!(judge([0x30, 0x80].repeat(2_000)), Err(Fault::Format), "indefinite lengths, deep");
    assert_eq!(judge(vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), Err(Fault::Format), "lying length");
    assert_eq!(judge(element(0x30, &[&[0; 4_097]])), Err(Fault::Size), "one byte too much");
    let leaf = Draft::leaf(&endorsement()).sign(&key(2));
    for length in 0..leaf.len() {
        assert!(judge(leaf[..length].to_vec()).is_err(), "cut at {length}");
    }
    let whole = |bytes: &[u8]| {
        vendor.issuers.judge(&endorsement(), &[bytes.to_vec(), vendor.issuing.clone()], NOW).is_ok()
    };
    assert!(whole(&leaf));
    for at in (4..leaf.len()).step_by(3) {
        let mut changed = leaf.clone();
        changed[at] ^= 0x10;
        assert!(!whole(&changed), "byte {at}");
    }
}

/// RSA 4096 with SHA-512, P-384, ecdsa-with-SHA384, attributes in one name: nothing of it was made by us.
#[test]
fn a_chain_that_openssl_made_is_believed_and_its_revocation_list_too() {
    let path = std::format!(
        "{}/../../tests/vectors/onboarding/ek_certificate_rsa_2048.toml",
        env!("CARGO_MANIFEST_DIR")
    );
    let table: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    let value = |field: &str| hex::decode(table["value"][field].as_str().unwrap()).unwrap();
    let endorsement = EndorsementKey::Rsa2048(RsaPublicKey::from_modulus(&value("modulus")).unwrap());
    let mut issuers = Issuers::default();
    issuers.anchor(&value("root")).unwrap();
    let chain = [value("leaf"), value("issuing")];
    let now = UtcTime(1_800_000_000);
    let assured = issuers.judge(&endorsement, &chain, now).unwrap();
    assert_eq!((assured.tpm.manufacturer.as_str(), assured.path.len()), ("id:54455354", 3));
    assert_eq!(issuers.judge(&endorsement, &chain[..1], now), Err(Fault::NoPath));
    for at in 0..2 {
        let mut forged = chain.clone();
        *forged[at].last_mut().unwrap() ^= 1;
        assert_eq!(issuers.judge(&endorsement, &forged, now), Err(Fault::Signature), "certificate {at}");
    }
    issuers.revocation_list(RevocationList::parse(&value("revocations")).unwrap());
    assert_eq!(issuers.judge(&endorsement, &chain, now), Err(Fault::Revoked));
}
