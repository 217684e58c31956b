//! What the game day has shown.

use std::io::Write;

use crate::ledger::{Count, Ledger};
use crate::scene::Scene;

#[derive(Default)]
pub struct Table {
    lines: Vec<String>,
    sums: [usize; COUNTS],
}

impl Table {
    pub fn add(&mut self, scene: &Scene<'_>) {
        let counts = counts(&scene.ledger);
        let alert = scene.fault.alert.unwrap_or("none is due");
        let seconds = scene.seconds_to_alert().map_or(String::new(), |it| format!("{it:.0}"));
        self.lines.push(line(scene.fault.name, &counts, alert, &seconds));
        self.sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }

    /// Past the test harness, which would keep it to itself.
    pub fn print(&self) {
        let head = format!(
            "{:<44} {:>8} {:>7} {:>9} {:>11} {:>7} {:>11} {:>11}  {:<36} {:>7}",
            "fault",
            "requests",
            "refused",
            "undecided",
            "quarantines",
            "by hand",
            "left active",
            "resurrected",
            "alert",
            "seconds"
        );
        let mut text = format!("\n{head}\n");
        self.lines.iter().for_each(|line| text += line);
        text += &line("all", &self.sums, "", "");
        std::io::stdout().write_all(text.as_bytes()).expect("somebody reads");
    }
}

const COUNTS: usize = 7;

fn counts(ledger: &Ledger) -> [usize; COUNTS] {
    let Ledger { requests, refused, undecided, quarantines, by_hand, left_active, .. } = ledger;
    [requests, refused, undecided, quarantines, by_hand, left_active, &ledger.resurrected]
        .map(Count::get)
}

fn line(name: &str, counts: &[usize; COUNTS], alert: &str, seconds: &str) -> String {
    let [requests, refused, undecided, quarantines, by_hand, left, resurrected] = counts;
    format!(
        "{name:<44} {requests:>8} {refused:>7} {undecided:>9} {quarantines:>11} {by_hand:>7} {left:>11} \
         {resurrected:>11}  {alert:<36} {seconds:>7}\n"
    )
}
