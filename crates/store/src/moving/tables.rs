//! The tables that move, in one place. A table that a migration adds is listed here; a test says so.

/// One table as both stores have it. Its columns are read from the databases.
pub(crate) struct Table {
    pub name: &'static str,
    /// The primary key: the order of the walk.
    pub key: &'static [&'static str],
    /// Which rows go, in SQL that both stores understand; empty for all.
    pub only: &'static str,
    /// A column that says something of living processes: it arrives as 0.
    pub cleared: &'static str,
    /// What is read on PostgreSQL in its place, where rows are cut otherwise there.
    pub on_postgres: &'static str,
}

/// A row of `meta` that the move itself writes begins so; it is gone when the move is done.
pub(crate) const MARK: &str = "moving";

pub(crate) const TABLES: &[Table] = &[
    // SQLite keeps there the highest numbers that retention has dropped; they go as numbers.
    Table { only: "name NOT LIKE 'dropped%' AND name NOT LIKE 'moving%'", ..whole("meta", &["name"]) },
    whole("tenants", &["id"]),
    whole("names", &["id"]),
    Table {
        on_postgres: "(SELECT about, place, sum(n)::bigint AS n FROM counts GROUP BY about, place)",
        ..whole("counts", &["about", "place"])
    },
    whole("segments", &["id"]),
    whole("keys_seen", &["segment", "key"]),
    whole("requests", &["id"]),
    whole("events", &["seq"]),
    whole("unrouted", &["seq"]),
    whole("without_delivery", &["seq"]),
    whole("unreadable", &["id"]),
    whole("answers", &["tenant", "api_key", "key"]),
    whole("transmissions", &["source", "hash"]),
    whole("identities", &["tenant", "hash"]),
    whole("persons", &["id"]),
    whole("person_events", &["bucket", "person", "seq"]),
    whole("deliveries", &["id"]),
    whole("attempts", &["id"]),
    whole("spent", &["destination", "quarter"]),
    whole("tries", &["delivery", "attempt"]),
    Table { cleared: "until", ..whole("leases", &["name"]) },
    whole("destinations", &["id"]),
    whole("jobs", &["id"]),
    whole("rounds", &["about"]),
    whole("listed_days", &["about", "day", "type"]),
    whole("ledger", &["id"]),
    whole("ledger_answers", &["fact", "destination"]),
    whole("contacts", &["person"]),
    whole("field_kinds", &["tenant", "name"]),
    whole("suppressions", &["id"]),
    whole("confirmations", &["token"]),
    // Sealed secrets open at the target under the same store key.
    whole("sealed", &["id"]),
    whole("erasures", &["id"]),
    whole("erased", &["tenant", "hash"]),
    whole("api_keys", &["id"]),
    whole("refused", &["id"]),
    whole("operator_log", &["id"]),
];

/// Tables that stay where they are.
#[cfg(test)]
pub(crate) const STAYING: &[(&str, &str)] = &[("migrations", "each store keeps its own")];

/// Columns that one store alone has: they arrive as 0 there.
pub(crate) const OF_ONE_STORE: &[(&str, &str)] = &[
    // The lowest request of a segment; nothing reads it.
    ("segments", "first_request"),
    // Sums are kept in shards on PostgreSQL and added up when they are read.
    ("counts", "shard"),
];

/// Tables by which a store is known, and known to be as it was when a move of it began: its key, its running
/// sums, and its leases, whose fences grow whenever it is served.
pub(crate) const TELLING: [&str; 3] = ["meta", "counts", "leases"];

const fn whole(name: &'static str, key: &'static [&'static str]) -> Table {
    Table { name, key, only: "", cleared: "", on_postgres: "" }
}

pub(crate) fn is_of_one_store(table: &str, column: &str) -> bool {
    OF_ONE_STORE.contains(&(table, column))
}
