//! `gridseal config-server`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use gridseal_api::{
    Refusal, Reply,
    router::{Access, Peer, Router},
    server::Limits,
};
use gridseal_io::{
    clock::tick_now,
    rng::OsRng,
    tls::{Alpn, server, server_for_clients},
};
use gridseal_onboarding::config_server::{Answer, ConfigServer, Connection, Limits as Rates, Output};
use gridseal_trust::enrol::{
    relay::{RELAY_SIZE_MAX, RelayPull, RelayWork},
    session::EVIDENCE_SIZE_MAX,
};
use tokio::sync::{Notify, oneshot};

use crate::{
    config,
    files::Zone,
    observe::Observer,
    process::{bind, inner_roots, serve, service_identity, source_of},
};

/// How long the endpoint manager's call is held when there is no work.
const PULL_HOLD: Duration = Duration::from_secs(20);
/// When a device is told to repeat a message that is not answered yet.
const NOT_YET: Duration = Duration::from_secs(1);

struct Relay {
    machine: ConfigServer,
    waiting: HashMap<Connection, oneshot::Sender<Output>>,
    next_connection: Connection,
    /// Connection over which the endpoint manager asks.
    manager: Option<SocketAddr>,
}

struct Shared {
    relay: Mutex<Relay>,
    work: Notify,
    /// Key of the hash that stands for a peer's address towards the endpoint manager.
    address_key: [u8; 32],
    hold: Duration,
    log_frames: bool,
    observer: Observer,
}

impl Shared {
    fn relay(&self) -> MutexGuard<'_, Relay> {
        self.relay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay {
    fn deliver(&mut self) {
        while let Some(output) = self.machine.poll() {
            if let Some(waiting) = self.waiting.remove(&output.connection) {
                let _ = waiting.send(output);
            }
        }
    }
}

/// Runs the config server.
pub async fn run(path: &Path) -> Result<()> {
    let (config, dir): (config::ConfigServer, _) = config::load(path)?;
    let observer = Observer::new("config-server").with_journal(&dir)?;
    let zone = Zone::open(&dir)?;
    let first_id = u64::from_be_bytes(gridseal_crypto::random(&mut OsRng)?);
    let shared = Arc::new(Shared {
        relay: Mutex::new(Relay {
            machine: ConfigServer::with_limits(
                first_id,
                Rates {
                    source_per_hour: config.source_per_hour,
                    pseudonym_per_hour: config.pseudonym_per_hour,
                },
            ),
            waiting: HashMap::new(),
            next_connection: 0,
            manager: None,
        }),
        work: Notify::new(),
        address_key: gridseal_crypto::random(&mut OsRng)?,
        hold: Duration::from_secs(config.hold_s),
        log_frames: config.log_frames,
        observer: observer.clone(),
    });

    // Devices see a certificate of its own, pinned by their redirect; inner services one of the inner network.
    let field_key =
        gridseal_io::tls::TlsKey::software(gridseal_crypto::SigningKey::new(&zone.load("field")?)?);
    let chain = crate::files::read_certificates(&dir.join("field.pem"))?;
    let field_tls = server(&gridseal_io::tls::Identity::new(chain, field_key)?, Alpn::Http)?;
    let inner_tls = server_for_clients(&service_identity(&zone)?, &inner_roots(&dir)?, Alpn::Http2)?;

    let state = Arc::clone(&shared);
    let field =
        Router::new().route("/gso/v1/config", Access::Anyone, EVIDENCE_SIZE_MAX, move |peer, body| {
            message(Arc::clone(&state), peer, body.to_vec())
        });
    let inner = Router::new().route(
        "/gso/v1/relay",
        Access::Services(&["endpoint-manager"]),
        RELAY_SIZE_MAX,
        move |peer, body| pull(Arc::clone(&shared), peer, body.to_vec()),
    );
    let field = bind(config.listen, field_tls, field, Limits::FIELD).await?;
    let inner = bind(config.listen_inner, inner_tls, inner, Limits::INNER).await?;
    tokio::try_join!(serve(&observer, "field", field), serve(&observer, "inner", inner))?;
    Ok(())
}

async fn message(shared: Arc<Shared>, peer: Peer, body: Vec<u8>) -> Reply {
    let (sender, mut receiver) = oneshot::channel();
    let source = source_of(&shared.address_key, peer.address);
    let digest = hex::encode(gridseal_crypto::sha256(&[&body]));
    shared.observer.event("relayed", &[("bytes", &body.len())]);
    shared.observer.frame(shared.log_frames, "from-device", &body);
    let (connection, has_work) = {
        let mut relay = shared.relay();
        let connection = relay.next_connection;
        relay.next_connection = connection.wrapping_add(1);
        relay.waiting.insert(connection, sender);
        relay.machine.message(tick_now(), connection, source, body);
        relay.deliver();
        (connection, relay.machine.has_work())
    };
    if has_work {
        shared.work.notify_one();
    }
    let answer = match tokio::time::timeout(shared.hold, &mut receiver).await {
        Ok(answer) => answer.ok(),
        Err(_) => {
            let mut relay = shared.relay();
            relay.machine.give_up(connection);
            relay.deliver();
            relay.waiting.remove(&connection);
            receiver.try_recv().ok()
        }
    };
    if let Some(code) = answer.as_ref().and_then(|output| output.refused) {
        let fields: [(&str, &dyn std::fmt::Display); 3] =
            [("code", &code.name()), ("message", &digest), ("source", &source)];
        shared.observer.event("refused", &fields);
    }
    match answer.map(|output| output.answer) {
        Some(Answer::Message(bytes)) => {
            shared.observer.frame(shared.log_frames, "to-device", &bytes);
            Reply::Body(bytes)
        }
        Some(Answer::NotYet) | None => Reply::Later(NOT_YET),
        Some(Answer::Busy) => Reply::Refused(Refusal::Busy(Duration::from_secs(10))),
        Some(Answer::TooMany(wait)) => Reply::Refused(Refusal::TooMany(wait)),
        Some(Answer::TooLarge) => Reply::Refused(Refusal::TooLarge),
    }
}

async fn pull(shared: Arc<Shared>, peer: Peer, body: Vec<u8>) -> Reply {
    let Ok(pull) = RelayPull::decode(&body) else { return Reply::Refused(Refusal::Malformed) };
    let most = pull.most;
    // A call that brought replies is answered at once, so that it can bring the next; only an empty one is held.
    let is_held = pull.replies.is_empty();
    {
        let mut relay = shared.relay();
        // A new connection: the endpoint manager was started again, and what it had taken is lost.
        if relay.manager.replace(peer.address) != Some(peer.address) {
            relay.machine.taken_over();
        }
    }
    let take = |pull: RelayPull| {
        let mut relay = shared.relay();
        // A call that is held for somebody who has gone must take nothing.
        if relay.manager != Some(peer.address) {
            return RelayWork(Vec::new());
        }
        let work = relay.machine.pull(tick_now(), pull);
        relay.deliver();
        work
    };
    let mut work = take(pull);
    if work.0.is_empty() && is_held {
        let _ = tokio::time::timeout(PULL_HOLD, shared.work.notified()).await;
        work = take(RelayPull { replies: Vec::new(), most });
    }
    // More than this call took, or than this caller may have: for the next one that is held.
    if shared.relay().machine.has_work() {
        shared.work.notify_one();
    }
    Reply::Body(work.encode())
}
