-- Three days open where Binance's do: days since 1970-01-01 leave 1 when divided by 3. What was stored opened at other days, so candles of
-- three days are made of days when they are asked for; a market has few of these.
DROP MATERIALIZED VIEW "candles_3d";
CREATE VIEW "candles_3d" AS
SELECT
    market,
    timestamptz '1970-01-02 00:00:00+00'
        + floor(extract(epoch FROM open_time - timestamptz '1970-01-02 00:00:00+00') / 259200) * interval '72 hours' AS open_time,
    (array_agg(open ORDER BY open_time))[1] AS open,
    max(high) AS high,
    min(low) AS low,
    (array_agg(close ORDER BY open_time DESC))[1] AS close,
    sum(volume) AS volume,
    sum(quote_volume) AS quote_volume,
    sum(trade_count)::bigint AS trade_count,
    sum(taker_buy_volume) AS taker_buy_volume,
    sum(taker_buy_quote) AS taker_buy_quote,
    min(first_trade_id) AS first_trade_id,
    max(last_trade_id) AS last_trade_id
FROM "candles_1d"
GROUP BY 1, 2;
