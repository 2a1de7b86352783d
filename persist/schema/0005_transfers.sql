-- What came in and went out, by account, kind (as in ledger_entries) and transfer id. A shard remembers ids for some days; who makes a
-- transfer whose id may be older looks here. Filling it reads the whole ledger once and keeps nobody else from it.
CREATE TABLE transfers (
    account_id  bigint NOT NULL, -- or -1: fees
    kind        text NOT NULL,
    transfer_id text NOT NULL,
    asset       text NOT NULL,
    amount      bigint NOT NULL, -- positive
    time        timestamptz NOT NULL,
    PRIMARY KEY (account_id, kind, transfer_id)
);

INSERT INTO transfers
SELECT account_id, kind, reference, asset, abs(amount), time FROM ledger_entries AS moved
WHERE kind IN ('deposit', 'withdrawal') AND account_id > 0 AND NOT EXISTS (
    SELECT 1 FROM ledger_entries AS lost WHERE lost.kind = 'loss' AND lost.time = moved.time
    AND (lost.shard, lost.stream_id, lost.event) = (moved.shard, moved.stream_id, moved.event)
)
ON CONFLICT DO NOTHING;
