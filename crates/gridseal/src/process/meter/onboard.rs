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
use gridseal_types::UtcTime;

use super::Meter;
use crate::{
    config::Firmware,
    files::{parse_public_key, parse_voucher_key},
    observe::Observer,
    process::endpoint_manager::host_of,
};

/// Longest wait for one answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer, bytes.
const ANSWER_SIZE_MAX: usize = 64 * 1024;

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

/// The device machine with its connections.
pub struct Shell<'m> {
    meter: &'m Meter,
    machine: Device,
    init: Vec<FieldClient>,
    config: Vec<FieldClient>,
    turn: usize,
    traffic: Traffic,
    /// SHA-256 of the answer that came last, for the log.
    answer: String,
}

impl<'m> Shell<'m> {
    /// A machine with what the flash holds, switched on.
    pub fn start(meter: &'m Meter) -> Result<Self> {
        let mut machine = Device::new(firmware(&meter.firmware, meter.place()?)?, meter.load_record()?);
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
            config: Vec::new(),
            turn: 0,
            traffic: Traffic::default(),
            answer: String::new(),
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

    /// Drives the machine until the meter may go to its terminus.
    pub async fn until_operating(&mut self) -> Result<()> {
        while !self.drain().await? {
            let Some(deadline) = self.machine.deadline() else {
                bail!("the device machine waits for nothing")
            };
            tokio::time::sleep(deadline.since(tick_now()).max(Duration::from_millis(1))).await;
            self.machine.handle(tick_now().max(deadline), Input::Timeout)?;
        }
        Ok(())
    }

    /// After word from the terminus: what it changes is on flash when this returns.
    pub async fn settle(&mut self) -> Result<()> {
        self.drain().await?;
        Ok(())
    }

    /// Does what the machine asks until it waits; whether the meter may go to its terminus.
    async fn drain(&mut self) -> Result<bool> {
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
                Output::Event(Event::Operating { confirmed }) => {
                    self.meter.observer.event("operating", &[("confirmed", &confirmed)]);
                    return Ok(true);
                }
                Output::Event(event) => tell(&self.meter.observer, event, &self.answer),
                _ => {}
            }
        }
        Ok(false)
    }

    async fn exchange(&mut self, peer: Peer, wire: Vec<u8>) -> Result<()> {
        if peer == Peer::ConfigServer && self.config.is_empty() {
            let (urls, pins) = self.machine.config_servers().context("no redirect")?;
            let tls = pinned(pins, Alpn::Http1)?;
            let client = |url: &String| {
                let address = url.trim_start_matches("https://");
                FieldClient::new(address, tls.clone(), host_of(address))
                    .with_limits(CALL_TIMEOUT, ANSWER_SIZE_MAX)
            };
            self.config = urls.iter().map(client).collect();
        }
        let (clients, path) = match peer {
            Peer::InitServer => (&mut self.init, "/gso/v1/init"),
            Peer::ConfigServer => (&mut self.config, "/gso/v1/config"),
        };
        let count = clients.len().max(1);
        let Some(client) = clients.get_mut(self.turn % count) else { bail!("no server is configured") };
        let sent = wire.len();
        let answer = client.post(path, wire).await;
        let answer = answer.ok().filter(|answer| answer.status == 200);
        match answer {
            Some(answer) => {
                self.traffic.round_trips += 1;
                self.traffic.bytes += u64::try_from(sent + answer.body.len())?;
                self.answer = hex::encode(gridseal_crypto::sha256(&[&answer.body]));
                self.machine.handle(tick_now(), Input::Received(&answer.body))?;
            }
            None => {
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
        Event::Unanswered => observer.event("unanswered", &[]),
        Event::RootFailed(error) => observer.event("root-failed", &[("error", &error)]),
        _ => {}
    }
}
