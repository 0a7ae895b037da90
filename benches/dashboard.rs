//! The dashboard in a browser that shares the machine with the program: 50 markets with 4 events a second each.
//!
//! `cargo bench --bench dashboard`, and after `--` what is not to be the default: `--seconds 600`. Needs Chromium. Measures
//! how soon the first page is painted, then watches the live feed of all markets: its longest task and its heap, collected
//! before it is read. Beside them stands how much of the machine its host gave to others, which makes every task longer.
//! Fails where a page writes an error to its console, and never for a time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark may stop at any line")]

#[expect(dead_code, reason = "the tests do more in it")]
#[path = "../tests/it/browser.rs"]
mod browser;
#[expect(dead_code, reason = "the load benchmark asks more of it")]
mod load;
#[expect(dead_code, reason = "the load benchmark measures more of it")]
mod program;

/// What the browser takes from the tests beside it.
mod harness {
    pub use crate::load::PATIENCE;
}

use std::{env, fs, process::ExitCode, thread, time::Duration};

use browser::Browser;
use load::server::Server;

/// Markets.
const SYMBOLS: usize = 50;

/// Seconds between two events of each.
const FREQUENCY: &str = "0.25";

/// The program makes way for the browser: what is measured is the page, which is on another machine as a rule.
const NICENESS: u8 = 10;

/// How long the page is left alone before its heap is looked at first: it fills its window.
const SETTLING: Duration = Duration::from_mins(1);

/// How often the heap is looked at.
const LOOKS: usize = 5;

/// Remembers every task of more than 50 ms, which is what browsers call a long one.
const WATCH_TASKS: &str = "(() => { window.longTasks = []; new PerformanceObserver((list) => \
                           longTasks.push(...list.getEntries().map((task) => task.duration))).observe({ type: 'longtask' }); })()";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    let seconds: u64 = match (arguments.next().as_deref(), arguments.next()) {
        (None, None) => 600,
        (Some("--seconds"), Some(seconds)) => seconds.parse().unwrap(),
        _ => panic!("the only argument is --seconds SECONDS"),
    };
    let chromium =
        headless_chrome::browser::default_executable().unwrap_or_else(|reason| panic!("no Chromium: {reason}"));
    let folder = tempfile::tempdir().unwrap();
    let symbols: Vec<String> = (0..SYMBOLS).map(|number| format!("COIN{number}-USDT")).collect();
    let symbols = symbols.join(",");
    let server =
        Server::start(folder.path(), &["--symbols", &symbols, "--warm-start-hours", "1"], Some(FREQUENCY), NICENESS);
    server.wait_for("/model-info", "\"model_version\":1");
    server.wait_for_line("scored the history");

    let browser = Browser::open(chromium, 1_280, 900);
    browser.go(&format!("http://{}/", server.address));
    browser.wait_until("performance.getEntriesByName('first-contentful-paint').length === 1");
    let paint = number(&browser, "performance.getEntriesByName('first-contentful-paint')[0].startTime");
    row("first contentful paint of /, nothing cached", &format!("{paint:.0} ms"));

    browser.go(&format!("http://{}/#/live", server.address));
    browser.wait_until("Boolean(document.querySelector('#page-live .js-plotly-plot'))");
    thread::sleep(SETTLING);
    let (heap, told) = (heap_mb(&browser), predictions(&browser));
    // From here on: collecting the heap is a long task too, and not one of the page.
    browser.value(WATCH_TASKS);
    let before = processor_time();
    thread::sleep(Duration::from_secs(seconds));
    let stolen = before.zip(processor_time()).map(|((stolen, all), (to, of))| 100.0 * (to - stolen) / (of - all));
    let updates = (predictions(&browser) - told) / f64::from(u32::try_from(seconds).unwrap());
    row("live feed of all markets", &format!("{updates:.0} updates/s for {seconds} s"));
    row("longest task", &format!("{:.0} ms", number(&browser, "Math.max(0, ...longTasks)")));
    row("tasks of more than 50 ms", &format!("{:.0}", number(&browser, "longTasks.length")));
    row("machine given to others by its host", &stolen.map_or("unknown".to_owned(), |part| format!("{part:.1} %")));
    row("heap, after a minute and at the end", &format!("{heap:.1} MB, {:.1} MB", heap_mb(&browser)));
    let errors = browser.errors();
    for error in &errors {
        eprintln!("{error}");
    }
    if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn number(browser: &Browser, expression: &str) -> f64 {
    browser.value(expression).as_f64().unwrap()
}

/// How much of its processors a virtual machine was denied, and all time of them, since it was started; in ticks. Linux only.
fn processor_time() -> Option<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<f64> = stat.lines().next()?.split_whitespace().skip(1).map_while(|part| part.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of the first two.
    Some((*ticks.get(7)?, ticks.get(..8)?.iter().sum()))
}

/// The least of a few looks: what a draw needs while it goes on is none of what the page keeps.
fn heap_mb(browser: &Browser) -> f64 {
    let looks = (0..LOOKS).map(|_| {
        browser.value("gc()");
        number(browser, "performance.memory.usedJSHeapSize") / 1e6
    });
    looks.fold(f64::INFINITY, f64::min)
}

/// Live predictions that there have been.
fn predictions(browser: &Browser) -> f64 {
    number(browser, "fetch('/stats').then((answer) => answer.json()).then((stats) => stats.total_predictions)")
}

fn row(what: &str, result: &str) {
    println!("{what:<60} {result}");
}
