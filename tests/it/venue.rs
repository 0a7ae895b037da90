//! A venue on the loopback: a WebSocket server that plays to each visitor what a test wrote for it.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::harness::PATIENCE;

/// Event time of the first trade, in ms.
pub const START_MS: i64 = 1_710_000_000_000;

/// What the venue does for a visitor, one after another. Whoever has seen everything is kept: pings are answered.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends a text frame.
    Text(String),
    /// Sends a binary frame.
    Binary(Vec<u8>),
    /// Pings and waits for the answer: everything before it has then been read.
    Ping,
    /// Answers so many pings.
    Answer(usize),
    /// Notes that the play has come so far.
    Mark(&'static str),
    /// Ends the connection without a word.
    Drop,
    /// Ends it as the venue does once a day.
    Close,
    /// Keeps the connection, and neither reads nor sends any more.
    Stall,
    /// Sends an HTTP status instead of a stream; must be the only act.
    Refuse(u16),
}

/// A running server; ends with the test.
pub struct Venue {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    /// Holds every task of the server.
    _runtime: Runtime,
}

#[derive(Default)]
struct Seen {
    visitors: usize,
    asked: Vec<String>,
    marks: Vec<&'static str>,
}

/// A port that is free now, for a venue that opens later.
pub fn free_address() -> SocketAddr {
    StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A trade frame of a combined stream, told of 1 ms after it.
pub fn trade(name: &str, id: i64, after_ms: i64) -> Act {
    let (time, sent, stream) = (START_MS + after_ms, START_MS + after_ms + 1, name.to_lowercase());
    Act::Text(format!(
        r#"{{"stream":"{stream}@trade","data":{{"e":"trade","E":{sent},"s":"{name}","t":{id},"p":"100.{id}","q":"0.5","T":{time},"m":true,"M":true}}}}"#
    ))
}

impl Venue {
    /// Opens at a free port.
    pub fn open(plays: Vec<Vec<Act>>) -> Self {
        Self::open_at(SocketAddr::from(([127, 0, 0, 1], 0)), plays)
    }

    /// Opens at an address. The first visitor sees the first play; those after the last see an empty one.
    pub fn open_at(address: SocketAddr, plays: Vec<Vec<Act>>) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let noted = seen.clone();
        runtime.spawn(async move {
            let mut plays = plays.into_iter();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                noted.lock().unwrap().visitors += 1;
                tokio::spawn(visit(stream, plays.next().unwrap_or_default(), noted.clone()));
            }
        });
        Self { address, seen, _runtime: runtime }
    }

    /// The address as a setting.
    pub fn endpoint(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// The paths that visitors asked for, in the order in which they came.
    pub fn asked(&self) -> Vec<String> {
        self.seen.lock().unwrap().asked.clone()
    }

    /// Whether a play has come to a mark.
    pub fn has_come_to(&self, mark: &str) -> bool {
        self.seen.lock().unwrap().marks.contains(&mark)
    }

    /// Waits until a play has come to a mark.
    pub fn wait_for_mark(&self, mark: &str) {
        self.wait_for(mark, |seen| seen.marks.contains(&mark));
    }

    /// Waits until so many visitors came.
    pub fn wait_for_visitors(&self, count: usize) {
        self.wait_for("visitors", |seen| seen.visitors >= count);
    }

    fn wait_for(&self, what: &str, is_met: impl Fn(&Seen) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_met(&self.seen.lock().unwrap()) {
            assert!(Instant::now() < end, "the venue never saw `{what}`");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Plays to one visitor; one that leaves early ends its play.
async fn visit(mut stream: TcpStream, acts: Vec<Act>, seen: Arc<Mutex<Seen>>) {
    if let Some(Act::Refuse(status)) = acts.first() {
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
        // What was not read yet would reset the connection before the answer is.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        return;
    }
    #[expect(clippy::result_large_err, reason = "the library's own form")]
    let note = |request: &Request, response: Response| {
        let path = request.uri().path_and_query().map(ToString::to_string);
        seen.lock().unwrap().asked.push(path.unwrap_or_default());
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(stream, note).await else { return };
    for act in acts {
        if play(&mut socket, act, &seen).await.is_none() {
            return;
        }
    }
    let _ = socket.flush().await;
    // Reading answers pings.
    while let Some(Ok(_)) = socket.next().await {}
}

/// Plays one act; `None` where nothing follows it.
async fn play(socket: &mut WebSocketStream<TcpStream>, act: Act, seen: &Mutex<Seen>) -> Option<()> {
    match act {
        Act::Text(text) => socket.feed(Message::text(text)).await.ok(),
        Act::Binary(bytes) => socket.feed(Message::binary(bytes)).await.ok(),
        Act::Ping => {
            socket.send(Message::Ping("there?".into())).await.ok()?;
            wait_for(socket, |message| matches!(message, Message::Pong(payload) if payload == "there?")).await
        }
        Act::Answer(pings) => {
            socket.flush().await.ok()?;
            for _ in 0..pings {
                wait_for(socket, |message| matches!(message, Message::Ping(_))).await?;
                // The library has the answer ready and sends it with the next flush.
                socket.flush().await.ok()?;
            }
            Some(())
        }
        Act::Mark(mark) => {
            seen.lock().unwrap().marks.push(mark);
            Some(())
        }
        Act::Stall => {
            socket.flush().await.ok()?;
            std::future::pending().await
        }
        Act::Close => {
            let frame = CloseFrame { code: CloseCode::Away, reason: "a day has passed".into() };
            socket.close(Some(frame)).await.ok()?;
            while let Some(Ok(_)) = socket.next().await {}
            None
        }
        Act::Drop | Act::Refuse(_) => {
            let _ = socket.flush().await;
            None
        }
    }
}

async fn wait_for(socket: &mut WebSocketStream<TcpStream>, is_it: impl Fn(&Message) -> bool) -> Option<()> {
    loop {
        if is_it(&socket.next().await?.ok()?) {
            return Some(());
        }
    }
}
