-- Years of history: chunks of a size that a query touches few of, and columnstore for what no longer changes.
-- New chunk sizes count from here on; docs/decisions/0020 says how they and the order of the policies were chosen.

-- A week: what is written to stays in memory, and three years are 157 chunks.
SELECT set_chunk_time_interval('trades', INTERVAL '7 days');
SELECT set_chunk_time_interval('fills', INTERVAL '7 days');
SELECT set_chunk_time_interval('ledger_entries', INTERVAL '7 days');

-- TimescaleDB gives the candles of every interval chunks of ten days, so a thousand days of them would be a hundred chunks.
DO $$
DECLARE
    candle record;
BEGIN
    FOR candle IN
        SELECT * FROM (VALUES
            ('1s', INTERVAL '7 days'),
            ('1m', INTERVAL '91 days'),
            ('3m', INTERVAL '364 days'),
            ('5m', INTERVAL '364 days'),
            ('15m', INTERVAL '364 days'),
            ('30m', INTERVAL '364 days'),
            ('1h', INTERVAL '3640 days'),
            ('2h', INTERVAL '3640 days'),
            ('4h', INTERVAL '3640 days'),
            ('6h', INTERVAL '3640 days'),
            ('8h', INTERVAL '3640 days'),
            ('12h', INTERVAL '3640 days'),
            ('1d', INTERVAL '3640 days'),
            ('3d', INTERVAL '3640 days'),
            ('1w', INTERVAL '3640 days'),
            ('1M', INTERVAL '3640 days')
        ) AS candles (name, chunk)
    LOOP
        PERFORM set_chunk_time_interval(format('%I', 'candles_' || candle.name)::regclass, candle.chunk);
    END LOOP;
END
$$;

-- Everything that one query wants lies together, and in the order in which it is asked for.
ALTER TABLE trades SET (
    timescaledb.enable_columnstore, timescaledb.segmentby = 'market', timescaledb.orderby = 'trade_id, time'
);
ALTER TABLE fills SET (
    timescaledb.enable_columnstore, timescaledb.segmentby = 'account_id, market', timescaledb.orderby = 'trade_id, order_id, time'
);
ALTER TABLE ledger_entries SET (
    timescaledb.enable_columnstore, timescaledb.segmentby = 'account_id', timescaledb.orderby = 'time, stream_id, event, entry'
);
ALTER MATERIALIZED VIEW "candles_1s" SET (
    timescaledb.enable_columnstore, timescaledb.segmentby = 'market', timescaledb.orderby = 'open_time DESC'
);
ALTER MATERIALIZED VIEW "candles_1m" SET (
    timescaledb.enable_columnstore, timescaledb.segmentby = 'market', timescaledb.orderby = 'open_time DESC'
);

-- Later than the candles' policies look back (a week), so that none of them changes what has been converted.
CALL add_columnstore_policy('trades', after => INTERVAL '14 days');
CALL add_columnstore_policy('fills', after => INTERVAL '14 days');
CALL add_columnstore_policy('ledger_entries', after => INTERVAL '14 days');
CALL add_columnstore_policy('candles_1s', after => INTERVAL '14 days');
CALL add_columnstore_policy('candles_1m', after => INTERVAL '14 days');
