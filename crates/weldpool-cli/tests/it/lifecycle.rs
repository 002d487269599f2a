//! Loading, unloading and stopping a running server.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use crate::models::Folder;
use crate::server::{Server, receive, until};

const LIVE: &str = "weldpool_pool_live_bytes{pool=\"host:0\"}";

fn infer(model: &str, value: i32) -> (String, String) {
    let body = format!(
        "{{\"inputs\":[{{\"name\":\"x\",\"shape\":[1,1],\"datatype\":\"FP32\",\"data\":[{value}]}}]}}"
    );
    (format!("/v2/models/{model}/infer"), body)
}

#[test]
fn clients_load_and_unload() {
    let folder = Folder::new("explicit");
    folder.add("a", 1, "identity_fp32");
    folder.add("b", 1, "identity_fp32");
    let options = ["--model-control-mode=explicit", "--load-model=a"];
    let server = Server::start(folder.path(), &options);
    let at_start = server.metric(LIVE);
    assert_eq!(server.get("/v2/models/b").status, 404);
    assert_eq!(server.post("/v2/repository/models/b/load", "").status, 200);
    assert_eq!(server.get("/v2/models/b/ready").status, 200);
    let (path, body) = infer("b", 5);
    let answer = server.post(&path, &body);
    assert_eq!(answer.json()["outputs"][0]["data"][0], 5.0, "{answer:?}");
    assert_eq!(
        server.post("/v2/repository/models/b/unload", "").status,
        200
    );
    let answer = server.get("/v2/models/b");
    assert_eq!(answer.status, 404);
    assert!(
        answer.body.contains("has no available versions"),
        "{answer:?}"
    );
    assert_eq!(
        server.metric(LIVE),
        at_start,
        "the model's memory went back to the pool"
    );
    // A model that cannot be loaded anew goes on running.
    folder.write("a/1/model.onnx", "nonsense");
    let answer = server.post("/v2/repository/models/a/load", "");
    assert!(
        answer.status >= 400 && answer.body.contains("model.onnx"),
        "{answer:?}"
    );
    let (path, body) = infer("a", 6);
    assert_eq!(server.post(&path, &body).status, 200);
}

#[test]
fn without_explicit_control_clients_may_not() {
    let folder = Folder::new("control");
    folder.add("a", 1, "identity_fp32");
    let server = Server::start(folder.path(), &[]);
    for action in ["load", "unload"] {
        let answer = server.post(&format!("/v2/repository/models/a/{action}"), "");
        assert_eq!(answer.status, 503, "{answer:?}");
    }
}

#[test]
fn a_polled_repository_is_followed() {
    let folder = Folder::new("poll");
    folder.add("a", 1, "identity_fp32");
    let options = ["--model-control-mode=poll", "--repository-poll-secs=1"];
    let server = Server::start(folder.path(), &options);
    folder.add("a", 2, "identity_fp32");
    folder.add("b", 1, "identity_fp32");
    let versions = || server.get("/v2/models/a").json()["versions"].clone();
    until(|| (versions() == serde_json::json!(["2"])).then_some(()));
    until(|| (server.get("/v2/models/b/ready").status == 200).then_some(()));
    std::fs::remove_dir_all(folder.path().join("b")).unwrap();
    until(|| (server.get("/v2/models/b/ready").status == 400).then_some(()));
}

#[test]
fn versions_follow_the_policy() {
    let folder = Folder::new("versions");
    for version in [1, 3, 4] {
        folder.add("all", version, "identity_fp32");
        folder.add("some", version, "identity_fp32");
    }
    folder.write("all/config.pbtxt", "version_policy { all { } }");
    folder.write(
        "some/config.pbtxt",
        "version_policy { specific { versions: [ 1, 3 ] } }",
    );
    let server = Server::start(folder.path(), &[]);
    let versions =
        |model: &str| server.get(&format!("/v2/models/{model}")).json()["versions"].clone();
    assert_eq!(versions("all"), serde_json::json!(["1", "3", "4"]));
    assert_eq!(versions("some"), serde_json::json!(["1", "3"]));
    let (_, body) = infer("some", 1);
    let answer = server.post("/v2/models/some/infer", &body);
    assert_eq!(
        answer.json()["model_version"],
        "3",
        "the latest is the default"
    );
    assert_eq!(
        server
            .post("/v2/models/some/versions/1/infer", &body)
            .json()["model_version"],
        "1"
    );
    assert_eq!(
        server
            .post("/v2/models/some/versions/4/infer", &body)
            .status,
        404
    );
}

/// Opens a connection and sends a request but for the end of its body, which is returned.
fn begin(server: &Server, path: &str, body: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(&server.http).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let (first, rest) = body.split_at(body.len() - 1);
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(first.as_bytes()).unwrap();
    (stream, rest.to_owned())
}

/// A request whose body is half sent when the signal comes is still answered.
#[test]
fn requests_in_flight_are_answered_before_the_end() {
    let folder = Folder::new("stop");
    folder.add("a", 1, "identity_fp32");
    for name in ["TERM", "INT"] {
        let server = Server::start(folder.path(), &[]);
        let (path, body) = infer("a", 7);
        let (mut stream, rest) = begin(&server, &path, &body);
        std::thread::sleep(Duration::from_millis(300));
        server.signal(name);
        let address = server.http.clone();
        until(|| TcpStream::connect(&address).is_err().then_some(()));
        stream.write_all(rest.as_bytes()).unwrap();
        let answer = receive(&mut stream);
        assert_eq!(
            (answer.status, &answer.json()["outputs"][0]["data"][0]),
            (200, &7.0.into())
        );
        assert!(server.wait().success(), "{name}");
    }
}

/// A run that the engine is in the middle of when the signal comes is still answered.
#[test]
fn runs_under_way_are_answered_before_the_end() {
    let folder = Folder::new("stop-run");
    folder.add("slow", 1, "large_conv");
    let server = Server::start(folder.path(), &[]);
    let shape = &server.get("/v2/models/slow").json()["inputs"][0]["shape"];
    let sizes: Vec<i64> = shape
        .as_array()
        .unwrap()
        .iter()
        .map(|size| size.as_i64().unwrap())
        .collect();
    let sizes: Vec<i64> = match sizes.as_slice() {
        [first, rest @ ..] => {
            let first = if *first < 0 { 1 } else { *first };
            let rest = rest.iter().map(|size| if *size < 0 { 512 } else { *size });
            std::iter::once(first).chain(rest).collect()
        }
        [] => Vec::new(),
    };
    let count: i64 = sizes.iter().product();
    let data = vec!["1"; usize::try_from(count).unwrap()].join(",");
    let body = format!(
        "{{\"inputs\":[{{\"name\":\"x\",\"shape\":{sizes:?},\"datatype\":\"FP32\",\"data\":[{data}]}}],\
         \"outputs\":[{{\"name\":\"y\",\"parameters\":{{\"classification\":1}}}}]}}"
    );
    let (mut stream, rest) = begin(&server, "/v2/models/slow/infer", &body);
    stream.write_all(rest.as_bytes()).unwrap();
    let pending = "nv_inference_pending_request_count{model=\"slow\",version=\"1\"}";
    until(|| (server.metric(pending) > 0.0).then_some(()));
    server.signal("TERM");
    let answer = receive(&mut stream);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(server.wait().success());
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = Folder::new("stop-twice");
    folder.add("a", 1, "identity_fp32");
    let server = Server::start(folder.path(), &[]);
    let (path, body) = infer("a", 7);
    let (_stream, _rest) = begin(&server, &path, &body);
    server.signal("TERM");
    let address = server.http.clone();
    until(|| TcpStream::connect(&address).is_err().then_some(()));
    server.signal("TERM");
    assert!(!server.wait().success());
}

#[test]
fn requests_beyond_the_limit_are_turned_away() {
    let folder = Folder::new("limit");
    folder.add("a", 1, "identity_fp32");
    let server = Server::start(folder.path(), &["--max-requests=1"]);
    let (path, body) = infer("a", 7);
    let (mut stream, rest) = begin(&server, &path, &body);
    std::thread::sleep(Duration::from_millis(300));
    let refused = server.post(&path, &body);
    assert_eq!(refused.status, 503, "{refused:?}");
    stream.write_all(rest.as_bytes()).unwrap();
    assert_eq!(receive(&mut stream).status, 200);
    assert_eq!(server.post(&path, &body).status, 200);
    let failures = "nv_inference_request_failure{model=\"a\",reason=\"REJECTED\",version=\"1\"}";
    assert!(server.metric(failures) >= 1.0);
}

#[test]
fn the_pools_limit_is_an_error_of_the_request() {
    let folder = Folder::new("pool-limit");
    folder.add("a", 1, "identity_fp32");
    let server = Server::start(folder.path(), &["--pool-limit=4194304"]);
    let data = vec!["1"; 1 << 20].join(",");
    let large = format!(
        "{{\"inputs\":[{{\"name\":\"x\",\"shape\":[1,1048576],\"datatype\":\"FP32\",\"data\":[{data}]}}]}}"
    );
    let (path, small) = infer("a", 7);
    let refused = server.post(&path, &large);
    assert_eq!(
        refused.status,
        503,
        "{}",
        &refused.body[..refused.body.len().min(300)]
    );
    assert!(refused.body.contains("limit"), "{refused:?}");
    assert_eq!(server.post(&path, &small).status, 200);
}
