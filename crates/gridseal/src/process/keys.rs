//! `gridseal keys`: the front of the key service. It authenticates, checks who may ask for what, and forwards to
//! `keys-core`, which runs as its child and alone opens keys.

use std::{
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
    pin::pin,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use gridseal_api::{
    Refusal, Reply, batch,
    router::{Access, Router},
    server::Limits,
};
use gridseal_io::{
    clock::tick_now,
    tls::{Alpn, server_for_clients},
};
use gridseal_keys::front;
use gridseal_types::{
    Code,
    records::RecordsError,
    service::{
        BATCH_MAX, BODY_SIZE_MAX,
        keys::{KeyReply, KeyRequest},
    },
};
use tokio::sync::oneshot;

use crate::{
    config,
    fault::{Coded, Told, coded},
    files::Zone,
    observe::Observer,
    process::{bind, inner_roots, keys_core::store_full, serve, service_identity},
};

/// Path of the service.
pub const PATH: &str = gridseal_api::client::keys::KEYS_PATH;
/// Batches that may wait for the core.
const QUEUE: usize = 256;
/// Frames that the core may have at a time: it decides on while a commit runs.
pub const FRAMES_IN_FLIGHT: usize = 8;
/// Largest requests in one frame, bytes.
const REQUESTS_SIZE_MAX: usize = BODY_SIZE_MAX;
/// Largest frame of requests, with the head of its array.
pub const REQUEST_FRAME_SIZE_MAX: usize = REQUESTS_SIZE_MAX + 9;
/// Largest frame of replies: as many whole histories as a batch may ask for.
const REPLY_FRAME_SIZE_MAX: usize = 512 * 1024 * 1024;

/// Time between two events that tell of a full disk.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(1);

/// Requests as they are encoded, one after the other, and who waits for as many replies.
struct Job {
    count: usize,
    requests: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
}

/// Runs the key service.
pub async fn run(path: &Path) -> Result<()> {
    let (config, dir): (config::Keys, _) = config::load(path)?;
    let observer = Observer::new("keys").with_journal(&dir)?;
    let zone = Zone::open(&dir)?;
    let tls = server_for_clients(&service_identity(&zone)?, &inner_roots(&dir)?, Alpn::Http2)?;
    drop(zone);
    let (queue, jobs) = mpsc::sync_channel::<Job>(QUEUE);
    let (ready, is_ready) = oneshot::channel();
    let (gone, core_gone) = oneshot::channel();
    start_core(path, jobs, &observer, ready, gone)?;
    // However it ends, whoever watches over this process shall start it again.
    let mut core_gone = pin!(async {
        let gone = core_gone.await;
        gone.unwrap_or_else(|_| coded("core.gone", "keys-core is not heard any more"))
    });
    // It has claimed its records and loaded them: before that nobody is served.
    tokio::select! {
        Ok(()) = is_ready => {}
        error = &mut core_gone => return Err(error),
    }
    let queue = Arc::new(queue);
    let events = observer.clone();
    let access = Access::Services(front::CALLERS);
    let router = Router::new().route(PATH, access, BODY_SIZE_MAX, move |peer, body| {
        let (queue, observer) = (Arc::clone(&queue), events.clone());
        async move {
            let caller = peer.service().unwrap_or_default().to_owned();
            match answer(&queue, &observer, &caller, &body).await {
                Ok(replies) => Reply::Body(replies),
                Err(refusal) => Reply::Refused(refusal),
            }
        }
    });
    let server = bind(config.listen, tls, router, Limits::INNER).await?;
    tokio::select! {
        result = serve(&observer, "inner", server) => result,
        error = &mut core_gone => Err(error),
    }
}

/// Passes what the caller may ask on to the core, as it came; the rest is refused here, without it.
async fn answer(
    queue: &mpsc::SyncSender<Job>,
    observer: &Observer,
    caller: &str,
    body: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let requests = batch::split(body).ok_or(Refusal::Malformed)?;
    let allows = |request: &&[u8]| {
        minicbor::decode::<KeyRequest>(request).ok().map(|request| front::allows(caller, &request))
    };
    let allowed = requests.iter().map(allows).collect::<Option<Vec<bool>>>().ok_or(Refusal::Malformed)?;
    let passed: Vec<&[u8]> =
        requests.iter().zip(&allowed).filter(|(_, allowed)| **allowed).map(|(request, _)| *request).collect();
    let count = passed.len();
    if count < allowed.len() {
        observer.event("forbidden", &[("caller", &caller), ("requests", &(allowed.len() - count))]);
    }
    let busy = Refusal::Busy(Duration::from_secs(1));
    let mut replies = Vec::new();
    if count > 0 {
        let (answer, answered) = oneshot::channel();
        let job = Job { count, requests: passed.concat(), answer };
        queue.try_send(job).map_err(|_| busy)?;
        replies = answered.await.map_err(|_| busy)?;
    }
    if count == allowed.len() {
        return Ok(batch::join(count, &[&replies]));
    }
    let whole = batch::join(count, &[&replies]);
    let mut replies = batch::split(&whole).ok_or(busy)?.into_iter();
    let refused = minicbor::to_vec(KeyReply::Refused { code: Code::Refused }).map_err(|_| busy)?;
    let all = allowed.iter().map(|allowed| if *allowed { replies.next() } else { Some(refused.as_slice()) });
    Ok(batch::join(allowed.len(), &all.collect::<Option<Vec<_>>>().ok_or(busy)?))
}

/// Who waits for the answers of one frame, and how many of them are whose.
type Waiting = Vec<(usize, oneshot::Sender<Vec<u8>>)>;

/// Starts the core with a thread that gives it frames and one that passes its answers on. `ready` is told when it has
/// loaded its records, `gone` why it has ended.
fn start_core(
    config: &Path,
    jobs: mpsc::Receiver<Job>,
    observer: &Observer,
    ready: oneshot::Sender<()>,
    gone: oneshot::Sender<anyhow::Error>,
) -> Result<()> {
    let program = std::env::current_exe().context("own program not found")?;
    let mut child = Command::new(program)
        .arg("keys-core")
        .arg("--config")
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start keys-core")?;
    let to_core = BufWriter::new(child.stdin.take().context("keys-core has no input")?);
    let from_core = BufReader::new(child.stdout.take().context("keys-core has no output")?);
    let observer = observer.clone();
    // What is in here is at the core; its bound is what blocks, while jobs collect.
    let (sent, waiting) = mpsc::sync_channel::<Waiting>(FRAMES_IN_FLIGHT);
    std::thread::spawn(move || {
        // A core that takes nothing more has ended, or is ended by the other thread.
        let _ = give_frames(to_core, &jobs, &sent);
    });
    std::thread::spawn(move || {
        let passed = pass_answers(from_core, &waiting, &observer, ready);
        let _ = gone.send(why_gone(child, passed));
    });
    Ok(())
}

/// Why nothing comes from the core any more. What it has told itself is not told again.
fn why_gone(mut child: Child, passed: Result<()>) -> anyhow::Error {
    // Its output is closed, or makes no sense: if it does not end by itself, it is ended.
    let _ = child.kill();
    match (child.wait(), passed) {
        (Ok(status), Ok(())) if status.code().is_some_and(|code| code != 0) => Told.into(),
        (Ok(status), Ok(())) => coded("core.gone", format!("keys-core has ended: {status}")),
        (Ok(_), Err(error)) => error.context(Coded {
            code: "core.protocol",
            message: "keys-core does not answer as it should".into(),
        }),
        (Err(error), _) => anyhow::Error::new(error).context("keys-core cannot be waited for"),
    }
}

/// Gives the core frames, a few at a time. Jobs that wait while it has enough go into the next frame together, so that one
/// decision serves them all.
fn give_frames(
    mut to_core: impl Write,
    jobs: &mpsc::Receiver<Job>,
    sent: &mpsc::SyncSender<Waiting>,
) -> Result<()> {
    // A frame of nothing: it is answered when the records are loaded.
    write_frame(&mut to_core, &batch::join(0, &[]))?;
    let mut held: Option<Job> = None;
    while let Some(first) = held.take().or_else(|| jobs.recv().ok()) {
        let Job { mut count, mut requests, answer } = first;
        let mut answers: Waiting = vec![(count, answer)];
        while let Ok(job) = jobs.try_recv() {
            if count + job.count > BATCH_MAX || requests.len() + job.requests.len() > REQUESTS_SIZE_MAX {
                held = Some(job);
                break;
            }
            answers.push((job.count, job.answer));
            count += job.count;
            requests.extend(job.requests);
        }
        let frame = batch::join(count, &[&requests]);
        sent.send(answers).ok().context("keys-core closed its output")?;
        write_frame(&mut to_core, &frame)?;
    }
    Ok(())
}

/// Hands the core's answers, which come in the order of the frames, to those who wait for them.
fn pass_answers(
    mut from_core: impl Read,
    waiting: &mpsc::Receiver<Waiting>,
    observer: &Observer,
    ready: oneshot::Sender<()>,
) -> Result<()> {
    let no_room = minicbor::to_vec(store_full())?;
    let mut told = None;
    if read_frame(&mut from_core, REPLY_FRAME_SIZE_MAX)?.is_none() {
        return Ok(());
    }
    let _ = ready.send(());
    while let Some(frame) = read_frame(&mut from_core, REPLY_FRAME_SIZE_MAX)? {
        let replies = batch::split(&frame).context("the core's frame is no batch of replies")?;
        let is_due = told.is_none_or(|told| tick_now().since(told) >= NO_ROOM_PAUSE);
        if is_due && replies.contains(&no_room.as_slice()) {
            observer.event("store-failed", &[("code", &RecordsError::Full.code())]);
            told = Some(tick_now());
        }
        let mut replies = replies.into_iter();
        for (count, answer) in waiting.try_recv().context("the core answers what nobody has asked")? {
            // Who left wants no answer.
            let _ = answer.send(replies.by_ref().take(count).collect::<Vec<_>>().concat());
        }
    }
    Ok(())
}

/// Writes a frame: length u32 big-endian, bytes.
pub fn write_frame(out: &mut impl Write, bytes: &[u8]) -> Result<()> {
    out.write_all(&u32::try_from(bytes.len())?.to_be_bytes())?;
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Reads a frame of at most so many bytes; `None` at the end of the stream.
pub fn read_frame(input: &mut impl Read, size_max: usize) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = usize::try_from(u32::from_be_bytes(length))?;
    if length > size_max {
        bail!("frame of {length} bytes is too large");
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}
