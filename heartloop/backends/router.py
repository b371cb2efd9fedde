"""Which replica gets a call: the one that has its prompt in the prefix cache, unless its queue costs more.

Pure policy: no I/O, no clock. The caller (:mod:`heartloop.backends.replicas`, or a simulation) says how long
each replica's queue is, and what was sent where; the router remembers prefixes.

The rule. Among the replicas that are up, let A be the one that holds the longest prefix of this
conversation, and B the one with the shorter queue of two drawn at random (the power of two choices:
Mitzenmacher, IEEE TPDS 12(10), 2001; unlike "the shortest of all" it doesn't send a herd of clients to one
replica that looked idle a moment ago). The call goes to A, unless A's queue is longer than B's by more than
A's cache saves and the call takes: moved, it should be through before it would have begun::

    queue(A) - queue(B) > (cached(A) - cached(B)) / prompt_per_generated + work(call)

Without the last term, conversations flutter between replicas that are all but equally busy, and pay for their
prefix each time. All of it is work, in tokens that a replica generates in a full batch, and
``prompt_per_generated`` tokens of uncached prompt take it as long as one generated token. In seconds it would
be the same comparison, each side divided by the same speed; so no speed has to be known or learned, only
how prefill and decoding compare.

Prefixes are compared message by message, since a conversation grows that way: each message has a rolling
hash of all up to it. What is in a replica's cache is a guess from what was sent there, kept as long as it
is likely to be: least recently used first out, at most ``cache_tokens`` tokens of it.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from heartloop.types import Message

__all__ = ["Conversation", "PrefixRouter", "ReplicaState", "Router"]

_BYTES_PER_TOKEN = 4.0
_MESSAGE_TOKENS = 4
_IMAGE_TOKENS = 1000
_ENTRIES = 65_536


@dataclass(slots=True)
class ReplicaState:
    """What the router is told about a replica.

    Attributes:
        up: whether it may be chosen.
        in_flight: calls of ours that it has not answered.
        queue: work that is there and not done, in generated tokens (see the module).
    """

    up: bool = True
    in_flight: int = 0
    queue: float = 0.0


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of a request as the router sees them.

    Attributes:
        hashes: rolling, one for each message: equal for equal beginnings.
        tokens: estimates, one for each message.
    """

    hashes: tuple[int, ...]
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, messages: Sequence[Message], bytes_per_token: float = _BYTES_PER_TOKEN) -> Conversation:
        return cls((), ()).extended(messages, bytes_per_token)

    def extended(
        self, messages: Sequence[Message], bytes_per_token: float = _BYTES_PER_TOKEN
    ) -> Conversation:
        """With ``messages`` behind it."""
        hashes, tokens = list(self.hashes), list(self.tokens)
        rolling = hashes[-1] if hashes else 0
        for message in messages:
            content = message.content
            if isinstance(content, str):
                # str caches its hash, so a long conversation costs the hashing of its new messages.
                rolling = hash((rolling, message.role, content))
                size = len(content)
                estimate = size / bytes_per_token
            else:
                rolling = hash((rolling, message.role, repr(content)))
                texts = [str(part["text"]) for part in content if part.get("type") == "text"]
                images = len(content) - len(texts)
                estimate = sum(map(len, texts)) / bytes_per_token + images * _IMAGE_TOKENS
            hashes.append(rolling)
            tokens.append(_MESSAGE_TOKENS + int(estimate))
        return Conversation(tuple(hashes), tuple(tokens))

    @property
    def prompt_tokens(self) -> int:
        """Of the whole prompt, as estimated."""
        return sum(self.tokens)


class Router(Protocol):
    """What a policy is; :class:`PrefixRouter` documents it."""

    prompt_per_generated: float

    def choose(
        self,
        conversation: Conversation,
        states: Sequence[ReplicaState],
        *,
        work: float = 0.0,
        avoid: int | None = None,
    ) -> int: ...

    def cached_tokens(self, conversation: Conversation, index: int) -> int: ...

    def remember(self, conversation: Conversation, index: int) -> None: ...

    def forget(self, index: int) -> None: ...

    def set_cache_tokens(self, index: int, tokens: int | None) -> None: ...


class PrefixRouter:
    """See the module. Deterministic for a seed and a sequence of calls.

    Args:
        replicas: how many there are.
        prompt_per_generated: see the module. 3.4 was measured with vLLM on a CPU; on GPUs it is of that order
            in full batches, and larger in small ones.
        cache_tokens: what one replica's prefix cache holds; None for no other limit than ``entries``.
        entries: messages remembered for each replica (about 150 bytes each).
        seed: of the random choices.
    """

    def __init__(
        self,
        replicas: int,
        *,
        prompt_per_generated: float = 4.0,
        cache_tokens: int | None = None,
        entries: int = _ENTRIES,
        seed: int = 0,
    ) -> None:
        if replicas < 1:
            raise ValueError(f"a router needs at least one replica, not {replicas}")
        if not prompt_per_generated > 0:
            raise ValueError(f"prompt_per_generated must be positive, not {prompt_per_generated}")
        self.prompt_per_generated = prompt_per_generated
        self._caches = [_Prefixes(entries, cache_tokens) for _ in range(replicas)]
        self._random = random.Random(seed)

    def choose(
        self,
        conversation: Conversation,
        states: Sequence[ReplicaState],
        *,
        work: float = 0.0,
        avoid: int | None = None,
    ) -> int:
        """The index of the replica to send it to.

        Args:
            states: one for each replica.
            work: tokens that the call is expected to generate.
            avoid: a replica not to take while another is up (it has just failed this very call).

        Raises:
            ValueError: none is up.
        """
        up = [index for index, state in enumerate(states) if state.up]
        if not up:
            raise ValueError("no replica is up")
        if avoid is not None and len(up) > 1 and avoid in up:
            up.remove(avoid)
        if len(up) == 1:
            return up[0]
        pair = up if len(up) == 2 else self._random.sample(up, 2)
        first, second = pair if self._random.random() < 0.5 else reversed(pair)
        other = second if states[second].queue < states[first].queue else first
        cached = {index: self.cached_tokens(conversation, index) for index in up}
        best = max(up, key=lambda index: (cached[index], -states[index].queue))
        if cached[best] <= cached[other]:
            return other
        saved = (cached[best] - cached[other]) / self.prompt_per_generated
        longer = states[best].queue - states[other].queue
        return other if longer > saved + work else best

    def cached_tokens(self, conversation: Conversation, index: int) -> int:
        """How many of the conversation's prompt tokens replica ``index`` probably has in its cache."""
        return self._caches[index].longest(conversation)

    def remember(self, conversation: Conversation, index: int) -> None:
        """``conversation`` was computed at replica ``index``, as a prompt or as a prompt with its answer."""
        self._caches[index].add(conversation)

    def forget(self, index: int) -> None:
        """Replica ``index`` was restarted, or may have been: its cache is empty."""
        self._caches[index].clear()

    def set_cache_tokens(self, index: int, tokens: int | None) -> None:
        """What replica ``index`` can hold, where it says so."""
        self._caches[index].capacity = tokens


class _Prefixes:
    """What one replica has in its cache: hash of a conversation's beginning to its last message's tokens."""

    def __init__(self, entries: int, capacity: int | None) -> None:
        self.capacity = capacity
        self._entries = entries
        self._tokens = 0
        self._known: OrderedDict[int, int] = OrderedDict()

    def longest(self, conversation: Conversation) -> int:
        known = self._known
        total = 0
        for hashed, tokens in zip(conversation.hashes, conversation.tokens, strict=True):
            if hashed not in known:
                break
            total += tokens
        return total

    def add(self, conversation: Conversation) -> None:
        known = self._known
        # Ends before beginnings: as in vLLM, a beginning that others share is evicted last.
        for hashed, tokens in zip(reversed(conversation.hashes), reversed(conversation.tokens), strict=True):
            old = known.pop(hashed, 0)
            known[hashed] = tokens
            self._tokens += tokens - old
        while known and (
            len(known) > self._entries or (self.capacity is not None and self._tokens > self.capacity)
        ):
            self._tokens -= known.popitem(last=False)[1]

    def clear(self) -> None:
        self._known.clear()
        self._tokens = 0
