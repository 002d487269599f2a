//! `weldpool trace convert` and `weldpool trace show`.

use std::path::Path;
use std::process::{Command, Output};

const CSV: &str = "op,id,bytes,stream,t_us\n\
    a,0,1048576,0,0\na,1,3000000,2,10\nf,0,1048576,0,2000\na,2,500,0,4000\nf,1,3000000,2,9000\n";

fn trace(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weldpool"));
    command.arg("trace").args(arguments).output().unwrap()
}

fn convert(from: &Path, to: &Path, more: &[&str]) -> Output {
    let mut arguments = vec!["convert", from.to_str().unwrap(), to.to_str().unwrap()];
    arguments.extend(more);
    trace(&arguments)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original.csv");
    std::fs::write(&original, CSV).unwrap();
    let target = folder.path().join("target.csv");
    std::fs::write(&target, "kept").unwrap();
    let link = folder.path().join("link.csv");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let output = convert(&original, &link, &[]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("is no regular file"));
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "kept");
}

#[test]
fn a_trace_comes_back_from_every_format_with_times_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original.csv");
    std::fs::write(&original, CSV).unwrap();
    for name in ["a.rmm", "a.pickle", "a.wpt", "a.csv.gz", "a.pkl.gz"] {
        let there = folder.path().join(name);
        let output = convert(&original, &there, &[]);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        assert!(text(&output.stdout).starts_with("5 events"), "{name}");
        let back = folder.path().join("back.csv");
        assert!(convert(&there, &back, &[]).status.success(), "{name}");
        assert_eq!(std::fs::read_to_string(&back).unwrap(), CSV, "{name}");
    }
    let rmm = "Thread,Time,Action,Pointer,Size,Stream";
    for (name, options, start) in [
        ("trace.log", &["--to", "stalloc"][..], "1 0x100 1048576 0\n"),
        ("trace.stalloc", &[], "1 0x100 1048576 0\n"),
        ("trace.txt", &[], "1 0x100 1048576 0\n"),
        ("rmm.log", &[], rmm),
    ] {
        let named = folder.path().join(name);
        let output = convert(&original, &named, options);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let written = std::fs::read_to_string(&named).unwrap();
        assert!(written.starts_with(start), "{name}: {written}");
    }
}

#[test]
fn a_conversion_that_fails_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.csv");
    std::fs::write(&broken, format!("{CSV}x,y,z\n")).unwrap();
    let out = folder.path().join("out.wpt");
    let output = convert(&broken, &out, &[]);
    assert!(!output.status.success());
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("broken.csv") && stderr.contains("line 7"),
        "{stderr}"
    );
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");

    let output = convert(&broken, &folder.path().join("out.unknown"), &[]);
    assert!(
        text(&output.stderr).contains("--to"),
        "{}",
        text(&output.stderr)
    );
    let output = convert(&broken, &out, &["--to", "sonnet"]);
    assert!(
        text(&output.stderr).contains("pytorch"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_drawing_is_an_svg_or_a_png_with_axes_and_legend() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("small.csv");
    std::fs::write(&csv, CSV).unwrap();
    let show = |name: &str| {
        let out = folder.path().join(name);
        let output = trace(&["show", csv.to_str().unwrap(), "-o", out.to_str().unwrap()]);
        (output, out)
    };
    let (output, out) = show("a.svg");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let svg = std::fs::read_to_string(out).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for part in [
        "small on host, preset fine",
        "trace time in us",
        "memory in MiB",
        "live",
        "cached",
        "reserved",
    ] {
        assert!(svg.contains(part), "{part} is missing");
    }
    let (output, out) = show("a.png");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let png = std::fs::read(out).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
    let size = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!((size(16), size(20)), (1200, 600));
    let (output, _) = show("a.gif");
    assert!(text(&output.stderr).contains("neither .svg nor .png"));
}
