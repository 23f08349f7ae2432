"""What a call has said so far, as one small number, and what that lets it say next.

Attributes may come in any order, so an automaton that also remembered which were said would have thousands of states.
That memory is kept beside it: the automaton of the text (grammar_text.py) names events (a call begins, an argument is
named, a word is said, the call closes), and here each event maps one memory to the next, or forbids it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.scene.kind import Settings, Spelling
from igllm_jax.scene.language import Language
from igllm_jax.scene.language_parts import Attribute, Function

MOST_MEMORIES = 1 << 15


@dataclass(frozen=True)
class Event:
    """kind: "call" (of function `index`), "argument" (number `index` of the call), "word" (which keeps the arguments of
    the bit set `index` out), "close", all three of function `to`; or "digit" (`index`, of a reference that counts
    calls of `Calls.referred[to]`; `is_first` of its digits)."""

    kind: str
    index: int = 0
    to: int = -1
    is_first: bool = False


@dataclass(frozen=True)
class Memory:
    """function: of the call that is being said, -1 between calls. said, kept_out: bit sets of its arguments.
    called: bit set of the functions called before, of those that something refers to."""

    function: int = -1
    said: int = 0
    kept_out: int = 0
    called: int = 0


@dataclass(frozen=True)
class _Rule:
    """One attribute of the code. bits: its arguments. decider_bits: the arguments of the word that decides, 0 for none.
    needs_decider: whether it may be said only where that word is said."""

    bits: int
    is_required: bool
    decider_bits: int
    needs_decider: bool

    def is_complete(self, memory: Memory) -> bool:
        is_undecided = bool(self.needs_decider and self.decider_bits) and not memory.said & self.decider_bits
        if memory.said & self.bits:
            return memory.said & self.bits == self.bits and not is_undecided
        is_unsayable = bool(memory.kept_out & self.bits) or (self.needs_decider and not memory.said & self.decider_bits)
        return is_unsayable or not self.is_required


class Calls:
    """The memories of a language's calls. is_shuffled: whether arguments may come in any order, or as written."""

    def __init__(self, language: Language, settings: Settings, *, is_shuffled: bool):
        self.language, self.settings, self.is_shuffled = language, settings, is_shuffled
        targets = {a.kind.refers_to for _, a in language.attributes() if a.kind.refers_to and a.arguments}
        self.referred = tuple(number for number, f in enumerate(language.functions) if f.name in targets)
        self._rules = [_rules(function) for function in language.functions]
        self._refers = [
            [self.target_of(spelling) for _, spelling, _ in self.arguments(number)]
            for number in range(len(language.functions))
        ]

    def arguments(self, function: int) -> list[tuple[str, Spelling, Attribute]]:
        """(keyword, spelling, attribute) of a function, in written order."""
        return [
            (key, spelling, attribute)
            for attribute in self.language.functions[function].attributes
            for key, spelling in zip(attribute.arguments, attribute.spellings(self.settings), strict=True)
        ]

    def kept_out_by(self, function: int, decider: Attribute, word: str | None) -> int:
        """Bit set of the arguments that a call with this word may not have; None: a word that no attribute names."""
        found = 0
        for bit, (_, _, attribute) in enumerate(self.arguments(function)):
            if attribute.decided_by == decider.name and not attribute.may_be_said({decider.name: word}):
                found |= 1 << bit
        return found

    def deciding_words(self, function: int, decider: Attribute) -> set[str]:
        """The words by which arguments are told apart."""
        decided = [a for a in self.language.functions[function].attributes if a.decided_by == decider.name]
        return {word for attribute in decided for word in attribute.only_for | attribute.absent_for}

    def target_of(self, spelling: Spelling) -> int:
        """Which of `referred` a reference counts, -1 for what is none."""
        if not spelling.refers_to:
            return -1
        return self.referred.index([f.name for f in self.language.functions].index(spelling.refers_to))

    def after(self, memory: Memory, event: Event) -> Memory | None:
        """The memory after an event; None where it may not happen."""
        if event.kind == "digit":
            return memory
        if event.kind == "call":
            return replace(memory, function=event.index) if memory.function < 0 else None
        if memory.function < 0 or memory.function != event.to:
            return None
        if event.kind == "argument":
            bit, target = 1 << event.index, self._refers[memory.function][event.index]
            is_late = memory.said >= bit if not self.is_shuffled else bool(memory.said & bit)
            if is_late or memory.kept_out & bit or (target >= 0 and not memory.called >> target & 1):
                return None
            return replace(memory, said=memory.said | bit)
        if event.kind == "word":
            return None if memory.said & event.index else replace(memory, kept_out=memory.kept_out | event.index)
        if not all(rule.is_complete(memory) for rule in self._rules[memory.function]):
            return None
        is_referred = memory.function in self.referred
        called = memory.called | (1 << self.referred.index(memory.function) if is_referred else 0)
        return Memory(called=called)

    def memories(self, events: Iterable[Event]) -> dict[Memory, int]:
        """Every memory that these events can lead to, numbered; that of the start is 0.

        Raises: UserError where there are too many for a table.
        """
        by_function: dict[int, set[Event]] = {}
        for event in events:
            by_function.setdefault(event.to if event.kind in ("argument", "word", "close") else -1, set()).add(event)
        found, waiting = {Memory(): 0}, [Memory()]
        while waiting:
            memory = waiting.pop()
            for event in by_function.get(memory.function, ()):
                after = self.after(memory, event)
                if after is not None and after not in found:
                    found[after] = len(found)
                    waiting.append(after)
            if len(found) > MOST_MEMORIES:
                name = self.language.functions[max(memory.function, 0)].name
                raise UserError(
                    f"language {self.language.name}: a grammar can't hold the ways to say the arguments of {name} "
                    f"(more than {MOST_MEMORIES}); leave some out, or make them one vector"
                )
        return found

    def moves(self, memories: dict[Memory, int], event: Event) -> np.ndarray:
        """int32 [M]: the number of the memory after an event, -1 where it may not happen."""
        after = (self.after(memory, event) for memory in memories)
        return np.array([-1 if found is None else memories.get(found, -1) for found in after], np.int32)


def _rules(function: Function) -> list[_Rule]:
    bits, shift = {}, 0
    for attribute in function.attributes:
        bits[attribute.name] = ((1 << len(attribute.arguments)) - 1) << shift
        shift += len(attribute.arguments)
    return [
        _Rule(bits[a.name], a.is_required, bits.get(a.decided_by, 0), bool(a.decided_by and a.only_for))
        for a in function.attributes
        if a.arguments
    ]
