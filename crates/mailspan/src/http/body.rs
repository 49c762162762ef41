//! Bodies of the hub's own API. What cannot be read is a [`Problem`] with its place.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use crate::http::problem::Problem;
use crate::http::words::json_words;

/// A JSON body that must be there.
pub struct JsonBody<T>(pub T);

/// A JSON body that may be left out: then the default.
pub struct OptionalJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<JsonBody<T>, Problem> {
        read(&bytes(request, state).await?).map(JsonBody)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<OptionalJson<T>, Problem> {
        let bytes = bytes(request, state).await?;
        if bytes.is_empty() { Ok(OptionalJson(T::default())) } else { read(&bytes).map(OptionalJson) }
    }
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    let refused =
        |why: BytesRejection| Problem::new(why.status(), "bad_body", "the body is too large or broke off");
    Bytes::from_request(request, state).await.map_err(refused)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        Problem::bad(format!("the body is not what is expected: {}", json_words(&error.to_string())))
    })
}
