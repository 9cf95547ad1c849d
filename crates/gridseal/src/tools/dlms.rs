//! `gridseal dlms`: a client for one meter, with the keys of a lab file.

mod certify;
pub mod channel;
mod counters;
mod image;
mod item;
mod notation;
pub mod probe;
mod profile;
mod read;
mod session;
pub mod shown;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use gridseal_dlms::{
    assoc::client::{OwnedSelection, Request, Response},
    wire::{Data, DateTime},
};
use gridseal_types::UtcTime;

use crate::{lab::Lab, observe::say, tools::Usage};
use item::Item;
use session::{Interrupted, Session, Untrusted};
use shown::Shown;

/// What to do with a meter.
#[derive(Debug, clap::Subcommand)]
pub enum Dlms {
    /// As an honest client.
    #[command(flatten)]
    Speak(Speak),
    /// Find out what is wrong with a meter, or why it cannot be spoken to.
    #[command(after_help = concat!(
        "Associates with growing rights, lists what each client sees, and tries what must be refused: plain, forged, repeated \
        and weaker requests, wrong proofs, old mechanisms. Each finding has a stable id, a severity, the bytes that show it, \
        why it matters and how it is mended. Keys and passwords are never printed.\n\
        Only reads and refused requests are sent, unless --danger-write or --danger-malformed are given; what was not tried \
        is listed. Some attempts are wrong on purpose: a meter may count them, raise an alarm, or lock its clients out.\n\n",
        "Exit codes: 0 no finding at or above --threshold, 1 findings, 2 wrong usage or lab file, or a file that cannot be \
        written, 3 the lab file's client could not be associated (the report says why), 130 interrupted.\n\n\
        Examples:\n  gridseal dlms probe --connect 127.0.0.1:4059 --lab lab.toml\n  \
        gridseal dlms probe --connect 127.0.0.1:4059 --lab lab.toml --json --threshold high\n  \
        gridseal dlms probe --connect 127.0.0.1:4059 --lab lab.toml --html report.html --danger-write"
    ))]
    Probe(probe::Arguments),
    /// Issue certificates of DLMS parties, as the authority of a bench; prints DER in hex.
    #[command(
        after_help = "Without --request or --title the authority's own certificate: the trust anchor of a meter.\n\n\
        Examples:\n  gridseal dlms certify --authority ca\n  \
        gridseal dlms certify --authority ca --request 3081.. --purpose agreement\n  \
        gridseal dlms certify --authority ca --title 4D4D4D0000000001 --public BAAF.."
    )]
    Certify(certify::Arguments),
}

/// What an honest client does.
#[derive(Debug, clap::Subcommand)]
pub enum Speak {
    /// Read attributes.
    #[command(after_help = concat!(
        "Class and attribute may be left out: the class is then looked up in the built-in table and in the meter's object \
        list, the attribute is the one that holds the value.\n\
        Registers come with scaler and unit, buffers of profiles as rows. Nothing is printed before everything was \
        received and, where the association is authenticated, its tags were verified. The association is then released; a \
        meter that closes the connection instead, or answers the release in clear or not at all, changes nothing of that, \
        but a forged or malformed answer does (exit 4).\n\n",
        "Exit codes: 0 everything was read, 1 no connection, no answer, or the meter refuses the association, 2 wrong usage \
        or lab file, 3 the meter refuses an item (the others are printed), 4 an answer is forged, repeated, not protected \
        as it must be, or malformed (nothing is printed), 130 interrupted.\n\n\
        Examples:\n  gridseal dlms get --connect 127.0.0.1:4059 --lab lab.toml 1.0.1.8.0.255 0.0.1.0.0.255\n  \
        gridseal dlms get --connect 127.0.0.1:4059 --lab lab.toml --json 1.0.99.1.0.255 --from 2026-11-25T00:00:00Z\n  \
        gridseal dlms get --connect 127.0.0.1:4059 --lab lab.toml 1.0.99.1.0.255:7:2 --entries 1-96"
    ))]
    Get(Get),
    /// Write attributes.
    #[command(after_help = concat!(
        "Each item is OBIS:CLASS:ATTRIBUTE=VALUE, or OBIS:CLASS:ATTRIBUTE and VALUE as two arguments.\n",
        "VALUE is one encoded A-XDR value in hex, or typed: null, bool:true, i8: i16: i32: i64: u8: u16: u32: u64:, enum:3, \
        f32: f64:, str:text, utf8:text, oct:hex, bits:0101, bcd:42, time:2026-11-25T12:00:00+01:00 (an octet-string of \
        12).\n\n",
        "Exit codes: 0 everything was written, 1 no connection, no answer, or the meter refuses the association, 2 wrong \
        usage or lab file, 3 the meter refuses an item, 4 an answer is forged, repeated, not protected as it must be, or \
        malformed (what was written is then not known), 130 interrupted.\n\n\
        Examples:\n  gridseal dlms set --connect 127.0.0.1:4059 --lab lab.toml 1.0.99.1.0.255:7:4=u32:900\n  \
        gridseal dlms set --connect 127.0.0.1:4059 --lab lab.toml 0.0.1.0.0.255:8:2 time:2026-11-25T12:00:00+01:00"
    ))]
    Set(Write),
    /// Invoke methods.
    #[command(after_help = concat!(
        "Each item is OBIS:CLASS:METHOD, with a parameter OBIS:CLASS:METHOD=VALUE or OBIS:CLASS:METHOD and VALUE as two \
        arguments; VALUE as for `gridseal dlms set`.\n\n",
        "Exit codes: 0 every method ran, 1 no connection, no answer, or the meter refuses the association, 2 wrong usage or \
        lab file, 3 a method did not run, 4 an answer is forged, repeated, not protected as it must be, or malformed (what \
        ran is then not known), 130 interrupted.\n\n\
        Example:\n  gridseal dlms action --connect 127.0.0.1:4059 --lab lab.toml 0.0.96.3.10.255:70:1=i8:0"
    ))]
    Action(Write),
    /// Bring an image into a meter: announced, in blocks, verified, activated.
    #[command(
        after_help = "Exit codes: 0 verified, or with --activate activated, 1 no connection, no answer, or the meter \
        refuses association or image, 2 wrong usage, lab file or image, 4 an answer is forged, 130 interrupted.\n\n\
        Example:\n  gridseal dlms image --connect 127.0.0.1:4059 --lab lab.toml --activate app.img"
    )]
    Image(image::Arguments),
}

/// Where the meter is, and how to speak with it.
#[derive(Debug, clap::Args)]
pub struct Peer {
    /// Meter: host:port.
    #[arg(long, value_name = "ADDR", value_parser = channel::host_port)]
    connect: String,
    /// Lab file (TOML) with keys and titles.
    #[arg(long, value_name = "FILE")]
    lab: PathBuf,
    /// HDLC over TCP, instead of the wrapper.
    #[arg(long)]
    hdlc_tcp: bool,
    /// Keeps the invocation counters of this client and the last ones of the meter. Without it both begin at those of the
    /// lab file each time, and in mechanisms 0 and 1 a whole earlier association can be played back.
    #[arg(long, value_name = "FILE")]
    counter_file: Option<PathBuf>,
    /// How long an answer is waited for, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
    /// One JSON object for each item.
    #[arg(long)]
    json: bool,
}

impl Peer {
    const fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Arguments of `dlms get`.
#[derive(Debug, clap::Args)]
pub struct Get {
    #[command(flatten)]
    peer: Peer,
    /// What to read.
    #[arg(value_name = "OBIS[:CLASS[:ATTRIBUTE]]", required = true)]
    items: Vec<String>,
    /// Of buffers: rows from this time on, as 2026-11-25T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = crate::tools::sts::parse_rfc3339, conflicts_with = "entries")]
    from: Option<UtcTime>,
    /// Of buffers: rows up to this time.
    #[arg(long, value_name = "TIME", value_parser = crate::tools::sts::parse_rfc3339, conflicts_with = "entries")]
    to: Option<UtcTime>,
    /// Of buffers: rows by number, from 1; 0 for the last, as 1-96 or 5-0.
    #[arg(long, value_name = "FIRST-LAST", value_parser = entries)]
    entries: Option<(u32, u32)>,
}

/// Arguments of `dlms set` and `dlms action`.
#[derive(Debug, clap::Args)]
pub struct Write {
    #[command(flatten)]
    peer: Peer,
    /// What to write or invoke, and with which value.
    #[arg(value_name = "OBIS:CLASS:NUMBER[=VALUE]", required = true)]
    items: Vec<String>,
}

fn entries(text: &str) -> Result<(u32, u32), String> {
    let pair = text.split_once('-').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    pair.filter(|(from, to): &(u32, u32)| *from >= 1 && (*to == 0 || from <= to))
        .ok_or_else(|| "expected FIRST-LAST, such as 1-96".into())
}

impl Get {
    /// Which part of a buffer is read.
    fn selection(&self) -> Option<OwnedSelection> {
        if let Some((from, to)) = self.entries {
            let parameter = Data::Structure(vec![
                Data::DoubleLongUnsigned(from),
                Data::DoubleLongUnsigned(to),
                Data::LongUnsigned(1),
                Data::LongUnsigned(0),
            ]);
            return Some(OwnedSelection { selector: 2, parameter: parameter.to_bytes() });
        }
        if self.from.is_none() && self.to.is_none() {
            return None;
        }
        // The last second that a date-time of this century's meters can name.
        let (from, to) = (self.from.unwrap_or(UtcTime(0)), self.to.unwrap_or(UtcTime(4_102_444_799)));
        let bytes = |at: UtcTime| DateTime::from_utc(at, 0, 0).map(DateTime::to_bytes).unwrap_or([0xFF; 12]);
        let (from, to) = (bytes(from), bytes(to));
        let clock = Data::Structure(vec![
            Data::LongUnsigned(8),
            Data::OctetString(&[0, 0, 1, 0, 0, 255]),
            Data::Integer(2),
            Data::LongUnsigned(0),
        ]);
        let range = Data::Structure(vec![
            clock,
            Data::OctetString(&from),
            Data::OctetString(&to),
            Data::Array(vec![]),
        ]);
        Some(OwnedSelection { selector: 1, parameter: range.to_bytes() })
    }
}

/// Runs it.
pub fn run(dlms: &Dlms) -> Result<ExitCode> {
    match dlms {
        Dlms::Speak(speak) => speak_with(speak),
        Dlms::Probe(arguments) => probe::run(arguments),
        Dlms::Certify(arguments) => certify::run(arguments).map(|()| ExitCode::SUCCESS),
    }
}

fn speak_with(dlms: &Speak) -> Result<ExitCode> {
    let peer = match dlms {
        Speak::Image(image) => &image.peer,
        Speak::Get(get) => &get.peer,
        Speak::Set(write) | Speak::Action(write) => &write.peer,
    };
    let lab = Lab::load(&peer.lab)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        if lab.suite == 2 {
            converse::<32>(dlms, peer, &lab).await
        } else {
            converse::<16>(dlms, peer, &lab).await
        }
    });
    match outcome {
        Ok(shown) => {
            shown.iter().for_each(|shown| say(&shown.line(peer.json)));
            Ok(if shown.iter().all(Shown::is_good) { ExitCode::SUCCESS } else { ExitCode::from(3) })
        }
        Err(error) if error.is::<Untrusted>() => {
            eprintln!("gridseal: {error:#}");
            Ok(ExitCode::from(4))
        }
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("gridseal: {error:#}");
            Ok(ExitCode::from(130))
        }
        Err(error) => Err(error),
    }
}

/// One association from beginning to end. What was read is shown only when all was received, and nothing of it, nor the
/// end, was forged. After a change of keys
/// the association ends with its connection: a release under the old keys is none to the meter.
async fn converse<const N: usize>(dlms: &Speak, peer: &Peer, lab: &Lab) -> Result<Vec<Shown>> {
    let work = Work::parse(dlms)?;
    let mut session = Session::<N>::associate(peer, lab).await?;
    let changes_keys = work.changes_keys();
    let shown = work.perform(&mut session).await?;
    if changes_keys && shown.iter().any(Shown::is_good) {
        session.hang_up().await;
    } else {
        session.release().await?;
    }
    Ok(shown)
}

/// What is to be done, checked before anybody is spoken to.
enum Work {
    Get(Vec<Item>, Option<OwnedSelection>),
    Set(Vec<(Item, Vec<u8>)>),
    Action(Vec<(Item, Option<Vec<u8>>)>),
    Image(image::Image),
}

impl Work {
    /// Whether keys of the association may be others afterwards: methods 2 and 3 of a security setup.
    fn changes_keys(&self) -> bool {
        let is_change = |item: &Item| matches!((item.class, item.number), (Some(64), Some(2 | 3)));
        matches!(self, Self::Action(items) if items.iter().any(|(item, _)| is_change(item)))
    }

    fn parse(dlms: &Speak) -> Result<Self> {
        Ok(match dlms {
            Speak::Get(get) => {
                let items =
                    get.items.iter().map(|text| Ok(Item::parse(text)?)).collect::<Result<Vec<_>>>()?;
                if get.from.zip(get.to).is_some_and(|(from, to)| from > to) {
                    return Err(Usage("--from is later than --to".into()).into());
                }
                let selection = get.selection();
                if selection.is_some() && !items.iter().any(Item::is_buffer) {
                    return Err(Usage("--from, --to and --entries are for buffers of profiles".into()).into());
                }
                Self::Get(items, selection)
            }
            Speak::Set(write) => {
                let mut items = Vec::new();
                for (item, value) in item::with_values(&write.items)? {
                    let value =
                        value.ok_or_else(|| Usage(format!("{item}: a value is missing, as =u32:5")))?;
                    items.push((item, value));
                }
                Self::Set(items)
            }
            Speak::Action(write) => Self::Action(item::with_values(&write.items)?),
            Speak::Image(arguments) => Self::Image(arguments.read()?),
        })
    }

    async fn perform<const N: usize>(self, session: &mut Session<'_, N>) -> Result<Vec<Shown>> {
        match self {
            Self::Get(items, selection) => read::get(session, &items, selection.as_ref()).await,
            Self::Set(items) => set(session, items).await,
            Self::Action(items) => action(session, items).await,
            Self::Image(image) => image.put(session).await.map(|()| Vec::new()),
        }
    }
}

async fn set<const N: usize>(
    session: &mut Session<'_, N>,
    items: Vec<(Item, Vec<u8>)>,
) -> Result<Vec<Shown>> {
    let attributes = items.iter().map(|(item, _)| item.attribute()).collect::<Result<Vec<_>>>()?;
    let values = items.into_iter().map(|(_, value)| value);
    let mut requests: Vec<_> =
        attributes.iter().copied().zip(values).map(|(at, value)| (at, None, value)).collect();
    let mut results = Vec::new();
    if requests.len() > 1 && session.has_lists() {
        match session.ask(Request::SetList(requests)).await? {
            Response::SetList(all) => results = all,
            other => return Err(session::refused(&other)),
        }
    } else {
        for (attribute, selection, value) in requests.drain(..) {
            match session.ask(Request::Set(attribute, selection, value)).await? {
                Response::Set(result) => results.push(result),
                other => return Err(session::refused(&other)),
            }
        }
    }
    let is_proven = session.is_proven();
    Ok(attributes
        .into_iter()
        .zip(results)
        .map(|(attribute, result)| Shown::written(attribute, result, is_proven))
        .collect())
}

async fn action<const N: usize>(
    session: &mut Session<'_, N>,
    items: Vec<(Item, Option<Vec<u8>>)>,
) -> Result<Vec<Shown>> {
    let methods = items.iter().map(|(item, _)| item.method()).collect::<Result<Vec<_>>>()?;
    let requests: Vec<_> = methods.iter().copied().zip(items.into_iter().map(|(_, value)| value)).collect();
    let mut outcomes = Vec::new();
    if requests.len() > 1 && session.has_lists() {
        match session.ask(Request::ActionList(requests)).await? {
            Response::ActionList(all) => outcomes = all,
            other => return Err(session::refused(&other)),
        }
    } else {
        for (method, parameters) in requests {
            match session.ask(Request::Action(method, parameters)).await? {
                Response::Action(outcome) => outcomes.push(outcome),
                other => return Err(session::refused(&other)),
            }
        }
    }
    let is_proven = session.is_proven();
    Ok(methods
        .into_iter()
        .zip(outcomes)
        .map(|(method, outcome)| Shown::invoked(method, &outcome, is_proven))
        .collect())
}
