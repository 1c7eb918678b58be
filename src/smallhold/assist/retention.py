"""How long a profile wants records to be kept."""

from __future__ import annotations

from smallhold.assist.policy import Profile
from smallhold.assist.profile import split_obligation
from smallhold.errors import PolicyError


def retain_days(profile: Profile) -> int:
    """The longest retention that any rule of the profile asks for, in days: nothing is erased before.

    Raises:
        PolicyError: no rule says anything about retention.
    """
    told = [split_obligation(text) for outcome in profile.outcomes for text in outcome.obligations]
    days = [int(str(value)) for name, value in told if name == "retain_days"]
    if not days:
        raise PolicyError(
            f"profile {profile.name} says nothing about retention: expected an obligation retain_days=N",
            hint="use a profile that does, for example eu",
        )
    return max(days)
