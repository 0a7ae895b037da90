//! The numbers that the program counts about itself, registered once and written out in the `OpenMetrics` text form.
//!
//! Every series has a bounded set of labels: tables, fates and origins are fixed, a route is a template and never a
//! path as it was asked for.

mod passage;

use std::{
    fmt, fs,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use domain::{AlertRow, Fate, FateCounts, Severity};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};
use scheduler::{Observer, due::Skip, store::queue::Health};
use streams::binance::Lost;

use crate::{feed::Origin, ingest::FrameCounts};
use passage::Passage;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the request duration buckets, in seconds.
const REQUEST_BUCKETS: [f64; 12] = [5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 1e-1, 5e-1, 2.5];

/// Upper bounds of the commit duration buckets, in seconds.
const COMMIT_BUCKETS: [f64; 10] = [5e-3, 1e-2, 2.5e-2, 5e-2, 1e-1, 2.5e-1, 5e-1, 1.0, 2.5, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FateLabel {
    fate: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FrameLabel {
    content: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TableLabel {
    table: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OriginLabel {
    origin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SeverityLabel {
    severity: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabel {
    job: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: Arc<str>,
    status: u16,
}

/// Upper bounds of the buckets of how long a scheduler looks for what is due, in seconds.
const TICK_BUCKETS: [f64; 8] = [5e-4, 1e-3, 2.5e-3, 1e-2, 5e-2, 2.5e-1, 1.0, 10.0];

/// Upper bounds of the buckets of how late schedules fire, in seconds.
const FIRE_BUCKETS: [f64; 8] = [0.05, 0.25, 1.0, 5.0, 30.0, 60.0, 600.0, 3_600.0];

/// What a job tries again until it succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Appending to the log.
    Append,
    /// Reading the log.
    Read,
    /// Committing to the tables.
    Commit,
    /// Telling a webhook about alerts.
    Notify,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Append, Self::Read, Self::Commit, Self::Notify];

    const fn label(self) -> OperationLabel {
        let operation = match self {
            Self::Append => "append",
            Self::Read => "read",
            Self::Commit => "commit",
            Self::Notify => "notify",
        };
        OperationLabel { operation }
    }
}

/// What became of telling the webhook about an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was told.
    Delivered,
    /// It did not want to know.
    Refused,
    /// It was tried often or long enough.
    GivenUp,
    /// Too many waited.
    Dropped,
    /// The program ended first.
    Unsent,
}

impl Told {
    const ALL: [Self; 5] = [Self::Delivered, Self::Refused, Self::GivenUp, Self::Dropped, Self::Unsent];

    const fn label(self) -> OutcomeLabel {
        let outcome = match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::GivenUp => "given_up",
            Self::Dropped => "dropped",
            Self::Unsent => "unsent",
        };
        OutcomeLabel { outcome }
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Every counter of the program. Cheap to count with from any thread.
pub struct Metrics {
    registry: Registry,
    events_logged: Counter,
    passage: Passage,
    source_connected: Gauge,
    source_disconnects: Family<ReasonLabel, Counter>,
    source_frames: Family<FrameLabel, Counter>,
    missing_trade_ids: Gauge,
    waiting: Family<OperationLabel, Gauge>,
    retries: Family<OperationLabel, Counter>,
    records: Family<FateLabel, Counter>,
    rows: Family<TableLabel, Counter>,
    commits: Family<TableLabel, Counter>,
    commit_seconds: Histograms<TableLabel>,
    predictions: Family<OriginLabel, Counter>,
    anomalies: Family<OriginLabel, Counter>,
    alerts: Family<SeverityLabel, Counter>,
    alert_events: Counter,
    alerts_told: Family<OutcomeLabel, Counter>,
    alerts_waiting: Gauge,
    model_version: Gauge,
    tick_seconds: Histogram,
    fire_delay: Histogram,
    missed: Counter,
    skipped: Family<ReasonLabel, Counter>,
    runs_waiting: Gauge,
    runs_going: Gauge,
    leases_lost: Counter,
    since_success: Family<JobLabel, Gauge<f64, AtomicU64>>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histograms<RouteLabel>,
    readers: Gauge,
    panics: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every series; those with fixed labels begin at 0.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            events_logged: Counter::default(),
            passage: Passage::default(),
            source_connected: Gauge::default(),
            source_disconnects: Family::default(),
            source_frames: Family::default(),
            missing_trade_ids: Gauge::default(),
            waiting: Family::default(),
            retries: Family::default(),
            records: Family::default(),
            rows: Family::default(),
            commits: Family::default(),
            commit_seconds: Family::new_with_constructor(|| Histogram::new(COMMIT_BUCKETS)),
            predictions: Family::default(),
            anomalies: Family::default(),
            alerts: Family::default(),
            alert_events: Counter::default(),
            alerts_told: Family::default(),
            alerts_waiting: Gauge::default(),
            model_version: Gauge::default(),
            tick_seconds: Histogram::new(TICK_BUCKETS),
            fire_delay: Histogram::new(FIRE_BUCKETS),
            missed: Counter::default(),
            skipped: Family::default(),
            runs_waiting: Gauge::default(),
            runs_going: Gauge::default(),
            leases_lost: Counter::default(),
            since_success: Family::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            readers: Gauge::default(),
            panics: Counter::default(),
        };
        metrics.register();
        metrics.frames_received(&FrameCounts::default());
        for reason in Lost::REASONS {
            metrics.source_disconnects.get_or_create(&ReasonLabel { reason }).inc_by(0);
        }
        metrics.records_folded(&FateCounts::default());
        for operation in Operation::ALL {
            metrics.goes_on(operation);
            metrics.retries.get_or_create(&operation.label()).inc_by(0);
        }
        for origin in Origin::ALL {
            metrics.predicted(origin, 0, 0);
        }
        for severity in Severity::ALL {
            metrics.alerts.get_or_create(&SeverityLabel { severity: severity.as_str() }).inc_by(0);
        }
        for told in Told::ALL {
            metrics.alerts_told(told, 0);
        }
        for reason in Skip::ALL {
            metrics.skipped(reason, 0);
        }
        metrics
    }

    fn register(&mut self) {
        self.registry.register_collector(Box::new(ProcessMemory));
        let ours = self.registry.sub_registry_with_prefix("sentinel");
        ours.register("build", "The version of this program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        self.passage.register(ours);
        ours.register("events_logged", "Events appended to the log by this process", self.events_logged.clone());
        let help = "Connections of the live source that are there now";
        ours.register("source_connections", help, self.source_connected.clone());
        let help = "Connections of the live source that ended or could not be made, by reason";
        ours.register("source_disconnects", help, self.source_disconnects.clone());
        ours.register("source_frames", "Frames of the live source, by what they hold", self.source_frames.clone());
        let help = "Trade ids missing in the last hour of event time of real events; 0 with a simulated source";
        ours.register("missing_trade_ids", help, self.missing_trade_ids.clone());
        let help = "Whether an operation waits for a log or a disk that it cannot use now: 1 while it does";
        ours.register("waiting", help, self.waiting.clone());
        ours.register("retries", "Operations that failed and are tried again", self.retries.clone());
        ours.register("records_folded", "Records read from the log, by their fate", self.records.clone());
        ours.register("rows_committed", "Rows committed to a table by this process", self.rows.clone());
        ours.register("commits", "Commits to a table by this process", self.commits.clone());
        ours.register_with_unit("commit_duration", "Time of one commit", Unit::Seconds, self.commit_seconds.clone());
        ours.register("predictions", "Predictions made by this process", self.predictions.clone());
        ours.register("anomalies", "Predictions that said anomaly", self.anomalies.clone());
        ours.register("alerts", "Alerts raised, by severity", self.alerts.clone());
        ours.register("alert_events", "Events that raised an alert or joined one", self.alert_events.clone());
        let help = "Alerts by what became of telling the webhook about them";
        ours.register("alert_deliveries", help, self.alerts_told.clone());
        let help = "Alerts that the webhook is still to be told about";
        ours.register("alert_deliveries_waiting", help, self.alerts_waiting.clone());
        ours.register("model_version", "Version of the active model, 0 before the first", self.model_version.clone());
        let help = "Time of looking which schedules are due and of writing what is done about them";
        ours.register_with_unit("schedule_tick_duration", help, Unit::Seconds, self.tick_seconds.clone());
        let help = "How long after its time a schedule's run was created";
        ours.register_with_unit("schedule_fire_delay", help, Unit::Seconds, self.fire_delay.clone());
        let help = "Times of schedules that passed while no scheduler ran";
        ours.register("schedule_missed", help, self.missed.clone());
        ours.register("schedule_skipped", "Times of schedules that have no run, by reason", self.skipped.clone());
        ours.register("runs_waiting", "Runs of schedules that wait to begin", self.runs_waiting.clone());
        ours.register("runs_going", "Runs of schedules that go on", self.runs_going.clone());
        ours.register(
            "leases_lost",
            "Runs that another owner took while they were done here",
            self.leases_lost.clone(),
        );
        let help = "Time since a job of a schedule succeeded last; absent where it never has";
        ours.register_with_unit("job_last_success_age", help, Unit::Seconds, self.since_success.clone());
        ours.register("http_requests", "Requests answered, by route template", self.requests.clone());
        ours.register_with_unit(
            "http_request_duration",
            "Time from a request's head to its answer's head",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        ours.register("stream_readers", "Readers of the stream of events", self.readers.clone());
        ours.register("http_panics", "Handlers that panicked and were answered with 500", self.panics.clone());
    }

    /// Counts events appended to the log.
    pub fn events_logged(&self, count: u64) {
        self.events_logged.inc_by(count);
    }

    /// Notes how many connections of the live source are there.
    pub fn source_connected(&self, connections: usize) {
        self.source_connected.set(i64::try_from(connections).unwrap_or(i64::MAX));
    }

    /// Counts a connection of the live source that ended or could not be made.
    pub fn source_lost(&self, lost: &Lost) {
        self.source_disconnects.get_or_create(&ReasonLabel { reason: lost.as_str() }).inc();
    }

    /// Counts what a live source gave.
    pub fn frames_received(&self, counts: &FrameCounts) {
        let FrameCounts { trades, skipped, undecoded } = *counts;
        for (content, count) in [("trade", trades), ("other", skipped), ("undecoded", undecoded)] {
            self.source_frames.get_or_create(&FrameLabel { content }).inc_by(count);
        }
    }

    /// Notes how many trade ids are missing in the newest hour.
    pub fn trade_ids_missing(&self, count: u64) {
        self.missing_trade_ids.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts an operation that failed and is tried again after a pause.
    pub fn waits(&self, operation: Operation) {
        self.waiting.get_or_create(&operation.label()).set(1);
        self.retries.get_or_create(&operation.label()).inc();
    }

    /// Notes that an operation does not wait, or not any more.
    pub fn goes_on(&self, operation: Operation) {
        self.waiting.get_or_create(&operation.label()).set(0);
    }

    /// Counts records by their fate.
    pub fn records_folded(&self, counts: &FateCounts) {
        for fate in Fate::ALL {
            self.records.get_or_create(&FateLabel { fate: fate.as_str() }).inc_by(counts.of(fate));
        }
    }

    /// Counts one commit of `rows` rows to `table` that took `seconds`.
    pub fn committed(&self, table: &'static str, rows: u64, seconds: f64) {
        let label = TableLabel { table };
        self.rows.get_or_create(&label).inc_by(rows);
        self.commits.get_or_create(&label).inc();
        self.commit_seconds.get_or_create(&label).observe(seconds);
    }

    /// Counts `predictions`, `anomalies` of which said anomaly.
    pub fn predicted(&self, origin: Origin, predictions: u64, anomalies: u64) {
        let label = OriginLabel { origin: origin.as_str() };
        self.predictions.get_or_create(&label).inc_by(predictions);
        self.anomalies.get_or_create(&label).inc_by(anomalies);
    }

    /// Counts events that raised an alert or joined one.
    pub fn alerted(&self, events: &[AlertRow]) {
        self.alert_events.inc_by(events.len() as u64);
        for raised in events.iter().filter(|event| event.is_raising()) {
            self.alerts.get_or_create(&SeverityLabel { severity: raised.severity.as_str() }).inc();
        }
    }

    /// Counts alerts by what became of telling the webhook about them.
    pub fn alerts_told(&self, told: Told, alerts: usize) {
        self.alerts_told.get_or_create(&told.label()).inc_by(alerts as u64);
    }

    /// Notes that the webhook is still to be told about so many more alerts.
    pub fn alerts_wait(&self, alerts: usize) {
        self.alerts_waiting.inc_by(i64::try_from(alerts).unwrap_or(i64::MAX));
    }

    /// Notes that so many of them do not wait any more.
    pub fn alerts_wait_no_more(&self, alerts: usize) {
        self.alerts_waiting.dec_by(i64::try_from(alerts).unwrap_or(i64::MAX));
    }

    /// Notes the version of the active model.
    pub fn model_activated(&self, version: i64) {
        self.model_version.set(version);
    }

    /// Counts one answered request. `route` is a template such as `/tables/{table}`, never a path as asked for.
    pub fn request_answered(&self, method: &'static str, route: &Arc<str>, status: u16, seconds: f64) {
        let labels = RequestLabels { method, route: Arc::clone(route), status };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.get_or_create(&RouteLabel { route: labels.route }).observe(seconds);
    }

    /// Notes a reader of the stream of events.
    pub fn reader_came(&self) {
        self.readers.inc();
    }

    /// Notes that a reader of the stream of events is gone.
    pub fn reader_left(&self) {
        self.readers.dec();
    }

    /// Counts a handler that panicked.
    pub fn handler_panicked(&self) {
        self.panics.inc();
    }

    /// Every series as `OpenMetrics` text, see [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// Where formatting into memory fails, which does not happen with the series above.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(8 * 1024);
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Observer for Metrics {
    fn ticked(&self, took: Duration) {
        self.tick_seconds.observe(took.as_secs_f64());
    }

    fn fired(&self, delay: Duration, is_missed: bool) {
        self.fire_delay.observe(delay.as_secs_f64());
        self.missed.inc_by(u64::from(is_missed));
    }

    fn skipped(&self, reason: Skip, times: u64) {
        self.skipped.get_or_create(&ReasonLabel { reason: reason.label() }).inc_by(times);
        self.missed.inc_by(if reason.is_of_a_missed_time() { times } else { 0 });
    }

    fn lease_lost(&self) {
        self.leases_lost.inc();
    }

    fn looked(&self, health: &Health) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.runs_waiting.set(number(health.waiting));
        self.runs_going.set(number(health.going));
        for (job, since) in &health.since_success {
            if let Some(since) = since {
                self.since_success.get_or_create(&JobLabel { job: job.clone() }).set(since.as_secs_f64());
            }
        }
    }
}

/// Resident memory, read when asked for; absent where the system does not tell.
#[derive(Debug)]
struct ProcessMemory;

impl Collector for ProcessMemory {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(bytes) = resident_bytes() else { return Ok(()) };
        let gauge = ConstGauge::new(bytes);
        let name = "process_resident_memory";
        let metric = encoder.encode_descriptor(name, "Resident memory of this process", Some(&Unit::Bytes), {
            use prometheus_client::metrics::MetricType;
            MetricType::Gauge
        })?;
        gauge.encode(metric)
    }
}

/// Resident memory of this process in bytes; `None` on systems without `/proc`.
///
/// Read from `status` and not from `statm`, which counts in pages of a size that only a system call tells.
#[must_use]
pub fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<i64>().ok()?.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_begins_at_zero_and_ends_with_the_end_mark() {
        let text = Metrics::new().encode().unwrap();
        for line in [
            concat!("sentinel_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "sentinel_events_logged_total 0",
            "sentinel_logged_bytes_total 0",
            "sentinel_scoring_duration_seconds_count 0",
            "sentinel_event_to_prediction_seconds_count 0",
            "sentinel_stream_readers 0",
            "sentinel_source_connections 0",
            "sentinel_source_disconnects_total{reason=\"stalled\"} 0",
            "sentinel_source_frames_total{content=\"trade\"} 0",
            "sentinel_missing_trade_ids 0",
            "sentinel_waiting{operation=\"append\"} 0",
            "sentinel_retries_total{operation=\"commit\"} 0",
            "sentinel_records_folded_total{fate=\"late\"} 0",
            "sentinel_predictions_total{origin=\"live\"} 0",
            "sentinel_anomalies_total{origin=\"manual\"} 0",
            "sentinel_alerts_total{severity=\"critical\"} 0",
            "sentinel_alert_events_total 0",
            "sentinel_alert_deliveries_total{outcome=\"given_up\"} 0",
            "sentinel_alert_deliveries_waiting 0",
            "sentinel_model_version 0",
            "sentinel_schedule_missed_total 0",
            "sentinel_schedule_skipped_total{reason=\"run_goes_on\"} 0",
            "sentinel_runs_waiting 0",
            "sentinel_leases_lost_total 0",
            "sentinel_http_panics_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_was_counted_is_written() {
        let metrics = Metrics::new();
        metrics.events_logged(7);
        metrics.source_connected(2);
        metrics.source_lost(&Lost::Stalled);
        metrics.frames_received(&FrameCounts { trades: 5, skipped: 2, undecoded: 1 });
        metrics.trade_ids_missing(12);
        metrics.waits(Operation::Read);
        metrics.waits(Operation::Append);
        metrics.goes_on(Operation::Append);
        let mut fates = FateCounts::default();
        fates.count(Fate::Admitted);
        fates.count(Fate::Admitted);
        metrics.records_folded(&fates);
        metrics.committed("features", 6, 0.02);
        metrics.committed("features", 4, 0.02);
        metrics.predicted(Origin::Live, 6, 2);
        metrics.alerts_told(Told::Delivered, 2);
        metrics.alerts_wait(6);
        metrics.alerts_wait_no_more(2);
        metrics.model_activated(3);
        metrics.ticked(Duration::from_millis(2));
        metrics.fired(Duration::from_millis(1_500), false);
        metrics.fired(Duration::from_secs(90), true);
        metrics.skipped(Skip::RunGoesOn, 2);
        metrics.skipped(Skip::Superseded, 3);
        metrics.lease_lost();
        let since_success = vec![("drift".to_owned(), Some(Duration::from_secs(7))), ("train".to_owned(), None)];
        metrics.looked(&Health { waiting: 4, going: 1, since_success });
        metrics.request_answered("GET", &Arc::from("/health"), 200, 0.001);
        metrics.handler_panicked();
        let text = metrics.encode().unwrap();
        for line in [
            "sentinel_events_logged_total 7",
            "sentinel_source_connections 2",
            "sentinel_source_disconnects_total{reason=\"stalled\"} 1",
            "sentinel_source_frames_total{content=\"trade\"} 5",
            "sentinel_source_frames_total{content=\"other\"} 2",
            "sentinel_source_frames_total{content=\"undecoded\"} 1",
            "sentinel_missing_trade_ids 12",
            "sentinel_waiting{operation=\"read\"} 1",
            "sentinel_waiting{operation=\"append\"} 0",
            "sentinel_retries_total{operation=\"append\"} 1",
            "sentinel_records_folded_total{fate=\"admitted\"} 2",
            "sentinel_rows_committed_total{table=\"features\"} 10",
            "sentinel_commits_total{table=\"features\"} 2",
            "sentinel_commit_duration_seconds_count{table=\"features\"} 2",
            "sentinel_predictions_total{origin=\"live\"} 6",
            "sentinel_anomalies_total{origin=\"live\"} 2",
            "sentinel_alert_deliveries_total{outcome=\"delivered\"} 2",
            "sentinel_alert_deliveries_waiting 4",
            "sentinel_model_version 3",
            "sentinel_schedule_tick_duration_seconds_bucket{le=\"0.0025\"} 1",
            "sentinel_schedule_fire_delay_seconds_count 2",
            "sentinel_schedule_missed_total 4",
            "sentinel_schedule_skipped_total{reason=\"run_goes_on\"} 2",
            "sentinel_runs_waiting 4",
            "sentinel_runs_going 1",
            "sentinel_leases_lost_total 1",
            "sentinel_job_last_success_age_seconds{job=\"drift\"} 7.0",
            "sentinel_http_requests_total{method=\"GET\",route=\"/health\",status=\"200\"} 1",
            "sentinel_http_request_duration_seconds_count{route=\"/health\"} 1",
            "sentinel_http_panics_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_process_knows_its_memory_where_the_system_tells_it() {
        let told = fs::exists("/proc/self/status").unwrap_or(false);
        assert_eq!(resident_bytes().is_some_and(|bytes| bytes > 100_000), told);
    }
}
