//! When the name of a server is to be looked up, and how long what was found holds. It asks no
//! resolver and knows no clock.

/// One server's name. Times are in milliseconds.
#[derive(Default)]
pub struct Lookups {
    under_way: bool,
    asked: Option<u64>,
    /// When an answer came last.
    found: Option<u64>,
    /// The last answer was none, or led to an address that did not work.
    doubted: bool,
}

impl Lookups {
    /// Whether to ask now; if so, that counts as begun. Whoever has addresses need not wait.
    pub fn begin(&mut self, now: u64) -> bool {
        let pause = if self.doubted { DOUBTED } else { FRESH };
        let due = !self.under_way && self.asked.is_none_or(|at| at + pause <= now);
        if due {
            (self.under_way, self.asked) = (true, Some(now));
        }
        due
    }

    pub fn is_under_way(&self) -> bool {
        self.under_way
    }

    pub fn doubt(&mut self) {
        self.doubted = true;
    }

    pub fn succeeded(&mut self, now: u64) {
        (self.under_way, self.doubted, self.found) = (false, false, Some(now));
    }

    /// Whether what was found before is too old to be used any longer.
    pub fn failed(&mut self, now: u64) -> bool {
        (self.under_way, self.doubted) = (false, true);
        self.found.is_some_and(|at| at + LAST_GOOD <= now)
    }
}

/// How long an answer is not asked for again.
const FRESH: u64 = 5000;
/// The same where it may be wrong.
const DOUBTED: u64 = 1000;
/// How long addresses are used while the resolver does not answer.
const LAST_GOOD: u64 = 10 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_at_a_time_and_none_while_the_answer_is_fresh() {
        let mut lookups = Lookups::default();
        assert!(lookups.begin(100));
        assert!(!lookups.begin(100) && !lookups.begin(100 + FRESH), "it is under way");
        lookups.succeeded(200);
        assert!(!lookups.begin(100 + FRESH - 1));
        assert!(lookups.begin(100 + FRESH));
    }

    #[test]
    fn an_answer_in_doubt_is_asked_for_sooner_but_not_in_a_flood() {
        let mut lookups = Lookups::default();
        assert!(lookups.begin(0));
        lookups.succeeded(0);
        lookups.doubt();
        assert!(!lookups.begin(DOUBTED - 1) && lookups.begin(DOUBTED));
        assert!(!lookups.failed(DOUBTED));
        assert!(!lookups.begin(2 * DOUBTED - 1) && lookups.begin(2 * DOUBTED));
        lookups.succeeded(2 * DOUBTED);
        assert!(!lookups.begin(3 * DOUBTED), "the doubt is gone");
    }

    #[test]
    fn the_last_good_answer_holds_for_a_while() {
        let mut lookups = Lookups::default();
        assert!(!lookups.failed(LAST_GOOD), "there was none");
        lookups.succeeded(1000);
        assert!(!lookups.failed(1000 + LAST_GOOD - 1));
        assert!(lookups.failed(1000 + LAST_GOOD));
    }
}
