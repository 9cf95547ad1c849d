//! Connections: each carries wrapper units or HDLC frames, is bounded in what it may hold, and ends when it is silent.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
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
    sync::Semaphore,
    time::{interval, timeout},
};

use super::{
    holder::MasterKey,
    log::Peer,
    station::{Client, Meter},
};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 32;
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
        let Ok(permit) = Arc::clone(&free).try_acquire_owned() else {
            meter.log.entry("connections-full", Some(peer), "connection closed");
            continue;
        };
        let meter = Arc::clone(&meter);
        tokio::spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            let mut connection = Connection::new(&meter, peer, is_hdlc);
            let cause = connection.serve(stream).await;
            connection.close();
            meter.log.entry("closed", Some(peer), cause);
        });
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
}

impl<'m, const N: usize> Connection<'m, N>
where
    Key<Kek, N>: MasterKey<N>,
{
    fn new(meter: &'m Meter<N>, peer: Peer, is_hdlc: bool) -> Self {
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
        Self { meter, peer, framing, clients: BTreeMap::new(), out: Vec::new() }
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
                    let is_sound = self.received(buffer.get(..count).unwrap_or_default());
                    if !self.send(&mut stream).await {
                        return "client takes no answer";
                    }
                    if !is_sound {
                        return "not a stream of frames";
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

    /// Takes octets; false when no further frame can be found in the stream.
    fn received(&mut self, octets: &[u8]) -> bool {
        match &mut self.framing {
            Framing::Wrapper(decoder) => {
                let pushed = decoder.push(octets);
                let frames: Vec<WrapperFrame> = std::iter::from_fn(|| decoder.poll()).collect();
                frames.into_iter().for_each(|frame| self.unit(&frame));
                if let Err(error) = pushed {
                    self.meter.log.entry("refused", Some(self.peer), &error.to_string());
                    return false;
                }
            }
            Framing::Hdlc(link, _) => {
                let _ = link.handle(tick_now(), hdlc::Input::Received(octets));
                self.drain_link();
            }
        }
        true
    }

    fn unit(&mut self, frame: &WrapperFrame) {
        let (source, destination) = (frame.source(), frame.destination());
        if destination == ALL_STATIONS {
            return self.broadcast(source, frame.apdu());
        }
        if destination != self.meter.sap {
            let peer = Peer { client_sap: Some(source), ..self.peer };
            return self.meter.log.entry("refused", Some(peer), "no logical device has this access point");
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
                    let peer = Peer { client_sap: Some(client_sap), ..self.peer };
                    self.meter.log.entry("refused", Some(peer), "too many clients on one connection");
                    return Vec::new();
                };
                self.forget(client);
            }
            self.clients.insert(client_sap, self.meter.client(self.peer, client_sap));
        }
        match self.clients.get_mut(&client_sap) {
            Some(client) => self.meter.handle(client, input),
            None => Vec::new(),
        }
    }

    fn broadcast(&mut self, client_sap: u16, apdu: &[u8]) {
        match self.meter.broadcast(self.peer, client_sap) {
            // Never answered, whatever comes of it.
            Some(mut client) => {
                self.meter.handle(&mut client, Input::Broadcast(apdu));
                self.forget(client);
            }
            None => {
                let peer = Peer { client_sap: Some(client_sap), ..self.peer };
                self.meter.log.entry("refused", Some(peer), "nobody may send to all");
            }
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
                self.meter.log.entry("refused", Some(self.peer), &error.to_string());
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
