//! The calling side.

mod field;
mod inner;
pub mod keys;

pub use field::FieldClient;
pub use inner::Client;
pub use keys::{KeysCallError, KeysClient};

use std::{future::Future, net::SocketAddr, time::Duration};

use gridseal_io::tls::{ClientTls, connect};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    http::uri::{Authority, Scheme},
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::ApiError;

/// Longest wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest delay that a server's Retry-After is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// When to repeat a 202, 429 or 503; at most a day.
    pub retry_after: Option<Duration>,
    /// The message; empty unless the status is 200.
    pub body: Vec<u8>,
}

/// Where a server is and how its certificate is to be named.
#[derive(Debug, Clone)]
struct Target {
    address: String,
    name: String,
    tls: ClientTls,
    /// Local address to call from, on a host that has several.
    from: Option<std::net::IpAddr>,
}

impl Target {
    async fn dial(&self) -> Result<TokioIo<TlsStream<TcpStream>>, ApiError> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, self.open()).await;
        let stream = stream.map_err(|_| ApiError::Timeout)?.map_err(ApiError::Connect)?;
        stream.set_nodelay(true).map_err(ApiError::Connect)?;
        Ok(TokioIo::new(connect(&self.tls, &self.name, stream).await?))
    }

    async fn open(&self) -> std::io::Result<TcpStream> {
        let Some(from) = self.from else { return TcpStream::connect(&self.address).await };
        let to: SocketAddr = self.address.parse().map_err(std::io::Error::other)?;
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(from, 0))?;
        socket.connect(to).await
    }

    fn request(&self, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, ApiError> {
        // An IPv6 address stands in brackets there.
        let host = if self.name.contains(':') { format!("[{}]", self.name) } else { self.name.clone() };
        let authority = Authority::try_from(host).map_err(|_| ApiError::Path)?;
        let uri = Uri::builder().scheme(Scheme::HTTPS).authority(authority).path_and_query(path);
        let request = Request::post(uri.build().map_err(|_| ApiError::Path)?)
            .header(CONTENT_TYPE, HeaderValue::from_static(crate::MEDIA_TYPE))
            // Explicit: for an empty body the library would leave it out.
            .header(CONTENT_LENGTH, HeaderValue::from(body.len()));
        request.body(Full::new(body)).map_err(|_| ApiError::Path)
    }
}

/// Reads an answer whose message has at most `size_max` bytes.
async fn answer(response: Response<Incoming>, size_max: usize) -> Result<Answer, ApiError> {
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    let is_cbor = response.headers().get(CONTENT_TYPE).is_some_and(|value| value == crate::MEDIA_TYPE);
    if status != 200 {
        return Ok(Answer { status, retry_after, body: Vec::new() });
    }
    if !is_cbor {
        return Err(ApiError::ContentType);
    }
    let body = Limited::new(response.into_body(), size_max).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return ApiError::TooLarge(size_max);
        }
        error.downcast::<hyper::Error>().map_or(ApiError::Reply, |error| (*error).into())
    })?;
    Ok(Answer { status, retry_after, body: body.to_bytes().into() })
}

/// Waits for a call within its bound.
async fn within<T>(bound: Duration, call: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    tokio::time::timeout(bound, call).await.unwrap_or(Err(ApiError::Timeout))
}
