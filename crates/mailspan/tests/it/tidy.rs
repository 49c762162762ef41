//! What the compiler cannot hold: sizes, bans, lists that must agree.

use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_are_small_and_finished() {
    let mut files = Vec::new();
    rust_files(&root().join("crates"), &mut files);
    let mut wrong = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!(
                "{} has {lines} lines: what would a reader call its two halves?",
                path.display()
            ));
        }
        // Put together here, so that this file does not hold them itself.
        for word in
            ["TO", "FIX", "XX"].map(str::to_owned).into_iter().zip(["DO", "ME", "X"]).map(|(a, b)| a + b)
        {
            if text.contains(&format!("// {word}")) || text.contains(&format!("{word}:")) {
                wrong.push(format!("{} is unfinished: {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_crate_repeats_the_bans() {
    let read =
        |name: &str| std::fs::read_to_string(root().join(format!("crates/{name}/clippy.toml"))).unwrap();
    let pure = read("core");
    for name in ["connectors", "maps", "engine"] {
        assert_eq!(read(name), pure, "crates/{name}/clippy.toml differs from crates/core/clippy.toml");
    }
    let shell = read("mailspan");
    for name in ["store", "egress", "sandbox", "testkit"] {
        assert_eq!(read(name), shell, "crates/{name}/clippy.toml differs from crates/mailspan/clippy.toml");
    }
}

#[test]
fn every_kind_is_documented() {
    let text = std::fs::read_to_string(root().join("docs/CONNECTORS.md")).unwrap();
    for kind in mailspan_connectors::registry::KINDS {
        assert!(
            text.contains(&format!("## `{}`", kind.name)),
            "docs/CONNECTORS.md has no section `## `{}``",
            kind.name
        );
        assert!(!kind.about.trim().is_empty(), "kind {} says nothing of itself", kind.name);
    }
}

#[test]
fn json_features_that_change_every_crate_are_off() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "-e", "features", "-i", "serde_json", "--offline", "--prefix", "none"])
        .current_dir(root())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for feature in ["arbitrary_precision", "preserve_order", "float_roundtrip"] {
        assert!(!text.contains(&format!("serde_json feature \"{feature}\"")), "serde_json/{feature} is on");
    }
}

/// Each test that `docs/PROOFS.md` names is there: what is between back-ticks and looks like a test's name.
#[test]
fn every_test_that_the_proofs_name_exists() {
    let text = std::fs::read_to_string(root().join("docs/PROOFS.md")).unwrap();
    let mut files = Vec::new();
    rust_files(&root().join("crates"), &mut files);
    let code: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let is_test = |word: &str| {
        word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |"));
    let cells = rows.filter_map(|line| line.trim_end_matches('|').rsplit('|').next());
    let named: Vec<&str> =
        cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|word| is_test(word)).collect();
    assert!(named.len() > 100, "only {} tests are named: has the page another form?", named.len());
    let is_there = |name: &&&str| code.contains(&format!("fn {name}("));
    let missing: Vec<_> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "docs/PROOFS.md names tests that do not exist: {missing:?}");
}
