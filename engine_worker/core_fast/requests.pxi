# Requests and their first outcomes (docs/decisions/0005-client-order-ids.md), and the replies of a batch.
#
# A reply is written once. What is remembered of it is its encoding: in chunks, oldest first, which are freed
# whole.

cdef enum:
    ANSWER_CHUNK_BYTES = 1 << 18
    DROPS_PER_COMMAND = 64


cdef inline Channel *channel_at(Shard *shard, int32_t slot) noexcept:
    return <Channel *>shard.channels.chunks[slot >> CHUNK_BITS] + (slot & (CHUNK_RECORDS - 1))


cdef uint64_t hash_of_channel(void *shard, int32_t slot) noexcept:
    cdef Channel *channel = channel_at(<Shard *>shard, slot)
    return hash_name(0, channel.name, channel.length)


cdef int note_idle(Shard *shard, int32_t slot) except -1:
    """Note that a channel may be forgotten at the next `take`, if nothing refers to it then."""
    cdef Channel *channel = channel_at(shard, slot)
    if channel.is_idle or not slot:
        return 0
    channel.is_idle = True
    if shard.idle_count == shard.idle_capacity:
        shard.idle_capacity = shard.idle_capacity * 2 if shard.idle_capacity else 64
        shard.idle_channels = <int32_t *>grown(shard.idle_channels, shard.idle_capacity * sizeof(int32_t))
    shard.idle_channels[shard.idle_count] = slot
    shard.idle_count += 1
    return 0


cdef int32_t channel_of(Shard *shard, const char *name, int32_t length) except -1:
    """Return the number of a reply channel; that of no channel, the empty name, is 0.

    It stays until the next `take` at least.
    """
    cdef Table *table = &shard.channels_by_name
    cdef uint64_t hashed, at
    cdef Channel *channel
    cdef int32_t slot
    if not length:
        return 0
    channel = channel_at(shard, shard.last_channel)
    if are_equal(channel.name, channel.length, name, length):  # as for most commands of a frame
        return shard.last_channel
    hashed = hash_name(0, name, length)
    at = hashed & table.mask
    while table.slots[at]:
        channel = channel_at(shard, table.slots[at] - 1)
        if are_equal(channel.name, channel.length, name, length):
            shard.last_channel = table.slots[at] - 1
            return shard.last_channel
        at = (at + 1) & table.mask
    slot = slab_new(&shard.channels)
    channel = channel_at(shard, slot)
    channel.name = <char *>grown(NULL, length)
    memcpy(channel.name, name, length)
    channel.length = length
    channel.first_reply = NONE
    table_add(table, hashed, slot)
    note_idle(shard, slot)
    return slot


cdef inline void refer(Shard *shard, int32_t channel) noexcept:
    channel_at(shard, channel).references += 1


cdef inline int unrefer(Shard *shard, int32_t slot) except -1:
    cdef Channel *channel = channel_at(shard, slot)
    channel.references -= 1
    if not channel.references:
        note_idle(shard, slot)
    return 0


cdef int forget_idle_channels(Shard *shard) except -1:
    cdef int32_t number, slot
    cdef Channel *channel
    for number in range(shard.idle_count):
        slot = shard.idle_channels[number]
        channel = channel_at(shard, slot)
        channel.is_idle = False
        if not channel.references:
            table_remove(&shard.channels_by_name, hash_of_channel(shard, slot), slot)
            free(channel.name)
            slab_free(&shard.channels, slot)
    shard.idle_count = shard.last_channel = 0
    return 0


# Requests under way: those whose outcome another shard decides.

cdef inline UnderWay *under_way_at(Shard *shard, int32_t slot) noexcept:
    return <UnderWay *>shard.under_way.chunks[slot >> CHUNK_BITS] + (slot & (CHUNK_RECORDS - 1))


cdef inline uint64_t hash_request(int32_t channel, int64_t request_id) noexcept:
    # A channel's ids follow each other: four of them share a line of the processor's cache.
    cdef uint64_t group = <uint64_t>request_id >> 2
    return (hash_number(group + (<uint64_t>channel << 44)) & ~<uint64_t>3) | (<uint64_t>request_id & 3)


cdef uint64_t hash_of_under_way(void *shard, int32_t slot) noexcept:
    cdef UnderWay *request = under_way_at(<Shard *>shard, slot)
    return hash_request(request.channel, request.request_id)


cdef int32_t find_under_way(Shard *shard, int32_t channel, int64_t request_id) noexcept:
    cdef Table *table = &shard.under_way_by_request
    cdef uint64_t at
    cdef UnderWay *request
    if not table.count:
        return NONE
    at = hash_request(channel, request_id) & table.mask
    while table.slots[at]:
        request = under_way_at(shard, table.slots[at] - 1)
        if request.channel == channel and request.request_id == request_id:
            return table.slots[at] - 1
        at = (at + 1) & table.mask
    return NONE


cdef int add_under_way(Shard *shard, int32_t channel, int64_t request_id) except -1:
    cdef int32_t slot = slab_new(&shard.under_way)
    cdef UnderWay *request = under_way_at(shard, slot)
    request.channel, request.request_id = channel, request_id
    refer(shard, channel)
    table_add(&shard.under_way_by_request, hash_of_under_way(shard, slot), slot)
    return 0


cdef int remove_under_way(Shard *shard, int32_t slot) except -1:
    table_remove(&shard.under_way_by_request, hash_of_under_way(shard, slot), slot)
    unrefer(shard, under_way_at(shard, slot).channel)
    slab_free(&shard.under_way, slot)
    return 0


# Remembered first outcomes.

cdef uint64_t place_of_answer(Shard *shard, uint64_t hashed, int32_t channel, int64_t request_id) noexcept:
    """Return where a request's answer is in the table, or where it would be."""
    cdef uint64_t at = hashed & shard.answer_mask
    cdef Answered *answered
    while True:
        answered = shard.answers[at].answered
        if answered == NULL:
            return at
        if shard.answers[at].hashed == hashed:
            if answered.request_id == request_id and answered.channel == channel:
                return at
        at = (at + 1) & shard.answer_mask


cdef Answered *find_answer(Shard *shard, int32_t channel, int64_t request_id) noexcept:
    """Return a request's first reply, or NULL when there is none or it is too old."""
    cdef uint64_t hashed = hash_request(channel, request_id)
    cdef Answered *answered = shard.answers[place_of_answer(shard, hashed, channel, request_id)].answered
    if answered == NULL or shard.time - answered.time > shard.request_window_ms:
        return NULL
    return answered


cdef int remember(
    Shard *shard, int64_t time, int32_t channel, int64_t request_id, const void *reply, size_t length
) except -1:
    """Keep the reply that was given at `time`, the newest of all."""
    # Rounded up, so that every record begins where a number of 64 bits may.
    cdef size_t size = (sizeof(Answered) + length + 7) & ~<size_t>7, capacity
    cdef AnswerChunk *chunk = shard.newest_answers
    cdef Answered *answered
    cdef AnswerEntry *before
    cdef uint64_t at, number, mask, hashed = hash_request(channel, request_id)
    if chunk == NULL or chunk.used + size > chunk.capacity:
        capacity = size if size > ANSWER_CHUNK_BYTES else ANSWER_CHUNK_BYTES
        chunk = <AnswerChunk *>grown(NULL, sizeof(AnswerChunk) + capacity)
        chunk.following, chunk.used, chunk.capacity = NULL, 0, capacity
        if shard.newest_answers == NULL:
            shard.oldest_answers, shard.oldest_answer = chunk, 0
        else:
            shard.newest_answers.following = chunk
        shard.newest_answers = chunk
    if <uint64_t>shard.answer_count * 3 >= (shard.answer_mask + 1) * 2:
        before, mask = shard.answers, shard.answer_mask
        shard.answers = <AnswerEntry *>grown(NULL, (mask + 1) * 2 * sizeof(AnswerEntry))
        memset(shard.answers, 0, (mask + 1) * 2 * sizeof(AnswerEntry))
        shard.answer_mask = mask * 2 + 1
        for number in range(mask + 1):
            if before[number].answered != NULL:
                at = before[number].hashed & shard.answer_mask
                while shard.answers[at].answered != NULL:
                    at = (at + 1) & shard.answer_mask
                shard.answers[at] = before[number]
        free(before)
    answered = <Answered *>(<char *>(chunk + 1) + chunk.used)
    chunk.used += size
    answered.time, answered.request_id, answered.channel = time, request_id, channel
    answered.length = <uint32_t>length
    memcpy(<char *>(answered + 1), reply, length)
    refer(shard, channel)
    at = place_of_answer(shard, hashed, channel, request_id)
    if shard.answers[at].answered == NULL:
        shard.answer_count += 1
    shard.answers[at].answered, shard.answers[at].hashed = answered, hashed
    return 0


cdef Answered *oldest_answer(Shard *shard) noexcept:
    """Return the oldest remembered reply, or NULL. A request that came again after its window may be there
    twice."""
    cdef AnswerChunk *chunk
    while shard.oldest_answers != NULL:
        chunk = shard.oldest_answers
        if shard.oldest_answer < chunk.used:
            return <Answered *>(<char *>(chunk + 1) + shard.oldest_answer)
        if chunk.following == NULL:
            return NULL
        shard.oldest_answers, shard.oldest_answer = chunk.following, 0
        free(chunk)
    return NULL


cdef inline size_t answer_size(Answered *answered) noexcept:
    return (sizeof(Answered) + answered.length + 7) & ~<size_t>7


cdef int drop_old_answers(Shard *shard) except -1:
    """Drop a few replies that are too old; whether one still counts does not depend on it."""
    cdef int32_t number
    cdef uint64_t gap, at, wanted
    cdef Answered *answered
    for number in range(DROPS_PER_COMMAND):
        answered = oldest_answer(shard)
        if answered == NULL or shard.time - answered.time <= shard.request_window_ms:
            return 0
        gap = place_of_answer(
            shard, hash_request(answered.channel, answered.request_id), answered.channel, answered.request_id
        )
        if shard.answers[gap].answered == answered:
            at = gap
            while True:
                at = (at + 1) & shard.answer_mask
                if shard.answers[at].answered == NULL:
                    break
                wanted = shard.answers[at].hashed & shard.answer_mask
                if ((at - wanted) & shard.answer_mask) >= ((at - gap) & shard.answer_mask):
                    shard.answers[gap] = shard.answers[at]
                    gap = at
            shard.answers[gap].answered = NULL
            shard.answer_count -= 1
        unrefer(shard, answered.channel)
        shard.oldest_answer += answer_size(answered)
    return 0


# Replies.

cdef int add_reply_entry(Shard *shard, int32_t channel, size_t start) except -1:
    """Note that what was written since `start` is a reply to a channel."""
    cdef ReplyEntry *entry
    cdef Channel *waiter
    if not channel:  # nobody waits
        return 0
    if shard.reply_count == shard.reply_capacity:
        shard.reply_capacity = shard.reply_capacity * 2 if shard.reply_capacity else 64
        shard.reply_entries = <ReplyEntry *>grown(
            shard.reply_entries, shard.reply_capacity * sizeof(ReplyEntry)
        )
    entry = &shard.reply_entries[shard.reply_count]
    entry.channel, entry.following, entry.start, entry.end = channel, NONE, start, shard.replies.length
    waiter = channel_at(shard, channel)
    if waiter.first_reply < 0:
        waiter.first_reply = shard.reply_count
        refer(shard, channel)
    else:
        shard.reply_entries[waiter.last_reply].following = shard.reply_count
    waiter.last_reply = shard.reply_count
    shard.reply_count += 1
    return 0


cdef int begin_request(Shard *shard, int32_t channel, int64_t request_id) except -1:
    """Return whether a command is to be handled; a repetition is answered like the first time."""
    cdef Answered *first
    cdef size_t start
    if not channel or not request_id:
        return 1
    first = find_answer(shard, channel, request_id)
    if first != NULL:
        start = shard.replies.length
        reserve(&shard.replies, first.length)
        put_bytes(&shard.replies, <char *>(first + 1), first.length)
        add_reply_entry(shard, channel, start)
        return 0
    if find_under_way(shard, channel, request_id) >= 0:
        return 0
    # From here on `reply` knows that this request is answered for the first time.
    shard.is_request_open, shard.request_channel, shard.request_id = True, channel, request_id
    return 1


cdef int end_request(Shard *shard) except -1:
    if shard.is_request_open:  # the market's half is on another shard
        add_under_way(shard, shard.request_channel, shard.request_id)
        shard.is_request_open = False
    return 0


cdef int reply(Shard *shard, int32_t channel, int64_t request_id, size_t start) except -1:
    """Answer a request with what was written since `start`, and remember it."""
    cdef int32_t slot
    add_reply_entry(shard, channel, start)
    if shard.is_request_open and request_id == shard.request_id and channel == shard.request_channel:
        shard.is_request_open = False
    else:
        slot = find_under_way(shard, channel, request_id)
        if slot < 0:
            return 0
        remove_under_way(shard, slot)
    remember(
        shard, shard.time, channel, request_id, shard.replies.bytes + start, shard.replies.length - start
    )
    return 0


cdef size_t write_refused(Shard *shard, int64_t request_id, int reason) except? 0xFFFFFFFF:
    """Write a `Refused`; return where it begins."""
    cdef Writer *writer = &shard.replies
    cdef size_t start = writer.length
    cdef Text *text = &_reason_texts[reason]
    reserve(writer, 64 + text.length)
    put_array(writer, 4)
    put_byte(writer, 4)
    put_number(writer, request_id)
    put_number(writer, shard.time)
    put_text(writer, text.at, text.length)
    return start


cdef int refuse(Shard *shard, int32_t channel, int64_t request_id, int reason) except -1:
    """Answer a command that it is refused, and remember that."""
    return reply(shard, channel, request_id, write_refused(shard, request_id, reason))


cdef list grouped_replies(Shard *shard):
    """Return (reply_to, frame of replies), in the order of each waiter's first reply, and forget them."""
    cdef list grouped = []
    cdef int32_t number, at, count
    cdef size_t size
    cdef ReplyEntry *entry
    cdef Channel *waiter
    cdef Writer frame
    cdef bytes made
    for number in range(shard.reply_count):
        waiter = channel_at(shard, shard.reply_entries[number].channel)
        if waiter.first_reply != number:
            continue
        count, at, size = 0, number, 0
        while at >= 0:
            entry = &shard.reply_entries[at]
            count += 1
            size += entry.end - entry.start
            at = entry.following
        made = PyBytes_FromStringAndSize(NULL, array_size(count) + size)
        begin_writing(&frame, made)
        put_array(&frame, count)
        at = number
        while at >= 0:
            entry = &shard.reply_entries[at]
            put_bytes(&frame, shard.replies.bytes + entry.start, entry.end - entry.start)
            at = entry.following
        grouped.append((waiter.name[: waiter.length].decode(), made))
    for number in range(shard.reply_count):
        waiter = channel_at(shard, shard.reply_entries[number].channel)
        if waiter.first_reply == number:
            waiter.first_reply = NONE
            unrefer(shard, shard.reply_entries[number].channel)
    shard.reply_count = 0
    empty(&shard.replies)
    return grouped
