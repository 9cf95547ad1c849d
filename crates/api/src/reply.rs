//! Answers of a server.

use std::time::Duration;

use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};

/// The content type of our own services.
pub const MEDIA_TYPE: &str = "application/cbor";

/// What a handler answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// 200 with a message.
    Body(Vec<u8>),
    /// 202 without a message: not yet, repeat the same bytes after this time.
    Later(Duration),
    /// 204: done, nothing to say.
    Empty,
    /// Refused, without a message.
    Refused(Refusal),
}

/// Why a request was refused, as far as the peer is told: a status and no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// 400: not a well-formed message.
    Malformed,
    /// 403: not for this peer.
    Forbidden,
    /// 404: no such path.
    Path,
    /// 405: another method than the route's, mostly POST.
    Method,
    /// 408: the message did not arrive in time.
    Slow,
    /// 411: no Content-Length.
    Length,
    /// 413: the message is larger than the route takes.
    TooLarge,
    /// 415: not `application/cbor`, or whatever a standard demands there.
    ContentType,
    /// 429: too many requests of this peer; back off.
    TooMany(Duration),
    /// 500: the handler failed.
    Failed,
    /// 503: overloaded or waiting for another service; back off.
    Busy(Duration),
}

impl Refusal {
    const fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Length => StatusCode::LENGTH_REQUIRED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Reply {
    pub(crate) fn into_response(self, media_type: &'static str) -> Response<Full<Bytes>> {
        let (status, retry_after, body) = match self {
            Self::Body(body) => (StatusCode::OK, None, Some(body)),
            Self::Later(delay) => (StatusCode::ACCEPTED, Some(delay), None),
            Self::Empty => (StatusCode::NO_CONTENT, None, None),
            Self::Refused(refusal) => match refusal {
                Refusal::TooMany(delay) | Refusal::Busy(delay) => (refusal.status(), Some(delay), None),
                _ => (refusal.status(), None, None),
            },
        };
        let has_body = body.is_some();
        let mut response = Response::new(Full::new(Bytes::from(body.unwrap_or_default())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if has_body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        if let Some(delay) = retry_after {
            // Rounded up: "0" would ask for a tight loop.
            headers.insert(
                RETRY_AFTER,
                HeaderValue::from(delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0)).max(1)),
            );
        }
        response
    }
}
