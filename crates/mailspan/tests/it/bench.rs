//! `mailspan bench`, short: it runs, finds everything that it sent, and leaves nothing behind. No speed is judged.

use std::process::Command;

use mailspan_testkit::PostgresServer;
use serde_json::Value;

use crate::support::BINARY;

fn check(args: &[&str], sent: u64) {
    let folder = tempfile::tempdir().unwrap();
    let short: &[&str] = match args[0] {
        "store" | "dedupe" | "contacts" => &["--rounds", "1"],
        "sync" => &["--rounds", "1", "--rate", "10", "--profiles", "20", "--for", "2s"],
        "neighbours" => &["--destinations", "5", "--rate", "40", "--for", "1s", "--rounds", "1"],
        _ => &["--rate", "100", "--for", "400ms", "--max-for", "0s", "--rounds", "1", "--connections", "4"],
    };
    let mut command = Command::new(BINARY);
    command.arg("bench").args(args).args(short).args(["--json", "--folder"]).arg(folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "bench {args:?} ended with {}:\n{said}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["whole"], true, "{report}");
    if args[0] == "neighbours" {
        assert!(report["median_ratio"].as_f64().unwrap() > 0.0, "{report}");
        assert_eq!(
            report["found"]["acknowledged"].as_u64(),
            Some(sent),
            "alone, and beside the two: {report}"
        );
    } else if args[0] == "sync" {
        let found = &report["found"];
        assert_eq!(
            [&found["unsubscribes"], &found["told_by_metric"], &found["refused"]].map(Value::as_u64),
            [Some(sent), Some(sent), Some(0)],
            "{report}"
        );
        assert!(report["figures"]["last_system_knows_p99_ms"].as_f64().unwrap() > 0.0, "{report}");
    } else if args[0] == "contacts" {
        let found = &report["found"];
        assert_eq!(
            [&found["written"], &found["read_back"], &found["refused"]].map(Value::as_u64),
            [Some(sent), Some(sent), Some(0)],
            "{report}"
        );
    } else if args[0] != "store" && args[0] != "dedupe" {
        let found = &report["medians"]["hub"]["found"];
        assert_eq!((found["sent"].as_u64(), found["lost"].as_u64()), (Some(sent), Some(0)), "{report}");
        assert_eq!(found["acknowledged"].as_u64(), Some(sent), "{report}");
        assert_eq!(report["medians"]["floor"]["found"]["lost"].as_u64(), Some(0), "{report}");
        if args.contains(&"--retention") {
            let found = &report["medians"]["dropping"]["found"];
            assert_eq!(
                (found["acknowledged"].as_u64(), found["lost"].as_u64()),
                (Some(sent), Some(0)),
                "{report}"
            );
            assert!(report["acknowledge_p99_dropping_to_hub"].as_f64().unwrap() > 0.0, "{report}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "the bench left {left:?} behind");
}

#[test]
fn ingest_finds_every_event_in_the_journal() {
    check(&["ingest", "--routes", "2", "--matching"], 40);
}

#[test]
fn ingest_finds_every_event_while_retention_drops_old_ones() {
    check(&["ingest", "--retention", "3k"], 40);
}

#[test]
fn deliver_finds_every_event_at_the_receiver() {
    check(&["deliver", "--fan-out", "2", "--batch", "10", "--signed"], 40);
}

#[test]
fn store_finds_every_delivery_done() {
    check(&["store", "--events", "100", "--writers", "4", "--routes", "2"], 100);
}

#[test]
fn neighbours_finds_every_event_at_those_that_are_well() {
    check(&["neighbours"], 2 * 40);
}

#[test]
fn contacts_reads_every_contact_back() {
    check(&["contacts", "--contacts", "20k", "--changes", "1k", "--pages", "10"], 20_000);
}

#[test]
fn sync_finds_every_unsubscribe_at_every_system() {
    check(&["sync"], 20);
}

#[test]
fn store_and_dedupe_run_on_postgres_and_leave_nothing_there() {
    let server = PostgresServer::start();
    let url = server.database("bench");
    check(&["store", "--events", "100", "--writers", "4", "--store", &url], 100);
    check(&["dedupe", "--keys", "2k", "--store", &url], 0);
    check(&["contacts", "--contacts", "2k", "--changes", "200", "--pages", "5", "--store", &url], 2_000);
    let left = server.dump("bench");
    assert!(!left.contains("mailspan_bench"), "a schema was left behind");
}

#[test]
fn dedupe_finds_every_repeat() {
    check(&["dedupe", "--keys", "2k"], 0);
}
