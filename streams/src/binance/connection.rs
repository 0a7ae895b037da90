//! The bytes of one connection: made, listened to, given up. Answers the venue's pings and sends our own.

use std::{sync::Arc, time::Duration};

use domain::Symbol;
use futures::{SinkExt, StreamExt};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use super::{
    BinanceSource, MAX_FRAME_BYTES, Received,
    session::{STALLED_AFTER, Session, Step},
};
use crate::encryption;

/// The longest wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);

/// The least pause after the venue said that there were too many requests (429), from a banned address (418), or for
/// its firewall (403).
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_mins(5);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a connection could not be made, or ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The address, the network or the encryption.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// Nobody answered in time.
    #[error("cannot connect: no answer within {} s", CONNECT_WITHIN.as_secs())]
    Unanswered,
    /// The venue answered with an HTTP status instead of a stream.
    #[error("refused with HTTP status {0}")]
    Refused(u16),
    /// The other side ended it, as the venue does once a day.
    #[error("closed by the other side{0}")]
    Closed(String),
    /// Nothing came for too long, not even an answer to a ping.
    #[error("stalled: no answer to a ping within {} s", STALLED_AFTER.as_secs())]
    Stalled,
    /// The network broke, or what came was no WebSocket.
    #[error("broken: {0}")]
    Broken(String),
}

impl Lost {
    /// Every reason, as [`Lost::as_str`] names it.
    pub const REASONS: [&str; 6] = ["unreachable", "unanswered", "refused", "closed", "stalled", "broken"];

    /// The reason in one word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Unanswered => "unanswered",
            Self::Refused(_) => "refused",
            Self::Closed(_) => "closed",
            Self::Stalled => "stalled",
            Self::Broken(_) => "broken",
        }
    }

    /// How long the next attempt must wait in any case: a venue that says "too many" is left alone, since one that is
    /// asked on bans the address.
    pub(super) const fn least_pause(&self) -> Duration {
        match self {
            Self::Refused(403 | 418 | 429) => PAUSE_AFTER_REFUSAL,
            _ => Duration::ZERO,
        }
    }
}

/// How listening ended.
pub enum End {
    /// The connection ended.
    Lost(Lost),
    /// Nobody takes what is given any more.
    Unheard,
}

/// Connects and gives what comes until the connection ends. `connected` is called once it is there.
pub async fn listen(
    source: &BinanceSource,
    symbols: &[Symbol],
    out: &mpsc::Sender<Received>,
    connected: impl FnOnce() + Send,
) -> End {
    let timer = &source.timer;
    let address = source.settings.endpoint.combined(symbols);
    let socket = tokio::select! {
        socket = connect(&address) => socket,
        () = timer.pause(CONNECT_WITHIN) => Err(Lost::Unanswered),
        () = out.closed() => return End::Unheard,
    };
    let mut socket = match socket {
        Ok(socket) => socket,
        Err(lost) => return End::Lost(lost),
    };
    connected();
    let mut session = Session::new(symbols, &source.names, &source.clock, timer.elapsed());
    loop {
        let listening = match session.step(timer.elapsed()) {
            Step::Listen(time) => timer.pause(time),
            Step::Stalled => return End::Lost(Lost::Stalled),
            Step::Ping(number) => match ping(source, &mut socket, number).await {
                Ok(()) => continue,
                Err(lost) => return End::Lost(lost),
            },
        };
        let message = tokio::select! {
            biased;
            message = socket.next() => message,
            () = out.closed() => return End::Unheard,
            () = listening => continue,
        };
        let given = match understood(&mut session, message, timer.elapsed()) {
            Ok(given) => given,
            Err(lost) => return End::Lost(lost),
        };
        if !give(given, out).await {
            return End::Unheard;
        }
        session.listens_again(timer.elapsed());
    }
}

/// What a message gives.
fn understood(
    session: &mut Session<'_>,
    message: Option<Result<Message, tungstenite::Error>>,
    now: Duration,
) -> Result<Vec<Received>, Lost> {
    match message {
        Some(Ok(Message::Text(text))) => Ok(session.frame(text.as_bytes(), now)),
        Some(Ok(Message::Binary(bytes))) => Ok(session.frame(&bytes, now)),
        Some(Ok(Message::Pong(payload))) => Ok(session.pong(&payload, now)),
        // The answer to a ping is sent by the library with the next read.
        Some(Ok(Message::Ping(_) | Message::Frame(_))) => {
            session.heard(now);
            Ok(Vec::new())
        }
        Some(Ok(Message::Close(frame))) => {
            let said = frame.map(|frame| format!(" with code {} {}", u16::from(frame.code), frame.reason));
            Err(Lost::Closed(said.map(|said| said.trim_end().to_owned()).unwrap_or_default()))
        }
        Some(Err(tungstenite::Error::ConnectionClosed)) | None => Err(Lost::Closed(String::new())),
        Some(Err(error)) => Err(Lost::Broken(error.to_string())),
    }
}

/// Waits until everything is taken; whether it was.
async fn give(given: Vec<Received>, out: &mpsc::Sender<Received>) -> bool {
    for received in given {
        if out.send(received).await.is_err() {
            return false;
        }
    }
    true
}

/// Sends a ping. What cannot be sent for as long as an answer would be waited for is a stalled connection too.
async fn ping(source: &BinanceSource, socket: &mut Socket, number: u64) -> Result<(), Lost> {
    let payload = number.to_be_bytes().to_vec();
    tokio::select! {
        sent = socket.send(Message::Ping(payload.into())) => sent.map_err(|error| Lost::Broken(error.to_string())),
        () = source.timer.pause(STALLED_AFTER) => Err(Lost::Stalled),
    }
}

async fn connect(address: &str) -> Result<Socket, Lost> {
    let connector = if address.starts_with("wss:") { encrypted().await? } else { Connector::Plain };
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_FRAME_BYTES)).max_frame_size(Some(MAX_FRAME_BYTES));
    // Boxed: the handshake's state is large, and every connection would carry it for as long as it lives.
    let connecting = Box::pin(connect_async_tls_with_config(address, Some(config), true, Some(connector)));
    match connecting.await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) => Err(Lost::Refused(answer.status().as_u16())),
        Err(tungstenite::Error::Io(error)) => Err(Lost::Unreachable(error.to_string())),
        Err(error) => Err(Lost::Unreachable(error.to_string())),
    }
}

async fn encrypted() -> Result<Connector, Lost> {
    let settings = encryption::by_machine().await;
    let settings = settings.map_err(|reason| Lost::Unreachable(format!("no encryption: {reason}")))?;
    Ok(Connector::Rustls(Arc::new(settings)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binance::{BinanceSettings, Notice, Timer};
    use async_trait::async_trait;
    use std::{sync::Mutex, time::Instant};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_tungstenite::accept_async;

    /// Time that goes this many times faster.
    struct Fast(Instant, u32);

    #[async_trait]
    impl Timer for Fast {
        fn elapsed(&self) -> Duration {
            self.0.elapsed() * self.1
        }

        async fn pause(&self, time: Duration) {
            tokio::time::sleep(time / self.1).await;
        }
    }

    fn source(endpoint: &str, speed: u32) -> BinanceSource {
        let symbols = vec![Symbol::parse("BTC-USDT").unwrap()];
        let settings = BinanceSettings { endpoint: endpoint.parse().unwrap(), symbols, seed: 1 };
        BinanceSource::new(settings, Arc::new(Fast(Instant::now(), speed))).unwrap()
    }

    /// The first loss of a connection to a listener that answers every connection with these bytes.
    async fn loss(scheme: &str, answer: &'static [u8]) -> (Lost, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = source(&format!("{scheme}://{}", listener.local_addr().unwrap()), 1);
        let (out, _received) = mpsc::channel(1);
        let (told, mut lost) = mpsc::unbounded_channel();
        let tell = |notice| {
            if let Notice::Lost { lost, pause, .. } = notice {
                told.send((lost, pause)).unwrap();
            }
        };
        let answering = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4_096]).await;
                let _ = stream.write_all(answer).await;
            }
        };
        tokio::select! {
            lost = lost.recv() => lost.unwrap(),
            () = source.follow(0, &out, &tell) => panic!("nobody listened"),
            () = answering => unreachable!(),
        }
    }

    #[tokio::test]
    async fn encryption_that_fails_is_an_error_with_a_sentence() {
        let (lost, _) = loss("wss", b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let Lost::Unreachable(reason) = lost else { panic!("{lost}") };
        assert!(!reason.is_empty());
    }

    #[tokio::test]
    async fn a_venue_that_says_too_many_is_left_alone_for_minutes() {
        let (lost, pause) = loss("ws", b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(lost, Lost::Refused(429));
        assert!(pause >= PAUSE_AFTER_REFUSAL, "{pause:?}");
        let (lost, pause) = loss("ws", b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(lost, Lost::Refused(503));
        assert!(pause < PAUSE_AFTER_REFUSAL, "{pause:?}");
    }

    #[tokio::test]
    async fn an_address_where_nobody_listens_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("ws://{}/stream?streams=btcusdt@trade", listener.local_addr().unwrap());
        drop(listener);
        let lost = connect(&address).await.err().unwrap();
        assert!(lost.to_string().contains("refused") && lost.as_str() == "unreachable", "{lost}");
    }

    /// Minutes of the connection's time pass before anybody takes a frame: nothing is read, and nothing is given up.
    #[tokio::test]
    async fn frames_that_nobody_takes_wait_in_the_socket_and_come_in_order() {
        const FRAMES: i64 = 20_000;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = source(&format!("ws://{}", listener.local_addr().unwrap()), 500);
        let (out, mut received) = mpsc::channel(1);
        let losses = Mutex::new(Vec::new());
        let tell = |notice| {
            if let Notice::Lost { lost, .. } = notice {
                losses.lock().unwrap().push(lost);
            }
        };
        let sending = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = accept_async(stream).await.unwrap();
            for id in 0..FRAMES {
                socket.send(Message::text(format!(r#"{{"e":"other","filler":"{id:0>1000}"}}"#))).await.unwrap();
                socket.send(Message::text(format!("not json {id}"))).await.unwrap();
            }
            while socket.next().await.is_some() {}
        };
        let taking = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            for id in 0..FRAMES {
                assert_eq!(received.recv().await, Some(Received::Skipped));
                let Some(Received::Undecoded(record)) = received.recv().await else { panic!("no frame {id}") };
                assert_eq!(record.value, format!("not json {id}").into_bytes());
            }
        };
        tokio::select! {
            () = taking => {}
            () = source.follow(0, &out, &tell) => panic!("nobody listened"),
            () = sending => panic!("the venue was left"),
        }
        assert_eq!(*losses.lock().unwrap(), []);
    }
}
