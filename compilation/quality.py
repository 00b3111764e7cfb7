"""The user's own metric, guarded: what it raises and what it returns is judged where it is called."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..ir.errors import ConfigError, InstarError


@dataclass(frozen=True)
class Quality:
    """Calls a metric and returns its value as a number.

    Attributes:
        metric: the user's; higher is better.
    """

    metric: Callable[[Callable[..., Any]], Any]

    def __call__(self, model: Callable[..., Any]) -> float:
        """The metric of something that is called like the model.

        Raises:
            ConfigError: the metric raised, or its value is not one finite number.
        """
        try:
            value = self.metric(model)
        except InstarError:
            raise
        except Exception as problem:
            raise ConfigError(f"quality: the metric raised {type(problem).__name__}: {problem}") from problem
        return self._number(value)

    def _number(self, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            found = f"{type(value).__name__} {value!r}"[:80]
            raise ConfigError(f"quality: expected one number, higher is better; found {found}") from None
        if not math.isfinite(number):
            raise ConfigError(f"quality: expected a finite number; found {number}; look at what the metric computes")
        return number
