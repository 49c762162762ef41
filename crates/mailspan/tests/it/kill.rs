//! `kill -9`: what was acknowledged arrives, and the sums add up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mailspan_testkit::{post, until};

use crate::support::{AT, SECRET, event, hub, send, signed};

#[test]
fn what_was_acknowledged_survives_kills_under_load() {
    let (mut hub, crm) = hub();
    let (port, stop) = (hub.port, Arc::new(AtomicBool::new(false)));
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let who = format!("k{sender}-{n}@example.com");
                    let body = event("open", &who, AT).to_string();
                    let mac = signed(SECRET, body.as_bytes());
                    match post(port, "/in/mailtarget", &[("x-mailtarget-signature", &mac)], body.as_bytes()) {
                        Ok(reply) if reply.status == 200 => acknowledged.lock().unwrap().push(who),
                        _ => std::thread::sleep(Duration::from_millis(20)),
                    }
                }
            })
        })
        .collect();
    for pause in [400, 700, 550] {
        std::thread::sleep(Duration::from_millis(pause));
        hub.kill();
        hub.start();
    }
    stop.store(true, Ordering::Relaxed);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(acknowledged.len() > 20, "only {} were acknowledged", acknowledged.len());
    until(60, "acknowledged events never arrived", || {
        let got: std::collections::HashSet<String> = crm.ok().iter().map(|seen| seen.subject()).collect();
        acknowledged.iter().all(|who| got.contains(who)).then_some(())
    });
    let mut by_subject = std::collections::HashMap::new();
    for seen in crm.ok() {
        let key = seen.header("idempotency-key").unwrap().to_owned();
        let first = by_subject.entry(seen.subject()).or_insert_with(|| key.clone());
        assert_eq!(*first, key, "a duplicate came under another key");
    }
    until(20, "the audit does not add up", || (hub.rows(&["audit"])[0]["adds_up"] == true).then_some(()));
}

#[test]
fn a_second_serve_on_one_file_ends_at_once_and_names_the_first() {
    let (hub, _crm) = hub();
    let output = hub.run(&["serve"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&hub.pid().to_string()), "it does not name process {}: {said}", hub.pid());
}

#[test]
fn a_hub_waits_for_a_command_that_holds_the_file() {
    let (mut hub, _crm) = hub();
    assert_eq!(hub.stop(), Some(0));
    let lock = hub.folder().join("hub.db.lock");
    // As a command writes it: without the socket of a hub.
    std::fs::write(&lock, "1\n0\n\n").unwrap();
    let mut command = std::process::Command::new("flock").arg(&lock).args(["sleep", "2"]).spawn().unwrap();
    let probe = || std::process::Command::new("flock").args(["-n", &lock.to_string_lossy(), "true"]).status();
    until(5, "flock does not hold the file", || (!probe().unwrap().success()).then_some(()));
    hub.start();
    assert!(command.wait().unwrap().success());
    assert_eq!(hub.rows(&["audit"])[0]["adds_up"], true);
}

#[test]
fn a_demo_leaves_alone_what_no_demo_made() {
    let (hub, _crm) = hub();
    let before = std::fs::read_to_string(hub.folder().join("hub.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hub.toml"), &before).unwrap();
    std::fs::write(folder.path().join("hub.db"), "mine").unwrap();
    let output = hub.run(&["demo", "--folder", folder.path().to_str().unwrap(), "--for", "1s"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("no demo made it"), "{said}");
    assert_eq!(std::fs::read_to_string(folder.path().join("hub.toml")).unwrap(), before);
    assert_eq!(std::fs::read_to_string(folder.path().join("hub.db")).unwrap(), "mine");
}

#[test]
fn a_stop_is_graceful_and_what_waits_is_sent_after_the_next_start() {
    let (mut hub, crm) = hub();
    crm.status(503);
    send(&hub, &event("open", "later@example.com", AT));
    until(10, "no attempt", || crm.seen().pop());
    assert_eq!(hub.stop(), Some(0));
    crm.status(200);
    let dead: Vec<_> = hub.rows(&["deliveries", "list", "--state", "pending"]);
    assert_eq!(dead.len(), 1, "a command works without a running hub");
    hub.start();
    until(15, "it did not arrive after the restart", || crm.ok_about("later@example.com").pop());
}

#[test]
fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let (hub, _crm) = hub();
    for entry in std::fs::read_dir(hub.folder()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("hub.db") {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{name}");
        }
    }
}
