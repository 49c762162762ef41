//! Every bound of the product: name, number, reason.

/// A whole request body. The largest batch seen (100 events of HubSpot, 1,000 of a mailing
/// platform at 2 KB each) fits twice.
pub const BODY_BYTES_MAX: usize = 5 << 20;
/// Events in one request: what one transaction may hold without delaying its group.
pub const EVENTS_PER_REQUEST_MAX: usize = 5_000;
/// One event's `data`: HubSpot's note takes 65,536 characters; larger facts belong elsewhere.
pub const EVENT_DATA_BYTES_MAX: usize = 256 << 10;
/// Extension attributes of a CloudEvent that are carried along: tracing and partitioning take five.
pub const EXTENSIONS_MAX: usize = 32;
/// All of them together, as JSON: `tracestate` alone may have 512 (W3C Trace Context).
pub const EXTENSIONS_BYTES_MAX: usize = 4 << 10;
/// Depth of JSON. `serde_json` stops at 128; nothing real is deeper than twenty.
pub const JSON_DEPTH_MAX: usize = 64;
/// Keys of all objects of one document: hash floods and million-key bombs end here.
pub const JSON_KEYS_MAX: usize = 200_000;
/// RFC 5321 4.5.3.1.3 allows 256 with brackets, so 254 for the address.
pub const ADDRESS_BYTES_MAX: usize = 254;
/// RFC 5321 4.5.3.1.1.
pub const LOCAL_PART_BYTES_MAX: usize = 64;
pub const EXTERNAL_ID_BYTES_MAX: usize = 256;
/// An external id that is written to a contact (MailingCore, «contacts overview»).
pub const EXTERNAL_ID_CHARS_MAX: usize = 128;
pub const EVENT_TYPE_BYTES_MAX: usize = 128;
/// A reason is read on a terminal: longer ones are cut.
pub const REASON_CHARS_MAX: usize = 1_000;
/// The connector's step of an operation.
pub const STEP_BYTES_MAX: usize = 256;
/// Operations that one map may return for one event.
pub const OPERATIONS_MAX: usize = 100;
/// What is read of an answer: the largest batch answer (100 contacts with properties) is under 200 KB.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// What is kept of an answer that was not a success.
pub const ANSWER_KEPT_BYTES_MAX: usize = 4 << 10;
/// What is kept and shown of an answer of a webhook endpoint, success or not.
pub const ENDPOINT_ANSWER_CHARS_MAX: usize = 1_024;
/// A VRL program: the largest map of the field we know has 6 KB.
pub const PROGRAM_BYTES_MAX: usize = 64 << 10;
/// Nesting of a VRL program: its compiler recurses and would end the process (vectordotdev/vrl#243).
pub const PROGRAM_DEPTH_MAX: usize = 64;
/// Calls inside calls in a VRL program: each level doubles what its compiler does (2 s at 14).
pub const PROGRAM_CALLS_MAX: usize = 8;
/// An index literal in a VRL program: `.a[9223372036854775807] = 1` tries to allocate it (vrl#133).
pub const PROGRAM_INDEX_MAX: u64 = 10_000;
/// Expressions that one run of a program may evaluate: about 100 ms. A map takes tens, a parse
/// program of the largest batch (5,000 events of twenty fields) 400,000.
pub const RUN_STEPS_MAX: u64 = 1_000_000;
/// What one run may take from the allocator, whatever it gives back: a step costs as much as it copies. About half a
/// second; the largest batch (5,000 events of twenty fields) copies 60 MB where it is made with `map_values`.
pub const RUN_COPIED_BYTES_MAX: u64 = 512 << 20;
/// What one run may hold beside its input: twice a copy of the largest `data`, whose 256 KiB of tiny objects take 22 MB.
/// All programs that compute at once hold a gigabyte at most.
pub const RUN_HELD_BYTES_MAX: u64 = 64 << 20;
/// The same of a `parse` program: the largest batch and the events made of it fit.
pub const PARSE_HELD_BYTES_MAX: u64 = 128 << 20;
/// How long one run may compute, where neither steps nor copies say it: a function that searches a long text.
pub const RUN_MS_MAX: u64 = 2_000;
/// The same of a condition, which every event behind it waits for.
pub const CONDITION_MS_MAX: u64 = 250;
/// Destinations whose maps compute at once: the processors share them.
pub const MAPS_AT_ONCE_MAX: usize = 8;
/// Sources whose `parse` programs compute at once, each with one request.
pub const PARSES_AT_ONCE_MAX: usize = 4;
/// How long a request waits for its source's program to be free; then 429, as its sender gives up about now.
pub const PARSE_WAIT_MS_MAX: u64 = 10_000;
/// What a map may return, as JSON.
pub const MAP_RESULT_BYTES_MAX: usize = 1 << 20;
/// Refused requests kept for the operator, a source.
pub const REFUSED_KEPT_MAX: usize = 1_000;
/// Refused requests of a source that are explained and kept at once, and a second after that: explaining
/// one costs milliseconds, and who cannot sign must not cost more than who can. All are counted in metrics.
pub const REFUSED_BURST: u64 = 50;
pub const REFUSED_PER_SECOND: u64 = 10;
/// What is kept of each refused body.
pub const REFUSED_BODY_BYTES_MAX: usize = 16 << 10;
/// Requests that wait for the writer before intake answers 429, where `[limits] intake_queue` says nothing else:
/// one group. While one group is written and another waits, all connections that there can be are waiting; a sender
/// behind that would wait for a third sync.
pub const INTAKE_QUEUE_MAX: usize = GROUP_WRITES_MAX;
/// Writes of router, engine and jobs that wait.
pub const WORK_QUEUE_MAX: usize = 1_024;
/// Writes that share one sync: more would make the first of them wait too long.
pub const GROUP_WRITES_MAX: usize = 1_024;
pub const GROUP_BYTES_MAX: usize = 1 << 20;
/// Events that the router takes at once.
pub const ROUTE_BATCH_MAX: usize = 1_024;
/// Accepted events that are kept in memory until the router comes for them: four of its batches.
pub const RECENT_EVENTS_MAX: usize = 4_096;
/// The same in bytes: room for four batches of 2 KB each.
pub const RECENT_BYTES_MAX: usize = 8 << 20;
/// API keys of senders that are kept in memory: more than a hub has, so that emptying it is rare.
pub const KNOWN_KEYS_MAX: usize = 1_024;
/// Parcels that one destination holds in memory, where it takes no large batches: [`QUEUE_ROOM`], and beside it an
/// [`NEWEST_PART`]th for each queue of first tries.
pub const DESK_WINDOW_MAX: usize = 1_120;
/// Exchanges in flight over all destinations.
pub const SENDS_MAX: usize = 512;
/// Keys in one dedupe segment: its tree and its filters (776 KiB, those of its runs included) stay in memory.
pub const SEGMENT_KEYS_MAX: i64 = 262_144;
/// Age of a dedupe segment.
pub const SEGMENT_AGE_MS_MAX: i64 = 86_400_000;
/// Closed dedupe segments: 67 million keys, with at most 194 MiB of filters in memory. Beyond that the
/// oldest goes before its time, with a warning.
pub const DEDUPE_SEGMENTS_MAX: usize = 256;
/// How long the first answer to an `Idempotency-Key` is kept.
pub const IDEMPOTENCY_MS: i64 = 86_400_000;
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// The longest `?wait=` of `POST /v1/events`.
pub const WAIT_MS_MAX: u64 = 30_000;
/// Rows that one step of retention drops: about 6 ms of the writer with its sync.
pub const RETENTION_ROWS_MAX: usize = 500;
/// Rows of one page of a listing at most: about a megabyte.
pub const PAGE_ROWS_MAX: usize = 1_000;
/// Rows of one page where nothing is said.
pub const PAGE_ROWS: usize = 100;
/// Connections from senders at once; a further one gets the place of the one that waits longest.
pub const CONNECTIONS_MAX: usize = 2_048;
/// Connections of one address at once: vendors send from a handful of addresses with some dozens each.
pub const CONNECTIONS_PER_ADDRESS: usize = 256;
/// A TLS handshake that is not complete by then is closed: two round trips, and time for a slow phone.
pub const HANDSHAKE_MS_MAX: u64 = 10_000;
/// A head that is not complete by then is closed; it is the idle limit of keep-alive too.
pub const HEAD_MS_MAX: u64 = 15_000;
/// A body that is not complete by then is closed.
pub const BODY_MS_MAX: u64 = 30_000;
/// After this time a body must have come at [`BODY_BYTES_PER_SECOND_MIN`].
pub const BODY_GRACE_MS: u64 = 5_000;
/// Bytes of a body in a second, on average: a telephone in a lift is faster.
pub const BODY_BYTES_PER_SECOND_MIN: u64 = 1_024;
/// Head of a request, all headers together.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
pub const HEADERS_MAX: usize = 100;
/// Decompressed to compressed: real JSON stays under 20.
pub const INFLATE_RATIO_MAX: usize = 100;
/// How long a stop waits for what is in flight: SIGTERM ends within ten seconds.
pub const DRAIN_MS_MAX: u64 = 8_000;
/// Panics in map, plan or judge before a delivery is a dead letter.
pub const CRASHES_MAX: u32 = 2;
/// Parcels of each queue (in the order of `Queue::ALL`) that one destination holds, those that have been due longest:
/// each has its own, so a flood in one queue takes no room from another.
pub const QUEUE_ROOM: [u16; 6] = [256, 256, 256, 128, 64, 64];
/// The most of each queue where a destination takes batches: its first tries have room for eight of them, so that
/// some are mapped and settled while others are sent; about 6 MB of parcels.
pub const QUEUE_ROOM_BATCHED: [u16; 6] = [2_048, 2_048, 2_048, 128, 64, 64];
/// Of a queue of first tries that is longer than its room, so many parts less are held of those that became due last:
/// 32, so that what has just arrived waits for about a hundred deliveries at most. Or a batch, where that is more.
pub const NEWEST_PART: u16 = 8;
/// Rows of each destination (heads of its consent queue, its dead letters) that are looked at to count unsubscribes
/// under way by their age: ten microseconds each, so a page of metrics stays well under a second.
pub const UNSUBSCRIBES_LOOKED_AT_MAX: usize = 10_000;
/// Answers to look-ups that one destination remembers: owners of a sales team fit many times.
pub const QUESTIONS_MAX: usize = 1_000;
/// How long such an answer is believed: a new owner is found within a coffee break.
pub const QUESTION_MS_MAX: u64 = 600_000;
/// Steps of one operation within one try: the longest exchange known has five.
pub const STEPS_MAX: u32 = 100;
/// Send times that a destination remembers to keep its rate; a larger rate is kept in shorter windows.
pub const RATE_LOG_MAX: u32 = 4_096;
/// A rate's window up to this long is soon over: what an earlier lease sent in it counts as sent just now.
pub const SHORT_WINDOW_MS_MAX: u64 = 10_000;
/// Requests of a destination with a longer window whose rows are not kept yet, for each that may be in flight: half
/// of them are answered and on their way to the store. A process that goes on after a kill counts them as sent.
pub const UNKEPT_PER_SLOT: u32 = 2;
/// Destinations whose connections and TLS settings are kept; the one used longest ago leaves.
pub const TARGETS_MAX: usize = 1_024;
/// Names looked up at once: `getaddrinfo` holds a thread each and cannot be cancelled.
pub const LOOKUPS_MAX: usize = 8;
/// Addresses of one name that are tried.
pub const DIALS_MAX: usize = 8;
/// An outgoing connection without work is closed: load balancers forget theirs after 60 s to 350 s.
pub const OUT_IDLE_MS_MAX: u64 = 60_000;
/// Age of an outgoing connection: then its name is resolved and judged again.
pub const OUT_AGE_MS_MAX: u64 = 300_000;
/// Head of an answer, all headers together; twice what senders may use, for cookies of proxies.
pub const ANSWER_HEAD_BYTES_MAX: usize = 64 << 10;
/// A URL with path and query that is sent to.
pub const URL_BYTES_MAX: usize = 8 << 10;
/// The most that `server.body_max` may be raised to: a body is held in memory while it is read.
pub const BODY_BYTES_CEILING: usize = 64 << 20;
/// A configuration file: a thousand routes with maps have 2 MB.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// MACs that one signature header may offer: a sender that rotates keys shows two or three.
pub const SIGNATURES_MAX: usize = 16;
/// A refused body that is searched for what changed it: some fifty MACs of it stay under 10 ms.
pub const EXPLAIN_BODY_BYTES_MAX: usize = 64 << 10;
/// Secrets, headers and words of a header that the search looks at.
pub const EXPLAIN_SECRETS_MAX: usize = 4;
pub const EXPLAIN_WORDS_MAX: usize = 8;
/// Records that a fake CRM keeps, all types together: about 500 MB.
pub const SANDBOX_OBJECTS_MAX: usize = 1_000_000;
/// Requests that a fake keeps to be looked at; older ones are only counted.
pub const SANDBOX_REQUESTS_KEPT: usize = 2_000;
/// Webhooks that a fake platform holds for repeats; further events are not made until some are done.
pub const SANDBOX_WEBHOOKS_MAX: usize = 100_000;
/// Rows of each table on a fake's page.
pub const SANDBOX_PAGE_ROWS_MAX: usize = 200;
/// Exchanges that a breaker remembers to know the share of failures.
pub const BREAKER_LOG_MAX: usize = 256;
/// Exchanges in flight to one destination where nothing else is set: the ceiling of what adapts.
pub const CONCURRENCY_CEILING: u32 = 64;
/// Attempts that are looked back at, at a start, to know what an earlier process sent within the window of
/// a rate: a few milliseconds of a reader.
pub const ATTEMPTS_BACK_MAX: usize = 4_096;
/// Deliveries that one page of a job opens again: about 10 ms of the writer.
pub const REPLAY_PAGE_MAX: usize = 256;
/// Rows that one page of a job looks at, where few of them match: a few milliseconds of a reader.
pub const REPLAY_SCAN_MAX: usize = 4_096;
/// Replays that are pending for one destination before a job waits: live traffic stays before them, and a
/// job that is cancelled has not much on its way.
pub const REPLAYS_PENDING_MAX: usize = 1_024;
/// Jobs that have not ended.
pub const JOBS_OPEN_MAX: usize = 64;
/// Jobs that are kept to be looked at, ended ones included.
pub const JOBS_KEPT_MAX: i64 = 1_000;
/// Groups of destination, state and reason that a job counts apart; the rest is counted as one.
pub const JOB_GROUPS_MAX: usize = 200;
/// `consentVersion`, `source` and `locale` of a contact (MailingCore, «contacts overview»).
pub const CONTACT_LABEL_CHARS_MAX: usize = 64;
/// The page or form of a consent, and the browser it came from, as kept in evidence.
pub const CONSENT_PAGE_CHARS_MAX: usize = 255;
/// `attributes` of a contact, as JSON: a profile, not a document store.
pub const CONTACT_ATTRIBUTES_BYTES_MAX: usize = 16 << 10;
/// Levels of `attributes`.
pub const CONTACT_ATTRIBUTES_DEPTH_MAX: usize = 5;
/// Names that a contact has left and is still looked for by, the newest: more than anybody changes while a vendor
/// lags behind, and an erasure asks each destination by each of them.
pub const FORMER_NAMES_MAX: usize = 16;
/// How long after a name was left what is told of the contact looks for it under that name first: as long as a
/// delivery is tried, or a destination is paused.
pub const FORMER_NAME_TRIED_MS: i64 = 30 * 24 * 3_600_000;
/// Contacts of one bulk request (MailingCore, `CONTACTS_BULK_MAX`).
pub const CONTACTS_BULK_MAX: usize = 1_000;
/// Facts of one person that are read one by one, the newest: a person who changed their mind every week for
/// years. Of a person with more, the latest of each kind and level are read beside them, which fold to the same
/// as all; so a write reads these rows, and the index of that one person beyond.
pub const FACTS_MAX: usize = 256;
/// How far the clock of an account may be from ours where what it tells is compared with what was written there.
pub const ECHO_SKEW_MS: i64 = 60_000;
/// Facts of one person that are compared with what an account tells: its opt-ins and opt-outs of late.
pub const ECHO_FACTS_MAX: usize = 32;
/// Stored requests that are looked through for the one that proves a fact, about the moment when it came: two
/// hundred a second for ten seconds before it and the same behind it.
pub const PROOF_SCAN_MAX: usize = 4_000;
/// How far the numbers of requests and the times when they came may be out of step: a group of a writer, and the
/// clocks of a fleet.
pub const PROOF_SKEW_MS: i64 = 10_000;
/// Such facts of one person that are looked for in an export.
pub const PROOFS_MAX: usize = 100;
/// Rows that numbered pages of contacts reach: behind them only a cursor goes on, as each page would be
/// counted from the start.
pub const CONTACT_PAGES_MAX: u64 = 100_000;
/// Body of a bulk request: a thousand contacts with attributes.
pub const CONTACTS_BULK_BYTES_MAX: usize = 16 << 20;
/// Body of the contact intake: a form with all its fields.
pub const INTAKE_BODY_BYTES_MAX: usize = 256 << 10;
/// How long a confirmation link works: a week, after which most who have not confirmed never will.
pub const CONFIRM_MS_MAX: u64 = 7 * 86_400_000;
/// One row of an import: attributes and fields at their largest.
pub const IMPORT_ROW_BYTES_MAX: usize = 256 << 10;
/// Rows of one request of an import, as JSON: with the largest row behind them they fit into a body.
pub const IMPORT_PAGE_BYTES_MAX: usize = 8 << 20;
/// Columns of an import.
pub const IMPORT_COLUMNS_MAX: usize = 1_100;
/// Contacts that one page of a list looks at, where few of them match: a page takes tens of milliseconds at most.
pub const CONTACT_ROWS_LOOKED_AT_MAX: usize = 20_000;
/// Profile updates of one person that one request carries for others: a flood of them (a list that is imported
/// anew) goes in a thirtieth of the requests, and what is read for one head stays small.
pub const CARRIED_MAX: usize = 31;
/// Deliveries that a destination remembers to send alone, since a request that merged them was refused. Beyond
/// that it forgets them, which costs one more refused request each.
pub const ALONE_MAX: usize = 4_096;
/// Rows of one page of a move between stores: a transaction on the target, and what a kill takes back.
pub const MOVE_PAGE_ROWS_MAX: usize = 1_000;
/// A page of a move ends here; so much is in memory once or twice, and one row of the largest body besides.
pub const MOVE_PAGE_BYTES_MAX: usize = 4 << 20;
/// Contacts in one bulk call of an audience: MailingCore's `CONTACTS_BULK_MAX`; Maileon names none.
pub const BULK_CONTACTS_MAX: usize = 1_000;
/// Body of such a call: a thousand contacts at four kilobytes; Maileon's transactions end at 9 MB.
pub const BULK_BYTES_MAX: usize = 4 << 20;
/// Rows of one page of a poll: MailingCore's largest `limit`. Each makes at most two events.
pub const POLL_ROWS_MAX: u32 = 500;
/// How often it is tried, a second apart, to keep an event of the hub itself while the store is away: ten minutes, longer
/// than a database takes to start. What it says is in the log too.
pub const SAY_TRIES_MAX: u32 = 600;
/// Pages that one turn of a poll reads before others have theirs; where more is left it goes on at once.
pub const POLL_PAGES_MAX: u32 = 50;
/// How long one turn of a poll may take: with its last page it stays within the minute that a command waits.
pub const POLL_TURN_MS_MAX: u64 = 25_000;
/// Sources that are asked at once.
pub const POLLS_MAX: usize = 8;
/// The longest `every` of a round: behind it what is missed is missed for too long.
pub const ROUND_MS_MAX: u64 = 31 * 86_400_000;
/// The first wait after an answer that was none; doubled with each further one, drawn anew each time.
pub const POLL_BACKOFF_MS: u64 = 5_000;
/// The longest such wait.
pub const POLL_BACKOFF_MS_MAX: u64 = 3_600_000;
/// The longest wait that a vendor may ask of a poll (`Retry-After`): a day's quota.
pub const POLL_RETRY_AFTER_MS_MAX: u64 = 86_400_000;
/// Events that are looked through for those of one transmission: a day of a busy source.
pub const RECONCILE_EVENTS_MAX: usize = 100_000;
/// Contacts of one page of a push re-sync.
pub const RESYNC_PAGE_MAX: usize = 200;
/// A re-sync goes on only while so few deliveries wait for its destination: it takes what live traffic leaves,
/// and an opt-out waits for one bulk call of it at most.
pub const RESYNC_PENDING_MAX: u64 = 200;
/// Days that the figures of a source go back.
pub const LISTED_DAYS_MAX: i64 = 400;
