-- Contacts, evidence, suppressions, declared fields, confirmations, sealed secrets, erasures.

-- Merged into another person, whose contact took the address over.
ALTER TABLE persons ADD COLUMN same_as INTEGER;
CREATE INDEX persons_same ON persons (same_as) WHERE same_as IS NOT NULL;
-- An erasure finds all that a person was known by.
CREATE INDEX identities_person ON identities (person);
-- The last revision that was given to a contact of the tenant.
ALTER TABLE tenants ADD COLUMN contact_rev INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tenants ADD COLUMN settings TEXT;
ALTER TABLE tenants ADD COLUMN made_at INTEGER;

-- A person in a tenant's audience. `rev` grows in the order of commits.
CREATE TABLE contacts (
    person INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, uid TEXT NOT NULL, rev INTEGER NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, address TEXT, external_id TEXT, locale TEXT,
    opt_in INTEGER NOT NULL, permission INTEGER NOT NULL, consent_version TEXT, source TEXT, project TEXT,
    unsubscribed_at INTEGER, suppressed_at INTEGER, fields TEXT, v INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX contacts_uid ON contacts (tenant, uid);
CREATE INDEX contacts_rev ON contacts (tenant, rev);
CREATE INDEX contacts_updated ON contacts (tenant, updated_at, rev);
CREATE INDEX contacts_person ON contacts (tenant, person);

CREATE TABLE field_kinds (
    tenant INTEGER NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL, made_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;

-- What more: 3 confirmation asked, 4 erased, 5 suppressed, 6 suppression lifted, 7 a level.
ALTER TABLE ledger ADD COLUMN permission INTEGER;
-- JSON: by whom, from where, to which words.
ALTER TABLE ledger ADD COLUMN evidence TEXT;

-- By keyed hash of the address; the address itself goes with an erasure.
CREATE TABLE suppressions (
    id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, hash BLOB NOT NULL, address TEXT, reason INTEGER NOT NULL,
    source TEXT, at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX suppressions_hash ON suppressions (tenant, hash);
CREATE INDEX suppressions_list ON suppressions (tenant, id);

-- By SHA-256 of the token in the link.
CREATE TABLE confirmations (
    token BLOB PRIMARY KEY, tenant INTEGER NOT NULL, person INTEGER NOT NULL, asked_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL, used_at INTEGER, gives INTEGER NOT NULL, mailing TEXT, source TEXT, page TEXT
) STRICT, WITHOUT ROWID;

-- Secrets made through the API, encrypted under the store key.
CREATE TABLE sealed (
    id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, about TEXT NOT NULL, key_id TEXT NOT NULL,
    sealed BLOB NOT NULL, made_at INTEGER NOT NULL, UNIQUE (tenant, about)
) STRICT;

-- Persons being erased: the address sealed until every destination has answered.
CREATE TABLE erasures (
    id INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, person INTEGER NOT NULL, event INTEGER NOT NULL,
    asked_at INTEGER NOT NULL, done_at INTEGER, sealed BLOB, certificate TEXT
) STRICT;
CREATE INDEX erasures_person ON erasures (person);
CREATE INDEX erasures_event ON erasures (event);

-- How far an erasure got, and who was erased: what of theirs was not routed yet makes no person again, and a
-- back-up that is restored erases them again.

ALTER TABLE erasures ADD COLUMN progress TEXT;
CREATE INDEX erasures_open ON erasures (id) WHERE done_at IS NULL;
CREATE INDEX confirmations_person ON confirmations (person);

-- By keyed hash of each identity: the person that it led to.
CREATE TABLE erased (
    tenant INTEGER NOT NULL, hash BLOB NOT NULL, person INTEGER NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (tenant, hash)
) STRICT, WITHOUT ROWID;
