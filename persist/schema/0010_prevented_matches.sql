-- What an order's owner calls its strategy, and what self-trade prevention has taken off it. Null: nothing, or written by a version before
-- this one, which may still write while the database is migrated.
ALTER TABLE orders
    ADD COLUMN strategy_id bigint,
    ADD COLUMN strategy_type bigint,
    ADD COLUMN prevented_quantity bigint,
    ADD COLUMN prevented_match_id bigint;

-- Trades of two orders of one account that self-trade prevention did not let happen. Quantities are what was taken off, in lots.
CREATE TABLE prevented_matches (
    market         text NOT NULL,
    match_id       bigint NOT NULL,
    account_id     bigint NOT NULL,
    maker_order_id bigint NOT NULL,
    taker_order_id bigint NOT NULL,
    price          bigint NOT NULL,
    maker_quantity bigint NOT NULL,
    taker_quantity bigint NOT NULL,
    mode           smallint NOT NULL,
    time           timestamptz NOT NULL,
    PRIMARY KEY (market, match_id)
);

CREATE INDEX prevented_matches_account ON prevented_matches (account_id, market, match_id);
CREATE INDEX prevented_matches_maker ON prevented_matches (maker_order_id);
CREATE INDEX prevented_matches_taker ON prevented_matches (taker_order_id);
