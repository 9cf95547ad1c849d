//! The device's half of the protocol, as a machine without input or output of its own.
//!
//! It takes [`Input`]s, gives [`Output`]s and names its next [`Device::deadline`]. Operations of the root of trust are
//! effects like any other, so the same machine runs on a TPM, on a software root and in simulation.
//!
//! What must outlive a power cut is in [`DeviceRecord`]. Session secrets are in memory only: who loses them starts a new
//! session with a fresh M, so no (key, nonce) pair of a seal is ever used twice (rule S1).

mod act;
mod check;
mod ending;
mod orders;
mod record;
mod recovery;
mod table;
mod transitions;

pub use ending::OFFER_TIME;
pub use record::{
    Accepted, DeliveredKey, DeviceRecord, Ended, Ending, EndingStage, Installed, Orders, OwnerChain,
    RenewedKeys,
};
pub use transitions::{TRANSITIONS, Transition};

use alloc::{collections::VecDeque, string::String, vec::Vec};
use core::time::Duration;

use gridseal_crypto::{
    Key, PublicKey,
    role::{ActivationSecret, OwnerSecret, SessionSecret},
};
use gridseal_types::{Code, Digest, EkName, Nonce, OrderSeq, Sid, Tick};

use super::{
    init::VerifiedRedirect,
    order::Kind,
    session::{ChallengePayload, Step, Transcript},
    voucher::{VerifiedVoucher, VoucherKey},
};
use crate::root::{Attested, Description, RootError, RootReply, RootRequest};

/// What firmware brings along: the same on all devices of a model, but for the subject.
#[derive(Debug, Clone)]
pub struct Firmware {
    /// Keys of the init servers (K_init).
    pub init_keys: Vec<PublicKey>,
    /// Keys of the manufacturer that sign vouchers.
    pub voucher_keys: Vec<VoucherKey>,
    /// Name for the certificate request: the serial number.
    pub subject: String,
    /// How patient the device is.
    pub pace: Pace,
    /// Connection point as it was read or typed at the device when it was mounted; told to the owner in C1.
    pub place: Option<String>,
}

/// Waiting times: exponential back-off with full jitter between the two ends; a successful step resets it. A device that
/// has no owner yet also waits after power came, a random time up to four times the first ceiling.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// First and shortest ceiling of the back-off.
    pub first: Duration,
    /// Highest ceiling.
    pub most: Duration,
    /// How long an answer may take.
    pub reply: Duration,
}

impl Pace {
    /// In the field: 30 s to 24 h.
    pub const FIELD: Self = Self {
        first: Duration::from_secs(30),
        most: Duration::from_secs(86_400),
        reply: Duration::from_secs(60),
    };

    /// Window in which [`CHALLENGES_MAX`] challenges are answered: 120 times the first ceiling, an hour in the field.
    #[must_use]
    pub const fn challenges(&self) -> Duration {
        self.first.saturating_mul(120)
    }
}

/// After this many failures in a row the session is given up and a new one begins with a fresh M.
pub const FAILURES_MAX: u32 = 3;
/// Most challenges of init servers that are answered in [`Pace::challenges`]: nobody uses a device as an oracle.
pub const CHALLENGES_MAX: usize = 3;
/// Sessions that a device tries when its owner seems to have lost his records, before it goes on as it was.
const SEEK_TRIES: u8 = 6;
/// Most steps of the epoch counter in one session.
const EPOCH_STEPS_MAX: u32 = 32;

/// Who a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The manufacturer's init server.
    InitServer,
    /// The owner's config server that the redirect names.
    ConfigServer,
    /// The owner's head-end, in the TLS session of the LDevID, which relays orders and results unread.
    HeadEnd,
    /// The config server of the owner before: [`Device::former_owner`].
    FormerOwner,
}

/// What the shell must do.
#[expect(clippy::large_enum_variant, reason = "made once, moved once, consumed")]
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Do this with the root and give back [`Input::Root`].
    Root(RootRequest),
    /// Draw this many random bytes and give back [`Input::Random`].
    Random(usize),
    /// Write [`Device::record`] durably, replacing the old one whole, and give back [`Input::Persisted`].
    Persist,
    /// Send to the peer; its answer is [`Input::Received`], one without a body is [`Input::Taken`], none is
    /// [`Input::NoReply`].
    Transmit(Peer, Vec<u8>),
    /// Destroy what the application keeps for this owner (counters, profiles, credit) and give back [`Input::Wiped`].
    Wipe,
    /// Something worth telling.
    Event(Event),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A redirect to the owner was accepted.
    OwnerFound,
    /// The device has made its keys for this owner.
    KeysMade,
    /// A message of the session was sent for the first time.
    Sent(Step),
    /// A message of the session was checked and accepted.
    Accepted(Step),
    /// An answer was refused; nothing changed.
    Refused(Code),
    /// The peer did not answer, or answered with the unauthenticated error.
    Unanswered,
    /// The root failed.
    RootFailed(RootError),
    /// The configuration is installed: the device may go to its terminus. `confirmed` once C8 was seen.
    Operating {
        /// Whether the owner has confirmed.
        confirmed: bool,
    },
    /// An order is on record and is about to be carried out.
    OrderAccepted {
        /// Its number.
        seq: OrderSeq,
        /// Its kind.
        kind: Kind,
    },
    /// The result of an order is on record and is about to be sent.
    OrderAnswered {
        /// Its number.
        seq: OrderSeq,
        /// Its kind.
        kind: Kind,
        /// Why it was not carried out.
        refused: Option<Code>,
    },
    /// An exchange about orders is over.
    OrdersFetched {
        /// Whether the owner has answered.
        reached: bool,
        /// When he wants to be asked again, seconds; 0 where he does not say. Nobody signed it: a hint, to be bounded.
        again_s: u32,
    },
    /// The owner's keys, secrets and configuration are gone; kind 7 or 8.
    OwnershipEnded(Kind),
    /// Nothing is left to do for this device.
    Decommissioned,
    /// A recovery entry was accepted under the button: the owner before is locked out from here on.
    RecoveryAccepted,
    /// The owner before is gone from the root and from the flash; the way to the new one begins.
    Recovered,
}

/// What the shell tells.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'i> {
    /// Power is on.
    Start,
    /// Result of [`Output::Root`].
    Root(Result<RootReply, RootError>),
    /// Result of [`Output::Random`].
    Random(&'i [u8]),
    /// [`Output::Persist`] is durable.
    Persisted,
    /// Answer to the last [`Output::Transmit`].
    Received(&'i [u8]),
    /// No answer: connection refused, time-out, "not yet".
    NoReply,
    /// The deadline has come.
    Timeout,
    /// The counter of the delivered keys is on flash. To be told before its first value is used.
    CounterBegun,
    /// The terminus, authenticated by the CA bundle, accepted the LDevID: as good as C8.
    TerminusAccepted,
    /// The terminus refused a device whose configuration was never confirmed.
    TerminusRefused,
    /// The terminus has refused a confirmed device for long, and the owner did not answer its questions for orders either.
    OwnerLost,
    /// The button was held while power came: boot firmware saw it, and the root was started for a recovery. Taken in every
    /// state; what it allows is one recovery entry, for a few minutes.
    Presence,
    /// Ask the owner for orders: on every connection to the terminus, and every few minutes.
    FetchOrders,
    /// The peer has taken the last [`Output::Transmit`] and answers nothing.
    Taken,
    /// [`Output::Wipe`] is done, durably.
    Wiped,
}

impl Input<'_> {
    /// Name, as [`TRANSITIONS`] has it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Root(Ok(_)) => "root-done",
            Self::Root(Err(_)) => "root-failed",
            Self::Random(_) => "random",
            Self::Persisted => "persisted",
            Self::Received(_) => "received",
            Self::NoReply => "no-reply",
            Self::Timeout => "timeout",
            Self::CounterBegun => "counter-begun",
            Self::TerminusAccepted => "terminus-accepted",
            Self::TerminusRefused => "terminus-refused",
            Self::OwnerLost => "owner-lost",
            Self::Presence => "presence",
            Self::FetchOrders => "fetch-orders",
            Self::Taken => "taken",
            Self::Wiped => "wiped",
        }
    }
}

/// The shell gave an input that the state does not take. The state is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("input does not fit the state")]
pub struct Unexpected;

/// What the device knows of the session it is in.
struct Session {
    redirect: VerifiedRedirect,
    ek_name: EkName,
    suite: u16,
    m: Nonce,
    sid: Sid,
    transcript: Transcript,
    owner_secret: Key<OwnerSecret, 32>,
    challenge: Option<Challenge>,
    secrets: Option<Secrets>,
    /// The message that waits for its answer; repeated byte for byte.
    pending: Vec<u8>,
}

/// What an accepted C2 has fixed.
struct Challenge {
    payload: ChallengePayload,
    config_key: PublicKey,
    pin: crate::root::OwnerPin,
}

/// What the TPM has recovered.
struct Secrets {
    activation: Key<ActivationSecret, 32>,
    session: Key<SessionSecret, 32>,
    attested: Attested2,
}

/// The public part of [`Attested`], kept until C3 is made.
struct Attested2 {
    sessions: [gridseal_types::service::keys::TpmSession; 2],
    statements: Option<([crate::root::Attest; 3], crate::root::Attest, crate::measured::Logs)>,
}

enum State {
    Off,
    Describing,
    /// Random values for I1: M of the init exchange and jitter.
    NamingInit,
    /// I1 was sent, or I1P once the init server had asked for it.
    AwaitingRedirect {
        m: Nonce,
        wire: Vec<u8>,
        is_proof: bool,
    },
    /// The credential of an I1C is being recovered.
    ProvingIdentity {
        m: Nonce,
        n: Nonce,
        wire: Vec<u8>,
        challenge: Vec<u8>,
    },
    StoringRedirect,
    MakingKeys,
    StoringKeys,
    DerivingSecret,
    NamingHello(alloc::boxed::Box<Key<OwnerSecret, 32>>),
    AwaitingChallenge(alloc::boxed::Box<Session>),
    Pinning(alloc::boxed::Box<Session>),
    Raising(alloc::boxed::Box<Session>),
    Attesting(alloc::boxed::Box<Session>),
    SigningRequest {
        session: alloc::boxed::Box<Session>,
        to_be_signed: Vec<u8>,
    },
    AwaitingCommands(alloc::boxed::Box<Session>),
    Executing(alloc::boxed::Box<Session>),
    AwaitingConfiguration(alloc::boxed::Box<Session>),
    Importing {
        session: alloc::boxed::Box<Session>,
        installed: alloc::boxed::Box<Installed>,
        wire: Vec<u8>,
    },
    Installing {
        session: alloc::boxed::Box<Session>,
        names: Vec<EkName>,
    },
    AwaitingDone(alloc::boxed::Box<Session>),
    Confirming,
    Operating,
    /// An exchange about orders.
    Ordering(orders::Ordering),
    /// A stage of an ending is being stored.
    StoringEnding,
    /// The steps after the owner was told that the TPM is cleared.
    Finishing(ending::Finishing),
    /// The last result was sent to the owner before.
    Offering,
    /// It has arrived, which is being stored.
    StoringEnd,
    Decommissioned,
    /// A recovery up to this epoch.
    Recovering(gridseal_types::Epoch, recovery::Recovering),
    /// A session was given up: its TPM sessions are closed before the wait.
    Flushing,
    /// Random value for a wait, whose ceiling is the first one doubled so often.
    Jittering {
        then: alloc::boxed::Box<State>,
        doublings: u32,
    },
    Waiting {
        until: Tick,
        then: alloc::boxed::Box<State>,
    },
}

/// The machine. One mutation, then drain [`Device::poll`] until `None`.
pub struct Device {
    firmware: Firmware,
    record: DeviceRecord,
    state: State,
    description: Option<Description>,
    /// The redirect of the record, once its signatures were checked since power came.
    verified: Option<VerifiedRedirect>,
    failures: u32,
    /// When the last challenges of init servers were answered: at most [`CHALLENGES_MAX`] in [`Pace::challenges`].
    challenged: VecDeque<Tick>,
    /// The owner's chain, once its signatures were checked since power came.
    chain: Option<VerifiedVoucher>,
    /// Handles of the TPM sessions that the last order of kind 3 has opened.
    sessions: Vec<u32>,
    /// When the owner wants to be asked again, seconds.
    again_s: u32,
    /// The result of the last order has arrived, as far as is known since power came.
    is_told: bool,
    /// In this exchange nobody has taken that result: the question follows all the same.
    is_passed_over: bool,
    /// Questions in a row that nobody answered, while ownership ends.
    unheard: u32,
    /// Questions since the last order, while ownership ends.
    idle: u32,
    /// The last result was offered to the owner before in this attempt.
    is_offered: bool,
    /// When power came.
    powered: Tick,
    /// A new session is to replace a configuration that the owner never confirmed.
    is_renewing: bool,
    /// Sessions that are still tried to find an owner who has lost his records.
    seek_tries: Option<u8>,
    /// When the button was held.
    present_at: Option<Tick>,
    reply_due: Option<Tick>,
    outputs: VecDeque<Output>,
}

impl core::fmt::Debug for Device {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Device({}, {})", self.firmware.subject, self.state.name())
    }
}

impl Device {
    /// A device with what its flash holds.
    #[must_use]
    pub const fn new(firmware: Firmware, record: DeviceRecord) -> Self {
        Self {
            firmware,
            record,
            state: State::Off,
            description: None,
            verified: None,
            failures: 0,
            challenged: VecDeque::new(),
            chain: None,
            sessions: Vec::new(),
            again_s: 0,
            is_told: false,
            is_passed_over: false,
            unheard: 0,
            idle: 0,
            is_offered: false,
            powered: Tick(0),
            is_renewing: false,
            seek_tries: None,
            present_at: None,
            reply_due: None,
            outputs: VecDeque::new(),
        }
    }

    /// What must be on flash.
    #[must_use]
    pub const fn record(&self) -> &DeviceRecord {
        &self.record
    }

    /// Addresses and pins of the owner's config servers, once a redirect was accepted.
    #[must_use]
    pub fn config_servers(&self) -> Option<(Vec<String>, Vec<Digest>)> {
        if let Some(verified) = &self.verified {
            return Some((verified.redirect.urls.clone(), verified.redirect.pins.clone()));
        }
        let owner = self.record.orders.owner.as_ref()?;
        Some((owner.urls.clone(), owner.pins.clone()))
    }

    /// Addresses and pins of the config servers of the owner before, while it is still to be told of the end.
    #[must_use]
    pub fn former_owner(&self) -> Option<(Vec<String>, Vec<Digest>)> {
        let ended = self.record.ended.as_ref()?;
        Some((ended.urls.clone(), ended.pins.clone()))
    }

    /// Whether the device may go to its terminus, and takes [`Input::FetchOrders`].
    #[must_use]
    pub const fn is_operating(&self) -> bool {
        matches!(self.state, State::Operating)
    }

    /// Whether the device works for its owner: not suspended, and no end of the ownership is ordered.
    #[must_use]
    pub const fn is_at_work(&self) -> bool {
        self.record.installed.is_some()
            && !self.record.orders.is_suspended
            && self.record.orders.ending.is_none()
    }

    /// Next output. Drain after every [`Device::handle`].
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to give [`Input::Timeout`] if nothing else happens.
    #[must_use]
    pub const fn deadline(&self) -> Option<Tick> {
        match self.state {
            State::Waiting { until, .. } => Some(until),
            _ => self.reply_due,
        }
    }

    /// Name of the state, for logs.
    #[must_use]
    pub const fn state_name(&self) -> &'static str {
        self.state.name()
    }

    /// Checks the redirect that the flash holds; what was checked since power came is not checked again. It may be older
    /// than what the root has seen: a flash that was put back, or an owner who has a new key since.
    fn verify_stored_redirect(&mut self) -> bool {
        if self.verified.is_none() {
            let signed = self.record.redirect.as_ref();
            self.verified = signed.and_then(|signed| signed.verify(&self.firmware.voucher_keys).ok());
        }
        let is_current = |verified: &VerifiedRedirect, description: &Description| {
            verified.voucher.epoch >= description.epoch
                && verified.voucher.recovered().is_none_or(|recovered| recovered <= description.epoch)
                && description.pin.is_none_or(|pin| verified.voucher.contains(&pin).is_ok())
        };
        let is_current = match (&self.verified, &self.description) {
            (Some(verified), Some(description)) => is_current(verified, description),
            _ => false,
        };
        if !is_current {
            self.verified = None;
        }
        is_current
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn root(&mut self, request: RootRequest) {
        self.outputs.push_back(Output::Root(request));
    }

    fn transmit(&mut self, now: Tick, peer: Peer, wire: Vec<u8>) {
        self.reply_due = Some(now + self.firmware.pace.reply);
        self.outputs.push_back(Output::Transmit(peer, wire));
    }
}

impl State {
    const fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Describing => "describing",
            Self::NamingInit => "naming-init",
            Self::AwaitingRedirect { .. } => "awaiting-redirect",
            Self::ProvingIdentity { .. } => "proving-identity",
            Self::StoringRedirect => "storing-redirect",
            Self::MakingKeys => "making-keys",
            Self::StoringKeys => "storing-keys",
            Self::DerivingSecret => "deriving-secret",
            Self::NamingHello(_) => "naming-hello",
            Self::AwaitingChallenge(_) => "awaiting-challenge",
            Self::Pinning(_) => "pinning",
            Self::Raising(_) => "raising-epoch",
            Self::Attesting(_) => "attesting",
            Self::SigningRequest { .. } => "signing-request",
            Self::AwaitingCommands(_) => "awaiting-commands",
            Self::Executing(_) => "executing",
            Self::AwaitingConfiguration(_) => "awaiting-configuration",
            Self::Importing { .. } => "importing",
            Self::Installing { .. } => "installing",
            Self::AwaitingDone(_) => "awaiting-done",
            Self::Confirming => "confirming",
            Self::Operating => "operating",
            Self::Ordering(ordering) => ordering.name(),
            Self::StoringEnding => "storing-ending",
            Self::Finishing(finishing) => finishing.name(),
            Self::Offering => "offering-last-result",
            Self::StoringEnd => "storing-last-word",
            Self::Decommissioned => "decommissioned",
            Self::Recovering(_, step) => step.name(),
            Self::Flushing => "flushing",
            Self::Jittering { .. } => "jittering",
            Self::Waiting { .. } => "waiting",
        }
    }
}

/// Splits the answer of the root into what is kept and what goes into C3.
fn keep(attested: Attested) -> (Key<ActivationSecret, 32>, Attested2) {
    let Attested { activation, sessions, certify, quote, logs } = attested;
    (activation, Attested2 { sessions, statements: Some((certify, quote, logs)) })
}
