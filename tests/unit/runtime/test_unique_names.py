"""Names of processes: none is given twice, also by processes that were one."""

import multiprocessing
from multiprocessing.connection import Connection

from runtime.unique_names import UniqueNames

NAMES = UniqueNames("-")


def give(there: Connection) -> None:
    there.send([NAMES.next() for _ in range(3)])


def test_processes_that_were_one_give_others() -> None:
    given = [NAMES.next()]
    fork = multiprocessing.get_context("fork")
    for _ in range(2):
        here, there = fork.Pipe()
        child = fork.Process(target=give, args=(there,))
        child.start()
        given += here.recv()
        child.join()
    given.append(NAMES.next())
    assert len(set(given)) == 8
    assert [each.rpartition("-")[2] for each in given] == ["1", "1", "2", "3", "1", "2", "3", "2"]
