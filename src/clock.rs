//! The one source of time. Rules elsewhere take a [`Now`]; only the shell reads a [`Clock`].
//!
//! Two clocks stand behind a `Now`. The *wall* clock is what `ExpireTime` is written in, and it
//! can be set wrongly. The *ratchet* is the wall clock as we last believed it, carried on by the
//! boot-time clock, which nobody can set. A wall clock that was stepped disagrees with the
//! ratchet until the step has lasted long enough to be believed.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A point on the wall clock: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn as_millis(self) -> i64 {
        self.0
    }

    pub const fn as_seconds(self) -> f64 {
        self.0 as f64 / 1e3
    }

    /// Reads RFC 3339, such as `2027-11-22T00:00:00Z`. Fractions finer than a millisecond are
    /// cut, so that nothing lives longer than written.
    pub fn parse(text: &str) -> Option<Self> {
        let instant: jiff::Timestamp = text.parse().ok()?;
        Some(Self(instant.as_nanosecond().div_euclid(1_000_000) as i64))
    }

    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Zero if `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// RFC 3339 in UTC with milliseconds only where there are any.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the last second that can be written, jiff takes only the first of all milliseconds.
        match jiff::Timestamp::from_nanosecond(i128::from(self.0) * 1_000_000) {
            Ok(instant) => instant.fmt(f),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A point on the boot-time clock, which goes on during suspend and cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(Duration);

impl Uptime {
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// One reading of all clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall: Timestamp,
    pub ratchet: Timestamp,
    pub boot: Uptime,
    /// Whether somebody whose clock counts tells another time: see [`Clock::witness`].
    pub contradicted: bool,
}

impl Now {
    /// The larger of the ages by wall clock and by boot time: a clock set back makes nothing
    /// younger.
    pub fn age(&self, then: &Now) -> Duration {
        self.wall.since(then.wall).max(self.boot.since(then.boot))
    }

    /// Whether an instant has come by either clock: one that was set back makes nothing last
    /// longer.
    pub fn is_past(&self, end: Timestamp) -> bool {
        self.wall >= end || self.ratchet >= end
    }
}

#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    dial: Dial,
    /// The wall clock minus the boot-time clock in nanoseconds, as last believed.
    believed: AtomicI64,
    doubt: Mutex<Option<Doubt>>,
    contradicted: AtomicBool,
    /// Boot time of the last witness in nanoseconds; 0 if there was none.
    witnessed: AtomicI64,
}

enum Dial {
    System,
    Manual { wall: AtomicI64, boot: AtomicI64 },
}

/// A disagreement of wall clock and ratchet that is being watched.
struct Doubt {
    offset: i64,
    since: i64,
}

impl Clock {
    pub fn system() -> Self {
        Self::new(Dial::System)
    }

    /// A clock that stands still until a test moves it.
    pub fn manual(wall: Timestamp) -> Self {
        let wall = AtomicI64::new(wall.0 * NANOS_PER_MILLI);
        Self::new(Dial::Manual { wall, boot: AtomicI64::new(NANOS_PER_SECOND) })
    }

    fn new(dial: Dial) -> Self {
        let believed = AtomicI64::new(dial.offset());
        Self(Arc::new(Inner {
            dial,
            believed,
            doubt: Mutex::new(None),
            contradicted: AtomicBool::new(false),
            witnessed: AtomicI64::new(0),
        }))
    }

    pub fn now(&self) -> Now {
        let (wall, boot) = self.0.dial.read();
        let mut ratchet = boot + self.0.believed.load(Ordering::Relaxed);
        if (wall - ratchet).abs() <= AGREEMENT {
            ratchet = wall;
        }
        Now {
            wall: Timestamp(wall.div_euclid(NANOS_PER_MILLI)),
            ratchet: Timestamp(ratchet.div_euclid(NANOS_PER_MILLI)),
            boot: Uptime(Duration::from_nanos(boot.unsigned_abs())),
            contradicted: self.0.contradicted.load(Ordering::Relaxed),
        }
    }

    /// The boot-time clock alone, to tell how long something took.
    pub fn uptime(&self) -> Uptime {
        let boot = self.0.dial.boot();
        Uptime(Duration::from_nanos(boot.unsigned_abs()))
    }

    /// What the wall clock, as it is set now, would have told at a boot time.
    pub fn wall_at(&self, boot: Uptime) -> SystemTime {
        let nanos = self.0.dial.offset() + boot.0.as_nanos() as i64;
        SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos.max(0).unsigned_abs())
    }

    /// Hears what time it is elsewhere, as the `Date` of an answer tells: whole seconds, and a little
    /// old. A wall clock that agrees is believed at once. While one differs by more than 30 seconds,
    /// nothing is said to have expired. Gives by how much the other one is ahead, in milliseconds.
    pub fn witness(&self, date: Timestamp) -> i64 {
        let (wall, boot) = self.0.dial.read();
        let ahead = date.0 - wall.div_euclid(NANOS_PER_MILLI);
        self.0.witnessed.store(boot, Ordering::Relaxed);
        self.0.contradicted.store(ahead.abs() > CONTRADICTION, Ordering::Relaxed);
        if ahead.abs() <= CONFIRMATION {
            let mut doubt = self.0.doubt.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.believed.store(self.0.dial.offset(), Ordering::Relaxed);
            *doubt = None;
        }
        ahead
    }

    /// Believes a stepped wall clock once the step has stood for ten minutes, and nobody told
    /// otherwise in that time. To be called about once a second.
    pub fn settle(&self) {
        let offset = self.0.dial.offset();
        let (_, boot) = self.0.dial.read();
        let witnessed = self.0.witnessed.load(Ordering::Relaxed);
        if witnessed != 0 && boot - witnessed >= BELIEF {
            self.0.witnessed.store(0, Ordering::Relaxed);
            self.0.contradicted.store(false, Ordering::Relaxed);
        }
        let mut doubt = self.0.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        if (offset - self.0.believed.load(Ordering::Relaxed)).abs() <= AGREEMENT {
            *doubt = None;
            return;
        }
        match &*doubt {
            Some(known) if (known.offset - offset).abs() <= AGREEMENT => {
                if boot - known.since.max(witnessed) >= BELIEF {
                    self.0.believed.store(offset, Ordering::Relaxed);
                    *doubt = None;
                }
            }
            _ => *doubt = Some(Doubt { offset, since: boot }),
        }
    }

    /// Moves a manual clock on.
    ///
    /// # Panics
    /// On a system clock.
    pub fn advance(&self, by: Duration) {
        let (wall, boot) = self.0.dial.hands();
        let by = by.as_nanos() as i64;
        wall.fetch_add(by, Ordering::Relaxed);
        boot.fetch_add(by, Ordering::Relaxed);
    }

    /// Sets the wall clock of a manual clock, as an administrator or a bad time server would.
    ///
    /// # Panics
    /// On a system clock.
    pub fn set_wall(&self, to: Timestamp) {
        let (wall, _) = self.0.dial.hands();
        wall.store(to.0 * NANOS_PER_MILLI, Ordering::Relaxed);
    }
}

impl Dial {
    /// Nanoseconds of wall clock and boot time.
    fn read(&self) -> (i64, i64) {
        match self {
            Self::System => (nanos(ClockId::Realtime), self.boot()),
            Self::Manual { wall, .. } => (wall.load(Ordering::Relaxed), self.boot()),
        }
    }

    fn boot(&self) -> i64 {
        match self {
            Self::System => nanos(ClockId::Boottime),
            Self::Manual { boot, .. } => boot.load(Ordering::Relaxed),
        }
    }

    /// The wall clock minus boot time. Of a few readings the one least disturbed between its two
    /// halves, which is the largest: boot time is read last.
    fn offset(&self) -> i64 {
        let reading = || {
            let (wall, boot) = self.read();
            wall - boot
        };
        (0..4).map(|_| reading()).max().expect("four readings")
    }

    fn hands(&self) -> (&AtomicI64, &AtomicI64) {
        match self {
            Self::Manual { wall, boot } => (wall, boot),
            Self::System => panic!("the system's clock is not ours to set"),
        }
    }
}

fn nanos(id: ClockId) -> i64 {
    let time = clock_gettime(id);
    time.tv_sec * NANOS_PER_SECOND + time.tv_nsec
}

const NANOS_PER_MILLI: i64 = 1_000_000;
const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// Below this, two clocks agree: readings are taken one after the other.
const AGREEMENT: i64 = 10 * NANOS_PER_MILLI;
const BELIEF: i64 = 600 * NANOS_PER_SECOND;
/// In milliseconds: a `Date` has whole seconds and was on its way for a while.
const CONFIRMATION: i64 = 3_000;
const CONTRADICTION: i64 = 30_000;

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn settle_for(clock: &Clock, seconds: u64) {
        for _ in 0..seconds {
            clock.advance(Duration::from_secs(1));
            clock.settle();
        }
    }

    #[test]
    fn both_clocks_go_together() {
        let clock = Clock::manual(START);
        clock.advance(Duration::from_millis(1500));
        assert_eq!(clock.now().wall, START.plus(Duration::from_millis(1500)));
        assert_eq!(clock.now().ratchet, clock.now().wall);
    }

    #[test]
    fn a_step_is_doubted_for_ten_minutes_and_then_believed() {
        let clock = Clock::manual(START);
        clock.set_wall(START.plus(Duration::from_secs(3600)));
        settle_for(&clock, 600);
        assert_eq!(clock.now().ratchet, START.plus(Duration::from_secs(600)));
        settle_for(&clock, 1);
        assert_eq!(clock.now().ratchet, clock.now().wall);
    }

    #[test]
    fn a_second_step_starts_the_ten_minutes_anew() {
        let clock = Clock::manual(START);
        clock.set_wall(START.plus(Duration::from_secs(3600)));
        settle_for(&clock, 500);
        clock.set_wall(START);
        settle_for(&clock, 500);
        assert_ne!(clock.now().ratchet, clock.now().wall);
    }

    #[test]
    fn a_witness_confirms_a_step_at_once_and_contradicts_a_wrong_clock() {
        let hour = Duration::from_secs(3600);
        let clock = Clock::manual(START);
        clock.set_wall(START.plus(hour));
        assert_eq!(clock.witness(START.plus(hour)), 0);
        assert_eq!(clock.now().ratchet, clock.now().wall);
        assert!(!clock.now().contradicted);

        clock.witness(START);
        assert!(clock.now().contradicted);
        clock.set_wall(START.plus(2 * hour));
        for _ in 0..10 {
            settle_for(&clock, 300);
            clock.witness(START);
        }
        assert_ne!(clock.now().ratchet, clock.now().wall, "not while somebody says otherwise");
        settle_for(&clock, 601);
        assert!(!clock.now().contradicted, "nobody says so any more");
        assert_eq!(clock.now().ratchet, clock.now().wall);
    }

    #[test]
    fn an_age_is_the_larger_of_both_clocks() {
        let clock = Clock::manual(START);
        let then = clock.now();
        clock.advance(Duration::from_secs(60));
        clock.set_wall(START);
        assert_eq!(clock.now().age(&then), Duration::from_secs(60));
        clock.set_wall(START.plus(Duration::from_secs(90)));
        assert_eq!(clock.now().age(&then), Duration::from_secs(90));
    }

    #[test]
    fn a_boot_time_is_told_by_the_wall_clock_of_now() {
        let clock = Clock::manual(START);
        let then = clock.uptime();
        clock.advance(Duration::from_micros(1500));
        let told = |boot| clock.wall_at(boot).duration_since(SystemTime::UNIX_EPOCH);
        let start = Duration::from_millis(START.0.unsigned_abs());
        assert_eq!(told(then).expect("after 1970"), start);
        assert_eq!(told(clock.uptime()).expect("after 1970"), start + Duration::from_micros(1500));
    }

    #[test]
    fn finer_fractions_are_cut() {
        let parsed = Timestamp::parse("2027-11-22T00:00:00.0019Z").expect("RFC 3339");
        assert_eq!(parsed.to_string(), "2027-11-22T00:00:00.001Z");
        assert_eq!(Timestamp::parse("2027-11-22"), None);
        let last = Timestamp::parse("9999-12-30T22:00:00.999999999Z").expect("the last one");
        assert_eq!(last.to_string(), "9999-12-30T22:00:00.999Z");
    }
}
