//! One probe from beginning to end: associations with growing rights, then every check, each with a verdict.

use std::collections::BTreeMap;

use gridseal_dlms::{acse::Mechanism, apdu::reference::AttributeId};

use super::{
    associate::{Failure, Open},
    catalogue::{CATALOGUE, Known, known},
    diagnose::Diagnosis,
    service::{CLOCK, COUNTER, ENERGY, Listed, NAME, OBJECT_LIST, Outcome, number, object_list},
    talk::{Exchange, Prober, Setup},
};

/// Exchanges that one finding keeps.
pub const EVIDENCE_MAX: usize = 4;

/// What may be sent beyond reading and being refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dangers {
    /// SET of values that are there already, and an unsigned image up to its verification.
    pub write: bool,
    /// Malformed messages.
    pub malformed: bool,
    /// No default passwords: the meter may lock its clients out.
    pub no_passwords: bool,
}

/// Something that is wrong.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Its row of the catalogue.
    pub known: &'static Known,
    /// What was tried.
    pub tried: String,
    /// What was seen.
    pub seen: String,
    /// Requests and replies.
    pub evidence: Vec<Exchange>,
}

/// What came of looking for one finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Found,
    /// It is not; what was seen instead.
    Clean(String),
    /// Not looked for, and why.
    Untried(String),
}

/// An association that was asked for, with what it may do.
#[derive(Debug, Clone)]
pub struct Level {
    /// How it was asked for.
    pub setup: Setup,
    /// Whether it opened; why not.
    pub outcome: Result<(), String>,
    /// What it sees; `None` when it has no list.
    pub objects: Option<Vec<Listed>>,
}

/// A probe at work, and what it has found out.
pub struct Assay<'l> {
    /// Who speaks.
    pub prober: Prober<'l>,
    /// What may be sent.
    pub dangers: Dangers,
    /// The set-up that works; at first the lab file's.
    pub setup: Setup,
    /// An attribute that the keyed client reads.
    pub target: AttributeId,
    /// By id.
    pub findings: Vec<Finding>,
    /// By id.
    pub verdicts: BTreeMap<&'static str, Verdict>,
    /// Associations.
    pub levels: Vec<Level>,
    /// Why the lab file's own association failed.
    pub diagnosis: Option<Diagnosis>,
    /// What the keyed client sees.
    pub objects: Option<Vec<Listed>>,
    /// Whether the keyed client could be associated.
    pub is_associated: bool,
}

impl<'l> Assay<'l> {
    /// Before anything was sent.
    pub fn new(prober: Prober<'l>, dangers: Dangers) -> Self {
        let setup = Setup::of(prober.lab);
        Self {
            prober,
            dangers,
            setup,
            target: ENERGY,
            findings: Vec::new(),
            verdicts: BTreeMap::new(),
            levels: Vec::new(),
            diagnosis: None,
            objects: None,
            is_associated: false,
        }
    }

    /// Does everything. What could not be done has a verdict that says so.
    pub async fn run(&mut self) {
        (self.prober.progress)("keys of the lab file");
        self.judge_keys();
        (self.prober.progress)("public client");
        self.public_client().await;
        (self.prober.progress)("client of the lab file");
        self.keyed_client().await;
        if self.is_associated {
            (self.prober.progress)("mechanisms and contexts");
            self.mechanisms().await;
            (self.prober.progress)("challenges and proofs");
            self.proofs().await;
            (self.prober.progress)("protection and counters");
            self.protection().await;
            (self.prober.progress)("limits, logs and attempts");
            self.limits().await;
            (self.prober.progress)("other clients and default passwords");
            self.others().await;
        }
        let why = match (self.is_associated, self.prober.is_over()) {
            (_, true) => "time was up, or the meter could not be reached any more",
            (false, _) => "the client of the lab file could not be associated",
            _ => "nothing to be tried with this set-up",
        };
        for known in CATALOGUE {
            self.verdicts.entry(known.id).or_insert_with(|| Verdict::Untried(why.into()));
        }
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.known.severity));
    }

    /// Keeps a finding, with the evidence since `mark`.
    pub fn found(&mut self, id: &str, tried: &str, seen: &str, mark: usize) {
        let evidence = self.prober.evidence(mark, EVIDENCE_MAX);
        self.found_in(id, tried, seen, evidence);
    }

    /// Keeps a finding with the exchanges that show it.
    pub fn found_in(&mut self, id: &str, tried: &str, seen: &str, evidence: Vec<Exchange>) {
        let Some(known) = known(id) else { return };
        if self.verdicts.insert(known.id, Verdict::Found) != Some(Verdict::Found) {
            self.findings.push(Finding { known, tried: tried.into(), seen: seen.into(), evidence });
        }
    }

    /// Keeps that something is in order, unless it was found before.
    pub fn clean(&mut self, id: &str, note: &str) {
        self.settle(id, Verdict::Clean(note.into()));
    }

    /// Keeps that something was not tried.
    pub fn untried(&mut self, id: &str, why: &str) {
        self.settle(id, Verdict::Untried(why.into()));
    }

    fn settle(&mut self, id: &str, verdict: Verdict) {
        let Some(known) = known(id) else { return };
        if self.verdicts.get(known.id) != Some(&Verdict::Found) {
            self.verdicts.insert(known.id, verdict);
        }
    }

    /// Opens an association of the keyed client.
    pub async fn keyed(&mut self) -> Result<Open, Failure> {
        self.prober.associate(self.setup).await
    }

    /// The lab file's client: as the file says, and if that fails as it works.
    async fn keyed_client(&mut self) {
        let mut setup = self.setup;
        let mut opened = self.prober.associate(setup).await;
        if let Err(failure) = &opened {
            let outcome = Err(failure.to_string());
            self.levels.push(Level { setup, outcome, objects: None });
            let failure = failure.clone();
            (self.prober.progress)("why the association fails");
            let (diagnosis, works) = self.diagnose(&failure).await;
            if failure == Failure::Reflected {
                let (tried, seen) =
                    ("an association with a fresh challenge", "the meter's challenge equals ours");
                let last = self.prober.last(|exchange| exchange.what.starts_with("association of"));
                self.found_in("challenge-reflected", tried, seen, last);
            }
            self.diagnosis = Some(diagnosis);
            if let Some(works) = works {
                setup = works;
                opened = self.prober.associate(works).await;
            }
        }
        let Ok(mut open) = opened else { return };
        self.setup = setup;
        self.is_associated = true;
        let mark = self.prober.mark();
        let objects = self.list(&mut open).await;
        self.levels.push(Level { setup, outcome: Ok(()), objects: objects.clone() });
        self.objects = objects;
        for target in [ENERGY, CLOCK, NAME, COUNTER] {
            let outcome = self.prober.get(&mut open, "an honest request", target).await;
            if let Outcome::Done(..) = outcome {
                self.target = target;
                break;
            }
        }
        self.judge_answer(mark);
        self.judge_proof(&open);
    }

    /// The object list of an open association.
    pub async fn list(&mut self, open: &mut Open) -> Option<Vec<Listed>> {
        let outcome = self.prober.get(open, "the list of objects", OBJECT_LIST).await;
        object_list(outcome.value()?)
    }

    /// Whether the meter proved itself in pass 4.
    fn judge_proof(&mut self, open: &Open) {
        if !self.setup.mechanism.is_high_level() {
            return self.untried("hls-unproven", "the mechanism has no pass 4");
        }
        if open.is_peer_proven {
            return self.clean("hls-unproven", "pass 4 carries the reply to our challenge");
        }
        let last = self.prober.last(|exchange| exchange.what.starts_with("pass 3:"));
        let tried = "an association up to pass 4";
        self.found_in("hls-unproven", tried, "pass 4 has no reply to our challenge, or a wrong one", last);
    }

    /// Whether protected requests are answered protected.
    fn judge_answer(&mut self, mark: usize) {
        if !self.setup.is_ciphered() {
            return self.untried("plain-answer", "the association is not ciphered");
        }
        let all = self.prober.evidence(mark, usize::MAX);
        let is_plain =
            |exchange: &Exchange| ["c4", "c5", "c7"].iter().any(|tag| exchange.reply.starts_with(tag));
        match all.into_iter().find(is_plain) {
            Some(plain) => {
                let seen = "the response came without protection";
                self.found_in("plain-answer", "a protected request", seen, vec![plain]);
            }
            None => self.clean("plain-answer", "every response was protected"),
        }
    }

    /// The last counter that the meter says it has accepted, as anybody may read it.
    pub async fn hint(&mut self) -> Option<u32> {
        let mut open = self.prober.associate(self.setup.public()).await.ok()?;
        let outcome = self.prober.get(&mut open, "the counter, as anybody may read it", COUNTER).await;
        u32::try_from(number(outcome.value()?)?).ok()
    }

    /// Whether the mechanism of the set-up has challenges.
    pub const fn is_high_level(&self) -> bool {
        !matches!(self.setup.mechanism, Mechanism::None | Mechanism::LowLevel)
    }
}
