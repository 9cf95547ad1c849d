use super::*;
use alloc::vec;

fn settings(role: LinkRole, information: u16, window: u8) -> LinkSettings {
    LinkSettings {
        role,
        client: ClientAddress::new(0x10).unwrap(),
        server: ServerAddress::new(1, Some(17)).unwrap(),
        parameters: Parameters {
            information_transmit: information,
            information_receive: information,
            window_transmit: window,
            window_receive: window,
        },
        apdu_size_max: 4_096,
        answer_timeout: Duration::from_secs(2),
        retry_count_max: 3,
        inactivity_timeout: Duration::from_secs(120),
    }
}

/// When a line says a frame once more.
#[derive(Clone, Copy)]
enum Repeats {
    AtOnce,
    Late,
}

/// Two links and a line that loses the frames whose running number is in `lost`.
struct Line {
    client: Link,
    server: Link,
    now: Tick,
    frames: usize,
    lost: Vec<usize>,
    /// Whether the line says everything of the server twice: at once, or once more with the next frame.
    repeats: Option<Repeats>,
    before: Vec<u8>,
    at_client: Vec<LinkEvent>,
    at_server: Vec<LinkEvent>,
}

impl Line {
    fn new(information: u16, window: u8, lost: &[usize]) -> Self {
        Self {
            client: Link::new(settings(LinkRole::Client, information, window)),
            server: Link::new(settings(LinkRole::Server, information, window)),
            now: Tick(0),
            frames: 0,
            lost: lost.to_vec(),
            repeats: None,
            before: vec![],
            at_client: vec![],
            at_server: vec![],
        }
    }

    /// Carries frames until nothing moves; the server answers each APDU with `answer`.
    fn run(&mut self, answer: &[u8]) {
        for _ in 0..1_000 {
            let mut moved = false;
            while let Some(output) = self.client.poll() {
                moved = true;
                match output {
                    Output::Transmit(octets) if !self.is_lost() => {
                        self.server.handle(self.now, Input::Received(&octets)).unwrap();
                    }
                    Output::Transmit(_) => {}
                    Output::Event(event) => self.at_client.push(event),
                }
            }
            while let Some(output) = self.server.poll() {
                moved = true;
                match output {
                    Output::Transmit(octets) if !self.is_lost() => {
                        let again = match self.repeats {
                            None => vec![],
                            Some(Repeats::AtOnce) => octets.clone(),
                            Some(Repeats::Late) => core::mem::replace(&mut self.before, octets.clone()),
                        };
                        for octets in [&octets, &again] {
                            self.client.handle(self.now, Input::Received(octets)).unwrap();
                        }
                    }
                    Output::Transmit(_) => {}
                    Output::Event(event) => {
                        if let LinkEvent::Apdu(_) = event {
                            self.server.handle(self.now, Input::Send(answer)).unwrap();
                        }
                        self.at_server.push(event);
                    }
                }
            }
            if !moved {
                let Some(deadline) = self.client.deadline() else { return };
                self.now = deadline;
                self.client.handle(self.now, Input::Timeout).unwrap();
            }
        }
        panic!("does not come to rest");
    }

    fn is_lost(&mut self) -> bool {
        self.frames += 1;
        self.lost.contains(&self.frames)
    }
}

fn exchange(information: u16, window: u8, lost: &[usize]) -> Line {
    let mut line = Line::new(information, window, lost);
    line.client.handle(line.now, Input::Connect).unwrap();
    line.run(&[]);
    let request: Vec<u8> = (0..500u16).map(|n| (n % 251) as u8).collect();
    let answer: Vec<u8> = (0..1_500u16).map(|n| (n % 241) as u8).collect();
    line.client.handle(line.now, Input::Send(&request)).unwrap();
    line.run(&answer);
    assert!(line.at_server.contains(&LinkEvent::Apdu(request)), "lost {lost:?}");
    assert!(line.at_client.contains(&LinkEvent::Apdu(answer)), "lost {lost:?}");
    line
}

#[test]
fn a_frame_that_comes_twice_changes_nothing() {
    for repeats in [Repeats::AtOnce, Repeats::Late] {
        for (information, window) in [(128, 1), (128, 3), (1_024, 1)] {
            let mut line = Line { repeats: Some(repeats), ..Line::new(information, window, &[]) };
            line.client.handle(line.now, Input::Connect).unwrap();
            line.run(&[]);
            for n in 0..20 {
                let answer = [n; 300];
                line.client.handle(line.now, Input::Send(&[n; 200])).unwrap();
                line.run(&answer);
                assert_eq!(line.at_client.pop(), Some(LinkEvent::Apdu(answer.to_vec())), "{n}");
                assert_eq!(line.at_server.pop(), Some(LinkEvent::Apdu(vec![n; 200])), "{n}");
            }
            line.client.handle(line.now, Input::Disconnect).unwrap();
            line.run(&[]);
            assert_eq!(line.at_client.pop(), Some(LinkEvent::Disconnected));
        }
    }
}

//= DLMS 1.1: a frame out of sequence, beyond the window or too long is not taken
#[test]
fn long_apdus_cross_in_segments_and_windows_whatever_single_frame_is_lost() {
    for (information, window) in [(128, 1), (128, 7), (64, 3), (1_024, 2)] {
        exchange(information, window, &[]);
        for lost in 1..30 {
            exchange(information, window, &[lost, lost + 5]);
        }
    }
}

#[test]
fn each_apdu_is_delivered_once() {
    for lost in 1..20 {
        let line = exchange(128, 3, &[lost]);
        let count = line.at_server.iter().filter(|event| matches!(event, LinkEvent::Apdu(_))).count();
        assert_eq!(count, 1, "lost {lost}");
    }
}

#[test]
fn a_silent_server_ends_the_link_after_the_retries() {
    let mut line = Line::new(128, 1, &(1..100).collect::<Vec<_>>());
    line.client.handle(line.now, Input::Connect).unwrap();
    line.run(&[]);
    assert_eq!(line.at_client, [LinkEvent::Failed(LinkError::Silent)]);
}

#[test]
fn frames_beyond_the_window_or_the_size_are_not_taken() {
    let mut server = Link::new(settings(LinkRole::Server, 128, 2));
    let link = Link::new(settings(LinkRole::Client, 128, 7));
    let snrm = link.frame(Control::Snrm, false, vec![]).to_bytes().unwrap();
    server.handle(Tick(0), Input::Received(&snrm)).unwrap();
    let information = |send, size| {
        let control = Control::Information { receive: 0, send, poll: false };
        link.frame(control, true, vec![0xE6; size]).to_bytes().unwrap()
    };
    server.handle(Tick(0), Input::Received(&information(0, 129))).unwrap();
    assert_eq!(server.receive, 0, "larger than negotiated");
    // Without parameters in the SNRM the window is one frame.
    for send in 0..5 {
        server.handle(Tick(0), Input::Received(&information(send, 100))).unwrap();
    }
    assert_eq!((server.receive, server.partial.len()), (1, 100));
}

#[test]
fn an_apdu_without_end_is_cut_off_and_memory_is_bounded() {
    let mut server = Link::new(settings(LinkRole::Server, 128, 1));
    let link = Link::new(settings(LinkRole::Client, 128, 1));
    let snrm = link.frame(Control::Snrm, false, vec![]).to_bytes().unwrap();
    server.handle(Tick(0), Input::Received(&snrm)).unwrap();
    let mut failed = false;
    for number in 0..100u8 {
        let control = Control::Information { receive: 0, send: number & 7, poll: true };
        let frame = link.frame(control, true, vec![0xE6; 128]).to_bytes().unwrap();
        server.handle(Tick(0), Input::Received(&frame)).unwrap();
        assert!(server.partial.len() <= 4_096 + 3);
        while let Some(output) = server.poll() {
            failed |= output == Output::Event(LinkEvent::Failed(LinkError::ApduTooLong { limit: 4_096 }));
        }
    }
    assert!(failed);
}

//= DLMS 12.14: a server takes the next client on the line after the first
#[test]
fn another_client_gets_no_answer_but_disconnected_until_it_opens_the_link() {
    let mut server = Link::new(settings(LinkRole::Server, 128, 1));
    let first = Link::new(settings(LinkRole::Client, 128, 1));
    let mut other = Link::new(settings(LinkRole::Client, 128, 1));
    other.client = ClientAddress::new(0x20).unwrap();
    let snrm = first.frame(Control::Snrm, false, vec![]).to_bytes().unwrap();
    server.handle(Tick(0), Input::Received(&snrm)).unwrap();
    while server.poll().is_some() {}
    let control = Control::Information { receive: 0, send: 0, poll: true };
    let frame = other.frame(control, false, [&LLC_COMMAND[..], &[0xC0]].concat()).to_bytes().unwrap();
    server.handle(Tick(0), Input::Received(&frame)).unwrap();
    let Some(Output::Transmit(answer)) = server.poll() else { panic!() };
    let answer = Frame::from_bytes(&answer[1..answer.len() - 1]).unwrap();
    assert_eq!((answer.control, answer.destination.client()), (Control::Disconnected, Some(other.client)));
    assert_eq!(server.client, first.client, "the link of the first client is untouched");
    let snrm = other.frame(Control::Snrm, false, vec![]).to_bytes().unwrap();
    server.handle(Tick(0), Input::Received(&snrm)).unwrap();
    assert_eq!(server.client, other.client);
}
