//! Brings notifications to the webhook, one after another, in their order: each until it is taken, refused or given up.
//!
//! Pauses belong to the receiver and not to a notification, so that one that is down is not asked once for each that
//! waits. What waits is bounded by the queue in front. Never looks into a message.

use std::time::Duration;

use streams::{Backoff, Webhook, webhook::Attempt};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{NotifyParts, message::Message};
use crate::metrics::{Operation, Told};

/// How long and how often delivery is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryPolicy {
    /// Attempts for one notification, at most.
    pub attempts: u32,
    /// Age at which a notification is tried for the last time.
    pub within: Duration,
    /// The longest pause after the first failure; with every other it doubles.
    pub first_pause: Duration,
    /// The longest pause of all, also where the receiver asks for a longer one.
    pub longest_pause: Duration,
    /// For how long what waits is tried once the stream job has ended.
    pub after_end: Duration,
    /// The longest pause then.
    pub last_pause: Duration,
    /// The same seed makes the same pauses.
    pub seed: u64,
}

impl DeliveryPolicy {
    /// 8 attempts within 10 minutes, and 10 s after the end.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            attempts: 8,
            within: Duration::from_mins(10),
            first_pause: Duration::from_secs(5),
            longest_pause: Duration::from_mins(5),
            after_end: Duration::from_secs(10),
            last_pause: Duration::from_secs(1),
            seed,
        }
    }

    /// The pause where ours would be `own` and the receiver asks for another.
    fn pause(&self, own: Duration, asked: Option<Duration>) -> Duration {
        own.max(asked.unwrap_or_default().min(self.longest_pause))
    }

    /// Whether a notification is given up that was tried so often and would have this age at its next attempt.
    fn is_spent(&self, attempts: u32, age: Duration) -> bool {
        attempts >= self.attempts || age > self.within
    }
}

/// A message on its way.
#[derive(Debug)]
pub struct Letter {
    message: Message,
    written: Instant,
    attempts: u32,
}

impl Letter {
    /// A message that was not tried yet.
    pub fn new(message: Message) -> Self {
        Self { message, written: Instant::now(), attempts: 0 }
    }
}

/// Takes letters to one receiver.
pub struct Courier {
    webhook: Webhook,
    policy: DeliveryPolicy,
    parts: NotifyParts,
    letters: mpsc::Receiver<Letter>,
    /// The one that is tried now, kept here so that an attempt that is broken off loses nothing.
    tried: Option<Letter>,
    backoff: Backoff,
    /// The receiver is left alone until then.
    not_before: Instant,
}

impl Courier {
    /// Takes what comes through `letters`.
    pub fn new(webhook: Webhook, policy: DeliveryPolicy, parts: NotifyParts, letters: mpsc::Receiver<Letter>) -> Self {
        let backoff = Backoff::new(policy.first_pause, policy.longest_pause, policy.seed, 0);
        Self { webhook, policy, parts, letters, tried: None, backoff, not_before: Instant::now() }
    }

    /// Delivers until nothing more comes, or until the job has `ended` and the time after that is over.
    pub async fn run(mut self, ended: &CancellationToken) {
        let time_is_over = pause_after(ended, self.policy.after_end);
        tokio::select! { () = self.deliver(ended) => {}, () = time_is_over => {} }
        self.leave();
    }

    async fn deliver(&mut self, ended: &CancellationToken) {
        loop {
            if self.tried.is_none() {
                self.tried = self.letters.recv().await;
            }
            let Some(letter) = &self.tried else { return };
            tokio::select! {
                () = sleep_until(self.not_before) => {}
                () = pause_after(ended, self.policy.last_pause) => {}
            }
            let Message { id, body, .. } = &letter.message;
            let attempt = self.webhook.send(id, body, self.parts.clock.now()).await;
            self.note(attempt);
        }
    }

    /// Draws the conclusion from an attempt.
    fn note(&mut self, attempt: Attempt) {
        let Some(mut letter) = self.tried.take() else { return };
        letter.attempts += 1;
        match attempt {
            Attempt::Delivered => {
                debug!(id = letter.message.id, attempts = letter.attempts, "the webhook was told");
                self.answered();
                self.settle(&letter, Told::Delivered, None);
            }
            Attempt::Refused(status) => {
                let address = self.webhook.address();
                let trouble = format!(
                    "{address} refused alerts with HTTP status {status}: check alerts.webhook_url and \
                     alerts.webhook_secret"
                );
                error!(id = letter.message.id, "{trouble}");
                self.answered();
                self.settle(&letter, Told::Refused, Some(trouble));
            }
            Attempt::TryAgain { after, why } => self.failed(letter, after, &why),
        }
    }

    /// The receiver is there.
    fn answered(&mut self) {
        self.backoff.succeeded();
        self.not_before = Instant::now();
        self.parts.metrics.goes_on(Operation::Notify);
    }

    /// Leaves the receiver alone for a while, and keeps the letter or gives it up.
    fn failed(&mut self, letter: Letter, asked: Option<Duration>, why: &str) {
        let pause = self.policy.pause(self.backoff.failed(), asked);
        self.not_before = Instant::now() + pause;
        let (id, attempts, address) = (&letter.message.id, letter.attempts, self.webhook.address());
        if self.policy.is_spent(attempts, letter.written.elapsed() + pause) {
            let trouble = format!("alerts were not told to {address}: {why}; they are in the table `alerts`");
            error!(id, attempts, "{trouble}");
            self.settle(&letter, Told::GivenUp, Some(trouble));
            return;
        }
        warn!(id, attempts, why, pause_ms = pause.as_millis(), "the webhook was not told, it will be tried again");
        self.parts.metrics.waits(Operation::Notify);
        self.parts.state.set_trouble(Some(format!("alerts wait for {address}: {why}; it is tried again")));
        self.tried = Some(letter);
    }

    /// A letter waits no more.
    fn settle(&self, letter: &Letter, told: Told, trouble: Option<String>) {
        let alerts = letter.message.alerts.len();
        self.parts.metrics.alerts_wait_no_more(alerts);
        self.parts.metrics.alerts_told(told, alerts);
        self.parts.state.set_trouble(trouble);
    }

    /// Counts and names what is still here.
    fn leave(mut self) {
        self.letters.close();
        let mut left: Vec<Letter> = self.tried.take().into_iter().collect();
        while let Ok(letter) = self.letters.try_recv() {
            left.push(letter);
        }
        if left.is_empty() {
            return;
        }
        let address = self.webhook.address();
        let alerts: Vec<String> =
            left.iter().flat_map(|letter| &letter.message.alerts).map(ToString::to_string).collect();
        let trouble = format!("{} alerts were not told to {address} before the end", alerts.len());
        error!(alerts = alerts.join(","), "{trouble}; they are in the table `alerts`");
        for letter in &left {
            self.settle(letter, Told::Unsent, Some(trouble.clone()));
        }
    }
}

async fn pause_after(ended: &CancellationToken, pause: Duration) {
    ended.cancelled().await;
    sleep(pause).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: DeliveryPolicy = DeliveryPolicy::new(1);

    #[test]
    fn a_receiver_that_asks_for_a_pause_gets_it_within_reason() {
        let (short, long, hours) = (Duration::from_secs(4), Duration::from_secs(40), Duration::from_hours(40));
        assert_eq!(POLICY.pause(short, None), short);
        assert_eq!(POLICY.pause(short, Some(long)), long);
        assert_eq!(POLICY.pause(long, Some(short)), long);
        assert_eq!(POLICY.pause(short, Some(hours)), POLICY.longest_pause);
    }

    #[test]
    fn a_notification_is_given_up_by_its_attempts_and_by_its_age() {
        assert!(!POLICY.is_spent(7, POLICY.within));
        assert!(POLICY.is_spent(8, Duration::ZERO));
        assert!(POLICY.is_spent(1, POLICY.within + Duration::from_millis(1)));
    }

    /// The attempts are spread over most of the time that there is for them.
    #[test]
    fn the_pauses_between_all_attempts_reach_over_minutes() {
        for seed in 0..50 {
            let mut backoff = Backoff::new(POLICY.first_pause, POLICY.longest_pause, seed, 0);
            let all: Duration = (1..POLICY.attempts).map(|_| backoff.failed()).sum();
            assert!(all >= Duration::from_mins(5) && all <= Duration::from_mins(11), "{all:?}");
        }
    }
}
