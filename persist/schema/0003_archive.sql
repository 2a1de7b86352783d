-- The shards' input logs and snapshots: what an exchange is rebuilt from, and what any earlier state is looked up in.
-- Plain tables in both kinds of database: rows are few, and are found by their keys.

-- How far each shard's input log is in this database.
CREATE TABLE archive (
    shard       integer PRIMARY KEY,
    last_id     text NOT NULL,            -- everything up to here is in log_segments, or before the oldest snapshot
    epoch       bigint NOT NULL DEFAULT 0, -- the highest that was seen in the shard's position
    may_restart boolean NOT NULL DEFAULT true -- the log may have been trimmed further than this; then it goes on at a snapshot
);

-- Entries of a shard's input log, many to a row: zlib over msgpack [[id, {field: value}], …]. A row follows on the one whose last_id
-- is its after_id, or on the snapshot of that id.
CREATE TABLE log_segments (
    shard      integer NOT NULL,
    after_id   text NOT NULL,
    first_id   text NOT NULL,
    last_id    text NOT NULL,
    last_time  bigint NOT NULL,  -- milliseconds, as in last_id
    entries    integer NOT NULL,
    raw_bytes  integer NOT NULL, -- before compression
    level      smallint NOT NULL, -- small segments are merged into ones of the next level
    payload    bytea NOT NULL,
    PRIMARY KEY (shard, last_id)
);
ALTER TABLE log_segments ALTER COLUMN payload SET STORAGE EXTERNAL; -- it is compressed already
CREATE INDEX log_segments_by_time ON log_segments (shard, last_time);
CREATE INDEX log_segments_to_merge ON log_segments (shard, level) WHERE level < 2;

-- Snapshots of shards, zlib over the bytes that the shard wrote.
CREATE TABLE shard_snapshots (
    shard      integer NOT NULL,
    stream_id  text NOT NULL,    -- the state after everything up to here
    time       bigint NOT NULL,  -- milliseconds, as in stream_id
    sequences  jsonb NOT NULL,   -- market -> its sequence then
    payload    bytea NOT NULL,
    stored_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, stream_id)
);
ALTER TABLE shard_snapshots ALTER COLUMN payload SET STORAGE EXTERNAL;

-- What a restore could not bring back, once the operator had accepted it.
CREATE TABLE losses (
    loss       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard      integer NOT NULL,
    after_id   text NOT NULL,    -- the position that was restored
    last_id    text NOT NULL,    -- up to where the database knows of events after it
    orders     bigint NOT NULL,
    fills      bigint NOT NULL,
    trades     bigint NOT NULL,
    time       timestamptz NOT NULL DEFAULT now()
);

-- Trades that stand in the tape, and that no account has: their numbers are not used again.
CREATE TABLE lost_trades (
    market         text NOT NULL,
    first_trade_id bigint NOT NULL,
    last_trade_id  bigint NOT NULL,
    loss           bigint NOT NULL REFERENCES losses,
    PRIMARY KEY (market, first_trade_id)
);
