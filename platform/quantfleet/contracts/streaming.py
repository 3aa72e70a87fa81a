"""The streaming contract: a network that carries state from bar to bar, so that a new bar costs one step.

Shapes: N streams, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["StreamingNetwork"]


@runtime_checkable
class StreamingNetwork(Protocol):
    """What a torch network offers beside its forward pass over windows.

    What a stream answers at bar t is what the network would answer for all bars since the stream began, in one pass, with attention
    (and means over scales) reaching back as many bars as the model's window has, and recurrent memories all the way. So:

    - up to bar L, the answers are those for a window that begins where the stream began; at bar L exactly, those of the model for
      its full window;
    - beyond bar L, a stream knows more than a window, whose recurrent memory begins empty L bars ago. It does not answer what the
      window would, and is not less right for it; how far apart they are is for a backtest to say.

    State is made of tensors and never changed in place. A stream is not trained through.
    """

    def check_streams(self) -> None:
        """Raises: ConfigError: this network's settings bind its answers to places in a window."""
        ...

    def begin(self, like_NF: Tensor) -> Any:
        """State before the first bar of N streams; `like_NF` gives number, device and precision."""
        ...

    def step(self, x_NF: Tensor, state: Any) -> tuple[dict[str, Tensor], Any]:
        """One bar of every stream: heads as `forward` gives them, and the state after it."""
        ...
