//! Bar P8's cells: sizes and concurrencies.

use std::fmt;
use std::sync::Arc;

use super::{CEILING, OURS, Options, Server};
use crate::error::Result;
use crate::load::{Exchange, Load};
use crate::report::Row;
use crate::request::{self, MODEL};
use crate::rounds::{Case, Measured, warm_up};

/// One combination of tensor size and concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Bytes of the tensor.
    pub bytes: usize,
    /// Requests in flight.
    pub concurrency: usize,
}

/// The cells of the suite.
pub const CELLS: [Cell; 4] = [
    Cell {
        bytes: 64,
        concurrency: 1,
    },
    Cell {
        bytes: 64,
        concurrency: 8,
    },
    Cell {
        bytes: 1 << 20,
        concurrency: 1,
    },
    Cell {
        bytes: 1 << 20,
        concurrency: 8,
    },
];

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "HTTP {}, concurrency {}",
            size(self.bytes),
            self.concurrency
        )
    }
}

/// A size as people write it.
pub(super) fn size(bytes: usize) -> String {
    if bytes >= 1 << 20 {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{bytes} B")
    }
}

/// Measures all cells.
pub(super) fn measure(servers: &[Server], options: &Options) -> Result<Measured> {
    let cases: Vec<Case> = CELLS
        .iter()
        .map(|cell| Case {
            name: cell.to_string(),
            loads: servers
                .iter()
                .map(|server| (server.name.clone(), load(server, MODEL, *cell, options)))
                .collect(),
        })
        .collect();
    Measured::of(&cases, options.schedule)
}

/// The load of one server in one cell.
pub(super) fn load(server: &Server, model: &str, cell: Cell, options: &Options) -> Load {
    let tensor = request::payload(cell.bytes);
    Load {
        address: server.address,
        pids: vec![server.pid],
        exchange: Arc::new(Exchange {
            wire: request::infer(model, &tensor),
            answer: tensor,
        }),
        concurrency: cell.concurrency,
        warm_up: warm_up(options.window),
        window: options.window,
    }
}

/// The name of the peer that is a real server.
pub(super) fn peer(measured: &Measured) -> Option<&str> {
    measured
        .servers()
        .find(|name| *name != OURS && *name != CEILING)
}

/// Two rows per cell and figure: beside the peer, and beside the ceiling.
pub(super) fn rows(measured: &Measured) -> Vec<Row> {
    let peers: Vec<(&str, &str)> = peer(measured)
        .map(|peer| (peer, ""))
        .into_iter()
        .chain([(CEILING, ", against the ceiling")])
        .collect();
    measured.rows(OURS, &peers)
}
