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
use gridseal_io::{clock::utc_now, confine, rng::OsRng};
use gridseal_keys::{Core, Service, site::Site};
use gridseal_store::{GroupCommit, Receipt, SoleWriter};
use gridseal_types::{
    SystemTitle,
    records::{Durability, Records, RecordsError},
    service::{
        Batch,
        keys::{KeyRequest, SiteMode},
    },
};

use crate::{
    config,
    files::{read_if_there, write_atomic},
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
/// How often an idle service looks whether its data key is due.
const IDLE: Duration = Duration::from_secs(3_600);

/// What the deciding thread waits for.
enum Event {
    Frame(Vec<u8>),
    /// The parent has closed its end.
    End,
    Failed(anyhow::Error),
}

/// Answers that wait for their commit.
type Answers = Sender<(Receipt, Vec<u8>)>;

/// Why the deciding thread stopped serving.
enum Stopped {
    InputEnded,
    DataKeyDue,
}

/// Runs the core until its input ends.
pub fn run(path: &Path) -> Result<()> {
    let (config, dir): (config::Keys, _) = config::load(path)?;
    keep_secrets_in_memory(&config)?;
    match &config.postgres {
        None => run_on(&config, &dir, || store::sqlite(&dir)),
        Some(postgres) => run_on(&config, &dir, || store::postgres(postgres, &dir)),
    }
}

/// Claims the records through one connection and reads them through another.
fn run_on<S>(config: &config::Keys, dir: &Path, open: impl Fn() -> Result<S>) -> Result<()>
where
    S: SoleWriter + Send + 'static,
{
    let secrets = Secrets::new(config, dir)?;
    let mut writer = open()?;
    store::claim(&mut writer, config, dir)?;
    let mut group = GroupCommit::start(writer, open()?);
    let (events, answers, output) = start_pipes();
    let mut confined = false;
    loop {
        let core = secrets.open(&mut group)?;
        if !confined {
            confine::filter_system_calls()?;
            confined = true;
        }
        match serve(config, dir, (&core, &secrets), &mut group, &events, &answers)? {
            Stopped::DataKeyDue => {}
            Stopped::InputEnded => break,
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

/// Lets an answer go when its commit and all before it are durable (rule S2).
fn answer_all(outgoing: &Receiver<(Receipt, Vec<u8>)>) -> Result<()> {
    let mut output = BufWriter::new(std::io::stdout().lock());
    while let Ok((receipt, reply)) = outgoing.recv() {
        receipt.wait().map_err(|error| {
            anyhow::Error::new(error).context(format!("cannot commit to the key store ({})", error.code()))
        })?;
        write_frame(&mut output, &reply)?;
    }
    Ok(())
}

/// Decides batch after batch. After an error what is in memory is ahead of what is on record: the process ends, and is
/// started again.
#[expect(clippy::too_many_arguments, reason = "everything that a decision needs, in one place")]
fn serve<R: Records>(
    config: &config::Keys,
    dir: &Path,
    (core, secrets): (&Core, &Secrets),
    group: &mut GroupCommit<R>,
    events: &Receiver<Event>,
    answers: &Answers,
) -> Result<Stopped> {
    let epoch_file = dir.join(SITE_EPOCH);
    let title = config.client_title.as_deref().map(parse_title).transpose()?;
    let site = Site { marker: site_epoch(&epoch_file)?, ..Site::single(title.unwrap_or(Core::CLIENT_TITLE)) };
    let mut service = Service::load(core, &*group, site, &mut OsRng)?;
    // A site that only follows writes nothing: its database is another's.
    let mut rewraps = service.mode() == SiteMode::Active;
    loop {
        match events.recv_timeout(if rewraps { REWRAP_PAUSE } else { IDLE }) {
            Ok(Event::Frame(frame)) => {
                let Batch(requests) = gridseal_api::batch::decode::<KeyRequest>(&frame)
                    .context("the parent's frame is no batch of requests")?;
                let decision = service.decide(&*group, utc_now(), &mut OsRng, requests)?;
                if let Some(epoch) = decision.marker {
                    write_atomic(&epoch_file, epoch.to_string().as_bytes())
                        .map_err(|_| RecordsError::Failed)?;
                }
                let receipt = group.submit(decision.writes, decision.durability);
                if let Some(inventory) = &config.danger_inventory {
                    secrets::danger_write_inventory(core, &*group, &dir.join(inventory))?;
                }
                let reply = gridseal_api::batch::encode(&Batch(decision.replies));
                // Who writes answers tells through the events when it cannot any more.
                let _ = answers.send((receipt, reply));
                if service.is_fold_due() || service.is_folding() {
                    let folded = service.fold(&*group, utc_now(), FOLD_ROWS)?;
                    group.submit(folded, Durability::Local);
                }
            }
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return Ok(Stopped::InputEnded),
            Ok(Event::Failed(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if rewraps {
            let step = core.rewrap_step(&*group, utc_now(), &mut OsRng, REWRAP_ROWS)?;
            let receipt = group.submit(step.writes, Durability::Local);
            if step.is_done {
                receipt.wait()?;
                secrets.forget_outdated()?;
                rewraps = false;
            }
        } else if service.mode() == SiteMode::Active && secrets.is_due(utc_now()) {
            return Ok(Stopped::DataKeyDue);
        }
    }
}

fn parse_title(text: &str) -> Result<SystemTitle> {
    let bytes = hex::decode(text).ok();
    bytes.and_then(|bytes| SystemTitle::from_slice(&bytes)).context("client_title is not 16 hex digits")
}

fn site_epoch(path: &Path) -> Result<Option<u32>> {
    let Some(text) = read_if_there(path)? else { return Ok(None) };
    let epoch = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    Ok(Some(epoch.with_context(|| format!("{} holds no epoch", path.display()))?))
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
        done => Ok(done?),
    }
}
