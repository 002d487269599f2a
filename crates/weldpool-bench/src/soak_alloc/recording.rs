//! What the allocator records while the soak runs: real files, read back and deleted, so that the disk stays bounded.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tempfile::TempDir;
use weldpool::Allocator;
use weldpool::trace::{Recorder, TraceError, compact};

use crate::error::{Error, ErrorKind, Result};

/// A file beyond this size is ended and the next begun.
pub(super) const FILE_BYTES_MAX: u64 = 16 << 20;

/// What all files had.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Totals {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) events: u64,
    /// Events that there was no room for.
    pub(super) dropped: u64,
    /// Events that were recorded and not found in their file.
    pub(super) missing: u64,
}

/// Records an allocator to one file after the other.
#[derive(Debug)]
pub(super) struct Recording {
    folder: TempDir,
    file: Option<PathBuf>,
    totals: Totals,
}

impl Recording {
    pub(super) fn new() -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|error| Error::io("making a folder", error))?;
        Ok(Self {
            folder,
            file: None,
            totals: Totals::default(),
        })
    }

    /// Starts recording, or ends it; what is so already stays so.
    pub(super) fn switch(&mut self, allocator: &Allocator, on: bool) -> Result<()> {
        match (on, self.file.is_some()) {
            (true, false) | (false, true) => self.next(allocator, on),
            _ => Ok(()),
        }
    }

    /// Begins the next file once the present one is large enough.
    pub(super) fn rotate(&mut self, allocator: &Allocator) -> Result<()> {
        match &self.file {
            Some(file) if bytes_of(file)? > FILE_BYTES_MAX => self.next(allocator, true),
            _ => Ok(()),
        }
    }

    /// What was recorded so far.
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Ends the present file, if there is one, and begins another if wanted.
    fn next(&mut self, allocator: &Allocator, another: bool) -> Result<()> {
        let mut recorder = None;
        let mut file = None;
        if another {
            let path = self
                .folder
                .path()
                .join(format!("{}.wpt", self.totals.files));
            recorder = Some(Arc::new(Recorder::create(&path).map_err(not_recorded)?));
            file = Some(path);
            self.totals.files += 1;
        }
        let before = allocator.record(recorder);
        let file = std::mem::replace(&mut self.file, file);
        if let (Some(recorder), Some(file)) = (before, file) {
            let recording = recorder.finish().map_err(not_recorded)?;
            self.totals.bytes += bytes_of(&file)?;
            self.totals.events += recording.events;
            self.totals.dropped += recording.dropped;
            self.totals.missing += recording.events.abs_diff(events_in(&file)?);
            fs::remove_file(&file).map_err(|error| Error::io("deleting a trace", error))?;
        }
        Ok(())
    }
}

fn not_recorded(error: TraceError) -> Error {
    Error::caused(ErrorKind::Io, "recording", error)
}

fn bytes_of(file: &Path) -> Result<u64> {
    let metadata = fs::metadata(file);
    Ok(metadata
        .map_err(|error| Error::io("looking at a trace", error))?
        .len())
}

fn events_in(file: &Path) -> Result<u64> {
    let mut events = 0;
    for event in compact::Reader::open(file).map_err(not_recorded)? {
        event.map_err(not_recorded)?;
        events += 1;
    }
    Ok(events)
}
