//! The report as people read it.

use std::fmt::{self, Write};

use super::event::Better;
use super::findings::of;
use super::report::{BarVerdict, DeviceReport, Finding, Level, Measured, Outcome, Report, Verdict};

/// Writes the whole report.
pub(super) fn report(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _written = write(report, &mut text);
    text
}

fn write(report: &Report, text: &mut String) -> fmt::Result {
    writeln!(text, "{}", report.environment.line())?;
    for absent in &report.absent {
        writeln!(text, "{} is not here: {}", absent.device, absent.reason)?;
    }
    for device in &report.devices {
        writeln!(text)?;
        write_device(device, text)?;
    }
    writeln!(text)?;
    for finding in &report.findings {
        write_finding(finding, text)?;
    }
    let verdict = match report.verdict {
        Verdict::Healthy => "HEALTHY",
        Verdict::Attention => "ATTENTION",
        Verdict::Broken => "BROKEN",
    };
    write!(text, "{verdict} after {:.0} s", report.seconds)
}

fn write_device(device: &DeviceReport, text: &mut String) -> fmt::Result {
    writeln!(text, "{}: {}", device.device, title(device))?;
    let counts = [
        (Outcome::Passed, "passed"),
        (Outcome::Failed, "failed"),
        (Outcome::Died, "died"),
        (Outcome::TimedOut, "timed out"),
        (Outcome::Expected, "expected to fail"),
        (Outcome::ShortOfMemory, "short of memory"),
        (Outcome::NotApplicable, "not applicable"),
        (Outcome::NotRun, "not run"),
    ];
    let counts = counts.map(|(outcome, name)| (of(device, outcome), name));
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    let seconds: f64 = device.steps.iter().map(|step| step.seconds).sum();
    writeln!(text, "  steps: {} in {seconds:.1} s", counts.join(", "))?;
    for step in &device.steps {
        if let (Outcome::Passed, Some(said)) = (step.outcome, &step.message) {
            writeln!(text, "  {}: {said}", step.step)?;
        }
    }
    for measured in &device.measures {
        write_measure(measured, text)?;
    }
    if let Some(reason) = &device.bars_unjudged {
        writeln!(text, "  figures are held against no bar: {reason}")?;
    }
    Ok(())
}

fn title(device: &DeviceReport) -> String {
    if device.facts.is_none() {
        return "cannot be examined".to_owned();
    }
    format!("{} ({})", device.name, device.class)
}

fn write_measure(measured: &Measured, text: &mut String) -> fmt::Result {
    let measure = &measured.measure;
    write!(
        text,
        "  {:<8} {:<43} {:>9} {}",
        measure.bench,
        measure.case,
        figure(measure.ours),
        measure.unit
    )?;
    for (peer, value) in &measure.peers {
        write!(text, ", {peer} {}", figure(*value))?;
    }
    if let Some(bar) = &measure.bar {
        let side = match bar.better {
            Better::Lower => "at most",
            Better::Higher => "at least",
        };
        let verdict = match measured.bar_verdict {
            BarVerdict::Met => ": met",
            BarVerdict::Missed => ": MISSED",
            BarVerdict::NotJudged => "",
        };
        let (value, limit) = (figure(bar.value), figure(bar.limit));
        write!(text, "; {value} {} ({side} {limit}{verdict})", bar.what)?;
    }
    writeln!(text)
}

fn write_finding(finding: &Finding, text: &mut String) -> fmt::Result {
    let level = match finding.level {
        Level::Expected => "expected",
        Level::Attention => "attention",
        Level::Broken => "broken",
    };
    let device = finding.device.as_deref().unwrap_or("weldpool");
    let Finding {
        place,
        what,
        advice,
        ..
    } = finding;
    writeln!(text, "{level}: {device}, {place}: {what}\n  do: {advice}")
}

/// A number with three digits that matter.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (0.0123, "0.012"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (1234.5, "1234"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(figure(value), expected);
        }
    }
}
