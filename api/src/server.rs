//! The socket side: accepting connections, and ending so that every request that has begun is answered and every stream
//! of events ends at once.

use std::{io, time::Duration};

use poem::{
    Server,
    http::uri::Scheme,
    listener::Acceptor,
    web::{LocalAddr, RemoteAddr},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    error::Error,
    routes::{Service, routes},
    socket::Socket,
    stream,
};

/// How long a shutdown waits for requests that have begun; connections are cut after it.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// A connection without a byte for so long is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(75);

/// The pause after a connection could not be accepted, so that a process out of file descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` completes, then finishes the requests that have begun, within [`SHUTDOWN_LIMIT`].
///
/// # Errors
/// [`Error`] where the listener is unusable or the server fails.
pub async fn serve(listener: TcpListener, service: Service, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let local = listener.local_addr().map_err(|source| Error::Listener { source })?;
    let ending = CancellationToken::new();
    let acceptor = Door { listener, local: LocalAddr(local.into()), ending: ending.clone() };
    let (publisher, events) = stream::channel(service.clone());
    let begin_to_end = async {
        shutdown.await;
        ending.cancel();
    };
    let serve = async {
        let server = Server::new_with_acceptor(acceptor).idle_timeout(IDLE_LIMIT);
        let endpoint = routes(service, events);
        let served = server.run_with_graceful_shutdown(endpoint, begin_to_end, Some(SHUTDOWN_LIMIT)).await;
        // A server that has failed leaves nobody to be told anything.
        ending.cancel();
        served
    };
    let (served, ()) = tokio::join!(serve, publisher.run(&ending));
    served.map_err(|source| Error::Serve { source })
}

/// Accepts TCP connections that send small answers at once.
struct Door {
    listener: TcpListener,
    local: LocalAddr,
    ending: CancellationToken,
}

impl Acceptor for Door {
    type Io = Socket;

    fn local_addr(&self) -> Vec<LocalAddr> {
        vec![self.local.clone()]
    }

    async fn accept(&mut self) -> io::Result<(Socket, LocalAddr, RemoteAddr, Scheme)> {
        let accepted = self.listener.accept().await;
        let (stream, remote) = match accepted {
            Ok(pair) => pair,
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                return Err(error);
            }
        };
        stream.set_nodelay(true)?;
        let socket = Socket::new(stream, self.ending.clone());
        Ok((socket, self.local.clone(), RemoteAddr(remote.into()), Scheme::HTTP))
    }
}
