#!/bin/sh
# Starts a sentinel with what it has learned. Where there is nothing yet, it takes the Redis that says it is a master and has a replica, so that
# sentinels that have lost their disks find the one that was promoted; in a new exchange, the first Redis.
set -eu
umask 077
secrets=${SECRETS:-/run/secrets/redis}
data=${DATA:-/data}
port=${PORT:-6379}

role() {
    timeout 1 valkey-cli -h "$1" -p "$port" --user probe --pass any --no-auth-warning --raw role 2>/dev/null || true
}

if [ ! -s "$data/sentinel.conf" ]; then
    password=$(cat "$secrets/sentinel-password")
    master=${NODES%% *}
    for node in $NODES; do
        # "master", its offset, and three lines for each replica.
        [ "$(role "$node" | awk 'NR == 1 || (NR == 3 && $0 != "") { printf "%s ", NR == 1 ? $0 : "with" }')" != "master with " ] || master=$node
    done
    {
        cat "$CONFIGURATION/sentinel.conf"
        echo "dir $data"
        echo "port ${SENTINEL_PORT:-26379}"
        echo "sentinel announce-ip $SELF"
        echo "requirepass $password"
        echo "sentinel sentinel-pass $password"
        echo "sentinel monitor exchange $master $port 2"
        echo "sentinel auth-user exchange sentinel"
        echo "sentinel auth-pass exchange $password"
        echo "sentinel down-after-milliseconds exchange ${DOWN_AFTER_MS:-5000}"
        echo "sentinel failover-timeout exchange 10000"
        echo "sentinel parallel-syncs exchange 1"
    } >"$data/sentinel.conf.new"
    mv "$data/sentinel.conf.new" "$data/sentinel.conf"
fi
exec valkey-server "$data/sentinel.conf" --sentinel "$@"
