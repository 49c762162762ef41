//! Compiling a program within bounds, and running it within bounds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use mailspan_core::Reason;
use vrl::compiler::runtime::Runtime;
use vrl::compiler::state::ExternalEnv;
use vrl::compiler::{CompileConfig, TargetValue, TimeZone, compile_with_external};

use vrl::value::kind::{Collection, Field, Index, Kind};
use vrl::value::{Secrets, Value};

use crate::error::{at, compile_errors, run_error};
use crate::functions::FUNCTIONS;
use crate::meter::{Budget, Meter};
use crate::{CompileError, Purpose, guard};

/// A compiled program. Cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Program {
    pub text: Arc<str>,
    purpose: Purpose,
    meter: Option<Meter>,
    compiled: Arc<vrl::compiler::Program>,
}

/// How the reason of a run begins that was ended by a fault of VRL itself.
pub const PANICKED: &str = "a function that the program calls broke on this input";

/// Times without an offset are read as UTC, never by the machine's zone.
static UTC: LazyLock<TimeZone> = LazyLock::new(|| TimeZone::parse("UTC").unwrap_or_default());

impl Program {
    /// Compiles VRL within the limits of [`mailspan_core::limits`]: size, nesting, index literals.
    /// A condition that cannot be a boolean and a `parse` program that cannot make an event are refused too.
    /// Safe on a stack of 2 MiB. Warnings are ignored; errors are never an empty list.
    pub fn compile(text: &str, purpose: Purpose) -> Result<Program, Vec<CompileError>> {
        guard::check(text).map_err(|error| vec![error])?;
        if text.trim().is_empty() {
            return Err(vec![at(text, 0, "the program is empty".to_owned())]);
        }
        let mut config = CompileConfig::default();
        config.disable_unused_expression_check();
        let compiled = compile_with_external(text, &FUNCTIONS, &ExternalEnv::default(), config)
            .map_err(|found| compile_errors(text, found))?
            .program;
        if purpose == Purpose::Condition && !can_be_boolean(&compiled) {
            let text = at(
                text,
                0,
                "a condition must give true or false: compare with ==, or use exists()".to_owned(),
            );
            return Err(vec![text]);
        }
        if purpose == Purpose::Parse
            && let Some(why) = makes_no_event(text, &compiled)
        {
            return Err(vec![at(text, 0, why.to_owned())]);
        }
        Ok(Program { text: text.into(), purpose, meter: None, compiled: Arc::new(compiled) })
    }

    /// The same, with runs that are measured: what one may use is in [`mailspan_core::limits`].
    pub fn with_meter(self, meter: Meter) -> Program {
        Program { meter: Some(meter), ..self }
    }

    /// Runs the program; the value is that of its last expression. A function of VRL that panics on its input
    /// is an error like any other: one event must not stop those behind it.
    pub(crate) fn run(&self, input: Value) -> Result<Value, Reason> {
        // Nothing of the program is changed by a run, so nothing can be left half done.
        catch_unwind(AssertUnwindSafe(|| self.resolve(input)))
            .unwrap_or_else(|_| Err(self.failed(format!("{PANICKED}: guard its input, or do without it"))))
    }

    fn resolve(&self, input: Value) -> Result<Value, Reason> {
        let mut target = TargetValue {
            value: input,
            metadata: Value::Object(Default::default()),
            secrets: Secrets::new(),
        };
        let mut budget = Budget::new(self.meter, self.purpose);
        let mut control = || budget.step();
        let ended = Runtime::default().resolve_with_control(&mut target, &self.compiled, &UTC, &mut control);
        match budget.spent {
            Some(spent) => Err(self.failed(spent.text())),
            None => ended.map_err(|ended| self.failed(run_error(&self.text, ended))),
        }
    }

    /// The reason of a run that gave nothing usable; its code says what the program is for.
    pub(crate) fn failed(&self, text: impl Into<String>) -> Reason {
        let code = match self.purpose {
            Purpose::Condition => "condition_failed",
            Purpose::Map => "map_failed",
            Purpose::Parse => "parse_failed",
        };
        Reason::new(code, text)
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("purpose", &self.purpose).field("text", &self.text).finish()
    }
}

/// Why a `parse` program can make no event, whatever comes in; nothing where it may. `null` and `[]` are results
/// too. VRL does not see what a closure assigns, so of a program that has one nothing is said.
fn makes_no_event(text: &str, compiled: &vrl::compiler::Program) -> Option<&'static str> {
    if text.contains("->") {
        return None;
    }
    let result = compiled.final_type_info().result;
    let mut results = vec![result.kind().clone()];
    if !result.returns().is_never() {
        results.push(result.returns().clone());
    }
    let listed: Vec<Kind> = results.iter().filter_map(Kind::as_array).flat_map(elements).collect();
    let objects: Vec<&Collection<Field>> =
        results.iter().chain(&listed).filter_map(Kind::as_object).collect();
    let empty = |array: &Collection<Index>| array.known().is_empty();
    let nothing = results.iter().any(|kind| kind.contains_null() || kind.as_array().is_some_and(empty));
    if objects.is_empty() && !nothing {
        return Some(
            "it makes no event: its last expression must be an object with `type`, or an array of these",
        );
    }
    let typed = |object: &&Collection<Field>| {
        let known = object.known().get(&Field::from("type")).cloned();
        known.unwrap_or_else(|| object.unknown_kind()).contains_bytes()
    };
    match objects.is_empty() || objects.iter().any(typed) {
        true => None,
        false => Some(
            "what it makes has no `type` that is text: every event would be quarantined, write { \"type\": \"app.name\", … }",
        ),
    }
}

fn elements(array: &Collection<Index>) -> Vec<Kind> {
    array.known().values().cloned().chain([array.unknown_kind()]).collect()
}

fn can_be_boolean(compiled: &vrl::compiler::Program) -> bool {
    let result = compiled.final_type_info().result;
    // VRL's empty type is said to contain every type.
    let returned = result.returns();
    result.kind().contains_boolean() || !returned.is_never() && returned.contains_boolean()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_panics_is_an_error_of_the_run() {
        // Left out of what users may call, as it panics on large numbers; it stands for the next one like it.
        let text = "format_number!(.n, scale: 2) == \"5.00\"";
        let all = vrl::stdlib::all();
        let compiled =
            compile_with_external(text, &all, &ExternalEnv::default(), CompileConfig::default()).unwrap();
        let program = Program {
            text: text.into(),
            purpose: Purpose::Condition,
            meter: None,
            compiled: Arc::new(compiled.program),
        };
        let input = |n: f64| Value::from(&serde_json::json!({ "n": n }));
        assert_eq!(program.run(input(5.0)), Ok(Value::Boolean(true)));
        let reason = program.run(input(1e29)).expect_err("vrl does not panic on 1e29 any more: take another");
        assert!(reason.code == "condition_failed" && reason.text.contains(PANICKED), "{reason:?}");
        assert_eq!(program.run(input(5.0)), Ok(Value::Boolean(true)), "it goes on");
    }
}
