//! The service under load as users run it: `sentinel up` on an empty folder, asked by a client that shares its cores.
//!
//! `cargo bench --bench service`, and after `--` what is not to be the default: `--seconds 60` with the readers,
//! `--readers 1000`, `--frequency 1`, the seconds between two events of a symbol. Measures the peak of `POST /predict`,
//! then half of it beside readers of `GET /stream`, then swaps the champion under the same load, then ends the program
//! under load and verifies its tables. Fails where a request, a stream or the program did, and never for a time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark may stop at any line")]

mod load;
mod program;

use std::{env, mem, path::Path, process::ExitCode, thread, time::Duration};

use load::{
    asking::{self, Load, Outcome, Question},
    files,
    readers::Readers,
    server::Server,
};
use program::timed;

/// Connections that ask as fast as they are answered.
const EAGER: usize = 16;

/// Connections that ask on a schedule, and at the end.
const PUNCTUAL: u32 = 64;

/// Measurements of the peak, of which the first is not counted.
const ROUNDS: usize = 4;

/// How long each takes.
const ROUND: Duration = Duration::from_secs(4);

/// Promotions under load, and the time between two.
const SWAPS: usize = 6;
const SWAP_PAUSE: Duration = Duration::from_secs(1);

/// Asking before the program is to end.
const BEFORE_THE_END: Duration = Duration::from_secs(1);

/// Open files of each process beside the readers'.
const SPARE_FILES: usize = 512;

/// What is measured.
struct Plan {
    seconds: u64,
    readers: usize,
    frequency: Option<String>,
}

impl Plan {
    fn of_arguments() -> Self {
        let mut plan = Self { seconds: 60, readers: 1_000, frequency: None };
        // Cargo adds this one.
        let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
            match name.as_str() {
                "--seconds" => plan.seconds = value.parse().unwrap(),
                "--readers" => plan.readers = value.parse().unwrap(),
                "--frequency" => plan.frequency = Some(value),
                _ => panic!("{name} is none of --seconds, --readers and --frequency"),
            }
        }
        plan
    }
}

fn main() -> ExitCode {
    let plan = Plan::of_arguments();
    files::make_room(plan.readers + SPARE_FILES);
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), &[], plan.frequency.as_deref(), 0);
    let mut faults = Vec::new();
    let questions = ready(&server, folder.path());
    row("resident memory with a model", &format!("{} MB", server.resident_mb()));
    let half = peak(&server, &questions, &mut faults) / 2.0;
    let readers = match Readers::open(server.address, plan.readers) {
        Ok(readers) => readers,
        Err(fault) => {
            eprintln!("{fault}");
            return ExitCode::FAILURE;
        }
    };
    beside_readers(&server, &questions, &readers, half, &plan, &mut faults);
    swaps(&server, &questions, half, folder.path(), &mut faults);
    end(&mut server, &questions, readers, folder.path(), &mut faults);
    for fault in &faults {
        eprintln!("{fault}");
    }
    row("faults", &faults.len().to_string());
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits until every event is scored, and makes a second model; questions with the answers of both. The first is
/// champion, and stays it until somebody promotes the other.
fn ready(server: &Server, data: &Path) -> Vec<Question> {
    server.wait_for("/model-info", "\"model_version\":1");
    server.wait_for_line("scored the history");
    for schedule in ["retrain", "evaluate"] {
        server.post(&format!("/schedules/{schedule}/pause"), "{\"note\": \"a benchmark runs\"}");
    }
    timed(data, &["train", "--no-promote", "--seed", "7"]);
    let mut questions = asking::questions(server.address, PUNCTUAL);
    asking::learn(server.address, &mut questions);
    promote(server, 2);
    asking::learn(server.address, &mut questions);
    promote(server, 1);
    questions
}

fn promote(server: &Server, version: usize) {
    server.post(&format!("/models/{version}/promote"), "{\"reason\": \"a benchmark runs\"}");
    server.wait_for("/model-info", &format!("\"model_version\":{version}"));
}

/// Right answers per second, the middle of the rounds.
fn peak(server: &Server, questions: &[Question], faults: &mut Vec<String>) -> f64 {
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let load = Load::without_pause(server.address, &questions[..EAGER]);
        thread::sleep(ROUND);
        let outcome = load.stop();
        note("the peak", &outcome, faults);
        rates.push(outcome.rate());
    }
    let counted = &mut rates[1..];
    counted.sort_unstable_by(f64::total_cmp);
    let (least, middle, most) = (counted[0], counted[counted.len() / 2], counted[counted.len() - 1]);
    let rate = format!("{middle:.0} requests/s ({least:.0} to {most:.0})");
    row(&format!("peak of POST /predict, {EAGER} connections"), &rate);
    middle
}

/// Half the peak beside the readers, for as long as was asked for.
fn beside_readers(
    server: &Server,
    questions: &[Question],
    readers: &Readers,
    rate: f64,
    plan: &Plan,
    faults: &mut Vec<String>,
) {
    let before = readers.events();
    let load = Load::on_schedule(server.address, questions, rate);
    let begin = server.resident_mb();
    thread::sleep(Duration::from_secs(plan.seconds) / 2);
    let middle = server.resident_mb();
    thread::sleep(Duration::from_secs(plan.seconds) / 2);
    let end = server.resident_mb();
    let outcome = load.stop();
    let events: Vec<u64> = readers.events().iter().zip(&before).map(|(after, before)| after - before).collect();
    let (least, most) = (events.iter().min().unwrap_or(&0), events.iter().max().unwrap_or(&0));
    let what = format!("{} readers for {} s, and {rate:.0} requests/s", plan.readers, plan.seconds);
    show(&what, &outcome);
    row("events to each reader", &format!("{least} to {most}, {} missed in all", readers.missed()));
    row("resident memory at the beginning, halfway, at the end", &format!("{begin}, {middle}, {end} MB"));
    note("beside the readers", &outcome, faults);
}

/// The same while the champion changes and a model is trained.
fn swaps(server: &Server, questions: &[Question], rate: f64, data: &Path, faults: &mut Vec<String>) {
    let load = Load::on_schedule(server.address, questions, rate);
    for swap in 0..SWAPS {
        thread::sleep(SWAP_PAUSE);
        promote(server, 2 - swap % 2);
    }
    timed(data, &["train", "--no-promote", "--seed", "8"]);
    let outcome = load.stop();
    show(&format!("the same, {SWAPS} promotions and a training"), &outcome);
    note("while the champion changed", &outcome, faults);
}

/// Ends the program while it is asked and read, and verifies what it leaves.
fn end(server: &mut Server, questions: &[Question], readers: Readers, data: &Path, faults: &mut Vec<String>) {
    let load = Load::announced(server.address, questions);
    thread::sleep(BEFORE_THE_END);
    let (status, seconds) = server.end();
    let mut outcome = load.stop();
    let cut = readers.ended();
    faults.extend(cut.first().map(|first| format!("{} streams failed: {first}", cut.len())));
    if !status.success() {
        faults.push(format!("the program ended with {status}"));
    }
    let (answered, closed) = (outcome.answered(), mem::take(&mut outcome.closed));
    row("requests that had begun", &format!("{answered} answered, {closed} connections closed between two"));
    row("ended under load", &format!("{status} after {seconds:.1} s"));
    // Here connections are closed by right.
    note("at the end", &outcome, faults);
    let (seconds, _) = timed(data, &["verify", "--log"]);
    row("verify --log", &format!("equal, {seconds:.1} s"));
}

fn show(what: &str, outcome: &Outcome) {
    row(what, &format!("{} answers", outcome.answered()));
    let [p50, p95, p99, most] = [500, 950, 990, 1_000].map(|per_mille| outcome.wait_ms(per_mille));
    row("from due to answered: p50, p95, p99, most", &format!("{p50:.1}, {p95:.1}, {p99:.1}, {most:.1} ms"));
}

/// Keeps what went wrong.
fn note(when: &str, outcome: &Outcome, faults: &mut Vec<String>) {
    if let Some(first) = &outcome.first_fault {
        faults.push(format!("{} requests failed {when}: {first}", outcome.faults));
    }
    if outcome.closed > 0 {
        faults.push(format!("{} connections were closed {when}", outcome.closed));
    }
    if outcome.answered() == 0 {
        faults.push(format!("nothing was answered {when}"));
    }
}

fn row(what: &str, value: &str) {
    println!("{what:<62} {value}");
}
