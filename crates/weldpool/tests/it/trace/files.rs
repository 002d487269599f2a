//! Reading and writing of each format.

use std::path::Path;

use weldpool::trace::{
    Event, Format, Op, ReadOptions, Reader, Recorder, TraceErrorKind, Writer, compact, read_all,
};

use super::{event, read, write};

fn of_text(text: &str) -> Reader {
    let bytes = std::io::Cursor::new(text.to_owned().into_bytes());
    Reader::new(bytes, ReadOptions::default()).unwrap()
}

fn events() -> Vec<Event> {
    vec![
        event(Op::Allocate, 0, 1 << 40, 0, 0),
        event(Op::Allocate, 1, 1, 7, 3),
        event(Op::Free, 0, 1 << 40, 3, 3),
        event(Op::Allocate, 2, 513, 0, 1_000_000),
        event(Op::Free, 1, 1, 7, 90_000_000_000),
    ]
}

#[test]
fn what_is_written_in_any_format_is_recognised_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    for format in Format::ALL {
        for end in ["", ".gz"] {
            // The name says nothing: contents decide.
            let path = folder.path().join(format!("trace-{format}{end}"));
            write(&path, format, &events());
            let (read, skipped, recognised) = read(&path);
            assert_eq!(recognised, format);
            let mut expected = events();
            if format == Format::Stalloc {
                // It has no times.
                for (time_us, event) in expected.iter_mut().enumerate() {
                    event.time_us = time_us as u64;
                }
            }
            if format == Format::Rmm {
                // It has times of a day.
                expected[4].time_us %= 24 * 3_600_000_000;
            }
            assert_eq!(read, expected, "{format}{end}");
            // A snapshot also says what became of the segments, one for each stream here.
            let markers = if format == Format::PyTorch { 2 } else { 0 };
            assert_eq!(skipped.markers, markers, "{format}{end}");
            assert_eq!((skipped.frees, skipped.implied_frees), (0, 0));
            let start = std::fs::read(&path).unwrap();
            assert_eq!(start.starts_with(&[0x1f, 0x8b]), end == ".gz");
        }
    }
}

#[test]
fn a_trace_without_events_is_one_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    for format in Format::ALL {
        let path = folder.path().join(format.name());
        write(&path, format, &[]);
        let options = ReadOptions::default();
        let reader = match format {
            // Nothing at all cannot be recognised.
            Format::Stalloc => {
                let error = Reader::open_with(&path, options).unwrap_err();
                assert_eq!(error.kind(), TraceErrorKind::Unsupported);
                continue;
            }
            _ => Reader::open_with(&path, options).unwrap(),
        };
        assert_eq!(read_all(reader).unwrap().0, []);
    }
}

#[test]
fn threads_are_kept_where_a_format_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut events = events();
    events[2].thread = 5;
    for (format, has) in [
        (Format::Csv, true),
        (Format::Rmm, true),
        (Format::Compact, true),
        (Format::Stalloc, false),
        (Format::PyTorch, false),
    ] {
        let path = folder.path().join(format.name());
        write(&path, format, &events);
        let threads: Vec<_> = read(&path).0.iter().map(|event| event.thread).collect();
        let expected = if has { [0, 0, 5, 0, 0] } else { [0; 5] };
        assert_eq!(threads, expected, "{format}");
    }
}

#[test]
fn csv_names_line_and_column_of_what_is_wrong() {
    let heading = "op,id,bytes,stream,t_us\n";
    for (line, part) in [
        ("x,1,2,3,4", "op"),
        ("a,-1,2,3,4", "id"),
        ("a,1,2.5,3,4", "bytes"),
        ("a,1", "bytes"),
        ("a,1,2,s,4", "stream"),
        ("a,1,99999999999999999999,3,4", "bytes"),
    ] {
        let mut reader = of_text(&format!("{heading}a,0,1,0,0\n\n{line}\n"));
        assert!(reader.next().unwrap().is_ok());
        let error = reader.next().unwrap().unwrap_err();
        assert_eq!(
            (error.kind(), error.line()),
            (TraceErrorKind::Format, Some(4))
        );
        assert!(error.to_string().contains(part), "{error}");
        assert!(reader.next().is_none(), "nothing follows an error");
    }
    let long = format!("{heading}a,{}\n", "1".repeat(70_000));
    let error = of_text(&long).next().unwrap().unwrap_err();
    assert_eq!(error.kind(), TraceErrorKind::Limit);
}

#[test]
fn csv_columns_are_found_by_name_and_times_may_lack() {
    let events: Vec<_> = of_text("bytes,op,note,id\r\n10,a,hello,4\r\n10,f,,4\r\n")
        .collect::<Result<_, _>>()
        .unwrap();
    let expected = [
        event(Op::Allocate, 0, 10, 0, 0),
        event(Op::Free, 0, 10, 0, 0),
    ];
    assert_eq!(events, expected);
}

#[test]
fn rmm_logs_are_read_with_what_real_ones_contain() {
    let mut reader = of_text(
        "Thread,Time,Action,Pointer,Size,Stream\n\
         1,10:00:00.000100,free,0x7f0000000400,64,0\n\
         1,10:00:00.000100,allocate,0x7f0000000000,1024,0x2\n\
         2,10:00:00:000150,allocate failure,(nil),999999999999,0x2\n\
         2,10:00:01.000100,allocate,(nil),0,0\n\
         1,10:00:01.000200,free,(nil),0,0\n\
         2,10:00:02.000100,free,0x7f0000000000,1024,5\n",
    );
    assert_eq!(reader.format(), Format::Rmm);
    let events: Vec<_> = reader.by_ref().collect::<Result<_, _>>().unwrap();
    let thread = |thread, event| Event { thread, ..event };
    assert_eq!(
        events,
        [
            thread(1, event(Op::Allocate, 0, 1024, 2, 0)),
            thread(2, event(Op::Free, 0, 1024, 5, 2_000_000)),
        ]
    );
    let skipped = reader.skipped();
    assert_eq!((skipped.frees, skipped.failures, skipped.empty), (1, 1, 1));

    let mut reader = of_text("Thread,Time,Action,Pointer,Size,Stream\n1,1:2:3.4,leak,0x1,2,3\n");
    let error = reader.next().unwrap().unwrap_err();
    assert_eq!(error.line(), Some(2));
    assert!(error.to_string().contains("leak"), "{error}");
}

#[test]
fn stalloc_texts_are_read_with_their_markers() {
    let mut reader = of_text(include_str!("../../data/example.stalloc"));
    assert_eq!(reader.format(), Format::Stalloc);
    let events: Vec<_> = reader.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(
        events,
        [
            event(Op::Allocate, 0, 1, 0, 0),
            event(Op::Allocate, 1, 4096, 0x55d0, 1),
            event(Op::Free, 0, 1, 0, 2),
        ]
    );
    let skipped = reader.skipped();
    assert_eq!((skipped.markers, skipped.frees, skipped.empty), (4, 1, 1));
    let error = of_text("1 0x7f 1 0\n1 0xzz 1 0\n")
        .nth(1)
        .unwrap()
        .unwrap_err();
    assert_eq!(error.line(), Some(2));
}

#[test]
fn errors_name_the_file_the_place_the_cause_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.csv.gz");
    write(&path, Format::Csv, &events());
    let whole = std::fs::read(&path).unwrap();
    let half = &whole[..whole.len() / 2];
    for (name, contents, parts) in [
        (
            "a.csv",
            &b"op,id,bytes\na,0,1\nx,1,2\n"[..],
            ["line 3: op is \"x\"", "repair the file"],
        ),
        (
            "b.csv",
            b"id,bytes\na,0\n",
            ["not recognised", "begins with the line op,id,bytes"],
        ),
        ("empty", b"", ["the file is empty", "again"]),
        (
            "cut.csv.gz",
            half,
            ["cannot be read: ", "cut short or damaged"],
        ),
        (
            "a.wpt",
            b"WELDTRC\0\x01\0\0\0\xff\xff",
            ["offset 13: 0xff", "repair the file"],
        ),
        (
            "a.pickle",
            b"\x80\x04\x95",
            ["offset 3: the pickle ends", "repair the file"],
        ),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, contents).unwrap();
        let error = Reader::open(&path).and_then(read_all).unwrap_err();
        assert_eq!(error.path(), Some(path.as_path()));
        let text = error.to_string();
        assert!(text.starts_with(&format!("{}: ", path.display())), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert_eq!(format!("{error:?}"), format!("{:?}: {text}", error.kind()));
    }
    let missing = folder.path().join("no/such");
    let errors = [
        Reader::open(&missing).unwrap_err(),
        compact::Reader::open(&missing).unwrap_err(),
        Recorder::create(&missing).unwrap_err(),
        Writer::create(&missing, Format::Csv).unwrap_err(),
    ];
    for error in errors {
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("{}: the trace cannot be ", missing.display())),
            "{text}"
        );
        assert!(
            text.contains("No such file") && text.ends_with("; check the path"),
            "{text}"
        );
        assert!(error.io_error().is_some());
    }
}

#[test]
fn what_is_no_trace_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, contents) in [
        ("empty", &b""[..]),
        ("text", b"hello\n"),
        ("binary", &[0; 64]),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, contents).unwrap();
        let error = Reader::open(&path).unwrap_err();
        assert_eq!(error.kind(), TraceErrorKind::Unsupported, "{name}: {error}");
    }
    let error = Reader::open(folder.path().join("missing")).unwrap_err();
    assert_eq!(error.kind(), TraceErrorKind::Io);
    // Compressed, but cut short.
    let path = folder.path().join("cut.csv.gz");
    write(&path, Format::Csv, &events());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 12]).unwrap();
    let failed = Reader::open(&path).and_then(read_all).unwrap_err();
    assert_eq!(failed.kind(), TraceErrorKind::Io);
}

#[test]
fn damaged_files_of_every_format_are_errors_at_worst() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = 7_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize
    };
    for format in Format::ALL {
        let path = folder.path().join(format.name());
        write(&path, format, &events());
        let whole = std::fs::read(&path).unwrap();
        for _ in 0..2000 {
            let mut damaged = whole.clone();
            for _ in 0..1 + random() % 4 {
                let at = random() % damaged.len();
                damaged[at] = random() as u8;
            }
            let mut options = ReadOptions::default();
            options.format = Some(format);
            let read = Reader::new(std::io::Cursor::new(damaged), options).and_then(read_all);
            if let Err(error) = read {
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

#[test]
fn names_stand_for_formats() {
    for (name, format) in [
        ("a.csv", Some(Format::Csv)),
        ("a.CSV.gz", Some(Format::Csv)),
        ("a.rmm", Some(Format::Rmm)),
        ("a.pickle", Some(Format::PyTorch)),
        ("a.b.pkl.gz", Some(Format::PyTorch)),
        ("a.log", Some(Format::Rmm)),
        ("a.txt", Some(Format::Stalloc)),
        ("a.stalloc.gz", Some(Format::Stalloc)),
        ("a.wpt", Some(Format::Compact)),
        ("csv", None),
        ("a.gz", None),
    ] {
        assert_eq!(Format::of_name(Path::new(name)), format, "{name}");
    }
    for format in Format::ALL {
        assert_eq!(format.name().parse::<Format>().unwrap(), format);
    }
    assert!("svg".parse::<Format>().is_err());
}

#[test]
fn a_function_of_the_librarys_result_takes_errors_of_traces() {
    fn record(path: &Path) -> weldpool::Result<()> {
        Recorder::create(path)?.finish()?;
        Ok(())
    }
    let folder = tempfile::tempdir().unwrap();
    record(&folder.path().join("a.wpt")).unwrap();
    let error = record(&folder.path().join("none/a.wpt")).unwrap_err();
    assert_eq!(error.kind(), weldpool::ErrorKind::System);
    let text = error.to_string();
    assert!(
        text.contains("none") && text.contains("No such file"),
        "{text}"
    );
}
