"""The rights of each service in the database.

`migrate` makes the database's rights equal to this table after every migration.

Further rights of a role are revoked, so a relation that is not listed here belongs to the owner alone. Only
the owner may define, alter, truncate or drop anything. Tests compare the table with the existing relations,
and run every statement of functions and services as its role.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import psycopg
import structlog
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from protocol.intervals import INTERVALS
from runtime.database_roles import ServiceRole

_log = structlog.get_logger()


class Right(NamedTuple):
    """A privilege on a relation, or on one of its columns."""

    privilege: str
    column: str = ""


Rights = tuple[Right, ...]


def _whole(*privileges: str) -> Rights:
    return tuple(map(Right, privileges))


def _columns(privilege: str, *columns: str) -> Rights:
    return tuple(Right(privilege, column) for column in columns)


READ: Final = _whole("SELECT")
ADD: Final = _whole("SELECT", "INSERT")
WRITE: Final = _whole("SELECT", "INSERT", "UPDATE")
WRITE_AND_DELETE: Final = _whole("SELECT", "INSERT", "UPDATE", "DELETE")

_GATEWAY, _EDGE, _PERSIST = ServiceRole.GATEWAY, ServiceRole.EDGE, ServiceRole.PERSIST
_HISTORY: Final = {_GATEWAY: READ, _EDGE: READ, _PERSIST: WRITE_AND_DELETE}
_STORED: Final = {_PERSIST: WRITE_AND_DELETE}
_CANDLE_VIEW: Final = {_GATEWAY: READ, _EDGE: READ, _PERSIST: READ}

GRANTS: Final[Mapping[str, Mapping[ServiceRole, Rights]]] = MappingProxyType(
    {
        "schema_migrations": {_GATEWAY: READ, _EDGE: READ, _PERSIST: READ},
        "schema_backfills": {_GATEWAY: READ, _PERSIST: WRITE},
        # The trading history: written from the log only.
        "orders": _HISTORY,
        "trades": _HISTORY,
        "fills": _HISTORY,
        "prevented_matches": _HISTORY,
        "candles": {_PERSIST: WRITE_AND_DELETE},
        **{f"candles_{interval}": _CANDLE_VIEW for interval in INTERVALS},
        # Append-only.
        "ledger_entries": {_GATEWAY: READ, _PERSIST: ADD},
        "transfers": {_GATEWAY: READ, _PERSIST: WRITE},
        "ingest": {_GATEWAY: READ, _EDGE: READ, _PERSIST: WRITE},
        "ingest_markets": {_PERSIST: WRITE},
        # `exchange audit` counts them; on Kubernetes it runs where a gateway does.
        "dead_events": {_GATEWAY: _columns("SELECT", "shard"), **_STORED},
        "archive": {_PERSIST: WRITE},
        "log_segments": _STORED,
        "shard_snapshots": _STORED,
        # Written by `exchange restore`.
        "losses": {_PERSIST: READ},
        "lost_trades": {_PERSIST: READ},
        # Accounts. A key's account, secret and scopes, a user's number and address never change.
        "users": {
            _GATEWAY: ADD
            + _columns("UPDATE", "password_hash", "verified_at", "totp_secret", "totp_since", "totp_step"),
        },
        "api_keys": {
            _GATEWAY: ADD + _columns("UPDATE", "revoked_at", "last_used_at"),
            _EDGE: READ + _columns("UPDATE", "last_used_at"),
        },
        "sessions": {_GATEWAY: ADD + _columns("UPDATE", "ended_at")},
        "activity": {_GATEWAY: ADD},
        "recovery_codes": {_GATEWAY: _whole("SELECT", "INSERT", "DELETE") + _columns("UPDATE", "used_at")},
        "mail_tokens": {_GATEWAY: ADD + _columns("UPDATE", "used_at")},
        # Their bodies contain tokens: the role that writes them need not read them.
        "mails": {
            _GATEWAY: _whole("INSERT") + _columns("SELECT", "account_id", "subject", "created_at"),
            _PERSIST: READ + _columns("UPDATE", "sent_at", "body", "error", "attempts", "next_try_at"),
        },
    }
)

_COLUMNS: Final = """
SELECT class.relname, array_agg(attribute.attname::text) FROM pg_class AS class
JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid AND attribute.attnum > 0
    AND NOT attribute.attisdropped
WHERE class.relnamespace = 'public'::regnamespace AND class.relkind IN ('r', 'p', 'v', 'm', 'f') GROUP BY 1
"""
_PRESENT: Final = """
SELECT class.relname, acl.privilege_type, '' FROM pg_class AS class CROSS
    JOIN LATERAL aclexplode(class.relacl) AS acl
WHERE class.relnamespace = 'public'::regnamespace AND class.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND acl.grantee = %(role)s::regrole
UNION ALL
SELECT class.relname, acl.privilege_type, attribute.attname FROM pg_class AS class
JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid CROSS
    JOIN LATERAL aclexplode(attribute.attacl) AS acl
WHERE class.relnamespace = 'public'::regnamespace AND class.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND acl.grantee = %(role)s::regrole
"""


def columns_of(connection: psycopg.Connection[Any]) -> dict[str, set[str]]:
    """Return the columns of each table and view of the exchange."""
    return {relation: set(columns) for relation, columns in connection.execute(_COLUMNS)}


def roles_there(connection: psycopg.Connection[Any]) -> list[ServiceRole]:
    """Return the roles of services that exist on the server."""
    rows = connection.execute(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(ServiceRole),)
    ).fetchall()
    return sorted(ServiceRole(name) for (name,) in rows)


def provide_roles(connection: psycopg.Connection[Any], passwords: Mapping[ServiceRole, str]) -> None:
    """Create the missing roles, and give all of them these passwords.

    The server never sees a password in plain text.

    Raises:
        psycopg.errors.InsufficientPrivilege: the connection's role may not.
    """
    there = roles_there(connection)
    for role, password in passwords.items():
        verb = "ALTER" if role in there else "CREATE"
        connection.execute(
            sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}").format(
                sql.SQL(verb), sql.Identifier(role), sql.Literal(_verifier(connection, role, password))
            )
        )


def provide_owner(connection: psycopg.Connection[Any], owner_url: str) -> None:
    """Give the owner of the database the password that its address has.

    Raises:
        psycopg.errors.InsufficientPrivilege: the connection's role may not.
    """
    address = conninfo_to_dict(owner_url)
    owner, password = address.get("user"), address.get("password")
    if owner and password:
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                sql.Identifier(str(owner)), sql.Literal(_verifier(connection, str(owner), str(password)))
            )
        )


def _verifier(connection: psycopg.Connection[Any], role: str, password: str) -> str:
    return connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()


def grant_rights(connection: psycopg.Connection[Any]) -> None:
    """Give the existing roles the rights of the table, and revoke all others; as the owner.

    The change is atomic, and nothing is changed where nothing differs.
    """
    with connection.transaction():
        # Servers with data from before PostgreSQL 15 let everybody define tables.
        if connection.execute(
            "SELECT EXISTS (SELECT FROM pg_namespace, aclexplode(nspacl) AS acl WHERE nspname = 'public' AND "
            "acl.grantee = 0 AND acl.privilege_type = 'CREATE')"
        ).fetchone() == (True,):
            connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        for role in roles_there(connection):
            _let_in(connection, role)
            _align(connection, role)


def _let_in(connection: psycopg.Connection[Any], role: ServiceRole) -> None:
    """Let a role connect to the database, also where the server refuses it by default."""
    row = connection.execute(
        "SELECT current_database(), has_schema_privilege(%(role)s, 'public', 'USAGE'), "
        "has_database_privilege(%(role)s, current_database(), 'CONNECT') "
        "AND has_database_privilege(%(role)s, current_database(), 'TEMPORARY')",
        {"role": str(role)},
    ).fetchone()
    assert row is not None
    database, uses_schema, uses_database = row
    if not uses_schema:
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(sql.Identifier(role)))
    if not uses_database:
        connection.execute(
            sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(
                sql.Identifier(database), sql.Identifier(role)
            )
        )


def _align(connection: psycopg.Connection[Any], role: ServiceRole) -> None:
    present = {
        (relation, Right(privilege, column))
        for relation, privilege, column in connection.execute(_PRESENT, {"role": str(role)})
    }
    wanted = {
        (relation, right)
        for relation, columns in columns_of(connection).items()
        for right in GRANTS.get(relation, {}).get(role, ())
        if not right.column or right.column in columns
    }
    # Revoking a privilege on a relation also revokes it on its columns, so that comes first.
    for relation, right in sorted(present - wanted, key=lambda grant: grant[1].column):
        connection.execute(_statement("REVOKE {} ON {} FROM {}", relation, right, role))
    for relation, right in sorted(wanted - _present_after(present, wanted)):
        connection.execute(_statement("GRANT {} ON {} TO {}", relation, right, role))
    if present != wanted:
        _log.info(
            "rights brought in line",
            role=str(role),
            granted=len(wanted - present),
            revoked=len(present - wanted),
        )


def _present_after(present: set[tuple[str, Right]], wanted: set[tuple[str, Right]]) -> set[tuple[str, Right]]:
    """Return the rest of `present` after everything not `wanted` was revoked."""
    gone = {(relation, right.privilege) for relation, right in present - wanted if not right.column}
    return {
        (relation, right) for relation, right in present & wanted if (relation, right.privilege) not in gone
    }


def _statement(form: str, relation: str, right: Right, role: ServiceRole) -> sql.Composed:
    privilege = sql.SQL(right.privilege)
    if right.column:
        privilege = sql.SQL("{} ({})").format(privilege, sql.Identifier(right.column))  # type: ignore[assignment]
    return sql.SQL(form).format(privilege, sql.Identifier(relation), sql.Identifier(role))


def let_maintain(connection: psycopg.Connection[Any], owner: str) -> None:
    """Make the role of persist a member of the owner, as TimescaleDB's maintenance requires.

    TimescaleDB lets only the owner drop chunks or refresh continuous aggregates. Restrictions that persist
    has in a plain database do not apply there.
    """
    role = ServiceRole.PERSIST
    if role not in roles_there(connection):
        return
    is_member = connection.execute("SELECT pg_has_role(%s, %s, 'MEMBER')", (str(role), owner)).fetchone()
    if is_member == (True,):
        return
    try:
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(owner), sql.Identifier(role)))
    except psycopg.Error as error:
        _log.warning(
            "a superuser must make the role of persist a member of the owner: it refreshes candles and drops "
            "old history",
            statement=f"GRANT {owner} TO {role}",
            reason=str(error).strip(),
        )
