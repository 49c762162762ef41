//! The document as it is served: what is drawn from the code, with what every operation shares and what
//! derived schemas cannot say.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

/// Every operation may be answered so: the gate reads key, tenant, rate and body before it.
const ERRORS: [(&str, &str); 8] = [
    ("400", "The request cannot be read; `errors` names everything that is wrong"),
    ("401", "No valid API key"),
    ("403", "A scope is missing, or `X-Tenant-Id` is another tenant's"),
    ("408", "The body did not come in time"),
    ("413", "The body is too large"),
    ("415", "`Content-Encoding` is neither gzip nor deflate"),
    ("429", "Above the rate limit, or more arrives than can be written: see `Retry-After`"),
    ("503", "Nothing was kept: come again after `Retry-After`"),
];

/// Ids in paths: 1 to 256 characters without control characters.
const ID_PATTERN: &str = "^[^\\x00-\\x1f\\x7f-\\x9f]+$";
const ID_CHARS_MAX: u64 = 256;

/// The whole document as JSON.
pub fn text(document: &OpenApi) -> String {
    let mut root = serde_json::to_value(document).unwrap_or_default();
    for operation in members(&mut root["paths"]).flat_map(|(_, path)| members(path)) {
        complete(operation.1);
    }
    new_contacts_have_an_address(&mut root);
    let schemas = members(&mut root["components"]["schemas"]).map(|(_, schema)| schema);
    for (_, property) in schemas.filter_map(|schema| schema.get_mut("properties")).flat_map(members) {
        drop_default(property);
    }
    root.to_string()
}

/// Those of an object; of anything else, none.
fn members(value: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    value.as_object_mut().into_iter().flat_map(Map::iter_mut)
}

fn complete(operation: &mut Value) {
    for (status, response) in members(&mut operation["responses"]) {
        let title = status.parse().ok().and_then(|code: StatusCode| code.canonical_reason());
        // OpenAPI 3.1 requires one.
        response["description"] = json!(title.unwrap_or_default());
    }
    for (status, description) in ERRORS {
        let body = json!({ "$ref": "#/components/schemas/ErrorBody" });
        operation["responses"][status] =
            json!({ "description": description, "content": { "application/json": { "schema": body } } });
    }
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        let schema = match (parameter["in"].as_str(), parameter["name"].as_str()) {
            (Some("path"), Some("email")) => json!({ "type": "string", "format": "email" }),
            (Some("path"), _) => {
                json!({ "type": "string", "minLength": 1, "maxLength": ID_CHARS_MAX, "pattern": ID_PATTERN })
            }
            _ => continue,
        };
        parameter["schema"] = schema;
    }
}

/// One type reads both: a contact that may be new needs its address, a known one keeps it.
fn new_contacts_have_an_address(root: &mut Value) {
    let reference = json!({ "$ref": "#/components/schemas/NewContactInput" });
    root["paths"]["/contacts"]["put"]["requestBody"]["content"]["application/json"]["schema"] =
        reference.clone();
    let schemas = &mut root["components"]["schemas"];
    let mut new = schemas["ContactInput"].clone();
    new["required"] = json!(["email"]);
    new["properties"]["email"]["type"] = json!("string");
    schemas["NewContactInput"] = new;
    schemas["BulkInput"]["properties"]["contacts"]["items"] = reference;
}

/// `null` clears, and what is absent stays: an absent member is not `null`.
fn drop_default(property: &mut Value) {
    if let Some(members) = property.as_object_mut()
        && members.get("default").is_some_and(Value::is_null)
    {
        members.remove("default");
    }
}
