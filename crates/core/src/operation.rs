//! What a destination should do about an event.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Class, Millis};

/// Field name → value; values keep their JSON type.
pub type Fields = BTreeMap<String, serde_json::Value>;

/// One thing to do. Serialised with `op` as its name: `{"op": "set_consent", …}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Create or update the contact: for CRMs only on routes with `create_contacts = true`, for audiences
    /// always. Field names are the hub's own words (see [`fields`]).
    UpsertContact {
        fields: Fields,
    },
    /// Facts on a contact that exists: counts, times, e-mail status, the wish for re-validation.
    /// Field names are the hub's own words (see [`fields`]); a connector spells them its vendor's way.
    SetFields {
        fields: Fields,
        /// The CRM's record the facts belong to, where metadata decides (counts only).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        record: Option<String>,
    },
    SetConsent {
        consent: Consent,
        /// When it happened.
        at: Millis,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    LogActivity {
        title: String,
        body: String,
        at: Millis,
        /// The CRM's record id of the contact (`crm_contact_id`); else the person's address decides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        record: Option<String>,
        /// The CRM's record id of a deal (`crm_deal_id`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deal: Option<String>,
    },
    NotifyOwner {
        /// The owner's address (`crm_owner`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        title: String,
        text: String,
        at: Millis,
    },
    EraseContact,
    /// For kind `http`: what the map made.
    Send {
        content_type: String,
        body: String,
    },
}

/// Names of the facts that [`Operation::SetFields`] carries.
pub mod fields {
    /// Milliseconds since 1970 of the last delivery.
    pub const LAST_DELIVERED_AT: &str = "last_delivered_at";
    pub const LAST_OPENED_AT: &str = "last_opened_at";
    pub const LAST_CLICKED_AT: &str = "last_clicked_at";
    /// Absolute number of opens.
    pub const OPEN_COUNT: &str = "open_count";
    /// Absolute number of clicks.
    pub const CLICK_COUNT: &str = "click_count";
    /// `undeliverable` after a hard bounce.
    pub const EMAIL_STATUS: &str = "email_status";
    pub const BOUNCED_AT: &str = "bounced_at";
    pub const BOUNCE_REASON: &str = "bounce_reason";
    /// Milliseconds since 1970: when re-validation of the address was asked for.
    pub const REVALIDATE_AT: &str = "revalidate_at";
    /// `true` after a complaint.
    pub const DO_NOT_CONTACT: &str = "do_not_contact";

    // Of a contact, in `upsert_contact` of the map «audience».
    pub const EMAIL: &str = "email";
    /// The address that the contact had before; a list, the newest first, where there were several.
    pub const PREVIOUS_EMAIL: &str = "previous_email";
    /// The external id that the contact had before, likewise.
    pub const PREVIOUS_EXTERNAL_ID: &str = "previous_external_id";
    pub const EXTERNAL_ID: &str = "external_id";
    pub const LOCALE: &str = "locale";
    /// Missing where the event says nothing of it, or where something newer is known.
    pub const OPT_IN: &str = "opt_in";
    /// 1 none, 2 single, 3 confirmed, 4 double opt-in, 5 double opt-in plus, 6 other.
    pub const PERMISSION: &str = "permission";
    pub const CONSENT_VERSION: &str = "consent_version";
    pub const SOURCE: &str = "source";
    /// Objects: free ones, standard fields (`FIRSTNAME`), declared custom fields.
    pub const ATTRIBUTES: &str = "attributes";
    pub const STANDARD: &str = "standard";
    pub const CUSTOM: &str = "custom";
    /// In `set_fields`: the hub's own suppression of the address was set (`true`) or lifted (`false`).
    pub const SUPPRESSED: &str = "suppressed";
    /// Beside it: `bounce`, `complaint`, `unsubscribe` or `manual`.
    pub const SUPPRESSED_FOR: &str = "suppressed_for";
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    OptIn,
    OptOut,
    DoNotContact,
}

impl Operation {
    pub fn class(&self) -> Class {
        match self {
            Operation::SetConsent { .. } | Operation::EraseContact => Class::Consent,
            // An opt-in that travels with a contact keeps its place among the opt-outs.
            Operation::UpsertContact { fields } if fields.contains_key(self::fields::OPT_IN) => {
                Class::Consent
            }
            // So does a suppression, and its end.
            Operation::SetFields { fields, .. } if fields.contains_key(self::fields::SUPPRESSED) => {
                Class::Consent
            }
            Operation::UpsertContact { .. } | Operation::SetFields { .. } => Class::Profile,
            Operation::LogActivity { .. } | Operation::NotifyOwner { .. } | Operation::Send { .. } => {
                Class::Activity
            }
        }
    }

    /// The word under which it is serialised.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::UpsertContact { .. } => "upsert_contact",
            Operation::SetFields { .. } => "set_fields",
            Operation::SetConsent { .. } => "set_consent",
            Operation::LogActivity { .. } => "log_activity",
            Operation::NotifyOwner { .. } => "notify_owner",
            Operation::EraseContact => "erase_contact",
            Operation::Send { .. } => "send",
        }
    }
}
