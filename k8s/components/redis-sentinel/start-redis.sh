#!/bin/sh
# Starts this Redis as the master, or as the replica of its peer: the other Redis. The decision, tried once a second until one line applies:
#
#   master, by     this server's   the peer says          this server
#   the sentinels  disk
#   -------------  --------------  ---------------------  --------------------------------------------------------------
#   the peer       any             anything, or nothing   becomes the peer's replica
#   this server,   any             "master", has keys     waits: the peer was promoted, and the sentinels are about to say so. Before they
#   or unknown                                            do, clients that they send here would read a replica that has nothing yet.
#                                                         After PATIENCE_S becomes the peer's replica: the peer has what was acknowledged
#   this server    has data        "replica", and no      becomes the master
#                                  failover is under way
#   this server    has data        "replica", and a       waits: the peer is about to be promoted. After PATIENCE_S the
#                                  failover is under way  failover has failed: becomes the master
#   this server    has data        "master", has no keys  becomes the master; the sentinels make a replica of the peer
#   this server    has data        nothing (is away, or   waits: the peer may have been promoted. After PATIENCE_S becomes the
#                                  its name is unknown)   master, by the word of most of the sentinels. Waiting costs little:
#                                                         without its replica a master takes no writes (redis.conf)
#   this server    empty           has no keys            becomes the master: the exchange is new
#   this server    empty           has keys, or nothing   waits until the peer is the master: an empty master would have its
#                                                         replica, which may have all data, copy nothing
#   unknown        any             is no master, or       waits for a sentinel
#                                  nothing
#
# A server that returns while the sentinels are counting may become the master at the very moment at which they begin to promote its peer. They
# would make it a replica after ten seconds, and orders wait for a replica; so it asks them for a while, and becomes one as soon as they have
# promoted the peer. Meanwhile nothing can be lost: without a replica it takes no writes.
#
# "By the sentinels" is the word of the one that has seen the latest failover (config-epoch), as the clients of the exchange ask them.
set -eu
umask 077
secrets=${SECRETS:-/run/secrets/redis}
data=${DATA:-/data}
port=${PORT:-6379}
patience_s=${PATIENCE_S:-30}
watch_s=${WATCH_S:-30}
for node in $NODES; do [ "$node" = "$SELF" ] || peer=$node; done

# Prints "EPOCH MASTER FLAGS" of each sentinel that answers.
masters_by_sentinels() {
    for sentinel in $SENTINELS; do
        REDISCLI_AUTH=$(cat "$secrets/sentinel-password") timeout 1 valkey-cli -h "$sentinel" -p "${SENTINEL_PORT:-26379}" \
            --raw sentinel master exchange 2>/dev/null |
            awk 'NR % 2 { key = $0; next } { value[key] = $0 } END { if ("config-epoch" in value) print value["config-epoch"], value["ip"], value["flags"] }' ||
            true
    done
}

newest() {
    sort -n | tail -n 1 | cut -d ' ' -f "$1"
}

give_way_to_a_promoted_peer() {
    started_s=$(uptime_s)
    while [ $(($(uptime_s) - started_s)) -lt "$watch_s" ]; do
        sleep "${PERIOD_S:-0.5}"
        [ "$(masters_by_sentinels | newest 2)" = "$peer" ] && [ "$(ask "$peer" role)" = master ] || continue
        [ "$(ask "$SELF" role)" = master ] || return 0
        say "$peer was promoted meanwhile; becoming its replica"
        REDISCLI_AUTH=$(cat "$secrets/sentinel-password") valkey-cli -h "$SELF" -p "$port" --user sentinel slaveof "$peer" "$port" || true
    done
}

ask() {
    host=$1
    shift
    timeout 1 valkey-cli -h "$host" -p "$port" --user probe --pass any --no-auth-warning --raw "$@" 2>/dev/null | head -n 1
}

# The system's clock may be set meanwhile.
uptime_s() {
    cut -d . -f 1 /proc/uptime
}

say() {
    [ "$1" = "${said:-}" ] || echo "$1"
    said=$1
}

started_s=$(uptime_s)
while :; do
    peer_role=$(ask "$peer" role)
    peer_keys=$(ask "$peer" dbsize)
    answers=$(masters_by_sentinels)
    master=$(echo "$answers" | newest 2)
    sentinels=$(echo "$answers" | grep -c . || true)
    is_patient=$(($(uptime_s) - started_s < patience_s))
    if [ -n "$master" ] && [ "$master" != "$SELF" ]; then
        break
    elif [ "$peer_role" = master ] && [ "$peer_keys" != 0 ]; then
        if [ "$is_patient" = 0 ]; then
            master=$peer
            break
        fi
        say "$peer has taken this one's place; waiting for the sentinels to say so"
    elif [ -z "$master" ]; then
        say "waiting for a sentinel that knows the master"
    elif [ ! -e "$data/appendonlydir" ] && [ ! -e "$data/appendonly.aof" ]; then
        [ "$peer_keys" != 0 ] || break
        say "this is the master, and it is empty; waiting for $peer to be empty, too, or to take its place"
    elif [ "$peer_role" = slave ]; then
        case $(echo "$answers" | newest 3) in
        *failover_in_progress* | *o_down*)
            [ "$is_patient" = 1 ] || break
            say "$peer is taking this one's place; waiting for it to be the master"
            ;;
        *) break ;;
        esac
    elif [ "$peer_role" = master ]; then
        break
    elif [ "$is_patient" = 1 ]; then
        say "this is the master, but $peer does not answer and may have taken its place; waiting for $peer"
    elif [ "$sentinels" -ge $(($(echo "$SENTINELS" | wc -w) / 2 + 1)) ]; then
        break
    else
        say "this is the master by too few sentinels, and $peer does not answer; waiting for either"
    fi
    sleep "${PERIOD_S:-0.5}"
done
say "starting as the $([ "$master" = "$SELF" ] && echo master || echo "replica of $master")"

{
    cat "$CONFIGURATION/redis.conf"
    echo "dir $data"
    echo "port $port"
    echo "replica-announce-ip $SELF"
    echo "masterauth $(cat "$secrets/replica-password")"
    [ "$master" = "$SELF" ] || echo "replicaof $master $port"
} >"$RUN/redis.conf"
[ "$master" != "$SELF" ] || give_way_to_a_promoted_peer &
exec valkey-server "$RUN/redis.conf" "$@"
