//! Bodies: framing, codings, destinations, and handlers that do not read them.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::*;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * n / 251) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn every_framing_and_coding_gives_the_same_body() {
    let data = pattern(40_000);
    let gzip_header = "Content-Encoding: gzip\r\n";
    let deflate_header = "Content-Encoding: deflate\r\n";
    let requests = [
        post("/echo", "", &data),
        post_chunked("/echo", "", &data, 999),
        post("/echo", gzip_header, &gzip(&data)),
        post_chunked("/echo", gzip_header, &gzip(&data), 77),
        post("/echo", deflate_header, &deflate(&data)),
    ];
    for request in requests {
        let answers = answers([request, get("/ignore").into_bytes()].concat()).await;
        assert_eq!(answers[0].status, 200, "{}", answers[0].head);
        assert_eq!(answers[0].body[10..], data);
        assert_eq!(answers[1].text(), "ignored");
    }
}

#[tokio::test(start_paused = true)]
async fn parts_are_read_apart() {
    for lengths in [
        [1, 2, 3, 4],
        [0, 0, 0, 0],
        [0, 7, 0, 9],
        [255, 0, 0, 1],
        [200, 250, 240, 255],
    ] {
        let total: usize = lengths.iter().map(|length| usize::from(*length) * 50).sum();
        let data = pattern(total);
        let body = [&lengths[..], &data].concat();
        let header = "Content-Encoding: gzip\r\n";
        for request in [
            post("/parts", "", &body),
            post_chunked("/parts", "", &body, 1000),
            post("/parts", header, &gzip(&body)),
        ] {
            let answer = answer(request).await;
            assert_eq!(answer.status, 200, "{}", answer.head);
            assert!(answer.body == data, "{lengths:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_of_another_length_than_expected_is_refused() {
    let short = post("/parts", "", b"\x01\x01\x01\x01too short");
    let answers_to_short = answers([short, get("/ignore").into_bytes()].concat()).await;
    assert_eq!(answers_to_short[0].status, 400);
    assert_eq!(answers_to_short[0].header("x-kind"), Some("short"));
    assert_eq!(
        answers_to_short[1].text(),
        "ignored",
        "nothing was read in vain"
    );

    let long = answer(post_chunked("/parts", "", b"\0\0\0\0too long", 3)).await;
    assert_eq!(
        (long.status, long.header("x-kind")),
        (400, Some("malformed"))
    );
    let short = answer(post_chunked("/parts", "", b"\x01\0\0\0too short", 3)).await;
    assert_eq!((short.status, short.header("x-kind")), (400, Some("short")));
}

#[tokio::test(start_paused = true)]
async fn a_bound_of_the_handler_costs_nothing_but_the_rest() {
    let small = post("/bounded", "", &[b'a'; 10]);
    let large = post("/bounded", "", &[b'a'; 11]);
    let small_chunks = post_chunked("/bounded", "", &[b'a'; 10], 4);
    let large_chunks = post_chunked("/bounded", "", &[b'a'; 30], 4);
    let texts: Vec<_> = answers([small, large, small_chunks, large_chunks].concat())
        .await
        .iter()
        .map(|answer| answer.text().to_owned())
        .collect();
    assert_eq!(
        texts,
        ["Ok(10)", "Err(BodyTooLarge)", "Ok(10)", "Err(BodyTooLarge)"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_unread_body_is_skipped_if_it_is_short() {
    for request in [
        post("/ignore", "", &pattern(1000)),
        post_chunked("/ignore", "", &pattern(1000), 10),
        post("/first-three", "", b"abcdef"),
        post_chunked("/first-three", "", b"abcdef", 3),
        post("/ignore", "Content-Encoding: gzip\r\n", b"not gzip at all"),
    ] {
        let answers = answers([request, get("/ignore").into_bytes()].concat()).await;
        assert_eq!(answers.len(), 2, "{answers:?}");
        assert_eq!(answers[0].header("connection"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unread_body_that_is_long_costs_the_connection() {
    let body = pattern(100_000);
    let known = answer([post("/ignore", "", &body), get("/ignore").into_bytes()].concat()).await;
    assert_eq!(
        (known.text(), known.header("connection")),
        ("ignored", Some("close"))
    );
    let chunked = post_chunked("/ignore", "", &body, 5000);
    let unknown = answer([chunked, get("/ignore").into_bytes()].concat()).await;
    assert_eq!(unknown.text(), "ignored");
}

#[tokio::test(start_paused = true)]
async fn a_broken_body_is_an_error_of_the_read_and_ends_the_connection() {
    let chunked = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let zip = "Content-Encoding: gzip\r\n";
    let zipped = gzip(&pattern(5000));
    let mut damaged = zipped.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let cases = [
        (format!("{chunked}zz\r\n").into_bytes(), "malformed", 400),
        (
            format!("{chunked}3\r\nabcde\r\n").into_bytes(),
            "malformed",
            400,
        ),
        (
            format!("{chunked}fffffffffff\r\n").into_bytes(),
            "large",
            413,
        ),
        (
            format!("{chunked}1;{}", "x".repeat(20_000)).into_bytes(),
            "header",
            431,
        ),
        (post("/echo", zip, b"not gzip at all"), "malformed", 400),
        (
            post("/echo", zip, &zipped[..zipped.len() - 3]),
            "malformed",
            400,
        ),
        (post("/echo", zip, &damaged), "malformed", 400),
    ];
    for (request, kind, status) in cases {
        let answer = answer([request, get("/ignore").into_bytes()].concat()).await;
        assert_eq!(
            (answer.header("x-kind"), answer.status),
            (Some(kind), status)
        );
        assert_eq!(answer.header("connection"), Some("close"), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_cut_off_is_told_to_the_handler() {
    for request in [
        post("/echo", "", b"whole body"),
        post_chunked("/echo", "", b"whole body", 4),
    ] {
        let answer = answer(&request[..request.len() - 8]).await;
        assert_eq!(answer.header("x-kind"), Some("disconnected"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_body_that_decodes_to_a_large_one_is_stopped() {
    let limits = Limits {
        decoded_bytes_max: 100_000,
        date_header: false,
        ..Limits::default()
    };
    let header = "Content-Encoding: gzip\r\n";
    for (length, status) in [(100_000, 200), (100_001, 413), (10_000_000, 413)] {
        let bomb = gzip(&vec![0; length]);
        assert!(bomb.len() < 20_000);
        for request in [
            post("/echo", header, &bomb),
            post_chunked("/echo", header, &bomb, 50),
        ] {
            let answers = all_answers(talk(&request, 333, limits.clone()).await);
            assert_eq!(answers[0].status, status, "{length}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunked_body_obeys_the_limit_on_bodies() {
    let limits = Limits {
        body_bytes_max: 1000,
        date_header: false,
        ..Limits::default()
    };
    for (length, status) in [(1000, 200), (1001, 413)] {
        let chunked = post_chunked("/echo", "", &pattern(length), 100);
        let answers = all_answers(talk(&chunked, 64, limits.clone()).await);
        assert_eq!(answers[0].status, status, "{length}");
        let known = post("/echo", "", &pattern(length));
        let answers = all_answers(talk(&known, 64, limits.clone()).await);
        assert_eq!(answers[0].status, status, "{length}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_is_told_to_continue() {
    let head =
        "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let mut client = Client::connect(Limits::default());
    for _ in 0..2 {
        client.send(head).await;
        assert_eq!(client.answer().await.head, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send("body").await;
        assert_eq!(client.answer().await.text(), "POST None body");
    }
    // The body came along, so nobody waits.
    client.send(format!("{head}body")).await;
    assert_eq!(client.answer().await.text(), "POST None body");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_in_vain_gets_the_answer_and_a_new_connection() {
    let mut client = Client::connect(Limits::default());
    client
        .send(
            "POST /ignore HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    client.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_read_leaves_the_stream_whole() {
    let mut client = Client::connect(Limits::default());
    client
        .send("POST /give-up HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        .await;
    client.send([1; 60]).await;
    assert_eq!(client.answer().await.text(), "gave up");
    client.send([2; 40]).await;
    client.send(get("/ignore")).await;
    assert_eq!(client.answer().await.text(), "ignored");
}

#[tokio::test(start_paused = true)]
async fn a_handler_can_notice_that_the_client_left() {
    let handler = std::sync::Arc::new(Scripted::default());
    let (mut stream, server) = duplex(256);
    let served = handler.clone();
    let serving = tokio::spawn(async move {
        serve_connection(Stream(server), &served, Limits::default())
            .await
            .unwrap();
    });
    stream.write_all(&post("/watch", "", b"")).await.unwrap();
    // A pipelined request is no reason to think so.
    stream.write_all(get("/ignore").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(handler.deserted.load(Ordering::SeqCst), 0);
    drop(stream);
    serving.await.unwrap();
    assert_eq!(handler.deserted.load(Ordering::SeqCst), 1);
}
