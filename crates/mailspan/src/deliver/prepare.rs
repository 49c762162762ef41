//! `destinations prepare`: asks a vendor what is missing, and creates it.

use mailspan_connectors::hubspot::{Missing, Prepare};
use mailspan_core::{Answer, Reason, Request, clip};

/// What is missing, by harmless requests.
pub async fn missing<F>(prepare: &Prepare, ask: impl Fn(Request) -> F) -> Result<Vec<Missing>, Reason>
where
    F: Future<Output = Result<Answer, Reason>>,
{
    let mut answers = Vec::new();
    for request in prepare.checks() {
        answers.push(ask(request).await?);
    }
    Ok(prepare.missing(&answers))
}

/// Creates what can be created; a line for each request. Stops at the first that is refused.
pub async fn create<F>(
    prepare: &Prepare,
    missing: &[Missing],
    ask: impl Fn(Request) -> F,
) -> Result<Vec<String>, Reason>
where
    F: Future<Output = Result<Answer, Reason>>,
{
    let mut created = Vec::new();
    for request in prepare.create(missing) {
        let what = format!("{} {}", request.method, request.path);
        let answer = ask(request).await?;
        if !(200..300).contains(&answer.status) {
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            return Err(Reason::new(
                "not_created",
                format!("{what}: HTTP {}: {}", answer.status, clip(&body, 300)),
            ));
        }
        created.push(what);
    }
    Ok(created)
}
