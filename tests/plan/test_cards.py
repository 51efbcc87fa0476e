import pytest

from ft.plan import CARDS, card_of, find_card
from ft.runtime import UserError


@pytest.mark.parametrize("name", ["a100-40gb", "A100 40GB", "NVIDIA A100-40GB", "a100_40gb"])
def test_a_card_is_found_however_it_is_written(name):
    assert find_card(name).name == "a100-40gb"


def test_a_family_with_one_member_needs_no_size():
    assert find_card("h200").name == "h200"


def test_a_name_that_several_begin_with_lists_them():
    with pytest.raises(UserError, match="h100-pcie, h100-80gb"):
        find_card("h100")


def test_a_wrong_name_lists_near_ones():
    with pytest.raises(UserError) as failure:
        find_card("a100-48gb")
    assert failure.value.problems[0].fix == "one of a100-40gb, a100-80gb"
    with pytest.raises(UserError, match="rtx-4090"):
        find_card("rtx-4080")


def test_a_name_like_no_other_lists_all():
    with pytest.raises(UserError) as failure:
        find_card("abacus")
    assert all(card.name in failure.value.problems[0].fix for card in CARDS)


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA L4", "l4"),
        ("Tesla T4", "t4"),
        ("NVIDIA L40S", "l40s"),
    ],
)
def test_drivers_names_are_known(driver, name):
    assert card_of(driver).name == name


def test_an_unknown_driver_name_is_nobody():
    assert card_of("AMD EPYC, 2 cores") is None
