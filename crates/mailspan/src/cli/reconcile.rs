//! `mailspan reconcile`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::deliveries::segment;
use super::{Common, sources, table};

/// What the exit code says where both sides differ: 1 is an error.
const DIFFERENT: u8 = 3;
const NOT_COMPARED: u8 = 1;

#[derive(Debug, Args)]
pub struct Reconcile {
    /// The source whose provider is asked
    source: String,
    /// The provider's log of this transmission is compared with what was settled
    #[arg(long)]
    transmission: Option<String>,
    /// Accept what is missing here
    #[arg(long, requires = "transmission")]
    repair: bool,
}

/// Without a transmission: one round of a source that lists what has changed; what it finds is accepted.
pub async fn run(common: &Common, command: Reconcile) -> anyhow::Result<ExitCode> {
    let client = Client::open(common).await?;
    let done = match &command.transmission {
        Some(id) => transmission(common, &client, &command, id).await,
        None => round(common, &client, &command.source).await,
    };
    client.close().await;
    done
}

async fn round(common: &Common, client: &Client, source: &str) -> anyhow::Result<ExitCode> {
    let all = sources::ask(client, source).await?;
    table::one(common, &all);
    Ok(match (&all["reason"], all["found"].as_u64()) {
        (Value::Null, Some(0) | None) => ExitCode::SUCCESS,
        (Value::Null, _) => ExitCode::from(DIFFERENT),
        _ => ExitCode::FAILURE,
    })
}

async fn transmission(
    common: &Common,
    client: &Client,
    command: &Reconcile,
    id: &str,
) -> anyhow::Result<ExitCode> {
    let path = format!("/v1/sources/{}/reconcile", segment(&command.source));
    let mut answer = client.post(&path, &json!({ "transmission": id, "repair": command.repair })).await?;
    let differences = answer["differences"].as_array().cloned().unwrap_or_default();
    if common.json {
        table::one(common, &answer);
    } else {
        if let Some(members) = answer.as_object_mut() {
            members.remove("differences");
        }
        table::one(common, &answer);
        let columns = ["what", "recipient", "type", "at", "here_type", "destination", "reason", "event_id"];
        table::rows(common, &columns, &differences, "both say the same");
    }
    if answer["complete"] == false {
        eprintln!(
            "not all events of that time were looked at: what is said to be missing here may be among them"
        );
    }
    Ok(ExitCode::from(code(&answer, &differences)))
}

/// What was not compared whole says nothing of both sides.
fn code(answer: &Value, differences: &[Value]) -> u8 {
    let missing = differences.iter().filter(|one| one["what"] == "missing_here").count() as u64;
    let mended = answer["repaired"].as_u64() == Some(missing) && missing == differences.len() as u64;
    match (answer["complete"] == true, mended) {
        (false, _) => NOT_COMPARED,
        (true, true) => 0,
        (true, false) => DIFFERENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(complete: bool, repaired: u64, differences: &[&str], expected: u8) {
        let answer = json!({ "complete": complete, "repaired": repaired });
        let differences: Vec<Value> = differences.iter().map(|what| json!({ "what": what })).collect();
        assert_eq!(code(&answer, &differences), expected, "{answer} {differences:?}");
    }

    #[test]
    fn both_say_the_same_only_where_all_was_looked_at() {
        check(true, 0, &[], 0);
        check(true, 1, &["missing_here"], 0);
        check(true, 0, &["missing_here"], 3);
        check(true, 1, &["missing_here", "missing_there"], 3);
        check(false, 0, &[], 1);
        check(false, 1, &["missing_here"], 1);
    }
}
