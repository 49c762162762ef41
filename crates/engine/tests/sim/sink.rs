//! A connector for the simulation: requests and answers are JSON that the receiver understands.

use mailspan_connectors::contract::{Item, Judgement, Known, Plan, Question, Sink, by_status};
use mailspan_core::{Answer, Operation, Request, Signal, Verdict};
use serde_json::{Value, json};

/// Titles of activities that make the connector panic.
pub const POISON_PLAN: &str = "planted panic while planning";
pub const POISON_JUDGE: &str = "planted panic while judging";
/// Title of an activity that is settled without an exchange.
pub const NOTHING: &str = "nothing to do";

pub struct SimSink {
    pub batches: bool,
}

impl Sink for SimSink {
    fn plan(&self, items: &[Item], known: &Known) -> Plan {
        if items.iter().any(|item| title(item) == Some(POISON_PLAN)) {
            panic!("{POISON_PLAN}");
        }
        let first = &items[0];
        if let Some(owner) = owner(first)
            && known.get(&owner).is_none()
        {
            let request = Request::json("GET", "/owner", &json!({ "ask": owner }));
            return Plan::Ask { question: Question(owner), request };
        }
        if title(first) == Some(NOTHING) {
            return Plan::Settle { takes: vec![0], verdict: Verdict::skipped("nothing", "nothing to do") };
        }
        let ready = |item: &Item| owner(item).is_none_or(|owner| known.get(&owner).is_some());
        let fits = |item: &Item| ready(item) && title(item) != Some(NOTHING);
        // Leaves one out now and then, as a connector that merges by record does.
        let takes: Vec<usize> =
            (0..items.len()).filter(|at| *at == 0 || (fits(&items[*at]) && at % 4 != 3)).collect();
        let body: Vec<Value> = takes.iter().map(|at| line(&items[*at])).collect();
        Plan::Send { request: Request::json("POST", "/items", &json!({ "items": body })), takes }
    }

    fn judge(&self, items: &[Item], answer: &Answer) -> Judgement {
        if items.iter().any(|item| title(item) == Some(POISON_JUDGE)) && answer.status == 200 {
            panic!("{POISON_JUDGE}");
        }
        let common = by_status(answer, items.len());
        match answer.status {
            200 => {}
            401 => return Judgement { signal: common.signal.map(reauth), ..common },
            413 => {
                let verdicts = vec![Verdict::retry("too_large", "HTTP 413"); items.len()];
                return Judgement { verdicts, signal: Some(Signal::Split), ..Judgement::default() };
            }
            _ => return common,
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if let Some(found) = body["owner"].as_str() {
            let question = owner(&items[0]).unwrap_or_default();
            return Judgement {
                answer: Some((Question(question), found.to_owned())),
                ..Judgement::default()
            };
        }
        let verdicts = serde_json::from_value(body["verdicts"].clone()).unwrap_or_default();
        Judgement { verdicts, ..Judgement::default() }
    }

    fn probe(&self) -> Request {
        Request::json("GET", "/", &Value::Null)
    }

    fn batch_key(&self, item: &Item) -> Option<String> {
        let step = item.step.map_or("", |step| step.0.as_str());
        self.batches.then(|| format!("{} {step}", item.operation.name()))
    }
}

fn line(item: &Item) -> Value {
    json!({ "key": item.key.to_string(), "step": item.step, "op": item.operation })
}

fn title<'a>(item: &Item<'a>) -> Option<&'a str> {
    match item.operation {
        Operation::LogActivity { title, .. } => Some(title),
        _ => None,
    }
}

fn owner(item: &Item) -> Option<String> {
    match item.operation {
        Operation::NotifyOwner { owner, .. } => owner.clone(),
        _ => None,
    }
}

fn reauth(signal: Signal) -> Signal {
    match signal {
        Signal::Stop { reason } => Signal::Reauth { reason },
        other => other,
    }
}
