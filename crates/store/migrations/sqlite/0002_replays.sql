-- Replays that are pending, by destination: how many a job may add. Live deliveries are not in it.
CREATE INDEX deliveries_replays ON deliveries (destination) WHERE state = 0 AND cause = 2;
