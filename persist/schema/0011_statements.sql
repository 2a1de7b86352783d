-- What an account has of the asset after an entry, as the shard said (docs/decisions/0039-statements.md). Null: an entry of the exchange's own
-- accounts, one that a restore took back, or one of a version before this, which may still write while the database is migrated.
ALTER TABLE ledger_entries ADD COLUMN balance bigint;

-- For statements of account. Of a large table the index takes minutes, so it is built afterwards, which no migration can do
-- (persist/backfill.py).
INSERT INTO schema_backfills (name) VALUES ('ledger_entries_by_account');
