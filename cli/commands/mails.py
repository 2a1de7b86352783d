"""`exchange mails`."""

import psycopg
import rich_click as click
from psycopg.rows import dict_row

from cli.console import console, database_away, print_json, running_settings

_SELECT = """
    SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS time, recipient, subject, body,
        sent_at IS NOT NULL AS sent, attempts, error
    FROM mails WHERE %(to)s::text IS NULL OR recipient = lower(%(to)s) ORDER BY mail_id DESC LIMIT %(count)s
"""


@click.command()
@click.option("--to", help="Only mails to this address.")
@click.option("--count", "-n", default=10, show_default=True, help="How many of the newest to show.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON: time, recipient, subject, body, sent, attempts, error.",
)
def mails(to: str | None, count: int, as_json: bool) -> None:
    """Show the mails to owners of accounts, oldest first.

    Without EXCHANGE_MAIL_HOST they are sent nowhere: this is where a developer reads them. What was sent has
    no body any more.
    """
    try:
        with psycopg.connect(running_settings().resolved_database_url(), row_factory=dict_row) as database:
            rows = database.execute(_SELECT, {"to": to, "count": count}).fetchall()[::-1]
    except psycopg.Error as error:
        raise database_away(error) from error
    if as_json:
        print_json(rows)
        return
    if not rows:
        console.print("There are no mails.")
    for mail in rows:
        state = (
            "sent"
            if mail["sent"]
            else f"not sent, {mail['attempts']} attempts"
            if mail["attempts"]
            else "kept"
        )
        console.print(
            f"[bold]{mail['subject']}[/bold]  {mail['time']} UTC, to {mail['recipient']}, {state}",
            highlight=False,
        )
        if mail["error"]:
            console.print(f"  {mail['error']}", highlight=False)
        for line in mail["body"].splitlines():
            console.print(f"  {line}", highlight=False, soft_wrap=True)
