//! Refusals in HubSpot's shape: of a whole call, and of one item of a batch.

use serde_json::{Value, json};

use crate::wire::Reply;

/// A call is refused as a whole.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub status: u16,
    pub category: &'static str,
    pub message: String,
    /// `{message, code, context}`.
    pub errors: Vec<Value>,
    pub context: Value,
}

impl Problem {
    pub fn new(status: u16, category: &'static str, message: impl Into<String>) -> Problem {
        Problem { status, category, message: message.into(), errors: Vec::new(), context: Value::Null }
    }

    /// 400 `VALIDATION_ERROR`.
    pub fn invalid(message: impl Into<String>) -> Problem {
        Problem::new(400, "VALIDATION_ERROR", message)
    }

    /// 400 about one property.
    pub fn property(name: &str, code: &str, message: String) -> Problem {
        let error = json!({"message": message, "code": code, "context": {"propertyName": [name]}});
        let list = json!([{"isValid": false, "message": message, "error": code, "name": name}]);
        Problem { errors: vec![error], ..Problem::invalid(format!("Property values were not valid: {list}")) }
    }

    pub fn not_found(message: impl Into<String>) -> Problem {
        Problem::new(404, "OBJECT_NOT_FOUND", message)
    }

    pub fn unauthorized() -> Problem {
        Problem::new(
            401,
            "INVALID_AUTHENTICATION",
            "Authentication credentials not found. This API supports OAuth 2.0 authentication and you can find \
             more details at https://developers.hubspot.com/docs/methods/auth/oauth-overview",
        )
    }

    pub fn missing_scopes(scope: &str) -> Problem {
        let message = "One or more of the following scopes are required.";
        Problem {
            errors: vec![json!({"message": message, "context": {"requiredGranularScopes": [scope]}})],
            ..Problem::new(
                403,
                "MISSING_SCOPES",
                "This app hasn't been granted all required scopes to make this call. Read more about required \
                 scopes here: https://developers.hubspot.com/scopes.",
            )
        }
    }

    pub fn reply(&self, correlation: &str) -> Reply {
        let mut body = json!({
            "status": "error",
            "message": self.message,
            "correlationId": correlation,
            "category": self.category,
        });
        if !self.errors.is_empty() {
            body["errors"] = Value::Array(self.errors.clone());
        }
        if !self.context.is_null() {
            body["context"] = self.context.clone();
        }
        Reply::json(self.status, &body)
    }
}

/// 429 in HubSpot's own way: a policy name, no `Retry-After`.
pub(crate) fn too_many(policy: &str, correlation: &str) -> Reply {
    let body = json!({
        "status": "error",
        "message": format!("You have reached your {} limit.", policy.to_lowercase()),
        "errorType": "RATE_LIMIT",
        "category": "RATE_LIMITS",
        "policyName": policy,
        "correlationId": correlation,
    });
    Reply::json(429, &body)
}

/// One item of a batch fails; the call is 207.
#[derive(Debug, Clone)]
pub(crate) struct ItemProblem {
    pub category: &'static str,
    pub message: String,
    /// Names → lists of text; the trace id is added where the item has one.
    pub context: Value,
}

impl ItemProblem {
    pub fn new(category: &'static str, message: impl Into<String>) -> ItemProblem {
        ItemProblem { category, message: message.into(), context: json!({}) }
    }

    pub fn about(mut self, name: &str, value: &str) -> ItemProblem {
        self.context[name] = json!([value]);
        self
    }

    pub fn json(&self, trace: Option<&str>, correlation: &str) -> Value {
        let mut context = self.context.clone();
        if let Some(trace) = trace {
            context["objectWriteTraceId"] = json!([trace]);
        }
        json!({
            "status": "error",
            "id": correlation,
            "category": self.category,
            "message": self.message,
            "context": context,
            "errors": [],
            "links": {},
        })
    }
}
