//! Every setting of the file, section by section: what is known, its shape and a line about it.
//! Unknown keys, their suggestions and the schema for editors are drawn from these tables.

/// One key of a section.
pub struct Setting {
    pub name: &'static str,
    pub shape: Shape,
    pub about: &'static str,
}

/// What a value looks like.
#[derive(Clone, Copy)]
pub enum Shape {
    Text,
    /// `"5m"`
    Span,
    /// `"100/10s"`
    Rate,
    /// `"5MiB"`
    Size,
    Number,
    Flag,
    Texts,
    /// `{ env = "NAME" }` or `{ file = "path" }`
    Secret,
    /// Either, for a URL that may hold a password.
    TextOrSecret,
    Secrets,
    /// Header names with text or secrets.
    Headers,
    /// A list of spans, or `{ calendar, for }`.
    Retry,
    /// A span, or one a class.
    Horizon,
    OneOf(&'static [&'static str]),
    Table(&'static [Setting]),
}

const fn setting(name: &'static str, shape: Shape, about: &'static str) -> Setting {
    Setting { name, shape, about }
}

pub fn names(settings: &'static [Setting]) -> Vec<&'static str> {
    settings.iter().map(|setting| setting.name).collect()
}

pub const SECTIONS: &[&str] =
    &["server", "storage", "egress", "limits", "retention", "sources", "destinations", "routes"];

pub const SERVER: &[Setting] = &[
    setting(
        "role",
        Shape::OneOf(&["all", "intake", "delivery"]),
        "what this process does, where several share a PostgreSQL; default all",
    ),
    setting("tls", Shape::Table(TLS), "the hub's own certificate; default: none, a proxy before it has one"),
    setting("listen", Shape::Text, "address and port of the public paths; default 127.0.0.1:8080"),
    setting(
        "operator_listen",
        Shape::Text,
        "address and port of /v1 and /metrics; default: beside the public paths",
    ),
    setting(
        "public_url",
        Shape::Text,
        "how senders reach the hub; default http:// (with tls https://) and `listen`",
    ),
    setting(
        "trusted_proxies",
        Shape::Texts,
        "addresses or CIDR blocks whose X-Forwarded-For is believed; default none",
    ),
    setting("body_max", Shape::Size, "the largest request body; default 5MiB, at most 64MiB"),
    setting("connections_per_address", Shape::Number, "connections of one sender at once; default 256"),
];

pub const TLS: &[Setting] = &[
    setting("cert", Shape::Secret, "PEM of the hub's certificate and its intermediates, in this order"),
    setting("key", Shape::Secret, "PEM of its private key, without a passphrase"),
];

pub const STORAGE: &[Setting] = &[
    setting("url", Shape::TextOrSecret, "sqlite:PATH or postgres://…; default sqlite:mailspan.db"),
    setting(
        "key",
        Shape::Secret,
        "under which secrets made through the API are kept; SQLite makes one beside the file",
    ),
    setting("old_keys", Shape::Secrets, "keys that still open what they sealed, while one is rotated"),
];

pub const EGRESS: &[Setting] = &[setting(
    "allow",
    Shape::Texts,
    "private addresses that may be reached: address or CIDR, port or range; default none",
)];

pub const LIMITS: &[Setting] = &[setting(
    "intake_queue",
    Shape::Number,
    "requests that wait to be stored before further ones are answered 429; default 1024",
)];

pub const RETENTION: &[Setting] = &[
    setting("requests", Shape::Span, "raw requests and attempts; default 30d"),
    setting("events", Shape::Span, "events and settled deliveries; default 90d"),
    setting("dedupe", Shape::Span, "how long a second copy is recognised; default 30d"),
];

pub const SOURCE: &[Setting] = &[
    setting("kind", Shape::Text, "which system sends"),
    setting("path", Shape::Text, "another address than /in/NAME"),
    setting("secrets", Shape::Secrets, "signing secrets, two while one is rotated out"),
    setting("access", Shape::Table(ACCESS), "a credential beside a signature, or instead of one"),
    setting("parse", Shape::Text, "a VRL program: request to event or array of events"),
    setting(
        "auth",
        Shape::Table(AUTH),
        "the credential under which the source is asked for what it did not tell",
    ),
    setting("base_url", Shape::Text, "where it is asked: another base address than the vendor's"),
    setting("account", Shape::Text, "a name for the account that a destination may share: no echoes"),
    setting("tenant", Shape::Text, "the tenant; default `default`"),
];

pub const ACCESS: &[Setting] = &[
    setting("kind", Shape::OneOf(&["basic", "bearer", "path"]), "where the credential stands"),
    setting("user", Shape::Text, "of HTTP Basic"),
    setting("password", Shape::Secret, "of HTTP Basic"),
    setting("token", Shape::Secret, "of `Authorization: Bearer`"),
    setting("secret", Shape::Secret, "the last segment of the path"),
];

pub const DESTINATION: &[Setting] = &[
    setting("kind", Shape::Text, "which system is written to"),
    setting("url", Shape::Text, "of kind http: where each request goes"),
    setting("base_url", Shape::Text, "of other kinds: another base address than the vendor's"),
    setting("auth", Shape::Table(AUTH), "the credential"),
    setting("sign", Shape::Table(SIGN), "of kind http: how requests are signed"),
    setting("headers", Shape::Headers, "added to each request; values may be secrets"),
    setting("rate", Shape::Rate, "requests in a time"),
    setting("concurrency", Shape::Number, "requests in flight"),
    setting("timeout", Shape::Span, "of one request, from connecting to the last byte"),
    setting("retry", Shape::Retry, "waits between tries"),
    setting("retry_after_max", Shape::Span, "a longer Retry-After pauses the destination; default 1h"),
    setting("batch", Shape::Table(BATCH), "items that share a request"),
    setting(
        "daily",
        Shape::Number,
        "requests that the vendor allows a day (UTC); a tenth is left, a tenth is for consent",
    ),
    setting(
        "coalesce",
        Shape::Flag,
        "the newest update of a profile carries those that wait before it; default true for CRMs, false for http",
    ),
    setting("breaker", Shape::Table(BREAKER), "when failures make it wait"),
    setting("order", Shape::OneOf(&["person", "none"]), "what is kept in order; default person"),
    setting("ca", Shape::Secret, "PEM of certificate authorities to trust beside the public ones"),
    setting("client_certificate", Shape::Table(CLIENT_CERTIFICATE), "for a receiver that asks for one"),
    setting("title_case_headers", Shape::Flag, "for a receiver that cannot read lower-case header names"),
    setting(
        "resync",
        Shape::Table(RESYNC),
        "of kinds that keep contacts: tells those again that changed since the last push that arrived",
    ),
    setting("account", Shape::Text, "what came from a source of the same account is not sent back"),
    setting("echo_of", Shape::Texts, "sources whose events are not sent back to it"),
    setting("tenant", Shape::Text, "the tenant; default `default`"),
];

pub const RESYNC: &[Setting] =
    &[setting("every", Shape::Span, "how often, like 24h; at least 1m, at most 31d")];

pub const AUTH: &[Setting] = &[
    setting("kind", Shape::OneOf(&["bearer", "basic", "header", "key"]), "how the credential is sent"),
    setting("token", Shape::Secret, "of kind bearer"),
    setting("user", Shape::Text, "of kind basic"),
    setting("password", Shape::Secret, "of kind basic"),
    setting("name", Shape::Text, "of kind header: the header"),
    setting("value", Shape::Secret, "of kind header: its value"),
    setting("key", Shape::Secret, "of kind key: HTTP Basic with the key alone, as Maileon takes it"),
];

pub const SIGN: &[Setting] = &[
    setting("kind", Shape::OneOf(&["standard_webhooks", "hmac"]), "the scheme"),
    setting("secret", Shape::Secret, "the key"),
    setting("secrets", Shape::Secrets, "of standard_webhooks: several keys while one is rotated out"),
    setting("header", Shape::Text, "of hmac: the header of the signature"),
    setting("prefix", Shape::Text, "of hmac: before the signature, like sha256="),
    setting("encoding", Shape::OneOf(&["hex", "base64"]), "of hmac; default hex"),
    setting("algorithm", Shape::OneOf(&["sha256", "sha1"]), "of hmac; default sha256"),
    setting("signed", Shape::Text, "of hmac: recipe of {timestamp}, {id} and {body}; default {body}"),
    setting("timestamp_header", Shape::Text, "of hmac: carries the seconds of {timestamp}"),
];

pub const BATCH: &[Setting] = &[
    setting("max", Shape::Number, "items in one request"),
    setting("wait", Shape::Span, "how long the first item waits for others"),
];

pub const BREAKER: &[Setting] = &[
    setting("failures", Shape::Number, "opens after so many in a row; 0: never opens; default 10"),
    setting("share", Shape::Number, "opens when so many in a hundred of the last minute failed; default 50"),
    setting("wait", Shape::Span, "until the first probe, doubled with each that fails; default 5s"),
    setting("wait_max", Shape::Span, "the longest wait between probes; default 5m"),
];

pub const RETRY: &[Setting] = &[
    setting("calendar", Shape::Texts, "waits between tries; the last one repeats"),
    setting("for", Shape::Horizon, "how long a delivery is tried: one time, or one a class"),
];

pub const HORIZON: &[Setting] = &[
    setting("consent", Shape::Span, "opt-ins, opt-outs, complaints; default 7d"),
    setting("profile", Shape::Span, "facts on the contact; default 72h"),
    setting("activity", Shape::Span, "what happened; default 24h"),
];

pub const CLIENT_CERTIFICATE: &[Setting] = &[
    setting("cert", Shape::Secret, "PEM of the certificate and its chain"),
    setting("key", Shape::Secret, "PEM of its private key"),
];

pub const ROUTE: &[Setting] = &[
    setting("name", Shape::Text, "of the route; part of every idempotency key"),
    setting("from", Shape::Texts, "sources; default every one of the tenant"),
    setting("events", Shape::Texts, "event types, `email.*` for a family; default every one"),
    setting("when", Shape::Text, "a VRL condition on the event"),
    setting(
        "map",
        Shape::Text,
        "`crm`, `audience` or a VRL program; default: the kind's built-in map, for http the event itself",
    ),
    setting("to", Shape::Texts, "destinations"),
    setting(
        "create_contacts",
        Shape::Flag,
        "true: unknown people are created at the destination; default false",
    ),
    setting("notify", Shape::Text, "URL that is told what an owner must know"),
    setting("tenant", Shape::Text, "the tenant; default `default`"),
];
