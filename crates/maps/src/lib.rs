//! VRL programs, conditions, and the built-in map of the CRM table.

use mailspan_core::{Event, Operation, Person, RawRequest, Reason};

/// What a program is for: decides its input and what it must return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Input: the event. Result: a boolean.
    Condition,
    /// Input: the event. Result: a list of operations (CRM kinds) or any JSON (kind `http`).
    Map,
    /// Input: `{ body, headers, query }`. Result: an event or an array of events.
    Parse,
}

/// A compiled program. Cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Program {
    pub text: std::sync::Arc<str>,
}

/// Why a program does not compile, and where in its text (line and column from 1, in characters).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    pub line: usize,
    pub column: usize,
    pub text: String,
}

impl Program {
    pub fn compile(text: &str, purpose: Purpose) -> Result<Program, Vec<CompileError>> {
        let _ = purpose;
        Ok(Program { text: text.into() })
    }

    /// Evaluates a condition.
    pub fn condition(&self, event: &Event) -> Result<bool, Reason> {
        let _ = event;
        Err(Reason::new("unbuilt", ""))
    }

    /// Runs a map for kind `http`: the bodies, as JSON text; an array gives one an element.
    pub fn bodies(&self, event: &Event) -> Result<Vec<String>, Reason> {
        let _ = event;
        Err(Reason::new("unbuilt", ""))
    }

    /// Runs a map for a CRM kind: operations, checked.
    pub fn operations(&self, event: &Event) -> Result<Vec<Operation>, Reason> {
        let _ = event;
        Err(Reason::new("unbuilt", ""))
    }

    /// Runs a `parse` program on a verified request: JSON text of each event it made.
    pub fn parse(&self, request: &RawRequest) -> Result<Vec<String>, Reason> {
        let _ = request;
        Err(Reason::new("unbuilt", ""))
    }
}

/// What the built-in map needs beside the event.
#[derive(Debug, Clone, Copy, Default)]
pub struct CrmContext {
    pub create_contacts: bool,
    /// The transmission was seen with several recipients: a record id in the metadata decides nothing.
    pub several_recipients: bool,
}

/// The built-in map: event and person to operations (design, section 5).
pub fn crm(event: &Event, person: Option<&Person>, context: CrmContext) -> Vec<Operation> {
    let _ = (event, person, context);
    Vec::new()
}
