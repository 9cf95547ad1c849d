//! Why an association fails: one thing after the other is changed, until it opens.

use gridseal_dlms::{
    acse::{Conformance, Diagnostic, InitiateErrorKind, Mechanism},
    apdu::reference::AttributeId,
    assoc::Protection,
};
use gridseal_types::{ObisCode, SystemTitle};

use super::{
    assay::{Assay, EVIDENCE_MAX},
    associate::Failure,
    service::octets,
    talk::{Exchange, PROPOSED, Reply, Setup},
};

/// Clients that meters have: management, public, readers of several profiles, pre-established.
const CLIENTS: [u16; 10] = [1, 2, 3, 16, 17, 32, 48, 64, 80, 102];
/// Logical devices that meters have.
const SERVERS: [u16; 4] = [1, 16, 17, 2];
/// The client's title as the meter knows it.
const CLIENT_TITLE: AttributeId = AttributeId::new(64, ObisCode::new([0, 0, 43, 0, 0, 255]), 4);

/// Why, how sure, and what to do.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// `connection`, `transport`, `server-sap`, `client-sap`, `counter`, `system-title`, `key`, `secret`, `mechanism`,
    /// `context`, `suite`, `conformance`, `pdu-size`, `challenge` or `unknown`.
    pub cause: &'static str,
    /// Whether it was shown: the association opens with this one thing changed.
    pub is_shown: bool,
    /// What failed, as it was seen.
    pub failure: String,
    /// What it is, and what to change in the lab file.
    pub text: String,
    /// What was changed without success before.
    pub ruled_out: Vec<String>,
    /// Requests and replies.
    pub evidence: Vec<Exchange>,
}

/// What of the counter.
enum Counter {
    /// Not used, not known, or not behind.
    InOrder,
    /// Behind, and not all that is wrong.
    Behind(String),
    /// With one above what the meter has seen the association opens.
    Works(Setup),
}

/// One thing to change.
struct Change {
    cause: &'static str,
    what: String,
    setup: Setup,
}

impl Assay<'_> {
    /// Finds out; gives the set-up that works, if one was found.
    pub async fn diagnose(&mut self, failure: &Failure) -> (Diagnosis, Option<Setup>) {
        let mark = self.prober.mark().saturating_sub(1);
        let mut diagnosis = Diagnosis {
            cause: "unknown",
            is_shown: false,
            failure: failure.to_string(),
            text: String::new(),
            ruled_out: Vec::new(),
            evidence: self.prober.evidence(mark, EVIDENCE_MAX),
        };
        if let Some((cause, text)) = at_once(failure) {
            (diagnosis.cause, diagnosis.text) = (cause, text);
            return (diagnosis, None);
        }
        let counter = self.try_counter(failure, &mut diagnosis).await;
        if let Counter::Works(setup) = counter {
            return (diagnosis, Some(setup));
        }
        let works = self.try_changes(failure, &mut diagnosis).await;
        if works.is_none() {
            self.conclude(failure, &mut diagnosis);
        }
        // The changes were tried with a counter that the meter takes: with the lab file's they help nobody.
        if let Counter::Behind(text) = counter {
            diagnosis.text = format!("{}; besides, {text}", diagnosis.text);
        }
        (diagnosis, works)
    }

    /// The counter: the meter says what it has seen, to anybody or in its exception.
    async fn try_counter(&mut self, failure: &Failure, diagnosis: &mut Diagnosis) -> Counter {
        let uses_counter = self.setup.is_ciphered() || self.setup.mechanism == Mechanism::Gmac;
        if !uses_counter {
            return Counter::InOrder;
        }
        let mark = self.prober.mark();
        let ours = self.prober.first_counter;
        let lowest = match failure {
            Failure::ProofRefused(what) | Failure::NoAare(what) => {
                what.rsplit_once("lowest accepted ").and_then(|(_, lowest)| lowest.parse::<u32>().ok())
            }
            _ => None,
        };
        let seen = match lowest {
            Some(lowest) => Some(lowest.saturating_sub(1)),
            None => self.hint().await,
        };
        let Some(seen) = seen else {
            diagnosis.ruled_out.push("counter: not known; no public client tells it".into());
            return Counter::InOrder;
        };
        if let Err(why) = self.prober.follow(seen) {
            diagnosis.ruled_out.push(format!("counter: ours begins at {ours}, the meter says {seen}, {why}"));
            return Counter::InOrder;
        }
        let text = format!(
            "the meter has accepted counters up to {seen}, and ours began at {ours}: set client.invocation_counter \
             above it, or give --counter-file"
        );
        if self.prober.associate(self.setup).await.is_err() {
            diagnosis.ruled_out.push(format!("counter: {seen} was seen; one above it opens nothing either"));
            return Counter::Behind(text);
        }
        diagnosis.cause = "counter";
        diagnosis.is_shown = true;
        diagnosis.text = text;
        diagnosis.evidence.extend(self.prober.evidence(mark, EVIDENCE_MAX));
        Counter::Works(self.setup)
    }

    async fn try_changes(&mut self, failure: &Failure, diagnosis: &mut Diagnosis) -> Option<Setup> {
        for change in self.changes(failure).await {
            if self.prober.is_over() {
                return None;
            }
            let mark = self.prober.mark();
            match self.prober.associate(change.setup).await {
                Ok(_) => {
                    diagnosis.cause = change.cause;
                    diagnosis.is_shown = true;
                    diagnosis.text = format!("the association opens with {}", change.what);
                    diagnosis.evidence.extend(self.prober.evidence(mark, EVIDENCE_MAX));
                    return Some(change.setup);
                }
                Err(Failure::NoKey) => {}
                // Another step was reached: the change was right, and something else is wrong as well.
                Err(other @ (Failure::NotOpened(_) | Failure::ProofRefused(_))) if is_earlier(failure) => {
                    diagnosis.cause = change.cause;
                    diagnosis.text =
                        format!("with {} the meter goes further, and then: {other}", change.what);
                    diagnosis.evidence.extend(self.prober.evidence(mark, EVIDENCE_MAX));
                }
                Err(_) => diagnosis.ruled_out.push(change.what),
            }
        }
        None
    }

    /// What is changed, one thing at a time, likely things first.
    async fn changes(&mut self, failure: &Failure) -> Vec<Change> {
        let here = self.setup;
        let mut changes = Vec::new();
        let mut add = |cause, what: String, setup: Setup| {
            if setup != here {
                changes.push(Change { cause, what, setup });
            }
        };
        if let Failure::NotOpened(Some(title)) = failure {
            let what = format!("server.system_title {}", hex::encode_upper(title.as_bytes()));
            add("system-title", what, Setup { server_title: *title, ..here });
        }
        if let Some(title) = self.client_title().await {
            let what = format!("client.system_title {}", hex::encode_upper(title.as_bytes()));
            add("system-title", what, Setup { client_title: title, ..here });
        }
        let swapped = Setup { client_title: here.server_title, server_title: here.client_title, ..here };
        add("system-title", "the two system titles exchanged".into(), swapped);
        for number in [5, 6, 7, 1, 4, 3, 0] {
            let mechanism = Mechanism::from_number(number).unwrap_or(Mechanism::None);
            add("mechanism", format!("mechanism {number}"), Setup { mechanism, ..here });
        }
        for suite in [0, 1] {
            // Suite 2 has keys of another size: the lab file would say so itself.
            if here.suite < 2 && here.is_ciphered() {
                add("suite", format!("suite {suite}"), Setup { suite, ..here });
            }
        }
        if here.is_ciphered() {
            let plain = Setup { protection: Protection::None, ..here };
            add("context", "the context without ciphering (protection \"none\")".into(), plain);
        } else if self.prober.lab.keys.has_guek() {
            let ciphered = Setup { protection: Protection::AuthenticatedEncrypted, ..here };
            add("context", "the context with ciphering (protection \"auth+enc\")".into(), ciphered);
        }
        let few = Conformance::GET.and(Conformance::SET).and(Conformance::ACTION);
        for (what, conformance) in
            [("GET, SET and ACTION alone", few), ("without general protection", PROPOSED)]
        {
            add("conformance", format!("conformance {what}"), Setup { conformance, ..here });
        }
        for max_pdu in [1_024, 0xFFFF] {
            add("pdu-size", format!("max_pdu {max_pdu}"), Setup { max_pdu, ..here });
        }
        let listed = self.prober.lab.associations.iter().map(|association| association.sap);
        for client_sap in listed.chain(CLIENTS) {
            add("client-sap", format!("client_sap {client_sap}"), Setup { client_sap, ..here });
        }
        for server_sap in SERVERS {
            add("server-sap", format!("listen_sap {server_sap}"), Setup { server_sap, ..here });
        }
        let first = hinted(failure);
        changes.sort_by_key(|change| Some(change.cause) != first);
        changes
    }

    /// The client's title as the meter's security setup has it, where anybody may read it.
    async fn client_title(&mut self) -> Option<SystemTitle> {
        let mut open = self.prober.associate(self.setup.public()).await.ok()?;
        let what = "the client's title, as anybody may read it";
        let outcome = self.prober.get(&mut open, what, CLIENT_TITLE).await;
        SystemTitle::from_slice(&octets(outcome.value()?)?)
    }

    /// Nothing helped: what is left.
    fn conclude(&self, failure: &Failure, diagnosis: &mut Diagnosis) {
        if diagnosis.cause != "unknown" {
            return;
        }
        let (cause, text) = match failure {
            Failure::NotOpened(_) => (
                "key",
                "the meter took our opening, and its answer does not open: its keys for answers are others, or \
                 somebody answers for it",
            ),
            Failure::ProofRefused(_) if self.setup.mechanism == Mechanism::Ecdsa => (
                "key",
                "the opening was accepted, the signature was not: client.signing_key is not the one whose public key \
                 the meter has, or the meter has other titles",
            ),
            Failure::ProofRefused(_) if self.setup.mechanism == Mechanism::Gmac => (
                "key",
                "the opening was accepted, the GMAC was not: keys.guek or keys.gak, or a title, is another",
            ),
            Failure::ProofRefused(_) => {
                ("secret", "the opening was accepted, the reply was not: keys.secret is another one")
            }
            Failure::Unanswered(Reply::Silent | Reply::Closed) => (
                "transport",
                "nothing is answered, whatever is changed: is it a DLMS port, and the right transport (--hdlc-tcp)?",
            ),
            Failure::Rejected(..)
                if self.setup.mechanism == Mechanism::LowLevel && !self.setup.is_ciphered() =>
            {
                ("secret", "everything else that can be tried from here was: keys.secret is another one")
            }
            Failure::Rejected(..) if self.setup.is_ciphered() => (
                "key",
                "everything else that can be tried from here was: keys.guek or keys.gak is another one (or a counter or \
                 title that nobody tells)",
            ),
            _ => ("unknown", "nothing that was changed opens the association"),
        };
        (diagnosis.cause, diagnosis.text) = (cause, text.into());
    }
}

/// What needs no trying.
fn at_once(failure: &Failure) -> Option<(&'static str, String)> {
    Some(match failure {
        Failure::Connect(why) if why.contains("HDLC link") => {
            ("transport", format!("{why}: does the port speak HDLC? Without --hdlc-tcp it is the wrapper"))
        }
        Failure::Connect(why) => {
            ("connection", format!("{why}: is the meter there, and is --connect host:port?"))
        }
        Failure::NoKey => ("key", "the lab file has no key or secret for its mechanism".into()),
        Failure::Reflected => (
            "challenge",
            "the meter sends our own challenge back: no client that is right goes on from there".into(),
        ),
        Failure::Unanswered(Reply::Garbage(what)) => {
            ("transport", format!("{what}: the port speaks something else; HDLC needs --hdlc-tcp"))
        }
        _ => return None,
    })
}

/// Whether it failed before the meter had opened anything.
const fn is_earlier(failure: &Failure) -> bool {
    matches!(failure, Failure::Rejected(..) | Failure::NoAare(_) | Failure::Unanswered(_))
}

/// What the meter itself says is wrong: tried first, never believed.
const fn hinted(failure: &Failure) -> Option<&'static str> {
    match failure {
        Failure::Rejected(_, Some(error)) => match error.initiate_kind() {
            InitiateErrorKind::IncompatibleConformance => Some("conformance"),
            InitiateErrorKind::PduSizeTooShort => Some("pdu-size"),
            _ => None,
        },
        Failure::Rejected(Diagnostic::User(2), None) => Some("context"),
        Failure::Rejected(Diagnostic::User(3), None) => Some("system-title"),
        Failure::Rejected(Diagnostic::User(11 | 12), None) => Some("mechanism"),
        Failure::Unanswered(_) => Some("server-sap"),
        Failure::NotOpened(Some(_)) => Some("system-title"),
        _ => None,
    }
}
