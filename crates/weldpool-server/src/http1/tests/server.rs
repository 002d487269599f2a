//! Servers over the loopback interface: binding, counting, limits, shutdown.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::TcpStream;

use super::super::{ErrorKind, Observer, RequestTiming, Server, ServerControl, ServerStats};
use super::*;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const LONG: Duration = Duration::from_secs(60);

struct Running {
    address: SocketAddr,
    control: ServerControl,
    handler: Arc<Scripted>,
    task: JoinHandle<ServerStats>,
}

fn start(limits: Limits) -> Running {
    let server = Server::bind(ANY_PORT, limits).unwrap();
    let (address, control) = (server.local_addr(), server.control());
    let handler = Arc::new(Scripted::default());
    let task = tokio::spawn(server.serve(handler.clone()));
    Running {
        address,
        control,
        handler,
        task,
    }
}

struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Peer {
    async fn connect(running: &Running) -> Self {
        Self {
            stream: TcpStream::connect(running.address).await.unwrap(),
            received: Vec::new(),
        }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    async fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = take_answer(&mut self.received, false) {
                return answer;
            }
            assert_ne!(
                self.stream.read_buf(&mut self.received).await.unwrap(),
                0,
                "closed"
            );
        }
    }

    async fn closed(&mut self) {
        assert_eq!(
            self.stream.read_buf(&mut self.received).await.unwrap_or(0),
            0
        );
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain until {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_and_counted() {
    let running = start(Limits::default());
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = Peer::connect(&running).await;
        for _ in 0..4 {
            peer.send(post("/echo", "", &[b'x'; 5000])).await;
            assert_eq!(peer.answer().await.body.len(), 5010);
        }
        peers.push(peer);
    }
    peers[0].send("nonsense\r\n\r\n").await;
    assert_eq!(peers[0].answer().await.status, 400);
    peers[0].closed().await;
    drop(peers.remove(0));
    until("one is gone and two are idle", || {
        let stats = running.control.stats();
        (stats.connections_open, stats.connections_idle) == (2, 2)
    })
    .await;

    running.control.shutdown(LONG);
    let stats = running.task.await.unwrap();
    assert_eq!((stats.requests, stats.requests_rejected), (12, 1));
    assert_eq!((stats.connections_accepted, stats.connections_open), (3, 0));
    assert_eq!(
        (stats.connections_evicted, stats.connections_aborted),
        (2, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_go_both_ways_over_a_real_socket() {
    let running = start(Limits::default());
    let mut peer = Peer::connect(&running).await;
    let body: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    for request in [
        post("/echo", "", &body),
        post_chunked("/echo", "", &body, 70_000),
    ] {
        let Peer { stream, received } = &mut peer;
        let (mut reader, mut writer) = stream.split();
        let (sent, answer) = tokio::join!(writer.write_all(&request), async {
            loop {
                if let Some(answer) = take_answer(received, false) {
                    return answer;
                }
                reader.read_buf(received).await.unwrap();
            }
        });
        sent.unwrap();
        assert!(answer.body[10..] == body);
    }
    let lengths = [255, 1, 0, 200];
    let data = &body[..456 * 50];
    peer.send(post("/parts", "", &[&lengths[..], data].concat()))
        .await;
    assert!(peer.answer().await.body == data);
    running.control.shutdown(LONG);
    running.task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_answers_what_is_in_flight_and_closes_what_is_idle() {
    let running = start(Limits::default());
    let (mut idle, mut busy) = (Peer::connect(&running).await, Peer::connect(&running).await);
    idle.send(get("/ignore")).await;
    idle.answer().await;
    busy.send(get("/wait")).await;
    until("the request is in flight", || {
        running.handler.waiting.load(Ordering::SeqCst) == 1
    })
    .await;

    running.control.shutdown(LONG);
    idle.closed().await;
    until("the port is closed", || {
        std::net::TcpStream::connect(running.address).is_err()
    })
    .await;
    assert!(!running.task.is_finished());

    running.handler.release.notify_one();
    let answer = busy.answer().await;
    assert_eq!(
        (answer.text(), answer.header("connection")),
        ("released", Some("close"))
    );
    busy.closed().await;
    let stats = running.task.await.unwrap();
    assert_eq!(
        (
            stats.requests,
            stats.connections_aborted,
            stats.connections_open
        ),
        (2, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_that_takes_too_long_cuts_off_what_is_left() {
    let running = start(Limits::default());
    let mut busy = Peer::connect(&running).await;
    busy.send(get("/wait")).await;
    until("the request is in flight", || {
        running.handler.waiting.load(Ordering::SeqCst) == 1
    })
    .await;
    running.control.shutdown(LONG);
    running.control.shutdown(Duration::from_millis(20));
    let stats = running.task.await.unwrap();
    assert_eq!((stats.connections_aborted, stats.connections_open), (1, 0));
    busy.closed().await;
}

#[tokio::test]
async fn dropping_the_server_closes_everything() {
    let running = start(Limits::default());
    let mut busy = Peer::connect(&running).await;
    busy.send(get("/wait")).await;
    until("the request is in flight", || {
        running.handler.waiting.load(Ordering::SeqCst) == 1
    })
    .await;
    running.task.abort();
    busy.closed().await;
    until("the connection is gone", || {
        running.control.stats().connections_open == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_limit_the_connection_idle_longest_makes_room() {
    let running = start(Limits {
        connections_max: 2,
        ..Limits::default()
    });
    let (mut first, mut second) = (Peer::connect(&running).await, Peer::connect(&running).await);
    for peer in [&mut first, &mut second] {
        peer.send(get("/ignore")).await;
        assert_eq!(peer.answer().await.header("connection"), None);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut third = Peer::connect(&running).await;
    third.send(get("/ignore")).await;
    assert_eq!(third.answer().await.text(), "ignored");
    first.closed().await;
    second.send(get("/ignore")).await;
    assert_eq!(second.answer().await.text(), "ignored");
    running.control.shutdown(LONG);
    assert_eq!(running.task.await.unwrap().connections_accepted, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_limit_a_busy_connection_makes_room_behind_its_answer() {
    let running = start(Limits {
        connections_max: 1,
        ..Limits::default()
    });
    let mut busy = Peer::connect(&running).await;
    busy.send(get("/wait")).await;
    until("the request is in flight", || {
        running.handler.waiting.load(Ordering::SeqCst) == 1
    })
    .await;
    let mut next = Peer::connect(&running).await;
    next.send(get("/ignore")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.handler.release.notify_one();
    assert_eq!(busy.answer().await.header("connection"), Some("close"));
    let answer = next.answer().await;
    assert_eq!(
        (answer.text(), answer.header("connection")),
        ("ignored", None)
    );
    running.control.shutdown(LONG);
    running.task.await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_one_clear_line() {
    let first = Server::bind(ANY_PORT, Limits::default()).unwrap();
    let address = first.local_addr();
    let error = Server::bind(address, Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddressInUse);
    assert_eq!(
        error.to_string(),
        format!(
            "address {address} is in use: stop the program that listens there, or choose another \
             port"
        )
    );
    let elsewhere = "192.0.2.1:0".parse().unwrap();
    let error = Server::bind(elsewhere, Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddressUnavailable);
    assert!(error.to_string().contains("192.0.2.1:0"), "{error}");
    let limits = Limits {
        header_bytes_max: 1,
        ..Limits::default()
    };
    assert_eq!(
        Server::bind(ANY_PORT, limits).unwrap_err().kind(),
        ErrorKind::InvalidLimit
    );
}

#[test]
fn binding_without_a_runtime_is_an_error() {
    let error = Server::bind(ANY_PORT, Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddressUnavailable);
}

#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<RequestTiming>>);

impl Observer for Recorder {
    fn on_response(&self, timing: &RequestTiming) {
        self.0.lock().unwrap().push(*timing);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_observer_sees_when_each_part_happened() {
    struct Working;
    impl Handler for Working {
        async fn handle(&self, mut request: Request<'_>) -> Response {
            let body = request.body.read_to_end(1 << 20).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
            Response::new(200)
                .chunk(body)
                .work(Duration::from_millis(30))
        }
    }
    let recorder = Arc::new(Recorder::default());
    let server = Server::bind(ANY_PORT, Limits::default())
        .unwrap()
        .observer(recorder.clone());
    let (address, control) = (server.local_addr(), server.control());
    let task = tokio::spawn(server.serve(Working));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = post("/", "", &[1; 10]);
    stream
        .write_all(&request[..request.len() - 3])
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    stream
        .write_all(&request[request.len() - 3..])
        .await
        .unwrap();
    let mut received = Vec::new();
    while take_answer(&mut received, false).is_none() {
        stream.read_buf(&mut received).await.unwrap();
    }
    control.shutdown(LONG);
    task.await.unwrap();

    let timings = recorder.0.lock().unwrap();
    let [timing] = timings[..] else {
        panic!("{timings:?}")
    };
    assert_eq!(
        (timing.status, timing.request_bytes, timing.response_bytes),
        (200, 10, 10)
    );
    assert!(
        timing.body_read - timing.head_read >= Duration::from_millis(15),
        "{timing:?}"
    );
    assert!(
        timing.response_start - timing.body_read >= Duration::from_millis(30),
        "{timing:?}"
    );
    assert!(timing.response_end >= timing.response_start);
    assert!(
        timing.overhead() < timing.response_start - timing.body_read,
        "{timing:?}"
    );
}
