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
        given_back_bytes: u64,
    },
    /// A change of level, as a callback saw it.
    Change {
        s: f64,
        from: String,
        to: String,
        pressure: f64,
        cause: String,
        given_back_bytes: u64,
    },
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
    pub(super) changes: u64,
    pub(super) callbacks: u64,
    pub(super) resolutions: u64,
    pub(super) resolution_mean_s: f64,
    pub(super) resolution_max_s: f64,
    pub(super) levels: Vec<AtLevel>,
}

/// Totals of one level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct AtLevel {
    pub(super) level: String,
    pub(super) entered: u64,
    pub(super) s: f64,
    pub(super) responses: u64,
    pub(super) given_back_bytes: u64,
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
                given_back_bytes,
            } => write!(
                f,
                "{s:7.2} s    {level:9} {pressure:.3}  live {:6.1}  reserved {:6.1}  outside {:6.1}  \
                 given back {:6.1} MiB",
                mib(*live_bytes),
                mib(*reserved_bytes),
                mib(*outside_bytes),
                mib(*given_back_bytes)
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
            Self::Refused { s, error } => write!(f, "{s:7.2} s  ! refused: {error}"),
            Self::End(end) => {
                write!(
                    f,
                    "{:7.2} s  end: refused {}, gave back {:.1} MiB, {} changes of level, {} calls back, {} times \
                     back at normal after {:.2} s on average, {:.2} s at most",
                    end.s,
                    end.refused,
                    mib(end.given_back_bytes),
                    end.changes,
                    end.callbacks,
                    end.resolutions,
                    end.resolution_mean_s,
                    end.resolution_max_s
                )?;
                end.levels
                    .iter()
                    .filter(|at| at.entered > 0)
                    .try_for_each(|at| {
                        write!(
                            f,
                            "\n             {:9} entered {} times, {:.2} s, {} responses gave back {:.1} MiB",
                            at.level,
                            at.entered,
                            at.s,
                            at.responses,
                            mib(at.given_back_bytes)
                        )
                    })
            }
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
            Line::End(Outcome {
                s: 2.0,
                refused: 1,
                given_back_bytes: 2,
                changes: 3,
                callbacks: 3,
                resolutions: 4,
                resolution_mean_s: 0.5,
                resolution_max_s: 0.75,
                levels: vec![AtLevel {
                    level: "critical".into(),
                    entered: 1,
                    s: 0.25,
                    responses: 2,
                    given_back_bytes: 2,
                }],
            }),
        ];
        for line in lines {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        }
    }
}
