//! The shell around [`ConfigServer`]: devices' messages wait here for the endpoint manager, which comes for them. The config
//! server is one, and the head-end has one for the orders of the meters that it serves.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use gridseal_api::{
    Refusal, Reply,
    router::{Access, Peer, Router},
};
use gridseal_io::{clock::tick_now, rng::OsRng};
use gridseal_onboarding::config_server::{Answer, ConfigServer, Connection, Limits, Output};
use gridseal_trust::enrol::{
    relay::{RELAY_SIZE_MAX, RelayPull, RelayWork},
    session::EVIDENCE_SIZE_MAX,
};
use tokio::sync::{Notify, oneshot};

use crate::{observe::Observer, process::source_of};

/// Path at which the endpoint manager comes for messages.
pub const PATH: &str = "/gso/v1/relay";
/// Path of devices' messages.
const DEVICES: &str = "/gso/v1/config";
/// How long the endpoint manager's call is held when there is no work.
const PULL_HOLD: Duration = Duration::from_secs(20);
/// When a device is told to repeat a message that is not answered yet.
const NOT_YET: Duration = Duration::from_secs(1);

/// A relay; clones share it.
#[derive(Clone)]
pub struct Relay(Arc<Shared>);

struct State {
    machine: ConfigServer,
    waiting: HashMap<Connection, oneshot::Sender<Output>>,
    next_connection: Connection,
    /// Connection over which the endpoint manager asks.
    manager: Option<SocketAddr>,
}

struct Shared {
    state: Mutex<State>,
    work: Notify,
    /// Key of the hash that stands for a peer's address towards the endpoint manager.
    address_key: [u8; 32],
    hold: Duration,
    log_frames: bool,
    observer: Observer,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn deliver(&mut self) {
        while let Some(output) = self.machine.poll() {
            if let Some(waiting) = self.waiting.remove(&output.connection) {
                let _ = waiting.send(output);
            }
        }
    }
}

impl Relay {
    /// An empty relay. A device's call is held for `hold` before it is told to come back.
    pub fn new(limits: Limits, hold: Duration, log_frames: bool, observer: Observer) -> Result<Self> {
        let first_id = u64::from_be_bytes(gridseal_crypto::random(&mut OsRng)?);
        Ok(Self(Arc::new(Shared {
            state: Mutex::new(State {
                machine: ConfigServer::with_limits(first_id, limits),
                waiting: HashMap::new(),
                next_connection: 0,
                manager: None,
            }),
            work: Notify::new(),
            address_key: gridseal_crypto::random(&mut OsRng)?,
            hold,
            log_frames,
            observer,
        })))
    }

    /// Takes devices' messages, whoever got through the handshake.
    pub fn for_devices(&self, router: Router) -> Router {
        let shared = Arc::clone(&self.0);
        router.route(DEVICES, Access::Anyone, EVIDENCE_SIZE_MAX, move |peer, body| {
            message(Arc::clone(&shared), peer, body.to_vec())
        })
    }

    /// Hands them to the endpoint manager.
    pub fn for_endpoint_manager(&self, router: Router) -> Router {
        let shared = Arc::clone(&self.0);
        router.route(PATH, Access::Services(&["endpoint-manager"]), RELAY_SIZE_MAX, move |peer, body| {
            pull(Arc::clone(&shared), peer, body.to_vec())
        })
    }
}

async fn message(shared: Arc<Shared>, peer: Peer, body: Vec<u8>) -> Reply {
    let (sender, mut receiver) = oneshot::channel();
    let source = source_of(&shared.address_key, peer.address);
    let digest = hex::encode(gridseal_crypto::sha256(&[&body]));
    shared.observer.event("relayed", &[("bytes", &body.len())]);
    shared.observer.frame(shared.log_frames, "from-device", &body);
    let (connection, has_work) = {
        let mut state = shared.state();
        let connection = state.next_connection;
        state.next_connection = connection.wrapping_add(1);
        state.waiting.insert(connection, sender);
        state.machine.message(tick_now(), connection, source, body);
        state.deliver();
        (connection, state.machine.has_work())
    };
    if has_work {
        shared.work.notify_one();
    }
    let answer = match tokio::time::timeout(shared.hold, &mut receiver).await {
        Ok(answer) => answer.ok(),
        Err(_) => {
            let mut state = shared.state();
            state.machine.give_up(connection);
            state.deliver();
            state.waiting.remove(&connection);
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
            if bytes.is_empty() { Reply::Empty } else { Reply::Body(bytes) }
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
        let mut state = shared.state();
        // A new connection: the endpoint manager was started again, and what it had taken is lost.
        if state.manager.replace(peer.address) != Some(peer.address) {
            state.machine.taken_over();
        }
    }
    let take = |pull: RelayPull| {
        let mut state = shared.state();
        // A call that is held for somebody who has gone must take nothing.
        if state.manager != Some(peer.address) {
            return RelayWork(Vec::new());
        }
        let work = state.machine.pull(tick_now(), pull);
        state.deliver();
        work
    };
    let mut work = take(pull);
    if work.0.is_empty() && is_held {
        let _ = tokio::time::timeout(PULL_HOLD, shared.work.notified()).await;
        work = take(RelayPull { replies: Vec::new(), most });
    }
    // More than this call took, or than this caller may have: for the next one that is held.
    if shared.state().machine.has_work() {
        shared.work.notify_one();
    }
    Reply::Body(work.encode())
}
