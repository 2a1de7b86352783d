"""Asks for statements of account as the gateway does, with a database and nothing else."""

import asyncio
from collections.abc import Mapping
from typing import Any, LiteralString, cast

import psycopg

from adapters.ledger import PostgresLedger
from functions.account.get_statement import StatementShape, get_statement
from functions.api.parameters import Parameters
from functions.api.ports import Call, Ports
from protocol.market import MarketMap
from protocol.units import AccountId, TimeMs


class Ledger:
    """The ports that statements need."""

    def __init__(self, database_url: str, markets: MarketMap) -> None:
        self.markets = self.known_markets = markets
        self.ingestion = self
        self.ledger = PostgresLedger(self)
        self._connection = psycopg.connect(database_url, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    async def catch_up(self, _shard: int) -> None:
        pass

    async def fetch(
        self, statement: LiteralString, parameters: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, parameters).fetchall()

    def answer(self, account: int, **parameters: str | int) -> object:
        """Return what is answered."""
        texts = {name: str(value) for name, value in parameters.items()}
        call = Call(Parameters(texts), TimeMs(0), AccountId(account))
        return asyncio.run(_answer(cast("Ports", self), call))

    def statement(self, account: int, **parameters: str | int) -> StatementShape:
        """Return one page."""
        answer = self.answer(account, **parameters)
        assert isinstance(answer, StatementShape)
        return answer

    def pages(self, account: int, **parameters: str | int) -> list[StatementShape]:
        """Return all pages."""
        pages = [self.statement(account, **parameters)]
        while pages[-1].has_more:
            pages.append(self.statement(account, **{**parameters, "after": pages[-1].entries[-1].position}))
        return pages


async def _answer(ports: Ports, call: Call) -> object:
    return await get_statement(ports, call)
