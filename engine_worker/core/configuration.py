"""The configuration of a shard and its markets, which changes by commands and so is in the log.

Decision: docs/decisions/0024-configuration-is-commands.md.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from engine_worker.core.accounts import AssetTotals
from engine_worker.core.drains import Drain
from engine_worker.core.invariants import InvariantBroken
from engine_worker.core.journal import Journal
from engine_worker.core.matching import MarketState
from engine_worker.core.messages import Messages
from engine_worker.core.replies import Replies
from engine_worker.core.shard_state import NEVER, UNBOUNDED, ShardState
from protocol.commands import ConfigureMarket, ConfigureShard, KnowMarket
from protocol.configuration import MarketConfig, MarketStatus, Role, ShardConfig
from protocol.events import MarketConfigured, ShardConfigured
from protocol.market import ACCOUNT_SLOTS, NO_ASSETS, Market, MarketMap, assets_of
from protocol.orders import CloseReason, RejectReason
from protocol.release import release_of, why_later, why_too_early
from protocol.replies import Configured
from protocol.units import AccountId

_FIRST: Final = ShardConfig(rules=1)
"""With the lowest numbers that there are."""


class Configuration:
    """Follows the configuration of the shard, of its own markets, and of those of other shards."""

    __slots__ = ("_journal", "_messages", "_replies", "_state")

    def __init__(self, state: ShardState, messages: Messages, replies: Replies, journal: Journal) -> None:
        self._state = state
        self._messages = messages
        self._replies = replies
        self._journal = journal

    def configure_shard(self, command: ConfigureShard) -> None:
        """Follow a configuration of the shard, or refuse it."""
        state = self._state
        config, known = command.config, state.config
        if config.version != (known.version if known is not None else 0) + 1:
            self._replies.refuse(command.reply_to, command.request_id, RejectReason.CONFIG_OUTDATED)
        elif not self._may_follow(config):
            self._replies.refuse(command.reply_to, command.request_id, RejectReason.CONFIG_REFUSED)
        elif (reason := why_later(config) or why_too_early(config)) is not None:
            # Another release accepts it, so this one must not refuse it for all: it stops.
            raise InvariantBroken(f"the shard is switched to what another release does: it {reason}")
        else:
            # What was produced so far is counted as followers of it counted it, in the format before
            # (docs/decisions/0027-a-release-is-switched-on.md).
            if config.format != state.format:
                self._journal.switch_format()
            self.set_config(config)
            state.events.append(ShardConfigured(state.time, config))
            self._replies.reply(command.reply_to, Configured(command.request_id, state.time, config.version))

    def _may_follow(self, config: ShardConfig) -> bool:
        """Return whether a configuration locks nobody out, misplaces no account, is of no earlier release."""
        state = self._state
        names = {key.name for key in config.keys}
        has_operator = any(key.role is Role.OPERATOR for key in config.keys)
        slots = config.slots
        return (
            all(
                new >= old
                for new, old in zip(release_of(config), release_of(state.config or _FIRST), strict=True)
            )
            and min(config.windows) >= 1
            and len(names) == len(config.keys)
            and (has_operator or not (config.keys or state.authority.keys))
            # Accounts cannot be moved yet, so a table that places them elsewhere would lose them.
            and (not slots or slots == state.slots or (state.config is None and self._is_table(slots)))
        )

    def _is_table(self, slots: bytes) -> bool:
        state = self._state
        return len(slots) == ACCOUNT_SLOTS and max(slots) < state.shard_count and not state.accounts

    def set_config(self, config: ShardConfig) -> None:
        """Follow a configuration from now on."""
        state = self._state
        state.config = config
        state.authority.set_keys(config.keys)
        state.closed_from = config.maintenance_from or NEVER
        state.open_orders_max = config.open_orders_max or UNBOUNDED
        state.in_flight_max = config.in_flight_max or UNBOUNDED
        if config.slots:
            state.slots = config.slots
            self._map_markets()
        self._replies.set_windows(config.windows)

    def configure_market(self, command: ConfigureMarket) -> None:
        """List a market at this shard or change one of its markets, or refuse that."""
        state = self._state
        reason = self._reason_not_to_configure(command.config)
        if reason is not None:
            self._replies.refuse(command.reply_to, command.request_id, reason)
            return
        self.change_market(command.config)
        self._replies.reply(
            command.reply_to, Configured(command.request_id, state.time, command.config.version)
        )

    def change_market(self, config: MarketConfig) -> None:
        """Configure a market of this shard, announce it, and begin or end what its status requires."""
        state = self._state
        self.set_market(config)
        # Before anything that happens in the market: readers meet its definition first.
        state.events.append(MarketConfigured(state.time, config))
        for shard in range(state.shard_count):
            if shard != state.index:
                self._messages.send(shard, KnowMarket(config))
        symbol = config.market.symbol
        if config.status is MarketStatus.TRADING:
            # What is placed from now on must not fall to an operator's earlier word.
            state.drains = deque(
                drain for drain in state.drains if drain.account_id or drain.market != symbol
            )
        elif config.status is MarketStatus.DELISTING:
            drain = Drain(AccountId(0), symbol, CloseReason.MARKET_DELISTED)
            if drain not in state.drains:
                state.drains.append(drain)

    def _map_markets(self) -> None:
        state = self._state
        configs = state.market_configs.values()
        placed = [(each.market, each.shard) for each in configs]
        listed = [each.market for each in configs if each.status is not MarketStatus.DELISTED]
        # What a delisted market says of a supply counts only where no other has the asset any more.
        assets = assets_of(listed) if len(listed) < len(placed) else NO_ASSETS
        state.market_map = MarketMap.placed(placed, state.shard_count, state.slots, assets=assets)

    def set_market(self, config: MarketConfig) -> None:
        """Have a market of this shard, or of another, configured so from now on."""
        self.set_markets([config])

    def set_markets(self, configs: Sequence[MarketConfig]) -> None:
        """Have several markets configured so: all that there are in the work of one."""
        state = self._state
        state.market_configs |= {config.market.symbol: config for config in configs}
        self._map_markets()
        for config in configs:
            self._follow_config(config)

    def _follow_config(self, config: MarketConfig) -> None:
        state = self._state
        market, symbol = config.market, config.market.symbol
        state.not_trading.pop(symbol, None)
        if config.status is not MarketStatus.TRADING:
            state.not_trading[symbol] = config.status
        for asset in (market.base, market.quote):
            if asset not in state.totals:
                state.totals[asset] = AssetTotals()
        if config.shard != state.index:
            return
        if symbol in state.markets:
            state.markets[symbol].market = market
        else:
            state.markets[symbol] = MarketState(market)

    def _reason_not_to_configure(self, config: MarketConfig) -> RejectReason | None:
        state = self._state
        if state.config is None or config.shard != state.index:
            return RejectReason.CONFIG_REFUSED
        known = state.market_configs.get(config.market.symbol)
        if config.version != (known.version if known is not None else 0) + 1:
            return RejectReason.CONFIG_OUTDATED
        if known is None:
            ends = config.status in (MarketStatus.DELISTING, MarketStatus.DELISTED)
            return RejectReason.CONFIG_REFUSED if ends or self._has_other_scales(config.market) else None
        if config.status is MarketStatus.DELISTED is not known.status:
            return RejectReason.CONFIG_REFUSED  # a market becomes that by itself, once nothing rests there
        new, old = config.market, known.market
        # Orders may be on their way that another shard has counted in the old ticks and lots.
        is_other = (new.base, new.quote, new.tick_size, new.lot_size, new.base_scale, new.quote_scale) != (
            old.base,
            old.quote,
            old.tick_size,
            old.lot_size,
            old.base_scale,
            old.quote_scale,
        )
        return RejectReason.CONFIG_REFUSED if is_other or known.shard != state.index else None

    def _has_other_scales(self, market: Market) -> bool:
        """Return whether the shard counts an asset of `market` in other units than its known markets do."""
        known = self._state.market_map.by_asset
        return any(known.get(asset.symbol, asset).scale != asset.scale for asset in market.assets)

    def know_market(self, message: KnowMarket) -> None:
        """Learn of another shard's market, unless another definition came first: then the first one counts.

        A market that stays unknown for its scales stays so for good: accounts here do not trade there, so its
        units never meet those of this shard (docs/decisions/0004-money.md).
        """
        known = self._state.market_configs.get(message.config.market.symbol)
        is_other = (
            self._has_other_scales(message.config.market)
            if known is None
            else known.shard != message.config.shard
        )
        if not is_other:
            self.set_market(message.config)
