//! Protection and counters of a ciphered association: what a forger, a recorder and somebody on the line could do.

use std::collections::BTreeSet;

use gridseal_dlms::{apdu::reference::AttributeId, assoc::Protection};
use gridseal_types::{ObisCode, SystemTitle};

use super::{
    assay::Assay,
    associate::{Open, Twist},
    service::{Outcome, get_request, number},
    talk::{Reply, Setup},
};

/// Where the policy is.
const POLICY: AttributeId = AttributeId::new(64, ObisCode::new([0, 0, 43, 0, 0, 255]), 2);
/// Bytes of a tag.
const TAG_SIZE: usize = 12;

/// Which forged request is sent.
#[derive(Debug, Clone, Copy)]
enum Forged {
    Plain,
    Tag,
    Text,
    Weaker(Protection),
}

impl Assay<'_> {
    /// All of it, where the association is ciphered.
    pub async fn protection(&mut self) {
        let ids = [
            "plain-request",
            "tag-unchecked",
            "replay-accepted",
            "counter-lowered",
            "counter-forgotten",
            "server-counter-reset",
            "policy-not-enforced",
            "title-unchecked",
        ];
        if !self.setup.is_ciphered() {
            ids.iter().for_each(|id| self.untried(id, "the association is not ciphered"));
            return self.policy().await;
        }
        self.forged(Forged::Plain, "plain-request").await;
        if self.setup.protection.covers(Protection::Authenticated) {
            self.forged(Forged::Tag, "tag-unchecked").await;
            self.forged(Forged::Text, "tag-unchecked").await;
        } else {
            self.untried("tag-unchecked", "the lab file's protection has no tag");
        }
        for weaker in [Protection::Authenticated, Protection::Encrypted] {
            if !weaker.covers(self.setup.protection) {
                self.forged(Forged::Weaker(weaker), "policy-not-enforced").await;
            }
        }
        if self.setup.protection != Protection::AuthenticatedEncrypted {
            self.untried(
                "policy-not-enforced",
                "the lab file demands one protection: there is no weaker one",
            );
        }
        self.replay().await;
        self.lower_counter().await;
        self.forgotten_counter().await;
        self.policy().await;
        self.title().await;
        self.own_counter();
    }

    /// One request that must not be served, on an association of its own.
    async fn forged(&mut self, forged: Forged, id: &str) {
        let Ok(mut open) = self.keyed().await else { return };
        let mark = self.prober.mark();
        let plain = get_request(self.target);
        let protection = self.setup.protection;
        let mut apdu = match forged {
            Forged::Plain => plain.clone(),
            Forged::Weaker(weaker) => self.prober.sealed(&self.setup, &plain, weaker, None),
            Forged::Tag | Forged::Text => self.prober.sealed(&self.setup, &plain, protection, None),
        };
        let (what, at) = match forged {
            Forged::Plain => ("a request without protection", None),
            Forged::Weaker(Protection::Authenticated) => ("a request with a tag, not encrypted", None),
            Forged::Weaker(_) => ("a request encrypted, without a tag", None),
            Forged::Tag => ("a request with the last bit of its tag changed", apdu.len().checked_sub(1)),
            // An unused bit of the invoke-id: what is inside stays a request.
            Forged::Text => {
                let at = apdu.len().checked_sub(TAG_SIZE).and_then(|end| end.checked_sub(plain.len()));
                ("a request with a bit of its text changed", at.map(|at| at.saturating_add(2)))
            }
        };
        if let Some(octet) = at.and_then(|at| apdu.get_mut(at)) {
            *octet ^= if matches!(forged, Forged::Text) { 0x10 } else { 0x01 };
        }
        match self.prober.try_get(&mut open, what, &apdu).await {
            Outcome::Done(..) => self.found(id, what, "served: the value was given", mark),
            other => self.clean(id, &other.text()),
        }
    }

    async fn replay(&mut self) {
        let Ok(mut open) = self.keyed().await else { return };
        let apdu = self.prober.sealed(&self.setup, &get_request(self.target), self.setup.protection, None);
        let mark = self.prober.mark();
        let Outcome::Done(..) = self.prober.try_get(&mut open, "a request", &apdu).await else { return };
        match self.prober.try_get(&mut open, "the same bytes once more", &apdu).await {
            Outcome::Done(..) => {
                self.found("replay-accepted", "one request, sent twice", "served both times", mark);
            }
            other => self.clean("replay-accepted", &other.text()),
        }
    }

    async fn lower_counter(&mut self) {
        let Ok(mut open) = self.keyed().await else { return };
        let (lower, higher) = (self.prober.next_counter(), self.prober.next_counter());
        let (plain, protection) = (get_request(self.target), self.setup.protection);
        let mark = self.prober.mark();
        let what = format!("a request with counter {higher}");
        let apdu = self.prober.sealed(&self.setup, &plain, protection, Some(higher));
        let Outcome::Done(..) = self.prober.try_get(&mut open, &what, &apdu).await else { return };
        let what = format!("then one with counter {lower}, which was not used before");
        let apdu = self.prober.sealed(&self.setup, &plain, protection, Some(lower));
        match self.prober.try_get(&mut open, &what, &apdu).await {
            Outcome::Done(..) => {
                self.found("counter-lowered", "a lower counter after a higher one", "served", mark);
            }
            other => self.clean("counter-lowered", &other.text()),
        }
    }

    /// A recorded opening, sent again once its association is over.
    async fn forgotten_counter(&mut self) {
        let Ok((open, recorded)) = self.recorded().await else { return };
        drop(open);
        let Ok(mut talk) = self.prober.connect(self.setup).await else { return };
        let what = "the recorded opening once more, on a new connection";
        let reply = self.prober.exchange(&mut talk, what, &recorded, &[]).await;
        // What it answers is not ours to use: its counter is looked at, nothing else.
        let is_accepted = matches!(&reply, Reply::Apdu(apdu) if is_accepted(apdu));
        match is_accepted {
            true => {
                let tried = "the opening of an ended association, byte for byte";
                let last = self.prober.last(|exchange| exchange.what == what);
                self.found_in("counter-forgotten", tried, "accepted", last);
            }
            false => self.clean("counter-forgotten", "the recorded opening is refused"),
        }
    }

    /// An honest association, and the AARQ that opened it.
    async fn recorded(&mut self) -> Result<(Open, Vec<u8>), super::associate::Failure> {
        let half = self.prober.begin(self.setup, &Twist::default()).await?;
        let recorded = half.aarq.clone();
        Ok((self.prober.prove(half, false).await?, recorded))
    }

    async fn policy(&mut self) {
        if !self.setup.is_ciphered() {
            return self.untried("policy-weak", "the association is not ciphered");
        }
        let Ok(mut open) = self.keyed().await else { return };
        let mark = self.prober.mark();
        let outcome = self.prober.get(&mut open, "the security policy", POLICY).await;
        let Some(policy) = outcome.value().and_then(number) else {
            return self.untried("policy-weak", "the security policy cannot be read");
        };
        let version = self.objects.as_ref().and_then(|objects| {
            objects
                .iter()
                .find(|object| object.obis == POLICY.obis && object.class == 64)
                .map(|object| object.version)
        });
        // Version 0 counts 0 to 3; from version 1 bits 2 and 3 are for requests, 5 and 6 for responses.
        let is_whole = match version {
            Some(0) => policy == 3,
            None if policy <= 3 => policy == 3,
            _ => policy & 0x6C == 0x6C,
        };
        match is_whole {
            true => self.clean("policy-weak", &format!("policy {policy}: authenticated and encrypted")),
            false => {
                let seen = format!("policy {policy}: requests or responses need no tag, or no encryption");
                self.found("policy-weak", "security setup, attribute 2", &seen, mark);
            }
        }
    }

    async fn title(&mut self) {
        let mut title = *self.setup.client_title.as_bytes();
        if let Some(last) = title.last_mut() {
            *last ^= 0x5A;
        }
        let setup = Setup { client_title: SystemTitle(title), ..self.setup };
        let mark = self.prober.mark();
        match self.prober.associate(setup).await {
            Ok(_) => {
                let seen = format!("title {} opened an association", hex::encode_upper(title));
                self.found("title-unchecked", "another client title under the same keys", &seen, mark);
            }
            Err(failure) => self.clean("title-unchecked", &failure.to_string()),
        }
    }

    /// Whether one counter of the meter protected two answers.
    fn own_counter(&mut self) {
        let mut all = BTreeSet::new();
        let mut again = None;
        for association in &self.prober.seen {
            // Within one association a meter may send the same answer again.
            let here: BTreeSet<u32> = association.iter().copied().collect();
            again = again.or_else(|| here.iter().copied().find(|counter| all.contains(counter)));
            all.extend(here);
        }
        match again {
            Some(counter) => {
                let seen = format!("counter {counter} protected answers in two associations");
                let mark = self.prober.mark().saturating_sub(2);
                self.found("server-counter-reset", "the meter's counters of all associations", &seen, mark);
            }
            None if all.is_empty() => self.untried("server-counter-reset", "the meter protected nothing"),
            None => {
                let note =
                    format!("{} counters in {} associations, none twice", all.len(), self.prober.seen.len());
                self.clean("server-counter-reset", &note);
            }
        }
    }
}

/// Whether an AARE says yes.
fn is_accepted(apdu: &[u8]) -> bool {
    gridseal_dlms::acse::Aare::from_bytes(apdu)
        .is_ok_and(|aare| aare.result == gridseal_dlms::acse::AssociateResult::Accepted)
}
