"""A shard that has stopped for good: what needs it is refused at once and clearly, everything else goes
on.
"""

from collections.abc import Callable
from contextlib import closing

import redis

from protocol import streams
from protocol.codec import decode_commands
from protocol.commands import Signed
from protocol.stream_id import STREAM_START
from protocol.streams import COMMANDS_FIELD
from stream_log.halt import clear_halt, write_halt
from stream_log.redis_log import RedisStreamLog
from tests.support.api import Api, RefusedError, new_account
from tests.support.eventually import eventually
from tests.support.gateway_processes import Processes


def order(api: Api, symbol: str) -> object:
    return api.order(symbol, "BUY", "LIMIT", quantity="1", price="20" if symbol == "SOLUSDT" else "2000")


def test_a_halted_shard_is_said_at_once_and_orders_are_taken_again_after_it(
    processes: Processes, redis_url: str
) -> None:
    processes.shard_count = 3
    processes.shards()
    url = processes.gateway()
    api = new_account(url, USDT="1000000")  # more than all orders need that are taken until the halt is seen
    account_shard = api_shard(redis_url)
    # A market of another shard than the account's, and one whose shard has nothing to do with the halt.
    symbols = {0: "BTCUSDT", 1: "ETHUSDT", 2: "SOLUSDT"}
    halted_shard = (account_shard + 1) % 3
    other_shard = (account_shard + 2) % 3
    order(api, symbols[halted_shard])
    client = redis.Redis.from_url(redis_url)
    write_halt(client, halted_shard, "BTC: money is not conserved")

    eventually("the refusal", lambda: refusal_of(lambda: order(api, symbols[halted_shard])) is not None)
    refusal = refusal_of(lambda: order(api, symbols[halted_shard]))
    assert refusal is not None
    assert (refusal.status, refusal.code) == (503, -1016)
    assert "Trading is halted" in refusal.message
    assert "BTC" not in refusal.message, "what is wrong is for those who look after it"
    order(api, symbols[other_shard])
    clear_halt(client, halted_shard)
    eventually("an accepted order", lambda: refusal_of(lambda: order(api, symbols[halted_shard])) is None)

    write_halt(client, account_shard, "BTC: money is not conserved")
    eventually("the refusal of a question", lambda: refusal_of(api.balances) is not None)
    for action in (api.balances, lambda: order(api, symbols[other_shard])):
        refusal = refusal_of(action)
        assert refusal is not None
        assert (refusal.status, refusal.code) == (503, -1016)


def refusal_of(action: Callable[[], object]) -> RefusedError | None:
    """Return how the action was refused; None when it was not."""
    try:
        action()
    except RefusedError as refusal:
        return refusal
    return None


def api_shard(redis_url: str) -> int:
    """Return the account's shard: where its deposit went."""
    with closing(RedisStreamLog.connect(redis_url)) as log:
        for shard in range(3):
            for entry in log.read({streams.commands(shard): STREAM_START}, 1_000, block_ms=0):
                commands = decode_commands(entry.fields.get(COMMANDS_FIELD, b"\x90"))
                if any(isinstance(command, Signed) for command in commands):
                    return shard
    raise AssertionError("there is no deposit")
