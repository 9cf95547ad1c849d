//! `gridseal sim weak-meter`: a meter with the weaknesses that are asked for, and no others.
//!
//! For whoever tries `gridseal dlms probe`, or a probe of their own. It shares nothing with `gridseal meter`: the
//! weaknesses are in the performer of its keys, in its few objects, and in the shim around its association machine, all
//! of them in this folder. Without a weakness it refuses what must be refused.

mod objects;
mod performer;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use gridseal_dlms::{
    acse::{AARE, AARQ, Aare, Aarq, Mechanism},
    apdu::{
        carrier::{Carrier, CipheredApdu, Signing},
        exception::ExceptionResponse,
        get::{GetRequest, GetResponse},
        tag,
    },
    assoc::{
        AccessContext, AssociationHandle, AttributeRequest, Done, Objects, Operation, Protection, Value,
        server::{Event, Input, Output, Server, ServerSettings},
        table::ServerState,
    },
    frame::wrapper::{WrapperDecoder, WrapperFrame},
};
use gridseal_io::clock::tick_now;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{lab::Lab, observe::show, tools::Usage};
use objects::Table;
use performer::{Keys, Local};

/// Client that anybody may be.
const PUBLIC: u16 = 16;
/// The management client.
const MANAGEMENT: u16 = 1;
/// How long a connection may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Largest APDU that the transport takes, bytes.
const APDU_SIZE_MAX: usize = 65_535;
/// Clients of one connection.
const CLIENTS_MAX: usize = 4;
/// Size that is announced when none is kept to, bytes.
const ANNOUNCED: u16 = 512;

/// What is wrong with it: the findings of `gridseal dlms probe` that a meter itself can cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
#[allow(missing_docs, reason = "the catalogue of the probe says what each is")]
pub enum Weakness {
    PlainRead,
    PlainWrite,
    ContextPlain,
    MechanismLowest,
    MechanismLow,
    MechanismManufacturer,
    MechanismMd5,
    MechanismSha1,
    ChallengeFixed,
    ChallengeShort,
    ChallengeReflected,
    HlsServicesEarly,
    HlsWrongAccepted,
    HlsUnproven,
    PlainRequest,
    PlainAnswer,
    TagUnchecked,
    ReplayAccepted,
    CounterLowered,
    CounterForgotten,
    ServerCounterReset,
    PolicyNotEnforced,
    PolicyWeak,
    TitleUnchecked,
    KeySharedClients,
    PasswordDefault,
    AttemptsUncounted,
    NoSecurityLog,
    PduOverlong,
    MalformedKills,
    ImageUnsigned,
}

/// Arguments of `sim weak-meter`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Address to listen on; port 0 for any free one.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Lab file with test keys; mechanism 5 is the one that every weakness works with.
    #[arg(long, value_name = "FILE")]
    lab: PathBuf,
    /// What is wrong with it; may be repeated.
    #[arg(long = "weakness", value_name = "NAME")]
    weaknesses: Vec<Weakness>,
    /// Everything is wrong with it.
    #[arg(long, conflicts_with = "weaknesses")]
    all: bool,
}

/// Runs it until it is stopped.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    use clap::ValueEnum;
    let lab = Lab::load(&arguments.lab)?;
    if lab.protection == Protection::None {
        return Err(Usage(
            "the weak meter needs a lab file with protection: most weaknesses are in it".into(),
        )
        .into());
    }
    let all = if arguments.all { Weakness::value_variants() } else { arguments.weaknesses.as_slice() };
    let meter = WeakMeter::new(lab, all.iter().copied().collect())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(arguments.listen)
            .await
            .with_context(|| format!("cannot listen on {}", arguments.listen))?;
        show(&format!("listening {}", listener.local_addr()?));
        tokio::select! {
            () = serve(listener, Arc::new(meter)) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Serves until the meter is gone.
pub async fn serve(listener: TcpListener, meter: Arc<WeakMeter>) {
    while let Ok((stream, _)) = listener.accept().await {
        if meter.core().is_gone {
            return;
        }
        let meter = Arc::clone(&meter);
        tokio::spawn(async move { meter.connection(stream).await });
    }
}

/// The meter.
pub struct WeakMeter {
    lab: Lab,
    weak: BTreeSet<Weakness>,
    core: Mutex<Core>,
}

struct Core {
    keys: Keys,
    table: Table,
    /// Challenges that were sent.
    issued: BTreeSet<Vec<u8>>,
    handles: u64,
    is_gone: bool,
}

/// One client of one connection.
struct Client {
    server: Server,
    handle: AssociationHandle,
    local: Local,
    challenge: Vec<u8>,
}

impl WeakMeter {
    /// A meter with the keys of a lab file.
    pub fn new(lab: Lab, weak: BTreeSet<Weakness>) -> Result<Self> {
        let keys = Keys::new(&lab, weak.clone())?;
        let titles = (lab.client.system_title, lab.server.system_title);
        let table = Table::new(weak.clone(), titles, lab.suite);
        let core = Core { keys, table, issued: BTreeSet::new(), handles: 0, is_gone: false };
        Ok(Self { lab, weak, core: Mutex::new(core) })
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is(&self, weakness: Weakness) -> bool {
        self.weak.contains(&weakness)
    }

    async fn connection(&self, mut stream: TcpStream) {
        let mut decoder = WrapperDecoder::new(APDU_SIZE_MAX);
        let mut clients: BTreeMap<u16, Client> = BTreeMap::new();
        let mut piece = [0; 4_096];
        while let Ok(Ok(count @ 1..)) = timeout(SILENCE_MAX, stream.read(&mut piece)).await {
            let is_framed = decoder.push(piece.get(..count).unwrap_or_default()).is_ok();
            let (mut out, mut is_ours) = (Vec::new(), true);
            while let Some(frame) = decoder.poll() {
                let (source, destination) = (frame.source(), frame.destination());
                is_ours &= destination == self.lab.listen_sap && clients.len() < CLIENTS_MAX;
                if is_ours {
                    for answer in self.received(&mut clients, source, frame.apdu()) {
                        if let Ok(frame) = WrapperFrame::new(destination, source, answer) {
                            out.extend(frame.to_bytes());
                        }
                    }
                }
            }
            if !is_framed && self.is(Weakness::MalformedKills) {
                self.core().is_gone = true;
            }
            let is_over = !is_framed || !is_ours || self.core().is_gone;
            if is_over || stream.write_all(&out).await.is_err() {
                break;
            }
        }
        clients.into_values().for_each(|mut client| {
            self.feed(&mut client, Input::Disconnected);
        });
    }

    fn received(&self, clients: &mut BTreeMap<u16, Client>, sap: u16, apdu: &[u8]) -> Vec<Vec<u8>> {
        let first = apdu.first().copied().unwrap_or_default();
        let is_malformed = match first {
            AARQ => Aarq::from_bytes(apdu).is_err(),
            first if CipheredApdu::is_carrier(first) => CipheredApdu::from_bytes(apdu).is_err(),
            _ => false,
        };
        if is_malformed && self.is(Weakness::MalformedKills) {
            self.core().is_gone = true;
            return Vec::new();
        }
        if first == AARQ || !clients.contains_key(&sap) {
            let aarq = Aarq::from_bytes(apdu).ok();
            let mut client = self.client(self.settings(sap, aarq.as_ref()));
            client.challenge = aarq.and_then(|aarq| aarq.authentication).unwrap_or_default().to_vec();
            clients.insert(sap, client);
        }
        let Some(client) = clients.get_mut(&sap) else { return Vec::new() };
        if let Some(answer) = self.out_of_turn(client, sap, apdu) {
            return vec![answer];
        }
        let answers = self.feed(client, Input::Received(apdu));
        answers.into_iter().map(|answer| self.reflected(client, answer)).collect()
    }

    fn client(&self, settings: ServerSettings) -> Client {
        let mut core = self.core();
        core.handles = core.handles.saturating_add(1);
        let handle = AssociationHandle(core.handles);
        Client {
            server: Server::new(settings, handle),
            handle,
            local: Local::default(),
            challenge: Vec::new(),
        }
    }

    /// What a client must do, by its access point and, as far as this meter is weak, by what it asks for.
    fn settings(&self, sap: u16, aarq: Option<&Aarq<'_>>) -> ServerSettings {
        let own = self.lab.server.system_title;
        // What is less protected is refused by the performer and by `out_of_turn`, unless the meter is weak there.
        let is_lax = self.is(Weakness::PlainRequest) || self.is(Weakness::PolicyNotEnforced);
        let keyed = ServerSettings {
            required: if is_lax { Protection::None } else { self.lab.protection },
            response: self.lab.protection,
            max_pdu: if self.is(Weakness::PduOverlong) { 0 } else { ANNOUNCED },
            ..ServerSettings::ciphered(sap, own, self.lab.mechanism)
        };
        let nobody = ServerSettings { mechanism: Mechanism::Ecdsa, ..keyed };
        let Some(aarq) = aarq else { return nobody };
        let plain = ServerSettings {
            required: Protection::None,
            response: Protection::None,
            ciphered: false,
            ..keyed
        };
        let is_low = aarq.mechanism == Mechanism::LowLevel && !aarq.context.is_ciphered();
        if is_low && sap == MANAGEMENT && self.is(Weakness::PasswordDefault) {
            return ServerSettings { mechanism: Mechanism::LowLevel, ..plain };
        }
        if sap == PUBLIC && sap != self.lab.client_sap {
            return ServerSettings { max_pdu: ANNOUNCED, ..ServerSettings::public(sap, own) };
        }
        if sap != self.lab.client_sap && !self.is(Weakness::KeySharedClients) {
            return nobody;
        }
        let also = [
            (Mechanism::None, Weakness::MechanismLowest),
            (Mechanism::LowLevel, Weakness::MechanismLow),
            (Mechanism::Manufacturer, Weakness::MechanismManufacturer),
            (Mechanism::Md5, Weakness::MechanismMd5),
            (Mechanism::Sha1, Weakness::MechanismSha1),
        ];
        let is_taken =
            also.iter().any(|(mechanism, weakness)| *mechanism == aarq.mechanism && self.is(*weakness));
        let mechanism = if is_taken { aarq.mechanism } else { self.lab.mechanism };
        let base = if !aarq.context.is_ciphered() && self.is(Weakness::ContextPlain) { plain } else { keyed };
        ServerSettings { mechanism, ..base }
    }

    /// What is answered around the machine: refusals of a meter that is weak elsewhere, and services before their time.
    fn out_of_turn(&self, client: &mut Client, sap: u16, apdu: &[u8]) -> Option<Vec<u8>> {
        let first = apdu.first().copied()?;
        let is_plain = matches!(first, tag::GET_REQUEST | tag::SET_REQUEST | tag::ACTION_REQUEST);
        let is_keyed = sap == self.lab.client_sap;
        if is_plain && is_keyed && self.is(Weakness::PolicyNotEnforced) && !self.is(Weakness::PlainRequest) {
            return Some(ExceptionResponse::DECIPHERING.to_bytes());
        }
        let is_early = client.server.state() == ServerState::Pending && CipheredApdu::is_carrier(first);
        if !is_early || !self.is(Weakness::HlsServicesEarly) {
            return None;
        }
        let Core { keys, table, .. } = &mut *self.core();
        let plain = keys.peek(apdu)?;
        let Ok(GetRequest::Normal { invoke_id, attribute, selection }) = GetRequest::from_bytes(&plain)
        else {
            return None;
        };
        let context = AccessContext {
            client_sap: sap,
            client_title: None,
            user: None,
            mechanism: self.lab.mechanism,
            protection: self.lab.protection,
            is_signed: false,
            is_broadcast: false,
        };
        let value = table.get(AttributeRequest { context: &context, attribute, selection });
        let Ok(Value::Encoded(value)) = value else { return None };
        let apdu = GetResponse::Normal { invoke_id, result: Ok(&value) }.to_bytes();
        let seal = Operation::Seal {
            carrier: Carrier::Glo,
            protection: self.lab.protection,
            signing: Signing::None,
            peer: None,
            apdu,
        };
        match keys.perform(client.handle, &seal, &mut client.local) {
            Ok(Done::Bytes(answer)) => Some(answer),
            _ => None,
        }
    }

    /// Remembers challenges; sends one of its own that comes back once more.
    fn reflected(&self, client: &Client, answer: Vec<u8>) -> Vec<u8> {
        if answer.first() != Some(&AARE) {
            return answer;
        }
        let Ok(aare) = Aare::from_bytes(&answer) else { return answer };
        let Some(challenge) = aare.authentication else { return answer };
        let mut core = self.core();
        let is_own = core.issued.contains(&client.challenge);
        core.issued.insert(challenge.to_vec());
        match is_own && self.is(Weakness::ChallengeReflected) {
            true => Aare { authentication: Some(&client.challenge), ..aare }.to_bytes(),
            false => answer,
        }
    }

    fn feed(&self, client: &mut Client, input: Input<'_>) -> Vec<Vec<u8>> {
        let core = &mut *self.core();
        core.table.last_counter = core.keys.last_counter;
        let mut answers = Vec::new();
        let _ = client.server.handle(tick_now(), input, &mut core.table);
        while let Some(output) = client.server.poll() {
            match output {
                Output::Transmit(apdu) => answers.push(apdu),
                Output::Crypto(handle, id, operation) => {
                    let operation = self.announcing(operation);
                    let result = core.keys.perform(handle, &operation, &mut client.local);
                    if operation != Operation::End {
                        let done = Input::CryptoDone(id, result);
                        let _ = client.server.handle(tick_now(), done, &mut core.table);
                    }
                }
                Output::Event(Event::Refused(_)) if !self.is(Weakness::AttemptsUncounted) => {
                    core.table.refused = core.table.refused.saturating_add(1);
                }
                _ => {}
            }
        }
        answers
    }

    /// A meter that keeps to no size announces one all the same.
    fn announcing(&self, operation: Operation) -> Operation {
        match operation {
            Operation::Seal { carrier, protection, signing, peer, mut apdu }
                if self.is(Weakness::PduOverlong) && apdu.first() == Some(&tag::INITIATE_RESPONSE) =>
            {
                let at = apdu.len().saturating_sub(4);
                if let Some([high, low]) = apdu.get_mut(at..at.saturating_add(2)) {
                    [*high, *low] = ANNOUNCED.to_be_bytes();
                }
                Operation::Seal { carrier, protection, signing, peer, apdu }
            }
            other => other,
        }
    }
}
