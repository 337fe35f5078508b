"""How long to wait before trying again."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits double from `first_s` to `ceiling_s`; up to the share `jitter` of a wait is chance, so that a fleet does not knock in step."""

    first_s: float = 1.0
    ceiling_s: float = 60.0
    jitter: float = 0.5

    def wait_s(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures in a row; `chance` in [0, 1).

        >>> Backoff(first_s=1, ceiling_s=8).wait_s(3, chance=0.0)
        2.0
        >>> Backoff(first_s=1, ceiling_s=8).wait_s(50, chance=0.999) <= 8
        True
        """
        full = min(self.ceiling_s, self.first_s * 2.0 ** min(failures - 1, 62))
        return full * (1.0 - self.jitter + self.jitter * chance)
