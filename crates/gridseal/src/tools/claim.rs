//! `gridseal key claim`: takes a meter over that came with its manufacturer's keys; `gridseal key carry`: brings a meter that
//! has no link of its own the key change that is prepared for it. Both carry sealed APDUs between the key service and the
//! meter and hold no key; whoever dies, the same command goes on.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use gridseal_api::{Client, KeysCallError, KeysClient};
use gridseal_dlms::{
    acse::{Aare, Aarq, AssociateResult, Conformance, ContextName, InitiateRequest, Mechanism},
    apdu::{
        action::{ActionOutcome, ActionResponse},
        result::ActionResult,
    },
    wire::Data,
};
use gridseal_io::clock::{tick_now, utc_now};
use gridseal_types::{
    N16, SystemTitle,
    service::{
        Batch,
        certificates::{CertificateReply, CertificateRequest},
        keys::{
            Bytes, CertifyRequest, ChangeOutcome, ChangePhase, ChangeReply, ClaimStep, Denial,
            OpenAssociation, OpenVerdict, kinds_name,
        },
    },
};
use serde_json::json;

use super::{
    dlms::channel::{Channel, Ends, Heard},
    key::{failed, parse_title},
};
use crate::{
    config,
    files::Zone,
    observe::say,
    process::{inner_client, pki},
};

/// Largest APDU that is taken, bytes.
const APDU_SIZE_MAX: usize = 1_024;
/// Pairs of keys that are tried in one go: those in use, and new ones whose acknowledgement was lost.
const CANDIDATES_MAX: u8 = 4;
/// Pause before something is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `key claim` and `key carry`: a meter that is spoken to directly.
#[derive(Debug, clap::Args)]
pub struct Direct {
    /// Configuration of the head-end (TOML): its identity is used towards the key service.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Meter: host:port.
    #[arg(long, value_name = "ADDR")]
    connect: String,
    /// Client's service access point; that of the management client.
    #[arg(long, value_name = "SAP", default_value_t = 1)]
    client_sap: u16,
    /// Server's service access point.
    #[arg(long, value_name = "SAP", default_value_t = 1)]
    server_sap: u16,
    /// HDLC over TCP, instead of the wrapper.
    #[arg(long)]
    hdlc_tcp: bool,
    /// How long an answer is waited for, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    answer_timeout: u64,
    /// How long to try, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// One JSON object for each step.
    #[arg(long)]
    pub json: bool,
    /// Meter, by system title.
    #[arg(value_name = "METER", value_parser = parse_title)]
    meter: SystemTitle,
}

/// Takes a meter over.
pub fn claim(direct: &Direct) -> Result<ExitCode> {
    run(direct, "claimed", async |carrier| carrier.claim().await)
}

/// Carries the key change of a meter.
pub fn carry(direct: &Direct) -> Result<ExitCode> {
    run(direct, "done", async |carrier| carrier.carry().await)
}

fn run(
    direct: &Direct,
    done: &str,
    errand: impl AsyncFnOnce(&mut Carrier<'_>) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let (config, dir): (config::Headend, _) = config::load(&direct.config)?;
    let keys = KeysClient::new(&config.keys.address, inner_client(&Zone::open(&dir)?)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let pki = Client::new(&config.pki.address, inner_client(&Zone::open(&dir)?)?, "pki");
        let mut carrier = Carrier { keys, pki, direct, channel: None, next: None };
        let limit = Duration::from_secs(direct.timeout);
        match tokio::time::timeout(limit, errand(&mut carrier)).await {
            Ok(ended) => ended,
            Err(_) => {
                eprintln!("gridseal: {} is not {done} in time; the same command goes on", direct.meter);
                Ok(ExitCode::FAILURE)
            }
        }
    })
}

/// Why a step was not taken.
enum Failed {
    /// Later again.
    Later,
    /// For good.
    Denied(KeysCallError),
}

struct Carrier<'c> {
    keys: KeysClient,
    pki: Client,
    direct: &'c Direct,
    /// A connection over which the meter has proved itself.
    channel: Option<Channel>,
    /// The step that came with the answer to the last one.
    next: Option<ClaimStep>,
}

impl Carrier<'_> {
    async fn claim(&mut self) -> Result<ExitCode> {
        let meter = self.direct.meter;
        loop {
            let asked = match self.next.take() {
                Some(step) => Ok(step),
                None => self.keys.claim(meter).await,
            };
            let step = match asked {
                Ok(step) => step,
                Err(error) => {
                    if self.goes_on(Err(Failed::Denied(error))).await {
                        continue;
                    }
                    return Ok(ExitCode::FAILURE);
                }
            };
            let done = match step {
                ClaimStep::Contact => {
                    self.tell("contact", "under the factory's keys");
                    self.reach().await.map(drop)
                }
                ClaimStep::Change(reply) => self.change(reply).await,
                ClaimStep::Show { candidate } => {
                    self.channel = None;
                    match self.associate(candidate).await {
                        Ok(Some(_)) => {
                            self.tell("factory-open", "the meter still takes the factory's keys");
                            return Ok(ExitCode::from(3));
                        }
                        // Refused, as it must be: now the same under the owner's keys.
                        Ok(None) => self.reach().await.map(drop),
                        Err(failed) => Err(failed),
                    }
                }
                ClaimStep::Ask { sealed, what } => {
                    self.tell("certificates", &what);
                    self.certificates(sealed.apdu).await
                }
                ClaimStep::Certify(request) => {
                    self.tell("certify", "the owner's authority certifies the meter's new key");
                    self.certify(request).await
                }
                ClaimStep::Closed { at } => {
                    self.tell("closed", &format!("the factory's keys were shown closed at {at}"));
                    return Ok(ExitCode::SUCCESS);
                }
                _ => bail!("the key service asks for a step that this version does not know"),
            };
            if !self.goes_on(done).await {
                return Ok(ExitCode::FAILURE);
            }
        }
    }

    async fn carry(&mut self) -> Result<ExitCode> {
        let meter = self.direct.meter;
        let mut change = None;
        loop {
            let begun = match self.reach().await {
                Ok(_) => self.keys.begin_key_change(meter, Vec::new()).await.map_err(Failed::Denied),
                Err(failed) => Err(failed),
            };
            let done = match begun {
                Ok(reply) => {
                    change = Some(reply.status.change);
                    self.change(reply).await
                }
                // None is open, or none any more.
                Err(Failed::Denied(KeysCallError::Denied(Denial::UnknownChange))) => {
                    match self.ended(change).await {
                        Ok(code) => return Ok(code),
                        Err(error) => Err(Failed::Denied(error)),
                    }
                }
                Err(failed) => Err(failed),
            };
            if !self.goes_on(done).await {
                return Ok(ExitCode::FAILURE);
            }
        }
    }

    /// How the change has ended that was carried.
    async fn ended(&self, change: Option<N16>) -> Result<ExitCode, KeysCallError> {
        let Some(change) = change else {
            self.tell("none", "no key change is prepared for this meter");
            return Ok(ExitCode::SUCCESS);
        };
        let phase = self.keys.report_key_change(change, ChangeOutcome::NoReply).await?.status.phase;
        self.tell("ended", phase.name());
        Ok(if phase == ChangePhase::Activated { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn tell(&self, step: &str, what: &str) {
        let meter = self.direct.meter;
        if self.direct.json {
            say(&json!({ "meter": meter.to_string(), "step": step, "what": what }).to_string());
        } else {
            say(&format!("{meter} {step}: {what}"));
        }
    }

    /// Waits where that helps; tells why nothing does.
    async fn goes_on(&mut self, done: Result<(), Failed>) -> bool {
        match done {
            Ok(()) => {}
            Err(Failed::Later) => tokio::time::sleep(PAUSE).await,
            Err(Failed::Denied(error)) => {
                if let Err(error) = self.pause(error).await {
                    failed(self.direct.json, &self.direct.meter.to_string(), &error);
                    return false;
                }
            }
        }
        true
    }

    /// Waits as long as a denial says; gives back what no waiting helps against.
    async fn pause(&mut self, error: KeysCallError) -> Result<(), KeysCallError> {
        let wait = match &error {
            KeysCallError::Denied(Denial::RetryLater { at }) => {
                let wait = Duration::from_secs(at.0.saturating_sub(utc_now().0)) + PAUSE;
                self.tell("wait", "so that no failed try drives the meter into its lock-out");
                wait
            }
            error if error.is_retryable() => PAUSE,
            _ => return Err(error),
        };
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// A connection over which the meter has proved that it has keys that the service has; whether it is another pair
    /// than the one that was in use.
    async fn reach(&mut self) -> Result<bool, Failed> {
        if self.channel.is_some() {
            return Ok(false);
        }
        for candidate in 0..CANDIDATES_MAX {
            match self.associate(candidate).await {
                Ok(Some(channel)) => {
                    self.channel = Some(channel);
                    return Ok(candidate != 0);
                }
                Err(Failed::Denied(KeysCallError::Denied(Denial::UnknownKey))) => break,
                Ok(None) => {}
                Err(failed) => return Err(failed),
            }
        }
        Err(Failed::Later)
    }

    /// Carries one request about certificates, and its answer back. Whatever comes of it, the key service is asked again.
    async fn certificates(&mut self, apdu: Vec<u8>) -> Result<(), Failed> {
        // Sealed before the meter has proved itself over this connection: asked anew, it is sealed anew.
        if self.channel.is_none() {
            return self.reach().await.map(drop);
        }
        let Some(answer) = self.exchange(apdu).await else { return Err(Failed::Later) };
        match self.keys.report_claim(self.direct.meter, answer).await {
            Ok(step) => {
                self.next = Some(step);
                Ok(())
            }
            Err(KeysCallError::Denied(Denial::Rejected)) => Ok(()),
            Err(error) => Err(Failed::Denied(error)),
        }
    }

    /// Has the meter's new key certified.
    async fn certify(&mut self, request: CertifyRequest) -> Result<(), Failed> {
        let batch = Batch(vec![CertificateRequest::Party(request)]);
        let reply = match self.pki.call::<_, CertificateReply>(pki::PATH, &batch).await {
            Ok(Batch(mut replies)) => replies.pop(),
            Err(error) => {
                self.tell("wait", &format!("the certificate authority does not answer: {error}"));
                return Err(Failed::Later);
            }
        };
        let certificate = match reply {
            Some(CertificateReply::Issued { mut chain, .. }) => chain.drain(..).next(),
            Some(CertificateReply::Refused { code }) => {
                self.tell("wait", &format!("the certificate authority refuses: {}", code.name()));
                return Err(Failed::Later);
            }
            _ => None,
        };
        let Some(Bytes(der)) = certificate else { return Err(Failed::Later) };
        self.next = Some(self.keys.claim_certificate(self.direct.meter, der).await.map_err(Failed::Denied)?);
        Ok(())
    }

    /// Carries one transfer of a change, or finds out what came of one.
    async fn change(&mut self, reply: ChangeReply) -> Result<(), Failed> {
        let what = format!("{} {}", kinds_name(&reply.status.items), reply.status.phase);
        self.tell("keys", &what);
        let change = reply.status.change;
        let mut transfer = reply.transfer;
        if self.channel.is_none() && transfer.is_some() {
            // Of the counters of the association that is to be made first, all are above this one: the meter would refuse it.
            let lost = self.keys.report_key_change(change, ChangeOutcome::NoReply).await;
            return lost.map(drop).map_err(Failed::Denied);
        }
        if transfer.is_none() {
            // What came of it is found out by a new proof, on whose connection the next transfer goes.
            self.channel = None;
            return if self.reach().await? { Ok(()) } else { Err(Failed::Later) };
        }
        let mut is_acknowledged = false;
        while let Some(sealed) = transfer.take() {
            let answer = self.exchange(sealed.apdu).await;
            is_acknowledged = answer.is_some();
            let outcome = answer.map_or(ChangeOutcome::NoReply, |apdu| ChangeOutcome::Reply { apdu });
            match self.keys.report_key_change(change, outcome).await {
                Ok(reply) => {
                    // A meter that answers under the new keys has proven them already.
                    is_acknowledged &= !reply.status.phase.is_resolved();
                    transfer = reply.transfer;
                }
                // An answer that does not verify says nothing.
                Err(KeysCallError::Denied(Denial::Rejected)) => is_acknowledged = false,
                Err(error) => return Err(Failed::Denied(error)),
            }
        }
        // What the meter has taken it proves by authenticating itself under it.
        self.channel = None;
        if is_acknowledged {
            self.channel = self.associate(1).await?;
        }
        Ok(())
    }

    /// Sends an APDU and waits for one; `None`: no answer, and the connection counts as gone.
    async fn exchange(&mut self, apdu: Vec<u8>) -> Option<Vec<u8>> {
        let channel = self.channel.as_mut()?;
        let until = tick_now().after(Duration::from_secs(self.direct.answer_timeout));
        let answer = match channel.send(apdu).await {
            Ok(()) => channel.receive(until).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(Heard::Apdu(apdu)) => Some(apdu),
            _ => {
                self.channel = None;
                None
            }
        }
    }

    /// Authenticates both sides under a pair of keys; `None`: the meter does not take part.
    async fn associate(&self, candidate: u8) -> Result<Option<Channel>, Failed> {
        let request = OpenAssociation { system_title: self.direct.meter, mechanism: 5, candidate };
        let opened = self.keys.open_association(request).await.map_err(Failed::Denied)?;
        let request = InitiateRequest {
            dedicated_key: None,
            response_allowed: true,
            quality_of_service: None,
            version: gridseal_dlms::acse::DLMS_VERSION,
            conformance: Conformance::SPOKEN,
            max_pdu: u16::try_from(APDU_SIZE_MAX).unwrap_or(u16::MAX),
        };
        let handle = opened.association;
        let initiate = self.keys.seal_initiate(handle, request.to_bytes()).await.map_err(Failed::Denied)?;
        let aarq = Aarq {
            context: ContextName::LogicalNameCiphered,
            calling_title: Some(opened.client_title),
            calling_certificate: None,
            calling_user: None,
            mechanism: Mechanism::Gmac,
            authentication: Some(&opened.client_to_server),
            user_information: &initiate.apdu,
        };
        match self.prove(handle, aarq.to_bytes()).await {
            Ok(channel) => Ok(channel),
            Err(Refused::Keys(error)) => Err(Failed::Denied(error)),
            Err(Refused::Meter(why)) => {
                self.tell("refused", &format!("candidate {candidate}: {why:#}"));
                Ok(None)
            }
        }
    }

    /// AARQ to pass 4.
    async fn prove(&self, handle: N16, aarq: Vec<u8>) -> Result<Option<Channel>, Refused> {
        let timeout = Duration::from_secs(self.direct.answer_timeout);
        let ends = Ends {
            client_sap: self.direct.client_sap,
            server_sap: self.direct.server_sap,
            is_hdlc: self.direct.hdlc_tcp,
            apdu_size_max: APDU_SIZE_MAX + 64,
            timeout,
        };
        let mut channel = Channel::open(&self.direct.connect, ends).await?;
        let aare = ask(&mut channel, aarq, timeout).await?;
        let aare = Aare::from_bytes(&aare).context("the meter's answer is no AARE")?;
        let challenge = aare.authentication.filter(|_| aare.result == AssociateResult::Accepted);
        let challenge = challenge.context("the meter refuses the association")?.to_vec();
        let (_, sealed) = self.keys.answer_challenge(handle, challenge).await.map_err(Refused::Keys)?;
        let answer = ask(&mut channel, sealed.apdu, timeout).await?;
        let opened = self.keys.open(Some(self.direct.meter), answer).await.map_err(Refused::Keys)?;
        let OpenVerdict::Fresh { plain, .. } = opened else {
            return Err(Refused::Meter(anyhow::anyhow!("the meter's answer does not open")));
        };
        let proof = proof_of(&plain).context("the meter does not prove itself")?;
        match self.keys.verify_answer(handle, proof).await {
            Ok(()) => Ok(Some(channel)),
            Err(KeysCallError::Denied(Denial::Rejected)) => {
                Err(Refused::Meter(anyhow::anyhow!("the meter's proof is wrong")))
            }
            Err(error) => Err(Refused::Keys(error)),
        }
    }
}

/// Who has refused.
enum Refused {
    Keys(KeysCallError),
    Meter(anyhow::Error),
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        Self::Meter(error)
    }
}

async fn ask(channel: &mut Channel, apdu: Vec<u8>, timeout: Duration) -> Result<Vec<u8>> {
    channel.send(apdu).await?;
    match channel.receive(tick_now().after(timeout)).await? {
        Heard::Apdu(apdu) => Ok(apdu),
        Heard::Nothing => bail!("no answer in time"),
        Heard::Closed(_) => bail!("the meter closed the connection"),
    }
}

/// Return parameter of reply_to_HLS_authentication.
fn proof_of(plain: &[u8]) -> Option<Vec<u8>> {
    let ActionResponse::Normal { outcome, .. } = ActionResponse::from_bytes(plain).ok()? else { return None };
    let ActionOutcome { result: ActionResult::Success, returned: Some(Ok(value)) } = outcome else {
        return None;
    };
    match Data::from_bytes(value).ok()? {
        Data::OctetString(proof) => Some(proof.to_vec()),
        _ => None,
    }
}
