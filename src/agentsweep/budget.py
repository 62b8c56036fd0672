"""What one run may spend: turns of its main conversation, and money."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentsweep.messages_api import MessagesRequest, Usage

_MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """What a model costs, in USD for a million tokens of each kind."""

    input: float
    output: float
    cache_read: float
    cache_write: float

    def of(self, usage: Usage) -> float:
        """The cost of one answer in USD."""
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_read_input_tokens * self.cache_read
            + usage.cache_creation_input_tokens * self.cache_write
        ) / _MILLION


class Budget:
    """Counts what was answered and says when no more may be.

    max_cost_usd holds for all of a run's conversations, max_turns for its main one. What an answer
    will cost is not known before: the run ends with the first request after the limit is passed,
    so that the answers that were under way then are paid for still.
    """

    def __init__(self, max_turns: int | None, max_cost_usd: float | None, price: Price | None):
        self.max_turns, self.max_cost_usd, self.price = max_turns, max_cost_usd, price
        self.turns = 0
        self.cost_usd: float | None = None if price is None else 0.0
        self.refused: str | None = None

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Budget":
        """From `{max_turns, max_cost_usd, price}`, each of which may be missing or None."""
        price = settings.get("price")
        return cls(
            settings.get("max_turns"),
            settings.get("max_cost_usd"),
            Price(**price) if price is not None else None,
        )

    @property
    def is_spent(self) -> bool:
        """Whether a limit is reached, so that a request may be refused."""
        return self._cost_is_spent or self._turns_are_spent

    def refusal(self, read: Callable[[], MessagesRequest]) -> str | None:
        """Why a request for a message is refused, or None where it is within the limits.

        `read` gives what it asks for; asked only where that decides.
        """
        if self._cost_is_spent:
            self.refused = (
                f"the run has cost {self.cost_usd:.4f} USD, and agent.max_cost_usd is "
                f"{self.max_cost_usd:g}"
            )
            return self.refused
        if self._turns_are_spent and read().is_of_main:
            self.refused = f"the run has had its {self.max_turns} turns (agent.max_turns)"
            return self.refused
        return None

    @property
    def _cost_is_spent(self) -> bool:
        return None not in (self.max_cost_usd, self.cost_usd) and self.cost_usd >= self.max_cost_usd

    @property
    def _turns_are_spent(self) -> bool:
        return self.max_turns is not None and self.turns >= self.max_turns

    def count(self, usage: Usage, is_main_turn: bool) -> None:
        """Count one answer; is_main_turn for one that came whole, in the main conversation."""
        self.turns += is_main_turn
        if self.price is not None:
            self.cost_usd += self.price.of(usage)
