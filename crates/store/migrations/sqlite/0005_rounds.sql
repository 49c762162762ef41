-- Rounds: work that comes again about a source or a destination, and what a source lists, by day.

-- `about` is the number of the source's or destination's name.
CREATE TABLE rounds (
    about INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, cursor TEXT NOT NULL, due INTEGER NOT NULL,
    failures INTEGER NOT NULL, paused_code TEXT, paused TEXT, reason TEXT, asked_at INTEGER, ended_at INTEGER,
    made_at INTEGER NOT NULL, v INTEGER NOT NULL
) STRICT;

-- Days since 1970 (UTC) in which it happened; `known`: of those listed, what was known here already.
CREATE TABLE listed_days (
    about INTEGER NOT NULL, day INTEGER NOT NULL, type INTEGER NOT NULL, listed INTEGER NOT NULL,
    known INTEGER NOT NULL, PRIMARY KEY (about, day, type)
) STRICT, WITHOUT ROWID;
