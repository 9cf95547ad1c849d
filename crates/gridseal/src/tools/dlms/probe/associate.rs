//! Opening an association by hand, step by step, and saying where it stopped.

use std::fmt;

use gridseal_dlms::{
    acse::{
        Aare, Aarq, AssociateResult, ContextName, DLMS_VERSION, Diagnostic, InitiateError, InitiateRequest,
        InitiateResponse, Mechanism,
    },
    apdu::{
        action::{ActionOutcome, ActionRequest, ActionResponse},
        exception::{ExceptionResponse, ServiceError},
        reference::{InvokeId, REPLY_TO_HLS_AUTHENTICATION},
        result::ActionResult,
    },
    assoc::{AssociationHandle, Done, Operation, PeerChallenge, Protection},
    suite::local::LocalSettings,
    wire::Data,
};
use gridseal_io::rng::OsRng;
use gridseal_types::SystemTitle;

use super::{
    raw::{Honest, Performer},
    talk::{Prober, Reply, Setup, Talk},
};
use crate::lab::Side;

/// The one association of a performer.
const HANDLE: AssociationHandle = AssociationHandle(1);

/// Where an association stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No connection.
    Connect(String),
    /// The lab file has no key or secret for the mechanism.
    NoKey,
    /// The AARQ had no APDU for an answer.
    Unanswered(Reply),
    /// The AARQ was answered with something else than an AARE.
    NoAare(String),
    /// The AARE says no.
    Rejected(Diagnostic, Option<InitiateError>),
    /// Said yes, with an InitiateResponse that does not open under the lab file's keys and titles.
    NotOpened(Option<SystemTitle>),
    /// The meter's challenge is ours.
    Reflected,
    /// Our reply to its challenge was refused.
    ProofRefused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "no connection: {why}"),
            Self::NoKey => f.write_str("the lab file has no key for this mechanism"),
            Self::Unanswered(reply) => write!(f, "the request for an association has no answer {reply}"),
            Self::NoAare(what) => write!(f, "the request for an association is answered with {what}"),
            Self::Rejected(diagnostic, error) => {
                write!(f, "rejected: {diagnostic}")?;
                error.map_or(Ok(()), |error| write!(f, ", initiate error {}", error.reason))
            }
            Self::NotOpened(_) => {
                f.write_str("accepted, but the meter's part does not open under these keys and titles")
            }
            Self::Reflected => f.write_str("the meter's challenge is our own"),
            Self::ProofRefused(what) => write!(f, "the reply to the meter's challenge is refused: {what}"),
        }
    }
}

/// An association after its AARE.
pub struct Half {
    /// The connection.
    pub talk: Talk,
    /// Bytes that the meter takes; 0 = no limit.
    pub max_pdu: u16,
    /// Our challenge.
    pub own_challenge: Vec<u8>,
    /// The meter's challenge.
    pub challenge: Vec<u8>,
    /// The AARQ as it was sent.
    pub aarq: Vec<u8>,
    performer: Option<Performer>,
}

/// An open association.
pub struct Open {
    /// The connection.
    pub talk: Talk,
    /// Bytes that the meter takes; 0 = no limit.
    pub max_pdu: u16,
    /// Whether the meter proved itself in pass 4; true where the mechanism has none.
    pub is_peer_proven: bool,
}

/// How an AARQ departs from an honest one.
#[derive(Debug, Clone, Default)]
pub struct Twist {
    /// Challenge or password, instead of a fresh challenge or the lab file's password. Pass 3 is then not possible.
    pub value: Option<Vec<u8>>,
    /// What it is for, in the evidence.
    pub what: Option<String>,
}

impl Prober<'_> {
    /// AARQ and AARE.
    pub async fn begin(&mut self, setup: Setup, twist: &Twist) -> Result<Half, Failure> {
        let mut talk = self.connect(setup).await.map_err(|error| Failure::Connect(format!("{error:#}")))?;
        self.seen.push(Vec::new());
        // Counters are drawn in the order in which they are used; the proof of mechanism 5 has one of its own.
        let initiate_counter = setup.is_ciphered().then(|| self.next_counter());
        let proof_counter = match setup.mechanism {
            Mechanism::Gmac => self.next_counter(),
            _ => 0,
        };
        let mut performer = None;
        let own_challenge = self.authentication(&setup, twist, (proof_counter, &mut performer))?;
        let initiate = InitiateRequest {
            dedicated_key: None,
            response_allowed: true,
            quality_of_service: None,
            version: DLMS_VERSION,
            conformance: setup.conformance,
            max_pdu: setup.max_pdu,
        };
        let carrier_setup = Setup { carrier: gridseal_dlms::apdu::carrier::Carrier::Glo, ..setup };
        let protection =
            if setup.is_ciphered() { Protection::AuthenticatedEncrypted } else { Protection::None };
        let information = self.sealed(&carrier_setup, &initiate.to_bytes(), protection, initiate_counter);
        let needs_title = setup.is_ciphered() || setup.mechanism.is_high_level();
        let aarq = Aarq {
            context: if setup.is_ciphered() {
                ContextName::LogicalNameCiphered
            } else {
                ContextName::LogicalName
            },
            calling_title: needs_title.then_some(setup.client_title),
            calling_certificate: None,
            calling_user: None,
            mechanism: setup.mechanism,
            authentication: (setup.mechanism != Mechanism::None).then_some(own_challenge.as_slice()),
            user_information: &information,
        };
        let hidden: &[u8] = if setup.mechanism == Mechanism::LowLevel { &own_challenge } else { &[] };
        let what = twist.what.clone().unwrap_or_else(|| opening(&setup));
        let aarq = aarq.to_bytes();
        let reply = self.exchange(&mut talk, &what, &aarq, hidden).await;
        let Reply::Apdu(apdu) = reply else { return Err(Failure::Unanswered(reply)) };
        let half = Half { talk, max_pdu: 0, own_challenge, challenge: Vec::new(), aarq, performer };
        self.judge(half, &apdu)
    }

    /// Password, challenge, or nothing.
    fn authentication(
        &self,
        setup: &Setup,
        twist: &Twist,
        (counter, performer): (u32, &mut Option<Performer>),
    ) -> Result<Vec<u8>, Failure> {
        if let Some(value) = &twist.value {
            return Ok(value.clone());
        }
        if setup.mechanism == Mechanism::None {
            return Ok(Vec::new());
        }
        let settings = LocalSettings {
            suite: setup.suite,
            own_title: setup.client_title,
            legacy_mechanisms: true,
            ..self.lab.local_settings(Side::Client)
        };
        let honest = Honest { lab: self.lab, side: Side::Client, settings, counter, rng: Box::new(OsRng) };
        let made = self.raw.performer(honest);
        let mut made = made.map_err(|_| Failure::NoKey)?;
        let operation = match setup.mechanism {
            Mechanism::LowLevel => Operation::Password,
            mechanism => Operation::Challenge(mechanism),
        };
        let Ok(Done::Bytes(bytes)) = made(HANDLE, &operation) else { return Err(Failure::NoKey) };
        *performer = Some(made);
        Ok(bytes)
    }

    fn judge(&mut self, mut half: Half, apdu: &[u8]) -> Result<Half, Failure> {
        let talk = &mut half.talk;
        let aare = match Aare::from_bytes(apdu) {
            Ok(aare) => aare,
            Err(_) => return Err(Failure::NoAare(named(apdu))),
        };
        let is_high = talk.setup.mechanism.is_high_level();
        if aare.result != AssociateResult::Accepted {
            let error = aare.user_information.and_then(|bytes| InitiateError::from_bytes(bytes).ok());
            return Err(Failure::Rejected(aare.diagnostic, error));
        }
        let information = aare.user_information.unwrap_or_default();
        let found = aare.responding_title;
        let Some(plain) = self.open(&talk.setup, information) else {
            return Err(Failure::NotOpened(found.filter(|title| *title != talk.setup.server_title)));
        };
        // An error in the place of the response is a refusal, whatever the result says.
        if let Ok(error) = InitiateError::from_bytes(&plain.apdu) {
            return Err(Failure::Rejected(aare.diagnostic, Some(error)));
        }
        half.max_pdu = InitiateResponse::from_bytes(&plain.apdu).map_or(0, |response| response.max_pdu);
        if let (true, Some(title)) = (!talk.setup.is_ciphered(), found) {
            talk.setup.server_title = title;
        }
        if is_high {
            half.challenge = aare.authentication.unwrap_or_default().to_vec();
        }
        Ok(half)
    }

    /// Passes 3 and 4, where the mechanism has them.
    pub async fn prove(&mut self, half: Half, is_wrong: bool) -> Result<Open, Failure> {
        let Half { mut talk, max_pdu, own_challenge, challenge, performer, .. } = half;
        let setup = talk.setup;
        if !setup.mechanism.is_high_level() {
            return Ok(Open { talk, max_pdu, is_peer_proven: true });
        }
        let Some(mut performer) = performer else { return Err(Failure::NoKey) };
        let peer = PeerChallenge {
            mechanism: setup.mechanism,
            title: Some(setup.server_title),
            challenge: challenge.clone(),
        };
        let Ok(Done::Bytes(mut reply)) = performer(HANDLE, &Operation::HlsReply(peer.clone())) else {
            return Err(Failure::NoKey);
        };
        if is_wrong && let Some(last) = reply.last_mut() {
            *last ^= 1;
        }
        let invoke_id = InvokeId::confirmed(1);
        let parameters = Data::OctetString(&reply).to_bytes();
        let request = ActionRequest::Normal {
            invoke_id,
            method: REPLY_TO_HLS_AUTHENTICATION,
            parameters: Some(&parameters),
        };
        let apdu = self.sealed(&setup, &request.to_bytes(), setup.protection, None);
        let what =
            if is_wrong { "pass 3 with a wrong reply" } else { "pass 3: the reply to the meter's challenge" };
        let reply = self.exchange(&mut talk, what, &apdu, &[]).await;
        let Some(found) = reply.apdu() else { return Err(Failure::ProofRefused(reply.to_string())) };
        let Some(plain) = self.open(&setup, found) else {
            return Err(Failure::ProofRefused("an answer that does not open".into()));
        };
        let Ok(ActionResponse::Normal { outcome: ActionOutcome { result, returned }, .. }) =
            ActionResponse::from_bytes(&plain.apdu)
        else {
            return Err(Failure::ProofRefused(named(&plain.apdu)));
        };
        if result != ActionResult::Success {
            return Err(Failure::ProofRefused(format!("result `{result}`")));
        }
        let proof = match returned {
            Some(Ok(value)) => match Data::from_bytes(value) {
                Ok(Data::OctetString(proof)) => proof.to_vec(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        let is_other = own_challenge != challenge;
        let verified = performer(HANDLE, &Operation::HlsVerify { peer, reply: proof });
        Ok(Open { talk, max_pdu, is_peer_proven: is_other && verified == Ok(Done::Verified) })
    }

    /// An honest association.
    pub async fn associate(&mut self, setup: Setup) -> Result<Open, Failure> {
        let half = self.begin(setup, &Twist::default()).await?;
        if setup.mechanism.is_high_level() && half.challenge == half.own_challenge {
            return Err(Failure::Reflected);
        }
        self.prove(half, false).await
    }
}

/// What is asked for, in words.
pub fn opening(setup: &Setup) -> String {
    let ciphered =
        if setup.is_ciphered() { format!("ciphered, suite {}", setup.suite) } else { "in plain".into() };
    format!("association of client {}, mechanism {}, {ciphered}", setup.client_sap, setup.mechanism.number())
}

/// An APDU by its kind.
pub fn named(apdu: &[u8]) -> String {
    if let Ok(exception) = ExceptionResponse::from_bytes(apdu) {
        return match exception.service {
            ServiceError::DecipheringError => "exception: deciphering error".into(),
            ServiceError::InvocationCounter(lowest) => {
                format!("exception: invocation counter error, lowest accepted {lowest}")
            }
            ServiceError::PduTooLong => "exception: pdu too long".into(),
            _ => "exception: not allowed".into(),
        };
    }
    match apdu.first() {
        Some(first) => format!("an APDU of tag {first:#04x}"),
        None => "an empty APDU".into(),
    }
}
