//! Clients that are slow, in time that the tests control.

use tokio::time::Instant;

use super::*;

fn seconds_since(start: Instant) -> u64 {
    start.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_without_a_word() {
    let start = Instant::now();
    Client::connect(Limits::default()).closed().await;
    assert_eq!(seconds_since(start), 75);

    let mut client = Client::connect(Limits::default());
    tokio::time::sleep(Duration::from_secs(50)).await;
    client.send(get("/ignore")).await;
    client.answer().await;
    let start = Instant::now();
    client.closed().await;
    assert_eq!(seconds_since(start), 75);
}

#[tokio::test(start_paused = true)]
async fn a_head_has_its_time_from_the_first_byte() {
    let mut client = Client::connect(Limits::default());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let start = Instant::now();
    // One byte every three seconds: never idle, never done.
    for byte in get("/ignore").bytes().take(4) {
        client.send([byte]).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (408, Some("close"))
    );
    assert_eq!(seconds_since(start), 12);
    client.closed().await;
}

#[tokio::test(start_paused = true)]
async fn the_time_for_a_head_starts_anew_with_each_request() {
    let mut client = Client::connect(Limits::default());
    for _ in 0..5 {
        let (first, second) = ("GET /ignore HTTP/1.1\r\n", "Host: x\r\n\r\n");
        client.send(first).await;
        tokio::time::sleep(Duration::from_secs(9)).await;
        client.send(second).await;
        assert_eq!(client.answer().await.text(), "ignored");
        tokio::time::sleep(Duration::from_secs(70)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_times_out() {
    let mut client = Client::connect(Limits::default());
    client
        .send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    let start = Instant::now();
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.header("x-kind")),
        (408, Some("timeout"))
    );
    assert_eq!(seconds_since(start), 30);
    client.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_only_trickles_times_out() {
    let body_seconds = async |bytes_per_second: usize, rate_min: u64| {
        let limits = Limits {
            body_rate_min: rate_min,
            ..Limits::default()
        };
        let mut client = Client::connect(limits);
        client
            .send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
            .await;
        let start = Instant::now();
        let (mut reader, mut writer) = tokio::io::split(client.stream);
        let sending = tokio::spawn(async move {
            for _ in 0..60_000 / bytes_per_second {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if writer
                    .write_all(&vec![b'x'; bytes_per_second])
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
        let mut line = [0; 12];
        reader.read_exact(&mut line).await.unwrap();
        sending.abort();
        (
            String::from_utf8_lossy(&line[9..]).into_owned(),
            seconds_since(start),
        )
    };
    // 30 s of grace, and 100 bytes a second earn 100/240 s each.
    let (status, seconds) = body_seconds(100, 240).await;
    assert_eq!(status, "408");
    assert!((45..60).contains(&seconds), "{seconds}");
    assert_eq!(body_seconds(300, 240).await, ("200".to_owned(), 200));
    assert_eq!(body_seconds(100, 0).await, ("200".to_owned(), 600));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_stops_sending_is_cut_off() {
    let mut client = Client::connect(Limits::default());
    client.send("nonsense\r\n\r\n").await;
    let start = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(client.stream);
    while writer.write_all(b"more").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(seconds_since(start), 1);
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off() {
    let limits = Limits {
        write_idle_time: Duration::from_secs(20),
        ..Limits::default()
    };
    let mut client = Client::connect(limits);
    client
        .send("GET /compress HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let start = Instant::now();
    client.serving.await.unwrap();
    assert_eq!(seconds_since(start), 20);
}

#[tokio::test]
async fn unusable_limits_are_refused() {
    let (_client, server) = duplex(64);
    let limits = Limits {
        header_bytes_max: 0,
        ..Limits::default()
    };
    let error = serve_connection(Stream(server), &Scripted::default(), limits)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), super::super::ErrorKind::InvalidLimit);
}
