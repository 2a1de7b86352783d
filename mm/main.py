"""The market maker's process: open accounts and markets, quote and take until stopped, cancel all quotes."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Final, TypeVar

import structlog

from client.rest import FAILURES, ApiError, Client, StatusUnknownError, UnavailableError
from mm.accounts import UnverifiedError, accounts_file, open_accounts
from mm.bot import BACKOFF_S, Bot
from mm.markets import orders_per_10s, plans_of, trading_markets
from mm.quoting_state import Activity, Pause
from runtime import process
from runtime.lifecycle import stop_event
from runtime.probes import Probes
from runtime.settings import Settings
from runtime.tasks import end_tasks, to_the_end
from runtime.tls import LocalTrust

T = TypeVar("T")

PROCESS: Final = "mm"
LOOK_S: Final = 15.0
"""How often it looks which markets trade."""
QUIET_S: Final = 15.0
QUIET_TURNS_MAX: Final = 5
"""A maker that has not quoted for this number of turns, without a reason, is not ready."""

_log = structlog.get_logger()


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    process.run(
        lambda started: asyncio.run(to_the_end(_run(started.settings, started.probes))),
        PROCESS,
        allows_unsafe=True,
        agrees=False,
    )


async def _run(settings: Settings, probes: Probes) -> None:
    stop = stop_event()
    activity = Activity(QUIET_TURNS_MAX * settings.mm_requote_ms / 1_000 + QUIET_S)
    probes.ready_when("quotes", activity.why_not_ready)
    trust = LocalTrust.of(settings, settings.mm_rest_url)
    async with Client(settings.mm_rest_url or settings.rest_url(), trust) as client, probes.turning():
        while bot_and_trading := await _unless(stop, _make_bot(client, settings, activity)):
            bot, trading = bot_and_trading
            try:
                await _unless(stop, _run_until_changed(client, bot, trading))
            except* ApiError as refusals:
                activity.paused(Pause.KEYS)
                _log.warning("keys refused", errors=[str(refusal) for refusal in refusals.exceptions])
                await asyncio.sleep(BACKOFF_S[-1])
            finally:
                await bot.cancel_all()


async def _run_until_changed(client: Client, bot: Bot, trading: frozenset[str]) -> None:
    """Trade until other markets than these trade: a market was listed, halted or resumed."""
    running = asyncio.create_task(bot.run())
    changing = asyncio.create_task(changed(client, trading))
    try:
        await asyncio.wait((running, changing), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        else:
            _log.info("other markets trade")
    finally:
        await end_tasks([running, changing])


async def changed(client: Client, trading: frozenset[str], period_s: float = LOOK_S) -> None:
    """Poll every `period_s` seconds; return once the set of trading markets differs from `trading`."""
    while True:
        await asyncio.sleep(period_s)
        try:
            if trading_markets(await client.get("/api/v3/exchangeInfo")) != trading:
                return
        except FAILURES as error:
            _log.debug("markets not looked at", error=str(error))


async def _make_bot(client: Client, settings: Settings, activity: Activity) -> tuple[Bot, frozenset[str]]:
    """Return a bot that is ready to trade, and the markets that trade.

    Waits for the exchange as long as it takes.
    """
    failures = 0
    while True:
        try:
            # First the clock: the accounts' requests are signed with its time.
            await client.synchronize_clock()
            exchange_info = await client.get("/api/v3/exchangeInfo")
            plans = plans_of(exchange_info, await client.get("/api/v3/ticker/price"), settings.mm_levels)
            accounts = await open_accounts(client, accounts_file(settings.data_dir))
        except (UnavailableError, StatusUnknownError, UnverifiedError) as error:
            seconds = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            activity.paused(Pause.EXCHANGE)
            _log.info("waiting for the exchange", error=str(error), seconds=seconds)
            await asyncio.sleep(seconds)
            failures += 1
        else:
            activity.expects(plan.market.symbol for plan in plans)
            _log.info("quoting", markets=[plan.market.symbol for plan in plans], levels=settings.mm_levels)
            bot = Bot(
                client,
                accounts,
                plans,
                requote_ms=settings.mm_requote_ms,
                orders_max=orders_per_10s(exchange_info),
                random=Random(),
                activity=activity,
            )
            return bot, trading_markets(exchange_info)


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, T]) -> T | None:
    """Return what `work` returns, or None when `stop` was set before."""
    if stop.is_set():
        work.close()
        return None
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        return await working
    await end_tasks([working])
    return None


if __name__ == "__main__":
    main()
