//! The fake Mailtarget: sends, events, signatures, repeats.

use std::collections::BTreeSet;

use mailspan_core::{Millis, Span};
use mailspan_sandbox::Faults;
use mailspan_sandbox::mailtarget::{
    Generation, Happening, Mailtarget, Maker, Queue, SIGNATURE, Settings, Webhook, What, generation_a,
    generation_b, signature,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{Back, TOKEN, Time, call, raw};

const NOW: Millis = Millis(1_778_209_200_000);

fn settings(generation: Generation, faults: &str) -> Settings {
    Settings {
        api_key: TOKEN.to_owned(),
        secret: "a long random secret".to_owned(),
        generation,
        faults: Faults::parse(faults).unwrap(),
        ..Settings::default()
    }
}

fn platform(faults: &str) -> (Mailtarget, Time) {
    let time = Time::still();
    (Mailtarget::new(settings(Generation::A, faults), time.clock()), time)
}

/// The example that the vendor's OpenAPI and clients agree on.
fn message() -> Value {
    json!({"subject": "Hello", "from": {"email": "me@example.com", "name": "Me"},
        "to": [{"email": "ana@example.com"}], "bodyText": "Hello", "metadata": {"crm_contact_id": "12"}})
}

async fn send(platform: &Mailtarget, body: Value) -> Back {
    call(&platform.router(), "POST", "/v1/layang/transmissions", body).await
}

#[test]
fn the_signature_is_bare_hex() {
    // RFC 4231, 4.3.
    let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(signature("Jefe", b"what do ya want for nothing?"), expected);
}

#[test]
fn the_same_seed_makes_the_same_events() {
    let make = |seed: u64| {
        let mut maker = Maker::new(seed);
        let stories = (0..50).map(|_| {
            let sent = maker.send(NOW).unwrap();
            maker.story(&sent)
        });
        stories.flatten().collect::<Vec<Happening>>()
    };
    assert_eq!(make(1), make(1));
    assert_ne!(make(1), make(2));
}

#[test]
fn everything_happens_sooner_or_later_and_each_has_its_own_key() {
    let mut maker = Maker::new(3);
    maker.generation = Generation::B;
    let mut seen = BTreeSet::new();
    let (mut ids, mut keys, mut count) = (BTreeSet::new(), BTreeSet::new(), 0);
    for _ in 0..2_000 {
        let sent = maker.send(NOW).unwrap();
        for event in maker.story(&sent) {
            assert!(event.event_id.parse::<u64>().unwrap() > 1 << 53);
            seen.insert(event.what);
            ids.insert(event.event_id);
            keys.insert((event.transmission_id, event.what, event.at.0 / 1_000, event.recipient));
            count += 1;
        }
    }
    assert_eq!(seen.len(), 10, "{seen:?}");
    assert_eq!((ids.len(), keys.len()), (count, count));
}

fn click(speed: u64) -> Happening {
    let mut maker = Maker::new(5);
    maker.speed = speed;
    let mut sent = maker.send(NOW).unwrap();
    sent.metadata.insert("crm_contact_id".to_owned(), json!("12"));
    maker.happening(&sent, "Ana@example.com", "cc", What::Click, Millis(NOW.0 + 1_234))
}

#[test]
fn generation_a_is_one_object_with_text_instants() {
    let event = click(1);
    let payload = generation_a(&event);
    assert_eq!(payload["event"], "click");
    assert_eq!(payload["timestamp"], "2026-05-08T03:00:01Z");
    assert_eq!(payload["recipient"], "Ana@example.com");
    assert_eq!(payload["metadata"]["crm_contact_id"], "12");
    assert_eq!(payload["campaignId"], Value::Null);
    assert!(payload["raw"]["url"].as_str().unwrap().starts_with("https://"));
}

#[test]
fn generation_b_is_a_batch_with_numbers_and_json_in_a_string() {
    let event = click(1);
    let payload = generation_b("645c2177e3b86a0001887bc7", 2, &[event]);
    assert_eq!(
        (&payload["batchId"], &payload["retryCount"]),
        (&json!("645c2177e3b86a0001887bc7"), &json!(2))
    );
    let event = &payload["events"][0];
    assert_eq!(event["status"], "click");
    assert!(event["eventId"].is_string());
    assert_eq!(event["timestamp"], NOW.0 + 1_234);
    assert_eq!(event["recipientType"], "cc");
    let meta: Value = serde_json::from_str(event["recipientMeta"].as_str().unwrap()).unwrap();
    assert_eq!(meta["crm_contact_id"], "12");
    assert!(event["targetLinkUrl"].is_string());
}

fn calendar() -> Vec<Span> {
    vec![Span { ms: 10_000 }, Span { ms: 60_000 }]
}

fn queue(generation: Generation, faults: &str, events: usize) -> Queue {
    let mut maker = Maker::new(9);
    let sent = maker.send(NOW).unwrap();
    let mut queue = Queue::new(generation, "secret", calendar(), Faults::parse(faults).unwrap(), 9);
    queue
        .push((0..events).map(|n| {
            maker.happening(&sent, "ana@example.com", "to", What::Open, NOW.plus(n as u64 * 1_000))
        }));
    queue
}

fn header<'a>(webhook: &'a Webhook, name: &str) -> &'a str {
    webhook.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
}

#[test]
fn what_is_not_acknowledged_is_repeated_by_the_calendar_and_then_given_up() {
    let mut queue = queue(Generation::B, "", 1);
    let mut now = NOW;
    for (retries, wait) in [(0, 10_000), (1, 60_000)] {
        let (due, _) = queue.due(now, 10);
        assert_eq!(due.len(), 1);
        let body: Value = serde_json::from_slice(&due[0].body).unwrap();
        assert_eq!(body["retryCount"], retries);
        assert_eq!(header(&due[0], SIGNATURE), signature("secret", &due[0].body));
        queue.settle(due[0].ticket, [Some(503), None][retries], now);
        assert!(queue.due(now.plus(wait - 1), 10).0.is_empty());
        now = now.plus(wait);
    }
    let (due, _) = queue.due(now, 10);
    queue.settle(due[0].ticket, Some(401), now);
    assert_eq!(queue.progress().given_up, 1);
    assert!(queue.due(now.plus(1_000_000), 10).0.is_empty());
}

#[test]
fn generation_b_batches_and_a_does_not() {
    let later = NOW.plus(1_000_000);
    assert_eq!(queue(Generation::A, "", 250).due(later, 1_000).0.len(), 250);
    let sizes: Vec<usize> =
        queue(Generation::B, "", 250).due(later, 1_000).0.iter().map(|w| w.events).collect();
    assert_eq!(sizes, [100, 100, 50]);
}

#[test]
fn duplicates_bursts_swaps_and_wrong_secrets() {
    let later = NOW.plus(1_000_000);
    let (twice, _) = queue(Generation::A, "duplicates=100%", 3).due(later, 10);
    assert_eq!(twice.iter().map(|w| w.copy).collect::<Vec<_>>(), [false, true, false, true, false, true]);
    assert_eq!(twice[0].body, twice[1].body);

    let mut held = queue(Generation::A, "burst=3", 3);
    assert!(held.due(NOW, 10).0.is_empty());
    assert!(held.due(NOW.plus(1_000), 10).0.is_empty());
    assert_eq!(held.due(NOW.plus(2_000), 10).0.len(), 3);

    let order = |webhooks: &[Webhook]| -> Vec<String> {
        let at = |w: &Webhook| {
            serde_json::from_slice::<Value>(&w.body).unwrap()["timestamp"].as_str().unwrap().to_owned()
        };
        webhooks.iter().map(at).collect()
    };
    let (swapped, _) = queue(Generation::A, "reorder=100%", 4).due(later, 10);
    let (plain, _) = queue(Generation::A, "", 4).due(later, 10);
    let plain = order(&plain);
    assert_eq!(order(&swapped), [&plain[1], &plain[0], &plain[3], &plain[2]].map(Clone::clone));

    let (wrong, _) = queue(Generation::A, "wrong_secret=100%", 1).due(later, 10);
    assert!(wrong[0].wrong_secret);
    assert_ne!(header(&wrong[0], SIGNATURE), signature("secret", &wrong[0].body));
}

#[test]
fn what_faults_hold_goes_out_after_all() {
    for faults in ["burst=50", "reorder=100%"] {
        let mut queue = queue(Generation::A, faults, 1);
        assert!(queue.due(NOW, 10).0.is_empty(), "{faults}");
        assert_eq!(queue.progress().waiting, 1, "{faults}");
        assert_eq!(queue.due(NOW.plus(10_000), 10).0.len(), 1, "{faults}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is answered, every event is in exactly one place, and all are told in the end.
    #[test]
    fn the_sums_add_up(seed: u64, faults in "(|duplicates=30%|reorder=40%|burst=7|wrong_secret=20%)", b: bool, fail in 0u64..60) {
        let generation = if b { Generation::B } else { Generation::A };
        let settings = Settings { seed, speed: 1_000, ..settings(generation, &faults) };
        let time = Time::still();
        let platform = Mailtarget::new(settings, time.clock());
        let mut random = mailspan_core::SplitMix64(seed);
        for step in 0..200 {
            if step < 20 {
                platform.send_one();
            }
            time.pass(5_000);
            for webhook in platform.due(16) {
                if !random.chance(10) {
                    let status = (!random.chance(fail)).then_some(if webhook.wrong_secret { 401 } else { 200 });
                    platform.settle(webhook.ticket, status);
                }
            }
            let sums = platform.progress();
            prop_assert_eq!(sums.made, sums.waiting + sums.in_flight + sums.acknowledged + sums.given_up + sums.dropped);
        }
        prop_assert_eq!(platform.sends(), 20);
        prop_assert!(platform.progress().acknowledged > 0);
    }
}

#[tokio::test]
async fn a_send_is_accepted_and_told_about() {
    let (platform, time) = platform("none");
    let back = send(&platform, message()).await;
    assert_eq!(back.status, 200);
    let id = back.body["transmissionId"].as_str().unwrap().to_owned();
    time.pass(3_600_000);
    let webhooks = platform.due(10);
    assert!(!webhooks.is_empty());
    let told: Value = serde_json::from_slice(&webhooks[0].body).unwrap();
    assert_eq!((&told["transmissionId"], &told["metadata"]["crm_contact_id"]), (&json!(id), &json!("12")));
    assert_eq!(told["recipient"], "ana@example.com");
    assert_eq!(platform.told().len(), webhooks.len());
}

#[tokio::test]
async fn every_client_is_understood() {
    let (platform, _) = platform("none");
    let with = |changes: Value| {
        let mut body = message();
        let changes = changes.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(changes);
        body
    };
    let file = json!({"mimeType": "text/plain", "filename": "a.txt", "value": "aGVsbG8="});
    for changes in [
        // The Go client writes null for what is not set.
        json!({"replyTo": null, "cc": null, "bcc": null, "headers": null, "attachment": null, "metadata": null,
            "optionsAttributes": null, "templateId": null, "substitutionData": null, "allRCPTto": null}),
        // The Python client writes every key.
        json!({"replyTo": [], "cc": [], "bodyHtml": "", "headers": [], "attachments": [], "metadata": {}, "templateId": "",
            "optionsAttributes": {"clickTracking": false, "openTracking": false, "transactional": true}, "substitutionData": {}}),
        json!({"attachments": [file]}),
        json!({"attachment": [file]}),
        json!({"attachments": [{"name": "a.txt", "type": "text/plain", "data": "aGVsbG8="}]}),
        json!({"headers": [{"name": "X-A", "value": "1"}]}),
        json!({"headers": {"X-A": "1"}}),
        json!({"replyTo": {"email": "r@example.com"}}),
        json!({"allRCPTto": true}),
        json!({"allRCPTto": ["a@example.com"], "unknownKey": 1}),
        json!({"bodyText": "", "templateId": "welcome", "substitutionData": {"name": "Ana"}}),
    ] {
        let back = send(&platform, with(changes.clone())).await;
        assert_eq!(back.status, 200, "{changes}: {}", back.body);
    }
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_named() {
    let (platform, _) = platform("none");
    let cases = [
        (json!({"subject": ""}), "subject"),
        (json!({"from": null}), "from"),
        (json!({"from": {"email": "nobody"}}), "from"),
        (json!({"to": []}), "to"),
        (json!({"to": [{"email": "x"}]}), "to"),
        (json!({"cc": "x@example.com"}), "cc"),
        (json!({"bodyText": "", "templateId": ""}), "bodyText"),
        (json!({"headers": "X"}), "headers"),
        (json!({"attachment": [{"filename": "a"}]}), "attachment"),
        (json!({"metadata": [1]}), "metadata"),
        (json!({"substitutionData": {"x": "y".repeat(103_000)}}), "substitutionData"),
    ];
    for (changes, what) in cases {
        let mut body = message();
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let back = send(&platform, body).await;
        assert_eq!((back.status, &back.body["error"]), (400, &json!("invalid_request")), "{what}");
        assert!(back.body["message"].as_str().unwrap().contains(what), "{}", back.body);
    }
    let broken = raw(
        &platform.router(),
        "POST",
        "/v1/layang/transmissions",
        &[("authorization", "Bearer pat-sandbox")],
        "{",
    )
    .await;
    assert_eq!(broken.unwrap().status, 400);
    assert_eq!(platform.sends(), 0);
}

#[tokio::test]
async fn refusals_have_their_status() {
    let (platform, time) = platform("none");
    let no_key = raw(&platform.router(), "POST", "/v1/layang/transmissions", &[], message().to_string())
        .await
        .unwrap();
    assert_eq!((no_key.status, &no_key.body["error"]), (401, &json!("unauthorized")));
    let mut unverified = message();
    unverified["from"]["email"] = json!("me@nowhere.invalid");
    assert_eq!(send(&platform, unverified).await.status, 422);

    let sent = platform.send_one().unwrap();
    platform.happen(&sent, What::Complaint, NOW);
    time.pass(10_000);
    platform.due(1_000);
    let mut suppressed = message();
    suppressed["to"][0]["email"] = json!(sent.recipients[0].0);
    assert_eq!(send(&platform, suppressed.clone()).await.status, 200, "transactional mail is not suppressed");
    suppressed["optionsAttributes"] = json!({"transactional": false});
    let back = send(&platform, suppressed).await;
    assert_eq!((back.status, &back.body["error"]), (422, &json!("suppressed_recipient")));

    for (faults, status) in
        [("daily_limit=0", 420), ("rate_limit=1/10s", 429), ("missing_scopes", 403), ("down", 503)]
    {
        platform.set_faults(Faults::parse(faults).unwrap());
        let first = send(&platform, message()).await;
        let last = if status == 429 { send(&platform, message()).await } else { first };
        assert_eq!(last.status, status, "{faults}");
        assert_eq!(last.header("retry-after"), if status == 429 { "10" } else { "" });
    }
    let elsewhere = call(&platform.router(), "GET", "/v2/other", Value::Null).await;
    assert_eq!(elsewhere.status, 404);
}

#[tokio::test]
async fn links_and_tracking_of_the_message_decide_what_can_happen() {
    let (platform, _) = platform("none");
    let mut body = message();
    body["bodyHtml"] = json!("<a href=\"https://shop.example.com/a?b=1&amp;c=2\">buy</a>");
    send(&platform, body.clone()).await;
    body["optionsAttributes"] = json!({"clickTracking": false, "openTracking": false});
    send(&platform, body).await;
    let sent = platform.sent();
    assert_eq!(sent[0].links, ["https://shop.example.com/a?b=1&c=2"]);
    assert!(sent[0].opens_tracked && sent[1].links.is_empty() && !sent[1].opens_tracked);
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test stands for the product's runtime, which spawns")]
async fn run_posts_by_the_given_function_and_spawner() {
    use std::sync::{Arc, Mutex};

    let seen: Arc<Mutex<Vec<Webhook>>> = Arc::default();
    let time = Time::still();
    let platform = Mailtarget::new(Settings { speed: 1_000, ..settings(Generation::A, "") }, time.clock());
    let post = {
        let (seen, time) = (seen.clone(), time.clone());
        Arc::new(move |webhook: Webhook| {
            seen.lock().unwrap().push(webhook);
            time.pass(1_000);
            Box::pin(async { Some(200u16) }) as std::pin::Pin<Box<dyn Future<Output = Option<u16>> + Send>>
        })
    };
    let spawn = Arc::new(|task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| drop(tokio::spawn(task)));
    let traffic = platform.clone().run(post, spawn, Some(Span { ms: 1_000 }));
    let watch = async {
        while platform.progress().acknowledged < 20 {
            time.pass(500);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = traffic => unreachable!("it runs for ever"),
        () = watch => {}
    }
    assert!(platform.sends() >= 3);
    let seen = seen.lock().unwrap();
    assert!(
        seen.iter()
            .all(|webhook| header(webhook, SIGNATURE) == signature("a long random secret", &webhook.body))
    );
}

#[tokio::test]
async fn the_state_adds_up_for_programs() {
    let (platform, _) = platform("none");
    send(&platform, message()).await;
    let state = raw(&platform.router(), "GET", "/_sandbox/state", &[], "").await.unwrap().body;
    assert_eq!((&state["sends"], &state["last_sends"][0]["subject"]), (&json!(1), &json!("Hello")));
    assert_eq!(state["events"]["made"], state["events"]["waiting"]);
    let set = raw(&platform.router(), "POST", "/_sandbox/faults", &[], "duplicates=5%").await.unwrap();
    assert_eq!(set.status, 200);
}
