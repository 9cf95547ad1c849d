//! The meter's way to its owner: the shell around the device machine.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use gridseal_api::client::FieldClient;
use gridseal_io::{
    clock::tick_now,
    rng::OsRng,
    tls::{Alpn, dateless, pinned},
};
use gridseal_trust::enrol::device::{self, Device, DeviceRecord, Event, Input, Output, Pace, Peer};
use gridseal_types::{Code, Digest, UtcTime};

use super::{Meter, push};
use crate::{
    config::Firmware,
    files::{parse_public_key, parse_voucher_key},
    observe::Observer,
    process::endpoint_manager::host_of,
};

/// Longest wait for one answer.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer, bytes.
pub(super) const ANSWER_SIZE_MAX: usize = 64 * 1024;
/// Where a config server, and a head-end beside its meters' links, take messages for the owner.
const RELAY: &str = "/gso/v1/config";

/// What the exchanges took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// Messages that were answered.
    pub round_trips: u64,
    /// Bytes of messages and answers.
    pub bytes: u64,
}

/// The machine's firmware as the file has it.
pub fn firmware(file: &Firmware, place: Option<String>) -> Result<device::Firmware> {
    let keys = |list: &[String]| list.iter().map(|key| parse_public_key(key)).collect::<Result<Vec<_>>>();
    let first = Duration::from_millis(file.backoff_ms);
    Ok(device::Firmware {
        init_keys: keys(&file.init_keys)?,
        voucher_keys: file.voucher_keys.iter().map(|key| parse_voucher_key(key)).collect::<Result<_>>()?,
        subject: file.serial.clone(),
        pace: Pace { first, ..Pace::FIELD },
        place,
    })
}

/// Clients of the servers at these addresses and with these pins.
struct Servers {
    of: (Vec<String>, Vec<Digest>),
    clients: Vec<FieldClient>,
}

impl Servers {
    fn new(of: (Vec<String>, Vec<Digest>)) -> Result<Self> {
        let (urls, pins) = &of;
        let tls = pinned(pins.clone(), Alpn::Http1)?;
        let client = |url: &String| {
            let address = url.trim_start_matches("https://");
            FieldClient::new(address, tls.clone(), host_of(address))
                .with_limits(CALL_TIMEOUT, ANSWER_SIZE_MAX)
        };
        Ok(Self { clients: urls.iter().map(client).collect(), of })
    }

    /// Those that are wanted now; new ones only when addresses or pins are others.
    fn reach(kept: &mut Option<Self>, of: (Vec<String>, Vec<Digest>)) -> Result<&mut Vec<FieldClient>> {
        let servers = match kept.take().filter(|servers| servers.of == of) {
            Some(servers) => servers,
            None => Self::new(of)?,
        };
        Ok(&mut kept.insert(servers).clients)
    }
}

/// The device machine with its connections.
pub struct Shell<'m> {
    meter: &'m Meter,
    machine: Device,
    init: Vec<FieldClient>,
    config: Option<Servers>,
    former: Option<Servers>,
    turn: usize,
    traffic: Traffic,
    /// SHA-256 of the answer that came last, for the log.
    answer: String,
    is_operating: bool,
    is_decommissioned: bool,
    /// Outcome of the last exchange about orders.
    fetched: Fetched,
}

/// What came of a question for orders.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fetched {
    /// Whether the owner has answered.
    pub reached: bool,
    /// When he wants to be asked again, seconds; 0 where he does not say.
    pub again_s: u32,
}

impl<'m> Shell<'m> {
    /// A machine with what the flash holds, switched on, maybe with the button held.
    pub fn start(meter: &'m Meter, button: bool) -> Result<Self> {
        let mut machine = Device::new(firmware(&meter.firmware, meter.place()?)?, meter.load_record()?);
        if button {
            machine.handle(tick_now(), Input::Presence)?;
        }
        machine.handle(tick_now(), Input::Start)?;
        let (_, ca) = der::pem::decode_vec(meter.firmware.init_server_ca.trim().as_bytes())
            .map_err(|error| anyhow::anyhow!("init_server_ca is not PEM: {error}"))?;
        // A meter without a clock cannot use dates; K_init and this CA serve the oldest firmware in any warehouse.
        let tls = dateless(&[ca], UtcTime(0), None, Alpn::Http1)?;
        let init = meter.firmware.init_servers.iter().map(|url| {
            let address = url.trim_start_matches("https://");
            FieldClient::new(address, tls.clone(), host_of(address))
                .with_limits(CALL_TIMEOUT, ANSWER_SIZE_MAX)
        });
        Ok(Self {
            meter,
            init: init.collect(),
            machine,
            config: None,
            former: None,
            turn: 0,
            traffic: Traffic::default(),
            answer: String::new(),
            is_operating: false,
            is_decommissioned: false,
            fetched: Fetched::default(),
        })
    }

    /// What the flash holds.
    pub const fn record(&self) -> &DeviceRecord {
        self.machine.record()
    }

    /// What the exchanges took so far.
    pub const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Tells the machine what happened elsewhere; [`Shell::until_operating`] goes on from there.
    pub fn tell(&mut self, input: Input<'_>) -> Result<()> {
        Ok(self.machine.handle(tick_now(), input)?)
    }

    /// Whether the meter works for its owner: not suspended, and no end of the ownership is ordered.
    pub const fn is_at_work(&self) -> bool {
        self.machine.is_at_work()
    }

    /// Drives the machine until the meter may go to its terminus. `false` when it never may again.
    pub async fn until_operating(&mut self) -> Result<bool> {
        loop {
            self.drain().await?;
            if self.is_decommissioned || self.is_operating {
                return Ok(!self.is_decommissioned);
            }
            let Some(deadline) = self.machine.deadline() else {
                bail!("the device machine waits for nothing")
            };
            tokio::time::sleep(deadline.since(tick_now()).max(Duration::from_millis(1))).await;
            self.machine.handle(tick_now().max(deadline), Input::Timeout)?;
        }
    }

    /// After word from the terminus: what it changes is on flash when this returns.
    pub async fn settle(&mut self) -> Result<()> {
        self.drain().await
    }

    /// Asks the owner for orders, and carries out what he gives.
    pub async fn fetch_orders(&mut self) -> Result<Fetched> {
        self.fetched = Fetched::default();
        self.tell(Input::FetchOrders)?;
        self.drain().await?;
        Ok(self.fetched)
    }

    /// Does what the machine asks until it waits.
    async fn drain(&mut self) -> Result<()> {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Root(request) => {
                    let reply = self.meter.root.perform(request);
                    self.machine.handle(tick_now(), Input::Root(reply))?;
                }
                Output::Random(length) => {
                    let mut bytes = vec![0; length];
                    gridseal_crypto::Rng::fill(&mut OsRng, &mut bytes)?;
                    self.machine.handle(tick_now(), Input::Random(&bytes))?;
                }
                Output::Persist => {
                    self.meter.store_record(self.machine.record())?;
                    self.machine.handle(tick_now(), Input::Persisted)?;
                }
                Output::Transmit(peer, wire) => self.exchange(peer, wire).await?,
                Output::Wipe => {
                    push::wipe(self.meter)?;
                    self.machine.handle(tick_now(), Input::Wiped)?;
                }
                Output::Event(event) => {
                    match event {
                        Event::Decommissioned => self.is_decommissioned = true,
                        Event::OrdersFetched { reached, again_s } => {
                            self.fetched = Fetched { reached, again_s };
                        }
                        _ => {}
                    }
                    tell(&self.meter.observer, event, &self.answer);
                }
                _ => {}
            }
        }
        self.is_operating = self.machine.is_operating();
        Ok(())
    }

    async fn exchange(&mut self, peer: Peer, wire: Vec<u8>) -> Result<()> {
        let mut headend;
        let (clients, path) = match peer {
            Peer::InitServer => (&mut self.init, "/gso/v1/init"),
            Peer::ConfigServer => {
                let servers = self.machine.config_servers().context("no redirect")?;
                (Servers::reach(&mut self.config, servers)?, RELAY)
            }
            Peer::FormerOwner => {
                let servers = self.machine.former_owner().context("no owner before")?;
                (Servers::reach(&mut self.former, servers)?, RELAY)
            }
            // A connection of its own: what it is signed with may be replaced by the next order.
            Peer::HeadEnd => match push::relays(self.meter, self.machine.record()) {
                Ok(relays) => {
                    headend = relays;
                    (&mut headend, RELAY)
                }
                Err(error) => {
                    self.meter.observer.event("terminus-unreachable", &[("error", &format!("{error:#}"))]);
                    return Ok(self.machine.handle(tick_now(), Input::NoReply)?);
                }
            },
        };
        let count = clients.len().max(1);
        let Some(client) = clients.get_mut(self.turn % count) else { bail!("no server is configured") };
        let sent = wire.len();
        let answer = client.post(path, wire).await;
        match answer.ok() {
            Some(answer) if answer.status == 204 => self.machine.handle(tick_now(), Input::Taken)?,
            Some(answer) if answer.status == 200 => {
                self.traffic.round_trips += 1;
                self.traffic.bytes += u64::try_from(sent + answer.body.len())?;
                self.answer = hex::encode(gridseal_crypto::sha256(&[&answer.body]));
                self.machine.handle(tick_now(), Input::Received(&answer.body))?;
            }
            _ => {
                // The next try goes to the next address.
                self.turn = self.turn.wrapping_add(1);
                self.machine.handle(tick_now(), Input::NoReply)?;
            }
        }
        Ok(())
    }
}

fn tell(observer: &Observer, event: Event, answer: &str) {
    match event {
        Event::OwnerFound => observer.event("owner-found", &[]),
        Event::KeysMade => observer.event("keys-made", &[]),
        Event::Sent(step) => observer.event("sent", &[("message", &format!("C{}", step.number()))]),
        Event::Accepted(step) => observer.event("accepted", &[("message", &format!("C{}", step.number()))]),
        Event::Refused(code) => {
            observer.event("refused", &[("code", &code.name()), ("message", &answer)]);
        }
        Event::Operating { confirmed } => observer.event("operating", &[("confirmed", &confirmed)]),
        Event::OrderAccepted { seq, kind } => {
            observer.event("order-accepted", &[("seq", &seq), ("order", &kind.name())]);
        }
        Event::OrderAnswered { seq, kind, refused } => {
            let code = refused.map_or("", Code::name);
            observer.event("order-answered", &[("seq", &seq), ("order", &kind.name()), ("code", &code)]);
        }
        Event::OwnershipEnded(kind) => observer.event("ownership-ended", &[("order", &kind.name())]),
        Event::Decommissioned => observer.event("decommissioned", &[]),
        Event::RecoveryAccepted => observer.event("recovery-accepted", &[]),
        Event::Recovered => observer.event("recovered", &[]),
        Event::Unanswered => observer.event("unanswered", &[]),
        Event::RootFailed(error) => observer.event("root-failed", &[("error", &error)]),
        _ => {}
    }
}
