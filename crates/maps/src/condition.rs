//! Conditions: the event in, a boolean out.

use mailspan_core::{Event, Reason};
use vrl::value::Value;

use crate::{Program, value};

impl Program {
    /// Evaluates a condition. A result that is not a boolean, an `abort` and an error of the run are
    /// a reason with the place in the program.
    pub fn condition(&self, event: &Event) -> Result<bool, Reason> {
        match self.run(value::event(event))? {
            Value::Boolean(holds) => Ok(holds),
            other => Err(self.failed(format!(
                "a condition must give true or false, this one gave {}: compare with ==, or use bool!()",
                value::kind(&other)
            ))),
        }
    }
}
