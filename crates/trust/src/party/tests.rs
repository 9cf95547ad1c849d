use alloc::{string::ToString, vec::Vec};

use gridseal_crypto::{Curve, CurvePublic, CurveSigner};
use gridseal_types::{SystemTitle, UtcTime};

use super::*;

const NOW: UtcTime = UtcTime(1_800_000_000);
const DAY: u64 = 86_400;
const METER: SystemTitle = SystemTitle(*b"GSL\0\0\0\0\x01");

fn signer(curve: Curve, seed: u8) -> CurveSigner {
    CurveSigner::take(curve, &mut alloc::vec![seed; curve.coordinate_size()]).expect("a scalar")
}

/// An authority or a party with its key.
struct Party {
    subject: Subject,
    key: CurveSigner,
}

impl Party {
    fn authority(curve: Curve, name: &str, seed: u8) -> Self {
        Self { subject: Subject::Authority(name.to_string()), key: signer(curve, seed) }
    }

    fn meter(curve: Curve) -> Self {
        Self { subject: Subject::Party(METER), key: signer(curve, 0x42) }
    }
}

/// A certificate as its issuer would write it.
#[derive(Clone, Copy)]
struct Shape {
    role: Role,
    from: u64,
    to: u64,
    serial: u8,
}

impl Shape {
    const fn of(role: Role) -> Self {
        Self { role, from: NOW.0 - DAY, to: NOW.0 + DAY, serial: 1 }
    }
}

fn issue(by: &Party, to: &Party, shape: Shape) -> Vec<u8> {
    let (issuer_key, key) = (by.key.public(), to.key.public());
    let draft = Draft {
        serial: &[shape.serial],
        issuer: &by.subject.name(),
        issuer_key: &issuer_key,
        subject: &to.subject,
        validity: (UtcTime(shape.from), UtcTime(shape.to)),
        key: &key,
        role: shape.role,
    };
    let body = draft.to_be_signed();
    assemble(&body, issuer_key.curve(), &by.key.sign(&body).expect("signs"))
}

fn parse(der: &[u8]) -> Certificate {
    Certificate::parse(der).expect("a certificate")
}

const ROOT: Shape = Shape::of(Role::Authority(None));
const SIGNS: Shape = Shape::of(Role::Party(Purpose::Signature));

fn judge(root: &[u8], between: &[Vec<u8>], leaf: &[u8], clock: Clock) -> Result<(), Fault> {
    let (root, leaf) = (parse(root), parse(leaf));
    let between: Vec<Certificate> = between.iter().map(|der| parse(der)).collect();
    let known = Authorities { anchors: alloc::vec![&root], intermediates: between.iter().collect() };
    known.judge(&leaf, leaf.key().curve(), clock)
}

#[test]
fn a_certificate_says_what_was_written_and_is_believed_under_its_anchor() {
    for curve in [Curve::P256, Curve::P384] {
        let (root, meter) = (Party::authority(curve, "root", 1), Party::meter(curve));
        let anchor = issue(&root, &root, ROOT);
        assert_eq!(Authorities::judge_anchor(&parse(&anchor), curve, Clock::Trusted(NOW)), Ok(()));
        for purpose in Purpose::ALL {
            let der = issue(&root, &meter, Shape::of(Role::Party(purpose)));
            let leaf = parse(&der);
            assert_eq!(leaf.role(), Some(Role::Party(purpose)));
            assert_eq!((leaf.title(), leaf.key()), (Some(METER), &meter.key.public()));
            assert_eq!(leaf.validity(), (UtcTime(NOW.0 - DAY), UtcTime(NOW.0 + DAY)));
            assert_eq!(
                (leaf.serial(), leaf.issuer(), leaf.alt_name()),
                (&[1][..], &root.subject.name()[..], &[][..])
            );
            assert!(curve == Curve::P384 || der.len() <= 500, "{} bytes", der.len());
            assert_eq!(judge(&anchor, &[], &der, Clock::Trusted(NOW)), Ok(()));
        }
        let other = Party::authority(curve, "other", 2);
        assert_eq!(
            judge(&issue(&other, &other, ROOT), &[], &issue(&root, &meter, SIGNS), Clock::Trusted(NOW)),
            Err(Fault::NoPath)
        );
        let namesake = Party::authority(curve, "root", 2);
        assert_eq!(
            judge(&issue(&namesake, &namesake, ROOT), &[], &issue(&root, &meter, SIGNS), Clock::Trusted(NOW)),
            Err(Fault::Signature)
        );
    }
}

#[test]
fn authorities_stand_between_as_far_as_they_may() {
    let curve = Curve::P256;
    let [root, first, second, third] =
        [("root", 1), ("a", 2), ("b", 3), ("c", 4)].map(|(name, seed)| Party::authority(curve, name, seed));
    let meter = Party::meter(curve);
    let authority = |length| Shape::of(Role::Authority(length));
    let between = |lengths: [Option<u8>; 2]| {
        [issue(&root, &first, authority(lengths[0])), issue(&first, &second, authority(lengths[1]))]
    };
    let (anchor, leaf) = (issue(&root, &root, ROOT), issue(&second, &meter, SIGNS));
    let clock = Clock::Trusted(NOW);
    assert_eq!(judge(&anchor, &between([Some(1), Some(0)]), &leaf, clock), Ok(()));
    assert_eq!(judge(&anchor, &between([Some(0), None]), &leaf, clock), Err(Fault::Authority));
    assert_eq!(judge(&anchor, &between([None, None])[1..], &leaf, clock), Err(Fault::NoPath));
    let mut three = between([None, None]).to_vec();
    three.push(issue(&second, &third, authority(None)));
    assert!(judge(&anchor, &three, &issue(&third, &meter, SIGNS), clock).is_err(), "too long a path");
    let as_party = [issue(&root, &first, SIGNS), issue(&first, &second, authority(None))];
    assert!(judge(&anchor, &as_party, &leaf, clock).is_err(), "a party issues nothing");
    // A ring of authorities that certify each other ends, and leads nowhere.
    let ring: Vec<Vec<u8>> = [(&first, &second), (&second, &first), (&second, &second)]
        .into_iter()
        .map(|(by, to)| issue(by, to, authority(None)))
        .collect();
    assert_eq!(judge(&anchor, &ring, &leaf, clock), Err(Fault::NoPath));
}

//= design S14: without a trusted clock only what is certainly over is refused
#[test]
fn s14_validity_is_judged_by_a_trusted_clock_alone() {
    let curve = Curve::P256;
    let (root, meter) = (Party::authority(curve, "root", 1), Party::meter(curve));
    let anchor = issue(&root, &root, Shape { from: 0, to: NOW.0 + 100 * DAY, ..ROOT });
    let over = issue(&root, &meter, Shape { from: NOW.0 - 9 * DAY, to: NOW.0 - DAY, ..SIGNS });
    let early = issue(&root, &meter, Shape { from: NOW.0 + DAY, to: NOW.0 + 9 * DAY, ..SIGNS });
    let floor = |days| Clock::Untrusted { floor: UtcTime(NOW.0 - days * DAY) };
    assert_eq!(judge(&anchor, &[], &over, Clock::Trusted(NOW)), Err(Fault::Expired));
    assert_eq!(judge(&anchor, &[], &early, Clock::Trusted(NOW)), Err(Fault::NotYet));
    assert_eq!(judge(&anchor, &[], &over, floor(0)), Err(Fault::Expired), "over at the latest known time");
    assert_eq!(judge(&anchor, &[], &over, floor(5)), Ok(()));
    assert_eq!(judge(&anchor, &[], &early, floor(0)), Ok(()));
    let old_anchor = issue(&root, &root, Shape { from: 0, to: NOW.0 - DAY, ..ROOT });
    let good = issue(&root, &meter, SIGNS);
    assert_eq!(judge(&old_anchor, &[], &good, Clock::Trusted(NOW)), Err(Fault::Expired), "an expired issuer");
    assert_eq!(
        Authorities::judge_anchor(&parse(&old_anchor), curve, Clock::Trusted(NOW)),
        Err(Fault::Expired)
    );
}

#[test]
fn the_curve_of_the_suite_is_kept_along_the_path() {
    let (weak, strong) = (Party::authority(Curve::P256, "root", 1), Party::authority(Curve::P384, "root", 1));
    let (meter, big) = (Party::meter(Curve::P256), Party::meter(Curve::P384));
    let clock = Clock::Trusted(NOW);
    let strong_anchor = issue(&strong, &strong, ROOT);
    assert_eq!(
        judge(&strong_anchor, &[], &issue(&strong, &meter, SIGNS), clock),
        Ok(()),
        "a stronger issuer"
    );
    let weak_anchor = issue(&weak, &weak, ROOT);
    assert_eq!(judge(&weak_anchor, &[], &issue(&weak, &big, SIGNS), clock), Err(Fault::Curve));
    let (anchor, leaf) = (parse(&strong_anchor), parse(&issue(&strong, &meter, SIGNS)));
    let known = Authorities { anchors: alloc::vec![&anchor], intermediates: Vec::new() };
    assert_eq!(known.judge(&leaf, Curve::P384, clock), Err(Fault::Curve), "suite 2 wants P-384");
    let (anchor, leaf) = (parse(&strong_anchor), parse(&issue(&strong, &big, SIGNS)));
    let known = Authorities { anchors: alloc::vec![&anchor], intermediates: Vec::new() };
    assert_eq!(known.judge(&leaf, Curve::P256, clock), Err(Fault::Curve), "suite 1 wants P-256");
    let parsed = parse(&weak_anchor);
    assert_eq!(Authorities::judge_anchor(&parsed, Curve::P384, clock), Err(Fault::Curve));
    assert_eq!(Authorities::judge_anchor(&leaf, Curve::P384, clock), Err(Fault::Authority));
}

#[test]
fn what_is_no_certificate_of_a_party_is_refused() {
    let curve = Curve::P256;
    let (root, meter) = (Party::authority(curve, "root", 1), Party::meter(curve));
    let anchor = issue(&root, &root, ROOT);
    let good = issue(&root, &meter, SIGNS);
    assert_eq!(Certificate::parse(&alloc::vec![0x30; 65_535]), Err(Fault::Size));
    assert_eq!(Certificate::parse(&[]), Err(Fault::Format));
    for length in 0..good.len() {
        assert!(Certificate::parse(&good[..length]).is_err(), "{length} bytes");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(Certificate::parse(&longer), Err(Fault::Format));
    for bit in 0..good.len() * 8 {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok(leaf) = Certificate::parse(&flipped) else { continue };
        let parsed = parse(&anchor);
        let known = Authorities { anchors: alloc::vec![&parsed], intermediates: Vec::new() };
        assert!(known.judge(&leaf, curve, Clock::Trusted(NOW)).is_err(), "bit {bit}");
    }
    // The point of the certified key is at its place in the certificate.
    let point = meter.key.public().point().to_vec();
    let at = good.windows(point.len()).position(|window| window == point).expect("there");
    let mut off = good.clone();
    off[at + point.len() - 1] ^= 1;
    assert_eq!(Certificate::parse(&off), Err(Fault::Key));
    let nameless = Party { subject: Subject::Authority("meter 1".into()), ..Party::meter(curve) };
    assert_eq!(
        judge(&anchor, &[], &issue(&root, &nameless, SIGNS), Clock::Trusted(NOW)),
        Err(Fault::Subject)
    );
}

#[test]
fn a_request_proves_possession_and_names_its_meter() {
    for curve in [Curve::P256, Curve::P384] {
        let key = signer(curve, 7);
        let body = csr_to_be_signed(METER, &key.public());
        let request = assemble(&body, curve, &key.sign(&body).expect("signs"));
        assert_eq!(parse_csr(&request), Ok((METER, key.public())));
        let other = signer(curve, 8);
        let forged = assemble(&body, curve, &other.sign(&body).expect("signs"));
        assert_eq!(parse_csr(&forged), Err(Fault::Signature));
        for length in 0..request.len() {
            assert!(parse_csr(&request[..length]).is_err(), "{length} bytes");
        }
        if curve == Curve::P256 {
            let p256: CurvePublic =
                crate::csr::parse_csr(&request).expect("as the authority reads it").into();
            assert_eq!(p256, key.public());
        }
    }
}

#[test]
fn times_are_written_as_they_are_read() {
    let curve = Curve::P256;
    let root = Party::authority(curve, "root", 1);
    for at in [0, 951_782_399, 951_782_400, 1_709_251_199, 2_524_607_999, 2_524_608_000, 253_402_300_799] {
        let certificate = parse(&issue(&root, &root, Shape { from: at, to: at, ..ROOT }));
        assert_eq!(certificate.validity(), (UtcTime(at), UtcTime(at)));
    }
}

/// Certificates and requests as another implementation writes them.
#[test]
fn what_openssl_writes_is_read_and_believed() {
    for (curve, text) in [
        (Curve::P256, include_str!("../../../../tests/vectors/certificates/p256.toml")),
        (Curve::P384, include_str!("../../../../tests/vectors/certificates/p384.toml")),
    ] {
        let vector: toml::Table = text.parse().expect("toml");
        let bytes =
            |part: &str, field: &str| hex::decode(vector[part][field].as_str().expect("text")).expect("hex");
        let key = CurvePublic::from_point(curve, &bytes("expect", "point")).expect("a point");
        let title = SystemTitle::from_slice(&bytes("expect", "title"));
        let (root, between) = (bytes("input", "root"), [bytes("input", "sub")]);
        let clock = Clock::Trusted(NOW);
        assert_eq!(Authorities::judge_anchor(&parse(&root), curve, clock), Ok(()));
        for purpose in Purpose::ALL {
            let field = ["signature", "agreement", "tls"][usize::from(purpose.number())];
            let der = bytes("input", field);
            let leaf = parse(&der);
            assert_eq!((leaf.title(), leaf.key(), leaf.role()), (title, &key, Some(Role::Party(purpose))));
            assert_eq!(leaf.alt_name().is_empty(), purpose != Purpose::Signature);
            assert_eq!(judge(&root, &between, &der, clock), Ok(()), "{field}");
            assert_eq!(judge(&root, &[], &der, clock), Err(Fault::NoPath));
        }
        assert_eq!(parse_csr(&bytes("input", "request")).ok(), title.zip(Some(key)));
    }
}
