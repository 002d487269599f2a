//! The start of a server: what must not go wrong silently.

use std::net::TcpListener;

use crate::models::Folder;
use crate::server::{Server, command};

/// Runs a server that must not start, and returns its one line about it.
fn refused(folder: &Folder, options: &[&str]) -> String {
    let output = command(folder.path(), options).output().unwrap();
    assert!(!output.status.success(), "{options:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let errors: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{text}");
    errors[0].to_owned()
}

#[test]
fn a_taken_port_is_named() {
    let folder = Folder::new("taken");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for option in ["--http-port", "--metrics-port"] {
        let error = refused(&folder, &[option, &port]);
        assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
        assert!(error.contains("in use"), "{error}");
    }
}

#[test]
fn an_unreadable_repository_is_named() {
    let folder = Folder::new("unreadable");
    folder.write("file", "");
    for name in ["missing", "file"] {
        let path = folder.path().join(name);
        let path = path.to_str().unwrap();
        let error = refused(&folder, &["--model-repository", path]);
        assert!(error.contains(path), "{error}");
    }
}

#[test]
fn a_broken_model_is_named_with_its_reason() {
    let folder = Folder::new("broken");
    folder.add("good", 1, "identity_fp32");
    folder.write("broken/1/model.onnx", "nonsense");
    folder.add("wrong", 1, "identity_fp32");
    folder.write(
        "wrong/config.pbtxt",
        "max_batch_size: 8\nno_such_field: 1\n",
    );
    let error = refused(&folder, &[]);
    assert!(
        error.contains("broken") && error.contains("model.onnx"),
        "{error}"
    );
    assert!(
        error.contains("config.pbtxt:2") && error.contains("no_such_field"),
        "{error}"
    );

    let server = Server::start(folder.path(), &["--exit-on-error=false"]);
    assert_eq!(server.get("/v2/models/good/ready").status, 200);
    assert_eq!(server.get("/v2/models/broken/ready").status, 400);
    assert_eq!(server.get("/v2/health/live").status, 200);
    assert_eq!(
        server.get("/v2/health/ready").status,
        400,
        "readiness is strict"
    );
    let index = server.post("/v2/repository/index", "").json();
    let broken = index
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["name"] == "broken")
        .unwrap();
    assert_eq!(broken["state"], "UNAVAILABLE");
    assert!(broken["reason"].as_str().unwrap().contains("model.onnx"));

    let options = ["--exit-on-error=false", "--strict-readiness=false"];
    let server = Server::start(folder.path(), &options);
    assert_eq!(server.get("/v2/health/ready").status, 200);
}

#[test]
fn fields_that_are_not_implemented_are_reported() {
    let folder = Folder::new("reported");
    folder.add("m", 1, "identity_fp32");
    folder.write("m/config.pbtxt", "response_cache { enable: true }\n");
    let mut child = command(folder.path(), &[])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let found = lines
        .by_ref()
        .map(Result::unwrap)
        .find(|line| line.contains("response_cache"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(found.unwrap().contains("ignored"));
}

/// A program that waits for the lines about the start would wait for ever.
#[cfg(target_os = "linux")]
#[test]
fn standard_output_without_room_is_an_error() {
    let folder = Folder::new("full");
    let mut command = command(folder.path(), &[]);
    let output = command
        .stdout(crate::output::full())
        .stderr(std::process::Stdio::piped())
        .output();
    crate::output::assert_error(&output.unwrap(), "serve");
}

#[cfg(unix)]
#[test]
fn a_reader_that_went_away_does_not_stop_the_server() {
    let folder = Folder::new("unread");
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let port = address.port().to_string();
    let mut command = command(folder.path(), &["--http-port", &port]);
    let child = command
        .stdout(crate::output::closed())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let start = std::time::Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(start.elapsed().as_secs() < 60, "the server does not answer");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // It says where it listens once it does.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(ended.is_none() && !stderr.contains("panicked"), "{stderr}");
}
