//! Whom each end of a TLS connection believes. Certificates are made by OpenSSL from our own requests, so that neither the
//! requests nor the certificates are judged by the code that made them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

#[path = "tls/openssl.rs"]
mod openssl;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use gridseal_crypto::Signer;
use gridseal_io::{
    clock::utc_now,
    tls::{
        Alpn, ClientTls, Identity, PeerCertificate, ServerTls, SignError, TlsError, TlsKey, accept, connect,
        dateless, mutual, pinned, server, server_for_clients, spki_hash,
    },
};
use gridseal_types::{Digest, UtcTime};
use openssl::{Authority, DAY_S, service_key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SERVICE: &str = "subjectAltName=DNS:endpoint-manager\nextendedKeyUsage=serverAuth,clientAuth";
const SERVER: &str =
    "subjectAltName=DNS:init.example,IP:127.0.0.1\nextendedKeyUsage=serverAuth\nkeyUsage=digitalSignature";
const METER: &str = "extendedKeyUsage=clientAuth\nkeyUsage=digitalSignature";

fn identity(authority: &Authority, subject: &str, extensions: &str) -> (Identity, Vec<u8>) {
    let key = service_key();
    let certificate = authority.issue(&key, subject, extensions);
    (Identity::new(vec![certificate.clone()], TlsKey::software(key)).unwrap(), certificate)
}

/// One connection in memory: four bytes there and back.
async fn talk(
    server: &ServerTls,
    client: &ClientTls,
    name: &str,
) -> (Result<Option<PeerCertificate>, TlsError>, Result<(), TlsError>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let answering = async {
        let (mut stream, peer) = accept(server, far).await?;
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.map_err(TlsError::Io)?;
        stream.write_all(&bytes).await.map_err(TlsError::Io)?;
        stream.flush().await.map_err(TlsError::Io)?;
        Ok(peer)
    };
    let calling = async {
        let mut stream = connect(client, name, near).await?;
        stream.write_all(b"ping").await.map_err(TlsError::Io)?;
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.map_err(TlsError::Io)?;
        assert_eq!(&bytes, b"ping");
        Ok(())
    };
    tokio::join!(answering, calling)
}

#[tokio::test]
async fn a_pinned_key_is_believed_whatever_its_name_and_issuer() {
    let authority = Authority::new("pinned");
    let (config_server, certificate) = identity(&authority, "config", SERVER);
    let server = server(&config_server, Alpn::Http).unwrap();
    let pins = vec![Digest([7; 32]), spki_hash(&certificate).unwrap()];
    let (peer, result) = talk(&server, &pinned(pins, Alpn::Http1).unwrap(), "elsewhere.example").await;
    result.unwrap();
    assert_eq!(peer.unwrap(), None);
}

#[tokio::test]
async fn another_key_than_the_pinned_one_is_refused() {
    let authority = Authority::new("wrong-pin");
    let (config_server, certificate) = identity(&authority, "config", SERVER);
    let (_, other) = identity(&authority, "config", SERVER);
    let server = server(&config_server, Alpn::Http).unwrap();
    for pins in [vec![spki_hash(&other).unwrap()], vec![spki_hash(&authority.root()).unwrap()]] {
        let (_, result) = talk(&server, &pinned(pins, Alpn::Http1).unwrap(), "init.example").await;
        assert!(matches!(result, Err(TlsError::Refused(_))), "{result:?}");
    }
    assert!(matches!(pinned(vec![], Alpn::Http1), Err(TlsError::NoTrust)));
    assert_ne!(spki_hash(&certificate).unwrap(), spki_hash(&other).unwrap());
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused_although_pinned() {
    let authority = Authority::new("stolen-certificate");
    let (_, certificate) = identity(&authority, "config", SERVER);
    let public = gridseal_trust::csr::key_of_spki(&spki_of(&certificate)).unwrap();
    let thief = service_key();
    let forged =
        TlsKey::external(public, Arc::new(move |message| thief.sign(message).map_err(|_| SignError)));
    let server = server(&Identity::new(vec![certificate.clone()], forged).unwrap(), Alpn::Raw).unwrap();
    let pins = vec![spki_hash(&certificate).unwrap()];
    let (_, result) = talk(&server, &pinned(pins, Alpn::Raw).unwrap(), "init.example").await;
    assert!(matches!(result, Err(TlsError::Refused(_))), "{result:?}");
}

#[tokio::test]
async fn a_meter_without_a_clock_believes_the_private_ca_for_name_and_address() {
    let authority = Authority::new("dateless");
    let (init, _) = identity(&authority, "init", SERVER);
    let server = server(&init, Alpn::Http).unwrap();
    for floor in [0, utc_now().0] {
        let tls = dateless(&[authority.root()], UtcTime(floor), None, Alpn::Http1).unwrap();
        for name in ["init.example", "127.0.0.1"] {
            talk(&server, &tls, name).await.1.unwrap();
        }
        let (_, result) = talk(&server, &tls, "other.example").await;
        assert!(matches!(result, Err(TlsError::Refused(_))), "{result:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_ended_before_the_floor_clock_is_refused() {
    let authority = Authority::new("floor");
    let (init, _) = identity(&authority, "init", SERVER);
    let server = server(&init, Alpn::Http).unwrap();
    let floor = UtcTime(utc_now().0 + 2 * DAY_S);
    let tls = dateless(&[authority.root()], floor, None, Alpn::Http1).unwrap();
    let (_, result) = talk(&server, &tls, "init.example").await;
    assert!(matches!(result, Err(TlsError::Refused(rustls::Error::InvalidCertificate(_)))), "{result:?}");
}

#[tokio::test]
async fn a_chain_to_another_ca_of_the_same_name_is_refused() {
    let (authority, other) = (Authority::new("one-ca"), Authority::new("other-ca"));
    let (init, _) = identity(&other, "init", SERVER);
    let server = server(&init, Alpn::Http).unwrap();
    let tls = dateless(&[authority.root()], UtcTime(0), None, Alpn::Http1).unwrap();
    let (_, result) = talk(&server, &tls, "init.example").await;
    assert!(matches!(result, Err(TlsError::Refused(_))), "{result:?}");
}

#[tokio::test]
async fn services_know_each_other_by_name() {
    let authority = Authority::new("mutual");
    let (keys, _) =
        identity(&authority, "keys", "subjectAltName=DNS:keys\nextendedKeyUsage=serverAuth,clientAuth");
    let (manager, certificate) = identity(&authority, "endpoint-manager", SERVICE);
    let server = server_for_clients(&keys, &[authority.root()], Alpn::Http2).unwrap();
    let client = mutual(&[authority.root()], &manager, Alpn::Http2).unwrap();
    let (peer, result) = talk(&server, &client, "keys").await;
    result.unwrap();
    let peer = peer.unwrap().unwrap();
    assert_eq!(peer.service.as_deref(), Some("endpoint-manager"));
    assert_eq!(peer.spki, spki_hash(&certificate).unwrap());
    assert_eq!(peer.der, certificate);
    let (_, result) = talk(&server, &client, "pki").await;
    assert!(matches!(result, Err(TlsError::Refused(_))), "{result:?}");
}

#[tokio::test]
async fn a_client_without_certificate_or_of_another_ca_is_refused() {
    let (authority, other) = (Authority::new("clients"), Authority::new("other-clients"));
    let (keys, _) = identity(&authority, "keys", SERVER);
    let server = server_for_clients(&keys, &[authority.root()], Alpn::Http2).unwrap();
    let anonymous = dateless(&[authority.root()], UtcTime(0), None, Alpn::Http2).unwrap();
    let (stranger, _) = identity(&other, "endpoint-manager", SERVICE);
    let (not_a_client, _) = identity(&authority, "init", SERVER);
    let foreign = mutual(&[authority.root()], &stranger, Alpn::Http2).unwrap();
    let unfit = mutual(&[authority.root()], &not_a_client, Alpn::Http2).unwrap();
    for client in [anonymous, foreign, unfit] {
        let (accepted, answered) = talk(&server, &client, "init.example").await;
        assert!(matches!(accepted, Err(TlsError::Refused(_))), "{accepted:?}");
        assert!(answered.is_err());
    }
}

#[tokio::test]
async fn an_expired_client_is_refused_by_the_servers_own_clock() {
    let authority = Authority::new("expired");
    let (keys, _) = identity(&authority, "keys", SERVER);
    let key = service_key();
    let certificate = authority.issue_expired(&key, "endpoint-manager", SERVICE);
    let expired = Identity::new(vec![certificate], TlsKey::software(key)).unwrap();
    let server = server_for_clients(&keys, &[authority.root()], Alpn::Http2).unwrap();
    let client = mutual(&[authority.root()], &expired, Alpn::Http2).unwrap();
    let (accepted, _) = talk(&server, &client, "init.example").await;
    assert!(matches!(accepted, Err(TlsError::Refused(_))), "{accepted:?}");
}

#[tokio::test]
async fn a_key_outside_the_process_signs_the_handshake() {
    let authority = Authority::new("external");
    let (headend, _) = identity(&authority, "headend", SERVER);
    let key = service_key();
    let certificate = authority.issue(&key, "meter", METER);
    let signed = Arc::new(AtomicUsize::new(0));
    let (public, count) = (key.public(), Arc::clone(&signed));
    let tpm = TlsKey::external(
        public,
        Arc::new(move |message| {
            count.fetch_add(1, Ordering::SeqCst);
            key.sign(message).map_err(|_| SignError)
        }),
    );
    let meter = Identity::new(vec![certificate], tpm).unwrap();
    let server = server_for_clients(&headend, &[authority.root()], Alpn::Http).unwrap();
    let client = dateless(&[authority.root()], UtcTime(0), Some(&meter), Alpn::Http1).unwrap();
    let (peer, result) = talk(&server, &client, "init.example").await;
    result.unwrap();
    assert_eq!(peer.unwrap().unwrap().service, None, "a meter is no service");
    assert_eq!(signed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_key_store_that_refuses_ends_the_handshake() {
    let authority = Authority::new("refusing");
    let key = service_key();
    let certificate = authority.issue(&key, "init", SERVER);
    let dead = TlsKey::external(key.public(), Arc::new(|_| Err(SignError)));
    let server = server(&Identity::new(vec![certificate], dead).unwrap(), Alpn::Raw).unwrap();
    let client = dateless(&[authority.root()], UtcTime(0), None, Alpn::Raw).unwrap();
    let (accepted, answered) = talk(&server, &client, "init.example").await;
    assert!(matches!(accepted, Err(TlsError::Refused(_))), "{accepted:?}");
    assert!(answered.is_err());
}

#[test]
fn a_certificate_of_another_key_is_no_identity() {
    let authority = Authority::new("mismatch");
    let certificate = authority.issue(&service_key(), "init", SERVER);
    let mismatch = Identity::new(vec![certificate], TlsKey::software(service_key()));
    assert!(matches!(mismatch, Err(TlsError::KeyMismatch)));
    assert!(matches!(Identity::new(vec![], TlsKey::software(service_key())), Err(TlsError::Chain)));
    let garbage = Identity::new(vec![vec![0x30, 0]], TlsKey::software(service_key()));
    assert!(matches!(garbage, Err(TlsError::Chain)));
}

#[test]
fn a_service_needs_one_dns_name_equal_to_its_common_name() {
    let authority = Authority::new("names");
    for (subject, extensions, service) in [
        ("endpoint-manager", SERVICE, Some("endpoint-manager")),
        ("keys", SERVICE, None),
        ("endpoint-manager", METER, None),
        ("endpoint-manager", "subjectAltName=DNS:endpoint-manager,DNS:keys", None),
        ("endpoint-manager", "subjectAltName=URI:endpoint-manager", None),
    ] {
        let facts = PeerCertificate::parse(&authority.issue(&service_key(), subject, extensions)).unwrap();
        assert_eq!(facts.service.as_deref(), service, "{subject} {extensions}");
    }
    assert!(PeerCertificate::parse(&[0x30, 0x03, 2, 1, 0]).is_err());
}

#[tokio::test]
async fn openssl_speaks_tls_1_3_with_us_and_tls_1_2_is_refused() {
    let authority = Authority::new("versions");
    let (init, _) = identity(&authority, "init", SERVER);
    let tls = server(&init, Alpn::Http).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // The client closes when it is done.
            if let Ok((mut stream, _)) = accept(&tls, stream).await {
                let _ = stream.read(&mut [0; 1]).await;
            }
        }
    });
    let attempt = |version: &'static str| {
        let root = authority.root_file();
        tokio::task::spawn_blocking(move || openssl::s_client(port, version, &root))
    };
    let (is_ok, output) = attempt("-tls1_3").await.unwrap();
    assert!(is_ok && output.contains("Verify return code: 0 (ok)"), "{output}");
    assert!(!output.contains("New Session Ticket arrived"), "{output}");
    let (is_ok, output) = attempt("-tls1_2").await.unwrap();
    assert!(!is_ok && output.contains("protocol version"), "{output}");
    serving.abort();
}

/// SubjectPublicKeyInfo of a P-256 certificate, found by its fixed front.
fn spki_of(certificate: &[u8]) -> Vec<u8> {
    let front = [0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce];
    let start = certificate.windows(front.len()).position(|window| window == front).unwrap();
    certificate[start..start + gridseal_trust::csr::SPKI_SIZE].to_vec()
}
