"""Each service has a role in the database that may do what the service does, and nothing else."""

import ast
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import psycopg
import pytest

from functions import repositories
from functions.api.function import Function
from functions.api.ports import Ports
from functions.catalog import FUNCTIONS
from persist.grants import GRANTS, columns_of, grant_rights, provide_roles, roles_there
from persist.migrate import RoleLogins, RolesMissingError, migrate
from persist.rows import FILLS, LEDGER_ENTRIES, ORDERS, PREVENTED_MATCHES, TRADES, TRANSFERS
from runtime.database_roles import ServiceRole, url_as
from tests.support.databases import ROLE_PASSWORDS, service_url
from tests.support.own_servers import OwnPostgres
from tests.support.sql_statements import statements_of
from ws_edge.websocket_api import FUNCTIONS as EDGE_FUNCTIONS

TABLES = (
    "ledger_entries",
    "orders",
    "fills",
    "trades",
    "transfers",
    "candles",
    "ingest",
    "archive",
    "log_segments",
)
ROLES = (ServiceRole.GATEWAY, ServiceRole.EDGE)
BY_PATH = {f"{each.method} {each.path}": each for each in FUNCTIONS}
ACCOUNTS = ("users", "sessions", "activity", "recovery_codes", "mail_tokens", "mails")


def connected(database_url: str, role: ServiceRole) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(service_url(database_url, role), autocommit=True)


def test_every_relation_is_in_the_table_of_rights(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        columns = columns_of(connection)
    there = columns.keys()
    for relation, rights in GRANTS.items():
        named = {right.column for each in rights.values() for right in each if right.column}
        assert named <= columns.get(relation, named), relation
    assert there - GRANTS.keys() == set()
    assert (
        GRANTS.keys() - there - {"candles"} == set()
    )  # where TimescaleDB makes candles, there is no table of them


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("table", TABLES)
def test_who_serves_clients_cannot_change_what_was_traded(
    database_url: str, role: ServiceRole, table: str
) -> None:
    with psycopg.connect(database_url) as owner:
        (column,) = owner.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1", (table,)
        ).fetchone() or ("",)
    with connected(database_url, role) as connection:
        for statement in (
            f"INSERT INTO {table} DEFAULT VALUES",
            f"UPDATE {table} SET {column} = {column}",
            f"DELETE FROM {table}",
            f"TRUNCATE {table}",
            f"DROP TABLE {table}",
            f"ALTER TABLE {table} ADD COLUMN more text",
            f"CREATE TRIGGER more BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change()",
            f"CREATE INDEX ON {table} ({column})",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


@pytest.mark.parametrize("role", ServiceRole)
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more (x int)",
        "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA more",
        "DROP TABLE ledger_entries",
        "UPDATE ledger_entries SET amount = 1",
        "DELETE FROM ledger_entries",
        "TRUNCATE ledger_entries",
        "DROP TRIGGER activity_stays ON activity",
        "ALTER TABLE activity DISABLE TRIGGER ALL",
        "UPDATE users SET email = 'thief@example.com'",
        "UPDATE users SET account_id = 1",
        "UPDATE api_keys SET account_id = 1",
        "UPDATE api_keys SET secret = ''",
        "UPDATE api_keys SET scopes = '{withdraw}'",
        "UPDATE sessions SET account_id = 1",
        "INSERT INTO schema_migrations VALUES ('x', 1, 'plain', 'x')",
        "COPY users TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
        "ALTER ROLE exchange_gateway SUPERUSER",
    ],
)
def test_nobody_but_the_owner_may(database_url: str, role: ServiceRole, statement: str) -> None:
    with connected(database_url, role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


@pytest.mark.parametrize("table", ACCOUNTS)
def test_an_edge_and_persistence_see_no_accounts(database_url: str, table: str) -> None:
    for role in (ServiceRole.EDGE, ServiceRole.PERSIST):
        if (role, table) != (ServiceRole.PERSIST, "mails"):
            with (
                connected(database_url, role) as connection,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                connection.execute(f"SELECT * FROM {table}".encode())


def test_whoever_writes_a_mail_cannot_read_its_token(database_url: str) -> None:
    with connected(database_url, ServiceRole.GATEWAY) as connection:
        connection.execute("SELECT subject FROM mails")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT body FROM mails")


def as_plain(statement: str) -> str:
    """Return a statement of psycopg's with the server's own parameters."""
    names: dict[str, int] = {}
    text = re.sub(
        r"%\((\w+)\)[sb]", lambda found: f"${names.setdefault(found[1], len(names) + 1)}", statement
    )
    numbers = iter(range(len(names) + 1, 100))
    return re.sub(r"%[sb]", lambda _: f"${next(numbers)}", text).replace("%%", "%")


def refused(
    connection: psycopg.Connection[tuple[object, ...]], statements: list[tuple[str, str]]
) -> tuple[list[str], int]:
    """Return which statements the role is refused, and how many could be looked at; none is run."""
    refusals, looked_at = [], 0
    for module, statement in statements:
        try:
            connection.execute(f"EXPLAIN (GENERIC_PLAN) {as_plain(statement)}".encode())
        except psycopg.errors.InsufficientPrivilege as error:
            refusals.append(f"{module}: {error.diag.message_primary}: {' '.join(statement.split())}")
        except psycopg.ProgrammingError:
            # a part of a statement, or one about a temporary table: run as the role by the tests of its
            # module
            continue
        looked_at += 1
    return refusals, looked_at


def test_a_gateway_may_all_that_functions_say(database_url: str) -> None:
    with connected(database_url, ServiceRole.GATEWAY) as connection:
        refusals, looked_at = refused(connection, list(statements_of("functions", "adapters")))
    assert refusals == []
    assert looked_at >= 30


def modules_of(functions: dict[str, Function]) -> dict[str, ast.Module]:
    """Return the sources of these functions' handlers, and of the modules of the package that they import."""
    package = Path(str(resources.files("functions"))).parent
    left = {function.handle.__module__ for function in functions.values()}
    found: dict[str, ast.Module] = {}
    while left:
        module = left.pop()
        file = package.joinpath(*module.split(".")).with_suffix(".py")
        if not file.is_file():  # a name in a module, or a package, which has none
            continue
        found[module] = ast.parse(file.read_text("utf-8"))
        for node in ast.walk(found[module]):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("functions."):
                left |= {
                    str(node.module),
                    *(f"{node.module}.{each.name}" for each in node.names),
                } - found.keys()
    return found


def repositories_of(sources: Iterable[ast.Module]) -> set[str]:
    """Return the repositories that modules reach through `ports`."""
    names = {file.stem for file in Path(str(resources.files(repositories))).glob("[a-z]*.py")}
    assert names <= set(Ports._fields)
    return names & {
        node.attr
        for source in sources
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ports"
    }


def test_an_edge_may_all_that_its_functions_say(database_url: str) -> None:
    modules = modules_of(EDGE_FUNCTIONS)
    assert "functions.orders.get_all_orders" in modules
    used, all_there = repositories_of(modules.values()), repositories_of(modules_of(BY_PATH).values())
    assert used == {"ingestion", "trades", "candles", "orders"}
    assert all_there > used | {"users", "api_keys", "ledger"}
    unused = frozenset(f"adapters.{name}" for name in all_there - used)
    with connected(database_url, ServiceRole.EDGE) as connection:
        refusals, looked_at = refused(connection, list(statements_of("functions", "adapters", but=unused)))
        others, _ = refused(connection, [each for each in statements_of("adapters") if each[0] in unused])
    assert refusals == []
    assert looked_at >= 8
    assert others, "the control: statements of other functions are refused"


def test_persistence_may_all_that_it_says(database_url: str) -> None:
    modules = {
        f"persist.{name}"
        for name in ("archive", "archived", "ingest", "lost_tail_comparison", "mails", "retention", "slots")
    }
    statements = [each for each in statements_of("persist") if each[0] in modules]
    assert {module for module, _ in statements} == modules
    with connected(database_url, ServiceRole.PERSIST) as connection:
        refusals, looked_at = refused(connection, statements)
        for table in (TRADES, FILLS, LEDGER_ENTRIES, ORDERS, TRANSFERS, PREVENTED_MATCHES):
            with connection.cursor().copy(f"COPY {table.name} FROM STDIN".encode()):
                pass
    assert refusals == []
    assert looked_at >= 15


def test_a_missing_right_is_seen_by_these_tests(database_url: str) -> None:
    """The control: without the right, the statement of the function is refused."""
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("REVOKE SELECT ON fills FROM exchange_gateway")
        with connected(database_url, ServiceRole.GATEWAY) as connection:
            refusals, _ = refused(connection, list(statements_of("functions", "adapters")))
        assert [each.partition(":")[0] for each in refusals] == ["adapters.orders"]


def test_rights_are_brought_in_line(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("GRANT ALL ON ledger_entries, users TO exchange_gateway")
        owner.execute("GRANT UPDATE (email) ON users TO exchange_gateway")
        owner.execute("REVOKE ALL ON orders FROM exchange_gateway")
        owner.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        owner.execute("CREATE TABLE unlisted (x int)")
        owner.execute("GRANT SELECT ON unlisted TO exchange_edge")
        grant_rights(owner)
        with connected(database_url, ServiceRole.GATEWAY) as gateway:
            gateway.execute("SELECT FROM orders")
            gateway.execute("UPDATE users SET totp_step = 0")
            for statement in (
                "DELETE FROM ledger_entries",
                "UPDATE users SET email = ''",
                "CREATE TABLE more (x int)",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    gateway.execute(statement.encode())
        with (
            connected(database_url, ServiceRole.EDGE) as edge,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            edge.execute("SELECT FROM unlisted")


def test_a_release_that_drops_a_right_and_adds_a_table_is_followed(database_url: str) -> None:
    """What `migrate` does at each start: nothing where nothing differs, all of it where something does."""
    with psycopg.connect(database_url, autocommit=True) as owner:
        acl = (
            "SELECT relname, relacl::text, xmin::text FROM pg_class WHERE relnamespace = "
            "'public'::regnamespace ORDER BY 1"
        )
        before = owner.execute(acl).fetchall()
        migrate(database_url)
        assert owner.execute(acl).fetchall() == before
        owner.execute("REVOKE ALL ON orders FROM exchange_persist")
        migrate(database_url)
        assert [row[:2] for row in owner.execute(acl).fetchall()] == [row[:2] for row in before]


def test_an_owner_that_is_no_superuser_gives_rights_and_somebody_else_makes_roles(
    own_postgres: OwnPostgres,
) -> None:
    own_postgres.start()
    base = own_postgres.url.rpartition("/")[0]
    with psycopg.connect(own_postgres.url, autocommit=True) as superuser:
        superuser.execute("CREATE ROLE someone LOGIN PASSWORD 'someone'")
        superuser.execute("CREATE DATABASE other OWNER someone")
    admin_url = f"{base}/other"
    owner_url = f"postgresql://someone:someone@{base.partition('@')[2]}/other"
    with pytest.raises(RolesMissingError, match="exchange_gateway, exchange_edge, exchange_persist"):
        migrate(owner_url, logins=RoleLogins(are_required=True))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        migrate(owner_url, logins=RoleLogins(ROLE_PASSWORDS))
    told: list[str] = []
    migrate(owner_url, tell=told.append)
    assert any("exchange_gateway" in each for each in told)
    migrate(owner_url, logins=RoleLogins(ROLE_PASSWORDS, admin_url, are_required=True))
    for role in ServiceRole:
        with connected(owner_url, role) as connection:
            connection.execute("SELECT FROM schema_migrations")
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        connected(owner_url, ServiceRole.EDGE) as connection,
    ):
        connection.execute("SELECT FROM users")
    # Rotation: the new passwords count, the owner's too, and the old ones no more.
    migrate(owner_url.replace(":someone@", ":another@"), logins=RoleLogins(ROLE_PASSWORDS, admin_url))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(owner_url)
    owner_url = owner_url.replace(":someone@", ":another@")
    migrate(owner_url, logins=RoleLogins({ServiceRole.EDGE: "new"}, admin_url))
    with psycopg.connect(url_as(owner_url, ServiceRole.EDGE, "new")) as connection:
        connection.execute("SELECT FROM schema_migrations")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connected(owner_url, ServiceRole.EDGE)


def test_a_role_that_became_mighty_is_made_ordinary(own_postgres: OwnPostgres) -> None:
    own_postgres.start()
    with psycopg.connect(own_postgres.url, autocommit=True) as superuser:
        superuser.execute("CREATE ROLE exchange_gateway SUPERUSER CREATEROLE CREATEDB")
        provide_roles(superuser, ROLE_PASSWORDS)
        assert roles_there(superuser) == sorted(ServiceRole)
        rows = superuser.execute(
            "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname LIKE 'exchange_%'"
        )
        assert set(rows) == {(False,)}
        stored = superuser.execute(
            "SELECT rolpassword FROM pg_authid WHERE rolname = 'exchange_gateway'"
        ).fetchone()
        assert stored is not None
        assert stored[0].startswith("SCRAM-SHA-256$")
