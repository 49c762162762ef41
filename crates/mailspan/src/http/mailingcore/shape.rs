//! What the API shows.

use std::collections::BTreeMap;

use mailspan_core::Address;
use mailspan_core::contact::Contact;
use mailspan_store::SuppressionRow;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A contact as it is now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContactOut {
    #[schema(example = "ck3v9q0x2b7m4n8p1s5t6u0w9")]
    pub id: String,
    pub tenant_id: String,
    pub email: Option<String>,
    pub external_id: Option<String>,
    pub locale: Option<String>,
    pub opt_in: bool,
    #[schema(value_type = Object)]
    pub attributes: BTreeMap<String, Value>,
    pub consent_version: Option<String>,
    pub source: Option<String>,
    pub project_id: Option<String>,
    /// ISO 8601, UTC, with milliseconds; as all times.
    pub suppressed_at: Option<String>,
    pub unsubscribed_at: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    /// 1 none, 2 single, 3 confirmed, 4 double, 5 double plus, 6 other.
    pub permission: u8,
    #[schema(value_type = Object)]
    pub standard_fields: BTreeMap<String, Value>,
    #[schema(value_type = Object)]
    pub custom_fields: BTreeMap<String, Value>,
}

impl ContactOut {
    pub fn new(tenant: &str, contact: Contact) -> ContactOut {
        ContactOut {
            id: contact.uid,
            tenant_id: tenant.to_owned(),
            email: contact.address.as_ref().map(Address::to_string),
            external_id: contact.external_id,
            locale: contact.locale,
            opt_in: contact.opt_in,
            attributes: contact.fields.attributes,
            consent_version: contact.consent_version,
            source: contact.source,
            project_id: contact.project,
            suppressed_at: contact.suppressed_at.map(|at| at.iso()),
            unsubscribed_at: contact.unsubscribed_at.map(|at| at.iso()),
            created_at: contact.created_at.iso(),
            updated_at: contact.updated_at.iso(),
            permission: contact.permission.into(),
            standard_fields: contact.fields.standard,
            custom_fields: contact.fields.custom,
        }
    }
}

/// Where a page stands. `page`, `total` and `totalPages` are those of numbered pages.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<u64>,
    pub limit: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_pages: Option<u64>,
    /// The `cursor` of the next page; `null` at the end.
    pub next_cursor: Option<String>,
    pub has_more: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ContactPage {
    pub data: Vec<ContactOut>,
    pub meta: Meta,
}

/// An erasure that was done.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Erased {
    #[schema(example = true)]
    pub deleted: bool,
    pub external_id: Option<String>,
    /// The address stays suppressed, under a keyed hash.
    pub suppressed: bool,
}

/// What became of the rows of a bulk request.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct BulkSummary {
    pub created: usize,
    pub updated: usize,
    pub failed: usize,
    pub total: usize,
    pub errors: Vec<BulkError>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkError {
    /// Place in the request, from 0.
    pub index: usize,
    pub email: Option<String>,
    pub external_id: Option<String>,
    pub status_code: u16,
    pub message: String,
}

/// An address that is not mailed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuppressionOut {
    pub id: String,
    /// `null` after an erasure: a keyed hash stays.
    pub email: Option<String>,
    #[schema(example = "unsubscribe")]
    pub reason: String,
    pub source: Option<String>,
    pub created_at: String,
}

impl SuppressionOut {
    pub fn new(row: &SuppressionRow) -> SuppressionOut {
        SuppressionOut {
            id: row.id.to_string(),
            email: row.address.as_ref().map(Address::to_string),
            reason: row.reason.name().to_owned(),
            source: row.source.clone(),
            created_at: row.at.iso(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SuppressionPage {
    pub data: Vec<SuppressionOut>,
    pub meta: Meta,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Removed {
    pub removed: bool,
}
