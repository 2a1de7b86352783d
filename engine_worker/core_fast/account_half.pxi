# The account's half of an order: checking, holding, numbering, settling, releasing
# (engine_worker/core/account_half.py and order_checks.py).

# What is told.

cdef inline size_t order_size(Shard *shard, Order *order) except? 0xFFFFFFFF:
    """Return the most bytes that an event with an order, a reply, or the order alone takes, without fills."""
    cdef size_t size = 640 + order.name_length
    if order.has_extras:
        size += 200
    return size


cdef int put_order(
    Shard *shard, Writer *writer, int32_t slot, int close_reason, Prevented *prevented, bint is_maker
) except -1:
    """Write an `OrderState`. Self-trade prevention that ended the order is its course."""
    cdef Order *order = order_at(shard, slot)
    cdef Market *market = shard.markets[order.market]
    cdef bytes terms = None
    if order.has_extras:
        terms = (<FastCore>shard.core).extras[slot][1]
    put_array(writer, 22)
    put_number(writer, order.order_id)
    put_number(writer, account_at(shard, order.account).account_id)
    put_text(writer, order_name(order), order.name_length)
    put_text(writer, market.symbol, market.symbol_length)
    put_byte(writer, order.side)
    put_byte(writer, order.order_type)
    put_byte(writer, order.time_in_force)
    put_number(writer, order.price)
    put_number(writer, order.quantity)
    put_number(writer, order.quote_quantity)
    put_byte(writer, order.prevention)
    put_byte(writer, order.status)
    put_number(writer, order.cum_quantity)
    put_number(writer, order.cum_quote)
    put_number(writer, order.held)
    put_number(writer, order.accepted_time)
    put_number(writer, order.updated_time)
    put_number(writer, order.execution_id)
    put_number(writer, order.version)
    if close_reason == NO_REASON:
        put_nil(writer)
    else:
        put_byte(writer, <unsigned char>close_reason)
    if terms is None or not len(terms):
        put_nil(writer)
    else:
        put_bytes(writer, <const char *>terms, len(terms))
    if prevented == NULL:
        put_nil(writer)
    else:
        put_array(writer, 5)
        put_byte(writer, 0)
        put_byte(writer, 0)
        put_byte(writer, 0)
        put_number(writer, prevented.maker_quantity if is_maker else prevented.taker_quantity)
        put_number(writer, prevented.match_id)
    return 0


cdef int tell_order(
    Shard *shard, int32_t slot, int close_reason, Prevented *prevented, bint is_maker
) except -1:
    """Write an order as a part of an event, and note where: the reply repeats it."""
    shard.told.start = shard.events.length
    put_order(shard, &shard.events, slot, close_reason, prevented, is_maker)
    shard.told.end = shard.events.length
    return 0


cdef void put_balance(Shard *shard, Writer *writer, Account *account, int32_t asset) noexcept:
    cdef Funds *funds = find_funds(account, asset)
    put_array(writer, 3)
    put_text(writer, shard.assets[asset].name, shard.assets[asset].name_length)
    put_unsigned(writer, funds.available if funds != NULL else 0)
    put_unsigned(writer, funds.held if funds != NULL else 0)


cdef int note_closed(Shard *shard) except -1:
    """Note that the order that was told last is closed."""
    if shard.closed_count == shard.closed_capacity:
        shard.closed_capacity = shard.closed_capacity * 2 if shard.closed_capacity else 64
        shard.closed = <Span *>grown(shard.closed, shard.closed_capacity * sizeof(Span))
    shard.closed[shard.closed_count] = shard.told
    shard.closed_count += 1
    return 0


# Placing.

cdef int refuse_keyed(Shard *shard, Item *command, int reason) except -1:
    """Refuse a command that may have an idempotency key; a repetition is refused as well."""
    cdef size_t start = write_refused(shard, command.request_id, reason)
    reply(shard, command.channel, command.request_id, start)
    if command.idempotency_key.length:
        keep_outcome(shard, command.account_id, text_of(&command.idempotency_key), start)
    return 0


cdef int keep_outcome(Shard *shard, int64_t account_id, str key, size_t start) except -1:
    """Remember a reply, which was written last, under its idempotency key."""
    (<FastCore>shard.core).parts.replies.keep_encoded_outcome(
        account_id, key, (<char *>shard.replies.bytes)[start : shard.replies.length]
    )
    return 0


cdef int reason_to_refuse(Shard *shard, Item *command, Market *market, int32_t account_slot) except -2:
    """Return why an account may not place an order, whatever it has; NONE: it may."""
    cdef bint is_market = command.order_type == MARKET, needs_price = True, fits
    cdef int64_t quantity = command.quantity, quote_quantity = command.quote_quantity
    cdef wide_t notional
    cdef Account *account
    cdef OpenOrders *orders
    if is_market:
        fits = (quantity > 0 and not quote_quantity) or (quote_quantity > 0 and not quantity)
        fits = fits and command.time_in_force == IOC
        needs_price = not (command.bound_by_book and (command.side == SELL or quote_quantity))
    else:
        fits = quantity > 0 and not quote_quantity and not command.bound_by_book
        fits = fits and (command.order_type != LIMIT_MAKER or command.time_in_force == GTC)
    if not fits or (command.terms.length and not command.has_supported_terms):
        return INVALID_COMBINATION
    if account_slot >= 0:
        command.name_hash = hash_order_name(account_slot, &command.client_order_id)
        if find_order_named(shard, account_slot, &command.client_order_id, command.name_hash) >= 0:
            return DUPLICATE_CLIENT_ORDER_ID
    if needs_price:
        if not 1 <= command.price <= market.price_max:
            return PRICE_OUT_OF_RANGE
    elif command.price:
        return PRICE_OUT_OF_RANGE
    if quantity and not market.quantity_min <= quantity <= market.quantity_max:
        return QUANTITY_OUT_OF_RANGE
    if is_market:
        notional = quote_quantity
    else:
        notional = <wide_t>command.price * quantity * market.quote_per_tick_lot
    if notional < market.notional_min and not (is_market and quantity):
        return NOTIONAL_TOO_SMALL
    if account_slot >= 0:
        account = account_at(shard, account_slot)
        orders = find_open_orders(account, market.index)
        if orders != NULL and orders.count >= market.open_orders_max:
            return TOO_MANY_OPEN_ORDERS
        if account.order_count >= shard.open_orders_max:
            return TOO_MANY_OPEN_ORDERS_IN_ALL
    return NONE


cdef wide_t hold_for(Item *command, Market *market, Account *account) except? -1:
    """Return what a valid order must hold; 0 when that is not available."""
    cdef bint is_buy = command.side == BUY
    cdef Funds *funds = find_funds(account, market.quote if is_buy else market.base)
    cdef wide_t available, needed, lots, per_lot
    if funds == NULL:
        return 0
    available = funds.available
    if command.order_type != MARKET:
        if is_buy:
            needed = <wide_t>command.price * command.quantity * market.quote_per_tick_lot
        else:
            needed = command.quantity * market.base_per_lot
    elif command.quote_quantity:
        if is_buy:
            needed = command.quote_quantity
        else:
            if command.bound_by_book:
                # What it has to sell is known when its market has been asked. Until then nobody else may
                # sell it.
                lots = market.quantity_max
            else:
                per_lot = <wide_t>command.price * market.quote_per_tick_lot
                lots = (command.quote_quantity + per_lot - 1) // per_lot
            if available // market.base_per_lot < lots:
                lots = available // market.base_per_lot
            needed = lots * market.base_per_lot
    elif is_buy:
        needed = <wide_t>command.price * command.quantity * market.quote_per_tick_lot
        if available < needed:
            needed = available
    else:
        needed = command.quantity * market.base_per_lot
    return needed if needed <= available else 0


cdef int place_order(Shard *shard, Item *command) except -1:
    """Check an order, hold its funds, number it, and hand it to its market's half."""
    cdef FastCore core = <FastCore>shard.core
    cdef Market *market
    cdef Account *account = NULL
    cdef int32_t account_slot, slot, reason
    cdef wide_t held = 0
    cdef Item order
    # First of all: a repetition gets the first outcome, whatever has become of account and market since
    # (docs/decisions/0005-client-order-ids.md).
    if command.idempotency_key.length and not core.is_first_of_its_key(command):
        return 0
    # The first reason counts: clients see it, and so does every replay.
    if command.market < 0:
        return refuse_keyed(shard, command, UNKNOWN_MARKET)
    market = shard.markets[command.market]
    if market.status != TRADING:
        return refuse_keyed(shard, command, MARKET_CLOSED)
    if shard.time >= shard.closed_from:
        return refuse_keyed(shard, command, UNDER_MAINTENANCE)
    account_slot = find_account(shard, command.account_id)
    reason = reason_to_refuse(shard, command, market, account_slot)
    if account_slot >= 0:
        account = account_at(shard, account_slot)
        if reason == NONE and account.has_limits:
            reason = core.reason_of_limits(command.account_id)
        if reason == NONE:
            held = hold_for(command, market, account)
    if held <= 0 or held > INT64_MAX:
        return refuse_keyed(shard, command, reason if reason != NONE else INSUFFICIENT_BALANCE)
    if market.shard != shard.index:
        # Last of all: it is the only refusal that is not remembered under the idempotency key, since the
        # same order may be placed a moment later.
        if shard.in_flight[market.shard] >= shard.in_flight_max:
            if command.idempotency_key.length:
                core.forget_key(command)
            return refuse(shard, command.channel, command.request_id, MARKET_BEHIND)
        shard.in_flight[market.shard] += 1
    slot = open_order(shard, command, market, account_slot, <int64_t>held)
    order_to_match(shard, &order, slot, command, market, <int64_t>held)
    # Behind everything else: on this very shard the market's half answers before this returns, and the order
    # must be there for that.
    return send_match_order(shard, market.shard, &order)


cdef int32_t open_order(
    Shard *shard, Item *command, Market *market, int32_t account_slot, int64_t held
) except -1:
    """Hold an order's funds and put it into the state.

    It is NEW at once when this very shard matches it: nobody can look before. Otherwise it is IN_FLIGHT.
    """
    cdef FastCore core = <FastCore>shard.core
    cdef bint is_new = market.shard == shard.index
    cdef Account *account = account_at(shard, account_slot)
    cdef int32_t asset = market.quote if command.side == BUY else market.base
    cdef char *elsewhere = NULL
    cdef int32_t slot
    cdef Order *order
    if command.client_order_id.length > INLINE_NAME:
        elsewhere = <char *>grown(NULL, command.client_order_id.length)
    slot = slab_new(&shard.orders)
    order = order_at(shard, slot)
    set_order_name(order, command.client_order_id.at, command.client_order_id.length, elsewhere)
    hold(find_funds(account, asset), held)
    shard.assets[asset].held += held
    account.changed_time = shard.time
    if account.has_limits:
        core.count_order(command.account_id)
    shard.order_count += 1
    order.order_id = shard.order_count * SHARD_COUNT_MAX + shard.index
    order.price, order.quantity = command.price, command.quantity
    order.quote_quantity = command.quote_quantity
    order.held = held
    order.accepted_time = order.updated_time = shard.time
    order.request_id, order.account, order.market = command.request_id, account_slot, market.index
    order.reply_to, order.resting = command.channel, NONE
    order.side, order.order_type = command.side, command.order_type
    order.time_in_force = command.time_in_force
    order.prevention = command.prevention
    if is_new:
        # Counted once the order is accepted: one that is refused takes no number.
        order.status, order.version = NEW, 1
        order.execution_id = (shard.execution_count + 1) * SHARD_COUNT_MAX + shard.index
    else:
        order.status = IN_FLIGHT
    if command.idempotency_key.length or command.terms.length:
        order.has_extras = True
        core.extras[slot] = (text_of(&command.idempotency_key), command.terms.at[: command.terms.length])
    refer(shard, command.channel)
    order.name_hash = <uint32_t>command.name_hash
    link_order(shard, slot)
    return slot


cdef int order_to_match(
    Shard *shard, Item *order, int32_t slot, Item *command, Market *market, int64_t held
) except -1:
    """Say an order as its market's half gets it: with the lots and the budget that what it holds pays for."""
    cdef wide_t lots
    memset(order, 0, sizeof(Item))
    order.tag, order.order = MATCH_ORDER, slot
    order.order_id, order.account_id = order_at(shard, slot).order_id, command.account_id
    order.symbol.at, order.symbol.length, order.market = market.symbol, market.symbol_length, market.index
    order.side, order.order_type = command.side, command.order_type
    order.time_in_force = command.time_in_force
    order.price = command.price if command.price else 1
    order.quantity, order.quote_quantity = command.quantity, command.quote_quantity
    if command.order_type == MARKET:
        if command.quote_quantity:
            if command.side == BUY:
                lots = command.quote_quantity // market.quote_per_tick_lot
            else:
                lots = held // market.base_per_lot
            order.quantity = market.quantity_max if lots > market.quantity_max else <int64_t>lots
        elif command.side == BUY:
            order.quote_quantity = held
    order.budget_is_limit = command.quote_quantity > 0
    order.prevention, order.bound_by_book = command.prevention, command.bound_by_book
    return 0


# Settling.

cdef int32_t open_order_of(Shard *shard, Item *message) except -1:
    """Return the record of the open order that a message is about."""
    cdef int32_t slot = message.order if message.order >= 0 else find_order(shard, message.order_id)
    cdef Order *order
    cdef int64_t account_id
    if slot >= 0:
        order = order_at(shard, slot)
        account_id = account_at(shard, order.account).account_id
        if order.market == message.market and account_id == message.account_id:
            return slot
    raise InvariantBroken(
        f"order {message.order_id} of account {message.account_id} is not open in {text_of(&message.symbol)}"
    )


cdef inline void advance(Shard *shard, Order *order, uint8_t status) noexcept:
    """Count one more execution of an order."""
    shard.execution_count += 1
    order.status = status
    order.updated_time = shard.time
    order.execution_id = shard.execution_count * SHARD_COUNT_MAX + shard.index
    order.version += 1


cdef int taker_outcome(Shard *shard, Item *outcome, Fill *fills, Prevented *prevented) except -1:
    """Settle what came of an order that was matched, and answer whoever placed it."""
    cdef int32_t slot = open_order_of(shard, outcome), channel, number
    cdef Order *order = order_at(shard, slot)
    cdef Account *account = account_at(shard, order.account)
    cdef Market *market = shard.markets[order.market]
    cdef Writer *writer = &shard.events
    cdef int64_t request_id = order.request_id, last = 0, account_id = account.account_id
    cdef int32_t received = market.base if order.side == BUY else market.quote
    cdef uint8_t prevention = order.prevention
    cdef bint is_filled = False
    cdef size_t start
    cdef str key = None
    if order.status == IN_FLIGHT:
        shard.in_flight[market.shard] -= 1
        if shard.in_flight[market.shard] < 0:
            raise InvariantBroken(f"shard {market.shard} has answered more orders than it was sent")
    if outcome.reject_reason != NONE:
        return refuse_matched(shard, slot, outcome.reject_reason)
    # Closing the order forgets who placed it.
    channel = order.reply_to
    if order.has_extras:
        key = (<FastCore>shard.core).extras[slot][0]
    if order.status == IN_FLIGHT:
        advance(shard, order, NEW)
    else:
        shard.execution_count += 1  # the number that it has been given in `open_order`
    # Accepted before filled, and with the balance before the first fill: readers apply events in their order.
    reserve(writer, order_size(shard, order))
    put_array(writer, 4)
    put_byte(writer, 13)
    put_number(writer, shard.time)
    tell_order(shard, slot, NO_REASON, NULL, False)
    put_array(writer, 1)
    put_balance(shard, writer, account, market.quote if order.side == BUY else market.base)
    shard.event_count += 1
    if outcome.fill_count:
        if outcome.fill_count > shard.fee_capacity:
            shard.fees = <int64_t *>grown(shard.fees, 2 * outcome.fill_count * sizeof(int64_t))
            shard.fee_capacity = 2 * outcome.fill_count
        if not outcome.rests:
            last = fills[outcome.fill_count - 1].trade_id
        for number in range(outcome.fill_count):
            if is_filled:
                raise InvariantBroken(f"order {outcome.order_id} trades although it is filled")
            settle(
                shard, slot, &fills[number], TAKER, not outcome.rests and fills[number].trade_id == last,
                outcome.budget_spent, &shard.fees[number], &is_filled,
            )
    if outcome.prevented_count:
        tell_prevented(shard, outcome, prevented, prevention)
    if outcome.rests:
        if is_filled:
            raise InvariantBroken(f"order {outcome.order_id} is filled, and rests in the book")
    # After all fills: closing releases what they have left of the hold.
    elif not is_filled:
        if outcome.expired_in_match:
            number = outcome.prevented_count - 1
            close_order(
                shard, slot, EXPIRED_IN_MATCH, SELF_TRADE_PREVENTED, NULL,
                &prevented[number] if number >= 0 else NULL, False,
                prevented[number].maker_order_id if number >= 0 else 0,
            )
        else:
            close_order(shard, slot, EXPIRED, reason_to_expire(order, outcome), NULL, NULL, False, 0)
    # Last: the reply, and what is remembered of it, has the order as it is now.
    start = shard.replies.length
    writer = &shard.replies
    reserve(
        writer,
        128 + (shard.told.end - shard.told.start) + 64 * <size_t>outcome.fill_count
        + 64 * <size_t>outcome.prevented_count,
    )
    put_array(writer, 6)
    put_byte(writer, 1)
    put_number(writer, request_id)
    put_number(writer, shard.time)
    put_bytes(writer, shard.events.bytes + shard.told.start, shard.told.end - shard.told.start)
    put_array(writer, outcome.fill_count)
    for number in range(outcome.fill_count):
        put_array(writer, 5)
        put_number(writer, fills[number].trade_id)
        put_number(writer, fills[number].price)
        put_number(writer, fills[number].quantity)
        put_number(writer, shard.fees[number])
        put_text(writer, shard.assets[received].name, shard.assets[received].name_length)
    put_array(writer, outcome.prevented_count)
    for number in range(outcome.prevented_count):
        put_prevented(writer, &prevented[number])
    reply(shard, channel, request_id, start)
    if key:
        keep_outcome(shard, account_id, key, start)
    return 0


cdef int reason_to_expire(Order *order, Item *outcome) noexcept:
    """Return why an order that may not rest has something left."""
    if outcome.limit_reached:
        return TOO_MANY_MATCHES
    if order.order_type == MARKET:
        return PRICE_RANGE_EXCEEDED if outcome.price_range_exceeded else INSUFFICIENT_LIQUIDITY
    return UNFILLED_FOK if order.time_in_force == FOK else UNFILLED_IOC


cdef int refuse_matched(Shard *shard, int32_t slot, int reason) except -1:
    """Forget an order that its market's half refuses: a refusal leaves no trace."""
    cdef Order *order = order_at(shard, slot)
    cdef Account *account = account_at(shard, order.account)
    cdef Market *market = shard.markets[order.market]
    cdef int32_t asset = market.quote if order.side == BUY else market.base, channel = order.reply_to
    cdef int64_t request_id = order.request_id, account_id = account.account_id
    cdef Writer *writer = &shard.events
    cdef size_t start
    cdef str key = (<FastCore>shard.core).extras[slot][0] if order.has_extras else None
    release_held(shard, account, asset, order.held)
    # Only events of orders in flight may have shown the hold; on one shard nobody has seen it, so nobody is
    # told of its release (docs/decisions/0001-two-halves-of-an-order.md).
    if order.status == IN_FLIGHT:
        reserve(writer, 128)
        put_array(writer, 4)
        put_byte(writer, 16)
        put_number(writer, shard.time)
        put_number(writer, account_id)
        put_array(writer, 1)
        put_balance(shard, writer, account, asset)
        shard.event_count += 1
    forget_open(shard, slot)
    start = write_refused(shard, request_id, reason)
    reply(shard, channel, request_id, start)
    if key:
        keep_outcome(shard, account_id, key, start)
    return 0


cdef int tell_prevented(Shard *shard, Item *outcome, Prevented *prevented, uint8_t prevention) except -1:
    """Tell the trades of an order that were prevented. Its record is gone when it is filled."""
    cdef Market *market = shard.markets[outcome.market]
    cdef Writer *writer = &shard.events
    cdef int32_t number
    for number in range(outcome.prevented_count):
        reserve(writer, 160)
        put_array(writer, 12)
        put_byte(writer, 19)
        put_number(writer, shard.time)
        put_text(writer, market.symbol, market.symbol_length)
        put_number(writer, outcome.account_id)
        put_number(writer, prevented[number].match_id)
        put_number(writer, prevented[number].maker_order_id)
        put_number(writer, outcome.order_id)
        put_number(writer, prevented[number].price)
        put_number(writer, prevented[number].maker_quantity)
        put_number(writer, prevented[number].taker_quantity)
        # The order's last execution is the shard's last one, too.
        put_number(writer, shard.execution_count * SHARD_COUNT_MAX + shard.index)
        put_byte(writer, prevention)
    shard.event_count += outcome.prevented_count
    return 0


cdef int settle(
    Shard *shard, int32_t slot, Fill *fill, int liquidity, bint is_last, bint is_spent, int64_t *fee_taken,
    bint *is_filled
) except -1:
    """Move the money of one fill, and tell it.

    Nothing of an order by quote quantity follows on its last fill (`is_last`). `is_spent` says that what is
    left of it pays no lot of the next order. The fee is rounded up to a whole unit, in the house's favour.
    What a better price than the limit saves is released at once (docs/decisions/0004-money.md).
    """
    cdef Order *order = order_at(shard, slot)
    cdef Account *account = account_at(shard, order.account)
    cdef Market *market = shard.markets[order.market]
    cdef Writer *writer = &shard.events
    cdef bint is_buy = order.side == BUY, filled, is_too_much
    cdef wide_t k = market.quote_per_tick_lot
    cdef wide_t quote = fill.price * k * fill.quantity, base = fill.quantity * market.base_per_lot
    cdef wide_t cum_quantity = <wide_t>order.cum_quantity + fill.quantity, cum_quote = order.cum_quote + quote
    cdef wide_t paid, received, fee, held
    cdef int32_t paid_asset, received_asset
    if is_buy:
        paid_asset, received_asset, paid, received = market.quote, market.base, quote, base
    else:
        paid_asset, received_asset, paid, received = market.base, market.quote, base, quote
    fee = (received * (market.maker_fee_ppm if liquidity == MAKER else market.taker_fee_ppm) + PPM - 1) // PPM
    if order.quote_quantity:
        # What is left pays no lot of the next order, or none at this price, and no later one is better: it
        # is used up.
        filled = is_last and (is_spent or order.quote_quantity - cum_quote < fill.price * k)
        is_too_much = cum_quote > order.quote_quantity
    else:
        filled = cum_quantity == order.quantity
        is_too_much = cum_quantity > order.quantity
    if is_too_much or fee > received:
        raise InvariantBroken(
            f"order {order.order_id}: trade {fill.trade_id} brings {from_wide(received)} with a fee of "
            f"{from_wide(fee)}; it fills {fill.quantity} lots for {from_wide(quote)}, "
            f"{from_wide(cum_quantity)} of {order.quantity} for {from_wide(cum_quote)} of "
            f"{order.quote_quantity}"
        )
    if filled:
        held = 0
    elif is_buy and order.order_type != MARKET:
        held = order.price * (order.quantity - cum_quantity) * k
    else:
        held = order.held - paid
    exchange(shard, account, paid_asset, paid, order.held - held, received_asset, received, fee)
    if filled:
        order.quantity = <int64_t>cum_quantity
    order.cum_quantity = <int64_t>cum_quantity
    order.cum_quote = narrow(cum_quote, order)
    order.held = narrow(held, order)
    fee_taken[0] = narrow(fee, order)
    advance(shard, order, FILLED if filled else PARTIALLY_FILLED)
    reserve(writer, order_size(shard, order))
    put_array(writer, 11)
    put_byte(writer, 14)
    put_number(writer, shard.time)
    tell_order(shard, slot, NO_REASON, NULL, False)
    put_number(writer, fill.trade_id)
    put_number(writer, fill.price)
    put_number(writer, fill.quantity)
    put_number(writer, narrow(quote, order))
    put_byte(writer, <unsigned char>liquidity)
    put_number(writer, fee_taken[0])
    put_text(writer, shard.assets[received_asset].name, shard.assets[received_asset].name_length)
    put_array(writer, 2)
    put_balance(shard, writer, account, paid_asset)
    put_balance(shard, writer, account, received_asset)
    shard.event_count += 1
    is_filled[0] = filled
    if filled:
        note_closed(shard)
        # After the balances have been told: what is empty is forgotten.
        forget_open(shard, slot)
    return 0


cdef int exchange(
    Shard *shard, Account *account, int32_t paid_asset, wide_t paid, wide_t unheld, int32_t received_asset,
    wide_t received, wide_t fee
) except -1:
    """Move what an account pays and receives.

    Of what it holds, `unheld` is not held any more: `paid` of that is gone, the rest is available. What the
    account has is measured before and after, and not computed from the amounts: so a mistake here makes the
    shard's books differ from its accounts, which `check_money` finds before anything is published.
    """
    cdef Totals *paid_totals = &shard.assets[paid_asset]
    cdef Totals *received_totals = &shard.assets[received_asset]
    # The second first: to add funds moves the others.
    cdef Funds *received_funds = funds_in(account, received_asset)
    cdef Funds *paid_funds = find_funds(account, paid_asset)
    cdef wide_t before, after
    if paid_funds == NULL:
        raise InvariantBroken(f"account {account.account_id} holds no {asset_name(shard, paid_asset)}")
    before = <wide_t>paid_funds.available + paid_funds.held
    pay(paid_funds, paid, unheld - paid)
    paid_totals.funds += <wide_t>paid_funds.available + paid_funds.held - before
    before = <wide_t>received_funds.available + received_funds.held
    after = before + received - fee
    if after > <wide_t>INT64_MAX * 2:
        # No more than the supply is there. For a moment an account may have twice what it trades with
        # itself: it receives as the taker before it pays as the maker. So does one of which its shard hears
        # late what it gave.
        raise InvariantBroken(
            f"account {account.account_id}: {asset_name(shard, received_asset)} exceeds what a balance can "
            "hold"
        )
    received_funds.available += <uint64_t>(received - fee)
    account.changed_time = shard.time
    received_totals.funds += <wide_t>received_funds.available + received_funds.held - before
    paid_totals.held -= unheld
    paid_totals.settled -= paid
    received_totals.settled += received
    received_totals.fees += fee
    return 0


cdef int maker_fill(Shard *shard, Item *message) except -1:
    """Settle a resting order's share of a trade."""
    cdef Fill fill
    cdef int64_t fee
    cdef bint is_filled
    fill.trade_id, fill.price, fill.quantity = message.trade_id, message.price, message.quantity
    return settle(shard, open_order_of(shard, message), &fill, MAKER, False, False, &fee, &is_filled)


# Closing.

cdef int release_held(Shard *shard, Account *account, int32_t asset, int64_t amount) except -1:
    """Make available what an order that ends still holds."""
    cdef Funds *funds = find_funds(account, asset)
    cdef Totals *totals = &shard.assets[asset]
    if funds == NULL:
        raise InvariantBroken(f"account {account.account_id} holds no {asset_name(shard, asset)}")
    release(funds, amount)
    account.changed_time = shard.time
    totals.held -= amount
    if totals.held < 0:
        raise InvariantBroken(
            f"{asset_name(shard, asset)}: held in all is {from_wide(totals.held)} after a release of {amount}"
        )
    return 0


cdef int close_order(
    Shard *shard, int32_t slot, uint8_t status, int reason, Text *cancel_id, Prevented *prevented,
    bint is_maker, int64_t counter_order_id
) except -1:
    """Release what the order still holds and close it."""
    cdef Order *order = order_at(shard, slot)
    cdef Account *account = account_at(shard, order.account)
    cdef Market *market = shard.markets[order.market]
    cdef Writer *writer = &shard.events
    cdef int32_t asset = market.quote if order.side == BUY else market.base
    # Before the balance is told.
    release_held(shard, account, asset, order.held)
    if order.quote_quantity:
        order.quantity = order.cum_quantity
    order.held = 0
    advance(shard, order, status)
    reserve(writer, order_size(shard, order) + (cancel_id.length if cancel_id != NULL else 0))
    put_array(writer, 8)
    put_byte(writer, 15)
    put_number(writer, shard.time)
    tell_order(shard, slot, reason, prevented, is_maker)
    put_byte(writer, <unsigned char>reason)
    put_array(writer, 1)
    put_balance(shard, writer, account, asset)
    if cancel_id != NULL:
        put_text(writer, cancel_id.at, cancel_id.length)
    else:
        put_text(writer, NULL, 0)
    if prevented != NULL:
        put_prevented(writer, prevented)
    else:
        put_nil(writer)
    put_number(writer, counter_order_id)
    shard.event_count += 1
    note_closed(shard)
    # After the balance has been told: what is empty is forgotten.
    return forget_open(shard, slot)


cdef int forget_open(Shard *shard, int32_t slot) except -1:
    """Take a closed order out of the state."""
    cdef Order *order = order_at(shard, slot)
    cdef Account *account = account_at(shard, order.account)
    cdef Market *market = shard.markets[order.market]
    unlink_order(shard, slot)
    # Another open order of the account holds something, so what is empty belongs to none.
    forget_empty(account, market.base)
    forget_empty(account, market.quote)
    return 0


cdef int resting_closed(Shard *shard, Item *closed, Prevented *prevented) except -1:
    """Close an order that its market has taken out of the book."""
    cdef int32_t slot = open_order_of(shard, closed)
    if closed.expired_in_match:
        # A message of before prevented matches were numbered does not say for which.
        return close_order(
            shard, slot, EXPIRED_IN_MATCH, SELF_TRADE_PREVENTED, NULL, prevented, True,
            closed.taker_order_id if prevented != NULL else 0,
        )
    if closed.close_reason != CANCELED_BY_OWNER:
        return close_order(shard, slot, EXPIRED, closed.close_reason, NULL, NULL, False, 0)
    close_order(shard, slot, CANCELED, CANCELED_BY_OWNER, &closed.cancel_id, NULL, False, 0)
    return cancel_answered(shard, closed, True)


cdef int cancel_missed(Shard *shard, Item *missed) except -1:
    """Tell whoever wanted to cancel an order that it does not rest any more."""
    if missed.reply_to.length:  # nobody waits for what an operator cancels
        return cancel_answered(shard, missed, False)
    return 0


cdef int cancel_answered(Shard *shard, Item *answer, bint is_canceled) except -1:
    """Tell who asked that the order is canceled, or that there was nothing to cancel any more."""
    cdef FastCore core = <FastCore>shard.core
    cdef int32_t channel
    cdef size_t start
    cdef Writer *writer = &shard.replies
    if core.cancel_alls and core.is_one_of_several(answer, is_canceled):
        return 0
    channel = channel_of(shard, answer.reply_to.at, answer.reply_to.length)
    if not is_canceled:
        return refuse(shard, channel, answer.request_id, UNKNOWN_ORDER)
    start = writer.length
    reserve(writer, 64 + shard.told.end - shard.told.start)
    put_array(writer, 6)
    put_byte(writer, 1)
    put_number(writer, answer.request_id)
    put_number(writer, shard.time)
    put_bytes(writer, shard.events.bytes + shard.told.start, shard.told.end - shard.told.start)
    put_array(writer, 0)
    put_array(writer, 0)
    return reply(shard, channel, answer.request_id, start)


# Canceling.

cdef int32_t find_open(
    Shard *shard, int64_t account_id, int32_t market, int64_t order_id, Text *name
) noexcept:
    """Return an open order by one of its ids, or by both; NONE: there is none that has them."""
    cdef int32_t account = find_account(shard, account_id), slot
    cdef Order *order
    if account < 0:
        return NONE
    if name.length:
        slot = find_order_named(shard, account, name, hash_order_name(account, name))
        if slot < 0 or (order_id and order_at(shard, slot).order_id != order_id):
            return NONE
    else:
        slot = find_order(shard, order_id)
        if slot < 0:
            return NONE
    order = order_at(shard, slot)
    return slot if order.account == account and order.market == market else NONE


cdef int cancel_order(Shard *shard, Item *command) except -1:
    """Ask an order's market to cancel it."""
    cdef int32_t slot = find_open(
        shard, command.account_id, command.market, command.order_id, &command.client_order_id
    )
    cdef Market *market
    cdef Item cancel
    if slot < 0 or command.market < 0:
        return refuse(shard, command.channel, command.request_id, UNKNOWN_ORDER)
    market = shard.markets[command.market]
    if market.status == HALTED:
        return refuse(shard, command.channel, command.request_id, MARKET_CLOSED)
    memset(&cancel, 0, sizeof(Item))
    cancel.tag, cancel.order = CANCEL_RESTING, slot
    cancel.order_id, cancel.account_id = order_at(shard, slot).order_id, command.account_id
    cancel.symbol.at, cancel.symbol.length, cancel.market = market.symbol, market.symbol_length, market.index
    cancel.request_id, cancel.reply_to = command.request_id, command.reply_to
    cancel.cancel_id = command.cancel_id
    cancel.close_reason = CANCELED_BY_OWNER
    return send_cancel_resting(shard, market.shard, &cancel)
