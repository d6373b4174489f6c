"""How many threads an operation of a served network is shared among."""

from collections.abc import Mapping, Sequence

from data_pipeline import machine

_WORTH_SHARING = 1.2  # times as fast by all cores, and an operation is shared among them


def best(passes_ms: Sequence[Mapping[int, float]]) -> int | None:
    """Returns how many threads an operation of a server's models is best shared among.

    Small networks are slower by several, and requests that come together have the cores to
    themselves by one each; so it is one, unless a lone request is answered noticeably sooner by
    all.

    Args:
      passes_ms: of each model, milliseconds of a row by threads, as parity.json tells them.

    Returns:
      None if it was not measured for as many cores as there are here.
    """
    here = len(machine.cores())
    if not passes_ms or not all({1, here} <= set(one) for one in passes_ms):
        return None
    by_one, by_all = (sum(one[count] for one in passes_ms) for count in (1, here))
    return here if by_one > _WORTH_SHARING * by_all else 1
