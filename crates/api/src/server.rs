//! The answering side: connections, limits, graceful stop.

mod request;

use std::{fmt, future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use gridseal_io::tls::{ServerTls, TlsError, accept};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{Peer, Refusal, Router};

/// Pause after the operating system could not hand over a connection (out of descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Largest head of a request, bytes.
const HEAD_SIZE_MAX: usize = 16 * 1024;

/// Most fields in the head of a request.
const HEADER_COUNT_MAX: usize = 32;

/// Most requests at a time on one HTTP/2 connection.
const STREAM_COUNT_MAX: u32 = 64;

/// Bounds of a server, for all its connections together where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; more are closed at once.
    pub connection_count_max: usize,
    /// Life of a connection; then it finishes what it has and closes.
    pub connection_age_max: Duration,
    /// Wait for the head of a request, and of an idle HTTP/1.1 connection for the next one.
    pub head_timeout: Duration,
    /// Wait for a whole body after its head.
    pub body_timeout: Duration,
    /// Wait for a handler, after which the peer is told to come back.
    pub handler_timeout: Duration,
    /// Bytes of bodies and their handling at a time; beyond that peers are told to come back.
    pub in_flight_bytes_max: usize,
    /// Wait for what is going on when the server stops or a connection reaches its age.
    pub drain_timeout: Duration,
}

impl Limits {
    /// For the inner network: few peers, large batches, calls that wait up to 25 s.
    pub const INNER: Self = Self {
        connection_count_max: 256,
        connection_age_max: Duration::from_secs(3_600),
        head_timeout: Duration::from_secs(60),
        body_timeout: Duration::from_secs(10),
        handler_timeout: Duration::from_secs(30),
        in_flight_bytes_max: 256 * 1024 * 1024,
        drain_timeout: Duration::from_secs(5),
    };

    /// For the field: many peers that nobody knows yet, small messages.
    pub const FIELD: Self = Self {
        connection_count_max: 16_384,
        connection_age_max: Duration::from_secs(300),
        head_timeout: Duration::from_secs(20),
        body_timeout: Duration::from_secs(10),
        handler_timeout: Duration::from_secs(30),
        in_flight_bytes_max: 64 * 1024 * 1024,
        drain_timeout: Duration::from_secs(5),
    };
}

/// What a server noticed; the shell logs and counts it.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServerEvent {
    /// A connection beyond the limit was closed.
    Full {
        /// Peer.
        address: SocketAddr,
    },
    /// A handshake failed.
    Handshake {
        /// Peer.
        address: SocketAddr,
        /// Why.
        error: TlsError,
    },
    /// A request was refused.
    Refused {
        /// Peer.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// The operating system could not hand over a connection.
    Accept {
        /// Why.
        error: io::Error,
    },
}

type EventSink = Arc<dyn Fn(ServerEvent) + Send + Sync>;

struct Shared {
    router: Router,
    limits: Limits,
    in_flight: Arc<Semaphore>,
    events: EventSink,
}

/// A server that has its port and not yet begun to answer.
pub struct Server {
    listener: TcpListener,
    tls: ServerTls,
    shared: Shared,
}

/// Answers on connections that somebody else has accepted: on a port that HTTP shares with another protocol.
#[derive(Clone)]
pub struct Guest(Arc<Shared>);

impl Guest {
    /// Answers by these routes.
    #[must_use]
    pub fn new(router: Router, limits: Limits) -> Self {
        Self(Arc::new(Shared::new(router, limits)))
    }

    /// Answers on one connection of HTTP/1.1 until it ends.
    pub async fn serve<S>(&self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (_stopping, stopped) = watch::channel(false);
        converse(Arc::clone(&self.0), stream, (peer, false), stopped).await;
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guest").field(&self.0.router).finish()
    }
}

impl Shared {
    fn new(router: Router, limits: Limits) -> Self {
        let in_flight = Arc::new(Semaphore::new(limits.in_flight_bytes_max.min(Semaphore::MAX_PERMITS)));
        Self { router, limits, in_flight, events: Arc::new(|_| ()) }
    }
}

impl Server {
    /// Takes the port.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn bind(
        address: SocketAddr,
        tls: ServerTls,
        router: Router,
        limits: Limits,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, tls, shared: Shared::new(router, limits) })
    }

    /// Tells every event to `sink`, which must not block.
    #[must_use]
    pub fn on_event(mut self, sink: impl Fn(ServerEvent) + Send + Sync + 'static) -> Self {
        self.shared.events = Arc::new(sink);
        self
    }

    /// The address in use, with the port that the operating system chose for port 0.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` is ready; then takes no more connections, finishes what is going on, and returns.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) {
        let Self { listener, tls, shared } = self;
        let shared = Arc::new(shared);
        let slots = Arc::new(Semaphore::new(shared.limits.connection_count_max));
        let (stopping, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Err(error) => {
                        (shared.events)(ServerEvent::Accept { error });
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    Ok((stream, address)) => match Arc::clone(&slots).try_acquire_owned() {
                        Err(_) => (shared.events)(ServerEvent::Full { address }),
                        Ok(slot) => {
                            let (shared, stopped) = (Arc::clone(&shared), stopped.clone());
                            let tls = tls.clone();
                            connections.spawn(async move {
                                serve(shared, tls, (stream, address), stopped).await;
                                drop(slot);
                            });
                        }
                    },
                }
            }
        }
        drop(listener);
        stopping.send_replace(true);
        let finished = async { while connections.join_next().await.is_some() {} };
        // Each connection bounds its own end; the margin is for those in a handshake.
        let _ = tokio::time::timeout(shared.limits.drain_timeout.saturating_mul(2), finished).await;
        connections.shutdown().await;
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("router", &self.shared.router).finish_non_exhaustive()
    }
}

/// One connection, from its handshake to its end.
async fn serve(
    shared: Arc<Shared>,
    tls: ServerTls,
    (stream, address): (TcpStream, SocketAddr),
    mut stopped: watch::Receiver<bool>,
) {
    // Answers are small and complete: waiting for more bytes only costs time. A failure costs no more than that.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::select! {
        handshake = accept(&tls, stream) => handshake,
        _ = stopped.wait_for(|is_stopped| *is_stopped) => return,
    };
    let (stream, certificate) = match handshake {
        Ok(accepted) => accepted,
        Err(error) => return (shared.events)(ServerEvent::Handshake { address, error }),
    };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let peer = Peer { address, certificate: certificate.map(Arc::new) };
    converse(shared, stream, (peer, is_http2), stopped).await;
}

/// What is said on a connection, until either side has enough of it.
async fn converse<S>(
    shared: Arc<Shared>,
    stream: S,
    (peer, is_http2): (Peer, bool),
    mut stopped: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = shared.limits;
    let service = service_fn(|incoming| request::answer(Arc::clone(&shared), peer.clone(), incoming));
    let builder = protocol(is_http2, &limits);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stopping(&mut stopped) => {}
        () = tokio::time::sleep(limits.connection_age_max) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(limits.drain_timeout, connection).await;
}

/// Ready when the server is told to stop.
async fn stopping(stopped: &mut watch::Receiver<bool>) {
    if stopped.wait_for(|is_stopped| *is_stopped).await.is_err() {
        std::future::pending().await
    }
}

/// The protocol that the handshake agreed on, with its bounds.
fn protocol(is_http2: bool, limits: &Limits) -> auto::Builder<TokioExecutor> {
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(HEAD_SIZE_MAX)
        .max_headers(HEADER_COUNT_MAX)
        .auto_date_header(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.head_timeout)
        .keep_alive_timeout(limits.head_timeout)
        .max_concurrent_streams(STREAM_COUNT_MAX)
        .max_header_list_size(u32::try_from(HEAD_SIZE_MAX).unwrap_or(u32::MAX))
        .auto_date_header(false);
    builder
}
