"""`exchange demo-account`."""

from functools import partial

import rich_click as click

from cli.console import CommandError, console, print_json, running_settings
from cli.rest_client import funded_account, request
from cli.verifying import verified
from client.blocking import RequestError

FUNDS = {"USDT": "100000", "BTC": "2", "ETH": "20", "SOL": "500"}


@click.command("demo-account")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: apiKey, secret.")
def demo_account(as_json: bool) -> None:
    """Make a new account with money on it, and print its API key and secret.

    It goes through the public API, as any client would: sign up, sign in, faucet, API key. Its address counts
    as verified.
    """
    settings = running_settings()
    try:
        info = request(f"{settings.rest_url()}/api/v3/exchangeInfo")
        assets = {market[name] for market in info["symbols"] for name in ("baseAsset", "quoteAsset")}
        funds = {asset: amount for asset, amount in FUNDS.items() if asset in assets}
        account = funded_account(settings.rest_url(), funds, "demo", partial(verified, settings))
    except RequestError as error:
        raise CommandError(str(error)) from error
    if as_json:
        print_json({"apiKey": account.api_key, "secret": account.secret})
        return
    console.print(f"API key  {account.api_key}\nsecret   {account.secret}", highlight=False, soft_wrap=True)
    amounts = ", ".join(f"{amount} {asset}" for asset, amount in funds.items())
    console.print(f"It has {amounts}. The secret is shown only now.", highlight=False)
