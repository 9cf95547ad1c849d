//! `gridseal headend`: the terminus. It holds no meter key: it asks the key service to open what meters send.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use gridseal_api::{
    KeysClient, Refusal,
    client::{Client, keys::verdict_of},
    router::{Access, Peer, Router},
    server::{Guest, Limits},
};
use gridseal_crypto::{Key, Signer, SigningKey, role::ServiceTls};
use gridseal_dlms::apdu::tag;
use gridseal_headend::{
    BatchId, ConnectionId, Event, Ingest, Input, Output, PushModel, ReadingStore,
    admission::{self, AdmissionError, Change, Standing},
    key_change::{self, KeyChanges, Pace, Question},
};
use gridseal_io::{
    clock::{tick_now, utc_now},
    rng::OsRng,
    tls::{Alpn, Identity, ServerTls, TlsKey, accept, server_for_clients},
};
use gridseal_onboarding::config_server::Limits as Rates;
use gridseal_store::{ReadingsError, SqliteReadings};
use gridseal_trust::csr::{assemble_csr, csr_to_be_signed};
use gridseal_types::{
    Digest, SystemTitle, UtcTime,
    service::{
        Batch,
        admission::{Admission, AdmissionReply},
        certificates::{CertificateReply, CertificateRequest},
        keys::{KeyRequest, OpenVerdict},
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

use crate::{
    config,
    files::Zone,
    observe::Observer,
    process::{bind, inner_client, inner_roots, pki, relay::Relay, serve, service_identity},
};

/// Path of the admissions.
pub const PATH: &str = "/headend/v1/admissions";
/// Longest life of the head-end's own TLS key (rule S4), and shortest pause between two of them.
const CERTIFICATE_LIFE_S: u64 = 24 * 3_600;
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);
/// Connections of meters at a time.
const CONNECTIONS_MAX: usize = 65_536;
/// Events that may wait for the ingest machine.
const QUEUE: usize = 4_096;
/// How long a question for orders is held when the endpoint manager is slow.
const ORDERS_HOLD: Duration = Duration::from_secs(20);
/// Frames that may wait for one slow link.
const LINK_QUEUE: usize = 64;

enum Wire {
    Connected(ConnectionId, admission::Served, mpsc::Sender<Vec<u8>>),
    Received(ConnectionId, Vec<u8>),
    Disconnected(ConnectionId),
    Opened(BatchId, Option<Vec<OpenVerdict>>),
    KeyChange(key_change::Input),
    Admitted(Admission),
}

type Store = Arc<Mutex<SqliteReadings>>;

/// Runs the head-end.
pub async fn run(path: &Path) -> Result<()> {
    let (config, dir): (config::Headend, _) = config::load(path)?;
    let observer = Observer::new("headend").with_journal(&dir)?;
    let zone = Zone::open(&dir)?;
    let planted = config.danger_plant.as_ref().map(|file| danger_plant(&dir, &dir.join(file))).transpose()?;
    let store = SqliteReadings::open(dir.join("readings.db"), zone.load_or_generate("readings")?, OsRng)
        .context("cannot open the reading store")?;
    let store: Store = Arc::new(Mutex::new(store));
    let client = inner_client(&zone)?;
    let keys = KeysClient::new(&config.keys.address, client.clone());
    let pki = Client::new(&config.pki.address, client, "pki");
    let inner_tls = server_for_clients(&service_identity(&zone)?, &inner_roots(&dir)?, Alpn::Http2)?;
    drop(zone);

    let (wire, events) = mpsc::channel(QUEUE);
    let (field_tls, renew) = certificate(&pki).await?;
    let (tls_sender, tls) = watch::channel(field_tls);
    let admissions = admissions(Arc::clone(&store), wire.clone(), observer.clone());
    let orders = Relay::new(Rates::DEFAULT, ORDERS_HOLD, config.log_frames, observer.clone())?;
    let router = orders.for_endpoint_manager(admissions);
    let inner = bind(config.listen_inner, inner_tls, router, Limits::INNER).await?;
    let orders = Guest::new(orders.for_devices(Router::new()), Limits::FIELD);
    let listener = TcpListener::bind(config.listen).await?;
    observer.event("listening", &[("side", &"field"), ("address", &listener.local_addr()?)]);
    let shell = Shell {
        machine: Ingest::new(PushModel::load_profile(config.interval_s)),
        changes: KeyChanges::new(pace(&config), tick_now()),
        store: Arc::clone(&store),
        keys,
        wire: wire.clone(),
        links: HashMap::new(),
        observer: observer.clone(),
    };
    tokio::try_join!(
        serve(&observer, "inner", inner),
        accept_meters(listener, tls, (store, wire), orders, observer.clone()),
        shell.run(events),
        renew_always(pki, renew, tls_sender, observer.clone()),
    )?;
    drop(planted);
    Ok(())
}

/// A TLS certificate for the field side, for a key that lives in this process only and at most 24 hours (rule S4).
/// Returns the settings and after what time to renew them.
async fn certificate(pki: &Client) -> Result<(ServerTls, Duration)> {
    let key = SigningKey::new(&Key::<ServiceTls, 32>::generate_scalar(&mut OsRng)?)?;
    let to_be_signed = csr_to_be_signed("headend", &key.public());
    let csr = assemble_csr(&to_be_signed, &key.sign(&to_be_signed)?);
    let request = Batch(vec![CertificateRequest::Server { csr }]);
    let mut waited = Duration::ZERO;
    let reply = loop {
        match pki.call::<_, CertificateReply>(pki::PATH, &request).await {
            Ok(Batch(mut replies)) => break replies.pop().context("empty answer")?,
            Err(error) if waited > Duration::from_secs(30) => {
                return Err(error).context("no certificate authority");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
        waited += Duration::from_millis(200);
    };
    let CertificateReply::Issued { chain, root, not_after } = reply else {
        bail!("the certificate authority issues no certificate for the head-end");
    };
    let identity = Identity::new(chain.into_iter().map(|der| der.0).collect(), TlsKey::software(key))?;
    // HTTP for orders; a meter that names nothing speaks DLMS.
    Ok((server_for_clients(&identity, &[root], Alpn::Http1)?, renew_after(not_after, utc_now())))
}

/// Two thirds of what is left of a certificate. Whatever the calendar says: one that is wrong must neither let it expire nor
/// ask for another all the time (rule S14).
fn renew_after(not_after: UtcTime, now: UtcTime) -> Duration {
    let left_s = not_after.0.saturating_sub(now.0).min(CERTIFICATE_LIFE_S);
    Duration::from_secs(left_s * 2 / 3).max(RENEWAL_PAUSE)
}

async fn renew_always(
    pki: Client,
    mut after: Duration,
    tls: watch::Sender<ServerTls>,
    observer: Observer,
) -> Result<()> {
    loop {
        tokio::time::sleep(after).await;
        match certificate(&pki).await {
            Ok((settings, next)) => {
                tls.send_replace(settings);
                after = next;
                observer.event("certificate-renewed", &[]);
            }
            Err(_) => after = RENEWAL_PAUSE,
        }
    }
}

/// The endpoint manager tells which meters are admitted.
fn admissions(store: Store, wire: mpsc::Sender<Wire>, observer: Observer) -> Router {
    Router::new().serve_batch(
        PATH,
        Access::Services(&["endpoint-manager"]),
        move |_, batch: Vec<Admission>| {
            let (store, wire, observer) = (Arc::clone(&store), wire.clone(), observer.clone());
            async move {
                let (recorded, events) = (batch.clone(), observer.clone());
                let work = move || {
                    let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
                    let change = |one| {
                        let change = admission::record(&mut *store, one).inspect_err(|error| match error {
                            AdmissionError::Store(error) => store_failed(&events, error),
                            other => events.event("admission-refused", &[("error", other)]),
                        });
                        change.ok().map(|change| change == Change::Applied)
                    };
                    recorded.iter().map(change).collect::<Option<Vec<bool>>>()
                };
                let Ok(Some(applied)) = tokio::task::spawn_blocking(work).await else {
                    return Err(Refusal::Busy(Duration::from_secs(1)));
                };
                for (admission, _) in batch.iter().zip(applied).filter(|(_, applied)| *applied) {
                    let (meter, state) = (admission.meter, admission.state.name());
                    observer.event("admission", &[("meter", &meter), ("state", &state)]);
                    let _ = wire.send(Wire::Admitted(admission.clone())).await;
                }
                Ok(batch.iter().map(|_| AdmissionReply::Recorded).collect())
            }
        },
    )
}

/// What could not be stored is not acknowledged, so that it comes again; the operator has to know why.
fn store_failed(observer: &Observer, error: &ReadingsError) {
    observer.event("store-failed", &[("code", &error.code()), ("error", error)]);
}

async fn accept_meters(
    listener: TcpListener,
    tls: watch::Receiver<ServerTls>,
    (store, wire): (Store, mpsc::Sender<Wire>),
    orders: Guest,
    observer: Observer,
) -> Result<()> {
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let mut next = 0;
    loop {
        let (stream, address) = listener.accept().await?;
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (settings, store, wire) = (tls.borrow().clone(), Arc::clone(&store), wire.clone());
        let (observer, connection, orders) = (observer.clone(), ConnectionId(next), orders.clone());
        next += 1;
        tokio::spawn(async move {
            let link = link(connection, (stream, address), &settings, (store, wire, orders), &observer);
            if let Err(refused) = link.await {
                observer.event("link-refused", &[("reason", &refused)]);
            }
            drop(slot);
        });
    }
}

/// One connection: handshake, then what its peer has asked for in it. HTTP is the relay of orders: like the config server it
/// is open to whoever has a certificate of our authority, for what it carries is sealed, and a meter that is held, or whose
/// new key is not known here yet, has to be reached by its owner. Everything else is DLMS, for meters that are admitted.
async fn link(
    connection: ConnectionId,
    (stream, address): (TcpStream, SocketAddr),
    tls: &ServerTls,
    (store, wire, orders): (Store, mpsc::Sender<Wire>, Guest),
    observer: &Observer,
) -> Result<(), &'static str> {
    stream.set_nodelay(true).map_err(|_| "socket")?;
    let (stream, certificate) = accept(tls, stream).await.map_err(|_| "handshake")?;
    let certificate = certificate.ok_or("no certificate")?;
    if stream.get_ref().1.alpn_protocol() == Some(b"http/1.1") {
        observer.event("orders-connected", &[]);
        orders.serve(stream, Peer { address, certificate: Some(Arc::new(certificate)) }).await;
        return Ok(());
    }
    meter(connection, (stream, certificate.spki), (store, wire), observer).await
}

/// One link of a meter: admission, then bytes both ways.
async fn meter<S: AsyncRead + AsyncWrite + Unpin>(
    connection: ConnectionId,
    (mut stream, key): (S, Digest),
    (store, wire): (Store, mpsc::Sender<Wire>),
    observer: &Observer,
) -> Result<(), &'static str> {
    let lookup = move || {
        let store = store.lock().unwrap_or_else(PoisonError::into_inner);
        admission::lookup(&*store, &key).ok()
    };
    let served = match tokio::task::spawn_blocking(lookup).await.ok().flatten() {
        Some(Standing::Served(served)) => served,
        Some(Standing::Held { .. }) => return Err("state"),
        _ => return Err("not admitted"),
    };
    observer.event("meter-connected", &[("meter", &served.meter())]);
    let (to_meter, mut frames) = mpsc::channel::<Vec<u8>>(LINK_QUEUE);
    wire.send(Wire::Connected(connection, served, to_meter)).await.map_err(|_| "stopping")?;
    let mut buffer = vec![0; 4_096];
    let result = loop {
        tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(0) | Err(_) => break Ok(()),
                Ok(count) => {
                    let Some(bytes) = buffer.get(..count) else { break Err("read") };
                    if wire.send(Wire::Received(connection, bytes.to_vec())).await.is_err() {
                        break Err("stopping");
                    }
                }
            },
            frame = frames.recv() => match frame {
                // The machine closes a link by dropping its sender.
                None => break Ok(()),
                Some(frame) => if stream.write_all(&frame).await.is_err() || stream.flush().await.is_err() {
                    break Ok(());
                },
            },
        }
    };
    let _ = stream.shutdown().await;
    let _ = wire.send(Wire::Disconnected(connection)).await;
    result
}

/// How long is waited in key changes.
fn pace(config: &config::Headend) -> Pace {
    let pace = Pace::of_interval(config.interval_s);
    match config.key_change_pace_ms {
        None => pace,
        Some(ms) => {
            let poll = Duration::from_millis(ms.max(10));
            Pace { poll, answer: poll * 6, rest: poll * 6, proof: (poll * 12).min(pace.proof) }
        }
    }
}

struct Shell {
    machine: Ingest,
    changes: KeyChanges,
    store: Store,
    keys: KeysClient,
    wire: mpsc::Sender<Wire>,
    links: HashMap<ConnectionId, mpsc::Sender<Vec<u8>>>,
    observer: Observer,
}

impl Shell {
    async fn run(mut self, mut events: mpsc::Receiver<Wire>) -> Result<()> {
        loop {
            let deadline = self.machine.deadline().into_iter().chain(self.changes.deadline()).min();
            let wait = deadline.map(|at| at.since(tick_now()));
            let event = match wait {
                None => events.recv().await,
                Some(wait) => match tokio::time::timeout(wait, events.recv()).await {
                    Ok(event) => event,
                    Err(_) => {
                        self.machine.handle(tick_now(), Input::Timeout)?;
                        self.changes.handle(tick_now(), key_change::Input::Timeout);
                        self.drain().await?;
                        continue;
                    }
                },
            };
            let Some(event) = event else { return Ok(()) };
            self.take(event)?;
            // What has arrived meanwhile goes into the same round: one batch, one commit.
            while let Ok(event) = events.try_recv() {
                self.take(event)?;
            }
            self.drain().await?;
        }
    }

    fn take(&mut self, event: Wire) -> Result<()> {
        let now = tick_now();
        match event {
            Wire::Connected(connection, served, sender) => {
                self.links.insert(connection, sender);
                self.changes.handle(now, key_change::Input::Connected { connection, meter: served.meter() });
                self.machine.handle(now, Input::Connected { connection, served })?;
            }
            Wire::Received(connection, bytes) => {
                self.machine.handle(now, Input::Received { connection, bytes: &bytes })?;
            }
            Wire::Disconnected(connection) => {
                self.links.remove(&connection);
                self.changes.handle(now, key_change::Input::Disconnected { connection });
                self.machine.handle(now, Input::Disconnected { connection })?;
            }
            Wire::Opened(batch, Some(verdicts)) => {
                if self.machine.handle(now, Input::Opened { batch, verdicts, at: utc_now() }).is_err() {
                    self.machine.handle(now, Input::OpenFailed { batch })?;
                }
            }
            Wire::Opened(batch, None) => self.machine.handle(now, Input::OpenFailed { batch })?,
            Wire::KeyChange(input) => self.changes.handle(now, input),
            Wire::Admitted(admission) => self.machine.handle(now, Input::Admitted(&admission))?,
        }
        Ok(())
    }

    async fn drain(&mut self) -> Result<()> {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Open { batch, apdus } => self.open(batch, apdus),
                Output::Store { batch, readings } => {
                    let (store, observer) = (Arc::clone(&self.store), self.observer.clone());
                    let work = move || {
                        let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
                        let stored = ReadingStore::store(&mut *store, &readings);
                        stored.inspect_err(|error| store_failed(&observer, error)).ok()
                    };
                    let input = match tokio::task::spawn_blocking(work).await.ok().flatten() {
                        Some(outcomes) => Input::Stored { batch, outcomes },
                        None => Input::StoreFailed { batch },
                    };
                    self.machine.handle(tick_now(), input)?;
                }
                Output::Acknowledge { connection, frame } => {
                    if let Some(link) = self.links.get(&connection) {
                        // A link that does not take its acknowledgements loses them; the meter repeats.
                        let _ = link.try_send(frame);
                    }
                }
                Output::Response { connection, apdu, plain } => {
                    let is_action = plain.first() == Some(&tag::ACTION_RESPONSE);
                    let input = key_change::Input::Response { connection, apdu, is_action };
                    self.changes.handle(tick_now(), input);
                }
                Output::Close { connection, .. } => {
                    self.links.remove(&connection);
                    self.changes.handle(tick_now(), key_change::Input::Disconnected { connection });
                }
                Output::Event(event) => self.tell(&event),
                _ => {}
            }
        }
        while let Some(output) = self.changes.poll() {
            self.change_keys(output);
        }
        Ok(())
    }

    fn change_keys(&self, output: key_change::Output) {
        match output {
            key_change::Output::Poll { after } => {
                let (keys, wire) = (self.keys.clone(), self.wire.clone());
                tokio::spawn(async move {
                    let answer = keys.pending_changes(after).await.ok();
                    let _ = wire.send(Wire::KeyChange(key_change::Input::Pending { after, answer })).await;
                });
            }
            key_change::Output::Ask { meter, question } => self.ask(meter, question),
            key_change::Output::Transmit { connection, frame } => {
                if let Some(link) = self.links.get(&connection) {
                    self.observer.event("to-meter", &[("frame", &hex::encode(&frame))]);
                    let _ = link.try_send(frame);
                }
            }
            key_change::Output::Phase { meter, phase } => {
                self.observer.event("key-change", &[("meter", &meter), ("phase", &phase)]);
            }
            key_change::Output::Resolved { meter } => {
                self.observer.event("key-change", &[("meter", &meter), ("phase", &"resolved")]);
            }
        }
    }

    fn ask(&self, meter: SystemTitle, question: Question) {
        let (keys, wire, observer) = (self.keys.clone(), self.wire.clone(), self.observer.clone());
        tokio::spawn(async move {
            let denied = |error: &gridseal_api::KeysCallError| {
                observer.event("key-change-denied", &[("meter", &meter), ("code", &error.name())]);
            };
            let input = match question {
                Question::Probe => {
                    let probes = keys.probe_plan(meter).await.inspect_err(denied).unwrap_or_default();
                    key_change::Input::Probes { meter, probes }
                }
                Question::Continue => {
                    let reply = keys.begin_key_change(meter, Vec::new()).await.inspect_err(denied).ok();
                    key_change::Input::Change { meter, reply }
                }
                Question::Report { change, outcome } => {
                    let reply = keys.report_key_change(change, outcome).await.inspect_err(denied).ok();
                    key_change::Input::Change { meter, reply }
                }
            };
            let _ = wire.send(Wire::KeyChange(input)).await;
        });
    }

    fn open(&self, batch: BatchId, apdus: Vec<Vec<u8>>) {
        let (keys, wire, observer) = (self.keys.clone(), self.wire.clone(), self.observer.clone());
        for apdu in &apdus {
            self.observer.event("frame", &[("apdu", &hex::encode(apdu))]);
        }
        tokio::spawn(async move {
            let requests = apdus.into_iter().map(|apdu| KeyRequest::OpenApdu { apdu }).collect();
            // What is denied, as by a site that is fenced, has no verdict: the whole batch is shown again later.
            let verdicts = match keys.batch(requests).await {
                Ok(replies) => replies
                    .into_iter()
                    .map(verdict_of)
                    .collect::<Result<_, _>>()
                    .inspect_err(|error| {
                        observer.event("keys-denied", &[("code", &error.name())]);
                    })
                    .ok(),
                Err(_) => None,
            };
            let _ = wire.send(Wire::Opened(batch, verdicts)).await;
        });
    }

    fn tell(&self, event: &Event) {
        match event {
            Event::Refused { meter, reason } => {
                self.observer.event("frame-refused", &[("meter", meter), ("reason", reason)]);
            }
            Event::Stored { stored, duplicates } => {
                self.observer.event("stored", &[("readings", stored), ("duplicates", duplicates)]);
            }
            other => self.observer.event("ingest", &[("what", &format!("{other:?}"))]),
        }
    }
}

/// Keeps given keys in memory and in a file, in three spellings, so that a search proves that it can find them.
struct Planted {
    _raw: Vec<Vec<u8>>,
}

fn danger_plant(dir: &Path, file: &Path) -> Result<Planted> {
    let keys: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(&crate::files::read(file)?)?;
    let raw = keys.values().map(hex::decode).collect::<Result<Vec<_>, _>>()?;
    crate::files::write_atomic(&dir.join("planted.bin"), &raw.concat())?;
    Ok(Planted { _raw: raw })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s14_a_wrong_clock_neither_lets_the_certificate_expire_nor_asks_for_one_all_the_time() {
        let day = 86_400;
        let issued = UtcTime(1_800_000_000);
        let end = UtcTime(issued.0 + day);
        assert_eq!(renew_after(end, issued), Duration::from_secs(day * 2 / 3));
        assert_eq!(renew_after(end, UtcTime(0)), Duration::from_secs(day * 2 / 3), "1970");
        assert_eq!(renew_after(end, UtcTime(issued.0 + 3_650 * day)), RENEWAL_PAUSE, "ten years on");
    }
}
