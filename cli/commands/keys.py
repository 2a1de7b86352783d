"""`exchange keys`."""

import psycopg
import rich_click as click

from adapters.secret_box import SecretBox, master_key, secret_box
from cli.console import CommandError, console, plain_table, print_json, running_settings
from cli.operating import operating, rotate_key
from cli.resealing import reseal
from protocol.configuration import OperatorKey, Role
from runtime.key_files import decoded_key, encoded_key
from runtime.settings import SettingsError

_ROLES = [role.name.lower() for role in Role]


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list of name, role, publicKey, shards.")
@click.pass_context
def keys(context: click.Context, as_json: bool) -> None:
    """Show the keys whose signatures the shards accept.

    Configuration, freezes, deposits and withdrawals are commands signed with a private key. The public keys
    are part of each shard's state, and change only by a command signed with an operator's key.
    """
    if context.invoked_subcommand is not None:
        return
    with operating() as operator:
        shards_of: dict[OperatorKey, list[int]] = {}
        for shard, config in operator.configs.items():
            for key in config.keys:
                shards_of.setdefault(key, []).append(shard)
    rows = [
        {
            "name": key.name,
            "role": key.role.name.lower(),
            "publicKey": encoded_key(key.public_key),
            "shards": shards,
        }
        for key, shards in shards_of.items()
    ]
    if as_json:
        print_json(rows)
        return
    table = plain_table("name", "role", "public key", "shards")
    for row in rows:
        table.add_row(
            str(row["name"]), str(row["role"]), str(row["publicKey"]), ", ".join(map(str, row["shards"]))
        )
    console.print(table)


@keys.command()
@click.argument("role", type=click.Choice(_ROLES))
@click.option(
    "--public-key", help="The new public key, in base64url. Without: make a new pair in the data folder."
)
@click.option("--keep", is_flag=True, help="Let the old keys of the role count until they are revoked.")
def rotate(role: str, public_key: str | None, keep: bool) -> None:
    """Give the shards a new key of a role, and revoke the old ones.

    First every shard adds the new key, then its private key replaces the old one in the data folder, then the
    old ones are revoked; repeat the command if it is interrupted. With a public key of your own, give its
    private key to the processes that need it (EXCHANGE_OPERATOR_KEY, EXCHANGE_TREASURY_KEY,
    EXCHANGE_FAUCET_KEY) before the old one is revoked. Gateways read the faucet's key at their start, so use
    --keep, restart them, and revoke then.
    """
    settings, chosen = running_settings(), Role[role.upper()]
    if public_key is None and getattr(settings, f"{role}_key"):
        raise CommandError(
            f"The settings name the {role}'s key, so a new one cannot be made here; give --public-key."
        )
    if public_key is not None and chosen is Role.OPERATOR and not keep:
        raise CommandError(
            "Use --keep: the old key signs until EXCHANGE_OPERATOR_KEY is the new one; revoke it then."
        )
    public = None if public_key is None else decoded_key(public_key, "--public-key")
    with operating() as operator:
        name = rotate_key(operator, chosen, public, keep=keep)
    console.print(f"The shards take {name} now{'' if keep else ', and no other key of the role'}.")


@keys.command("reseal")
def reseal_secrets() -> None:
    """Encrypt the secrets in the database again, with the current master key.

    Needs the previous key, as EXCHANGE_MASTER_KEY_PREVIOUS or as `master.previous.key` in the data folder,
    and the database as its owner. It may be interrupted and repeated, and runs beside an exchange that
    trades. docs/how-to/rotate-secrets.md describes the steps before and after.
    """
    settings = running_settings()
    try:
        with psycopg.connect(settings.resolved_database_url(), autocommit=True) as connection:
            done = reseal(connection, SecretBox(master_key(settings)), secret_box(settings))
    except (psycopg.Error, SettingsError) as error:
        raise CommandError(
            f"The secrets were not all sealed anew; repeat it: {str(error).strip()}"
        ) from error
    console.print(f"{done.resealed} secrets were sealed anew, {done.kept} were already.")
    if done.unreadable:
        raise CommandError(
            (
                "Neither the master key nor the one of before opens these; keep both keys, and look for the "
                "one that does: "
            )
            + ", ".join(done.unreadable)
        )


@keys.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Let a key count no more. The last key of an operator cannot be revoked."""
    with operating() as operator:
        if not any(key.name == name for config in operator.configs.values() for key in config.keys):
            raise CommandError(f"No shard has a key {name}; `exchange keys` shows them.")
        operator.change_keys(lambda current: tuple(key for key in current if key.name != name))
    console.print(f"{name} is revoked")
