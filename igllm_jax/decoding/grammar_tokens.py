"""How a vocabulary's tokens move through the text, and which tokens may stand side by side.

A text has one tokenisation that the writer makes (the tokenizer's `encode`), and many others. In byte pair encoding a
sequence is the writer's exactly where each two neighbours are: merges go by priority, so the first that would cross
from one token into the next needs no third one. So the grammar asks of each pair what `encode` makes of its text.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding.grammar_calls import Event
from igllm_jax.decoding.grammar_text import END, NUMBER, TextAutomaton

_SEPARATORS = ("\n", "\x01", "数")  # what no piece of several characters holds keeps a pair apart from what is before
_CONTEXTS = ("=", "a", "0", " ")  # that make other words of a quote, a space or a digit behind them
_UNKNOWN = " ⁇ "  # what sentencepiece puts where it can't spell


def token_symbols(tokenizer: Tokenizer, *, numbers_as_tokens: bool, end_id: int) -> list[bytes | tuple[int, ...]]:
    """Token -> its symbols (see grammar_text.py), () where it may never be written."""
    vocabulary = tokenizer.vocabulary
    found: list[bytes | tuple[int, ...]] = [vocabulary.bytes_of(token) for token in range(vocabulary.size)]
    if vocabulary.unknown_id >= 0:
        found[vocabulary.unknown_id] = () if vocabulary.has_bytes else _UNKNOWN.encode()
    found[end_id] = (END,)
    if numbers_as_tokens:
        found[tokenizer.float_id] = (NUMBER,)
    return found


class Neighbours:
    """Whether the writer puts one token behind another; always where the vocabulary is not byte pair encoding.

    Where texts are split into words first, what stands before a pair decides on the words; a pair that the writer puts
    behind any of _CONTEXTS is one then.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        surfaces = [tokenizer.surface(token) for token in range(tokenizer.vocab_size)]
        # A byte that is part of a character has no text of its own.
        is_text = (_is_text(tokenizer.vocabulary.bytes_of(token)) for token in range(tokenizer.vocab_size))
        self._texts = [s if whole else "" for s, whole in zip(surfaces, is_text, strict=True)]
        free = (s for s in _SEPARATORS if not any(s in surface and len(surface) > 1 for surface in surfaces))
        separator = next(free, "")
        contexts = (separator, *_CONTEXTS) if tokenizer.vocabulary.has_words else (separator,)
        self._contexts = [(text, tokenizer.encode(text)) for text in contexts]
        self.is_known = tokenizer.vocabulary.is_merged and bool(separator)
        self._found: dict[tuple[int, int], bool] = {}

    def may_follow(self, token: int, others: np.ndarray) -> np.ndarray:
        """bool [n]: whether each of `others` may follow the token."""
        return np.array([self._is_pair(token, other) for other in others.tolist()], bool)

    def _is_pair(self, token: int, other: int) -> bool:
        key = token, other
        if key not in self._found:
            first, second = self._texts[token], self._texts[other]
            self._found[key] = not first or not second or self._is_written(first + second, [token, other])
        return self._found[key]

    def _is_written(self, text: str, pair: list[int]) -> bool:
        return any(self._tokenizer.encode(before + text) == ids + pair for before, ids in self._contexts)


def _is_text(content: bytes) -> bool:
    try:
        return bool(content.decode())
    except UnicodeDecodeError:
        return False


@dataclass(frozen=True)
class ReferenceDigits:
    """Digits of a reference within a token: value -> value * factor + term, where `is_first` from 0. before: calls of
    the function `to` that the token itself closes before."""

    to: int
    factor: int = 1
    term: int = 0
    is_first: bool = False
    before: int = 0


@dataclass(frozen=True)
class Transition:
    """What a token does: where it leads, and what happens. to: state of the automaton. events: that memories know.

    needs: characters it adds to the open word that it starts in. keeps: whether it ends in the same word. adds: what
    the count of the word's characters becomes, beyond what is kept. closed: functions of calls that it closes.
    """

    to: int
    events: tuple[Event, ...] = ()
    needs: int = 0
    keeps: bool = False
    adds: int = 0
    closed: tuple[int, ...] = ()
    references: tuple[ReferenceDigits, ...] = ()


@dataclass(frozen=True)
class Walk:
    """All tokens that a state allows: their ids [n], and for each the index of its step."""

    tokens: np.ndarray
    which: np.ndarray
    steps: list[Transition] = field(default_factory=list)


class Walker:
    """Moves all tokens at once through an automaton."""

    def __init__(self, automaton: TextAutomaton, symbols: list[bytes | tuple[int, ...]]):
        self._automaton, self._texts = automaton, symbols
        self._next, self._has_event, self._is_counted = automaton.arrays()
        lengths = np.array([len(text) for text in symbols])
        self._symbols = np.full((len(symbols), lengths.max() + 1), -1, np.int16)
        for token, text in enumerate(symbols):
            self._symbols[token, : len(text)] = list(text)
        self._by_first = [np.flatnonzero(self._symbols[:, 0] == symbol) for symbol in range(END + 1)]
        self._referred = automaton.calls.referred

    def walk(self, state: int) -> Walk:
        """Where every token leads from a state, those left out that lead nowhere."""
        first = [self._by_first[symbol] for symbol in self._automaton.next[state]]
        running = np.concatenate([np.zeros(0, int), *first])
        at = np.full(len(running), state)
        counted, has_event = np.zeros(len(running), np.int32), np.zeros(len(running), bool)
        done = []
        for node in range(self._symbols.shape[1]):
            symbol = self._symbols[running, node]
            is_over = symbol < 0
            done.append((running[is_over], at[is_over], counted[is_over], has_event[is_over]))
            goes_on = ~is_over & (self._next[at, symbol] >= 0)
            running, at, symbol, counted, has_event = (
                x[goes_on] for x in (running, at, symbol, counted, has_event)
            )  # fmt: skip
            counted, has_event = counted + self._is_counted[at, symbol], has_event | self._has_event[at, symbol]
            at = self._next[at, symbol]
        return self._walk(state, *(np.concatenate(parts) for parts in zip(*done, strict=True)))

    def _walk(self, state: int, tokens: np.ndarray, at: np.ndarray, counted: np.ndarray, has_event: np.ndarray) -> Walk:
        is_within = self._automaton.longest[state] > 0
        steps: dict[Transition, int] = {}
        which = np.full(len(tokens), -1)
        quiet = np.flatnonzero(~has_event)
        pairs, inverse = np.unique(np.stack([at[quiet], counted[quiet]]), axis=1, return_inverse=True)
        numbers = []
        for to, count in pairs.T.tolist():
            step = Transition(to, needs=count if is_within else 0, keeps=is_within, adds=count)
            fits = count <= (self._automaton.longest[to] or count)
            numbers.append(steps.setdefault(step, len(steps)) if fits else -1)
        which[quiet] = np.array(numbers, int)[inverse.ravel()] if len(quiet) else -1
        for index in np.flatnonzero(has_event).tolist():
            found = self._eventful(state, self._texts[tokens[index]])
            if found is not None:
                which[index] = steps.setdefault(found, len(steps))
        is_legal = which >= 0
        order = np.argsort(tokens[is_legal])
        return Walk(tokens[is_legal][order], which[is_legal][order], list(steps))

    def _eventful(self, state: int, text: bytes | tuple[int, ...]) -> Transition | None:
        """The step of one token, symbol by symbol; None where a word within it is too long."""
        automaton = self._automaton
        events: list[Event] = []
        closed: list[int] = []
        references: list[ReferenceDigits] = []
        keeps, needs, count = automaton.longest[state] > 0, 0, 0
        for symbol in text:
            to, event = automaton.next[state][symbol], automaton.events[state].get(symbol)
            count += int(self._is_counted[state, symbol])
            if automaton.longest[state] and count > automaton.longest[state]:
                return None
            if automaton.longest[state] and not automaton.longest[to]:
                needs, keeps, count = count if keeps else needs, False, 0
            if event is not None and event.kind == "digit":
                if event.is_first or not references:
                    before = sum(self._referred.index(f) == event.to for f in closed if f in self._referred)
                    references.append(ReferenceDigits(event.to, is_first=event.is_first, before=before))
                last = references[-1]
                references[-1] = replace(last, factor=10 * last.factor, term=10 * last.term + event.index)
            elif event is not None:
                events.append(event)
                closed += [event.to] if event.kind == "close" else []
            state = to
        needs = count if keeps else needs
        return Transition(state, tuple(events), needs, keeps, count, tuple(closed), tuple(references))
