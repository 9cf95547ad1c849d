//! The manufacturer, the owner and the owner's certificate authority, made once; and each run's devices with their
//! papers.

use std::{sync::OnceLock, time::Duration};

use gridseal_crypto::{
    Key, PublicKey, SecondSigner, Signer, SigningKey,
    role::{
        CaSigning, Dek, DeviceRootSecret, InitSigning, OwnerSigning, Role, VoucherSecond, VoucherSigning,
    },
    sha256,
};
use gridseal_keys::{Core, Keystore, KeystoreFile};
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
        voucher::Voucher,
    },
    measured::PolicySet,
    root::{DeviceRoot, RootReply, RootRequest, software::SoftwareRoot},
    tpm,
};
use gridseal_types::{DeviceType, Digest, EkName, SystemTitle, UtcTime};

use crate::HashRng;

/// Calendar time at the start of every run.
pub(super) const START: UtcTime = UtcTime(1_800_000_000);
/// How patient devices are: short enough that a run of virtual minutes has many attempts.
const PACE: Pace =
    Pace { first: Duration::from_secs(1), most: Duration::from_secs(60), reply: Duration::from_secs(6) };
const MODEL: &str = "Simulated 1";
/// Tenant of the owner's keystore.
pub(super) const TENANT: [u8; 16] = *b"simulated owner\0";
/// What a boot measures into PCR 0 and PCR 4.
const MEASURED: [(u8, &[u8]); 2] = [(0, b"firmware 1"), (4, b"boot loader 1")];

/// Everything that is the same in every run.
pub(super) struct Works {
    voucher: SigningKey<VoucherSigning>,
    init_public: PublicKey,
    owner: SigningKey<OwnerSigning>,
    owner_encryption: PublicKey,
    /// The init server.
    pub(super) init: InitServer<SigningKey<InitSigning>>,
    /// The key service.
    pub(super) keys: Core,
    /// The certificate authority.
    pub(super) authority: Authority<SigningKey<CaSigning>>,
}

/// A device as it leaves the factory, with the papers that go to its owner.
pub(super) struct Made {
    pub(super) title: SystemTitle,
    pub(super) name: EkName,
    pub(super) root: SoftwareRoot,
    pub(super) firmware: Firmware,
    pub(super) manifest: Vec<u8>,
    pub(super) voucher: Vec<u8>,
    pub(super) delivery: Vec<u8>,
}

fn signing_key<R: Role>(label: &str) -> SigningKey<R> {
    let scalar = Key::generate_scalar(&mut HashRng::new(0, label, 0)).expect("the generator does not fail");
    SigningKey::new(&scalar).expect("a scalar was drawn")
}

/// The data key of the owner's keystore.
pub(super) fn dek() -> Key<Dek, 32> {
    Key::generate(&mut HashRng::new(0, "dek", 0)).expect("the generator does not fail")
}

/// The manufacturer and the owner of all runs.
pub(super) fn works() -> &'static Works {
    static WORKS: OnceLock<Works> = OnceLock::new();
    WORKS.get_or_init(Works::new)
}

impl Works {
    fn new() -> Self {
        let voucher = signing_key::<VoucherSigning>("voucher");
        let init = signing_key::<InitSigning>("init");
        let owner = signing_key::<OwnerSigning>("owner");
        let file = KeystoreFile::create(&dek(), TENANT, &mut HashRng::new(0, "keystore", 0))
            .expect("the generator does not fail");
        let publics = file.public_keys(&dek()).expect("own data key");
        let delegation = Delegation {
            owner_key: key_id(&owner.public()),
            uses: 3,
            key: publics.config,
            generation: 1,
            not_before: START,
            not_after: UtcTime(START.0 + 400 * 86_400),
        };
        let delegation = sign(&owner, SignedType::Delegation, &delegation.encode()).expect("own key");
        let keystore =
            Keystore::open(&file, dek(), delegation, vec![voucher.public().into()]).expect("own keystore");
        Self {
            init_public: init.public(),
            init: InitServer::new(init, vec![voucher.public().into()]),
            owner,
            owner_encryption: publics.encryption,
            keys: Core::new(keystore, Core::ATTESTATION_AGE_DEFAULT_S),
            authority: authority(),
            voucher,
        }
    }

    /// What the owner decided for all devices.
    pub(super) fn rules() -> Rules {
        let policy = Policy {
            model: MODEL.into(),
            release: "1".into(),
            pcrs: MEASURED.iter().map(|(pcr, what)| (*pcr, vec![measured(what)])).collect(),
            ima_keys: Vec::new(),
            ima_paths: Vec::new(),
            version: 1,
            out_of_date: OutOfDate::Grace,
            logs_may_be_empty: true,
            issued: START,
        };
        let mut policies = PolicySet::default();
        policies.add(SignedType::Policy.hash(&policy.encode()), policy).expect("one policy");
        Rules {
            policies,
            endorsements: Endorsements::default(),
            danger_accept_open_platform: false,
            terminus: vec!["https://meters.example:8443".into()],
        }
    }

    /// What the owner's register accepts.
    pub(super) fn registration_rules(&self) -> RegistrationRules {
        RegistrationRules {
            voucher_keys: vec![self.voucher.public().into()],
            owner: self.owner.public(),
            danger_accept_software_roots: true,
            config_urls: vec!["https://config.example:8443".into()],
            config_pins: vec![Digest([3; 32])],
            redirect_lifetime_s: 365 * 86_400,
            endorsements: Endorsements::default(),
        }
    }

    /// Makes a device and sells it to the owner.
    pub(super) fn make(&self, seed: u64, number: u8) -> Made {
        let serial = format!("GS-{number:07}");
        let title = SystemTitle([b'G', b'S', b'L', 0, 0, 0, 0, number]);
        let drawn = || HashRng::new(seed, "device root", number.into());
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
        };
        let header = Header {
            ek_name: name,
            model: MODEL.into(),
            serial: serial.clone(),
            n_commit: first_secret.commitment(),
            second_key: None,
        };
        let voucher = self.sell(header);
        let release = Release { ek_name: name, epoch: 1, serial: serial.clone(), entry: Digest([0; 32]) };
        let mut rng = HashRng::new(seed, "delivery", number.into());
        let delivery = deliver(&release, &first_secret, &self.voucher, &self.owner_encryption, &mut rng);
        let firmware = Firmware {
            init_keys: vec![self.init_public],
            voucher_keys: vec![self.voucher.public().into()],
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

    fn sign(&self, kind: SignedType, payload: &[u8]) -> Vec<u8> {
        sign(&self.voucher, kind, payload).expect("own key")
    }

    /// A voucher with entry 1: to the owner. Second signatures are left to other tests: here they would cost more than the
    /// rest of a run.
    fn sell(&self, header: Header) -> Voucher {
        let entry = Entry {
            index: 1,
            epoch: 1,
            kind: EntryKind::Transfer,
            previous: Digest([0; 32]),
            owner: self.owner.public(),
            encryption: self.owner_encryption,
            issued: START,
            second_key: None,
            owner_second: None,
        };
        let none = None::<&SecondSigner<VoucherSecond>>;
        let mut voucher = Voucher::issue(header, &self.voucher, none).expect("own key");
        voucher.extend(entry, &self.voucher, none).expect("own key");
        voucher
    }
}

/// Measures what the policy of [`Works::rules`] allows.
pub(super) fn measured_boot(root: &mut SoftwareRoot) {
    for (pcr, what) in MEASURED {
        root.extend_pcr(pcr, &Digest(sha256(&[what]))).expect("the PCR exists");
    }
}

fn measured(what: &[u8]) -> Digest {
    Digest(sha256(&[&[0; 32], &sha256(&[what])]))
}

fn authority() -> Authority<SigningKey<CaSigning>> {
    let validity =
        |days: u64| Validity::starting(UtcTime(START.0 - 86_400), Duration::from_secs(days * 86_400));
    let rng = &mut HashRng::new(0, "certificates", 0);
    let (top, issuing) = (|| signing_key::<CaSigning>("root ca"), signing_key::<CaSigning>("issuing ca"));
    let draft = profile::root("Owner Root", &top().public(), validity(9_000)).expect("valid profile");
    let certificate = self_signed(draft, &top(), rng).expect("own key");
    let root = Issuer::new(top(), certificate).expect("own certificate");
    let draft = profile::issuing("Owner Issuing", &issuing.public(), validity(4_000)).expect("valid profile");
    let certificate = root.issue(draft, rng).expect("own key");
    let issuer = Issuer::new(issuing, certificate).expect("own certificate");
    Authority::new(issuer, root.certificate().clone(), Settings::default()).expect("signed by the root")
}
