-- Since when the breaker of a destination is open, as far as its owner could write it down: what was told of it is not
-- told again, and the next owner tries one delivery first.
ALTER TABLE destinations ADD COLUMN degraded_at INTEGER;
