//! What a TLS handshake costs a server: the same settings as the processes have, over loopback, each side on a thread of
//! its own.

use std::{sync::mpsc, thread};

use gridseal_crypto::{
    Key, Signer, SigningKey,
    role::{CaSigning, ServiceTls},
};
use gridseal_io::{
    clock::utc_now,
    rng::OsRng,
    tls::{
        Alpn, ClientTls, Identity, ServerTls, TlsKey, accept, connect, mutual, pinned, server,
        server_for_clients, spki_hash,
    },
};
use gridseal_pki::{Issuer, SubjectName, Validity, profile, self_signed};
use gridseal_types::UtcTime;
use tokio::net::{TcpListener, TcpStream};

/// Handshakes measured of each kind.
const COUNT: usize = 400;

/// CPU of the server's thread per handshake, seconds.
pub(crate) struct Cost {
    /// Server certificate only.
    pub(crate) server: f64,
    /// With a client certificate under a root and an issuing authority.
    pub(crate) mutual: f64,
}

fn validity() -> Validity {
    Validity::starting(UtcTime(utc_now().0 - 60), std::time::Duration::from_secs(86_000))
}

fn tls_key() -> SigningKey<ServiceTls> {
    SigningKey::new(&Key::generate_scalar(&mut OsRng).unwrap()).unwrap()
}

/// Measures both kinds.
pub(crate) fn measure() -> Cost {
    let key = tls_key();
    let host = [SubjectName::Ip([127, 0, 0, 1].into())];
    let draft = profile::pinned("bench", &host, &key.public(), validity()).unwrap();
    let leaf = self_signed(draft, &key, &mut OsRng).unwrap().der().to_vec();
    let pin = spki_hash(&leaf).unwrap();
    let identity = Identity::new(vec![leaf], TlsKey::software(key)).unwrap();
    let anonymous = run(server(&identity, Alpn::Raw).unwrap(), pinned(vec![pin], Alpn::Raw).unwrap());

    let ca = |name: &str| -> SigningKey<CaSigning> {
        let _ = name;
        SigningKey::new(&Key::generate_scalar(&mut OsRng).unwrap()).unwrap()
    };
    let (root_key, issuing_key) = (ca("root"), ca("issuing"));
    let draft = profile::root("root", &root_key.public(), validity()).unwrap();
    let root = self_signed(draft, &root_key, &mut OsRng).unwrap();
    let root_der = root.der().to_vec();
    let root = Issuer::new(root_key, root).unwrap();
    let issuing = root
        .issue(profile::issuing("issuing", &issuing_key.public(), validity()).unwrap(), &mut OsRng)
        .unwrap();
    let issuing_der = issuing.der().to_vec();
    let issuing = Issuer::new(issuing_key, issuing).unwrap();
    let identity = |name: &str| {
        let key = tls_key();
        let leaf =
            issuing.issue(profile::service(name, &key.public(), validity()).unwrap(), &mut OsRng).unwrap();
        Identity::new(vec![leaf.der().to_vec(), issuing_der.clone()], TlsKey::software(key)).unwrap()
    };
    let roots = [root_der];
    let settings = server_for_clients(&identity("server"), &roots, Alpn::Raw).unwrap();
    let both = run(settings, mutual(&roots, &identity("client"), Alpn::Raw).unwrap());
    Cost { server: anonymous, mutual: both }
}

fn run(server: ServerTls, client: ClientTls) -> f64 {
    let (address, bound) = mpsc::channel();
    let serving = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            let mut before = 0.0;
            for number in 0..COUNT + 20 {
                if number == 20 {
                    before = super::thread_cpu_s();
                }
                let (stream, _) = listener.accept().await.unwrap();
                drop(accept(&server, stream).await.unwrap());
            }
            (super::thread_cpu_s() - before) / COUNT as f64
        })
    });
    let address = bound.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for _ in 0..COUNT + 20 {
            let stream = TcpStream::connect(address).await.unwrap();
            drop(connect(&client, "server", stream).await.unwrap());
        }
    });
    serving.join().unwrap()
}
