//! A name that points elsewhere after it was judged, by a name server that changes its answer.

use std::net::{Ipv4Addr, TcpListener};

use mailspan_testkit::{Dns, Hub, Receiver, until};

use crate::support::{AT, BINARY, SECRET, config, event, send};

const GOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
/// Of the inner network, and not allowed.
const INNER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The reason of the one dead letter about `who`.
fn refusal(hub: &Hub, who: &str) -> String {
    until(20, "it is not refused", || {
        let rows = hub.rows(&["dead-letters", "list"]);
        rows.iter().find(|row| row["subject"] == who).map(ToString::to_string)
    })
}

#[test]
fn a_name_that_changes_its_address_reaches_nothing_that_was_not_judged() {
    let Some(dns) = Dns::start() else {
        println!(
            "nobody may listen on port 53 here: the tests of egress with a table of names stand for this one"
        );
        return;
    };
    let crm = Receiver::start();
    let inner = TcpListener::bind((INNER, crm.port)).unwrap();
    inner.set_nonblocking(true).unwrap();
    let text = config(&crm, "", "")
        .replace(&format!("http://127.0.0.1:{}", crm.port), &format!("http://crm.example.net:{}", crm.port))
        .replace("127.0.0.1:1024-65535", &format!("127.0.0.1:{}", crm.port));
    let mut hub = Hub::new(BINARY, &text, &[("MAILTARGET_SECRET", SECRET)]);
    let wrapper = dns.wrapper(hub.folder());
    hub.wrap(&wrapper.iter().map(String::as_str).collect::<Vec<_>>());
    let unreached = || inner.accept().is_err();

    // Good when it is asked, bad for whoever would ask once more: what was judged is what is dialled.
    hub.start();
    dns.answer(|before| vec![if before == 0 { GOOD } else { INNER }]);
    assert_eq!(send(&hub, &event("open", "first@example.com", AT)).status, 200);
    until(20, "the judged address is not reached", || crm.ok_about("first@example.com").pop());
    assert_eq!(dns.asked(), 1, "an address is asked for once for each connection");
    assert!(unreached());

    // A new process, a new connection: each answer is judged anew, also one bad among good ones.
    type Answers = fn(usize) -> Vec<Ipv4Addr>;
    let bad: [(&str, Answers); 3] = [
        ("second@example.com", |_| vec![INNER]),
        ("third@example.com", |_| vec![GOOD, INNER]),
        ("fourth@example.com", |_| vec![INNER, GOOD]),
    ];
    for (who, answers) in bad {
        hub.kill();
        hub.start();
        dns.answer(answers);
        assert_eq!(send(&hub, &event("open", who, AT)).status, 200);
        let said = refusal(&hub, who);
        assert!(said.contains("refused_address") && said.contains("127.0.0.2"), "{said}");
        assert!(unreached(), "{who}: the inner network was reached");
        assert_eq!(crm.ok_about(who).len(), 0);
    }
    // Back where it was, it is reached again.
    dns.answer(|_| vec![GOOD]);
    assert_eq!(send(&hub, &event("open", "last@example.com", AT)).status, 200);
    until(20, "a good answer is not believed again", || crm.ok_about("last@example.com").pop());
    assert!(unreached());
}
