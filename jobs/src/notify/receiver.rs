//! A receiver of messages on the loopback, for tests: notes what comes and answers as it was told to.

use std::sync::Arc;

use serde_json::Value;
use streams::webhook::Address;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

/// The status of a message that is never answered.
pub const SILENCE: u16 = 0;

/// More answers than any test waits for.
const MANY: usize = 10_000;

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its name.
    pub id: String,
    /// The names of its alerts.
    pub alerts: Vec<String>,
}

/// A running server; ends with the test.
pub struct Receiver {
    /// Where it is.
    pub address: Address,
    received: mpsc::UnboundedReceiver<Received>,
    answers: Arc<Semaphore>,
    serving: JoinHandle<()>,
}

impl Receiver {
    /// Answers the first messages with these statuses and all others with 200.
    pub async fn open(statuses: &'static [u16]) -> Self {
        let receiver = Self::closed(statuses).await;
        receiver.release();
        receiver
    }

    /// The same, but answers nothing before it is released.
    pub async fn closed(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/told", listener.local_addr().unwrap()).parse().unwrap();
        let (out, received) = mpsc::unbounded_channel();
        let answers = Arc::new(Semaphore::new(0));
        let serving = tokio::spawn(serve(listener, statuses, out, Arc::clone(&answers)));
        Self { address, received, answers, serving }
    }

    /// Lets everything be answered from now on.
    pub fn release(&self) {
        self.answers.add_permits(MANY);
    }

    /// The next message, as soon as it comes.
    pub async fn next(&mut self) -> Received {
        self.received.recv().await.unwrap()
    }

    /// The alerts of every message that came, and was not taken yet.
    pub fn rest(&mut self) -> Vec<Vec<String>> {
        std::iter::from_fn(|| self.received.try_recv().ok()).map(|received| received.alerts).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    listener: TcpListener,
    statuses: &'static [u16],
    out: mpsc::UnboundedSender<Received>,
    answers: Arc<Semaphore>,
) {
    let mut statuses = statuses.iter();
    let mut unanswered = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let Some(received) = read(&mut stream).await else { continue };
        out.send(received).unwrap();
        answers.acquire().await.unwrap().forget();
        match statuses.next().copied().unwrap_or(200) {
            SILENCE => unanswered.push(stream),
            status => {
                let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }
}

/// Reads one request; `None` where it ends early.
async fn read(stream: &mut TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        if body.len() < header("content-length")?.parse::<usize>().ok()? {
            continue;
        }
        let id = header("webhook-id")?.to_owned();
        let message: Value = serde_json::from_str(body).ok()?;
        let alerts = message["data"]["alerts"].as_array()?.iter();
        let alerts = alerts.map(|alert| alert["id"].as_str().map(str::to_owned)).collect::<Option<_>>()?;
        return Some(Received { id, alerts });
    }
}
