"""How hard the codec tests try: 10,000 examples in CI, fewer at a desk."""

import os

from hypothesis import HealthCheck, settings

fuzz = settings(
    max_examples=10_000 if os.environ.get("HEARTHLINE_CI") else 300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
