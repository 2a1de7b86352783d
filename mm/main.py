"""The market maker's process: 1. accounts and markets  2. quotes and takers until stopped  3. no quote left behind."""

import asyncio
import sys
from collections.abc import Coroutine
from random import Random
from typing import Final, TypeVar

import structlog

from mm.accounts import open_accounts
from mm.activity import Activity, Pause
from mm.bot import BACKOFF_S, Bot
from mm.client import ApiError, Client, StatusUnknownError, UnavailableError
from mm.markets import orders_per_10s, plans_of
from runtime.lifecycle import stop_event
from runtime.log import configure_logs
from runtime.metrics import serve_metrics
from runtime.probes import Probes
from runtime.settings import Settings, SettingsError, load_settings

T = TypeVar("T")

PROCESS: Final = "mm"
QUIET_S: Final = 15.0
QUIET_TURNS_MAX: Final = 5
"""A maker that has neither quoted for so many turns and seconds, nor says why, is not ready."""

_log = structlog.get_logger()


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    probes = Probes()
    try:
        settings = load_settings()
        configure_logs(settings, PROCESS)
        serve_metrics(settings, PROCESS, probes)
    except SettingsError as error:
        sys.exit(f"Settings:\n{error}")
    asyncio.run(_run(settings, probes))


async def _run(settings: Settings, probes: Probes) -> None:
    stop = stop_event()
    activity = Activity(QUIET_TURNS_MAX * settings.mm_requote_ms / 1_000 + QUIET_S)
    probes.ready_when("quotes", activity.why_not_ready)
    async with Client(settings.mm_rest_url or settings.rest_url()) as client, probes.turning():
        while bot := await _unless(stop, _make_bot(client, settings, activity)):
            try:
                await _unless(stop, bot.run())
            except* ApiError as refusals:
                activity.paused(Pause.KEYS)
                _log.warning("keys refused", errors=[str(each) for each in refusals.exceptions])
                await asyncio.sleep(BACKOFF_S[-1])
            finally:
                await bot.cancel_all()


async def _make_bot(client: Client, settings: Settings, activity: Activity) -> Bot:
    """Return a bot that is ready to trade; waits for the exchange as long as it takes."""
    failures = 0
    while True:
        try:
            await client.synchronize_clock()
            exchange_info = await client.get("/api/v3/exchangeInfo")
            plans = plans_of(exchange_info, await client.get("/api/v3/ticker/price"), settings.mm_levels)
            accounts = await open_accounts(client, settings.data_dir / "mm.json")
        except (UnavailableError, StatusUnknownError) as error:
            seconds = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            activity.paused(Pause.EXCHANGE)
            _log.info("waiting for the exchange", error=str(error), seconds=seconds)
            await asyncio.sleep(seconds)
            failures += 1
        else:
            activity.expects(plan.market.symbol for plan in plans)
            _log.info("quoting", markets=[plan.market.symbol for plan in plans], levels=settings.mm_levels)
            return Bot(
                client,
                accounts,
                plans,
                requote_ms=settings.mm_requote_ms,
                orders_max=orders_per_10s(exchange_info),
                random=Random(),
                activity=activity,
            )


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
    working.cancel()
    await asyncio.wait((working,))
    return None


if __name__ == "__main__":
    main()
