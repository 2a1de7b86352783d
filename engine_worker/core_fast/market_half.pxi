# The market's half of an order: the rules of a market (engine_worker/core/matching.py), and messages to the
# accounts' halves (engine_worker/core/market_half.py).

cdef int grow_met(Shard *shard, int32_t needed) except -1:
    if needed > shard.fill_capacity:
        shard.fills = <Fill *>grown(shard.fills, 2 * needed * sizeof(Fill))
        shard.fill_capacity = 2 * needed
    if needed > shard.met_capacity:
        shard.met = <Met *>grown(shard.met, 2 * needed * sizeof(Met))
        shard.met_capacity = 2 * needed
    return 0


cdef int grow_prevented(Shard *shard, int32_t needed) except -1:
    if needed > shard.prevented_maker_capacity:
        shard.prevented_makers = <PreventedMaker *>grown(
            shard.prevented_makers, 2 * needed * sizeof(PreventedMaker)
        )
        shard.prevented_maker_capacity = 2 * needed
    if needed > shard.prevented_capacity:
        shard.prevented = <Prevented *>grown(shard.prevented, 2 * needed * sizeof(Prevented))
        shard.prevented_capacity = 2 * needed
    return 0


cdef int tell_depth(Shard *shard, Market *market) except -1:
    """Say which levels changed, once for all that one command did: bids before asks."""
    cdef int32_t count = market.bids.changed_count + market.asks.changed_count
    cdef int32_t half_number, number
    cdef BookSide *half
    cdef Level *level
    cdef Writer *writer = &shard.events
    if not count:
        return 0
    market.sequence += 1
    reserve(writer, 80 + 24 * <size_t>count)
    put_array(writer, 5)
    put_byte(writer, 2)
    put_number(writer, shard.time)
    put_text(writer, market.symbol, market.symbol_length)
    put_number(writer, market.sequence)
    put_array(writer, count)
    for half_number in range(2):
        half = &market.asks if half_number else &market.bids
        for number in range(half.changed_count):
            level = level_at(shard, half.changed[number])
            put_array(writer, 3)
            put_byte(writer, <unsigned char>half.side)
            put_number(writer, level.price)
            if level.quantity >> 64:
                raise InvariantBroken(f"{from_wide(level.quantity)} lots at {level.price} are too many to tell")
            put_unsigned(writer, <uint64_t>level.quantity)
        forget_changes(shard, half)
    shard.event_count += 1
    return 0


cdef int64_t bound_of(Shard *shard, Market *market, Item *order) noexcept:
    """Return the worst price at which a MARKET order may trade that its market bounds."""
    cdef BookSide *opposite = opposite_side(market, order.side)
    cdef wide_t best, bound
    if opposite.best < 0:
        return order.price
    best = level_at(shard, opposite.best).price
    if order.side == BUY:
        bound = best * (PPM + market.slippage_ppm) // PPM
        return market.price_max if bound > market.price_max else <int64_t>bound
    # Rounded up to the tick that is nearer to the best price.
    return <int64_t>((best * (PPM - market.slippage_ppm) + PPM - 1) // PPM)


cdef int reason_not_to_spend(Shard *shard, Market *market, Item *order, int64_t bound) except -2:
    """Return why a MARKET order by quote quantity is refused, or NONE."""
    cdef BookSide *opposite = opposite_side(market, order.side)
    cdef int64_t found
    cdef wide_t cost
    sums(shard, opposite, bound * opposite.sign, market.quantity_min, NULL, &found, &cost)
    if not found:
        return EMPTY_BOOK
    if found < market.quantity_min or cost * market.quote_per_tick_lot > order.quote_quantity:
        return THIN_BOOK
    if order.side == BUY or order.quantity >= market.quantity_max:
        return NONE
    # Whether the account has less to sell than the book would take.
    fillable(shard, market, order, bound, order.quantity + 1, &found, &cost)
    if found == order.quantity + 1 and cost <= order.quote_quantity:
        return INSUFFICIENT_BALANCE
    return NONE


cdef int reason_of_worth(Shard *shard, Market *market, Item *order) except -2:
    """Return why a MARKET order by quantity is worth too little, or NONE.

    Its worth is counted at the last price, before the first trade at the best price.
    """
    cdef BookSide *opposite = opposite_side(market, order.side)
    cdef int64_t price = market.last_price
    if not price and opposite.best >= 0:
        price = level_at(shard, opposite.best).price
    if not price:
        return EMPTY_BOOK
    if <wide_t>price * order.quantity * market.quote_per_tick_lot < market.notional_min:
        return NOTIONAL_TOO_SMALL
    return NONE


cdef int market_reason_to_refuse(Shard *shard, Market *market, Item *order, int64_t bound) except -2:
    cdef int reason
    cdef int64_t found
    cdef wide_t cost, scaled
    if order.order_type == MARKET:
        if order.budget_is_limit:
            return reason_not_to_spend(shard, market, order, bound)
        if order.bound_by_book:
            reason = reason_of_worth(shard, market, order)
            if reason != NONE:
                return reason
        if order.side == BUY:
            if <wide_t>order.price * order.quantity * market.quote_per_tick_lot > order.quote_quantity:
                fillable(shard, market, order, bound, order.quantity, &found, &cost)
                if cost > order.quote_quantity:
                    return INSUFFICIENT_BALANCE
        return NONE
    if market.last_price:
        scaled = <wide_t>order.price * PPM
        if scaled > market.last_price * market.band_up_ppm:
            return PRICE_OUTSIDE_BAND
        if scaled < <wide_t>market.last_price * market.band_down_ppm:
            return PRICE_OUTSIDE_BAND
    if order.order_type == LIMIT_MAKER and crosses(shard, opposite_side(market, order.side), order.price):
        return WOULD_MATCH_IMMEDIATELY
    return NONE


cdef inline bint has_budget(Market *market, Item *order) noexcept:
    """Return whether a MARKET order has a limit beside its quantity: what it may spend or receive.

    A BUY by quantity holds what it costs at its gateway's estimate, or, where that is less, all that its
    account has. An estimate may be out of date: where the book is dearer now, what is held ends the order.
    """
    if order.order_type != MARKET:
        return False
    if order.budget_is_limit:
        return True
    if order.side != BUY or not order.bound_by_book:
        return False
    return <wide_t>order.price * order.quantity * market.quote_per_tick_lot <= order.quote_quantity


cdef int match(
    Shard *shard, Market *market, Item *order, int64_t price, Item *outcome, int64_t *leaves_left
) except -1:
    """Match an arriving order with the opposite half, within price, quantity and budget.

    With a budget it trades at each maker the most whole lots that the rest of the budget covers, and stops
    at the first maker where that is none. It meets `matches_max` orders at most; own ones that are prevented
    count. The trades are `shard.fills` and `shard.met`, what was prevented is `shard.prevented_makers`.
    """
    cdef BookSide *opposite = opposite_side(market, order.side)
    cdef int64_t rank_max = price * opposite.sign, leaves = order.quantity, traded, payable
    cdef wide_t budget = order.quote_quantity, cost_per_lot
    cdef bint is_bounded = has_budget(market, order)
    cdef Level *level
    cdef Resting *maker
    cdef int32_t slot
    cdef PreventedMaker *prevented
    cdef Fill *fill
    cdef Met *met
    outcome.fill_count = outcome.prevented_count = 0
    outcome.expired_in_match = outcome.limit_reached = outcome.budget_spent = False
    leaves_left[0] = leaves
    while leaves and opposite.best >= 0:
        level = level_at(shard, opposite.best)
        if level.rank > rank_max:
            break
        slot = level.first
        maker = resting_at(shard, slot)
        cost_per_lot = <wide_t>level.price * market.quote_per_tick_lot
        if is_bounded and budget < cost_per_lot:
            # Before self-trade prevention: what cannot trade prevents nothing.
            outcome.budget_spent = True
            break
        if <int64_t>outcome.fill_count + outcome.prevented_count == market.matches_max:
            outcome.limit_reached = True
            break
        if maker.account_id == order.account_id and order.prevention != PREVENT_NOTHING:
            payable = leaves
            if is_bounded and budget // cost_per_lot < payable:
                payable = <int64_t>(budget // cost_per_lot)
            grow_prevented(shard, outcome.prevented_count + 1)
            prevented = &shard.prevented_makers[outcome.prevented_count]
            prevented.order_id, prevented.account_id = maker.order_id, maker.account_id
            prevented.price, prevented.quantity = level.price, maker.quantity
            prevented.taker_quantity, prevented.payable = leaves, payable
            outcome.prevented_count += 1
            # The maker goes before the taker ends: EXPIRE_BOTH is both.
            if order.prevention != EXPIRE_TAKER:
                remove_resting(shard, slot)
            if order.prevention != EXPIRE_MAKER:
                outcome.expired_in_match = True
                break
            continue
        traded = maker.quantity if maker.quantity < leaves else leaves
        if is_bounded:
            if budget // cost_per_lot < traded:
                traded = <int64_t>(budget // cost_per_lot)
            budget -= traded * cost_per_lot
        grow_met(shard, outcome.fill_count + 1)
        fill, met = &shard.fills[outcome.fill_count], &shard.met[outcome.fill_count]
        outcome.fill_count += 1
        # At the maker's price: whoever came first said it first.
        fill.price, fill.quantity = level.price, traded
        met.order_id, met.account_id, met.order = maker.order_id, maker.account_id, maker.order
        leaves -= traded
        if traded == maker.quantity:
            remove_resting(shard, slot)
        else:
            take_lots(shard, maker, traded)
            if maker.quantity <= 0:
                raise InvariantBroken(f"order {maker.order_id} rests with {maker.quantity} lots")
    leaves_left[0] = leaves
    return 0


cdef int tell_trades(Shard *shard, Market *market, Item *order, int32_t count) except -1:
    """Number the trades and say that they happened."""
    cdef Writer *writer = &shard.events
    cdef int64_t last_price = 0
    cdef int32_t number
    cdef Fill *fill
    cdef Met *met
    reserve(writer, 136 * <size_t>count)
    for number in range(count):
        fill, met = &shard.fills[number], &shard.met[number]
        market.trade_id += 1
        market.sequence += 1
        # An aggregate is one taker's trades at one price, and the matches come sorted by price.
        if fill.price != last_price:
            market.aggregate_id += 1
            last_price = fill.price
        fill.trade_id = market.trade_id
        put_array(writer, 13)
        put_byte(writer, 1)
        put_number(writer, shard.time)
        put_text(writer, market.symbol, market.symbol_length)
        put_number(writer, market.sequence)
        put_number(writer, market.trade_id)
        put_number(writer, market.aggregate_id)
        put_number(writer, fill.price)
        put_number(writer, fill.quantity)
        put_byte(writer, order.side)
        put_number(writer, met.order_id)
        put_number(writer, order.order_id)
        put_number(writer, met.account_id)
        put_number(writer, order.account_id)
    shard.event_count += count
    if last_price:
        market.last_price = last_price
    return 0


cdef void number_prevented(Shard *shard, Market *market, Item *order, int32_t count) noexcept:
    """Number the matches that did not happen."""
    cdef int32_t number
    cdef int64_t lots
    cdef PreventedMaker *maker
    cdef Prevented *prevented
    for number in range(count):
        maker, prevented = &shard.prevented_makers[number], &shard.prevented[number]
        market.prevented_id += 1
        lots = maker.payable if order.budget_is_limit else maker.taker_quantity
        prevented.match_id = market.prevented_id
        prevented.maker_order_id = maker.order_id
        prevented.price = maker.price
        prevented.taker_quantity = 0 if order.prevention == EXPIRE_MAKER else lots
        prevented.maker_quantity = 0 if order.prevention == EXPIRE_TAKER else maker.quantity
        prevented.quantity = lots if lots < maker.quantity else maker.quantity


cdef int match_in(Shard *shard, Market *market, Item *order, Item *outcome) except -1:
    """Match an order whose funds are held, and let what is left rest if it may.

    Writes the trades, and then one change of depth.
    """
    cdef BookSide *opposite = opposite_side(market, order.side)
    cdef int64_t price = bound_of(shard, market, order) if order.bound_by_book else order.price
    cdef int64_t leaves = order.quantity, found
    cdef wide_t cost
    cdef bint will_match
    # Before the book is touched: a refusal leaves no trace (docs/decisions/0001-two-halves-of-an-order.md).
    outcome.reject_reason = market_reason_to_refuse(shard, market, order, price)
    if outcome.reject_reason != NONE:
        return 0
    will_match = crosses(shard, opposite, price)
    if will_match and order.time_in_force == FOK:
        fillable(shard, market, order, order.price, order.quantity, &found, &cost)
        will_match = found == order.quantity
        if will_match and meets_more_than(shard, market, market.matches_max, order):
            outcome.reject_reason = TOO_MANY_MATCHES_REASON
            return 0
    if will_match:
        match(shard, market, order, price, outcome, &leaves)
        outcome.budget_spent = outcome.budget_spent and order.budget_is_limit
        if outcome.fill_count:
            tell_trades(shard, market, order, outcome.fill_count)
        number_prevented(shard, market, order, outcome.prevented_count)
    if order.bound_by_book and leaves and not (
        outcome.expired_in_match or outcome.limit_reached or outcome.budget_spent
    ):
        outcome.price_range_exceeded = opposite.best >= 0  # it may not pay what that one asks for
    outcome.rests = (
        leaves > 0 and order.time_in_force == GTC
        and not outcome.expired_in_match and not outcome.limit_reached
    )
    if outcome.rests:
        if crosses(shard, opposite, price):
            raise InvariantBroken(
                f"{text_of(&order.symbol)}: order {order.order_id} would rest in a crossed book"
            )
        add_resting(
            shard, market, order.side, order.order_id, order.account_id, price, leaves, order.order
        )
    # After the trades, and once for all of them: readers apply a market's events by their sequence.
    tell_depth(shard, market)
    return 0


cdef int match_order(Shard *shard, Item *order) except -1:
    """Match an order whose funds are held; tell its account's half, and then those of its makers."""
    cdef Item outcome
    cdef Item maker
    cdef int32_t number
    cdef Market *market = shard.markets[order.market] if order.market >= 0 else NULL
    memset(&outcome, 0, sizeof(Item))
    outcome.tag = TAKER_OUTCOME
    outcome.order_id, outcome.account_id = order.order_id, order.account_id
    outcome.symbol, outcome.market, outcome.order = order.symbol, order.market, order.order
    outcome.reject_reason = NONE
    if market == NULL or not market.is_own:
        outcome.reject_reason = UNKNOWN_MARKET
    elif market.status != TRADING:
        outcome.reject_reason = MARKET_CLOSED
    else:
        match_in(shard, market, order, &outcome)
    # The taker first: its events tell that the order was accepted, and who trades with himself receives
    # before he pays (`BALANCE_UNITS_MAX`). Other shards get their messages in the same order.
    send_outcome(shard, shard.slots[order.account_id % ACCOUNT_SLOTS], &outcome)
    if not outcome.fill_count and not outcome.prevented_count:
        return 0
    memset(&maker, 0, sizeof(Item))
    maker.symbol, maker.market = order.symbol, order.market
    maker.tag = MAKER_FILL
    for number in range(outcome.fill_count):
        maker.order_id, maker.account_id = shard.met[number].order_id, shard.met[number].account_id
        maker.order = shard.met[number].order
        maker.trade_id = shard.fills[number].trade_id
        maker.price, maker.quantity = shard.fills[number].price, shard.fills[number].quantity
        send_maker_fill(shard, shard.slots[maker.account_id % ACCOUNT_SLOTS], &maker)
    if order.prevention == EXPIRE_TAKER:
        return 0
    maker.tag, maker.order = RESTING_CLOSED, NONE
    maker.expired_in_match, maker.close_reason = True, CANCELED_BY_OWNER
    maker.taker_order_id, maker.prevented_count = order.order_id, 1
    for number in range(outcome.prevented_count):
        maker.order_id = shard.prevented_makers[number].order_id
        maker.account_id = shard.prevented_makers[number].account_id
        send_resting_closed(
            shard, shard.slots[maker.account_id % ACCOUNT_SLOTS], &maker, &shard.prevented[number]
        )
    return 0


cdef int cancel_resting(Shard *shard, Item *cancel) except -1:
    """Take an order out of the book, and tell its account's half."""
    cdef Market *market = shard.markets[cancel.market] if cancel.market >= 0 else NULL
    cdef int32_t slot = NONE, target = shard.slots[cancel.account_id % ACCOUNT_SLOTS]
    if market != NULL and market.is_own:
        slot = find_resting(shard, market, cancel.order_id, cancel.order)
    if slot < 0:
        cancel.tag = CANCEL_MISSED
        return send_cancel_missed(shard, target, cancel)
    remove_resting(shard, slot)
    tell_depth(shard, market)
    cancel.tag = RESTING_CLOSED
    cancel.expired_in_match = cancel.prevented_count = cancel.taker_order_id = 0
    return send_resting_closed(shard, target, cancel, NULL)


# Messages: handed to this very shard at once when it is the target, otherwise put into the outbox.

cdef str text_of(Text *text):
    return text.at[: text.length].decode()


cdef Writer *begin_message(Shard *shard, int32_t target, size_t size) except NULL:
    """Number a message to another shard, and make room for it."""
    cdef Outbox *outbox
    if target >= shard.shard_count:
        raise InvariantBroken(f"a message for shard {target} of {shard.shard_count}")
    outbox = &shard.outbox[target]
    if shard.sent[target] < 0:
        shard.sent[target] = 0
        shard.sent_order[shard.sent_count] = target
        shard.sent_count += 1
    shard.sent[target] += 1
    if not outbox.count:
        outbox.first_sequence = shard.sent[target]
        shard.outbox_order[shard.outbox_count] = target
        shard.outbox_count += 1
    outbox.count += 1
    reserve(&outbox.messages, size)
    return &outbox.messages


cdef int begin_order_message(Writer *writer, int count, Item *item) except -1:
    put_array(writer, count)
    put_byte(writer, item.tag)
    put_number(writer, item.order_id)
    put_number(writer, item.account_id)
    put_text(writer, item.symbol.at, item.symbol.length)
    return 0


cdef void put_prevented(Writer *writer, Prevented *prevented) noexcept:
    put_array(writer, 6)
    put_number(writer, prevented.match_id)
    put_number(writer, prevented.maker_order_id)
    put_number(writer, prevented.price)
    put_number(writer, prevented.taker_quantity)
    put_number(writer, prevented.maker_quantity)
    put_number(writer, prevented.quantity)


cdef int send_match_order(Shard *shard, int32_t target, Item *order) except -1:
    cdef Writer *writer
    if target == shard.index:
        return match_order(shard, order)
    writer = begin_message(shard, target, 160 + order.symbol.length)
    begin_order_message(writer, 14, order)
    put_byte(writer, order.side)
    put_byte(writer, order.order_type)
    put_byte(writer, order.time_in_force)
    put_number(writer, order.price)
    put_number(writer, order.quantity)
    put_number(writer, order.quote_quantity)
    put_truth(writer, order.budget_is_limit)
    put_byte(writer, order.prevention)
    put_nil(writer)
    put_truth(writer, order.bound_by_book)
    return 0


cdef int send_cancel_resting(Shard *shard, int32_t target, Item *cancel) except -1:
    cdef Writer *writer
    if target == shard.index:
        return cancel_resting(shard, cancel)
    writer = begin_message(
        shard, target, 160 + cancel.symbol.length + cancel.reply_to.length + cancel.cancel_id.length
    )
    begin_order_message(writer, 8, cancel)
    put_number(writer, cancel.request_id)
    put_text(writer, cancel.reply_to.at, cancel.reply_to.length)
    put_text(writer, cancel.cancel_id.at, cancel.cancel_id.length)
    put_byte(writer, cancel.close_reason)
    return 0


cdef int send_outcome(Shard *shard, int32_t target, Item *outcome) except -1:
    cdef Writer *writer
    cdef Text *reason
    cdef int32_t number
    if target == shard.index:
        return taker_outcome(shard, outcome, shard.fills, shard.prevented)
    writer = begin_message(
        shard, target,
        192 + outcome.symbol.length + 32 * <size_t>outcome.fill_count + 64 * <size_t>outcome.prevented_count,
    )
    begin_order_message(writer, 12, outcome)
    put_array(writer, outcome.fill_count)
    for number in range(outcome.fill_count):
        put_array(writer, 3)
        put_number(writer, shard.fills[number].trade_id)
        put_number(writer, shard.fills[number].price)
        put_number(writer, shard.fills[number].quantity)
    put_truth(writer, outcome.rests)
    put_truth(writer, outcome.expired_in_match)
    if outcome.reject_reason == NONE:
        put_nil(writer)
    else:
        reason = &_reason_texts[outcome.reject_reason]
        put_text(writer, reason.at, reason.length)
    put_array(writer, outcome.prevented_count)
    for number in range(outcome.prevented_count):
        put_prevented(writer, &shard.prevented[number])
    put_truth(writer, outcome.limit_reached)
    put_truth(writer, outcome.budget_spent)
    put_truth(writer, outcome.price_range_exceeded)
    return 0


cdef int send_maker_fill(Shard *shard, int32_t target, Item *fill) except -1:
    cdef Writer *writer
    if target == shard.index:
        return maker_fill(shard, fill)
    writer = begin_message(shard, target, 96 + fill.symbol.length)
    begin_order_message(writer, 7, fill)
    put_number(writer, fill.trade_id)
    put_number(writer, fill.price)
    put_number(writer, fill.quantity)
    return 0


cdef int send_resting_closed(Shard *shard, int32_t target, Item *closed, Prevented *prevented) except -1:
    cdef Writer *writer
    if target == shard.index:
        return resting_closed(shard, closed, prevented)
    writer = begin_message(
        shard, target, 192 + closed.symbol.length + closed.reply_to.length + closed.cancel_id.length
    )
    begin_order_message(writer, 11, closed)
    put_number(writer, closed.request_id)
    put_text(writer, closed.reply_to.at, closed.reply_to.length)
    put_truth(writer, closed.expired_in_match)
    put_text(writer, closed.cancel_id.at, closed.cancel_id.length)
    put_byte(writer, closed.close_reason)
    if prevented == NULL:
        put_nil(writer)
    else:
        put_prevented(writer, prevented)
    put_number(writer, closed.taker_order_id)
    return 0


cdef int send_cancel_missed(Shard *shard, int32_t target, Item *missed) except -1:
    cdef Writer *writer
    if target == shard.index:
        return cancel_missed(shard, missed)
    writer = begin_message(shard, target, 96 + missed.symbol.length + missed.reply_to.length)
    begin_order_message(writer, 6, missed)
    put_number(writer, missed.request_id)
    put_text(writer, missed.reply_to.at, missed.reply_to.length)
    return 0
