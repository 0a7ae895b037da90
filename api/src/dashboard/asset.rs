//! A file as an answer: which of its codings is sent, what a browser is told about it, and that it is there already.
//!
//! The bytes of a coding and their name are made when they are first asked for, off the threads that serve, and once.

use std::{
    future::ready,
    io::{self, Write},
    marker::PhantomData,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use poem::{
    FromRequest, IntoResponse, Request, RequestBody, Response, Result,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse,
    registry::{MetaMediaType, MetaResponse, MetaResponses, Registry},
    types::Type,
};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::{
    negotiation::{has, tag_header, weighted},
    problem::Problem,
    routes::computed,
};

/// The media type of pages.
pub const HTML: &str = "text/html; charset=utf-8";

/// The media type of style sheets.
pub const CSS: &str = "text/css; charset=utf-8";

/// The media type of scripts.
pub const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The media type of drawings.
pub const SVG: &str = "image/svg+xml; charset=utf-8";

/// What a page may load and do: plotly.js writes styles into the page, and makes pictures of what it draws.
const POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// How long a file may be kept that another version of the program has under the same name: it is asked for every time.
const UNTIL_CHANGED: &str = "no-cache";

/// How long a file may be kept whose name no other has: a year, the longest that is understood.
const FOR_GOOD: &str = "public, max-age=31536000, immutable";

/// Hexadecimal digits of a name.
const TAG_DIGITS: usize = 32;

/// How the bytes of an answer are coded (RFC 9110, 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As they are.
    Identity,
    /// Compressed.
    Gzip,
}

impl<'a> FromRequest<'a> for Coding {
    fn from_request(request: &'a Request, _body: &mut RequestBody) -> impl Future<Output = Result<Self>> + Send {
        ready(Ok(Self::liked(request.headers())))
    }
}

impl Coding {
    /// The one that the header `Accept-Encoding` likes best, the smaller one where it likes both as much (RFC 9110,
    /// 12.5.3).
    fn liked(headers: &HeaderMap) -> Self {
        let texts = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        let named: Vec<(&str, f32)> = texts.flat_map(|text| text.split(',')).filter_map(weighted).collect();
        let weight = |coding: &str| {
            let found = named.iter().find(|(name, _)| name.eq_ignore_ascii_case(coding));
            found.map(|(_, weight)| *weight)
        };
        let gzip = weight("gzip").or_else(|| weight("x-gzip")).or_else(|| weight("*")).unwrap_or_default();
        let identity = weight("identity").unwrap_or_default();
        if gzip > 0.0 && gzip >= identity { Self::Gzip } else { Self::Identity }
    }
}

/// Where the bytes of a file are.
#[derive(Clone, Copy)]
enum Source {
    /// Here.
    Embedded(&'static [u8]),
    /// They are made.
    Made(fn() -> Bytes),
}

impl Source {
    fn bytes(self) -> Bytes {
        match self {
            Self::Embedded(content) => Bytes::from_static(content),
            Self::Made(make) => make(),
        }
    }
}

/// A file in one coding.
struct Representation {
    bytes: Bytes,
    /// Names the bytes: another coding has another name.
    tag: String,
}

impl Representation {
    fn of(source: Source, coding: Coding) -> Result<Self, Problem> {
        let content = source.bytes();
        let bytes = match coding {
            Coding::Identity => content,
            Coding::Gzip => compressed(&content).map_err(|error| Problem::internal(&error))?.into(),
        };
        let digest = format!("{:x}", Sha256::digest(&bytes));
        Ok(Self { tag: format!("\"{}\"", &digest[..TAG_DIGITS]), bytes })
    }
}

pub fn compressed(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content)?;
    encoder.finish()
}

/// A file.
pub struct Asset {
    /// Its name.
    pub name: &'static str,
    /// Its media type, by the end of its name.
    pub media_type: &'static str,
    lifetime: &'static str,
    source: Source,
    identity: OnceCell<Representation>,
    gzip: OnceCell<Representation>,
}

impl Asset {
    /// A file with this content, until the next version of the program.
    pub fn embedded(name: &'static str, content: &'static [u8]) -> Self {
        Self::new(name, UNTIL_CHANGED, Source::Embedded(content))
    }

    /// A file with the content that `make` gives, for good.
    pub fn lasting(name: &'static str, make: fn() -> Bytes) -> Self {
        Self::new(name, FOR_GOOD, Source::Made(make))
    }

    fn new(name: &'static str, lifetime: &'static str, source: Source) -> Self {
        let media_type = match name.rsplit_once('.') {
            Some((_, "html")) => HTML,
            Some((_, "css")) => CSS,
            Some((_, "js")) => JAVASCRIPT,
            Some((_, "svg")) => SVG,
            _ => "application/octet-stream",
        };
        Self { name, media_type, lifetime, source, identity: OnceCell::new(), gzip: OnceCell::new() }
    }

    async fn representation(&self, coding: Coding) -> Result<&Representation, Problem> {
        let (source, cell) = match coding {
            Coding::Identity => (self.source, &self.identity),
            Coding::Gzip => (self.source, &self.gzip),
        };
        cell.get_or_try_init(|| async move { computed(move || Representation::of(source, coding)).await? }).await
    }

    /// The file, or that the client has it already.
    ///
    /// # Errors
    /// A problem with status 500 where it cannot be made, which is a defect.
    pub async fn served<T>(&self, coding: Coding, if_none_match: Option<&str>) -> Result<Served<T>, Problem> {
        let Representation { bytes, tag } = self.representation(coding).await?;
        let mut headers = self.headers();
        if let Ok(tag) = HeaderValue::from_str(tag) {
            headers.insert(header::ETAG, tag);
        }
        if has(if_none_match, tag) {
            return Ok(Served { status: StatusCode::NOT_MODIFIED, headers, body: Bytes::new(), types: PhantomData });
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media_type));
        if coding == Coding::Gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(Served { status: StatusCode::OK, headers, body: bytes.clone(), types: PhantomData })
    }

    /// What is said with the file, and where it is there already.
    fn headers(&self) -> HeaderMap {
        let headers = [
            (header::CACHE_CONTROL, self.lifetime),
            (header::VARY, "accept-encoding"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            // For browsers that do not know the policy.
            (header::X_FRAME_OPTIONS, "DENY"),
        ];
        headers.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
    }
}

/// The media types that an operation may answer with.
pub trait MediaTypes {
    /// As in `Content-Type`.
    const ALL: &'static [&'static str];
}

/// A file as an answer.
pub struct Served<T> {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    types: PhantomData<fn() -> T>,
}

impl<T> IntoResponse for Served<T> {
    fn into_response(self) -> Response {
        let mut response = Response::from(self.body);
        response.set_status(self.status);
        *response.headers_mut() = self.headers;
        response
    }
}

impl<T: MediaTypes> ApiResponse for Served<T> {
    fn meta() -> MetaResponses {
        let content =
            T::ALL.iter().map(|&content_type| MetaMediaType { content_type, schema: String::schema_ref() }).collect();
        let file = MetaResponse {
            description: "The file.",
            status: Some(200),
            status_range: None,
            content,
            headers: vec![tag_header()],
        };
        let unchanged = MetaResponse {
            description: "The file is the one that `If-None-Match` names.",
            status: Some(304),
            status_range: None,
            content: vec![],
            headers: vec![],
        };
        MetaResponses { responses: vec![file, unchanged] }
    }

    fn register(_registry: &mut Registry) {}
}

#[cfg(test)]
mod tests {
    use std::{
        ptr,
        sync::atomic::{AtomicU32, Ordering},
    };

    use rstest::rstest;

    use super::*;

    fn liked(accept_encoding: &[&'static str]) -> Coding {
        let mut headers = HeaderMap::new();
        for &value in accept_encoding {
            headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
        }
        Coding::liked(&headers)
    }

    #[rstest]
    #[case(&[], Coding::Identity)]
    #[case(&[""], Coding::Identity)]
    #[case(&["gzip"], Coding::Gzip)]
    #[case(&["GZIP"], Coding::Gzip)]
    #[case(&["x-gzip"], Coding::Gzip)]
    #[case(&["gzip, deflate, br, zstd"], Coding::Gzip)]
    #[case(&["br", "gzip;q=0.1"], Coding::Gzip)]
    #[case(&["*"], Coding::Gzip)]
    #[case(&["gzip, identity"], Coding::Gzip)]
    #[case(&["identity;q=0"], Coding::Identity)]
    #[case(&["gzip;q=0"], Coding::Identity)]
    #[case(&["gzip;q=0, *"], Coding::Identity)]
    #[case(&["*;q=0"], Coding::Identity)]
    #[case(&["gzip;q=0.5, identity"], Coding::Identity)]
    #[case(&["gzip;q=much"], Coding::Identity)]
    #[case(&["br, deflate"], Coding::Identity)]
    fn the_coding_is_the_one_that_is_liked_best(#[case] accept_encoding: &[&'static str], #[case] expected: Coding) {
        assert_eq!(liked(accept_encoding), expected);
    }

    #[tokio::test]
    async fn a_coding_is_made_once_however_many_ask() {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let asset = Asset::lasting("app.js", || {
            MADE.fetch_add(1, Ordering::Relaxed);
            Bytes::from_static(b"export {};")
        });
        let (first, second) = tokio::join!(asset.representation(Coding::Gzip), asset.representation(Coding::Gzip));
        assert!(ptr::eq(first.unwrap(), second.unwrap()));
        assert_eq!(MADE.load(Ordering::Relaxed), 1);
    }
}
