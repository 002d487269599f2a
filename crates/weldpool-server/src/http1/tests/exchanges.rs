//! Requests and responses: order, keeping the connection, refusals.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_whole() {
    let answer = answer(post("/echo?a=b", "", b"hello")).await;
    assert_eq!(answer.head, "HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n");
    assert_eq!(answer.text(), "POST Some(\"a=b\") hello");
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order() {
    let mut input = Vec::new();
    for n in 0..50 {
        let body = format!("number {n}").repeat(n);
        input.extend(match n % 3 {
            0 => post("/echo", "", body.as_bytes()),
            1 => post_chunked("/echo", "", body.as_bytes(), 5),
            _ => get("/ignore").into_bytes(),
        });
    }
    let answers = answers(input).await;
    assert_eq!(answers.len(), 50);
    for (n, answer) in answers.iter().enumerate() {
        let expected = match n % 3 {
            2 => "ignored".to_owned(),
            _ => format!("POST None {}", format!("number {n}").repeat(n)),
        };
        assert_eq!(answer.text(), expected, "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_request_gets_the_head_alone() {
    let input = "HEAD /ignore HTTP/1.1\r\nHost: x\r\n\r\n";
    let received = talk(input.as_bytes(), 9, Limits::default()).await;
    let text = String::from_utf8(received).unwrap();
    assert!(
        text.contains("Content-Length: 7\r\n") && text.ends_with("\r\n\r\n"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_without_content_has_neither_length_nor_body() {
    let answers = answers(get("/nothing") + &get("/ignore")).await;
    assert_eq!(
        (answers[0].status, answers[0].header("content-length")),
        (204, None)
    );
    assert_eq!(answers[1].text(), "ignored");
}

#[tokio::test(start_paused = true)]
async fn the_date_is_sent_unless_it_is_switched_off() {
    let received = talk(get("/ignore").as_bytes(), 100, Limits::default()).await;
    let date = all_answers(received)[0].header("date").unwrap().to_owned();
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    assert_eq!(answer(get("/ignore")).await.header("date"), None);
}

#[tokio::test(start_paused = true)]
async fn versions_and_headers_decide_about_the_connection() {
    let cases = [
        ("HTTP/1.1", "", 2, None),
        ("HTTP/1.1", "Connection: close\r\n", 1, Some("close")),
        ("HTTP/1.0", "", 1, Some("close")),
        (
            "HTTP/1.0",
            "Connection: keep-alive\r\n",
            2,
            Some("keep-alive"),
        ),
    ];
    for (version, header, count, connection) in cases {
        let one = format!("GET /ignore {version}\r\nHost: x\r\n{header}\r\n");
        let answers = answers(one.clone() + &one).await;
        assert_eq!(answers.len(), count, "{version} {header:?}");
        assert_eq!(
            answers[0].header("connection"),
            connection,
            "{version} {header:?}"
        );
    }
    let answer = answer(get("/close") + &get("/ignore")).await;
    assert_eq!(
        (answer.text(), answer.header("connection")),
        ("closing", Some("close"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_only_its_connection() {
    let answer = answer(get("/panic") + &get("/ignore")).await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (500, Some("close"))
    );
    assert_eq!(answer.text(), "the server failed on this request\n");
}

#[tokio::test(start_paused = true)]
async fn broken_requests_are_refused_and_end_the_connection() {
    let cases = [
        (
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
            413,
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Encoding: br\r\n\r\n",
            415,
        ),
        ("POST / HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n", 417),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
            501,
        ),
        ("GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505),
        ("nonsense\r\n\r\n", 400),
        ("\0", 400),
    ];
    for (input, status) in cases {
        let answer = answer(input.to_owned() + &get("/ignore")).await;
        assert_eq!(
            (answer.status, answer.header("connection")),
            (status, Some("close"))
        );
        assert!(
            answer.text().lines().count() == 1 && answer.text().len() > 10,
            "{input}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_oversized_head_is_refused() {
    let filler = "x".repeat(20 << 10);
    let long_header = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {filler}\r\n\r\n");
    assert_eq!(answer(long_header).await.status, 431);
    let long_line = format!("GET /{filler} HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(answer(long_line).await.status, 414);
    let many = "GET / HTTP/1.1\r\nHost: x\r\n".to_owned() + &"A: b\r\n".repeat(64) + "\r\n";
    assert_eq!(answer(many).await.status, 431);
}

#[tokio::test(start_paused = true)]
async fn a_head_may_fill_the_buffer_to_the_last_byte() {
    let limits = Limits {
        header_bytes_max: 512,
        date_header: false,
        ..Limits::default()
    };
    for (filler, status) in [(512, 200), (513, 431)] {
        let frame = "GET /ignore HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n".len();
        let value = "v".repeat(filler - frame);
        let input = format!("GET /ignore HTTP/1.1\r\nHost: x\r\nA: {value}\r\n\r\n");
        let answers = all_answers(talk(input.repeat(2).as_bytes(), 64, limits.clone()).await);
        assert_eq!(answers[0].status, status, "{filler}");
        assert_eq!(answers.len(), if status == 200 { 2 } else { 1 });
    }
}

#[tokio::test(start_paused = true)]
async fn empty_lines_between_requests_are_skipped() {
    let input = format!("\r\n\n{}\r\n\r\n{}", get("/ignore"), get("/ignore"));
    assert_eq!(answers(input).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_in_the_middle_gets_no_answer() {
    assert!(answers("GET /ignore HT").await.is_empty());
    assert!(answers("").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn compression_is_negotiated() {
    let request = |accept: &str| {
        format!("GET /compress HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {accept}\r\n\r\n")
    };
    let plain = answer(request("br")).await;
    assert_eq!(
        (plain.header("content-encoding"), plain.body.len()),
        (None, 3000)
    );
    assert_eq!(plain.header("vary"), Some("Accept-Encoding"));
    let zipped = answer(request("deflate;q=0.5, gzip")).await;
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    let mut decoder = flate2::read::GzDecoder::new(&zipped.body[..]);
    std::io::Read::read_to_string(&mut decoder, &mut text).unwrap();
    assert_eq!(text, "abc".repeat(1000));
    assert_eq!(answer(get("/compress")).await.body.len(), 3000);
}
