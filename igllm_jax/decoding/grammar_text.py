"""The text of a language's answers as an automaton over bytes, with what happens on the way (grammar_calls.Event).

Text is bytes of UTF-8; two symbols stand for what is no text: the float token and the end token.
"""

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import numpy as np

from igllm_jax.decoding.grammar_calls import Calls, Event
from igllm_jax.errors import UserError
from igllm_jax.scene.kind import LARGEST_INTEGER, NumberFormat, Spelling
from igllm_jax.scene.kinds import is_sayable
from igllm_jax.scene.language_parts import Attribute
from igllm_jax.scene.reading import FLOAT_TOKEN

NUMBER, END, NUM_SYMBOLS = 256, 257, 258
_MOST_DIGITS = 12  # before the point: what reading.LARGEST_NUMBER leaves readable
_DIGITS = range(ord("0"), ord("9") + 1)
_UNSAYABLE = frozenset(b"'\n\r")
_TRAIL = range(0x80, 0xC0)
# lead bytes -> (what the next byte may be, how many follow it): well-formed UTF-8, no halves of characters
_LEADS = (
    (range(0xC2, 0xE0), _TRAIL, 0),
    (range(0xE0, 0xE1), range(0xA0, 0xC0), 1),
    (range(0xE1, 0xED), _TRAIL, 1),
    (range(0xED, 0xEE), range(0x80, 0xA0), 1),
    (range(0xEE, 0xF0), _TRAIL, 1),
    (range(0xF0, 0xF1), range(0x90, 0xC0), 2),
    (range(0xF1, 0xF4), _TRAIL, 2),
    (range(0xF4, 0xF5), range(0x80, 0x90), 2),
)


class TextAutomaton:
    """next[state]: symbol -> state. events[state]: symbol -> what happens with it, where something does.

    longest[state]: of the open word that the state is within, in characters; 0 elsewhere. depth[state]: how many
    characters of it were said, -1 where the state does not know.
    """

    def __init__(self, calls: Calls, *, numbers_as_tokens: bool, text_start: str = " "):
        """text_start: what the tokenizer puts before every text."""
        self.next: list[dict[int, int]] = []
        self.events: list[dict[int, Event]] = []
        self.longest: list[int] = []
        self.depth: list[int] = []
        self.calls, self._as_tokens = calls, numbers_as_tokens
        language = calls.language
        self.start, self.done = self.add(), self.add()
        between = first = self.add()
        before = f"{text_start}{language.answer_start}".encode()
        if not before:
            self.start = between
        elif not language.answer_start + language.answer_end:  # no space stands before an answer without any text
            first = self.add()
            self.path(self.start, [END], self.done)
        if before:
            self.path(self.start, before, first)
        self.path(between, [*language.answer_end.encode(), END], self.done)
        self.path(self.done, [END], self.done)
        for number, function in enumerate(language.functions):
            if language.answer_end.startswith(f"{function.name}("):
                raise UserError(f"language {language.name}: answer_end begins like a call of {function.name}")
            opened = self.add()
            for state in {first, between}:
                self.path(state, f"{function.name}(".encode(), opened, Event("call", number))
            self._add_arguments(number, opened, between)

    def add(self, *, longest: int = 0, depth: int = -1) -> int:
        self.next.append({})
        self.events.append({})
        self.longest.append(longest)
        self.depth.append(depth)
        return len(self.next) - 1

    def link(self, state: int, symbols: Iterable[int], to: int, event: Event | None = None) -> None:
        for symbol in symbols:
            self.next[state][symbol] = to
            if event is not None:
                self.events[state][symbol] = event

    def path(self, state: int, symbols: Iterable[int], to: int, event: Event | None = None) -> None:
        """Leads from a state to another over symbols, sharing what begins like paths that are there."""
        *before, last = symbols
        for symbol in before:
            if symbol not in self.next[state]:
                self.link(state, [symbol], self.add())
            state = self.next[state][symbol]
        assert last not in self.next[state], "one text must not lead to two nodes"
        self.link(state, [last], to, event)

    def follow(self, state: int, other: int) -> None:
        """Lets a state go on as `other` does, too."""
        for symbol, to in self.next[other].items():
            self.link(state, [symbol], to)
            if symbol in self.events[other]:
                self.events[state][symbol] = self.events[other][symbol]

    def _add_arguments(self, function: int, opened: int, between: int) -> None:
        """`key=value, key=value)` and a line break, from the opening bracket on."""
        closed, after, next_key = self.add(), self.add(), self.add()
        close = Event("close", to=function)
        self.path(closed, b"\n", between)
        self.link(after, b")", closed, close)
        self.path(after, b", ", next_key)
        self.link(opened, b")", closed, close)
        for bit, (key, spelling, attribute) in enumerate(self.calls.arguments(function)):
            value = self._value(spelling, function, attribute, after)
            for start in (opened, next_key):
                self.path(start, f"{key}=".encode(), value, Event("argument", bit, to=function))

    def _value(self, spelling: Spelling, function: int, attribute: Attribute, after: int) -> int:
        """Where a value starts that is followed by what `after` goes on with."""
        if spelling.kind == "word":
            return self._word(spelling, function, attribute, after)
        if spelling.kind == "integer":
            if spelling.refers_to:
                return self._reference(spelling, after)
            return self._integer(spelling, after)
        if not spelling.in_brackets:
            return self._number(spelling.number, after)
        end, start = self.add(), self.add()
        self.link(end, b")", after)
        for index in reversed(range(spelling.count)):
            end = self._number(spelling.number, end)
            if index:
                comma = self.add()
                self.path(comma, b", ", end)
                end = comma
        self.link(start, b"(", end)
        return start

    def _number(self, number: NumberFormat, after: int) -> int:
        if self._as_tokens:
            start = self.add()
            self.link(start, [NUMBER], after)
            return start
        low, high = (_scaled(float(x), number.digits, r) for x, r in
                     ((number.minimum, ROUND_CEILING), (number.maximum, ROUND_FLOOR)))  # fmt: skip
        return self._decimal(low, high, number.digits, after, plus="+" if number.has_sign else "", minus_zero=True)

    def _integer(self, spelling: Spelling, after: int) -> int:
        low = -LARGEST_INTEGER if spelling.minimum is None else max(spelling.minimum, -LARGEST_INTEGER)
        high = LARGEST_INTEGER if spelling.maximum is None else min(spelling.maximum, LARGEST_INTEGER)
        return self._decimal(low, high, 0, after, plus="", minus_zero=False)

    def _decimal(self, low: int, high: int, digits: int, after: int, *, plus: str, minus_zero: bool) -> int:
        """Decimals from low to high, which count the last of `digits` nodes after the point; all are written."""
        start = self.add()
        if high >= 0:
            entry = start
            if plus:
                entry = self.add()
                self.link(start, plus.encode(), entry)
            _Digits(self, max(low, 0), high, digits, after).fill(entry)
        if low < 0 or (minus_zero and low <= 0 <= high):
            entry = self.add()
            self.link(start, b"-", entry)
            least = 0 if minus_zero and high >= 0 else max(-high, 1)
            _Digits(self, least, -low, digits, after).fill(entry)
        return start

    def _reference(self, spelling: Spelling, after: int) -> int:
        """The digits of a reference, whose size its events watch."""
        to = self.calls.target_of(spelling)
        start, zero, more = self.add(), self.add(), self.add()
        for digit, symbol in enumerate(_DIGITS):
            self.link(start, [symbol], more if digit else zero, Event("digit", digit, to, is_first=True))
            self.link(more, [symbol], more, Event("digit", digit, to))
        self.follow(zero, after)
        self.follow(more, after)
        return start

    def _word(self, spelling: Spelling, function: int, attribute: Attribute, after: int) -> int:
        calls, start = self.calls, self.add()

        def said(word: str | None) -> Event:
            return Event("word", calls.kept_out_by(function, attribute, word), to=function)

        def can_be_said(word: str) -> bool:
            return is_sayable(word) and not (self._as_tokens and FLOAT_TOKEN in word)

        if spelling.words is not None:
            inside = self.add()
            for word in filter(can_be_said, dict.fromkeys(spelling.words)):
                self.path(inside, f"{word}'".encode(), after, said(word))
        else:
            words = sorted(filter(can_be_said, calls.deciding_words(function, attribute)))
            inside = self._open_word(spelling.longest, after, said(None), {word: said(word) for word in words})
        self.link(start, b"'", inside)
        return start

    def _open_word(self, longest: int, after: int, said: Event, special: dict[str, Event]) -> int:
        """Any word, and the few that decide something, each with its event."""
        any_word = self.add(longest=longest)
        self.link(any_word, [b for b in range(0x80) if b not in _UNSAYABLE], any_word)
        self.link(any_word, b"'", after, said)
        self._add_characters(any_word, longest)
        start = self.add(longest=longest, depth=0)
        like = {start: any_word}  # state -> the state that any other word would be in
        for word, event in special.items():
            state, depth = start, 0
            for byte in word.encode():
                depth += byte not in _TRAIL
                if byte not in self.next[state]:
                    new = self.add(longest=longest, depth=depth)
                    self.link(state, [byte], new)
                    like[new] = self.next[like[state]].get(byte, any_word)
                state = self.next[state][byte]
            self.link(state, b"'", after, event)
        for state, other in like.items():
            for symbol, to in self.next[other].items():
                if symbol not in self.next[state]:
                    self.link(state, [symbol], to, self.events[other].get(symbol))
        return start

    def _add_characters(self, state: int, longest: int) -> None:
        """Characters of several bytes, which lead back to the state; the float token is no part of a word."""
        waits = [state]
        for _ in range(2):
            more = self.add(longest=longest)
            self.link(more, _TRAIL, waits[-1])
            waits.append(more)
        one = waits[1]
        for leads, second, count in _LEADS:
            first = self.add(longest=longest)
            self.link(first, second, waits[count])
            self.link(state, leads, first)
        if self._as_tokens:
            lead, middle, last = FLOAT_TOKEN.encode()
            first, second_state = self.add(longest=longest), self.add(longest=longest)
            self.link(first, _TRAIL, one)
            self.link(first, [middle], second_state)
            self.link(second_state, [b for b in _TRAIL if b != last], state)
            self.link(state, [lead], first)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """next int32 [S, symbols], -1 where there is none; whether there is an event, bool; whether the symbol is one
        more character of the open word that the state is in, bool."""
        shape = (len(self.next), NUM_SYMBOLS)
        following, has_event, is_counted = np.full(shape, -1, np.int32), np.zeros(shape, bool), np.zeros(shape, bool)
        longest = np.array(self.longest)
        for state, links in enumerate(self.next):
            symbols, to = np.fromiter(links, int, len(links)), np.fromiter(links.values(), int, len(links))
            following[state, symbols] = to
            has_event[state, list(self.events[state])] = True
            is_first = (symbols < _TRAIL.start) | (symbols >= _TRAIL.stop)  # of a character's bytes
            is_counted[state, symbols] = (longest[state] > 0) & (longest[to] > 0) & is_first
        return following, has_event, is_counted


def _scaled(value: float, digits: int, rounding: str) -> int:
    """A bound in units of the last digit; open bounds are what can be read."""
    most = 10 ** (_MOST_DIGITS + digits) - 1
    if math.isinf(value):
        return int(math.copysign(most, value))
    scaled = int((Decimal(repr(value)).scaleb(digits)).to_integral_value(rounding))
    return max(-most, min(most, scaled))


class _Digits:
    """Adds the digits of the numbers from `low` to `high` (both 0 or more, in units of the last of `digits` nodes).

    A state is known by how many digits were said, and, while the bounds still exclude some, by which.
    """

    def __init__(self, automaton: TextAutomaton, low: int, high: int, digits: int, after: int):
        self.automaton, self.low, self.high, self.digits, self.after = automaton, low, high, digits, after
        self._known: dict[tuple, int] = {}

    def fill(self, state: int) -> None:
        """Gives the state all that may come first: a digit."""
        for digit, symbol in enumerate(_DIGITS):
            if (to := self._whole(1, digit)) is not None:
                self.automaton.link(state, [symbol], to)

    def _fit(self, value: int, nodes: int) -> int:
        """2 where all numbers that begin with `value` and have `nodes` more are within the bounds, 1 some, 0 none."""
        least, most = value * 10**nodes, (value + 1) * 10**nodes - 1
        return 0 if most < self.low or least > self.high else 1 + (self.low <= least and most <= self.high)

    def _whole(self, count: int, value: int) -> int | None:
        """The state after `count` digits before the point, None where they lead nowhere."""
        longer = range(count, count + 1 if value == 0 else _MOST_DIGITS + 1)
        fits = tuple(self._fit(value, total - count + self.digits) for total in longer)
        if not any(fits):
            return None
        key = ("whole", count, value == 0, fits, value if 1 in fits else -1)
        if key not in self._known:
            state = self._known[key] = self.automaton.add()
            if fits[0] and self.digits:
                self.automaton.link(state, b".", self._nodes(0, value))
            elif fits[0]:
                self.automaton.follow(state, self.after)
            for digit, symbol in enumerate(_DIGITS if len(fits) > 1 else ()):
                if (to := self._whole(count + 1, 10 * value + digit)) is not None:
                    self.automaton.link(state, [symbol], to)
        return self._known[key]

    def _nodes(self, count: int, value: int) -> int:
        """The state after the point and `count` digits."""
        if count == self.digits:
            return self.after
        fit = self._fit(value, self.digits - count)
        key = ("nodes", count, value if fit == 1 else -1)
        if key not in self._known:
            state = self._known[key] = self.automaton.add()
            for digit, symbol in enumerate(_DIGITS):
                if self._fit(10 * value + digit, self.digits - count - 1):
                    self.automaton.link(state, [symbol], self._nodes(count + 1, 10 * value + digit))
        return self._known[key]
