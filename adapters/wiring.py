"""Opens the resources of a process that serves functions, in the order of an order's path.

They are closed in reverse.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple

from adapters.activity import PostgresActivityLog
from adapters.api_keys import PostgresApiKeys
from adapters.attempts import RedisAttempts
from adapters.backlog import Backlog
from adapters.candles import PostgresCandles
from adapters.clock import now_ms
from adapters.command_queue import CommandQueue
from adapters.database import PostgresDatabase
from adapters.ingestion import PostgresIngestion
from adapters.key_lookup import Signers
from adapters.key_values import RedisKeyValues
from adapters.ledger import PostgresLedger
from adapters.limit_exchange import LimitExchange
from adapters.mails import PostgresMails
from adapters.markets import MarketWatch
from adapters.metrics import PENDING
from adapters.orders import PostgresOrders
from adapters.passwords import ArgonPasswords
from adapters.rate_limits import RateLimits
from adapters.read_models import RedisReadModels
from adapters.redis_link import RedisLink
from adapters.redis_links import RedisLinks
from adapters.replies import ReplyWaiter
from adapters.revocations import RevocationWatch
from adapters.schema_watch import SchemaWatch
from adapters.second_factors import PostgresSecondFactors
from adapters.secret_box import secret_box
from adapters.sessions import PostgresSessions
from adapters.trades import PostgresTrades
from adapters.users import PostgresUsers
from functions.api.ports import Ports
from protocol import streams
from protocol.configuration import Role
from runtime.database_roles import ServiceRole, database_url_of
from runtime.metrics import reach_redis
from runtime.operator_keys import private_key
from runtime.probes import Probes
from runtime.redis_clients import asyncio_client
from runtime.settings import Settings
from runtime.tracing import tracer_of

_REDIS_CONNECTIONS_MAX: Final = 50
_REDIS_TIMEOUT_S: Final = 2.0


class Surroundings(NamedTuple):
    """The resources that all endpoints of a process share."""

    ports: Ports
    limits: RateLimits
    signers: Signers
    revocations: RevocationWatch
    backlog: Backlog
    markets: MarketWatch


@asynccontextmanager
async def opened(
    settings: Settings,
    process: str,
    probes: Probes,
    *,
    role: ServiceRole = ServiceRole.GATEWAY,
    gives_funds: bool = False,
) -> AsyncIterator[Surroundings]:
    """Yield the resources of `process`, which uses the database with `role`.

    Neither Redis nor the database need be reachable yet; `probes` learn of Redis.

    A process that `gives_funds` needs the faucet's key, if there is a faucet.

    Raises:
        SettingsError: the master key is invalid, or the exporter of traces is not installed.
    """
    box = secret_box(settings)
    # A unique name, so that no process gets replies to the requests of an earlier one.
    reply_to = f"{process}-{secrets.token_hex(8)}"
    async with AsyncExitStack() as stack:
        url = settings.resolved_redis_url()
        client = asyncio_client(url, _REDIS_CONNECTIONS_MAX, _REDIS_TIMEOUT_S)
        stack.push_async_callback(client.aclose)
        cache = asyncio_client(settings.resolved_cache_url(), _REDIS_CONNECTIONS_MAX, _REDIS_TIMEOUT_S)
        stack.push_async_callback(cache.aclose)
        markets = MarketWatch(client, settings.shard_count)
        await markets.start()
        stack.push_async_callback(markets.close)
        probes.ready_when("markets", markets.why_not, once=True)
        replies = ReplyWaiter(settings.reply_timeout_ms)
        stack.push_async_callback(replies.close)
        backlog = Backlog(
            client, settings.shard_count, reach_redis(probes, process, once=True), settings.log_mb_max << 20
        )
        stack.push_async_callback(backlog.close)
        replies_link = RedisLink(
            url, key=streams.replies(reply_to), on_message=lambda _channel, payload: replies.resolve(payload)
        )
        replies_link.subscribe(streams.replies(reply_to))
        tracer = tracer_of(settings, process)
        if tracer is not None:
            stack.push_async_callback(asyncio.to_thread, tracer.close)
        faucet = private_key(settings, Role.FAUCET) if gives_funds and settings.has_faucet() else None
        commands_links = RedisLinks(url, settings.shard_count)
        queue = CommandQueue(
            commands_links,
            replies_link,
            replies,
            backlog,
            reply_to,
            markets.listing,
            settings,
            tracer,
            faucet,
        )
        stack.push_async_callback(queue.close)
        commands_links.call_when_ready(queue.retry_lost)
        replies_link.on_ready = queue.repeat_unanswered
        for link in (replies_link, commands_links):
            await link.start()
            stack.push_async_callback(link.close)
        links = [replies_link, *commands_links.all()]
        probes.ready_when(
            "links",
            lambda: None if all(link.ready for link in links) else "a link to Redis is being made",
            once=True,
        )
        database = PostgresDatabase(database_url_of(settings, role))
        await database.start()
        stack.push_async_callback(database.close)
        schema = SchemaWatch(database, client)
        stack.push_async_callback(schema.close)
        # Once: the functions themselves answer while the database is unreachable.
        probes.ready_when("schema", schema.why_not, once=True)
        limits = RateLimits(settings, lambda account_id: markets.listing().known.shard_of_account(account_id))
        limit_exchange = LimitExchange(
            limits, settings.resolved_cache_url(), settings.shard_count, client, now_ms
        )
        await limit_exchange.start()
        stack.push_async_callback(limit_exchange.close)
        key_values = RedisKeyValues(client)
        revocations = RevocationWatch(client, time.monotonic)
        stack.push_async_callback(revocations.close)
        signers = Signers(key_values, database, box, revocations, time.monotonic)
        stack.push_async_callback(signers.close)
        passwords = ArgonPasswords()
        stack.callback(passwords.close)
        PENDING.set_function(lambda: len(replies))
        ports = Ports(
            settings=settings,
            listing=markets.listing,
            shards=queue,
            read_models=RedisReadModels(cache, markets.listing),
            ingestion=PostgresIngestion(database, client, cache),
            trades=PostgresTrades(database),
            candles=PostgresCandles(database),
            orders=PostgresOrders(database),
            ledger=PostgresLedger(database),
            users=PostgresUsers(database),
            second_factors=PostgresSecondFactors(database),
            sessions=PostgresSessions(database),
            api_keys=PostgresApiKeys(database),
            mails=PostgresMails(database),
            activity=PostgresActivityLog(database),
            key_values=key_values,
            passwords=passwords,
            secret_box=box,
            order_counts=limits,
            revocations=revocations,
            attempts=RedisAttempts(client, enabled=settings.rate_limits_enabled),
        )
        yield Surroundings(ports, limits, signers, revocations, backlog, markets)
