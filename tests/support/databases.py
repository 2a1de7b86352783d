"""The roles of a test's PostgreSQL, and its URL for each."""

from typing import Final

from runtime.database_roles import ServiceRole, url_as

ROLE_PASSWORDS: Final = {role: f"of-{role}" for role in ServiceRole}
"""Of the services' roles in the databases of tests."""


def service_url(database_url: str, role: ServiceRole) -> str:
    """Return the URL of a test's database for a service."""
    return url_as(database_url, role, ROLE_PASSWORDS[role])


def as_persist(database_url: str) -> str:
    """Return the URL of a test's database for the persistence."""
    return service_url(database_url, ServiceRole.PERSIST)
