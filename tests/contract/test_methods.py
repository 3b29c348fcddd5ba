"""Every method and preset x every check x a tiny host; an expected failure is `excused` on the class, with its reason."""

import zlib
from functools import cache

import pytest

from tests.contract import checks, hosts
from tests.contract.checks import CHECKS, Case
from workbench.kernel import registry

NAMES = [(key, "") for key in registry.methods()] + [(key, preset) for key, preset in registry.aliases().values()]


@cache
def cases(key: str, preset: str) -> list[Case]:
    """The method on every family that fits it, in an order that spreads the methods over the families."""
    cls = registry.methods()[key]
    cfg = checks.tiny(cls, preset)
    first = zlib.crc32((preset or key).encode()) % len(hosts.FAMILIES)
    order = hosts.FAMILIES[first:] + hosts.FAMILIES[:first]
    return [Case(key, cls, cfg, family, preset) for family in order if checks.fits(key, cls, cfg, family)]


def generated() -> list:
    """Parameters of the one test: the first host of each method always, the second under `all_hosts`."""
    found = []
    for key, preset in NAMES:
        for number, case in enumerate(cases(key, preset)[:2]):
            for name, (_, concerns) in CHECKS.items():
                if not concerns(case):
                    continue
                marks = [pytest.mark.all_hosts] if number else []
                reason = case.cls.excused.get(name)
                if reason:
                    marks.append(pytest.mark.xfail(reason=reason, strict=True))
                found.append(pytest.param(case, name, marks=marks, id=f"{preset or key}-{case.family}-{name}"))
    return found


@pytest.mark.parametrize(("case", "name"), generated())
def test_contract(case: Case, name: str) -> None:
    """One check of one method on one host."""
    CHECKS[name][0](case)


@pytest.mark.parametrize(("key", "preset"), NAMES)
def test_fits_two_families(key: str, preset: str) -> None:
    """A method works on more than one architecture."""
    assert len(cases(key, preset)) >= 2


def test_all_families_are_used() -> None:
    """The default hosts of all methods together cover every family."""
    assert {cases(key, preset)[0].family for key, preset in NAMES} == set(hosts.FAMILIES)


@pytest.mark.parametrize("key", registry.methods())
def test_excuses_name_a_check_and_a_reason(key: str) -> None:
    """An excuse is for a check that exists, and says why."""
    for name, reason in registry.methods()[key].excused.items():
        assert name in CHECKS
        assert len(reason.split()) > 3


def test_check_method_finds_what_is_wrong() -> None:
    """The public checker passes a good class and names the check that a broken one fails."""
    from workbench.methods.low_rank.lora import LoRA

    class Broken(LoRA):
        @staticmethod
        def n_params(cfg: object, sites: list) -> int:
            return 1

    assert checks.check_method(LoRA, "lora", ["bert", "vit"]) == {}
    wrong = checks.check_method(Broken, "broken", ["llama"])
    assert {w.split(" on ")[0] for w in wrong} == {"params_match_formula", "meta_plan_equals_real", "documented"}
    assert "broken" not in registry.methods()
