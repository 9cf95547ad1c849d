use const_oid::db::rfc5280::{ANY_EXTENDED_KEY_USAGE, ID_KP_SERVER_AUTH};
use der::asn1::{BitString, Ia5String, OctetString};
use gridseal_crypto::{Key, Rng, RngError, Signer, SigningKey, role::CaSigning};
use gridseal_types::UtcTime;
use std::time::Duration;
use x509_cert::{ext::pkix::KeyUsages, serial_number::SerialNumber, time::Validity as Times};

use super::*;
use crate::{
    Draft, Issuer, SubjectName, Validity,
    profile::{self, Device, extension},
    self_signed,
};

struct Counting(u8);

impl Rng for Counting {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        for byte in buffer {
            self.0 = self.0.wrapping_mul(17).wrapping_add(3);
            *byte = self.0;
        }
        Ok(())
    }
}

const NOW: UtcTime = UtcTime(1_800_000_000);

fn key(seed: u8) -> SigningKey<CaSigning> {
    SigningKey::new(&Key::generate_scalar(&mut Counting(seed)).unwrap()).unwrap()
}

fn days(count: u64) -> Validity {
    Validity::starting(NOW, Duration::from_secs(count * 86_400))
}

fn authority() -> Issuer<SigningKey<CaSigning>> {
    let root = profile::root("Root", &key(1).public(), days(10_000)).unwrap();
    let root = Issuer::new(key(1), self_signed(root, &key(1), &mut Counting(9)).unwrap()).unwrap();
    let draft = profile::issuing("Issuing", &key(2).public(), days(5_000)).unwrap();
    let certificate = root.issue(draft, &mut Counting(8)).unwrap();
    Issuer::new(key(2), certificate).unwrap()
}

fn device() -> Draft {
    let hardware_type = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.32473.1");
    let device = Device { serial: "GS-0001", model: "Lab 1", hardware_type };
    profile::ldevid(device, &key(3).public(), days(365)).unwrap()
}

fn service() -> Draft {
    profile::service("keys", &key(4).public(), days(30)).unwrap()
}

fn server() -> Draft {
    let names = [SubjectName::Dns("meters.example".to_owned())];
    profile::server("headend", &names, &key(5).public(), days(1)).unwrap()
}

/// Lints the body that a draft becomes, after a change.
fn changed(draft: Draft, change: impl FnOnce(&mut ToBeSigned)) -> Result<(), LintError> {
    let issuer = authority();
    let profile = draft.profile;
    let mut body = issuer.issue(draft, &mut Counting(7)).unwrap().body().clone();
    change(&mut body);
    check(&body, profile, Some(issuer.certificate()))
}

fn replace<T: AssociatedOid + Encode>(body: &mut ToBeSigned, critical: bool, value: &T) {
    let new = extension(critical, value).unwrap();
    let extensions = body.extensions.as_mut().unwrap();
    *extensions.iter_mut().find(|old| old.extn_id == T::OID).unwrap() = new;
}

#[test]
fn what_the_profiles_make_is_clean() {
    for draft in [device(), service(), server()] {
        assert_eq!(changed(draft, |_| ()), Ok(()));
    }
}

#[test]
fn fields_must_be_as_the_profile_says() {
    let serial = |bytes: &[u8]| SerialNumber::new(bytes).unwrap();
    assert_eq!(changed(device(), |body| body.version = Version::V1), Err(LintError::Version));
    assert_eq!(changed(device(), |body| body.serial = serial(&[1; 8])), Err(LintError::Serial));
    assert_eq!(changed(device(), |body| body.serial = serial(&[1; 17])), Err(LintError::Serial));
    let sha384 = const_oid::db::rfc5912::ECDSA_WITH_SHA_384;
    assert_eq!(changed(device(), |body| body.algorithm.oid = sha384), Err(LintError::Algorithm));
    let root = profile::root("Root", &key(1).public(), days(1)).unwrap().subject;
    assert_eq!(changed(device(), |body| body.issuer = root), Err(LintError::Issuer));
}

#[test]
fn keys_must_be_points_of_p_256_and_not_the_authoritys() {
    let junk = BitString::from_bytes(&[4; 65]).unwrap();
    assert_eq!(changed(device(), |body| body.key.subject_public_key = junk), Err(LintError::Key));
    let own = authority().certificate().body().key.clone();
    assert_eq!(changed(device(), |body| body.key = own), Err(LintError::Key));
    let p384 = const_oid::db::rfc5912::SECP_384_R_1;
    let parameters = Some(der::Any::encode_from(&p384).unwrap());
    assert_eq!(changed(device(), |body| body.key.algorithm.parameters = parameters), Err(LintError::Key));
}

#[test]
fn validity_must_be_forward_bounded_and_inside_the_authoritys() {
    let set = |draft: fn() -> Draft, start: u64, end: u64| {
        let time = |at| {
            let at = der::DateTime::from_unix_duration(Duration::from_secs(at)).unwrap();
            x509_cert::time::Time::from(at)
        };
        changed(draft(), |body| body.validity = Times::new(time(start), time(end)))
    };
    let day = 86_400;
    assert_eq!(set(device, NOW.0, NOW.0 + 8 * 365 * day), Ok(()));
    assert_eq!(set(device, NOW.0, NOW.0), Err(LintError::Validity));
    assert_eq!(set(device, NOW.0 + 1, NOW.0), Err(LintError::Validity));
    assert_eq!(set(device, NOW.0, NOW.0 + 9 * 365 * day), Err(LintError::Validity));
    assert_eq!(set(device, NOW.0 - 1, NOW.0 + day), Err(LintError::Validity));
    assert_eq!(set(device, NOW.0 + 4_999 * day, NOW.0 + 5_001 * day), Err(LintError::Validity));
    assert_eq!(set(server, NOW.0, NOW.0 + day + 1), Err(LintError::Validity));
    assert_eq!(set(service, NOW.0, NOW.0 + 367 * day), Err(LintError::Validity));
}

#[test]
fn usage_must_be_exactly_that_of_the_profile() {
    let ca = BasicConstraints { ca: true, path_len_constraint: Some(0) };
    assert_eq!(changed(device(), |body| replace(body, true, &ca)), Err(LintError::BasicConstraints));
    for usage in [
        KeyUsage(KeyUsages::DigitalSignature | KeyUsages::KeyCertSign),
        KeyUsage(KeyUsages::KeyAgreement.into()),
    ] {
        assert_eq!(changed(device(), |body| replace(body, true, &usage)), Err(LintError::KeyUsage));
    }
    for purposes in [vec![ANY_EXTENDED_KEY_USAGE], vec![ID_KP_SERVER_AUTH], vec![]] {
        let purposes = ExtendedKeyUsage(purposes);
        let result = changed(device(), |body| replace(body, false, &purposes));
        assert_eq!(result, Err(LintError::ExtendedKeyUsage));
    }
}

#[test]
fn extensions_must_be_known_single_present_and_of_the_right_criticality() {
    let usage = KeyUsage(KeyUsages::DigitalSignature.into());
    assert_eq!(changed(device(), |body| replace(body, false, &usage)), Err(LintError::Extension));
    let doubled = |body: &mut ToBeSigned| {
        body.extensions.as_mut().unwrap().push(extension(true, &usage).unwrap());
    };
    assert_eq!(changed(device(), doubled), Err(LintError::Extension));
    let unknown = |body: &mut ToBeSigned| {
        let extn_id = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.32473.7");
        let extn_value = OctetString::new([5, 0]).unwrap();
        body.extensions.as_mut().unwrap().push(Extension { extn_id, critical: false, extn_value });
    };
    assert_eq!(changed(device(), unknown), Err(LintError::Extension));
    let garbled = |body: &mut ToBeSigned| {
        let extensions = body.extensions.as_mut().unwrap();
        extensions[1].extn_value = OctetString::new([0x30, 0]).unwrap();
    };
    assert_eq!(changed(device(), garbled), Err(LintError::Extension));
    assert_eq!(changed(device(), |body| body.extensions = None), Err(LintError::BasicConstraints));
    let other = SubjectKeyIdentifier(OctetString::new([7; 20]).unwrap());
    assert_eq!(changed(device(), |body| replace(body, false, &other)), Err(LintError::KeyIdentifier));
    let other = AuthorityKeyIdentifier { key_identifier: Some(other.0), ..Default::default() };
    assert_eq!(changed(device(), |body| replace(body, false, &other)), Err(LintError::KeyIdentifier));
}

#[test]
fn names_must_be_those_of_the_profile() {
    let dns = |name: &str| SubjectAltName(vec![GeneralName::DnsName(Ia5String::new(name).unwrap())]);
    for draft in [device, service] {
        let result = changed(draft(), |body| replace(body, false, &dns("headend")));
        assert_eq!(result, Err(LintError::SubjectAltName));
    }
    for name in ["*.example", "a..b", "-a", "a b", ""] {
        let result = changed(server(), |body| replace(body, false, &dns(name)));
        assert_eq!(result, Err(LintError::SubjectAltName), "{name}");
    }
    let none = SubjectAltName(vec![]);
    assert_eq!(changed(server(), |body| replace(body, false, &none)), Err(LintError::SubjectAltName));
    let subject = service().subject;
    assert_eq!(changed(device(), |body| body.subject = subject), Err(LintError::Subject));
    let subject = device().subject;
    assert_eq!(changed(service(), |body| body.subject = subject), Err(LintError::Subject));
}

#[test]
fn an_issuing_authority_makes_no_authority() {
    let draft = profile::issuing("Another", &key(6).public(), days(10)).unwrap();
    let refused = authority().issue(draft, &mut Counting(1));
    assert_eq!(refused, Err(LintError::Issuer.into()));
    let draft = profile::root("Another", &key(6).public(), days(10)).unwrap();
    assert_eq!(authority().issue(draft, &mut Counting(1)), Err(LintError::Issuer.into()));
}

#[test]
fn only_roots_and_pinned_servers_sign_themselves() {
    let own = |draft: Draft, signer| self_signed(draft, &signer, &mut Counting(1)).map(|_| ());
    assert_eq!(own(device(), key(3)), Err(LintError::Issuer.into()));
    let pinned =
        profile::pinned("config", &[SubjectName::Dns("a.example".into())], &key(4).public(), days(9));
    assert_eq!(own(pinned.clone().unwrap(), key(4)), Ok(()));
    assert_eq!(own(pinned.unwrap(), key(5)), Err(LintError::Issuer.into()));
}

#[test]
fn a_large_certificate_is_refused() {
    let names = SubjectAltName(vec![GeneralName::DnsName(Ia5String::new(&"a".repeat(60)).unwrap()); 40]);
    assert_eq!(changed(server(), |body| replace(body, false, &names)), Err(LintError::Size));
}
