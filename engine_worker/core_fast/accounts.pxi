# Accounts and a shard's own books of money: engine_worker/core/accounts.py says what they mean.

cdef wide_t to_wide(object number) except? -1:
    return (<wide_t><int64_t>(number >> 64) << 64) | <wide_t><uint64_t>(number & 0xFFFFFFFFFFFFFFFF)


cdef object from_wide(wide_t number):
    return (<object><int64_t>(number >> 64) << 64) + <uint64_t>number


cdef int64_t clamped(object number) except? -1:
    """Return a number that nothing is compared with beyond 63 bits."""
    return max(-(2**63), min(number, 2**63 - 1))


cdef inline int64_t narrow(wide_t number, Order *order) except? -1:
    """Return an amount that what the protocol bounds keeps within 63 bits."""
    if number > INT64_MAX or number < -INT64_MAX:
        raise InvariantBroken(
            f"order {order.order_id}: an amount of {from_wide(number)} does not fit 63 bits"
        )
    return <int64_t>number


cdef inline Order *order_at(Shard *shard, int32_t slot) noexcept:
    return <Order *>shard.orders.chunks[slot >> CHUNK_BITS] + (slot & (CHUNK_RECORDS - 1))


cdef inline Account *account_at(Shard *shard, int32_t slot) noexcept:
    return <Account *>shard.accounts.chunks[slot >> CHUNK_BITS] + (slot & (CHUNK_RECORDS - 1))


cdef inline bint are_equal(
    const char *left, int32_t length, const char *right, int32_t right_length
) noexcept:
    return length == right_length and not memcmp(left, right, length)


# Markets and assets.

cdef uint64_t hash_of_market(void *shard, int32_t slot) noexcept:
    cdef Market *market = (<Shard *>shard).markets[slot]
    return hash_name(0, market.symbol, market.symbol_length)


cdef int32_t find_market(Shard *shard, Text *symbol) noexcept:
    """Return the number of a market that the shard knows, or NONE."""
    cdef Table *table = &shard.markets_by_symbol
    cdef uint64_t at
    cdef Market *market
    if shard.last_market < shard.market_count:
        market = shard.markets[shard.last_market]
        if are_equal(market.symbol, market.symbol_length, symbol.at, symbol.length):
            return shard.last_market
    at = hash_name(0, symbol.at, symbol.length) & table.mask
    while table.slots[at]:
        market = shard.markets[table.slots[at] - 1]
        if are_equal(market.symbol, market.symbol_length, symbol.at, symbol.length):
            shard.last_market = table.slots[at] - 1
            return shard.last_market
        at = (at + 1) & table.mask
    return NONE


cdef int32_t add_market(Shard *shard, bytes symbol) except -1:
    cdef Market *market
    cdef int32_t number = shard.market_count
    if len(symbol) > ASSET_NAME_MAX or number > 32_000:
        raise InvariantBroken(f"a market {symbol[:40]!r}, or one too many")
    if number == shard.market_capacity:
        shard.market_capacity = shard.market_capacity * 2 if shard.market_capacity else 8
        shard.markets = <Market **>grown(shard.markets, shard.market_capacity * sizeof(Market *))
    market = shard.markets[number] = <Market *>grown(NULL, sizeof(Market))
    memset(market, 0, sizeof(Market))
    memcpy(market.symbol, <const char *>symbol, len(symbol))
    market.symbol_length = <int32_t>len(symbol)
    market.index = market.bids.market = market.asks.market = number
    market.bids.side, market.bids.sign, market.bids.best = BUY, -1, NONE
    market.asks.side, market.asks.sign, market.asks.best = SELL, 1, NONE
    shard.market_count += 1
    table_add(&shard.markets_by_symbol, hash_of_market(shard, number), number)
    return number


cdef int32_t find_asset(Shard *shard, const char *name, int32_t length) noexcept:
    """Return the number of an asset, or NONE. O(assets): only what is rare asks."""
    cdef int32_t number
    for number in range(shard.asset_count):
        if are_equal(shard.assets[number].name, shard.assets[number].name_length, name, length):
            return number
    return NONE


cdef int32_t add_asset(Shard *shard, bytes name) except -1:
    """Return the number of an asset, which may be new."""
    cdef int32_t number = find_asset(shard, name, <int32_t>len(name))
    cdef Totals *totals
    if number >= 0:
        return number
    if len(name) > ASSET_NAME_MAX:
        raise InvariantBroken(f"an asset {name[:40]!r}")
    if shard.asset_count == shard.asset_capacity:
        shard.asset_capacity = shard.asset_capacity * 2 if shard.asset_capacity else 8
        shard.assets = <Totals *>grown(shard.assets, shard.asset_capacity * sizeof(Totals))
    number = shard.asset_count
    totals = &shard.assets[number]
    memset(totals, 0, sizeof(Totals))
    memcpy(totals.name, <const char *>name, len(name))
    totals.name_length = <int32_t>len(name)
    shard.asset_count += 1
    return number


cdef str asset_name(Shard *shard, int32_t asset):
    return shard.assets[asset].name[: shard.assets[asset].name_length].decode()


# Accounts.

cdef uint64_t hash_of_account(void *shard, int32_t slot) noexcept:
    return hash_number(<uint64_t>account_at(<Shard *>shard, slot).account_id)


cdef int32_t find_account(Shard *shard, int64_t account_id) noexcept:
    cdef Table *table = &shard.accounts_by_id
    cdef uint64_t at = hash_number(<uint64_t>account_id) & table.mask
    while table.slots[at]:
        if account_at(shard, table.slots[at] - 1).account_id == account_id:
            return table.slots[at] - 1
        at = (at + 1) & table.mask
    return NONE


cdef int32_t add_account(Shard *shard, int64_t account_id, int64_t changed_time) except -1:
    cdef int32_t slot = slab_new(&shard.accounts)
    cdef Account *account = account_at(shard, slot)
    account.account_id, account.changed_time = account_id, changed_time
    table_add(&shard.accounts_by_id, hash_of_account(shard, slot), slot)
    return slot


cdef void account_let_go(Account *account) noexcept:
    free(account.funds)
    free(account.open_orders)


cdef int remove_account(Shard *shard, int32_t slot) except -1:
    table_remove(&shard.accounts_by_id, hash_of_account(shard, slot), slot)
    account_let_go(account_at(shard, slot))
    slab_free(&shard.accounts, slot)
    return 0


cdef inline int32_t place_of_funds(Account *account, int32_t asset) noexcept:
    """Return where the account's funds in an asset are, or would be."""
    cdef int32_t low = 0, high = account.fund_count, middle
    while low < high:
        middle = (low + high) >> 1
        if account.funds[middle].asset < asset:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline Funds *find_funds(Account *account, int32_t asset) noexcept:
    """Return the account's funds in an asset, or NULL. They move when others are added or forgotten."""
    cdef int32_t at = place_of_funds(account, asset)
    if at < account.fund_count and account.funds[at].asset == asset:
        return &account.funds[at]
    return NULL


cdef Funds *funds_in(Account *account, int32_t asset) except NULL:
    """Return the account's funds in an asset, which may be none yet."""
    cdef int32_t at = place_of_funds(account, asset)
    if at < account.fund_count and account.funds[at].asset == asset:
        return &account.funds[at]
    if account.fund_count == account.fund_capacity:
        account.fund_capacity = account.fund_capacity * 2 if account.fund_capacity else 2
        account.funds = <Funds *>grown(account.funds, account.fund_capacity * sizeof(Funds))
    memmove(account.funds + at + 1, account.funds + at, (account.fund_count - at) * sizeof(Funds))
    account.fund_count += 1
    account.funds[at].asset, account.funds[at].available, account.funds[at].held = asset, 0, 0
    return &account.funds[at]


cdef void forget_empty(Account *account, int32_t asset) noexcept:
    """Keep no record of nothing. The caller knows that no open order of the account needs it."""
    cdef int32_t at = place_of_funds(account, asset)
    if at == account.fund_count or account.funds[at].asset != asset:
        return
    if account.funds[at].available or account.funds[at].held:
        return
    account.fund_count -= 1
    memmove(account.funds + at, account.funds + at + 1, (account.fund_count - at) * sizeof(Funds))


cdef int hold(Funds *funds, wide_t amount) except -1:
    """Set an amount aside."""
    if amount < 0 or amount > funds.available:
        raise InvariantBroken(
            f"available is {funds.available - from_wide(amount)} after a hold of {from_wide(amount)}"
        )
    funds.available -= <uint64_t>amount
    funds.held += <uint64_t>amount
    return 0


cdef int release(Funds *funds, wide_t amount) except -1:
    """Make a held amount available again."""
    if amount < 0:
        raise InvariantBroken(f"a release of {from_wide(amount)}")
    if amount > funds.held:
        raise InvariantBroken(
            f"held is {funds.held - from_wide(amount)} after a release of {from_wide(amount)}"
        )
    funds.held -= <uint64_t>amount
    funds.available += <uint64_t>amount
    return 0


cdef int pay(Funds *funds, wide_t amount, wide_t released) except -1:
    """Pay an amount out of what is held, and release what the hold no longer needs."""
    cdef wide_t left = <wide_t>funds.held - (amount + released)
    # A negative release would take what is available: the fill has cost more than was held for it.
    if left < 0 or released < 0:
        raise InvariantBroken(
            f"held is {from_wide(left)} after a payment of {from_wide(amount)} and a release of "
            f"{from_wide(released)}"
        )
    funds.held = <uint64_t>left
    funds.available += <uint64_t>released
    return 0


# Open orders.

cdef inline uint64_t hash_order_id(int64_t order_id) noexcept:
    return hash_number(<uint64_t>order_id)


cdef uint64_t hash_of_order(void *shard, int32_t slot) noexcept:
    return hash_order_id(order_at(<Shard *>shard, slot).order_id)


cdef inline const char *order_name(Order *order) noexcept:
    cdef const char *address
    if order.name_length <= INLINE_NAME:
        return order.name
    memcpy(&address, order.name, sizeof(address))
    return address


cdef uint64_t hash_of_order_name(void *shard, int32_t slot) noexcept:
    return order_at(<Shard *>shard, slot).name_hash


cdef int32_t find_order(Shard *shard, int64_t order_id) noexcept:
    """Return the record of an open order of an account of this shard, or NONE."""
    cdef Table *table = &shard.orders_by_id
    cdef uint64_t at = hash_order_id(order_id) & table.mask
    while table.slots[at]:
        if order_at(shard, table.slots[at] - 1).order_id == order_id:
            return table.slots[at] - 1
        at = (at + 1) & table.mask
    return NONE


cdef inline uint64_t hash_order_name(int32_t account, Text *name) noexcept:
    # 32 bits, as many as an order has room for.
    return <uint32_t>hash_name(<uint64_t>account + 1, name.at, name.length)


cdef int32_t find_order_named(Shard *shard, int32_t account, Text *name, uint64_t hashed) noexcept:
    """Return the account's open order with a client order id of this hash, or NONE."""
    cdef Table *table = &shard.orders_by_name
    cdef uint64_t at = hashed & table.mask
    cdef Order *order
    while table.slots[at]:
        order = order_at(shard, table.slots[at] - 1)
        if order.name_hash == hashed and order.account == account:
            if are_equal(order_name(order), order.name_length, name.at, name.length):
                return table.slots[at] - 1
        at = (at + 1) & table.mask
    return NONE


cdef OpenOrders *find_open_orders(Account *account, int32_t market) noexcept:
    """Return the account's open orders in a market, or NULL. They move when others are added or forgotten."""
    cdef int32_t low = 0, high = account.market_count, middle
    while low < high:
        middle = (low + high) >> 1
        if account.open_orders[middle].market < market:
            low = middle + 1
        else:
            high = middle
    if low < account.market_count and account.open_orders[low].market == market:
        return &account.open_orders[low]
    return NULL


cdef int link_order(Shard *shard, int32_t slot) except -1:
    """Put an order behind all others of its account in its market, and into the tables."""
    cdef Order *order = order_at(shard, slot)
    cdef Account *account = account_at(shard, order.account)
    cdef OpenOrders *orders = find_open_orders(account, order.market)
    cdef int32_t at
    if orders == NULL:
        if account.market_count == account.market_capacity:
            account.market_capacity = account.market_capacity * 2 if account.market_capacity else 2
            account.open_orders = <OpenOrders *>grown(
                account.open_orders, account.market_capacity * sizeof(OpenOrders)
            )
        at = account.market_count
        while at and account.open_orders[at - 1].market > order.market:
            account.open_orders[at] = account.open_orders[at - 1]
            at -= 1
        account.market_count += 1
        orders = &account.open_orders[at]
        orders.market, orders.count, orders.first, orders.last = order.market, 0, NONE, NONE
    order.preceding, order.following = orders.last, NONE
    if orders.last < 0:
        orders.first = slot
    else:
        order_at(shard, orders.last).following = slot
    orders.last = slot
    orders.count += 1
    account.order_count += 1
    shard.open_order_count += 1
    table_add(&shard.orders_by_id, hash_of_order(shard, slot), slot)
    table_add(&shard.orders_by_name, order.name_hash, slot)
    return 0


cdef void set_order_name(Order *order, const char *at, int32_t length, char *elsewhere) noexcept:
    """Keep a client order id; `elsewhere` is memory for a long one, which the order then owns."""
    order.name_length = length
    if length <= INLINE_NAME:
        memcpy(order.name, at, length)
    else:
        memcpy(elsewhere, at, length)
        memcpy(order.name, &elsewhere, sizeof(elsewhere))


cdef int unlink_order(Shard *shard, int32_t slot) except -1:
    """Take a closed order out of the state and free it; its client order id may be used again."""
    cdef Order *order = order_at(shard, slot)
    cdef Account *account = account_at(shard, order.account)
    cdef OpenOrders *orders = find_open_orders(account, order.market)
    cdef int32_t at
    if order.resting >= 0:
        raise InvariantBroken(f"order {order.order_id} is closed, and rests in the book")
    shard.open_order_count -= 1
    if shard.open_order_count < 0 or orders == NULL:
        raise InvariantBroken("more orders are closed than were open")
    if order.preceding < 0:
        orders.first = order.following
    else:
        order_at(shard, order.preceding).following = order.following
    if order.following < 0:
        orders.last = order.preceding
    else:
        order_at(shard, order.following).preceding = order.preceding
    orders.count -= 1
    account.order_count -= 1
    if not orders.count:
        at = <int32_t>(orders - account.open_orders)
        account.market_count -= 1
        memmove(
            account.open_orders + at, account.open_orders + at + 1,
            (account.market_count - at) * sizeof(OpenOrders),
        )
    table_remove(&shard.orders_by_id, hash_of_order(shard, slot), slot)
    table_remove(&shard.orders_by_name, hash_of_order_name(shard, slot), slot)
    if order.has_extras:
        del (<FastCore>shard.core).extras[slot]
    if order.name_length > INLINE_NAME:
        free(<void *>order_name(order))
    unrefer(shard, order.reply_to)
    slab_free(&shard.orders, slot)
    return 0
