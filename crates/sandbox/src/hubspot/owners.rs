//! Users who can own records.

use serde_json::{Value, json};

use super::book::{Book, Owner};
use super::problem::Problem;
use super::routes::{Answered, Query};
use crate::wire::Reply;

/// `GET /owners?email=…` and `GET /owners/{id}`.
pub(crate) fn act(book: &Book, path: &[&str], query: &Query) -> Option<Answered> {
    match path {
        [] => {
            let email = query.get("email").map(|email| email.trim().to_lowercase());
            let fits = |owner: &Owner| {
                !owner.archived && email.as_ref().is_none_or(|email| owner.email.to_lowercase() == *email)
            };
            let results: Vec<Value> = book
                .owners
                .iter()
                .filter(|(_, owner)| fits(owner))
                .map(|(id, owner)| shown(*id, owner))
                .collect();
            Some(Ok(Reply::json(200, &json!({"results": results}))))
        }
        [id] => {
            let found = id.parse().ok().and_then(|id| Some((id, book.owners.get(&id)?)));
            let missing = || Problem::not_found(format!("no owner {id}"));
            Some(found.map(|(id, owner)| Reply::json(200, &shown(id, owner))).ok_or_else(missing))
        }
        _ => None,
    }
}

fn shown(id: u64, owner: &Owner) -> Value {
    json!({
        "id": id.to_string(),
        "email": owner.email,
        "type": "PERSON",
        "firstName": owner.email.split(['@', '.']).next(),
        "lastName": "",
        "userId": id % 1_000_000,
        "archived": owner.archived,
        "teams": [],
    })
}
