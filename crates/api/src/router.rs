//! Paths, who may call them, and what answers.

use std::{collections::BTreeMap, fmt, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use gridseal_io::tls::PeerCertificate;
use gridseal_types::service::{BATCH_MAX, BODY_SIZE_MAX, Batch};
use hyper::body::Bytes;
use minicbor::{Decode, Encode};

use crate::{MEDIA_TYPE, Refusal, Reply, batch};

/// Who sent a request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Network address: for limits and logs, never for a decision on rights.
    pub address: SocketAddr,
    /// The verified certificate, where the server asks for one.
    pub certificate: Option<Arc<PeerCertificate>>,
}

impl Peer {
    /// Name of the inner service that the certificate proves.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        self.certificate.as_deref()?.service.as_deref()
    }
}

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever got through the TLS handshake.
    Anyone,
    /// These inner services, by the name in their certificates.
    Services(&'static [&'static str]),
}

impl Access {
    fn admits(self, peer: &Peer) -> bool {
        match self {
            Self::Anyone => true,
            Self::Services(names) => peer.service().is_some_and(|service| names.contains(&service)),
        }
    }
}

type BoxedHandler = Arc<dyn Fn(Peer, Bytes) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// What a route is asked with, and what it answers in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Media {
    /// Content type of a POST; `None`: a GET.
    pub asks: Option<&'static str>,
    /// Content type of the answer.
    pub answers: &'static str,
}

impl Media {
    /// What our own services speak.
    pub const OURS: Self = Self { asks: Some(MEDIA_TYPE), answers: MEDIA_TYPE };
}

#[derive(Clone)]
pub(crate) struct Route {
    access: Access,
    pub(crate) media: Media,
    pub(crate) body_size_max: usize,
    pub(crate) handler: BoxedHandler,
}

/// The routes of a server.
#[derive(Clone, Default)]
pub struct Router {
    routes: BTreeMap<&'static str, Route>,
}

impl Router {
    /// No routes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route for whole messages of at most `body_size_max` bytes. A later route of the same path replaces it.
    ///
    /// The handler runs to its end even when the peer leaves, so that what it began is not cut off half done.
    #[must_use]
    pub fn route<H, F>(self, path: &'static str, access: Access, body_size_max: usize, handler: H) -> Self
    where
        H: Fn(Peer, Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        self.route_as(path, access, (Media::OURS, body_size_max), handler)
    }

    /// As [`Router::route`], with method and media types that a standard demands.
    #[must_use]
    pub fn route_as<H, F>(
        mut self,
        path: &'static str,
        access: Access,
        (media, body_size_max): (Media, usize),
        handler: H,
    ) -> Self
    where
        H: Fn(Peer, Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let handler: BoxedHandler = Arc::new(move |peer, body| Box::pin(handler(peer, body)));
        self.routes.insert(path, Route { access, media, body_size_max, handler });
        self
    }

    /// Adds a route for batches: the handler gets the requests in order and answers as many replies, or refuses all.
    ///
    /// A body that is not one well-formed batch is refused with 400; an answer of another length is our fault: 500.
    #[must_use]
    pub fn serve_batch<Request, Answer, H, F>(self, path: &'static str, access: Access, handler: H) -> Self
    where
        Request: for<'b> Decode<'b, ()> + Send + 'static,
        Answer: Encode<()> + Send + 'static,
        H: Fn(Peer, Vec<Request>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Vec<Answer>, Refusal>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.route(path, access, BODY_SIZE_MAX, move |peer, body| {
            let handler = Arc::clone(&handler);
            async move {
                let Some(Batch(requests)) = batch::decode(&body) else {
                    return Reply::Refused(Refusal::Malformed);
                };
                drop(body);
                let count = requests.len();
                debug_assert!(count <= BATCH_MAX, "the decoder bounds a batch");
                match handler(peer, requests).await {
                    Ok(replies) if replies.len() == count => Reply::Body(batch::encode(&Batch(replies))),
                    Ok(_) => Reply::Refused(Refusal::Failed),
                    Err(refusal) => Reply::Refused(refusal),
                }
            }
        })
    }

    /// The route of a path, if the peer may call it.
    pub(crate) fn find(&self, path: &str, peer: &Peer) -> Result<&Route, Refusal> {
        let route = self.routes.get(path).ok_or(Refusal::Path)?;
        if route.access.admits(peer) { Ok(route) } else { Err(Refusal::Forbidden) }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes = self.routes.iter().map(|(path, route)| (path, (route.access, route.body_size_max)));
        f.debug_map().entries(routes).finish()
    }
}
