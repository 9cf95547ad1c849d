//! The answering side.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Alpn, Identity, PeerCertificate, TlsError, bounded, provider, root_store};

/// Settings of the answering side, ready for use by any number of connections.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<ServerConfig>);

/// A server that anybody may connect to: init server and config server.
///
/// # Errors
/// [`TlsError::Refused`] when the library refuses the settings.
pub fn server(identity: &Identity, alpn: Alpn) -> Result<ServerTls, TlsError> {
    build(identity, None, alpn)
}

/// A server that only clients with a certificate under `roots` (DER) may connect to: inner services, and the field side
/// of the head-end with the roots of the meters' LDevIDs. Dates count, by this machine's clock.
///
/// # Errors
/// [`TlsError::NoTrust`] or [`TlsError::Root`] for the roots, [`TlsError::Refused`] as the library says.
pub fn server_for_clients(identity: &Identity, roots: &[Vec<u8>], alpn: Alpn) -> Result<ServerTls, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(root_store(roots)?, provider())
        .build()
        .map_err(|_| TlsError::Root)?;
    build(identity, Some(verifier), alpn)
}

fn build(
    identity: &Identity,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    alpn: Alpn,
) -> Result<ServerTls, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(identity.resolver());
    config.alpn_protocols = alpn.names();
    // A ticket would carry the session past the certificate check of the next connection.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(ServerTls(Arc::new(config)))
}

/// Does the handshake with a client. The certificate is there exactly when the settings ask for one.
///
/// # Errors
/// [`TlsError::Refused`], [`TlsError::Io`], [`TlsError::Timeout`], or [`TlsError::PeerCertificate`] when the client's
/// certificate verifies but cannot be read.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &ServerTls,
    stream: S,
) -> Result<(TlsStream<S>, Option<PeerCertificate>), TlsError> {
    let stream = bounded(TlsAcceptor::from(Arc::clone(&tls.0)).accept(stream)).await?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = leaf.map(|der| PeerCertificate::parse(der)).transpose()?;
    Ok((stream, peer))
}
