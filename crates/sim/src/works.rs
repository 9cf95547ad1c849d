//! The manufacturer and the owners with their certificate authorities, and each run's devices with their papers.

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use gridseal_crypto::{
    Curve, CurvePublic, CurveSigner, Key, PublicKey, SecondSigner, Signer, SigningKey,
    role::{
        CaSigning, Dek, DeviceRootSecret, DlmsSigning, InitSigning, OwnerSecond, OwnerSigning,
        RecoverySecond, RecoverySigning, Role, VoucherSecond, VoucherSigning,
    },
    sha256,
};
use gridseal_keys::{Core, Keystore, KeystoreFile, PartyAnchors};
use gridseal_onboarding::{endpoint_manager::register::RegistrationRules, init_server::InitServer};
use gridseal_pki::{Authority, Issuer, Settings, Validity, profile, self_signed};
use gridseal_trust::{
    csr::endorsement_key_info,
    endorsement::Endorsements,
    enrol::{
        cose::{SignedType, key_id, sign},
        delivery::{Release, deliver},
        device::{Firmware, Pace},
        document::{Delegation, Entry, EntryKind, Header, Manifest, OutOfDate, Policy},
        registrar::Rules,
        secrets::{OwnerSecretExt, owner_secret},
        voucher::{RecoveryKey, Voucher, VoucherKey},
    },
    measured::PolicySet,
    party::{Certificate, Draft, Purpose, Role as PartyRole, Subject, assemble},
    root::{DeviceRoot, RootReply, RootRequest, software::SoftwareRoot},
    tpm,
};
use gridseal_types::{DeviceType, Digest, EkName, SystemTitle, UtcTime};

use crate::HashRng;

/// Calendar time at the start of every run.
pub(crate) const START: UtcTime = UtcTime(1_800_000_000);
/// How patient devices are: short enough that a run of virtual minutes has many attempts.
const PACE: Pace =
    Pace { first: Duration::from_secs(1), most: Duration::from_secs(60), reply: Duration::from_secs(6) };
/// Life of an owner's root and delegation, of an issuing authority, and when the next of those begins, days.
const ROOT_DAYS: u64 = 9_000;
const ISSUING_DAYS: u64 = 3_600;
pub(crate) const ISSUING_EVERY_DAYS: u64 = 1_800;
/// Issuing authorities of an owner.
pub(crate) const AUTHORITIES: usize = 4;
const MODEL: &str = "Simulated 1";
/// Tenant of the owner's keystore.
pub(crate) const TENANT: [u8; 16] = *b"simulated owner\0";
/// What a boot measures into PCR 0 and PCR 4.
const MEASURED: [(u8, &[u8]); 2] = [(0, b"firmware 1"), (4, b"boot loader 1")];
/// The same in the next release.
const UPDATED: [(u8, &[u8]); 2] = [(0, b"firmware 2"), (4, b"boot loader 1")];

/// The manufacturer of all runs.
pub(crate) struct Vendor {
    voucher: SigningKey<VoucherSigning>,
    /// The voucher key as everybody trusts it. A second key is verified where a voucher names one.
    trusted: VoucherKey,
    recovery: SigningKey<RecoverySigning>,
    init_public: PublicKey,
    /// The init server.
    pub(crate) init: InitServer<SigningKey<InitSigning>>,
}

/// An owner of devices.
pub(crate) struct Owner {
    signing: SigningKey<OwnerSigning>,
    encryption: PublicKey,
    /// The deciding part of the key service.
    pub(crate) keys: Core,
    /// The certificate authorities, each taking over from the one before.
    pub(crate) authorities: [Authority<SigningKey<CaSigning>>; AUTHORITIES],
}

/// A device as it leaves the factory, with the papers that go to its owner.
pub(crate) struct Made {
    pub(crate) title: SystemTitle,
    pub(crate) name: EkName,
    pub(crate) root: SoftwareRoot,
    pub(crate) firmware: Firmware,
    pub(crate) manifest: Vec<u8>,
    pub(crate) voucher: Vec<u8>,
    pub(crate) delivery: Vec<u8>,
}

/// Signs for a meter of the field, on a curve.
pub(crate) fn meter_signer(title: SystemTitle, curve: Curve) -> CurveSigner {
    party_signer(&format!("meter {title}"), curve)
}

fn party_signer(label: &str, curve: Curve) -> CurveSigner {
    let mut rng = HashRng::new(0, label, curve.coordinate_size() as u64);
    let signer = match curve {
        Curve::P256 => {
            Key::<DlmsSigning, 32>::generate_scalar(&mut rng).and_then(|key| CurveSigner::new(&key))
        }
        Curve::P384 => {
            Key::<DlmsSigning, 48>::generate_scalar(&mut rng).and_then(|key| CurveSigner::new(&key))
        }
    };
    signer.expect("the generator does not fail")
}

const PARTY_AUTHORITY: &str = "party authority";

fn party_certificate(subject: &Subject, role: PartyRole, key: &CurvePublic) -> Vec<u8> {
    let (signer, name) =
        (party_signer(PARTY_AUTHORITY, key.curve()), Subject::Authority(PARTY_AUTHORITY.into()));
    let draft = Draft {
        serial: &[1],
        issuer: &name.name(),
        issuer_key: &signer.public(),
        subject,
        validity: (UtcTime(0), UtcTime(START.0 + ROOT_DAYS * 86_400)),
        key,
        role,
    };
    let body = draft.to_be_signed();
    assemble(&body, key.curve(), &signer.sign(&body).expect("own key"))
}

/// The certificate of a meter's signing key: made once for all runs.
pub(crate) fn meter_certificate(title: SystemTitle, curve: Curve) -> Vec<u8> {
    static KNOWN: Mutex<BTreeMap<(SystemTitle, Curve), Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let made = || {
        let key = meter_signer(title, curve).public();
        party_certificate(&Subject::Party(title), PartyRole::Party(Purpose::Signature), &key)
    };
    known.entry((title, curve)).or_insert_with(made).clone()
}

/// Every owner believes the one authority of meters.
fn party_anchors() -> PartyAnchors {
    let anchor = |curve| {
        let (name, key) = (Subject::Authority(PARTY_AUTHORITY.into()), party_signer(PARTY_AUTHORITY, curve));
        let der = party_certificate(&name, PartyRole::Authority(None), &key.public());
        Certificate::parse(&der).expect("own certificate")
    };
    PartyAnchors { owner: [Curve::P256, Curve::P384].map(anchor).into(), ..PartyAnchors::none() }
}

fn device_root_of(seed: u64, number: u32) -> HashRng {
    HashRng::new(seed, "device root", number.into())
}

fn signing_key<R: Role>(label: &str, number: u64) -> SigningKey<R> {
    let scalar =
        Key::generate_scalar(&mut HashRng::new(0, label, number)).expect("the generator does not fail");
    SigningKey::new(&scalar).expect("a scalar was drawn")
}

/// The data key of an owner's keystore.
pub(crate) fn dek(owner: u64) -> Key<Dek, 32> {
    Key::generate(&mut HashRng::new(0, "dek", owner)).expect("the generator does not fail")
}

/// The manufacturer of all runs.
pub(crate) fn vendor() -> &'static Vendor {
    static VENDOR: OnceLock<Vendor> = OnceLock::new();
    VENDOR.get_or_init(|| {
        let voucher = signing_key::<VoucherSigning>("voucher", 0);
        let init = signing_key::<InitSigning>("init", 0);
        let init_public = init.public();
        let recovery = signing_key::<RecoverySigning>("recovery", 0);
        let trusted = VoucherKey {
            recovery: Some(RecoveryKey { key: recovery.public(), second: None }),
            ..voucher.public().into()
        };
        let init = InitServer::new(init, vec![trusted]);
        Vendor { voucher, trusted, recovery, init_public, init }
    })
}

/// Owners that there can be.
pub(crate) const OWNERS_MAX: usize = 8;

/// An owner of all runs, by number below [`OWNERS_MAX`].
pub(crate) fn owner(number: usize) -> &'static Owner {
    static OWNERS: [OnceLock<Owner>; OWNERS_MAX] = [const { OnceLock::new() }; OWNERS_MAX];
    OWNERS[number].get_or_init(|| Owner::new(number as u64))
}

impl Owner {
    fn new(number: u64) -> Self {
        let signing = signing_key::<OwnerSigning>("owner", number);
        let file = KeystoreFile::create(&dek(number), TENANT, &mut HashRng::new(0, "keystore", number))
            .expect("the generator does not fail");
        let publics = file.public_keys(&dek(number)).expect("own data key");
        let delegation = Delegation {
            owner_key: key_id(&signing.public()),
            uses: 3,
            key: publics.config,
            generation: 1,
            not_before: START,
            not_after: UtcTime(START.0 + ROOT_DAYS * 86_400),
        };
        let delegation = sign(&signing, SignedType::Delegation, &delegation.encode()).expect("own key");
        let vouchers = vendor().voucher_keys();
        let keystore = Keystore::open(&file, dek(number), delegation, vouchers).expect("own keystore");
        Self {
            signing,
            encryption: publics.encryption,
            keys: Core::new(keystore, Core::ATTESTATION_AGE_DEFAULT_S).with_parties(party_anchors()),
            authorities: std::array::from_fn(|generation| authority(number, generation as u64)),
        }
    }

    /// Sells a device to another owner: the voucher with an entry for him, and that entry.
    pub(crate) fn sell_to(&self, voucher: &[u8], to: &Self, now: UtcTime) -> (Vec<u8>, Vec<u8>) {
        let (voucher, entry, _) = self.entry(voucher, EntryKind::Transfer, to, now);
        (voucher, entry)
    }

    /// One more entry of a device's voucher, signed by this owner: the voucher with it, the entry, its second signature.
    /// There is one where the entry before names this owner's second key.
    pub(crate) fn entry(
        &self,
        voucher: &[u8],
        kind: EntryKind,
        to: &Self,
        now: UtcTime,
    ) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let voucher = Voucher::decode(voucher).expect("own voucher");
        let is_double = !voucher.second.is_empty();
        let second = second_key::<OwnerSecond>("owner second");
        let entry = next_entry(&voucher, kind, to, (now, is_double));
        extended(voucher, entry, &self.signing, is_double.then_some(&second))
    }

    /// What the owner decided for all devices.
    pub(crate) fn rules() -> Rules {
        Self::rules_of(&[MEASURED])
    }

    /// The same with a second release, which is current.
    pub(crate) fn rules_of_two_releases() -> Rules {
        Self::rules_of(&[MEASURED, UPDATED])
    }

    fn rules_of(releases: &[[(u8, &[u8]); 2]]) -> Rules {
        let mut policies = PolicySet::default();
        for (version, release) in (1_u64..).zip(releases) {
            let policy = Policy {
                model: MODEL.into(),
                release: version.to_string(),
                pcrs: release.iter().map(|(pcr, what)| (*pcr, vec![measured(what)])).collect(),
                ima_keys: Vec::new(),
                ima_paths: Vec::new(),
                version,
                out_of_date: OutOfDate::Grace,
                logs_may_be_empty: true,
                issued: START,
            };
            policies.add(SignedType::Policy.hash(&policy.encode()), policy).expect("two policies");
        }
        Rules {
            policies,
            endorsements: Endorsements::default(),
            danger_accept_open_platform: false,
            terminus: vec!["https://meters.example:8443".into()],
        }
    }

    /// What the owner's register accepts.
    pub(crate) fn registration_rules(&self) -> RegistrationRules {
        RegistrationRules {
            voucher_keys: vendor().voucher_keys(),
            owner: self.signing.public(),
            danger_accept_software_roots: true,
            config_urls: vec!["https://config.example:8443".into()],
            config_pins: vec![Digest([3; 32])],
            redirect_lifetime_s: 365 * 86_400,
            endorsements: Endorsements::default(),
        }
    }
}

impl Vendor {
    /// Puts another owner in the place of one who has vanished: the voucher with the recovery entry.
    pub(crate) fn recover(&self, voucher: &[u8], to: &Owner, now: UtcTime) -> Vec<u8> {
        let voucher = Voucher::decode(voucher).expect("own voucher");
        let is_double = !voucher.second.is_empty();
        let second = second_key::<RecoverySecond>("recovery second");
        let entry = next_entry(&voucher, EntryKind::Recovery, to, (now, is_double));
        extended(voucher, entry, &self.recovery, is_double.then_some(&second)).0
    }

    /// Makes a device and sells it to an owner.
    pub(crate) fn make(&self, seed: u64, number: u32, owner: &Owner) -> Made {
        self.make_signed(seed, number, owner, false)
    }

    /// The same; `is_double`: every element of its voucher is signed by second keys too.
    pub(crate) fn make_signed(&self, seed: u64, number: u32, owner: &Owner, is_double: bool) -> Made {
        let serial = format!("GS-{number:07}");
        let [a, b, c, d] = number.to_be_bytes();
        let title = SystemTitle([b'G', b'S', b'L', 0, a, b, c, d]);
        let drawn = || device_root_of(seed, number);
        let device_root =
            || Key::<DeviceRootSecret, 32>::generate(&mut drawn()).expect("the generator does not fail");
        let mut root = SoftwareRoot::new(Box::new(HashRng::new(seed, "root", number.into())));
        let Ok(RootReply::Described(description)) = root.perform(RootRequest::Manufacture(device_root()))
        else {
            unreachable!("a blank root is manufactured")
        };
        let first_secret = owner_secret(&device_root(), 1);
        let name = tpm::name(&description.ek_public);
        let endorsement = tpm::endorsement_key(&description.ek_public).expect("made from the template");
        let manifest = Manifest {
            serial: serial.clone(),
            model: MODEL.into(),
            ek_name: name,
            ek_pub: description.ek_public,
            ek_chain: Vec::new(),
            spki: Digest(sha256(&[&endorsement_key_info(&endorsement)])),
            n_commit: first_secret.commitment(),
            vendor: "Simulated works".into(),
            made: START,
            system_title: Some(title),
            software_root: true,
            device_type: DeviceType::Meter,
            identity: Some(tpm::name(&description.iak_public)),
        };
        let header = Header {
            ek_name: name,
            model: MODEL.into(),
            serial: serial.clone(),
            n_commit: first_secret.commitment(),
            second_key: None,
        };
        let voucher = self.sell(header, owner, is_double);
        let release = Release { ek_name: name, epoch: 1, serial: serial.clone(), entry: Digest([0; 32]) };
        let mut rng = HashRng::new(seed, "delivery", number.into());
        let delivery = deliver(&release, &first_secret, &self.voucher, &owner.encryption, &mut rng);
        let firmware = Firmware {
            init_keys: vec![self.init_public],
            voucher_keys: self.voucher_keys(),
            subject: serial.clone(),
            pace: PACE,
            place: None,
        };
        Made {
            title,
            name,
            root,
            firmware,
            manifest: self.sign(SignedType::Manifest, &manifest.encode()),
            voucher: voucher.encode(),
            delivery: delivery.expect("own keys"),
        }
    }

    /// Hands the next owner's secret of a device out, encrypted to him: for the last entry of this voucher.
    pub(crate) fn release(&self, seed: u64, number: u32, voucher: &[u8], to: &Owner) -> Vec<u8> {
        let voucher = Voucher::decode(voucher).expect("own voucher");
        let verified = voucher.verify(&self.voucher_keys()).expect("own voucher");
        let device_root = Key::<DeviceRootSecret, 32>::generate(&mut device_root_of(seed, number));
        let secret = owner_secret(&device_root.expect("the generator does not fail"), verified.epoch);
        let release = Release {
            ek_name: verified.header.ek_name,
            epoch: verified.epoch,
            serial: verified.header.serial.clone(),
            entry: verified.head(),
        };
        let mut rng = HashRng::new(seed, "delivery", u64::from(verified.epoch) << 32 | u64::from(number));
        deliver(&release, &secret, &self.voucher, &to.encryption, &mut rng).expect("own keys")
    }

    /// Whose vouchers are believed.
    pub(crate) fn voucher_keys(&self) -> Vec<VoucherKey> {
        vec![self.trusted]
    }

    fn sign(&self, kind: SignedType, payload: &[u8]) -> Vec<u8> {
        sign(&self.voucher, kind, payload).expect("own key")
    }

    /// A voucher with entry 1: to the owner. Second signatures cost more than the rest of a run, so most have none.
    fn sell(&self, header: Header, owner: &Owner, is_double: bool) -> Voucher {
        let second = second_key::<VoucherSecond>("voucher second");
        let second = is_double.then_some(&second);
        let mut voucher = Voucher::issue(header, &self.voucher, second).expect("own key");
        let entry = next_entry(&voucher, EntryKind::Transfer, owner, (START, is_double));
        voucher.extend(entry, &self.voucher, second).expect("own key");
        voucher
    }
}

/// A second, post-quantum key.
fn second_key<R: Role>(label: &str) -> SecondSigner<R> {
    let seed = Key::generate(&mut HashRng::new(0, label, 0)).expect("the generator does not fail");
    SecondSigner::new(&seed).expect("a seed was drawn")
}

/// The next entry of a voucher; its place and link are set when it is signed.
fn next_entry(voucher: &Voucher, kind: EntryKind, to: &Owner, (issued, is_double): (UtcTime, bool)) -> Entry {
    let epoch = voucher.verify(&vendor().voucher_keys()).map_or(0, |verified| verified.epoch);
    Entry {
        index: 0,
        epoch: epoch + u32::from(kind != EntryKind::Rekey),
        kind,
        previous: Digest([0; 32]),
        owner: to.signing.public(),
        encryption: to.encryption,
        issued,
        second_key: None,
        owner_second: is_double.then(|| Digest(second_key::<OwnerSecond>("owner second").public().id())),
    }
}

fn extended<R: Role, S: Role>(
    mut voucher: Voucher,
    entry: Entry,
    key: &SigningKey<R>,
    second: Option<&SecondSigner<S>>,
) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    voucher.extend(entry, key, second).expect("own key");
    let entry = voucher.entries.last().cloned().unwrap_or_default();
    let second = voucher.second.last().cloned().unwrap_or_default();
    (voucher.encode(), entry, second)
}

/// Measures what the policy of [`Owner::rules`] allows.
pub(crate) fn measured_boot(root: &mut SoftwareRoot) {
    measured_boot_of(root, false);
}

/// The same, of the next release.
pub(crate) fn measured_boot_of(root: &mut SoftwareRoot, is_updated: bool) {
    for (pcr, what) in if is_updated { UPDATED } else { MEASURED } {
        root.extend_pcr(pcr, &Digest(sha256(&[what]))).expect("the PCR exists");
    }
}

fn measured(what: &[u8]) -> Digest {
    Digest(sha256(&[&[0; 32], &sha256(&[what])]))
}

/// A certificate authority of an owner under the owner's one root. Each generation has a key of its own and begins before
/// the one before ends.
fn authority(owner: u64, generation: u64) -> Authority<SigningKey<CaSigning>> {
    let validity = |from: u64, days: u64| {
        let from = UtcTime(START.0 - 86_400 + from * 86_400);
        Validity::starting(from, Duration::from_secs(days * 86_400))
    };
    let rng = &mut HashRng::new(owner, "certificates", generation);
    let top = || signing_key::<CaSigning>("root ca", owner);
    let issuing = signing_key::<CaSigning>("issuing ca", owner << 8 | generation);
    let draft = profile::root("Owner Root", &top().public(), validity(0, ROOT_DAYS)).expect("valid profile");
    let certificate = self_signed(draft, &top(), rng).expect("own key");
    let root = Issuer::new(top(), certificate).expect("own certificate");
    let draft = profile::issuing(
        "Owner Issuing",
        &issuing.public(),
        validity(generation * ISSUING_EVERY_DAYS, ISSUING_DAYS),
    );
    let certificate = root.issue(draft.expect("valid profile"), rng).expect("own key");
    let issuer = Issuer::new(issuing, certificate).expect("own certificate");
    Authority::new(issuer, root.certificate().clone(), Settings::default()).expect("signed by the root")
}
