"""`exchange rotate-password`."""

import os
import secrets

import psycopg
import rich_click as click
from psycopg import sql

from cli.console import CommandError, console, own_settings
from cli.local.embedded import password_draft
from cli.needed_servers import servers_of_stopped


@click.command()
def rotate_password() -> None:
    """Change the password of the servers that `exchange up` starts; the exchange must be stopped.

    Redis and PostgreSQL share a password, which is in the data folder; those of the database's roles are
    derived from it. No other change is needed: processes read it when they start.
    """
    settings = own_settings()
    if settings.database_url or settings.redis_url:
        raise CommandError(
            "This is for the servers that `exchange up` starts; see docs/how-to/rotate-secrets.md for others."
        )
    draft = password_draft(settings)
    password = secrets.token_hex(24)
    with servers_of_stopped(settings, lambda text: console.print(f"{text} …", highlight=False)):
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(password)
            file.flush()
            os.fsync(descriptor)
        try:
            with psycopg.connect(settings.resolved_database_url(), autocommit=True) as connection:
                verifier = connection.pgconn.encrypt_password(
                    password.encode(), b"exchange", b"scram-sha-256"
                ).decode()
                connection.execute(sql.SQL("ALTER ROLE exchange PASSWORD {}").format(sql.Literal(verifier)))
        except psycopg.Error as error:
            raise CommandError(f"The password was not changed: {str(error).strip()}") from error
    # After the servers have ended: until then they are asked with the password that they know.
    draft.replace(settings.password_file)
    console.print("The password was changed; `exchange up` uses it from now on.")
