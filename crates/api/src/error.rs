//! Errors of the calling side.

use std::io;

use gridseal_io::tls::TlsError;
use gridseal_types::Kind;

/// A call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The service did not accept a connection.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// The handshake failed.
    #[error("no TLS connection")]
    Tls(#[from] TlsError),
    /// The service ended TLS with an alert: it refused our certificate.
    #[error("service ended TLS with an alert")]
    Alert(#[source] hyper::Error),
    /// No answer in time. The request may have been served.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke. The request may have been served.
    #[error("connection broke")]
    Interrupted(#[source] hyper::Error),
    /// The service answered with this status where 200 was needed.
    #[error("service answered with status {0}")]
    Status(u16),
    /// The answer is larger than allowed.
    #[error("answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The answer is not `application/cbor`.
    #[error("answer is not CBOR by its content type")]
    ContentType,
    /// The answer is not the batch that was asked for: malformed, or not one reply for each request.
    #[error("answer is not the expected batch")]
    Reply,
    /// More requests in one batch than a service takes.
    #[error("batch has more requests than allowed")]
    Batch,
    /// The path cannot be in an HTTP request.
    #[error("path is malformed")]
    Path,
}

impl ApiError {
    /// Whether the service is there, and has too much to do.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        matches!(self, Self::Status(429 | 503))
    }

    /// Who has to act. Retry logic reads only this; what our services offer is idempotent.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Connect(_) | Self::Timeout | Self::Interrupted(_) => Kind::Transient,
            Self::Tls(error) => error.kind(),
            Self::Status(202 | 408 | 429 | 503) => Kind::Transient,
            Self::Alert(_) | Self::Status(_) | Self::TooLarge(_) | Self::ContentType | Self::Reply => {
                Kind::Peer
            }
            Self::Batch | Self::Path => Kind::Local,
        }
    }
}

impl From<hyper::Error> for ApiError {
    /// A refusal by TLS 1.3 after the handshake, such as of our certificate, reaches us as a broken connection. The TLS
    /// layer marks it as invalid data; HTTP/2 keeps no more of it than that mark.
    fn from(error: hyper::Error) -> Self {
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            if inner.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::InvalidData) {
                return Self::Alert(error);
            }
            source = inner.source();
        }
        Self::Interrupted(error)
    }
}
