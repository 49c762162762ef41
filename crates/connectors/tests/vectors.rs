//! Every signature whose key, message and result are printed somewhere public, through the front
//! door of its kind. A failure means that we and the sender no longer speak of the same bytes.

use mailspan_connectors::contract::{Refusal, Source, Verified};
use mailspan_connectors::{fuzzing, registry, signature};
use mailspan_core::{Millis, Named, RawRequest, Secret};
use serde_json::{Value, json};

fn source(kind: &str, settings: Value) -> Box<dyn Source> {
    let kind = registry::kind(kind).expect("the kind is in the registry");
    (kind.source.as_ref().expect("it is a source").build)(&settings).unwrap_or_else(|bad| panic!("{bad:?}"))
}

fn preset(name: &str) -> Box<dyn Source> {
    source("hmac", json!({"preset": name}))
}

fn secret(text: &str) -> Named {
    Named { name: "S".to_owned(), secret: Secret::new(text.to_owned()) }
}

fn request(headers: &[(&str, &str)], body: &str) -> RawRequest {
    let headers =
        headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    fuzzing::request(headers, body.as_bytes())
}

fn good(source: &dyn Source, request: &RawRequest, key: &str, now_ms: i64) {
    let got =
        source.verify(request, &[secret("another-secret-of-somebody"), secret(key)], Millis(now_ms), true);
    assert_eq!(got, Verified::By { credential: "S".to_owned() }, "the vector should verify");
    let mut changed = request.clone();
    changed.body = [&request.body[..], b" "].concat().into();
    refused(source, &changed, key, now_ms, "mismatch");
}

fn refused(source: &dyn Source, request: &RawRequest, key: &str, now_ms: i64, check: &str) -> Refusal {
    match source.verify(request, &[secret(key)], Millis(now_ms), true) {
        Verified::Refused(refusal) => {
            assert_eq!(refusal.check, check, "{refusal:?}");
            refusal
        }
        other => panic!("{other:?} where `{check}` was expected"),
    }
}

/// Secret, id, seconds, body, signature.
const STANDARD: [[&str; 5]; 3] = [
    [
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "1614265330",
        r#"{"test": 2432232314}"#,
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ],
    [
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        "1649367553",
        r#"{"email":"test@example.com","username":"test_user"}"#,
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
    ],
    [
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "1614265330",
        r#"{"test": 2432232314}"#,
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
    ],
];

#[test]
fn standard_webhooks_vectors_are_made_and_verified() {
    let source = source("standard_webhooks", json!({}));
    for [key, id, stamp, body, signature] in STANDARD {
        let seconds: i64 = stamp.parse().expect("a count of seconds");
        let made = signature::standard::sign(&[secret(key)], id, seconds, body.as_bytes());
        assert_eq!(made, signature, "signing");
        for names in signature::standard::HEADERS {
            let two = format!("v1,AAAA v9,x {signature}");
            let headers = [(names[0], id), (names[1], stamp), (names[2], two.as_str())];
            let request = request(&headers, body);
            good(&*source, &request, key, seconds * 1_000);
            good(&*source, &request, key, seconds * 1_000 + 299_000);
            good(&*source, &request, key, seconds * 1_000 - 299_000);
            refused(&*source, &request, key, seconds * 1_000 + 301_000, "timestamp_out_of_window");
            let late = refused(&*source, &request, key, seconds * 1_000 - 420_000, "timestamp_out_of_window");
            assert!(late.hint.expect("a hint").contains("clock off by 7 minutes"));
        }
    }
    let [_, id, stamp, body, signature] = STANDARD[2];
    let headers = [("webhook-id", id), ("webhook-timestamp", stamp), ("webhook-signature", signature)];
    let public = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    good(&*source, &request(&headers, body), public, 1_614_265_330_000);
}

#[test]
fn several_secrets_make_several_signatures() {
    let secrets = [
        secret(STANDARD[0][0]),
        secret(STANDARD[2][0]),
        secret("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="),
    ];
    let made = signature::standard::sign(&secrets, STANDARD[0][1], 1_614_265_330, STANDARD[0][3].as_bytes());
    assert_eq!(made, format!("{} {}", STANDARD[0][4], STANDARD[2][4]));
}

#[test]
fn a_key_of_nothing_verifies_nothing() {
    let source = source("standard_webhooks", json!({}));
    let body = "{}";
    let content = format!("m.1614265330.{body}");
    let mac = signature::base64(&signature::hmac_sha256(b"", content.as_bytes()));
    let value = format!("v1,{mac}");
    let headers =
        [("webhook-id", "m"), ("webhook-timestamp", "1614265330"), ("webhook-signature", value.as_str())];
    for empty in ["whsec_", "", " ", "whpk_", "whsk_"] {
        refused(&*source, &request(&headers, body), empty, 1_614_265_330_000, "no_secret");
    }
    let mac = signature::hex(&signature::hmac_sha256(b"", b"{}"));
    for kind in ["mailtarget", "hmac"] {
        let settings = if kind == "hmac" { json!({"header": "x-mailtarget-signature"}) } else { json!({}) };
        let source = self::source(kind, settings);
        refused(&*source, &request(&[("x-mailtarget-signature", &mac)], body), "", 0, "no_secret");
        assert!(matches!(
            source.verify(&request(&[("x-mailtarget-signature", &mac)], body), &[], Millis(0), true),
            Verified::Refused(Refusal { check: "no_secret", .. })
        ));
    }
}

#[test]
fn github_vectors_verify() {
    for (key, body, mac) in [
        (
            "It's a Secret to Everybody",
            "Hello, World!",
            "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        ),
        ("mysecret", r#"{"foo":"bar"}"#, "4864d2759938a15468b5df9ade20bf161da9b4f737ea61794142f3484236bda3"),
    ] {
        let value = format!("sha256={mac}");
        good(&*preset("github"), &request(&[("x-hub-signature-256", &value)], body), key, 0);
        let bare = request(&[("x-hub-signature-256", mac)], body);
        refused(&*preset("github"), &bare, key, 0, "malformed_signature");
        let upper = mac.to_ascii_uppercase();
        for value in [mac, &upper, &value] {
            let mailtarget = source("mailtarget", json!({}));
            good(&*mailtarget, &request(&[("x-mailtarget-signature", value)], body), key, 0);
        }
    }
}

#[test]
fn hubspot_vectors_verify() {
    let key = "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy";
    let body = r#"[{"eventId":1,"subscriptionId":12345,"portalId":62515,"occurredAt":1564113600000,"subscriptionType":"contact.creation","attemptNumber":0,"objectId":123,"changeSource":"CRM","changeFlag":"NEW","appId":54321}]"#;
    let v1 = "232db2615f3d666fe21a8ec971ac7b5402d33b9a925784df3ca654d05f4817de";
    good(&*preset("hubspot_v1"), &request(&[("x-hubspot-signature", v1)], body), key, 0);
    for (method, body, mac) in [
        ("GET", "", "eee2dddcc73c94d699f5e395f4b9d454a069a6855fbfa152e91e88823087200e"),
        (
            "POST",
            r#"{"example_field":"example_value"}"#,
            "9569219f8ba981ffa6f6f16aa0f48637d35d728c7e4d93d0d52efaa512af7900",
        ),
    ] {
        let mut request = request(&[("x-hubspot-signature", mac)], body);
        request.method = method.to_owned();
        request.url = "https://www.example.com/webhook_uri".to_owned();
        good(&*preset("hubspot_v2"), &request, key, 0);
    }
}

#[test]
fn mailingcore_vectors_verify() {
    let key = "whsec_0123456789abcdef0123456789abcdef";
    let long = r#"{"id":"evt_1","type":"contact.unsubscribed","createdAt":"2026-06-30T12:00:00.000Z","tenantId":"tnt_1","data":{"contactId":"c_1","externalId":"user-12345","email":"a@example.com","unsubscribedAt":"2026-06-30T12:00:00.000Z","source":"hosted_page"}}"#;
    for (body, mac) in [
        ("", "1049eb1b32b7d72780b6ea9d84feb83428c346a3731e0046c4b4e3fbcef74216"),
        (r#"{"name":"Núria"}"#, "ca23d8809ee33cbcbbe9261178caffd01b8b7dd177ca4d210576419365e2639a"),
        (long, "adb21f08776b1fe03cf09c26dd1795f9c8c266f03710a084b45fb6aca4b43260"),
    ] {
        let now = 1_719_763_200_000;
        let value = format!("t=1719763200,v1={mac}");
        let source = preset("mailingcore");
        good(&*source, &request(&[("x-mailingcore-signature", &value)], body), key, now);
        let spaced = format!("v0=00, v1={}, t=1719763200 ,v1={mac}", "00".repeat(32));
        good(&*source, &request(&[("x-mailingcore-signature", &spaced)], body), key, now);
        for (bad, check) in [
            (format!("v1={mac}"), "no_timestamp"),
            (format!("t=1719763200,t=1719763200,v1={mac}"), "malformed_timestamp"),
            (format!("t=soon,v1={mac}"), "mismatch"),
            ("t=1719763200".to_owned(), "malformed_signature"),
            (format!("t=1719763200,v1={}", &mac[1..]), "malformed_signature"),
            (format!("t=1719763200,v1={}", &mac[2..]), "malformed_signature"),
            ("t=1719763200,v1=💥".to_owned(), "malformed_signature"),
        ] {
            refused(&*source, &request(&[("x-mailingcore-signature", &bad)], body), key, now, check);
        }
    }
}

/// Slack's own example (api.slack.com/authentication/verifying-requests-from-slack).
#[test]
fn slack_vector_verifies() {
    let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let headers = [
        ("x-slack-signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
        ("x-slack-request-timestamp", "1531420618"),
    ];
    let request = request(&headers, body);
    good(&*preset("slack"), &request, "8f742231b10e8888abcd99yyyzzz85a5", 1_531_420_618_000);
}

/// What every source signs, it verifies, and under no other secret, body or time.
#[test]
fn what_a_source_signs_it_verifies() {
    for target in fuzzing::targets() {
        let Some(named) = target.secrets.first() else { continue };
        let mut request = request(&[], r#"{"type":"a.b","data":{}}"#);
        for (name, value) in target.source.sign(&request, named, fuzzing::NOW) {
            request.headers.push((name, value.into_bytes()));
        }
        let label = &target.label;
        let verify = |request: &RawRequest, secrets: &[Named], ms: i64| {
            target.source.verify(request, secrets, Millis(fuzzing::NOW.0 + ms), true)
        };
        let by = Verified::By { credential: named.name.clone() };
        assert_eq!(verify(&request, &target.secrets, 0), by, "{label}");
        let other = secret("whsec_b3RoZXI=");
        assert!(matches!(verify(&request, &[other], 0), Verified::Refused(_)), "{label}");
        let mut changed = request.clone();
        changed.body = r#"{"type":"a.c","data":{}}"#.as_bytes().into();
        assert!(matches!(verify(&changed, &target.secrets, 0), Verified::Refused(_)), "{label}");
        for at in 0..request.headers.len() {
            let mut cut = request.clone();
            cut.headers.remove(at);
            let name = &request.headers[at].0;
            if name.contains("signature") || name.contains("hmac") || name.contains("timestamp") {
                assert!(matches!(verify(&cut, &target.secrets, 0), Verified::Refused(_)), "{label}: {name}");
            }
        }
    }
}

#[test]
fn hubspot_v3_takes_the_url_as_received_and_decoded() {
    let key = "client-secret";
    let source = preset("hubspot_v3");
    for url in ["https://hub.example.com/in/x?a=%3A%2Fb", "https://hub.example.com/in/x?a=:/b"] {
        let text = format!("POST{url}{{}}1778210060000");
        let mac = signature::base64(&signature::hmac_sha256(key.as_bytes(), text.as_bytes()));
        let headers =
            [("x-hubspot-signature-v3", mac.as_str()), ("x-hubspot-request-timestamp", "1778210060000")];
        good(&*source, &request(&headers, "{}"), key, fuzzing::NOW.0 + 299_999);
        refused(&*source, &request(&headers, "{}"), key, fuzzing::NOW.0 + 300_001, "timestamp_out_of_window");
        refused(&*source, &request(&headers, "{}"), key, fuzzing::NOW.0 - 300_001, "timestamp_out_of_window");
    }
}

#[test]
fn handshakes_are_answered_and_only_where_they_should_be() {
    let slack = preset("slack");
    let body = r#"{"token":"t","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}"#;
    let mut asked = request(&[], body);
    let unsigned = slack.verify(&asked, &[secret("s")], fuzzing::NOW, true);
    assert!(matches!(unsigned, Verified::Refused(_)), "an unsigned challenge is not echoed");
    for (name, value) in slack.sign(&asked, &secret("s"), fuzzing::NOW) {
        asked.headers.push((name, value.into_bytes()));
    }
    let Verified::Handshake { status: 200, content_type, body } =
        slack.verify(&asked, &[secret("s")], fuzzing::NOW, true)
    else {
        panic!("a signed challenge is echoed")
    };
    assert!(content_type.starts_with("text/plain"));
    assert_eq!(body, "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P");

    let woo = preset("woocommerce");
    let ping = woo.verify(&request(&[], "webhook_id=17"), &[secret("s")], fuzzing::NOW, true);
    assert!(matches!(ping, Verified::Handshake { status: 200, .. }));
    for other in ["webhook_id=", "webhook_id=1&a=2", "webhook_id=x", "{}"] {
        let got = woo.verify(&request(&[], other), &[secret("s")], fuzzing::NOW, true);
        assert!(matches!(got, Verified::Refused(_)), "{other}");
    }
}

#[test]
fn bad_settings_name_the_place_and_the_mend() {
    let check = |settings: Value, path: &str, text: &str| {
        let kind = registry::kind("hmac").and_then(|kind| kind.source.as_ref()).expect("hmac is a source");
        let bad = (kind.build)(&settings).err().unwrap_or_else(|| panic!("{settings} should be refused"));
        assert_eq!(bad.path.join("."), path, "{bad:?}");
        assert!(bad.text.contains(text), "{bad:?} should say `{text}`");
    };
    check(json!({}), "header", "`preset`");
    check(json!({"preset": "lever"}), "preset", "not supported, it comes later");
    check(json!({"preset": "strype"}), "preset", "stripe");
    check(json!({"header": "x y"}), "header", "no name of a header");
    check(json!({"header": "x", "signed": "{boddy}"}), "signed", "{boddy}");
    check(json!({"header": "x", "signed": "{timestamp}"}), "signed", "{body}");
    check(json!({"header": "x", "signed": "{timestamp}{body}"}), "signed", "where that stands");
    check(json!({"header": "x", "algorithm": "sha256_plain"}), "signed", "{secret}");
    check(json!({"header": "x", "algorithm": "md5"}), "algorithm", "sha256");
    check(json!({"header": "x", "tolerance": "5m"}), "tolerance", "timestamp");
    check(json!({"preset": "slack", "tolerance": "5 minutes"}), "tolerance", "length of time");
    check(json!({"preset": "slack", "signed": "{body}"}), "timestamp", "not signed");
    check(json!({"preset": "github", "dedupe": {}}), "dedupe", "write one of");
    check(json!({"preset": "github", "dedupe": {"header": "a", "body": "b"}}), "dedupe", "write one of");
}
