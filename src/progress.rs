//! Progress of long work: bars on a terminal, a log line every few seconds elsewhere.
//!
//! A task only counts; it never waits, and may be advanced from any thread or task. Bars go to standard error, as the
//! log does; [`Progress::writer`] keeps log lines from being drawn over.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

/// The time between two log lines of one task.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// Message = name, prefix = unit; names have one width, so that bars stand below each other.
const BAR: &str = "{msg:<24} {bar:30} {human_pos}/{human_len} {prefix} {per_sec}, {eta} left";

/// Where the tasks of this process show how far they are. Clones show in the same place.
#[derive(Clone, Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
}

/// Long work whose total is told with its first word.
pub struct OpenTask<'a> {
    progress: &'a Progress,
    name: &'a str,
    unit: &'a str,
    task: Mutex<Option<Task>>,
}

/// One piece of long work. Clones count together.
#[derive(Clone, Debug)]
pub struct Task {
    shown: Shown,
}

#[derive(Clone, Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines(Arc<Lines>),
}

impl Progress {
    /// Bars where standard error is a terminal, log lines elsewhere.
    pub fn stderr() -> Self {
        Self { bars: io::stderr().is_terminal().then(MultiProgress::new) }
    }

    /// Log lines only.
    #[cfg(test)]
    pub const fn lines() -> Self {
        Self { bars: None }
    }

    /// Starts a task of `total` units, such as `"events"`.
    pub fn counted(&self, name: &str, unit: &str, total: u64) -> Task {
        let shown = match &self.bars {
            Some(bars) => Shown::Bar(bar(bars, name, unit, total)),
            None => Shown::Lines(Arc::new(Lines::new(name, unit, total))),
        };
        Task { shown }
    }

    /// Whether tasks show as bars.
    pub const fn has_bars(&self) -> bool {
        self.bars.is_some()
    }

    /// Standard error for a log: bars step aside while a line is written.
    pub fn writer(&self) -> ProgressWriter {
        ProgressWriter { bars: self.bars.clone() }
    }
}

impl<'a> OpenTask<'a> {
    /// Nothing is told yet.
    pub const fn new(progress: &'a Progress, name: &'a str, unit: &'a str) -> Self {
        Self { progress, name, unit, task: Mutex::new(None) }
    }

    /// `done` of `total` units are done.
    pub fn tell(&self, done: u64, total: u64) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.get_or_insert_with(|| self.progress.counted(self.name, self.unit, total)).set(done);
    }

    /// The work is done.
    pub fn finish(&self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.finish();
        }
    }
}

impl Task {
    /// `done` units are done in all.
    pub fn set(&self, done: u64) {
        match &self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines(lines) => {
                lines.done.store(done, Ordering::Relaxed);
                lines.tell_if_due(done);
            }
        }
    }

    /// The work is done: the bar goes away, and one log line says how much it was and how long it took.
    pub fn finish(self) {
        match &self.shown {
            Shown::Bar(bar) => {
                // Finishing moves the bar to its end, wherever the work stopped.
                let done = bar.position();
                bar.finish_and_clear();
                tell_finished(&bar.message(), &bar.prefix(), done, bar.elapsed());
            }
            Shown::Lines(lines) => {
                tell_finished(&lines.name, &lines.unit, lines.done.load(Ordering::Relaxed), lines.start.elapsed());
            }
        }
    }
}

fn bar(bars: &MultiProgress, name: &str, unit: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    // A template that did not parse would show the library's own bar; a test holds that it parses.
    let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
    bars.add(bar.with_style(style).with_message(name.to_owned()).with_prefix(unit.to_owned()))
}

fn tell_finished(name: &str, unit: &str, done: u64, elapsed: Duration) {
    tracing::info!(done, unit, rate = rate(done, elapsed), elapsed_ms = millis(elapsed), "{name}: finished");
}

/// The state of a task that shows as log lines.
#[derive(Debug)]
struct Lines {
    name: String,
    unit: String,
    total: u64,
    start: Instant,
    done: AtomicU64,
    /// Milliseconds after the start at which the next line is due.
    due_ms: AtomicU64,
}

impl Lines {
    fn new(name: &str, unit: &str, total: u64) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            total,
            start: Instant::now(),
            done: AtomicU64::new(0),
            due_ms: AtomicU64::new(millis(LINE_EVERY)),
        }
    }

    fn tell_if_due(&self, done: u64) {
        let elapsed = self.start.elapsed();
        if !self.take_turn(elapsed) {
            return;
        }
        tracing::info!(done, total = self.total, unit = self.unit, rate = rate(done, elapsed), "{}", self.name);
    }

    /// Whether a line is due `elapsed` after the start; of several threads that ask at once, one is told so.
    fn take_turn(&self, elapsed: Duration) -> bool {
        let now = millis(elapsed);
        let due = self.due_ms.load(Ordering::Relaxed);
        let next = now + millis(LINE_EVERY);
        now >= due && self.due_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole units per second; none before the first millisecond has passed.
fn rate(done: u64, elapsed: Duration) -> Option<u64> {
    (u128::from(done) * 1_000).checked_div(elapsed.as_millis()).and_then(|rate| u64::try_from(rate).ok())
}

/// Writes whole log lines to standard error, between two drawings of the bars.
#[derive(Clone)]
pub struct ProgressWriter {
    bars: Option<MultiProgress>,
}

impl fmt::Debug for ProgressWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgressWriter").field("bars", &self.bars.is_some()).finish()
    }
}

impl Write for ProgressWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A line that nobody can read any more is no reason to stop working.
        let written = match &self.bars {
            Some(bars) => bars.suspend(|| io::stderr().write_all(bytes)),
            None => io::stderr().write_all(bytes),
        };
        written.or(Ok(())).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for ProgressWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LogFormat, LoggingSettings};
    use std::thread;

    #[test]
    fn a_line_is_due_every_few_seconds_and_not_in_between() {
        let lines = Lines::new("fold", "events", 100);
        let at = |ms| lines.take_turn(Duration::from_millis(ms));
        assert_eq!(
            [0, 2_999, 3_000, 3_001, 5_999, 6_000, 60_000, 60_001].map(at),
            [false, false, true, false, false, true, true, false]
        );
    }

    #[test]
    fn of_many_threads_one_tells_a_line() {
        let lines = Lines::new("fold", "events", 100);
        let told = thread::scope(|scope| {
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| lines.take_turn(LINE_EVERY))).collect();
            asking.into_iter().filter_map(|thread| thread.join().ok()).filter(|told| *told).count()
        });
        assert_eq!(told, 1);
    }

    #[test]
    fn clones_show_in_one_place_and_the_end_is_told_once() {
        let text = logged(|| {
            let task = Progress::lines().counted("warm start", "events", 7_200);
            task.set(7_000);
            task.clone().set(7_200);
            task.finish();
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("warm start: finished"), "{text}");
        assert!(text.contains("done=7200 unit=\"events\""), "{text}");
    }

    #[test]
    fn a_bar_counts_as_lines_do() {
        let progress =
            Progress { bars: Some(MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden())) };
        let text = logged(|| {
            let task = progress.counted("fold", "rows", 50);
            task.set(42);
            task.finish();
        });
        assert!(text.contains("fold: finished"), "{text}");
        assert!(text.contains("done=42 unit=\"rows\""), "{text}");
    }

    #[test]
    fn the_template_of_the_bars_parses() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }

    #[test]
    fn a_rate_is_whole_units_per_second() {
        assert_eq!(rate(300, Duration::from_millis(200)), Some(1_500));
        assert_eq!(rate(300, Duration::ZERO), None);
        assert_eq!(rate(u64::MAX, Duration::from_millis(1)), None);
    }

    fn logged(work: impl FnOnce()) -> String {
        let settings = LoggingSettings { level: "info".to_owned(), format: LogFormat::Text };
        crate::logging::tests::logged(&settings, work)
    }
}
