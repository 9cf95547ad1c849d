//! Messages on their way.

use gridseal_headend::ConnectionId;
use gridseal_types::{
    Digest,
    service::{
        admission::Admission,
        certificates::{CertificateReply, CertificateRequest},
        keys::{KeyReply, KeyRequest},
    },
};

use super::world::{Actor, Happening, World};

/// Messages that somebody on the way has kept, to send them again.
const KEPT_COUNT_MAX: usize = 48;
/// Most of a usual delay, milliseconds.
const DELAY_USUAL_MS: u64 = 120;
/// Probability of a long delay, in a million.
const LONG_DELAY: u32 = 20_000;

/// What travels.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// A device's message to init server or config server.
    Ask { connection: u64, wire: Vec<u8> },
    /// The answer; `None` is "not yet" or "busy".
    Answer { connection: u64, wire: Option<Vec<u8>> },
    /// The endpoint manager's pull.
    Pull { connection: u64, bytes: Vec<u8> },
    /// Work for it.
    Work { connection: u64, bytes: Vec<u8> },
    /// To the key service.
    KeyCall { call: u64, requests: Vec<KeyRequest> },
    /// Its answers.
    KeyAnswer { call: u64, replies: Vec<KeyReply> },
    /// To the certificate authority.
    CertificateCall { call: u64, request: Box<CertificateRequest> },
    /// Its answer.
    CertificateAnswer { call: u64, reply: Box<CertificateReply> },
    /// The endpoint manager registers a redirect.
    Register { call: u64, wire: Vec<u8> },
    /// The init server's answer.
    Registered { call: u64, wire: Vec<u8> },
    /// To the head-end.
    Admit { call: u64, admission: Admission },
    /// It is recorded.
    AdmitAnswer { call: u64 },
    /// A meter opens its link to the head-end, authenticated by its TLS key.
    Connect { link: ConnectionId, tls_key: Digest },
    /// The link stands.
    LinkUp { link: ConnectionId },
    /// The head-end does not serve this meter.
    LinkRefused { link: ConnectionId },
    /// Bytes of the stream.
    Frame { link: ConnectionId, bytes: Vec<u8> },
    /// The link is gone.
    LinkDown { link: ConnectionId },
}

impl Content {
    const fn name(&self) -> &'static str {
        match self {
            Self::Ask { .. } => "ask",
            Self::Answer { .. } => "answer",
            Self::Pull { .. } => "pull",
            Self::Work { .. } => "work",
            Self::KeyCall { .. } => "key call",
            Self::KeyAnswer { .. } => "key answer",
            Self::CertificateCall { .. } => "certificate call",
            Self::CertificateAnswer { .. } => "certificate answer",
            Self::Register { .. } => "register",
            Self::Registered { .. } => "registered",
            Self::Admit { .. } => "admit",
            Self::AdmitAnswer { .. } => "admitted",
            Self::Connect { .. } => "connect",
            Self::LinkUp { .. } => "link up",
            Self::LinkRefused { .. } => "link refused",
            Self::Frame { .. } => "frame",
            Self::LinkDown { .. } => "link down",
        }
    }

    /// Whether it travels on a stream of bytes: in order, or the link breaks.
    const fn link(&self) -> Option<ConnectionId> {
        match self {
            Self::LinkUp { link } | Self::Frame { link, .. } | Self::LinkDown { link } => Some(*link),
            _ => None,
        }
    }

    /// A repeated request is one that a client sent again; an answer belongs to one request.
    const fn may_double(&self) -> bool {
        !matches!(
            self,
            Self::Pull { .. } | Self::Work { .. } | Self::Connect { .. } | Self::LinkRefused { .. }
        ) && self.link().is_none()
    }
}

/// One message.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub(super) from: Actor,
    pub(super) to: Actor,
    pub(super) content: Content,
}

/// Messages that somebody on the way has kept: from devices, and to them.
#[derive(Debug, Default)]
pub(super) struct Eavesdropper {
    from_devices: Vec<Vec<u8>>,
    to_devices: Vec<Vec<u8>>,
}

impl World {
    /// Sends a message, unless the seed says otherwise.
    pub(super) fn send(&mut self, from: Actor, to: Actor, mut content: Content) {
        self.report.messages += 1;
        let calm = self.calm;
        if !calm {
            self.touch(&mut content);
        }
        if !calm && self.chance.happens(self.profile.loss) {
            self.report.lost += 1;
            self.note(format_args!("lost: {} from {from} to {to}", content.name()));
            if let Some(link) = content.link() {
                self.break_link(link);
            }
            return;
        }
        if let Some(link) = content.link() {
            return self.send_in_order(link, Parcel { from, to, content });
        }
        if !calm && content.may_double() && self.chance.happens(self.profile.double) {
            self.report.duplicated += 1;
            let delay = self.delay();
            self.schedule(delay, Happening::Arrive(Box::new(Parcel { from, to, content: content.clone() })));
        }
        let delay = self.delay();
        self.note(format_args!("{} from {from} to {to}, {delay} ms", content.name()));
        self.schedule(delay, Happening::Arrive(Box::new(Parcel { from, to, content })));
    }

    fn delay(&mut self) -> u64 {
        let most = if !self.calm && self.chance.happens(LONG_DELAY) {
            self.profile.delay_ms
        } else {
            DELAY_USUAL_MS
        };
        1 + self.chance.below(most)
    }

    /// A stream keeps its order: nothing arrives before what was sent before.
    fn send_in_order(&mut self, link: ConnectionId, parcel: Parcel) {
        let arrival = self.now.0 + self.delay();
        let after = self.streams.get(&(link, parcel.from)).copied().unwrap_or(0);
        let arrival = arrival.max(after + 1);
        self.streams.insert((link, parcel.from), arrival);
        self.schedule(arrival - self.now.0, Happening::Arrive(Box::new(parcel)));
    }

    /// Both ends of a link come to know that it is gone.
    pub(super) fn break_link(&mut self, link: ConnectionId) {
        let Some(meter) = self.links.remove(&link) else { return };
        for (from, to) in [(Actor::HeadEnd, Actor::Meter(meter)), (Actor::Meter(meter), Actor::HeadEnd)] {
            self.send_in_order(link, Parcel { from, to, content: Content::LinkDown { link } });
        }
    }

    /// Somebody between device and owner reads, keeps and forges: init server and config server see everything.
    fn touch(&mut self, content: &mut Content) {
        let (wire, kept) = match content {
            Content::Ask { wire, .. } => (wire, &mut self.eavesdropper.from_devices),
            Content::Answer { wire: Some(wire), .. } => (wire, &mut self.eavesdropper.to_devices),
            _ => return,
        };
        if kept.len() < KEPT_COUNT_MAX {
            kept.push(wire.clone());
        } else if let Some(slot) = kept.get_mut(self.chance.below(KEPT_COUNT_MAX as u64) as usize) {
            slot.clone_from(wire);
        }
        if !self.chance.happens(self.profile.forge) {
            return;
        }
        self.report.forged += 1;
        let how = self.chance.below(4);
        // Lengths differ from run to run where a signature is in DER: a part of the length does not.
        let at = (self.chance.below(1 << 16) as usize * wire.len()) >> 16;
        match how {
            0 => wire.truncate(at),
            1 => {
                let bit = self.chance.below(8);
                if let Some(byte) = wire.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            _ => {
                let old = usize::try_from(self.chance.below(kept.len() as u64)).unwrap_or(0);
                if let Some(old) = kept.get(old) {
                    wire.clone_from(old);
                }
            }
        }
        self.note(format_args!("forged: {}", ["cut", "a bit", "an older one", "an older one"][how as usize]));
    }
}
