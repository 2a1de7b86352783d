-- What both kinds of database have in common. Prices are in ticks, quantities in lots, money in the asset's units (10^-8);
-- side, order_type, status, ... are the numbers of protocol/orders.py. Keys of what becomes a hypertable are in plain/ and timescaledb/.

CREATE TABLE orders (
    order_id              bigint PRIMARY KEY,
    account_id            bigint NOT NULL,
    client_order_id       text NOT NULL,
    market                text NOT NULL,
    side                  smallint NOT NULL,
    order_type            smallint NOT NULL,
    time_in_force         smallint NOT NULL,
    price                 bigint NOT NULL,
    quantity              bigint NOT NULL,
    quote_quantity        bigint NOT NULL,
    self_trade_prevention smallint NOT NULL,
    status                smallint NOT NULL,
    cum_quantity          bigint NOT NULL,
    cum_quote             bigint NOT NULL,
    accepted_time         timestamptz NOT NULL,
    updated_time          timestamptz NOT NULL
) WITH (fillfactor = 80); -- room to update in place: no indexed column ever changes

CREATE INDEX orders_by_market ON orders (account_id, market, order_id);
CREATE INDEX orders_by_client_order_id ON orders (account_id, client_order_id);

CREATE TABLE trades (
    time             timestamptz NOT NULL,
    market           text NOT NULL,
    trade_id         bigint NOT NULL,
    aggregate_id     bigint NOT NULL,
    sequence         bigint NOT NULL,
    price            bigint NOT NULL,
    quantity         bigint NOT NULL,
    quote            bigint NOT NULL,
    taker_side       smallint NOT NULL,
    maker_order_id   bigint NOT NULL,
    taker_order_id   bigint NOT NULL,
    maker_account_id bigint NOT NULL,
    taker_account_id bigint NOT NULL
);

CREATE TABLE fills (
    time       timestamptz NOT NULL,
    account_id bigint NOT NULL,
    market     text NOT NULL,
    order_id   bigint NOT NULL,
    trade_id   bigint NOT NULL,
    side       smallint NOT NULL,
    price      bigint NOT NULL,
    quantity   bigint NOT NULL,
    quote      bigint NOT NULL,
    liquidity  smallint NOT NULL,
    fee        bigint NOT NULL,
    fee_asset  text NOT NULL
);

-- Double entry: the entries of one event (shard, stream_id, event) sum to zero per asset.
CREATE TABLE ledger_entries (
    time       timestamptz NOT NULL,
    shard      smallint NOT NULL,
    stream_id  text NOT NULL,
    event      integer NOT NULL,  -- index of the event in its stream entry
    entry      smallint NOT NULL, -- index of the entry in its event
    account_id bigint NOT NULL,   -- or -1 fees, -2 clearing (between the two sides of a trade), -3 external
    asset      text NOT NULL,
    amount     bigint NOT NULL,   -- what the account gained, negative for what it gave
    kind       text NOT NULL,     -- deposit, withdrawal, trade or fee
    reference  text NOT NULL      -- transfer id, or MARKET:trade id
);

-- How far each shard's events are in this database. `error` says why a shard's ingest stands still; empty: it does not.
CREATE TABLE ingest (
    shard   integer PRIMARY KEY,
    last_id text NOT NULL,
    error   text NOT NULL DEFAULT ''
);

-- The last trade of each market, so that the next must follow on it also when old trades have been dropped.
CREATE TABLE ingest_markets (
    market        text PRIMARY KEY,
    last_trade_id bigint NOT NULL
);

CREATE TABLE dead_events (
    shard     integer NOT NULL,
    stream_id text NOT NULL,
    reason    text NOT NULL,
    payload   bytea NOT NULL,
    time      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, stream_id)
);
