//! The calling side, and whom it believes.

use std::{sync::Arc, time::Duration};

use gridseal_types::{Digest, UtcTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Alpn, Identity, TlsError, bounded, peer::not_before, provider, root_store, spki_hash};

/// Settings of the calling side, ready for use by any number of connections.
#[derive(Debug, Clone)]
pub struct ClientTls(Arc<ClientConfig>);

/// Believes exactly the certificates whose SHA-256(SubjectPublicKeyInfo) is in `pins`, if the handshake proves the key.
/// Names and dates are not checked. For the config server.
///
/// # Errors
/// [`TlsError::NoTrust`] without pins, [`TlsError::Refused`] as the library says.
pub fn pinned(pins: Vec<Digest>, alpn: Alpn) -> Result<ClientTls, TlsError> {
    if pins.is_empty() {
        return Err(TlsError::NoTrust);
    }
    build(Arc::new(Pinned { pins, provider: provider() }), None, alpn)
}

/// Believes chains to `roots` (DER) for the right name, without a calendar: a certificate is refused only when `floor`, the
/// largest time the caller has authenticated, lies past its end; a start that lies ahead never refuses. For the init
/// server (floor 0, no identity) and the terminus (the meter's floor clock and its LDevID).
///
/// # Errors
/// [`TlsError::NoTrust`] or [`TlsError::Root`] for the roots, [`TlsError::Refused`] as the library says.
pub fn dateless(
    roots: &[Vec<u8>],
    floor: UtcTime,
    identity: Option<&Identity>,
    alpn: Alpn,
) -> Result<ClientTls, TlsError> {
    build(Arc::new(Dateless { chains: chains(roots)?, floor }), identity, alpn)
}

/// Believes chains to `roots` (DER) for the right name and date, and proves who we are. For inner services.
///
/// # Errors
/// [`TlsError::NoTrust`] or [`TlsError::Root`] for the roots, [`TlsError::Refused`] as the library says.
pub fn mutual(roots: &[Vec<u8>], identity: &Identity, alpn: Alpn) -> Result<ClientTls, TlsError> {
    build(chains(roots)?, Some(identity), alpn)
}

/// Does the handshake with a server. `name` is what its certificate has to be for (unless pinned): a DNS name, the name of
/// an inner service, or an IP address.
///
/// # Errors
/// [`TlsError::Name`], [`TlsError::Refused`], [`TlsError::Io`] or [`TlsError::Timeout`]. A server that refuses *our*
/// certificate is noticed at the first read only: TLS 1.3 has no earlier answer.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &ClientTls,
    name: &str,
    stream: S,
) -> Result<TlsStream<S>, TlsError> {
    let name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name)?;
    bounded(TlsConnector::from(Arc::clone(&tls.0)).connect(name, stream)).await
}

fn build(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<&Identity>,
    alpn: Alpn,
) -> Result<ClientTls, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.resolver()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.names();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(ClientTls(Arc::new(config)))
}

fn chains(roots: &[Vec<u8>]) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    WebPkiServerVerifier::builder_with_provider(root_store(roots)?, provider())
        .build()
        .map_err(|_| TlsError::Root)
}

#[derive(Debug)]
struct Pinned {
    pins: Vec<Digest>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = spki_hash(leaf).map_err(|_| CertificateError::BadEncoding)?;
        if self.pins.contains(&found) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct Dateless {
    chains: Arc<WebPkiServerVerifier>,
    floor: UtcTime,
}

impl ServerCertVerifier for Dateless {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let start = not_before(leaf).ok_or(CertificateError::BadEncoding)?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(self.floor.max(start).0));
        self.chains.verify_server_cert(leaf, intermediates, name, ocsp, at)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
