//! The manufacturer and the owner of tests: keys, papers, rules.

use std::time::Duration;

use gridseal_crypto::{
    InvocationCounter, Key, PublicKey, SecondSigner, Signer, SigningKey,
    role::{
        CaSigning, ConfigSigning, Dek, DeviceRootSecret, Gak, Guek, InitSigning, OwnerSigning, VoucherSecond,
        VoucherSigning,
    },
    sha256,
};
use gridseal_dlms::suite::protect::seal_general_glo;
use gridseal_keys::{Core, Keystore, KeystoreFile};
use gridseal_onboarding::endpoint_manager::register::RegistrationRules;
use gridseal_pki::{Authority, Issuer, Settings, Validity, profile, self_signed};
use gridseal_trust::{
    csr::endorsement_key_info,
    endorsement::Endorsements,
    enrol::{
        cose::{SignedType, key_id, sign},
        delivery::{Release, deliver},
        device::Firmware,
        document::{Delegation, Entry, EntryKind, Header, Manifest, OutOfDate, Policy},
        registrar::Rules,
        secrets::{OwnerSecretExt, owner_secret},
        voucher::{Voucher, VoucherKey},
    },
    measured::PolicySet,
    root::{DeviceRoot, RootReply, RootRequest, software::SoftwareRoot},
    tpm,
};
use gridseal_types::{DeviceType, Digest, EkName, SystemTitle, UtcTime};

use super::{PACE, START, TestRng, signing_key};

pub const MODEL: &str = "LAB-1";
pub const SYSTEM_TITLE: SystemTitle = SystemTitle(*b"GSL\0\0\0\0\x01");
const TENANT: [u8; 16] = *b"tenant of tests\0";
/// What a boot measures into PCR 0 and PCR 4.
pub const MEASURED: [(u8, &[u8]); 2] = [(0, b"firmware 1"), (4, b"boot loader 1")];
/// What the boot loader of the next release measures.
const UPDATED: &[u8] = b"boot loader 2";

/// The manufacturer.
pub struct Factory {
    pub voucher: SigningKey<VoucherSigning>,
    pub second: SecondSigner<VoucherSecond>,
}

/// A device as it leaves the factory, with the papers that go to its owner.
pub struct Made {
    pub root: SoftwareRoot,
    /// N_root: the test's own copy.
    pub device_root: [u8; 32],
    pub ek_name: EkName,
    pub manifest: Vec<u8>,
    pub voucher: Vec<u8>,
    pub delivery: Vec<u8>,
}

impl Factory {
    pub fn new() -> Self {
        let mut seed = sha256(&[b"second voucher key"]);
        let second = SecondSigner::new(&Key::take(&mut seed)).unwrap();
        Self { voucher: signing_key("voucher"), second }
    }

    pub fn voucher_key(&self) -> VoucherKey {
        VoucherKey {
            key: self.voucher.public(),
            second: Some(Digest(self.second.public().id())),
            recovery: None,
        }
    }

    pub fn init_key(&self) -> SigningKey<InitSigning> {
        signing_key("init")
    }

    pub fn firmware(&self, serial: &str) -> Firmware {
        Firmware {
            init_keys: vec![self.init_key().public()],
            voucher_keys: vec![self.voucher_key()],
            subject: serial.into(),
            pace: PACE,
            place: None,
        }
    }

    /// Makes a meter and sells it.
    pub fn make(&self, serial: &str, owner: &Owner) -> Made {
        self.make_as(DeviceType::Meter, serial, owner)
    }

    /// Makes a device and sells it.
    pub fn make_as(&self, device_type: DeviceType, serial: &str, owner: &Owner) -> Made {
        let mut device_root = sha256(&[b"device root", serial.as_bytes()]);
        let mut root = SoftwareRoot::new(Box::new(TestRng::new(serial, 1)));
        let description = match root.perform(RootRequest::Manufacture(Key::take(&mut device_root.clone()))) {
            Ok(RootReply::Described(description)) => description,
            other => panic!("{other:?}"),
        };
        measured_boot(&mut root);
        let n_1 = owner_secret(&Key::<DeviceRootSecret, 32>::take(&mut device_root.clone()), 1);
        let ek_name = tpm::name(&description.ek_public);
        let endorsement = tpm::endorsement_key(&description.ek_public).unwrap();
        let manifest = Manifest {
            serial: serial.into(),
            model: MODEL.into(),
            ek_name,
            ek_pub: description.ek_public,
            ek_chain: Vec::new(),
            spki: Digest(sha256(&[&endorsement_key_info(&endorsement)])),
            n_commit: n_1.commitment(),
            vendor: "Test works".into(),
            made: START,
            system_title: Some(SYSTEM_TITLE),
            software_root: true,
            device_type,
            identity: Some(tpm::name(&description.iak_public)),
        };
        let header = self.header(serial, ek_name, n_1.commitment());
        let voucher = self.sell(header, owner);
        let release = Release { ek_name, epoch: 1, serial: serial.into(), entry: Digest([0; 32]) };
        let mut rng = TestRng::new(serial, 2);
        let delivery = deliver(&release, &n_1, &self.voucher, &owner.encryption(), &mut rng).unwrap();
        device_root = sha256(&[b"device root", serial.as_bytes()]);
        Made {
            root,
            device_root,
            ek_name,
            manifest: sign(&self.voucher, SignedType::Manifest, &manifest.encode()).unwrap(),
            voucher: voucher.encode(),
            delivery,
        }
    }

    /// A voucher without an owner.
    pub fn header(&self, serial: &str, ek_name: EkName, n_commit: Digest) -> Voucher {
        self.header_for(Header {
            ek_name,
            model: MODEL.into(),
            serial: serial.into(),
            n_commit,
            second_key: None,
        })
    }

    /// The same from a header.
    pub fn header_for(&self, header: Header) -> Voucher {
        Voucher::issue(header, &self.voucher, Some(&self.second)).unwrap()
    }

    /// The voucher with entry 1: to `owner`.
    pub fn sell(&self, mut voucher: Voucher, owner: &Owner) -> Voucher {
        voucher.extend(self.first_entry(owner), &self.voucher, Some(&self.second)).unwrap();
        voucher
    }

    /// Entry 1.
    pub fn first_entry(&self, owner: &Owner) -> Entry {
        Entry {
            index: 1,
            epoch: 1,
            kind: EntryKind::Transfer,
            previous: Digest([0; 32]),
            owner: owner.signing.public(),
            encryption: owner.encryption(),
            issued: START,
            second_key: None,
            owner_second: None,
        }
    }
}

/// Measures what the policy of [`Owner::rules`] allows.
pub fn measured_boot(root: &mut SoftwareRoot) {
    for (pcr, what) in MEASURED {
        root.extend_pcr(pcr, &Digest(sha256(&[what]))).unwrap();
    }
}

/// Measures what [`Owner::next_policy`] allows.
pub fn measured_update(root: &mut SoftwareRoot) {
    let (last, rest) = MEASURED.split_last().unwrap();
    for (pcr, what) in rest.iter().copied().chain([(last.0, UPDATED)]) {
        root.extend_pcr(pcr, &Digest(sha256(&[what]))).unwrap();
    }
}

fn measured(what: &[u8]) -> Digest {
    Digest(sha256(&[&[0; 32], &sha256(&[what])]))
}

/// An owner: offline owner key and the keystore of its key service.
pub struct Owner {
    number: u64,
    pub signing: SigningKey<OwnerSigning>,
    file: KeystoreFile,
}

impl Owner {
    pub fn new(number: u64) -> Self {
        let signing =
            SigningKey::new(&Key::generate_scalar(&mut TestRng::new("owner", number)).unwrap()).unwrap();
        let file = KeystoreFile::create(&dek(number), TENANT, &mut TestRng::new("keystore", number)).unwrap();
        Self { number, signing, file }
    }

    /// The owner's encryption key, which the voucher names.
    pub fn encryption(&self) -> PublicKey {
        self.file.public_keys(&dek(self.number)).unwrap().encryption
    }

    /// K_config: the first key that the keystore drew.
    pub fn config_key(&self) -> SigningKey<ConfigSigning> {
        let key = Key::generate_scalar(&mut TestRng::new("keystore", self.number)).unwrap();
        let key = SigningKey::new(&key).unwrap();
        assert_eq!(key.public(), self.file.public_keys(&dek(self.number)).unwrap().config);
        key
    }

    pub fn config_key_public(&self) -> PublicKey {
        self.config_key().public()
    }

    /// A delegation of the owner key.
    pub fn delegation(&self, key: PublicKey, uses: u8, generation: u32) -> Vec<u8> {
        self.delegation_until(key, uses, generation, UtcTime(START.0 + 400 * 86_400))
    }

    pub fn delegation_until(&self, key: PublicKey, uses: u8, generation: u32, not_after: UtcTime) -> Vec<u8> {
        let delegation = Delegation {
            owner_key: key_id(&self.signing.public()),
            uses,
            key,
            generation,
            not_before: START,
            not_after,
        };
        sign(&self.signing, SignedType::Delegation, &delegation.encode()).unwrap()
    }

    /// The delegation under which the key service works.
    pub fn working_delegation(&self) -> Vec<u8> {
        self.delegation(self.config_key().public(), 3, 1)
    }

    pub fn open_keys(&self, factory: &Factory) -> Core {
        let delegation = self.working_delegation();
        let keystore = Keystore::open(&self.file, dek(self.number), delegation, vec![factory.voucher_key()]);
        Core::new(keystore.unwrap(), Core::ATTESTATION_AGE_DEFAULT_S)
    }

    /// The policy of the release that devices run.
    pub fn policy() -> Policy {
        Policy {
            model: MODEL.into(),
            release: "1".into(),
            pcrs: MEASURED.iter().map(|(pcr, what)| (*pcr, vec![Digest([9; 32]), measured(what)])).collect(),
            ima_keys: Vec::new(),
            ima_paths: Vec::new(),
            version: 1,
            out_of_date: OutOfDate::Grace,
            logs_may_be_empty: true,
            issued: START,
        }
    }

    /// The policy of a later release, with another boot loader: [`measured_update`].
    pub fn next_policy() -> Policy {
        let mut policy = Self::policy();
        policy.pcrs.last_mut().unwrap().1 = vec![measured(UPDATED)];
        Policy { release: "2".into(), version: 2, ..policy }
    }

    pub fn rules(&self) -> Rules {
        Self::rules_of([Self::policy()])
    }

    pub fn rules_of<const N: usize>(policies: [Policy; N]) -> Rules {
        let mut set = PolicySet::default();
        for policy in policies {
            set.add(SignedType::Policy.hash(&policy.encode()), policy).unwrap();
        }
        Rules {
            policies: set,
            endorsements: Endorsements::default(),
            danger_accept_open_platform: false,
            terminus: vec!["https://meters.example:8443".into()],
        }
    }

    pub fn registration_rules(&self, factory: &Factory) -> RegistrationRules {
        RegistrationRules {
            voucher_keys: vec![factory.voucher_key()],
            owner: self.signing.public(),
            danger_accept_software_roots: true,
            config_urls: vec!["https://config.example:8443".into()],
            config_pins: vec![Digest([3; 32])],
            redirect_lifetime_s: 365 * 86_400,
            endorsements: Endorsements::default(),
        }
    }
}

fn dek(number: u64) -> Key<Dek, 32> {
    Key::generate(&mut TestRng::new("dek", number)).unwrap()
}

/// The owner's certificate authority.
pub fn authority() -> Authority<SigningKey<CaSigning>> {
    let validity =
        |days: u64| Validity::starting(UtcTime(START.0 - 86_400), Duration::from_secs(days * 86_400));
    let rng = &mut TestRng::new("certificates", 0);
    let draft =
        profile::root("Owner Root", &signing_key::<CaSigning>("root").public(), validity(9_000)).unwrap();
    let certificate = self_signed(draft, &signing_key::<CaSigning>("root"), rng).unwrap();
    let root = Issuer::new(signing_key::<CaSigning>("root"), certificate).unwrap();
    let issuing = signing_key::<CaSigning>("issuing");
    let draft = profile::issuing("Owner Issuing", &issuing.public(), validity(4_000)).unwrap();
    let certificate = root.issue(draft, rng).unwrap();
    Authority::new(
        Issuer::new(issuing, certificate).unwrap(),
        root.certificate().clone(),
        Settings::default(),
    )
    .unwrap()
}

/// DLMS keys as the meter has them.
pub struct DeliveredKeys {
    pub guek: Key<Guek, 16>,
    pub gak: Key<Gak, 16>,
}

/// An APDU under delivered keys, with this invocation counter.
pub fn seal(keys: &DeliveredKeys, originator: SystemTitle, counter: u64, plain: &[u8]) -> Vec<u8> {
    let mut tickets = InvocationCounter::resume(counter);
    tickets.extend(tickets.reserve(1).unwrap());
    seal_general_glo(&keys.guek, &keys.gak, originator, tickets.take().unwrap(), plain).unwrap()
}
