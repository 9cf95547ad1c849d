//! The TCP transport: power switch, commands and responses, and an emulator that misbehaves.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test code"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    thread,
};

use gridseal_io::{
    rng::OsRng,
    tpm::{Swtpm, TpmSocket, swtpm_available},
};
use gridseal_trust::root::{RootError, TpmTransport, tpm2::Tpm2Root};

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Answers the power switch with `result`.
fn serve_control(listener: TcpListener, result: u32) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut command = vec![0; 8];
        stream.read_exact(&mut command).unwrap();
        stream.write_all(&result.to_be_bytes()).unwrap();
        command
    })
}

/// Passes commands on to `answer` until the peer hangs up.
fn serve_data(
    listener: TcpListener,
    mut answer: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut head = [0; 10];
        while stream.read_exact(&mut head).is_ok() {
            let size = u32::from_be_bytes(head[2..6].try_into().unwrap());
            let mut command = head.to_vec();
            command.resize(size.try_into().unwrap(), 0);
            stream.read_exact(&mut command[10..]).unwrap();
            // In two pieces: a response need not come at once.
            let response = answer(&command);
            let (first, second) = response.split_at(response.len() / 2);
            stream.write_all(first).unwrap();
            stream.write_all(second).unwrap();
        }
    })
}

#[test]
fn a_tpm_behind_sockets_boots() {
    if !swtpm_available() {
        eprintln!("swtpm is not installed: this test did not run");
        return;
    }
    let state = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("socket-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&state);
    std::fs::create_dir_all(&state).unwrap();
    let mut swtpm = Swtpm::start(&state).unwrap();
    let ((control_listener, control), (data_listener, data)) = (listen(), listen());
    let switch = serve_control(control_listener, 0);
    let tpm = serve_data(data_listener, move |command| swtpm.transmit(command).unwrap());
    let mut root = Tpm2Root::new(TpmSocket::power_up(control, data).unwrap(), Box::new(OsRng));
    root.boot().unwrap();
    assert_eq!(root.loaded().unwrap(), (0, 0));
    assert_eq!(switch.join().unwrap(), [0, 0, 0, 2, 0, 0, 0, 0]);
    drop(root);
    tpm.join().unwrap();
    std::fs::remove_dir_all(&state).unwrap();
}

#[test]
fn an_emulator_that_does_not_start_is_an_error() {
    let ((control_listener, control), (_data_listener, data)) = (listen(), listen());
    let switch = serve_control(control_listener, 9);
    assert!(TpmSocket::power_up(control, data).is_err());
    switch.join().unwrap();
}

#[test]
fn a_response_that_is_none_is_refused_and_a_cut_line_is_a_transport_error() {
    let command = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0];
    for (response, error) in [
        (vec![0x80, 0x01, 0, 0, 0, 9, 0, 0, 0, 0], RootError::Malformed),
        (vec![0x80, 0x01, 0, 0, 0x10, 0x01, 0, 0, 0, 0], RootError::Malformed),
        (vec![0x80, 0x01, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], RootError::Malformed),
    ] {
        let (listener, address) = listen();
        let tpm = serve_data(listener, move |_| response.clone());
        let mut socket = TpmSocket::connect(address).unwrap();
        assert_eq!(socket.transmit(&command), Err(error));
        drop(socket);
        tpm.join().unwrap();
    }
    let (listener, address) = listen();
    let cut = thread::spawn(move || drop(listener.accept().unwrap()));
    let mut socket = TpmSocket::connect(address).unwrap();
    cut.join().unwrap();
    assert_eq!(socket.transmit(&command), Err(RootError::Transport));
}
