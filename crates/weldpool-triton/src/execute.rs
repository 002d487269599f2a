//! One execution: requests are checked, divided into groups that run together, run, and answered.

use weldpool_engine::Instance as EngineInstance;

use crate::answer::Made;
use crate::batch::Asked;
use crate::clock::{Times, now_ns};
use crate::error::{Error, ErrorCode, Result};
use crate::faults::Place;
use crate::few::Lone;
use crate::handles::{Instance, Request};
use crate::instance::InstanceState;
use crate::model::ModelState;
use crate::responder::Responder;
use crate::run::Run;

/// Answers every request, well or not.
pub(crate) fn execute(
    instance: &Instance,
    state: &InstanceState,
    model: &ModelState,
    requests: Lone<Request>,
) {
    let times = Times::start();
    let responders: Lone<Responder<'_>> = requests
        .into_iter()
        .map(|request| Responder::new(instance, request, times))
        .collect();
    let mut members: Lone<Option<Member<'_>>> = responders
        .into_iter()
        .filter_map(|responder| Member::admit(responder, model))
        .map(Some)
        .collect();
    let asked = members.iter().flatten().map(|member| &member.asked);
    let groups = model.ports.groups(asked);
    for (number, positions) in groups.into_iter().enumerate() {
        let group: Lone<Member<'_>> = positions
            .into_iter()
            .filter_map(|position| members.get_mut(position)?.take())
            .collect();
        // Requests of later groups have waited for the earlier ones so far.
        let times = if number == 0 { times } else { Times::start() };
        let batch_size = group.iter().map(|member| member.asked.batch_size).sum();
        let mut run = Run {
            model,
            canceller: state.canceller.as_ref(),
            times,
            batch_size,
        };
        if answer(&mut run, state.engine().as_mut(), group).is_ok() {
            let times = run.times.ending(now_ns());
            let batch_size = u64::try_from(batch_size).unwrap_or(u64::MAX);
            if let Err(error) = instance.report_batch(batch_size, times) {
                tracing::warn!("a batch is missing in the statistics: {error}");
            }
        }
    }
}

/// Runs the model for a group and answers its requests; fails if the run did.
fn answer(
    run: &mut Run<'_>,
    engine: &mut dyn EngineInstance,
    mut group: Lone<Member<'_>>,
) -> Result<(), ()> {
    let made = run
        .infer(engine, &group)
        .and_then(|outputs| Made::new(&run.model.ports, outputs, run.batch_size));
    for member in &mut group {
        member.responder.set_times(run.times);
    }
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            for member in group {
                member.responder.fail(&error);
            }
            return Err(());
        }
    };
    let mut start = 0;
    for member in group {
        let end = start + member.asked.batch_size;
        match made.add_to(&member, start, end) {
            Ok(()) => member.responder.succeed(),
            Err(error) => member.responder.fail(&error),
        };
        start = end;
        run.model.faults.reach_or_log(Place::BetweenAnswers);
    }
    Ok(())
}

/// A request that was checked and is not answered yet.
#[derive(Debug)]
pub(crate) struct Member<'i> {
    pub(crate) responder: Responder<'i>,
    pub(crate) asked: Asked,
}

impl<'i> Member<'i> {
    /// Checks a request; one that cannot run, or that its client has given up, is answered.
    fn admit(mut responder: Responder<'i>, model: &ModelState) -> Option<Member<'i>> {
        let opened = model
            .faults
            .reach(Place::Opening)
            .and_then(|()| responder.open());
        let asked = opened.and_then(|()| {
            let request = responder.request()?;
            if request.is_cancelled()? {
                return Err(Error::new(
                    ErrorCode::Cancelled,
                    "the request was cancelled before it ran",
                ));
            }
            model.ports.check(request)
        });
        match asked {
            Ok(asked) => Some(Member { responder, asked }),
            Err(error) => {
                responder.fail(&error);
                None
            }
        }
    }
}
