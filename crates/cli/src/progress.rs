//! How far a transfer is: a bar where a person watches, a plain line every few seconds elsewhere.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{Output, plain, watched};
use crate::quantity::show_bytes;

/// How often a line is written where nobody watches.
const LINE_EVERY: Duration = Duration::from_secs(3);
/// Redraws per second where somebody does.
const DRAWS: u8 = 8;

/// Seconds left beyond which the rate says that it stalls, not when it ends.
const FORESEEABLE: u64 = 100 * 3_600;

/// What there is to show of one transfer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    /// Bytes that are verified.
    pub(crate) done: u64,
    /// Bytes that are wanted; None while that is unknown.
    pub(crate) total: Option<u64>,
    /// Bytes per second.
    pub(crate) rate: u64,
    /// Peers that are connected.
    pub(crate) peers: usize,
    /// What it is busy with, where that is not fetching.
    pub(crate) doing: Option<String>,
}

/// All that is in transfer.
#[derive(Clone)]
pub(crate) struct Board {
    bars: Option<MultiProgress>,
    output: Output,
}

impl Board {
    /// Bars on a terminal, lines elsewhere.
    pub(crate) fn new(output: Output) -> Self {
        let bars = watched().then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS)));
        Self { bars, output }
    }

    /// A new line on it.
    pub(crate) fn add(&self, name: &str) -> Progress {
        let style = ProgressStyle::with_template("{prefix} {bar:24} {bytes}/{total_bytes} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.bars.as_ref().map(|bars| bars.add(ProgressBar::no_length().with_style(style)));
        let name = plain(name);
        if let Some(bar) = &bar {
            bar.set_prefix(name.clone());
        }
        Progress { name, bar, output: self.output, last_line: Instant::now() }
    }

    /// Says a sentence without tearing the bars.
    pub(crate) fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            None => self.output.talk(text),
        }
    }
}

/// The progress of one transfer.
pub(crate) struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    output: Output,
    last_line: Instant,
}

impl Progress {
    /// Shows how it stands.
    pub(crate) fn show(&mut self, shown: &Shown) {
        let text = describe(shown);
        if let Some(bar) = &self.bar {
            if let Some(total) = shown.total {
                bar.set_length(total);
            }
            bar.set_position(shown.done);
            bar.set_message(text);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let (done, total) = (show_bytes(shown.done), shown.total.map_or("?".into(), show_bytes));
            self.output.talk(format_args!("{}: {done} of {total}, {text}", self.name));
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn describe(shown: &Shown) -> String {
    if let Some(doing) = &shown.doing {
        return doing.clone();
    }
    if shown.peers == 0 {
        return "no peer at the moment".to_owned();
    }
    let rate = format!("{}/s from {} peer{}", show_bytes(shown.rate), shown.peers, plural(shown.peers));
    let left = shown.total.map_or(0, |total| total.saturating_sub(shown.done));
    match left.checked_div(shown.rate) {
        Some(seconds) if left > 0 && seconds < FORESEEABLE => format!("{rate}, {} left", show_seconds(seconds)),
        _ => rate,
    }
}

/// The ending of a noun.
pub(crate) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn show_seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stalled_transfer_names_no_end() {
        let shown = Shown { done: 1, total: Some(10), rate: 0, peers: 1, doing: None };
        assert_eq!(describe(&shown), "0 B/s from 1 peer");
    }

    #[test]
    fn a_rate_that_dies_away_names_no_end() {
        let shown = Shown { done: 0, total: Some(1 << 30), rate: 158, peers: 1, doing: None };
        assert_eq!(describe(&shown), "158 B/s from 1 peer");
    }

    #[test]
    fn without_peers_no_rate_of_earlier_is_shown() {
        let shown = Shown { done: 1, total: Some(10), rate: 5, peers: 0, doing: None };
        assert_eq!(describe(&shown), "no peer at the moment");
    }

    #[test]
    fn the_time_left_follows_from_the_rate() {
        let shown = Shown { done: 0, total: Some(90 * 1024), rate: 1024, peers: 3, doing: None };
        assert_eq!(describe(&shown), "1.0 KiB/s from 3 peers, 1 min 30 s left");
    }
}
