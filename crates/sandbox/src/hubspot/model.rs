//! What the CRM keeps: records by type, properties with their rules, unique values.

use std::collections::BTreeMap;

use mailspan_core::Millis;
use serde::Serialize;

/// A type of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Contacts,
    Notes,
    Tasks,
    Deals,
}

/// Association types of HubSpot's own, from → to.
const ASSOCIATIONS: [(Kind, Kind, u64); 10] = [
    (Kind::Notes, Kind::Contacts, 202),
    (Kind::Contacts, Kind::Notes, 201),
    (Kind::Tasks, Kind::Contacts, 204),
    (Kind::Contacts, Kind::Tasks, 203),
    (Kind::Notes, Kind::Deals, 214),
    (Kind::Deals, Kind::Notes, 213),
    (Kind::Tasks, Kind::Deals, 216),
    (Kind::Deals, Kind::Tasks, 215),
    (Kind::Contacts, Kind::Deals, 4),
    (Kind::Deals, Kind::Contacts, 3),
];

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Contacts, Kind::Notes, Kind::Tasks, Kind::Deals];

    /// By plural, singular or HubSpot's type id.
    pub fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| {
            text == kind.name() || text == kind.type_id() || text == kind.name().trim_end_matches('s')
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Contacts => "contacts",
            Kind::Notes => "notes",
            Kind::Tasks => "tasks",
            Kind::Deals => "deals",
        }
    }

    pub fn type_id(self) -> &'static str {
        match self {
            Kind::Contacts => "0-1",
            Kind::Notes => "0-46",
            Kind::Tasks => "0-27",
            Kind::Deals => "0-3",
        }
    }

    /// What must be there when a record is created.
    pub fn required(self) -> &'static [&'static str] {
        match self {
            Kind::Notes | Kind::Tasks => &["hs_timestamp"],
            Kind::Contacts | Kind::Deals => &[],
        }
    }

    /// The id of the association type to another type of record.
    pub fn association(self, to: Kind) -> Option<u64> {
        ASSOCIATIONS.iter().find(|(a, b, _)| (*a, *b) == (self, to)).map(|(_, _, id)| *id)
    }

    /// The type of record that an association of this id leads to.
    pub fn associated_by(self, id: u64) -> Option<Kind> {
        ASSOCIATIONS.iter().find(|(a, _, type_id)| (*a, *type_id) == (self, id)).map(|(_, to, _)| *to)
    }
}

/// The definition of a property.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Property {
    pub name: String,
    pub label: String,
    pub description: String,
    pub group_name: String,
    /// `string`, `number`, `date`, `datetime`, `bool` or `enumeration`.
    #[serde(rename = "type")]
    pub value_type: String,
    pub field_type: String,
    pub has_unique_value: bool,
    /// HubSpot's own: writes are refused.
    pub hubspot_defined: bool,
    #[serde(skip)]
    pub read_only: bool,
    /// Values that an `enumeration` takes.
    pub options: Vec<serde_json::Value>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub id: u64,
    pub properties: BTreeMap<String, String>,
    pub created_at: Millis,
    pub updated_at: Millis,
}

/// The records of one type.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub objects: BTreeMap<u64, Object>,
    pub properties: BTreeMap<String, Property>,
    /// (property, value as compared) → record.
    unique: BTreeMap<(String, String), u64>,
}

impl Table {
    pub fn of(kind: Kind) -> Table {
        let mut table = Table::default();
        for (name, value_type) in standard(kind) {
            let unique = (kind, *name) == (Kind::Contacts, "email");
            let property = define(name, value_type, unique);
            let read_only = READ_ONLY.contains(name);
            table
                .properties
                .insert((*name).to_owned(), Property { hubspot_defined: true, read_only, ..property });
        }
        table
    }

    pub fn is_unique(&self, property: &str) -> bool {
        self.properties.get(property).is_some_and(|property| property.has_unique_value)
    }

    /// The record with this value of a unique property, or with this id where no property is named.
    pub fn find(&self, id: &str, property: Option<&str>) -> Option<u64> {
        match property {
            None | Some("hs_object_id") => id.parse().ok().filter(|id| self.objects.contains_key(id)),
            Some(property) => self.unique.get(&compared(property, id)).copied(),
        }
    }

    /// A property of these whose unique value another record holds already.
    pub fn taken(&self, properties: &BTreeMap<String, String>, by: Option<u64>) -> Option<(String, u64)> {
        let unique = properties.iter().filter(|(name, value)| self.is_unique(name) && !value.is_empty());
        unique
            .filter_map(|(name, value)| Some((name.clone(), *self.unique.get(&compared(name, value))?)))
            .find(|(_, holder)| Some(*holder) != by)
    }

    /// Writes values into a record; an empty value clears. The caller has asked [`Table::taken`].
    pub fn set(&mut self, id: u64, properties: &BTreeMap<String, String>, now: Millis) {
        let new = || Object { id, properties: BTreeMap::new(), created_at: now, updated_at: now };
        let object = self.objects.entry(id).or_insert_with(new);
        object.updated_at = now;
        for (name, value) in properties {
            let unique = self.properties.get(name).is_some_and(|property| property.has_unique_value);
            let old = if value.is_empty() {
                object.properties.remove(name)
            } else {
                object.properties.insert(name.clone(), value.clone())
            };
            if unique {
                old.map(|old| self.unique.remove(&compared(name, &old)));
                (!value.is_empty()).then(|| self.unique.insert(compared(name, value), id));
            }
        }
    }

    pub fn remove(&mut self, id: u64) -> Option<Object> {
        let object = self.objects.remove(&id)?;
        for (name, value) in &object.properties {
            self.unique.remove(&compared(name, value));
        }
        Some(object)
    }
}

/// Addresses are compared without case.
pub(crate) fn compared(property: &str, value: &str) -> (String, String) {
    let value = if property == "email" { value.trim().to_lowercase() } else { value.to_owned() };
    (property.to_owned(), value)
}

/// A property as an operator would define it.
pub(crate) fn define(name: &str, value_type: &str, unique: bool) -> Property {
    let field_type = match value_type {
        "number" => "number",
        "date" | "datetime" => "date",
        "bool" => "booleancheckbox",
        "enumeration" => "select",
        _ => "text",
    };
    Property {
        name: name.to_owned(),
        label: name.to_owned(),
        description: String::new(),
        group_name: "sandbox".to_owned(),
        value_type: value_type.to_owned(),
        field_type: field_type.to_owned(),
        has_unique_value: unique,
        hubspot_defined: false,
        read_only: false,
        options: Vec::new(),
    }
}

const READ_ONLY: [&str; 7] = [
    "hs_object_id",
    "createdate",
    "lastmodifieddate",
    "hs_lastmodifieddate",
    "hs_email_optout",
    "hs_email_hard_bounce_reason_enum",
    "hs_email_bounce",
];

fn standard(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Contacts => &[
            ("hs_object_id", "number"),
            ("createdate", "datetime"),
            ("lastmodifieddate", "datetime"),
            ("email", "string"),
            ("firstname", "string"),
            ("lastname", "string"),
            ("phone", "string"),
            ("company", "string"),
            ("lifecyclestage", "string"),
            ("hs_lead_status", "string"),
            ("hubspot_owner_id", "owner"),
            ("hs_email_optout", "bool"),
            ("hs_email_hard_bounce_reason_enum", "string"),
            ("hs_email_bounce", "number"),
        ],
        Kind::Notes => &[
            ("hs_object_id", "number"),
            ("createdate", "datetime"),
            ("hs_lastmodifieddate", "datetime"),
            ("hs_timestamp", "datetime"),
            ("hs_note_body", "string"),
            ("hubspot_owner_id", "owner"),
        ],
        Kind::Tasks => &[
            ("hs_object_id", "number"),
            ("createdate", "datetime"),
            ("hs_lastmodifieddate", "datetime"),
            ("hs_timestamp", "datetime"),
            ("hs_task_subject", "string"),
            ("hs_task_body", "string"),
            ("hs_task_status", "string"),
            ("hs_task_priority", "string"),
            ("hs_task_type", "string"),
            ("hubspot_owner_id", "owner"),
        ],
        Kind::Deals => &[
            ("hs_object_id", "number"),
            ("createdate", "datetime"),
            ("hs_lastmodifieddate", "datetime"),
            ("dealname", "string"),
            ("dealstage", "string"),
            ("pipeline", "string"),
            ("amount", "number"),
            ("hubspot_owner_id", "owner"),
        ],
    }
}

/// The properties that Mailspan keeps on a contact, with their types.
pub(crate) const CONTACT_PROPERTIES: [(&str, &str); 10] = [
    ("mt_last_delivered_at", "datetime"),
    ("mt_last_opened_at", "datetime"),
    ("mt_last_clicked_at", "datetime"),
    ("mt_open_count", "number"),
    ("mt_click_count", "number"),
    ("mt_email_status", "string"),
    ("mt_bounced_at", "datetime"),
    ("mt_bounce_reason", "string"),
    ("mt_revalidate_at", "datetime"),
    ("mt_do_not_contact", "bool"),
];

/// The unique property of notes and tasks: the key of the event.
pub(crate) const EVENT_KEY: &str = "mt_event_key";
