//! The meter's secure channel to its terminus: TLS with the LDevID key in the root, and the pushes in it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use gridseal_api::client::FieldClient;
use gridseal_io::{
    clock::{tick_now, utc_now},
    rng::OsRng,
    tls::{Alpn, ClientTls, Identity, SignError, TlsKey, connect, dateless},
};
use gridseal_meter::{
    Consumption, Event, Input as PushInput, LoadProfile, Output, Push, PushConfig, PushKeys,
};
use gridseal_trust::{
    enrol::{
        device::{DeviceRecord, Input, Installed},
        session::DeliveredObject,
    },
    root::{OwnerKeys, RootReply, RootRequest},
    tpm,
};
use gridseal_types::{SystemTitle, Tick, service::keys::Bytes};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Meter,
    onboard::{ANSWER_SIZE_MAX, CALL_TIMEOUT, Fetched, Shell},
};
use crate::{
    files::{read_if_there, remove, write_atomic},
    process::endpoint_manager::host_of,
};

/// Longest wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A link that lives this long was not refused: a terminus that does not admit a meter closes it at once.
const LINK_STANDS_AFTER: Duration = Duration::from_millis(250);
/// Links that a terminus must refuse before an unconfirmed configuration is given up: as many failures as begin a new
/// session (onboarding 7.6). More would only let the back-off grow to hours when power failed just before C7 was sent.
const REFUSALS_MAX: u32 = gridseal_trust::enrol::device::FAILURES_MAX;

/// Links in a row over which a terminus has said nothing, before a meter takes it that its owner has lost his records: the
/// better part of an hour in the field.
const LOST_LINKS: u32 = 8;
/// Longest pause between two questions for orders that nobody answers, seconds.
const ORDERS_PAUSE_MAX_S: u64 = 3_600;
/// After power came, the first ceiling of the pause doubled so often: a whole town gets power at once.
const START_DOUBLINGS: u32 = 2;

/// What became of a link.
struct Stood {
    /// It was not refused at once.
    stood: bool,
    /// The terminus has said something over it.
    heard: bool,
}

/// Why the meter has left its terminus.
pub enum Left {
    /// It refuses a configuration that was never confirmed.
    Refused,
    /// It refuses a configuration that was confirmed, again and again.
    Lost,
    /// The owner has ordered something after which everything begins anew: another configuration, or the end.
    Ordered,
}

/// Pushes, and asks for orders. When `power_came` the terminus is left in peace for a random time first.
pub async fn run(meter: &Meter, owner: &mut Shell<'_>, power_came: bool) -> Result<Left> {
    let installed = owner.record().installed.clone().context("nothing is installed")?;
    let keys = owner.record().keys.clone().context("no keys were made")?;
    let mut pushing = Pushing::resume(meter, &installed, &keys)?;
    let (mut refusals, mut unheard) = (0, 0);
    let mut turn = 0usize;
    if power_came {
        pushing.pause(START_DOUBLINGS, owner).await?;
    }
    loop {
        // On every connection, and where there is none: a meter that is held reaches its owner all the same.
        pushing.fetch(owner).await?;
        let record = owner.record();
        let is_same = record.installed.as_ref().is_some_and(|now| now.digest == installed.digest);
        if !is_same || record.orders.ending.is_some() {
            return Ok(Left::Ordered);
        }
        if !owner.is_at_work() {
            pushing.rest(owner).await?;
            continue;
        }
        match dial(meter, &installed, &keys, owner.record(), turn).await {
            Ok(link) => {
                let Stood { stood, heard } = pushing.over(link, owner).await?;
                refusals = if stood { 0 } else { refusals + 1 };
                unheard = if heard { 0 } else { unheard + 1 };
            }
            Err(error) => meter.observer.event("terminus-unreachable", &[("error", &format!("{error:#}"))]),
        }
        // The next try goes to the next address.
        turn = turn.wrapping_add(1);
        let confirmed = owner.record().installed.as_ref().is_some_and(|installed| installed.confirmed);
        if refusals >= REFUSALS_MAX && !confirmed {
            return Ok(Left::Refused);
        }
        if unheard >= LOST_LINKS {
            return Ok(Left::Lost);
        }
        if owner.is_at_work() && !pushing.orders_due() {
            pushing.pause(refusals, owner).await?;
        }
    }
}

/// Destroys what the application keeps for an owner: its counters and the rows that were not confirmed.
pub fn wipe(meter: &Meter) -> Result<()> {
    remove(&meter.dir.join(Kept::FILE))
}

/// Clients of the head-end's relay, with the LDevID key in the root.
pub fn relays(meter: &Meter, record: &DeviceRecord) -> Result<Vec<FieldClient>> {
    let installed = record.installed.as_ref().context("nothing is installed")?;
    let keys = record.keys.as_ref().context("no keys were made")?;
    let tls = terminus_tls(meter, installed, keys, record, Alpn::Http1)?;
    let client = |url: &String| {
        let address = url.trim_start_matches("tls://");
        FieldClient::new(address, tls.clone(), host_of(address)).with_limits(CALL_TIMEOUT, ANSWER_SIZE_MAX)
    };
    Ok(installed.terminus_urls.iter().map(client).collect())
}

/// Reaches the terminus once, with the LDevID key in the root, and leaves again.
pub async fn reach(meter: &Meter, record: &DeviceRecord) -> Result<()> {
    let installed = record.installed.as_ref().context("nothing is installed")?;
    let keys = record.keys.as_ref().context("no keys were made")?;
    let mut link = dial(meter, installed, keys, record, 0).await?;
    Ok(link.shutdown().await?)
}

/// Connects to the terminus.
async fn dial(
    meter: &Meter,
    installed: &Installed,
    keys: &OwnerKeys,
    record: &DeviceRecord,
    turn: usize,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>> {
    let tls = terminus_tls(meter, installed, keys, record, Alpn::Raw)?;
    let count = installed.terminus_urls.len().max(1);
    let url = installed.terminus_urls.get(turn % count).context("no terminus")?;
    let address = url.trim_start_matches("tls://");
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(connect(&tls, host_of(address), stream).await?)
}

/// TLS with the terminus: chain to the CA bundle, no calendar but the floor clock, our key in the root.
fn terminus_tls(
    meter: &Meter,
    installed: &Installed,
    keys: &OwnerKeys,
    record: &DeviceRecord,
    alpn: Alpn,
) -> Result<ClientTls> {
    let root = meter.root.clone();
    let tls_blob = keys.tls.clone();
    let public = tpm::tls_key(&keys.tls.public).map_err(|code| anyhow::anyhow!("TLS key: {code}"))?;
    let sign = Arc::new(move |message: &[u8]| {
        match root.perform(RootRequest::Sign { tls: tls_blob.clone(), message: message.to_vec() }) {
            Ok(RootReply::Signature(signature)) => Ok(signature),
            _ => Err(SignError),
        }
    });
    let chain = installed.ldevid_chain.iter().map(|der| der.0.clone()).collect();
    let identity = Identity::new(chain, TlsKey::external(public, sign))?;
    let roots: Vec<Vec<u8>> = installed.ca_bundle.iter().map(|der| der.0.clone()).collect();
    if !installed.terminus_pins.is_empty() {
        // They cannot be checked yet; to go on without them would be to ignore what the owner demands.
        bail!("the configuration pins its terminus, which this version cannot check");
    }
    Ok(dateless(&roots, record.floor, Some(&identity), alpn)?)
}

struct Pushing<'m> {
    meter: &'m Meter,
    machine: Push,
    profile: LoadProfile,
    /// Which delivered keys seal.
    keys: u32,
    /// Of the record that is durable.
    generation: u64,
    reserved: (u32, u64),
    /// When the owner is asked for orders.
    orders_at: Tick,
    /// Questions in a row that nobody answered.
    unheard: u32,
    key_changes: u32,
}

/// What lies on flash: the push record, and the generation that tells it from an older one.
#[derive(Default, minicbor::Encode, minicbor::Decode)]
struct Kept {
    /// The root's counter is at this value, or at the one before it when power failed between the two.
    #[n(0)]
    generation: u64,
    /// Keys and end of the counter values that were reserved last.
    #[n(1)]
    reserved: (u32, u64),
    #[n(2)]
    record: Option<Bytes>,
    /// Key changes since the delivery.
    #[cbor(n(3), default)]
    key_changes: u32,
}

impl Kept {
    const FILE: &str = "push.cbor";

    /// Reads it, and refuses an image that was put back: its counter values may have been used since.
    ///
    /// # Source
    /// Onboarding specification, section 9, attack A37.
    fn load(meter: &Meter, installed: &Installed) -> Result<Self> {
        let RootReply::Described(description) = meter.root.perform(RootRequest::Describe)? else {
            bail!("the root does not describe itself");
        };
        let counter = description.generation;
        let kept = match read_if_there(&meter.dir.join(Self::FILE))? {
            Some(bytes) => minicbor::decode(&bytes).context("push.cbor is no push record")?,
            // Nothing was reserved yet, so the counter has to be where it was when the keys came.
            None => Self { generation: installed.generation, ..Self::default() },
        };
        if kept.record.is_some() && kept.generation == counter.saturating_add(1) {
            meter.root.perform(RootRequest::RaiseGeneration)?;
        } else if kept.generation != counter && (kept.record.is_some() || !installed.is_counting) {
            let code = gridseal_types::Code::Rollback.name();
            let fields: [(&str, &dyn std::fmt::Display); 3] =
                [("code", &code), ("found", &kept.generation), ("counter", &counter)];
            meter.observer.event("refused", &fields);
            bail!("the flash holds an older state than the root has seen: the meter needs new keys");
        }
        Ok(kept)
    }
}

impl<'m> Pushing<'m> {
    fn resume(meter: &'m Meter, installed: &Installed, keys: &OwnerKeys) -> Result<Self> {
        let title = hex::decode(&meter.firmware.system_title)?;
        let system_title = SystemTitle::from_slice(&title).context("system title is not 8 bytes")?;
        let unseal = |id: u8| -> Result<gridseal_crypto::tpm::SealedSecret> {
            let object = installed.key(id).context("a channel key was not delivered")?.clone();
            match meter.root.perform(RootRequest::Unseal { storage: keys.storage.clone(), object })? {
                RootReply::Unsealed(secret) => Ok(secret),
                _ => bail!("the root did not unseal"),
            }
        };
        let push_keys = PushKeys {
            guek: unseal(DeliveredObject::GUEK)?.into_key().context("GUEK has a wrong length")?,
            gak: unseal(DeliveredObject::GAK)?.into_key().context("GAK has a wrong length")?,
            kek: unseal(DeliveredObject::KEK)?.into_key().context("KEK has a wrong length")?,
        };
        let generation = u32::from_be_bytes(*installed.digest.0.first_chunk().context("digest")?);
        let config = PushConfig { system_title, key_generation: generation };
        let kept = Kept::load(meter, installed)?;
        let machine = match kept.record {
            None if installed.is_counting => {
                bail!(
                    "push.cbor is gone: which counters these keys have used cannot be known, the meter needs new keys"
                );
            }
            None => Push::begin(config, push_keys),
            Some(bytes) => {
                Push::resume(config, push_keys, &bytes.0).context("push.cbor is no push record")?
            }
        };
        let seed = u64::from_be_bytes(system_title.0);
        let mut profile = LoadProfile::resume(
            meter.firmware.interval_s,
            Consumption::new(seed, meter.firmware.simulated_w),
            machine.last_row(),
        );
        profile.powered_on(meter.powered_at);
        Ok(Self {
            meter,
            machine,
            profile,
            keys: generation,
            generation: kept.generation,
            reserved: kept.reserved,
            orders_at: tick_now(),
            unheard: 0,
            key_changes: kept.key_changes,
        })
    }

    fn orders_due(&self) -> bool {
        tick_now() >= self.orders_at
    }

    /// Asks for orders when it is time to, and sets the time for the next question: when the owner wants it, at the latest
    /// after the period of the firmware; longer and longer while nobody answers.
    async fn fetch(&mut self, owner: &mut Shell<'_>) -> Result<()> {
        if !self.orders_due() {
            return Ok(());
        }
        let Fetched { reached, again_s } = owner.fetch_orders().await?;
        self.unheard = if reached { 0 } else { self.unheard.saturating_add(1) };
        let most_s = self.meter.firmware.orders_every_s.max(1);
        let asked_s = if again_s == 0 { most_s } else { again_s.min(most_s) };
        let ceiling_s = u64::from(asked_s).saturating_mul(1 << self.unheard.min(5)).min(ORDERS_PAUSE_MAX_S);
        // Between half of it and all of it: a fleet does not ask at once.
        let drawn = u64::from_be_bytes(gridseal_crypto::random(&mut OsRng)?);
        let half_ms = ceiling_s.saturating_mul(500).max(1);
        self.orders_at = tick_now() + Duration::from_millis(half_ms + drawn % half_ms);
        Ok(())
    }

    /// A suspended meter measures, and waits for its next question.
    async fn rest(&mut self, owner: &mut Shell<'_>) -> Result<()> {
        let until = self.orders_at;
        self.wait_until(until, owner).await
    }

    /// Makes a record durable. Before the first value of a reservation, or a new key, may be used, the root's counter has
    /// passed the generation of every older record.
    fn persist(&mut self, record: Vec<u8>, reserved_end: u64, key_changes: u32) -> Result<()> {
        let reserved = (self.keys, reserved_end);
        let is_new = (reserved, key_changes) != (self.reserved, self.key_changes);
        let generation = self.generation.saturating_add(u64::from(is_new));
        let kept = Kept { generation, reserved, record: Some(Bytes(record)), key_changes };
        write_atomic(&self.meter.dir.join(Kept::FILE), &minicbor::to_vec(&kept)?)?;
        if is_new {
            self.meter.root.perform(RootRequest::RaiseGeneration)?;
            (self.generation, self.reserved, self.key_changes) = (generation, reserved, key_changes);
        }
        Ok(())
    }

    /// Pushes over one link until it breaks.
    async fn over<L: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        mut link: L,
        owner: &mut Shell<'_>,
    ) -> Result<Stood> {
        self.machine.handle(tick_now(), PushInput::Connected)?;
        let began = tick_now();
        let digest =
            owner.record().installed.as_ref().map(|now| now.digest).context("nothing is installed")?;
        let mut has_heard = false;
        let mut buffer = vec![0; 4_096];
        loop {
            if !self.drain(Some(&mut link), owner).await? {
                break;
            }
            let wait = self.next_wait();
            tokio::select! {
                read = link.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(count) => {
                        if !has_heard {
                            has_heard = true;
                            // A terminus that the CA bundle authenticates has answered: as good as the last word.
                            self.meter.observer.event("terminus-reached", &[]);
                            owner.tell(Input::TerminusAccepted)?;
                            owner.settle().await?;
                        }
                        let bytes = buffer.get(..count).unwrap_or_default();
                        self.machine.handle(tick_now(), PushInput::Received(bytes))?;
                    }
                },
                () = tokio::time::sleep(wait) => {}
            }
            self.tick()?;
            if self.orders_due() {
                self.fetch(owner).await?;
                let is_same = owner.record().installed.as_ref().is_some_and(|now| now.digest == digest);
                if !is_same || !owner.is_at_work() {
                    break;
                }
            }
        }
        self.machine.handle(tick_now(), PushInput::Disconnected)?;
        self.drain::<L>(None, owner).await?;
        Ok(Stood { stood: has_heard || tick_now().since(began) >= LINK_STANDS_AFTER, heard: has_heard })
    }

    fn next_wait(&self) -> Duration {
        let now = utc_now();
        let capture = self.profile.next_capture_at(now).0.saturating_sub(now.0);
        // Second resolution: look a little more often than the interval ends.
        let capture = Duration::from_millis(capture.saturating_mul(1_000).clamp(50, 500));
        let timer = self.machine.deadline().map_or(capture, |at| at.since(tick_now()));
        let timer = timer.min(self.orders_at.since(tick_now()));
        capture.min(timer).max(Duration::from_millis(1))
    }

    /// Captures what is due and gives the machine its deadline.
    fn tick(&mut self) -> Result<()> {
        if let Some(row) = self.profile.capture(utc_now()) {
            self.machine.handle(tick_now(), PushInput::Captured(row))?;
        }
        let due = self.machine.deadline().filter(|at| *at <= tick_now());
        if due.is_some() {
            self.machine.handle(tick_now(), PushInput::Timeout)?;
        }
        Ok(())
    }

    /// Does what the machine asks. `false` when the link is to be closed.
    async fn drain<L: AsyncWrite + Unpin>(
        &mut self,
        mut link: Option<&mut L>,
        owner: &mut Shell<'_>,
    ) -> Result<bool> {
        let mut alive = true;
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Persist { id, record, reserved_end, key_changes } => {
                    self.persist(record, reserved_end, key_changes)?;
                    if owner.record().installed.as_ref().is_some_and(|installed| !installed.is_counting) {
                        owner.tell(Input::CounterBegun)?;
                        owner.settle().await?;
                    }
                    self.machine.handle(tick_now(), PushInput::Persisted(id))?;
                }
                Output::Transmit(frame) => {
                    if let Some(link) = link.as_deref_mut() {
                        self.meter.observer.event("pushed", &[("frame", &hex::encode(&frame))]);
                        alive &= link.write_all(&frame).await.is_ok() && link.flush().await.is_ok();
                    }
                }
                Output::Random => {
                    self.machine
                        .handle(tick_now(), PushInput::Random(gridseal_crypto::random(&mut OsRng)?))?;
                }
                Output::Event(Event::Confirmed { start }) => {
                    self.meter.observer.event("confirmed", &[("start", &start)]);
                }
                Output::Event(event @ Event::LinkRefused(_)) => {
                    self.meter.observer.event("push", &[("what", &format!("{event:?}"))]);
                    alive = false;
                }
                Output::Event(Event::Sealed { start, invocation_counter }) => {
                    let meter = &self.meter.firmware.system_title;
                    let fields: [(&str, &dyn std::fmt::Display); 3] =
                        [("meter", meter), ("start", &start), ("counter", &invocation_counter)];
                    self.meter.observer.event("sealed", &fields);
                }
                Output::Event(Event::Answered { invocation_counter }) => {
                    let meter = &self.meter.firmware.system_title;
                    self.meter
                        .observer
                        .event("answered", &[("meter", meter), ("counter", &invocation_counter)]);
                }
                Output::Event(Event::KeysChanged { changes }) => {
                    self.meter.observer.event("keys-changed", &[("changes", &changes)]);
                }
                Output::Event(event) => self.meter.observer.event("push", &[("what", &format!("{event:?}"))]),
                _ => {}
            }
        }
        Ok(alive)
    }

    /// Waits before the next try to reach the terminus.
    async fn pause(&mut self, refusals: u32, owner: &mut Shell<'_>) -> Result<()> {
        let ceiling = Duration::from_millis(self.meter.firmware.backoff_ms)
            .saturating_mul(1 << refusals.min(10))
            .min(Duration::from_secs(600));
        let drawn = u64::from_be_bytes(gridseal_crypto::random(&mut OsRng)?);
        let ceiling_ms = u64::try_from(ceiling.as_millis())?.max(1);
        self.wait_until(tick_now() + Duration::from_millis(drawn % ceiling_ms + 1), owner).await
    }

    /// The profile goes on without a link.
    async fn wait_until(&mut self, until: Tick, owner: &mut Shell<'_>) -> Result<()> {
        while tick_now() < until {
            let left = until.since(tick_now());
            tokio::time::sleep(left.min(Duration::from_millis(500))).await;
            if let Some(row) = self.profile.capture(utc_now()) {
                self.machine.handle(tick_now(), PushInput::Captured(row))?;
                self.drain::<TcpStream>(None, owner).await?;
            }
        }
        Ok(())
    }
}
