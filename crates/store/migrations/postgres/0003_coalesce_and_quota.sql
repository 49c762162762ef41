-- Exchanges with a destination by quarters of an hour, for daily quotas: what was sent today outlives a process.
-- Two days of them are kept.
CREATE TABLE spent (
    destination BIGINT NOT NULL, quarter BIGINT NOT NULL, n BIGINT NOT NULL,
    PRIMARY KEY (destination, quarter)
) WITH (fillfactor = 50);
