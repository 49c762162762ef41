//! A hundred files that are wrong in every way we thought of: each mistake is named once, with its place and its mend.

use super::*;

/// Texts, each with the lines on which something is wrong, in the order of the file; a line stands as often as it
/// has mistakes.
const FILES: &[(&str, &[usize])] = &[
    // No TOML.
    ("[server", &[1]),
    ("[server]]\n", &[1]),
    ("server = {", &[1]),
    ("= 1\n", &[1]),
    ("[server]\nlisten\n", &[2]),
    ("[server]\nlisten =\n", &[2]),
    ("[server]\nlisten = 127.0.0.1:80\nbody_max = 5MiB\n", &[2, 3]),
    ("[server]\nlisten = \"127.0.0.1:80\n", &[2]),
    ("[server]\nlisten = '127.0.0.1:80\n", &[2]),
    ("[server]\nlisten = \"\\q\"\n", &[2]),
    ("[server]\nlisten = \"a\u{0}b\"\n", &[2]),
    ("[server]\rlisten = \"a\"\n", &[1]),
    ("[egress]\nallow = [\"10.1.2.3:443\"\n", &[2]),
    ("[egress]\nallow = [\"10.1.2.3:443\" \"10.1.2.4:443\"]\n", &[2]),
    ("[[routes]\nname = \"a\"\n", &[1]),
    ("{ \"server\": { \"listen\": \"127.0.0.1:80\" } }\n", &[1]),
    ("server:\n  listen: 127.0.0.1:80\n", &[1, 1, 2]),
    ("<server/>\n", &[1, 1, 1]),
    ("[server]\nlisten = TRUE\n", &[2]),
    ("[limits]\nintake_queue = 01\n", &[2]),
    ("[limits]\nintake_queue = 1__0\n", &[2]),
    ("[server]\nkey with blanks = 1\n", &[2]),
    // Keys that stand twice, and what else is wrong beside them.
    ("[server]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\nlissten = 1\n", &[3, 4]),
    ("[server]\n[server]\n", &[2]),
    ("[sources.a]\nkind = \"api\"\n[sources.a]\nkind = \"api\"\n", &[3, 4]),
    ("[sources]\na.kind = \"api\"\n[sources.a]\nkind = \"api\"\n", &[3, 4]),
    ("server.listen = \"127.0.0.1:1\"\n[server]\nrole = \"all\"\n", &[2]),
    ("routes = []\n[[routes]]\nname = \"a\"\n", &[2]),
    // Sections and shapes.
    ("listen = \"127.0.0.1:80\"\n", &[1]),
    ("[Server]\n", &[1]),
    ("[\"\"]\n", &[1]),
    (
        "server = []\nstorage = 1\negress = true\nlimits = 1.5\nretention = \"x\"\nsources = 1979-05-27\ndestinations = \"x\"\nroutes = \"x\"\n",
        &[1, 2, 3, 4, 5, 6, 7, 8],
    ),
    ("[sources]\na = 1\n[destinations]\nb = []\n", &[2, 4]),
    ("routes = [1, \"a\", []]\n", &[1, 1, 1]),
    (
        "[server]\nlisten = []\npublic_url = 1\ntrusted_proxies = \"x\"\nbody_max = 1\nrole = true\nconnections_per_address = \"1\"\ntls = 1\noperator_listen = 1.0\n",
        &[2, 3, 4, 5, 6, 7, 8, 9],
    ),
    ("[storage]\nurl = 1\nkey = 1\nold_keys = 1\n", &[2, 3, 4]),
    ("[storage]\nurl = \"\"\n", &[2]),
    ("[storage]\nurl = \"sqlite:\"\n", &[2]),
    ("[storage]\nurl = \"hub.db\"\n", &[2]),
    (
        "[storage]\nurl = \"sqlite:hub.db\"\nold_keys = [{ env = \"UNSET\" }, { env = \"EMPTY\" }]\nkey = { env = \"UNSET\" }\n",
        &[3, 3, 4],
    ),
    (
        "[egress]\nallow = [1, true, \"x\", \"10.0.0.0/8\", \"10.0.0.0/99:1\", \"10.1.2.3:0\", \"10.1.2.3:9-1\", \"10.1.2.3:99999\"]\n",
        &[2, 2, 2, 2, 2, 2, 2, 2],
    ),
    ("[server]\ntrusted_proxies = [\"10.0.0.0/33\", \"::1/129\", 5]\n", &[2, 2, 2]),
    ("[server]\nlisten = \"127.0.0.1\"\noperator_listen = \"127.0.0.1:99999\"\n", &[2, 3]),
    // Numbers and times: nothing, below nothing, beyond all bounds.
    ("[limits]\nintake_queue = 0\n", &[2]),
    ("[limits]\nintake_queue = -1\n", &[2]),
    ("[limits]\nintake_queue = 1000000000\n", &[2]),
    ("[limits]\nintake_queue = 99999999999999999999999999\n", &[2]),
    ("[limits]\nintake_queue = 1e9\n", &[2]),
    ("[limits]\nintake_queue = nan\n", &[2]),
    ("[server]\nconnections_per_address = 0\nbody_max = \"0B\"\n", &[2, 3]),
    ("[server]\nbody_max = \"99999999999999999999MiB\"\n", &[2]),
    ("[server]\nbody_max = \"-5MiB\"\n", &[2]),
    ("[retention]\nrequests = \"0\"\nevents = \"-1d\"\ndedupe = \"1e9d\"\n", &[2, 3, 4]),
    (
        "[retention]\nrequests = \"0d\"\nevents = \"1000000000d\"\ndedupe = \"99999999999999999999d\"\n",
        &[2, 3, 4],
    ),
    ("[retention]\nrequests = 30\nevents = \"\"\ndedupe = \"1.5d\"\n", &[2, 3, 4]),
    // Destinations.
    ("[destinations.x]\n", &[1]),
    ("[destinations.x]\nkind = \"\"\n", &[2]),
    ("[destinations.x]\nkind = 5\n", &[2]),
    (
        "[destinations.x]\nkind = \"htpp\"\nrate = \"x\"\nconcurrency = 0\nauth = { kind = \"x\" }\n",
        &[2, 3, 4, 5],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"\"\nrate = \"-1/s\"\nconcurrency = -1\ntimeout = \"0s\"\nretry = [\"0s\"]\nretry_after_max = \"0s\"\ndaily = 0\n",
        &[3, 4, 5, 6, 7, 8, 9],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nrate = \"99999999999/1s\"\nconcurrency = 1000000000\ntimeout = \"1000000000s\"\nretry = [\"1000000000d\"]\nretry_after_max = \"8d\"\ndaily = 99999999999\n",
        &[4, 5, 6, 7, 8, 9],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nretry = { calendar = [\"x\", \"0s\", 5], for = \"0d\" }\n",
        &[4, 4, 4, 4],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nretry = { for = { consent = \"x\", profile = \"y\", activity = 1 } }\n",
        &[4, 4, 4],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nretry = {}\nbatch = []\nbreaker = 1\nheaders = 1\nsign = 1\nauth = 1\nca = 1\nclient_certificate = 1\nresync = 1\n",
        &[4, 5, 6, 7, 8, 9, 10, 11, 12],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nbreaker = { failures = -1, share = 0, wait = \"0s\", wait_max = \"2h\", x = 1 }\n",
        &[4, 4, 4, 4, 4],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nerrors = { 4x = \"retry\", 404 = \"rety\", 700 = \"retry\", 500-400 = \"retry\", 410 = 5 }\n",
        &[4, 4, 4, 4, 4],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nsuccess = [200, \"x\", 99, \"2xx\", true]\n",
        &[4, 4, 4, 4],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nsuccess = 200\nerrors = []\nmethod = \"get\"\nidempotency_header = \"a b\"\nbatch_format = \"x\"\n",
        &[4, 5, 6, 7, 8],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nheaders = { \"a b\" = \"1\", Host = \"x\", x-token = \"in clear\", y = 5, z = \"ü\\n\" }\n",
        &[4, 4, 4, 4, 4],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nsign = { kind = \"hmac\", secret = { env = \"UNSET\" }, header = \"a b\", encoding = \"x\", algorithm = \"md5\", signed = \"{x}\" }\n",
        &[4, 4, 4, 4, 4],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nauth = { kind = \"bearer\", token = { env = \"UNSET\", file = \"x\" }, user = \"x\" }\n",
        &[4, 4],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nauth = { kind = \"basic\", user = \"\", password = { file = 5 } }\n",
        &[4, 4],
    ),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nca = { file = \"/no/such/ca.pem\" }\nclient_certificate = { cert = { file = \"/no/c.pem\" }, key = { file = \"/no/k.pem\" } }\n",
        &[4, 5, 5],
    ),
    ("[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\nca = { file = \"/\" }\n", &[4]),
    (
        "[destinations.x]\nkind = \"http\"\nurl = \"https://x.example/\"\ntenant = \"A\"\norder = 1\naccount = 1\necho_of = [\"a\", 1]\ncoalesce = 1\ntitle_case_headers = 1\n",
        &[4, 5, 6, 7, 7, 8, 9],
    ),
    (
        "[destinations.x]\nkind = \"hubspot\"\nurl = \"https://x.example/\"\nauth = { kind = \"bearer\", token = { env = \"LONG\" } }\n",
        &[3],
    ),
    ("[destinations.hs]\nkind = \"hubspot\"\nversion = 1\nbase_url = \"x\"\n", &[3, 4]),
    (
        "[destinations.\"a b\"]\nkind = \"http\"\nurl = \"https://x.example/\"\n[destinations.\"\"]\nkind = \"http\"\nurl = \"https://x.example/\"\n",
        &[1, 4],
    ),
    // Sources.
    ("[sources.x]\nkind = \"hmac\"\nsecrets = [{ env = \"LONG\" }]\n", &[1]),
    ("[sources.x]\nkind = \"hmac\"\npreset = \"twilio\"\nsecrets = [{ env = \"LONG\" }]\n", &[3]),
    (
        "[sources.x]\nkind = \"hmac\"\npreset = \"shopify\"\nheader = \"a b\"\nencoding = \"x\"\nalgorithm = 5\nsigned = \"{nope}\"\ntolerance = \"x\"\nsecrets = [{ env = \"LONG\" }]\n",
        &[4, 5, 6, 7, 8],
    ),
    (
        "[sources.x]\nkind = \"hmac\"\nheader = \"X-S\"\ntimestamp = { header = \"a b\", unit = \"h\" }\nid = 5\nsecrets = [{ env = \"LONG\" }]\n",
        &[4, 5],
    ),
    (
        "[sources.x]\nkind = \"hmac\"\nheader = \"X-S\"\ndedupe = { fields = [1, 2, \"a\"] }\nsecrets = [{ env = \"LONG\" }]\n",
        &[4, 4],
    ),
    (
        "[sources.x]\nkind = \"mailtarget\"\nsecrets = [{ env = \"UNSET\" }, { file = \"no\" }, \"clear\", 5, {}]\n",
        &[3, 3, 3, 3, 3],
    ),
    (
        "[sources.x]\nkind = \"mailtarget\"\nsecrets = [{ env = \"\" }, { env = 5 }, { file = \"\" }]\n",
        &[3, 3, 3],
    ),
    ("[sources.x]\nkind = \"standard_webhooks\"\nsecrets = [{ env = \"NOT_BASE64\" }]\n", &[3]),
    (
        "[sources.x]\nkind = \"mailtarget\"\nsecrets = [{ env = \"LONG\" }]\npath = \"/../x\"\naccess = { kind = \"bearer\", token = { env = \"UNSET\" } }\ntenant = 5\n",
        &[4, 5, 6],
    ),
    (
        "[sources.x]\nkind = \"hmac\"\npreset = \"github\"\nsecrets = [{ env = \"LONG\" }]\nparse = '5'\n",
        &[5],
    ),
    (
        "[sources.x]\nkind = \"hmac\"\npreset = \"github\"\nsecrets = [{ env = \"LONG\" }]\nparse = 'to_string(.a) ?? \"\"'\n",
        &[5],
    ),
    (
        "[sources.x]\nkind = \"hmac\"\npreset = \"github\"\nsecrets = [{ env = \"LONG\" }]\nparse = '[1, \"a\"]'\n",
        &[5],
    ),
    (
        "[sources.x]\nkind = \"hmac\"\npreset = \"github\"\nsecrets = [{ env = \"LONG\" }]\nparse = '{ \"typ\": \"a.b\" }'\n",
        &[5],
    ),
    (
        "[sources.x]\nkind = \"hmac\"\npreset = \"github\"\nsecrets = [{ env = \"LONG\" }]\nparse = '{ \"type\": 5 }'\n",
        &[5],
    ),
    (
        "[sources.x]\nkind = \"hmac\"\npreset = \"github\"\nsecrets = [{ env = \"LONG\" }]\nparse = '''\n.body.a +\n'''\n",
        &[7],
    ),
    (
        "[sources.x]\nkind = \"hmac\"\npreset = \"github\"\nsecrets = [{ env = \"LONG\" }]\nparse = '''\nnope(.a)\nnada(.b)\n'''\n",
        &[6, 7],
    ),
    ("[sources.system]\nkind = \"api\"\n", &[1]),
    (
        "[sources.a]\nkind = \"mailtarget\"\nsecrets = [{ env = \"LONG\" }]\naccess = { kind = \"path\", secret = { env = \"LONG\" } }\n[sources.b]\nkind = \"mailtarget\"\nsecrets = [{ env = \"LONG\" }]\npath = \"/in/a/b\"\n",
        &[8],
    ),
    (
        "[sources.b]\nkind = \"mailtarget\"\nsecrets = [{ env = \"LONG\" }]\npath = \"/in/a/b\"\n[sources.a]\nkind = \"mailtarget\"\nsecrets = [{ env = \"LONG\" }]\naccess = { kind = \"path\", secret = { env = \"LONG\" } }\n",
        &[5],
    ),
    // Routes.
    ("[[routes]]\n", &[1, 1]),
    (
        "[[routes]]\nname = \"\"\nto = [\"\"]\nfrom = [\"\"]\nevents = [\"\"]\nwhen = \"\"\nmap = \"\"\nnotify = \"\"\ntenant = \"\"\ncreate_contacts = \"\"\n",
        &[2, 3, 4, 5, 6, 7, 8, 9, 10],
    ),
    (
        "[[routes]]\nname = 1\nto = 1\nfrom = 1\nevents = 1\nwhen = 1\nmap = 1\nnotify = 1\ntenant = 1\n",
        &[2, 3, 4, 5, 6, 7, 8, 9],
    ),
    (
        "[[routes]]\nname = \"a\"\nto = [\"a\"]\n[[routes]]\nname = \"a\"\nto = [\"a\"]\n[[routes]]\nname = \"a\"\nto = [\"b\"]\n",
        &[3, 5, 6, 8, 9],
    ),
    ("[[routes]]\nname = \"a\"\nto = [1, 2]\nevents = [1, \"a b\", \"*.x\"]\n", &[3, 3, 4, 4, 4]),
    ("[[routes]]\nname = \"a\"\nnotify = \"https://x.example/\"\nwhen = '5'\nmap = 'nope'\n", &[4, 5]),
];

#[test]
fn every_mistake_is_named_once_with_its_place_and_its_mend() {
    let mut wrong = Vec::new();
    for (text, lines) in FILES {
        let problems = match parse_with(text, &env, false) {
            Ok(_) => {
                wrong.push(format!("this should be refused:\n{text}"));
                continue;
            }
            Err(problems) => problems,
        };
        let found: Vec<usize> = problems.0.iter().map(|problem| problem.line).collect();
        let mended = |problem: &report::Problem| {
            problem.column > 0 && problem.help.as_ref().is_some_and(|help| help.len() > 3)
        };
        if found != *lines || !problems.0.iter().all(mended) {
            wrong.push(format!("expected lines {lines:?}, found {found:?} in:\n{text}\n{problems}"));
        }
    }
    assert!(wrong.is_empty(), "{} files:\n\n{}", wrong.len(), wrong.join("\n----\n"));
    assert!(FILES.len() >= 100, "{}", FILES.len());
}

/// A file of megabytes with a mistake on every line: what is done for one mistake must not walk the file.
#[test]
fn sixty_thousand_mistakes_are_named_each_once() {
    let check = |text: String, expected: usize| {
        assert!(text.len() as u64 <= CONFIG_BYTES_MAX, "{}", text.len());
        let problems = bad(&text);
        assert_eq!(problems.0.len(), expected);
        assert!(problems.to_string().ends_with(&format!("and {} more\n", expected - 100)));
    };
    let keys = |n: usize, one: &dyn Fn(usize) -> String| (0..n).map(one).collect::<String>();
    check("[server]\n".to_owned() + &keys(60_000, &|n| format!("a{n} = 1\n")), 60_000);
    check("server = { ".to_owned() + &keys(60_000, &|n| format!("token{n} = 1,")) + "}\n", 60_000);
    check("[server]\n".to_owned() + &keys(60_000, &|n| format!("a{n} 'x'\n")), 60_000);
    check(keys(20_000, &|n| format!("[[routes]]\nname='r'\nto=[\"x{n}\"]\n")), 39_999);
    let ends = keys(10_000, &|n| format!("[sources.s{n}]\nkind=\"mailtarget\"\n"));
    check(
        ends + &keys(20_000, &|n| format!("[[routes]]\nname='r{n}'\nto=[\"x\"]\nfrom=[\"y{n}\"]\n")),
        50_000,
    );
}
