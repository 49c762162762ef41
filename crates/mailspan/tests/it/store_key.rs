//! The store key: what it seals comes back with it alone, and it can be changed.

use mailspan_testkit::{Hub, Receiver};
use serde_json::json;

use crate::contacts::Tenant;
use crate::support::{BINARY, SECRET, config};

const NEEDED: &str = "put that one into [storage] key or old_keys";
const ANN: &str = "ann@example.com";

fn with_keys(keys: &str) -> String {
    let storage = format!("url = \"sqlite:hub.db\"\n{keys}");
    config(&Receiver::start(), "", "").replace("url = \"sqlite:hub.db\"", &storage)
}

fn new_hub(keys: &str) -> Hub {
    let env = [
        ("MAILTARGET_SECRET", SECRET),
        ("ONE", "the-first-store-key-of-the-tests"),
        ("TWO", "the-second-store-key-of-the-test"),
    ];
    Hub::new(BINARY, &with_keys(keys), &env)
}

fn set_keys(hub: &Hub, before: &str, keys: &str) {
    let path = hub.folder().join("hub.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(before));
    std::fs::write(&path, text.replace(before, keys)).unwrap();
}

/// Neither serves nor works by command, and says what is missing.
fn refuses(hub: &mut Hub) {
    hub.spawn();
    assert!(!hub.ready(), "it serves without its key");
    assert!(hub.log().contains(NEEDED), "{}", hub.log());
    let listed = hub.run(&["contacts", "list"]);
    assert!(!listed.status.success() && String::from_utf8_lossy(&listed.stderr).contains(NEEDED));
}

/// Who was known is known: the address leads to the contact, and not to a second one.
fn knows_ann(hub: &Hub, key: &str) {
    let tenant = Tenant { hub, key: key.to_owned() };
    assert_eq!(tenant.ask("PUT", "/contacts", &json!({ "email": ANN, "locale": "de" })).status, 200);
    assert_eq!(tenant.get("/contacts")["meta"]["total"], 1);
}

#[test]
pub fn a_store_is_served_with_its_store_key_alone_and_the_key_can_be_changed() {
    const ONE: &str = "key = { env = \"ONE\" }";
    const TWO: &str = "key = { env = \"TWO\" }";
    const BOTH: &str = "key = { env = \"TWO\" }\nold_keys = [{ env = \"ONE\" }]";
    let mut hub = new_hub(ONE);
    hub.start();
    let tenant = Tenant::new(&hub, "acme");
    let key = tenant.key.clone();
    assert_eq!(tenant.ask("PUT", "/contacts", &json!({ "email": ANN })).status, 200);
    knows_ann(&hub, &key);
    hub.kill();
    set_keys(&hub, ONE, TWO);
    refuses(&mut hub);
    set_keys(&hub, TWO, BOTH);
    hub.start();
    knows_ann(&hub, &key);
    assert_eq!(hub.rows(&["keys", "reseal"])[0]["address_key"], "sealed");
    hub.kill();
    set_keys(&hub, BOTH, TWO);
    hub.start();
    knows_ann(&hub, &key);
}

#[test]
fn a_back_up_works_with_the_key_that_lay_beside_the_file_and_not_without() {
    let mut hub = new_hub("");
    hub.start();
    let tenant = Tenant::new(&hub, "acme");
    let api_key = tenant.key.clone();
    assert_eq!(tenant.ask("PUT", "/contacts", &json!({ "email": ANN })).status, 200);
    assert_eq!(hub.stop(), Some(0));
    let of = |hub: &Hub, name: &str| hub.folder().join(name);
    let sealed = rusqlite::Connection::open(of(&hub, "hub.db")).unwrap();
    let sql = "SELECT length(value) FROM meta WHERE name = 'identity_key'";
    let bytes: i64 = sealed.query_row(sql, [], |row| row.get(0)).unwrap();
    assert!(bytes > 32, "the key of the address hashes stands in the file in clear");
    drop(sealed);

    let mut restored = new_hub("");
    std::fs::copy(of(&hub, "hub.db"), of(&restored, "hub.db")).unwrap();
    refuses(&mut restored);
    assert!(!of(&restored, "hub.db.key").exists(), "a key was made that opens nothing");
    std::fs::copy(of(&hub, "hub.db.key"), of(&restored, "hub.db.key")).unwrap();
    restored.start();
    knows_ann(&restored, &api_key);
    // From the file into the configuration.
    restored.kill();
    set_keys(&restored, "url = \"sqlite:hub.db\"", "url = \"sqlite:hub.db\"\nkey = { env = \"ONE\" }");
    restored.start();
    restored.rows(&["keys", "reseal"]);
    restored.kill();
    std::fs::remove_file(of(&restored, "hub.db.key")).unwrap();
    restored.start();
    knows_ann(&restored, &api_key);
}
