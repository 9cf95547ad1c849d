//! Peers that do not behave: they have a real identity, or none, and say what they like.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use gridseal_api::{
    ApiError,
    client::{Answer, Client},
};
use gridseal_crypto::{
    EnvelopeContext, Key, SigningKey, WrappedKey,
    role::{Dek, Role, ServiceTls},
    sha256,
};
use gridseal_io::{
    rng::OsRng,
    tls::{Alpn, ClientTls, Identity, SignError, TlsKey, connect, dateless, mutual},
};
use gridseal_trust::{
    enrol::device::DeviceRecord,
    root::{DeviceRoot, RootReply, RootRequest, software::SoftwareRoot},
    tpm,
};
use gridseal_types::UtcTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest wait for whatever a server says.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs one conversation.
pub(crate) fn talk<T>(conversation: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(conversation)
}

/// Certificates of a PEM file.
pub(crate) fn certificates(path: &Path) -> Vec<Vec<u8>> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split_inclusive(END).filter(|block| block.contains(END));
    blocks.map(|block| der::pem::decode_vec(block.trim().as_bytes()).unwrap().1).collect()
}

/// The key that wraps the others of a directory.
fn zone_key(dir: &Path) -> Key<Dek, 32> {
    Key::take_slice(&mut std::fs::read(dir.join("zone.kek")).unwrap()).unwrap()
}

/// A private key of a directory, as somebody has it who has the directory.
pub(crate) fn key_of<R: Role>(dir: &Path, name: &str) -> Key<R, 32> {
    unwrapped(dir, name)
}

fn unwrapped<R: Role>(dir: &Path, name: &str) -> Key<R, 32> {
    let mut object = [0; 16];
    object.copy_from_slice(&sha256(&[name.as_bytes()])[..16]);
    let context = EnvelopeContext::new([0; 16], object, 1);
    let wrapped = WrappedKey(std::fs::read(dir.join(format!("{name}.key"))).unwrap());
    Key::unwrap_key(&zone_key(dir), &context, &wrapped).unwrap()
}

/// A private key of a directory in hex: to search for it where it must not be.
pub(crate) fn wrapped_key_hex<R: Role>(dir: &Path, name: &str) -> String {
    unwrapped::<R>(dir, name).danger_reveal_hex()
}

/// The identity of an inner service, as somebody has it who has taken over its host.
pub(crate) fn stolen_identity(dir: &Path) -> Identity {
    let key = unwrapped::<ServiceTls>(dir, "identity");
    let key = TlsKey::software(SigningKey::new(&key).unwrap());
    Identity::new(certificates(&dir.join("identity.pem")), key).unwrap()
}

/// A meter with a software root, taken over whole: its LDevID, and what it believes of its terminus.
pub(crate) struct StolenMeter {
    pub(crate) identity: Identity,
    pub(crate) ca_bundle: Vec<Vec<u8>>,
}

impl StolenMeter {
    pub(crate) fn take(dir: &Path) -> Self {
        let record = DeviceRecord::decode(&std::fs::read(dir.join("device.cbor")).unwrap()).unwrap();
        let (installed, keys) = (record.installed.unwrap(), record.keys.unwrap());
        let saved = std::fs::read(dir.join("tpm/root.cbor")).unwrap();
        let root = SoftwareRoot::restore(Box::new(OsRng), &zone_key(dir), &saved).unwrap();
        let (root, tls) = (std::sync::Mutex::new(root), keys.tls.clone());
        let sign = Arc::new(move |message: &[u8]| {
            let request = RootRequest::Sign { tls: tls.clone(), message: message.to_vec() };
            match root.lock().unwrap().perform(request) {
                Ok(RootReply::Signature(signature)) => Ok(signature),
                _ => Err(SignError),
            }
        });
        let key = TlsKey::external(tpm::tls_key(&keys.tls.public).unwrap(), sign);
        let chain = installed.ldevid_chain.iter().map(|der| der.0.clone()).collect();
        let ca_bundle = installed.ca_bundle.iter().map(|der| der.0.clone()).collect();
        Self { identity: Identity::new(chain, key).unwrap(), ca_bundle }
    }

    /// Sends bytes over a link to the terminus and reads until it closes or falls silent; what it said.
    pub(crate) fn push(&self, terminus: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let tls = dateless(&self.ca_bundle, UtcTime(0), Some(&self.identity), Alpn::Raw).unwrap();
        talk(say(&tls, terminus, bytes, Duration::from_secs(2)))
    }
}

/// Sends bytes over TLS; reads until the other side closes or says nothing for a while.
pub(crate) async fn say(tls: &ClientTls, to: SocketAddr, bytes: &[u8], silence: Duration) -> Vec<u8> {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let Ok(mut stream) = connect(tls, &to.ip().to_string(), stream).await else { return Vec::new() };
    let mut heard = Vec::new();
    if stream.write_all(bytes).await.is_err() || stream.flush().await.is_err() {
        return heard;
    }
    let mut buffer = vec![0; 65_536];
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(silence, stream.read(&mut buffer)).await {
        heard.extend_from_slice(&buffer[..count]);
    }
    heard
}

/// Sends raw bytes without TLS; what comes back until the end.
pub(crate) fn say_plain(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may have closed already: then there is nothing to hear either.
    let _ = stream.write_all(bytes);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    heard
}

/// A client of an inner port.
pub(crate) fn inner(to: SocketAddr, tls: ClientTls, name: &str) -> Client {
    Client::new(to.to_string(), tls, name).with_timeout(PATIENCE)
}

/// Posts to an inner port with an identity, or with none.
pub(crate) fn post(
    (to, name): (SocketAddr, &str),
    roots: &[Vec<u8>],
    identity: Option<&Identity>,
    (path, body): (&str, Vec<u8>),
) -> Result<Answer, ApiError> {
    let tls = match identity {
        Some(identity) => mutual(roots, identity, Alpn::Http2),
        None => dateless(roots, UtcTime(0), None, Alpn::Http2),
    };
    talk(async { inner(to, tls.unwrap(), name).post(path, body).await })
}

/// An HTTP/1.1 request with a body, its head as it must be.
pub(crate) fn request(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/cbor\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Status and body of an HTTP/1.1 answer; 0 when there is none.
pub(crate) fn status_of(answer: &[u8]) -> (u16, Vec<u8>) {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = end else { return (0, Vec::new()) };
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer[end + 4..].to_vec())
}

/// A ClientHello of TLS 1.2, such as an old device would send.
pub(crate) fn hello_of_tls_1_2() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[0x42; 32]);
    body.push(0);
    // ECDHE-ECDSA and ECDHE-RSA with AES-128-GCM; no compression.
    body.extend_from_slice(&[0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    let extensions: &[u8] = &[
        0, 10, 0, 6, 0, 4, 0, 0x1d, 0, 0x17, // supported_groups: X25519, P-256
        0, 13, 0, 6, 0, 4, 4, 3, 8, 4, // signature_algorithms
        0, 11, 0, 2, 1, 0, // ec_point_formats
    ];
    body.extend_from_slice(&[0, extensions.len() as u8]);
    body.extend_from_slice(extensions);
    let mut handshake = vec![1, 0, 0, body.len() as u8];
    handshake.extend_from_slice(&body);
    let mut record = vec![0x16, 3, 1, 0, handshake.len() as u8];
    record.extend_from_slice(&handshake);
    record
}
