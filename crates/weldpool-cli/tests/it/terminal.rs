//! What is drawn for a terminal.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// What the program writes to a terminal so many columns wide.
fn on_terminal(columns: u16, arguments: &[&str]) -> String {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let size = Winsize {
        ws_row: 50,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&ours, size).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_weldpool"));
    program
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(theirs)
        .stderr(Stdio::null());
    let mut child = program.spawn().unwrap();
    // Closes the copy of the terminal that it holds.
    drop(program);
    let mut written = Vec::new();
    let mut ours = File::from(ours);
    let mut part = [0; 4096];
    // The end of the last writer is an error on Linux, an empty read elsewhere.
    while let Ok(read @ 1..) = ours.read(&mut part) {
        written.extend_from_slice(&part[..read]);
    }
    assert!(child.wait().unwrap().success());
    String::from_utf8(written).unwrap()
}

#[test]
fn the_dashboard_is_as_wide_as_the_terminal_and_has_blocks() {
    let trace = crate::replay::recorded();
    for columns in [60, 131] {
        let text = on_terminal(columns, &["replay", trace.to_str().unwrap(), "--dashboard"]);
        let rule = "─".repeat(usize::from(columns));
        assert!(text.lines().any(|line| line == rule), "{columns}: {text}");
        assert!(text.contains('█'), "{text}");
        let start = text.find(&rule).unwrap();
        for line in text[start..].lines() {
            assert!(line.chars().count() <= usize::from(columns), "{line:?}");
        }
    }
}
