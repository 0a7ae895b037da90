//! Alerts on their way from the feed to a real receiver: who is told what, and what becomes of what cannot be told.

use domain::{AlertId, Timestamp};

use super::{
    grouping::tests::alert,
    receiver::{Receiver, SILENCE},
    *,
};

/// Everything waits for the end of the job to be told, and pauses are short.
const POLICY: NotifyPolicy = NotifyPolicy {
    collect: Duration::from_hours(1),
    delivery: DeliveryPolicy {
        attempts: 3,
        first_pause: Duration::from_millis(2),
        longest_pause: Duration::from_millis(10),
        after_end: Duration::from_mins(1),
        last_pause: Duration::from_millis(2),
        ..DeliveryPolicy::new(1)
    },
};

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_710_000_000)
    }
}

/// A feed and what is told about its alerts.
struct Scene {
    feed: Feed,
    parts: NotifyParts,
}

impl Scene {
    fn new() -> Self {
        let (metrics, state) = (Arc::new(Metrics::new()), Arc::new(NotifyState::default()));
        Self { feed: Feed::new(), parts: NotifyParts { metrics, state, clock: Arc::new(Still) } }
    }

    async fn notifier(&self, receiver: &Receiver, policy: NotifyPolicy) -> Notifier {
        let webhook = Webhook::new(receiver.address.clone(), None, Duration::from_mins(1)).await.unwrap();
        let sinks = Sinks { minimum_severity: Severity::High, log: true, webhook: Some(webhook) };
        Notifier::new(&self.feed, sinks, policy, self.parts.clone())
    }

    /// Raises alerts in a job that then ends, and waits until it is known what became of them.
    async fn raise(&self, receiver: &Receiver, policy: NotifyPolicy, alerts: &[AlertRow]) {
        let notifier = self.notifier(receiver, policy).await;
        notifier.beside(async { self.feed.push_alerts(alerts) }).await;
    }

    /// How many alerts had each outcome, without those that none had; none waits any more.
    fn outcomes(&self) -> Vec<(String, usize)> {
        let text = self.parts.metrics.encode().unwrap();
        assert!(text.contains("sentinel_alert_deliveries_waiting 0"), "{text}");
        let outcome = |line: &str| {
            let line = line.strip_prefix("sentinel_alert_deliveries_total{outcome=\"")?;
            let (outcome, count) = line.split_once("\"} ")?;
            Some((outcome.to_owned(), count.parse().unwrap()))
        };
        let mut outcomes: Vec<(String, usize)> = text.lines().filter_map(outcome).collect();
        outcomes.retain(|(_, count)| *count > 0);
        outcomes.sort();
        outcomes
    }

    fn trouble(&self) -> String {
        self.parts.state.trouble().unwrap_or_default()
    }
}

fn outcome(name: &str, count: usize) -> (String, usize) {
    (name.to_owned(), count)
}

#[tokio::test]
async fn alerts_of_few_symbols_are_told_one_by_one_and_of_many_together() {
    let (scene, mut receiver) = (Scene::new(), Receiver::open(&[]).await);
    scene.raise(&receiver, POLICY, &[alert(1, "BTC-USDT"), alert(2, "ETH-USDT")]).await;
    assert_eq!(receiver.rest(), [["0:1"], ["0:2"]]);
    let crash = [alert(3, "BTC-USDT"), alert(4, "ETH-USDT"), alert(5, "BNB-USDT")];
    scene.raise(&receiver, POLICY, &crash).await;
    assert_eq!(receiver.rest(), [["0:3", "0:4", "0:5"]]);
    assert_eq!((scene.outcomes(), scene.trouble()), (vec![outcome("delivered", 5)], String::new()));
}

#[tokio::test]
async fn events_that_join_an_alert_and_alerts_below_the_minimum_are_told_to_nobody() {
    let (scene, mut receiver) = (Scene::new(), Receiver::open(&[]).await);
    let joins = AlertRow { alert: AlertId { partition: 0, offset: 1 }, ..alert(2, "BTC-USDT") };
    let minor = AlertRow { severity: Severity::Warning, ..alert(3, "ETH-USDT") };
    let worst = AlertRow { severity: Severity::Critical, ..alert(4, "ETH-USDT") };
    scene.raise(&receiver, POLICY, &[alert(1, "BTC-USDT"), joins, minor, worst]).await;
    assert_eq!(receiver.rest(), [["0:1"], ["0:4"]]);
    assert_eq!(scene.outcomes(), [outcome("delivered", 2)]);
}

#[tokio::test]
async fn alerts_are_told_while_the_job_goes_on() {
    let (scene, mut receiver) = (Scene::new(), Receiver::open(&[]).await);
    let policy = NotifyPolicy { collect: Duration::from_millis(1), ..POLICY };
    let notifier = scene.notifier(&receiver, policy).await;
    let done = notifier.beside(async {
        scene.feed.push_alerts(&[alert(1, "BTC-USDT")]);
        let first = receiver.next().await;
        scene.feed.push_alerts(&[alert(2, "BTC-USDT")]);
        [first.id, receiver.next().await.id]
    });
    assert_eq!(done.await, ["0:1", "0:2"]);
}

#[tokio::test]
async fn what_is_not_taken_now_is_sent_again_as_it_was() {
    let (scene, mut receiver) = (Scene::new(), Receiver::open(&[503, 429]).await);
    scene.raise(&receiver, POLICY, &[alert(1, "BTC-USDT"), alert(2, "BTC-USDT")]).await;
    let ids = [receiver.next().await, receiver.next().await, receiver.next().await, receiver.next().await];
    assert_eq!(ids.map(|received| received.id), ["0:1", "0:1", "0:1", "0:2"]);
    assert_eq!((scene.outcomes(), scene.trouble()), (vec![outcome("delivered", 2)], String::new()));
    let counted = scene.parts.metrics.encode().unwrap();
    for line in ["sentinel_retries_total{operation=\"notify\"} 2", "sentinel_waiting{operation=\"notify\"} 0"] {
        assert!(counted.contains(line), "{counted}");
    }
}

#[tokio::test]
async fn what_is_refused_is_not_sent_again() {
    let (scene, mut receiver) = (Scene::new(), Receiver::open(&[200, 401]).await);
    scene.raise(&receiver, POLICY, &[alert(1, "BTC-USDT"), alert(2, "BTC-USDT")]).await;
    assert_eq!(receiver.rest(), [["0:1"], ["0:2"]]);
    assert_eq!(scene.outcomes(), [outcome("delivered", 1), outcome("refused", 1)]);
    let trouble = format!("{} refused alerts with HTTP status 401: check alerts.webhook_url", receiver.address);
    assert!(scene.trouble().starts_with(&trouble), "{}", scene.trouble());
}

#[tokio::test]
async fn what_was_tried_often_enough_is_given_up_and_the_next_is_tried() {
    let (scene, mut receiver) = (Scene::new(), Receiver::open(&[500, 500, 500, 500]).await);
    scene.raise(&receiver, POLICY, &[alert(1, "BTC-USDT")]).await;
    assert_eq!((scene.outcomes(), receiver.rest().len()), (vec![outcome("given_up", 1)], 3));
    assert_eq!(
        scene.trouble(),
        format!("alerts were not told to {}: HTTP status 500; they are in the table `alerts`", receiver.address)
    );
    scene.raise(&receiver, POLICY, &[alert(2, "BTC-USDT")]).await;
    assert_eq!(receiver.rest(), [["0:2"], ["0:2"]]);
    assert_eq!(scene.outcomes(), [outcome("delivered", 1), outcome("given_up", 1)]);
    assert_eq!(scene.trouble(), "");
}

#[tokio::test]
async fn a_receiver_that_is_slow_holds_up_nobody_and_what_it_cannot_take_is_counted() {
    let (scene, mut receiver) = (Scene::new(), Receiver::closed(&[]).await);
    let alerts: Vec<_> = (0..).take(MAX_WAITING + 40).map(|offset| alert(offset, "BTC-USDT")).collect();
    let policy = NotifyPolicy { collect: Duration::from_millis(1), ..POLICY };
    let dropped = scene.notifier(&receiver, policy).await.beside(async {
        scene.feed.push_alerts(&alerts);
        while scene.trouble().is_empty() {
            tokio::task::yield_now().await;
        }
        let trouble = scene.trouble();
        receiver.release();
        trouble
    });
    assert_eq!(
        dropped.await,
        "alerts were dropped: 256 notifications wait for the webhook; they are in the table `alerts`"
    );
    // One more than wait may be on its way.
    let delivered = receiver.rest().len();
    assert!((MAX_WAITING..=MAX_WAITING + 1).contains(&delivered), "{delivered}");
    assert_eq!(scene.outcomes(), [outcome("delivered", delivered), outcome("dropped", alerts.len() - delivered)]);
}

#[tokio::test]
async fn the_end_waits_for_a_silent_receiver_no_longer_than_it_may() {
    let (scene, mut receiver) = (Scene::new(), Receiver::open(&[SILENCE]).await);
    let delivery = DeliveryPolicy { after_end: Duration::from_millis(50), ..POLICY.delivery };
    let alerts = [alert(1, "BTC-USDT"), alert(2, "BTC-USDT"), alert(3, "BTC-USDT")];
    scene.raise(&receiver, NotifyPolicy { delivery, ..POLICY }, &alerts).await;
    assert!(receiver.rest().len() <= 1);
    assert_eq!(scene.outcomes(), [outcome("unsent", 3)]);
    assert_eq!(scene.trouble(), format!("3 alerts were not told to {} before the end", receiver.address));
}

#[tokio::test]
async fn without_a_webhook_nothing_waits_and_nothing_is_counted() {
    let scene = Scene::new();
    let sinks = Sinks { minimum_severity: Severity::Warning, log: false, webhook: None };
    let notifier = Notifier::new(&scene.feed, sinks, POLICY, scene.parts.clone());
    notifier.beside(async { scene.feed.push_alerts(&[alert(1, "BTC-USDT")]) }).await;
    assert_eq!((scene.outcomes(), scene.trouble()), (Vec::new(), String::new()));
}
