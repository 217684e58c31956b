//! The deadlines of one worker. Arming one is a store; a sweep a few times a second wakes whoever
//! waits for one that has passed. So a timeout costs a request next to nothing, and fires up to
//! [`TICK`] late, never early.

use std::cell::{Cell, Ref, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// Time between two sweeps.
pub const TICK: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct Timers(Rc<Wheel>);

struct Wheel {
    start: Instant,
    /// Milliseconds since the start at the last sweep.
    now: Cell<u64>,
    entries: RefCell<Slab<Entry>>,
}

struct Entry {
    /// Milliseconds since the start; `OFF` and `FIRED` stand apart.
    at: Cell<u64>,
    waker: Cell<Option<Waker>>,
}

const OFF: u64 = u64::MAX;
const FIRED: u64 = 0;

/// One deadline, armed and disarmed at will.
pub struct Timer {
    key: usize,
    timers: Timers,
}

/// The deadline passed first.
#[derive(Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Timers {
    #[expect(clippy::new_without_default, reason = "the clock starts here, which a default hides")]
    pub fn new() -> Self {
        let entries = RefCell::default();
        Self(Rc::new(Wheel { start: Instant::now(), now: Cell::new(1), entries }))
    }

    pub fn timer(&self) -> Timer {
        let entry = Entry { at: Cell::new(OFF), waker: Cell::new(None) };
        let key = self.0.entries.borrow_mut().insert(entry);
        Timer { key, timers: self.clone() }
    }

    /// Milliseconds since the start, up to a tick old.
    pub fn coarse_millis(&self) -> u64 {
        self.0.now.get()
    }

    /// To be called every [`TICK`].
    pub fn sweep(&self) {
        let now = self.0.start.elapsed().as_millis() as u64 + 1;
        self.0.now.set(now);
        for (_, entry) in self.0.entries.borrow().iter() {
            if entry.at.get() <= now {
                entry.at.set(FIRED);
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

impl Timer {
    fn entry(&self) -> Ref<'_, Entry> {
        Ref::map(self.timers.0.entries.borrow(), |entries| &entries[self.key])
    }

    pub fn arm(&self, after: Duration) {
        let late = (after + TICK).as_millis() as u64;
        self.entry().at.set(self.timers.0.now.get().saturating_add(late));
    }

    pub fn disarm(&self) {
        self.entry().at.set(OFF);
    }

    pub fn is_armed(&self) -> bool {
        self.entry().at.get() != OFF
    }

    /// Ready once the deadline has passed. One task can wait at a time.
    pub fn poll_elapsed(&self, context: &mut Context<'_>) -> Poll<()> {
        let entry = self.entry();
        if entry.at.get() == FIRED {
            return Poll::Ready(());
        }
        let known = entry.waker.take();
        let same = known.as_ref().is_some_and(|known| known.will_wake(context.waker()));
        let (waker, old) =
            if same { (known, None) } else { (Some(context.waker().clone()), known) };
        entry.waker.set(waker);
        // Before the old one is dropped: what hangs on it may have a timer.
        drop(entry);
        drop(old);
        Poll::Pending
    }

    /// Waits for the future, or for the time to pass.
    pub async fn limit<F: Future>(&self, time: Duration, future: F) -> Result<F::Output, Elapsed> {
        self.arm(time);
        let mut future = pin!(future);
        let outcome = poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_elapsed(context).map(|()| Err(Elapsed)),
        });
        let outcome = outcome.await;
        self.disarm();
        outcome
    }

    /// Waits for the time to pass.
    pub async fn pause(&self, time: Duration) {
        let _ = self.limit(time, std::future::pending::<()>()).await;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.timers.0.entries.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elapsed(timer: &Timer) -> bool {
        timer.poll_elapsed(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_timer_fires_after_its_time_and_not_when_disarmed() {
        let timers = Timers::new();
        let (armed, disarmed) = (timers.timer(), timers.timer());
        armed.arm(Duration::ZERO);
        disarmed.arm(Duration::ZERO);
        disarmed.disarm();
        timers.sweep();
        assert!(!elapsed(&armed), "early");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !elapsed(&armed) && Instant::now() < deadline {
            timers.sweep();
        }
        assert!(elapsed(&armed));
        assert!(!elapsed(&disarmed));
    }
}
