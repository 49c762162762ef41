//! A sink that notes what it plans and judges, so that what ends the process is found again.

use std::sync::Arc;

use mailspan_connectors::contract::{Item, Judgement, Known, Plan, Sink};
use mailspan_core::{Answer, DestinationId, Request};

use crate::deliver::flight::Flight;
use crate::drill;

pub struct Flown {
    pub sink: Arc<dyn Sink>,
    pub destination: DestinationId,
    pub flight: Arc<Flight>,
}

impl Sink for Flown {
    fn plan(&self, items: &[Item], known: &Known) -> Plan {
        self.flight.planning(self.destination, items.iter().map(|item| item.key));
        let plan = self.sink.plan(items, known);
        self.flight.planned();
        plan
    }

    fn judge(&self, items: &[Item], answer: &Answer) -> Judgement {
        self.flight.judging(self.destination, items.iter().map(|item| item.key), answer);
        drill::poison_answer(answer);
        let judgement = self.sink.judge(items, answer);
        self.flight.judged();
        judgement
    }

    fn probe(&self) -> Request {
        self.sink.probe()
    }

    fn batch_key(&self, item: &Item) -> Option<String> {
        self.sink.batch_key(item)
    }
}
