//! Losses, repeats and late answers on the way of a key change.

use core::time::Duration;

use gridseal_types::{
    N16, SystemTitle, Tick, UtcTime,
    service::keys::{ChangeOutcome, ChangePhase, ChangeReply, ChangeStatus, KeyKind, Probe, Sealed},
};

use super::{CHANGES_MAX, Input, KeyChanges, Output, Pace, Question};
use crate::ConnectionId;

const CHANGE: N16 = N16([9; 16]);
const FIRST: ConnectionId = ConnectionId(1);

fn title(number: u16) -> SystemTitle {
    let [high, low] = number.to_be_bytes();
    SystemTitle([b'G', b'S', b'L', 0, 0, 0, high, low])
}

fn pace() -> Pace {
    Pace::of_interval(900)
}

fn sealed(byte: u8) -> Sealed {
    Sealed { apdu: vec![byte; 9], version: 1, counter: 0 }
}

fn reply(phase: ChangePhase, transfer: Option<u8>) -> Option<ChangeReply> {
    let status = ChangeStatus {
        change: CHANGE,
        items: vec![KeyKind::Guek],
        phase,
        attempts: 1,
        begun_at: UtcTime(0),
        changed_at: UtcTime(0),
    };
    Some(ChangeReply { status, transfer: transfer.map(sealed) })
}

struct Machine(KeyChanges, Tick);

impl Machine {
    /// With the first meter linked and its change pending.
    fn new() -> Self {
        let mut machine = Self(KeyChanges::new(pace(), Tick(0)), Tick(0));
        machine.feed(Input::Connected { connection: FIRST, meter: title(1) });
        machine
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        self.0.handle(self.1, input);
        let outputs = core::iter::from_fn(|| self.0.poll());
        outputs.filter(|output| !matches!(output, Output::Phase { .. } | Output::Poll { .. })).collect()
    }

    fn pass(&mut self, time: Duration) -> Vec<Output> {
        self.1 = self.1 + time;
        self.feed(Input::Timeout)
    }

    fn pending(&mut self, meters: Vec<SystemTitle>) -> Vec<Output> {
        self.feed(Input::Pending { after: None, answer: Some((meters, true)) })
    }

    fn change(&mut self, reply: Option<ChangeReply>) -> Vec<Output> {
        self.feed(Input::Change { meter: title(1), reply })
    }

    /// Up to the transfer.
    fn sent() -> Self {
        let mut machine = Self::new();
        assert_eq!(machine.pending(vec![title(1)]), [ask(Question::Continue)]);
        assert_eq!(machine.change(reply(ChangePhase::Sent, Some(7))), [transmit(FIRST, 7)]);
        machine
    }
}

fn ask(question: Question) -> Output {
    Output::Ask { meter: title(1), question }
}

fn report(outcome: ChangeOutcome) -> Output {
    ask(Question::Report { change: CHANGE, outcome })
}

fn transmit(connection: ConnectionId, byte: u8) -> Output {
    let mut frame = vec![0, 1, 0, 1, 0, 1, 0, 9];
    frame.extend([byte; 9]);
    Output::Transmit { connection, frame }
}

#[test]
fn a_transfer_is_carried_its_answer_reported_and_the_proof_waited_for() {
    let mut machine = Machine::sent();
    let answer = Input::Response { connection: FIRST, apdu: vec![1], is_action: true };
    assert_eq!(machine.feed(answer), [report(ChangeOutcome::Reply { apdu: vec![1] })]);
    assert_eq!(machine.change(reply(ChangePhase::Sent, None)), []);
    assert_eq!(machine.pass(pace().answer), [], "a push under the new keys takes its time");
    assert_eq!(machine.pending(vec![]), [Output::Resolved { meter: title(1) }]);
    assert_eq!(machine.pass(pace().proof * 2), []);
    // A master key: the proof's transfer comes with the answer to the report.
    let mut machine = Machine::sent();
    machine.feed(Input::Response { connection: FIRST, apdu: vec![1], is_action: true });
    assert_eq!(machine.change(reply(ChangePhase::Sent, Some(8))), [transmit(FIRST, 8)]);
}

#[test]
fn without_an_answer_the_meter_is_probed_and_the_transfer_sent_again_only_when_the_key_service_says_so() {
    let mut machine = Machine::sent();
    assert_eq!(machine.pass(pace().answer), [report(ChangeOutcome::NoReply)]);
    assert_eq!(machine.change(reply(ChangePhase::Unknown, None)), [ask(Question::Probe)]);
    let probe = |candidate, byte| Probe { candidate, gak_version: 1, sealed: sealed(byte) };
    let probes = Input::Probes { meter: title(1), probes: vec![probe(0, 3), probe(1, 4)] };
    assert_eq!(machine.feed(probes), [transmit(FIRST, 3), transmit(FIRST, 4)]);
    // The late answer to the transfer is no answer to a probe.
    let late = Input::Response { connection: FIRST, apdu: vec![1], is_action: true };
    assert_eq!(machine.feed(late), []);
    let answer = Input::Response { connection: FIRST, apdu: vec![2], is_action: false };
    assert_eq!(machine.feed(answer), [ask(Question::Continue)]);
    assert_eq!(machine.change(reply(ChangePhase::Sent, Some(7))), [transmit(FIRST, 7)]);
    // Probes that are denied, or unanswered: later again.
    machine.pass(pace().answer);
    machine.change(reply(ChangePhase::Unknown, None));
    assert_eq!(machine.feed(Input::Probes { meter: title(1), probes: vec![] }), []);
    assert_eq!(machine.pass(pace().rest), [ask(Question::Continue)]);
    assert_eq!(machine.change(None), [], "denied, or the key service is away");
    assert_eq!(machine.pass(pace().rest), [ask(Question::Continue)]);
}

#[test]
fn a_link_that_breaks_takes_nothing_with_it_and_answers_for_the_one_before_are_dropped() {
    let mut machine = Machine::sent();
    machine.feed(Input::Disconnected { connection: FIRST });
    assert_eq!(machine.pass(pace().proof * 2), []);
    let second = ConnectionId(2);
    machine.feed(Input::Connected { connection: second, meter: title(1) });
    assert_eq!(machine.change(reply(ChangePhase::Sent, Some(7))), [], "nobody has asked on this link");
    assert_eq!(machine.pending(vec![title(1), title(2)]), [ask(Question::Continue)]);
    // A newer link of the same meter, while the old one is not known to be gone.
    let third = ConnectionId(3);
    machine.feed(Input::Connected { connection: third, meter: title(1) });
    machine.feed(Input::Disconnected { connection: second });
    assert_eq!(machine.pending(vec![title(1)]), [ask(Question::Continue)]);
    assert_eq!(machine.change(reply(ChangePhase::Sent, Some(7))), [transmit(third, 7)]);
    let stale = Input::Response { connection: second, apdu: vec![1], is_action: true };
    assert_eq!(machine.feed(stale), []);
}

#[test]
fn changes_go_page_by_page_and_no_more_at_a_time_than_the_limit() {
    let mut machine = Machine::new();
    let count = u16::try_from(CHANGES_MAX).unwrap() + 10;
    let all: Vec<_> = (1..=count).map(title).collect();
    for number in 2..=count {
        machine.feed(Input::Connected { connection: ConnectionId(number.into()), meter: title(number) });
    }
    assert_eq!(machine.pending(all.clone()).len(), CHANGES_MAX);
    assert_eq!(machine.pending(all.clone()), []);
    // The first is done, and the page ends before the others: they are not taken for done.
    machine.change(reply(ChangePhase::Sent, Some(1)));
    let page = Input::Pending { after: None, answer: Some((vec![title(2)], false)) };
    assert_eq!(machine.feed(page), [Output::Resolved { meter: title(1) }]);
    machine.1 = machine.1 + pace().poll;
    machine.0.handle(machine.1, Input::Timeout);
    assert_eq!(machine.0.poll(), Some(Output::Poll { after: Some(title(2)) }));
    let rest = all.into_iter().skip(2).collect();
    let asked = machine.feed(Input::Pending { after: Some(title(2)), answer: Some((rest, true)) });
    assert_eq!(asked.len(), 1, "one place became free");
    assert_eq!(machine.feed(Input::Pending { after: None, answer: None }), []);
}
