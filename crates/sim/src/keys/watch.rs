//! Somebody who sees everything: what left, under which key and nonce, what is held, what was opened.

use std::collections::{BTreeMap, HashMap, HashSet};

use gridseal_crypto::sha256;
use gridseal_dlms::apdu::carrier::CipheredApdu;
use gridseal_keys::{TagHead, WINDOW_SIZE};
use gridseal_types::{SystemTitle, service::keys::OpenVerdict};

use super::{
    coverage::Coverage,
    disk::{Arrived, KeyHash, Line, State},
    meter::Sent,
    report::{Evidence, Rule},
};

/// What was broken, before it is known when.
pub(crate) type Broken = (Rule, String);

/// Start of a hash of bytes.
type BytesHash = [u8; 16];

fn digest(bytes: &[u8]) -> BytesHash {
    *sha256(&[bytes]).first_chunk().expect("longer")
}

/// Hex, for evidence and logs.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A list of keys, for evidence.
pub(super) fn hex_list(keys: impl IntoIterator<Item = KeyHash>) -> String {
    let keys: Vec<String> = keys.into_iter().map(|key| format!("\"{}\"", hex(&key))).collect();
    format!("[{}]", keys.join(","))
}

/// First eight bytes of the tag at the end of an APDU.
pub(super) fn tag_head(bytes: &[u8]) -> TagHead {
    bytes.last_chunk::<12>().and_then(|tag| tag.first_chunk::<8>()).copied().unwrap_or_default()
}

/// Invocation counter of an APDU.
pub(super) fn counter_of(bytes: &[u8]) -> u32 {
    CipheredApdu::from_bytes(bytes).map_or(0, |apdu| apdu.protected.invocation_counter)
}

/// An APDU that was really protected by a meter.
#[derive(Debug)]
struct Truth {
    meter: usize,
    key: KeyHash,
    plain: Vec<u8>,
}

pub(crate) struct Watch<'e> {
    pub(super) seed: u64,
    pub(super) step: u32,
    pub(super) coverage: Coverage,
    /// Whether states of devices and credentials are covered too.
    pub(crate) lives: bool,
    evidence: Option<&'e mut dyn Evidence>,
    /// Lines of evidence so far.
    told: u64,
    pairs: HashMap<(KeyHash, SystemTitle, u32), BytesHash>,
    pub(super) pair_count: u64,
    pub(super) nonce_reuse: u64,
    /// Highest counter that a site has sent under a key.
    sent_up_to: BTreeMap<(usize, KeyHash), u32>,
    truths: HashMap<BytesHash, Truth>,
    /// How often a site decided to use a counter, and which bytes.
    decided: HashMap<(KeyHash, u32), u32>,
    decided_bytes: HashSet<BytesHash>,
}

impl<'e> Watch<'e> {
    pub(crate) fn new(seed: u64, evidence: Option<&'e mut dyn Evidence>) -> Self {
        Self {
            seed,
            step: 0,
            coverage: Coverage::default(),
            lives: false,
            evidence,
            told: 0,
            pairs: HashMap::new(),
            pair_count: 0,
            nonce_reuse: 0,
            sent_up_to: BTreeMap::new(),
            truths: HashMap::new(),
            decided: HashMap::new(),
            decided_bytes: HashSet::new(),
        }
    }

    /// An event of the schedule; `fields` is the inside of a JSON object. Its number `order` places it among everything that
    /// was told of the schedule, in either file.
    pub(super) fn event(&mut self, name: &str, fields: impl FnOnce() -> String) {
        if let Some(evidence) = self.evidence.as_mut() {
            let (seed, step, order, fields) = (self.seed, self.step, self.told, fields());
            let comma = if fields.is_empty() { "" } else { "," };
            evidence.event(&format!(
                "{{\"seed\":{seed},\"step\":{step},\"order\":{order},\"event\":\"{name}\"{comma}{fields}}}\n"
            ));
            self.told += 1;
        }
    }

    /// For the evidence: the schedule ends here, with this rule broken.
    pub(super) fn tell_violation(&mut self, rule: &str, detail: &str) {
        self.event("violation", || {
            let detail = detail.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"rule\":\"{rule}\",\"detail\":\"{detail}\"")
        });
    }

    /// For the evidence: what a site made of an APDU, when it decided and not when it answered.
    pub(super) fn tell_verdict(&mut self, site: usize, bytes: &[u8], verdict: &OpenVerdict) {
        self.event("verdict", || {
            let verdict = match verdict {
                OpenVerdict::Fresh { late: false, .. } => "fresh",
                OpenVerdict::Fresh { late: true, .. } => "late",
                OpenVerdict::Duplicate { .. } => "duplicate",
                OpenVerdict::Replay => "replay",
                _ => "rejected",
            };
            let (site, bytes) = (site_name(site), hex(&digest(bytes)));
            format!("\"site\":\"{site}\",\"bytes\":\"{bytes}\",\"verdict\":\"{verdict}\"")
        });
    }

    /// A (key, nonce) pair has left. The same bytes again are a repeat and no second use.
    #[expect(clippy::too_many_arguments, reason = "one use of a key and everything that it is told by")]
    fn pair(&mut self, from: &str, key: KeyHash, title: SystemTitle, counter: u32, bytes: &[u8]) -> bool {
        let digest = digest(bytes);
        if let Some(evidence) = self.evidence.as_mut() {
            let (seed, step, order) = (self.seed, self.step, self.told);
            self.told += 1;
            evidence.nonce(&format!(
                "{{\"seed\":{seed},\"step\":{step},\"order\":{order},\"from\":\"{from}\",\"key\":\"{}\",\"nonce\":\"{}{counter:08x}\",\"bytes\":\"{}\"}}\n",
                hex(&key),
                hex(title.as_bytes()),
                hex(&digest),
            ));
        }
        match self.pairs.insert((key, title, counter), digest) {
            None => self.pair_count += 1,
            Some(before) if before == digest => return true,
            Some(_) => self.nonce_reuse += 1,
        }
        false
    }

    /// The first counter above everything that any site ever released under a key.
    pub(super) fn unused_from(&self, key: KeyHash) -> u32 {
        let released = self.sent_up_to.iter().filter(|((_, released), _)| *released == key);
        released.map(|(_, above)| *above).max().unwrap_or_default()
    }

    /// A site has sent something under a counter: never used before by anybody, leased durably, above what it sent before.
    pub(super) fn site_sent(&mut self, sent: &SiteSent<'_>) -> Result<(), Broken> {
        let SiteSent { site, client, line, counter, bytes, durable } = *sent;
        let (_, key) = line;
        let reuse = self.nonce_reuse;
        if self.pair(&site_name(site), key, client, counter, bytes) {
            self.coverage.count("seal/again");
            return Ok(());
        }
        if self.nonce_reuse > reuse {
            return Err((
                Rule::S1,
                format!("{} uses counter {counter} of key {} again", site_name(site), hex(&key)),
            ));
        }
        if durable.leases.get(&line).is_none_or(|highest| counter > *highest) {
            return Err((Rule::S2, format!("counter {counter} of key {} is not leased durably", hex(&key))));
        }
        let highest = self.sent_up_to.entry((site, key)).or_default();
        let before = *highest;
        *highest = before.max(counter.saturating_add(1));
        // What was decided before, and got lost on its way out, comes later than others.
        let is_late = self.decided.get(&(key, counter)).is_some_and(|times| *times > 1);
        match before {
            before if before > counter && !is_late => {
                Err((Rule::S5, format!("counter {counter} of key {} after {before}", hex(&key))))
            }
            _ => Ok(()),
        }
    }

    /// A site has decided to send these bytes.
    pub(super) fn decided(&mut self, key: KeyHash, bytes: &[u8]) {
        *self.decided.entry((key, counter_of(bytes))).or_default() += 1;
        self.decided_bytes.insert(digest(bytes));
    }

    /// Whether these bytes were ever decided to be sent by a site, and not forged.
    pub(super) fn is_true(&self, bytes: &[u8]) -> bool {
        self.decided_bytes.contains(&digest(bytes))
    }

    /// A meter has sent something.
    pub(super) fn meter_sent(&mut self, meter: usize, title: SystemTitle, sent: &Sent) -> Result<(), Broken> {
        let from = format!("meter-{meter}");
        let reuse = self.nonce_reuse;
        self.pair(&from, sent.key, title, counter_of(&sent.bytes), &sent.bytes);
        if let Some((counter, tag)) = &sent.proof {
            self.pair(&from, sent.key, title, *counter, tag);
        }
        self.true_apdu(meter, sent);
        if self.nonce_reuse > reuse {
            return Err((Rule::S1, format!("{from} uses a counter again")));
        }
        Ok(())
    }

    /// Something authentic, by the meter or by a clone of it.
    pub(super) fn true_apdu(&mut self, meter: usize, sent: &Sent) {
        let truth = Truth { meter, key: sent.key, plain: sent.plain.clone() };
        self.truths.insert(digest(&sent.bytes), truth);
    }

    /// What a decision accepted as new was never accepted before by this database, and not below its window.
    pub(super) fn arrived(&mut self, state: &State, arrived: &Arrived) -> Result<(), Broken> {
        let Arrived { line, counter, tag } = arrived;
        let seen = state.windows.get(line);
        let highest = seen.and_then(|seen| seen.keys().next_back()).copied();
        let known = seen.and_then(|seen| seen.get(counter));
        if known.is_some() || highest.is_some_and(|highest| counter.saturating_add(WINDOW_SIZE) <= highest) {
            let detail = format!("counter {counter} of meter {} taken for new, tag {}", line.0, hex(tag));
            return Err((Rule::S5, detail));
        }
        self.coverage.count(match highest {
            None => "window/none/fresh",
            Some(highest) if *counter < highest => "window/seen/late",
            Some(_) => "window/seen/fresh",
        });
        Ok(())
    }

    /// A verdict, against everything that this database ever accepted (itself included).
    pub(super) fn verdict(
        &mut self,
        state: &State,
        bytes: &[u8],
        verdict: &OpenVerdict,
    ) -> Result<Option<usize>, Broken> {
        let (plain, duplicate) = match verdict {
            OpenVerdict::Fresh { plain, .. } => (Some(plain), false),
            OpenVerdict::Duplicate { plain, .. } => (Some(plain), true),
            OpenVerdict::Replay => (None, false),
            _ => return Ok(None),
        };
        let Some(truth) = self.truths.get(&digest(bytes)) else {
            return Err((Rule::S5, "something that no meter has sent was opened".into()));
        };
        let line: Line = (u32::try_from(truth.meter).expect("few"), truth.key);
        let (counter, tag) = (counter_of(bytes), tag_head(bytes));
        let seen = state.windows.get(&line);
        let known = seen.and_then(|seen| seen.get(&counter)).is_some_and(|known| *known == tag);
        let highest = seen.and_then(|seen| seen.keys().next_back()).copied().unwrap_or_default();
        let below = counter.saturating_add(WINDOW_SIZE) <= highest;
        let Some(plain) = plain else {
            if known && !below {
                return Err((Rule::Window, format!("the same bytes again are a replay, counter {counter}")));
            }
            self.coverage.count(if below { "window/seen/replay-below" } else { "window/seen/replay-used" });
            return Ok(None);
        };
        if *plain != truth.plain {
            return Err((Rule::Window, format!("counter {counter} opens to another plaintext")));
        }
        if !known {
            return Err((Rule::S2, format!("counter {counter} was opened and is not on record")));
        }
        let meter = truth.meter;
        if duplicate {
            self.coverage.count("window/seen/duplicate");
        }
        Ok(Some(meter))
    }
}

/// Something that left a site.
#[derive(Debug, Clone, Copy)]
pub(super) struct SiteSent<'s> {
    pub(super) site: usize,
    pub(super) client: SystemTitle,
    pub(super) line: Line,
    pub(super) counter: u32,
    pub(super) bytes: &'s [u8],
    pub(super) durable: &'s State,
}

pub(super) fn site_name(site: usize) -> String {
    format!("site-{}", if site == 0 { 'a' } else { 'b' })
}
