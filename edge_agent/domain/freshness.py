"""Readings that would wait behind a backlog go to the lane `bulk`, so that `live` is short when the cloud is back. Pure."""


class Freshness:
    """Judges the lane `live` by how far it is emptied.

    It is behind once a frame has waited in it for `patience_s`, and until it is empty. `patience_s` 0: never.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._seq, self._since = 0, 0.0  # the last frame when we looked, and when that was
        self.behind = False

    def look(self, now_s: float, floor: int, next_seq: int) -> bool:
        """Whether it is behind; the lane holds [`floor`, `next_seq`), `now_s` is monotonic.

        >>> fresh = Freshness(10)
        >>> fresh.look(0, 1, 5), fresh.look(9, 1, 8), fresh.look(11, 1, 9)
        (False, False, True)
        >>> fresh.look(12, 8, 9), fresh.look(13, 9, 9)  # emptied, but for one; then empty
        (True, False)
        """
        if floor >= next_seq or not self._patience_s:
            self._seq, self.behind = 0, False
        elif not self.behind:
            if floor > self._seq:
                self._seq, self._since = next_seq - 1, now_s
            self.behind = now_s - self._since > self._patience_s
        return self.behind
