//! Challenges, and what is served before and after they are answered.

use super::{
    assay::Assay,
    associate::{Open, Twist},
    service::{Outcome, get_request},
};

/// Challenges that are compared.
const CHALLENGES: usize = 4;
/// Fewest bytes of a challenge.
const CHALLENGE_SIZE_MIN: usize = 8;

impl Assay<'_> {
    /// All of it, where the mechanism has challenges.
    pub async fn proofs(&mut self) {
        let ids = [
            "challenge-fixed",
            "challenge-short",
            "challenge-reflected",
            "hls-services-early",
            "hls-wrong-accepted",
        ];
        if !self.is_high_level() {
            ids.iter().for_each(|id| self.untried(id, "the mechanism has no challenges"));
            return;
        }
        self.challenges().await;
        self.early_services().await;
        self.wrong_proof().await;
    }

    async fn challenges(&mut self) {
        let mark = self.prober.mark();
        let mut seen: Vec<Vec<u8>> = Vec::new();
        for _ in 0..CHALLENGES {
            if let Ok(half) = self.prober.begin(self.setup, &Twist::default()).await {
                seen.push(half.challenge);
            }
        }
        if seen.len() < 2 {
            return;
        }
        let sizes: Vec<String> = seen.iter().map(|challenge| challenge.len().to_string()).collect();
        let tried = format!("{} associations up to pass 2", seen.len());
        let repeated =
            seen.iter().enumerate().any(|(at, one)| seen.iter().skip(at + 1).any(|two| one == two));
        match repeated {
            true => self.found("challenge-fixed", &tried, "a challenge came twice", mark),
            false => self.clean("challenge-fixed", &format!("{} challenges, all different", seen.len())),
        }
        match seen.iter().any(|challenge| challenge.len() < CHALLENGE_SIZE_MIN) {
            true => {
                let text = format!("challenges of {} bytes", sizes.join(", "));
                self.found("challenge-short", &tried, &text, mark);
            }
            false => self.clean("challenge-short", &format!("challenges of {} bytes", sizes.join(", "))),
        }
        self.reflection(seen.into_iter().next().unwrap_or_default()).await;
    }

    async fn reflection(&mut self, challenge: Vec<u8>) {
        let mark = self.prober.mark();
        let what = Some("an opening whose challenge is one of the meter's own".to_owned());
        // Mechanism 7 demands 32 bytes; shorter ones of the meter are sent as they are.
        let twist = Twist { value: Some(challenge.clone()), what };
        match self.prober.begin(self.setup, &twist).await {
            Ok(half) if half.challenge == challenge => {
                let tried = "AARQ with a challenge that the meter had sent before";
                self.found("challenge-reflected", tried, "the meter's challenge is the same", mark);
            }
            Ok(_) => self.clean("challenge-reflected", "answered with another challenge"),
            Err(failure) => self.clean("challenge-reflected", &failure.to_string()),
        }
    }

    async fn early_services(&mut self) {
        let Ok(half) = self.prober.begin(self.setup, &Twist::default()).await else { return };
        let mark = self.prober.mark();
        let mut open = Open { talk: half.talk, max_pdu: half.max_pdu, is_peer_proven: false };
        let apdu = self.prober.sealed(&self.setup, &get_request(self.target), self.setup.protection, None);
        let outcome = self.prober.try_get(&mut open, "get before pass 3", &apdu).await;
        match outcome {
            Outcome::Done(..) => {
                self.found(
                    "hls-services-early",
                    "GET between pass 2 and pass 3",
                    "the value was given",
                    mark,
                );
            }
            other => self.clean("hls-services-early", &other.text()),
        }
    }

    async fn wrong_proof(&mut self) {
        let Ok(half) = self.prober.begin(self.setup, &Twist::default()).await else { return };
        let mark = self.prober.mark();
        match self.prober.prove(half, true).await {
            Ok(_) => {
                let tried = "pass 3 with one bit of the reply changed";
                self.found("hls-wrong-accepted", tried, "the association is open", mark);
            }
            Err(failure) => self.clean("hls-wrong-accepted", &failure.to_string()),
        }
    }
}
