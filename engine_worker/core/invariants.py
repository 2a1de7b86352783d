"""What must always be true, and how the core says so.

There are two kinds of checks, and a rule which is which:

- `raise InvariantBroken`: if the core went on, a wrong state could be published: money, holds, the numbers
  of orders and messages, or a book. The check is part of the program, also under `python -O`. The shard
  halts and publishes nothing of the batch (docs/decisions/0013-state-hash-and-halt.md).
- `assert`: what the lines above, or the one caller inside the core, have just ensured. It tells the reader
  and the type checker. Should it be wrong all the same, a check of the first kind comes before anything is
  published.

Checks beside the work are comparisons of whole numbers, O(1). `audit.check_money` asks O(assets) of every
batch, `audit.check_invariants` O(state) beside every snapshot.
"""

from protocol.violations import InvariantBroken

__all__ = ["InvariantBroken"]
