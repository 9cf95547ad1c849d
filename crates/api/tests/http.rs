//! Server and clients against each other on loopback, and against peers that do not behave.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

#[path = "http/network.rs"]
mod network;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gridseal_api::{
    Access, ApiError, Client, KeysCallError, KeysClient, Limits, Refusal, Reply, Router, batch,
    client::keys::{CALLS_MAX, COALESCE_MIN, KEYS_PATH},
};
use gridseal_types::{
    Kind, SystemTitle, UtcTime,
    service::{
        BATCH_MAX, Batch,
        keys::{Denial, ExchangeReply, KeyReply, KeyRequest},
    },
};
use network::{Network, Running, own_port, quick};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

const MANAGER: Access = Access::Services(&["endpoint-manager"]);

fn doubling() -> Router {
    Router::new().serve_batch("/double", MANAGER, |_, numbers: Vec<u32>| async move {
        Ok(numbers.into_iter().map(|number| number * 2).collect::<Vec<u32>>())
    })
}

fn echo() -> Router {
    Router::new().route("/echo", Access::Anyone, 1_000, |_, body| async move { Reply::Body(body.into()) })
}

fn fixed(reply: Reply) -> Router {
    Router::new().route("/x", Access::Anyone, 10, move |_, _| {
        let reply = reply.clone();
        async move { reply }
    })
}

#[tokio::test]
async fn a_batch_is_answered_in_order_over_one_connection() {
    let network = Network::new();
    let running = network.inner(doubling(), Limits::INNER).await;
    let client = network.client("endpoint-manager", &running);
    for _ in 0..3 {
        let replies: Batch<u32> = client.call("/double", &Batch(vec![1_u32, 2, 3])).await.unwrap();
        assert_eq!(replies.0, [2, 4, 6]);
    }
    let none: Batch<u32> = client.call("/double", &Batch::<u32>(vec![])).await.unwrap();
    assert!(none.0.is_empty());
}

#[tokio::test]
async fn many_calls_share_a_connection() {
    let network = Network::new();
    let limits = Limits { connection_count_max: 1, ..Limits::INNER };
    let running = network.inner(doubling(), limits).await;
    let client = Arc::new(network.client("endpoint-manager", &running));
    let calls = (0..100_u32).map(|number| {
        let client = Arc::clone(&client);
        tokio::spawn(async move { client.call::<u32, u32>("/double", &Batch(vec![number; 200])).await })
    });
    for (number, call) in (0_u32..).zip(calls.collect::<Vec<_>>()) {
        assert_eq!(call.await.unwrap().unwrap().0, [number * 2; 200]);
    }
}

#[tokio::test]
async fn another_service_than_the_named_one_is_refused() {
    let network = Network::new();
    let running = network.inner(doubling(), Limits::INNER).await;
    for name in ["headend", "endpoint-manager2"] {
        let call = network.client(name, &running).call::<u32, u32>("/double", &Batch(vec![1])).await;
        assert!(matches!(call, Err(ApiError::Status(403))), "{call:?}");
    }
    assert_eq!(running.refusals(), [Refusal::Forbidden; 2]);
}

#[tokio::test]
async fn a_meter_is_no_service_even_under_the_same_root() {
    let network = Network::new();
    let running = network.inner(doubling(), Limits::INNER).await;
    let call = network.meter_as_client(&running).call::<u32, u32>("/double", &Batch(vec![1])).await;
    assert!(matches!(call, Err(ApiError::Status(403))), "{call:?}");
}

#[tokio::test]
async fn a_client_of_another_hierarchy_does_not_get_through_the_handshake() {
    let (network, other) = (Network::new(), Network::new());
    let running = network.inner(doubling(), Limits::INNER).await;
    let stranger = network.client_with_identity_of(&other, "endpoint-manager", &running);
    let error = stranger.call::<u32, u32>("/double", &Batch(vec![1])).await.unwrap_err();
    assert!(matches!(error, ApiError::Alert(_)), "{error:?}");
    assert_eq!(error.kind(), Kind::Peer);
}

#[tokio::test]
async fn a_server_of_another_name_is_not_talked_to() {
    let network = Network::new();
    let running = network.inner(doubling(), Limits::INNER).await;
    let client = network.client_for("endpoint-manager", &running, "pki");
    let error = client.call::<u32, u32>("/double", &Batch(vec![1])).await.unwrap_err();
    assert!(matches!(error, ApiError::Tls(_)), "{error:?}");
}

#[tokio::test]
async fn a_malformed_batch_is_refused_and_a_wrong_count_is_our_fault() {
    let network = Network::new();
    let router = doubling().serve_batch("/short", MANAGER, |_, _: Vec<u32>| async { Ok(Vec::<u32>::new()) });
    let running = network.inner(router, Limits::INNER).await;
    let client = network.client("endpoint-manager", &running);
    for body in [vec![], vec![0x82, 1], vec![0x81, 1, 0], vec![0x9f, 1, 0xff], vec![0x81, 0x61, 0x61]] {
        assert_eq!(client.post("/double", body).await.unwrap().status, 400);
    }
    assert_eq!(client.post("/short", batch::encode(&Batch(vec![1_u32]))).await.unwrap().status, 500);
    let too_many = client.call::<u32, u32>("/double", &Batch(vec![0; 1_025])).await;
    assert!(matches!(too_many, Err(ApiError::Batch)));
}

#[tokio::test]
async fn an_answer_that_is_not_the_batch_asked_for_is_an_error() {
    let network = Network::new();
    for body in [vec![0x80], vec![0x82, 1, 2], vec![0x81, 0x20], vec![]] {
        let running = network.inner(fixed(Reply::Body(body)), Limits::INNER).await;
        let call = network.client("endpoint-manager", &running).call::<u8, u8>("/x", &Batch(vec![1])).await;
        assert!(matches!(call, Err(ApiError::Reply)), "{call:?}");
    }
}

#[tokio::test]
async fn a_meter_gets_every_kind_of_answer() {
    let network = Network::new();
    let second = Duration::from_secs(1);
    for (reply, status, retry_after) in [
        (Reply::Body(vec![1, 2]), 200, None),
        (Reply::Later(Duration::from_millis(1_500)), 202, Some(2 * second)),
        (Reply::Empty, 204, None),
        (Reply::Refused(Refusal::TooMany(7 * second)), 429, Some(7 * second)),
        (Reply::Refused(Refusal::Busy(Duration::ZERO)), 503, Some(second)),
    ] {
        let running = network.field(fixed(reply.clone()), Limits::FIELD).await;
        let mut meter = network.meter(&running);
        for _ in 0..2 {
            let answer = meter.post("/x", vec![0]).await.unwrap();
            assert_eq!((answer.status, answer.retry_after), (status, retry_after), "{reply:?}");
            let expected: &[u8] = if status == 200 { &[1, 2] } else { &[] };
            assert_eq!(answer.body, expected);
        }
        assert_eq!(meter.post("/x", vec![0; 11]).await.unwrap().status, 413);
    }
}

#[tokio::test]
async fn an_answer_beyond_the_meters_limit_is_an_error() {
    let network = Network::new();
    let running = network.field(echo(), Limits::FIELD).await;
    let mut meter = network.meter(&running).with_limits(Duration::from_secs(5), 100);
    assert_eq!(meter.post("/echo", vec![7; 100]).await.unwrap().body, [7; 100]);
    assert!(matches!(meter.post("/echo", vec![7; 101]).await, Err(ApiError::TooLarge(100))));
    assert_eq!(meter.post("/echo", vec![7; 99]).await.unwrap().body, [7; 99]);
}

/// Sends raw bytes to a field server and reads until it closes; empty when it closes without a word.
async fn raw(network: &Network, running: &Running, bytes: &[u8]) -> String {
    let mut stream = network.raw(running).await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A server may close without the TLS goodbye.
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

const HEAD: &str = "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
const CBOR: &str = "content-type: application/cbor\r\n";

#[tokio::test]
async fn heads_that_break_a_rule_get_its_status_and_nothing_else() {
    let network = Network::new();
    let running = network.field(echo(), Limits::FIELD).await;
    for (head, status) in [
        (format!("{HEAD}{CBOR}content-length: 2\r\n\r\nab"), "200 OK"),
        (format!("{HEAD}content-length: 2\r\n\r\nab"), "415"),
        (format!("{HEAD}content-type: application/json\r\ncontent-length: 2\r\n\r\nab"), "415"),
        (format!("{HEAD}content-type: application/cbor; x=y\r\ncontent-length: 2\r\n\r\nab"), "415"),
        (format!("{HEAD}{CBOR}transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"), "411"),
        (format!("{HEAD}{CBOR}\r\n"), "411"),
        (format!("{HEAD}{CBOR}content-length: 1001\r\n\r\n"), "413"),
        (format!("{HEAD}{CBOR}content-length: 9223372036854775807\r\n\r\n"), "413"),
        (HEAD.replace("POST", "GET") + CBOR + "content-length: 0\r\n\r\n", "405"),
        (HEAD.replace("/echo", "/other") + CBOR + "content-length: 0\r\n\r\n", "404"),
        (format!("{HEAD}{CBOR}content-length: x\r\n\r\n"), "400"),
        (format!("{HEAD}{CBOR}x: {}\r\n\r\n", "y".repeat(20_000)), "431"),
        ("NONSENSE\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = raw(&network, &running, head.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}\n{answer}");
        let lower = answer.to_lowercase();
        assert!(
            !lower.contains("server:") && !lower.contains("hyper") && !lower.contains("date:"),
            "{answer}"
        );
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body, if status == "200 OK" { "ab" } else { "" });
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_never_reaches_the_handler() {
    let network = Network::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&calls);
    let router = Router::new().route("/echo", Access::Anyone, 1_000, move |_, _| {
        seen.fetch_add(1, Ordering::SeqCst);
        async { Reply::Empty }
    });
    let running = network.field(router, Limits::FIELD).await;
    let mut stream = network.raw(&running).await;
    stream.write_all(format!("{HEAD}{CBOR}content-length: 10\r\n\r\nabc").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 2"));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn slow_peers_are_let_go_while_others_are_served() {
    let network = Network::new();
    let running = network.field(echo(), quick()).await;
    let silent = raw(&network, &running, b"");
    let slow_head_bytes = HEAD.as_bytes();
    let slow_head = raw(&network, &running, slow_head_bytes);
    let slow_body_bytes = format!("{HEAD}{CBOR}content-length: 10\r\n\r\nabc");
    let slow_body = raw(&network, &running, slow_body_bytes.as_bytes());
    let honest = async {
        let mut meter = network.meter(&running);
        meter.post("/echo", vec![1]).await.unwrap().status
    };
    let (silent, slow_head, slow_body, honest) = tokio::join!(silent, slow_head, slow_body, honest);
    assert_eq!(honest, 200);
    assert!(silent.is_empty() || silent.starts_with("HTTP/1.1 408"), "{silent}");
    assert!(slow_head.is_empty() || slow_head.starts_with("HTTP/1.1 408"), "{slow_head}");
    assert!(slow_body.starts_with("HTTP/1.1 408"), "{slow_body}");
}

#[tokio::test]
async fn a_peer_that_never_begins_tls_does_not_hold_the_others() {
    let network = Network::new();
    let limits = Limits { connection_count_max: 2, ..Limits::FIELD };
    let running = network.field(echo(), limits).await;
    let _mute = tokio::net::TcpStream::connect(running.address).await.unwrap();
    let mut meter = network.meter(&running);
    assert_eq!(meter.post("/echo", vec![1]).await.unwrap().status, 200);
    // Both places are taken now: the mute peer's and the meter's kept connection.
    let mut third = tokio::net::TcpStream::connect(running.address).await.unwrap();
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert_eq!(meter.post("/echo", vec![1]).await.unwrap().status, 200);
}

#[tokio::test]
async fn beyond_the_room_for_bodies_peers_are_told_to_come_back() {
    let network = Network::new();
    let limits = Limits { in_flight_bytes_max: 4_500, ..Limits::FIELD };
    let running = network.field(echo(), limits).await;
    let mut meter = network.meter(&running);
    let answer = meter.post("/echo", vec![1; 500]).await.unwrap();
    assert_eq!((answer.status, answer.retry_after), (503, Some(Duration::from_secs(2))));
    assert_eq!(meter.post("/echo", vec![1; 100]).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_handler_that_fails_or_hangs_costs_one_answer() {
    let network = Network::new();
    let router = echo()
        .route("/panic", Access::Anyone, 10, |_, body| async move {
            assert!(body.is_empty(), "planted");
            Reply::Empty
        })
        .route("/hang", Access::Anyone, 10, |_, _| std::future::pending());
    let running = network.field(router, quick()).await;
    let mut meter = network.meter(&running);
    assert_eq!(meter.post("/panic", vec![1]).await.unwrap().status, 500);
    assert_eq!(meter.post("/hang", vec![]).await.unwrap().status, 503);
    assert_eq!(meter.post("/echo", vec![1]).await.unwrap().status, 200);
}

#[tokio::test]
async fn what_a_handler_began_is_finished_although_the_peer_leaves() {
    let network = Network::new();
    let (begun, go_on, finished) =
        (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = (Arc::clone(&begun), Arc::clone(&go_on), Arc::clone(&finished));
    let router = Router::new().route("/slow", Access::Anyone, 10, move |_, _| {
        let (begun, go_on, finished) = signals.clone();
        async move {
            begun.notify_one();
            go_on.notified().await;
            finished.notify_one();
            Reply::Empty
        }
    });
    let running = network.field(router, Limits::FIELD).await;
    let mut meter = network.meter(&running);
    let call = tokio::spawn(async move { meter.post("/slow", vec![]).await });
    begun.notified().await;
    call.abort();
    let _ = call.await;
    go_on.notify_one();
    tokio::time::timeout(Duration::from_secs(5), finished.notified()).await.unwrap();
}

#[tokio::test]
async fn a_stop_finishes_what_is_going_on_and_clients_find_the_next_server() {
    let network = Network::new();
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = (Arc::clone(&begun), Arc::clone(&go_on));
    let router = echo().route("/slow", Access::Anyone, 10, move |_, _| {
        let (begun, go_on) = signals.clone();
        async move {
            begun.notify_one();
            go_on.notified().await;
            Reply::Body(vec![1])
        }
    });
    let running = network.inner_at(own_port(2), router, Limits::INNER).await;
    let client = Arc::new(network.client("endpoint-manager", &running));
    let slow = Arc::clone(&client);
    let slow = tokio::spawn(async move { slow.post("/slow", vec![]).await });
    begun.notified().await;
    let address = running.address;
    let stopping = tokio::spawn(running.stop());
    tokio::task::yield_now().await;
    go_on.notify_one();
    assert_eq!(slow.await.unwrap().unwrap().body, [1]);
    stopping.await.unwrap();
    let refused = client.post("/echo", vec![1]).await;
    assert!(matches!(refused, Err(ApiError::Connect(_))), "{refused:?}");
    let _next = network.inner_at(address, echo(), Limits::INNER).await;
    assert_eq!(client.post("/echo", vec![2]).await.unwrap().body, [2]);
}

#[tokio::test]
async fn a_meter_repeats_a_message_when_its_kept_connection_has_ended() {
    let network = Network::new();
    let running = network.field_at(own_port(3), echo(), Limits::FIELD).await;
    let address = running.address;
    let mut meter = network.meter(&running);
    assert_eq!(meter.post("/echo", vec![1]).await.unwrap().body, [1]);
    running.stop().await;
    let _next = network.field_at(address, echo(), Limits::FIELD).await;
    assert_eq!(meter.post("/echo", vec![2]).await.unwrap().body, [2]);
}

#[tokio::test]
async fn a_connection_ends_at_its_age_without_a_lost_call() {
    let network = Network::new();
    let limits = Limits { connection_age_max: Duration::from_millis(50), ..Limits::INNER };
    let running = network.inner(echo(), limits).await;
    let client = network.client("endpoint-manager", &running);
    for round in 0..20 {
        assert_eq!(client.post("/echo", vec![round]).await.unwrap().body, [round]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_a_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let network = Network::new();
    let address = listener.local_addr().unwrap().to_string();
    let client = Client::new(address, network.mutual_tls("endpoint-manager"), "keys");
    let client = client.with_timeout(Duration::from_millis(100));
    let error = client.post("/echo", vec![]).await.unwrap_err();
    assert!(matches!(error, ApiError::Timeout), "{error:?}");
    assert_eq!(error.kind(), Kind::Transient);
}

#[tokio::test]
async fn a_path_that_is_none_is_our_own_error() {
    let network = Network::new();
    let running = network.field(echo(), Limits::FIELD).await;
    let error = network.meter(&running).post("/a b\r\nx: y", vec![]).await.unwrap_err();
    assert!(matches!(error, ApiError::Path), "{error:?}");
}

/// What the fake key service saw: sizes of its calls, how many ran at once, how many at most.
#[derive(Default)]
struct Seen {
    sizes: std::sync::Mutex<Vec<usize>>,
    running: AtomicUsize,
    at_most: AtomicUsize,
}

/// A key service that denies everything until a time that tells which request it was.
fn denying(seen: &Arc<Seen>) -> Router {
    let seen = Arc::clone(seen);
    Router::new().serve_batch(KEYS_PATH, Access::Services(&["headend"]), move |_, asked: Vec<KeyRequest>| {
        let seen = Arc::clone(&seen);
        async move {
            seen.sizes.lock().unwrap().push(asked.len());
            let running = seen.running.fetch_add(1, Ordering::SeqCst) + 1;
            seen.at_most.fetch_max(running, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            seen.running.fetch_sub(1, Ordering::SeqCst);
            let deny = |request| {
                let KeyRequest::ProbePlan { system_title } = request else { panic!("{request:?}") };
                let at = UtcTime(u64::from_be_bytes(system_title.0));
                KeyReply::Exchange(ExchangeReply::Denied(Denial::RetryLater { at }))
            };
            Ok(asked.into_iter().map(deny).collect::<Vec<_>>())
        }
    })
}

#[tokio::test]
async fn d1_requests_to_the_key_service_leave_together_in_few_calls_and_find_their_answers() {
    let (network, seen) = (Network::new(), Arc::new(Seen::default()));
    let running = network.inner(denying(&seen), Limits::INNER).await;
    let client = KeysClient::new(running.address.to_string(), network.mutual_tls("headend"));
    let asked = (0..5_000_u64).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { client.probe_plan(SystemTitle(number.to_be_bytes())).await })
    });
    for (number, answer) in (0_u64..).zip(asked.collect::<Vec<_>>()) {
        let Err(KeysCallError::Denied(denial)) = answer.await.unwrap() else { panic!("{number}") };
        assert_eq!(denial, Denial::RetryLater { at: UtcTime(number) });
        assert!(KeysCallError::Denied(denial).is_retryable());
    }
    let sizes = seen.sizes.lock().unwrap().clone();
    assert_eq!((sizes.iter().sum::<usize>(), sizes[0]), (5_000, 1), "idle, a request leaves at once");
    // The last requests leave when no call is out any more, however few they are.
    assert!(
        sizes[1..sizes.len() - 1].iter().all(|size| (COALESCE_MIN..=BATCH_MAX).contains(size)),
        "{sizes:?}"
    );
    assert!(seen.at_most.load(Ordering::SeqCst) <= CALLS_MAX);
}

#[tokio::test]
async fn a_call_that_fails_fails_all_its_requests_and_the_next_one_is_made() {
    let (network, seen) = (Network::new(), Arc::new(Seen::default()));
    let running = network.inner(denying(&seen), Limits::INNER).await;
    let address = running.address;
    let client = KeysClient::new(address.to_string(), network.mutual_tls("headend"));
    running.stop().await;
    for _ in 0..3 {
        let failed = client.probe_plan(SystemTitle([1; 8])).await;
        let Err(error @ KeysCallError::Call(_)) = failed else { panic!("{failed:?}") };
        assert!(error.is_retryable());
    }
    let _again = network.inner_at(address, denying(&seen), Limits::INNER).await;
    assert!(matches!(client.probe_plan(SystemTitle([1; 8])).await, Err(KeysCallError::Denied(_))));
}
