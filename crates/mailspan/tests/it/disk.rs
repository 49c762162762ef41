//! The disk and the clock misbehave: no room, no right to write, time that jumps.

use std::path::{Path, PathBuf};
use std::process::Command;

use mailspan_testkit::{Hub, Receiver, get, until};

use crate::support::{AT, BINARY, SECRET, config, event, send};

/// The breaker may open on the way, and again at a probe: how long all of it may take.
const BREAKER_S: u64 = 40;
const QUICK: &str = "retry = { calendar = [\"300ms\"], for = \"30d\" }\nrate = \"1000/1s\"";

fn new_hub(crm: &Receiver, url: &str) -> Hub {
    let text = config(crm, QUICK, "").replace("sqlite:hub.db", url);
    Hub::new(BINARY, &text, &[("MAILTARGET_SECRET", SECRET)])
}

fn who(n: usize) -> String {
    format!("d{n}@example.com")
}

/// Sends until one is refused; how many were acknowledged.
fn send_until_refused(hub: &Hub, from: usize) -> usize {
    for n in from..from + 5_000 {
        let reply = send(hub, &event("open", &who(n), AT));
        if reply.status != 200 {
            assert_eq!(reply.status, 503, "{reply:?}");
            assert!(reply.header("retry-after").is_some(), "a 503 without Retry-After: {reply:?}");
            return n;
        }
    }
    panic!("5,000 events fit where there was to be no room");
}

/// Nothing acknowledged is lost, what was refused can be sent again, and the audit adds up.
fn recovers(hub: &Hub, crm: &Receiver, acknowledged: usize) {
    until(20, "no event is taken though there is room again", || {
        (send(hub, &event("open", &who(acknowledged), AT)).status == 200).then_some(())
    });
    until(60, "acknowledged events did not arrive", || {
        let seen: std::collections::HashSet<String> = crm.ok().iter().map(|seen| seen.subject()).collect();
        (0..=acknowledged).all(|n| seen.contains(&who(n))).then_some(())
    });
    let audit = until(20, "something waits", || {
        let audit = hub.rows(&["audit"]).remove(0);
        (audit["pending"] == 0 && audit["waiting"] == 0).then_some(audit)
    });
    assert_eq!(audit["adds_up"], true, "{audit}");
    assert_eq!(audit["accepted"], acknowledged + 1, "{audit}");
    println!("{acknowledged} events were acknowledged before the first 503; all arrived: {audit}");
}

/// A folder on a small disk of its own (needs root); unmounted when dropped.
struct Small<'a>(&'a Path);

impl Small<'_> {
    fn mount(folder: &Path) -> Option<Small<'_>> {
        std::fs::create_dir(folder).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(folder).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Small(folder))
    }

    fn remount(&self, how: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.0).status();
        assert!(status.unwrap().success(), "remount,{how}");
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_503_and_nothing_acknowledged_is_lost() {
    let crm = Receiver::start();
    let mut hub = new_hub(&crm, "sqlite:small/hub.db");
    let folder = hub.folder().join("small");
    let Some(small) = Small::mount(&folder) else {
        println!("no small disk can be mounted here: the test with a limit on files stands for this one");
        return;
    };
    hub.start();
    let acknowledged = send_until_refused(&hub, 0);
    assert!(acknowledged > 10, "only {acknowledged} events fitted");
    assert!(hub.log().contains("make room on the disk"), "the log does not say what to do: {}", hub.log());
    small.remount("size=64m");
    recovers(&hub, &crm, acknowledged);
    // A hub that is killed while its disk is full starts again, and has everything.
    small.remount("size=3m");
    let ballast = folder.join("ballast");
    let _ = std::fs::write(&ballast, vec![0; 64 << 20]);
    hub.kill();
    std::fs::remove_file(&ballast).unwrap();
    small.remount("size=64m");
    hub.start();
    assert_eq!(hub.rows(&["audit"])[0]["accepted"], acknowledged + 1);
    hub.kill();
}

/// The same where nobody is root: the file may not grow beyond a limit (setrlimit(2), RLIMIT_FSIZE).
#[test]
fn a_file_that_may_not_grow_is_503_and_nothing_acknowledged_is_lost() {
    let crm = Receiver::start();
    let mut hub = new_hub(&crm, "sqlite:hub.db");
    // Ignored over `exec`, else the signal would end the hub where the write is to fail.
    hub.wrap(&["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    hub.start();
    send(&hub, &event("open", &who(0), AT));
    let size = |name: &str| std::fs::metadata(hub.folder().join(name)).map_or(0, |meta| meta.len());
    let limit = size("hub.db").max(size("hub.db-wal")) + (200 << 10);
    let set = |limit: &str| {
        let words =
            ["--pid", &hub.pid().to_string(), &format!("--fsize={limit}:unlimited")].map(str::to_owned);
        assert!(Command::new("prlimit").args(words).status().unwrap().success());
    };
    set(&limit.to_string());
    let acknowledged = send_until_refused(&hub, 1);
    set("unlimited");
    recovers(&hub, &crm, acknowledged);
    // No write at all goes through, as on a disk that was mounted read-only after an error.
    set("0");
    for _ in 0..3 {
        assert_eq!(send_until_refused(&hub, acknowledged + 1), acknowledged + 1);
        assert_eq!(get(hub.port, "/readyz").unwrap().status, 503);
    }
    assert_eq!(get(hub.port, "/healthz").unwrap().status, 200);
    set("unlimited");
    until(20, "the hub does not become ready again", || {
        (get(hub.port, "/readyz").unwrap().status == 200).then_some(())
    });
    recovers(&hub, &crm, acknowledged + 1);
}

#[test]
fn a_store_that_cannot_be_written_is_refused_at_the_start_in_clear_words() {
    let crm = Receiver::start();
    let hub = new_hub(&crm, "sqlite:/proc/hub.db");
    let output = hub.run(&["serve"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("/proc/hub.db") && said.contains("may write there"), "{said}");
}

#[test]
fn a_store_on_a_read_only_disk_is_refused_at_the_start_and_is_whole_after() {
    let crm = Receiver::start();
    let mut hub = new_hub(&crm, "sqlite:small/hub.db");
    let folder = hub.folder().join("small");
    let Some(small) = Small::mount(&folder) else { return };
    small.remount("size=64m");
    hub.start();
    for n in 0..20 {
        assert_eq!(send(&hub, &event("open", &who(n), AT)).status, 200);
    }
    hub.kill();
    small.remount("ro");
    let output = hub.run(&["serve"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("small/hub.db"), "{said}");
    small.remount("rw");
    hub.start();
    recovers(&hub, &crm, 20);
    hub.kill();
}

/// The wall clock goes hours back and forth while retries wait.
#[test]
fn steps_of_the_clock_lose_nothing_and_retries_go_on() {
    let crm = Receiver::start();
    let mut hub = new_hub(&crm, "sqlite:hub.db");
    let clock = Clock::of(&mut hub);
    hub.start();
    for (n, hours) in [-3, 5, -48, 0].into_iter().enumerate() {
        let (before, after) = (format!("before{n}@example.com"), format!("after{n}@example.com"));
        crm.status(503);
        send(&hub, &event("open", &before, AT));
        is_tried(&crm, &before, 1);
        clock.set(hours);
        send(&hub, &event("open", &after, AT));
        is_tried(&crm, &before, tries(&crm, &before) + 2);
        crm.status(200);
        for who in [&before, &after] {
            until(BREAKER_S, "it did not arrive after the step", || crm.ok_about(who).pop());
        }
    }
    crm.status(503);
    send(&hub, &event("open", "last@example.com", AT));
    is_tried(&crm, "last@example.com", 1);
    hub.kill();
    crm.status(200);
    clock.set(6);
    hub.start();
    until(10, "it did not arrive after the restart", || crm.ok_about("last@example.com").pop());
    nothing_died(&hub);
}

/// A clock that was days ahead and is right again makes no horizon end early.
#[test]
fn a_clock_that_is_set_back_by_days_ends_no_retries() {
    let crm = Receiver::start();
    let text = config(&crm, &QUICK.replace("30d", "4h"), "");
    let mut hub = Hub::new(BINARY, &text, &[("MAILTARGET_SECRET", SECRET)]);
    let clock = Clock::of(&mut hub);
    clock.set(100);
    hub.start();
    send(&hub, &event("open", "ahead@example.com", AT));
    until(10, "it did not arrive", || crm.ok_about("ahead@example.com").pop());
    clock.set(0);
    crm.status(503);
    send(&hub, &event("open", "right@example.com", AT));
    is_tried(&crm, "right@example.com", 3);
    crm.status(200);
    until(10, "it did not arrive after the step", || crm.ok_about("right@example.com").pop());
    nothing_died(&hub);
}

/// The file that says how far the hub's clock is off.
struct Clock(PathBuf);

impl Clock {
    fn of(hub: &mut Hub) -> Clock {
        let path = hub.folder().join("clock");
        hub.set_env("MAILSPAN_CLOCK_FILE", &path.display().to_string());
        Clock(path)
    }

    fn set(&self, hours: i64) {
        std::fs::write(&self.0, (hours * 3_600_000).to_string()).unwrap();
    }
}

fn tries(crm: &Receiver, who: &str) -> usize {
    crm.seen().iter().filter(|seen| seen.subject() == who).count()
}

fn is_tried(crm: &Receiver, who: &str, times: usize) {
    until(BREAKER_S, &format!("{who} is not tried {times} times"), || {
        (tries(crm, who) >= times).then_some(())
    });
}

fn nothing_died(hub: &Hub) {
    let audit = until(10, "something is pending", || {
        let audit = hub.rows(&["audit"]).remove(0);
        (audit["pending"] == 0).then_some(audit)
    });
    assert_eq!((&audit["adds_up"], &audit["dead"]), (&true.into(), &0.into()), "{audit}");
}
