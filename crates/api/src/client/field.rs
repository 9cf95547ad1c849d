//! The client of a meter: HTTP/1.1, one connection, one message at a time.

use std::{fmt, time::Duration};

use gridseal_io::tls::ClientTls;
use http_body_util::Full;
use hyper::{
    body::Bytes,
    client::conn::http1::{Builder, SendRequest},
    header::{HOST, HeaderValue},
    http::uri::PathAndQuery,
};

use super::{Answer, Target, answer, within};
use crate::ApiError;

/// Largest message that is read unless set otherwise, bytes.
const BODY_SIZE_MAX: usize = 64 * 1024;

/// Longest wait for an answer unless set otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Calls one server, keeping the connection while both sides want it.
pub struct FieldClient {
    target: Target,
    call_timeout: Duration,
    body_size_max: usize,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl FieldClient {
    /// A client of the server at `address` (`host:port`), whose certificate has to be for `name` unless it is pinned.
    #[must_use]
    pub fn new(address: impl Into<String>, tls: ClientTls, name: impl Into<String>) -> Self {
        let target = Target { address: address.into(), name: name.into(), tls, from: None };
        Self { target, call_timeout: CALL_TIMEOUT, body_size_max: BODY_SIZE_MAX, connection: None }
    }

    /// Calls from this local address; the server is then to be named by its address.
    #[must_use]
    pub const fn from_address(mut self, from: std::net::IpAddr) -> Self {
        self.target.from = Some(from);
        self
    }

    /// Sets the longest wait for an answer (connection included) and the largest message that is read, bytes.
    #[must_use]
    pub fn with_limits(mut self, call_timeout: Duration, body_size_max: usize) -> Self {
        self.call_timeout = call_timeout;
        self.body_size_max = body_size_max;
        self
    }

    /// Posts one message. Any status is an answer; only 200 has a body.
    ///
    /// When a connection of an earlier call breaks, the same bytes go out once more on a new one: the protocol's messages
    /// may be repeated, and the server may have closed it while nothing was said.
    ///
    /// # Errors
    /// [`ApiError`] when there is no answer; the next call makes a new connection.
    pub async fn post(&mut self, path: &str, body: Vec<u8>) -> Result<Answer, ApiError> {
        let bound = self.call_timeout;
        // A call that is cut off by its bound leaves nothing in `connection`.
        within(bound, self.attempt(path, body.into())).await
    }

    async fn attempt(&mut self, path: &str, body: Bytes) -> Result<Answer, ApiError> {
        let kept = self.connection.take().filter(|sender| !sender.is_closed());
        if let Some(sender) = kept {
            match self.exchange(sender, path, body.clone()).await {
                Err(ApiError::Interrupted(_)) => {}
                finished => return finished,
            }
        }
        let (sender, driver) = Builder::new().handshake(self.target.dial().await?).await?;
        // Ends with the connection; its error is also that of the call on it.
        tokio::spawn(driver);
        self.exchange(sender, path, body).await
    }

    async fn exchange(
        &mut self,
        mut sender: SendRequest<Full<Bytes>>,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, ApiError> {
        let mut request = self.target.request(path, body)?;
        // HTTP/1.1 to an origin: the path alone in the request line, the authority in Host.
        let authority = request.uri().authority().map(|host| host.as_str().to_owned()).unwrap_or_default();
        let host = HeaderValue::try_from(authority).map_err(|_| ApiError::Path)?;
        request.headers_mut().insert(HOST, host);
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        *request.uri_mut() = path.into();
        sender.ready().await?;
        let answer = answer(sender.send_request(request).await?, self.body_size_max).await?;
        self.connection = Some(sender);
        Ok(answer)
    }
}

impl fmt::Debug for FieldClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldClient({} at {})", self.target.name, self.target.address)
    }
}
