//! What the results mean, and what is to be done about it.

use super::busy::BUSY;
use super::environment::IS_OPTIMISED;
use super::report::{
    BarVerdict, DeviceReport, Finding, Level, Measured, Outcome, Report, StepReport, Verdict,
};
use super::step::Step;

/// For a device that cannot even be opened.
const NOT_HERE: &str = "install the device's driver, or examine it on a machine that has one, or leave --device out to \
                        examine what is here; if other programs use the device, report it";
const REPORT_IT: &str = concat!(
    "report it with the file that --json writes: ",
    env!("CARGO_PKG_REPOSITORY"),
    "/issues"
);

const BE_ALONE: &str = "run it again on a machine that does nothing else";

/// Draws the findings and the verdict out of the results.
pub(super) fn conclude(report: &mut Report) {
    let devices = report.devices.iter();
    let mut findings: Vec<Finding> = devices.flat_map(|one| of_device(one, report)).collect();
    findings.extend(of_the_whole(report));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    report.verdict = match findings.first().map(|finding| finding.level) {
        Some(Level::Broken) => Verdict::Broken,
        Some(Level::Attention) => Verdict::Attention,
        Some(Level::Expected) | None => Verdict::Healthy,
    };
    report.findings = findings;
}

/// What is of no device.
fn of_the_whole(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |level, what: String, place: &str, advice: &str| {
        findings.push(Finding {
            level,
            device: None,
            what,
            place: place.to_owned(),
            advice: advice.to_owned(),
        });
    };
    if report.devices.is_empty() && !report.interrupted {
        let what = "the devices of this machine could not be listed".to_owned();
        add(Level::Broken, what, "devices", REPORT_IT);
    }
    if report.interrupted {
        let not_run: usize = report
            .devices
            .iter()
            .map(|one| of(one, Outcome::NotRun))
            .sum();
        let what = format!("the examination was interrupted; {not_run} steps were not run");
        add(Level::Attention, what, "doctor", "let it come to its end");
    }
    if !IS_OPTIMISED {
        let what = "this is a debug build, so figures were held against no bar".to_owned();
        add(Level::Attention, what, "doctor", "build with --release");
    }
    let free = report.environment.free_share;
    let missed = |one: &Measured| one.bar_verdict == BarVerdict::Missed;
    let figures = report.devices.iter().flat_map(|device| &device.measures);
    if free < BUSY && figures.into_iter().any(missed) {
        let free = 100.0 * free;
        let what =
            format!("the machine does something else: {free:.0} % of its processors were free");
        add(Level::Attention, what, "doctor", BE_ALONE);
    }
    findings
}

fn of_device(device: &DeviceReport, report: &Report) -> Vec<Finding> {
    let name = &device.device;
    let mut findings: Vec<Finding> = device
        .steps
        .iter()
        .filter_map(|step| of_step(name, step))
        .collect();
    let not_run = of(device, Outcome::NotRun);
    // Of an interruption there is a finding of its own.
    if not_run > 0 && !report.interrupted {
        findings.push(Finding {
            level: Level::Attention,
            device: Some(name.clone()),
            what: format!("{not_run} steps were not run, because time was up"),
            place: "steps".to_owned(),
            advice: BE_ALONE.to_owned(),
        });
    }
    findings.extend(
        device
            .measures
            .iter()
            .filter_map(|one| of_measure(name, one)),
    );
    findings
}

/// How many steps of a device ended so.
pub(super) fn of(device: &DeviceReport, outcome: Outcome) -> usize {
    let steps = device.steps.iter();
    steps.filter(|step| step.outcome == outcome).count()
}

fn of_step(device: &str, step: &StepReport) -> Option<Finding> {
    let said = step.message.as_deref().unwrap_or("it does not say why");
    let (level, what, advice) = match step.outcome {
        Outcome::Passed | Outcome::NotApplicable | Outcome::NotRun => return None,
        Outcome::Expected => (Level::Expected, said.to_owned(), "nothing"),
        Outcome::ShortOfMemory => (
            Level::Attention,
            said.to_owned(),
            "end what else uses the device's memory and run it again",
        ),
        Outcome::Failed if step.step == Step::Facts.to_string() => {
            (Level::Broken, said.to_owned(), NOT_HERE)
        }
        Outcome::Failed | Outcome::Died => (Level::Broken, said.to_owned(), REPORT_IT),
        Outcome::TimedOut => (
            Level::Broken,
            "it did not end in time".to_owned(),
            REPORT_IT,
        ),
    };
    Some(Finding {
        level,
        device: Some(device.to_owned()),
        what,
        place: step.step.clone(),
        advice: advice.to_owned(),
    })
}

fn of_measure(device: &str, measured: &Measured) -> Option<Finding> {
    let (measure, bar) = (&measured.measure, measured.measure.bar.as_ref()?);
    (measured.bar_verdict == BarVerdict::Missed).then(|| Finding {
        level: Level::Attention,
        device: Some(device.to_owned()),
        what: format!(
            "{}: {:.3} {}, where the bar is {}",
            measure.case, bar.value, bar.what, bar.limit
        ),
        place: format!("bench:{}", measure.bench),
        advice: format!("{BE_ALONE}; if it stays, report it"),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::event::{Bar, Better, Measure};
    use super::*;

    fn report(outcomes: &[Outcome]) -> Report {
        let step = |&outcome| StepReport {
            step: "suite:memory::x".to_owned(),
            outcome,
            seconds: 0.0,
            message: Some("because".to_owned()),
        };
        let mut report = Report::new();
        report.devices.push(DeviceReport {
            device: "host:0".to_owned(),
            steps: outcomes.iter().map(step).collect(),
            ..DeviceReport::default()
        });
        report
    }

    /// What the build itself gives attention to.
    fn healthy() -> Verdict {
        if IS_OPTIMISED {
            Verdict::Healthy
        } else {
            Verdict::Attention
        }
    }

    #[test]
    fn the_worst_finding_is_the_verdict() {
        for (outcomes, verdict) in [
            (&[Outcome::Passed, Outcome::NotApplicable][..], healthy()),
            (&[Outcome::Passed, Outcome::Expected], healthy()),
            (
                &[Outcome::Expected, Outcome::ShortOfMemory],
                Verdict::Attention,
            ),
            (&[Outcome::NotRun, Outcome::Passed], Verdict::Attention),
            (&[Outcome::ShortOfMemory, Outcome::Failed], Verdict::Broken),
            (&[Outcome::Died], Verdict::Broken),
            (&[Outcome::TimedOut, Outcome::Passed], Verdict::Broken),
        ] {
            let mut report = report(outcomes);
            conclude(&mut report);
            assert_eq!(report.verdict, verdict, "{outcomes:?}");
            for finding in &report.findings {
                assert!(!finding.what.is_empty() && !finding.place.is_empty());
                assert!(!finding.advice.is_empty());
            }
        }
    }

    #[test]
    fn a_missed_bar_wants_attention_and_an_unjudged_one_none() {
        for (bar_verdict, findings) in [
            (BarVerdict::Met, 0),
            (BarVerdict::NotJudged, 0),
            (BarVerdict::Missed, 1),
        ] {
            let mut report = report(&[]);
            report.devices[0].measures.push(Measured {
                measure: Measure {
                    bench: "P1".to_owned(),
                    case: "pair".to_owned(),
                    unit: "ns".to_owned(),
                    better: Better::Lower,
                    ours: 10.0,
                    peers: BTreeMap::new(),
                    bar: Some(Bar {
                        what: "times as fast".to_owned(),
                        better: Better::Higher,
                        value: 0.5,
                        limit: 1.0,
                    }),
                },
                bar_verdict,
            });
            conclude(&mut report);
            let of_bench = report.findings.iter().filter(|one| one.place == "bench:P1");
            assert_eq!(of_bench.count(), findings, "{bar_verdict:?}");
            assert_ne!(report.verdict, Verdict::Broken);
        }
    }

    #[test]
    fn an_interruption_and_no_devices_are_findings() {
        let mut interrupted = report(&[Outcome::Passed]);
        interrupted.interrupted = true;
        conclude(&mut interrupted);
        assert_eq!(interrupted.verdict, Verdict::Attention);
        let mut none = Report::new();
        conclude(&mut none);
        assert_eq!(none.verdict, Verdict::Broken);
    }
}
