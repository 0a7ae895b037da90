//! The HTTP side of sending: the exporter's thread hands a request over to the runtime and waits for its answer.
//!
//! Says once that a collector does not take what is sent, and once that it does again.

use std::{
    error::Error,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;
use tracing::{info, warn};

/// A client of the collector.
#[derive(Debug)]
pub struct Collector {
    client: reqwest::Client,
    /// The exporter's thread has no runtime of its own, and the client needs one.
    runtime: Handle,
    is_troubled: AtomicBool,
}

impl Collector {
    /// A client that waits so long for an answer.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn new(answer_limit: Duration, runtime: Handle) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder().timeout(answer_limit).build()?;
        Ok(Self { client, runtime, is_troubled: AtomicBool::new(false) })
    }

    fn tell(&self, sent: &Result<Response<Bytes>, HttpError>) {
        let was_troubled = self.is_troubled.swap(sent.is_err(), Ordering::Relaxed);
        match sent {
            Ok(_) if was_troubled => info!("the collector of traces takes them again"),
            Err(error) if !was_troubled => {
                let error: &(dyn Error + 'static) = &**error;
                warn!(
                    error,
                    "the collector takes no traces: check telemetry.otlp_endpoint; they are dropped meanwhile"
                );
            }
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sending = self.runtime.spawn(send(self.client.clone(), request));
        let sent = sending.await.unwrap_or_else(|error| Err(error.into()));
        self.tell(&sent);
        sent
    }
}

async fn send(client: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let answer = client.execute(request.try_into()?).await?.error_for_status()?;
    let status = answer.status();
    Ok(Response::builder().status(status).body(answer.bytes().await?)?)
}
