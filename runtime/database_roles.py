"""Who each process is to the database: a role of its own, with the rights that persist/grants.py gives it.

The owner of the database migrates it; its role is whatever EXCHANGE_DATABASE_URL names to commands and
migrations. The roles of services are made by `exchange migrate` where it is told their passwords, and by
whoever runs the server elsewhere.
"""

import hmac
from collections.abc import Mapping
from enum import StrEnum

from psycopg.conninfo import make_conninfo

from runtime.settings import PREFIX, Settings, SettingsError


class ServiceRole(StrEnum):
    """The roles of services, by their names in the database."""

    GATEWAY = "exchange_gateway"
    EDGE = "exchange_edge"
    PERSIST = "exchange_persist"

    @property
    def service(self) -> str:
        """What the role is called in settings and among secrets."""
        return self.removeprefix("exchange_")


def role_passwords(settings: Settings) -> dict[ServiceRole, str]:
    """Return the passwords of the roles of services, as far as these settings know them: all of an embedded
    database's.

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
    """Return the address of the database for a service.

    Where EXCHANGE_DATABASE_URL is set, it names the service's own role, unless
    EXCHANGE_DATABASE_ROLE_PASSWORDS is set, too.

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
    """Return the address of the same database for another role, in the form of libpq's keywords."""
    return make_conninfo(database_url, user=str(role), password=password)


def passwords_text(passwords: Mapping[ServiceRole, str]) -> str:
    """Return EXCHANGE_DATABASE_ROLE_PASSWORDS for these passwords."""
    return ",".join(f"{role.service}:{password}" for role, password in passwords.items())
