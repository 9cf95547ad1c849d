//! Every finding that a probe can make: its stable id, how bad it is, why it matters, how it is mended.

/// How bad a finding is, from least to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// Helps an attacker.
    Medium,
    /// Breaks one protection.
    High,
    /// Whoever reaches the port reads, forges or commands.
    Critical,
}

impl Severity {
    /// As it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// One row of the catalogue.
#[derive(Debug)]
pub struct Known {
    /// Stable id.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub title: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// How it is mended.
    pub mend: &'static str,
}

macro_rules! known {
    ($($id:literal $severity:ident $title:literal $why:literal $mend:literal)*) => {
        &[$(Known { id: $id, severity: Severity::$severity, title: $title, why: $why, mend: $mend }),*]
    };
}

/// All of them, in the order in which they are looked for.
pub const CATALOGUE: &[Known] = known! {
    "plain-read" High
        "values can be read by anybody"
        "Readings are personal data; whoever reaches the port reads them without any key."
        "Give the public client the clock, the counters and the device's name, nothing else."
    "plain-write" Critical
        "attributes or methods are open to anybody"
        "Whoever reaches the port changes settings or switches the supply without any key."
        "Take every right to write or invoke from associations without authentication and protection."
    "context-plain" High
        "the keyed client is also accepted without ciphering"
        "An attacker on the line answers for the meter or the client and takes the protection off both."
        "Accept one application context for each client: the ciphered one."
    "mechanism-lowest" High
        "mechanism 0 (no authentication) opens the keyed client's association"
        "The client never proves that it is there now; a recorded opening may be enough."
        "Demand mechanism 5, 6 or 7 from every client that has keys."
    "mechanism-low" High
        "mechanism 1 (password in clear) is offered"
        "The password crosses the network in clear; one recording is enough."
        "Switch low level security off; demand mechanism 5, 6 or 7."
    "mechanism-manufacturer" Medium
        "mechanism 2 (manufacturer's own) is offered"
        "Nobody outside can say what it proves; the ones that are known encrypt a challenge with one fixed key."
        "Switch it off; demand mechanism 5, 6 or 7."
    "mechanism-md5" High
        "mechanism 3 (MD5) is offered"
        "A recorded reply lets secrets be guessed offline at billions a second, and names neither side."
        "Switch it off; demand mechanism 5, 6 or 7."
    "mechanism-sha1" Medium
        "mechanism 4 (SHA-1) is offered"
        "A recorded reply lets secrets be guessed offline, and names neither side."
        "Switch it off; demand mechanism 5, 6 or 7."
    "challenge-fixed" Critical
        "the meter's challenges repeat"
        "A recorded reply to a challenge opens the next association as well."
        "Draw every challenge from a cryptographic generator; use each once."
    "challenge-short" Medium
        "the meter's challenges are shorter than 8 bytes"
        "Short challenges repeat soon, and recorded replies with them."
        "Use challenges of 16 bytes or more; the standard demands 8, with mechanism 7 it demands 32."
    "challenge-reflected" Critical
        "the meter sends a challenge of ours back as its own"
        "An attacker lets the meter, or another client, compute the reply that it then presents."
        "Draw an own challenge, and refuse one that equals the peer's."
    "hls-services-early" Critical
        "services are served before the client has proved itself"
        "The whole authentication is passed by leaving it out."
        "Serve nothing but reply_to_HLS_authentication between pass 2 and pass 4."
    "hls-wrong-accepted" Critical
        "a wrong reply to the challenge is accepted"
        "Anybody is any client."
        "Compare the reply, in constant time, and end the association when it is wrong."
    "hls-unproven" High
        "the meter does not prove itself in pass 4"
        "A client cannot tell the meter from anybody who answers for it."
        "Return the reply to the client's challenge, computed over it."
    "plain-request" Critical
        "a plain request is served in a ciphered association"
        "Whoever can write on the line adds commands without a key."
        "Refuse every APDU that is protected less than the association demands."
    "plain-answer" High
        "a protected request is answered in plain"
        "Readings cross the network readable, and anybody on the way changes them."
        "Protect every response at least as its request was."
    "tag-unchecked" Critical
        "an APDU with a changed tag or text is accepted"
        "Commands can be changed on the way, bit by bit, without any key."
        "Compare the tag before anything of the APDU is used."
    "replay-accepted" Critical
        "a repeated APDU is served again"
        "A recorded command works as often as an attacker likes."
        "Accept only counters above the last accepted one."
    "counter-lowered" High
        "an APDU with a lower counter is served"
        "Recorded or delayed commands work later, in another order."
        "Accept only counters above the last accepted one."
    "counter-forgotten" Critical
        "counters of an ended association are accepted again"
        "A recorded association can be replayed whole, after the client has gone."
        "Keep the last accepted counter by key and client, in storage that survives associations and power cuts."
    "server-counter-reset" Critical
        "the meter's own counter begins again with each association"
        "One nonce protects two answers under one key: both can be read, and forged ones made."
        "Count on by key, across associations and power cuts; reserve blocks before use."
    "policy-not-enforced" High
        "requests with less protection than demanded are served"
        "Without a tag a request can be changed on the way; without encryption it can be read."
        "Compare the security control of every APDU with the policy."
    "policy-weak" Medium
        "the security policy leaves out authentication or encryption"
        "What is not encrypted can be read on the way, what has no tag can be changed."
        "Activate the policy `authenticated and encrypted` for requests and responses (security setup, method 1)."
    "title-unchecked" Medium
        "another client title than the one that the keys belong to is accepted"
        "Counters are kept by title: with every new title all recorded counters begin again."
        "Bind each key to the title of its client (security setup, attribute 4) and refuse others."
    "key-published" Critical
        "a key or secret is one of published examples, or a guess"
        "It is in manuals and in the sources of tools: anybody has it."
        "Bring in random keys (security setup, key_transfer or key_agreement)."
    "key-shared" High
        "one key has two purposes"
        "Each purpose leaks what the other relies on."
        "Draw every key for itself."
    "key-shared-clients" Medium
        "another client is opened by the same keys"
        "What one client may, every holder of the key may; rights cannot be told apart."
        "Give each client keys of its own."
    "password-default" Critical
        "a default password opens an association"
        "It is the first thing that anybody tries."
        "Change it, and demand mechanism 5, 6 or 7."
    "attempts-uncounted" Medium
        "failed attempts are not counted"
        "Guessing and forging go on unseen and as fast as the line allows."
        "Count refusals (port protection, class 124), slow down, and raise an alarm."
    "no-security-log" Low
        "no event log is listed"
        "After an attack nobody can say what was done."
        "Keep an event log (0.0.99.98.e.255) with refused attempts and changes of keys and settings."
    "pdu-overlong" Low
        "an APDU above the agreed size is taken"
        "Memory behind an unchecked size is where parsers break."
        "Refuse what is above the agreed size before it is read."
    "malformed-kills" Critical
        "a malformed message takes the meter off the network"
        "One packet by anybody ends metering and control, meter by meter."
        "Check every length against what is there, end the connection, and serve on."
    "image-unsigned" Critical
        "an image without a signature is verified as good"
        "Whoever can transfer an image runs code of his own on the meter."
        "Verify a signature over model, version and contents before status 3, and refuse older versions."
};

/// The row of an id.
pub fn known(id: &str) -> Option<&'static Known> {
    CATALOGUE.iter().find(|known| known.id == id)
}
