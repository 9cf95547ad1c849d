//! A hostile network between a victim and a real server: it has stolen the server's TLS key, ends the victim's
//! connections, and passes on, changes, answers or swallows what it likes.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use gridseal_api::{
    Refusal, Reply,
    client::FieldClient,
    router::{Access, Router},
    server::{Limits, Server},
};
use gridseal_io::tls::{Alpn, ClientTls, Identity, server};
use tokio::runtime::Runtime;

/// Largest message on either path, bytes.
const BODY_SIZE_MAX: usize = 528 * 1024;
/// `127.0.0.1` with a port that the system chooses.
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What becomes of a question.
pub(super) enum Act {
    /// It goes on as it is.
    Pass,
    /// Another one goes on.
    Forward(Vec<u8>),
    /// The server never hears of it.
    Answer(Vec<u8>),
    /// Nobody answers.
    Silence,
}

type OnQuestion = Box<dyn FnMut(&[u8]) -> Act + Send>;
type OnAnswer = Box<dyn FnMut(&[u8], Vec<u8>) -> Vec<u8> + Send>;

/// One exchange as it went.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// What the victim said.
    pub(super) question: Vec<u8>,
    /// What the server heard, if it heard anything.
    pub(super) forwarded: Option<Vec<u8>>,
    /// What the server answered.
    pub(super) answer: Option<Vec<u8>>,
    /// What the victim heard.
    pub(super) returned: Option<Vec<u8>>,
}

#[derive(Default)]
struct Plot {
    on_question: Option<OnQuestion>,
    on_answer: Option<OnAnswer>,
    seen: Vec<Seen>,
}

/// Where the real server is, and what a client believes of it.
#[derive(Clone)]
pub(super) struct Real {
    /// `host:port`.
    pub(super) address: SocketAddr,
    /// Settings for calling it.
    pub(super) tls: ClientTls,
    /// Path of its route.
    pub(super) path: &'static str,
}

impl Real {
    pub(super) fn client(&self) -> FieldClient {
        FieldClient::new(self.address.to_string(), self.tls.clone(), self.address.ip().to_string())
            .with_limits(Duration::from_secs(30), BODY_SIZE_MAX)
    }
}

/// The man in the middle of one path.
pub(super) struct Hostile {
    /// Where victims find him.
    pub(super) address: SocketAddr,
    plot: Arc<Mutex<Plot>>,
}

fn lock(plot: &Mutex<Plot>) -> MutexGuard<'_, Plot> {
    plot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hostile {
    /// Listens with a stolen identity in front of a real server.
    pub(super) fn start(runtime: &Runtime, identity: &Identity, real: &Real) -> Result<Self> {
        let plot = Arc::new(Mutex::new(Plot::default()));
        let (state, target, path) = (Arc::clone(&plot), real.clone(), real.path);
        let router = Router::new().route(path, Access::Anyone, BODY_SIZE_MAX, move |_, body| {
            exchange(Arc::clone(&state), target.clone(), body.to_vec())
        });
        let tls = server(identity, Alpn::Http)?;
        let server = runtime.block_on(Server::bind(ANY_PORT, tls, router, Limits::FIELD))?;
        let address = server.address()?;
        runtime.spawn(server.run(std::future::pending()));
        Ok(Self { address, plot })
    }

    /// What he does with questions from now on.
    pub(super) fn on_question(&self, act: impl FnMut(&[u8]) -> Act + Send + 'static) {
        lock(&self.plot).on_question = Some(Box::new(act));
    }

    /// What he does with answers from now on; the question is told too.
    pub(super) fn on_answer(&self, act: impl FnMut(&[u8], Vec<u8>) -> Vec<u8> + Send + 'static) {
        lock(&self.plot).on_answer = Some(Box::new(act));
    }

    /// Passes everything on again, and forgets what was seen.
    pub(super) fn rest(&self) {
        *lock(&self.plot) = Plot::default();
    }

    /// Everything since the last rest.
    pub(super) fn seen(&self) -> Vec<Seen> {
        lock(&self.plot).seen.clone()
    }
}

async fn exchange(state: Arc<Mutex<Plot>>, real: Real, question: Vec<u8>) -> Reply {
    let act = lock(&state).on_question.as_mut().map_or(Act::Pass, |act| act(&question));
    let mut seen = Seen { question, ..Seen::default() };
    let reply = match act {
        Act::Silence => Reply::Refused(Refusal::Busy(Duration::from_secs(1))),
        Act::Answer(answer) => {
            seen.returned = Some(answer.clone());
            Reply::Body(answer)
        }
        Act::Pass => forward(&state, &real, seen.question.clone(), &mut seen).await,
        Act::Forward(other) => forward(&state, &real, other, &mut seen).await,
    };
    lock(&state).seen.push(seen);
    reply
}

async fn forward(state: &Mutex<Plot>, real: &Real, wire: Vec<u8>, seen: &mut Seen) -> Reply {
    seen.forwarded = Some(wire.clone());
    let answer = real.client().post(real.path, wire).await;
    match answer {
        Ok(answer) if answer.status == 200 => {
            seen.answer = Some(answer.body.clone());
            let returned = match lock(state).on_answer.as_mut() {
                Some(act) => act(&seen.question, answer.body),
                None => answer.body,
            };
            seen.returned = Some(returned.clone());
            Reply::Body(returned)
        }
        Ok(answer) if answer.status == 204 => Reply::Empty,
        Ok(answer) if answer.status == 202 => Reply::Later(Duration::from_secs(1)),
        _ => Reply::Refused(Refusal::Busy(Duration::from_secs(1))),
    }
}
