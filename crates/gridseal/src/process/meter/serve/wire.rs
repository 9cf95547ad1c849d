//! Connections: each carries wrapper units or HDLC frames, is bounded in what it may hold, and ends when it is silent.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use gridseal_crypto::{Key, role::Kek};
use gridseal_dlms::{
    assoc::server::Input,
    frame::{
        hdlc::{self, ClientAddress, Link, LinkEvent, LinkRole, LinkSettings, Parameters, ServerAddress},
        wrapper::{WrapperDecoder, WrapperFrame},
    },
};
use gridseal_io::clock::tick_now;
use gridseal_types::Tick;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    time::{interval, timeout},
};

use super::{
    holder::MasterKey,
    log::{Peer, source},
    station::{Client, Meter},
};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 32;
/// Connections of one source without an association that shows a key.
const SHARE_MAX: usize = 16;
/// Refusals outside of an association after which a connection ends.
const REFUSALS_MAX: u32 = 16;
/// First octet of HDLC.
const HDLC_FLAG: u8 = 0x7E;
/// First octets of a wrapper unit.
const WRAPPER_VERSION: [u8; 2] = [0, 1];
/// Clients of one connection: with all connections no more than the keys keep associations for.
const CLIENTS_MAX: usize = 2;
/// How long a connection may go without an open association.
const UNASSOCIATED_MAX: Duration = Duration::from_secs(60);
/// How long a client may take to accept an answer.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// Service access point of everybody.
const ALL_STATIONS: u16 = 0x7F;
/// Answers that wait for an HDLC client's turn.
const QUEUE_MAX: usize = 64;

/// Serves until the process ends.
pub async fn run<const N: usize>(listener: TcpListener, meter: Arc<Meter<N>>, is_hdlc: bool) -> Result<()>
where
    Key<Kek, N>: MasterKey<N>,
{
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut seats = Seats::default();
    let clock = Arc::clone(&meter);
    tokio::spawn(async move {
        let mut second = interval(Duration::from_secs(1));
        loop {
            second.tick().await;
            clock.tick();
        }
    });
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                // Too many open files, or a client that is gone again: neither is for good.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let peer = Peer { address, client_sap: None };
        let is_full = free.available_permits() == 0;
        if !seats.make_room(source(address), is_full) && is_full {
            meter.log.anybody("connections-full", peer, "connection closed");
            continue;
        }
        // Whoever was sent away is gone at once: it waits for nothing.
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return Ok(()) };
        let seat = seats.take(source(address));
        let meter = Arc::clone(&meter);
        tokio::spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            let mut connection = Connection::new(&meter, peer, is_hdlc, Arc::clone(&seat));
            let cause = tokio::select! {
                cause = connection.serve(stream) => cause,
                () = seat.leave.notified() => "another connection needs its place",
            };
            connection.close();
            if seat.was_proven.load(Ordering::Relaxed) {
                meter.log.entry("closed", Some(peer), cause);
            } else {
                meter.log.anybody("closed", peer, cause);
            }
        });
    }
}

/// The place of a connection.
struct Seat {
    source: IpAddr,
    /// Since when nobody with a key has been there, as a [`Tick`]; 0 while somebody is.
    alone_since: AtomicU64,
    was_proven: AtomicBool,
    /// Tells the connection to end.
    leave: Notify,
}

impl Seat {
    /// Whether an association is open that shows a key.
    fn prove(&self, is_proven: bool) {
        if is_proven {
            self.was_proven.store(true, Ordering::Relaxed);
            self.alone_since.store(0, Ordering::Relaxed);
        } else if self.alone_since.load(Ordering::Relaxed) == 0 {
            self.alone_since.store(tick_now().0.max(1), Ordering::Relaxed);
        }
    }
}

/// The places that are taken; connections that are gone leave an empty reference.
#[derive(Default)]
struct Seats(Vec<Weak<Seat>>);

impl Seats {
    fn take(&mut self, source: IpAddr) -> Arc<Seat> {
        let alone_since = AtomicU64::new(tick_now().0.max(1));
        let seat = Arc::new(Seat { source, alone_since, was_proven: false.into(), leave: Notify::new() });
        self.0.push(Arc::downgrade(&seat));
        seat
    }

    /// Sends somebody away who has not shown a key, the one who was there longest: of the same source when that has its
    /// share, and of the source that has most when there is no place left. False when nobody gave way.
    fn make_room(&mut self, source: IpAddr, is_full: bool) -> bool {
        self.0.retain(|seat| seat.strong_count() > 0);
        let mut waiting: Vec<(u64, Arc<Seat>)> = self
            .0
            .iter()
            .filter_map(Weak::upgrade)
            .map(|seat| (seat.alone_since.load(Ordering::Relaxed), seat))
            .filter(|(since, _)| *since > 0)
            .collect();
        waiting.sort_by_key(|(since, _)| *since);
        let count = |source: IpAddr| waiting.iter().filter(|(_, seat)| seat.source == source).count();
        let giver = if count(source) >= SHARE_MAX {
            Some(source)
        } else if is_full {
            waiting.iter().map(|(_, seat)| seat.source).max_by_key(|source| count(*source))
        } else {
            None
        };
        let Some((_, seat)) = waiting.iter().find(|(_, seat)| Some(seat.source) == giver) else {
            return false;
        };
        // Gone for whoever comes next, even if its task has not run yet.
        self.0.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(seat)));
        seat.leave.notify_one();
        true
    }
}

/// What frames the APDUs.
enum Framing {
    Wrapper(WrapperDecoder),
    /// With answers that wait for the client's turn.
    Hdlc(Box<Link>, VecDeque<Vec<u8>>),
}

struct Connection<'m, const N: usize> {
    meter: &'m Meter<N>,
    peer: Peer,
    framing: Framing,
    clients: BTreeMap<u16, Client>,
    /// Octets to be sent.
    out: Vec<u8>,
    seat: Arc<Seat>,
    /// Since the last association of somebody with a key.
    refusals: u32,
    /// Whether nothing was heard yet.
    is_first: bool,
}

impl<'m, const N: usize> Connection<'m, N>
where
    Key<Kek, N>: MasterKey<N>,
{
    fn new(meter: &'m Meter<N>, peer: Peer, is_hdlc: bool, seat: Arc<Seat>) -> Self {
        let framing = match (is_hdlc, ServerAddress::new(meter.sap, None), ClientAddress::new(0x10)) {
            (true, Some(server), Some(client)) => {
                let settings = LinkSettings {
                    role: LinkRole::Server,
                    client,
                    server,
                    parameters: Parameters::default(),
                    apdu_size_max: meter.apdu_size_max(),
                    answer_timeout: Duration::from_secs(5),
                    retry_count_max: 3,
                    inactivity_timeout: Duration::from_secs(120),
                };
                Framing::Hdlc(Box::new(Link::new(settings)), VecDeque::new())
            }
            _ => Framing::Wrapper(WrapperDecoder::new(meter.apdu_size_max())),
        };
        let (clients, out) = (BTreeMap::new(), Vec::new());
        Self { meter, peer, framing, clients, out, seat, refusals: 0, is_first: true }
    }

    /// Serves until the connection ends; gives why.
    async fn serve(&mut self, mut stream: TcpStream) -> &'static str {
        let (mut heard, mut lonely) = (tick_now(), tick_now());
        let mut buffer = [0; 4_096];
        loop {
            let now = tick_now();
            if self.clients.values().any(Client::is_open) {
                lonely = now;
            }
            let (until, why) = self.patience(heard, lonely);
            if now >= until {
                return why;
            }
            let wake = self.deadline().map_or(until, |due| due.min(until));
            match timeout(wake.since(now), stream.read(&mut buffer)).await {
                Ok(Ok(0)) => return "by the client",
                Ok(Err(_)) => return "connection broke",
                Ok(Ok(count)) => {
                    heard = tick_now();
                    let fault = self.received(buffer.get(..count).unwrap_or_default());
                    if !self.send(&mut stream).await {
                        return "client takes no answer";
                    }
                    if let Some(fault) = fault {
                        return fault;
                    }
                }
                Err(_) => {
                    self.timed_out();
                    if !self.send(&mut stream).await {
                        return "client takes no answer";
                    }
                }
            }
        }
    }

    /// When to give up, and why then.
    fn patience(&self, heard: Tick, lonely: Tick) -> (Tick, &'static str) {
        let silent = heard.after(self.meter.inactivity());
        let unassociated = lonely.after(UNASSOCIATED_MAX);
        if silent < unassociated { (silent, "silent") } else { (unassociated, "no association") }
    }

    fn deadline(&self) -> Option<Tick> {
        let link = match &self.framing {
            Framing::Hdlc(link, _) => link.deadline(),
            Framing::Wrapper(_) => None,
        };
        self.clients.values().filter_map(Client::deadline).chain(link).min()
    }

    async fn send(&mut self, stream: &mut TcpStream) -> bool {
        let out = std::mem::take(&mut self.out);
        out.is_empty() || matches!(timeout(SEND_TIMEOUT, stream.write_all(&out)).await, Ok(Ok(())))
    }

    /// Takes octets; gives why no more are taken.
    fn received(&mut self, octets: &[u8]) -> Option<&'static str> {
        let is_first = core::mem::replace(&mut self.is_first, false);
        match &mut self.framing {
            Framing::Wrapper(decoder) => {
                let pushed = decoder.push(octets);
                while let Framing::Wrapper(decoder) = &mut self.framing
                    && self.refusals < REFUSALS_MAX
                    && let Some(frame) = decoder.poll()
                {
                    self.unit(&frame);
                }
                if let Err(error) = pushed {
                    self.meter.log.anybody("refused", self.peer, &error.to_string());
                    let is_hdlc = is_first && octets.first() == Some(&HDLC_FLAG);
                    return Some(match is_hdlc {
                        true => {
                            "not a stream of wrapper units but of HDLC, for which the meter needs --hdlc-tcp"
                        }
                        false => "not a stream of frames",
                    });
                }
            }
            Framing::Hdlc(link, _) => {
                if is_first && octets.starts_with(&WRAPPER_VERSION) {
                    return Some("not HDLC but wrapper units, for which the meter must not have --hdlc-tcp");
                }
                let _ = link.handle(tick_now(), hdlc::Input::Received(octets));
                self.drain_link();
            }
        }
        (self.refusals >= REFUSALS_MAX).then_some("refused too often")
    }

    /// A refusal that no machine of a client knows of.
    fn refused(&mut self, client_sap: u16, cause: &str) {
        self.refusals = self.refusals.saturating_add(1);
        self.meter.log.anybody("refused", Peer { client_sap: Some(client_sap), ..self.peer }, cause);
    }

    fn unit(&mut self, frame: &WrapperFrame) {
        let (source, destination) = (frame.source(), frame.destination());
        if destination == ALL_STATIONS {
            return self.broadcast(source, frame.apdu());
        }
        if destination != self.meter.sap {
            return self.refused(source, "no logical device has this access point");
        }
        for apdu in self.handle(source, Input::Received(frame.apdu())) {
            if let Ok(frame) = WrapperFrame::new(destination, source, apdu) {
                self.out.extend(frame.to_bytes());
            }
        }
    }

    /// Feeds the machine of a client, which is made when the client is first heard.
    fn handle(&mut self, client_sap: u16, input: Input<'_>) -> Vec<Vec<u8>> {
        if !self.clients.contains_key(&client_sap) {
            let closed = self.clients.iter().find(|(_, client)| !client.is_open()).map(|(sap, _)| *sap);
            if self.clients.len() >= CLIENTS_MAX {
                // One without an association makes room.
                let Some(client) = closed.and_then(|sap| self.clients.remove(&sap)) else {
                    self.refused(client_sap, "too many clients on one connection");
                    return Vec::new();
                };
                self.forget(client);
            }
            self.clients.insert(client_sap, self.meter.client(self.peer, client_sap));
        }
        let Some(client) = self.clients.get_mut(&client_sap) else { return Vec::new() };
        let answers = self.meter.handle(client, input);
        self.refusals = match client.is_proven() {
            true => 0,
            false => self.refusals.saturating_add(client.take_refusals()),
        };
        self.seat.prove(self.clients.values().any(Client::is_proven));
        answers
    }

    fn broadcast(&mut self, client_sap: u16, apdu: &[u8]) {
        match self.meter.broadcast(self.peer, client_sap) {
            // Never answered, whatever comes of it.
            Some(mut client) => {
                self.meter.handle(&mut client, Input::Broadcast(apdu));
                self.refusals = self.refusals.saturating_add(client.take_refusals());
                self.forget(client);
            }
            None => self.refused(client_sap, "nobody may send to all"),
        }
    }

    fn drain_link(&mut self) {
        loop {
            let Framing::Hdlc(link, queue) = &mut self.framing else { return };
            // The next answer leaves when the last one is acknowledged.
            if let Some(apdu) = queue.front()
                && link.handle(tick_now(), hdlc::Input::Send(apdu)).is_ok()
            {
                queue.pop_front();
            }
            match link.poll() {
                None => return,
                Some(hdlc::Output::Transmit(octets)) => self.out.extend(octets),
                Some(hdlc::Output::Event(event)) => self.link_event(event),
                Some(_) => {}
            }
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected(client, _) => {
                self.close();
                let sap = u16::from(client.number());
                self.clients.insert(sap, self.meter.client(self.peer, sap));
            }
            LinkEvent::Apdu(apdu) => {
                let Some(sap) = self.clients.keys().next().copied() else { return };
                let answers = self.handle(sap, Input::Received(&apdu));
                if let Framing::Hdlc(_, queue) = &mut self.framing {
                    queue.extend(answers);
                    queue.truncate(QUEUE_MAX);
                }
            }
            LinkEvent::Unnumbered(apdu) => {
                // The address of the sender of an unnumbered frame is not told; the pre-established client has one.
                self.broadcast(0x66, &apdu);
            }
            LinkEvent::Disconnected => self.close(),
            LinkEvent::Failed(error) => {
                self.meter.log.anybody("refused", self.peer, &error.to_string());
                self.close();
            }
            _ => {}
        }
    }

    fn timed_out(&mut self) {
        if let Framing::Hdlc(link, _) = &mut self.framing {
            let _ = link.handle(tick_now(), hdlc::Input::Timeout);
            self.drain_link();
        }
        let saps: Vec<u16> = self.clients.keys().copied().collect();
        for sap in saps {
            let answers = self.handle(sap, Input::Timeout);
            for apdu in answers {
                match &mut self.framing {
                    Framing::Hdlc(_, queue) => queue.push_back(apdu),
                    Framing::Wrapper(_) => {
                        if let Ok(frame) = WrapperFrame::new(self.meter.sap, sap, apdu) {
                            self.out.extend(frame.to_bytes());
                        }
                    }
                }
            }
        }
        self.drain_link();
    }

    fn forget(&self, mut client: Client) {
        self.meter.handle(&mut client, Input::Disconnected);
    }

    /// Ends the associations of the connection.
    fn close(&mut self) {
        for client in std::mem::take(&mut self.clients).into_values() {
            self.forget(client);
        }
        if let Framing::Hdlc(_, queue) = &mut self.framing {
            queue.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(seat: &Seat) -> bool {
        // A permit is there for whoever was told to leave.
        let mut waiting = std::pin::pin!(seat.leave.notified());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::future::Future::poll(waiting.as_mut(), &mut context).is_ready()
    }

    #[test]
    fn whoever_shows_no_key_gives_way_and_one_source_has_a_share() {
        let mut seats = Seats::default();
        let [attacker, other, honest] = [1, 2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
        let seated: Vec<Arc<Seat>> = (0..SHARE_MAX as u64)
            .map(|n| {
                let seat = seats.take(attacker);
                seat.alone_since.store(n + 1, Ordering::Relaxed);
                seat
            })
            .collect();
        assert!(!seats.make_room(honest, false), "there is room");
        seated[0].prove(true);
        assert!(!seats.make_room(attacker, false), "who has shown a key is not counted");
        seated[0].prove(false);
        seated[0].alone_since.store(100, Ordering::Relaxed);
        assert!(
            seats.make_room(attacker, false) && left(&seated[1]) && !left(&seated[0]),
            "the oldest of its own"
        );
        // Full: somebody of the source that has most.
        let theirs = seats.take(other);
        theirs.alone_since.store(1, Ordering::Relaxed);
        assert!(seats.make_room(honest, true) && left(&seated[2]) && !left(&theirs));
        for seat in &seated {
            seat.prove(true);
        }
        assert!(seats.make_room(honest, true) && left(&theirs));
        assert!(!seats.make_room(honest, true), "nobody is left who must");
    }
}
