//! The one timer of a connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline that moves with every request, over a timer that hardly ever does.
///
/// Moving the deadline later only notes it: the timer fires at the time it was set for, sees that
/// it is early, and is set again. A busy connection so pays the runtime's timer about once per
/// idle period instead of once per read. Only moving it earlier than the timer touches the timer.
#[derive(Debug)]
pub(crate) struct Deadline {
    timer: Pin<Box<Sleep>>,
    due: Instant,
    /// Whom the timer wakes, once it runs.
    waker: Option<Waker>,
}

impl Deadline {
    /// A deadline at `due`; the timer starts with the first poll.
    pub(crate) fn new(due: Instant) -> Self {
        Self {
            timer: Box::pin(sleep_until(due)),
            due,
            waker: None,
        }
    }

    /// Moves the deadline.
    pub(crate) fn set(&mut self, due: Instant) {
        self.due = due;
        if due < self.timer.deadline() {
            self.timer.as_mut().reset(due);
        }
    }

    /// Ready once the deadline has passed; until then the task is woken in time to see it.
    pub(crate) fn poll_passed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // A timer that runs for this task needs no word more.
        let known = self
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()));
        if known && !self.timer.is_elapsed() {
            return Poll::Pending;
        }
        self.waker = Some(context.waker().clone());
        while self.timer.as_mut().poll(context).is_ready() {
            if Instant::now() >= self.due {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn passed(deadline: &mut Deadline) -> Duration {
        let start = Instant::now();
        poll_fn(|context| deadline.poll_passed(context)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_passes_when_due_wherever_it_was_moved() {
        let mut deadline = Deadline::new(Instant::now() + 10 * SECOND);
        deadline.set(Instant::now() + 30 * SECOND);
        assert_eq!(passed(&mut deadline).await.as_secs(), 30);
        deadline.set(Instant::now() + 60 * SECOND);
        deadline.set(Instant::now() + 2 * SECOND);
        assert_eq!(passed(&mut deadline).await.as_secs(), 2);
        deadline.set(Instant::now() + 5 * SECOND);
        assert_eq!(passed(&mut deadline).await.as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn it_wakes_the_task_that_polled_last() {
        let mut deadline = Deadline::new(Instant::now() + 10 * SECOND);
        let elsewhere = Waker::noop();
        assert!(
            deadline
                .poll_passed(&mut Context::from_waker(elsewhere))
                .is_pending()
        );
        let mut deadline = tokio::spawn(async move {
            assert_eq!(passed(&mut deadline).await.as_secs(), 10);
            deadline
        })
        .await
        .unwrap();
        deadline.set(Instant::now() + 3 * SECOND);
        assert_eq!(passed(&mut deadline).await.as_secs(), 3);
    }
}
