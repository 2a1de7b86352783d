#!/bin/sh
# Starts this Redis as what the sentinels take it for.
#
# One that has lost its data must not come back as the master: its replica would throw away its own. So an empty master begins only
# beside a replica that is empty, too, as both are when the exchange is new; otherwise it waits until the sentinels have promoted the other.
# And while they are promoting the other, they still name this one: two masters would take orders, and one of them would lose them.
set -eu
umask 077
secrets=${SECRETS:-/run/secrets/redis}
data=${DATA:-/data}
port=${PORT:-6379}
for node in $NODES; do [ "$node" = "$SELF" ] || peer=$node; done

master_by_sentinels() {
    for sentinel in $SENTINELS; do
        master=$(REDISCLI_AUTH=$(cat "$secrets/sentinel-password") timeout 2 redis-cli -h "$sentinel" -p "${SENTINEL_PORT:-26379}" \
            --raw sentinel get-master-addr-by-name exchange 2>/dev/null | head -n 1)
        case $master in '' | *' '*) ;; *) echo "$master"; return ;; esac
    done
}

ask() {
    host=$1
    shift
    timeout 2 redis-cli -h "$host" -p "$port" --user probe --pass any --no-auth-warning --raw "$@" 2>/dev/null | head -n 1
}

while :; do
    master=$(master_by_sentinels)
    if [ -n "$master" ] && [ "$master" != "$SELF" ]; then
        break
    elif [ -n "$master" ] && [ "$(ask "$peer" role)" = master ]; then
        echo "$peer is taking this one's place; waiting for the sentinels to say so"
    elif [ -n "$master" ]; then
        [ ! -e "$data/appendonlydir" ] && [ ! -e "$data/appendonly.aof" ] || break
        [ "$(ask "$peer" dbsize)" != 0 ] || break
        echo "this is the master, and it is empty; waiting for $peer to be empty, too, or to take its place"
    else
        echo "waiting for a sentinel that knows the master"
    fi
    sleep 1
done

{
    cat "$CONFIGURATION/redis.conf"
    echo "dir $data"
    echo "port $port"
    echo "replica-announce-ip $SELF"
    echo "masterauth $(cat "$secrets/replica-password")"
    [ "$master" = "$SELF" ] || echo "replicaof $master $port"
} >"$RUN/redis.conf"
exec redis-server "$RUN/redis.conf" "$@"
