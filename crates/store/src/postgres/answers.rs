//! `Idempotency-Key`: the first answer again, whichever node gave it.

use std::collections::HashMap;

use mailspan_core::Digest;
use mailspan_core::limits::IDEMPOTENCY_MS;

use super::base::{Base, Fault, digest, get};
use super::contact_rows;
use crate::prepare::first_16;
use crate::told::{ERASED_SINCE, Sealed, answer_text, read_answer};
use crate::write::{Accepted, Idempotency, Receipt, Trouble, Wrote};

const ANSWER_VERSION: i64 = 1;

/// Tenant, API key and digest of the key sent.
pub(crate) type Asked = (i64, i64, [u8; 16]);

pub(crate) fn asked(tenant: i64, idempotency: &Idempotency) -> Asked {
    let sha = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, idempotency.key.as_bytes());
    (tenant, idempotency.api_key, first_16(sha.as_ref()))
}

/// An answer that counts.
pub(crate) struct Known {
    body: [u8; 16],
    answer: String,
}

/// One to be claimed: with the body's digest and the time of its request.
pub(crate) struct Claim {
    pub asked: Asked,
    pub body: Digest,
    pub received_at: i64,
}

/// Takes the place of each answer that is still to be given, so that another node with the same key waits for
/// this commit; gives those that were answered before. Keys are distinct.
pub(crate) async fn claim(
    base: &Base,
    mut claims: Vec<Claim>,
) -> Result<HashMap<Asked, Option<Known>>, Fault> {
    let mut answers = HashMap::new();
    if claims.is_empty() {
        return Ok(answers);
    }
    claims.sort_by_key(|claim| claim.asked);
    let tenants: Vec<i64> = claims.iter().map(|claim| claim.asked.0).collect();
    let api_keys: Vec<i64> = claims.iter().map(|claim| claim.asked.1).collect();
    let keys: Vec<&[u8]> = claims.iter().map(|claim| &claim.asked.2[..]).collect();
    let bodies: Vec<&[u8]> = claims.iter().map(|claim| &claim.body.0[..]).collect();
    let times: Vec<i64> = claims.iter().map(|claim| claim.received_at).collect();
    let taken = base
        .written(
            "INSERT INTO answers (tenant, api_key, key, body_digest, until, v, answer)
             SELECT a.tenant, a.api_key, a.key, a.body, a.at + $6::bigint, $7::bigint, ''
             FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bigint[])
               AS a (tenant, api_key, key, body, at)
             ON CONFLICT (tenant, api_key, key) DO UPDATE SET body_digest = excluded.body_digest,
               until = excluded.until, v = excluded.v, answer = ''
             WHERE answers.until <= excluded.until - $6::bigint
             RETURNING tenant, api_key, key",
            &[&tenants, &api_keys, &keys, &bodies, &times, &IDEMPOTENCY_MS, &ANSWER_VERSION],
        )
        .await?;
    for row in &taken {
        answers.insert((get(row, 0)?, get(row, 1)?, digest(row, "key")?), None);
    }
    if taken.len() == claims.len() {
        return Ok(answers);
    }
    let before = base
        .rows(
            "SELECT a.tenant, a.api_key, a.key, a.body_digest, a.answer
             FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS q (tenant, api_key, key)
             JOIN answers a ON a.tenant = q.tenant AND a.api_key = q.api_key AND a.key = q.key",
            &[&tenants, &api_keys, &keys],
        )
        .await?;
    for row in &before {
        let asked = (get(row, 0)?, get(row, 1)?, digest(row, "key")?);
        let known = Known { body: digest(row, "body_digest")?, answer: get(row, 4)? };
        answers.entry(asked).or_insert(Some(known));
    }
    Ok(answers)
}

/// What is told to a request whose key was answered before. A fault that is not of this request alone is the outer
/// one.
pub(crate) async fn again(
    base: &Base,
    tenant: i64,
    known: &Known,
    idempotency: &Idempotency,
) -> Result<Result<Wrote, Trouble>, Fault> {
    let unreadable = || Fault::unreadable("answer of API key", idempotency.api_key).trouble();
    let Some((mut accepted, sealed)) = read_answer(&known.answer) else { return Ok(Err(unreadable())) };
    if Digest(known.body) == idempotency.body
        && let Some(sealed) = sealed
    {
        let hashes: Vec<Vec<u8>> = sealed.hashes().iter().map(|hash| hash.to_vec()).collect();
        let sql = "SELECT 1 FROM erased WHERE tenant = $1 AND hash = ANY($2) AND at >= $3 LIMIT 1";
        if base.row(sql, &[&tenant, &hashes, &sealed.at]).await?.is_some() {
            return Ok(Err(Fault::refused(ERASED_SINCE.0, ERASED_SINCE.1).trouble()));
        }
        let Some(told) = sealed.open(&base.key, idempotency) else { return Ok(Err(unreadable())) };
        accepted.told = Some(told);
    }
    Ok(same(Digest(known.body), accepted, idempotency))
}

/// The first answer, where the body is the same.
pub(crate) fn same(body: Digest, accepted: Accepted, idempotency: &Idempotency) -> Result<Wrote, Trouble> {
    if body != idempotency.body {
        let text = "this Idempotency-Key was used with another body in the last 24 hours: send a new key with a new body";
        return Err(Fault::refused("idempotency_conflict", text).trouble());
    }
    Ok(Wrote::Accepted { accepted, again: true })
}

/// An answer that is given now.
pub(crate) struct Given {
    pub asked: Asked,
    /// Nothing: it is not kept.
    pub text: Option<String>,
}

/// Makes the answer to a request whose key was claimed; what it tells is in `accepted` from now on.
pub(crate) async fn give(
    base: &Base,
    asked: Asked,
    receipt: &Receipt,
    accepted: &mut Accepted,
) -> Result<Given, Fault> {
    let mut sealed = None;
    if let Some(idempotency) = &receipt.idempotency
        && let Some(tell) = &idempotency.tell
    {
        let row = match &tell.suppression {
            Some(address) => contact_rows::suppression_of(base, &receipt.tenant, address).await?,
            None => None,
        };
        accepted.told = (tell.body)(&accepted.contacts, row.as_ref());
        let Some(told) = &accepted.told else { return Ok(Given { asked, text: None }) };
        sealed = Some(Sealed::new(&base.key, idempotency, told, receipt.received_at));
    }
    let text = answer_text(accepted, sealed.as_ref())
        .map_err(|error| Fault::refused("unwritable_answer", error.to_string()))?;
    Ok(Given { asked, text: Some(text) })
}

/// Writes the answers of those that were claimed, and gives up the places of those that are not kept.
pub(crate) async fn keep(base: &Base, given: &[Given]) -> Result<(), Fault> {
    let (kept, left): (Vec<&Given>, Vec<&Given>) = given.iter().partition(|one| one.text.is_some());
    let columns = |of: &[&Given]| {
        let tenants: Vec<i64> = of.iter().map(|one| one.asked.0).collect();
        let api_keys: Vec<i64> = of.iter().map(|one| one.asked.1).collect();
        let keys: Vec<Vec<u8>> = of.iter().map(|one| one.asked.2.to_vec()).collect();
        (tenants, api_keys, keys)
    };
    if !kept.is_empty() {
        let (tenants, api_keys, keys) = columns(&kept);
        let answers: Vec<&str> = kept.iter().filter_map(|one| one.text.as_deref()).collect();
        base.execute(
            "UPDATE answers SET answer = g.answer
             FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::text[]) AS g (tenant, api_key, key, answer)
             WHERE answers.tenant = g.tenant AND answers.api_key = g.api_key AND answers.key = g.key",
            &[&tenants, &api_keys, &keys, &answers],
        )
        .await?;
    }
    if !left.is_empty() {
        let (tenants, api_keys, keys) = columns(&left);
        base.execute(
            "DELETE FROM answers USING unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS g (tenant, api_key, key)
             WHERE answers.tenant = g.tenant AND answers.api_key = g.api_key AND answers.key = g.key",
            &[&tenants, &api_keys, &keys],
        )
        .await?;
    }
    Ok(())
}
