//! The owner's half of the protocol: one machine per session, driven by the endpoint manager.
//!
//! It checks what a device proves and decides what it gets; every secret stays in the key service, which this machine
//! asks through [`Output::Keys`]. What the session must not forget is in [`SessionRecord`], durable before a reply leaves
//! (rule S2); a repeated message gets the stored reply, byte for byte.

mod evidence;

use alloc::{collections::VecDeque, string::String, vec::Vec};

use gridseal_crypto::{PublicKey, sha256};
use gridseal_types::{
    Code, DeviceState, DeviceType, Digest, EkName, Epoch, Sid, UtcTime,
    service::{
        certificates::{CertificateReply, CertificateRequest},
        keys::{Bytes, Challenge, KeyReply, KeyRequest, Provision},
    },
};

use super::{
    session::{EvidenceBody, HelloBody, InstalledBody, ResponsesBody, Step, Transcript, sid_of},
    wire::FormatError,
};
use crate::{
    endorsement::{Assured, Certificate, Endorsements, Fault},
    measured::{Appraisal, PolicySet, Progress, Reason, Verdict},
    tpm,
};

/// What the owner's register knows of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Device.
    pub device: EkName,
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
    /// What it is.
    pub device_type: DeviceType,
    /// TPMT_PUBLIC of the endorsement key.
    pub ek_pub: Vec<u8>,
    /// Epoch of the owner's voucher entry.
    pub epoch: Epoch,
    /// Index of that entry.
    pub entry_index: u32,
    /// Hash of that entry: the voucher head.
    pub entry: Digest,
    /// Hashes of the redirects that were published for this epoch.
    pub redirects: Vec<Digest>,
    /// State.
    pub state: DeviceState,
    /// Version and hash of the configuration that the device confirmed last; zero at first.
    pub policy_version: u64,
    /// Its hash.
    pub configuration: Digest,
    /// How far its IMA list was judged.
    pub measured: Option<Progress>,
    /// Whether a certificate of its endorsement key was believed.
    pub is_endorsed: bool,
}

/// What the owner has decided for all its devices.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Which software devices may show.
    pub policies: PolicySet,
    /// Whom to believe about their TPMs.
    pub endorsements: Endorsements,
    /// Accept a device whose platform hierarchy is open (test mode).
    pub danger_accept_open_platform: bool,
    /// Terminus addresses.
    pub terminus: Vec<String>,
}

/// How far a session has come. The message in the name was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Phase {
    /// C2 was made.
    #[n(2)]
    Challenged,
    /// C4 was made: the session is proven.
    #[n(4)]
    Owning,
    /// C6 was made.
    #[n(6)]
    Provisioned,
    /// C8 was made.
    #[n(8)]
    Done,
}

/// What of a session is durable.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct SessionRecord {
    /// Session.
    #[n(0)]
    pub sid: Sid,
    /// Device.
    #[n(1)]
    pub device: EkName,
    /// How far it has come.
    #[n(2)]
    pub phase: Phase,
    /// Transcript after the reply below.
    #[n(3)]
    pub transcript: Digest,
    /// SHA-256 of the message that was answered last.
    #[n(4)]
    pub answered: Digest,
    /// The answer, repeated byte for byte.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub reply: Vec<u8>,
    /// TPMT_PUBLIC of attestation, storage, TLS and identity key, as C1 had them.
    #[n(6)]
    pub keys: [Bytes; 4],
    /// Names of the objects in C6.
    #[n(7)]
    pub objects: Vec<EkName>,
    /// Hash of the configuration in C6.
    #[n(8)]
    pub configuration: Digest,
    /// When it began.
    #[n(9)]
    pub began: UtcTime,
    /// When the evidence was verified, zero before.
    #[n(10)]
    pub attested: UtcTime,
    /// PKCS#10 of C3, DER, once the evidence was verified.
    #[cbor(n(11), with = "minicbor::bytes")]
    pub csr: Vec<u8>,
    /// First IMA entry that C2 asked for.
    #[n(12)]
    #[cbor(default)]
    pub ima_next: u64,
    /// The certificate in C6.
    #[n(13)]
    #[cbor(default)]
    pub issued: Option<Issued>,
    /// Version and hash of the configuration that the device has, as it says itself, when we know of none so new.
    #[n(14)]
    #[cbor(default)]
    pub installed: Option<(u64, Digest)>,
}

/// An LDevID with what leads to its root.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Issued {
    /// Chain, leaf first, DER, without the root.
    #[n(0)]
    pub chain: Vec<Bytes>,
    /// Root certificate, DER.
    #[n(1)]
    pub root: Bytes,
    /// End of the leaf's validity.
    #[n(2)]
    pub not_after: UtcTime,
    /// When it was issued to us.
    #[n(3)]
    pub at: UtcTime,
}

/// A certificate that was believed, with what was presented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsed {
    /// Certificates as presented, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// What the device's says.
    pub assured: Assured,
}

/// Why a session does not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotBegun {
    /// A check with a code of its own.
    Check(Code),
    /// The certificate of the endorsement key.
    Endorsement(Fault),
}

impl NotBegun {
    /// The protocol's code.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Check(code) => code,
            Self::Endorsement(_) => Code::Endorsement,
        }
    }
}

impl From<Code> for NotBegun {
    fn from(code: Code) -> Self {
        Self::Check(code)
    }
}

impl From<FormatError> for NotBegun {
    fn from(_: FormatError) -> Self {
        Self::Check(Code::Format)
    }
}

/// A change of the device's entry in the register, durable together with the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceChange {
    /// The certificate of its endorsement key was believed: kept as evidence.
    Endorsed(Endorsed),
    /// Evidence passed.
    Installing(Appraisal),
    /// The IMA list does not continue what was judged before: the next session asks for all of it.
    MeasureAnew,
    /// Installed: what the head-end is told, and the configuration that now counts.
    Operating {
        /// SHA-256 of the SubjectPublicKeyInfo of the LDevID key.
        tls_key: Digest,
        /// Version of the configuration.
        policy_version: u64,
        /// Hash of the configuration.
        configuration: Digest,
        /// When its evidence was verified.
        attested_at: UtcTime,
    },
    /// An authenticated check failed; a person may release the device, never override the check.
    Quarantined(Code, Option<Reason>),
}

/// What the shell must do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Ask the key service; give back [`Input::Keys`].
    Keys(KeyRequest),
    /// Ask the certificate authority; give back [`Input::Certificate`].
    Certificate(CertificateRequest),
    /// Make both durable in one transaction; give back [`Input::Persisted`].
    Persist(Option<DeviceChange>),
    /// Send to the device.
    Reply(Vec<u8>),
    /// A message was accepted.
    Accepted(Step),
    /// The measured software was judged.
    Appraised(Result<Verdict, Reason>),
}

/// What the shell tells.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'i> {
    /// A message of this session.
    Message(&'i [u8]),
    /// Answer of the key service.
    Keys(KeyReply),
    /// Answer of the certificate authority.
    Certificate(CertificateReply),
    /// The last [`Output::Persist`] is durable.
    Persisted,
}

enum State {
    /// Waits for the device.
    Idle,
    SealingChallenge(Option<Endorsed>),
    OpeningEvidence {
        wire: Vec<u8>,
    },
    SealingCommands {
        wire: Vec<u8>,
        proven: Proven,
    },
    OpeningResponses {
        wire: Vec<u8>,
    },
    Confirming {
        wire: Vec<u8>,
    },
    Certifying {
        wire: Vec<u8>,
    },
    SealingProvision {
        wire: Vec<u8>,
    },
    OpeningInstalled {
        wire: Vec<u8>,
    },
    SealingDone {
        wire: Vec<u8>,
        th7: Digest,
    },
    Storing,
    /// Refused: the device was quarantined, or is to measure anew.
    StoringRefusal(Code),
}

/// What an accepted C3 changes in the record, once C4 is there.
struct Proven {
    th3: Digest,
    attested: UtcTime,
    csr: Vec<u8>,
    appraisal: Appraisal,
}

/// A clock that is slower than the authority's by more than this is wrong, seconds.
const CLOCK_BEHIND_MAX_S: u64 = 86_400;

/// Whether a certificate that was just issued serves now: one of an authority with another year would lock its device out
/// of the head-end (rule S14). A clock that is slow by less than a day makes no difference.
#[must_use]
pub fn is_timely(chain: &[Bytes], now: UtcTime) -> bool {
    let leaf = chain.first().and_then(|der| Certificate::parse(&der.0).ok());
    let soon = UtcTime(now.0.saturating_add(CLOCK_BEHIND_MAX_S));
    leaf.is_some_and(|leaf| leaf.is_valid_at(now) || leaf.is_valid_at(soon))
}

/// One session.
pub struct Registrar {
    facts: DeviceFacts,
    rules: alloc::sync::Arc<Rules>,
    record: SessionRecord,
    state: State,
    outputs: VecDeque<Output>,
}

impl core::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Registrar({}, {:?})", self.record.sid, self.record.phase)
    }
}

impl Input<'_> {
    /// Name, as [`TRANSITIONS`] has it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Message(_) => "message",
            Self::Keys(KeyReply::Refused { .. }) => "keys-refused",
            Self::Keys(_) => "keys",
            Self::Certificate(CertificateReply::Refused { .. }) => "certificate-refused",
            Self::Certificate(_) => "certificate",
            Self::Persisted => "persisted",
        }
    }
}

impl State {
    const fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::SealingChallenge(_) => "sealing-challenge",
            Self::OpeningEvidence { .. } => "opening-evidence",
            Self::SealingCommands { .. } => "sealing-commands",
            Self::OpeningResponses { .. } => "opening-responses",
            Self::Confirming { .. } => "confirming",
            Self::Certifying { .. } => "certifying",
            Self::SealingProvision { .. } => "sealing-provision",
            Self::OpeningInstalled { .. } => "opening-installed",
            Self::SealingDone { .. } => "sealing-done",
            Self::Storing => "storing",
            Self::StoringRefusal(_) => "storing-refusal",
        }
    }
}

/// State, input, next state; names as [`Registrar::state_name`] and [`Input::name`] give them.
pub type Transition = (&'static str, &'static str, &'static str);

/// Every step of a session that has begun, as data: what [`Registrar::handle`] does, and nothing else. The simulation takes
/// each of them, and fails for one that is not here.
pub const TRANSITIONS: &[Transition] = &[
    ("certifying", "certificate", "sealing-provision"),
    ("certifying", "certificate-refused", "idle"),
    ("confirming", "keys", "certifying"),
    ("confirming", "keys-refused", "idle"),
    ("idle", "message", "idle"),
    ("idle", "message", "opening-evidence"),
    ("idle", "message", "opening-installed"),
    ("idle", "message", "opening-responses"),
    ("opening-evidence", "keys", "idle"),
    ("opening-evidence", "keys", "sealing-commands"),
    ("opening-evidence", "keys", "storing-refusal"),
    ("opening-evidence", "keys-refused", "idle"),
    ("opening-installed", "keys", "idle"),
    ("opening-installed", "keys", "sealing-done"),
    ("opening-installed", "keys-refused", "idle"),
    ("opening-responses", "keys", "confirming"),
    ("opening-responses", "keys", "idle"),
    ("opening-responses", "keys-refused", "idle"),
    ("sealing-challenge", "keys", "storing"),
    ("sealing-challenge", "keys-refused", "idle"),
    ("sealing-commands", "keys", "storing"),
    ("sealing-commands", "keys-refused", "idle"),
    ("sealing-commands", "keys-refused", "storing-refusal"),
    ("sealing-done", "keys", "storing"),
    ("sealing-done", "keys-refused", "idle"),
    ("sealing-provision", "keys", "storing"),
    ("sealing-provision", "keys-refused", "idle"),
    ("storing", "persisted", "idle"),
    ("storing-refusal", "persisted", "idle"),
];

impl Registrar {
    /// Name of the state.
    #[must_use]
    pub const fn state_name(&self) -> &'static str {
        self.state.name()
    }

    /// Begins a session with a C1 whose seal the key service has opened.
    ///
    /// # Errors
    /// The first check that failed, in the order of the specification.
    pub fn begin(
        facts: DeviceFacts,
        rules: alloc::sync::Arc<Rules>,
        wire: &[u8],
        body: &[u8],
        now: UtcTime,
    ) -> Result<Self, NotBegun> {
        let hello = HelloBody::decode(body)?;
        let ak_name = evidence::check_hello(&facts, &hello)?;
        let assured =
            evidence::check_endorsement(&facts, &rules, &hello, now).map_err(NotBegun::Endorsement)?;
        let endorsed = assured.map(|assured| Endorsed { chain: hello.ek_chain, assured });
        let endorsement = tpm::endorsement_key(&facts.ek_pub)?;
        let pcr_selection = rules.policies.pcr_selection(&facts.model).ok_or(Code::Policy)?;
        let ima_next = rules.policies.ima_next(&facts.model, &ak_name, facts.measured.as_ref());
        let challenge = Challenge {
            c1: wire.to_vec(),
            endorsement: endorsement.bytes().to_vec(),
            ak_name,
            suites: hello.suites,
            pcr_selection,
            ima_next,
            voucher_head: facts.entry,
        };
        // Its word counts for its own configuration only: it refuses one that does not continue what it has.
        let installed = hello.installed.filter(|(version, _)| *version > facts.policy_version);
        let record = SessionRecord {
            sid: sid_of(wire),
            device: facts.device,
            phase: Phase::Challenged,
            transcript: Transcript::new().after(Step::HELLO, wire).value(),
            answered: Digest(sha256(&[wire])),
            reply: Vec::new(),
            keys: [hello.ak_pub, hello.sto_pub, hello.tls_pub, hello.iak_pub].map(Bytes),
            objects: Vec::new(),
            configuration: Digest([0; 32]),
            began: now,
            attested: UtcTime(0),
            csr: Vec::new(),
            ima_next,
            issued: None,
            installed,
        };
        let outputs =
            VecDeque::from([Output::Accepted(Step::HELLO), Output::Keys(KeyRequest::Challenge(challenge))]);
        Ok(Self { facts, rules, record, state: State::SealingChallenge(endorsed), outputs })
    }

    /// Continues a stored session.
    #[must_use]
    pub const fn resume(facts: DeviceFacts, rules: alloc::sync::Arc<Rules>, record: SessionRecord) -> Self {
        Self { facts, rules, record, state: State::Idle, outputs: VecDeque::new() }
    }

    /// What must be durable.
    #[must_use]
    pub const fn record(&self) -> &SessionRecord {
        &self.record
    }

    /// Next output. Drain after every [`Registrar::handle`].
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Feed one input.
    ///
    /// # Errors
    /// The code of the check that failed: the message is dropped, nothing changed and the session goes on waiting, unless
    /// a [`DeviceChange::Quarantined`] came out before.
    pub fn handle(&mut self, now: UtcTime, input: Input<'_>) -> Result<(), Code> {
        let state = core::mem::replace(&mut self.state, State::Idle);
        match (state, input) {
            (State::Idle, Input::Message(wire)) => self.message(wire),
            (State::SealingChallenge(endorsed), Input::Keys(KeyReply::Sealed { wire })) => {
                self.answer(Step::CHALLENGE, wire, endorsed.map(DeviceChange::Endorsed));
                Ok(())
            }
            (State::OpeningEvidence { wire }, Input::Keys(KeyReply::Opened { body })) => {
                self.evidence(now, wire, &body)
            }
            (State::SealingCommands { wire, proven }, Input::Keys(KeyReply::Sealed { wire: reply })) => {
                self.record.answered = Digest(sha256(&[&wire]));
                self.record.phase = Phase::Owning;
                self.record.transcript = proven.th3;
                self.record.attested = proven.attested;
                self.record.csr = proven.csr;
                self.answer(Step::COMMANDS, reply, Some(DeviceChange::Installing(proven.appraisal)));
                Ok(())
            }
            (State::SealingCommands { .. }, Input::Keys(KeyReply::Refused { code: Code::Owned })) => {
                // Somebody else owns this TPM: a person has to find out who.
                self.quarantine(Code::Owned, None);
                Ok(())
            }
            (State::OpeningResponses { wire }, Input::Keys(KeyReply::Opened { body })) => {
                self.responses(wire, &body)
            }
            (State::Confirming { wire }, Input::Keys(KeyReply::Done)) => {
                self.ask(Output::Certificate(self.certificate_request()), State::Certifying { wire })
            }
            (
                State::Certifying { wire },
                Input::Certificate(CertificateReply::Issued { chain, root, not_after }),
            ) => {
                if !is_timely(&chain, now) {
                    return Err(Code::Time);
                }
                self.record.issued =
                    Some(Issued { chain: chain.clone(), root: Bytes(root.clone()), not_after, at: now });
                let provision = self.provision(now, &wire, chain, root)?;
                self.ask(Output::Keys(KeyRequest::Provision(provision)), State::SealingProvision { wire })
            }
            (State::SealingProvision { wire }, Input::Keys(reply)) => self.provisioned(&wire, reply),
            (State::OpeningInstalled { wire }, Input::Keys(KeyReply::Opened { body })) => {
                self.installed(now, wire, &body)
            }
            (State::SealingDone { wire, th7 }, Input::Keys(KeyReply::Sealed { wire: reply })) => {
                let change = self.operating()?;
                self.record.answered = Digest(sha256(&[&wire]));
                self.record.phase = Phase::Done;
                self.record.transcript = th7;
                self.answer(Step::DONE, reply, Some(change));
                Ok(())
            }
            (State::Storing, Input::Persisted) => {
                self.outputs.push_back(Output::Reply(self.record.reply.clone()));
                Ok(())
            }
            (State::StoringRefusal(code), Input::Persisted) => Err(code),
            (
                _,
                Input::Keys(KeyReply::Refused { code })
                | Input::Certificate(CertificateReply::Refused { code }),
            ) => Err(code),
            (state, _) => {
                self.state = state;
                Err(Code::State)
            }
        }
    }

    fn ask(&mut self, output: Output, next: State) -> Result<(), Code> {
        self.outputs.push_back(output);
        self.state = next;
        Ok(())
    }

    fn message(&mut self, wire: &[u8]) -> Result<(), Code> {
        if Digest(sha256(&[wire])) == self.record.answered && !self.record.reply.is_empty() {
            self.outputs.push_back(Output::Reply(self.record.reply.clone()));
            return Ok(());
        }
        if !self.facts.state.may_onboard() {
            // Held back meanwhile, or owned through another session: what it says now lifts nothing.
            return Err(Code::State);
        }
        let wire = wire.to_vec();
        let open = KeyRequest::OpenMessage { sid: self.record.sid, wire: wire.clone() };
        let step = super::session::Envelope::decode(&wire)?.step();
        let next = match (self.record.phase, step) {
            (Phase::Challenged, Some(Step::EVIDENCE)) => State::OpeningEvidence { wire },
            (Phase::Owning, Some(Step::RESPONSES)) => State::OpeningResponses { wire },
            (Phase::Provisioned, Some(Step::INSTALLED)) => State::OpeningInstalled { wire },
            _ => return Err(Code::State),
        };
        self.ask(Output::Keys(open), next)
    }

    /// Stores a reply, which leaves once it is durable.
    fn answer(&mut self, step: Step, reply: Vec<u8>, change: Option<DeviceChange>) {
        self.record.transcript = Transcript::resume(self.record.transcript).after(step, &reply).value();
        self.record.reply = reply;
        self.outputs.push_back(Output::Persist(change));
        self.state = State::Storing;
    }

    fn take_in(&self, step: Step, wire: &[u8]) -> Digest {
        Transcript::resume(self.record.transcript).after(step, wire).value()
    }

    fn evidence(&mut self, now: UtcTime, wire: Vec<u8>, body: &[u8]) -> Result<(), Code> {
        let body = EvidenceBody::decode(body)?;
        // The seal proved that this came from the registered TPM: what fails now is the device itself.
        let appraisal = match evidence::check_evidence(&self.facts, &self.record, &self.rules, &body) {
            Ok(appraisal) => appraisal,
            Err(evidence::Failure::Check(code)) => {
                self.quarantine(code, None);
                return Ok(());
            }
            Err(evidence::Failure::Software(reason)) => {
                self.software_failed(reason);
                return Ok(());
            }
        };
        self.outputs.push_back(Output::Appraised(Ok(appraisal.verdict)));
        self.outputs.push_back(Output::Accepted(Step::EVIDENCE));
        let th3 = self.take_in(Step::EVIDENCE, &wire);
        let proven = Proven { th3, attested: now, csr: body.csr, appraisal };
        let own = KeyRequest::Own {
            sid: self.record.sid,
            act: body.act,
            th3,
            sessions: body.sessions,
            permanent: body.permanent,
        };
        self.ask(Output::Keys(own), State::SealingCommands { wire, proven })
    }

    fn quarantine(&mut self, code: Code, reason: Option<Reason>) {
        self.outputs.push_back(Output::Persist(Some(DeviceChange::Quarantined(code, reason))));
        self.state = State::StoringRefusal(code);
    }

    fn software_failed(&mut self, reason: Reason) {
        self.outputs.push_back(Output::Appraised(Err(reason)));
        if reason == Reason::ImaDiscontinuous {
            // No proof of anything: the device may have restarted since it was asked.
            self.outputs.push_back(Output::Persist(Some(DeviceChange::MeasureAnew)));
            self.state = State::StoringRefusal(reason.code());
        } else {
            self.quarantine(reason.code(), Some(reason));
        }
    }

    fn responses(&mut self, wire: Vec<u8>, body: &[u8]) -> Result<(), Code> {
        let body = ResponsesBody::decode(body)?;
        if body.th4 != self.record.transcript {
            return Err(Code::Transcript);
        }
        self.outputs.push_back(Output::Accepted(Step::RESPONSES));
        let responses = body.responses.into_iter().map(Bytes).collect();
        let confirm = KeyRequest::ConfirmOwnership { sid: self.record.sid, responses };
        self.ask(Output::Keys(confirm), State::Confirming { wire })
    }

    fn certificate_request(&self) -> CertificateRequest {
        CertificateRequest::LDevId {
            device: self.facts.device,
            serial: self.facts.serial.clone(),
            model: self.facts.model.clone(),
            csr: self.record.csr.clone(),
        }
    }

    fn provision(
        &self,
        now: UtcTime,
        wire: &[u8],
        chain: Vec<Bytes>,
        root: Vec<u8>,
    ) -> Result<Provision, Code> {
        let [_, storage, _, _] = &self.record.keys;
        Ok(Provision {
            sid: self.record.sid,
            th5: Transcript::resume(self.record.transcript).after(Step::RESPONSES, wire).value(),
            storage_point: *tpm::storage_key(&storage.0)?.point(),
            ldevid_chain: chain,
            ca_bundle: alloc::vec![Bytes(root)],
            terminus: self.rules.terminus.clone(),
            policy_version: self.next_version(),
            previous: self.record.installed.map_or(self.facts.configuration, |(_, digest)| digest),
            entry_index: self.facts.entry_index,
            entry: self.facts.entry,
            now,
            channel_keys: self.facts.device_type == DeviceType::Meter,
        })
    }

    const fn next_version(&self) -> u64 {
        match self.record.installed {
            Some((version, _)) => version.saturating_add(1),
            None => self.facts.policy_version.saturating_add(1),
        }
    }

    fn provisioned(&mut self, wire: &[u8], reply: KeyReply) -> Result<(), Code> {
        let KeyReply::Provisioned { wire: reply, objects, configuration } = reply else {
            return Err(if let KeyReply::Refused { code } = reply { code } else { Code::State });
        };
        self.record.transcript = self.take_in(Step::RESPONSES, wire);
        self.record.answered = Digest(sha256(&[wire]));
        self.record.phase = Phase::Provisioned;
        self.record.objects = objects;
        self.record.configuration = configuration;
        self.answer(Step::PROVISION, reply, None);
        Ok(())
    }

    fn installed(&mut self, now: UtcTime, wire: Vec<u8>, body: &[u8]) -> Result<(), Code> {
        let body = InstalledBody::decode(body)?;
        let th6 = self.record.transcript;
        if body.th6 != th6 {
            return Err(Code::Transcript);
        }
        if body.names != self.record.objects {
            return Err(Code::Object);
        }
        self.outputs.push_back(Output::Accepted(Step::INSTALLED));
        let th7 = self.take_in(Step::INSTALLED, &wire);
        let finish = KeyRequest::Finish {
            sid: self.record.sid,
            receipt: body.receipt,
            th6,
            th7,
            now,
            attested_at: self.record.attested,
        };
        self.ask(Output::Keys(finish), State::SealingDone { wire, th7 })
    }

    fn operating(&self) -> Result<DeviceChange, Code> {
        let [_, _, tls, _] = &self.record.keys;
        let key: PublicKey = tpm::tls_key(&tls.0)?;
        Ok(DeviceChange::Operating {
            tls_key: Digest(sha256(&[&crate::csr::subject_public_key_info(&key)])),
            policy_version: self.next_version(),
            configuration: self.record.configuration,
            attested_at: self.record.attested,
        })
    }
}
