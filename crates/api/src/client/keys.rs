//! The key service's client: what a head-end or an operator asks it, one by one or in batches, always a few full calls
//! instead of many small ones (decision D1).

use std::{collections::VecDeque, fmt, sync::Arc};

use gridseal_io::tls::ClientTls;
use gridseal_types::{
    N16, SystemTitle,
    service::{
        BATCH_MAX, Batch,
        keys::{
            ChangeOutcome, ChangeReply, ClaimStep, ConsentedAct, Denial, DeviceKeyStatus, ExchangeReply,
            HistoryEntry, HlsStep, KeyKind, KeyRef, KeyReply, KeyRequest, OpenAssociation, OpenVerdict,
            Probe, Reached, Seal, Sealed, SiteRequest, SiteStatus,
        },
    },
};
use tokio::sync::{Mutex, oneshot};

use super::Client;
use crate::ApiError;

/// Path of the key service.
pub const KEYS_PATH: &str = "/keys/v1";
/// Calls at a time (decision D1).
pub const CALLS_MAX: usize = 8;
/// Requests that must wait before a further call goes out beside one that runs (decision D1).
pub const COALESCE_MIN: usize = 16;
/// Requests that may wait to be sent; more are refused.
pub const WAITING_MAX: usize = 65_536;

/// The key service does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysCallError {
    /// Denied, and why; nothing changed.
    #[error("{}", .0.name())]
    Denied(Denial),
    /// Not for this caller, or refused with a code of the onboarding.
    #[error("refused: {0}")]
    Refused(gridseal_types::Code),
    /// The answer is to another question.
    #[error("the key service gave an answer to another question")]
    Answer,
    /// Too many requests wait already.
    #[error("too many requests to the key service wait")]
    Full,
    /// The call failed. Requests of one call fail together, so its cause is shared.
    #[error("the key service cannot be asked")]
    Call(#[source] Arc<ApiError>),
}

impl KeysCallError {
    /// Whether the same request may succeed later without anybody's act. A seal is then to be asked for under its
    /// idempotency key again; opening, key changes and what is only read are idempotent by themselves.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Denied(denial) => denial.is_retryable(),
            Self::Call(error) => error.kind() == gridseal_types::Kind::Transient,
            Self::Full => true,
            Self::Refused(_) | Self::Answer => false,
        }
    }

    /// Stable name, as in logs and in the answers of commands.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.name(),
            Self::Refused(code) => code.name(),
            Self::Answer => "ANSWER",
            Self::Full => "BUSY",
            Self::Call(cause) if cause.is_busy() => "BUSY",
            Self::Call(_) => "UNREACHABLE",
        }
    }
}

/// What a compromise reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compromise {
    /// Keys, the first one first.
    pub reached: Vec<Reached>,
    /// Devices that need new keys.
    pub devices: Vec<SystemTitle>,
}

/// What the client's part of an association begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// Handle.
    pub association: N16,
    /// The client's challenge for the AARQ.
    pub client_to_server: Vec<u8>,
    /// System title of the client.
    pub client_title: SystemTitle,
}

type Answered = Result<KeyReply, KeysCallError>;

struct Waiting {
    request: KeyRequest,
    answer: oneshot::Sender<Answered>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    calls: usize,
}

/// Asks the key service over mutual TLS.
///
/// Idle, a request leaves at once. While a call is out, requests collect, and the next call takes all of them as soon as
/// there are [`COALESCE_MIN`] or no call is out any more: at most 1,024 in a call, at most [`CALLS_MAX`] calls. There is
/// no timer. Requests about one meter must not be made side by side where their order matters.
#[derive(Clone)]
pub struct KeysClient {
    client: Arc<Client>,
    queue: Arc<Mutex<Queue>>,
}

impl fmt::Debug for KeysClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeysClient({:?})", self.client)
    }
}

impl KeysClient {
    /// A client of the key service at `address` (`host:port`).
    #[must_use]
    pub fn new(address: impl Into<String>, tls: ClientTls) -> Self {
        Self { client: Arc::new(Client::new(address, tls, "keys")), queue: Arc::default() }
    }

    /// Asks for a batch in one call of its own, and gets one reply for each request, in order.
    ///
    /// # Errors
    /// [`ApiError`]; nobody knows then whether the requests were served.
    pub async fn batch(&self, requests: Vec<KeyRequest>) -> Result<Vec<KeyReply>, ApiError> {
        Ok(self.client.call(KEYS_PATH, &Batch(requests)).await?.0)
    }

    /// Asks one question, in a call together with others.
    ///
    /// # Errors
    /// [`KeysCallError::Full`], [`KeysCallError::Call`].
    pub async fn ask(&self, request: KeyRequest) -> Answered {
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.queue.lock().await;
            if queue.waiting.len() >= WAITING_MAX {
                return Err(KeysCallError::Full);
            }
            queue.waiting.push_back(Waiting { request, answer });
            self.send_waiting(&mut queue);
        }
        // The task that was to answer is gone with its runtime.
        answered.await.unwrap_or(Err(KeysCallError::Answer))
    }

    fn send_waiting(&self, queue: &mut Queue) {
        while queue.calls < CALLS_MAX {
            let wanted = if queue.calls == 0 { 1 } else { COALESCE_MIN };
            if queue.waiting.len() < wanted {
                return;
            }
            let count = queue.waiting.len().min(BATCH_MAX);
            let waiting: Vec<Waiting> = queue.waiting.drain(..count).collect();
            queue.calls = queue.calls.saturating_add(1);
            let client = self.clone();
            tokio::spawn(async move { client.serve(waiting).await });
        }
    }

    async fn serve(&self, waiting: Vec<Waiting>) {
        let (requests, answers): (Vec<_>, Vec<_>) =
            waiting.into_iter().map(|Waiting { request, answer }| (request, answer)).unzip();
        let called = self.batch(requests).await;
        {
            let mut queue = self.queue.lock().await;
            queue.calls = queue.calls.saturating_sub(1);
            self.send_waiting(&mut queue);
        }
        // Who does not wait any more wants no answer.
        match called {
            Ok(replies) => {
                answers.into_iter().zip(replies).for_each(|(answer, reply)| drop(answer.send(Ok(reply))));
            }
            Err(error) => {
                let error = Arc::new(error);
                let failed = |answer: oneshot::Sender<Answered>| {
                    drop(answer.send(Err(KeysCallError::Call(Arc::clone(&error)))));
                };
                answers.into_iter().for_each(failed);
            }
        }
    }

    async fn exchange(&self, request: KeyRequest) -> Result<ExchangeReply, KeysCallError> {
        match self.ask(request).await? {
            KeyReply::Exchange(ExchangeReply::Denied(denial)) => Err(KeysCallError::Denied(denial)),
            KeyReply::Exchange(reply) => Ok(reply),
            KeyReply::Refused { code } => Err(KeysCallError::Refused(code)),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// Seals an APDU for a meter.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn seal(&self, seal: Seal) -> Result<Sealed, KeysCallError> {
        match self.exchange(KeyRequest::Seal(seal)).await? {
            ExchangeReply::Sealed(sealed) => Ok(sealed),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// Opens an APDU. `from` is whose it must be, where the carrier names nobody.
    ///
    /// # Errors
    /// [`KeysCallError`]; an APDU that does not open is no error but a verdict.
    pub async fn open(&self, from: Option<SystemTitle>, apdu: Vec<u8>) -> Result<OpenVerdict, KeysCallError> {
        let request = match from {
            Some(system_title) => KeyRequest::OpenFrom { system_title, apdu },
            None => KeyRequest::OpenApdu { apdu },
        };
        verdict_of(self.ask(request).await?)
    }

    /// Begins the authentication of an association.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn open_association(&self, request: OpenAssociation) -> Result<Association, KeysCallError> {
        match self.exchange(KeyRequest::OpenAssociation(request)).await? {
            ExchangeReply::Association { association, client_to_server, client_title } => {
                Ok(Association { association, client_to_server, client_title })
            }
            _ => Err(KeysCallError::Answer),
        }
    }

    /// The client's pass 3 for the meter's challenge: parameter of the ACTION, and that ACTION sealed.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn answer_challenge(
        &self,
        association: N16,
        server_to_client: Vec<u8>,
    ) -> Result<(Vec<u8>, Sealed), KeysCallError> {
        let step = HlsStep::Challenge { server_to_client };
        match self.exchange(KeyRequest::ContinueHls { association, step }).await? {
            ExchangeReply::HlsReply { parameter, sealed } => Ok((parameter, sealed)),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// Checks the meter's pass 4. `Ok`: it is the meter.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn verify_answer(&self, association: N16, answer: Vec<u8>) -> Result<(), KeysCallError> {
        let step = HlsStep::Answer { answer };
        match self.exchange(KeyRequest::ContinueHls { association, step }).await? {
            ExchangeReply::HlsVerified => Ok(()),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// Prepares a key change, or shows the one that is not resolved; the meter's head-end carries it.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn prepare_key_change(
        &self,
        system_title: SystemTitle,
        items: Vec<KeyKind>,
    ) -> Result<ChangeReply, KeysCallError> {
        self.change(KeyRequest::PrepareKeyChange { system_title, items }).await
    }

    /// Prepares the change that raises a meter's suite; the meter's head-end carries it.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn raise_suite(
        &self,
        system_title: SystemTitle,
        suite: u8,
    ) -> Result<ChangeReply, KeysCallError> {
        self.change(KeyRequest::RaiseSuite { system_title, suite }).await
    }

    /// Brings the certificate of a meter's signing key.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn meter_certificate(
        &self,
        system_title: SystemTitle,
        der: Vec<u8>,
    ) -> Result<DeviceKeyStatus, KeysCallError> {
        match self.exchange(KeyRequest::MeterCertificate { system_title, der }).await? {
            ExchangeReply::Status(status) => Ok(status),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// Meters after this one whose key change is not resolved, and whether none comes after them.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn pending_changes(
        &self,
        after: Option<SystemTitle>,
    ) -> Result<(Vec<SystemTitle>, bool), KeysCallError> {
        match self.exchange(KeyRequest::PendingChanges { after }).await? {
            ExchangeReply::Pending { meters, is_last } => Ok((meters, is_last)),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// Begins a key change, or goes on with the one that is not resolved; without items it only goes on.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn begin_key_change(
        &self,
        system_title: SystemTitle,
        items: Vec<KeyKind>,
    ) -> Result<ChangeReply, KeysCallError> {
        self.change(KeyRequest::BeginKeyChange { system_title, items }).await
    }

    /// Tells what came of a transfer.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn report_key_change(
        &self,
        change: N16,
        outcome: ChangeOutcome,
    ) -> Result<ChangeReply, KeysCallError> {
        self.change(KeyRequest::ReportKeyChange { change, outcome }).await
    }

    async fn change(&self, request: KeyRequest) -> Result<ChangeReply, KeysCallError> {
        match self.exchange(request).await? {
            ExchangeReply::Change(change) => Ok(change),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// Sealed GETs, one for each pair of keys that the meter may have.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn probe_plan(&self, system_title: SystemTitle) -> Result<Vec<Probe>, KeysCallError> {
        match self.exchange(KeyRequest::ProbePlan { system_title }).await? {
            ExchangeReply::Probes(probes) => Ok(probes),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// The next step of a meter's claim.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn claim(&self, system_title: SystemTitle) -> Result<ClaimStep, KeysCallError> {
        match self.exchange(KeyRequest::Claim { system_title }).await? {
            ExchangeReply::Claim(step) => Ok(step),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// The next step of a claim after what a meter has answered to a step.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn report_claim(
        &self,
        system_title: SystemTitle,
        apdu: Vec<u8>,
    ) -> Result<ClaimStep, KeysCallError> {
        match self.exchange(KeyRequest::ReportClaim { system_title, apdu }).await? {
            ExchangeReply::Claim(step) => Ok(step),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// The next step of a claim after the certificate that was issued for the meter.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn claim_certificate(
        &self,
        system_title: SystemTitle,
        der: Vec<u8>,
    ) -> Result<ClaimStep, KeysCallError> {
        match self.exchange(KeyRequest::ClaimCertificate { system_title, der }).await? {
            ExchangeReply::Claim(step) => Ok(step),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// Seals the InitiateRequest of an association's AARQ.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn seal_initiate(&self, association: N16, apdu: Vec<u8>) -> Result<Sealed, KeysCallError> {
        let step = HlsStep::Initiate { apdu };
        match self.exchange(KeyRequest::ContinueHls { association, step }).await? {
            ExchangeReply::Sealed(sealed) => Ok(sealed),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// Carries an act out that two persons have signed.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn consented(&self, act: ConsentedAct) -> Result<ExchangeReply, KeysCallError> {
        self.exchange(KeyRequest::Consented(act)).await
    }

    /// State of the site.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn site(&self) -> Result<SiteStatus, KeysCallError> {
        match self.exchange(KeyRequest::Site(SiteRequest::Status)).await? {
            ExchangeReply::Site(status) => Ok(status),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// State of a meter's keys.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn status(&self, system_title: SystemTitle) -> Result<DeviceKeyStatus, KeysCallError> {
        match self.exchange(KeyRequest::KeyStatus { system_title }).await? {
            ExchangeReply::Status(status) => Ok(status),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// History of a meter's keys, oldest first.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn history(&self, system_title: SystemTitle) -> Result<Vec<HistoryEntry>, KeysCallError> {
        match self.exchange(KeyRequest::KeyHistory { system_title }).await? {
            ExchangeReply::History(entries) => Ok(entries),
            _ => Err(KeysCallError::Answer),
        }
    }

    /// What a compromise of this key would reach; changes nothing.
    ///
    /// # Errors
    /// [`KeysCallError`].
    pub async fn compromise_plan(&self, key: KeyRef) -> Result<Compromise, KeysCallError> {
        match self.exchange(KeyRequest::CompromisePlan { key }).await? {
            ExchangeReply::Compromise { reached, devices } => Ok(Compromise { reached, devices }),
            _ => Err(KeysCallError::Answer),
        }
    }
}

/// The verdict in an answer to an APDU. A denial, as of a site that is fenced, is none: the APDU may be shown again.
///
/// # Errors
/// [`KeysCallError`].
pub fn verdict_of(reply: KeyReply) -> Result<OpenVerdict, KeysCallError> {
    match reply {
        KeyReply::Apdu(verdict) => Ok(verdict),
        KeyReply::Exchange(ExchangeReply::Denied(denial)) => Err(KeysCallError::Denied(denial)),
        KeyReply::Refused { code } => Err(KeysCallError::Refused(code)),
        _ => Err(KeysCallError::Answer),
    }
}
