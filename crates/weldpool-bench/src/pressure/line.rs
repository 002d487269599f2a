//! What the filling process says, one JSON object a line.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "line")]
pub(super) enum Line {
    /// A source of the monitor.
    Source {
        name: String,
        mode: String,
        note: String,
    },
    /// What is to come.
    Phase { s: f64, name: String },
    /// How things stand.
    Sample {
        s: f64,
        level: String,
        pressure: f64,
        live_bytes: u64,
        reserved_bytes: u64,
        outside_bytes: u64,
    },
    /// A change of level.
    Change {
        s: f64,
        from: String,
        to: String,
        pressure: f64,
        cause: String,
        given_back_bytes: u64,
    },
    /// The allocator gave something back.
    GaveBack { s: f64, level: String, bytes: u64 },
    /// Memory was refused.
    Refused { s: f64, error: String },
    /// The end.
    End(Outcome),
}

/// Totals at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) s: f64,
    pub(super) refused: u64,
    pub(super) given_back_bytes: u64,
    pub(super) events: u64,
    pub(super) resolutions: u64,
    pub(super) resolution_mean_s: f64,
}

pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source { name, mode, note } if note.is_empty() => {
                write!(f, "source {name}: {mode}")
            }
            Self::Source { name, mode, note } => write!(f, "source {name}: {mode} ({note})"),
            Self::Phase { s, name } => write!(f, "{s:7.2} s  {name}"),
            Self::Sample {
                s,
                level,
                pressure,
                live_bytes,
                reserved_bytes,
                outside_bytes,
            } => write!(
                f,
                "{s:7.2} s    {level:9} pressure {pressure:.3}  live {:6.1}  reserved {:6.1}  outside {:6.1} MiB",
                mib(*live_bytes),
                mib(*reserved_bytes),
                mib(*outside_bytes)
            ),
            Self::Change {
                s,
                from,
                to,
                pressure,
                cause,
                given_back_bytes,
            } => write!(
                f,
                "{s:7.2} s  * {from} -> {to} at {pressure:.3} ({cause}), gave back {:.1} MiB",
                mib(*given_back_bytes)
            ),
            Self::GaveBack { s, level, bytes } => {
                write!(
                    f,
                    "{s:7.2} s  < gave back {:.1} MiB at {level}",
                    mib(*bytes)
                )
            }
            Self::Refused { s, error } => write!(f, "{s:7.2} s  ! refused: {error}"),
            Self::End(end) => write!(
                f,
                "{:7.2} s  end: refused {}, gave back {:.1} MiB, {} changes of level, {} times back at normal \
                 after {:.2} s on average",
                end.s,
                end.refused,
                mib(end.given_back_bytes),
                end.events,
                end.resolutions,
                end.resolution_mean_s
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_their_way() {
        let lines = [
            Line::Phase {
                s: 0.5,
                name: "fill".into(),
            },
            Line::Change {
                s: 1.0,
                from: "normal".into(),
                to: "warning".into(),
                pressure: 0.81,
                cause: "x".into(),
                given_back_bytes: 3 << 20,
            },
            Line::GaveBack {
                s: 1.5,
                level: "critical".into(),
                bytes: 4 << 20,
            },
            Line::End(Outcome {
                s: 2.0,
                refused: 1,
                given_back_bytes: 2,
                events: 3,
                resolutions: 4,
                resolution_mean_s: 0.5,
            }),
        ];
        for line in lines {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        }
    }
}
