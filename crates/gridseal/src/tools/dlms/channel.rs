//! A TCP connection that carries APDUs: in wrapper units, or in an HDLC link.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use gridseal_dlms::frame::{
    hdlc::{
        self, ClientAddress, Link, LinkError, LinkEvent, LinkRole, LinkSettings, Parameters, ServerAddress,
    },
    wrapper::{WrapperDecoder, WrapperFrame},
};
use gridseal_io::clock::tick_now;
use gridseal_types::Tick;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::session::Untrusted;
use crate::tools::Usage;

/// Bytes taken from the socket at once.
const PIECE_SIZE: usize = 4_096;
/// Largest information field that we propose on HDLC, bytes.
const INFORMATION_SIZE: u16 = 1_024;

/// Why an HDLC link may not open.
const NOT_HDLC: &str = "if it speaks the wrapper, leave --hdlc-tcp out";
/// First octet of HDLC.
const HDLC_FLAG: u8 = 0x7E;

/// What came.
pub enum Heard {
    /// A whole APDU.
    Apdu(Vec<u8>),
    /// Nothing, until the time given.
    Nothing,
    /// The end, and why if that is known.
    Closed(Option<LinkError>),
}

/// A meter's address: host:port.
pub fn host_port(text: &str) -> Result<String, &'static str> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let port = parts.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port != 0);
    port.map(|_| text.to_owned()).ok_or("expected host:port, such as 127.0.0.1:4059")
}

/// Who speaks with whom, and how.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Client's service access point.
    pub client_sap: u16,
    /// Server's service access point.
    pub server_sap: u16,
    /// Whether HDLC is spoken instead of the wrapper.
    pub is_hdlc: bool,
    /// Largest APDU that is taken, bytes.
    pub apdu_size_max: usize,
    /// How long anything is waited for.
    pub timeout: Duration,
}

enum Framing {
    Wrapper(WrapperDecoder),
    Hdlc(Box<Link>),
}

/// An open connection.
pub struct Channel {
    stream: TcpStream,
    ends: Ends,
    framing: Framing,
}

impl Channel {
    /// Connects, and opens the HDLC link where one is spoken.
    pub async fn open(address: &str, ends: Ends) -> Result<Self> {
        let connecting = tokio::time::timeout(ends.timeout, TcpStream::connect(address)).await;
        let hint = "is the meter there?";
        let stream = connecting
            .with_context(|| format!("cannot connect to {address}: no answer in time; {hint}"))?
            .with_context(|| format!("cannot connect to {address}; {hint}"))?;
        stream.set_nodelay(true)?;
        if !ends.is_hdlc {
            return Ok(Self {
                stream,
                ends,
                framing: Framing::Wrapper(WrapperDecoder::new(ends.apdu_size_max)),
            });
        }
        let client = u8::try_from(ends.client_sap).ok().and_then(ClientAddress::new);
        let addresses = client.zip(ServerAddress::new(ends.server_sap, None));
        let Some((client, server)) = addresses else {
            bail!(Usage("client_sap above 127 or listen_sap above 16383 has no HDLC address".into()));
        };
        let settings = LinkSettings {
            role: LinkRole::Client,
            client,
            server,
            parameters: Parameters {
                information_transmit: INFORMATION_SIZE,
                information_receive: INFORMATION_SIZE,
                ..Parameters::default()
            },
            apdu_size_max: ends.apdu_size_max,
            answer_timeout: (ends.timeout / 4).max(Duration::from_millis(250)),
            retry_count_max: 3,
            inactivity_timeout: ends.timeout,
        };
        let mut channel = Self { stream, ends, framing: Framing::Hdlc(Box::new(Link::new(settings))) };
        channel.connect_link().await?;
        Ok(channel)
    }

    async fn connect_link(&mut self) -> Result<()> {
        let Framing::Hdlc(link) = &mut self.framing else { return Ok(()) };
        link.handle(tick_now(), hdlc::Input::Connect)?;
        let until = tick_now().after(self.ends.timeout);
        loop {
            match self.link_events().await? {
                Some(LinkEvent::Connected(..)) => return Ok(()),
                Some(LinkEvent::Failed(error)) => bail!("HDLC link does not open: {error}"),
                Some(_) => {}
                None if tick_now() >= until => {
                    bail!("HDLC link does not open: no answer in time; {NOT_HDLC}")
                }
                None => {
                    if !self.read(until).await? {
                        bail!("HDLC link does not open: the meter closed the connection; {NOT_HDLC}");
                    }
                }
            }
        }
    }

    /// Sends what the link wants sent, until something was found out.
    async fn link_events(&mut self) -> Result<Option<LinkEvent>> {
        let Framing::Hdlc(link) = &mut self.framing else { return Ok(None) };
        while let Some(output) = link.poll() {
            match output {
                hdlc::Output::Transmit(octets) => {
                    // Whoever is gone is noticed by the next read.
                    let _ = self.stream.write_all(&octets).await;
                }
                hdlc::Output::Event(event) => return Ok(Some(event)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Reads one piece, or lets the link's time pass; false at the end of the stream.
    async fn read(&mut self, until: Tick) -> Result<bool> {
        let deadline = match &self.framing {
            Framing::Hdlc(link) => link.deadline().map_or(until, |deadline| deadline.min(until)),
            Framing::Wrapper(_) => until,
        };
        let wait = Duration::from_millis(deadline.0.saturating_sub(tick_now().0));
        let mut piece = [0; PIECE_SIZE];
        let count = match tokio::time::timeout(wait, self.stream.read(&mut piece)).await {
            Err(_) => {
                if let Framing::Hdlc(link) = &mut self.framing {
                    let _ = link.handle(tick_now(), hdlc::Input::Timeout);
                }
                return Ok(true);
            }
            Ok(Ok(0)) | Ok(Err(_)) => return Ok(false),
            Ok(Ok(count)) => count,
        };
        let piece = piece.get(..count).unwrap_or_default();
        match &mut self.framing {
            Framing::Wrapper(decoder) => decoder.push(piece).map_err(|error| {
                let hint = if piece.first() == Some(&HDLC_FLAG) {
                    "; if it speaks HDLC, give --hdlc-tcp"
                } else {
                    ""
                };
                Untrusted(format!(
                    "what the meter sends is no wrapper unit of this association: {error}{hint}"
                ))
            })?,
            Framing::Hdlc(link) => link.handle(tick_now(), hdlc::Input::Received(piece))?,
        }
        Ok(true)
    }

    /// Sends an APDU.
    pub async fn send(&mut self, apdu: Vec<u8>) -> Result<()> {
        match &mut self.framing {
            Framing::Wrapper(_) => {
                let frame = WrapperFrame::new(self.ends.client_sap, self.ends.server_sap, apdu)?;
                let sent =
                    tokio::time::timeout(self.ends.timeout, self.stream.write_all(&frame.to_bytes())).await;
                sent.context("the meter takes no more bytes")?.context("the meter closed the connection")
            }
            Framing::Hdlc(link) => {
                link.handle(tick_now(), hdlc::Input::Send(&apdu))?;
                // Nothing is found out by sending.
                self.flush().await
            }
        }
    }

    async fn flush(&mut self) -> Result<()> {
        let Framing::Hdlc(link) = &mut self.framing else { return Ok(()) };
        let mut kept = Vec::new();
        while let Some(output) = link.poll() {
            match output {
                hdlc::Output::Transmit(octets) => {
                    self.stream.write_all(&octets).await.context("the meter closed the connection")?;
                }
                other => kept.push(other),
            }
        }
        anyhow::ensure!(kept.is_empty(), "HDLC link ended while an APDU was sent");
        Ok(())
    }

    /// Waits for an APDU until `until`.
    pub async fn receive(&mut self, until: Tick) -> Result<Heard> {
        loop {
            match &mut self.framing {
                Framing::Wrapper(decoder) => {
                    if let Some(frame) = decoder.poll() {
                        if (frame.source(), frame.destination())
                            != (self.ends.server_sap, self.ends.client_sap)
                        {
                            let why = "a unit between other service access points came in this association";
                            return Err(Untrusted(why.into()).into());
                        }
                        return Ok(Heard::Apdu(frame.into_apdu()));
                    }
                }
                Framing::Hdlc(_) => match self.link_events().await? {
                    Some(LinkEvent::Apdu(apdu)) => return Ok(Heard::Apdu(apdu)),
                    Some(LinkEvent::Failed(error)) => return Ok(Heard::Closed(Some(error))),
                    Some(LinkEvent::Disconnected) => return Ok(Heard::Closed(None)),
                    Some(_) => continue,
                    None => {}
                },
            }
            if tick_now() >= until {
                return Ok(Heard::Nothing);
            }
            if !self.read(until).await? {
                return Ok(Heard::Closed(None));
            }
        }
    }

    /// Closes the HDLC link, and the connection; whether the meter says goodbye changes nothing.
    pub async fn close(mut self) {
        if let Framing::Hdlc(link) = &mut self.framing
            && link.handle(tick_now(), hdlc::Input::Disconnect).is_ok()
        {
            let until = tick_now().after(Duration::from_secs(1));
            while let Ok(None) = self.link_events().await {
                if tick_now() >= until || !matches!(self.read(until).await, Ok(true)) {
                    break;
                }
            }
        }
        let _ = self.stream.shutdown().await;
    }
}
