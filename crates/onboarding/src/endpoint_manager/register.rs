//! The device register: what the owner knows of each device, how it gets there, and what is still to be told to others.

use alloc::{string::String, vec::Vec};

use gridseal_crypto::{PublicKey, sha256};
use gridseal_trust::{
    audit::{self, Act},
    csr::endorsement_key_info,
    endorsement::{Assured, Endorsements, Fault},
    enrol::{
        cose::SignedType,
        document::{Manifest, Redirect},
        init::{SignedRedirect, encode_registration},
        registrar::{DeviceFacts, Issued},
        voucher::{VerifiedVoucher, Voucher, VoucherKey},
        voucher_log::{LogHead, LogProof},
    },
    measured::{Progress, Verdict},
    tpm,
};
use gridseal_types::{
    Code, DeviceState, DeviceType, Digest, EkName, Epoch, OrderSeq, Sid, SystemTitle, UtcTime,
    records::{Overlay, Records, RecordsError, Table, Write},
    service::{
        admission::Admission,
        keys::{Bytes, KeyReply, KeyRequest},
    },
};

use super::orders::{ORDERS, RECEIPTS, receipt_key};

/// Devices by the Name of their endorsement key.
pub const DEVICES: Table = "em_devices";

/// One device in the register.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct RegisterEntry {
    /// Device.
    #[n(0)]
    pub device: EkName,
    /// Serial number.
    #[n(1)]
    pub serial: String,
    /// Model.
    #[n(2)]
    pub model: String,
    /// System title.
    #[n(3)]
    pub system_title: SystemTitle,
    /// TPMT_PUBLIC of the endorsement key.
    #[n(4)]
    pub ek_pub: Bytes,
    /// Whether its root of trust is a software stand-in.
    #[n(5)]
    pub software_root: bool,
    /// Epoch of our voucher entry.
    #[n(6)]
    pub epoch: Epoch,
    /// Index of our voucher entry.
    #[n(7)]
    pub entry_index: u32,
    /// Hash of our voucher entry.
    #[n(8)]
    pub entry: Digest,
    /// Voucher.
    #[n(9)]
    pub voucher: Bytes,
    /// Hashes of published redirects.
    #[n(10)]
    pub redirects: Vec<Digest>,
    /// T1 that the init server has not confirmed.
    #[n(11)]
    pub registration_pending: Option<Bytes>,
    /// State.
    #[n(12)]
    pub state: DeviceState,
    /// Version of the configuration that the device confirmed last.
    #[n(13)]
    pub policy_version: u64,
    /// Its hash.
    #[n(14)]
    pub configuration: Digest,
    /// SHA-256 of the SubjectPublicKeyInfo of its LDevID key.
    #[n(15)]
    pub tls_key: Option<Digest>,
    /// When its evidence was verified.
    #[n(16)]
    pub attested_at: UtcTime,
    /// Why it is in quarantine.
    #[n(17)]
    pub quarantine: Option<Code>,
    /// Rises with each change that the head-end must know.
    #[n(18)]
    pub revision: u64,
    /// Whether the head-end still has to be told.
    #[n(19)]
    pub admission_pending: bool,
    /// Its sessions, oldest first.
    #[n(20)]
    pub sessions: Vec<Sid>,
    /// What its software was judged to be when its evidence was verified last.
    #[n(21)]
    pub software: Option<Software>,
    /// Certificate of its endorsement key and those of issuers, as presented; evidence.
    #[n(22)]
    pub ek_chain: Option<Vec<Bytes>>,
    /// What the certificate says, when it was believed.
    #[n(23)]
    pub endorsed: Option<Assured>,
    /// What it is.
    #[n(24)]
    pub device_type: DeviceType,
    /// TPMT_PUBLIC of its attestation, storage, TLS and identity key, since it operates.
    #[cbor(n(25), default)]
    pub keys: Option<[Bytes; 4]>,
    /// Encoded COSE_Sign1 of the manufacturer's manifest; empty for a device that was registered before it was kept.
    #[cbor(n(26), default)]
    pub manifest: Bytes,
    /// Its LDevID.
    #[cbor(n(27), default)]
    pub certificate: Option<Issued>,
    /// Whether the key service still has to be told its state.
    #[cbor(n(29), default)]
    pub state_pending: bool,
    /// Silent since this time, so far as it was noticed.
    #[cbor(n(30), default)]
    pub silent_since: Option<UtcTime>,
}

/// What a device's software was judged to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Software {
    /// Outcome.
    #[n(0)]
    pub verdict: Verdict,
    /// Digest of the policy that it met.
    #[n(1)]
    pub policy: Digest,
    /// How far its IMA list was judged.
    #[n(2)]
    pub progress: Option<Progress>,
    /// Firmware version that its TPM told in the quote for an order; comparable between quotes of one key.
    #[cbor(n(3), default)]
    pub tpm_firmware: Option<u64>,
}

impl RegisterEntry {
    /// What a registrar needs to know.
    #[must_use]
    pub fn facts(&self) -> DeviceFacts {
        DeviceFacts {
            device: self.device,
            serial: self.serial.clone(),
            model: self.model.clone(),
            device_type: self.device_type,
            ek_pub: self.ek_pub.0.clone(),
            epoch: self.epoch,
            entry_index: self.entry_index,
            entry: self.entry,
            redirects: self.redirects.clone(),
            state: self.state,
            policy_version: self.policy_version,
            configuration: self.configuration,
            measured: self.software.and_then(|software| software.progress),
            is_endorsed: self.endorsed.is_some(),
        }
    }

    /// Keeps a chain, and what was believed of it.
    pub(super) fn endorse(&mut self, chain: Vec<Vec<u8>>, assured: Assured) {
        self.ek_chain = Some(chain.into_iter().map(Bytes).collect());
        self.endorsed = Some(assured);
    }

    /// What our word about this device's root rests on: `software`, a believed `certificate`, or the `manifest` alone.
    #[must_use]
    pub const fn assurance(&self) -> &'static str {
        match (self.software_root, &self.endorsed) {
            (true, _) => "software",
            (false, Some(_)) => "certificate",
            (false, None) => "manifest",
        }
    }

    /// What the head-end is told, once the device has an LDevID: of meters only. It serves no other device yet, and what it
    /// was not told of it refuses.
    #[must_use]
    pub fn admission(&self) -> Option<Admission> {
        if self.device_type != DeviceType::Meter {
            return None;
        }
        Some(Admission {
            meter: self.system_title,
            tls_key: self.tls_key?,
            state: self.state,
            revision: self.revision,
        })
    }
}

/// What the owner's register accepts, and where it sends devices.
#[derive(Debug, Clone)]
pub struct RegistrationRules {
    /// Manufacturers' voucher keys.
    pub voucher_keys: Vec<VoucherKey>,
    /// Our owner key: the last voucher entry must name it.
    pub owner: PublicKey,
    /// Accept software roots (test mode).
    pub danger_accept_software_roots: bool,
    /// Config servers of redirects.
    pub config_urls: Vec<String>,
    /// SHA-256 of their SubjectPublicKeyInfo.
    pub config_pins: Vec<Digest>,
    /// How long a redirect is good for, seconds.
    pub redirect_lifetime_s: u64,
    /// Whom to believe about TPMs.
    pub endorsements: Endorsements,
}

impl RegistrationRules {
    /// Where redirects send devices.
    #[must_use]
    pub fn redirects(&self) -> Redirects {
        Redirects {
            urls: self.config_urls.clone(),
            pins: self.config_pins.clone(),
            lifetime_s: self.redirect_lifetime_s,
        }
    }
}

/// Where redirects send devices.
#[derive(Debug, Clone)]
pub struct Redirects {
    urls: Vec<String>,
    pins: Vec<Digest>,
    lifetime_s: u64,
}

impl Redirects {
    /// Payload of a redirect for a device in an epoch.
    #[must_use]
    pub fn payload(&self, (device, epoch): (&EkName, Epoch), now: UtcTime, seq: OrderSeq) -> Vec<u8> {
        Redirect {
            ek_name: *device,
            epoch,
            urls: self.urls.clone(),
            pins: self.pins.clone(),
            not_before: now,
            expires: UtcTime(now.0.saturating_add(self.lifetime_s)),
            seq,
        }
        .encode()
    }
}

/// A shipped device whose papers are in order.
#[derive(Debug, Clone)]
pub struct Shipped {
    manifest: Manifest,
    system_title: SystemTitle,
    manifest_bytes: Vec<u8>,
    voucher: VerifiedVoucher,
    voucher_bytes: Vec<u8>,
    endorsed: Option<Assured>,
    receipt: Option<Vec<u8>>,
}

impl Shipped {
    /// Checks manifest and voucher of one device.
    ///
    /// # Errors
    /// [`Code::Voucher`] when a signature or a link is wrong, or the voucher does not end with our owner key;
    /// [`Code::Label`] when manifest and voucher disagree; [`Code::Endorsement`] when the endorsement key is not one that
    /// we support or its Name or SubjectPublicKeyInfo is another; [`Code::Suite`] for one on P-384; [`Code::Policy`] for a software root where none is accepted.
    pub fn check(rules: &RegistrationRules, signed_manifest: &[u8], voucher: &[u8]) -> Result<Self, Code> {
        let manifest = Manifest::open(signed_manifest, &rules.voucher_keys)?;
        let verified = Voucher::decode(voucher)?.verify(&rules.voucher_keys)?;
        if verified.owner() != Some(rules.owner) {
            return Err(Code::Voucher);
        }
        if !verified.header.agrees(&manifest) {
            return Err(Code::Label);
        }
        let endorsement = tpm::endorsement_key(&manifest.ek_pub)?;
        let spki = Digest(sha256(&[&endorsement_key_info(&endorsement)]));
        if tpm::name(&manifest.ek_pub) != manifest.ek_name || spki != manifest.spki {
            return Err(Code::Endorsement);
        }
        if manifest.software_root && !rules.danger_accept_software_roots {
            return Err(Code::Policy);
        }
        let system_title = manifest.system_title.ok_or(Code::Label)?;
        Ok(Self {
            manifest_bytes: signed_manifest.to_vec(),
            manifest,
            system_title,
            voucher: verified,
            voucher_bytes: voucher.to_vec(),
            endorsed: None,
            receipt: None,
        })
    }

    /// Judges the certificate of the endorsement key in the manifest, when there is one and somebody is named whom to
    /// believe. A device whose manifest has none may still bring one itself.
    ///
    /// # Errors
    /// [`Fault`]: the device is not to be entered.
    pub fn endorse(&mut self, rules: &RegistrationRules, now: UtcTime) -> Result<(), Fault> {
        let Manifest { model, ek_pub, ek_chain, .. } = &self.manifest;
        let endorsement = tpm::endorsement_key(ek_pub).map_err(|_| Fault::OtherKey)?;
        self.endorsed = rules.endorsements.judge(model, &endorsement, ek_chain, now)?;
        Ok(())
    }

    /// Serial number.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.manifest.serial
    }

    /// Model.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.manifest.model
    }

    /// What it is.
    #[must_use]
    pub const fn device_type(&self) -> DeviceType {
        self.manifest.device_type
    }

    /// DLMS system title.
    #[must_use]
    pub const fn system_title(&self) -> SystemTitle {
        self.system_title
    }

    /// Encoded voucher.
    #[must_use]
    pub fn voucher(&self) -> &[u8] {
        &self.voucher_bytes
    }

    /// The request that gives the delivery record to the key service.
    #[must_use]
    pub fn deliver(&self, record: Vec<u8>) -> KeyRequest {
        KeyRequest::Deliver { record, system_title: self.system_title }
    }

    /// The request that gives a secret from label B, encrypted by [`hand_over`], to the key service.
    ///
    /// [`hand_over`]: gridseal_trust::enrol::delivery::hand_over
    #[must_use]
    pub fn deliver_label(&self, record: Vec<u8>) -> KeyRequest {
        KeyRequest::DeliverLabel {
            record,
            voucher: self.voucher_bytes.clone(),
            system_title: self.system_title,
        }
    }

    /// Checks that the voucher's last entry is in the manufacturer's log.
    ///
    /// # Errors
    /// [`Code::Voucher`].
    pub fn logged(&self, head: &LogHead, proof: &LogProof) -> Result<(), Code> {
        head.includes(&self.voucher, proof)
    }

    /// Checks that the voucher has grown, by entries of its owner's own, from one whose last entry is in the manufacturer's
    /// log.
    ///
    /// # Errors
    /// [`Code::Voucher`].
    pub fn grown(
        &self,
        rules: &RegistrationRules,
        shipped: &[u8],
        (head, proof): (&LogHead, &LogProof),
    ) -> Result<(), Code> {
        let shipped = Voucher::decode(shipped)?.verify(&rules.voucher_keys)?;
        head.includes(&shipped, proof)?;
        let has_grown = self.voucher.hashes().starts_with(shipped.hashes());
        if has_grown && self.voucher.epoch == shipped.epoch { Ok(()) } else { Err(Code::Voucher) }
    }

    /// Epoch of the voucher's last entry.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.voucher.epoch
    }

    /// Whether the manufacturer's recovery key has put us in the place of an owner who has vanished.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        self.voucher.is_recovered()
    }

    /// Hash of that entry.
    #[must_use]
    pub fn head(&self) -> Digest {
        self.voucher.head()
    }

    /// Keeps the verified receipt of the owner before, encoded.
    pub fn keep_receipt(&mut self, receipt: Option<Vec<u8>>) {
        self.receipt = receipt;
    }

    /// Device.
    #[must_use]
    pub const fn device(&self) -> EkName {
        self.manifest.ek_name
    }

    /// Owner encryption key that the voucher names: label B's secret is encrypted to it.
    #[must_use]
    pub fn encryption(&self) -> Option<PublicKey> {
        self.voucher.encryption()
    }

    /// Checks what the key service found in the delivery record: it must be this device's secret for this epoch, and the
    /// first epoch's must match the commitment.
    ///
    /// # Errors
    /// [`Code::Label`], or the code of the key service.
    pub fn delivered(&self, reply: &KeyReply) -> Result<(), Code> {
        match reply {
            KeyReply::Delivered { device, epoch, n_commit, serial, .. } => {
                let fits = *device == self.manifest.ek_name
                    && *epoch == self.voucher.epoch
                    && *serial == self.manifest.serial
                    && (*epoch != 1 || *n_commit == self.manifest.n_commit);
                if fits { Ok(()) } else { Err(Code::Label) }
            }
            KeyReply::Refused { code } => Err(*code),
            _ => Err(Code::State),
        }
    }

    /// Payload of the redirect to our config servers.
    #[must_use]
    pub fn redirect(&self, rules: &RegistrationRules, now: UtcTime, seq: OrderSeq) -> Vec<u8> {
        rules.redirects().payload((&self.manifest.ek_name, self.voucher.epoch), now, seq)
    }

    /// The register entry, to be committed. A device that is registered keeps its state and gets the new redirect.
    ///
    /// # Errors
    /// [`RecordsError`] from the store.
    pub fn enter<R: Records>(
        self,
        records: &R,
        now: UtcTime,
        redirect_payload: &[u8],
        signed: SignedRedirect,
    ) -> Result<Vec<Write>, RecordsError> {
        let mut overlay = Overlay::new(records);
        let device = self.manifest.ek_name;
        let is_recovered = self.voucher.is_recovered();
        let known = overlay.load::<RegisterEntry>(DEVICES, device.as_bytes())?;
        let known = known.filter(|known| known.epoch == self.voucher.epoch);
        if known.is_none() {
            // Orders of an ownership before are nothing to this one.
            overlay.delete(ORDERS, device.as_bytes());
        }
        let mut entry = known.unwrap_or(RegisterEntry {
            device,
            serial: self.manifest.serial,
            model: self.manifest.model,
            system_title: self.system_title,
            ek_pub: Bytes(self.manifest.ek_pub),
            software_root: self.manifest.software_root,
            epoch: self.voucher.epoch,
            entry_index: self.voucher.index(),
            entry: self.voucher.head(),
            voucher: Bytes(self.voucher_bytes),
            redirects: Vec::new(),
            registration_pending: None,
            state: DeviceState::Registered,
            policy_version: 0,
            configuration: Digest([0; 32]),
            tls_key: None,
            attested_at: UtcTime(0),
            quarantine: None,
            revision: 0,
            admission_pending: false,
            sessions: Vec::new(),
            device_type: self.manifest.device_type,
            software: None,
            ek_chain: None,
            endorsed: None,
            keys: None,
            manifest: Bytes(Vec::new()),
            certificate: None,
            state_pending: false,
            silent_since: None,
        });
        entry.manifest = Bytes(self.manifest_bytes);
        if !self.manifest.ek_chain.is_empty() {
            entry.ek_chain = Some(self.manifest.ek_chain.into_iter().map(Bytes).collect());
        }
        entry.endorsed = self.endorsed.or(entry.endorsed);
        entry.redirects.push(SignedType::Redirect.hash(redirect_payload));
        entry.registration_pending = Some(Bytes(encode_registration(&signed)));
        let act = Act {
            actor: "endpoint-manager",
            act: "device.registered",
            subject: &device,
            detail: &entry.serial,
        };
        audit::append(&mut overlay, now, act)?;
        if is_recovered {
            let act = Act { act: "device.recovery-entry", detail: &entry.epoch, ..act };
            audit::append(&mut overlay, now, act)?;
        }
        if let Some(receipt) = self.receipt {
            overlay.put(RECEIPTS, &receipt_key(&device, entry.epoch.saturating_sub(1)), receipt);
        }
        overlay.save(DEVICES, device.as_bytes(), &entry);
        Ok(overlay.into_writes())
    }
}

/// What is still to be told to others.
#[derive(Debug, Default)]
pub struct Outbox {
    /// T1 for the init server.
    pub registrations: Vec<(EkName, Vec<u8>)>,
    /// Admissions for the head-end.
    pub admissions: Vec<(EkName, Admission)>,
    /// States for the key service, each with the revision of the entry.
    pub states: Vec<(EkName, (u64, KeyRequest))>,
}

/// Scans the register for what is still to be told, at most `limit` devices after `after`.
///
/// Returns the outbox and where to go on; `None` at the end.
///
/// # Errors
/// [`RecordsError`] from the store.
pub fn outbox<R: Records>(
    records: &R,
    after: &[u8],
    limit: usize,
) -> Result<(Outbox, Option<Vec<u8>>), RecordsError> {
    let rows = records.range(DEVICES, after, limit)?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|(key, _)| key.clone());
    let mut outbox = Outbox::default();
    for (_, value) in &rows {
        let entry: RegisterEntry = minicbor::decode(value).map_err(|_| RecordsError::Damaged)?;
        if let Some(Bytes(registration)) = &entry.registration_pending {
            outbox.registrations.push((entry.device, registration.clone()));
        }
        if entry.state_pending {
            let request = KeyRequest::SetState {
                device: entry.device,
                state: entry.state,
                attested_at: entry.attested_at,
            };
            outbox.states.push((entry.device, (entry.revision, request)));
        }
        if entry.admission_pending {
            outbox.admissions.extend(entry.admission().map(|admission| (entry.device, admission)));
        }
    }
    Ok((outbox, next))
}

/// What others have confirmed.
#[derive(Debug, Clone, Copy)]
pub enum Told {
    /// The init server has the redirect.
    Registration,
    /// The head-end has the admission of this revision.
    Admission(u64),
    /// The key service knows the state of this revision, or will never take it.
    State(u64),
}

/// Marks what was told, to be committed.
///
/// # Errors
/// [`RecordsError`] from the store.
pub fn told<R: Records>(records: &R, told: &[(EkName, Told)]) -> Result<Vec<Write>, RecordsError> {
    let mut overlay = Overlay::new(records);
    for (device, what) in told {
        let Some(mut entry) = overlay.load::<RegisterEntry>(DEVICES, device.as_bytes())? else { continue };
        match what {
            Told::Registration => entry.registration_pending = None,
            Told::Admission(revision) if *revision == entry.revision => entry.admission_pending = false,
            Told::State(revision) if *revision == entry.revision => entry.state_pending = false,
            Told::Admission(_) | Told::State(_) => continue,
        }
        overlay.save(DEVICES, device.as_bytes(), &entry);
    }
    Ok(overlay.into_writes())
}

/// The entry of a device.
///
/// # Errors
/// [`RecordsError`] from the store.
pub fn entry<R: Records>(records: &R, device: &EkName) -> Result<Option<RegisterEntry>, RecordsError> {
    Overlay::new(records).load(DEVICES, device.as_bytes())
}

/// The device with a serial number.
///
/// # Errors
/// [`RecordsError`] from the store.
pub fn find<R: Records>(records: &R, serial: &str) -> Result<Option<EkName>, RecordsError> {
    let mut after: Vec<u8> = Vec::new();
    loop {
        let rows = records.range(DEVICES, &after, 256)?;
        let Some((last, _)) = rows.last() else { return Ok(None) };
        after.clone_from(last);
        for (_, value) in &rows {
            let entry: RegisterEntry = minicbor::decode(value).map_err(|_| RecordsError::Damaged)?;
            if entry.serial == serial {
                return Ok(Some(entry.device));
            }
        }
    }
}

/// Lets a quarantined device try again, to be committed: its state is `registered`. A device that was readmitted before gets
/// the same answer, so that a half-done act can be repeated. `None` when there is no such device or it is neither
/// quarantined nor just readmitted.
///
/// # Errors
/// [`RecordsError`] from the store.
pub fn readmit<R: Records>(
    records: &R,
    now: UtcTime,
    serial: &str,
    reason: &str,
) -> Result<(Vec<Write>, Option<EkName>), RecordsError> {
    let mut overlay = Overlay::new(records);
    let mut after: Vec<u8> = Vec::new();
    loop {
        let rows = records.range(DEVICES, &after, 256)?;
        let Some((last, _)) = rows.last() else { return Ok((Vec::new(), None)) };
        after.clone_from(last);
        for (_, value) in &rows {
            let mut entry: RegisterEntry = minicbor::decode(value).map_err(|_| RecordsError::Damaged)?;
            if entry.serial != serial {
                continue;
            }
            if entry.state == DeviceState::Registered {
                return Ok((Vec::new(), Some(entry.device)));
            }
            if entry.state != DeviceState::Quarantined {
                return Ok((Vec::new(), None));
            }
            entry.state = DeviceState::Registered;
            entry.quarantine = None;
            entry.revision = entry.revision.saturating_add(1);
            let act =
                Act { actor: "operator", act: "device.readmitted", subject: &entry.device, detail: &reason };
            audit::append(&mut overlay, now, act)?;
            overlay.save(DEVICES, entry.device.as_bytes(), &entry);
            return Ok((overlay.into_writes(), Some(entry.device)));
        }
    }
}
