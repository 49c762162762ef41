//! What known senders post, small: shapes after the vendors' pages, about a person who exists nowhere.

use serde_json::{Value, json};

use crate::contract::{Sample, SampleOf};

const EMAIL: &str = "sample@example.com";

/// A request as the sender of a preset makes it; without a preset an object that any scheme can carry.
pub fn sample(preset: Option<&str>, of: &SampleOf) -> Sample {
    let (body, headers): (Value, Vec<(&str, String)>) = match preset.unwrap_or_default() {
        "stripe" => (stripe(of), vec![]),
        "github" => (github(of), vec![("x-github-event", "star".into()), ("x-github-delivery", of.uuid())]),
        "shopify" => (shopify(of), shopify_headers(of)),
        "woocommerce" => (woocommerce(of), woocommerce_headers(of)),
        "hubspot_v1" | "hubspot_v2" | "hubspot_v3" => (hubspot(of), vec![]),
        "zendesk" => (zendesk(of), vec![("x-zendesk-webhook-invocation-id", of.id.clone())]),
        "greenhouse" => (greenhouse(of), vec![("greenhouse-event-id", of.number().to_string())]),
        "typeform" => (typeform(of), vec![]),
        "slack" => (slack(of), vec![]),
        "intercom" => (intercom(of), vec![]),
        "pagerduty" => (pagerduty(of), vec![]),
        "mailingcore" => return mailingcore(of, "sample"),
        _ => (json!({ "type": "app.sample", "email": EMAIL, "sample": of.id }), vec![]),
    };
    let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Sample { query: String::new(), headers, body: body.to_string() }
}

/// docs.stripe.com/api/events/object
fn stripe(of: &SampleOf) -> Value {
    json!({
        "id": format!("evt_{}", of.id), "object": "event", "api_version": "2024-06-20", "created": of.seconds(),
        "data": { "object": {
            "id": format!("cus_{}", of.id), "object": "customer", "created": of.seconds(), "email": EMAIL,
            "livemode": false, "name": "Sample Person",
        } },
        "livemode": false, "pending_webhooks": 1, "request": { "id": null, "idempotency_key": null },
        "type": "customer.created",
    })
}

/// docs.github.com/webhooks/webhook-events-and-payloads#star
fn github(of: &SampleOf) -> Value {
    json!({
        "action": "created", "starred_at": of.now.rfc3339(),
        "repository": { "id": of.number(), "name": "sample", "full_name": "sample/sample", "private": false },
        "sender": { "login": "sample", "id": of.number(), "type": "User" },
    })
}

/// shopify.dev/docs/api/webhooks, topic `customers/create`
fn shopify(of: &SampleOf) -> Value {
    json!({
        "id": of.number(), "email": EMAIL, "created_at": of.now.rfc3339(), "updated_at": of.now.rfc3339(),
        "first_name": "Sample", "last_name": "Person", "state": "disabled", "note": null,
        "verified_email": true, "tags": "", "currency": "EUR", "phone": null, "addresses": [],
    })
}

fn shopify_headers(of: &SampleOf) -> Vec<(&'static str, String)> {
    vec![
        ("x-shopify-topic", "customers/create".into()),
        ("x-shopify-shop-domain", "sample.myshopify.com".into()),
        ("x-shopify-webhook-id", of.uuid()),
        ("x-shopify-triggered-at", of.now.rfc3339()),
    ]
}

/// woocommerce.github.io/woocommerce-rest-api-docs, topic `customer.created`
fn woocommerce(of: &SampleOf) -> Value {
    json!({
        "id": of.number(), "date_created": of.local(), "date_modified": of.local(), "email": EMAIL,
        "first_name": "Sample", "last_name": "Person", "role": "customer", "username": "sample",
        "billing": { "first_name": "Sample", "last_name": "Person", "country": "DE", "email": EMAIL },
        "is_paying_customer": false,
    })
}

fn woocommerce_headers(of: &SampleOf) -> Vec<(&'static str, String)> {
    vec![
        ("x-wc-webhook-source", "https://shop.example.com/".into()),
        ("x-wc-webhook-topic", "customer.created".into()),
        ("x-wc-webhook-resource", "customer".into()),
        ("x-wc-webhook-event", "created".into()),
        ("x-wc-webhook-id", "1".into()),
        ("x-wc-webhook-delivery-id", of.id.clone()),
    ]
}

/// developers.hubspot.com/docs/api/webhooks: a list of events
fn hubspot(of: &SampleOf) -> Value {
    json!([{
        "eventId": of.number(), "subscriptionId": 12345, "portalId": 62515, "appId": 54321,
        "occurredAt": of.now.0, "subscriptionType": "contact.creation", "attemptNumber": 0,
        "objectId": of.number(), "changeSource": "CRM", "changeFlag": "CREATED",
    }])
}

/// developer.zendesk.com/api-reference/webhooks/event-types/user-events
fn zendesk(of: &SampleOf) -> Value {
    json!({
        "account_id": 22129848,
        "detail": {
            "created_at": of.now.rfc3339(), "updated_at": of.now.rfc3339(), "email": EMAIL, "external_id": "",
            "default_group_id": "", "id": of.number().to_string(), "organization_id": "", "role": "end-user",
        },
        "event": {}, "id": of.uuid(), "subject": format!("zen:user:{}", of.number()), "time": of.now.rfc3339(),
        "type": "zen:event-type:user.created", "zendesk_event_version": "2022-06-20",
    })
}

/// developers.greenhouse.io/webhooks.html#new-candidate-application
fn greenhouse(of: &SampleOf) -> Value {
    json!({
        "action": "new_candidate_application",
        "payload": { "application": {
            "id": of.number(), "status": "active", "applied_at": of.now.rfc3339(), "prospect": false,
            "candidate": {
                "id": of.number(), "first_name": "Sample", "last_name": "Person",
                "email_addresses": [{ "value": EMAIL, "type": "personal" }],
            },
            "jobs": [{ "id": 1, "name": "Sample Job" }],
        } },
    })
}

/// typeform.com/developers/webhooks/example-payload
fn typeform(of: &SampleOf) -> Value {
    let field = json!({ "id": "sampleField", "type": "email", "ref": "email" });
    json!({
        "event_id": of.id, "event_type": "form_response",
        "form_response": {
            "form_id": "sample", "token": of.id, "landed_at": of.now.rfc3339(), "submitted_at": of.now.rfc3339(),
            "definition": { "id": "sample", "title": "Sample", "fields": [
                { "id": "sampleField", "title": "Your address?", "type": "email", "ref": "email" },
            ] },
            "answers": [{ "type": "email", "email": EMAIL, "field": field }],
        },
    })
}

/// api.slack.com/events/team_join in the envelope of the Events API
fn slack(of: &SampleOf) -> Value {
    json!({
        "token": "deprecated", "team_id": "T0SAMPLE", "api_app_id": "A0SAMPLE",
        "event": { "type": "team_join", "user": {
            "id": "U0SAMPLE", "name": "sample", "profile": { "real_name": "Sample Person", "email": EMAIL },
        } },
        "type": "event_callback", "event_id": format!("Ev{}", of.id.to_ascii_uppercase()),
        "event_time": of.seconds(),
    })
}

/// developers.intercom.com/docs/references/webhooks/webhook-models, topic `contact.user.created`
fn intercom(of: &SampleOf) -> Value {
    json!({
        "type": "notification_event", "app_id": "sample",
        "data": { "type": "notification_event_data", "item": {
            "type": "contact", "id": of.id, "role": "user", "email": EMAIL, "name": "Sample Person",
            "created_at": of.seconds(),
        } },
        "links": {}, "id": format!("notif_{}", of.uuid()), "topic": "contact.user.created",
        "delivery_status": "pending", "delivery_attempts": 1, "delivered_at": 0,
        "first_sent_at": of.seconds(), "created_at": of.seconds(), "self": null,
    })
}

/// developer.pagerduty.com/docs/webhooks-overview: version 3
fn pagerduty(of: &SampleOf) -> Value {
    json!({ "event": {
        "id": format!("01{}", of.id.to_ascii_uppercase()), "event_type": "incident.triggered",
        "resource_type": "incident", "occurred_at": of.now.iso(), "agent": null, "client": null,
        "data": {
            "id": "PSAMPLE", "type": "incident", "html_url": "https://sample.pagerduty.com/incidents/PSAMPLE",
            "number": 1, "status": "triggered", "title": "A sample", "urgency": "low", "priority": null,
            "service": { "id": "PSERVICE", "type": "service_reference", "summary": "Sample" },
        },
    } })
}

/// A click as MailingCore's webhooks tell it.
pub fn mailingcore(of: &SampleOf, tenant: &str) -> Sample {
    let kind = "email.clicked";
    let body = json!({
        "id": format!("evt_{}", of.id), "type": kind, "tenantId": tenant, "createdAt": of.now.iso(),
        "data": {
            "emailLogId": format!("log_{}", of.id), "linkId": "sample", "linkUrl": "https://example.com/offer",
            "metadata": { "crm_contact_id": "1", "crm_deal_id": "2", "crm_owner": "owner@example.com" },
            "occurredAt": of.now.iso(), "status": "DELIVERED", "subject": "A sample", "tags": ["sample"],
            "templateVersionId": "sample", "to": EMAIL,
        },
    });
    let headers = vec![
        ("x-mailingcore-delivery-id".to_owned(), of.id.clone()),
        ("x-mailingcore-event".to_owned(), kind.to_owned()),
    ];
    Sample { query: String::new(), headers, body: body.to_string() }
}
