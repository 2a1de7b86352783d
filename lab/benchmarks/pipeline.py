"""`pipeline`: commands to events in Redis streams by one engine worker, every commit synced to disk."""

import signal
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import redis

from engine_worker.cores import chosen_core
from engine_worker.first_configuration import first_configuration
from lab.benchmarks.report import Result
from lab.benchmarks.servers import process_on_redis
from lab.benchmarks.workload import ROOMY_CONFIG, commands, deposits, operations
from protocol import streams
from protocol.codec import decode_replies, encode_commands
from protocol.commands import Command
from protocol.positions import ShardPosition
from protocol.stream_id import StreamId
from protocol.streams import COMMANDS_FIELD
from runtime.settings import Settings

_ENGINE = "engine_worker.main"
FRAMES = (1, 8, 64)
"""Commands per stream entry: what a gateway sends in one tick, from light load to heavy."""
PIPELINED = 64
LATENCY_RATE = 1_000
LATENCY_S = 5
DEADLINE_S = 300


def pipeline(count: int) -> list[Result]:
    """Measure throughput with frames of several sizes, and latency at a fixed rate."""
    market = Settings().market_map().markets[0]
    prefill, mixed = operations(count)
    steps = list(commands(prefill + mixed, market))
    filling = [*deposits(Settings().market_map()), *steps[: len(prefill)]]
    waiting = steps[len(prefill) :]
    results = []
    core = chosen_core(Settings())
    for size in FRAMES:
        with process_on_redis(_ENGINE) as (client, worker):
            _configure(client)
            _append(client, filling, size)
            _wait(client)
            # The worker stands still until all commands wait, so that appending them is not part of its time.
            worker.send_signal(signal.SIGSTOP)
            appended_s = _append(client, waiting, size)
            began = time.perf_counter()
            worker.send_signal(signal.SIGCONT)
            _wait(client)
            results.append(
                Result(
                    bench="pipeline",
                    what=f"core {core}: {count:,} commands waiting in the stream, {size} per entry",
                    unit="commands/s",
                    runs=[count / (time.perf_counter() - began)],
                    reference=f"XADD of the same entries, pipelined by {PIPELINED}",
                    reference_runs=[count / appended_s],
                )
            )
    return [*results, *_latency(steps)]


def _append(client: redis.Redis, steps: Sequence[Command], size: int) -> float:
    """Enqueue the commands in frames of `size` and return the seconds that it took Redis."""
    now_us = time.time_ns() // 1_000
    frames = [encode_commands(steps[at : at + size], now_us) for at in range(0, len(steps), size)]
    began = time.perf_counter()
    for at in range(0, len(frames), PIPELINED):
        with client.pipeline(transaction=False) as pipeline:
            for frame in frames[at : at + PIPELINED]:
                pipeline.xadd(streams.commands(0), {COMMANDS_FIELD: frame})
            pipeline.execute()
    return time.perf_counter() - began


def _configure(client: redis.Redis) -> None:
    """Let the shard know its markets before the first deposit, as its leader does a moment later."""
    frame = encode_commands(
        first_configuration(0, Settings().market_map(), ROOMY_CONFIG), time.time_ns() // 1_000
    )
    client.xadd(streams.commands(0), {COMMANDS_FIELD: frame})


def _wait(client: redis.Redis) -> None:
    """Wait until the worker has committed all of its input."""
    information: dict[str, bytes] = client.xinfo_stream(streams.commands(0))
    last = StreamId.parse(information["last-generated-id"])
    deadline = time.monotonic() + DEADLINE_S
    while True:
        position: Any = client.get(streams.position(0))
        if ShardPosition.parse(position).stream_id >= last:
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the worker did not finish; is it running?")
        time.sleep(0.002)


def _latency(steps: Sequence[Command]) -> list[Result]:
    """Send one order per entry at a fixed rate, and time the replies from each order's due time."""
    with process_on_redis(_ENGINE) as (client, _):
        _configure(client)
        _append(client, deposits(Settings().market_map()), 1)
        _wait(client)
        count = LATENCY_RATE * LATENCY_S
        due = [0.0] * (count + 1)  # by request id; 0 is that of the deposits
        latencies: list[float] = []
        listener = client.pubsub()  # type: ignore[no-untyped-call]
        listener.subscribe(streams.replies("bench"))
        listener.get_message(timeout=DEADLINE_S)

        def send() -> None:
            # Straight on the connection: an open loop must not wait for the answer to what it sent before.
            connection = client.connection_pool.get_connection()
            began = time.perf_counter() + 0.05
            unanswered = 0
            for number, command in enumerate(steps[:count], start=1):
                due[number] = began + number / LATENCY_RATE
                time.sleep(max(0.0, due[number] - time.perf_counter()))
                frame = encode_commands(
                    [msgspec.structs.replace(command, request_id=number)], time.time_ns() // 1_000
                )
                connection.send_command(  # type: ignore[no-untyped-call]
                    "XADD", streams.commands(0), "*", COMMANDS_FIELD, frame
                )
                unanswered += 1
                while connection.can_read(0):
                    connection.read_response()
                    unanswered -= 1
            for _ in range(unanswered):
                connection.read_response()
            client.connection_pool.release(connection)

        sender = threading.Thread(target=send)
        sender.start()
        while len(latencies) < count:
            message = listener.get_message(timeout=DEADLINE_S)
            if message is None:
                raise TimeoutError("replies are missing")
            now = time.perf_counter()
            replies = decode_replies(message["data"])
            latencies += [now - due[reply.request_id] for reply in replies if reply.request_id]
        sender.join()
        began = time.perf_counter()
        for _ in range(200):
            client.xadd("reference", {COMMANDS_FIELD: encode_commands([steps[0]], time.time_ns() // 1_000)})
        reference_ms = (time.perf_counter() - began) / 200 * 1_000
        quantiles = statistics.quantiles(latencies, n=100)
    return [
        Result(
            bench="pipeline",
            what=f"core {chosen_core(Settings())}: latency {name}, one order per entry, {LATENCY_RATE:,} "
            f"orders/s for {LATENCY_S} s, open loop",
            unit="ms",
            runs=[quantiles[index] * 1_000],
            reference="one XADD and its answer",
            reference_runs=[reference_ms],
        )
        for name, index in (("p50", 49), ("p99", 98))
    ]
