-- Rounds: work that comes again about a source or a destination, and what a source lists, by day.

-- `about` is the number of the source's or destination's name.
CREATE TABLE rounds (
    about BIGINT PRIMARY KEY, tenant BIGINT NOT NULL, cursor TEXT NOT NULL, due BIGINT NOT NULL,
    failures BIGINT NOT NULL, paused_code TEXT, paused TEXT, reason TEXT, asked_at BIGINT, ended_at BIGINT,
    made_at BIGINT NOT NULL, v BIGINT NOT NULL
);

-- Days since 1970 (UTC) in which it happened; `known`: of those listed, what was known here already.
CREATE TABLE listed_days (
    about BIGINT NOT NULL, day BIGINT NOT NULL, type BIGINT NOT NULL, listed BIGINT NOT NULL,
    known BIGINT NOT NULL, PRIMARY KEY (about, day, type)
);
