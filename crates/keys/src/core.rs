//! `keys-core`: what a batch of requests changes, and what each is answered.

use alloc::{collections::BTreeMap, vec::Vec};

use gridseal_crypto::{EnvelopeError, Key, KeyError, Rng, RngError, role::OwnerSecret};
use gridseal_trust::audit::{self, Act};
use gridseal_types::{
    Code, DeviceState, EkName, SystemTitle, UtcTime,
    records::{Durability, Overlay, Records, RecordsError},
    service::keys::{Denial, ExchangeReply, KeyReply, KeyRequest, SiteMode, SiteRequest},
};

use crate::{
    Decision, Keystore, PartyAnchors, Service,
    apdu::title_ahead,
    associations::Associations,
    consent::{Approver, with_approvals},
    device::Device,
    phase::state_at_work,
    record::{DEVICES, DeviceEntry, SITE, context, opened},
    service::{SiteState, decoded},
    site::{Site, SiteRow, Standby},
    traffic::Traffic,
};

/// APDUs whose slots are read ahead together: few enough that what was read is still in the cache when its turn comes.
const READ_AHEAD: usize = 64;

/// The service itself failed: nothing of the batch is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The record store failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// An envelope does not open: wrong data key, or rows that were moved or changed.
    #[error("keystore or record does not open")]
    Keystore,
    /// The random source failed.
    #[error(transparent)]
    Rng(#[from] RngError),
    /// A private key could not be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A decision failed before: the service is to be loaded again.
    #[error("the service is to be loaded again")]
    Stale,
    /// The delegation is not for this keystore.
    #[error("delegation does not name this keystore's key for both uses")]
    Delegation,
}

impl From<EnvelopeError> for KeysError {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::Rng(error) => Self::Rng(error),
            _ => Self::Keystore,
        }
    }
}

/// Why one request is not done: refused to the caller, or the whole service failing.
#[derive(Debug)]
pub(crate) enum Stop {
    Refused(Code),
    Denied(Denial),
    Failed(KeysError),
}

impl From<Denial> for Stop {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl<E: Into<KeysError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Code> for Stop {
    fn from(code: Code) -> Self {
        Self::Refused(code)
    }
}

impl From<gridseal_trust::enrol::wire::FormatError> for Stop {
    fn from(_: gridseal_trust::enrol::wire::FormatError) -> Self {
        Self::Refused(Code::Format)
    }
}

/// The deciding part of the key service.
#[derive(Debug)]
pub struct Core {
    pub(crate) keystore: Keystore,
    /// Longest age of an attestation, seconds (rule S13).
    pub(crate) attestation_age_max_s: u64,
    /// Whose consents count. Without them the names in requests do: for what stands in for two persons, as a simulator.
    pub(crate) approvers: Option<Vec<Approver>>,
    /// Who certifies meters' signing keys.
    pub(crate) parties: PartyAnchors,
}

/// What a decision works on.
pub(crate) struct Parts<'w> {
    pub(crate) core: &'w Core,
    pub(crate) traffic: &'w mut Traffic,
    pub(crate) site: &'w mut SiteState,
    pub(crate) associations: &'w mut Associations,
    pub(crate) founded: bool,
    #[cfg(feature = "danger-faults")]
    pub(crate) fault: Option<crate::danger_faults::Fault>,
}

/// One decision in the making.
pub(crate) struct Work<'w, R> {
    pub(crate) core: &'w Core,
    pub(crate) traffic: &'w mut Traffic,
    pub(crate) site: &'w mut SiteState,
    pub(crate) associations: &'w mut Associations,
    pub(crate) records: Overlay<'w, R>,
    pub(crate) now: UtcTime,
    pub(crate) rng: &'w mut dyn Rng,
    /// APDUs of this batch, for the one audit entry that covers them.
    pub(crate) batch: audit::Batch,
    pub(crate) durability: Durability,
    pub(crate) marker: Option<u32>,
    /// Why APDUs of this batch were rejected, and how many: the wire does not tell.
    pub(crate) rejected: BTreeMap<&'static str, usize>,
    #[cfg(feature = "danger-faults")]
    pub(crate) fault: Option<crate::danger_faults::Fault>,
}

impl Core {
    /// Age of an attestation after which nothing is opened any more, by default.
    pub const ATTESTATION_AGE_DEFAULT_S: u64 = 26 * 3_600;

    /// A core on an opened keystore.
    #[must_use]
    pub const fn new(keystore: Keystore, attestation_age_max_s: u64) -> Self {
        Self { keystore, attestation_age_max_s, approvers: None, parties: PartyAnchors::none() }
    }

    /// Believes these authorities about the signing keys of meters.
    #[must_use]
    pub fn with_parties(self, parties: PartyAnchors) -> Self {
        Self { parties, ..self }
    }

    /// Only what these persons have signed counts as their consent.
    #[must_use]
    pub fn with_approvers(self, approvers: Vec<Approver>) -> Self {
        Self { approvers: Some(approvers), ..self }
    }

    /// The keystore.
    #[must_use]
    pub const fn keystore(&self) -> &Keystore {
        &self.keystore
    }

    /// Decides one batch of a site that stands alone, with everything loaded from the records before and folded into them
    /// after. For tests and tools; a process keeps a [`Service`].
    ///
    /// # Errors
    /// [`KeysError`]: nothing of the batch is to be done or answered.
    pub fn decide<R: Records>(
        &self,
        records: &R,
        now: UtcTime,
        rng: &mut dyn Rng,
        requests: Vec<KeyRequest>,
    ) -> Result<Decision, KeysError> {
        // The caller vouches that these records are the newest.
        let row: Option<SiteRow> = decoded(records.get(SITE, &[])?)?;
        let marker = row.map(|row| row.epoch);
        let site = Site { marker, ..Site::single(Self::CLIENT_TITLE) };
        let mut service = Service::load(self, records, site, &mut NoSecrets)?;
        service.decide(records, now, rng, requests)
    }

    /// System title under which a service seals when its configuration names none.
    pub const CLIENT_TITLE: SystemTitle = SystemTitle(*b"GSL\0\0\0\0\0");
}

/// For a service that lives for one decision: what it seals in memory is opened by nobody else.
struct NoSecrets;

impl Rng for NoSecrets {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        buffer.fill(0);
        Ok(())
    }
}

/// Decides by what `act` does and answers.
pub(crate) fn decide_by<'w, R: Records>(
    parts: Parts<'w>,
    records: &'w R,
    now: UtcTime,
    rng: &'w mut dyn Rng,
    act: impl FnOnce(&mut Work<'w, R>) -> Result<Vec<KeyReply>, KeysError>,
) -> Result<Decision, KeysError> {
    let mut work = Work {
        core: parts.core,
        traffic: parts.traffic,
        site: parts.site,
        associations: parts.associations,
        records: Overlay::new(records),
        now,
        rng,
        batch: audit::Batch::new(),
        durability: Durability::Local,
        marker: None,
        rejected: BTreeMap::new(),
        #[cfg(feature = "danger-faults")]
        fault: parts.fault,
    };
    work.traffic.seals.age(now);
    let serves = work.site.mode == SiteMode::Active;
    if serves && work.site.site.marker.is_none() {
        work.marker = Some(work.site.row.epoch);
        work.site.site.marker = work.marker;
    }
    if parts.founded && serves {
        work.save_site();
    }
    let replies = act(&mut work)?;
    if serves {
        work.audit_batch()?;
    }
    let log = work.traffic.take_log();
    let (durability, marker) = (work.durability, work.marker);
    let mut writes = work.records.into_writes();
    writes.extend(log);
    Ok(Decision { writes, replies, durability, marker })
}

impl<R: Records> Work<'_, R> {
    /// Answers a batch of requests.
    pub(crate) fn all(&mut self, requests: Vec<KeyRequest>) -> Result<Vec<KeyReply>, KeysError> {
        let mut replies = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter();
        while !requests.as_slice().is_empty() {
            self.traffic.read_ahead(requests.as_slice().iter().take(READ_AHEAD).filter_map(title_of));
            for request in requests.by_ref().take(READ_AHEAD) {
                replies.push(self.one(request)?);
            }
        }
        Ok(replies)
    }

    fn one(&mut self, request: KeyRequest) -> Result<KeyReply, KeysError> {
        let request = match request {
            KeyRequest::OpenApdu { apdu } => return self.open(None, apdu),
            KeyRequest::OpenFrom { system_title, apdu } => return self.open(Some(system_title), apdu),
            other if self.core.approvers.is_some() => with_approvals(other, Vec::new()),
            other => other,
        };
        let name = name_of(&request);
        let allowed = self.site.mode == SiteMode::Active || is_for_any_site(&request);
        let done = if allowed {
            self.control(request)
        } else {
            Err(Stop::Denied(Denial::Fenced { epoch: self.site.row.highest }))
        };
        match done {
            Ok(reply) => Ok(reply),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Refused(code)) => {
                self.audit("refused", &name, &code.name())?;
                Ok(KeyReply::Refused { code })
            }
            Err(Stop::Denied(denial)) => {
                // A site that does not serve writes nothing: its database is another's.
                if self.site.mode == SiteMode::Active {
                    self.audit("refused", &name, &denial.name())?;
                }
                Ok(KeyReply::Exchange(ExchangeReply::Denied(denial)))
            }
        }
    }

    pub(crate) fn control(&mut self, request: KeyRequest) -> Result<KeyReply, Stop> {
        match request {
            KeyRequest::Deliver { record, system_title } => self.deliver(&record, system_title),
            KeyRequest::DeliverLabel { record, voucher, system_title } => {
                self.deliver_label(&record, &voucher, system_title)
            }
            KeyRequest::SignRedirect { payload } => self.sign_redirect(&payload),
            KeyRequest::OpenHello { wire } => self.open_hello(&wire),
            KeyRequest::Challenge(challenge) => self.challenge(&challenge),
            KeyRequest::OpenMessage { sid, wire } => self.open_message(&sid, &wire),
            KeyRequest::Own { sid, act, th3, sessions, permanent } => {
                self.own(&sid, &act, th3, &sessions, permanent)
            }
            KeyRequest::ConfirmOwnership { sid, responses } => self.confirm_ownership(&sid, &responses),
            KeyRequest::Provision(provision) => self.provision(provision),
            KeyRequest::Finish { sid, receipt, th6, th7, now, attested_at } => {
                self.finish(&sid, &receipt, &th6, th7, now, attested_at)
            }
            KeyRequest::SetState { device, state, attested_at } => {
                self.set_state(&device, state, attested_at)
            }
            KeyRequest::Recover { device } => self.recover(&device),
            KeyRequest::Order(request) => self.order(request),
            KeyRequest::OpenPoll { wire } => self.open_poll(&wire),
            KeyRequest::OpenResult { wire } => self.open_result(&wire),
            KeyRequest::ConfirmCommands { device, seq, responses } => {
                self.confirm_commands(&device, seq, &responses)
            }
            KeyRequest::Consented(consented) => self.consented(&consented),
            other => self.exchange(other).map(KeyReply::Exchange),
        }
    }

    fn exchange(&mut self, request: KeyRequest) -> Result<ExchangeReply, Stop> {
        match request {
            KeyRequest::Seal(seal) => self.seal(seal).map(ExchangeReply::Sealed),
            KeyRequest::BeginKeyChange { system_title, items } => self.begin_change(system_title, &items),
            KeyRequest::PrepareKeyChange { system_title, items } => self.prepare_change(system_title, &items),
            KeyRequest::RaiseSuite { system_title, suite } => self.raise_suite(system_title, suite),
            KeyRequest::MeterCertificate { system_title, der } => self.meter_certificate(system_title, &der),
            KeyRequest::PendingChanges { after } => self.pending_changes(after),
            KeyRequest::ReportKeyChange { change, outcome } => self.report_change(&change, outcome),
            KeyRequest::ProbePlan { system_title } => self.probe_plan(system_title),
            KeyRequest::OpenAssociation(request) => self.open_association(&request),
            KeyRequest::ContinueHls { association, step } => self.continue_hls(&association, step),
            KeyRequest::KeyStatus { system_title } => self.key_status(system_title),
            KeyRequest::KeyHistory { system_title } => self.key_history(system_title),
            KeyRequest::CompromisePlan { key } => self.compromise_plan(&key),
            KeyRequest::KeyAct { key, act, approvals, reason } => {
                self.key_act(&key, &act, &approvals, &reason)
            }
            KeyRequest::Claim { system_title } => self.claim(system_title),
            KeyRequest::ReportClaim { system_title, apdu } => self.report_claim(system_title, apdu),
            KeyRequest::ClaimCertificate { system_title, der } => self.claim_certificate(system_title, &der),
            KeyRequest::SetClaim { system_title, claim } => self.set_claim(system_title, claim),
            KeyRequest::Site(request) => self.site_act(request),
            _ => Err(Stop::Denied(Denial::Malformed)),
        }
    }

    pub(crate) fn audit(
        &mut self,
        act: &str,
        subject: &dyn core::fmt::Display,
        detail: &dyn core::fmt::Display,
    ) -> Result<(), RecordsError> {
        audit::append(&mut self.records, self.now, Act { actor: "keys", act, subject, detail }).map(|_| ())
    }

    /// One entry for all APDUs of the batch: their number and the root over them (class B of rule S10), and one for each
    /// reason for which some were rejected.
    fn audit_batch(&mut self) -> Result<(), RecordsError> {
        for (code, count) in core::mem::take(&mut self.rejected) {
            self.audit("apdus.rejected", &code, &count)?;
        }
        let batch = core::mem::take(&mut self.batch);
        let count = batch.len();
        let act = Act { actor: "keys", act: "apdus.exchanged", subject: &"", detail: &count };
        audit::append_batch(&mut self.records, self.now, act, batch)
    }

    pub(crate) fn save_site(&mut self) {
        self.records.save(SITE, &[], &self.site.row);
    }

    /// Whether a fault is planted.
    #[cfg(feature = "danger-faults")]
    pub(crate) fn has(&self, fault: crate::danger_faults::Fault) -> bool {
        self.fault == Some(fault)
    }

    /// What must not be lost with this site waits for the standby; without one it is refused, unless that was approved.
    pub(crate) fn replicate(&mut self) -> Result<(), Stop> {
        match self.site.site.standby {
            Standby::Single => {}
            Standby::Reachable => self.durability = Durability::Replicated,
            Standby::Lost if self.now < self.site.row.degraded_until => {}
            Standby::Lost => return Err(Stop::Denied(Denial::NoStandby)),
        }
        Ok(())
    }

    /// What no approval lets go without a standby: plain counters, which the standby would use again when it takes over.
    pub(crate) fn replicate_always(&mut self) -> Result<(), Stop> {
        match self.site.site.standby {
            Standby::Lost => Err(Stop::Denied(Denial::NoStandby)),
            _ => self.replicate(),
        }
    }

    pub(crate) fn device(&self, device: &EkName) -> Result<DeviceEntry, Stop> {
        self.records.load(DEVICES, device.as_bytes())?.ok_or(Stop::Refused(Code::Unknown))
    }

    pub(crate) fn save_device(&mut self, entry: &DeviceEntry) {
        self.records.save(DEVICES, entry.device.as_bytes(), entry);
    }

    pub(crate) fn owner_secret(&self, entry: &DeviceEntry) -> Result<Key<OwnerSecret, 32>, KeysError> {
        let context = context(&self.core.keystore.tenant, &entry.device, entry.epoch);
        opened(&self.core.keystore.dek, &context, &entry.secret)
    }

    fn set_state(
        &mut self,
        device: &EkName,
        state: DeviceState,
        attested_at: UtcTime,
    ) -> Result<KeyReply, Stop> {
        let mut entry = self.device(device)?;
        // The ownership of a device with a root of trust ends with the receipt that was verified here, and with nothing else.
        let ends = entry.state != state && (entry.state.is_final() || state.is_final());
        if entry.attested && ends {
            return Err(Code::State.into());
        }
        // A key change that may have reached it goes on whatever the register knows.
        let by_order = state == DeviceState::Rekeying;
        let before = self.load_device(entry.clone())?;
        let state = state_at_work(state, before.change.as_ref().map(|change| change.phase), by_order);
        let told = (state, attested_at, by_order);
        if (entry.state, entry.attested_at, entry.is_rekeyed_by_order) != told {
            let is_other = entry.state != state || entry.attested_at != attested_at;
            (entry.state, entry.attested_at, entry.is_rekeyed_by_order) = told;
            if is_other {
                self.audit("device.state", device, &state.name())?;
            }
            self.save_device(&entry);
            self.refresh(&Device { entry, ..before })?;
        }
        Ok(KeyReply::Done)
    }
}

/// The meter whose APDU a request is about.
fn title_of(request: &KeyRequest) -> Option<SystemTitle> {
    match request {
        KeyRequest::Seal(seal) => Some(seal.system_title),
        KeyRequest::OpenFrom { system_title, .. } => Some(*system_title),
        KeyRequest::OpenApdu { apdu } => title_ahead(apdu),
        _ => None,
    }
}

/// Whether a request changes nothing, so that it can be answered when nothing can be put on record.
#[must_use]
pub const fn only_reads(request: &KeyRequest) -> bool {
    matches!(
        request,
        KeyRequest::KeyStatus { .. }
            | KeyRequest::KeyHistory { .. }
            | KeyRequest::CompromisePlan { .. }
            | KeyRequest::Site(SiteRequest::Status)
    )
}

/// Whether a site that does not serve may answer it too; acts on the site judge for themselves.
const fn is_for_any_site(request: &KeyRequest) -> bool {
    only_reads(request) || matches!(request, KeyRequest::Site(_) | KeyRequest::Consented(_))
}

pub(crate) const fn name_of(request: &KeyRequest) -> &'static str {
    match request {
        KeyRequest::Deliver { .. } => "deliver",
        KeyRequest::DeliverLabel { .. } => "deliver-label",
        KeyRequest::SignRedirect { .. } => "sign-redirect",
        KeyRequest::OpenHello { .. } => "open-hello",
        KeyRequest::Challenge(_) => "challenge",
        KeyRequest::OpenMessage { .. } => "open-message",
        KeyRequest::Own { .. } => "own",
        KeyRequest::ConfirmOwnership { .. } => "confirm-ownership",
        KeyRequest::Provision(_) => "provision",
        KeyRequest::Finish { .. } => "finish",
        KeyRequest::SetState { .. } => "set-state",
        KeyRequest::Seal(_) => "seal",
        KeyRequest::BeginKeyChange { .. } => "begin-key-change",
        KeyRequest::PrepareKeyChange { .. } => "prepare-key-change",
        KeyRequest::RaiseSuite { .. } => "raise-suite",
        KeyRequest::MeterCertificate { .. } => "meter-certificate",
        KeyRequest::PendingChanges { .. } => "pending-changes",
        KeyRequest::ReportKeyChange { .. } => "report-key-change",
        KeyRequest::ProbePlan { .. } => "probe-plan",
        KeyRequest::OpenAssociation(_) => "open-association",
        KeyRequest::ContinueHls { .. } => "continue-hls",
        KeyRequest::KeyStatus { .. } => "key-status",
        KeyRequest::KeyHistory { .. } => "key-history",
        KeyRequest::CompromisePlan { .. } => "compromise-plan",
        KeyRequest::KeyAct { .. } => "key-act",
        KeyRequest::Claim { .. } => "claim",
        KeyRequest::ReportClaim { .. } => "report-claim",
        KeyRequest::ClaimCertificate { .. } => "claim-certificate",
        KeyRequest::SetClaim { .. } => "set-claim",
        KeyRequest::Site(_) => "site",
        KeyRequest::Recover { .. } => "recover",
        KeyRequest::Order(_) => "order",
        KeyRequest::OpenPoll { .. } => "open-poll",
        KeyRequest::OpenResult { .. } => "open-result",
        KeyRequest::ConfirmCommands { .. } => "confirm-commands",
        KeyRequest::Consented(_) => "consented",
        _ => "open-apdu",
    }
}
