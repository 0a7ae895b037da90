//! The body of an operation that changes something: a JSON object without unknown fields, or nothing where every field
//! may be left out.

use poem::{Request, RequestBody, Result, http::StatusCode};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaMediaType, MetaRequest, Registry},
    types::Type,
};
use serde::de::DeserializeOwned;

use crate::{
    document,
    predict::{BODY_LIMIT, is_object, read_limited, refuse_other_types},
    problem::Problem,
};

/// What was sent.
pub struct Posted<T>(pub T);

impl<'a, T: DeserializeOwned + Default + Type> ApiExtractor<'a> for Posted<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
        document::close::<T>(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = vec![MetaMediaType { content_type: "application/json", schema: T::schema_ref() }];
        Some(MetaRequest { description: None, content, required: document::has_required_field::<T>() })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> Result<Self> {
        let body = read_limited(request, body.take()?, BODY_LIMIT).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        refuse_other_types(request)?;
        let refused =
            |reason: &str| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the body is not valid: {reason}"));
        if !is_object(&body) {
            return Err(refused("it is no JSON object").into());
        }
        Ok(Self(serde_json::from_slice(&body).map_err(|error| refused(&error.to_string()))?))
    }
}
