//! Finds out what is new, once for all readers, and tells them.
//!
//! Predictions, alerts, the status and the runs are followed side by side, so that a busy store of runs holds no prediction
//! up.

use std::{sync::Arc, time::Duration};

use domain::AlertRow;
use jobs::{
    control::SeenRuns,
    feed::{Follower, News},
    status::{Part, PartState, PartStatus},
};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Shared, json, ring::What};
use crate::{answers::PartsStatus, life::answers::Run, routes::Service};

/// How often the status and the runs are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Readers are woken no more often than once in this time, whatever the rate of predictions.
const PAUSE: Duration = Duration::from_millis(20);

/// Tells the readers what is new. When it is gone, their streams end.
pub struct Publisher {
    desk: Desk,
    live: Follower,
    alerts: broadcast::Receiver<Arc<AlertRow>>,
}

/// Where what is new is handed in.
struct Desk {
    shared: Arc<Shared>,
    wake: watch::Sender<()>,
    service: Service,
}

impl Publisher {
    pub(super) fn new(shared: Arc<Shared>, wake: watch::Sender<()>, service: Service) -> Self {
        let (live, alerts) = (service.feed.follow(), service.feed.follow_alerts());
        Self { desk: Desk { shared, wake, service }, live, alerts }
    }

    /// Publishes until the service begins to end.
    pub async fn run(self, ending: &CancellationToken) {
        let Self { desk, live, alerts } = self;
        let publish = async { tokio::join!(desk.predictions(live), desk.alerts(alerts), desk.statuses(), desk.runs()) };
        tokio::select! { () = ending.cancelled() => {}, ((), (), (), ()) = publish => {} }
    }
}

impl Desk {
    async fn predictions(&self, mut live: Follower) {
        loop {
            self.hand_in(live.news().await);
            sleep(PAUSE).await;
        }
    }

    async fn alerts(&self, mut alerts: broadcast::Receiver<Arc<AlertRow>>) {
        loop {
            match alerts.recv().await {
                Ok(alert) => self.publish(What::Alert(alert)),
                Err(RecvError::Lagged(lost)) => self.lose(lost),
                // The service holds the feed: its end goes with this.
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn statuses(&self) {
        let mut known: Option<Vec<PartStatus>> = None;
        loop {
            let parts = self.service.status.parts();
            if known.as_deref().is_none_or(|known| differ(known, &parts)) {
                let status = PartsStatus::of(parts.clone(), &self.service);
                self.publish(What::Status(json(&status)));
                known = Some(parts);
            }
            sleep(LOOK).await;
        }
    }

    async fn runs(&self) {
        let mut seen = SeenRuns::default();
        let mut can_be_read = true;
        loop {
            match self.service.control.changed_runs(&mut seen).await {
                Ok(changed) => {
                    can_be_read = true;
                    for entry in &changed {
                        self.publish(What::Run(json(&Run::from(entry))));
                    }
                }
                Err(error) => {
                    // One line for one trouble, however often it is looked.
                    if can_be_read {
                        warn!(%error, "the stream tells no runs until they can be read again");
                    }
                    can_be_read = false;
                }
            }
            sleep(LOOK).await;
        }
    }

    fn publish(&self, what: What) {
        self.shared.ring().push(what);
        self.wake.send_replace(());
    }

    fn lose(&self, count: u64) {
        self.shared.ring().lose(count);
        self.wake.send_replace(());
    }

    fn hand_in(&self, news: News) {
        let mut ring = self.shared.ring();
        ring.lose(news.lost);
        for item in news.items {
            ring.push(What::Prediction(item));
        }
        drop(ring);
        self.wake.send_replace(());
    }
}

/// Whether the parts are otherwise than before; a response time says nothing about that.
fn differ(before: &[PartStatus], now: &[PartStatus]) -> bool {
    before.iter().map(substance).ne(now.iter().map(substance))
}

fn substance(part: &PartStatus) -> (Part, PartState, Option<&str>) {
    (part.name, part.state, part.details.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_time_is_no_change_and_everything_else_is() {
        let part = |state, response_time_ms, details: Option<&str>| PartStatus {
            name: Part::Log,
            state,
            response_time_ms,
            details: details.map(str::to_owned),
        };
        let before = [part(PartState::Online, 0.25, Some("fine"))];
        assert!(!differ(&before, &[part(PartState::Online, 7.5, Some("fine"))]));
        assert!(differ(&before, &[part(PartState::Degraded, 0.25, Some("fine"))]));
        assert!(differ(&before, &[part(PartState::Online, 0.25, None)]));
        assert!(differ(&before, &[]));
    }
}
