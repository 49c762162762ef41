//! The floor: a bare program that tells all four systems at once, with nothing kept, retried or ordered.

use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};

use super::vendors::Vendors;
use crate::bench::contacts::people;
use crate::bench::link::Link;

/// Kept connections of one worker to each of the systems.
pub struct Bare {
    links: [Link; 4],
    bearer: String,
    basic: String,
}

impl Bare {
    pub fn new(vendors: &Vendors) -> Bare {
        let key = &vendors.key;
        let (bearer, basic) = (format!("Bearer {key}"), format!("Basic {key}"));
        Bare { links: vendors.addresses.map(Link::new), bearer, basic }
    }

    /// Tells all that a contact has unsubscribed; returns when the last has answered.
    pub async fn unsubscribe(&mut self, n: u64) -> anyhow::Result<()> {
        let email = people::email(n);
        let [core, maileon, hubspot, application] = &mut self.links;
        let bearer = Some(("authorization", self.bearer.as_str()));
        let basic = Some(("authorization", self.basic.as_str()));
        let in_maileon = format!("/1.0/contacts/email/{email}/unsubscribe");
        let in_hubspot = "/communication-preferences/2026-03/statuses/batch/unsubscribe-all?channel=EMAIL";
        let hook = json!({ "type": "contact.unsubscribed", "data": { "email": email } });
        let told = tokio::join!(
            in_core(core, bearer, n),
            maileon.send(Method::DELETE, &in_maileon, basic, Bytes::new()),
            hubspot.send(Method::POST, in_hubspot, bearer, body(&json!({ "inputs": [email] }))),
            application.send(Method::POST, "/hook", None, body(&hook)),
        );
        for (status, answer) in [told.0?, told.1?, told.2?, told.3?] {
            if !(200..300).contains(&status) {
                let answer = String::from_utf8_lossy(&answer).into_owned();
                bail!("a fake answered the floor {status}: {}", mailspan_core::clip(&answer, 200));
            }
        }
        Ok(())
    }
}

/// By the external id to the internal one, as the vendor asks for.
async fn in_core(link: &mut Link, bearer: Option<(&str, &str)>, n: u64) -> anyhow::Result<(u16, Bytes)> {
    let found = link.send(Method::GET, &format!("/contacts/u-{n}"), bearer, Bytes::new()).await?;
    let contact: Value = serde_json::from_slice(&found.1).unwrap_or_default();
    let id = contact["id"].as_str().context("the fake MailingCore does not know the floor's contact")?;
    link.send(Method::PATCH, &format!("/contacts/{id}"), bearer, body(&json!({ "optIn": false }))).await
}

fn body(value: &Value) -> Bytes {
    value.to_string().into()
}
