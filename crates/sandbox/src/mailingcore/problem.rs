//! Refusals, in both dialects that the vendor's pages and its SDK know.

use mailspan_core::Millis;
use serde_json::json;

use crate::wire::Reply;

#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub status: u16,
    /// Not empty.
    pub messages: Vec<String>,
}

impl Problem {
    pub fn new(status: u16, message: impl Into<String>) -> Problem {
        Problem { status, messages: vec![message.into()] }
    }

    pub fn invalid(messages: Vec<String>) -> Problem {
        Problem { status: 400, messages }
    }

    pub fn message(&self) -> String {
        self.messages.join("; ")
    }

    pub fn reply(&self, path: &str, now: Millis) -> Reply {
        let message = self.message();
        let title = match self.status {
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            409 => "Conflict",
            422 => "Unprocessable Entity",
            429 => "Too Many Requests",
            _ => "Internal Server Error",
        };
        let body = json!({
            "statusCode": self.status, "message": message, "path": path, "timestamp": now.rfc3339(),
            "type": "about:blank", "title": title, "detail": message, "status": self.status,
            "errors": self.messages,
        });
        Reply::json(self.status, &body)
    }
}
