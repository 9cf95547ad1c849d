//! An HDLC link in normal response mode, either side: opening, windows, segments, repetition.

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use gridseal_types::{Kind, Tick};

use super::{Address, ClientAddress, Control, Frame, HdlcDecoder, Parameters, ServerAddress};

/// LLC before a command.
const LLC_COMMAND: [u8; 3] = [0xE6, 0xE6, 0x00];
/// LLC before a response.
const LLC_RESPONSE: [u8; 3] = [0xE6, 0xE7, 0x00];

/// Which side of the link. Closed: normal response mode has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkRole {
    /// The primary station: speaks first, gives the turn.
    Client,
    /// The secondary station: speaks when asked.
    Server,
}

/// Fixed properties of one side.
#[derive(Debug, Clone, Copy)]
pub struct LinkSettings {
    /// Side.
    pub role: LinkRole,
    /// The client; a server takes the one that opens the link.
    pub client: ClientAddress,
    /// The server.
    pub server: ServerAddress,
    /// What this side proposes.
    pub parameters: Parameters,
    /// Largest APDU that is put together, bytes.
    pub apdu_size_max: usize,
    /// How long a client waits for an answer before it asks again.
    pub answer_timeout: Duration,
    /// How often it asks again.
    pub retry_count_max: u8,
    /// How long a server keeps a silent link.
    pub inactivity_timeout: Duration,
}

/// What happens to a link.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// The client opens the link.
    Connect,
    /// Octets from the line.
    Received(&'a [u8]),
    /// An APDU is to be sent: a client when it has its turn, a server at once or when the client next asks. One at a
    /// time.
    Send(&'a [u8]),
    /// The client closes the link.
    Disconnect,
    /// The deadline has passed.
    Timeout,
}

/// What the caller must do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Send these octets.
    Transmit(Vec<u8>),
    /// Something was found out.
    Event(LinkEvent),
}

/// What a link found out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEvent {
    /// The link is open, with this client and these sizes.
    Connected(ClientAddress, Parameters),
    /// A whole APDU.
    Apdu(Vec<u8>),
    /// An APDU in an unnumbered frame: a broadcast, never answered.
    Unnumbered(Vec<u8>),
    /// The link is closed, as agreed.
    Disconnected,
    /// The link is closed: the peer was silent, refused, or sent more than it may.
    Failed(LinkError),
}

/// A link was not used as it can be, or its peer did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The link is in a state that does not allow it.
    #[error("link does not allow this now")]
    State,
    /// The last APDU is not yet sent.
    #[error("the last apdu is still on its way")]
    Busy,
    /// The peer was silent for too long.
    #[error("peer does not answer")]
    Silent,
    /// The peer refused.
    #[error("peer refused the frame")]
    Refused,
    /// The peer sent more than was negotiated.
    #[error("apdu is larger than {limit} bytes")]
    ApduTooLong {
        /// Limit, bytes.
        limit: usize,
    },
    /// An APDU without the octets that must precede it.
    #[error("apdu has no valid llc header")]
    LlcHeader,
}

impl LinkError {
    /// Who has to act.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::State | Self::Busy => Kind::Local,
            Self::Silent => Kind::Transient,
            Self::Refused | Self::ApduTooLong { .. } | Self::LlcHeader => Kind::Peer,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Disconnected,
    Connecting,
    Connected,
    Disconnecting,
}

/// One side of a link. Feed inputs, then [`Link::poll`] until `None`; at [`Link::deadline`] give [`Input::Timeout`].
#[derive(Debug)]
pub struct Link {
    settings: LinkSettings,
    parameters: Parameters,
    client: ClientAddress,
    /// How the peer addressed the server: answers repeat it.
    server: Address,
    state: State,
    decoder: HdlcDecoder,
    outputs: VecDeque<Output>,
    /// Segments not yet acknowledged; the first has number `base`.
    unsent: VecDeque<(bool, Vec<u8>)>,
    base: u8,
    receive: u8,
    /// Frames accepted since this side last spoke.
    burst: u8,
    partial: Vec<u8>,
    has_turn: bool,
    deadline: Option<Tick>,
    retries: u8,
}

impl Link {
    /// A closed link.
    #[must_use]
    pub fn new(settings: LinkSettings) -> Self {
        Self {
            settings,
            parameters: Parameters::default(),
            client: settings.client,
            server: settings.server.into(),
            state: State::Disconnected,
            decoder: HdlcDecoder::new(),
            outputs: VecDeque::new(),
            unsent: VecDeque::new(),
            base: 0,
            receive: 0,
            burst: 0,
            partial: Vec::new(),
            has_turn: settings.role == LinkRole::Client,
            deadline: None,
            retries: 0,
        }
    }

    /// Feeds one input. `now` never goes backwards.
    ///
    /// # Errors
    /// [`LinkError::State`] and [`LinkError::Busy`] for an input of the caller that the state does not allow; nothing
    /// changes. Faults of the peer are [`LinkEvent::Failed`] or no event at all.
    pub fn handle(&mut self, now: Tick, input: Input<'_>) -> Result<(), LinkError> {
        match input {
            Input::Received(octets) => {
                self.decoder.push(octets);
                while let Some(frame) = self.decoder.poll() {
                    self.received(now, frame);
                }
                Ok(())
            }
            Input::Connect if self.is_client() && self.state == State::Disconnected => {
                self.state = State::Connecting;
                self.send_control(Control::Snrm, self.settings.parameters.to_bytes());
                self.expect_answer(now);
                Ok(())
            }
            Input::Disconnect if self.is_client() && self.state == State::Connected => {
                self.state = State::Disconnecting;
                self.send_control(Control::Disconnect, Vec::new());
                self.expect_answer(now);
                Ok(())
            }
            Input::Connect | Input::Disconnect => Err(LinkError::State),
            Input::Send(apdu) => self.send(now, apdu),
            Input::Timeout => {
                if self.deadline.is_some_and(|deadline| deadline <= now) {
                    self.timed_out(now);
                }
                Ok(())
            }
        }
    }

    /// The next output.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to give [`Input::Timeout`].
    #[must_use]
    pub const fn deadline(&self) -> Option<Tick> {
        self.deadline
    }

    /// Whether APDUs can be sent.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    fn is_client(&self) -> bool {
        self.settings.role == LinkRole::Client
    }

    fn expect_answer(&mut self, now: Tick) {
        self.retries = 0;
        self.has_turn = false;
        self.deadline = Some(now.after(self.settings.answer_timeout));
    }

    fn frame(&self, control: Control, segmented: bool, information: Vec<u8>) -> Frame {
        let client = Address::from(self.client);
        let (destination, source) =
            if self.is_client() { (self.server, client) } else { (client, self.server) };
        Frame { segmented, destination, source, control, information }
    }

    fn transmit(&mut self, frame: &Frame) {
        // Segments are cut to fit, so that there is always a frame.
        if let Some(octets) = frame.to_bytes() {
            self.outputs.push_back(Output::Transmit(octets));
        }
    }

    fn send_control(&mut self, control: Control, information: Vec<u8>) {
        let frame = self.frame(control, false, information);
        self.transmit(&frame);
    }

    fn event(&mut self, event: LinkEvent) {
        self.outputs.push_back(Output::Event(event));
    }

    fn reset(&mut self, state: State) {
        self.state = state;
        self.unsent.clear();
        self.partial = Vec::new();
        (self.base, self.receive, self.burst, self.retries) = (0, 0, 0, 0);
        self.has_turn = self.is_client();
        self.deadline = None;
    }

    fn fail(&mut self, error: LinkError) {
        self.reset(State::Disconnected);
        self.event(LinkEvent::Failed(error));
    }

    fn send(&mut self, now: Tick, apdu: &[u8]) -> Result<(), LinkError> {
        if self.state != State::Connected {
            return Err(LinkError::State);
        }
        if !self.unsent.is_empty() || (self.is_client() && !self.has_turn) {
            return Err(LinkError::Busy);
        }
        let llc = if self.is_client() { LLC_COMMAND } else { LLC_RESPONSE };
        let content = [&llc[..], apdu].concat();
        let size = usize::from(self.parameters.information_transmit).max(1);
        let mut pieces = content.chunks(size).peekable();
        while let Some(piece) = pieces.next() {
            self.unsent.push_back((pieces.peek().is_some(), piece.to_vec()));
        }
        if self.has_turn {
            self.send_window(now);
        }
        Ok(())
    }

    /// Sends as many segments as the window allows, from the first that is not acknowledged, and gives the turn.
    fn send_window(&mut self, now: Tick) {
        let count = usize::from(self.parameters.window_transmit).min(self.unsent.len());
        let segments: Vec<_> = self.unsent.iter().take(count).cloned().collect();
        let last = segments.len().saturating_sub(1);
        for (index, (segmented, information)) in segments.into_iter().enumerate() {
            let offset = u8::try_from(index).unwrap_or_default();
            let control = Control::Information {
                receive: self.receive,
                send: self.base.wrapping_add(offset) & 7,
                poll: index == last,
            };
            let frame = self.frame(control, segmented, information);
            self.transmit(&frame);
        }
        self.spoke(now);
    }

    fn send_ready(&mut self, now: Tick) {
        self.send_control(Control::ReceiveReady { receive: self.receive, poll: true }, Vec::new());
        self.spoke(now);
    }

    fn spoke(&mut self, now: Tick) {
        self.burst = 0;
        self.has_turn = false;
        let wait =
            if self.is_client() { self.settings.answer_timeout } else { self.settings.inactivity_timeout };
        self.deadline = Some(now.after(wait));
    }

    fn received(&mut self, now: Tick, frame: Frame) {
        let (ours, theirs) = if self.is_client() {
            (frame.destination.client() == Some(self.client), frame.source.is_same_device(self.server))
        } else {
            let own = Address::from(self.settings.server);
            let is_from_client = frame.source.client().is_some();
            let is_broadcast = matches!(frame.control, Control::Unnumbered { .. })
                && matches!(frame.destination.server().logical(), 0x7F | 0x3FFF);
            (is_broadcast || frame.destination.is_same_device(own), is_from_client)
        };
        if !ours || !theirs {
            return;
        }
        if let Control::Unnumbered { .. } = frame.control {
            if let Ok(apdu) = self.without_llc(frame.information) {
                self.event(LinkEvent::Unnumbered(apdu));
            }
            return;
        }
        if self.is_client() {
            self.received_by_client(now, frame)
        } else {
            self.received_by_server(now, frame)
        }
    }

    fn received_by_client(&mut self, now: Tick, frame: Frame) {
        match (self.state, frame.control) {
            (State::Connecting, Control::Acknowledge) => {
                let Ok(peer) = Parameters::from_bytes(&frame.information) else {
                    return self.fail(LinkError::Refused);
                };
                self.reset(State::Connected);
                self.parameters = self.settings.parameters.negotiated(peer);
                self.event(LinkEvent::Connected(self.client, self.parameters));
            }
            (State::Disconnecting, Control::Acknowledge | Control::Disconnected) => {
                self.reset(State::Disconnected);
                self.event(LinkEvent::Disconnected);
            }
            (State::Connecting | State::Connected, Control::Disconnected | Control::Reject) => {
                self.fail(LinkError::Refused);
            }
            (State::Connected, _) => self.numbered(now, frame),
            _ => {}
        }
    }

    fn received_by_server(&mut self, now: Tick, frame: Frame) {
        let Some(client) = frame.source.client() else { return };
        if let Control::Snrm = frame.control {
            let Ok(peer) = Parameters::from_bytes(&frame.information) else { return };
            // Whoever opens the link anew has lost it; the line has room for one.
            self.reset(State::Connected);
            (self.client, self.server) = (client, frame.destination);
            self.parameters = self.settings.parameters.negotiated(peer);
            let agreed = self.parameters.to_bytes();
            self.send_control(Control::Acknowledge, agreed);
            self.event(LinkEvent::Connected(client, self.parameters));
            self.deadline = Some(now.after(self.settings.inactivity_timeout));
            return;
        }
        if self.state != State::Connected || client != self.client {
            // An answer to whom asked, without touching the link of another client.
            let answer = Frame {
                segmented: false,
                destination: frame.source,
                source: frame.destination,
                control: Control::Disconnected,
                information: Vec::new(),
            };
            self.transmit(&answer);
            return;
        }
        if let Control::Disconnect = frame.control {
            self.reset(State::Disconnected);
            self.send_control(Control::Acknowledge, Vec::new());
            self.event(LinkEvent::Disconnected);
            return;
        }
        self.deadline = Some(now.after(self.settings.inactivity_timeout));
        self.numbered(now, frame);
    }

    /// I, RR and RNR frames of an open link.
    fn numbered(&mut self, now: Tick, frame: Frame) {
        if self.is_repeated(frame.control) {
            return;
        }
        let mut complete = None;
        let (receive, poll) = match frame.control {
            Control::Information { receive, send, poll } => {
                //= DLMS 1.1: a frame out of sequence, beyond the window or too long is not taken
                let is_expected = send == self.receive
                    && self.burst < self.parameters.window_receive
                    && frame.information.len() <= usize::from(self.parameters.information_receive);
                if is_expected {
                    self.burst = self.burst.saturating_add(1);
                    self.receive = send.wrapping_add(1) & 7;
                    complete = self.assemble(frame.segmented, &frame.information);
                }
                (receive, poll)
            }
            Control::ReceiveReady { receive, poll } | Control::ReceiveNotReady { receive, poll } => {
                (receive, poll)
            }
            _ => return,
        };
        self.acknowledged(receive);
        if poll {
            self.has_turn = true;
            self.burst = 0;
        }
        let is_pending = !self.unsent.is_empty();
        match complete {
            Some(Ok(apdu)) => {
                if self.is_client() {
                    self.deadline = None;
                }
                self.retries = 0;
                self.event(LinkEvent::Apdu(apdu));
            }
            Some(Err(error)) => {
                if !self.is_client() {
                    self.send_control(Control::Reject, Vec::new());
                }
                self.fail(error);
            }
            None if !poll => {}
            None if is_pending => self.send_window(now),
            None if self.is_client() && matches!(frame.control, Control::ReceiveReady { .. }) => {
                // The server has nothing yet: ask again after the timeout, not at once.
                self.has_turn = false;
            }
            None => self.send_ready(now),
        }
    }

    /// Whether a client can tell that a frame comes once more: nobody was asked, or its number is one that was taken and
    /// not yet one of this window. A server that repeats itself for a reason is asked again after the timeout.
    fn is_repeated(&self, control: Control) -> bool {
        let is_old = match control {
            Control::Information { send, .. } => {
                let behind = self.receive.wrapping_sub(send) & 7;
                behind > 0 && behind.saturating_add(self.parameters.window_receive) <= 8
            }
            _ => false,
        };
        self.is_client() && (self.has_turn || is_old)
    }

    /// Drops the segments before number `receive`; a number outside of what was sent changes nothing.
    fn acknowledged(&mut self, receive: u8) {
        let count = receive.wrapping_sub(self.base) & 7;
        let sent = usize::from(self.parameters.window_transmit).min(self.unsent.len());
        if usize::from(count) <= sent {
            self.unsent.drain(..usize::from(count));
            self.base = receive;
            if count > 0 {
                self.retries = 0;
            }
        }
    }

    fn assemble(&mut self, segmented: bool, information: &[u8]) -> Option<Result<Vec<u8>, LinkError>> {
        let limit = self.settings.apdu_size_max;
        if self.partial.len().saturating_add(information.len()) > limit.saturating_add(LLC_COMMAND.len()) {
            return Some(Err(LinkError::ApduTooLong { limit }));
        }
        self.partial.extend_from_slice(information);
        if segmented {
            return None;
        }
        let content = core::mem::take(&mut self.partial);
        Some(self.without_llc(content))
    }

    fn without_llc(&self, content: Vec<u8>) -> Result<Vec<u8>, LinkError> {
        let expected = if self.is_client() { LLC_RESPONSE } else { LLC_COMMAND };
        content.strip_prefix(&expected).map(<[u8]>::to_vec).ok_or(LinkError::LlcHeader)
    }

    fn timed_out(&mut self, now: Tick) {
        if !self.is_client() {
            return self.fail(LinkError::Silent);
        }
        if self.retries >= self.settings.retry_count_max {
            return self.fail(LinkError::Silent);
        }
        let retries = self.retries.saturating_add(1);
        match self.state {
            State::Connecting => self.send_control(Control::Snrm, self.settings.parameters.to_bytes()),
            State::Disconnecting => self.send_control(Control::Disconnect, Vec::new()),
            // Asks what arrived: the answer repeats what was lost, in either direction.
            State::Connected => self.send_ready(now),
            State::Disconnected => return,
        }
        self.retries = retries;
        self.deadline = Some(now.after(self.settings.answer_timeout));
    }
}

#[cfg(test)]
mod tests;
