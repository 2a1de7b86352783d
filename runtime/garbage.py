"""What garbage collections cost a process that others wait for."""

import gc


def keep_what_there_is() -> None:
    """Leave what the process is made of out of all further collections.

    It stays as long as the process does. To look through it for garbage took a tenth of a second of
    everybody's time, now and then.
    """
    gc.collect()
    gc.freeze()
