//! A connection that is given up when its peer takes nothing of what waits for it.
//!
//! Nothing else limits an answer that has begun; and whoever reads nothing would hold up the end of the service.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// For how long a peer may take nothing.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// For how long it may while the service ends.
const ENDING_STALL_LIMIT: Duration = Duration::from_secs(1);

/// The connection.
pub struct Socket {
    stream: TcpStream,
    peer: Peer,
    ending: CancellationToken,
}

/// What the peer does with what is sent.
enum Peer {
    /// It takes it, as far as is known.
    Takes,
    /// Its buffers are full; the future ends when that has lasted too long.
    Stalls(BoxFuture<'static, ()>),
    /// Nothing is sent to it any more.
    GivenUp,
}

impl Socket {
    /// An accepted connection of a service that ends with `ending`.
    pub const fn new(stream: TcpStream, ending: CancellationToken) -> Self {
        Self { stream, peer: Peer::Takes, ending }
    }

    /// What came of a write, or a failure where writes have been pending for too long.
    fn in_time<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.peer = Peer::Takes;
            return written;
        }
        if matches!(self.peer, Peer::Takes) {
            self.peer = Peer::Stalls(patience(self.ending.clone()).boxed());
        }
        if let Peer::Stalls(patience) = &mut self.peer {
            ready!(patience.as_mut().poll(context));
            self.peer = Peer::GivenUp;
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

async fn patience(ending: CancellationToken) {
    tokio::select! {
        () = sleep(STALL_LIMIT) => {}
        () = ending.cancelled() => sleep(ENDING_STALL_LIMIT).await,
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.in_time(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A connection, and the peer's end of it.
    async fn connected(ending: &CancellationToken) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Socket::new(accepted.unwrap().0, ending.clone()), peer.unwrap())
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up_when_the_service_ends() {
        let ending = CancellationToken::new();
        let (mut socket, _peer) = connected(&ending).await;
        let write = async {
            loop {
                if let Err(error) = socket.write_all(&vec![0; 65_536]).await {
                    return error.kind();
                }
            }
        };
        let end = async { ending.cancel() };
        let written = tokio::time::timeout(STALL_LIMIT / 2, async { tokio::join!(write, end).0 }).await;
        assert_eq!(written.unwrap(), io::ErrorKind::TimedOut);
        // What is asked of it afterwards fails too, and does not wait again.
        assert_eq!(socket.write_all(&[0]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_reads_gets_everything_while_the_service_ends() {
        let ending = CancellationToken::new();
        ending.cancel();
        let (mut socket, mut peer) = connected(&ending).await;
        let length = 16 * 1_024 * 1_024;
        let write = async {
            socket.write_all(&vec![7; length]).await.unwrap();
            socket.shutdown().await.unwrap();
        };
        let mut read = Vec::new();
        let (bytes, ()) = tokio::join!(peer.read_to_end(&mut read), write);
        assert_eq!((bytes.unwrap(), read.iter().all(|byte| *byte == 7)), (length, true));
    }
}
