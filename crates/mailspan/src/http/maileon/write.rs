//! From parameters to a write of the contact.

use std::collections::BTreeMap;

use mailspan_core::contact::{Change, ContactKey, ContactWrite, Evidence, Permission, WriteMode};
use mailspan_core::limits::CONTACT_LABEL_CHARS_MAX;
use mailspan_core::{Address, Name, RawRequest, clip};
use mailspan_store::FieldRow;
use serde_json::Value;

use super::params::Params;
use crate::app::App;
use crate::contacts::confirm::{self, Asking};
use crate::contacts::tenants::Settings;
use crate::contacts::{door, fields, rules};

/// Characters of `src`, `subscription_page` and `doimailing`.
const LABEL_CHARS_MAX: usize = 255;

/// Where a call comes from.
pub struct From<'a> {
    pub app: &'a App,
    pub tenant: &'a Name,
    pub raw: &'a RawRequest,
    pub ip: Option<String>,
    pub declared: &'a [FieldRow],
    pub settings: &'a Settings,
    /// The name of the key.
    pub actor: &'a str,
}

/// The write, or the first thing that is wrong.
pub fn write(params: &Params, from: &From) -> Result<ContactWrite, String> {
    let address = Address::parse(params.get("email")).map_err(|why| format!("email: {why}"))?;
    let mode = match number(params, "sync_mode", 2)? {
        1 => WriteMode::Upsert,
        2 => WriteMode::CreateOnly,
        _ => return Err("sync_mode: is 1 (update) or 2 (ignore)".to_owned()),
    };
    let external_id = text(params, "external_id", LABEL_CHARS_MAX)?;
    if let Some(id) = &external_id {
        rules::external_id(id).map_err(|why| format!("external_id: {why}"))?;
    }
    // The address decides here, as at Maileon: an external id is a value of the contact.
    let key = ContactKey::Subject { address: Some(address.clone()), external_id: None };
    let mut write = ContactWrite::new(key, mode, door::new_uid(), from.raw.received_at, "intake");
    write.address = Some(address.clone());
    write.external_id = external_id.clone().map_or(Change::Keep, Change::Set);
    if let Some(level) = permission(params)? {
        write.permission = Some(level);
        // A form is filled in by a person: that is a fresh word after an opt-out. A suppression stays.
        write.opt_in = (level != Permission::None).then_some(true);
    }
    write.standard = read_fields(params, "standard_", fields::standard)?;
    write.custom = read_fields(params, "custom_", |name, value| fields::custom(from.declared, name, value))?;
    if let Some(Change::Set(Value::String(locale))) = write.standard.get("LOCALE") {
        write.locale = rules::language(locale).map_or(Change::Keep, Change::Set);
    }
    let source = text(params, "src", LABEL_CHARS_MAX)?;
    let page = text(params, "subscription_page", LABEL_CHARS_MAX)?;
    let mailing = text(params, "doimailing", LABEL_CHARS_MAX)?;
    let version = text(params, "consent_version", CONTACT_LABEL_CHARS_MAX)?;
    let ip = text(params, "consent_ip", CONTACT_LABEL_CHARS_MAX)?;
    if let Some(ip) = &ip {
        rules::ip(ip).map_err(|why| format!("consent_ip: {why}"))?;
    }
    let text_hash = rules::text_hash(Some(params.get("consent_text")), Some(params.get("consent_text_hash")))
        .map_err(|why| format!("consent_text_hash: {why}"))?;
    write.consent_version = version.clone().map_or(Change::Keep, Change::Set);
    let short = source.as_deref().map(|source| clip(source, 63).into_owned());
    write.source = short.map_or(Change::Keep, Change::Set);
    write.ip_given = ip.is_some();
    write.evidence = Evidence {
        origin: "intake".to_owned(),
        actor: Some(from.actor.to_owned()),
        ip: ip.or_else(|| from.ip.clone()),
        consent_version: version.clone(),
        text_hash,
        page: page.clone(),
        source: source.clone(),
        user_agent: from.raw.header("user-agent").map(|agent| clip(agent, 200).into_owned()),
        ..Evidence::default()
    };
    let (doi, plus) = (truth(params, "doi")?, truth(params, "doiplus")?);
    if doi {
        let gives = if plus { Permission::DoublePlus } else { Permission::Double };
        let asking = Asking { tenant: from.tenant, address: &address, gives, mailing, source, page };
        let again = from.settings.confirm_again;
        write.ask = Some(Box::new(confirm::ask(from.app, asking, from.raw.received_at, again)));
    }
    Ok(write)
}

fn permission(params: &Params) -> Result<Option<Permission>, String> {
    match params.get("permission") {
        "" => Ok(None),
        _ => Permission::from_number(number(params, "permission", 1)?)
            .map(Some)
            .ok_or_else(|| "permission: is 1 to 6".to_owned()),
    }
}

fn number(params: &Params, name: &str, default: i64) -> Result<i64, String> {
    match params.get(name) {
        "" => Ok(default),
        text => text.parse().map_err(|_| format!("{name}: is a whole number")),
    }
}

fn truth(params: &Params, name: &str) -> Result<bool, String> {
    match params.get(name).to_ascii_lowercase().as_str() {
        "" | "false" | "0" => Ok(false),
        "true" | "1" => Ok(true),
        _ => Err(format!("{name}: is true or false")),
    }
}

fn text(params: &Params, name: &str, max: usize) -> Result<Option<String>, String> {
    match params.get(name) {
        "" => Ok(None),
        text if text.chars().count() > max => Err(format!("{name}: has at most {max} characters")),
        text => Ok(Some(text.to_owned())),
    }
}

fn read_fields(
    params: &Params,
    prefix: &str,
    read: impl Fn(&str, &Value) -> Result<Option<Value>, String>,
) -> Result<BTreeMap<String, Change<Value>>, String> {
    let mut changes = BTreeMap::new();
    for (name, value) in params.with_prefix(prefix) {
        let value = read(name, &Value::from(value))?;
        changes.insert(name.to_owned(), value.map_or(Change::Clear, Change::Set));
    }
    Ok(changes)
}
