# One market's order book: price-time priority, as engine_worker/core/book.py defines it.
#
# A side keeps the ranks of its levels in blocks, best last, so that what happens at the best price moves
# least memory. Each block knows what rests on its levels: a question about sums takes a whole block in one
# step.

cdef enum:
    BLOCK_LEVELS = 256  # a block with twice as many levels is divided


cdef inline Level *level_at(Shard *shard, int32_t slot) noexcept:
    return <Level *>shard.levels.chunks[slot >> CHUNK_BITS] + (slot & (CHUNK_RECORDS - 1))


cdef inline Resting *resting_at(Shard *shard, int32_t slot) noexcept:
    return <Resting *>shard.resting.chunks[slot >> CHUNK_BITS] + (slot & (CHUNK_RECORDS - 1))


cdef inline Own *own_at(Shard *shard, int32_t slot) noexcept:
    return <Own *>shard.own.chunks[slot >> CHUNK_BITS] + (slot & (CHUNK_RECORDS - 1))


cdef inline BookSide *book_side(Market *market, int side) noexcept:
    """Return the half in which orders of `side` rest."""
    return &market.bids if side == BUY else &market.asks


cdef inline BookSide *opposite_side(Market *market, int side) noexcept:
    return &market.asks if side == BUY else &market.bids


cdef inline int64_t best_rank(Shard *shard, BookSide *half) noexcept:
    return level_at(shard, half.best).rank


cdef inline bint crosses(Shard *shard, BookSide *opposite, int64_t price) noexcept:
    """Return whether an order at `price` would trade at once."""
    return opposite.best >= 0 and best_rank(shard, opposite) <= price * opposite.sign


# Levels and blocks.

cdef inline int32_t block_of(BookSide *half, int64_t rank) noexcept:
    """Return the number of the block in which a rank lies, or would lie. There must be one."""
    cdef int32_t low = 0, high = half.block_count - 1, middle
    # The last block whose worst rank is not better than `rank`; most changes are near the best price.
    if half.blocks[high].ranks[0] >= rank:
        return high
    while low < high:
        middle = (low + high + 1) >> 1
        if half.blocks[middle].ranks[0] >= rank:
            low = middle
        else:
            high = middle - 1
    return low


cdef inline int32_t place_in(Block *block, int64_t rank) noexcept:
    """Return the place of a rank in its block, or where it would be."""
    cdef int32_t low = 0, high = block.count, middle
    if high and block.ranks[high - 1] > rank:
        return high
    while low < high:
        middle = (low + high) >> 1
        if block.ranks[middle] > rank:
            low = middle + 1
        else:
            high = middle
    return low


cdef int32_t find_level(BookSide *half, int64_t rank) noexcept:
    cdef Block *block
    cdef int32_t at
    if not half.block_count:
        return NONE
    block = half.blocks[block_of(half, rank)]
    at = place_in(block, rank)
    return block.levels[at] if at < block.count and block.ranks[at] == rank else NONE


cdef Block *new_block(int32_t capacity) except NULL:
    cdef Block *block = <Block *>grown(NULL, sizeof(Block))
    memset(block, 0, sizeof(Block))
    block.capacity = capacity
    block.ranks = <int64_t *>grown(NULL, capacity * sizeof(int64_t))
    block.levels = <int32_t *>grown(NULL, capacity * sizeof(int32_t))
    return block


cdef void free_block(Block *block) noexcept:
    free(block.ranks)
    free(block.levels)
    free(block)


cdef int insert_block(BookSide *half, int32_t at, Block *block) except -1:
    if half.block_count == half.block_capacity:
        half.block_capacity = half.block_capacity * 2 if half.block_capacity else 4
        half.blocks = <Block **>grown(half.blocks, half.block_capacity * sizeof(Block *))
    memmove(half.blocks + at + 1, half.blocks + at, (half.block_count - at) * sizeof(Block *))
    half.blocks[at] = block
    half.block_count += 1
    return 0


cdef void remove_block(BookSide *half, int32_t at) noexcept:
    free_block(half.blocks[at])
    half.block_count -= 1
    memmove(half.blocks + at, half.blocks + at + 1, (half.block_count - at) * sizeof(Block *))


cdef int append_levels(Shard *shard, Block *block, Block *other, int32_t start, int32_t count) except -1:
    """Move levels of `other`, which are better than all of `block`, behind these; sums follow."""
    cdef int32_t number, slot
    cdef Level *level
    if block.count + count > block.capacity:
        block.capacity = block.count + count
        block.ranks = <int64_t *>grown(block.ranks, block.capacity * sizeof(int64_t))
        block.levels = <int32_t *>grown(block.levels, block.capacity * sizeof(int32_t))
    for number in range(start, start + count):
        slot = other.levels[number]
        level = level_at(shard, slot)
        level.block = block
        block.ranks[block.count] = level.rank
        block.levels[block.count] = slot
        block.count += 1
        block.quantity += level.quantity
        block.cost += level.quantity * level.price
        other.quantity -= level.quantity
        other.cost -= level.quantity * level.price
    return 0


cdef int open_level(Shard *shard, BookSide *half, int64_t price, int32_t *opened) except -1:
    """Make a new level, with nothing in it yet."""
    cdef int32_t slot = slab_new(&shard.levels), number, at
    cdef Level *level = level_at(shard, slot)
    cdef Block *block
    cdef Block *other
    level.price = price
    level.rank = price * half.sign
    level.side = half
    level.first = level.last = NONE
    if not half.block_count:
        insert_block(half, 0, new_block(8))
    number = block_of(half, level.rank)
    block = half.blocks[number]
    if block.count == block.capacity:
        block.capacity *= 2
        block.ranks = <int64_t *>grown(block.ranks, block.capacity * sizeof(int64_t))
        block.levels = <int32_t *>grown(block.levels, block.capacity * sizeof(int32_t))
    at = place_in(block, level.rank)
    memmove(block.ranks + at + 1, block.ranks + at, (block.count - at) * sizeof(int64_t))
    memmove(block.levels + at + 1, block.levels + at, (block.count - at) * sizeof(int32_t))
    block.ranks[at] = level.rank
    block.levels[at] = slot
    block.count += 1
    level.block = block
    if block.count >= 2 * BLOCK_LEVELS:
        other = new_block(2 * BLOCK_LEVELS)
        append_levels(shard, other, block, BLOCK_LEVELS, block.count - BLOCK_LEVELS)
        block.count = BLOCK_LEVELS
        insert_block(half, number + 1, other)
    if half.best < 0 or level.rank < best_rank(shard, half):
        half.best = slot
    opened[0] = slot
    return 0


cdef int close_level(Shard *shard, BookSide *half, Level *level) except -1:
    """Take a level with nothing left in it out of its block. Its record stays until its change is told."""
    cdef int32_t number = block_of(half, level.rank), at, before
    cdef Block *block = half.blocks[number]
    at = place_in(block, level.rank)
    if block != level.block or at == block.count or block.ranks[at] != level.rank:
        raise InvariantBroken(f"the level at {level.price} is not where it must be")
    block.count -= 1
    memmove(block.ranks + at, block.ranks + at + 1, (block.count - at) * sizeof(int64_t))
    memmove(block.levels + at, block.levels + at + 1, (block.count - at) * sizeof(int32_t))
    if not block.count:
        remove_block(half, number)
    elif block.count <= BLOCK_LEVELS // 4 and half.block_count > 1:
        before = number - 1 if number else 0
        if half.blocks[before].count + half.blocks[before + 1].count <= BLOCK_LEVELS:
            block = half.blocks[before + 1]
            append_levels(shard, half.blocks[before], block, 0, block.count)
            remove_block(half, before + 1)
    if half.block_count:
        block = half.blocks[half.block_count - 1]
        half.best = block.levels[block.count - 1]
    else:
        half.best = NONE
    level.block = NULL
    return 0


cdef inline int touch(Shard *shard, BookSide *half, int32_t slot) except -1:
    """Note that a level has changed: it is told once, as it is at the end of the command."""
    cdef Level *level = level_at(shard, slot)
    if level.is_changed:
        return 0
    level.is_changed = True
    if half.changed_count == half.changed_capacity:
        half.changed_capacity = half.changed_capacity * 2 if half.changed_capacity else 16
        half.changed = <int32_t *>grown(half.changed, half.changed_capacity * sizeof(int32_t))
    half.changed[half.changed_count] = slot
    half.changed_count += 1
    return 0


cdef void forget_changes(Shard *shard, BookSide *half) noexcept:
    """Free the levels that are gone, once their changes were told."""
    cdef int32_t number
    cdef Level *level
    for number in range(half.changed_count):
        level = level_at(shard, half.changed[number])
        level.is_changed = False
        if level.block == NULL:
            slab_free(&shard.levels, half.changed[number])
    half.changed_count = 0


# The orders of one account on one side.

cdef inline OwnLink *own_link_at(Shard *shard, int32_t slot) noexcept:
    return <OwnLink *>shard.own_links.chunks[slot >> CHUNK_BITS] + (slot & (CHUNK_RECORDS - 1))


cdef inline uint64_t hash_own(int32_t market, int32_t side, int64_t account_id) noexcept:
    return hash_number(<uint64_t>account_id ^ hash_number((<uint64_t>market << 2) | <uint64_t>side))


cdef uint64_t hash_of_own(void *shard, int32_t slot) noexcept:
    cdef Own *own = own_at(<Shard *>shard, slot)
    return hash_own(own.market, own.side, own.account_id)


cdef int32_t find_own(Shard *shard, BookSide *half, int64_t account_id) noexcept:
    """Return where the orders of another shard's account on a side begin, or NONE."""
    cdef Table *table = &shard.own_by_account
    cdef uint64_t at = hash_own(half.market, half.side, account_id) & table.mask
    cdef Own *own
    while table.slots[at]:
        own = own_at(shard, table.slots[at] - 1)
        if own.account_id == account_id and own.market == half.market and own.side == half.side:
            return table.slots[at] - 1
        at = (at + 1) & table.mask
    return NONE


cdef int add_own(Shard *shard, BookSide *half, int32_t slot) except -1:
    """Put an order of another shard's account among the others of that account."""
    cdef Resting *resting = resting_at(shard, slot)
    cdef int32_t number = find_own(shard, half, resting.account_id), link_slot
    cdef OwnLink *link
    cdef Own *own
    if number < 0:
        number = slab_new(&shard.own)
        own = own_at(shard, number)
        own.account_id, own.market, own.side, own.first = resting.account_id, half.market, half.side, NONE
        table_add(&shard.own_by_account, hash_of_own(shard, number), number)
    own = own_at(shard, number)
    link_slot = slab_new(&shard.own_links)
    link = own_link_at(shard, link_slot)
    link.resting, link.preceding, link.following = slot, NONE, own.first
    if own.first >= 0:
        own_link_at(shard, own.first).preceding = link_slot
    own.first = link_slot
    resting.order = -2 - link_slot
    return 0


cdef int remove_own(Shard *shard, BookSide *half, Resting *resting) except -1:
    cdef int32_t link_slot = -2 - resting.order, number
    cdef OwnLink *link = own_link_at(shard, link_slot)
    if link.following >= 0:
        own_link_at(shard, link.following).preceding = link.preceding
    if link.preceding >= 0:
        own_link_at(shard, link.preceding).following = link.following
    else:
        number = find_own(shard, half, resting.account_id)
        if number < 0:
            raise InvariantBroken(f"order {resting.order_id} is not among those of its account")
        own_at(shard, number).first = link.following
        if link.following < 0:
            table_remove(&shard.own_by_account, hash_of_own(shard, number), number)
            slab_free(&shard.own, number)
    slab_free(&shard.own_links, link_slot)
    return 0


cdef void begin_own(Shard *shard, BookSide *half, int64_t account_id, OwnOrders *own) noexcept:
    """Begin a walk through the orders of an account on a side."""
    cdef int32_t slot = find_account(shard, account_id)
    cdef OpenOrders *orders
    own.account_id, own.half, own.order, own.link = account_id, half, NONE, NONE
    if shard.slots[account_id % ACCOUNT_SLOTS] == shard.index:
        if slot >= 0:
            orders = find_open_orders(account_at(shard, slot), half.market)
            if orders != NULL:
                own.order = orders.first
    else:
        slot = find_own(shard, half, account_id)
        if slot >= 0:
            own.link = own_at(shard, slot).first


cdef int32_t next_own(Shard *shard, OwnOrders *own) noexcept:
    """Return the next order of the walk, or NONE."""
    cdef int32_t slot
    cdef Order *order
    while own.order >= 0:
        order = order_at(shard, own.order)
        own.order = order.following
        if order.resting >= 0 and order.side == own.half.side:
            return order.resting
    if own.link < 0:
        return NONE
    slot = own_link_at(shard, own.link).resting
    own.link = own_link_at(shard, own.link).following
    return slot


# Orders.

cdef uint64_t hash_of_resting(void *shard, int32_t slot) noexcept:
    return hash_order_id(resting_at(<Shard *>shard, slot).order_id)


cdef int32_t find_resting(Shard *shard, Market *market, int64_t order_id, int32_t order) noexcept:
    """Return the record of an order in the market's book, or NONE.

    `order` is its record at its account's half, if that is known.
    """
    cdef int32_t slot = order if order >= 0 else find_order(shard, order_id)
    cdef Table *table = &shard.resting_by_id
    cdef uint64_t at
    if slot >= 0:
        slot = order_at(shard, slot).resting
    else:
        at = hash_order_id(order_id) & table.mask
        while table.slots[at] and resting_at(shard, table.slots[at] - 1).order_id != order_id:
            at = (at + 1) & table.mask
        slot = table.slots[at] - 1
    if slot >= 0 and level_at(shard, resting_at(shard, slot).level).side.market != market.index:
        return NONE
    return slot


cdef int add_resting(
    Shard *shard, Market *market, int side, int64_t order_id, int64_t account_id, int64_t price,
    int64_t quantity, int32_t order
) except -1:
    """Let an order rest behind all others at its price. It must not cross."""
    cdef BookSide *half = book_side(market, side)
    cdef int32_t slot, level_slot
    cdef Level *level
    cdef Resting *resting
    if quantity <= 0:
        raise InvariantBroken(f"order {order_id} would rest with {quantity} lots")
    if half.best >= 0 and best_rank(shard, half) == price * half.sign:
        level_slot = half.best
    else:
        level_slot = find_level(half, price * half.sign)
        if level_slot < 0:
            open_level(shard, half, price, &level_slot)
    slot = slab_new(&shard.resting)
    level, resting = level_at(shard, level_slot), resting_at(shard, slot)
    resting.order_id, resting.account_id, resting.quantity = order_id, account_id, quantity
    resting.level, resting.order = level_slot, order
    resting.preceding, resting.following = level.last, NONE
    if level.last < 0:
        level.first = slot
    else:
        resting_at(shard, level.last).following = slot
    level.last = slot
    level.order_count += 1
    level.quantity += quantity
    level.block.quantity += quantity
    level.block.cost += <wide_t>quantity * price
    touch(shard, half, level_slot)
    market.resting_count += 1
    if order >= 0:
        order_at(shard, order).resting = slot
    else:
        add_own(shard, half, slot)
        table_add(&shard.resting_by_id, hash_of_resting(shard, slot), slot)
    return 0


cdef inline int take_lots(Shard *shard, Resting *resting, int64_t quantity) except -1:
    """Take so many lots off an order, its level and its block."""
    cdef Level *level = level_at(shard, resting.level)
    resting.quantity -= quantity
    level.quantity -= quantity
    level.block.quantity -= quantity
    level.block.cost -= <wide_t>quantity * level.price
    touch(shard, level.side, resting.level)
    return 0


cdef int remove_resting(Shard *shard, int32_t slot) except -1:
    """Take an order out of the book, and its level when it was the last one there."""
    cdef Resting *resting = resting_at(shard, slot)
    cdef Level *level = level_at(shard, resting.level)
    cdef BookSide *half = level.side
    take_lots(shard, resting, resting.quantity)
    if resting.preceding < 0:
        level.first = resting.following
    else:
        resting_at(shard, resting.preceding).following = resting.following
    if resting.following < 0:
        level.last = resting.preceding
    else:
        resting_at(shard, resting.following).preceding = resting.preceding
    level.order_count -= 1
    shard.markets[half.market].resting_count -= 1
    if resting.order >= 0:
        order_at(shard, resting.order).resting = NONE
    else:
        remove_own(shard, half, resting)
        table_remove(&shard.resting_by_id, hash_of_resting(shard, slot), slot)
    slab_free(&shard.resting, slot)
    if level.first < 0:
        if level.quantity or level.order_count:
            raise InvariantBroken(
                f"{from_wide(level.quantity)} lots of {level.order_count} orders are counted at {level.price}, "
                "where no order rests"
            )
        close_level(shard, half, level)
    return 0


# Questions about sums.

cdef int sums(
    Shard *shard, BookSide *half, int64_t rank_max, int64_t quantity, OwnOrders *without, int64_t *lots_found,
    wide_t *cost_found
) except -1:
    """Tell how many of `quantity` lots rest up to a rank, best first, and their cost in ticks x lots.

    The orders of `without` do not count. Costs a step for each block, and one for each level of one block.
    """
    cdef wide_t found = 0, cost = 0, lots
    cdef int32_t number, at
    cdef Block *block
    cdef Level *level
    if without != NULL:
        count_own(shard, without, 1)
    for number in range(half.block_count - 1, -1, -1):
        block = half.blocks[number]
        lots = block.quantity - block.own_quantity
        # A whole block is taken without looking at its levels; the first that does not fit whole is the last
        # one.
        if block.ranks[0] <= rank_max and found + lots <= quantity:
            found += lots
            cost += block.cost - block.own_cost
            continue
        for at in range(block.count - 1, -1, -1):
            if block.ranks[at] > rank_max or found == quantity:
                break
            level = level_at(shard, block.levels[at])
            lots = level.quantity - level.own_quantity
            if lots > quantity - found:
                lots = quantity - found
            found += lots
            cost += lots * level.price
        break
    if without != NULL:
        count_own(shard, without, 0)
    lots_found[0] = <int64_t>found
    cost_found[0] = cost
    return 0


cdef void count_own(Shard *shard, OwnOrders *own, int factor) noexcept:
    """Note on levels and blocks what of them is the account's own; with the factor 0 take that away."""
    cdef OwnOrders walk = own[0]
    cdef int32_t slot = next_own(shard, &walk)
    cdef Resting *resting
    cdef Level *level
    while slot >= 0:
        resting = resting_at(shard, slot)
        level = level_at(shard, resting.level)
        if factor:
            level.own_quantity += resting.quantity
            level.block.own_quantity += resting.quantity
            level.block.own_cost += <wide_t>resting.quantity * level.price
        else:
            level.own_quantity = 0
            level.block.own_quantity = 0
            level.block.own_cost = 0
        slot = next_own(shard, &walk)


cdef int before_own(
    Shard *shard, BookSide *half, int64_t rank_max, int64_t quantity, OwnOrders *own, int64_t *lots_found,
    wide_t *cost_found
) except -1:
    """Tell what an order of the account would get, and its cost, up to its own first resting order."""
    cdef OwnOrders walk = own[0]
    cdef int32_t slot = next_own(shard, &walk), best = NONE
    cdef int64_t rank = 0
    cdef Level *level
    cdef Resting *resting
    cdef wide_t lots = 0
    while slot >= 0:
        resting = resting_at(shard, slot)
        level = level_at(shard, resting.level)
        if best < 0 or level.rank < rank:
            rank, best = level.rank, resting.level
        slot = next_own(shard, &walk)
    if best < 0 or rank > rank_max:
        return sums(shard, half, rank_max, quantity, NULL, lots_found, cost_found)
    sums(shard, half, rank - 1, quantity, NULL, lots_found, cost_found)
    level = level_at(shard, best)
    slot = level.first
    while slot >= 0:
        resting = resting_at(shard, slot)
        if resting.account_id == own.account_id or lots_found[0] + lots >= quantity:
            break
        lots += resting.quantity
        slot = resting.following
    if lots > quantity - lots_found[0]:
        lots = quantity - lots_found[0]
    lots_found[0] += <int64_t>lots
    cost_found[0] += lots * level.price
    return 0


cdef int fillable(
    Shard *shard, Market *market, Item *order, int64_t price, int64_t quantity, int64_t *lots_found,
    wide_t *cost_found
) except -1:
    """Tell how many of `quantity` lots an order would get up to `price`, and what they would cost in quote
    units.

    Makers of the same account do not count unless self-trade prevention is off; where it would end the
    taker, the walk ends.
    """
    cdef BookSide *half = opposite_side(market, order.side)
    cdef int64_t rank_max = price * half.sign
    cdef OwnOrders own
    if order.prevention == PREVENT_NOTHING:
        sums(shard, half, rank_max, quantity, NULL, lots_found, cost_found)
    else:
        begin_own(shard, half, order.account_id, &own)
        if order.prevention == EXPIRE_MAKER:
            sums(shard, half, rank_max, quantity, &own, lots_found, cost_found)
        else:
            before_own(shard, half, rank_max, quantity, &own, lots_found, cost_found)
    cost_found[0] *= market.quote_per_tick_lot
    return 0


cdef bint meets_more_than(Shard *shard, Market *market, int64_t most, Item *order) noexcept:
    """Return whether an order that is filled whole meets more than `most` orders. Looks at `most` and one."""
    cdef BookSide *half = opposite_side(market, order.side)
    cdef bint skips_own = order.prevention == EXPIRE_MAKER
    cdef wide_t leaves = order.quantity
    cdef int64_t met = 0
    cdef int32_t number, at, slot
    cdef Block *block
    cdef Resting *resting
    for number in range(half.block_count - 1, -1, -1):
        block = half.blocks[number]
        for at in range(block.count - 1, -1, -1):
            slot = level_at(shard, block.levels[at]).first
            while slot >= 0:
                resting = resting_at(shard, slot)
                if leaves <= 0:
                    return False
                met += 1
                if met > most:
                    return True
                if not (skips_own and resting.account_id == order.account_id):
                    leaves -= resting.quantity
                slot = resting.following
    return False


cdef void side_let_go(BookSide *half) noexcept:
    cdef int32_t number
    for number in range(half.block_count):
        free_block(half.blocks[number])
    free(half.blocks)
    free(half.changed)
    memset(half, 0, sizeof(BookSide))
