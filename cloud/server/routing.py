"""Which version of a model answers a request that names none: shares, canaries, bandits.

A key of the request decides, by a keyed hash, so that one key gets one version on every server and after every
restart. Shares are weighted rendezvous hashing (Schindelhauer and Schomaker, *Weighted distributed hash tables*,
SPAA 2005): a key moves from one version to another only where the other's share has grown against the first one's.
A bandit draws instead, and learns from rewards (Thompson, *On the likelihood that one unknown probability exceeds
another*, Biometrika 1933).
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from edge_sdk.errors import InputError

__all__ = ["MOST_REMEMBERED", "Arm", "Route", "Router", "Routing", "share_of", "version_order"]

MOST_REMEMBERED = 64
"""So many counts and arms of a model are kept when versions come and go; those of versions that are there always."""
_MOST_TOLD = 65_536  # decisions whose second reward is known as such: who tells again does so soon

Route = Literal["primary", "canary", "split", "bandit", "fallback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How the requests for a model are shared out among its versions.

    One of ``primary``, ``split`` and ``bandit`` is given.

    Attributes
    ----------
    primary
        The version that answers.
    canary, percent
        Another one, that answers so many percent of the requests in place of the primary one.
    split
        Versions and their shares, in any unit.
    bandit, floor, seed
        Versions among which rewards decide, the percent of requests that each of them gets at least, and the
        seed of what is drawn; None is another one at every start.
    shadow, mirror
        A version that is sent so many percent of the requests as well; its answers are compared, never returned.
    salt
        Key of the hash; empty is the model's name.
    """

    primary: str = ""
    canary: str = ""
    percent: float = 0.0
    split: Mapping[str, float] = field(default_factory=dict)
    bandit: tuple[str, ...] = ()
    floor: float = 5.0
    seed: int | None = None
    shadow: str = ""
    mirror: float = 100.0
    salt: str = ""

    def __post_init__(self) -> None:
        for name in ("primary", "canary", "shadow", "salt"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f'routing: {name} is {getattr(self, name)!r}; it should be text, such as "3"')
        for name in ("percent", "floor", "mirror"):
            if not _is_number(getattr(self, name)) or not 0 <= getattr(self, name) <= 100:
                raise InputError(f"routing: {name} is {getattr(self, name)!r}; it should be from 0 to 100")
        if self.seed is not None and (not isinstance(self.seed, int) or isinstance(self.seed, bool)):
            raise InputError(f"routing: seed is {self.seed!r}; it should be a whole number")
        if not isinstance(self.bandit, tuple) or not all(isinstance(one, str) and one for one in self.bandit):
            raise InputError(f"routing: bandit is {self.bandit!r}; it should be a list of versions")
        self._check_split()
        if sum(map(bool, (self.primary, self.split, self.bandit))) != 1:
            raise InputError("routing: give one of primary, split and bandit")
        if self.percent and not self.canary:
            raise InputError("routing: percent is of a canary; give both, or none")
        if self.canary and (not self.primary or self.canary == self.primary):
            raise InputError("routing: a canary stands beside another version, the primary one")
        if len(set(self.bandit)) != len(self.bandit) or (self.bandit and self.floor * len(self.bandit) > 100):
            raise InputError(
                "routing: a bandit's versions are each named once, and their floors are 100 together at most"
            )
        if self.shadow and self.shadow in self.weights:
            raise InputError(f"routing: version {self.shadow} cannot answer and be the shadow")

    def _check_split(self) -> None:
        shares = self.split
        if not isinstance(shares, Mapping) or not all(
            isinstance(version, str) and version and _is_number(share) and 0 <= share < math.inf
            for version, share in shares.items()
        ):
            raise InputError(
                f'routing: split is {shares!r}; it should be shares by version, such as {{"3" = 90, "4" = 10}}'
            )
        if shares and not 0 < sum(shares.values()) < math.inf:
            raise InputError("routing: the shares of split add up to nothing that can be shared")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the record of a table in a configuration file.

        Raises
        ------
        InputError
            Something in it is unknown or out of range.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"routing is {values!r}; it should be a table")
        known = [one.name for one in fields(cls)]
        for name in values:
            if name not in known:
                raise InputError(f"routing: there is no setting {name!r}; there are {', '.join(known)}")
        given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**given)

    @property
    def weights(self) -> dict[str, float]:
        """The versions that may answer, and their shares; a bandit's begin with equal ones."""
        if self.split:
            return dict(self.split)
        if self.bandit:
            return dict.fromkeys(self.bandit, 1.0)
        if self.canary:
            return {self.primary: 100 - self.percent, self.canary: self.percent}
        return {self.primary: 100.0}

    @property
    def versions(self) -> tuple[str, ...]:
        """All versions that it names: the primary one, or that of the largest share, first, and the shadow last."""
        weights = self.weights
        order = sorted(weights, key=lambda version: (version != self.primary, -weights[version]))
        return (*order, *([self.shadow] if self.shadow else []))


@dataclass(slots=True)
class Arm:
    """What a bandit knows of a version.

    Attributes
    ----------
    chosen
        Answers that it was chosen to give: items of requests.
    rewards
        Rewards that were told.
    reward
        Their sum.
    """

    chosen: int = 0
    rewards: int = 0
    reward: float = 0.0

    def __add__(self, other: Arm) -> Arm:
        return Arm(self.chosen + other.chosen, self.rewards + other.rewards, self.reward + other.reward)

    def draw(self, generator: random.Random) -> float:
        """Return a mean reward that may be, from the posterior Beta(1 + reward, 1 + what it lacked)."""
        return generator.betavariate(1 + self.reward, 1 + self.rewards - self.reward)


class Router:
    """Chooses versions of one model, counts, and learns; not for several threads at a time.

    Parameters
    ----------
    model
        Name of the model.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.counts: Counter[tuple[str, Route]] = Counter()
        self.arms: dict[tuple[str, str], Arm] = {}  # by version and digest: another model begins anew
        self.others: dict[tuple[str, str], Arm] = {}  # what other processes of the server know beside
        self._told: dict[bytes | str, None] = {}  # decisions that were rewarded, the oldest first
        self._generator: random.Random | None = None
        self._keys = random.Random()

    def choose(self, routing: Routing, ready: Mapping[str, str], key: str) -> str:
        """Return the version that answers a request.

        Parameters
        ----------
        routing
            How requests are shared out.
        ready
            Digests of the versions that can answer, by version, ascending; at least one. The shares of others go to
            those that are there.
        key
            What the request is assigned by; where it is empty, by chance.
        """
        weights = {version: share for version, share in routing.weights.items() if version in ready and share > 0}
        route: Route
        if not weights:
            others = [version for version in ready if version != routing.shadow]
            version, route = (others or list(ready))[-1], "fallback"
        elif routing.bandit:
            version, route = self._draw(routing, {version: ready[version] for version in weights}), "bandit"
        else:
            version = _rendezvous(self._salt(routing), key or self._any_key(), weights)
            route = "split" if routing.split else "canary" if version == routing.canary else "primary"
        if (version, route) not in self.counts:
            _make_room(self.counts, lambda key: key[0] in ready)
        self.counts[version, route] += 1
        return version

    def is_mirrored(self, routing: Routing, key: str) -> bool:
        """Tell whether the shadow is sent a request, too; that does not hang on which version answers."""
        if routing.mirror in (0, 100):
            return routing.mirror == 100
        return share_of(f"{self._salt(routing)} shadow", key or self._any_key()) * 100 < routing.mirror

    def reward(
        self, routing: Routing | None, ready: Mapping[str, str], version: str, reward: object, decision: str = ""
    ) -> None:
        """Learn how good an answer was.

        Parameters
        ----------
        routing, ready
            As for `choose`.
        version
            Which gave it.
        reward
            From 0 to 1.
        decision
            Which answer it is for; another reward for it is passed over. Empty is another one each time.

        Raises
        ------
        InputError
            The model has no bandit, the version is none of its, the reward is out of range, or it is one more than
            there were answers.
        """
        if routing is None or version not in routing.bandit:
            named = ", ".join(routing.bandit) if routing is not None and routing.bandit else "none"
            raise InputError(f"version {version[:40]!r} of model {self.model} learns from no rewards; {named} do")
        if not _is_number(reward) or not 0 <= reward <= 1:  # type: ignore[operator]
            raise InputError("reward is a number from 0 to 1")
        if _told(decision) in self._told:
            return
        key = (version, ready.get(version, ""))
        arm = self._known(key)
        if arm.rewards >= arm.chosen:
            raise InputError(f"version {version} was rewarded for all its answers already")
        arm = self.arms.setdefault(key, Arm())
        arm.rewards += 1
        arm.reward += float(reward)  # type: ignore[arg-type]
        self._remember(decision)

    def learn(self, others: Mapping[tuple[str, str], Arm], decision: str = "") -> None:
        """Take over what other processes of the server know, and which answer was rewarded there."""
        self.others = dict(others)
        self._remember(decision)

    def _known(self, key: tuple[str, str]) -> Arm:
        return self.arms.get(key, Arm()) + self.others.get(key, Arm())

    def _remember(self, decision: str) -> None:
        if decision:
            self._told[_told(decision)] = None
            if len(self._told) > _MOST_TOLD:
                del self._told[next(iter(self._told))]

    def _draw(self, routing: Routing, ready: Mapping[str, str]) -> str:
        if self._generator is None:
            self._generator = random.Random(routing.seed)
        generator, versions = self._generator, list(ready)
        for key in ready.items():
            if key not in self.arms:
                _make_room(self.arms, lambda arm: ready.get(arm[0]) == arm[1])
                self.arms[key] = Arm()
        arms = [self.arms[key] for key in ready.items()]
        if generator.random() * 100 < routing.floor * len(arms):
            index = generator.randrange(len(arms))
        else:
            draws = [self._known(key).draw(generator) for key in ready.items()]
            index = draws.index(max(draws))
        arms[index].chosen += 1
        return versions[index]

    def _salt(self, routing: Routing) -> str:
        return routing.salt or self.model

    def _any_key(self) -> str:
        return f"{self._keys.getrandbits(64):x}"


def _make_room(known: dict[tuple[str, Any], Any], is_there: Callable[[tuple[str, Any]], bool]) -> None:
    """Forget the oldest entry of what is no longer there, where too many are remembered."""
    if len(known) >= MOST_REMEMBERED and (gone := next((key for key in known if not is_there(key)), None)):
        del known[gone]


def _told(decision: str) -> bytes | str:
    return decision and hashlib.blake2b(decision.encode(errors="surrogatepass"), digest_size=16).digest()


def share_of(salt: str, text: str) -> float:
    """Return where a keyed hash puts a text between 0 and 1, both excluded."""
    hashed = _keyed(salt).copy()
    hashed.update(text.encode(errors="surrogatepass"))
    return ((int.from_bytes(hashed.digest(), "little") >> 12) + 0.5) * 2.0**-52


@functools.lru_cache(256)
def _keyed(salt: str) -> Any:
    key = hashlib.blake2b(salt.encode(errors="surrogatepass")).digest()
    return hashlib.blake2b(key=key, digest_size=8)


def version_order(version: str) -> tuple[tuple[int, ...], str]:
    """Return what orders versions: by their numbers."""
    return tuple(int(number) for number in re.findall(r"\d{1,9}", version)), version


def _rendezvous(salt: str, key: str, weights: Mapping[str, float]) -> str:
    if len(weights) == 1:
        return next(iter(weights))
    return min(weights, key=lambda version: (-math.log(share_of(f"{salt} {version}", key)) / weights[version], version))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
