"""The automaton over tokens: nodes, the moves between them, and how many tokens each needs to the end."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from igllm_jax.decoding.grammar_calls import Event, Memory
from igllm_jax.decoding.grammar_text import TextAutomaton
from igllm_jax.decoding.grammar_tokens import Neighbours, Transition, Walk, Walker

UNREACHABLE = np.iinfo(np.int16).max
DEAD, DONE = 0, 1  # nodes: where what no text can be leads to, and after the end token


@dataclass(frozen=True)
class Move:
    """node: where it leads. step: what it does else; step.to is not looked at."""

    node: int
    step: Transition


class Nodes:
    """Finds the nodes that tokens can lead to.

    A node is a state of the text, and which tokens the writer may put there: of the tokens that the text allows, those
    that may stand behind the last one. Within an open word every token may follow every other.
    """

    def __init__(self, automaton: TextAutomaton, walker: Walker, neighbours: Neighbours):
        self.automaton, self._walker, self._neighbours = automaton, walker, neighbours
        self._walks: dict[int, Walk] = {}
        self._known: dict[tuple[int, bytes], int] = {}
        self._node_of: dict[tuple[int, int], int] = {}
        self._waiting: list[tuple[int, int, np.ndarray]] = []
        self.states: list[int] = [-1, automaton.done]
        self.moves: dict[Move, int] = {}
        # node, move, its tokens
        self.found: list[tuple[int, int, np.ndarray]] = []
        self._node_of[automaton.done, -1] = DONE
        self._waiting.append((DONE, automaton.done, np.ones(len(self._walk(automaton.done).tokens), bool)))
        self.start = self._node(automaton.start, -1)
        while self._waiting:
            self._explore(*self._waiting.pop())

    def _walk(self, state: int) -> Walk:
        if state not in self._walks:
            self._walks[state] = self._walker.walk(state)
        return self._walks[state]

    def _is_free(self, state: int) -> bool:
        """Whether what may follow does not depend on the last token."""
        return self.automaton.longest[state] > 0 or state == self.automaton.done or not self._neighbours.is_known

    def _node(self, state: int, token: int) -> int:
        """The node after a token, -1 for any, that led to a state."""
        key = state, (-1 if self._is_free(state) else token)
        if key not in self._node_of:
            walk = self._walk(state)
            allowed = np.ones(len(walk.tokens), bool)
            if key[1] >= 0:
                allowed = self._neighbours.may_follow(token, walk.tokens)
            same = state, allowed.tobytes()
            if same not in self._known:
                self._known[same] = len(self.states)
                self.states.append(state)
                self._waiting.append((self._known[same], state, allowed))
            self._node_of[key] = self._known[same]
        return self._node_of[key]

    def _explore(self, node: int, state: int, allowed: np.ndarray) -> None:
        walk = self._walk(state)
        tokens, which = walk.tokens[allowed], walk.which[allowed]
        if not len(tokens):  # no tokenisation goes on here
            return
        order = np.argsort(which, kind="stable")
        numbers, starts = np.unique(which[order], return_index=True)
        for number, same in zip(numbers.tolist(), np.split(tokens[order], starts[1:]), strict=True):
            step = walk.steps[number]
            if self._is_free(step.to):
                self._add(node, self._node(step.to, -1), step, same)
                continue
            nodes = np.array([self._node(step.to, token) for token in same.tolist()])
            for to in np.unique(nodes).tolist():
                self._add(node, to, step, same[nodes == to])

    def _add(self, node: int, to: int, step: Transition, tokens: np.ndarray) -> None:
        move = self.moves.setdefault(Move(to, step), len(self.moves))
        self.found.append((node, move, tokens))


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes, moves and memories as arrays.

    sources, moves: int32 [F], a move that is possible from a node; tokens: [F] the tokens that make it.
    nodes: int32 [E], where each move leads. effects: int32 [E], row of `memory_steps`. memory_steps: int32 [.., M],
    memory -> memory.
    is_sure: bool [F], whether the move can be made whatever the counts of characters and calls are, so that it may be
    part of a way to the end.
    """

    num_nodes: int
    sources: np.ndarray
    moves: np.ndarray
    tokens: list[np.ndarray]
    nodes: np.ndarray
    effects: np.ndarray
    memory_steps: np.ndarray
    is_sure: np.ndarray

    @cached_property
    def is_possible(self) -> np.ndarray:
        """bool [F, M]: whether a move may be made with a memory, by what memories know."""
        memory_steps = self.memory_steps[self.effects[self.moves]]
        return (memory_steps >= 0) & (self.tokens_left[self.nodes[self.moves][:, None], memory_steps] < UNREACHABLE)

    @cached_property
    def tokens_left(self) -> np.ndarray:
        """int16 [P, M]: the fewest tokens to the end, itself among them; UNREACHABLE where there is no way.

        From the end backwards, a token more in each round.
        """
        order = np.flatnonzero(self.is_sure)
        order = order[np.argsort(self.sources[order], kind="stable")]
        sources, starts = np.unique(self.sources[order], return_index=True)
        moves = self.moves[order]
        memory_steps, nodes = self.memory_steps[self.effects[moves]], self.nodes[moves][:, None]
        least = np.full((self.num_nodes, self.memory_steps.shape[1]), UNREACHABLE, np.int16)
        least[DONE] = 0
        is_open = memory_steps >= 0
        while True:
            after = np.where(is_open, least[nodes, memory_steps], UNREACHABLE)
            after = np.minimum(after, UNREACHABLE - 1) + 1
            new = least.copy()
            new[sources] = np.minimum(least[sources], np.minimum.reduceat(after, starts, axis=0))
            if (new == least).all():
                return least
            least = new


def graph_of(nodes: Nodes, memories: dict[Memory, int], moves_of: dict[Event, np.ndarray]) -> Graph:
    """The arrays of what was explored."""
    effects: dict[tuple[Event, ...], int] = {}
    found = list(nodes.moves)
    effect = np.array([effects.setdefault(move.step.events, len(effects)) for move in found], np.int32)
    memory_steps = np.empty((len(effects), len(memories)), np.int32)
    for events, row in effects.items():
        memory_steps[row] = np.arange(len(memories))
        for event in events:
            memory_steps[row] = np.where(memory_steps[row] >= 0, moves_of[event][memory_steps[row]], -1)
    sources, moves, tokens = zip(*nodes.found, strict=True)
    automaton = nodes.automaton
    is_sure = []
    for source, number in zip(sources, moves, strict=True):
        step, state = found[number].step, nodes.states[source]
        depth = automaton.depth[state]
        fits = step.needs == 0 or (depth >= 0 and depth + step.needs <= automaton.longest[state])
        is_sure.append(fits and all(r.is_first and r.term == 0 for r in step.references))
    to = np.array([move.node for move in found], np.int32)
    sources_array, moves_array = np.array(sources, np.int32), np.array(moves, np.int32)
    return Graph(
        num_nodes=len(nodes.states), sources=sources_array, moves=moves_array, tokens=list(tokens), nodes=to,
        effects=effect, memory_steps=memory_steps, is_sure=np.array(is_sure, bool),
    )  # fmt: skip
