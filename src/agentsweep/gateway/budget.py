"""What one run may spend: answers of the model, and money.

A request reserves what it may cost at most before it is sent, and is counted by what came of it.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from agentsweep.gateway.messages_api import Usage

_MILLION = 1_000_000
# No request or answer has more tokens; a larger number would not fit into a float.
_MOST_TOKENS = 1_000_000_000
# How many requests of a run with max_cost_usd are answered at once. What one costs is an estimate
# until its answer is there, so that so many answers are what an estimate can be wrong by.
AT_ONCE = 4


# What a request reserves that does not say how long its answer may get.
_UNSAID_TOKENS = 32_000


class OverBudget(Exception):
    """A request that the run may not make any more; the message is one sentence."""


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
            _tokens(usage.input_tokens) * self.input
            + _tokens(usage.output_tokens) * self.output
            + _tokens(usage.cache_read_input_tokens) * self.cache_read
            + _tokens(usage.cache_creation_input_tokens) * self.cache_write
        ) / _MILLION

    def at_most(self, input_tokens: int, output_tokens: int) -> float:
        """What a request costs at most in USD; whether its input is cached is not known before."""
        dearest = max(self.input, self.cache_read, self.cache_write)
        return (_tokens(input_tokens) * dearest + _tokens(output_tokens) * self.output) / _MILLION


@dataclass(eq=False)
class Reservation:
    """One request that was let through: `usd` is what it may cost at most."""

    usd: float


class Budget:
    """Lets requests through and counts what came of them.

    max_turns: how many answers the model may give, to whichever conversation. max_cost_usd: what
    they may cost. A request waits while those under way may use up what is left, and is refused
    once it is used up. Only the last answer of a run can pass max_cost_usd: one that is alone is
    sent as long as something is left, whatever it may cost at most.
    """

    def __init__(self, max_turns: int | None, max_cost_usd: float | None, price: Price | None):
        self.max_turns, self.max_cost_usd, self.price = max_turns, max_cost_usd, price
        self.turns = 0
        self.refused: str | None = None
        self._counted_usd = 0.0
        self._under_way: set[Reservation] = set()
        self._settled = asyncio.Event()

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
    def cost_usd(self) -> float | None:
        """What was spent, None without a price. An answer that is under way counts with what it
        may cost at most: at the end of a run nobody but a client that left waits for it."""
        if self.price is None:
            return None
        # A copy, because another thread may ask.
        return self._counted_usd + sum(held.usd for held in tuple(self._under_way))

    async def reserve(self, input_tokens: int, output_tokens: int | None) -> Reservation:
        """Let a request with at most so many tokens through; it has to be settled.

        Waits while it depends on the answers under way. Raises OverBudget.
        """
        if output_tokens is None:
            output_tokens = _UNSAID_TOKENS
        usd = self.price.at_most(input_tokens, output_tokens) if self.price is not None else 0.0
        while True:
            if (used_up := self._used_up()) is not None:
                self.refused = used_up
                raise OverBudget(used_up)
            if self._fits(usd):
                break
            self._settled.clear()
            await self._settled.wait()
        held = Reservation(usd)
        self._under_way.add(held)
        return held

    def settle(self, held: Reservation, usage: Usage, *, is_turn: bool, is_known: bool) -> None:
        """Count what came of a request. is_known is false where its answer was not read to the
        end: then it counts with what it may have cost at most."""
        self._under_way.remove(held)
        self.turns += is_turn
        if self.price is not None:
            usd = self.price.of(usage)
            self._counted_usd += usd if is_known else max(usd, held.usd)
        self._settled.set()

    def _used_up(self) -> str | None:
        """Why no request may be made any more."""
        if self.max_cost_usd is not None and self._counted_usd >= self.max_cost_usd:
            return (
                f"the run has cost {self._counted_usd:.4f} USD, and agent.max_cost_usd is "
                f"{self.max_cost_usd:g}"
            )
        if self.max_turns is not None and self.turns >= self.max_turns:
            return f"the run has had its {self.max_turns} turns (agent.max_turns)"
        return None

    def _fits(self, usd: float) -> bool:
        """Whether a request may be sent beside those under way, even if all of them cost most."""
        if self.max_turns is not None and self.turns + len(self._under_way) >= self.max_turns:
            return False
        if self.max_cost_usd is None or not self._under_way:
            return True
        if not self.turns:
            # Before the first answer nothing is known of the costs but the estimate.
            return False
        reserved = self._counted_usd + sum(other.usd for other in self._under_way)
        return len(self._under_way) < AT_ONCE and reserved + usd <= self.max_cost_usd


def _tokens(number: int) -> int:
    return min(max(number, 0), _MOST_TOKENS)
