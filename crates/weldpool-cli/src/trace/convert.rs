//! `weldpool trace convert`.

use std::ffi::OsString;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use weldpool::trace::{Format, Reader, Writer};

use super::input::{Input, open, warn};
use crate::{WrongCommandLine, output};

/// Options of `weldpool trace convert`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The trace to read.
    #[arg(value_name = "IN")]
    from_file: PathBuf,
    /// The file to write; compressed when its name ends in .gz.
    #[arg(value_name = "OUT")]
    to_file: PathBuf,
    #[command(flatten)]
    input: Input,
    /// The format to write: csv, rmm, pytorch (for its memory_viz), stalloc or compact. Taken from
    /// the name of OUT when it is not given: .csv, .rmm or .log, .pickle, .stalloc or .txt, .wpt.
    #[arg(long, value_name = "FORMAT")]
    to: Option<Format>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let to = options.to.or_else(|| Format::of_name(&options.to_file));
    let to = to.ok_or_else(|| {
        WrongCommandLine(format!(
            "the name {} stands for no format; say which with --to",
            options.to_file.display()
        ))
    })?;
    refuse_what_is_no_file(&options.to_file)?;
    let mut reader = open(&options.from_file, &options.input)?;
    let from = reader.format();
    // Only a whole file gets the name that was asked for, also where it replaces the one read.
    let partial = beside(&options.to_file);
    let written = write(&mut reader, &partial, &options.to_file, to);
    let events = written.inspect_err(|_| {
        // The error that is reported is the one that led here.
        let _removed = std::fs::remove_file(&partial);
    })?;
    std::fs::rename(&partial, &options.to_file)
        .with_context(|| format!("cannot write {}", options.to_file.display()))?;
    warn(&options.from_file, &reader.skipped());
    output::line(format_args!(
        "{} events of {} ({from}) written to {} ({to})",
        events,
        options.from_file.display(),
        options.to_file.display()
    ))?;
    Ok(())
}

/// The file is replaced as a whole, which would put a file in the place of a device, a pipe or a link.
fn refuse_what_is_no_file(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.is_file() => bail!(
            "{} is there and is no regular file; name another",
            path.display()
        ),
        _ => Ok(()),
    }
}

fn write(reader: &mut Reader, partial: &Path, to_file: &Path, to: Format) -> Result<u64> {
    let cannot_write = || format!("cannot write {}", to_file.display());
    let gzip = to_file
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("gz"));
    let file = BufWriter::new(File::create(partial).with_context(cannot_write)?);
    let mut writer = Writer::new(file, to, gzip).with_context(cannot_write)?;
    let mut events = 0;
    for event in reader {
        writer.write(&event?).with_context(cannot_write)?;
        events += 1;
    }
    writer.finish().with_context(cannot_write)?;
    Ok(events)
}

/// A name in the same folder, so that renaming stays on one file system.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().map_or_else(OsString::new, OsString::from);
    name.push(format!(".{}.partial", std::process::id()));
    file.with_file_name(name)
}
