"""A step of a running program, one call of the outermost module, and what it says of its tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from maskcli.tensors import Kind, Roled
from maskcli.tracing.calls import Torch, known_as, quietly


@dataclass(eq=False)
class Step:
    """What was said of the tokens so far, (name, tensor) by role and side.

    `two_sided` says that the model has an encoder and a decoder. `shown` are weights and masks of its first
    checked call of self-attention; `aligned` says that the labels stand beside the logits that are to predict
    them.
    """

    number: int
    two_sided: bool
    tokens: dict[tuple[str, Kind], tuple[str, Torch]] = field(default_factory=dict)
    shown: tuple[Roled, ...] = ()
    aligned: bool = False

    @property
    def batch(self) -> int | None:
        """How many samples there are."""
        counts = (
            len(tensor)
            for (role, _), (_, tensor) in self.tokens.items()
            if role in ("input_ids", "padding_mask")
        )
        return next(counts, None)

    @property
    def single(self) -> bool:
        """Whether the model is given one token a sample, as when it decodes."""
        lengths = [
            tensor.shape[-1]
            for (role, kind), (_, tensor) in self.tokens.items()
            if role == "input_ids" and kind != "encoder"
        ]
        return lengths == [1]

    def ids(self, *kinds: Kind) -> Torch | None:
        """The token ids of the first of these sides that has some."""
        known = (self.tokens["input_ids", kind][1] for kind in kinds if ("input_ids", kind) in self.tokens)
        return next(known, None)

    def side(self, kind: Kind) -> Kind:
        """The side that a name speaks of: a model with one side has no encoder to tell from it."""
        if kind == "encoder" and not self.two_sided:
            return "self"
        if kind == "self" and self.two_sided:
            return "encoder"
        return kind

    def note(self, role: str, kind: Kind, name: str, tensor: Torch) -> None:
        """Keep the first that is said of a role; a copy, since the program may use its buffers again."""
        if (role, kind) not in self.tokens:
            with quietly():
                self.tokens[role, kind] = name, tensor.detach().clone()

    def note_targets(self, target: Torch, ignored: int) -> None:
        """Labels at the loss: as many as tokens, or one fewer a sample."""
        ids = self.ids("decoder", "self")
        if ids is None or target.is_floating_point() or any(role == "labels" for role, _ in self.tokens):
            return
        batch, length = ids.shape
        with quietly():
            if target.numel() == batch * length:
                labels = target.reshape(batch, length)
            elif length > 1 and target.numel() == batch * (length - 1):
                labels = target.new_full((batch, length), ignored)
                labels[:, :-1] = target.reshape(batch, length - 1)
            else:
                return
        self.note("labels", "self", "labels", labels)
        self.aligned = True

    def roled(self, kind: Kind, padding: Torch | None) -> tuple[Roled, ...]:
        """What is said of the tokens; a module's own padding mask where nothing else tells of that side."""
        sides = ("encoder", "cross") if kind == "cross" else (kind, "self")
        said = [known_as(role, side, *named) for (role, side), named in self.tokens.items()]
        if padding is not None and not any(("padding_mask", side) in self.tokens for side in sides):
            said.append(known_as("padding_mask", kind, "key_padding_mask", padding.detach()))
        return tuple(said)
