//! A connection of HTTP/1.1 that costs its client little: a request is bytes, an answer is a status and bytes.
//!
//! Bodies are read that have a length or come in chunks, whole chunks at a time, and the end of a stream is told from a
//! connection that was cut. Nothing is sent again.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    ops::Range,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Bytes that are received at once, at first.
const ROOM: usize = 4_096;

/// The connection.
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// Bytes at the beginning of what was received that have been taken.
    taken: usize,
}

/// How an answer begins.
pub struct Head {
    /// Its status.
    pub status: u16,
    /// Whether the other side closes the connection after it.
    pub is_last: bool,
    length: Option<usize>,
}

/// An answer whose body has a length.
pub struct Answer<'a> {
    /// Its status.
    pub status: u16,
    /// Whether the other side closes the connection after it.
    pub is_last: bool,
    /// The whole body.
    pub body: &'a [u8],
}

impl Connection {
    /// Opens one.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(ROOM), taken: 0 })
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The head of the next answer.
    pub async fn head(&mut self) -> io::Result<Head> {
        let length = loop {
            match position(self.untaken(), b"\r\n\r\n") {
                Some(length) => break length,
                None => self.receive().await?,
            }
        };
        let head = Head::read(&self.untaken()[..length])?;
        self.taken += length + 4;
        Ok(head)
    }

    /// The next answer, which has a length.
    pub async fn answer(&mut self) -> io::Result<Answer<'_>> {
        let Head { status, is_last, length } = self.head().await?;
        let length = length.ok_or_else(|| wrong("an answer has no length"))?;
        while self.untaken().len() < length {
            self.receive().await?;
        }
        let body = self.taken..self.taken + length;
        self.taken = body.end;
        Ok(Answer { status, is_last, body: &self.received[body] })
    }

    /// The next chunk of a body; none after the last.
    pub async fn chunk(&mut self) -> io::Result<Option<&[u8]>> {
        let Range { start, end } = loop {
            match first_chunk(self.untaken())? {
                Some(chunk) => break chunk,
                None => self.receive().await?,
            }
        };
        let chunk = self.taken + start..self.taken + end;
        self.taken = chunk.end + 2;
        Ok(if chunk.is_empty() { None } else { Some(&self.received[chunk]) })
    }

    fn untaken(&self) -> &[u8] {
        &self.received[self.taken..]
    }

    async fn receive(&mut self) -> io::Result<()> {
        self.received.drain(..self.taken);
        self.taken = 0;
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Head {
    fn read(text: &[u8]) -> io::Result<Self> {
        let text = str::from_utf8(text).map_err(|error| wrong(&error.to_string()))?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| wrong("an answer has no status"))?;
        let mut head = Self { status, is_last: false, length: None };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value.trim().parse().ok();
            } else if name.eq_ignore_ascii_case("connection") {
                head.is_last = value.trim().eq_ignore_ascii_case("close");
            }
        }
        Ok(head)
    }
}

/// A request for a page or a stream.
pub fn get(address: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").into()
}

/// A request with a JSON body.
pub fn post(address: SocketAddr, path: &str, body: &str) -> Vec<u8> {
    (head_of_post(address, path, body) + "\r\n" + body).into()
}

/// The same without the body, which the other side asks for once it has begun to answer.
pub fn announcement(address: SocketAddr, path: &str, body: &str) -> Vec<u8> {
    (head_of_post(address, path, body) + "expect: 100-continue\r\n\r\n").into()
}

fn head_of_post(address: SocketAddr, path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n")
}

/// Where `wanted` first is.
pub fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Where the bytes of the first chunk are, once it has come as a whole.
fn first_chunk(bytes: &[u8]) -> io::Result<Option<Range<usize>>> {
    let Some(line) = position(bytes, b"\r\n") else { return Ok(None) };
    let size = str::from_utf8(&bytes[..line]).ok().and_then(|text| text.split(';').next());
    let size = size.and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
    let size = size.ok_or_else(|| wrong("a chunk has no size"))?;
    let chunk = line + 2..line + 2 + size;
    Ok((bytes.len() >= chunk.end + 2).then_some(chunk))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
