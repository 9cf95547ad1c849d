//! The course of an order: a poll is answered with it, its result is judged, the book goes on.

use alloc::vec::Vec;

use gridseal_trust::{
    csr::parse_csr,
    enrol::{
        cose::SignedType,
        init::{SignedRedirect, encode_registration},
        order::{
            Answer, Envelope, Kind, QUOTE_PURPOSE, RENEWED_STORAGE_PURPOSE, RENEWED_TLS_PURPOSE, ResultBody,
        },
        receipt::{ReceiptFile, Statement},
        registrar::{Issued, is_timely},
        session::{encode_error, qualifying},
        voucher::Voucher,
    },
    measured::{Logs, Measurements, Reason},
    root::{Attest, OwnerPin},
    tpm,
};
use gridseal_types::{
    Code, DeviceState, Digest, EkName, OrderSeq, UtcTime,
    records::{Overlay, Records, RecordsError},
    service::{
        certificates::{CertificateReply, CertificateRequest},
        keys::{Bytes, KeyReply, KeyRequest, OrderRequest, SealedOrder, Tunnelled},
    },
};

use super::{
    ATTEST_ANEW_S, Book, Context, EntryChange, HEARD_EVERY_S, Job, Stage, Step, Wanted,
    entry::{self, Renewed},
};
use crate::endpoint_manager::{
    EndpointManager, EventKind, Output, Running, Task,
    register::{DEVICES, RegisterEntry},
};

/// TPM_PT_PERMANENT: ownerAuthSet and lockoutAuthSet.
const OWNED: u32 = 1 | 1 << 2;
/// TPM_PT_PERMANENT: somebody has disabled Clear.
const DISABLE_CLEAR: u32 = 1 << 8;
/// A device that is answered by nobody's fault but ours asks again after this.
const SOON_S: u32 = 5;
/// After its end a device asks for nothing any more.
const ENDED_POLL_S: u32 = 86_400;
/// A job that comes to nothing so often is given up, except the end of an ownership.
const TRIES_MAX: u32 = 3;

/// A message of a device about its orders, under way.
pub(in crate::endpoint_manager) enum Course {
    /// The seal of a poll or of a result is being opened.
    Opening,
    /// An order is being made.
    Making { entry: RegisterEntry, book: Book, wanted: Wanted },
    /// A certificate for new keys is being issued: for a result that has just come, or for a device that asks again.
    Certifying { entry: RegisterEntry, book: Book, is_poll: bool },
    /// A redirect is being signed: what was published names the owner's former key.
    Redirecting { entry: RegisterEntry, book: Book, renewed: RenewedOwner, payload: Vec<u8> },
    /// Responses of a TPM are being verified.
    Confirming { entry: RegisterEntry, book: Book, response: Vec<u8>, audit: Option<Attest> },
}

/// A voucher that has grown by entries for the owner's new key.
pub(in crate::endpoint_manager) struct RenewedOwner {
    index: u32,
    entry: Digest,
    voucher: Bytes,
}

impl RenewedOwner {
    fn change(self, redirect: Option<(Digest, Bytes)>) -> EntryChange {
        let Self { index, entry, voucher } = self;
        EntryChange::Rekeyed { index, entry, voucher, redirect }
    }
}

/// A change of a book that waits for its commit.
pub(in crate::endpoint_manager) struct Turning {
    task: Task,
    device: EkName,
    book: Book,
    change: EntryChange,
    reply: Vec<u8>,
    event: Option<EventKind>,
}

/// The unauthenticated "nothing now".
fn later(seconds: u32) -> Vec<u8> {
    encode_error(&[0; 16], Code::Busy, seconds)
}

impl EndpointManager {
    /// A message that is none of a session: `None` when it is none of an order either.
    pub(in crate::endpoint_manager) fn order_message(&mut self, task: Task, wire: &[u8]) -> Option<()> {
        let request = match Envelope::decode(wire).ok()? {
            Envelope::Poll { .. } => KeyRequest::OpenPoll { wire: wire.to_vec() },
            Envelope::Result { .. } => KeyRequest::OpenResult { wire: wire.to_vec() },
            Envelope::Order { .. } => return None,
        };
        self.running.insert(task, Running::Order(Course::Opening.into()));
        self.outputs.push_back(Output::Keys(task, request));
        Some(())
    }

    pub(in crate::endpoint_manager) fn order_keys_answered<R: Records>(
        &mut self,
        records: &R,
        now: UtcTime,
        task: Task,
        (course, reply): (Course, KeyReply),
    ) -> Result<(), RecordsError> {
        match (course, reply) {
            (Course::Opening, KeyReply::Polled { device, last_seq }) => {
                self.polled(records, now, task, (device, last_seq))
            }
            (Course::Opening, KeyReply::Answered { device, seq, body }) => {
                self.answered(records, now, task, (device, seq, &body))
            }
            (Course::Making { entry, book, wanted }, KeyReply::Ordered(sealed)) => {
                self.ordered(now, task, (entry, book), (sealed, wanted));
                Ok(())
            }
            (Course::Making { entry, mut book, .. }, KeyReply::Refused { code }) => {
                // It cannot be made now, or ever: other jobs have their turn.
                let tries = book.fail();
                let kind = EventKind::JobRefused(code);
                if tries >= TRIES_MAX && !book.ends_ownership() {
                    book.give_up(now);
                } else {
                    book.put_back();
                }
                self.turn(task, (entry, book), EntryChange::Nothing, (later(SOON_S), Some(kind)));
                Ok(())
            }
            (
                Course::Redirecting { entry, book, renewed, payload },
                KeyReply::Signed { sign1, delegation },
            ) => {
                let voucher = renewed.voucher.0.clone();
                let signed = SignedRedirect { redirect: sign1, delegation: Some(delegation), voucher };
                let redirect = (SignedType::Redirect.hash(&payload), Bytes(encode_registration(&signed)));
                let change = renewed.change(Some(redirect));
                let event = Some(EventKind::Answered(Kind::Rekey));
                self.turn(task, (entry, book), change, (Vec::new(), event));
                Ok(())
            }
            (Course::Confirming { entry, book, response, audit }, KeyReply::Tunnelled(tunnelled)) => {
                self.tunnelled(task, (entry, book), tunnelled, (response, audit));
                Ok(())
            }
            (_, KeyReply::Refused { code }) => {
                self.refuse(task, "", code);
                Ok(())
            }
            _ => {
                self.refuse(task, "", Code::State);
                Ok(())
            }
        }
    }

    /// The book goes on with the next commit; then the reply leaves.
    fn turn(
        &mut self,
        task: Task,
        (entry, book): (RegisterEntry, Book),
        change: EntryChange,
        (reply, event): (Vec<u8>, Option<EventKind>),
    ) {
        self.ask_for_commit();
        self.turning.push(Turning { task, device: entry.device, book, change, reply, event });
    }

    fn polled<R: Records>(
        &mut self,
        records: &R,
        now: UtcTime,
        task: Task,
        (device, last_seq): (EkName, OrderSeq),
    ) -> Result<(), RecordsError> {
        let overlay = Overlay::new(records);
        let Some(entry) = overlay.load::<RegisterEntry>(DEVICES, device.as_bytes())? else {
            self.refuse(task, "", Code::Unknown);
            return Ok(());
        };
        let before = Book::of(&overlay, &device)?;
        if entry.state.is_final() {
            self.finish(task, Some(later(ENDED_POLL_S)));
            return Ok(());
        }
        let (rules, mut book) = (self.order_rules, before.clone());
        book.expire(&rules, now);
        book.schedule(&entry, &rules, now);
        book.last_seq = book.last_seq.max(last_seq);
        if now.0.abs_diff(book.polled_at.0) >= HEARD_EVERY_S {
            book.polled_at = now;
        }
        let mut closing = None;
        for waiting in &mut book.jobs {
            let Some(step) = &waiting.step else { continue };
            let age = now.0.abs_diff(step.made_at.0);
            if step.kind.ends_ownership() && last_seq >= step.seq {
                closing = Some((step.seq, step.digest));
                (waiting.step, waiting.stage) = (None, Stage::Accepted);
            } else if last_seq > step.seq || step.kind == Kind::Attest && age >= ATTEST_ANEW_S {
                // It has gone past it, or the answer would be old when it comes.
                waiting.step = None;
            }
        }
        book.closing = closing.or(book.closing);
        while book.turn_to_next(now) {
            if let Some(step) = book.jobs.first().and_then(|first| first.step.as_ref()) {
                let wire = step.wire.0.clone();
                return self.poll_answered(task, (entry, book), &before, wire);
            }
            if self.certify(task, (&entry, &mut book), now, true) {
                return Ok(());
            }
            match book.request(&entry, &Context { rules: &self.rules }) {
                Ok((request, wanted)) => {
                    self.make(task, (entry, book), (request, wanted));
                    return Ok(());
                }
                // No order comes of it: the next job has its turn.
                Err(code) => {
                    book.give_up(now);
                    let serial = entry.serial.clone();
                    self.event(task, &serial, EventKind::JobRefused(code));
                }
            }
        }
        self.poll_answered(task, (entry, book), &before, later(rules.poll_s))
    }

    fn make(
        &mut self,
        task: Task,
        (entry, book): (RegisterEntry, Book),
        (request, wanted): (OrderRequest, Wanted),
    ) {
        self.outputs.push_back(Output::Keys(task, KeyRequest::Order(request)));
        self.running.insert(task, Running::Order(Course::Making { entry, book, wanted }.into()));
    }

    /// Asks the authority for the certificate that the job waits for; `false` when it waits for none.
    fn certify(
        &mut self,
        task: Task,
        (entry, book): (&RegisterEntry, &mut Book),
        now: UtcTime,
        is_poll: bool,
    ) -> bool {
        let Some(Stage::Requested { csr, asked_at, .. }) =
            book.jobs.first_mut().map(|first| &mut first.stage)
        else {
            return false;
        };
        *asked_at = now;
        let request = CertificateRequest::LDevId {
            device: entry.device,
            serial: entry.serial.clone(),
            model: entry.model.clone(),
            csr: csr.0.clone(),
        };
        self.outputs.push_back(Output::Certificate(task, request));
        let course = Course::Certifying { entry: entry.clone(), book: book.clone(), is_poll };
        self.running.insert(task, Running::Order(course.into()));
        true
    }

    /// Nothing new for the device: only what is worth it goes on record.
    fn poll_answered(
        &mut self,
        task: Task,
        (entry, book): (RegisterEntry, Book),
        before: &Book,
        reply: Vec<u8>,
    ) -> Result<(), RecordsError> {
        if *before == book && entry.silent_since.is_none() {
            self.finish(task, Some(reply));
        } else {
            self.turn(task, (entry, book), EntryChange::Heard, (reply, None));
        }
        Ok(())
    }

    fn ordered(
        &mut self,
        now: UtcTime,
        task: Task,
        (entry, mut book): (RegisterEntry, Book),
        (sealed, wanted): (SealedOrder, Wanted),
    ) {
        let SealedOrder { seq, kind, digest, configuration, wire, objects } = sealed;
        let Some(kind) = Kind::from_number(kind) else {
            return self.refuse(task, &entry.serial, Code::State);
        };
        book.asked = book.asked.saturating_add(1);
        book.set_step(Some(Step {
            seq,
            kind,
            digest,
            configuration,
            wire: Bytes(wire.clone()),
            objects,
            made_at: now,
            pcr_selection: Bytes(wanted.pcr_selection),
            ima_next: wanted.ima_next,
        }));
        self.turn(task, (entry, book), EntryChange::Heard, (wire, Some(EventKind::Ordered(kind))));
    }

    fn answered<R: Records>(
        &mut self,
        records: &R,
        now: UtcTime,
        task: Task,
        (device, seq, body): (EkName, OrderSeq, &[u8]),
    ) -> Result<(), RecordsError> {
        let overlay = Overlay::new(records);
        let Some(entry) = overlay.load::<RegisterEntry>(DEVICES, device.as_bytes())? else {
            self.refuse(task, "", Code::Unknown);
            return Ok(());
        };
        let mut book = Book::of(&overlay, &device)?;
        let Some(step) = book.turn_to_order(seq) else {
            if book.closing.is_some_and(|(closing, _)| closing == seq) && !book.has_ended {
                // Its last word; the receipt does not depend on it.
                book.has_ended = true;
                let event = Some(EventKind::Answered(Kind::Release));
                self.turn(task, (entry, book), EntryChange::Nothing, (Vec::new(), event));
            } else {
                // Known already.
                self.finish(task, Some(Vec::new()));
            }
            return Ok(());
        };
        let body = match ResultBody::decode(body, step.kind) {
            Ok(body) if body.order == step.digest => body,
            _ => {
                self.refuse(task, &entry.serial, Code::Format);
                return Ok(());
            }
        };
        book.last_seq = book.last_seq.max(seq);
        match body.outcome {
            Ok(answer) => self.judge(now, task, (entry, book), (step, answer)),
            Err(code) => self.failed(now, task, (entry, book), (&step, code)),
        }
        Ok(())
    }

    /// The device did not do it.
    fn failed(
        &mut self,
        now: UtcTime,
        task: Task,
        (entry, mut book): (RegisterEntry, Book),
        (step, code): (&Step, Code),
    ) {
        book.set_step(None);
        let tries = book.fail();
        let ends = book.job().is_some_and(Job::ends_ownership);
        let is_tunnel = matches!(step.kind, Kind::Sessions | Kind::Commands);
        if ends && is_tunnel {
            // New sessions, and again: what has been accepted stands.
            book.set_stage(Stage::Accepted);
        } else if code == Code::Busy || is_tunnel && tries < TRIES_MAX {
            if is_tunnel {
                book.set_stage(Stage::Begun);
            }
        } else {
            book.give_up(now);
        }
        let event = Some(EventKind::OrderFailed(step.kind, code));
        self.turn(task, (entry, book), EntryChange::Nothing, (Vec::new(), event));
    }

    fn judge(
        &mut self,
        now: UtcTime,
        task: Task,
        (entry, mut book): (RegisterEntry, Book),
        (step, answer): (Step, Answer),
    ) {
        let event = Some(EventKind::Answered(step.kind));
        let change = match answer {
            Answer::Attested { quote, logs, permanent, platform_open } => {
                return self.attested(task, (entry, book), &step, (quote, logs, permanent, platform_open));
            }
            Answer::Renewed { tls_pub, certify_tls, csr, storage } => {
                let storage = storage.map(|storage| (storage.public, storage.certify));
                match verify_renewed(&entry, &step, (&tls_pub, &certify_tls, &csr), storage.as_ref()) {
                    Ok(()) => {
                        book.set_step(None);
                        book.set_stage(Stage::Requested {
                            tls_pub: Bytes(tls_pub),
                            storage_pub: storage.map(|(public, _)| Bytes(public)),
                            csr: Bytes(csr),
                            asked_at: now,
                        });
                        self.certify(task, (&entry, &mut book), now, false);
                        return;
                    }
                    Err(code) => return self.distrust(task, (entry, book), code, None),
                }
            }
            Answer::Responses { responses, audit } => {
                let response = responses.last().cloned().unwrap_or_default();
                let request = KeyRequest::ConfirmCommands {
                    device: entry.device,
                    seq: step.seq,
                    responses: responses.into_iter().map(Bytes).collect(),
                };
                self.outputs.push_back(Output::Keys(task, request));
                let course = Course::Confirming { entry, book, response, audit };
                self.running.insert(task, Running::Order(course.into()));
                return;
            }
            Answer::Sessions { sessions, permanent } => {
                book.set_step(None);
                book.set_stage(Stage::Opened { sessions_seq: step.seq, sessions, permanent });
                EntryChange::Nothing
            }
            Answer::Provisioned(names) => {
                if names != step.objects {
                    return self.failed(now, task, (entry, book), (&step, Code::Object));
                }
                let renewed = match book.jobs.first().map(|first| first.stage.clone()) {
                    Some(Stage::Certified { tls_pub, storage_pub, issued }) => {
                        Some(Renewed { tls_pub, storage_pub, issued })
                    }
                    _ => None,
                };
                book.finish_job();
                EntryChange::Provisioned { configuration: step.configuration, renewed }
            }
            Answer::Rekeyed(pin) => match rekeyed(&entry, &book, &pin) {
                Ok(renewed) => {
                    book.finish_job();
                    let Some(redirects) = &self.redirects else {
                        let change = renewed.change(None);
                        return self.turn(task, (entry, book), change, (Vec::new(), event));
                    };
                    let payload = redirects.payload((&entry.device, entry.epoch), now, now.0);
                    let request = KeyRequest::SignRedirect { payload: payload.clone() };
                    self.outputs.push_back(Output::Keys(task, request));
                    let course = Course::Redirecting { entry, book, renewed, payload };
                    self.running.insert(task, Running::Order(course.into()));
                    return;
                }
                Err(code) => return self.failed(now, task, (entry, book), (&step, code)),
            },
            Answer::Resumed => {
                book.finish_job();
                let may = entry.state.may_probe()
                    && now.0.abs_diff(entry.attested_at.0) < self.order_rules.attest_max_s;
                if may { EntryChange::Resumed } else { EntryChange::Nothing }
            }
            // Before the TPM was cleared this is no end: the receipt is still to come.
            Answer::Released | Answer::Decommissioned { .. } => {
                book.closing = Some((step.seq, step.digest));
                book.set_step(None);
                book.set_stage(Stage::Accepted);
                EntryChange::Nothing
            }
            _ => {
                book.finish_job();
                EntryChange::Nothing
            }
        };
        self.turn(task, (entry, book), change, (Vec::new(), event));
    }

    /// A check of an authenticated answer failed: the device is held, and what waits with it.
    fn distrust(
        &mut self,
        task: Task,
        (entry, mut book): (RegisterEntry, Book),
        code: Code,
        reason: Option<Reason>,
    ) {
        book.finish_job();
        book.jobs.retain(|waiting| waiting.job.ends_ownership());
        self.turn(
            task,
            (entry, book),
            EntryChange::Quarantined(code, reason),
            (Vec::new(), Some(EventKind::Quarantined(code))),
        );
    }

    fn attested(
        &mut self,
        task: Task,
        (entry, mut book): (RegisterEntry, Book),
        step: &Step,
        (quote, logs, permanent, platform_open): (Attest, Logs, u32, bool),
    ) {
        let judged = (|| {
            let [attestation, ..] = entry.keys.as_ref().ok_or(Failure::Check(Code::State))?;
            let key = tpm::attestation_key(&attestation.0)?;
            let quoted = tpm::attest::verify_quote(
                &quote,
                &key,
                &qualifying(QUOTE_PURPOSE, &step.digest),
                &step.pcr_selection.0,
                None,
            )?;
            let before = entry.software.and_then(|software| software.progress);
            let measurements = Measurements {
                logs: &logs,
                ima_next: step.ima_next,
                quoted: &quoted,
                attestation_key: tpm::name(&attestation.0),
                before: before.as_ref(),
            };
            let appraisal = self.rules.policies.appraise(&entry.model, &measurements);
            let appraisal = appraisal.map_err(Failure::Software)?;
            // Somebody has cleared it, or keeps us from clearing it.
            if permanent & DISABLE_CLEAR != 0 || permanent & OWNED != OWNED {
                return Err(Failure::Check(Code::Owned));
            }
            if platform_open && !self.rules.danger_accept_open_platform {
                return Err(Failure::Check(Code::PlatformOpen));
            }
            Ok((appraisal, quoted.firmware_version))
        })();
        let event = Some(EventKind::Answered(Kind::Attest));
        match judged {
            Ok((appraisal, tpm_firmware)) => {
                book.finish_job();
                book.shown(appraisal.policy, tpm_firmware);
                let serial = entry.serial.clone();
                self.event(task, &serial, EventKind::Appraised(Ok(appraisal.verdict)));
                let change = EntryChange::Attested(step.made_at, appraisal, tpm_firmware);
                self.turn(task, (entry, book), change, (Vec::new(), event));
            }
            Err(Failure::Software(Reason::ImaDiscontinuous)) => {
                // It may have restarted since it was asked: no proof of anything.
                book.set_step(None);
                self.turn(task, (entry, book), EntryChange::MeasureAnew, (Vec::new(), event));
            }
            Err(Failure::Software(reason)) => {
                let serial = entry.serial.clone();
                self.event(task, &serial, EventKind::Appraised(Err(reason)));
                self.distrust(task, (entry, book), reason.code(), Some(reason));
            }
            Err(Failure::Check(code)) => self.distrust(task, (entry, book), code, None),
        }
    }

    /// The authority has answered, or nobody has. What it refuses waits, and is asked for again; the device's answer is
    /// taken all the same, for other orders follow it.
    pub(in crate::endpoint_manager) fn order_certificate(
        &mut self,
        now: UtcTime,
        task: Task,
        (course, reply): (Course, Option<CertificateReply>),
    ) {
        let Course::Certifying { entry, mut book, is_poll } = course else {
            return self.refuse(task, "", Code::State);
        };
        // One of a wrong time is as good as none.
        let reply = reply
            .filter(|reply| matches!(reply, CertificateReply::Issued { chain, .. } if is_timely(chain, now)));
        let waits_for = book.jobs.first().map(|first| first.stage.clone());
        let (
            Some(Stage::Requested { tls_pub, storage_pub, .. }),
            Some(CertificateReply::Issued { chain, root, not_after }),
        ) = (waits_for, reply)
        else {
            book.put_back();
            let reply = if is_poll { later(SOON_S) } else { Vec::new() };
            let event = Some(EventKind::CertificateRefused);
            return self.turn(task, (entry, book), EntryChange::Nothing, (reply, event));
        };
        let issued = Issued { chain, root: Bytes(root), not_after, at: now };
        book.set_stage(Stage::Certified { tls_pub, storage_pub, issued });
        let kind = EventKind::Answered(Kind::Renew);
        if !is_poll {
            return self.turn(task, (entry, book), EntryChange::Nothing, (Vec::new(), Some(kind)));
        }
        let serial = entry.serial.clone();
        self.event(task, &serial, kind);
        match book.request(&entry, &Context { rules: &self.rules }) {
            Ok(asked) => self.make(task, (entry, book), asked),
            Err(code) => {
                book.give_up(now);
                let event = Some(EventKind::JobRefused(code));
                self.turn(task, (entry, book), EntryChange::Nothing, (later(SOON_S), event));
            }
        }
    }

    fn tunnelled(
        &mut self,
        task: Task,
        (entry, mut book): (RegisterEntry, Book),
        tunnelled: Tunnelled,
        (response, audit): (Vec<u8>, Option<Attest>),
    ) {
        book.set_step(None);
        let (change, event) = match tunnelled {
            Tunnelled::Authorised => {
                book.finish_job();
                (EntryChange::Nothing, EventKind::Answered(Kind::Commands))
            }
            Tunnelled::Cleared { receipt, delegation, order, commands } => {
                let released = matches!(book.job(), Some(Job::Release { .. }));
                let state = if released { DeviceState::Released } else { DeviceState::Decommissioned };
                let identity = entry.keys.as_ref().map(|[.., identity]| identity.0.clone());
                let statement =
                    identity.zip(audit).map(|(identity_public, audit)| Statement { identity_public, audit });
                let file = ReceiptFile {
                    receipt,
                    delegation,
                    voucher: entry.voucher.0.clone(),
                    order,
                    commands,
                    response,
                    manifest: entry.manifest.0.clone(),
                    statement,
                };
                book.finish_job();
                book.jobs.clear();
                (EntryChange::Ended { state, receipt: file.encode() }, EventKind::Ended(state))
            }
            _ => {
                let tries = book.fail();
                let ends = book.job().is_some_and(Job::ends_ownership);
                book.set_stage(if ends { Stage::Accepted } else { Stage::Begun });
                if !ends && tries >= TRIES_MAX {
                    book.finish_job();
                }
                (EntryChange::Nothing, EventKind::OrderFailed(Kind::Commands, Code::Tpm))
            }
        };
        self.turn(task, (entry, book), change, (Vec::new(), Some(event)));
    }

    /// Books that wait, in the transaction in the making. Returns what is to be told when it is committed.
    pub(in crate::endpoint_manager) fn turn_books<R: Records>(
        &mut self,
        overlay: &mut Overlay<'_, R>,
        now: UtcTime,
    ) -> Result<Vec<(Task, Turned)>, RecordsError> {
        let mut turned = Vec::new();
        for Turning { task, device, book, change, reply, event } in core::mem::take(&mut self.turning) {
            let current = Book::of(overlay, &device)?;
            let Some(mut entry) = overlay.load::<RegisterEntry>(DEVICES, device.as_bytes())? else {
                return Err(RecordsError::Damaged);
            };
            if current.revision != book.revision {
                // An operator or another message was faster: the device repeats its own.
                turned.push((task, Turned { serial: entry.serial, reply: None, event: None }));
                continue;
            }
            let before = entry.clone();
            entry::apply(overlay, now, &mut entry, change)?;
            entry::settle(overlay, now, &mut entry, book.state_at_work())?;
            if entry != before {
                overlay.save(DEVICES, device.as_bytes(), &entry);
            }
            book.save(overlay, &device);
            turned.push((task, Turned { serial: entry.serial, reply: Some(reply), event }));
        }
        Ok(turned)
    }
}

/// A book that was committed, or overtaken: then without a reply.
pub(in crate::endpoint_manager) struct Turned {
    pub(in crate::endpoint_manager) serial: alloc::string::String,
    pub(in crate::endpoint_manager) reply: Option<Vec<u8>>,
    pub(in crate::endpoint_manager) event: Option<EventKind>,
}

/// Why an attestation fails.
enum Failure {
    Check(Code),
    Software(Reason),
}

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        Self::Check(code)
    }
}

/// New keys lie in the TPM of the attestation key, and the request is for the TLS key.
fn verify_renewed(
    entry: &RegisterEntry,
    step: &Step,
    (tls_pub, certify, csr): (&[u8], &Attest, &[u8]),
    storage: Option<&(Vec<u8>, Attest)>,
) -> Result<(), Code> {
    let [attestation, ..] = entry.keys.as_ref().ok_or(Code::State)?;
    let key = tpm::attestation_key(&attestation.0)?;
    let certified = |attest: &Attest, purpose: u8, public: &[u8]| {
        tpm::attest::verify_certify(attest, &key, &qualifying(purpose, &step.digest), &tpm::name(public))
    };
    certified(certify, RENEWED_TLS_PURPOSE, tls_pub)?;
    let tls = tpm::tls_key(tls_pub)?;
    if let Some((public, certify)) = storage {
        certified(certify, RENEWED_STORAGE_PURPOSE, public)?;
        tpm::storage_key(public)?;
    }
    if parse_csr(csr)? == tls { Ok(()) } else { Err(Code::Csr) }
}

/// The voucher with the entries that the device has accepted.
fn rekeyed(entry: &RegisterEntry, book: &Book, pin: &OwnerPin) -> Result<RenewedOwner, Code> {
    let Some(Job::Rekey { entries, second }) = book.job() else { return Err(Code::State) };
    let mut voucher = Voucher::decode(&entry.voucher.0)?;
    for (at, next) in entries.iter().enumerate() {
        voucher = voucher.continued(&next.0, second.get(at).map_or(&[][..], |second| &second.0));
    }
    let hashes = voucher.element_hashes().ok_or(Code::Voucher)?;
    let index = u32::try_from(hashes.len().saturating_sub(1)).map_err(|_| Code::Voucher)?;
    let newest = hashes.last().copied().ok_or(Code::Voucher)?;
    if pin.index == index && pin.entry == newest {
        Ok(RenewedOwner { index, entry: newest, voucher: Bytes(voucher.encode()) })
    } else {
        Err(Code::Pin)
    }
}
