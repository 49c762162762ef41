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
