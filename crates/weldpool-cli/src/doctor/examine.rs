//! The examination: which steps, in which order, and what becomes of what they tell.

use std::time::{Duration, Instant};

use anyhow::Result;
use weldpool_testkit::device_suite::Case;

use super::environment::IS_OPTIMISED;
use super::event::{Absent, Event, Measure};
use super::expectations::{Class, Expectations};
use super::injected::Injected;
use super::process::{self, Ended, Ran};
use super::progress::Progress;
use super::report::{BarVerdict, DeviceReport, Measured, Outcome, Report, StepReport};
use super::scrub::Scrub;
use super::step::{Bench, SUITE_MAX, Step};
use crate::WrongCommandLine;
use crate::signals::StopSignals;

/// What is examined, and how.
#[derive(Debug)]
pub(super) struct Examination<'a> {
    pub(super) quick: bool,
    pub(super) injected: &'a [Injected],
    pub(super) scrub: Scrub,
    pub(super) progress: Progress,
    pub(super) stop: StopSignals,
    pub(super) report: Report,
}

impl Examination<'_> {
    /// Examines these devices, or every real one.
    pub(super) async fn run(&mut self, devices: &[String]) -> Result<()> {
        let start = Instant::now();
        let result = self.examine(devices).await;
        self.report.seconds = start.elapsed().as_secs_f64();
        self.progress.finish();
        result
    }

    async fn examine(&mut self, devices: &[String]) -> Result<()> {
        let found = self.list().await;
        let devices = if devices.is_empty() { &found } else { devices };
        let mut classes = Vec::new();
        // First all of these, so that a wrong name is told before anything takes long.
        for device in devices {
            let facts = self.step(Step::Facts, device).await;
            classes.push(self.begin(device, facts)?);
        }
        for (index, class) in classes.iter().enumerate() {
            if let Some(class) = class {
                self.device(index, class).await;
            }
        }
        Ok(())
    }

    /// Runs a step, and notes whether the end was asked for.
    async fn step(&mut self, step: Step, device: &str) -> Ran {
        self.progress.begin(step);
        let limit = step.limit();
        let ran = process::run(step, device, self.quick, limit, &mut self.stop).await;
        self.progress.end();
        let ran = ran.unwrap_or_else(|error| Ran {
            events: Vec::new(),
            ended: Ended::Died(format!("{error:#}")),
            elapsed: Duration::ZERO,
        });
        self.report.interrupted |= matches!(ran.ended, Ended::Interrupted);
        ran
    }

    async fn list(&mut self) -> Vec<String> {
        for event in self.step(Step::Devices, "").await.events {
            if let Event::Devices {
                devices,
                absent,
                processor,
                processors,
                memory_bytes,
                free_share,
            } = event
            {
                let environment = &mut self.report.environment;
                environment.processor = processor;
                environment.processors = processors;
                environment.memory_bytes = memory_bytes;
                environment.free_share = free_share;
                let absent = absent.into_iter().map(|absent| Absent {
                    reason: self.scrub.text(&absent.reason),
                    ..absent
                });
                self.report.absent = absent.collect();
                return devices;
            }
        }
        Vec::new()
    }

    async fn device(&mut self, index: usize, class: &Class) {
        let cases = self.cases();
        let rest = [Step::Stress]
            .into_iter()
            .chain(Bench::ALL.map(Step::Bench));
        let name = self.report.devices[index].device.clone();
        self.progress
            .device(&name, cases.len() + 1 + Bench::ALL.len());
        let start = Instant::now();
        for case in cases {
            let in_time = start.elapsed() < SUITE_MAX;
            self.follow(case, index, class, in_time).await;
        }
        for step in rest {
            self.follow(step, index, class, true).await;
        }
    }

    /// The cases to run; with `quick` the first of each topic.
    fn cases(&self) -> Vec<Step> {
        let all = Case::all().iter().copied();
        let mut last = "";
        let wanted = all.filter(|case| {
            !self.quick || std::mem::replace(&mut last, case.topic()) != case.topic()
        });
        let injected = self.injected.iter().copied().map(Step::Injected);
        injected.chain(wanted.map(Step::Case)).collect()
    }

    /// Begins the report on a device; its class, if it could be opened.
    fn begin(&mut self, name: &str, ran: Ran) -> Result<Option<Class>> {
        let mut report = DeviceReport {
            device: name.chars().take(64).collect(),
            ..DeviceReport::default()
        };
        let mut class = None;
        let mut refused = None;
        for event in &ran.events {
            match event {
                Event::Refused {
                    wrong_name: true,
                    message,
                } => return Err(WrongCommandLine(message.clone()).into()),
                Event::Refused { message, .. } => {
                    refused = Some(format!("it cannot be opened: {}", self.scrub.text(message)));
                }
                Event::Facts { kind, name, facts } => {
                    let of = Expectations::read()?.class(kind, name);
                    report.kind.clone_from(kind);
                    report.name.clone_from(name);
                    report.class.clone_from(&of.class);
                    report.bars_unjudged.clone_from(&of.bars_unjudged);
                    report.facts = Some(facts.clone());
                    class = Some(of);
                }
                _ => {}
            }
        }
        let (mut outcome, mut message) = outcome(&ran, &self.scrub);
        if refused.is_some() {
            (outcome, message) = (Outcome::Failed, refused);
        }
        report.steps.push(StepReport {
            step: Step::Facts.to_string(),
            outcome,
            seconds: ran.elapsed.as_secs_f64(),
            message,
        });
        self.report.devices.push(report);
        Ok(class)
    }

    /// Runs a step on a device and adds what it told to the report.
    async fn follow(&mut self, step: Step, index: usize, class: &Class, in_time: bool) {
        let (mut outcome, mut message, mut elapsed) = (Outcome::NotRun, None, Duration::ZERO);
        let mut measures = Vec::new();
        if in_time && !self.report.interrupted {
            let name = self.report.devices[index].device.clone();
            let ran = self.step(step, &name).await;
            (outcome, message) = self::outcome(&ran, &self.scrub);
            elapsed = ran.elapsed;
            measures.extend(ran.events.into_iter().filter_map(|event| match event {
                Event::Measure(measure) => Some(judged(measure, class)),
                _ => None,
            }));
        }
        let (outcome, message) = explained(step, outcome, message, class);
        let report = &mut self.report.devices[index];
        report.measures.extend(measures);
        report.steps.push(StepReport {
            step: step.to_string(),
            outcome,
            seconds: elapsed.as_secs_f64(),
            message,
        });
    }
}

/// How a step ended, and what it said about that.
fn outcome(ran: &Ran, scrub: &Scrub) -> (Outcome, Option<String>) {
    let mut outcome = Outcome::Passed;
    let mut messages = Vec::new();
    for event in &ran.events {
        match event {
            Event::NotApplicable => outcome = Outcome::NotApplicable,
            Event::Note { message } => messages.push(scrub.text(message)),
            Event::Failed {
                short_of_memory,
                message,
            } => {
                outcome = if *short_of_memory {
                    Outcome::ShortOfMemory
                } else {
                    Outcome::Failed
                };
                messages.push(scrub.text(message));
            }
            _ => {}
        }
    }
    match &ran.ended {
        Ended::Done => {}
        Ended::Died(how) => {
            outcome = Outcome::Died;
            messages.push(scrub.text(how));
        }
        Ended::TimedOut => {
            outcome = Outcome::TimedOut;
            messages.push(format!("it ran for {:.0} s", ran.elapsed.as_secs_f64()));
        }
        Ended::Interrupted => outcome = Outcome::NotRun,
    }
    // Assertions say what they compared in lines of their own.
    let message = messages.join("; ");
    let message = message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    (outcome, Some(message).filter(|message| !message.is_empty()))
}

/// The same, or, where it is known of such devices, that and why.
fn explained(
    step: Step,
    outcome: Outcome,
    message: Option<String>,
    class: &Class,
) -> (Outcome, Option<String>) {
    let wrong = matches!(outcome, Outcome::Failed | Outcome::Died | Outcome::TimedOut);
    let gap = class.gap(&step.to_string()).filter(|_| wrong);
    match gap {
        Some(gap) => {
            let said = message.unwrap_or_default();
            let message = format!("{} ({}): {said}", gap.reason, gap.source);
            (Outcome::Expected, Some(message))
        }
        None => (outcome, message),
    }
}

/// A figure held against its bar, where that has a meaning.
fn judged(measure: Measure, class: &Class) -> Measured {
    let bar = measure.bar.as_ref();
    let bar = bar.filter(|_| IS_OPTIMISED && class.bars_unjudged.is_none());
    let bar_verdict = match bar.map(|bar| bar.is_met()) {
        Some(true) => BarVerdict::Met,
        Some(false) => BarVerdict::Missed,
        None => BarVerdict::NotJudged,
    };
    Measured {
        measure,
        bar_verdict,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::event::{Bar, Better};
    use super::*;

    fn ran(events: Vec<Event>, ended: Ended) -> Ran {
        Ran {
            events,
            ended,
            elapsed: Duration::from_secs(7),
        }
    }

    fn failed(message: &str) -> Event {
        Event::Failed {
            short_of_memory: false,
            message: message.to_owned(),
        }
    }

    #[test]
    fn what_is_known_of_a_class_is_expected_there_alone() {
        let step: Step = "suite:memory::registered_memory_is_used_where_it_is"
            .parse()
            .unwrap();
        let class = |name| Expectations::read().unwrap().class("metal", name);
        let (paravirtual, physical) = (class("Apple Paravirtual device"), class("Apple M4 Max"));
        for wrong in [Outcome::Failed, Outcome::Died, Outcome::TimedOut] {
            let message = Some("length 0".to_owned());
            let (outcome, said) = explained(step, wrong, message.clone(), &paravirtual);
            assert_eq!(outcome, Outcome::Expected);
            let said = said.unwrap();
            assert!(
                said.contains("#10663") && said.ends_with("length 0"),
                "{said}"
            );
            let as_it_was = explained(step, wrong, message.clone(), &physical);
            assert_eq!(as_it_was, (wrong, message.clone()));
            let other = explained(Step::Stress, wrong, message.clone(), &paravirtual);
            assert_eq!(other, (wrong, message));
        }
        let passed = explained(step, Outcome::Passed, None, &paravirtual);
        assert_eq!(passed, (Outcome::Passed, None));
    }

    #[test]
    fn an_outcome_is_the_worst_that_was_told() {
        let scrub = Scrub::default();
        for (events, ended, expected, said) in [
            (vec![Event::Done], Ended::Done, Outcome::Passed, None),
            (
                vec![failed("left: 1\n right: 2"), failed("a rule"), Event::Done],
                Ended::Done,
                Outcome::Failed,
                Some("left: 1 right: 2; a rule"),
            ),
            (
                vec![failed("this")],
                Ended::Died("signal 6".to_owned()),
                Outcome::Died,
                Some("this; signal 6"),
            ),
            (
                vec![],
                Ended::TimedOut,
                Outcome::TimedOut,
                Some("it ran for 7 s"),
            ),
            (vec![], Ended::Interrupted, Outcome::NotRun, None),
        ] {
            let ran = ran(events, ended);
            let (outcome, message) = outcome(&ran, &scrub);
            assert_eq!((outcome, message.as_deref()), (expected, said));
        }
    }

    #[test]
    fn figures_are_judged_where_that_has_a_meaning() {
        let measure = || Measure {
            bench: "P1".to_owned(),
            case: String::new(),
            unit: "ns".to_owned(),
            better: Better::Lower,
            ours: 1.0,
            peers: BTreeMap::new(),
            bar: Some(Bar {
                what: String::new(),
                better: Better::Higher,
                value: 1.0,
                limit: 2.0,
            }),
        };
        let class = |kind| Expectations::read().unwrap().class(kind, "");
        let verdict = |kind| judged(measure(), &class(kind)).bar_verdict;
        assert_eq!(verdict("fake:apple"), BarVerdict::NotJudged);
        let missed = [BarVerdict::NotJudged, BarVerdict::Missed][usize::from(IS_OPTIMISED)];
        assert_eq!(verdict("cuda"), missed);
    }
}
