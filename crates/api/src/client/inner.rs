//! The client of an inner service: one HTTP/2 connection, many calls at a time.

use std::{fmt, time::Duration};

use gridseal_io::tls::ClientTls;
use gridseal_types::service::{BATCH_MAX, BODY_SIZE_MAX, Batch};
use http_body_util::Full;
use hyper::{
    body::Bytes,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use minicbor::{Decode, Encode};
use tokio::sync::Mutex;

use super::{Answer, Target, answer, within};
use crate::{ApiError, batch};

/// Longest wait for an answer unless set otherwise: above the 25 s that a relay call is held.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a connection is checked, and how long the peer has to show that it lives.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Calls one inner service over mutual TLS. The connection is made with the first call and again when it broke.
pub struct Client {
    target: Target,
    call_timeout: Duration,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// A client of the service `name` at `address` (`host:port`). The service must prove that name.
    #[must_use]
    pub fn new(address: impl Into<String>, tls: ClientTls, name: impl Into<String>) -> Self {
        let target = Target { address: address.into(), name: name.into(), tls, from: None };
        Self { target, call_timeout: CALL_TIMEOUT, connection: Mutex::new(None) }
    }

    /// Sets the longest wait for an answer, connection included.
    #[must_use]
    pub fn with_timeout(mut self, call_timeout: Duration) -> Self {
        self.call_timeout = call_timeout;
        self
    }

    /// Posts one message. Any status is an answer; only 200 has a body.
    ///
    /// A request that never left, because the connection had ended meanwhile, is sent once more on a new one.
    ///
    /// # Errors
    /// [`ApiError`] when there is no answer.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Result<Answer, ApiError> {
        within(self.call_timeout, self.attempt(path, body.into())).await
    }

    /// Asks for a batch and gets one reply for each request, in order.
    ///
    /// # Errors
    /// [`ApiError::Batch`] for too many requests, [`ApiError::Status`] for any status but 200, [`ApiError::Reply`] for an
    /// answer that is not such a batch, others when there is no answer.
    pub async fn call<Request, Reply>(
        &self,
        path: &str,
        requests: &Batch<Request>,
    ) -> Result<Batch<Reply>, ApiError>
    where
        Request: Encode<()>,
        Reply: for<'b> Decode<'b, ()>,
    {
        if requests.0.len() > BATCH_MAX {
            return Err(ApiError::Batch);
        }
        let answer = self.post(path, batch::encode(requests)).await?;
        if answer.status != 200 {
            return Err(ApiError::Status(answer.status));
        }
        let replies: Batch<Reply> = batch::decode(&answer.body).ok_or(ApiError::Reply)?;
        if replies.0.len() == requests.0.len() { Ok(replies) } else { Err(ApiError::Reply) }
    }

    async fn attempt(&self, path: &str, body: Bytes) -> Result<Answer, ApiError> {
        let request = self.target.request(path, body)?;
        let error = match self.sender().await?.try_send_request(request).await {
            Ok(response) => return answer(response, BODY_SIZE_MAX).await,
            Err(error) => error,
        };
        let mut error = error;
        let Some(unsent) = error.take_message() else { return Err(error.into_error().into()) };
        let response = self.sender().await?.send_request(unsent).await?;
        answer(response, BODY_SIZE_MAX).await
    }

    /// A sender on a connection that is up, as far as one can know.
    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, ApiError> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = connection.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        *connection = None;
        let stream = self.target.dial().await?;
        let (sender, driver) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL)
            .keep_alive_while_idle(true)
            .handshake(stream)
            .await?;
        // Ends with the connection; its error is also that of the calls on it.
        tokio::spawn(driver);
        *connection = Some(sender.clone());
        Ok(sender)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({} at {})", self.target.name, self.target.address)
    }
}
