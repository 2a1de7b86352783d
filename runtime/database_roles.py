"""The database role of each process, with the rights that persist/grants.py grants.

The owner of the database migrates it; its role is the one in the EXCHANGE_DATABASE_URL of commands and
migrations. `exchange migrate` creates the roles of services if it has their passwords; otherwise the operator
of the database server creates them.
"""

import hmac
from collections.abc import Mapping
from enum import StrEnum

from psycopg.conninfo import make_conninfo

from runtime.settings import PREFIX, Settings, SettingsError


class ServiceRole(StrEnum):
    """The roles of services, with their names in the database."""

    GATEWAY = "exchange_gateway"
    EDGE = "exchange_edge"
    PERSIST = "exchange_persist"

    @property
    def service(self) -> str:
        """The name of the role in settings and secrets."""
        return self.removeprefix("exchange_")


def role_passwords(settings: Settings) -> dict[ServiceRole, str]:
    """Return the known passwords of the roles of services; for an embedded database, all of them.

    Raises:
        SettingsError: EXCHANGE_DATABASE_ROLE_PASSWORDS is not `service:password,…`, or the embedded database
            has no password yet.
    """
    if not settings.database_url:
        owner = settings.password()
        return {
            role: hmac.digest(owner.encode(), f"database {role}".encode(), "sha256").hex()
            for role in ServiceRole
        }
    passwords: dict[ServiceRole, str] = {}
    services = {role.service: role for role in ServiceRole}
    for text in filter(None, settings.database_role_passwords.split(",")):
        service, _, password = text.strip().partition(":")
        if service not in services or not password:
            raise SettingsError(
                f"{PREFIX}DATABASE_ROLE_PASSWORDS: must be service:password, separated by commas; services "
                f"are {', '.join(services)}"
            )
        passwords[services[service]] = password
    return passwords


def database_url_of(settings: Settings, role: ServiceRole) -> str:
    """Return the URL of the database for a service.

    EXCHANGE_DATABASE_URL, if set, names the service's own role, unless EXCHANGE_DATABASE_ROLE_PASSWORDS is
    set, too.

    Raises:
        SettingsError: as for `role_passwords`.
    """
    password = role_passwords(settings).get(role)
    return (
        settings.resolved_database_url()
        if password is None
        else url_as(settings.resolved_database_url(), role, password)
    )


def url_as(database_url: str, role: ServiceRole, password: str) -> str:
    """Return the address of the same database for another role, as libpq keywords."""
    return make_conninfo(database_url, user=str(role), password=password)


def passwords_text(passwords: Mapping[ServiceRole, str]) -> str:
    """Return EXCHANGE_DATABASE_ROLE_PASSWORDS for these passwords."""
    return ",".join(f"{role.service}:{password}" for role, password in passwords.items())
