//! Segments of a path, as text.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use crate::http::problem::Problem;

/// The first parameter of a route (`{id}`, `{name}`), percent-decoded. What is not UTF-8 then is a [`Problem`].
pub struct Segment(pub String);

/// Both parameters of a route that has two.
pub struct Segments(pub String, pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Segment, Problem> {
        let read = Path::<String>::from_request_parts(parts, state).await;
        read.map(|Path(text)| Segment(text)).map_err(|_| not_text())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Segments {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Segments, Problem> {
        let read = Path::<(String, String)>::from_request_parts(parts, state).await;
        read.map(|Path((first, second))| Segments(first, second)).map_err(|_| not_text())
    }
}

fn not_text() -> Problem {
    Problem::bad("a segment of the path is not UTF-8 after percent-decoding: write it as `%C3%A4` for `ä`")
}
