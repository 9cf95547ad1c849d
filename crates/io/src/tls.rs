//! TLS as Gridseal speaks it: version 1.3 only, no early data, no session tickets, hybrid key exchange first.
//!
//! Whom an end believes is one constructor each: [`pinned`] (config server), [`dateless`] (init server and terminus, for
//! a meter whose clock nobody vouches for), [`mutual`] (our own services), [`server`] and [`server_for_clients`]. Private
//! keys sign through a [`TlsKey`] and are never exported; the one of a meter lies in its TPM.
//!
//! # Source
//! Onboarding specification, sections 7.2, 7.3 and 12.

mod client;
mod identity;
mod peer;
mod server;

pub use client::{ClientTls, connect, dateless, mutual, pinned};
pub use identity::{Identity, SignError, SignFn, TlsKey};
pub use peer::{PeerCertificate, spki_hash};
pub use server::{ServerTls, accept, server, server_for_clients};

use std::{future::Future, io, sync::Arc, time::Duration};

use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::CertificateDer,
};

/// Longest time from the first byte of a handshake to its end, both sides.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is spoken inside the TLS connection, agreed during the handshake (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2 and, for peers without it, HTTP/1.1.
    Http,
    /// HTTP/2 only.
    Http2,
    /// HTTP/1.1 only.
    Http1,
    /// Not HTTP: nothing is announced.
    Raw,
}

impl Alpn {
    fn names(self) -> Vec<Vec<u8>> {
        let names: &[&[u8]] = match self {
            Self::Http => &[b"h2", b"http/1.1"],
            Self::Http2 => &[b"h2"],
            Self::Http1 => &[b"http/1.1"],
            Self::Raw => &[],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }
}

/// TLS could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Our own chain is empty or its first certificate does not parse.
    #[error("own certificate chain is not usable")]
    Chain,
    /// Our own certificate is for another key.
    #[error("own certificate does not belong to the private key")]
    KeyMismatch,
    /// Neither roots nor pins: nobody could ever be believed.
    #[error("no root certificate and no pin is given")]
    NoTrust,
    /// A root certificate does not parse.
    #[error("root certificate does not parse")]
    Root,
    /// The peer's name is neither a DNS name nor an IP address.
    #[error("peer name is neither a DNS name nor an IP address")]
    Name,
    /// The certificate of an authenticated client lacks what we read from it.
    #[error("peer certificate does not parse")]
    PeerCertificate,
    /// The configuration or the peer's handshake was refused by the TLS library.
    #[error("TLS refused")]
    Refused(#[source] rustls::Error),
    /// The connection failed.
    #[error("connection failed")]
    Io(#[source] io::Error),
    /// The peer did not finish in [`HANDSHAKE_TIMEOUT`].
    #[error("TLS handshake timed out")]
    Timeout,
}

impl TlsError {
    /// Who has to act.
    #[must_use]
    pub const fn kind(&self) -> gridseal_types::Kind {
        use gridseal_types::Kind;
        match self {
            Self::Chain | Self::KeyMismatch | Self::NoTrust | Self::Root | Self::Name => Kind::Local,
            Self::PeerCertificate | Self::Refused(_) => Kind::Peer,
            Self::Io(_) | Self::Timeout => Kind::Transient,
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Refused(error)
    }
}

/// Algorithms: TLS 1.3 suites of the library, and for the key exchange X25519MLKEM768, X25519 or P-256.
fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
    Arc::new(CryptoProvider {
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1],
        ..aws_lc_rs::default_provider()
    })
}

fn root_store(roots: &[Vec<u8>]) -> Result<Arc<RootCertStore>, TlsError> {
    if roots.is_empty() {
        return Err(TlsError::NoTrust);
    }
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from_slice(root)).map_err(|_| TlsError::Root)?;
    }
    Ok(Arc::new(store))
}

/// Waits for a handshake within its bound, and tells a refusal by TLS from a broken connection.
async fn bounded<T>(handshake: impl Future<Output = io::Result<T>>) -> Result<T, TlsError> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Err(_) => Err(TlsError::Timeout),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let refusal = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
            Err(refusal.map_or(TlsError::Io(error), TlsError::Refused))
        }
    }
}
