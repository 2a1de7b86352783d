"""`exchange why`."""

import msgspec
import rich_click as click

from cli.console import console, print_json, running_settings
from cli.lookup import looking_back, replay_bar
from history.order_story import Story, client_order_stories, order_story
from history.past import time_text


@click.command()
@click.option("--order", "order_id", type=click.IntRange(min=1), help="The order's number.")
@click.option("--client-order-id", help="Or the id that its owner gave it; with --account.")
@click.option("--account", "account_id", type=click.IntRange(min=1), help="The owner of the client order id.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list of stories, an object per attempt.")
def why(order_id: int | None, client_order_id: str | None, account_id: int | None, as_json: bool) -> None:
    """Tell an order's story, from the command to its end: request, holds, refusals, matches, payments.

    With its client order id, this includes refused orders. Each line names the entry of the shard's input
    that caused it, and the database's rows.
    """
    if (order_id is None) == (client_order_id is None) or (
        client_order_id is not None and account_id is None
    ):
        raise click.UsageError("Name --order, or --client-order-id with --account.")
    settings = running_settings()
    with looking_back(settings) as (past, connection), replay_bar(console, quiet=as_json) as progress:
        if order_id is not None:
            stories = [order_story(past, connection, order_id, progress)]
        else:
            stories = client_order_stories(
                past, connection, int(account_id or 0), str(client_order_id), progress
            )
    if as_json:
        print_json(msgspec.to_builtins(stories))
        return
    for story in stories:
        _show(story)


def _show(story: Story) -> None:
    name = f"order {story.order_id}" if story.order_id is not None else "an order without a number"
    console.print(
        f"{name} ({story.client_order_id!r}) of account {story.account_id} in {story.market}: "
        f"{story.status}\n",
        highlight=False,
    )
    for step in story.steps:
        console.print(f"{time_text(step.time)}  {step.text}", highlight=False, markup=False, soft_wrap=True)
        places = ", ".join([f"{step.stream} {step.stream_id}", *step.rows])
        console.print(f"{'':24}  {places}", style="dim", highlight=False, markup=False, soft_wrap=True)
    console.print()
