//! One request: its checks in order, its body, its handler.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use tokio::sync::OwnedSemaphorePermit;

use super::{ServerEvent, Shared};
use crate::{Peer, Refusal, Reply, router::Route};

/// What handling a request costs beside its body, bytes: bounds the number of requests at a time.
const REQUEST_COST: u32 = 4 * 1024;

/// When a peer shall come back to a server that has no room.
const BUSY_DELAY: Duration = Duration::from_secs(2);

/// Answers one request; what is wrong with it becomes a status.
pub(super) async fn answer(
    shared: Arc<Shared>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let address = peer.address;
    let mut answers = crate::MEDIA_TYPE;
    let found = shared.router.find(request.uri().path(), &peer).cloned();
    let reply = match found {
        Ok(route) => {
            answers = route.media.answers;
            handle(&shared, route, (peer, request)).await.unwrap_or_else(Reply::Refused)
        }
        Err(refusal) => Reply::Refused(refusal),
    };
    if let Reply::Refused(refusal) = reply {
        (shared.events)(ServerEvent::Refused { address, refusal });
    }
    Ok(reply.into_response(answers))
}

async fn handle(
    shared: &Shared,
    route: Route,
    (peer, request): (Peer, Request<Incoming>),
) -> Result<Reply, Refusal> {
    let length = body_length(&route, &request)?;
    let room = room(shared, length)?;
    let body = Limited::new(request.into_body(), length).collect();
    let body = tokio::time::timeout(shared.limits.body_timeout, body).await;
    // A body that breaks off or runs over its announced length has no better answer: mostly nobody hears it.
    let body = body.map_err(|_| Refusal::Slow)?.map_err(|_| Refusal::Malformed)?.to_bytes();
    if body.len() != length {
        return Err(Refusal::Malformed);
    }
    let running = tokio::spawn(async move {
        let reply = (route.handler)(peer, body).await;
        drop(room);
        reply
    });
    match tokio::time::timeout(shared.limits.handler_timeout, running).await {
        Err(_) => Err(Refusal::Busy(BUSY_DELAY)),
        Ok(Err(_)) => Err(Refusal::Failed),
        Ok(Ok(reply)) => Ok(reply),
    }
}

/// The announced length, if the head is as it must be.
fn body_length(route: &Route, request: &Request<Incoming>) -> Result<usize, Refusal> {
    let Some(asks) = route.media.asks else {
        return if request.method() == Method::GET { Ok(0) } else { Err(Refusal::Method) };
    };
    if request.method() != Method::POST {
        return Err(Refusal::Method);
    }
    let headers = request.headers();
    if headers.get(CONTENT_TYPE).is_none_or(|value| value != asks) {
        return Err(Refusal::ContentType);
    }
    let length = headers.get(CONTENT_LENGTH).ok_or(Refusal::Length)?;
    let length: u64 = length.to_str().ok().and_then(|text| text.parse().ok()).ok_or(Refusal::Malformed)?;
    usize::try_from(length).ok().filter(|&length| length <= route.body_size_max).ok_or(Refusal::TooLarge)
}

/// Room for the body and its handling, given back when the handler has ended.
fn room(shared: &Shared, length: usize) -> Result<OwnedSemaphorePermit, Refusal> {
    let cost = u32::try_from(length).map_err(|_| Refusal::TooLarge)?.saturating_add(REQUEST_COST);
    Arc::clone(&shared.in_flight).try_acquire_many_owned(cost).map_err(|_| Refusal::Busy(BUSY_DELAY))
}
