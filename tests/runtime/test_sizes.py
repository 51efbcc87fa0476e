"""Sizes as a person reads them."""

import pytest

from ft.runtime.sizes import memory_size


@pytest.mark.parametrize(
    ("num_bytes", "said"),
    [
        (0, "0"),
        (37, "37 B"),
        (2048, "2.0 KiB"),
        (31.25 * 2**20, "31.2 MiB"),
        (0.1 * 2**30, "0.1 GiB"),
        (4.9 * 2**30, "4.9 GiB"),
        (1843.2 * 2**30, "1,843.2 GiB"),
    ],
)
def test_a_size_is_said_in_a_unit_that_fits(num_bytes, said):
    assert memory_size(num_bytes) == said
