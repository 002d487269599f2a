//! Loading, unloading and stopping a running server.

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

/// A request whose body is half sent when SIGTERM comes is still answered.
#[test]
fn requests_in_flight_are_answered_before_the_end() {
    let folder = Folder::new("stop");
    folder.add("a", 1, "identity_fp32");
    let server = Server::start(folder.path(), &[]);
    let (path, body) = infer("a", 7);
    let (first, rest) = body.split_at(20);
    let mut stream = TcpStream::connect(&server.http).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{first}",
        body.len()
    );
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    server.terminate();
    let address = server.http.clone();
    until(|| TcpStream::connect(&address).is_err().then_some(()));
    std::io::Write::write_all(&mut stream, rest.as_bytes()).unwrap();
    let answer = receive(&mut stream);
    assert_eq!(
        (answer.status, &answer.json()["outputs"][0]["data"][0]),
        (200, &7.0.into())
    );
    assert!(server.wait().success());
}
