//! `gridseal keys-core`: started by `gridseal keys`, speaks over its standard input and output, has no network of its own.
//!
//! Three threads: one reads frames, one decides, one waits for commits and lets answers go, in the order of the frames.
//! While a commit runs, what is decided meanwhile goes into the next one.

mod secrets;
mod store;

use std::{
    io::{BufReader, BufWriter},
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use gridseal_io::{
    clock::{tick_now, utc_now},
    confine,
    rng::OsRng,
};
use gridseal_keys::{Core, KeysError, Service, only_reads, site::Site};
use gridseal_store::{GroupCommit, Receipt, SoleWriter};
use gridseal_types::{
    SystemTitle,
    records::{Durability, Records, RecordsError},
    service::{
        Batch,
        keys::{Denial, ExchangeReply, KeyReply, KeyRequest, SiteMode},
    },
};

use crate::{
    config,
    fault::{Coded, coded},
    files::{self, read_if_there, write_atomic},
    process::keys::{FRAMES_IN_FLIGHT, REQUEST_FRAME_SIZE_MAX, read_frame, write_frame},
};
use secrets::Secrets;

/// File with the epoch of this site, outside the database.
const SITE_EPOCH: &str = "site-epoch";
/// Rows that one step of a fold writes, between two frames.
const FOLD_ROWS: usize = 64;
/// Rows whose envelopes are moved to a new data key in one step, and the pause before the next step when nobody asks.
const REWRAP_ROWS: usize = 64;
const REWRAP_PAUSE: Duration = Duration::from_millis(20);
/// How long a full store is left alone before it is tried again.
const ROOM_PAUSE: Duration = Duration::from_secs(2);
/// How often an idle service looks whether its data key is due.
const IDLE: Duration = Duration::from_secs(3_600);

/// What the deciding thread waits for.
enum Event {
    Frame(Vec<u8>),
    /// The parent has closed its end.
    End,
    Failed(anyhow::Error),
}

/// Answers that wait for their commit, and how many are in each frame.
type Answers = Sender<(Receipt, Vec<u8>, usize)>;

/// Why the deciding thread stopped serving.
enum Stopped {
    InputEnded,
    DataKeyDue,
    /// A commit found no room: nothing of it and of what was decided after it is on record.
    StoreFull,
    /// There is room again.
    HasRoom,
}

/// Runs the core until its input ends.
pub fn run(path: &Path) -> Result<()> {
    let (config, dir): (config::Keys, _) = config::load(path)?;
    keep_secrets_in_memory(&config)?;
    // Who may change what lies here may put an older state in its place, or name other approvers.
    files::refuse_exposed(&dir, 0o022)?;
    files::refuse_exposed(path, 0o022)?;
    for name in [config.marker.as_path(), Path::new(SITE_EPOCH)] {
        files::refuse_exposed(&dir.join(name), 0o022)?;
    }
    let done = match &config.postgres {
        None => run_on(&config, &dir, || store::sqlite(&dir)),
        Some(postgres) => run_on(&config, &dir, || store::postgres(postgres, &dir)),
    };
    done.map_err(|error| {
        let failed = match error.downcast_ref::<KeysError>() {
            Some(KeysError::Records(failed)) => Some(*failed),
            _ => error.downcast_ref::<RecordsError>().copied(),
        };
        match failed.filter(|_| !error.is::<Coded>()) {
            Some(failed) => error
                .context(Coded { code: failed.code(), message: "cannot go on with the key store".into() }),
            None => error,
        }
    })
}

/// Claims the records through one connection and reads them through another.
fn run_on<S>(config: &config::Keys, dir: &Path, open: impl Fn() -> Result<S>) -> Result<()>
where
    S: SoleWriter + Send + 'static,
{
    let secrets = Secrets::new(config, dir)?;
    site_epoch(&dir.join(SITE_EPOCH))?;
    let reader = open()?;
    // Before anything is written: without them nothing would open.
    secrets.check(&reader)?;
    let mut writer = open()?;
    store::claim(&mut writer, config, dir)?;
    let mut group = GroupCommit::start(writer, reader);
    let mut core = secrets.open(&mut group)?;
    let (events, answers, output) = start_pipes();
    confine::filter_system_calls()?;
    let mut is_full = false;
    loop {
        is_full = match serve(config, dir, (&core, &secrets), &mut group, (&events, &answers), is_full)? {
            Stopped::InputEnded => break,
            Stopped::StoreFull => true,
            Stopped::HasRoom => false,
            Stopped::DataKeyDue => {
                core = secrets.open(&mut group)?;
                false
            }
        };
        if is_full {
            group.recover()?;
        }
    }
    // What was decided is committed and answered before the process ends.
    drop(answers);
    let _ = output.join();
    Ok(())
}

/// The threads that read and write, before the filter forbids to start any.
fn start_pipes() -> (Receiver<Event>, Answers, JoinHandle<()>) {
    let (events, incoming) = sync_channel(FRAMES_IN_FLIGHT);
    let (answers, outgoing) = channel();
    let failed = events.clone();
    std::thread::spawn(move || read_all(&events));
    let output = std::thread::spawn(move || {
        if let Err(error) = answer_all(&outgoing) {
            // A deciding thread that is gone needs no telling.
            let _ = failed.send(Event::Failed(error));
        }
    });
    (incoming, answers, output)
}

fn read_all(events: &SyncSender<Event>) {
    let mut input = BufReader::new(std::io::stdin().lock());
    loop {
        let event = match read_frame(&mut input, REQUEST_FRAME_SIZE_MAX) {
            Ok(Some(frame)) => Event::Frame(frame),
            Ok(None) => Event::End,
            Err(error) => Event::Failed(error),
        };
        let goes_on = matches!(event, Event::Frame(_));
        if events.send(event).is_err() || !goes_on {
            return;
        }
    }
}

/// Lets an answer go when its commit and all before it are durable (rule S2). What found no room was not done, and is
/// refused.
fn answer_all(outgoing: &Receiver<(Receipt, Vec<u8>, usize)>) -> Result<()> {
    let mut output = BufWriter::new(std::io::stdout().lock());
    while let Ok((receipt, reply, count)) = outgoing.recv() {
        match receipt.wait() {
            Ok(()) => write_frame(&mut output, &reply)?,
            Err(RecordsError::Full) => {
                let refused = Batch((0..count).map(|_| store_full()).collect());
                write_frame(&mut output, &gridseal_api::batch::encode(&refused))?;
            }
            Err(error) => {
                let code = error.code();
                return Err(anyhow::Error::new(error)
                    .context(Coded { code, message: "cannot commit to the key store".into() }));
            }
        }
    }
    Ok(())
}

/// Answer to what has no room.
pub fn store_full() -> KeyReply {
    KeyReply::Exchange(ExchangeReply::Denied(Denial::StoreFull))
}

/// Decides batch after batch. After an error what is in memory is ahead of what is on record: the process ends, and is
/// started again; where it is certain that nothing was done, because there was no room, it is only loaded again, and then
/// (`is_full`) answers what only reads until there is room.
#[expect(clippy::too_many_arguments, reason = "everything that a decision needs, in one place")]
fn serve<R: Records>(
    config: &config::Keys,
    dir: &Path,
    (core, secrets): (&Core, &Secrets),
    group: &mut GroupCommit<R>,
    (events, answers): (&Receiver<Event>, &Answers),
    is_full: bool,
) -> Result<Stopped> {
    let epoch_file = dir.join(SITE_EPOCH);
    let title = config.client_title.as_deref().map(parse_title).transpose()?;
    let site = Site { marker: site_epoch(&epoch_file)?, ..Site::single(title.unwrap_or(Core::CLIENT_TITLE)) };
    let mut service = Service::load(core, &*group, site, &mut OsRng).map_err(not_loaded)?;
    if is_full {
        return serve_reads(&mut service, group, (events, answers));
    }
    // A site that only follows writes nothing: its database is another's.
    let mut rewraps = service.mode() == SiteMode::Active;
    loop {
        let event = events.recv_timeout(if rewraps { REWRAP_PAUSE } else { IDLE });
        let is_behind = group.failure() == Some(RecordsError::Full);
        match event {
            Ok(Event::Frame(frame)) if is_behind => {
                // Nothing may be decided on what is not on record.
                let Batch(requests) = requests_of(&frame)?;
                answer(group, answers, requests.iter().map(|_| store_full()).collect());
            }
            Ok(Event::Frame(frame)) => {
                let Batch(requests) = requests_of(&frame)?;
                let decision = service.decide(&*group, utc_now(), &mut OsRng, requests)?;
                if let Some(epoch) = decision.marker {
                    write_atomic(&epoch_file, epoch.to_string().as_bytes())
                        .map_err(|_| RecordsError::Failed)?;
                }
                let receipt = group.submit(decision.writes, decision.durability);
                if let Some(inventory) = &config.danger_inventory {
                    secrets::danger_write_inventory(core, &*group, &dir.join(inventory))?;
                }
                let count = decision.replies.len();
                let reply = gridseal_api::batch::encode(&Batch(decision.replies));
                // Who writes answers tells through the events when it cannot any more.
                let _ = answers.send((receipt, reply, count));
                if service.is_fold_due() || service.is_folding() {
                    let folded = service.fold(&*group, utc_now(), FOLD_ROWS)?;
                    group.submit(folded, Durability::Local);
                }
            }
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return Ok(Stopped::InputEnded),
            Ok(Event::Failed(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if is_behind {
            return Ok(Stopped::StoreFull);
        }
        if rewraps {
            rewraps = !rewrap(core, secrets, group)?;
        } else if service.mode() == SiteMode::Active && secrets.is_due(utc_now()) {
            return Ok(Stopped::DataKeyDue);
        }
    }
}

/// One step of moving envelopes to the newest data key; whether none is left and the former keys are forgotten.
fn rewrap<R: Records>(core: &Core, secrets: &Secrets, group: &mut GroupCommit<R>) -> Result<bool> {
    let step = core.rewrap_step(&*group, utc_now(), &mut OsRng, REWRAP_ROWS)?;
    let receipt = group.submit(step.writes, Durability::Local);
    if !step.is_done {
        return Ok(false);
    }
    match receipt.wait() {
        Ok(()) => secrets.forget_outdated().map(|()| true),
        // Whoever decides next notices.
        Err(RecordsError::Full) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Answers what only reads and refuses the rest, until there is room for an entry of the audit log.
fn serve_reads<R: Records>(
    service: &mut Service<&Core>,
    group: &mut GroupCommit<R>,
    (events, answers): (&Receiver<Event>, &Answers),
) -> Result<Stopped> {
    let mut try_again = tick_now() + ROOM_PAUSE;
    loop {
        match events.recv_timeout(ROOM_PAUSE) {
            Ok(Event::Frame(frame)) => {
                let Batch(requests) = requests_of(&frame)?;
                let reads: Vec<bool> = requests.iter().map(only_reads).collect();
                let wanted = requests.into_iter().filter(only_reads).collect();
                // The entry of the audit log about a denial has no room either.
                let mut decided = service.decide(&*group, utc_now(), &mut OsRng, wanted)?.replies.into_iter();
                let replies = reads.iter().map(|reads| reads.then(|| decided.next()).flatten());
                let replies = replies.map(|reply| reply.unwrap_or_else(store_full)).collect();
                answer(group, answers, replies);
            }
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return Ok(Stopped::InputEnded),
            Ok(Event::Failed(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if tick_now() < try_again {
            continue;
        }
        // A site that does not serve writes nothing beside.
        let noted = match service.mode() {
            SiteMode::Active => secrets::note(group, "store.has-room", &"keys.db"),
            _ => Ok(()),
        };
        match noted {
            Ok(()) => return Ok(Stopped::HasRoom),
            Err(RecordsError::Full) => group.recover()?,
            Err(error) => return Err(error.into()),
        }
        try_again = tick_now() + ROOM_PAUSE;
    }
}

fn requests_of(frame: &[u8]) -> Result<Batch<KeyRequest>> {
    gridseal_api::batch::decode(frame).context("the parent's frame is no batch of requests")
}

/// Hands replies over that rest on no change, in the order of the frames.
fn answer<R: Records>(group: &mut GroupCommit<R>, answers: &Answers, replies: Vec<KeyReply>) {
    let receipt = group.submit(Vec::new(), Durability::Local);
    let count = replies.len();
    // Who writes answers tells through the events when it cannot any more.
    let _ = answers.send((receipt, gridseal_api::batch::encode(&Batch(replies)), count));
}

/// What is on record does not open: which file to look at.
fn not_loaded(error: KeysError) -> anyhow::Error {
    let (code, message) = match error {
        KeysError::Keystore => (
            "keys.record",
            "a record does not open: data-keys.cbor, zone.kek or the database is another's or an older one",
        ),
        KeysError::Records(error) => (error.code(), "cannot load the key store"),
        _ => ("keys.load", "cannot load the key store"),
    };
    anyhow::Error::new(error).context(Coded { code, message: message.into() })
}

fn parse_title(text: &str) -> Result<SystemTitle> {
    let bytes = hex::decode(text).ok();
    let title = bytes.and_then(|bytes| SystemTitle::from_slice(&bytes));
    title.ok_or_else(|| coded("config.invalid", "client_title is not 16 hex digits"))
}

fn site_epoch(path: &Path) -> Result<Option<u32>> {
    let Some(text) = read_if_there(path)? else { return Ok(None) };
    let epoch = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    Ok(Some(epoch.with_context(|| Coded {
        code: "keys.site_epoch",
        message: format!("{} holds no epoch", path.display()),
    })?))
}

/// An older database was put back: the marker goes up by one, and the site serves only after it was restored. A marker that
/// is missing has the same effect.
fn outdate_site(dir: &Path) -> Result<()> {
    let path = dir.join(SITE_EPOCH);
    let Some(epoch) = site_epoch(&path)? else { return Ok(()) };
    let raised = epoch.checked_add(1).context("no site epoch is left")?;
    write_atomic(&path, raised.to_string().as_bytes())
}

/// Before the first key is opened: no dumps, no swap.
fn keep_secrets_in_memory(config: &config::Keys) -> Result<()> {
    confine::forbid_dumps()?;
    match confine::lock_memory() {
        // An operator who wants this for test machines says so; the front of the service tells it.
        Err(_) if config.danger_unlocked_memory => Ok(()),
        done => done.context(Coded {
            code: "keys.memory",
            message: "keys could be swapped to a disk: see danger_unlocked_memory for test machines".into(),
        }),
    }
}
