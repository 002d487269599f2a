//! What an allocator shows of itself after a replay.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::Context;
use weldpool::prometheus::{self, Pool};
use weldpool::{Dashboard, DashboardOptions};

use crate::output::{self, OutputError};

/// Draws the dashboard as wide as the terminal; plainly where there is none.
pub(super) fn draw(dashboard: &Dashboard, to_error: bool) -> Result<(), OutputError> {
    let terminal = if to_error {
        std::io::stderr().is_terminal()
    } else {
        std::io::stdout().is_terminal()
    };
    let mut options = DashboardOptions {
        unicode: terminal,
        ..DashboardOptions::default()
    };
    if terminal && let Some((width, _)) = terminal_size::terminal_size() {
        options.width = usize::from(width.0);
    }
    let text = dashboard.text(&options);
    if to_error {
        output::note(format_args!("\n{text}"));
        Ok(())
    } else {
        output::line(format_args!("\n{text}"))
    }
}

/// Writes the statistics of all allocators.
pub(super) fn write(file: &Path, seen: &[Dashboard]) -> anyhow::Result<()> {
    let mut names: Vec<String> = Vec::new();
    for one in seen {
        // Two files may have the same name in different folders; two pools may not.
        let same = |name: &String| name == &one.allocator;
        let before = seen.iter().take(names.len());
        let count = before.filter(|before| same(&before.allocator)).count();
        names.push(match count {
            0 => one.allocator.clone(),
            count => format!("{} ({})", one.allocator, count + 1),
        });
    }
    let pools = names.iter().zip(seen).map(|(name, one)| Pool {
        name,
        stats: &one.stats,
        samples: Some(&one.samples),
        classes: true,
    });
    let pools: Vec<_> = pools.collect();
    std::fs::write(file, prometheus::text(&pools))
        .with_context(|| format!("cannot write {}", file.display()))
}
