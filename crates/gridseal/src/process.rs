//! The processes: each a subcommand with a configuration of its own, around a machine that decides.

pub mod config_server;
pub mod endpoint_manager;
pub mod headend;
pub mod inbox;
pub mod init_server;
pub mod keys;
pub mod keys_core;
pub mod meter;
pub mod pki;
pub mod relay;

use std::{future::Future, path::Path};

use anyhow::{Context, Result};
use gridseal_api::{ServerEvent, server::Server};
use gridseal_crypto::SigningKey;
use gridseal_io::{
    confine,
    tls::{Alpn, ClientTls, Identity, TlsKey, mutual},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    files::{Zone, read_certificates},
    observe::Observer,
};

/// How a process is started.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Start {
    /// Stop when standard input ends: for a parent that started this process.
    #[arg(long, hide = true)]
    with_parent: bool,
    /// Let others of the same user read this process's memory: for a search of it, in throw-away runs only.
    #[arg(long, hide = true)]
    danger_dumpable: bool,
}

/// Runs a process until it ends by itself, is asked to stop, or, when started so, its parent is gone.
pub fn run<F>(start: Start, process: impl FnOnce() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    // Before the first key is opened (rule S4). A key that is dumped lies in a file that nobody looks after.
    if start.danger_dumpable { confine::forbid_core_files() } else { confine::forbid_dumps() }?;
    confine::forbid_privileges()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        // Before anything says that it is ready: who reads that may ask it to stop at once.
        let stop = stop_signals()?;
        tokio::select! {
            result = process() => result,
            () = stopped(stop, start.with_parent) => Ok(()),
        }
    });
    runtime.shutdown_background();
    result
}

/// Ctrl-C and SIGTERM, caught from now on.
fn stop_signals() -> Result<[Signal; 2]> {
    Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?])
}

/// Ready when the process should stop: Ctrl-C, SIGTERM, or the end of standard input when that is the parent's pipe.
async fn stopped([mut interrupted, mut terminated]: [Signal; 2], with_parent: bool) {
    let orphaned = async {
        if !with_parent {
            return std::future::pending().await;
        }
        let (send, gone) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = send.send(());
        });
        let _ = gone.await;
    };
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
        () = orphaned => {}
    }
}

/// Name of the file with the inner services' root certificate in each service's directory.
pub const INNER_ROOT: &str = "inner-root.pem";

/// The identity of an inner service: key and certificate in its directory.
pub fn service_identity(zone: &Zone) -> Result<Identity> {
    let key = TlsKey::software(SigningKey::new(&zone.load("identity")?)?);
    Ok(Identity::new(read_certificates(&zone.dir().join("identity.pem"))?, key)?)
}

/// Roots of the inner services.
pub fn inner_roots(dir: &Path) -> Result<Vec<Vec<u8>>> {
    read_certificates(&dir.join(INNER_ROOT))
}

/// Settings for calling inner services.
pub fn inner_client(zone: &Zone) -> Result<ClientTls> {
    Ok(mutual(&inner_roots(zone.dir())?, &service_identity(zone)?, Alpn::Http2)?)
}

/// What stands for a peer's address: a keyed hash, so that limits work and no log holds an address. Addresses of one
/// IPv6 network of 64 bits count as one.
pub fn source_of(key: &[u8; 32], peer: std::net::SocketAddr) -> gridseal_types::N16 {
    let network: Vec<u8> = match peer.ip() {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets()[..8].to_vec(),
    };
    let hash = gridseal_crypto::sha256(&[key, &network]);
    let mut source = gridseal_types::N16([0; 16]);
    source.0.copy_from_slice(&hash[..16]);
    source
}

/// Tells where a server listens, then serves until the process stops.
pub async fn serve(observer: &Observer, name: &str, server: Server) -> Result<()> {
    let address = server.address().context("server has no address")?;
    observer.event("listening", &[("side", &name), ("address", &address)]);
    let events = observer.clone();
    server
        .on_event(move |event| match event {
            ServerEvent::Handshake { error, .. } => events.event("handshake-failed", &[("error", &error)]),
            ServerEvent::Refused { refusal, .. } => {
                events.event("request-refused", &[("refusal", &format!("{refusal:?}"))]);
            }
            ServerEvent::Full { .. } => events.event("connections-full", &[]),
            _ => {}
        })
        .run(std::future::pending())
        .await;
    Ok(())
}

/// Takes the port of a server, naming it in the error.
pub async fn bind(
    address: std::net::SocketAddr,
    tls: gridseal_io::tls::ServerTls,
    router: gridseal_api::router::Router,
    limits: gridseal_api::server::Limits,
) -> Result<Server> {
    Server::bind(address, tls, router, limits).await.with_context(|| format!("cannot listen on {address}"))
}
