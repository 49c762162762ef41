//! An event that happened before somebody was erased and came after it, as it is kept: that it came, and nothing of what
//! it said.

use mailspan_core::{Event, Seq};

use super::base::{Base, Fault, get};
use super::erase::{locked, write};
use super::names::TYPE;
use crate::audience::HeldBack;
use crate::decided::held_back;
use crate::erase::{Table, Target, Whose, packed_request, told_of_one};
use crate::sqlite::accept::VOID;
use crate::sqlite::envelope;

/// Takes subject and data out of the event, and what is about it out of its request, which goes where it told of
/// nothing else.
pub(crate) async fn keep(base: &Base, tenant: i64, seq: Seq, event: &Event) -> Result<(), Fault> {
    let kept = held_back(event, HeldBack::Erased);
    let event_type = number(base, tenant, kept.event_type.as_str()).await?;
    let found = base
        .row(
            "UPDATE events SET type = $2, packed = $3, flags = flags | $4 WHERE seq = $1 RETURNING request, part",
            &[&seq.0, &event_type, &envelope::pack(&kept), &VOID],
        )
        .await?;
    let Some(found) = found else { return Ok(()) };
    let (request, part): (Option<i64>, i64) = (get(&found, 0)?, get(&found, 1)?);
    let Some(request) = request else { return Ok(()) };
    let Some(row) = locked(base, Table::Requests, request).await? else { return Ok(()) };
    if told_of_one(&row) {
        base.execute("UPDATE events SET request = NULL WHERE seq = $1", &[&seq.0]).await?;
        base.execute("DELETE FROM requests WHERE id = $1", &[&request]).await?;
        return Ok(());
    }
    let target = Target::named(tenant, &event.subject);
    let part = usize::try_from(part).unwrap_or(0);
    let change = packed_request(&row, &target, Whose::Theirs { part });
    write(base, Table::Requests, request, &change).await
}

/// Of the type, made here where it is new: not from the names that are remembered, which no rollback takes back.
async fn number(base: &Base, tenant: i64, event_type: &str) -> Result<i64, Fault> {
    let sql = "INSERT INTO names (tenant, kind, name) VALUES ($1, $2, $3)
         ON CONFLICT (tenant, kind, name) DO UPDATE SET name = excluded.name RETURNING id";
    let row = base.row(sql, &[&tenant, &i64::from(TYPE), &event_type]).await?;
    row.map_or_else(|| Err(Fault::unreadable("name of tenant", tenant)), |row| get(&row, 0))
}
