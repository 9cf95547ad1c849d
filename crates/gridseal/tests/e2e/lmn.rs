//! `gridseal lmn listen`, fed by pipe and over TCP. Serial lines are tested in `io`, over pseudo-terminals.

use std::{
    io::Write,
    net::TcpListener,
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::Value;

const PUSH: &[u8] = b"/ESY5Q3DA1004\r\n\r\n1-0:1.8.0*255(00026107.7034231*kWh)\r\n!\r\n";

fn vector(name: &str) -> Vec<u8> {
    let path = format!("{}/../../tests/vectors/sml/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let table: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    hex::decode(table["input"].as_str().unwrap()).unwrap()
}

fn listen(arguments: &[&str], input: &[u8]) -> (Output, Vec<Value>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gridseal"))
        .args(["lmn", "listen", "--json"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stdout.clone()).unwrap();
    let told = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output, told)
}

#[test]
fn files_and_pushed_lines_are_found_in_one_stream_with_noise_and_a_cut_file_between() {
    let file = vector("emh-ehz361");
    let (output, told) =
        listen(&["-"], &[&file[90..], &file, b"\x00\xff", PUSH, &file[..50], &file].concat());
    assert_eq!(output.status.code(), Some(0));
    let values: Vec<String> = told
        .iter()
        .map(|told| told["entries"].as_array().unwrap().last().unwrap()["value"].to_string())
        .collect();
    assert_eq!(values, ["-5632.1916", "26107703.4231", "-5632.1916"]);
    assert!(told.iter().all(|told| told["authenticated"] == "none"));
}

#[test]
fn nothing_of_a_damaged_file_is_shown_and_the_exit_code_says_so() {
    let (output, told) = listen(&["-"], &vector("emh-ehz361-changed-value"));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!((told.len(), &told[0]["error"]["code"]), (1, &Value::from("lmn.checksum")));
    assert!(told[0].get("entries").is_none());
    let mut damaged: Vec<u8> =
        PUSH.iter().map(|byte| if byte.count_ones() % 2 == 1 { byte | 0x80 } else { *byte }).collect();
    damaged[40] ^= 1;
    let (output, told) = listen(&["-"], &damaged);
    assert_eq!((output.status.code(), &told[0]["error"]["code"]), (Some(2), &Value::from("lmn.parity")));
    let (output, told) = listen(&["-"], b"nothing");
    assert_eq!((output.status.code(), &told[0]["error"]["code"]), (Some(2), &Value::from("lmn.no_file")));
}

#[test]
fn a_connection_is_read_until_the_count_is_reached() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let file = vector("emh-ehz361");
        stream.write_all(&[file.as_slice(), &file, &file].concat()).unwrap();
        stream
    });
    // The connection stays open: the count ends the command.
    let (output, told) = listen(&["--tcp", &address, "--count", "2"], b"");
    assert_eq!((output.status.code(), told.len()), (Some(0), 2));
    server.join().unwrap();
}

#[test]
fn a_source_that_is_none_is_an_error_of_one_line() {
    for (arguments, code) in [(&["--serial", "/dev/null"][..], 1), (&["--tcp", "127.0.0.1:1"], 1), (&[], 2)] {
        let (output, told) = listen(arguments, b"");
        assert_eq!((output.status.code(), told.len()), (Some(code), 0), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}
