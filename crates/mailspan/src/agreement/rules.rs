//! What the consent rules demand of one person, written down a second time and from the documentation alone
//! (docs/CONTACTS.md, «How consent is decided»): nothing here calls what it checks.

use std::collections::BTreeSet;

/// What a fact says. The order of two at the same time: what forbids comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    In,
    Confirmed,
    Out,
}

/// Why an address is not mailed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    Bounce,
    Complaint,
}

/// One person as the rules see it, after what arrived so far. Times are milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// There is a contact.
    pub contact: bool,
    facts: BTreeSet<(i64, Said)>,
    /// Unsubscriptions that suppress.
    left: BTreeSet<i64>,
    blocks: BTreeSet<(i64, Block)>,
    erased_at: Option<i64>,
    /// How often the person was erased: what was asked of an earlier life is void.
    pub life: u32,
}

/// What must be seen of the person everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    pub contact: bool,
    pub opt_in: bool,
    pub permission: i64,
    pub suppressed: Option<&'static str>,
}

impl Demand {
    pub fn mailable(&self) -> bool {
        self.contact && self.opt_in && self.suppressed.is_none()
    }
}

impl Rules {
    /// Somebody says that they agree, or agreed then.
    pub fn opts_in(&mut self, at: i64, said: Said) {
        if self.is_void(at) {
            return;
        }
        self.contact = true;
        self.facts.insert((at, said));
    }

    /// An unsubscription, wherever it was made: it suppresses.
    pub fn unsubscribes(&mut self, at: i64) {
        if self.is_void(at) {
            return;
        }
        self.facts.insert((at, Said::Out));
        self.left.insert(at);
    }

    pub fn complains(&mut self, at: i64) {
        if !self.is_void(at) {
            self.facts.insert((at, Said::Out));
        }
        self.blocks.insert((at, Block::Complaint));
    }

    pub fn bounces(&mut self, at: i64) {
        self.blocks.insert((at, Block::Bounce));
    }

    /// The API wishes a state: where it is so already nothing is stated.
    pub fn wishes(&mut self, at: i64, opt_in: bool) {
        self.contact = true;
        let says_out = self.facts.iter().any(|(_, said)| *said == Said::Out);
        match opt_in {
            true if !self.is_in() => drop(self.facts.insert((at, Said::In))),
            false if self.is_in() || !says_out => drop(self.facts.insert((at, Said::Out))),
            _ => {}
        }
    }

    /// A file does not bring back who is suppressed.
    pub fn imports(&mut self, at: i64) {
        if self.demand().suppressed.is_none() && self.block().is_none() {
            self.opts_in(at, Said::In);
        }
    }

    /// A form makes a contact that has agreed to nothing yet.
    pub fn is_asked(&mut self) {
        self.contact = true;
    }

    /// What is known is gone; what happened before and comes later is void; the address stays suppressed.
    pub fn erase(&mut self, at: i64) {
        self.contact = false;
        self.facts.clear();
        self.erased_at = self.erased_at.max(Some(at));
        self.life += 1;
    }

    pub fn demand(&self) -> Demand {
        Demand {
            contact: self.contact,
            opt_in: self.contact && self.is_in(),
            permission: if self.contact { self.permission() } else { 1 },
            suppressed: self.block(),
        }
    }

    fn is_void(&self, at: i64) -> bool {
        self.erased_at.is_some_and(|erased| at <= erased)
    }

    fn last(&self, wanted: impl Fn(Said) -> bool) -> Option<i64> {
        self.facts.iter().filter(|(_, said)| wanted(*said)).map(|(at, _)| *at).max()
    }

    /// The newest opt-in must have happened after the newest opt-out.
    fn is_in(&self) -> bool {
        self.last(|said| said != Said::Out) > self.last(|said| said == Said::Out)
    }

    /// 4 where the person confirmed after the newest opt-out, else 2 where it agreed.
    fn permission(&self) -> i64 {
        let confirmed = self.last(|said| said == Said::Confirmed) > self.last(|said| said == Said::Out);
        match (self.is_in(), confirmed) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 4,
        }
    }

    /// Erasure is the last word; a complaint or a bounce, the first by its time; an unsubscription as long as
    /// nothing was confirmed after it.
    fn block(&self) -> Option<&'static str> {
        if self.erased_at.is_some() {
            return Some("erasure");
        }
        match self.blocks.first() {
            Some((_, Block::Bounce)) => return Some("bounce"),
            Some((_, Block::Complaint)) => return Some("complaint"),
            None => {}
        }
        let left = self.left.last().copied();
        (left.is_some() && left >= self.last(|said| said == Said::Confirmed)).then_some("unsubscribe")
    }
}
