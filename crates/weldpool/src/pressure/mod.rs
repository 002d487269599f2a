//! Notices that memory runs short, and has something done about it.
//!
//! A [`PressureMonitor`] reads [sources](Source), turns what they say into one of five
//! [levels](Level), has a [`Responder`], the allocator, take the [steps](Step) of that level, and
//! tells whoever wants to know. The pressure is the greatest used / limit of the sources; an event
//! of the operating system raises the level at once, whatever the pressure. A level that the system says lasts
//! does too, and is [more](Hysteresis::update_lasting) where the pressure agrees.
//!
//! ```
//! use weldpool::pressure::{Gauge, Level, PressureConfig, PressureMonitor, Usage};
//!
//! # fn main() -> weldpool::Result<()> {
//! let monitor = PressureMonitor::builder()
//!     .config(PressureConfig { enabled: false, ..PressureConfig::default() })
//!     .source(Gauge::new("reserved", || Some(Usage { used: 85, limit: 100 })))
//!     .start()?;
//! assert_eq!(monitor.check(), Level::Warning);
//! assert_eq!(monitor.stats().source.as_deref(), Some("reserved"));
//! # Ok(())
//! # }
//! ```
//!
//! # Files
//!
//! | file | what it is |
//! |---|---|
//! | `level.rs`, `hysteresis.rs` | levels, thresholds and the state between them; pure |
//! | `source.rs`, `gauge.rs` | what a source is; a device's budget and any pair of numbers |
//! | `linux.rs` | control groups and stalls (PSI), over the files that `device/host/` reads |
//! | `macos.rs` | the system's own three levels, over the dispatch source of `device/host/dispatch/` |
//! | `watch.rs` | all sources together: one assessment |
//! | `outlook.rs` | when to look again, by how fast the pressure rises; pure |
//! | `action.rs` | steps, the table of them, and the responder |
//! | `ledger.rs` | statistics |
//! | `monitor.rs` | the thread, and the only file here that knows of others |
//!
//! A further system adds one file beside `linux.rs` and `macos.rs` that gives sources.

mod action;
mod config;
mod gauge;
mod hysteresis;
mod ledger;
mod level;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "macos", test))]
mod macos;
mod monitor;
mod outlook;
mod source;
mod watch;

pub use action::{ActionTable, Actions, Responder, Step};
pub use config::PressureConfig;
pub use gauge::{DeviceBudget, Gauge};
pub use hysteresis::Hysteresis;
pub use ledger::{LevelStats, PressureStats, Resolutions};
pub use level::{Level, Thresholds};
pub use monitor::{PressureEvent, PressureMonitor, PressureMonitorBuilder};
pub use source::{Notice, Reading, Source, SourceMode, SourceReport, Usage, Wakeup};
pub use watch::Assessment;
