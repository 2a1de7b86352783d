# Reading frames: all of an entry, before anything of it is applied.
#
# Only the canonical form of the frequent commands and messages is read here, and only where the shard
# applies them. About everything else (other kinds, older and odd encodings, dead letters) the object core's
# decoder decides: `FastCore._apply_slowly`.

cdef int32_t reason_number(Text *reason) noexcept:
    """Return the number of a `RejectReason`, or NONE."""
    cdef int32_t number
    for number in range(_reason_count):
        if are_equal(_reason_texts[number].at, _reason_texts[number].length, reason.at, reason.length):
            return number
    return NONE


cdef inline bint is_account_of(Shard *shard, int64_t account_id, int32_t owner) noexcept:
    return account_id >= 1 and shard.slots[account_id % ACCOUNT_SLOTS] == owner


cdef void read_terms(Reader *reader, Item *item) noexcept:
    """Read the terms of an order; of those that msgspec has encoded the bytes are kept."""
    cdef int64_t left = 1
    cdef unsigned char head
    item.terms.at, item.terms.length = NULL, 0
    if read_nil(reader):
        return
    if not reader.is_checked:
        reader.is_unusual = True
        return
    item.terms.at = <const char *>reader.at
    # Arrays, numbers, truth values and nil are all that there is in them.
    while left and reader.at < reader.end:
        left -= 1
        head = reader.at[0]
        if 0x90 <= head <= 0x9F:
            left += head & 0x0F
            reader.at += 1
        elif head == 0xC0 or head == 0xC2 or head == 0xC3:
            reader.at += 1
        else:
            read_number(reader)
    item.terms.length = <int32_t>(<const char *>reader.at - item.terms.at)


cdef void read_command(Shard *shard, Reader *reader, Item *item) noexcept:
    cdef int64_t count = read_array(reader)
    cdef int32_t position
    item.tag = <uint8_t>read_number_from(reader, 0)
    if item.tag == PLACE_ORDER and count == 17:
        item.request_id = read_number(reader)
        read_text(reader, &item.reply_to)
        item.account_id = read_number(reader)
        read_text(reader, &item.client_order_id)
        read_text(reader, &item.symbol)
        item.side = read_choice(reader, BUY, SELL)
        item.order_type = read_choice(reader, LIMIT, MARKET)
        item.time_in_force = read_choice(reader, GTC, FOK)
        item.price = read_number(reader)
        item.quantity = read_number(reader)
        item.quote_quantity = read_number(reader)
        item.prevention = read_choice(reader, PREVENT_NOTHING, EXPIRE_BOTH)
        item.deadline_ms = read_number_from(reader, 0)
        read_text(reader, &item.idempotency_key)
        read_terms(reader, item)
        item.bound_by_book = read_truth(reader)
        for position in range(item.client_order_id.length):
            if not item.client_order_id.at[position]:
                reader.is_unusual = True
    elif item.tag == CANCEL_ORDER and count == 9:
        item.request_id = read_number(reader)
        read_text(reader, &item.reply_to)
        item.account_id = read_number(reader)
        read_text(reader, &item.symbol)
        item.order_id = read_number(reader)
        read_text(reader, &item.client_order_id)
        read_text(reader, &item.cancel_id)
        item.deadline_ms = read_number_from(reader, 0)
    elif item.tag == TICK and count == 1:
        return
    else:
        reader.is_unusual = True
        return
    if reader.is_unusual or not is_account_of(shard, item.account_id, shard.index):
        reader.is_unusual = True
        return
    item.market = find_market(shard, &item.symbol)


cdef int read_commands(Shard *shard, Reader *reader, int64_t *written_us) except -2:
    """Read a frame of commands into `shard.items`; return how many there are, or NONE when something is
    unusual."""
    cdef int64_t count, number
    expect_array(reader, 3)
    if read_number(reader) != _FORMAT:
        reader.is_unusual = True
    written_us[0] = read_number_from(reader, 0)
    count = read_array(reader)
    if reader.is_unusual or count > reader.end - reader.at:
        return NONE
    reserve_items(shard, count)
    for number in range(count):
        read_command(shard, reader, &shard.items[number])
        if reader.is_unusual:
            return NONE
    return <int>count if reader.at == reader.end else NONE


cdef int reserve_items(Shard *shard, int64_t count) except -1:
    if count > shard.item_capacity:
        shard.items = <Item *>grown(shard.items, count * sizeof(Item))
        shard.item_capacity = count
    return 0


cdef void read_prevented(Reader *reader, Prevented *prevented) noexcept:
    expect_array(reader, 6)
    prevented.match_id = read_number_from(reader, 1)
    prevented.maker_order_id = read_number_from(reader, 1)
    prevented.price = read_number_from(reader, 1)
    prevented.taker_quantity = read_number_from(reader, 0)
    prevented.maker_quantity = read_number_from(reader, 0)
    prevented.quantity = read_number_from(reader, 0)


cdef int read_outcome_lists(Shard *shard, Reader *reader, Item *item, bint of_fills) except -1:
    """Read the fills of a `TakerOutcome`, or its prevented trades."""
    cdef int64_t count = read_array(reader), number
    cdef int32_t needed
    cdef Fill *fill
    if reader.is_unusual or count > reader.end - reader.at:
        reader.is_unusual = True
        return 0
    if of_fills:
        item.fills, item.fill_count = shard.read_fill_count, <int32_t>count
        needed = shard.read_fill_count + <int32_t>count
        if needed > shard.read_fill_capacity:
            shard.read_fill_capacity = 2 * needed
            shard.read_fills = <Fill *>grown(shard.read_fills, shard.read_fill_capacity * sizeof(Fill))
        for number in range(count):
            fill = &shard.read_fills[item.fills + number]
            expect_array(reader, 3)
            fill.trade_id = read_number_from(reader, 1)
            fill.price = read_number_from(reader, 1)
            fill.quantity = read_number_from(reader, 0)
        shard.read_fill_count = needed
    else:
        item.prevented, item.prevented_count = shard.read_prevented_count, <int32_t>count
        reserve_read_prevented(shard, <int32_t>count)
        for number in range(count):
            read_prevented(reader, &shard.read_prevented[item.prevented + number])
        shard.read_prevented_count += <int32_t>count
    return 0


cdef int reserve_read_prevented(Shard *shard, int32_t more) except -1:
    cdef int32_t needed = shard.read_prevented_count + more
    if needed > shard.read_prevented_capacity:
        shard.read_prevented_capacity = 2 * needed
        shard.read_prevented = <Prevented *>grown(
            shard.read_prevented, shard.read_prevented_capacity * sizeof(Prevented)
        )
    return 0


cdef int read_message(Shard *shard, Reader *reader, Item *item, int32_t source) except -1:
    cdef int64_t count = read_array(reader)
    cdef int32_t account_shard
    cdef Text reason
    item.tag = <uint8_t>read_number_from(reader, 0)
    item.order = NONE
    item.order_id = read_number_from(reader, 1)
    item.account_id = read_number(reader)
    read_text(reader, &item.symbol)
    if reader.is_unusual:
        return 0
    if item.tag == MATCH_ORDER and count == 14:
        item.side = read_choice(reader, BUY, SELL)
        item.order_type = read_choice(reader, LIMIT, MARKET)
        item.time_in_force = read_choice(reader, GTC, FOK)
        item.price = read_number_from(reader, 1)
        item.quantity = read_number_from(reader, 0)
        item.quote_quantity = read_number_from(reader, 0)
        item.budget_is_limit = read_truth(reader)
        item.prevention = read_choice(reader, PREVENT_NOTHING, EXPIRE_BOTH)
        read_terms(reader, item)
        item.bound_by_book = read_truth(reader)
    elif item.tag == CANCEL_RESTING and count == 8:
        item.request_id = read_number(reader)
        read_text(reader, &item.reply_to)
        read_text(reader, &item.cancel_id)
        item.close_reason = read_choice(reader, CANCELED_BY_OWNER, CLOSE_REASON_MAX)
    elif item.tag == TAKER_OUTCOME and count == 12:
        read_outcome_lists(shard, reader, item, True)
        item.rests = read_truth(reader)
        item.expired_in_match = read_truth(reader)
        item.reject_reason = NONE
        if not read_nil(reader):
            read_text(reader, &reason)
            if not reader.is_unusual:
                item.reject_reason = reason_number(&reason)
                if item.reject_reason < 0:
                    reader.is_unusual = True
        read_outcome_lists(shard, reader, item, False)
        item.limit_reached = read_truth(reader)
        item.budget_spent = read_truth(reader)
        item.price_range_exceeded = read_truth(reader)
    elif item.tag == MAKER_FILL and count == 7:
        item.trade_id = read_number_from(reader, 1)
        item.price = read_number_from(reader, 1)
        item.quantity = read_number_from(reader, 0)
    elif item.tag == RESTING_CLOSED and count == 11:
        item.request_id = read_number(reader)
        read_text(reader, &item.reply_to)
        item.expired_in_match = read_truth(reader)
        read_text(reader, &item.cancel_id)
        item.close_reason = read_choice(reader, CANCELED_BY_OWNER, CLOSE_REASON_MAX)
        item.prevented_count = 0
        if not read_nil(reader):
            reserve_read_prevented(shard, 1)
            item.prevented, item.prevented_count = shard.read_prevented_count, 1
            read_prevented(reader, &shard.read_prevented[item.prevented])
            shard.read_prevented_count += 1
        item.taker_order_id = read_number_from(reader, 0)
    elif item.tag == CANCEL_MISSED and count == 6:
        item.request_id = read_number(reader)
        read_text(reader, &item.reply_to)
    else:
        reader.is_unusual = True
    if reader.is_unusual:
        return 0
    # An order's account is at one end of its way, its market at the other. An order for a market that is not
    # there is answered; what such a market says cannot be.
    item.market = find_market(shard, &item.symbol)
    if item.tag == MATCH_ORDER or item.tag == CANCEL_RESTING:
        account_shard = source
        if item.market >= 0 and shard.markets[item.market].shard != shard.index:
            reader.is_unusual = True
    else:
        account_shard = shard.index
        if item.market < 0 or shard.markets[item.market].shard != source:
            reader.is_unusual = True
    if not is_account_of(shard, item.account_id, account_shard):
        reader.is_unusual = True
    return 0


cdef int read_messages(
    Shard *shard, Reader *reader, int64_t *written_us, int32_t *source, int64_t *first
) except -2:
    """Read a frame of messages into `shard.items`; return how many there are, or NONE when something is
    unusual."""
    cdef int64_t count, number, sender
    shard.read_fill_count = shard.read_prevented_count = 0
    expect_array(reader, 6)
    if read_number(reader) != _FORMAT:
        reader.is_unusual = True
    written_us[0] = read_number_from(reader, 0)
    sender = read_number_from(reader, 0)
    if read_number(reader) != shard.index:
        reader.is_unusual = True
    first[0] = read_number_from(reader, 1)
    count = read_array(reader)
    if reader.is_unusual or count > reader.end - reader.at:
        return NONE
    if sender >= shard.shard_count or sender == shard.index:
        return NONE
    source[0] = <int32_t>sender
    reserve_items(shard, count)
    for number in range(count):
        read_message(shard, reader, &shard.items[number], source[0])
        if reader.is_unusual:
            return NONE
    return <int>count if reader.at == reader.end else NONE
