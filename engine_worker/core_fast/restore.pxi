# Reading the parts of a snapshot that grow with the state, as snapshot.pxi writes them.
#
# Only what is in the canonical form and fits together is taken. About everything else the object core decides,
# which reads the whole snapshot then: `fast_cores.py`.

cdef list array_spans(bytes encoded):
    """Return the encodings of an array's items, or None: it is no array, or holds something unusual."""
    cdef Reader reader
    cdef const unsigned char *start
    cdef int64_t count, number
    cdef list items = []
    begin_reading(&reader, encoded, False)
    count = read_array(&reader)
    for number in range(count):
        if reader.is_unusual:
            return None
        start = reader.at
        pass_over(&reader)
        items.append((<const char *>start)[: reader.at - start])
    return items if not reader.is_unusual and reader.at == reader.end else None


cdef int read_stored_order(
    FastCore core, Shard *shard, Reader *reader, int32_t account_slot, Market *market, bint *has_terms
) except -1:
    """Read an `OrderState` of an open order, and put it behind the others of its account and market."""
    cdef Order order
    cdef Order *kept
    cdef Text name, symbol, terms
    cdef int64_t account_id, version
    cdef char *elsewhere = NULL
    cdef int32_t slot
    memset(&order, 0, sizeof(Order))
    expect_array(reader, 22)
    order.order_id = read_number_from(reader, 1)
    account_id = read_number(reader)
    read_text(reader, &name)
    read_text(reader, &symbol)
    order.side = read_choice(reader, BUY, SELL)
    order.order_type = read_choice(reader, LIMIT, MARKET)
    order.time_in_force = read_choice(reader, GTC, FOK)
    order.price = read_number(reader)
    order.quantity = read_number(reader)
    order.quote_quantity = read_number(reader)
    order.prevention = read_choice(reader, PREVENT_NOTHING, EXPIRE_BOTH)
    order.status = read_choice(reader, IN_FLIGHT, PARTIALLY_FILLED)
    order.cum_quantity = read_number(reader)
    order.cum_quote = read_number(reader)
    order.held = read_number(reader)
    order.accepted_time = read_stored_time(reader)
    order.updated_time = read_stored_time(reader)
    order.execution_id = read_number(reader)
    version = read_number(reader)
    if not read_nil(reader):
        reader.is_unusual = True  # it is closed
    terms.at = <const char *>reader.at
    if read_nil(reader):
        terms.length = 0
    else:
        pass_over(reader)
        terms.length = <int32_t>(<const char *>reader.at - terms.at)
    if not read_nil(reader):
        reader.is_unusual = True  # it has a course
    if reader.is_unusual or not 0 <= version <= 0x7FFFFFFF or find_order(shard, order.order_id) >= 0:
        reader.is_unusual = True
        return 0
    if account_id != account_at(shard, account_slot).account_id or not are_equal(
        symbol.at, symbol.length, market.symbol, market.symbol_length
    ):
        reader.is_unusual = True
        return 0
    order.name_hash = <uint32_t>hash_order_name(account_slot, &name)
    if find_order_named(shard, account_slot, &name, order.name_hash) >= 0:
        reader.is_unusual = True
        return 0
    order.version, order.account, order.market = <int32_t>version, account_slot, market.index
    # Who placed it, `read_placed` says.
    order.resting = order.reply_to = NONE
    if name.length > INLINE_NAME:
        elsewhere = <char *>grown(NULL, name.length)
    set_order_name(&order, name.at, name.length, elsewhere)
    slot = slab_new(&shard.orders)
    kept = order_at(shard, slot)
    kept[0] = order
    if terms.length:
        has_terms[0] = True
        kept.has_extras = True
        core.extras[slot] = ("", terms.at[: terms.length])
    link_order(shard, slot)
    if order.status == IN_FLIGHT:
        shard.in_flight[market.shard] += 1
    return 0


cdef inline int64_t read_stored_time(Reader *reader) noexcept:
    cdef int64_t time = read_number_from(reader, 0)
    if time >> TIME_BITS:
        reader.is_unusual = True
        return 0
    return time


cdef int read_placed(FastCore core, Shard *shard, Reader *reader, int32_t account_slot) except -1:
    """Read who placed an order: a client order id and a `PlacedOrder`."""
    cdef Text name, reply_to, key
    cdef int64_t order_id, request_id
    cdef int32_t slot
    cdef Order *order
    expect_array(reader, 2)
    read_text(reader, &name)
    expect_array(reader, 4)
    order_id = read_number(reader)
    request_id = read_number(reader)
    read_text(reader, &reply_to)
    read_text(reader, &key)
    if reader.is_unusual:
        return 0
    slot = find_order(shard, order_id)
    if slot < 0:
        reader.is_unusual = True
        return 0
    order = order_at(shard, slot)
    if order.account != account_slot or order.reply_to != NONE or not are_equal(
        order_name(order), order.name_length, name.at, name.length
    ):
        reader.is_unusual = True
        return 0
    order.request_id = request_id
    order.reply_to = channel_of(shard, reply_to.at, reply_to.length)
    refer(shard, order.reply_to)
    if key.length:
        terms = core.extras[slot][1] if order.has_extras else b""
        order.has_extras = True
        core.extras[slot] = (text_of(&key), terms)
    return 0


cdef int read_stored_account(FastCore core, Shard *shard, Reader *reader, int64_t time, list rare) except -1:
    """Read an `AccountSnapshot`; append it to `rare` when it has idempotency keys or limits."""
    cdef const unsigned char *start = reader.at
    cdef int64_t account_id, count, number, orders, order_number, changed_time
    cdef int32_t slot, asset, market
    cdef Account *account
    cdef Funds *funds
    cdef Text name
    cdef int64_t available, held
    cdef bint is_rare = False
    expect_array(reader, 9)
    account_id = read_number(reader)
    if reader.is_unusual or find_account(shard, account_id) >= 0:
        reader.is_unusual = True
        return 0
    slot = add_account(shard, account_id, 0)
    account = account_at(shard, slot)
    count = read_array(reader)
    for number in range(count):
        expect_array(reader, 3)
        read_text(reader, &name)
        available, held = read_number_from(reader, 0), read_number_from(reader, 0)
        asset = NONE if reader.is_unusual else find_asset(shard, name.at, name.length)
        if asset < 0 or find_funds(account, asset) != NULL:
            reader.is_unusual = True
            return 0
        funds = funds_in(account, asset)
        funds.available, funds.held = <uint64_t>available, <uint64_t>held
        shard.assets[asset].held += held
    count = read_array(reader)
    for number in range(count):
        expect_array(reader, 2)
        read_text(reader, &name)
        market = NONE if reader.is_unusual else find_market(shard, &name)
        orders = read_array(reader)
        if market < 0 or not orders or find_open_orders(account, market) != NULL:
            reader.is_unusual = True
        for order_number in range(orders):
            if reader.is_unusual:
                return 0
            # Terms are validated with the rare parts.
            read_stored_order(core, shard, reader, slot, shard.markets[market], &is_rare)
        if reader.is_unusual:
            return 0
    count = read_array(reader)
    if count != account.order_count:
        reader.is_unusual = True
    for number in range(count):
        if reader.is_unusual:
            return 0
        read_placed(core, shard, reader, slot)
    for number in range(2):  # outcomes under idempotency keys, and requests that wait for one
        if reader.at < reader.end and reader.at[0] != 0x90:
            is_rare = True
        pass_over(reader)
    for number in range(2):  # limits, and the orders counted for them
        if reader.at < reader.end and reader.at[0] != 0xC0:
            is_rare = True
        pass_over(reader)
    changed_time = read_number_from(reader, 0)
    account.changed_time = changed_time if changed_time else time
    if is_rare and not reader.is_unusual:
        rare.append((<const char *>start)[: reader.at - start])
    return 0


cdef int read_stored_level(Shard *shard, Reader *reader, Market *market, int side) except -1:
    """Read a `LevelSnapshot`, and let its orders rest."""
    cdef int64_t price, count, number, order_id, account_id, quantity
    cdef int32_t slot
    cdef Order *order
    expect_array(reader, 2)
    price = read_number_from(reader, 1)
    count = read_array(reader)
    if not count:
        reader.is_unusual = True
    for number in range(count):
        expect_array(reader, 3)
        order_id = read_number_from(reader, 1)
        account_id = read_number_from(reader, 1)
        quantity = read_number_from(reader, 1)
        if reader.is_unusual:
            return 0
        slot = find_order(shard, order_id)
        if slot >= 0:
            order = order_at(shard, slot)
            if (
                order.market != market.index or order.side != side or order.resting >= 0
                or account_at(shard, order.account).account_id != account_id
            ):
                reader.is_unusual = True
        elif is_account_of(shard, account_id, shard.index):
            reader.is_unusual = True  # it rests, and is not open
        elif find_resting(shard, market, order_id, NONE) >= 0:
            reader.is_unusual = True
        if reader.is_unusual:
            return 0
        add_resting(shard, market, side, order_id, account_id, price, quantity, slot)
    return 0


cdef int read_stored_market(Shard *shard, Reader *reader) except -1:
    """Read a `MarketSnapshot`."""
    cdef Text symbol
    cdef int32_t number
    cdef int64_t count, level
    cdef Market *market
    cdef int side
    expect_array(reader, 8)
    read_text(reader, &symbol)
    number = NONE if reader.is_unusual else find_market(shard, &symbol)
    if number < 0 or not shard.markets[number].is_own or shard.markets[number].resting_count:
        reader.is_unusual = True
        return 0
    market = shard.markets[number]
    market.last_price = read_number_from(reader, 0)
    market.sequence = read_number_from(reader, 0)
    market.trade_id = read_number_from(reader, 0)
    market.aggregate_id = read_number_from(reader, 0)
    for side in range(BUY, SELL + 1):
        count = read_array(reader)
        for level in range(count):
            if reader.is_unusual:
                return 0
            read_stored_level(shard, reader, market, side)
        # Subscribers have been told of the levels long ago.
        forget_changes(shard, book_side(market, side))
    market.prevented_id = read_number_from(reader, 0)
    return 0


cdef int read_stored_answer(Shard *shard, Reader *reader) except -1:
    """Read a `FirstOutcome` of a request; its reply was validated (`fast_cores.py`)."""
    cdef Text reply_to
    cdef int64_t request_id, time
    cdef const unsigned char *start
    cdef const unsigned char *end
    cdef int32_t channel
    expect_array(reader, 4)
    expect_array(reader, 2)
    read_text(reader, &reply_to)
    request_id = read_number(reader)
    time = read_number_from(reader, 0)
    start = reader.at
    read_array(reader)
    read_number(reader)  # its kind
    if read_number(reader) != request_id:
        reader.is_unusual = True
    reader.at = start
    pass_over(reader)
    end = reader.at
    if reader.is_unusual or reader.end - reader.at < 2 or reader.at[0] != 0xC4 or reader.at[1]:
        reader.is_unusual = True
        return 0
    reader.at += 2
    channel = channel_of(shard, reply_to.at, reply_to.length)
    remember(shard, time, channel, request_id, start, end - start)
    return 0


cdef list restore_large(FastCore core, Shard *shard, bytes accounts, bytes markets, bytes answers, int64_t time):
    """Take over what a snapshot says; return the accounts with rare parts, or None: something is unusual."""
    cdef Reader reader
    cdef int64_t count, number
    cdef list rare = []
    begin_reading(&reader, accounts, False)
    count = read_array(&reader)
    for number in range(count):
        if reader.is_unusual:
            return None
        read_stored_account(core, shard, &reader, time, rare)
    if reader.is_unusual or reader.at != reader.end:
        return None
    begin_reading(&reader, markets, False)
    count = read_array(&reader)
    for number in range(count):
        if reader.is_unusual:
            return None
        read_stored_market(shard, &reader)
    if reader.is_unusual or reader.at != reader.end:
        return None
    begin_reading(&reader, answers, False)
    count = read_array(&reader)
    for number in range(count):
        if reader.is_unusual:
            return None
        read_stored_answer(shard, &reader)
    return rare if not reader.is_unusual and reader.at == reader.end else None
