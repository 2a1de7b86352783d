#!/bin/sh
# Starts a sentinel with what it has learned, or where there is nothing yet, with the first of the servers as the master.
set -eu
umask 077
secrets=${SECRETS:-/run/secrets/redis}
data=${DATA:-/data}
port=${PORT:-6379}

if [ ! -s "$data/sentinel.conf" ]; then
    password=$(cat "$secrets/sentinel-password")
    {
        cat "$CONFIGURATION/sentinel.conf"
        echo "dir $data"
        echo "port ${SENTINEL_PORT:-26379}"
        echo "sentinel announce-ip $SELF"
        echo "requirepass $password"
        echo "sentinel sentinel-pass $password"
        echo "sentinel monitor exchange $FIRST $port 2"
        echo "sentinel auth-user exchange sentinel"
        echo "sentinel auth-pass exchange $password"
        echo "sentinel down-after-milliseconds exchange ${DOWN_AFTER_MS:-3000}"
        echo "sentinel failover-timeout exchange 10000"
        echo "sentinel parallel-syncs exchange 1"
    } >"$data/sentinel.conf.new"
    mv "$data/sentinel.conf.new" "$data/sentinel.conf"
fi
exec redis-server "$data/sentinel.conf" --sentinel "$@"
