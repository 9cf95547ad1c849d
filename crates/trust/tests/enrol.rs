//! The framing vector of the onboarding protocol, made by an independent script, in both directions; what devices measured
//! and whose endorsement keys they have; what orders make of a device.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

#[path = "enrol/endorsement.rs"]
mod endorsement;
#[path = "enrol/measured.rs"]
mod measured;
#[path = "enrol/orders.rs"]
mod orders;
#[path = "enrol/receipt.rs"]
mod receipt;

use gridseal_crypto::{
    Key, PublicKey, SecondSigner, Signer, SigningKey,
    role::{
        ActivationSecret, ConfigSigning, DeviceRootSecret, OwnerSecond, OwnerSecret, OwnerSigning, Role,
        VoucherSecond, VoucherSigning,
    },
    sha256,
};
use gridseal_trust::enrol::{
    cose::{Sign1, SignedType, key_id, read_key, sign, write_key},
    document::{Delegation, Entry, EntryKind, Header, Redirect, Use},
    init::SignedRedirect,
    secrets::{ActivationSecretExt, OwnerSecretExt, SessionSecretExt, owner_secret},
    session::{
        ChallengeBody, ChallengePayload, Envelope, HelloBody, ResponsesBody, Step, Transcript, open,
        qualifying, seal_challenge, seal_hello, seal_message, sid_of,
    },
    voucher::{Voucher, VoucherKey},
    wire::{Reader, encode},
};
use gridseal_trust::root::OwnerPin;
use gridseal_types::{Code, Digest, Kid, Nonce, Sid, UtcTime};

struct Vector(toml::Table);

impl Vector {
    fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/onboarding/gso_framing.toml");
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

    fn digest(&self, field: &str) -> Digest {
        Digest(self.array(field))
    }

    fn nonce(&self, field: &str) -> Nonce {
        Nonce(self.array(field))
    }

    fn key<R: Role>(&self, field: &str) -> Key<R, 32> {
        Key::take(&mut self.array(field))
    }

    fn signer<R: Role>(&self, field: &str) -> SigningKey<R> {
        SigningKey::new(&self.key(field)).unwrap()
    }

    fn owner_secret(&self) -> Key<OwnerSecret, 32> {
        owner_secret(&self.key::<DeviceRootSecret>("n_root"), 1)
    }

    fn voucher_key(&self) -> PublicKey {
        self.signer::<VoucherSigning>("voucher_key_d").public()
    }

    fn owner_key(&self) -> PublicKey {
        self.signer::<OwnerSigning>("owner_key_d").public()
    }

    fn config_key(&self) -> PublicKey {
        self.signer::<ConfigSigning>("config_key_d").public()
    }

    fn sid(&self) -> Sid {
        Sid(self.array("sid"))
    }
}

#[test]
fn keys_are_named_by_their_deterministic_cose_key() {
    let v = Vector::load();
    let encoded = encode(|w| write_key(w, &v.owner_key()));
    assert_eq!(encoded, v.bytes("owner_cose_key"));
    assert_eq!(Reader::whole(&encoded, read_key), Ok(v.owner_key()));
    assert_eq!(key_id(&v.owner_key()), v.digest("owner_key_id"));
}

#[test]
fn the_owner_secret_gives_commitment_and_pseudonym() {
    let v = Vector::load();
    let derived = v.owner_secret();
    assert!(bool::from(derived.ct_eq(&v.key("n_1"))));
    assert_eq!(derived.commitment(), v.digest("n_commit"));
    assert_eq!(derived.kid(), Kid(v.array("kid")));
}

#[test]
fn the_voucher_verifies_under_its_vendor_and_re_encodes() {
    let v = Vector::load();
    let header = v.bytes("voucher_header_payload");
    let parsed = Header::decode(&header).unwrap();
    assert_eq!(parsed.encode(), header);
    assert_eq!(SignedType::Voucher.hash(&header), v.digest("voucher_header_hash"));
    let voucher = Voucher::decode(&v.bytes("voucher")).unwrap();
    assert_eq!(voucher.encode(), v.bytes("voucher"));
    let verified = voucher.verify(&[v.owner_key().into(), v.voucher_key().into()]).unwrap();
    assert_eq!(verified.header, parsed);
    assert_eq!(verified.head(), v.digest("voucher_head"));
    assert_eq!((verified.index(), verified.epoch, verified.owner()), (1, 1, Some(v.owner_key())));
    assert_eq!(voucher.verify(&[v.owner_key().into()]), Err(Code::Voucher));
}

#[test]
fn a_voucher_with_any_bit_changed_is_refused() {
    let v = Vector::load();
    let whole = v.bytes("voucher");
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        let verified = Voucher::decode(&changed)
            .map_err(Code::from)
            .and_then(|voucher| voucher.verify(&[v.voucher_key().into()]));
        assert!(verified.is_err(), "byte {at}");
    }
}

#[test]
fn delegation_and_redirect_verify_under_the_voucher() {
    let v = Vector::load();
    let verified = Voucher::decode(&v.bytes("voucher")).unwrap().verify(&[v.voucher_key().into()]).unwrap();
    let delegation = verified.delegate(&v.bytes("delegation"), Use::Config).unwrap();
    assert_eq!(delegation.key, v.config_key());
    let payload = Sign1::decode(&v.bytes("delegation")).unwrap().payload.to_vec();
    assert_eq!(Delegation::decode(&payload).unwrap().encode(), payload);

    let redirect = v.bytes("redirect");
    let signed = SignedRedirect { redirect: redirect.clone(), delegation: None, voucher: v.bytes("voucher") };
    let found = signed.verify(&[v.voucher_key().into()]).unwrap();
    assert_eq!(found.hash, v.digest("redirect_hash"));
    assert_eq!(found.redirect.urls, ["https://config.example:8443"]);
    let payload = Sign1::decode(&redirect).unwrap().payload.to_vec();
    assert_eq!(Redirect::decode(&payload).unwrap().encode(), payload);
    assert_eq!(found.redirect.encode(), payload);
    // Signed by the owner key itself, so not by the delegate.
    let by_delegate = SignedRedirect { delegation: Some(v.bytes("delegation")), ..signed };
    assert_eq!(by_delegate.verify(&[v.voucher_key().into()]), Err(Code::RedirectSig));
}

#[test]
fn c1_is_sealed_byte_for_byte_and_names_the_session() {
    let v = Vector::load();
    let body = v.bytes("c1_body");
    assert_eq!(HelloBody::decode(&body).unwrap().encode(), body);
    let seal = v.owner_secret().seal_c1(&v.nonce("M"));
    assert!(bool::from(seal.ct_eq(&v.key("k_c1"))));
    let wire = seal_hello(&seal, &v.owner_secret().kid(), &v.nonce("M"), &body).unwrap();
    assert_eq!(wire, v.bytes("c1_wire"));
    assert_eq!(open(&seal, &Envelope::decode(&wire).unwrap()).unwrap(), body);
    assert_eq!(sid_of(&wire), v.sid());
    assert_eq!(Transcript::new().value(), v.digest("th0"));
    assert_eq!(Transcript::new().after(Step::HELLO, &wire).value(), v.digest("th1"));
}

#[test]
fn c2_is_granted_signed_and_sealed_byte_for_byte() {
    let v = Vector::load();
    let payload = v.bytes("c2_payload");
    assert_eq!(ChallengePayload::decode(&payload).unwrap().encode(), payload);
    let secret = v.owner_secret();
    assert_eq!(secret.grant(&v.digest("th1"), &payload), v.digest("grant"));
    assert!(secret.grant_verifies(&v.digest("th1"), &payload, &v.digest("grant")));

    let seal = secret.seal_c2(&v.nonce("M"), &v.nonce("M_em"));
    assert!(bool::from(seal.ct_eq(&v.key("k_c2"))));
    let wire = v.bytes("c2_wire");
    let opened = open(&seal, &Envelope::decode(&wire).unwrap()).unwrap();
    let body = ChallengeBody::decode(&opened).unwrap();
    assert_eq!(body.encode(), opened);
    assert_eq!((body.grant, &body.delegation), (v.digest("grant"), &v.bytes("delegation")));
    let signed = Sign1::decode(&body.signed).unwrap();
    assert_eq!(signed.payload, payload);
    assert!(signed.verify(SignedType::C2, &v.config_key()));
    assert!(!signed.verify(SignedType::C4, &v.config_key()), "a signature for another type");
    assert!(!signed.verify(SignedType::C2, &v.owner_key()), "another signer");
    assert_eq!(&body.signed[body.signed.len() - 64..], v.bytes("c2_signature"));
    let sig_structure = encode(|w| {
        let protected = encode(|w| {
            w.map(2).key(1).key(-7).key(4).bytes(key_id(&v.config_key()).as_bytes());
        });
        w.array(4).text("Signature1").bytes(&protected).bytes(b"gso1-c2").bytes(&payload);
    });
    assert_eq!(Digest(sha256(&[&sig_structure])), v.digest("c2_sig_structure_sha256"));
    assert!(v.config_key().verifies(&sig_structure, &v.array("c2_signature")));

    let sealed = seal_challenge(&seal, &v.sid(), &v.nonce("M_em"), &opened).unwrap();
    assert_eq!(sealed, wire);
    let th1 = Transcript::resume(v.digest("th1"));
    assert_eq!(th1.after(Step::CHALLENGE, &wire).value(), v.digest("th2"));

    // A signature of our own differs at most in its random part.
    let ours = sign(&v.signer::<ConfigSigning>("config_key_d"), SignedType::C2, &payload).unwrap();
    assert_eq!(ours[..ours.len() - 64], body.signed[..body.signed.len() - 64]);
    assert!(Sign1::decode(&ours).unwrap().verify(SignedType::C2, &v.config_key()));
}

#[test]
fn session_keys_and_proofs_follow_from_owner_secret_and_credential() {
    let v = Vector::load();
    let activation = v.key::<ActivationSecret>("k_act");
    let session = v.owner_secret().session(&v.digest("th2"), &activation);
    assert!(bool::from(session.ct_eq(&v.key("k_s"))));
    assert!(bool::from(session.device_to_owner().ct_eq(&v.key("k_m2e"))));
    assert!(bool::from(session.owner_to_device().ct_eq(&v.key("k_e2m"))));
    assert_eq!(activation.act(&v.digest("th2")), v.digest("act"));
    assert!(activation.act_verifies(&v.digest("th2"), &v.digest("act")));
    assert!(!activation.receipt_verifies(&v.digest("th2"), &v.digest("act")));

    let (body, wire) = (v.bytes("c5_body_example"), v.bytes("c5_wire_example"));
    assert_eq!(ResponsesBody::decode(&body).unwrap().encode(), body);
    let seal = session.device_to_owner();
    assert_eq!(open(&seal, &Envelope::decode(&wire).unwrap()).unwrap(), body);
    assert_eq!(seal_message(&seal, Step::RESPONSES, &v.sid(), &body).unwrap(), wire);
}

#[test]
fn qualifying_data_binds_a_statement_to_its_purpose() {
    let v = Vector::load();
    let fields = ["qd_sto", "qd_tls", "qd_iak", "qd_quote"];
    for (purpose, field) in (1u8..).zip(fields) {
        assert_eq!(qualifying(purpose, &v.digest("th2")), v.digest(field), "{field}");
    }
}

#[test]
fn a_sealed_message_opens_under_no_other_key_number_or_envelope() {
    let v = Vector::load();
    let seal = v.owner_secret().seal_c1(&v.nonce("M"));
    let wire = v.bytes("c1_wire");
    for at in 0..wire.len() {
        let mut changed = wire.clone();
        changed[at] ^= 1 << (at % 8);
        let opened =
            Envelope::decode(&changed).map_err(Code::from).and_then(|envelope| open(&seal, &envelope));
        assert!(opened.is_err(), "byte {at}");
    }
    let other = v.owner_secret().seal_c2(&v.nonce("M"), &v.nonce("M_em"));
    assert_eq!(open(&other, &Envelope::decode(&wire).unwrap()), Err(Code::Grant));
}

/// An entry of a chain under test: who signs it and what is changed in it.
fn entry<R: Role>(v: &Vector, signer: &SigningKey<R>, change: impl FnOnce(&mut Entry)) -> Vec<u8> {
    let mut entry = Entry {
        index: 1,
        epoch: 1,
        kind: EntryKind::Transfer,
        previous: v.digest("voucher_header_hash"),
        owner: v.owner_key(),
        encryption: v.owner_key(),
        issued: UtcTime(1),
        second_key: None,
        owner_second: None,
    };
    change(&mut entry);
    sign(signer, SignedType::Entry, &entry.encode()).unwrap()
}

fn hash_of(entry: &[u8]) -> Digest {
    SignedType::Entry.hash(Sign1::decode(entry).unwrap().payload)
}

#[test]
fn each_entry_links_to_the_one_before_and_is_signed_by_its_owner() {
    let v = Vector::load();
    let (vendor, owner) =
        (v.signer::<VoucherSigning>("voucher_key_d"), v.signer::<OwnerSigning>("owner_key_d"));
    let next = v.signer::<ConfigSigning>("config_key_d");
    let header = Voucher::decode(&v.bytes("voucher")).unwrap().header;
    let check = |entries: Vec<Vec<u8>>| {
        let voucher = Voucher { header: header.clone(), entries, second: Vec::new() };
        Voucher::decode(&voucher.encode()).map_err(Code::from)?.verify(&[vendor.public().into()])
    };
    let first = entry(&v, &vendor, |_| ());
    let after = |entry: &mut Entry| {
        (entry.index, entry.epoch, entry.previous, entry.owner) = (2, 2, hash_of(&first), next.public());
    };
    assert_eq!(check(vec![first.clone()]).unwrap().owner(), Some(owner.public()));
    let sold = entry(&v, &owner, after);
    let chain = check(vec![first.clone(), sold.clone()]).unwrap();
    assert_eq!((chain.owner(), chain.epoch, chain.index()), (Some(next.public()), 2, 2));
    let pin = |index, entry| OwnerPin { index, generation: 0, entry };
    for (index, pinned) in [(0, v.digest("voucher_header_hash")), (1, hash_of(&first)), (2, hash_of(&sold))] {
        assert_eq!(chain.contains(&pin(index, pinned)), Ok(()));
        assert_eq!(chain.contains(&pin(index + 1, pinned)), Err(Code::Pin));
    }
    let rekey = |entry: &mut Entry| {
        after(entry);
        (entry.kind, entry.epoch) = (EntryKind::Rekey, 1);
    };
    assert_eq!(check(vec![first.clone(), entry(&v, &owner, rekey)]).unwrap().epoch, 1);

    let alone: [(&str, Vec<u8>); 8] = [
        ("index", entry(&v, &vendor, |entry| entry.index = 2)),
        ("epoch", entry(&v, &vendor, |entry| entry.epoch = 2)),
        ("epoch kept", entry(&v, &vendor, |entry| entry.epoch = 0)),
        ("link", entry(&v, &vendor, |entry| entry.previous.0[0] ^= 1)),
        ("signer", entry(&v, &owner, |_| ())),
        ("recovery", entry(&v, &vendor, |entry| entry.kind = EntryKind::Recovery)),
        ("rekey of nobody", entry(&v, &vendor, |entry| (entry.kind, entry.epoch) = (EntryKind::Rekey, 0))),
        (
            "second key without its signature",
            entry(&v, &vendor, |entry| entry.second_key = Some(Digest([1; 32]))),
        ),
    ];
    for (name, wrong) in alone {
        assert_eq!(check(vec![wrong]), Err(Code::Voucher), "{name}");
    }
    let second: [(&str, Vec<u8>); 4] = [
        ("sold by the vendor", entry(&v, &vendor, after)),
        ("sold by the buyer", entry(&v, &next, after)),
        ("the first again", first.clone()),
        (
            "rekey that raises the epoch",
            entry(&v, &owner, |entry| {
                after(entry);
                entry.kind = EntryKind::Rekey;
            }),
        ),
    ];
    for (name, wrong) in second {
        assert_eq!(check(vec![first.clone(), wrong]), Err(Code::Voucher), "{name}");
    }
    assert_eq!(check(vec![first.clone(); 33]), Err(Code::Format), "more entries than a device reads");
}

#[test]
fn a_delegation_names_the_owner_that_signs_it() {
    let v = Vector::load();
    let verified = Voucher::decode(&v.bytes("voucher")).unwrap().verify(&[v.voucher_key().into()]).unwrap();
    let payload = Sign1::decode(&v.bytes("delegation")).unwrap().payload.to_vec();
    let mut delegation = Delegation::decode(&payload).unwrap();
    let owner = v.signer::<OwnerSigning>("owner_key_d");
    let signed =
        |delegation: &Delegation| sign(&owner, SignedType::Delegation, &delegation.encode()).unwrap();
    assert_eq!(verified.delegate(&signed(&delegation), Use::Config), Ok(delegation.clone()));
    delegation.uses = 2;
    assert_eq!(verified.delegate(&signed(&delegation), Use::Config), Err(Code::ConfigChain));
    assert!(verified.delegate(&signed(&delegation), Use::Redirect).is_ok());
    delegation.owner_key = key_id(&v.config_key());
    assert_eq!(verified.delegate(&signed(&delegation), Use::Redirect), Err(Code::ConfigChain));
}

/// A voucher with two owners, every element signed twice, and the key under which it verifies.
struct Twice {
    trusted: VoucherKey,
    vendor: SigningKey<VoucherSigning>,
    owner: SigningKey<OwnerSigning>,
    vendor_second: SecondSigner<VoucherSecond>,
    owner_second: SecondSigner<OwnerSecond>,
}

impl Twice {
    fn new() -> Self {
        let v = Vector::load();
        let vendor = v.signer::<VoucherSigning>("voucher_key_d");
        let vendor_second = SecondSigner::new(&Key::take(&mut [1; 32])).unwrap();
        let second = Some(Digest(vendor_second.public().id()));
        Self {
            trusted: VoucherKey { key: vendor.public(), second, recovery: None },
            vendor,
            owner: v.signer("owner_key_d"),
            vendor_second,
            owner_second: SecondSigner::new(&Key::take(&mut [2; 32])).unwrap(),
        }
    }

    fn entry(&self, epoch: u32, owner_second: bool) -> Entry {
        let owner = self.owner.public();
        Entry {
            index: 0,
            epoch,
            kind: EntryKind::Transfer,
            previous: Digest([0; 32]),
            owner,
            encryption: owner,
            issued: UtcTime(1),
            second_key: None,
            owner_second: owner_second.then(|| Digest(self.owner_second.public().id())),
        }
    }

    fn sold(&self, owner_second: bool) -> Voucher {
        let header = Header::decode(&Vector::load().bytes("voucher_header_payload")).unwrap();
        let mut voucher = Voucher::issue(header, &self.vendor, Some(&self.vendor_second)).unwrap();
        voucher.extend(self.entry(1, owner_second), &self.vendor, Some(&self.vendor_second)).unwrap();
        voucher
    }

    fn check(&self, voucher: &Voucher) -> Result<u32, Code> {
        let voucher = Voucher::decode(&voucher.encode()).map_err(Code::from)?;
        voucher.verify(&[self.trusted]).map(|verified| verified.epoch)
    }
}

#[test]
fn a_named_second_key_has_signed_every_element() {
    let twice = Twice::new();
    let sold = twice.sold(true);
    assert_eq!(twice.check(&sold), Ok(1));
    let lengths: Vec<_> = sold.second.iter().map(Vec::len).collect();
    assert_eq!(lengths, [1_952 + 3_309, 3_309], "a key travels once");
    let mut resold = sold.clone();
    resold.extend(twice.entry(2, true), &twice.owner, Some(&twice.owner_second)).unwrap();
    assert_eq!(twice.check(&resold), Ok(2));

    let wrong = |change: fn(&mut Voucher)| {
        let mut voucher = resold.clone();
        change(&mut voucher);
        twice.check(&voucher)
    };
    assert_eq!(wrong(|voucher| voucher.second.clear()), Err(Code::Voucher));
    assert_eq!(wrong(|voucher| drop(voucher.second.pop())), Err(Code::Format));
    assert_eq!(wrong(|voucher| voucher.second.push(Vec::new())), Err(Code::Format));
    for element in 0..3 {
        let mut voucher = resold.clone();
        voucher.second[element].clear();
        assert_eq!(twice.check(&voucher), Err(Code::Voucher), "{element} without a signature");
        let mut voucher = resold.clone();
        *voucher.second[element].last_mut().unwrap() ^= 1;
        assert_eq!(twice.check(&voucher), Err(Code::Voucher), "{element} changed");
    }
    assert_eq!(wrong(|voucher| voucher.second.swap(0, 1)), Err(Code::Voucher));
    assert_eq!(wrong(|voucher| voucher.second[0][0] ^= 1), Err(Code::Voucher), "another key");
    let repeated = |voucher: &mut Voucher| {
        let key = voucher.second[0][..1_952].to_vec();
        voucher.second[1].splice(..0, key);
    };
    assert_eq!(wrong(repeated), Err(Code::Voucher), "one form only");
}

#[test]
fn who_can_forge_only_p256_signatures_sells_nothing() {
    let twice = Twice::new();
    let none = None::<&SecondSigner<OwnerSecond>>;
    let own = SecondSigner::<OwnerSecond>::new(&Key::take(&mut [3; 32])).unwrap();
    for forged in [none, Some(&own)] {
        let header = Header::decode(&Vector::load().bytes("voucher_header_payload")).unwrap();
        let voucher = Voucher::issue(header, &twice.vendor, forged).unwrap();
        assert_eq!(twice.check(&voucher), Err(Code::Voucher), "header");
        let mut voucher = twice.sold(true);
        voucher.extend(twice.entry(2, true), &twice.owner, forged).unwrap();
        assert_eq!(
            twice.check(&voucher),
            Err(Code::Voucher),
            "the entry before names the owner's second key"
        );
    }
    // An owner who never named a second key sells without one, and one that appears later must still have signed.
    let mut voucher = twice.sold(false);
    voucher.extend(twice.entry(2, false), &twice.owner, none).unwrap();
    assert_eq!(twice.check(&voucher), Ok(2));
    let mut voucher = twice.sold(false);
    voucher.extend(twice.entry(2, false), &twice.owner, Some(&own)).unwrap();
    assert_eq!(twice.check(&voucher), Ok(2));
    *voucher.second[2].last_mut().unwrap() ^= 1;
    assert_eq!(twice.check(&voucher), Err(Code::Voucher));
    // Signatures of nobody are not carried along.
    let mut voucher = twice.sold(false);
    voucher.extend(twice.entry(2, false), &twice.owner, none).unwrap();
    voucher.second[2] = voucher.second[1].clone();
    assert_eq!(twice.check(&voucher), Err(Code::Voucher));
}
