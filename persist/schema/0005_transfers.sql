-- What came in and went out, by account, kind (as in ledger_entries) and transfer id. A shard remembers ids for some days; a transfer whose
-- id may be older is looked up here first. Rows of before are filled in by the backfill `transfers` (persist/backfill.py).
CREATE TABLE transfers (
    account_id  bigint NOT NULL, -- or -1: fees
    kind        text NOT NULL,
    transfer_id text NOT NULL,
    asset       text NOT NULL,
    amount      bigint NOT NULL, -- positive
    time        timestamptz NOT NULL,
    PRIMARY KEY (account_id, kind, transfer_id)
);

-- The release before writes to the ledger alone, while the database is migrated and until its workers are replaced, and again if the
-- upgrade is taken back; also events of long ago. So the ledger passes its transfers on by itself. The trigger is made before the backfill
-- begins and waits for open transactions of writers: a row is seen by the trigger, or by the backfill. This release writes `transfers`
-- itself as well, and finds the rows there. CREATE TRIGGER locks out the ledger's writers, for milliseconds.
CREATE FUNCTION pass_transfer_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO transfers VALUES (NEW.account_id, NEW.kind, NEW.reference, NEW.asset, abs(NEW.amount), NEW.time)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER pass_transfer_on AFTER INSERT ON ledger_entries FOR EACH ROW
WHEN (NEW.kind IN ('deposit', 'withdrawal') AND NEW.account_id > 0) EXECUTE FUNCTION pass_transfer_on();

-- Data that migrations leave to be filled in, in batches (persist/backfill.py).
CREATE TABLE schema_backfills (
    name       text PRIMARY KEY,
    position   timestamptz,               -- everything before this time is filled in; null: not begun
    last_time  timestamptz,               -- of the last row to be filled in
    rows_done  bigint NOT NULL DEFAULT 0, -- that were read
    rows_total bigint,
    done_time  timestamptz                -- null: not done yet
);
INSERT INTO schema_backfills (name) VALUES ('transfers');
