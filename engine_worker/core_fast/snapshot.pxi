# The parts of a snapshot that grow with the state (engine_worker/core/snapshot.py).

cdef bytes written(Writer *writer):
    """Return what was written, and free it."""
    try:
        return (<char *>writer.bytes)[: writer.length]
    finally:
        writer_let_go(writer)


cdef bytes encoded_accounts(FastCore core, Shard *shard, dict rare):
    cdef Writer writer
    cdef int32_t slot
    memset(&writer, 0, sizeof(Writer))
    try:
        account_ids = core.account_ids()
        reserve(&writer, 8)
        put_array(&writer, len(account_ids))
        for account_id in account_ids:
            slot = find_account(shard, account_id)
            put_account(core, shard, &writer, account_at(shard, slot), rare.get(account_id))
    except BaseException:
        writer_let_go(&writer)
        raise
    return written(&writer)


cdef int put_account(FastCore core, Shard *shard, Writer *writer, Account *account, tuple rare) except -1:
    """Write an `AccountSnapshot`; dicts are lists of pairs, sorted."""
    cdef int32_t number, slot
    cdef Funds *funds
    cdef Order *order
    cdef Channel *channel
    cdef bytes keys = b"\x90\x90", limits = b"\xc0\xc0"
    if rare is not None:
        keys, limits = rare
    reserve(writer, 64 + 48 * <size_t>account.fund_count)
    put_array(writer, 9)
    put_number(writer, account.account_id)
    put_array(writer, account.fund_count)
    for _, at in sorted(
        [(asset_name(shard, account.funds[number].asset), number) for number in range(account.fund_count)]
    ):
        funds = &account.funds[<int32_t>at]
        put_array(writer, 3)
        put_text(writer, shard.assets[funds.asset].name, shard.assets[funds.asset].name_length)
        put_unsigned(writer, funds.available)
        put_unsigned(writer, funds.held)
    put_array(writer, account.market_count)
    names = []
    for _, at in sorted(
        [(core.symbol(account.open_orders[number].market), number) for number in range(account.market_count)]
    ):
        number = at
        reserve(writer, 64)
        put_array(writer, 2)
        put_text(
            writer, shard.markets[account.open_orders[number].market].symbol,
            shard.markets[account.open_orders[number].market].symbol_length,
        )
        put_array(writer, account.open_orders[number].count)
        slot = account.open_orders[number].first
        while slot >= 0:
            order = order_at(shard, slot)
            reserve(writer, order_size(shard, order))
            put_order(shard, writer, slot, NO_REASON, NULL, False)
            names.append((order_name(order)[: order.name_length], slot))
            slot = order.following
    names.sort()
    reserve(writer, 8)
    put_array(writer, len(names))
    for _, at in names:
        slot = at
        order = order_at(shard, slot)
        channel = channel_at(shard, order.reply_to)
        key = (<str>core.extras[slot][0]).encode() if order.has_extras else b""
        reserve(writer, 64 + order.name_length + channel.length + len(key))
        put_array(writer, 2)
        put_text(writer, order_name(order), order.name_length)
        put_array(writer, 4)
        put_number(writer, order.order_id)
        put_number(writer, order.request_id)
        put_text(writer, channel.name, channel.length)
        put_text(writer, PyBytes_AS_STRING(<bytes>key), len(key))
    reserve(writer, 16 + len(keys) + len(limits))
    put_bytes(writer, PyBytes_AS_STRING(keys), len(keys))
    put_bytes(writer, PyBytes_AS_STRING(limits), len(limits))
    put_number(writer, account.changed_time)
    return 0


cdef bytes encoded_markets(FastCore core, Shard *shard):
    cdef Writer writer
    cdef Market *market
    memset(&writer, 0, sizeof(Writer))
    try:
        symbols = sorted(core.parts.state.markets)
        reserve(&writer, 8)
        put_array(&writer, len(symbols))
        for symbol in symbols:
            market = shard.markets[core.known_market(symbol)]
            reserve(&writer, 128)
            put_array(&writer, 8)
            put_text(&writer, market.symbol, market.symbol_length)
            put_number(&writer, market.last_price)
            put_number(&writer, market.sequence)
            put_number(&writer, market.trade_id)
            put_number(&writer, market.aggregate_id)
            put_levels(shard, &writer, &market.bids)
            put_levels(shard, &writer, &market.asks)
            reserve(&writer, 16)
            put_number(&writer, market.prevented_id)
    except BaseException:
        writer_let_go(&writer)
        raise
    return written(&writer)


cdef int put_levels(Shard *shard, Writer *writer, BookSide *half) except -1:
    """Write the `LevelSnapshot`s of a side, best first."""
    cdef size_t count = 0
    cdef int32_t number, at, slot
    cdef Level *level
    cdef Resting *resting
    for number in range(half.block_count):
        count += half.blocks[number].count
    reserve(writer, 8)
    put_array(writer, count)
    for number in range(half.block_count - 1, -1, -1):
        for at in range(half.blocks[number].count - 1, -1, -1):
            level = level_at(shard, half.blocks[number].levels[at])
            reserve(writer, 32 + 32 * <size_t>level.order_count)
            put_array(writer, 2)
            put_number(writer, level.price)
            put_array(writer, level.order_count)
            slot = level.first
            while slot >= 0:
                resting = resting_at(shard, slot)
                put_array(writer, 3)
                put_number(writer, resting.order_id)
                put_number(writer, resting.account_id)
                put_number(writer, resting.quantity)
                slot = resting.following
    return 0


cdef bytes encoded_answers(Shard *shard):
    """Return the remembered replies that are not too old, as `FirstOutcome`s, oldest first."""
    cdef Writer writer, items
    cdef size_t count = 0, offset
    cdef AnswerChunk *chunk
    cdef Answered *answered
    cdef Channel *channel
    memset(&writer, 0, sizeof(Writer))
    memset(&items, 0, sizeof(Writer))
    try:
        oldest_answer(shard)  # frees chunks that are passed
        chunk, offset = shard.oldest_answers, shard.oldest_answer
        while chunk != NULL:
            if offset >= chunk.used:
                chunk, offset = chunk.following, 0
                continue
            answered = <Answered *>(<char *>(chunk + 1) + offset)
            offset += answer_size(answered)
            # Once one is not too old, none behind it is.
            if not count and shard.time - answered.time > shard.request_window_ms:
                continue
            channel = channel_at(shard, answered.channel)
            reserve(&items, 64 + channel.length + answered.length)
            put_array(&items, 4)
            put_array(&items, 2)
            put_text(&items, channel.name, channel.length)
            put_number(&items, answered.request_id)
            put_number(&items, answered.time)
            put_bytes(&items, <char *>(answered + 1), answered.length)
            put_byte(&items, 0xC4)
            put_byte(&items, 0)
            count += 1
        reserve(&writer, 8 + items.length)
        put_array(&writer, count)
        put_bytes(&writer, items.bytes, items.length)
    except BaseException:
        writer_let_go(&writer)
        raise
    finally:
        writer_let_go(&items)
    return written(&writer)


cdef int check_records(Shard *shard) except -1:
    """Add up anew what the records say of each other. O(state).

    Raises:
        InvariantBroken: naming what is not as it must always be.
    """
    cdef int32_t number, slot, at, place
    cdef uint64_t entry
    cdef Account *account
    cdef Order *order
    cdef Market *market
    cdef BookSide *half
    cdef Block *block
    cdef Level *level
    cdef Resting *resting
    cdef wide_t available, held, quantity, cost, lots
    cdef int64_t open_orders = 0, in_account, count, resting_count
    cdef int64_t in_flight[SHARD_COUNT_MAX]
    memset(in_flight, 0, sizeof(in_flight))
    funds_seen = [[0, 0] for _ in range(shard.asset_count)]
    for entry in range(shard.accounts_by_id.mask + 1):
        if not shard.accounts_by_id.slots[entry]:
            continue
        slot = shard.accounts_by_id.slots[entry] - 1
        account = account_at(shard, slot)
        holds = {}
        in_account = 0
        for number in range(account.market_count):
            market = shard.markets[account.open_orders[number].market]
            at, count = account.open_orders[number].first, 0
            while at >= 0:
                order = order_at(shard, at)
                if order.account != slot or order.market != market.index:
                    raise InvariantBroken(f"order {order.order_id} is another's")
                if find_order(shard, order.order_id) != at:
                    raise InvariantBroken(f"order {order.order_id} is not where it must be")
                asset = market.quote if order.side == BUY else market.base
                holds[asset] = holds.get(asset, 0) + order.held
                in_flight[market.shard] += order.status == IN_FLIGHT
                count += 1
                at = order.following
            if count != account.open_orders[number].count:
                raise InvariantBroken(f"account {account.account_id}: its open orders are counted wrong")
            in_account += count
        if in_account != account.order_count:
            raise InvariantBroken(
                f"account {account.account_id}: a client order id has no open order, or two have it"
            )
        open_orders += in_account
        for number in range(account.fund_count):
            asset = account.funds[number].asset
            if account.funds[number].held != holds.get(asset, 0):
                raise InvariantBroken(
                    f"account {account.account_id}: held {asset_name(shard, asset)} is "
                    f"{account.funds[number].held}, its orders hold {holds.get(asset, 0)}"
                )
            funds_seen[asset][0] += account.funds[number].available
            funds_seen[asset][1] += account.funds[number].held
    for number in range(shard.asset_count):
        available, held = shard.assets[number].funds - shard.assets[number].held, shard.assets[number].held
        if [from_wide(available), from_wide(held)] != funds_seen[number]:
            raise InvariantBroken(
                f"{asset_name(shard, number)}: the books say held {from_wide(shard.assets[number].held)} of "
                f"{from_wide(shard.assets[number].funds)}, the accounts have {funds_seen[number]}"
            )
    if open_orders != shard.open_order_count or open_orders != shard.orders_by_name.count:
        raise InvariantBroken(
            f"{shard.open_order_count} open orders are counted, the accounts have {open_orders}"
        )
    for number in range(SHARD_COUNT_MAX):
        if in_flight[number] != shard.in_flight[number]:
            raise InvariantBroken(
                f"{shard.in_flight[number]} orders to shard {number} are counted in flight, the accounts "
                f"have {in_flight[number]}"
            )
    for number in range(shard.market_count):
        market, resting_count = shard.markets[number], 0
        for side in (BUY, SELL):
            half = book_side(market, side)
            for at in range(half.block_count):
                block = half.blocks[at]
                quantity, cost = 0, 0
                for place in range(block.count):
                    level = level_at(shard, block.levels[place])
                    if level.block != block or level.rank != block.ranks[place]:
                        raise InvariantBroken(f"{level.price}: a level is not where it must be")
                    slot, lots, count = level.first, 0, 0
                    while slot >= 0:
                        resting = resting_at(shard, slot)
                        lots += resting.quantity
                        count += 1
                        slot = resting.following
                    if lots != level.quantity or count != level.order_count or not count:
                        raise InvariantBroken(f"{level.price}: a level's sums are wrong")
                    quantity += lots
                    cost += lots * level.price
                    resting_count += count
                if quantity != block.quantity or cost != block.cost:
                    raise InvariantBroken("a block's sums are wrong")
        if resting_count != market.resting_count:
            raise InvariantBroken("the resting orders are counted wrong")
        if market.bids.best >= 0 and market.asks.best >= 0:
            if level_at(shard, market.bids.best).price >= level_at(shard, market.asks.best).price:
                raise InvariantBroken(
                    f"{market.symbol[: market.symbol_length].decode()}: the book is crossed, "
                    f"{level_at(shard, market.bids.best).price} >= {level_at(shard, market.asks.best).price}"
                )
    return 0
