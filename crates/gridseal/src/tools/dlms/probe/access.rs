//! What anybody may do, and which weaker ways in are on offer.

use gridseal_crypto::random;
use gridseal_dlms::{
    acse::{Diagnostic, Mechanism},
    apdu::reference::AttributeId,
    assoc::Protection,
};
use gridseal_io::rng::OsRng;
use gridseal_types::ObisCode;

use super::{
    super::item::dotted,
    assay::{Assay, EVIDENCE_MAX, Level},
    associate::{Failure, Open, Twist},
    service::{ENERGY, Listed, Outcome},
    talk::Setup,
};
use crate::lab::KeyFault;

/// Objects whose values are read as anybody, at most.
const SAMPLE_MAX: usize = 8;

/// What everybody may read: what a client needs before it has keys, and what says nothing of the customer.
fn is_public(class: u16, obis: ObisCode) -> bool {
    matches!(
        (class, *obis.groups()),
        (8 | 15 | 17 | 64, _) | (1, [0, 0, 42 | 43, ..] | [0, _, 96, 1, ..] | [_, _, 0, 2, ..])
    )
}

impl Assay<'_> {
    /// Keys that protect nothing.
    pub fn judge_keys(&mut self) {
        let faults = self.prober.lab.key_faults();
        let mark = self.prober.mark();
        let named = |wanted: fn(&KeyFault) -> Option<String>| -> Vec<String> {
            faults.iter().filter_map(wanted).collect()
        };
        let published = named(|fault| match fault {
            KeyFault::Published(name) => Some((*name).to_owned()),
            KeyFault::Shared(..) => None,
        });
        let shared = named(|fault| match fault {
            KeyFault::Shared(one, two) => Some(format!("{one} = {two}")),
            KeyFault::Published(_) => None,
        });
        let tried = "the keys of the lab file, compared with published ones and with each other";
        match published.is_empty() {
            true => self.clean("key-published", "no key of the lab file is a published one"),
            false => self.found("key-published", tried, &published.join(", "), mark),
        }
        match shared.is_empty() {
            true => self.clean("key-shared", "no two keys of the lab file are equal"),
            false => self.found("key-shared", tried, &shared.join(", "), mark),
        }
    }

    /// Who anybody may be, and what that client may do: client 16, the management client, and the lab file's client
    /// without keys.
    pub async fn public_client(&mut self) {
        let mut clients = vec![16, 1, self.setup.client_sap];
        clients.dedup();
        if self.setup.client_sap == 16 {
            clients.retain(|client| *client != 16);
            clients.insert(0, 16);
        }
        let is_keyless = !self.setup.is_ciphered() && self.setup.mechanism == Mechanism::None;
        let (mut opened, mut is_unheard) = (0, false);
        for client_sap in clients {
            if self.prober.is_over() {
                return;
            }
            let setup = Setup { client_sap, ..self.setup.public() };
            let mark = self.prober.mark();
            match self.prober.associate(setup).await {
                Err(failure) => {
                    self.levels.push(Level { setup, outcome: Err(failure.to_string()), objects: None });
                    // Whoever does not answer at all is not asked three times.
                    is_unheard = matches!(failure, Failure::Connect(_) | Failure::Unanswered(_));
                    if is_unheard {
                        break;
                    }
                }
                Ok(mut open) => {
                    opened += 1;
                    let objects = self.list(&mut open).await;
                    self.levels.push(Level { setup, outcome: Ok(()), objects: objects.clone() });
                    if client_sap == self.setup.client_sap && client_sap != 16 && !is_keyless {
                        let tried = "the lab file's client without mechanism and ciphering";
                        self.found("context-plain", tried, "the association opened", mark);
                    }
                    self.judge_public(&mut open, &objects.unwrap_or_default()).await;
                }
            }
        }
        if opened == 0 && is_unheard {
            let why = "the meter could not be reached, or answered nothing";
            return ["plain-read", "plain-write"].iter().for_each(|id| self.untried(id, why));
        }
        let note =
            if opened > 0 { "nothing but public objects" } else { "no association without keys opened" };
        self.clean("plain-read", note);
        self.clean("plain-write", note);
    }

    async fn judge_public(&mut self, open: &mut Open, objects: &[Listed]) {
        let who = format!("client {} without authentication and ciphering", open.talk.setup.client_sap);
        let mut wanted: Vec<AttributeId> = objects
            .iter()
            .filter(|object| !is_public(object.class, object.obis))
            .filter_map(|object| {
                let attribute = object.readable.iter().copied().find(|id| *id > 1)?;
                // Buffers are long; how many rows they have says enough.
                let attribute = if object.class == 7 { 7 } else { attribute };
                Some(AttributeId::new(object.class, object.obis, attribute))
            })
            .collect();
        wanted.sort_by_key(|attribute| attribute.class != 3);
        if !wanted.contains(&ENERGY) {
            wanted.insert(0, ENERGY);
        }
        let mark = self.prober.mark();
        let mut read = Vec::new();
        for attribute in wanted.into_iter().take(SAMPLE_MAX) {
            let what = format!("get of {} as anybody", dotted(attribute.obis));
            if let Outcome::Done(..) = self.prober.get(open, &what, attribute).await {
                read.push(dotted(attribute.obis));
            }
        }
        if !read.is_empty() {
            let seen = format!("values of {} were given", read.join(", "));
            self.found("plain-read", &format!("GET by {who}"), &seen, mark);
        }
        self.judge_public_rights(open, objects, &who).await;
    }

    async fn judge_public_rights(&mut self, open: &mut Open, objects: &[Listed], who: &str) {
        // Replying to a challenge is everybody's.
        let is_open = |object: &&Listed| {
            !object.writable.is_empty() || (object.class != 15 && !object.invocable.is_empty())
        };
        let wide: Vec<&Listed> = objects.iter().filter(is_open).collect();
        let Some(first) = wide.first() else { return };
        let names: Vec<String> = wide.iter().take(SAMPLE_MAX).map(|object| dotted(object.obis)).collect();
        let mut seen =
            format!("{} objects are listed as writable or invocable: {}", wide.len(), names.join(", "));
        let mark = self.prober.mark();
        let mut tried = format!("the access rights of {who}");
        if let (true, Some(id)) = (self.dangers.write, first.writable.first()) {
            let attribute = AttributeId::new(first.class, first.obis, *id);
            let value = self.prober.get(open, "the value that is there", attribute).await;
            if let Some(value) = value.value().map(<[u8]>::to_vec) {
                let outcome = self.prober.set(open, attribute, &value).await;
                tried.push_str(", and SET of the value that is there already");
                seen.push_str(&format!("; SET: {}", outcome.text()));
            }
        } else {
            seen.push_str("; nothing was written (--danger-write writes a value that is there already)");
        }
        let list = self.prober.last(|exchange| exchange.what == "the list of objects");
        let evidence = [list, self.prober.evidence(mark, EVIDENCE_MAX)].concat();
        self.found_in("plain-write", &tried, &seen, evidence);
    }

    /// Every other mechanism and the plain context, as far as an opening shows them.
    pub async fn mechanisms(&mut self) {
        self.plain_context().await;
        let names = [
            (Mechanism::None, "mechanism-lowest"),
            (Mechanism::LowLevel, "mechanism-low"),
            (Mechanism::Manufacturer, "mechanism-manufacturer"),
            (Mechanism::Md5, "mechanism-md5"),
            (Mechanism::Sha1, "mechanism-sha1"),
        ];
        let mut refusals = Vec::new();
        for (mechanism, id) in names {
            if self.prober.is_over() {
                return;
            }
            if mechanism == self.setup.mechanism {
                let mark = self.prober.mark();
                self.found(id, "the association of the lab file", "it opens with this mechanism", mark);
                continue;
            }
            let mark = self.prober.mark();
            let setup = Setup { mechanism, ..self.setup };
            let is_known = mechanism == Mechanism::LowLevel && self.prober.lab.keys.has_secret();
            let value = (mechanism != Mechanism::None && !is_known).then(|| random::<16>(&mut OsRng));
            let value = match value {
                Some(Ok(bytes)) => Some(bytes.to_vec()),
                _ => None,
            };
            let tried = format!("AARQ with mechanism {}", mechanism.number());
            match self.prober.begin(setup, &Twist { value, what: None }).await {
                Ok(half) => {
                    let seen = match half.challenge.is_empty() {
                        true => "accepted",
                        false => "accepted, with a challenge for pass 3",
                    };
                    self.levels.push(Level { setup, outcome: Ok(()), objects: None });
                    self.found(id, &tried, seen, mark);
                }
                Err(failure) => {
                    self.levels.push(Level { setup, outcome: Err(failure.to_string()), objects: None });
                    let is_unknown = matches!(failure, Failure::Rejected(Diagnostic::User(11 | 12), _));
                    if mechanism == Mechanism::LowLevel && !is_known && !is_unknown {
                        // A wrong password and a mechanism that is not offered may be refused alike.
                        self.untried(
                            id,
                            "the lab file has no secret, and what was sent in its place is refused",
                        );
                    } else {
                        self.clean(id, &failure.to_string());
                    }
                    refusals.push((mechanism, failure));
                }
            }
        }
        self.better_mechanisms().await;
        self.judge_refusals(&refusals);
    }

    /// A meter that says `authentication failure` to a password, and `mechanism not recognised` to others, offers it.
    fn judge_refusals(&mut self, refusals: &[(Mechanism, Failure)]) {
        let says = |wanted: Mechanism| {
            refusals.iter().find_map(|(mechanism, failure)| match failure {
                Failure::Rejected(diagnostic, _) if *mechanism == wanted => Some(*diagnostic),
                _ => None,
            })
        };
        let is_unknown = |diagnostic| matches!(diagnostic, Some(Diagnostic::User(11 | 12)));
        if says(Mechanism::LowLevel) == Some(Diagnostic::AUTHENTICATION_FAILURE)
            && is_unknown(says(Mechanism::Manufacturer))
        {
            let seen = "refused for its password, where mechanism 2 is refused as unknown";
            let last = self.prober.last(|exchange| exchange.what.contains("mechanism 1,"));
            self.found_in("mechanism-low", "AARQ with mechanism 1", seen, last);
        }
    }

    /// The lab file's other good mechanisms: associations with growing rights.
    async fn better_mechanisms(&mut self) {
        for mechanism in [Mechanism::Gmac, Mechanism::Sha256, Mechanism::Ecdsa] {
            if mechanism == self.setup.mechanism || self.prober.is_over() {
                continue;
            }
            let setup = Setup { mechanism, ..self.setup };
            let (outcome, objects) = match self.prober.associate(setup).await {
                Ok(mut open) => (Ok(()), self.list(&mut open).await),
                Err(Failure::NoKey) => continue,
                Err(failure) => (Err(failure.to_string()), None),
            };
            self.levels.push(Level { setup, outcome, objects });
        }
    }

    async fn plain_context(&mut self) {
        if !self.setup.is_ciphered() {
            return self.untried("context-plain", "the association is not ciphered");
        }
        let mark = self.prober.mark();
        let setup = Setup { protection: Protection::None, ..self.setup };
        let tried = "AARQ in the context without ciphering, same client and mechanism";
        match self.prober.begin(setup, &Twist::default()).await {
            Ok(_) => self.found("context-plain", tried, "accepted", mark),
            Err(failure) => self.clean("context-plain", &failure.to_string()),
        }
    }
}
