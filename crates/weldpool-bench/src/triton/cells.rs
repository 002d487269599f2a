//! The cells of the suite: what is asked of which model, by how many clients at once.

use std::fmt;
use std::sync::Arc;

use super::Options;
use super::models::{CLASSIFIER, IDENTITY};
use super::servers::{OURS, PYTHON, SERVE, Server};
use crate::error::{Error, Result};
use crate::http::Connection;
use crate::load::{self, Exchange, Load};
use crate::request::{self, Signature};
use crate::rounds::{Case, warm_up};

/// What one request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// The identity of a tensor of so many bytes.
    Identity(usize),
    /// The direction of one text line.
    Classifier,
}

/// One combination of work and concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    /// What each request asks for.
    pub(super) work: Work,
    /// Requests in flight.
    pub(super) concurrency: usize,
}

/// Work of the suite.
const WORK: [Work; 3] = [
    Work::Identity(SMALL_BYTES),
    Work::Identity(1 << 20),
    Work::Classifier,
];
/// Requests in flight.
const CONCURRENCY: [usize; 2] = [1, 8];

/// Bytes of the tensor of which a server's own time is the most of all.
const SMALL_BYTES: usize = 64;
/// The text line: batch, colours, height and width.
const LINE_SHAPE: [usize; 4] = [1, 3, 48, 192];
/// Different values in the line, which lie from -1 up to 1 as those of normalised pictures do.
const LINE_VALUES: usize = 251;

impl Work {
    /// The model that does it.
    pub(super) fn model(self) -> &'static str {
        match self {
            Self::Identity(_) => IDENTITY,
            Self::Classifier => CLASSIFIER,
        }
    }

    /// Whether the model computes next to nothing on next to no data.
    pub(super) fn is_small(self) -> bool {
        self == Self::Identity(SMALL_BYTES)
    }

    /// The tensor to send.
    fn tensor(self) -> Vec<u8> {
        match self {
            Self::Identity(bytes) => request::payload(bytes),
            Self::Classifier => (0..LINE_SHAPE.iter().product::<usize>())
                .map(|index| 2.0 * (index % LINE_VALUES) as f32 / LINE_VALUES as f32 - 1.0)
                .flat_map(f32::to_le_bytes)
                .collect(),
        }
    }

    /// The bytes of a request to `model`.
    fn wire(self, model: &str) -> Vec<u8> {
        match self {
            Self::Identity(_) => request::infer(model, &self.tensor()),
            Self::Classifier => {
                let signature = Signature {
                    input: "x",
                    shape: &LINE_SHAPE,
                    output: "save_infer_model/scale_0.tmp_1",
                };
                request::infer_as(model, signature, &self.tensor())
            }
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(bytes) if *bytes >= 1 << 20 => {
                write!(f, "{IDENTITY} {} MiB", bytes >> 20)
            }
            Self::Identity(bytes) => write!(f, "{IDENTITY} {bytes} B"),
            Self::Classifier => write!(
                f,
                "{CLASSIFIER} {}",
                LINE_SHAPE.map(|d| d.to_string()).join("x")
            ),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, concurrency {}", self.work, self.concurrency)
    }
}

/// All cells.
pub(super) fn cells() -> impl Iterator<Item = Cell> {
    WORK.into_iter()
        .flat_map(|work| CONCURRENCY.map(|concurrency| Cell { work, concurrency }))
}

/// What to measure of `servers`.
///
/// # Errors
/// Those of a first request for work whose answer is not known before.
pub(super) fn cases(servers: &[Server], options: &Options) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for work in WORK {
        let answer = answer(work, servers)?;
        let exchanges: Vec<(&Server, Arc<Exchange>)> = servers
            .iter()
            .filter_map(|server| {
                let wire = work.wire(&server.model(work)?);
                let answer = answer.clone();
                Some((server, Arc::new(Exchange { wire, answer })))
            })
            .collect();
        cases.extend(CONCURRENCY.map(|concurrency| {
            Case {
                name: Cell { work, concurrency }.to_string(),
                loads: exchanges
                    .iter()
                    .map(|(server, exchange)| {
                        let load = Load {
                            address: server.address,
                            pids: server.pids.clone(),
                            exchange: Arc::clone(exchange),
                            concurrency,
                            warm_up: warm_up(options.window),
                            window: options.window,
                        };
                        (server.name.to_owned(), load)
                    })
                    .collect(),
            }
        }));
    }
    Ok(cases)
}

/// What every server has to answer, to the bit: the input of an identity; else what onnxruntime answers through
/// its own Python package, or, where that is not, what the first server does. One library runs the models in all
/// of them, on one thread and unbatched, so there is nothing that results could differ by.
fn answer(work: Work, servers: &[Server]) -> Result<Vec<u8>> {
    if let Work::Identity(_) = work {
        return Ok(work.tensor());
    }
    let (server, model) = [PYTHON, SERVE, OURS]
        .iter()
        .filter_map(|name| servers.iter().find(|server| server.name == *name))
        .find_map(|server| Some((server, server.model(work)?)))
        .ok_or_else(|| Error::protocol(format!("no server has a model for {work}")))?;
    let mut connection = Connection::open(server.address)?;
    let answer = load::ask(&mut connection, &work.wire(&model))?;
    Ok(answer.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_distinct_names() {
        let names: Vec<String> = cells().map(|cell| cell.to_string()).collect();
        assert_eq!(
            names,
            [
                "identity 64 B, concurrency 1",
                "identity 64 B, concurrency 8",
                "identity 1 MiB, concurrency 1",
                "identity 1 MiB, concurrency 8",
                "cls 1x3x48x192, concurrency 1",
                "cls 1x3x48x192, concurrency 8",
            ]
        );
    }

    #[test]
    fn a_line_is_a_normalised_picture() {
        let line = Work::Classifier.tensor();
        assert_eq!(line.len(), 4 * 3 * 48 * 192);
        let values: Vec<f32> = line
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        assert!(values.iter().all(|value| (-1.0..=1.0).contains(value)));
        assert!(
            values.iter().any(|value| *value < -0.9) && values.iter().any(|value| *value > 0.9)
        );
    }

    #[test]
    fn only_the_smallest_work_is_small() {
        let small: Vec<Work> = WORK.into_iter().filter(|work| work.is_small()).collect();
        assert_eq!(small, [Work::Identity(64)]);
    }

    #[test]
    fn the_bare_backend_has_no_part_in_computation() {
        let server = |name, suffix, computes| Server {
            name,
            address: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
            pids: vec![1],
            suffix,
            computes,
        };
        let bare = server("bare", Some("bare"), false);
        assert_eq!(
            bare.model(Work::Identity(64)).as_deref(),
            Some("identity_bare")
        );
        assert_eq!(bare.model(Work::Classifier), None);
        let serve = server("serve", None, true);
        assert_eq!(serve.model(Work::Classifier).as_deref(), Some("cls"));
    }
}
