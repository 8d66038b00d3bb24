import pytest

from cmdl_hf.registry import Registry


@pytest.fixture
def fruit():
    registry = Registry("fruit", reserved=("none",))
    registry.register("apple", 1)
    registry.register("pear", 2)
    return registry


def test_what_is_registered_is_found_in_its_order(fruit):
    assert (fruit.find("pear"), fruit["apple"], list(fruit), len(fruit)) == (2, 1, ["apple", "pear"], 2)
    assert fruit.get("plum") is None


def test_an_unknown_name_is_refused_with_those_that_are_known(fruit):
    with pytest.raises(ValueError, match=r"no fruit 'plum'; known are apple, pear, none.*--plugin"):
        fruit.find("plum")


@pytest.mark.parametrize("name", ["apple", "none"])
def test_a_name_is_taken_once(fruit, name):
    with pytest.raises(ValueError, match=rf"already a fruit '{name}' .known: apple, pear, none"):
        fruit.register(name, 3)
    assert fruit["apple"] == 1
