//! The body of an operation that changes something: a JSON object without unknown fields, or nothing where every field
//! may be left out.
//!
//! A page of another site cannot send one through a browser: a request that says it comes from there is refused.

use poem::{
    Request, RequestBody, Result,
    http::{StatusCode, header},
};
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
        refuse_other_sites(request)?;
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

/// Refuses what a page of another site sends through a browser.
///
/// # Errors
/// A problem with status 403.
pub fn refuse_other_sites(request: &Request) -> Result<(), Problem> {
    if is_of_another_site(request) {
        let detail = "this request comes from a page of another site; send it from a program, or from a page of this \
                      service";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(())
}

/// Whether a browser says that a page of another site sends this. Programs say nothing.
fn is_of_another_site(request: &Request) -> bool {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = header("sec-fetch-site") {
        return !matches!(site, "same-origin" | "none");
    }
    let Some(origin) = header(header::ORIGIN.as_str()) else { return false };
    origin.split_once("://").map(|(_, host)| host) != header(header::HOST.as_str())
}
