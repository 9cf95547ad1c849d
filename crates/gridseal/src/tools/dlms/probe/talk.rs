//! Speaking with a meter that may be anything: each connection is bounded in time and memory, everything that is sent
//! and heard is kept as evidence.

use std::{fmt, time::Duration};

use anyhow::Result;
use gridseal_dlms::{
    acse::{Conformance, Mechanism},
    apdu::{
        carrier::{Carrier, CipheredApdu},
        tag,
    },
    assoc::Protection,
    suite::local::HINT_JUMP_MAX,
};
use gridseal_io::clock::tick_now;
use gridseal_types::{SystemTitle, Tick};

use super::{
    super::channel::{Channel, Ends, Heard},
    raw::{Raw, Seal},
};
use crate::lab::Lab;

/// Largest APDU that is taken, bytes.
const APDU_SIZE_MAX: usize = 65_535;
/// Notifications between request and answer that are passed over.
const NOTIFICATIONS_MAX: usize = 8;
/// Counters that are reserved at once.
const RESERVE: u64 = 1_024;
/// Exchanges that are kept.
const TRACE_MAX: usize = 4_096;
/// Bytes of an APDU that are kept as evidence.
const KEPT_SIZE: usize = 512;
/// Services that are proposed: each is asked for in plain requests, in blocks where the meter wants it.
pub const PROPOSED: Conformance = Conformance::GET
    .and(Conformance::SET)
    .and(Conformance::ACTION)
    .and(Conformance::BLOCK_GET)
    .and(Conformance::SELECTIVE_ACCESS)
    .and(Conformance::MULTIPLE_REFERENCES);

/// Makes durable that no counter below its argument is used again.
pub type Reserve = Box<dyn FnMut(u64)>;

/// How an association is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Client's service access point.
    pub client_sap: u16,
    /// Server's.
    pub server_sap: u16,
    /// Mechanism.
    pub mechanism: Mechanism,
    /// Protection of requests; [`Protection::None`] is the context without ciphering.
    pub protection: Protection,
    /// Suite in the security control octet.
    pub suite: u8,
    /// Our title.
    pub client_title: SystemTitle,
    /// The meter's title.
    pub server_title: SystemTitle,
    /// How protected APDUs are carried.
    pub carrier: Carrier,
    /// Services that are proposed.
    pub conformance: Conformance,
    /// Largest APDU that we say we take, bytes.
    pub max_pdu: u16,
}

impl Setup {
    /// As the lab file says. What this probe does not speak is carried in the nearest form that it does.
    pub fn of(lab: &Lab) -> Self {
        let is_general = matches!(lab.carrier, Carrier::GeneralGlo | Carrier::GeneralDed);
        let general = if is_general { Conformance::GENERAL_PROTECTION } else { Conformance::default() };
        Self {
            client_sap: lab.client_sap,
            server_sap: lab.listen_sap,
            mechanism: lab.mechanism,
            protection: lab.protection,
            suite: lab.suite,
            client_title: lab.client.system_title,
            server_title: lab.server.system_title,
            carrier: if is_general { Carrier::GeneralGlo } else { Carrier::Glo },
            conformance: PROPOSED.and(general),
            max_pdu: lab.max_pdu,
        }
    }

    /// Whom anybody may be: client 16, no mechanism, nothing protected.
    pub const fn public(self) -> Self {
        Self { client_sap: 16, mechanism: Mechanism::None, protection: Protection::None, ..self }
    }

    /// Whether the context is the one with ciphering.
    pub fn is_ciphered(&self) -> bool {
        self.protection != Protection::None
    }

    /// The security control octet of a protection.
    pub const fn control(&self, protection: Protection) -> u8 {
        protection.bits() | self.suite
    }
}

/// What came after a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An APDU.
    Apdu(Vec<u8>),
    /// The meter closed the connection.
    Closed,
    /// Nothing, in the time given.
    Silent,
    /// Bytes that are none of this transport.
    Garbage(String),
}

impl Reply {
    /// The APDU, if one came.
    pub fn apdu(&self) -> Option<&[u8]> {
        match self {
            Self::Apdu(apdu) => Some(apdu),
            _ => None,
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apdu(apdu) => f.write_str(&shown(apdu)),
            Self::Closed => f.write_str("(connection closed)"),
            Self::Silent => f.write_str("(no answer)"),
            Self::Garbage(what) => write!(f, "({what})"),
        }
    }
}

/// Hex; long ones cut.
fn shown(bytes: &[u8]) -> String {
    match bytes.get(..KEPT_SIZE) {
        Some(begin) if bytes.len() > KEPT_SIZE => format!("{}.. ({} bytes)", hex::encode(begin), bytes.len()),
        _ => hex::encode(bytes),
    }
}

/// What was sent and what came back, in hex; passwords taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// What was tried with it.
    pub what: String,
    /// Sent.
    pub request: String,
    /// Came back.
    pub reply: String,
}

/// A connection to the meter, and what its association agreed upon.
pub struct Talk {
    channel: Channel,
    /// How it was asked for.
    pub setup: Setup,
}

/// What a reply is once the protection is off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// The APDU.
    pub apdu: Vec<u8>,
    /// How it was protected.
    pub protection: Protection,
    /// The meter's counter, where it was protected.
    pub counter: Option<u32>,
}

/// Whoever probes: the keys, the counter, the clock, the evidence.
pub struct Prober<'l> {
    /// The lab file.
    pub lab: &'l Lab,
    /// Its keys.
    pub raw: Box<dyn Raw>,
    address: String,
    is_hdlc: bool,
    timeout: Duration,
    until: Tick,
    /// Where our counters began.
    pub first_counter: u32,
    counter: u32,
    reserved: u64,
    reserve: Reserve,
    trace: Vec<Exchange>,
    /// Counters that the meter has used, by association, in their order.
    pub seen: Vec<Vec<u32>>,
    /// Connections that could not be opened, since the last one that could.
    failed: u32,
    /// What is told on a terminal.
    pub progress: fn(&str),
}

/// Where the meter is.
#[derive(Debug, Clone)]
pub struct Target {
    /// host:port.
    pub address: String,
    /// HDLC instead of the wrapper.
    pub is_hdlc: bool,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// How long everything may take.
    pub limit: Duration,
}

impl<'l> Prober<'l> {
    /// With the keys of a lab file; the first counter is `counter`, and `reserve` makes ends of counters durable.
    pub fn new(lab: &'l Lab, raw: Box<dyn Raw>, target: &Target, (counter, reserve): (u32, Reserve)) -> Self {
        Self {
            lab,
            raw,
            address: target.address.clone(),
            is_hdlc: target.is_hdlc,
            timeout: target.timeout,
            until: tick_now().after(target.limit),
            first_counter: counter,
            counter,
            reserved: 0,
            reserve,
            trace: Vec::new(),
            seen: Vec::new(),
            failed: 0,
            progress: |_| {},
        }
    }

    /// Whether everything has taken too long, or the meter is gone for good.
    pub fn is_over(&self) -> bool {
        tick_now() >= self.until || self.failed >= 3
    }

    /// host:port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether HDLC is spoken.
    pub const fn is_hdlc(&self) -> bool {
        self.is_hdlc
    }

    /// How long an answer is waited for.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A counter that was never used, and is above all that were.
    pub fn next_counter(&mut self) -> u32 {
        let counter = self.counter;
        if u64::from(counter) >= self.reserved {
            // Durable before it is used (rule S1).
            self.reserved = u64::from(counter).saturating_add(RESERVE);
            (self.reserve)(self.reserved);
        }
        self.counter = counter.saturating_add(1);
        counter
    }

    /// Goes on above what the meter says that it has seen: a hint of anybody, which lowers nothing and moves nothing far.
    ///
    /// # Errors
    /// Why it is not followed.
    pub fn follow(&mut self, seen: u32) -> Result<(), &'static str> {
        if seen < self.counter {
            return Err("which explains nothing");
        }
        if u64::from(seen.abs_diff(self.counter)) > HINT_JUMP_MAX {
            return Err("which is too far ahead to be believed");
        }
        self.counter = seen.saturating_add(1);
        Ok(())
    }

    /// Where the evidence stands now.
    pub fn mark(&self) -> usize {
        self.trace.len()
    }

    /// Evidence since a mark: at most the last `count` exchanges.
    pub fn evidence(&self, mark: usize, count: usize) -> Vec<Exchange> {
        let since = self.trace.get(mark..).unwrap_or_default();
        since.get(since.len().saturating_sub(count)..).unwrap_or_default().to_vec()
    }

    /// The last exchange of a kind.
    pub fn last(&self, is_wanted: impl Fn(&Exchange) -> bool) -> Vec<Exchange> {
        self.trace.iter().rev().find(|exchange| is_wanted(exchange)).cloned().into_iter().collect()
    }

    /// Adds to the evidence what went another way.
    pub fn note(&mut self, what: &str, request: &[u8], reply: &str) {
        if self.trace.len() < TRACE_MAX {
            self.trace.push(Exchange { what: what.into(), request: shown(request), reply: reply.into() });
        }
    }

    /// A fresh connection.
    pub async fn connect(&mut self, setup: Setup) -> Result<Talk> {
        let ends = Ends {
            client_sap: setup.client_sap,
            server_sap: setup.server_sap,
            is_hdlc: self.is_hdlc,
            apdu_size_max: APDU_SIZE_MAX,
            timeout: self.timeout,
        };
        let opened = tokio::time::timeout(self.timeout.saturating_mul(2), Channel::open(&self.address, ends));
        let channel = opened.await.map_err(anyhow::Error::from).and_then(|opened| opened);
        self.failed = if channel.is_ok() { 0 } else { self.failed.saturating_add(1) };
        Ok(Talk { channel: channel?, setup })
    }

    /// Sends and waits. `hidden` is cut out of the evidence.
    pub async fn exchange(&mut self, talk: &mut Talk, what: &str, apdu: &[u8], hidden: &[u8]) -> Reply {
        let until = tick_now().after(self.timeout).min(self.until);
        let reply = self.answer(talk, apdu.to_vec(), until).await;
        let mut request = shown(apdu);
        if !hidden.is_empty() {
            request =
                request.replace(&hex::encode(hidden), &format!("<{} bytes of a password>", hidden.len()));
        }
        if self.trace.len() < TRACE_MAX {
            self.trace.push(Exchange { what: what.into(), request, reply: reply.to_string() });
        }
        reply
    }

    async fn answer(&self, talk: &mut Talk, apdu: Vec<u8>, until: Tick) -> Reply {
        let channel = &mut talk.channel;
        let sent = tokio::time::timeout(self.timeout, channel.send(apdu)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return Reply::Closed;
        }
        for _ in 0..NOTIFICATIONS_MAX {
            // The channel knows its deadline; a link that waits for its own is cut off here.
            let patience = until.since(tick_now()).saturating_add(Duration::from_millis(500));
            let heard = match tokio::time::timeout(patience, channel.receive(until)).await {
                Err(_) => return Reply::Silent,
                Ok(Err(error)) => return Reply::Garbage(format!("{error:#}")),
                Ok(Ok(heard)) => heard,
            };
            match heard {
                Heard::Apdu(apdu) if apdu.first() == Some(&tag::DATA_NOTIFICATION) => {}
                Heard::Apdu(apdu) => return Reply::Apdu(apdu),
                Heard::Nothing => return Reply::Silent,
                Heard::Closed(_) => return Reply::Closed,
            }
        }
        Reply::Garbage("notifications without an end".into())
    }

    /// Protects a request as an honest client would; with a counter of its own where one is given.
    pub fn sealed(
        &mut self,
        setup: &Setup,
        plain: &[u8],
        protection: Protection,
        counter: Option<u32>,
    ) -> Vec<u8> {
        if protection == Protection::None {
            return plain.to_vec();
        }
        let counter = counter.unwrap_or_else(|| self.next_counter());
        let seal = Seal { control: setup.control(protection), title: setup.client_title, counter };
        let tag = plain.first().copied().unwrap_or_default();
        let body = self.raw.seal(seal, plain);
        body.and_then(|body| seal.carried(setup.carrier, tag, &body)).unwrap_or_else(|| plain.to_vec())
    }

    /// Takes the protection off; `None` when the tag is wrong.
    pub fn open(&mut self, setup: &Setup, apdu: &[u8]) -> Option<Plain> {
        let first = apdu.first().copied()?;
        if !CipheredApdu::is_carrier(first) {
            return Some(Plain { apdu: apdu.to_vec(), protection: Protection::None, counter: None });
        }
        let ciphered = CipheredApdu::from_bytes(apdu).ok()?;
        let control = ciphered.protected.security_control;
        let counter = ciphered.protected.invocation_counter;
        let title = ciphered.system_title.unwrap_or(setup.server_title);
        let seal = Seal { control: control.0, title, counter };
        let plain = self.raw.open(seal, ciphered.protected.body)?;
        if let Some(association) = self.seen.last_mut() {
            association.push(counter);
        }
        Some(Plain { apdu: plain, protection: Protection::of(control), counter: Some(counter) })
    }
}
