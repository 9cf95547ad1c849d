//! Who gets which certificate, and what OpenSSL makes of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

#[path = "authority/openssl.rs"]
mod openssl;

use std::{cell::RefCell, net::IpAddr, time::Duration};

use gridseal_crypto::{
    Key, KeyError, PublicKey, Rng, RngError, Signature, Signer, SigningKey, role::CaSigning,
};
use gridseal_pki::{
    Authority, Call, Certificate, CertificateRecord, CertificateRecords, Csr, Holder, IssueError, Issuer,
    LintError, RecordsError, Settings, SubjectName, Validity, profile, self_signed,
};
use gridseal_trust::csr::{assemble_csr, certificate_key, csr_to_be_signed};
use gridseal_types::{
    Code, Digest, EkName, UtcTime,
    service::certificates::{CertificateReply, CertificateRequest},
};
use openssl::Folder;

const NOW: UtcTime = UtcTime(1_800_000_000);
const DAY_S: u64 = 86_400;

/// A generator that never gives the same bytes twice.
struct Counting(u64);

impl Rng for Counting {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        for chunk in buffer.chunks_mut(32) {
            self.0 += 1;
            let block = gridseal_crypto::sha256(&[&self.0.to_be_bytes()]);
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Memory(RefCell<Vec<CertificateRecord>>);

impl CertificateRecords for Memory {
    fn newest_for_key(&self, key: &Digest) -> Result<Option<CertificateRecord>, RecordsError> {
        Ok(self.0.borrow().iter().rev().find(|record| record.key == *key).cloned())
    }
}

struct Unreadable;

impl CertificateRecords for Unreadable {
    fn newest_for_key(&self, _: &Digest) -> Result<Option<CertificateRecord>, RecordsError> {
        Err(RecordsError)
    }
}

type CaKey = SigningKey<CaSigning>;

fn key(seed: u64) -> CaKey {
    SigningKey::new(&Key::generate_scalar(&mut Counting(seed << 32)).unwrap()).unwrap()
}

fn validity(days: u64) -> Validity {
    Validity::starting(UtcTime(NOW.0 - DAY_S), Duration::from_secs(days * DAY_S))
}

fn hierarchy() -> (Issuer<CaKey>, Certificate) {
    let rng = &mut Counting(7);
    let draft = profile::root("Owner Root", &key(1).public(), validity(9_000)).unwrap();
    let root = Issuer::new(key(1), self_signed(draft, &key(1), rng).unwrap()).unwrap();
    let draft = profile::issuing("Owner Issuing", &key(2).public(), validity(4_000)).unwrap();
    let issuing = root.issue(draft, rng).unwrap();
    (Issuer::new(key(2), issuing).unwrap(), root.certificate().clone())
}

fn authority() -> Authority<CaKey> {
    let (issuer, root) = hierarchy();
    let names =
        vec![SubjectName::Dns("meters.example".to_owned()), SubjectName::Ip(IpAddr::from([127, 0, 0, 1]))];
    let settings = Settings { servers: [("headend".to_owned(), names)].into(), ..Settings::default() };
    Authority::new(issuer, root, settings).unwrap()
}

fn request(signer: &CaKey) -> Vec<u8> {
    let body = csr_to_be_signed("whatever the device says", &signer.public());
    assemble_csr(&body, &signer.sign(&body).unwrap())
}

fn ldevid(device: u8, csr: Vec<u8>) -> CertificateRequest {
    let device = EkName([device; 34]);
    CertificateRequest::LDevId { device, serial: "GS-0001".into(), model: "Lab 1".into(), csr }
}

fn decide(
    authority: &Authority<CaKey>,
    request: &CertificateRequest,
    caller: &str,
    records: &Memory,
) -> CertificateReply {
    decide_at(authority, request, caller, NOW, records)
}

fn decide_at(
    authority: &Authority<CaKey>,
    request: &CertificateRequest,
    caller: &str,
    now: UtcTime,
    records: &Memory,
) -> CertificateReply {
    let seed = records.0.borrow().len() as u64 * 1_000 + 500;
    let (reply, record) = authority.decide(Call { request, caller, now }, &mut Counting(seed), records);
    records.0.borrow_mut().extend(record);
    reply
}

fn issued(reply: CertificateReply) -> Vec<Vec<u8>> {
    let CertificateReply::Issued { chain, root, .. } = reply else { panic!("{reply:?}") };
    chain.into_iter().map(|certificate| certificate.0).chain([root]).collect()
}

fn refused(reply: CertificateReply) -> Code {
    let CertificateReply::Refused { code } = reply else { panic!("issued") };
    code
}

#[test]
fn openssl_verifies_an_ldevid_and_reads_in_it_what_the_register_says() {
    let folder = Folder::new("ldevid");
    let chain =
        issued(decide(&authority(), &ldevid(1, request(&key(3))), "endpoint-manager", &Memory::default()));
    folder.verify(&chain, "-purpose sslclient");
    let text = folder.text(&chain[0]);
    for line in [
        "Subject: OU = Lab 1, serialNumber = GS-0001",
        "Issuer: CN = Owner Issuing",
        "Signature Algorithm: ecdsa-with-SHA256",
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "X509v3 Extended Key Usage: \n                TLS Web Client Authentication\n",
        "X509v3 Subject Alternative Name: \n                othername: 1.3.6.1.5.5.7.8.4",
        "ASN1 OID: prime256v1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("whatever the device says"));
    let leaf = Certificate::parse(&chain[0]).unwrap();
    assert_eq!(leaf.not_before(), UtcTime(NOW.0 - 300));
    assert_eq!(leaf.not_after(), UtcTime(NOW.0 - 300 + 8 * 365 * DAY_S));
    assert_eq!(leaf.serial().len(), 16);
    assert_eq!(certificate_key(&chain[0]), Some(key(3).public()));
}

#[test]
fn openssl_verifies_a_server_for_its_names_and_its_day() {
    let folder = Folder::new("server");
    let server = CertificateRequest::Server { csr: request(&key(3)) };
    let chain = issued(decide(&authority(), &server, "headend", &Memory::default()));
    folder.verify(&chain, "-purpose sslserver -verify_hostname meters.example");
    folder.verify(&chain, "-purpose sslserver -verify_ip 127.0.0.1");
    assert!(!folder.verifies(&chain, "-verify_hostname other.example"));
    assert!(!folder.verifies(&chain, "-purpose sslclient"));
    let leaf = Certificate::parse(&chain[0]).unwrap();
    assert_eq!(leaf.not_after().0 - leaf.not_before().0, DAY_S);
}

#[test]
fn openssl_verifies_a_service_both_ways() {
    let folder = Folder::new("service");
    let (issuer, root) = hierarchy();
    let draft = profile::service("endpoint-manager", &key(3).public(), validity(30)).unwrap();
    let leaf = issuer.issue(draft, &mut Counting(11)).unwrap();
    let chain = [leaf, issuer.certificate().clone(), root].map(|certificate| certificate.der().to_vec());
    folder.verify(&chain, "-purpose sslserver -verify_hostname endpoint-manager");
    folder.verify(&chain, "-purpose sslclient");
    assert!(folder.text(&chain[0]).contains("Subject: CN = endpoint-manager"));
    let text = folder.text(&chain[1]);
    assert!(text.contains("CA:TRUE, pathlen:0") && text.contains("Certificate Sign, CRL Sign"), "{text}");
}

#[test]
fn only_the_endpoint_manager_gets_ldevids_and_only_configured_servers_get_theirs() {
    let (authority, records) = (authority(), Memory::default());
    let server = CertificateRequest::Server { csr: request(&key(4)) };
    for caller in ["headend", "keys", "", "Endpoint-Manager"] {
        assert_eq!(
            refused(decide(&authority, &ldevid(1, request(&key(3))), caller, &records)),
            Code::Refused
        );
    }
    for caller in ["endpoint-manager", "config-server", ""] {
        assert_eq!(refused(decide(&authority, &server, caller, &records)), Code::Refused);
    }
    assert!(records.0.borrow().is_empty());
}

#[test]
fn the_same_device_and_key_get_the_same_certificate_again() {
    let (authority, records) = (authority(), Memory::default());
    let first = issued(decide(&authority, &ldevid(1, request(&key(3))), "endpoint-manager", &records));
    let again = issued(decide(&authority, &ldevid(1, request(&key(3))), "endpoint-manager", &records));
    assert_eq!(first, again);
    assert_eq!(records.0.borrow().len(), 1);
    let other_key = issued(decide(&authority, &ldevid(1, request(&key(4))), "endpoint-manager", &records));
    assert_ne!(first[0], other_key[0]);
    assert_eq!(records.0.borrow()[0].holder, Holder::Device(EkName([1; 34])));
    assert_eq!(records.0.borrow()[0].certificate, first[0]);
}

#[test]
fn a_key_that_another_device_has_is_refused() {
    let (authority, records) = (authority(), Memory::default());
    issued(decide(&authority, &ldevid(1, request(&key(3))), "endpoint-manager", &records));
    assert_eq!(
        refused(decide(&authority, &ldevid(2, request(&key(3))), "endpoint-manager", &records)),
        Code::Csr
    );
    let server = CertificateRequest::Server { csr: request(&key(3)) };
    assert_eq!(refused(decide(&authority, &server, "headend", &records)), Code::Csr);
}

#[test]
fn a_server_gets_a_new_certificate_when_half_of_its_day_is_over() {
    let (authority, records) = (authority(), Memory::default());
    let server = CertificateRequest::Server { csr: request(&key(3)) };
    let at = |hours: u64| {
        issued(decide_at(&authority, &server, "headend", UtcTime(NOW.0 + hours * 3_600), &records))
    };
    let (morning, noon, evening) = (at(0), at(11), at(13));
    assert_eq!(morning, noon);
    assert_ne!(morning[0], evening[0]);
}

#[test]
fn a_certificate_of_an_earlier_authority_is_not_given_again() {
    let records = Memory::default();
    let first = issued(decide(&authority(), &ldevid(1, request(&key(3))), "endpoint-manager", &records));
    let draft = profile::root("Owner Root", &key(8).public(), validity(9_000)).unwrap();
    let root = Issuer::new(key(8), self_signed(draft, &key(8), &mut Counting(2)).unwrap()).unwrap();
    let draft = profile::issuing("Owner Issuing", &key(9).public(), validity(4_000)).unwrap();
    let issuer = Issuer::new(key(9), root.issue(draft, &mut Counting(3)).unwrap()).unwrap();
    let next = Authority::new(issuer, root.certificate().clone(), Settings::default()).unwrap();
    let second = issued(decide(&next, &ldevid(1, request(&key(3))), "endpoint-manager", &records));
    assert_ne!(first[0], second[0]);
}

#[test]
fn bad_requests_and_texts_are_refused_with_their_code() {
    let (authority, records) = (authority(), Memory::default());
    let mut forged = request(&key(3));
    *forged.last_mut().unwrap() ^= 1;
    for csr in [vec![], forged, [request(&key(3)), vec![0]].concat()] {
        assert_eq!(refused(decide(&authority, &ldevid(1, csr), "endpoint-manager", &records)), Code::Csr);
    }
    for (serial, model) in
        [("", "m"), ("s", ""), ("a_b", "m"), ("s\n", "m"), ("s", "m\0"), (&"9".repeat(65), "m")]
    {
        let request = CertificateRequest::LDevId {
            device: EkName([1; 34]),
            serial: serial.to_owned(),
            model: model.to_owned(),
            csr: request(&key(3)),
        };
        let code = refused(decide(&authority, &request, "endpoint-manager", &records));
        assert_eq!(code, Code::Format, "{serial:?} {model:?}");
    }
    assert!(records.0.borrow().is_empty());
}

#[test]
fn without_records_nothing_is_issued() {
    let request = ldevid(1, request(&key(3)));
    let call = Call { request: &request, caller: "endpoint-manager", now: NOW };
    let (reply, record) = authority().decide(call, &mut Counting(1), &Unreadable);
    assert_eq!(refused(reply), Code::Busy);
    assert_eq!(record, None);
}

#[test]
fn before_the_begin_and_after_the_end_of_the_authority_nothing_is_issued() {
    let records = Memory::default();
    for wrong in [UtcTime(0), UtcTime(NOW.0 + 4_000 * DAY_S)] {
        let reply =
            decide_at(&authority(), &ldevid(1, request(&key(3))), "endpoint-manager", wrong, &records);
        assert_eq!(refused(reply), Code::Time);
    }
    let near = UtcTime(NOW.0 + 3_900 * DAY_S);
    let reply = decide_at(&authority(), &ldevid(1, request(&key(3))), "endpoint-manager", near, &records);
    let chain = issued(reply);
    assert_eq!(Certificate::parse(&chain[0]).unwrap().not_after(), hierarchy().0.certificate().not_after());
}

#[test]
fn s14_a_certificate_of_a_clock_that_was_fast_is_not_given_again() {
    let records = Memory::default();
    let decide = |now| {
        let request = ldevid(1, request(&key(3)));
        let chain = issued(decide_at(&authority(), &request, "endpoint-manager", now, &records));
        Certificate::parse(&chain[0]).unwrap().not_before()
    };
    let fast = decide(UtcTime(NOW.0 + 3_000 * DAY_S));
    let right = decide(NOW);
    assert!(fast > NOW && right <= NOW, "{fast:?} {right:?}");
    assert_eq!(decide(NOW), right, "the same again");
}

/// A key store that signs with another key than it says.
struct Confused;

impl Signer for Confused {
    type Error = KeyError;
    fn public(&self) -> PublicKey {
        key(2).public()
    }
    fn sign(&self, message: &[u8]) -> Result<Signature, KeyError> {
        key(3).sign(message)
    }
}

#[test]
fn a_signature_that_does_not_verify_never_leaves() {
    let issuer = Issuer::new(Confused, hierarchy().0.certificate().clone()).unwrap();
    let draft = profile::service("keys", &key(4).public(), validity(2)).unwrap();
    assert_eq!(issuer.issue(draft, &mut Counting(1)), Err(IssueError::Signer));
}

#[test]
fn a_leaf_or_a_foreign_certificate_makes_no_authority() {
    let (issuer, root) = hierarchy();
    let draft = profile::service("keys", &key(4).public(), validity(2)).unwrap();
    let leaf = issuer.issue(draft, &mut Counting(1)).unwrap();
    assert!(matches!(Issuer::new(key(4), leaf), Err(IssueError::NotAnAuthority)));
    assert!(matches!(Issuer::new(key(4), root), Err(IssueError::NotAnAuthority)));
    let draft = profile::root("Other", &key(5).public(), validity(9)).unwrap();
    let other = self_signed(draft, &key(5), &mut Counting(1)).unwrap();
    let result = Authority::new(issuer, other, Settings::default());
    assert!(matches!(result, Err(IssueError::NotAnAuthority)));
}

#[test]
fn a_server_lifetime_beyond_a_day_is_refused_by_the_lint() {
    let names = [SubjectName::Dns("a.example".to_owned())];
    let draft = profile::server("headend", &names, &key(3).public(), validity(2)).unwrap();
    let result = hierarchy().0.issue(draft, &mut Counting(1));
    assert_eq!(result, Err(IssueError::Lint(LintError::Validity)));
}

#[test]
fn openssl_and_we_agree_on_requests() {
    let folder = Folder::new("requests");
    folder.verify_request(&request(&key(3)));
    let made =
        folder.request("-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -addext subjectAltName=DNS:a");
    assert!(Csr(&made).parse().is_ok());
    for options in [
        "-newkey rsa:2048",
        "-newkey ec -pkeyopt ec_paramgen_curve:secp384r1",
        "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -sha384",
        "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -pkeyopt ec_param_enc:explicit",
    ] {
        assert_eq!(Csr(&folder.request(options)).parse(), Err(Code::Csr), "{options}");
    }
}

#[test]
fn a_root_after_2049_keeps_its_dates() {
    let draft = profile::root("Late", &key(1).public(), validity(14_000)).unwrap();
    let root = self_signed(draft, &key(1), &mut Counting(1)).unwrap();
    assert_eq!(root.not_after(), validity(14_000).not_after);
    assert_eq!(Certificate::parse(root.der()).unwrap(), root);
    assert!(Folder::new("late").text(root.der()).contains("2065 GMT"));
}
