//! What is refused: line, column and words of every problem.

use super::*;

#[test]
fn the_base_of_the_cases_holds() {
    assert_eq!(good(&base(SECRETS, URL, TO)).warnings, Vec::<String>::new());
}

#[test]
fn files_that_are_no_configuration() {
    check("[server\nlisten = 1\n", &["1:8 TOML"]);
    check("[server]\nlisten = \"127.0.0.1:80\"\nlisten = \"127.0.0.1:81\"\n", &["3:1 TOML duplicate"]);
    check("[sorces.a]\nkind = \"api\"\n", &["1:2 section `sorces` `sources`?"]);
    check("server = 1\n", &["1:10 table [server]"]);
    check("[[sources]]\nkind = \"api\"\n", &["1:1 table [sources.NAME]"]);
    check("[routes]\nname = \"x\"\n", &["1:1 [[routes]]"]);
}

#[test]
fn server_storage_egress_and_retention() {
    check("[server]\nlisten = \"example.com\"\n", &["2:10 `example.com` 127.0.0.1:8080"]);
    check("[server]\nlisten = 8080\n", &["2:10 text number"]);
    check("[server]\nlisten = \"127.0.0.1:1\"\noperator_listen = \"127.0.0.1:1\"\n", &["3:19 same listen"]);
    check("[server]\npublic_url = \"hub.example.com\"\n", &["2:14 http https://hub.example.com"]);
    check("[server]\npublic_url = \"https://hub.example.com/?a=b\"\n", &["2:14 public_url path"]);
    check("[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"proxy\"]\n", &["2:34 `proxy` CIDR"]);
    check("[server]\nbody_max = \"5 apples\"\n", &["2:12 size 5MiB"]);
    check("[server]\nbody_max = \"5000MiB\"\n", &["2:12 range 64MiB"]);
    check("[storage]\nurl = \"postgres://hub:in-clear@db/hub\"\n", &["2:7 password clear env"]);
    check("[storage]\nurl = \"mysql://db\"\n", &["2:7 `mysql:` sqlite:"]);
    check("[storage]\nurl = \"sqlite::memory:\"\n", &["2:7 memory forgets"]);
    check("[egress]\nallow = [\"127.0.0.1:80\", \"127.0.0.1\"]\n", &["2:26 port"]);
    check("[retention]\nevents = \"3 months\"\ndedupe = \"1s\"\n", &["2:10 length time", "3:10 range 1h"]);
    check("[retention]\nevent = \"90d\"\n", &["2:1 `event` `events`?"]);
}

/// Every problem is told at once, also where one of the two is wrong in another way.
#[test]
fn two_sources_of_one_path_of_which_one_has_another_error() {
    let wrong = "[sources.d]\nkind = \"mailtarget\"\npath = \"/in/e\"\nsecrets = []\n";
    let good = "[sources.e]\nkind = \"mailtarget\"\nsecrets = [{ env = \"MAILTARGET_SECRET\" }]\n";
    check(&format!("{wrong}{good}"), &["4:11 `secrets` empty", "5:10 `sources.d` `sources.e` `/in/e`"]);
    check(&format!("{good}{wrong}"), &["6:8 `sources.e` `sources.d` `/in/e`", "7:11 `secrets` empty"]);
}

#[test]
fn sources() {
    check("[sources.x]\npath = \"/x\"\n", &["1:10 `sources.x` `kind`"]);
    check("[sources.x]\nkind = \"mailtaget\"\n", &["2:8 kind `mailtaget` `mailtarget`?"]);
    check("[sources.x]\nkind = \"hubspot\"\n", &["2:8 `hubspot` destination"]);
    check("[sources.X]\nkind = \"api\"\n", &["1:10 `X` a-z"]);
    check_source("", &["1:10 no `secrets` anyone SHOP_SECRET"]);
    check_source("secrets = []", &["3:11 empty anyone"]);
    check_source("secret = { env = \"LONG\" }", &["1:10 no `secrets`", "3:1 `secret` `secrets`?"]);
    check_source("secrets = [{ env = \"EMPTY\" }]", &["3:20 EMPTY empty"]);
    check_source("secrets = [{ env = \"NOTHING\" }]", &["3:20 NOTHING whsec_ nothing"]);
    check_source("secrets = [{ env = \"UNSET\" }, { env = \"LONG\" }]", &["3:20 UNSET set"]);
    check_source("secrets = [{ file = \"no.such.file\" }]", &["3:21 /etc/mailspan/no.such.file read"]);
    check_source("secrets = [{ env = \"LONG\", file = \"x\" }]", &["3:12 one of `env` `file`"]);
    check_source("secrets = [\"abc\"]", &["3:12 clear"]);
    check_source("secrets = \"abc\"", &["3:11 clear"]);
    check_source(&format!("{SECRETS}\npath = \"hook\""), &["4:8 `hook` absolute"]);
    check_source(&format!("{SECRETS}\npath = \"/v1/hook\""), &["4:8 `/v1` hub"]);
    check_source(&format!("{SECRETS}\npath = \"/a//b\""), &["4:8 `/a//b`"]);
    check_source(&format!("{SECRETS}\ntenant = \"A B\""), &["4:10 `A"]);
    check_source("access = { kind = \"digest\" }", &["3:19 kind `digest` access"]);
    check_source(
        "access = { kind = \"basic\", user = \"a:b\", password = { env = \"LONG\" } }",
        &["3:35 colon"],
    );
    check_source("access = { kind = \"path\", secret = { env = \"SLASHED\" } }", &["3:36 path"]);
    check_source("access = { kind = \"bearer\" }", &["3:10 `token`"]);
    let two = "[sources.a]\nkind = \"mailtarget\"\npath = \"/x\"\nsecrets = [{ env = \"LONG\" }]\n[sources.b]\nkind = \"mailtarget\"\npath = \"/x\"\nsecrets = [{ env = \"LONG\" }]\n";
    check(two, &["7:8 sources.a sources.b `/x`"]);
    check("[sources.a]\nkind = \"api\"\n[sources.b]\nkind = \"api\"\n", &["3:10 second api sources.a"]);
    check("[sources.a]\nkind = \"api\"\nsecrets = [{ env = \"LONG\" }]\n", &["3:1 `secrets` nothing keys"]);
}

#[test]
fn sources_that_are_asked_and_destinations_that_are_told_again() {
    let auth = "auth = { kind = \"bearer\", token = { env = \"LONG\" } }\n";
    let core = "[sources.a]\nkind = \"mailingcore\"\n";
    let asked = good(&format!("{core}{auth}poll = {{ every = \"30m\", page = 100 }}\n"));
    let asked = asked.sources[0].asked.as_ref().expect("it has a credential");
    assert_eq!(asked.poll.as_ref().map(|poll| poll.every_ms()), Some(1_800_000));
    assert_eq!((asked.target.base_url.as_str(), asked.pause_ms), ("https://api.mailingcore.com", 200));
    check(core, &["1:10 no `secrets` anyone"]);
    let heard = format!("{core}secrets = [{{ env = \"LONG\" }}]\n");
    assert!(good(&heard).sources[0].asked.is_none());
    check(&format!("{heard}poll = {{ every = \"15m\" }}\n"), &["4:1 `poll` no `auth`"]);
    check(&format!("{heard}base_url = \"https://core.example\"\n"), &["4:1 `base_url` no `auth`"]);
    check(&format!("{core}{auth}poll = {{ every = \"10ms\" }}\n"), &["4:18 every pause 15m"]);
    check(&format!("{core}{auth}poll = {{ evry = \"15m\" }}\n"), &["4:10 `evry` `every`?"]);
    check(&format!("{core}{auth}base_url = \"core\"\n"), &["4:12 http"]);
    check(&format!("[sources.a]\nkind = \"api\"\n{auth}"), &["3:1 `auth` nothing api"]);
    let http = "[destinations.a]\nkind = \"http\"\nurl = \"https://crm.example/\"\n";
    check(&format!("{http}resync = {{ every = \"24h\" }}\n"), &["4:1 `resync` nothing http"]);
    let core = format!("[destinations.a]\nkind = \"mailingcore\"\n{auth}");
    check(&format!("{core}resync = {{ every = \"1s\" }}\n"), &["4:20 range 1m"]);
    let told = good(&format!("{core}resync = {{ every = \"24h\" }}\n"));
    assert_eq!(told.destinations[0].resync.map(|every| every.ms), Some(86_400_000));
}

#[test]
fn settings_that_a_kind_adds() {
    check_hub("preset = \"shopify\"", "preset = \"shopfy\"", 10, "preset shopify");
    check_hub("tolerance = \"5m\"", "tolerance = \"5 minutes\"", 13, "length time");
    check_hub("tolerance = \"5m\"", "tolerence = \"5m\"", 1, "`tolerence` `tolerance`?");
    check_hub("unit = \"s\"", "unti = \"s\"", 46, "`unti` `unit`?");
    check_destination(
        &format!("{URL}\nmethod = \"GETT\"\nbatch_format = 3\nretries = 3"),
        &["7:10 method", "8:16 batch_format", "9:1 `retries` `retry`?"],
    );
}

#[test]
fn destinations() {
    check("[destinations.x]\nkind = \"htp\"\n", &["2:8 `htp` `http`?"]);
    check("[destinations.x]\nkind = \"mailtarget\"\n", &["2:8 `mailtarget` source"]);
    check_destination("", &["4:15 `url`"]);
    check_destination("base_url = \"https://crm.example.com\"", &["6:1 base_url `url`"]);
    check_destination("url = \"crm.example.com\"", &["6:7 http https URL"]);
    check_destination("url = \"https://crm.example.com\"\nsuccess = []", &["7:11 empty [200, 202]"]);
    check_destination("url = \"ftp://crm.example.com\"", &["6:7 http"]);
    check_destination("url = \"https://u:p@crm.example.com\"", &["6:7 password auth"]);
    check_destination("url = \"https://crm.example.com/#x\"", &["6:7 #"]);
    check_destination(&format!("{URL}\nrate = \"fast\""), &["7:8 rate 100/10s"]);
    check_destination(&format!("{URL}\nrate = \"0/1s\""), &["7:8 zero pause"]);
    check_destination(&format!("{URL}\nconcurrency = 0"), &["7:15 range 1"]);
    check_destination(&format!("{URL}\nconcurrency = \"8\""), &["7:15 number quotes"]);
    check_destination(&format!("{URL}\ntimeout = \"1h\""), &["7:11 range 5m"]);
    check_destination(&format!("{URL}\nretry = []"), &["7:9 0 waits"]);
    check_destination(&format!("{URL}\nretry = [\"5s\", \"soon\"]"), &["7:16 `soon`"]);
    check_destination(&format!("{URL}\nretry = 3"), &["7:9 list calendar"]);
    check_destination(
        &format!("{URL}\nretry = {{ calender = [\"5s\"], for = \"72h\" }}"),
        &["7:11 calender `calendar`?"],
    );
    check_destination(
        &format!("{URL}\nretry = {{ for = {{ consents = \"7d\" }} }}"),
        &["7:19 consents `consent`?"],
    );
    check_destination(&format!("{URL}\nbatch = {{ max = 0, wait = \"2h\" }}"), &["7:17 range", "7:27 range"]);
    check_destination(&format!("{URL}\nbatch = 100"), &["7:9 table max"]);
    check_destination(&format!("{URL}\norder = \"nine\""), &["7:9 `none`?"]);
    check_destination(&format!("{URL}\nheaders = {{ \"X Y\" = \"a\" }}"), &["7:13 header"]);
    check_destination(&format!("{URL}\nheaders = {{ \"X-Api-Key\" = \"abc\" }}"), &["7:27 clear"]);
    check_destination(&format!("{URL}\nheaders = {{ Host = \"a\" }}"), &["7:13 `host` itself"]);
    check_destination(&format!("{URL}\nheaders = {{ A = \"1\", a = \"2\" }}"), &["7:22 twice"]);
    check_destination(
        &format!(
            "{URL}\nheaders = {{ Authorization = {{ env = \"LONG\" }} }}\nauth = {{ kind = \"bearer\", token = {{ env = \"LONG\" }} }}"
        ),
        &["7:1 `authorization` both"],
    );
    check_destination(
        &format!("{URL}\nauth = {{ kind = \"bearer\", token = {{ env = \"TWO_LINES\" }} }}"),
        &["7:35 TWO_LINES line"],
    );
    check_destination(&format!("{URL}\nauth = {{ kind = \"oauth\" }}"), &["7:17 `oauth`"]);
    check_destination(&format!("{URL}\nauth = {{ token = {{ env = \"LONG\" }} }}"), &["7:8 `kind`"]);
    check_destination(
        &format!("{URL}\nsign = {{ kind = \"standard_webhooks\", secret = {{ env = \"NOT_BASE64\" }} }}"),
        &["7:47 NOT_BASE64 base64"],
    );
    check_destination(
        &format!(
            "{URL}\nsign = {{ kind = \"hmac\", secret = {{ env = \"LONG\" }}, header = \"x\", signed = \"{{bdy}}\" }}"
        ),
        &["7:75 {bdy}"],
    );
    check_destination(
        &format!(
            "{URL}\nsign = {{ kind = \"hmac\", secret = {{ env = \"LONG\" }}, header = \"x\", signed = \"{{timestamp}}.{{body}}\" }}"
        ),
        &["7:75 timestamp_header"],
    );
    check_destination(
        &format!(
            "{URL}\nsign = {{ kind = \"hmac\", secret = {{ env = \"LONG\" }}, header = \"x\", encoding = \"hax\" }}"
        ),
        &["7:77 `hex`?"],
    );
    check_destination(&format!("{URL}\nca = \"ca.pem\""), &["7:6 file"]);
    check_destination(&format!("{URL}\nca = {{ env = \"LONG\" }}"), &["7:6 certificate PEM"]);
    check_destination(
        &format!("{URL}\nclient_certificate = {{ cert = {{ env = \"LONG\" }} }}"),
        &["7:22 `key`", "7:31 certificate"],
    );
    check_destination(&format!("{URL}\ntitle_case_headers = \"yes\""), &["7:22 true false"]);
    check(
        "[destinations.x]\nkind = \"hubspot\"\nsign = { kind = \"standard_webhooks\", secret = { env = \"LONG\" } }\nbase_url = \"https://x.example.com/?a\"\n",
        &["3:1 `sign`", "4:12 query"],
    );
}

#[test]
fn routes() {
    check("[[routes]]\nto = []\n", &["1:1 `name`", "2:6 destination"]);
    check_route("", &["7:1 `to` nowhere"]);
    check_route("to = \"crm\"", &["9:6 list"]);
    check_route("to = [\"crm\", \"crn\"]", &["9:14 `crn` `crm`?"]);
    check_route("to = [\"crm\", \"crm\"]", &["9:14 twice"]);
    check_route(&format!("{TO}\nfrom = [\"shop\", \"sohp\"]"), &["10:17 source `sohp` `shop`?"]);
    check_route(&format!("{TO}\nfrom = []"), &["10:8 leave from"]);
    check_route(&format!("{TO}\nform = [\"shop\"]"), &["10:1 `form` `from`?"]);
    check_route(
        &format!("{TO}\nevents = [\"click ed\", \"\", \"a.b\"]"),
        &["10:11 `click email.clicked", "10:23 type"],
    );
    check_route(&format!("{TO}\nevents = \"email.clicked\""), &["10:10 list"]);
    check_route(&format!("{TO}\nmap = \"crn\""), &["10:7 `crn` \"crm\""]);
    check_route(&format!("{TO}\nwhen = ''"), &["10:8 empty"]);
    check_route(&format!("{TO}\ncreate_contacts = 1"), &["10:19 true"]);
    check_route(&format!("{TO}\nnotify = \"mailto:me@example.com\""), &["10:10 http"]);
    check_route(&format!("{TO}\ntenant = \"acme\""), &["9:7 tenant `default`"]);
    check_route(&format!("{TO}\n[[routes]]\nname = \"all\"\n{TO}"), &["11:8 second `all` 8"]);
    let notify = base(SECRETS, URL, &format!("{TO}\nnotify = \"https://x.example.com/\""))
        + "[destinations.\"all.notify\"]\nkind = \"http\"\nurl = \"https://x.example.com/\"\n";
    check(&notify, &["11:15 `all.notify` taken"]);
}

#[test]
fn programs_that_do_not_compile_point_into_the_file() {
    check_hub("\"link\": .data.url,", "\"link\": .data.url +,", 22, "");
    check_hub("'exists(.data.url)'", "'exist(.data.url)'", 9, "exist");
    check_hub("\"data\": .body }'''", "\"data\": .body +}'''", 74, "");
    check_route(
        &format!("{TO}\nwhen = \"exists(.\\\"a\\\") && nope(.x)\""),
        &["10:27 undefined function mean"],
    );
    check_route(&format!("{TO}\nwhen = '.data.n > 3'"), &["10:9 to_int(.data.n) ?? 0) int!(.data.n)"]);
    check_route(&format!("{TO}\nmap = 'string(.a)'"), &["10:8 string!(.data.a)"]);
}

#[test]
fn all_problems_are_found_in_one_run() {
    let text = "[server]\nlisten = 1\nport = 2\n[sources.a]\nkind = \"mailtarget\"\n[destinations.b]\nkind = \"http\"\nrate = \"x\"\n[[routes]]\nname = \"r\"\nfrom = [\"c\"]\nto = [\"d\"]\n";
    check(text, &["2:10 text", "3:1 `port`", "4:10 secrets", "6:15 url", "8:8 rate", "11:9 `c`", "12:7 `d`"]);
}

#[test]
fn the_hubs_own_certificate() {
    let key = rcgen::KeyPair::generate().unwrap();
    let chain =
        rcgen::CertificateParams::new(vec!["hub.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("hub.pem", &chain.pem());
    let secret = key.serialize_pem();
    write("hub.key", &secret);
    write("other.key", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    let read = |tls: &str| {
        let text = format!("[server]\ntls = {tls}\n");
        super::read("bad.toml", folder.path(), &text, &Options { env: &env, names: &[], dev: false })
    };
    let hub = read("{ cert = { file = \"hub.pem\" }, key = { file = \"hub.key\" } }");
    let hub = hub.unwrap_or_else(|problems| panic!("{problems}"));
    assert!(hub.server.tls.is_some_and(|own| own.is_of_files()));
    assert_eq!(hub.server.public_url, "https://127.0.0.1:8080");
    let missing = "{ cert = { file = \"none.pem\" }, key = { file = \"hub.key\" } }";
    let swapped = "{ cert = { file = \"hub.key\" }, key = { file = \"hub.pem\" } }";
    let other = "{ cert = { file = \"hub.pem\" }, key = { file = \"other.key\" } }";
    for (tls, expected) in [
        ("true", vec!["expected a table"]),
        ("{ cert = \"hub.pem\" }", vec!["no `key`", "`cert` is text"]),
        (missing, vec!["none.pem"]),
        (swapped, vec!["no certificate can be read"]),
        (other, vec!["not the key"]),
        ("{ cert = { file = \"hub.pem\" }, key = { env = \"LONG\" } }", vec!["no private key"]),
        ("{ cert = { file = \"hub.pem\" }, key = { file = \"hub.key\" }, min = \"1.3\" }", vec!["`min`"]),
    ] {
        let Err(problems) = read(tls) else { panic!("this should be refused: {tls}") };
        let said = problems.to_string();
        assert_eq!(problems.0.len(), expected.len(), "{said}");
        for words in expected {
            words.split('|').for_each(|word| assert!(said.contains(word), "`{word}` is missing in {said}"));
        }
        let body = secret.lines().filter(|line| !line.starts_with('-'));
        body.for_each(|line| assert!(!said.contains(line), "the key is shown: {said}"));
    }
}
