-- TimescaleDB: hypertables by day, and candles as hierarchical continuous aggregates. Unique keys must hold the time.

SELECT create_hypertable('trades', by_range('time', INTERVAL '1 day'), create_default_indexes => false);
SELECT create_hypertable('fills', by_range('time', INTERVAL '1 day'), create_default_indexes => false);
SELECT create_hypertable('ledger_entries', by_range('time', INTERVAL '1 day'), create_default_indexes => false);

CREATE UNIQUE INDEX trades_by_id ON trades (market, trade_id, time);
CREATE INDEX trades_by_time ON trades (market, time);
CREATE INDEX trades_by_aggregate ON trades (market, aggregate_id);

CREATE UNIQUE INDEX fills_by_order ON fills (account_id, order_id, trade_id, time);
CREATE INDEX fills_by_trade ON fills (account_id, market, trade_id);
CREATE INDEX fills_by_time ON fills (account_id, market, time);

CREATE INDEX ledger_entries_by_time ON ledger_entries USING brin (time);

-- Open and close go by trade id: several trades share a millisecond.
CREATE MATERIALIZED VIEW "candles_1s" WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    market,
    time_bucket(INTERVAL '1 second', time) AS open_time,
    first(price, trade_id) AS open,
    max(price) AS high,
    min(price) AS low,
    last(price, trade_id) AS close,
    sum(quantity) AS volume,
    sum(quote) AS quote_volume,
    count(*) AS trade_count,
    sum(CASE WHEN taker_side = 1 THEN quantity ELSE 0 END) AS taker_buy_volume,
    sum(CASE WHEN taker_side = 1 THEN quote ELSE 0 END) AS taker_buy_quote,
    min(trade_id) AS first_trade_id,
    max(trade_id) AS last_trade_id
FROM trades
GROUP BY 1, 2
WITH NO DATA;

-- Each larger interval is made from 1s, 1m, 1h or 1d, the largest that nests in it; so no query unites more than five of them.
-- time_bucket counts from Monday 2000-01-03, so weeks open on Mondays; that is also a multiple of 3 days after the epoch.
-- A policy refreshes what is at least one bucket old: the open candle is always made from the level below. It does so in one go:
-- ten buckets at a time, as is the default, takes minutes for the seconds of a day.
DO $$
DECLARE
    candle record;
BEGIN
    FOR candle IN
        SELECT * FROM (VALUES
            ('1m', '1s', INTERVAL '1 minute'),
            ('3m', '1m', INTERVAL '3 minutes'),
            ('5m', '1m', INTERVAL '5 minutes'),
            ('15m', '1m', INTERVAL '15 minutes'),
            ('30m', '1m', INTERVAL '30 minutes'),
            ('1h', '1m', INTERVAL '1 hour'),
            ('2h', '1h', INTERVAL '2 hours'),
            ('4h', '1h', INTERVAL '4 hours'),
            ('6h', '1h', INTERVAL '6 hours'),
            ('8h', '1h', INTERVAL '8 hours'),
            ('12h', '1h', INTERVAL '12 hours'),
            ('1d', '1h', INTERVAL '1 day'),
            ('3d', '1d', INTERVAL '3 days'),
            ('1w', '1d', INTERVAL '7 days'),
            ('1M', '1d', INTERVAL '1 month')
        ) AS candles (name, source, width)
    LOOP
        EXECUTE format(
            'CREATE MATERIALIZED VIEW %I WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS '
            'SELECT market, time_bucket(INTERVAL %L, open_time) AS open_time, '
            'first(open, first_trade_id) AS open, max(high) AS high, min(low) AS low, last(close, last_trade_id) AS close, '
            'sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(trade_count)::bigint AS trade_count, '
            'sum(taker_buy_volume) AS taker_buy_volume, sum(taker_buy_quote) AS taker_buy_quote, '
            'min(first_trade_id) AS first_trade_id, max(last_trade_id) AS last_trade_id '
            'FROM %I GROUP BY 1, 2 WITH NO DATA',
            'candles_' || candle.name, candle.width, 'candles_' || candle.source
        );
        PERFORM add_continuous_aggregate_policy(
            format('%I', 'candles_' || candle.name)::regclass,
            start_offset => greatest(INTERVAL '7 days', candle.width * 4),
            end_offset => greatest(INTERVAL '2 minutes', candle.width),
            schedule_interval => least(INTERVAL '6 hours', greatest(INTERVAL '2 minutes', candle.width)),
            buckets_per_batch => 0
        );
    END LOOP;
    PERFORM add_continuous_aggregate_policy(
        'candles_1s',
        start_offset => INTERVAL '7 days',
        end_offset => INTERVAL '1 minute',
        schedule_interval => INTERVAL '1 minute',
        buckets_per_batch => 0
    );
END
$$;
