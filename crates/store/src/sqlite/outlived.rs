//! An event that happened before somebody was erased and came after it, as it is kept: that it came, and nothing of what
//! it said.

use mailspan_core::{Event, Seq};
use rusqlite::{OptionalExtension, params};

use super::accept::VOID;
use super::base::{Base, Fault};
use super::envelope;
use super::erase::{one, write};
use super::names::TYPE;
use crate::audience::HeldBack;
use crate::decided::held_back;
use crate::erase::{Table, Target, Whose, packed_request, told_of_one};

/// Takes subject and data out of the event, and what is about it out of its request, which goes where it told of
/// nothing else.
pub(crate) fn keep(base: &Base, tenant: i64, seq: Seq, event: &Event) -> Result<(), Fault> {
    let kept = held_back(event, HeldBack::Erased);
    let event_type = base.number_or_new(tenant, TYPE, kept.event_type.as_str())?;
    base.sql("UPDATE events SET type = ?2, packed = ?3, flags = flags | ?4 WHERE seq = ?1")?
        .execute(params![seq.0, event_type, envelope::pack(&kept), VOID])?;
    let mut statement =
        base.sql("SELECT request, part FROM events WHERE seq = ?1 AND request IS NOT NULL")?;
    let asked = |row: &rusqlite::Row| Ok((row.get(0)?, row.get(1)?));
    let found: Option<(i64, i64)> = statement.query_row([seq.0], asked).optional()?;
    let Some((request, part)) = found else { return Ok(()) };
    let Some(row) = one(base, Table::Requests, request)? else { return Ok(()) };
    if told_of_one(&row) {
        base.sql("UPDATE events SET request = NULL WHERE seq = ?1")?.execute([seq.0])?;
        base.sql("DELETE FROM requests WHERE id = ?1")?.execute([request])?;
        return Ok(());
    }
    let target = Target::named(tenant, &event.subject);
    let part = usize::try_from(part).unwrap_or(0);
    let change = packed_request(&row, &target, Whose::Theirs { part });
    write(base, Table::Requests, request, &change)
}
