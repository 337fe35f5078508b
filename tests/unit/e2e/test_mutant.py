"""Every deliberately broken build still differs from the code in the one passage it is meant to."""

import pytest

from tests.e2e.mutant import MUTANTS, mutated
from tests.e2e.platform import ROOT


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_applies(name: str) -> None:
    source = (ROOT / MUTANTS[name].file).read_text()
    assert mutated(name, source) != source
