//! The security log: what was refused and why, who is associated, what was changed. No key, no reading.
//!
//! Anybody can be refused, as often as he likes: what needs no key to bring about is written [`WRITTEN_MAX`] times for each
//! source and cause, and then counted, so that a flood pushes nothing else out of the file.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use gridseal_io::clock::{tick_now, utc_now};
use gridseal_types::{Tick, UtcTime};
use serde_json::{Value, json};

/// Most bytes of one file: whoever is refused for ever fills two of them, not the disk.
const FILE_SIZE_MAX: u64 = 16 << 20;

/// Entries of one source and cause that are written one by one.
const WRITTEN_MAX: u32 = 4;
/// When the first count of further ones is written; each next one takes twice as long, up to the longest.
const COUNT_FIRST: Duration = Duration::from_secs(60);
const COUNT_LONGEST: Duration = Duration::from_secs(900);
/// How long a cause that does not come again is remembered.
const REMEMBERED: Duration = Duration::from_secs(3_600);
/// Sources that are told apart; the others are one.
const SOURCES_MAX: usize = 64;
/// Causes of one source that are told apart; the others are one of each event.
const CAUSES_MAX: usize = 32;

/// How entries are written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Where entries go.
#[derive(Debug)]
pub struct Log {
    form: Form,
    file: Option<Mutex<Kept>>,
    repeated: Mutex<Repeated>,
}

/// Who is at the other end, as far as an address tells: of IPv6 the network.
pub fn source(address: SocketAddr) -> IpAddr {
    match address.ip().to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
        ip => ip,
    }
}

/// What came again and again, by source; `None` are those for which there was no room.
type Repeated = BTreeMap<Option<IpAddr>, BTreeMap<(&'static str, String), Repeats>>;

/// How often something came.
#[derive(Debug)]
struct Repeats {
    written: u32,
    /// Those that were not written, and when the first and the last of them came.
    count: u64,
    first: UtcTime,
    last: UtcTime,
    /// When the count is written, or forgotten.
    due: Tick,
    wait: Duration,
    heard: Tick,
}

/// Whether an entry is written by itself; otherwise it is counted.
fn is_written(
    all: &mut Repeated,
    source: IpAddr,
    event: &'static str,
    cause: &str,
    now: (Tick, UtcTime),
) -> bool {
    let (tick, at) = now;
    let is_room = all.len() < SOURCES_MAX;
    let source = Some(source).filter(|source| is_room || all.contains_key(&Some(*source)));
    let causes = all.entry(source).or_default();
    // Numbers are the peer's choice.
    let cause: String = cause.chars().filter(|c| !c.is_ascii_digit()).take(200).collect();
    let is_room = causes.len() < CAUSES_MAX || causes.contains_key(&(event, cause.clone()));
    let key = if is_room { (event, cause) } else { (event, "other causes".to_owned()) };
    let due = tick.after(COUNT_FIRST);
    let new = Repeats { written: 0, count: 0, first: at, last: at, due, wait: COUNT_FIRST, heard: tick };
    let repeats = causes.entry(key).or_insert(new);
    repeats.heard = tick;
    if repeats.written < WRITTEN_MAX {
        repeats.written = repeats.written.saturating_add(1);
        return true;
    }
    if repeats.count == 0 {
        repeats.first = at;
    }
    repeats.count = repeats.count.saturating_add(1);
    repeats.last = at;
    false
}

/// A count that is to be written.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    source: Option<IpAddr>,
    event: &'static str,
    cause: String,
    count: u64,
    first: UtcTime,
    last: UtcTime,
}

/// Counts that are due; what has not come for long is forgotten.
fn counted(all: &mut Repeated, now: Tick) -> Vec<Counted> {
    let mut counted = Vec::new();
    for (source, causes) in all.iter_mut() {
        for ((event, cause), repeats) in causes.iter_mut().filter(|(_, repeats)| repeats.due <= now) {
            if repeats.count > 0 {
                let Repeats { count, first, last, .. } = *repeats;
                counted.push(Counted { source: *source, event, cause: cause.clone(), count, first, last });
                repeats.count = 0;
                repeats.wait = repeats.wait.saturating_mul(2).min(COUNT_LONGEST);
            }
            repeats.due = now.after(repeats.wait);
        }
        causes.retain(|_, repeats| repeats.count > 0 || repeats.heard.after(REMEMBERED) > now);
    }
    all.retain(|_, causes| !causes.is_empty());
    counted
}

/// A file, and the one before it under the same name with `.1` behind.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Kept {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { path: path.to_owned(), size: file.metadata()?.len(), file })
    }

    fn write(&mut self, line: &str, size_max: u64) -> io::Result<()> {
        if self.size + line.len() as u64 + 1 > size_max && self.size > 0 {
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            std::fs::rename(&self.path, before)?;
            *self = Self::open(&self.path)?;
        }
        writeln!(self.file, "{line}")?;
        self.size += line.len() as u64 + 1;
        Ok(())
    }
}

/// Whom an entry is about.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Other end of the connection.
    pub address: SocketAddr,
    /// Client's service access point, where one is known.
    pub client_sap: Option<u16>,
}

impl Log {
    /// Opens the log; a file is made readable by its owner alone.
    pub fn open(path: Option<&Path>, form: Form) -> Result<Self> {
        let open = |path: &Path| Kept::open(path).with_context(|| format!("cannot write {}", path.display()));
        let file = path.map(open).transpose()?.map(Mutex::new);
        Ok(Self { form, file, repeated: Mutex::default() })
    }

    /// Writes an entry.
    pub fn entry(&self, event: &str, peer: Option<Peer>, cause: &str) {
        let at = utc_now();
        let line = json!({
            "at": at.0, "event": event, "peer": peer.map(|peer| peer.address.to_string()),
            "client_sap": peer.and_then(|peer| peer.client_sap), "cause": cause,
        });
        let who = peer.map_or(String::new(), |peer| {
            let sap = peer.client_sap.map_or(String::new(), |sap| format!(" client {sap}"));
            format!(" {}{sap}", peer.address)
        });
        self.write(&line, || format!("{at}{who} {event}: {cause}"));
    }

    /// Writes an entry of something that anybody can bring about, or counts it when it came too often.
    pub fn anybody(&self, event: &'static str, peer: Peer, cause: &str) {
        let now = (tick_now(), utc_now());
        let mut repeated = self.repeated.lock().unwrap_or_else(PoisonError::into_inner);
        let is_written = is_written(&mut repeated, source(peer.address), event, cause, now);
        drop(repeated);
        if is_written {
            self.entry(event, Some(peer), cause);
        }
    }

    /// Writes the counts that are due.
    pub fn tick(&self) {
        let mut repeated = self.repeated.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = counted(&mut repeated, tick_now());
        drop(repeated);
        for Counted { source, event, cause, count, first, last } in counted {
            let at = utc_now();
            let who = source.map_or("others".to_owned(), |source| source.to_string());
            let line = json!({
                "at": at.0, "event": event, "peer": who, "client_sap": null, "cause": cause,
                "count": count, "first": first.0, "last": last.0,
            });
            self.write(&line, || {
                format!("{at} {who} {event}: {cause}: {count} times more from {first} to {last}")
            });
        }
    }

    /// A log that cannot be written any more ends the process: what is refused must not go unseen.
    fn write(&self, line: &Value, text: impl FnOnce() -> String) {
        let written = match &self.file {
            Some(file) => {
                file.lock().unwrap_or_else(PoisonError::into_inner).write(&line.to_string(), FILE_SIZE_MAX)
            }
            None => {
                let line = if self.form == Form::Json { line.to_string() } else { text() };
                writeln!(std::io::stderr().lock(), "{line}")
            }
        };
        if let Err(error) = written {
            // Where standard error is the log there is nobody left to tell.
            let _ = writeln!(
                std::io::stderr().lock(),
                "gridseal: meter-log: the security log cannot be written, so the meter ends: {error}"
            );
            std::process::exit(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_gives_way_and_only_one_before_it_is_kept() {
        let dir = std::env::temp_dir().join(format!("gridseal-security-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("security.log");
        let mut kept = Kept::open(&path).unwrap();
        for n in 0..10 {
            kept.write(&format!("entry {n}"), 24).unwrap();
        }
        drop(kept);
        let read = |name| std::fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(read("security.log"), "entry 9\n");
        assert_eq!(read("security.log.1"), "entry 6\nentry 7\nentry 8\n");
        let mut kept = Kept::open(&path).unwrap();
        for name in ["x", "y", "z"] {
            kept.write(&format!("entry {name}"), 24).unwrap();
        }
        assert_eq!(read("security.log"), "entry z\n");
        assert_eq!(read("security.log.1"), "entry 9\nentry x\nentry y\n");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_flood_is_counted_and_leaves_room_for_every_other_cause() {
        let mut all = Repeated::new();
        let now = |s: u64| (Tick(s * 1_000), UtcTime(1_800_000_000 + s));
        let source = IpAddr::from([192, 0, 2, 1]);
        let mut lines = 0;
        // A hundred a second, with numbers of the peer's choice.
        for n in 0..360_000u64 {
            let cause = format!("counter {n} is below {}", n * 7);
            lines += u64::from(is_written(&mut all, source, "refused", &cause, now(n / 100)));
            if n % 100 == 0 {
                let due = counted(&mut all, now(n / 100).0);
                lines += due.len() as u64;
                assert!(due.iter().all(|due| due.count > 0 && due.first <= due.last));
            }
        }
        assert!((8..20).contains(&lines), "{lines}");
        assert!(is_written(&mut all, source, "refused", "tag is wrong", now(3_600)), "another cause");
        // As many sources and causes as there can be: what is told apart stays bounded.
        for n in 0..10_000u32 {
            let other = IpAddr::from(n.to_be_bytes());
            let cause: String = n.to_string().bytes().map(|digit| char::from(digit + 17)).collect();
            is_written(&mut all, other, "refused", "tag is wrong", now(3_600));
            is_written(&mut all, source, "refused", &cause, now(3_600));
        }
        assert!(all.len() <= SOURCES_MAX + 1 && all.values().all(|causes| causes.len() <= CAUSES_MAX + 1));
        // Counts are not lost with what is forgotten.
        let told = all.values().flat_map(BTreeMap::values).map(|repeats| repeats.count).sum::<u64>();
        let due = counted(&mut all, now(10_000).0);
        assert_eq!(due.iter().map(|due| due.count).sum::<u64>(), told);
        assert!(all.is_empty());
    }
}
