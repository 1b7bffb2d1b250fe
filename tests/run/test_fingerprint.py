"""What keeps a run from going on with what another left."""

from qdqcli.run.fingerprint import difference, fingerprint_of
from qdqcli.run.pipeline import Measuring


def test_a_journal_of_another_order_of_addition_is_refused() -> None:
    now = fingerprint_of([], [], {}, Measuring())
    assert difference(now, now) is None
    assert difference({**now, "form": 1}, now) == "its statistics were added in another order"
    assert difference({**now, "form": 1, "version": "0"}, now) is not None
