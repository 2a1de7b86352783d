"""The deterministic state machine of one shard: books, accounts, and what commands do to them.

No I/O, no clock. From the bytes inwards:

- `frames`: entries of the log in, frames out; behind it nothing knows bytes but `journal` and `snapshot`.
- `shard`: which part handles which command and message. `shard_state`: the data that the parts share.
- The account's half of an order: `account_half`, `order_checks`, `accounts`.
- The market's half: `market_half`, `market_state`, `book`.
- Between the halves, and between shards: `messages`.
- Besides orders: `transfers`, `configuration`, `operator_commands` with `authority`, `operator_cancels` with
  `drains`, `queries`.
- One outcome per request: `replies` with `outcomes`.
- What must always be true: `invariants` says how, `audit` asks.

Another core stands beside this package and writes the same bytes
(docs/decisions/0029-cores-behind-frames.md).
"""
