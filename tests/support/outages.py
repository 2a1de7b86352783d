"""Placing an order while a server is away, and waiting until it is executed."""

from collections.abc import Callable

import httpx

from tests.support.api import Api, RefusedError


def order(api: Api) -> object:
    return api.order("BTCUSDT", "BUY", "LIMIT", quantity="0.001", price="20000")


def is_done(action: Callable[[], object]) -> Callable[[], bool]:
    def done() -> bool:
        try:
            action()
        except RefusedError as error:
            if error.status != httpx.codes.SERVICE_UNAVAILABLE:
                raise
            return False
        return True

    return done
