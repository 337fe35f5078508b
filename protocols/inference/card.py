"""What a model file says about itself: the card that lies inside the ONNX file, written by training and read by serving."""

from typing import Final, Literal, Self

import msgspec

from protocols.errors import Reason, Refused

CARD_KEY: Final = "hearthline.card"  # the metadata property of the ONNX file that holds it
INPUT: Final = "window"  # float64 [window_rows, machines, signals]: rows first, as the rings hold them
OUTPUTS: Final = ("score", "q", "t2", "contribution")  # float64 [machines] three times, [machines, signals]
MOST_SIGNALS: Final = 64
MOST_ROWS: Final = 1_024


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One anomaly model. A score above `threshold` is an anomaly; the limits it was scaled with are `q_limit` and `t2_limit`."""

    format: Literal[1] = 1
    kind: Literal["anomaly.pca"] = "anomaly.pca"
    name: str
    signals: tuple[str, ...]  # property identifiers, in the order of the input's last axis
    window_rows: int
    row_ms: int  # what usually lies between two rows
    max_gap_ms: int  # rows further apart are not of one window
    threshold: float = 1.0
    false_alarm_rate: float  # asked for, of single windows
    held_out_false_alarm_rate: float  # seen on windows that the limits, but not the components, were made from
    components: int
    explained_variance: float  # the part of the variance that the components hold, 0 to 1
    q_limit: float
    t2_limit: float
    fitted_rows: int
    fitted_windows: int
    held_out_windows: int
    fitted_from_ms: int
    fitted_to_ms: int
    data_sha256: str
    made_by: str

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a card; raises Refused(BAD_MODEL)."""
        try:
            card = msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Refused(Reason.BAD_MODEL, f"the model's card cannot be read: {error}; train the model again") from error
        if not 1 <= len(card.signals) <= MOST_SIGNALS or len(set(card.signals)) != len(card.signals):
            raise Refused(Reason.BAD_MODEL, f"a model takes 1 to {MOST_SIGNALS} different signals, this one names {len(card.signals)}")
        if not 1 <= card.window_rows <= MOST_ROWS or card.max_gap_ms < 1 or not card.threshold > 0:
            raise Refused(Reason.BAD_MODEL, "the model's card gives an impossible window, gap or threshold; train the model again")
        return card

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)
