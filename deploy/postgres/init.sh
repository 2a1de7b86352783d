#!/bin/sh
# Runs once, when the database is made: the exchange owns a database of its own and is no superuser.
set -eu
psql --set ON_ERROR_STOP=1 --username postgres --dbname postgres --set password="$(cat /run/exchange/password)" <<'SQL'
CREATE ROLE exchange LOGIN PASSWORD :'password';
CREATE DATABASE exchange OWNER exchange;
SQL
