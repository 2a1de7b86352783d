-- Which of an order's states is the later one, and why it closed (protocol/orders.py). Null in rows of versions before this one, which
-- may still write while the database is migrated: so neither column may be NOT NULL. A close_reason of 0 is none.
ALTER TABLE orders ADD COLUMN version integer, ADD COLUMN close_reason smallint;
