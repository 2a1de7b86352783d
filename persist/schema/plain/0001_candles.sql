-- Plain PostgreSQL: ordinary keys, and candles as a table that the ingest keeps in the same transaction as the trades.

CREATE UNIQUE INDEX trades_by_id ON trades (market, trade_id);
CREATE INDEX trades_by_time ON trades (market, time);
CREATE INDEX trades_by_aggregate ON trades (market, aggregate_id);

CREATE UNIQUE INDEX fills_by_order ON fills (account_id, order_id, trade_id);
CREATE INDEX fills_by_trade ON fills (account_id, market, trade_id);
CREATE INDEX fills_by_time ON fills (account_id, market, time);

CREATE INDEX ledger_entries_by_time ON ledger_entries USING brin (time);

CREATE TABLE candles (
    market           text NOT NULL,
    interval         text NOT NULL,
    open_time        timestamptz NOT NULL,
    open             bigint NOT NULL,
    high             bigint NOT NULL,
    low              bigint NOT NULL,
    close            bigint NOT NULL,
    volume           numeric NOT NULL,
    quote_volume     numeric NOT NULL,
    trade_count      bigint NOT NULL,
    taker_buy_volume numeric NOT NULL,
    taker_buy_quote  numeric NOT NULL,
    first_trade_id   bigint NOT NULL,
    last_trade_id    bigint NOT NULL,
    PRIMARY KEY (market, interval, open_time)
) WITH (fillfactor = 50); -- the open candles are updated in place, over and over

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['1s', '1m', '3m', '5m', '15m', '30m', '1h', '2h', '4h', '6h', '8h', '12h', '1d', '3d', '1w', '1M'] LOOP
        EXECUTE format(
            'CREATE VIEW %I AS SELECT market, open_time, open, high, low, close, volume, quote_volume, trade_count, '
            'taker_buy_volume, taker_buy_quote, first_trade_id, last_trade_id FROM candles WHERE interval = %L',
            'candles_' || name, name
        );
    END LOOP;
END
$$;
