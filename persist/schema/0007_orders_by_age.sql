-- For dropping closed orders that are old (persist/retention.py, decision 30). Of a large table the index takes minutes, so it is built
-- afterwards and concurrently, which no migration can do (persist/backfill.py).
INSERT INTO schema_backfills (name) VALUES ('orders_by_age');
