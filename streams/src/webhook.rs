//! A webhook: one attempt to bring one signed message to an HTTP address, and what became of it.
//!
//! The headers and the signature are those of Standard Webhooks 1.0.0 (<https://www.standardwebhooks.com>), for which
//! there are libraries in most languages. Never tries again, never follows a redirect, never reads an answer's body,
//! and never shows the secret, or more of the address than its host: the rest of it often is a secret too.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use domain::{Timestamp, time::MICROS};
use hmac::{Hmac, Mac as _};
use reqwest::{
    Client, Url,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER},
    redirect::Policy,
};
use sha2::Sha256;

use crate::{encryption, error::Error};

/// What a secret begins with.
const SECRET_PREFIX: &str = "whsec_";

/// Bytes of a secret, as Standard Webhooks asks for.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Where messages go: `http://` or `https://` and a host. Shown without its path, which is often a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || "write an address such as \"https://example.org/alerts\"".to_owned();
        let url: Url = text.parse().map_err(|_| refused())?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(refused());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("leave out what stands before the @: messages are signed instead".to_owned());
        }
        Ok(Self(url))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.origin().ascii_serialization())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What messages are signed with: `whsec_` and 24 to 64 bytes as base64.
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || "write whsec_ and 24 to 64 bytes as base64; `openssl rand -base64 32` makes some".to_owned();
        let bytes = STANDARD.decode(text.strip_prefix(SECRET_PREFIX).ok_or_else(refused)?).map_err(|_| refused())?;
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err(refused());
        }
        Hmac::<Sha256>::new_from_slice(&bytes).map(Self).map_err(|_| refused())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The signature of a message: version 1, HMAC-SHA256 over id, time and body with full stops between them.
    fn sign(&self, id: &str, seconds: &str, body: &[u8]) -> String {
        let mac = self.0.clone().chain_update(id).chain_update(".").chain_update(seconds).chain_update(".");
        format!("v1,{}", STANDARD.encode(mac.chain_update(body).finalize().into_bytes()))
    }
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The receiver has the message.
    Delivered,
    /// The receiver does not want it, with this HTTP status: the same again would be refused again.
    Refused(u16),
    /// The receiver could not be reached or is not able to take it now.
    TryAgain {
        /// How long the receiver asks to be left alone, where it says so.
        after: Option<Duration>,
        /// What happened, as the rest of a sentence.
        why: String,
    },
}

/// Sends messages to one address. Every attempt makes a connection of its own.
#[derive(Clone, Debug)]
pub struct Webhook {
    client: Client,
    address: Address,
    secret: Option<Secret>,
    patience: Duration,
}

impl Webhook {
    /// Messages are signed where there is a secret. An attempt without an answer within `patience` has failed.
    ///
    /// # Errors
    /// [`Error::Settings`] where this machine cannot encrypt.
    pub async fn new(address: Address, secret: Option<Secret>, patience: Duration) -> Result<Self, Error> {
        let refused = |reason: String| Error::Settings(format!("nothing can be sent to {address}: {reason}"));
        let encryption = match address.0.scheme() {
            "https" => encryption::by_machine().await,
            _ => encryption::by_nobody(),
        };
        let client = Client::builder()
            .use_preconfigured_tls(encryption.map_err(refused)?)
            .user_agent("sentinel")
            .redirect(Policy::none())
            .no_proxy()
            .timeout(patience)
            // Messages are rare: a connection kept for the next one would be a dead one.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| refused(root_cause(&error)))?;
        Ok(Self { client, address, secret, patience })
    }

    /// Where messages go.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Sends one message, JSON, at `now`. The same `id` tells a receiver that it is the same message.
    pub async fn send(&self, id: &str, body: &[u8], now: Timestamp) -> Attempt {
        let seconds = now.span(MICROS).to_string();
        let mut request = self.client.post(self.address.0.clone());
        if let Some(secret) = &self.secret {
            request = request.header("webhook-signature", secret.sign(id, &seconds, body));
        }
        let request = request.header(CONTENT_TYPE, "application/json").header("webhook-id", id);
        match request.header("webhook-timestamp", seconds).body(body.to_vec()).send().await {
            Ok(answer) => judged(answer.status().as_u16(), answer.headers(), now),
            Err(error) => Attempt::TryAgain { after: None, why: self.failure(&error) },
        }
    }

    fn failure(&self, error: &reqwest::Error) -> String {
        if error.is_timeout() {
            return format!("no answer within {} s", self.patience.as_secs_f64());
        }
        let cause = root_cause(error);
        if error.is_connect() { format!("cannot connect: {cause}") } else { cause }
    }
}

/// What an answer means: 2xx took the message; 408, 425, 429 and 5xx say that it is the wrong time; the rest, redirects
/// too, that it is the wrong message or address.
fn judged(status: u16, headers: &HeaderMap, now: Timestamp) -> Attempt {
    match status {
        200..=299 => Attempt::Delivered,
        408 | 425 | 429 | 500..=599 => {
            let asked = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            Attempt::TryAgain {
                after: asked.and_then(|asked| retry_after(asked, now)),
                why: format!("HTTP status {status}"),
            }
        }
        _ => Attempt::Refused(status),
    }
}

/// The pause that `Retry-After` asks for: seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(asked: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = asked.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(asked).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(Duration::from_micros(u64::try_from(now.micros()).ok()?)))
}

/// The innermost cause, which never tells the address.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    // Without a cause it is the client's own sentence, which would end with the address.
    cause.downcast_ref::<reqwest::Error>().map_or_else(|| cause.to_string(), |_| "the request failed".to_owned())
}

#[cfg(test)]
mod tests;
