//! Serial lines over pseudo-terminals with real bytes, and the other sources of a meter's bytes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use gridseal_io::{
    feed::{Feed, FeedError, Got},
    readout::read_out,
    serial::{Baud, LineSettings, Parity, SerialError, SerialPort, SevenEven},
};
use gridseal_lmn::iec62056_21::{Message, readout::Readout};
use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::termios::{BaudRate, LocalFlags, cfgetospeed, tcgetattr},
};

const PATIENCE: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(20);

/// A pseudo-terminal: the meter's end, and the path that the reader opens.
fn pty() -> (PtyMaster, PathBuf) {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = PathBuf::from(ptsname_r(&master).unwrap());
    (master, path)
}

fn read_exactly(feed: &mut Feed, count: usize) -> Vec<u8> {
    let mut received = Vec::new();
    let mut buffer = [0; 64];
    while received.len() < count {
        match feed.read(&mut buffer, PATIENCE).unwrap() {
            Got::Bytes(count) => received.extend_from_slice(&buffer[..count]),
            other => panic!("{other:?} after {} bytes", received.len()),
        }
    }
    received
}

#[test]
fn every_byte_value_passes_a_line_unchanged_in_both_directions() {
    let (mut meter, path) = pty();
    let mut line = Feed::serial(&path, LineSettings::SML).unwrap();
    let all: Vec<u8> = (0..=255).collect();
    meter.write_all(&all).unwrap();
    assert_eq!(read_exactly(&mut line, 256), all, "no byte is a control character of the terminal");
    line.send(&all, PATIENCE).unwrap();
    let mut sent = vec![0; 256];
    meter.read_exact(&mut sent).unwrap();
    assert_eq!(sent, all, "and none is echoed or translated");
}

#[test]
fn a_silent_line_gives_the_caller_its_time_back() {
    let (_meter, path) = pty();
    let mut line = Feed::serial(&path, LineSettings::SML).unwrap();
    assert_eq!(line.read(&mut [0; 8], SHORT).unwrap(), Got::Silence);
}

#[test]
fn bytes_from_before_the_opening_are_dropped() {
    let (mut meter, path) = pty();
    // The line keeps what arrives while nobody reads it only as long as somebody has it open.
    let holder = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    meter.write_all(b"old\n").unwrap();
    let mut arrival = [PollFd::new(holder.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut arrival, PollTimeout::try_from(PATIENCE).unwrap()), Ok(1));
    let mut line = SerialPort::open(&path, LineSettings::SML).unwrap();
    meter.write_all(b"new").unwrap();
    let mut buffer = [0; 8];
    let Got::Bytes(count) = line.read(&mut buffer, PATIENCE).unwrap() else { panic!("silence") };
    assert_eq!(&buffer[..count], b"new");
}

#[test]
fn the_speed_that_was_asked_for_holds_on_the_line() {
    let (meter, path) = pty();
    let mut port = SerialPort::open(&path, LineSettings::SIGN_ON).unwrap();
    assert_eq!(cfgetospeed(&tcgetattr(&meter).unwrap()), BaudRate::B300);
    let faster = LineSettings { baud: Baud::B4800, parity: Parity::SevenEven };
    port.change(faster).unwrap();
    assert_eq!(port.settings(), faster);
    assert_eq!(cfgetospeed(&tcgetattr(&meter).unwrap()), BaudRate::B4800);
}

#[test]
fn settings_that_the_driver_drops_are_an_error() {
    // A pseudo-terminal takes every call and stays at eight bits without parity.
    let (_meter, path) = pty();
    let error = SerialPort::open(&path, LineSettings::MBUS).unwrap_err();
    assert!(matches!(error, SerialError::Refused { wanted: LineSettings::MBUS }), "{error:?}");
    assert_eq!(error.to_string(), "the line cannot be set to 2400,8E1");
    let mut port = SerialPort::open(&path, LineSettings::SML).unwrap();
    assert_eq!(port.change(LineSettings::MBUS).unwrap_err().code(), "io.serial.refused");
    assert_eq!(port.settings(), LineSettings::SML, "a refused change is not shown as made");
}

#[test]
fn a_line_has_one_reader() {
    let (_meter, path) = pty();
    let first = SerialPort::open(&path, LineSettings::SML).unwrap();
    assert!(matches!(SerialPort::open(&path, LineSettings::SML).unwrap_err(), SerialError::Taken));
    drop(first);
    SerialPort::open(&path, LineSettings::SML).unwrap();
}

#[test]
fn a_line_is_set_back_when_it_is_closed() {
    let (meter, path) = pty();
    let echo = || tcgetattr(&meter).unwrap().local_flags.contains(LocalFlags::ECHO);
    assert!(echo());
    let port = SerialPort::open(&path, LineSettings::SML).unwrap();
    assert!(!echo());
    drop(port);
    assert!(echo());
}

#[test]
fn an_unplugged_line_is_gone() {
    let (meter, path) = pty();
    let mut port = SerialPort::open(&path, LineSettings::SML).unwrap();
    drop(meter);
    let error = port.read(&mut [0; 8], PATIENCE).unwrap_err();
    assert_eq!(error.code(), "io.serial.gone", "{error}");
    assert_eq!(port.send(b"x", PATIENCE).unwrap_err().code(), "io.serial.gone");
}

#[test]
fn a_line_that_takes_nothing_is_stuck_and_not_waited_for_without_end() {
    let (_meter, path) = pty();
    let mut port = SerialPort::open(&path, LineSettings::SML).unwrap();
    // Nobody reads the other end: its buffer fills up.
    let error = port.send(&vec![0x55; 1 << 20], SHORT).unwrap_err();
    assert_eq!(error.code(), "io.serial.stuck");
}

#[test]
fn what_is_no_line_is_said_to_be_none() {
    let code = |path: &str| SerialPort::open(Path::new(path), LineSettings::SML).unwrap_err().code();
    assert_eq!(code("/dev/null"), "io.serial.not_a_line");
    assert_eq!(code("/dev/no-such-line"), "io.serial.open");
}

/// A meter of mode C on its end of the line: checks what it is asked and at which speed, answers with `block`.
fn answer(mut meter: PtyMaster, block: Vec<u8>) -> thread::JoinHandle<PtyMaster> {
    let speed = |meter: &PtyMaster| cfgetospeed(&tcgetattr(meter).unwrap());
    let characters = |bytes: &[u8]| bytes.iter().map(|byte| SevenEven::encode(*byte)).collect::<Vec<u8>>();
    let ask = move |meter: &mut PtyMaster, expected: &[u8]| {
        let mut asked = vec![0; expected.len()];
        meter.read_exact(&mut asked).unwrap();
        let asked: Option<Vec<u8>> = asked.into_iter().map(SevenEven::decode).collect();
        assert_eq!(asked.as_deref(), Some(expected));
    };
    thread::spawn(move || {
        ask(&mut meter, b"/?12345678!\r\n");
        assert_eq!(speed(&meter), BaudRate::B300);
        meter.write_all(&characters(b"/ACE4k260V01.18\r\n")).unwrap();
        ask(&mut meter, b"\x06040\r\n");
        // A meter that changes its speed waits for the other side to do so, too.
        let waiting = (0..1_000).find(|_| {
            let is_changed = speed(&meter) == BaudRate::B4800;
            if !is_changed {
                poll(&mut [], PollTimeout::from(5_u8)).unwrap();
            }
            is_changed
        });
        assert!(waiting.is_some(), "the reader has not changed to the speed that was agreed on");
        meter.write_all(&characters(&block)).unwrap();
        meter
    })
}

fn block() -> Vec<u8> {
    let block = b"\x021.8.0(000123.4*kWh)\r\n0.2.0(V1)\r\n!\r\n\x03";
    let bcc = block[1..].iter().fold(0, |sum, byte| sum ^ byte);
    [&block[..], &[bcc]].concat()
}

#[test]
fn a_meter_behind_an_optical_head_is_read_out_at_the_rate_it_offers() {
    let (meter, path) = pty();
    let mut port = SerialPort::open(&path, LineSettings::SIGN_ON).unwrap();
    let meter = answer(meter, block());
    let message = read_out(&mut port, Readout::new(b"12345678").unwrap()).unwrap();
    let meter = meter.join().unwrap();
    let message = Message::parse(&message).unwrap();
    assert!(message.is_checked);
    assert_eq!(message.identification.map(|who| who.manufacturer), Some(*b"ACE"));
    assert_eq!(message.items.iter().map(|item| item.value).collect::<Vec<_>>(), [&b"000123.4"[..], b"V1"]);
    // The same line takes the next readout, from 300 baud again.
    let meter = answer(meter, block());
    read_out(&mut port, Readout::new(b"12345678").unwrap()).unwrap();
    meter.join().unwrap();
}

#[test]
fn a_readout_with_a_wrong_check_character_gives_nothing() {
    let (meter, path) = pty();
    let mut port = SerialPort::open(&path, LineSettings::SIGN_ON).unwrap();
    let mut wrong = block();
    *wrong.last_mut().unwrap() ^= 0x03;
    let meter = answer(meter, wrong);
    let error = read_out(&mut port, Readout::new(b"12345678").unwrap()).unwrap_err();
    assert_eq!(error.code(), "lmn.checksum");
    meter.join().unwrap();
}

#[test]
fn a_readout_of_nobody_ends_by_itself() {
    let (_meter, path) = pty();
    let mut port = SerialPort::open(&path, LineSettings::SIGN_ON).unwrap();
    let error = read_out(&mut port, Readout::new(b"").unwrap()).unwrap_err();
    assert_eq!(error.code(), "lmn.readout.silent");
}

#[test]
fn a_connection_gives_bytes_until_its_end() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 3];
        stream.read_exact(&mut asked).unwrap();
        stream.write_all(b"answer").unwrap();
        asked
    });
    let mut feed = Feed::tcp(&address).unwrap();
    assert_eq!(feed.read(&mut [0; 8], SHORT).unwrap(), Got::Silence);
    feed.send(b"ask", PATIENCE).unwrap();
    assert_eq!(read_exactly(&mut feed, 6), b"answer");
    assert_eq!(feed.read(&mut [0; 8], PATIENCE).unwrap(), Got::End);
    assert_eq!(&server.join().unwrap(), b"ask");
}

#[test]
fn an_address_where_nobody_listens_is_said_to_be_one() {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().to_string();
    assert_eq!(Feed::tcp(&free).unwrap_err().code(), "io.feed.connect");
    assert_eq!(Feed::tcp("no port").unwrap_err().code(), "io.feed.resolve");
}

#[test]
fn a_pipe_gives_bytes_until_its_end_and_takes_none() {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let mut feed = Feed::from(reader);
    std::fs::File::from(writer).write_all(b"piped").unwrap();
    assert_eq!(read_exactly(&mut feed, 5), b"piped");
    assert_eq!(feed.read(&mut [0; 8], PATIENCE).unwrap(), Got::End);
    assert!(matches!(feed.send(b"x", SHORT).unwrap_err(), FeedError::Write(_)));
}
