-- Journal, deliveries, persons, consent, keys and leases.
-- Ids are small integers; times are milliseconds since 1970; a tenant stands on every row that a user can list.
-- `v` is the version of the stored format beside it.

CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE tenants (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

-- Sources (1), routes (2), destinations (3) and event types (4): written once.
CREATE TABLE names (
    id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, kind INTEGER NOT NULL, name TEXT NOT NULL,
    UNIQUE (tenant, kind, name)
) STRICT;

-- Running sums by source or destination: the audit compares them with the rows and survives retention.
CREATE TABLE counts (
    about INTEGER NOT NULL, place INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (about, place)
) STRICT, WITHOUT ROWID;

-- A run of dedupe keys that is dropped whole. State: 0 open, 1 closed, 2 being dropped, 3 dropped.
CREATE TABLE segments (
    id INTEGER PRIMARY KEY, first_seq INTEGER NOT NULL, first_request INTEGER NOT NULL,
    opened_at INTEGER NOT NULL, closed_at INTEGER, state INTEGER NOT NULL, v INTEGER NOT NULL, filter BLOB
) STRICT;
CREATE TABLE keys_seen (
    segment INTEGER NOT NULL, key BLOB NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (segment, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE requests (
    id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, source INTEGER NOT NULL, received_at INTEGER NOT NULL,
    digest BLOB NOT NULL, credential TEXT NOT NULL, redacted INTEGER NOT NULL DEFAULT 0, packed BLOB NOT NULL
) STRICT;

-- Flags: 1 test, 2 states consent, 4 redacted; `packed` begins with its version.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, id BLOB NOT NULL, tenant INTEGER NOT NULL, source INTEGER NOT NULL,
    type INTEGER NOT NULL, request INTEGER, part INTEGER NOT NULL, happened_at INTEGER NOT NULL,
    received_at INTEGER NOT NULL, flags INTEGER NOT NULL, packed BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_id ON events (id);

CREATE TABLE unrouted (seq INTEGER PRIMARY KEY) STRICT;

-- Routed, but to nothing. Place: 1 unmatched, 2 test.
CREATE TABLE without_delivery (seq INTEGER PRIMARY KEY, place INTEGER NOT NULL) STRICT;

-- Elements that cannot be read. The id is request * 8192 + a running number in it; `part` is its place there.
CREATE TABLE unreadable (
    id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, source INTEGER NOT NULL, part INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    reason_code TEXT NOT NULL, reason TEXT NOT NULL, raw BLOB NOT NULL, redacted INTEGER NOT NULL DEFAULT 0
) STRICT;

-- `Idempotency-Key`: the first answer again.
CREATE TABLE answers (
    tenant INTEGER NOT NULL, api_key INTEGER NOT NULL, key BLOB NOT NULL, body_digest BLOB NOT NULL,
    until INTEGER NOT NULL, v INTEGER NOT NULL, answer TEXT NOT NULL,
    PRIMARY KEY (tenant, api_key, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_until ON answers (until);

-- Whether a send was seen with one recipient or several.
CREATE TABLE transmissions (
    source INTEGER NOT NULL, hash BLOB NOT NULL, tenant INTEGER NOT NULL, recipient INTEGER NOT NULL,
    several INTEGER NOT NULL, seen_at INTEGER NOT NULL,
    PRIMARY KEY (source, hash)
) STRICT, WITHOUT ROWID;

-- Keyed hash of kind and value; the key is in meta.
CREATE TABLE identities (
    tenant INTEGER NOT NULL, hash BLOB NOT NULL, person INTEGER NOT NULL,
    PRIMARY KEY (tenant, hash)
) STRICT, WITHOUT ROWID;
CREATE TABLE persons (
    id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, address TEXT, external_id TEXT,
    opens INTEGER NOT NULL DEFAULT 0, clicks INTEGER NOT NULL DEFAULT 0,
    delivered_at INTEGER, opened_at INTEGER, clicked_at INTEGER, bounced_at INTEGER,
    opted_out_at INTEGER, opted_in_at INTEGER, erased INTEGER NOT NULL DEFAULT 0
) STRICT;
-- bucket = seq >> 14: the part being written stays small. Raw requests are reached through events.request.
CREATE TABLE person_events (
    bucket INTEGER NOT NULL, person INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (bucket, person, seq)
) STRICT, WITHOUT ROWID;

-- The queue. `due` is a time for the head of a lane, nothing for those behind it and for what is done.
-- A person below zero is nobody: minus the event's seq, so a lane of its own. Flags: 1 states consent.
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY, event INTEGER NOT NULL, route INTEGER NOT NULL, destination INTEGER NOT NULL,
    tenant INTEGER NOT NULL, person INTEGER NOT NULL, class INTEGER NOT NULL, cause INTEGER NOT NULL,
    state INTEGER NOT NULL, due INTEGER, queue INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0, flags INTEGER NOT NULL DEFAULT 0, last_attempt INTEGER, carried_by INTEGER,
    since INTEGER NOT NULL, created_at INTEGER NOT NULL, changed_at INTEGER NOT NULL,
    reason_code TEXT, reason TEXT, progress BLOB, v INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX deliveries_once ON deliveries (event, route, destination);
CREATE INDEX deliveries_lane ON deliveries (person, destination, class, id) WHERE state = 0;
CREATE INDEX deliveries_due ON deliveries (destination, queue, due, id) WHERE due IS NOT NULL;
CREATE INDEX deliveries_dead ON deliveries (destination, id) WHERE state = 4;

-- One HTTP exchange, for one or many deliveries.
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY, destination INTEGER NOT NULL, at INTEGER NOT NULL, ms INTEGER NOT NULL,
    items INTEGER NOT NULL, status INTEGER NOT NULL, request BLOB, answer TEXT
) STRICT;
-- Only for what did not end well at its first attempt.
CREATE TABLE tries (
    delivery INTEGER NOT NULL, attempt INTEGER NOT NULL,
    PRIMARY KEY (delivery, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX tries_attempt ON tries (attempt);

-- 'router', 'destination/7', 'job/12'. The fence only grows.
CREATE TABLE leases (
    name TEXT PRIMARY KEY, owner BLOB NOT NULL, until INTEGER NOT NULL, fence INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The standing of each destination (id of names). Origin: 0 the file, 1 a row of the API.
CREATE TABLE destinations (
    id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, origin INTEGER NOT NULL, settings TEXT,
    paused_code TEXT, paused TEXT, changed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE jobs (
    id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, kind TEXT NOT NULL, argument TEXT NOT NULL, cursor TEXT,
    done INTEGER NOT NULL DEFAULT 0, total INTEGER, due INTEGER, state INTEGER NOT NULL, note TEXT, v INTEGER NOT NULL
) STRICT;
CREATE INDEX jobs_due ON jobs (due) WHERE due IS NOT NULL;

-- Facts of consent, appended, never changed. What: 0 opt-in, 1 opt-out, 2 do not contact.
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, person INTEGER, what INTEGER NOT NULL,
    happened_at INTEGER NOT NULL, learned_at INTEGER NOT NULL, event INTEGER NOT NULL, event_id BLOB NOT NULL,
    digest BLOB NOT NULL
) STRICT;
CREATE INDEX ledger_person ON ledger (person, happened_at);
CREATE INDEX ledger_event ON ledger (event);
CREATE TABLE ledger_answers (
    fact INTEGER NOT NULL, destination INTEGER NOT NULL, verdict TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (fact, destination)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, hash BLOB NOT NULL UNIQUE, shown TEXT NOT NULL,
    scopes TEXT NOT NULL, note TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER,
    revoked_at INTEGER, last_used_at INTEGER
) STRICT;

-- A ring a source: id = source * 1000 + n modulo 1000.
CREATE TABLE refused (
    id INTEGER PRIMARY KEY, n INTEGER NOT NULL, tenant INTEGER NOT NULL, source INTEGER NOT NULL,
    at INTEGER NOT NULL, failed TEXT NOT NULL, text TEXT NOT NULL, hint TEXT, headers TEXT NOT NULL, body BLOB NOT NULL
) STRICT;

CREATE TABLE operator_log (
    id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, at INTEGER NOT NULL, what TEXT NOT NULL,
    about INTEGER NOT NULL, note TEXT NOT NULL
) STRICT;
