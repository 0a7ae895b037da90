//! Tells people about alerts when they are raised: in the program's log and through a webhook, beside the stream job.
//!
//! An event that joins an alert is not told: the alert is known. Alerts of many symbols that come together are one
//! notification. Invariants: the stream job never waits for whoever is told; what waits has a named maximum; every
//! alert that the webhook is to be told about is counted with what became of it. Nothing is kept on disk: of what waits
//! when the process is killed, that whose rows were not committed yet comes again, and the rest is in the table alone.
//! Never tells about history: only what the stream job finds comes here.

mod delivery;
mod grouping;
mod message;

#[cfg(test)]
mod receiver;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use domain::{AlertRow, Clock, Severity};
use streams::Webhook;
use tokio::{
    sync::{
        broadcast::{
            self,
            error::{RecvError, TryRecvError},
        },
        mpsc,
    },
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    feed::Feed,
    metrics::{Metrics, Told},
};
use delivery::{Courier, Letter};
use grouping::Notification;
use message::Message;

pub use delivery::DeliveryPolicy;

/// Notifications that wait for the webhook, at most; what comes then is dropped and counted.
pub const MAX_WAITING: usize = 256;

/// Alerts of one notification, at most; what is collected is told when it has so many.
pub const MAX_COLLECTED: usize = 200;

/// Alerts that a line of the log names, at most: the first ones of its notification.
const MAX_NAMED: usize = 20;

/// What is told, and to whom.
#[derive(Debug)]
pub struct Sinks {
    /// Alerts below it are told to nobody.
    pub minimum_severity: Severity,
    /// Whether the program's log has a line for each notification.
    pub log: bool,
    /// Whom notifications are sent to, if anybody.
    pub webhook: Option<Webhook>,
}

/// How alerts are collected and delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotifyPolicy {
    /// For how long after the first alert others join its notification, where they are of many symbols.
    pub collect: Duration,
    /// How the webhook is told.
    pub delivery: DeliveryPolicy,
}

impl NotifyPolicy {
    /// Collects for 2 s; the seed is that of the pauses between attempts.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { collect: Duration::from_secs(2), delivery: DeliveryPolicy::new(seed) }
    }
}

/// What a notifier works with.
#[derive(Clone)]
pub struct NotifyParts {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What others may see of it.
    pub state: Arc<NotifyState>,
    /// The time that messages are signed with.
    pub clock: Arc<dyn Clock>,
}

/// What others may see of a notifier.
#[derive(Debug, Default)]
pub struct NotifyState {
    trouble: Mutex<Option<String>>,
}

impl NotifyState {
    /// Why alerts are not told, as a sentence; `None` where they are.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// Tells about the alerts that are raised after it was made.
pub struct Notifier {
    raised: broadcast::Receiver<Arc<AlertRow>>,
    sinks: Sinks,
    policy: NotifyPolicy,
    parts: NotifyParts,
}

impl Notifier {
    /// Follows the alerts of a feed.
    #[must_use]
    pub fn new(feed: &Feed, sinks: Sinks, policy: NotifyPolicy, parts: NotifyParts) -> Self {
        Self { raised: feed.follow_raised(), sinks, policy, parts }
    }

    /// Does the stream job and tells about its alerts. Returns what the job gave once all was told, or could not be
    /// within [`DeliveryPolicy::after_end`] of the job's end.
    pub async fn beside<T>(self, job: impl Future<Output = T>) -> T {
        let Self { raised, sinks, policy, parts } = self;
        let ended = CancellationToken::new();
        let job = async {
            let done = job.await;
            ended.cancel();
            done
        };
        let (queue, letters) = mpsc::channel(MAX_WAITING);
        let collector = Collector {
            raised,
            minimum_severity: sinks.minimum_severity,
            collect: policy.collect,
            log: sinks.log,
            queue: sinks.webhook.is_some().then_some(queue),
            parts: parts.clone(),
            collected: Vec::new(),
            closes_at: None,
        };
        let courier = async {
            if let Some(webhook) = sinks.webhook {
                Courier::new(webhook, policy.delivery, parts, letters).run(&ended).await;
            }
        };
        let (done, (), ()) = tokio::join!(job, collector.run(&ended), courier);
        done
    }
}

/// Makes notifications of alerts.
struct Collector {
    raised: broadcast::Receiver<Arc<AlertRow>>,
    minimum_severity: Severity,
    collect: Duration,
    log: bool,
    queue: Option<mpsc::Sender<Letter>>,
    parts: NotifyParts,
    collected: Vec<Arc<AlertRow>>,
    /// When what is collected is told; `None` where nothing is.
    closes_at: Option<Instant>,
}

impl Collector {
    /// Takes what is raised until the job has ended, and all that was raised by then.
    async fn run(mut self, ended: &CancellationToken) {
        loop {
            let closes_at = self.closes_at;
            let raised = tokio::select! {
                raised = self.raised.recv() => raised,
                () = sleep_until(closes_at.unwrap_or_else(Instant::now)), if closes_at.is_some() => {
                    self.tell();
                    continue;
                }
                () = ended.cancelled() => break,
            };
            match raised {
                Ok(alert) => self.take(alert),
                Err(RecvError::Lagged(missed)) => self.missed(missed),
                Err(RecvError::Closed) => break,
            }
        }
        // The end may be seen before what came in front of it.
        loop {
            match self.raised.try_recv() {
                Ok(alert) => self.take(alert),
                Err(TryRecvError::Lagged(missed)) => self.missed(missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        self.tell();
    }

    fn take(&mut self, alert: Arc<AlertRow>) {
        if alert.severity < self.minimum_severity {
            return;
        }
        self.collected.push(alert);
        self.closes_at.get_or_insert(Instant::now() + self.collect);
        if self.collected.len() == MAX_COLLECTED {
            self.tell();
        }
    }

    /// Tells what is collected.
    fn tell(&mut self) {
        self.closes_at = None;
        for notification in grouping::notifications(std::mem::take(&mut self.collected)) {
            if self.log {
                log(&notification);
            }
            if let Some(queue) = &self.queue {
                self.hand_over(queue, &notification);
            }
        }
    }

    fn hand_over(&self, queue: &mpsc::Sender<Letter>, notification: &Notification) {
        let alerts = notification.alerts().len();
        self.parts.metrics.alerts_wait(alerts);
        if queue.try_send(Letter::new(Message::of(notification))).is_err() {
            self.parts.metrics.alerts_wait_no_more(alerts);
            self.dropped(alerts, &format!("{MAX_WAITING} notifications wait for the webhook"));
        }
    }

    /// Alerts came faster than they were taken.
    fn missed(&self, alerts: u64) {
        let alerts = usize::try_from(alerts).unwrap_or(usize::MAX);
        self.dropped(alerts, "more were raised at once than are kept");
    }

    fn dropped(&self, alerts: usize, why: &str) {
        error!(alerts, why, "alerts are told to nobody; they are in the table `alerts`");
        if self.queue.is_some() {
            self.parts.metrics.alerts_told(Told::Dropped, alerts);
        }
        self.parts.state.set_trouble(Some(format!("alerts were dropped: {why}; they are in the table `alerts`")));
    }
}

/// Writes a notification into the program's log.
fn log(notification: &Notification) {
    match notification.alerts() {
        [alert] => warn!(
            alert = %alert.alert,
            symbol = %alert.symbol,
            alert_type = alert.alert_type.as_str(),
            severity = alert.severity.as_str(),
            anomaly_score = alert.anomaly_score,
            model_version = alert.model_version,
            leading_feature = alert.leading_feature,
            share = alert.share,
            raised_at = %alert.raised_at,
            "an alert was raised"
        ),
        alerts => {
            let named = &alerts[..alerts.len().min(MAX_NAMED)];
            let listed =
                |text: fn(&AlertRow) -> String| named.iter().map(|alert| text(alert)).collect::<Vec<_>>().join(",");
            warn!(
                count = alerts.len(),
                alerts = listed(|alert| alert.alert.to_string()),
                symbols = listed(|alert| alert.symbol.to_string()),
                alert_types = listed(|alert| alert.alert_type.as_str().to_owned()),
                severities = listed(|alert| alert.severity.as_str().to_owned()),
                anomaly_scores = listed(|alert| alert.anomaly_score.to_string()),
                model_versions = listed(|alert| alert.model_version.to_string()),
                leading_features = listed(|alert| alert.leading_feature.to_owned()),
                "alerts of many symbols were raised together"
            );
        }
    }
}

#[cfg(test)]
mod tests;
