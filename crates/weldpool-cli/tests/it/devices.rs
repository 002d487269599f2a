//! `weldpool devices`.

use std::process::Command;

fn devices(format: &str, options: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weldpool"));
    let output = command
        .args(["devices", "--format", format])
        .args(options)
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn json_has_an_object_per_line_and_device() {
    let text = devices("json", &[]);
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["device"], "host:0");
    assert_eq!(first["kind"], "host");
    let total = first["memory_total_bytes"].as_u64().unwrap();
    assert!(total > 1 << 28);
    assert!(
        first["memory_available_bytes"]
            .as_u64()
            .is_none_or(|available| available <= total)
    );
    assert!(first["page_bytes"].as_u64().unwrap().is_power_of_two());
    assert!(!first["numa_nodes"].as_array().unwrap().is_empty());
}

#[test]
fn the_table_names_the_host() {
    let text = devices("table", &[]);
    assert!(text.starts_with("DEVICE"), "{text}");
    assert!(text.lines().nth(1).unwrap().starts_with("host:0"), "{text}");
}

#[test]
fn a_gpu_is_listed_or_said_not_to_be_here_and_why() {
    let text = devices("table", &[]);
    let gpu = text.lines().find(|line| line.starts_with("cuda"));
    let gpu = gpu.unwrap_or_else(|| panic!("{text}"));
    assert!(
        gpu.starts_with("cuda:0 ") || gpu.contains("is not here: "),
        "{gpu}"
    );
    let text = devices("json", &[]);
    let objects = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let gpu = objects.into_iter().find(|object: &serde_json::Value| {
        object["device"]
            .as_str()
            .is_some_and(|name| name.starts_with("cuda"))
    });
    let gpu = gpu.unwrap_or_else(|| panic!("{text}"));
    assert!(gpu["absent"].is_string() || gpu["kind"] == "cuda", "{gpu}");
}

#[test]
fn devices_made_of_software_show_on_request_only() {
    let names = |options| {
        let text = devices("json", options);
        let lines = text.lines().map(|line| {
            let device: serde_json::Value = serde_json::from_str(line).unwrap();
            device["device"].as_str().unwrap().to_owned()
        });
        lines.collect::<Vec<_>>()
    };
    let fakes = ["fake:discrete:0", "fake:apple:0"];
    assert!(
        fakes
            .iter()
            .all(|fake| !names(&[]).contains(&fake.to_string()))
    );
    assert!(
        fakes
            .iter()
            .all(|fake| names(&["--all"]).contains(&fake.to_string()))
    );
}
