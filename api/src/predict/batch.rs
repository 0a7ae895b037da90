//! The body of `POST /predict/batch`, an array of what `POST /predict` takes, and its answer.
//!
//! Every item has its own result in the order of the items: one that is wrong is explained in its place and takes
//! nothing from the others.

use std::fmt;

use bytes::Bytes;
use domain::{FeatureVector, Symbol};
use models::Verdict;
use poem::{Request, RequestBody, Result, http::StatusCode};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions, Object, Union,
    registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry},
    types::{Example, Type},
};
use serde::{
    Serialize,
    de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{PredictRequest, Question, read_limited, refuse_other_types};
use crate::{
    answers::PredictAnswer,
    problem::{Problem, ProblemPart},
};

/// The longest body in bytes; the most items need about 2.5 MB.
pub const BATCH_LIMIT: usize = 4 << 20;

/// The most items of one body.
pub const MAX_ITEMS: usize = 10_000;

/// A body that is not read yet.
pub struct BatchBody(pub Bytes);

impl<'a> ApiExtractor<'a> for BatchBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        PredictRequest::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let inline = |schema| MetaSchemaRef::Inline(Box::new(schema));
        let other =
            MetaSchema { description: Some("Anything else, which is refused in its place."), ..MetaSchema::ANY };
        let item = MetaSchema { any_of: vec![PredictRequest::schema_ref(), inline(other)], ..MetaSchema::ANY };
        let items = Some(Box::new(inline(item)));
        let schema = inline(MetaSchema { items, max_items: Some(MAX_ITEMS), ..MetaSchema::new("array") });
        let content = vec![MetaMediaType { content_type: "application/json", schema }];
        Some(MetaRequest { description: None, content, required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> Result<Self> {
        refuse_other_types(request)?;
        Ok(Self(read_limited(request, body.take()?, BATCH_LIMIT).await?))
    }
}

/// The items of a body: those that are questions, and what is wrong with the others.
#[derive(Debug, Default)]
pub struct Batch {
    symbols: Vec<Symbol>,
    vectors: Vec<FeatureVector>,
    /// By item; none where it is a question.
    faults: Vec<Option<Problem>>,
}

impl Batch {
    /// Reads a body. Takes tens of milliseconds for the longest: call it off the threads that serve.
    ///
    /// # Errors
    /// A problem with status 422 where the body is no array, 413 where it has more than [`MAX_ITEMS`] items.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        let items: Items<'_> = serde_json::from_slice(body).map_err(|error| {
            let detail = format!("the body is not a JSON array of objects: {error}");
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
        })?;
        if items.count > MAX_ITEMS {
            let detail = format!("the body has {} items; send at most {MAX_ITEMS} at once", items.count);
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        let mut batch = Self::default();
        for text in items.texts {
            batch.add(Question::read_item(text.get().as_bytes()));
        }
        Ok(batch)
    }

    fn add(&mut self, item: Result<Question, Problem>) {
        match item {
            Ok(Question { symbol, features }) => {
                self.symbols.push(symbol);
                self.vectors.push(features);
                self.faults.push(None);
            }
            Err(fault) => self.faults.push(Some(fault)),
        }
    }

    /// The market of each question.
    pub fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }

    /// The features of each question.
    pub fn vectors(&self) -> &[FeatureVector] {
        &self.vectors
    }

    /// The answer, given the verdict on each question.
    pub fn answer(self, model_version: i64, verdicts: &[Verdict]) -> BatchAnswer {
        assert_eq!(self.symbols.len(), verdicts.len(), "every question has its verdict");
        let mut judged = self.symbols.iter().zip(verdicts);
        let result = |fault: Option<Problem>| match fault {
            Some(fault) => Some(BatchResult::Refused(fault.into())),
            None => judged.next().map(|(symbol, verdict)| BatchResult::Judged(answer_of(*symbol, *verdict))),
        };
        BatchAnswer { model_version, results: self.faults.into_iter().filter_map(result).collect() }
    }
}

fn answer_of(symbol: Symbol, verdict: Verdict) -> PredictAnswer {
    PredictAnswer {
        symbol: symbol.as_str().to_owned(),
        anomaly_score: verdict.anomaly_score,
        is_anomaly: verdict.is_anomaly,
    }
}

/// The items of an array: the texts of the first [`MAX_ITEMS`], and how many there are.
struct Items<'a> {
    texts: Vec<&'a RawValue>,
    count: usize,
}

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ItemsVisitor)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Items<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Items<'de>, A::Error> {
        let mut texts: Vec<&'de RawValue> = Vec::new();
        while texts.len() < MAX_ITEMS {
            let Some(text) = array.next_element()? else {
                return Ok(Items { count: texts.len(), texts });
            };
            texts.push(text);
        }
        let mut count = texts.len();
        while array.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Items { texts, count })
    }
}

/// The results of many feature vectors.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct BatchAnswer {
    /// Version of the model that judged.
    pub model_version: i64,
    /// One for each item of the request, in its order.
    pub results: Vec<BatchResult>,
}

/// The verdict on one item, or what is wrong with it.
#[derive(Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
pub enum BatchResult {
    /// The verdict.
    Judged(PredictAnswer),
    /// What is wrong.
    Refused(RefusedItem),
}

/// An item that was not judged.
#[derive(Serialize, Object)]
pub struct RefusedItem {
    /// Why.
    pub error: ItemError,
}

/// What is wrong with an item.
#[derive(Serialize, Object)]
pub struct ItemError {
    /// What is wrong and what to do about it.
    pub detail: String,
    /// One entry for each field that is wrong; empty where the item is no object.
    pub errors: Vec<ProblemPart>,
}

impl From<Problem> for RefusedItem {
    fn from(problem: Problem) -> Self {
        Self { error: ItemError { detail: problem.detail, errors: problem.parts } }
    }
}

impl Example for BatchAnswer {
    fn example() -> Self {
        let parts = vec![ProblemPart::new("z_score_price", "is missing")];
        let fault = Problem::of_parts(StatusCode::UNPROCESSABLE_ENTITY, "the item is not valid", parts);
        let results = vec![BatchResult::Judged(PredictAnswer::example()), BatchResult::Refused(fault.into())];
        Self { model_version: 1, results }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const VALID: &str = r#"{"symbol": "BTC-USDT", "z_score_price": 4.5, "z_score_log_return": 3.8,
        "z_score_volume": 1.5, "rolling_price_std": 0.008, "rolling_volume_std": 25}"#;

    #[test]
    fn every_item_is_read_for_itself() {
        let body = format!("[{VALID}, 7, {}, {VALID}]", VALID.replace("4.5", "1e999"));
        let batch = Batch::read(body.as_bytes()).unwrap();
        let symbol = Symbol::parse("BTC-USDT").unwrap();
        assert_eq!((batch.symbols(), batch.vectors().len()), ([symbol; 2].as_slice(), 2));
        let faults: Vec<_> = batch.faults.iter().map(|fault| fault.as_ref().map(ToString::to_string)).collect();
        assert_eq!(faults[1].as_deref(), Some("the item must be a JSON object with six fields"));
        assert!(faults[2].as_ref().unwrap().starts_with("the item is not JSON: number out of range"), "{faults:?}");
        assert_eq!((&faults[0], &faults[3]), (&None, &None));
    }

    #[rstest]
    #[case("")]
    #[case("{}")]
    #[case("[1")]
    #[case("[1] 2")]
    #[case("[{]")]
    #[case("null")]
    fn what_is_no_array_is_refused_as_a_whole(#[case] body: &str) {
        let problem = Batch::read(body.as_bytes()).unwrap_err();
        assert_eq!(problem.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(problem.detail.starts_with("the body is not a JSON array of objects: "), "{problem:?}");
    }

    #[test]
    fn the_number_of_items_is_limited() {
        let items = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert_eq!(Batch::read(items(MAX_ITEMS).as_bytes()).unwrap().faults.len(), MAX_ITEMS);
        let problem = Batch::read(items(MAX_ITEMS + 5).as_bytes()).unwrap_err();
        assert_eq!(problem.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(problem.detail, "the body has 10005 items; send at most 10000 at once");
    }
}
