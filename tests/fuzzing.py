"""How hard the property tests try in CI; fewer examples at a desk."""

import os

from hypothesis import HealthCheck, settings

_CI = bool(os.environ.get("HEARTHLINE_CI"))
_PATIENT = (HealthCheck.too_slow, HealthCheck.data_too_large)

# Bytes that nobody promised anything about: arbitrary, cut, bit-flipped.
fuzz = settings(max_examples=10_000 if _CI else 300, deadline=None, suppress_health_check=_PATIENT)
# Round trips and agreements of valid values.
thorough = settings(max_examples=2_000 if _CI else 100, deadline=None, suppress_health_check=_PATIENT)
