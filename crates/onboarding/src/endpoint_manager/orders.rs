//! What is to be done with devices that have an owner: jobs, each of them one order to the device, or several.
//!
//! Each job goes its own way: one that cannot go on (the authority issues nothing, a device does not answer it) holds up no
//! other, and an attestation has its turn before all others. Jobs come from operators ([`request`]) and from the calendar: attestation, renewal of certificates. A device fetches its
//! next order with a poll, through the head-end or, once it has no TLS key any more, through the config server; its result
//! comes back the same way. An order stands until its result came, and is repeated byte for byte.
//!
//! # Source
//! Onboarding specification, sections 11 and 18.6; design section 3 for states.

pub(super) mod course;
mod entry;
mod watch;

pub use entry::EntryChange;
pub use watch::{Alarm, watch};

use alloc::{format, string::String, vec::Vec};

use gridseal_crypto::sha256;
use gridseal_trust::{
    audit::{self, Act},
    enrol::{
        order::Kind,
        receipt::ReceiptFile,
        voucher::{Voucher, VoucherKey},
    },
    tpm,
};
use gridseal_types::{
    Code, DeviceState, Digest, EkName, N16, OrderSeq, UtcTime,
    records::{Overlay, Records, RecordsError, Table},
    service::keys::{Bytes, OrderAct, OrderRequest, ProvisionOrder, TpmSession, TunnelPurpose},
};

use super::{
    installation::{Changed, Decision},
    register::{DEVICES, RegisterEntry},
};

/// Orders by device.
pub const ORDERS: Table = "em_orders";
/// Receipt files by device and epoch, big-endian.
pub const RECEIPTS: Table = "em_receipts";

/// Most jobs that wait for one device.
const JOBS_MAX: usize = 16;
/// An attestation that was ordered so long ago is ordered anew: an answer to it would count as old as the order.
const ATTEST_ANEW_S: u64 = 900;
/// A poll is noted on record when the last one that was is so old.
const HEARD_EVERY_S: u64 = 60;
/// A time further ahead than this was told by a clock that was wrong, seconds.
const CLOCK_STEP_MAX_S: u64 = 86_400;
/// After a job of the calendar came to nothing it is not due again for so long.
const DUE_AGAIN_S: u64 = 300;
/// An authority that has refused a certificate is asked for it again after this.
const CERTIFICATE_AGAIN_S: u64 = 600;

/// When what is due by the calendar, seconds.
#[derive(Debug, Clone, Copy)]
pub struct OrderRules {
    /// From one attestation to the next.
    pub attest_every_s: u64,
    /// Age of an attestation at which the device is held (rule S13): as the key service has it.
    pub attest_max_s: u64,
    /// A device that did not ask for so long comes back: it is attested.
    pub reconnect_gap_s: u64,
    /// When a device for which there is nothing is told to ask again.
    pub poll_s: u32,
    /// A device that did not ask for so long is silent: an alarm.
    pub silence_s: u64,
    /// Whether a new storage key is made with every new TLS key: it bounds what a recorded session is worth.
    pub renew_storage: bool,
    /// For how long a device may be `updating`.
    pub update_max_s: u64,
}

impl Default for OrderRules {
    fn default() -> Self {
        Self {
            attest_every_s: 86_400,
            attest_max_s: 26 * 3_600,
            reconnect_gap_s: 3_600,
            poll_s: 900,
            silence_s: 26 * 3_600,
            renew_storage: true,
            update_max_s: 7 * 86_400,
        }
    }
}

/// Something to be done with a device.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum Job {
    /// Prove its software again.
    #[n(0)]
    Attest,
    /// Stop working.
    #[n(1)]
    Suspend,
    /// Work again.
    #[n(2)]
    Resume,
    /// Get a new TLS key and certificate.
    #[n(3)]
    Renew {
        /// And a new storage key, with all channel secrets.
        #[n(0)]
        with_storage: bool,
    },
    /// Get new channel secrets.
    #[n(4)]
    Rotate,
    /// New authorisations of the owner and the lockout hierarchy.
    #[n(5)]
    Authorise,
    /// Learn that the owner has a new key.
    #[n(6)]
    Rekey {
        /// Voucher entries of kind 2, encoded COSE_Sign1.
        #[n(0)]
        entries: Vec<Bytes>,
        /// Their second signatures, one each, or none.
        #[n(1)]
        second: Vec<Bytes>,
    },
    /// Go to the next owner.
    #[n(7)]
    Release {
        /// His voucher entry, encoded COSE_Sign1.
        #[n(0)]
        entry: Bytes,
        /// Its second signature, empty when it names no second key.
        #[n(1)]
        second: Bytes,
    },
    /// Come to the end.
    #[n(8)]
    Decommission,
    /// Its software, or that of its TPM, is being changed: nothing is ordered for it. It ends with an attestation that shows
    /// other software than before, or after [`OrderRules::update_max_s`].
    #[n(9)]
    Update,
}

impl Job {
    /// Name, as in logs and on the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Attest => "attest",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Renew { .. } => "renew",
            Self::Rotate => "rotate",
            Self::Authorise => "authorise",
            Self::Rekey { .. } => "rekey",
            Self::Release { .. } => "release",
            Self::Decommission => "decommission",
            Self::Update => "update",
        }
    }

    /// Who has his turn first: whoever is to stop, then attestations; the others as they came.
    const fn rank(&self) -> u8 {
        match self {
            Self::Suspend => 0,
            Self::Attest => 1,
            _ => 2,
        }
    }

    const fn ends_ownership(&self) -> bool {
        matches!(self, Self::Release { .. } | Self::Decommission)
    }
}

/// An order that stands.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Step {
    /// Sequence number.
    #[n(0)]
    pub seq: OrderSeq,
    /// Kind.
    #[n(1)]
    pub kind: Kind,
    /// What names it in its result and in TPM statements.
    #[n(2)]
    pub digest: Digest,
    /// Hash of the configuration in it.
    #[n(3)]
    pub configuration: Digest,
    /// As sealed.
    #[n(4)]
    pub wire: Bytes,
    /// TPM Names of the objects in it.
    #[n(5)]
    pub objects: Vec<EkName>,
    /// When it was made.
    #[n(6)]
    pub made_at: UtcTime,
    /// PCRs that were asked for.
    #[n(7)]
    pub pcr_selection: Bytes,
    /// First IMA entry that was asked for.
    #[n(8)]
    pub ima_next: u64,
}

/// How far a job has come.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Stage {
    /// Nothing was answered yet.
    #[n(0)]
    Begun,
    /// The device has accepted that the ownership ends.
    #[n(1)]
    Accepted,
    /// It has opened TPM sessions.
    #[n(2)]
    Opened {
        /// Sequence number of the order for them.
        #[n(0)]
        sessions_seq: OrderSeq,
        /// Sessions.
        #[n(1)]
        sessions: Vec<TpmSession>,
        /// TPM_PT_PERMANENT.
        #[n(2)]
        permanent: u32,
    },
    /// It has made new keys, and there is a certificate.
    #[n(3)]
    Certified {
        /// TPMT_PUBLIC of the TLS key.
        #[n(0)]
        tls_pub: Bytes,
        /// TPMT_PUBLIC of the storage key, when that is new too.
        #[n(1)]
        storage_pub: Option<Bytes>,
        /// Certificate.
        #[n(2)]
        issued: gridseal_trust::enrol::registrar::Issued,
    },
    /// It has made new keys, and the authority has not issued a certificate for them yet.
    #[n(4)]
    Requested {
        /// TPMT_PUBLIC of the TLS key.
        #[n(0)]
        tls_pub: Bytes,
        /// TPMT_PUBLIC of the storage key, when that is new too.
        #[n(1)]
        storage_pub: Option<Bytes>,
        /// Its request, verified.
        #[n(2)]
        csr: Bytes,
        /// When the authority was asked last.
        #[n(3)]
        asked_at: UtcTime,
    },
    /// Its software is being changed.
    #[n(5)]
    Updating {
        /// Since when.
        #[n(0)]
        since: UtcTime,
        /// What it was judged to be before.
        #[n(1)]
        before: Option<(Digest, Option<u64>)>,
    },
}

/// A job that waits or is under way.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Waiting {
    /// Job.
    #[n(0)]
    pub job: Job,
    /// How far it has come.
    #[n(1)]
    pub stage: Stage,
    /// Its order that stands.
    #[n(2)]
    pub step: Option<Step>,
    /// Tries that came to nothing.
    #[n(3)]
    pub tries: u32,
}

impl Waiting {
    const fn new(job: Job) -> Self {
        Self { job, stage: Stage::Begun, step: None, tries: 0 }
    }

    /// Whether there is something to do for it now.
    fn is_ready(&self, now: UtcTime) -> bool {
        match &self.stage {
            Stage::Requested { asked_at, .. } => now.0.saturating_sub(asked_at.0) >= CERTIFICATE_AGAIN_S,
            Stage::Updating { .. } => false,
            _ => true,
        }
    }
}

/// Jobs and orders of one device.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Book {
    /// Rises with each change.
    #[n(0)]
    pub revision: u64,
    /// Orders asked for so far.
    #[n(1)]
    pub asked: u64,
    /// Jobs; the first is the one that is worked at.
    #[n(2)]
    pub jobs: Vec<Waiting>,
    /// Sequence number that the device has accepted last.
    #[n(5)]
    pub last_seq: OrderSeq,
    /// When it asked last, as far as noted.
    #[n(6)]
    pub polled_at: UtcTime,
    /// Sequence number and digest of the order that ended the ownership, whose answer comes last.
    #[n(7)]
    pub closing: Option<(OrderSeq, Digest)>,
    /// The device itself has confirmed that the ownership has ended.
    #[n(9)]
    pub has_ended: bool,
    /// The calendar asks for no attestation before this: the last one came to nothing.
    #[n(10)]
    pub attest_again_at: UtcTime,
    /// The same for new certificates.
    #[n(11)]
    pub renew_again_at: UtcTime,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            revision: 0,
            asked: 0,
            jobs: Vec::new(),
            last_seq: 0,
            polled_at: UtcTime(0),
            closing: None,
            has_ended: false,
            attest_again_at: UtcTime(0),
            renew_again_at: UtcTime(0),
        }
    }
}

impl Book {
    /// The book of a device; an empty one when there is none.
    ///
    /// # Errors
    /// [`RecordsError`] from the store.
    pub fn of<R: Records>(overlay: &Overlay<'_, R>, device: &EkName) -> Result<Self, RecordsError> {
        Ok(overlay.load(ORDERS, device.as_bytes())?.unwrap_or_default())
    }

    pub(super) fn save<R: Records>(mut self, overlay: &mut Overlay<'_, R>, device: &EkName) {
        self.revision = self.revision.saturating_add(1);
        overlay.save(ORDERS, device.as_bytes(), &self);
    }

    /// The job that is worked at.
    fn job(&self) -> Option<&Job> {
        self.jobs.first().map(|first| &first.job)
    }

    fn set_step(&mut self, step: Option<Step>) {
        if let Some(first) = self.jobs.first_mut() {
            first.step = step;
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(first) = self.jobs.first_mut() {
            first.stage = stage;
        }
    }

    /// Counts a try that came to nothing; how many there were.
    fn fail(&mut self) -> u32 {
        let Some(first) = self.jobs.first_mut() else { return 0 };
        first.tries = first.tries.saturating_add(1);
        first.tries
    }

    fn finish_job(&mut self) {
        if !self.jobs.is_empty() {
            self.jobs.remove(0);
        }
    }

    /// Gives the job that is worked at up, for the time being where the calendar has begun it.
    fn give_up(&mut self, now: UtcTime) {
        let again_at = UtcTime(now.0.saturating_add(DUE_AGAIN_S));
        match self.job() {
            Some(Job::Attest) => self.attest_again_at = again_at,
            Some(Job::Renew { .. }) => self.renew_again_at = again_at,
            _ => {}
        }
        self.finish_job();
    }

    /// The job that is worked at waits behind the others.
    fn put_back(&mut self) {
        if !self.jobs.is_empty() {
            self.jobs.rotate_left(1);
        }
    }

    /// Works at the job at this place from here on.
    fn turn_to(&mut self, place: usize) {
        if let Some(part) = self.jobs.get_mut(..=place) {
            part.rotate_right(1);
        }
    }

    /// Works at the job whose order has this number; that order.
    fn turn_to_order(&mut self, seq: OrderSeq) -> Option<Step> {
        let is_it = |waiting: &Waiting| waiting.step.as_ref().is_some_and(|step| step.seq == seq);
        let place = self.jobs.iter().position(is_it)?;
        self.turn_to(place);
        self.jobs.first().and_then(|first| first.step.clone())
    }

    /// Works at the job whose turn it is; `false` when there is nothing to do now.
    fn turn_to_next(&mut self, now: UtcTime) -> bool {
        let ready = self.jobs.iter().enumerate().filter(|(_, waiting)| waiting.is_ready(now));
        let next = ready.min_by_key(|(place, waiting)| (waiting.job.rank(), *place));
        let Some((place, _)) = next else { return false };
        self.turn_to(place);
        true
    }

    fn add(&mut self, job: Job) {
        let is_known = self.jobs.iter().any(|waiting| waiting.job == job);
        if !is_known && self.jobs.len() < JOBS_MAX {
            self.jobs.push(Waiting::new(job));
        }
    }

    fn ends_ownership(&self) -> bool {
        self.jobs.iter().any(|waiting| waiting.job.ends_ownership())
    }

    /// What the calendar adds, whatever waits.
    fn schedule(&mut self, entry: &RegisterEntry, rules: &OrderRules, now: UtcTime) {
        let age = now.0.abs_diff(entry.attested_at.0);
        let is_stale = entry.state == DeviceState::Quarantined && entry.quarantine == Some(Code::Time);
        let gap = now.0.saturating_sub(self.polled_at.0);
        // Without a poll on record it comes from its onboarding, where it was attested.
        let comes_back =
            self.polled_at.0 != 0 && gap >= rules.reconnect_gap_s && age >= rules.reconnect_gap_s;
        // While its software is changed it is asked each time.
        let is_changing = self.is_updating() && age >= u64::from(rules.poll_s);
        let is_due = entry.state.may_exchange() && (age >= rules.attest_every_s || comes_back || is_changing);
        if (is_stale || is_due) && now >= self.attest_again_at {
            self.add_due(Job::Attest);
        }
        let renews_at = entry.certificate.as_ref().map(|issued| {
            let life = issued.not_after.0.saturating_sub(issued.at.0);
            // A clock that was fast when it came says nothing about when it is due (rule S14).
            let is_known = life > 0 && issued.at.0 <= now.0.saturating_add(CLOCK_STEP_MAX_S);
            if is_known { issued.at.0.saturating_add(life / 3 * 2) } else { 0 }
        });
        let is_due = entry.state.may_exchange() && renews_at.is_some_and(|at| now.0 >= at);
        if is_due && now >= self.renew_again_at {
            self.add_due(Job::Renew { with_storage: rules.renew_storage });
        }
    }

    /// Unless a job of this kind waits. There is always room for what the calendar adds.
    fn add_due(&mut self, job: Job) {
        if !self.jobs.iter().any(|waiting| waiting.job.name() == job.name()) {
            self.jobs.push(Waiting::new(job));
        }
    }

    fn is_updating(&self) -> bool {
        self.jobs.iter().any(|waiting| matches!(waiting.stage, Stage::Updating { .. }))
    }

    /// Ends what was to end long ago: a change of software that nobody has seen.
    fn expire(&mut self, rules: &OrderRules, now: UtcTime) {
        self.jobs.retain(|waiting| match waiting.stage {
            Stage::Updating { since, .. } => now.0.saturating_sub(since.0) < rules.update_max_s,
            _ => true,
        });
    }

    /// The software that an attestation has shown, and the version of the TPM's: a change is over when one of them is another
    /// than before.
    fn shown(&mut self, policy: Digest, tpm_firmware: u64) {
        self.jobs.retain_mut(|waiting| match &mut waiting.stage {
            Stage::Updating { before: Some((was, firmware)), .. } => {
                *was == policy && *firmware.get_or_insert(tpm_firmware) == tpm_firmware
            }
            Stage::Updating { before: None, .. } => false,
            _ => true,
        });
    }

    /// State of a device that works for its owner: it follows from what is under way with it.
    pub(super) fn state_at_work(&self) -> DeviceState {
        let rekeys = |waiting: &Waiting| {
            let is_begun = waiting.step.is_some() || waiting.stage != Stage::Begun;
            is_begun && matches!(waiting.job, Job::Renew { .. } | Job::Rotate)
        };
        if self.is_updating() {
            DeviceState::Updating
        } else if self.jobs.iter().any(rekeys) {
            DeviceState::Rekeying
        } else {
            DeviceState::Operating
        }
    }

    /// The request for the next order of the job that is worked at.
    fn request(&self, entry: &RegisterEntry, context: &Context<'_>) -> Result<(OrderRequest, Wanted), Code> {
        let Waiting { job, stage, .. } = self.jobs.first().ok_or(Code::State)?;
        let mut wanted = Wanted::default();
        let act = match (job, stage) {
            (_, Stage::Opened { sessions_seq, sessions, permanent }) => OrderAct::Commands {
                sessions_seq: *sessions_seq,
                sessions: sessions.clone(),
                permanent: *permanent,
            },
            (Job::Authorise, _) => sessions(entry, TunnelPurpose::Authorisations)?,
            (Job::Release { .. } | Job::Decommission, Stage::Accepted) => {
                sessions(entry, TunnelPurpose::Clear)?
            }
            (Job::Release { entry, second }, _) => {
                OrderAct::Release { entry: entry.0.clone(), second: second.0.clone() }
            }
            (Job::Decommission, _) => OrderAct::Decommission,
            (Job::Attest, _) => {
                let keys = entry.keys.as_ref().ok_or(Code::State)?;
                let [attestation, ..] = keys;
                let policies = &context.rules.policies;
                let before = entry.software.and_then(|software| software.progress);
                wanted.pcr_selection = policies.pcr_selection(&entry.model).ok_or(Code::Policy)?;
                wanted.ima_next =
                    policies.ima_next(&entry.model, &tpm::name(&attestation.0), before.as_ref());
                OrderAct::Attest { pcr_selection: wanted.pcr_selection.clone(), ima_next: wanted.ima_next }
            }
            (Job::Suspend, _) => OrderAct::Suspend,
            (Job::Resume, _) => OrderAct::Resume,
            (Job::Renew { .. } | Job::Rotate, Stage::Certified { storage_pub, issued, .. }) => {
                provision(entry, issued, storage_pub.as_ref(), context)?
            }
            (Job::Renew { with_storage }, _) => OrderAct::Renew { with_storage: *with_storage },
            (Job::Rotate, _) => {
                let issued = entry.certificate.as_ref().ok_or(Code::State)?;
                let [_, storage, _, _] = entry.keys.as_ref().ok_or(Code::State)?;
                provision(entry, issued, Some(storage), context)?
            }
            (Job::Rekey { entries, second }, _) => {
                OrderAct::Rekey { entries: entries.clone(), second: second.clone() }
            }
            (Job::Update, _) => return Err(Code::State),
        };
        // The same order, asked for again after a crash, is the same order.
        let encoded = minicbor::to_vec(&act).unwrap_or_default();
        let name = sha256(&[entry.device.as_bytes(), &self.asked.to_be_bytes(), &encoded]);
        let id = N16(*name.first_chunk().unwrap_or(&[0; 16]));
        Ok((OrderRequest { device: entry.device, id, act }, wanted))
    }
}

/// What an attestation was asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pcr_selection: Vec<u8>,
    ima_next: u64,
}

/// What orders are made from besides register and book.
pub(super) struct Context<'c> {
    pub(super) rules: &'c gridseal_trust::enrol::registrar::Rules,
}

fn sessions(entry: &RegisterEntry, purpose: TunnelPurpose) -> Result<OrderAct, Code> {
    let endorsement = tpm::endorsement_key(&entry.ek_pub.0)?;
    Ok(OrderAct::Sessions { endorsement: endorsement.bytes().to_vec(), purpose })
}

fn provision(
    entry: &RegisterEntry,
    issued: &gridseal_trust::enrol::registrar::Issued,
    storage: Option<&Bytes>,
    context: &Context<'_>,
) -> Result<OrderAct, Code> {
    let storage_point = match storage {
        // Only a meter has channel secrets.
        Some(public) if entry.device_type == gridseal_types::DeviceType::Meter => {
            Some(Bytes(tpm::storage_key(&public.0)?.point().to_vec()))
        }
        _ => None,
    };
    Ok(OrderAct::Provision(ProvisionOrder {
        storage_point,
        ldevid_chain: issued.chain.clone(),
        ca_bundle: alloc::vec![issued.root.clone()],
        terminus: context.rules.terminus.clone(),
        policy_version: entry.policy_version.saturating_add(1),
        previous: entry.configuration,
        entry_index: entry.entry_index,
        entry: entry.entry,
    }))
}

/// Why an operator's request is refused.
fn refusal(entry: &RegisterEntry, job: &Job, voucher_keys: &[VoucherKey]) -> Option<Code> {
    let state = entry.state;
    let is_owned = state.may_exchange() || state.may_probe() && entry.tls_key.is_some();
    if !is_owned || entry.keys.is_none() {
        return Some(Code::State);
    }
    match job {
        Job::Renew { .. } | Job::Rotate | Job::Update if !state.may_exchange() => Some(Code::State),
        Job::Release { entry: next, second } => {
            // It has to follow our entry, and to make somebody else the owner, in the next epoch.
            let voucher = Voucher::decode(&entry.voucher.0).ok()?;
            let continued = voucher.continued(&next.0, &second.0).verify(voucher_keys);
            match continued {
                Ok(continued) if continued.epoch == entry.epoch.saturating_add(1) => None,
                Ok(_) => Some(Code::EpochMismatch),
                Err(code) => Some(code),
            }
        }
        Job::Rekey { entries, second } => {
            // They have to follow our entry, each by the key before it, in this epoch.
            let mut voucher = Voucher::decode(&entry.voucher.0).ok()?;
            for (at, next) in entries.iter().enumerate() {
                voucher = voucher.continued(&next.0, second.get(at).map_or(&[][..], |second| &second.0));
            }
            match voucher.verify(voucher_keys) {
                Ok(continued) if continued.epoch == entry.epoch && !entries.is_empty() => None,
                Ok(_) => Some(Code::EpochMismatch),
                Err(code) => Some(code),
            }
        }
        _ => None,
    }
}

/// Puts an operator's job on record. To be committed, after the key service was told the new states.
///
/// A suspension, a release and a decommissioning hold the device at once; what is under way with it is finished first, but
/// for jobs that wait. A resumption attests it first: it works again only when that went well.
///
/// # Errors
/// [`RecordsError`] from the store; inside, [`Code::State`] when the device is in no state for it, [`Code::Voucher`] and
/// [`Code::EpochMismatch`] when the next owner's entry does not follow ours.
pub fn request<R: Records>(
    records: &R,
    now: UtcTime,
    device: &EkName,
    job: Job,
    (reason, voucher_keys): (&str, &[VoucherKey]),
) -> Result<Decision<Vec<Changed>>, RecordsError> {
    let mut overlay = Overlay::new(records);
    let Some(mut entry) = overlay.load::<RegisterEntry>(DEVICES, device.as_bytes())? else {
        return Ok((Vec::new(), Err(Code::Unknown)));
    };
    if let Some(code) = refusal(&entry, &job, voucher_keys) {
        return Ok((Vec::new(), Err(code)));
    }
    let mut book = Book::of(&overlay, device)?;
    if book.ends_ownership() {
        return Ok((Vec::new(), Err(Code::State)));
    }
    let mut changed = Vec::new();
    let is_under_way = |waiting: &Waiting| waiting.step.is_some();
    let holds = job.ends_ownership() || job == Job::Suspend;
    if holds {
        // What waits makes no sense any more.
        book.jobs.retain(is_under_way);
        if entry.state != DeviceState::Suspended {
            entry.state = DeviceState::Suspended;
            entry.admission_pending = true;
            entry.state_pending = true;
            entry.revision = entry.revision.saturating_add(1);
            changed.push(Changed { device: *device, state: entry.state, attested_at: entry.attested_at });
        }
    }
    if job == Job::Resume {
        if !entry.state.may_probe() {
            return Ok((Vec::new(), Err(Code::State)));
        }
        book.jobs.retain(is_under_way);
        book.add(Job::Attest);
    }
    let detail = format!("{}: {reason}", job.name());
    let updates = job == Job::Update && !book.is_updating();
    book.add(job);
    if updates && let Some(last) = book.jobs.last_mut() {
        let before = entry.software.map(|software| (software.policy, software.tpm_firmware));
        last.stage = Stage::Updating { since: now, before };
        entry.state = DeviceState::Updating;
        entry.admission_pending = true;
        entry.state_pending = true;
        entry.revision = entry.revision.saturating_add(1);
        changed.push(Changed { device: *device, state: entry.state, attested_at: entry.attested_at });
    }
    let act = Act { actor: "operator", act: "device.ordered", subject: device, detail: &detail };
    audit::append(&mut overlay, now, act)?;
    overlay.save(DEVICES, device.as_bytes(), &entry);
    book.save(&mut overlay, device);
    Ok((overlay.into_writes(), Ok(changed)))
}

/// Key of a receipt.
#[must_use]
pub fn receipt_key(device: &EkName, epoch: u32) -> Vec<u8> {
    let mut key = device.as_bytes().to_vec();
    key.extend_from_slice(&epoch.to_be_bytes());
    key
}

/// The receipt of the end of a device's ownership in an epoch.
///
/// # Errors
/// [`RecordsError`] from the store.
pub fn receipt<R: Records>(
    records: &R,
    device: &EkName,
    epoch: u32,
) -> Result<Option<ReceiptFile>, RecordsError> {
    let Some(bytes) = records.get(RECEIPTS, &receipt_key(device, epoch))? else { return Ok(None) };
    ReceiptFile::decode(&bytes).map(Some).map_err(|_| RecordsError::Damaged)
}

/// What the register tells of a device's orders, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderStatus {
    /// Names of the jobs that wait or are under way.
    pub jobs: Vec<String>,
    /// Kind and sequence number of the order that stands.
    pub order: Option<(&'static str, OrderSeq)>,
    /// When the device asked last, as far as noted.
    pub polled_at: UtcTime,
}

/// Status of a device's orders.
///
/// # Errors
/// [`RecordsError`] from the store.
pub fn status<R: Records>(records: &R, device: &EkName) -> Result<OrderStatus, RecordsError> {
    let book = Book::of(&Overlay::new(records), device)?;
    Ok(OrderStatus {
        jobs: book.jobs.iter().map(|waiting| waiting.job.name().into()).collect(),
        order: book
            .jobs
            .iter()
            .find_map(|waiting| waiting.step.as_ref())
            .map(|step| (step.kind.name(), step.seq)),
        polled_at: book.polled_at,
    })
}
