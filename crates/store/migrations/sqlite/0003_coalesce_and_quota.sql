-- Exchanges with a destination by quarters of an hour, for daily quotas: what was sent today outlives a process.
-- Two days of them are kept.
CREATE TABLE spent (
    destination INTEGER NOT NULL, quarter INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (destination, quarter)
) STRICT, WITHOUT ROWID;
