//! The tables: their names, columns, partitioning and statistics, in one place.
//!
//! A column that is written is never renamed or retyped: readers outside open these tables as they are.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

/// The columns of rows, for who is given rows and knows no Arrow.
pub use arrow::datatypes::SchemaRef;

/// The column by which tables are partitioned.
pub const SYMBOL: &str = "symbol";

/// A table of the lake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TableName {
    /// Admitted events: the truth from which everything derived is rebuilt.
    Events,
    /// One row per admitted event: the rolling statistics before it.
    Features,
    /// One row per symbol and closed minute.
    Windows,
    /// What models said, one row per scored event.
    Predictions,
    /// Events that raised an alert or joined one.
    Alerts,
    /// Valid events that came too late or twice.
    LateEvents,
    /// Records that cannot be events.
    DeadLetters,
    /// Offsets that the log lost.
    Gaps,
    /// Times below which backfills have settled what symbols were.
    Floors,
}

impl TableName {
    /// Every table, derived ones first and `events` last, as commits go.
    pub const ALL: [Self; 9] = [
        Self::Floors,
        Self::Gaps,
        Self::DeadLetters,
        Self::LateEvents,
        Self::Features,
        Self::Windows,
        Self::Predictions,
        Self::Alerts,
        Self::Events,
    ];

    /// The folder's name under `lake/`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Features => "features",
            Self::Windows => "windows",
            Self::Predictions => "predictions",
            Self::Alerts => "alerts",
            Self::LateEvents => "late_events",
            Self::DeadLetters => "dead_letters",
            Self::Gaps => "gaps",
            Self::Floors => "floors",
        }
    }

    /// The column of a row's time: event time where rows have one, else append time.
    #[must_use]
    pub const fn time(self) -> &'static str {
        match self {
            Self::Events | Self::Features | Self::Predictions | Self::Alerts | Self::LateEvents => "timestamp",
            Self::Windows => "window_start",
            Self::DeadLetters | Self::Gaps | Self::Floors => "ingest_time",
        }
    }

    /// The column of a row's offset.
    #[must_use]
    pub const fn offset(self) -> &'static str {
        if matches!(self, Self::Gaps) { "from_offset" } else { "offset" }
    }

    /// The table with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.as_str() == name)
    }

    /// Whether rows lie in one folder per symbol.
    #[must_use]
    pub const fn is_partitioned(self) -> bool {
        !matches!(self, Self::DeadLetters | Self::Gaps | Self::Floors)
    }

    /// The columns that carry statistics for file skipping, the time column first.
    #[must_use]
    pub const fn statistics(self) -> &'static str {
        match self {
            Self::Windows => "window_start,offset",
            Self::DeadLetters | Self::Floors => "ingest_time,offset",
            Self::Gaps => "ingest_time,from_offset",
            _ => "timestamp,offset",
        }
    }

    /// The columns as Arrow types.
    #[must_use]
    pub fn schema(self) -> SchemaRef {
        static SCHEMAS: LazyLock<[SchemaRef; 9]> = LazyLock::new(|| TableName::ALL.map(|t| Arc::new(t.columns())));
        let index = Self::ALL.iter().position(|table| *table == self);
        SCHEMAS[index.unwrap_or_else(|| unreachable!("ALL lists every table"))].clone()
    }

    /// What the table holds, in one line.
    #[must_use]
    pub const fn comment(self) -> &'static str {
        match self {
            Self::Events => "admitted events, the truth from which everything derived is rebuilt",
            Self::Features => "one row per admitted event: rolling statistics of the 60 s before it",
            Self::Windows => "one row per symbol and closed 1-minute window",
            Self::Predictions => "what models said, one row per scored event",
            Self::Alerts => "events that raised an alert or joined one",
            Self::LateEvents => "valid events that came too late or twice, with the reason",
            Self::DeadLetters => "records that cannot be events, with bytes and reason",
            Self::Gaps => "offsets that the log lost",
            Self::Floors => "times below which backfills have settled what symbols were",
        }
    }

    fn columns(self) -> Schema {
        let record = [long("partition"), long("offset"), time("ingest_time")];
        let mut fields: Vec<Field> = Vec::new();
        match self {
            Self::Events => {
                fields.extend([text(SYMBOL), time("timestamp")]);
                fields.extend(record);
                fields.push(time("fold_time"));
                fields.extend(event_columns());
            }
            Self::Features => {
                fields.extend([text(SYMBOL), time("timestamp")]);
                fields.extend(record);
                fields.extend(["price", "volume", "log_return"].map(double));
                fields.extend(Z_SCORES.map(double));
                fields.extend(DEVIATIONS.map(double));
                fields.extend(MEANS.map(double));
                fields.extend([
                    long("window_events"),
                    optional(flag("is_anomaly")),
                    optional(text("anomaly_type")),
                    text("source"),
                ]);
            }
            Self::Windows => {
                fields.extend([text(SYMBOL), time("window_start")]);
                fields.extend(record);
                fields.extend(["open", "high", "low", "close", "volume"].map(double));
                fields.extend([optional(double("vwap")), long("event_count")]);
                fields.extend(MEANS.map(double).map(optional));
                fields.extend(DEVIATIONS.map(double).map(optional));
                fields.extend(Z_SCORES.map(double).map(optional));
                fields.extend([optional(flag("is_anomaly")), text("source")]);
            }
            Self::Predictions => {
                fields.extend([text(SYMBOL), time("timestamp")]);
                fields.extend(record);
                fields.extend(domain::FEATURE_NAMES.map(double));
                fields.extend([double("anomaly_score"), flag("is_anomaly"), long("model_version"), flag("in_sample")]);
                fields.extend([
                    optional(flag("label_is_anomaly")),
                    optional(text("label_anomaly_type")),
                    text("source"),
                ]);
            }
            Self::Alerts => {
                fields.extend([text(SYMBOL), time("timestamp")]);
                fields.extend(record);
                fields.extend(alert_columns());
            }
            Self::LateEvents => {
                fields.extend([text(SYMBOL), time("timestamp")]);
                fields.extend(record);
                fields.extend([text("reason"), optional(time("watermark"))]);
                fields.extend(event_columns());
            }
            Self::DeadLetters => {
                fields.extend(record);
                fields.extend([text("reason"), text("key"), Field::new("bytes", DataType::Binary, false)]);
            }
            Self::Gaps => {
                fields.push(long("partition"));
                fields.extend([long("from_offset"), long("to_offset"), time("ingest_time"), text("reason")]);
            }
            Self::Floors => {
                fields.extend(record);
                fields.extend([text(SYMBOL), time("floor")]);
            }
        }
        Schema::new(fields)
    }
}

/// Names of the standard scores of price, log-return and volume.
pub const Z_SCORES: [&str; 3] = ["z_score_price", "z_score_log_return", "z_score_volume"];

/// Names of the rolling deviations of price (relative in `features`), log-return and volume.
pub const DEVIATIONS: [&str; 3] = ["rolling_price_std", "rolling_log_return_std", "rolling_volume_std"];

/// Names of the rolling means of price, log-return and volume.
pub const MEANS: [&str; 3] = ["rolling_price_mean", "rolling_log_return_mean", "rolling_volume_mean"];

/// The fields of an event as its source gave them, its symbol and time left out.
fn event_columns() -> Vec<Field> {
    vec![
        double("price"),
        double("volume"),
        optional(double("log_return")),
        optional(flag("is_anomaly")),
        optional(text("anomaly_type")),
        optional(long("trade_id")),
        optional(text("side")),
        optional(text("ingest_id")),
        text("source"),
        optional(text("extra")),
    ]
}

/// What is said about an event that is part of an alert.
fn alert_columns() -> Vec<Field> {
    vec![
        text("alert_id"),
        time("raised_at"),
        text("alert_type"),
        text("severity"),
        double("anomaly_score"),
        long("model_version"),
        text("leading_feature"),
        double("share"),
        text("source"),
    ]
}

/// Microseconds, UTC: the one timestamp type of Delta's oldest protocol.
pub(crate) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn time(name: &str) -> Field {
    Field::new(name, time_type(), false)
}

fn double(name: &str) -> Field {
    Field::new(name, DataType::Float64, false)
}

fn long(name: &str) -> Field {
    Field::new(name, DataType::Int64, false)
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn flag(name: &str) -> Field {
    Field::new(name, DataType::Boolean, false)
}

fn optional(field: Field) -> Field {
    field.with_nullable(true)
}
