"""How hard the property tests try: few examples at a desk, more in CI, as many as `make fuzz` asks for."""

import os

from hypothesis import HealthCheck, settings

_EXAMPLES = int(os.environ.get("HEARTHLINE_EXAMPLES") or (2_500 if os.environ.get("HEARTHLINE_CI") else 300))
_PATIENT = (HealthCheck.too_slow, HealthCheck.data_too_large)

# Bytes that nobody promised anything about: arbitrary, cut, bit-flipped.
fuzz = settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=_PATIENT)
# Round trips and agreements of valid values.
thorough = settings(max_examples=max(_EXAMPLES // 4, 100), deadline=None, suppress_health_check=_PATIENT)
