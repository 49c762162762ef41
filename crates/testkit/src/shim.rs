//! The library that plays a disk which forgets what was not synced: `shim/sync_shim.c` says how.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::Hub;

/// The compiled library, and the folder of the shadows; both are gone when it is dropped.
pub struct Shim {
    folder: TempDir,
}

/// Compiles the library with `cc`.
pub fn build() -> Shim {
    let folder = tempfile::Builder::new().prefix("mailspan-shim-").tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/sync_shim.c");
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&folder.path().join("sync_shim.so"), &source])
        .arg("-ldl")
        .output()
        .unwrap_or_else(|error| panic!("cc does not start ({error}): run scripts/test, which installs it"));
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::create_dir(folder.path().join("shadows")).unwrap();
    Shim { folder }
}

impl Shim {
    pub fn shadows(&self) -> PathBuf {
        self.folder.path().join("shadows")
    }

    /// From the hub's next start on, its syncs make the shadows.
    pub fn preload(&self, hub: &mut Hub) {
        hub.set_env("LD_PRELOAD", &self.folder.path().join("sync_shim.so").display().to_string());
        hub.set_env("MAILSPAN_SHIM_DIR", &self.shadows().display().to_string());
    }

    /// From now on no sync ends: whatever is to be written waits.
    pub fn hold(&self) {
        std::fs::write(self.shadows().join("hold"), "").unwrap();
    }

    pub fn release(&self) {
        std::fs::remove_file(self.shadows().join("hold")).unwrap();
    }

    /// What a power cut does: kills the hub and puts the shadows in the place of its database files.
    pub fn power_cut(&self, hub: &mut Hub) {
        hub.kill();
        for entry in std::fs::read_dir(hub.folder()).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // The lock file is no data: nobody holds it now.
            if name.starts_with("hub.db") && !name.ends_with(".lock") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        for entry in std::fs::read_dir(self.shadows()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("hub.db") {
                std::fs::copy(entry.path(), hub.folder().join(entry.file_name())).unwrap();
            }
        }
    }

    pub fn order(&self) -> Order {
        let text = std::fs::read_to_string(self.shadows().join("order.log")).unwrap();
        Order { steps: text.lines().map(step).collect() }
    }
}

/// One line of `order.log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Bytes were written to the journal's log.
    Write { at: usize, length: usize },
    /// A sync of it is done.
    Synced,
    /// A 200 is about to be sent to the client at this port.
    Answer { port: u16 },
}

/// What the hub did, in order.
pub struct Order {
    pub steps: Vec<Step>,
}

fn step(line: &str) -> Step {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["W", at, length] => Step::Write { at: at.parse().unwrap(), length: length.parse().unwrap() },
        ["S"] => Step::Synced,
        ["R", port] => Step::Answer { port: port.parse().unwrap() },
        _ => panic!("order.log has the line `{line}`"),
    }
}

impl Order {
    /// Whether bytes at `offset` of the log were written, then synced, then answered to `port`, in this
    /// order; else what came when. The log must not have been started again since, or offsets are not
    /// unique.
    pub fn written_synced_answered(&self, offset: usize, port: u16) -> Result<(), String> {
        let covers =
            |step: &Step| matches!(step, Step::Write { at, length } if (*at..at + length).contains(&offset));
        let written = self.steps.iter().position(covers);
        let synced = written.and_then(|from| {
            self.steps[from..].iter().position(|step| *step == Step::Synced).map(|after| from + after)
        });
        let answered = self.steps.iter().position(|step| *step == Step::Answer { port });
        match (written, synced, answered) {
            (Some(_), Some(synced), Some(answered)) if synced < answered => Ok(()),
            _ => Err(format!(
                "written {written:?}, synced {synced:?}, answered {answered:?} (steps of order.log)"
            )),
        }
    }

    /// How often each kind of step was taken.
    pub fn counts(&self) -> HashMap<&'static str, usize> {
        let mut counts = HashMap::new();
        for step in &self.steps {
            let kind = match step {
                Step::Write { .. } => "writes",
                Step::Synced => "syncs",
                Step::Answer { .. } => "answers",
            };
            *counts.entry(kind).or_default() += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter a step: the write that is asked for, another write, a sync, the answer.
    fn check(steps: &str, good: bool) {
        let step = |letter: char| match letter {
            'w' => Step::Write { at: 100, length: 24 },
            'o' => Step::Write { at: 124, length: 24 },
            's' => Step::Synced,
            _ => Step::Answer { port: 7 },
        };
        let order = Order { steps: steps.chars().map(step).collect() };
        assert_eq!(order.written_synced_answered(110, 7).is_ok(), good, "{steps}");
    }

    #[test]
    fn only_a_sync_between_write_and_answer_will_do() {
        check("wsr", true);
        check("owoosor", true);
        check("wrs", false);
        check("swr", false);
        check("wor", false);
        check("rws", false);
        check("sosr", false);
        check("ws", false);
    }
}
