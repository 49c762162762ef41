//! Entry points for seeded tests and libFuzzer: any bytes end in a value or a reason.

use bytes::Bytes;
use mailspan_core::{Millis, RawRequest, Reason, clip};

use crate::{PANICKED, Program, Purpose, guard};

/// The guard alone; what it lets through is compiled.
pub fn guard(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if guard::check(&text).is_ok() {
        for error in Program::compile(&text, Purpose::Condition).err().into_iter().flatten() {
            let _ = clip(&error.to_string(), 10);
        }
    }
}

/// Bytes up to the first zero are a `parse` program, the rest the body that it is run on.
pub fn run(data: &[u8]) {
    let cut = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let Ok(program) = Program::compile(&String::from_utf8_lossy(&data[..cut]), Purpose::Parse) else {
        return;
    };
    let request = RawRequest {
        method: "POST".to_owned(),
        url: String::new(),
        path: String::new(),
        query: "a=1".to_owned(),
        headers: Vec::new(),
        body: Bytes::copy_from_slice(data.get(cut + 1..).unwrap_or_default()),
        received_at: Millis(0),
    };
    sound(program.parse(&request));
}

/// A run that ended in a value or in a reason, and not in a panic that was caught: such a function is to be left out.
pub fn sound<T>(result: Result<T, Reason>) {
    if let Err(reason) = result {
        assert!(!reason.text.contains(PANICKED), "leave out the function that broke: {}", reason.text);
    }
}
