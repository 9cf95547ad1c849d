//! A hierarchy of certificates with servers and clients under it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use gridseal_api::{Client, FieldClient, Limits, Refusal, Router, Server, ServerEvent};
use gridseal_crypto::{
    Key, Signer, SigningKey,
    role::{CaSigning, ServiceTls},
};
use gridseal_io::{
    clock::utc_now,
    rng::OsRng,
    tls::{self, Alpn, ClientTls, Identity, ServerTls, TlsKey},
};
use gridseal_pki::{Draft, Issuer, SubjectName, Validity, profile, self_signed};
use gridseal_types::UtcTime;
use tokio::{net::TcpStream, sync::oneshot, task::JoinHandle};
use tokio_rustls::client::TlsStream;

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) struct Network {
    issuer: Issuer<SigningKey<CaSigning>>,
}

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    refusals: Arc<Mutex<Vec<Refusal>>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        self.refusals.lock().unwrap().clone()
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(15), self.task).await.unwrap().unwrap();
    }
}

/// Limits that are over soon.
pub(crate) fn quick() -> Limits {
    let soon = Duration::from_millis(300);
    Limits { head_timeout: soon, body_timeout: soon, handler_timeout: soon, ..Limits::FIELD }
}

fn validity() -> Validity {
    Validity::starting(UtcTime(utc_now().0 - 60), DAY)
}

fn service_key() -> SigningKey<ServiceTls> {
    SigningKey::new(&Key::generate_scalar(&mut OsRng).unwrap()).unwrap()
}

impl Network {
    pub(crate) fn new() -> Self {
        let scalar = Key::generate_scalar(&mut OsRng).unwrap();
        let key = || SigningKey::new(&scalar).unwrap();
        let wide = Validity::starting(UtcTime(utc_now().0 - 3_600), 2 * DAY);
        let draft = profile::root("Root", &key().public(), wide).unwrap();
        let certificate = self_signed(draft, &key(), &mut OsRng).unwrap();
        Self { issuer: Issuer::new(key(), certificate).unwrap() }
    }

    fn root(&self) -> Vec<u8> {
        self.issuer.certificate().der().to_vec()
    }

    fn identity(&self, draft: impl FnOnce(&gridseal_crypto::PublicKey) -> Draft) -> Identity {
        let key = service_key();
        let certificate = self.issuer.issue(draft(&key.public()), &mut OsRng).unwrap();
        Identity::new(vec![certificate.der().to_vec()], TlsKey::software(key)).unwrap()
    }

    fn service(&self, name: &str) -> Identity {
        self.identity(|key| profile::service(name, key, validity()).unwrap())
    }

    pub(crate) fn mutual_tls(&self, name: &str) -> ClientTls {
        tls::mutual(&[self.root()], &self.service(name), Alpn::Http2).unwrap()
    }

    pub(crate) async fn inner(&self, router: Router, limits: Limits) -> Running {
        self.inner_at(any_port(), router, limits).await
    }

    /// The service `keys`.
    pub(crate) async fn inner_at(&self, address: SocketAddr, router: Router, limits: Limits) -> Running {
        let tls = tls::server_for_clients(&self.service("keys"), &[self.root()], Alpn::Http2).unwrap();
        run(address, tls, router, limits).await
    }

    pub(crate) async fn field(&self, router: Router, limits: Limits) -> Running {
        self.field_at(any_port(), router, limits).await
    }

    pub(crate) async fn field_at(&self, address: SocketAddr, router: Router, limits: Limits) -> Running {
        let names = [SubjectName::Ip(address.ip())];
        let server = self.identity(|key| profile::server("config-server", &names, key, validity()).unwrap());
        run(address, tls::server(&server, Alpn::Http).unwrap(), router, limits).await
    }

    pub(crate) fn client(&self, name: &str, running: &Running) -> Client {
        self.client_for(name, running, "keys")
    }

    pub(crate) fn client_for(&self, name: &str, running: &Running, server: &str) -> Client {
        Client::new(running.address.to_string(), self.mutual_tls(name), server)
    }

    pub(crate) fn client_with_identity_of(&self, other: &Self, name: &str, running: &Running) -> Client {
        let tls = tls::mutual(&[self.root()], &other.service(name), Alpn::Http2).unwrap();
        Client::new(running.address.to_string(), tls, "keys")
    }

    pub(crate) fn meter_as_client(&self, running: &Running) -> Client {
        let hardware_type = gridseal_pki::Settings::default().hardware_type;
        let device = profile::Device { serial: "endpoint-manager", model: "Lab", hardware_type };
        let meter = self.identity(|key| profile::ldevid(device, key, validity()).unwrap());
        let tls = tls::mutual(&[self.root()], &meter, Alpn::Http2).unwrap();
        Client::new(running.address.to_string(), tls, "keys")
    }

    pub(crate) fn meter(&self, running: &Running) -> FieldClient {
        FieldClient::new(running.address.to_string(), self.field_tls(), running.address.ip().to_string())
    }

    pub(crate) async fn raw(&self, running: &Running) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(running.address).await.unwrap();
        tls::connect(&self.field_tls(), &running.address.ip().to_string(), stream).await.unwrap()
    }

    fn field_tls(&self) -> ClientTls {
        tls::dateless(&[self.root()], UtcTime(0), None, Alpn::Http1).unwrap()
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A port on an address of this test alone: it stays free between two servers.
pub(crate) fn own_port(last: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, last], 0))
}

async fn run(address: SocketAddr, tls: ServerTls, router: Router, limits: Limits) -> Running {
    let refusals = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&refusals);
    let server = Server::bind(address, tls, router, limits).await.unwrap().on_event(move |event| {
        if let ServerEvent::Refused { refusal, .. } = event {
            sink.lock().unwrap().push(refusal);
        }
    });
    let address = server.address().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    Running { address, refusals, stop, task }
}
