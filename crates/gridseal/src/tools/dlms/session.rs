//! One association with a meter: the machine of the client, its keys, its counters, and the connection.

use std::{collections::VecDeque, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow};
use gridseal_crypto::role::Guek;
use gridseal_dlms::{
    acse::{Conformance, Mechanism},
    apdu::reference::AttributeId,
    assoc::{
        AssociationHandle, CryptoFault, Operation, Protection,
        client::{self, Client, ClientSettings, Event, Failure, Refusal, Request, Response},
        table::ClientState,
    },
    frame::hdlc,
    suite::local::{KeySet, LocalCrypto, Ports},
    wire::Data,
};
use gridseal_io::{
    clock::{tick_now, utc_now_ms},
    rng::OsRng,
};
use gridseal_types::{Kind, ObisCode, Tick};

use super::{
    Peer,
    channel::{Channel, Ends, Heard},
    counters::Counters,
};
use crate::lab::{Lab, Side};

/// Largest message that may open an association whatever the agreed size, bytes.
const OPENING_SIZE_MAX: usize = 4_096;
/// Client that anybody may be.
const PUBLIC_CLIENT: u16 = 16;
/// Where meters tell the last counter that they have accepted.
const COUNTER: AttributeId = AttributeId::new(1, ObisCode::new([0, 0, 43, 1, 0, 255]), 2);
/// The one association of this process.
const HANDLE: AssociationHandle = AssociationHandle(1);
/// How long an interrupted request is still waited for, so that the association can be released.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// What came is forged, repeated, not protected as it must be, or malformed: nothing of it is shown.
#[derive(Debug, thiserror::Error)]
#[error("{0}; nothing that was received is shown")]
pub struct Untrusted(pub String);

/// Somebody pressed Ctrl-C.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; the association was released")]
pub struct Interrupted;

/// The meter does not want the association. Said without protection, by anybody.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0}; check keys, titles, mechanism and access points of the lab file, and give --counter-file FILE: a meter refuses \
    an invocation counter that it has had before; `gridseal dlms probe` finds out what it is"
)]
struct NotAssociated(String);

/// Keys and counters of the client: they outlive one association.
struct Keeper<const N: usize> {
    crypto: LocalCrypto<N>,
    counters: Counters,
}

impl<const N: usize> Keeper<N> {
    /// The client's half of a lab file; counters go on where the file of counters ends.
    fn new(lab: &Lab, path: Option<&Path>) -> Result<Self> {
        let check = check_value(&lab.key_ring::<N>(Side::Client)?.guek);
        let mut counters = Counters::load(path, (check, lab.client.system_title))?;
        let sending_end = counters.sending_end(lab.client.invocation_counter);
        Ok(Self { crypto: performer(lab, &counters, sending_end)?, counters })
    }
}

/// A performer whose next counter is `sending_end`.
fn performer<const N: usize>(lab: &Lab, counters: &Counters, sending_end: u64) -> Result<LocalCrypto<N>> {
    let ring = lab.key_ring(Side::Client)?;
    let mut crypto = LocalCrypto::new(lab.local_settings(Side::Client), ring, sending_end);
    // Without a file the time takes its place: ids must rise from run to run, and no public object tells the last one.
    crypto.resume_transactions(counters.transactions_end().max(utc_now_ms()));
    // What the file gives as the server's first counter is the least that is taken from it.
    if let Some(before) = lab.server.invocation_counter.checked_sub(1) {
        crypto.resume_received(KeySet::Unicast, lab.server.system_title, before);
    }
    for (peer, counter) in counters.received() {
        crypto.resume_received(KeySet::Unicast, peer, counter);
    }
    Ok(crypto)
}

/// Four bytes that tell keys apart and say nothing of them.
pub fn check_value<const N: usize>(guek: &gridseal_crypto::Key<Guek, N>) -> [u8; 4] {
    let [a, b, c, d, ..] = guek.hashed(b"gridseal dlms counters");
    [a, b, c, d]
}

/// A meter, the association with it, and what it said.
pub struct Session<'p, const N: usize> {
    keeper: Keeper<N>,
    peer: &'p Peer,
    lab: &'p Lab,
    link: Option<(Client, Channel)>,
    events: VecDeque<Event>,
    /// Why the HDLC link ended, when it was not the connection.
    lost: Option<hdlc::LinkError>,
    conformance: Conformance,
}

fn settings(lab: &Lab, timeout: Duration) -> ClientSettings {
    let is_ciphered = lab.protection != Protection::None;
    let needs_title =
        is_ciphered || matches!(lab.mechanism, Mechanism::Gmac | Mechanism::Sha256 | Mechanism::Ecdsa);
    ClientSettings {
        own_title: needs_title.then_some(lab.client.system_title),
        server_title: Some(lab.server.system_title),
        ciphered: is_ciphered,
        mechanism: lab.mechanism,
        carrier: lab.carrier,
        protection: lab.protection,
        signing: lab.signing,
        required: lab.protection,
        max_pdu: lab.max_pdu,
        response_timeout: timeout,
        ..ClientSettings::public()
    }
}

impl<'p, const N: usize> Session<'p, N> {
    /// Opens the association of a lab file. When the meter refuses it, its counter may be ahead of ours: then it is
    /// asked for it, as anybody may, and once more with a counter above that.
    pub async fn associate(peer: &'p Peer, lab: &'p Lab) -> Result<Self> {
        let mut keeper = Keeper::new(lab, peer.counter_file.as_deref())?;
        let uses_counter = lab.protection != Protection::None || lab.mechanism == Mechanism::Gmac;
        if uses_counter && !keeper.counters.are_durable() {
            eprintln!(
                "gridseal: the client's invocation counter begins at {} of the lab file and is not kept: with other \
                keys than test keys give --counter-file FILE, or nonces repeat",
                lab.client.invocation_counter
            );
        }
        let has_challenge = lab.mechanism.is_high_level();
        if lab.protection != Protection::None && !has_challenge && !keeper.counters.are_durable() {
            eprintln!(
                "gridseal: with mechanism {} nothing is fresh but the counters: that somebody plays back a whole earlier \
                association cannot be noticed without --counter-file FILE",
                lab.mechanism.number()
            );
        }
        let first = keeper.counters.sending_end(lab.client.invocation_counter);
        let empty = Conformance::default();
        let mut session =
            Self { keeper, peer, lab, link: None, events: VecDeque::new(), lost: None, conformance: empty };
        let settings = settings(lab, peer.timeout());
        let Err(error) = session.open(settings, lab.client_sap).await else { return Ok(session) };
        if !uses_counter || !error.is::<NotAssociated>() {
            return Err(error);
        }
        if lab.client_sap == PUBLIC_CLIENT {
            return Err(error.context(
                "the meter cannot be asked for its counter, because whoever asks is client 16, which is client_sap here",
            ));
        }
        let Some(seen) = session.counter_seen().await else { return Err(error) };
        if !session.follow(seen, first)? {
            return Err(error);
        }
        eprintln!("gridseal: the meter says that it has seen invocation counter {seen}: going on above it");
        session.open(settings, lab.client_sap).await?;
        let confirmed = session.keeper.counters.confirm();
        confirmed.map_err(|_| anyhow!("the invocation counter could not be kept"))?;
        Ok(session)
    }

    async fn open(&mut self, settings: ClientSettings, client_sap: u16) -> Result<()> {
        let ends = Ends {
            client_sap,
            server_sap: self.lab.listen_sap,
            is_hdlc: self.peer.hdlc_tcp,
            apdu_size_max: settings.apdu_size_max().max(OPENING_SIZE_MAX),
            timeout: self.peer.timeout(),
        };
        self.events.clear();
        self.link = None;
        let client = Client::new(settings, HANDLE)?;
        let channel = Channel::open(&self.peer.connect, ends).await?;
        self.link = Some((client, channel));
        self.input(client::Input::Associate).await?;
        loop {
            match self.event().await? {
                Event::Associated { conformance, .. } => {
                    self.conformance = conformance;
                    return Ok(());
                }
                Event::Refused(refusal) => return Err(not_associated(refusal)),
                Event::Ignored(refusal) => return Err(untrusted(&refusal)),
                Event::Lost => {
                    let why = match self.lost.take() {
                        Some(why) => format!("the HDLC link ended while the association was opened: {why}"),
                        None => "the meter closed the connection while the association was opened".into(),
                    };
                    return Err(NotAssociated(why).into());
                }
                _ => {}
            }
        }
    }

    /// The last counter that the meter says it has accepted of this client. Said without protection, by anybody.
    async fn counter_seen(&mut self) -> Option<u32> {
        let settings = ClientSettings { response_timeout: self.peer.timeout(), ..ClientSettings::public() };
        self.open(settings, PUBLIC_CLIENT).await.ok()?;
        let answer = self.ask(Request::Get(COUNTER, None)).await;
        let _ = self.release().await;
        let Ok(Response::Get(Ok(value))) = answer else { return None };
        match Data::from_bytes(&value) {
            Ok(Data::DoubleLongUnsigned(seen)) => Some(seen),
            _ => None,
        }
    }

    /// Goes on above a counter, or behind everything that was reserved if that is more, for trial; false when the counter is below
    /// the `first` one that was tried, so that it explains nothing.
    fn follow(&mut self, seen: u32, first: u64) -> Result<bool> {
        if u64::from(seen) < first {
            return Ok(false);
        }
        let counters = &mut self.keeper.counters;
        let sending_end = counters.sending_end(self.lab.client.invocation_counter);
        let mut crypto = performer::<N>(self.lab, counters, sending_end)?;
        let not_followed = "the meter's hint at its counter is not followed";
        let begin = counters.begin_trial(seen).with_context(|| {
            format!("{not_followed}: too many were in vain; set client.invocation_counter of the lab file above the meter's")
        })?;
        let before = u32::try_from(begin.saturating_sub(1)).unwrap_or(u32::MAX);
        crypto.follow_hint(before, &mut Ports { counters, rng: &mut OsRng }).context(not_followed)?;
        self.keeper.crypto = crypto;
        Ok(true)
    }

    /// Whether several things can be asked for in one request.
    pub const fn has_lists(&self) -> bool {
        self.conformance.has(Conformance::MULTIPLE_REFERENCES)
    }

    /// Whether a tag proves every answer.
    pub fn is_proven(&self) -> bool {
        self.lab.protection.covers(Protection::Authenticated)
    }

    async fn input(&mut self, input: client::Input<'_>) -> Result<()> {
        let Some((client, channel)) = &mut self.link else { return Err(anyhow!("no connection")) };
        client.handle(tick_now(), input)?;
        while let Some(output) = client.poll() {
            match output {
                client::Output::Transmit(apdu) => channel.send(apdu).await?,
                client::Output::Crypto(handle, id, operation) => {
                    let Keeper { crypto, counters } = &mut self.keeper;
                    let mut ports = Ports { counters, rng: &mut OsRng };
                    let result = crypto.perform(handle, &operation, &mut ports);
                    if operation != Operation::End {
                        client.handle(tick_now(), client::Input::CryptoDone(id, result))?;
                    }
                }
                client::Output::Event(event) => self.events.push_back(event),
                _ => {}
            }
        }
        Ok(())
    }

    /// The next thing that is found out; something always is, because the machine has a deadline.
    async fn event(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let Some((client, channel)) = &mut self.link else { return Err(anyhow!("no connection")) };
            let until = client.deadline().unwrap_or_else(|| Tick(tick_now().0.saturating_add(1_000)));
            match channel.receive(until).await? {
                Heard::Apdu(apdu) => self.input(client::Input::Received(&apdu)).await?,
                Heard::Nothing => self.input(client::Input::Timeout).await?,
                Heard::Closed(why) => {
                    self.lost = why;
                    self.input(client::Input::Disconnected).await?;
                }
            }
        }
    }

    /// Asks, and waits for the answer. Ctrl-C ends the waiting, and releases the association.
    pub async fn ask(&mut self, request: Request) -> Result<Response> {
        self.input(client::Input::Request(request)).await?;
        let interrupted = tokio::select! {
            answer = self.answer() => return answer,
            _ = tokio::signal::ctrl_c() => Interrupted,
        };
        let _ = tokio::time::timeout(LAST_WAIT, self.answer()).await;
        let _ = tokio::time::timeout(LAST_WAIT, self.release()).await;
        Err(interrupted.into())
    }

    async fn answer(&mut self) -> Result<Response> {
        loop {
            match self.event().await? {
                Event::Response(response) => return Ok(response),
                Event::Failed(failure) => return Err(failed(failure)),
                //= DLMS 12.5: a tool does not go on after a forgery
                Event::Ignored(refusal) => return Err(untrusted(&refusal)),
                Event::Lost => {
                    return Err(match self.lost.take() {
                        Some(why) => anyhow!("the HDLC link ended before the meter answered: {why}"),
                        None => anyhow!("the meter closed the connection before it answered"),
                    });
                }
                _ => {}
            }
        }
    }

    /// Closes the connection without a release.
    pub async fn hang_up(&mut self) {
        if let Some((_, channel)) = self.link.take() {
            channel.close().await;
        }
    }

    /// Releases the association. A meter that closes the connection instead has released it too.
    pub async fn release(&mut self) -> Result<()> {
        let is_open = self.link.as_ref().is_some_and(|(client, _)| client.state() == ClientState::Associated);
        let mut outcome = Ok(());
        if is_open && self.input(client::Input::Release).await.is_ok() {
            loop {
                match self.event().await {
                    Ok(Event::Released | Event::Lost) | Err(_) => break,
                    Ok(Event::Ignored(refusal)) => {
                        outcome = Err(untrusted(&refusal));
                        break;
                    }
                    Ok(_) => {}
                }
            }
        }
        self.hang_up().await;
        outcome
    }
}

fn untrusted(refusal: &Refusal) -> anyhow::Error {
    Untrusted(format!("an answer of the meter is refused: {refusal}")).into()
}

fn not_associated(refusal: Refusal) -> anyhow::Error {
    match refusal {
        Refusal::Rejected(..) | Refusal::Exception(_) | Refusal::Timeout => {
            NotAssociated(refusal.to_string()).into()
        }
        Refusal::Crypto(fault) if fault.kind() != Kind::Peer => {
            anyhow!(
                "association is not possible: {fault}; are the keys that the mechanism needs in the lab file?"
            )
        }
        refusal => Untrusted(format!("the meter's part of the association is refused: {refusal}")).into(),
    }
}

fn failed(failure: Failure) -> anyhow::Error {
    match failure {
        Failure::Blocks => Untrusted(failure.to_string()).into(),
        Failure::Crypto(CryptoFault::Exhausted) => anyhow!("{failure}; only a new key helps"),
        Failure::Timeout => anyhow!("{failure}; --timeout gives the meter more of it"),
        failure => anyhow!("{failure}"),
    }
}

/// An answer that is none to what was asked: the meter refuses the request as a whole.
pub fn refused(response: &Response) -> anyhow::Error {
    match response {
        Response::Exception(exception) => anyhow!("the meter refuses the request: {:?}", exception.service),
        _ => Untrusted("the answer belongs to another request".into()).into(),
    }
}
