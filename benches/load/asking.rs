//! Connections that ask `POST /predict`, all on one thread, each with a question of its own.
//!
//! An answer is right if its question has had it before: one that is lost, mixed up with another or made by half a
//! model is a fault.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{task::JoinSet, time::sleep_until};

use super::{
    connection::{Connection, announcement, post},
    joined, one_thread,
};

const PATH: &str = "/predict";

/// From when a schedule is made to its first request: the connections are opened meanwhile.
const HEAD_START: Duration = Duration::from_millis(200);

/// What a connection asks.
#[derive(Clone)]
pub struct Question {
    body: String,
    request: Vec<u8>,
    announcement: Vec<u8>,
    /// The right answers: one per model.
    answers: Vec<Vec<u8>>,
}

/// So many questions without an answer yet.
pub fn questions(address: SocketAddr, count: u32) -> Vec<Question> {
    let question = |number: u32| {
        // From -4 to 4, where a forest's answers differ.
        let z_score = 8.0 * f64::from(number) / f64::from(count) - 4.0;
        let body = json!({
            "symbol": "BTC-USDT", "z_score_price": z_score, "z_score_log_return": -z_score, "z_score_volume": 1.5,
            "rolling_price_std": 0.008, "rolling_volume_std": 25.0,
        })
        .to_string();
        let (request, announcement) = (post(address, PATH, &body), announcement(address, PATH, &body));
        Question { body, request, announcement, answers: Vec::new() }
    };
    (0..count).map(question).collect()
}

/// Takes what the model answers now for right.
pub fn learn(address: SocketAddr, questions: &mut [Question]) {
    one_thread().block_on(async {
        let mut connection = Connection::open(address).await.unwrap();
        for question in questions {
            connection.send(&question.request).await.unwrap();
            let answer = connection.answer().await.unwrap();
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(answer.body));
            question.answers.push(answer.body.to_vec());
        }
    });
}

/// What came of asking.
#[derive(Default)]
pub struct Outcome {
    /// How long asking took.
    seconds: f64,
    /// From when each right answer was due to when it was there, in microseconds; ascending.
    waits: Vec<u32>,
    /// Requests that were not answered, or not rightly.
    pub faults: usize,
    /// The first of them.
    pub first_fault: Option<String>,
    /// Connections that the other side closed before a request, or said to close after an answer.
    pub closed: usize,
}

impl Outcome {
    /// Right answers.
    pub const fn answered(&self) -> usize {
        self.waits.len()
    }

    /// Right answers per second.
    #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
    pub fn rate(&self) -> f64 {
        self.waits.len() as f64 / self.seconds
    }

    /// The longest wait of so many of a thousand answers, the quickest ones, in milliseconds.
    pub fn wait_ms(&self, per_mille: usize) -> f64 {
        let place = self.waits.len().saturating_sub(1) * per_mille / 1_000;
        f64::from(self.waits.get(place).copied().unwrap_or(0)) / 1_000.0
    }

    fn fault(&mut self, what: String) {
        self.faults += 1;
        self.first_fault.get_or_insert(what);
    }

    fn add(&mut self, other: Self) {
        self.waits.extend(other.waits);
        self.faults += other.faults;
        self.first_fault = self.first_fault.take().or(other.first_fault);
        self.closed += other.closed;
    }
}

/// Connections that ask until they are stopped.
pub struct Load {
    /// After when nothing is asked, once that is known.
    end: Arc<OnceLock<Instant>>,
    thread: JoinHandle<Outcome>,
}

impl Load {
    /// Each connection asks again as soon as it has its answer.
    pub fn without_pause(address: SocketAddr, questions: &[Question]) -> Self {
        Self::of(address, questions, Asker::without_pause)
    }

    /// So many requests a second are due, whatever became of those before; one that finds no connection free waits, and
    /// its wait counts.
    pub fn on_schedule(address: SocketAddr, questions: &[Question], per_second: f64) -> Self {
        let pause = Duration::from_secs_f64(per_second.recip());
        let schedule = Arc::new(Schedule { begin: Instant::now() + HEAD_START, pause, begun: AtomicU32::new(0) });
        Self::of(address, questions, move |asker| asker.on_schedule(Arc::clone(&schedule)))
    }

    /// As [`Self::without_pause`], with requests that are announced: one whose body was asked for has begun.
    pub fn announced(address: SocketAddr, questions: &[Question]) -> Self {
        Self::of(address, questions, Asker::announced)
    }

    fn of<A>(address: SocketAddr, questions: &[Question], ask: impl Fn(Asker) -> A + Send + 'static) -> Self
    where
        A: Future<Output = Outcome> + Send + 'static,
    {
        let end = Arc::new(OnceLock::new());
        let (questions, told) = (questions.to_vec(), Arc::clone(&end));
        let ask_all = async move {
            let mut asking = JoinSet::new();
            let begun = Instant::now();
            for question in questions {
                let connection = Connection::open(address).await.unwrap();
                asking.spawn(ask(Asker { connection, question, end: Arc::clone(&told), outcome: Outcome::default() }));
            }
            let mut all = Outcome::default();
            while let Some(outcome) = asking.join_next().await {
                all.add(outcome.unwrap());
            }
            Outcome { seconds: begun.elapsed().as_secs_f64(), ..all }
        };
        Self { end, thread: thread::spawn(move || one_thread().block_on(ask_all)) }
    }

    /// Ends it, once everything is answered that is due by now.
    pub fn stop(self) -> Outcome {
        self.end.get_or_init(Instant::now);
        let mut outcome = joined(self.thread);
        outcome.waits.sort_unstable();
        outcome
    }
}

/// When requests are due.
struct Schedule {
    begin: Instant,
    pause: Duration,
    begun: AtomicU32,
}

impl Schedule {
    /// When the next one is, of whichever connection.
    fn next(&self) -> Instant {
        self.begin + self.pause * self.begun.fetch_add(1, Ordering::Relaxed)
    }
}

/// One connection and its question.
struct Asker {
    connection: Connection,
    question: Question,
    end: Arc<OnceLock<Instant>>,
    outcome: Outcome,
}

impl Asker {
    async fn without_pause(mut self) -> Outcome {
        loop {
            let due = Instant::now();
            if self.is_over(due) || !self.ask(due).await {
                return self.outcome;
            }
        }
    }

    async fn on_schedule(mut self, schedule: Arc<Schedule>) -> Outcome {
        loop {
            let due = schedule.next();
            // The runtime wakes at whole milliseconds, which counts as waiting.
            if due > Instant::now() {
                sleep_until(due.into()).await;
            }
            if self.is_over(due) || !self.ask(due).await {
                return self.outcome;
            }
        }
    }

    async fn announced(mut self) -> Outcome {
        loop {
            let due = Instant::now();
            if self.is_over(due) || !self.has_begun().await {
                return self.outcome;
            }
            let sent = self.connection.send(self.question.body.as_bytes()).await;
            if !self.is_sent(&sent) || !self.answered(due).await {
                return self.outcome;
            }
        }
    }

    fn is_over(&self, due: Instant) -> bool {
        self.end.get().is_some_and(|end| due > *end)
    }

    /// Announces a request; whether the other side asks for its body.
    async fn has_begun(&mut self) -> bool {
        let asked = match self.connection.send(&self.question.announcement).await {
            Ok(()) => self.connection.head().await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(head) if head.status == 100 => return true,
            Ok(head) => self.outcome.fault(format!("an announced request was answered with {}", head.status)),
            // A connection may be closed between two requests.
            Err(_closed) => self.outcome.closed += 1,
        }
        false
    }

    /// Asks what was due; whether the connection may be asked again.
    async fn ask(&mut self, due: Instant) -> bool {
        let sent = self.connection.send(&self.question.request).await;
        self.is_sent(&sent) && self.answered(due).await
    }

    fn is_sent(&mut self, sent: &io::Result<()>) -> bool {
        if let Err(error) = sent {
            self.outcome.fault(format!("a request could not be sent: {error}"));
        }
        sent.is_ok()
    }

    /// Takes the answer; whether the connection may be asked again.
    async fn answered(&mut self, due: Instant) -> bool {
        let Self { connection, question, outcome, .. } = self;
        let answer = match connection.answer().await {
            Ok(answer) => answer,
            Err(error) => {
                outcome.fault(format!("a request was not answered: {error}"));
                return false;
            }
        };
        if answer.status == 200 && question.answers.iter().any(|right| right == answer.body) {
            outcome.waits.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
        } else {
            let text = String::from_utf8_lossy(answer.body);
            outcome.fault(format!("{} was answered with {}: {text}", question.body, answer.status));
        }
        outcome.closed += usize::from(answer.is_last);
        !answer.is_last
    }
}
