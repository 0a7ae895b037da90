//! The socket side: accepting connections, speaking HTTP/1.1 on them, and ending so that every request that has begun
//! is answered and every stream of events ends at once.
//!
//! Connections are hyper's, one task each. Everything that a peer can make the service hold has a limit: connections, a
//! TLS handshake, the head of a request in bytes and in time; what poem's own server has no limit for. The limit on the
//! fields of a head is hyper's: 100. HTTP/2 is left to a proxy, so that each limit has one meaning.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use poem::{
    Endpoint, Request, Response,
    http::{self, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{
    error::Error,
    protection::{Limits, Protection},
    routes::{Service, routes},
    socket::Socket,
    stream,
    tls::Tls,
};

/// How long a shutdown waits for requests that have begun; connections are cut after it.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// The longest head of a request in bytes; a longer one is answered with 431.
const MAX_HEAD_BYTES: usize = 16 * 1_024;

/// The pause after a connection could not be accepted, so that a process out of file descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` completes, then finishes the requests that have begun, within [`SHUTDOWN_LIMIT`].
///
/// # Errors
/// [`Error::Listener`] where the listener is unusable.
pub async fn serve(listener: TcpListener, service: Service, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let local = listener.local_addr().map_err(|source| Error::Listener { source })?;
    let ending = CancellationToken::new();
    let Protection { keys, tls, limits, .. } = service.protection.clone();
    let (publisher, events) = stream::channel(service.clone());
    let endpoint = Arc::new(routes(service, events));
    let door = Door { endpoint, local: LocalAddr(local.into()), tls: tls.clone(), limits, ending: ending.clone() };
    let begin_to_end = async {
        shutdown.await;
        ending.cancel();
    };
    let follow_certificate = async {
        if let Some(tls) = tls {
            tls.follow(&ending).await;
        }
    };
    tokio::join!(begin_to_end, door.open(listener), publisher.run(&ending), keys.follow(&ending), follow_certificate);
    Ok(())
}

/// Lets peers in and answers them.
struct Door<E> {
    endpoint: Arc<E>,
    local: LocalAddr,
    tls: Option<Tls>,
    limits: Limits,
    ending: CancellationToken,
}

impl<E: Endpoint<Output = Response> + 'static> Door<E> {
    /// Serves whoever comes, until the service ends and all have gone or been cut off.
    async fn open(self, listener: TcpListener) {
        let door = Arc::new(self);
        let (connections, cut) = (TaskTracker::new(), CancellationToken::new());
        let places = Arc::new(Semaphore::new(door.limits.connections));
        let accept = async {
            // Nobody closes the semaphore.
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                let (stream, peer) = next(&listener).await;
                let connection = cut.clone().run_until_cancelled_owned(Arc::clone(&door).welcome(stream, peer));
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
        };
        door.ending.run_until_cancelled(accept).await;
        drop(listener);
        connections.close();
        if timeout(SHUTDOWN_LIMIT, connections.wait()).await.is_err() {
            cut.cancel();
            connections.wait().await;
        }
    }

    /// Shakes hands where there is a certificate; a slow peer keeps nobody else waiting.
    async fn welcome(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // So that small answers go out at once. Where this fails the connection is gone, which reading will tell.
        let _ = stream.set_nodelay(true);
        let socket = Socket::new(stream, self.ending.clone());
        let Some(tls) = &self.tls else { return self.converse(socket, Scheme::HTTP, peer).await };
        let handshake = timeout(self.limits.handshake, tls.acceptor().accept(socket));
        match self.ending.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => self.converse(stream, Scheme::HTTPS, peer).await,
            Some(Ok(Err(error))) => debug!(%peer, %error, "a TLS handshake failed"),
            Some(Err(_)) => debug!(%peer, "a TLS handshake took too long"),
            None => {}
        }
    }

    /// Answers one request after the other; once the service ends, none but the one that has begun.
    async fn converse<I>(&self, stream: I, scheme: Scheme, peer: SocketAddr)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (endpoint, local, remote) = (Arc::clone(&self.endpoint), self.local.clone(), RemoteAddr(peer.into()));
        let service = service_fn(move |request: http::Request<Incoming>| {
            let request = Request::from((request, local.clone(), remote.clone(), scheme.clone()));
            let endpoint = Arc::clone(&endpoint);
            async move { Ok::<http::Response<_>, Infallible>(endpoint.get_response(request).await.into()) }
        });
        let mut protocol = http1::Builder::new();
        protocol.timer(TokioTimer::new()).header_read_timeout(self.limits.head).max_header_size(MAX_HEAD_BYTES);
        let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            // Whatever ended it, nobody is left to be told.
            _ = connection.as_mut() => return,
            () = self.ending.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

/// The next connection.
async fn next(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
