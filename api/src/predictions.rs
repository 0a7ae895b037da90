//! `GET /predictions`: what models have said, from the table that keeps it.
//!
//! The newest ones, before they are in the table, are told by `/stream` and `/latest-predictions`.

use jobs::tables::{self, Filter, PREDICTIONS};
use poem::Result;
use poem_openapi::{
    OpenApi,
    param::{Header, Query},
};

use crate::{
    parameters::TimeText,
    problem::Refused,
    routes::Chapter,
    rows::{Asked, PageQuery, RowFormat, Rows, TableRows, default_rows, every_column},
    tables::OfRows,
};

/// The operations.
pub struct Predictions {
    /// The tables.
    pub tables: tables::Tables,
}

#[OpenApi]
impl Predictions {
    /// The history of predictions, newest first
    ///
    /// Every event that a model has scored: its feature vector, label, score and verdict, and which model it was. The rows
    /// are those of the table `predictions`; formats, pages and versions are those of `/tables/{table}/rows`. Predictions
    /// are in the table within seconds; earlier, `/stream` tells them.
    #[oai(path = "/predictions", method = "get", operation_id = "predictions", tag = "Chapter::Predictions")]
    #[expect(clippy::too_many_arguments, reason = "a parameter is documented where it is declared")]
    async fn predictions(
        &self,
        /// Of one market only.
        #[oai(validator(pattern = "^[A-Z0-9]+-[A-Z0-9]+$", max_length = 31))]
        symbol: Query<Option<String>>,
        /// For events at this time or later.
        from: Query<Option<TimeText>>,
        /// For events before this time.
        to: Query<Option<TimeText>>,
        /// Only what was called an anomaly.
        #[oai(default)]
        anomalies_only: Query<bool>,
        /// Only what this version of the model said.
        #[oai(validator(minimum(value = "1")))]
        model_version: Query<Option<i64>>,
        /// Which columns, separated by commas; all, where it is left out.
        #[oai(default = "every_column", explode = false)]
        columns: Query<Vec<String>>,
        /// How many, at most; in JSON not more than 10 000.
        #[oai(default = "default_rows", validator(minimum(value = "1"), maximum(value = "1000000")))]
        limit: Query<u32>,
        /// Where the page before ended, as its answer said.
        #[oai(validator(max_length = 512))]
        cursor: Query<Option<String>>,
        /// The table at this version.
        #[oai(validator(minimum(value = "0"), maximum(value = "9007199254740991")))]
        version: Query<Option<u64>>,
        /// The table as it was stored at this time.
        as_of: Query<Option<TimeText>>,
        /// Predictions for records that were in the log by this time.
        known_at: Query<Option<TimeText>>,
        /// The format of the answer.
        format: Query<Option<RowFormat>>,
        /// The `ETag` of an answer that is there: the same one is not sent again.
        #[oai(name = "If-None-Match")]
        if_none_match: Header<Option<String>>,
        asked: Asked,
    ) -> Result<Rows<TableRows>, Refused<OfRows>> {
        let query = PageQuery {
            symbol,
            from,
            to,
            columns,
            limit,
            cursor,
            version,
            as_of,
            known_at,
            format,
            if_none_match,
            asked,
        };
        let anomalies = anomalies_only.0.then_some(Filter::Is("is_anomaly"));
        let of_model = model_version.0.map(|version| Filter::Equals("model_version", version));
        let filters = anomalies.into_iter().chain(of_model).collect();
        Ok(query.page(&self.tables, PREDICTIONS.to_owned(), filters).await?)
    }
}
