"""Which tokens may follow, as arrays for a compiled loop: answers that always parse.

`compile_grammar` makes a Grammar from a language and a tokenizer, once. A row's state is a small integer vector;
`advance`, `mask` and `forced` are gathers into the grammar's tables, and work on NumPy and on JAX arrays alike.

What is allowed: the sentence around the code, calls in any number, their arguments in any order (or in the written
one), each once; words that the language has, or open ones of bounded length; numbers within their range, as float
tokens or text with at most twelve digits before the point; references to calls that stand before. What every call must
say comes before its bracket closes, and what its words forbid is kept out, whichever of the two comes first. A token is
allowed only while the answer can still be ended with the tokens that are left.

Tokens are those of the writer: a text that has many tokenisations is allowed in that of `Tokenizer.encode` alone, so
that a token that is forced is forced for good. Open words are the exception: within them any tokens may follow.

How: the text is an automaton over bytes (grammar_text.py), which tokens walk through (grammar_tokens.py); together with
the last token it gives *nodes* (grammar_build.py). What a call has said is a *memory* beside it (grammar_calls.py), as
are counts of an open word's characters and of calls that references may name.
"""

from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np

from igllm_jax.data.prompts import answer
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding.grammar_build import DEAD, DONE, UNREACHABLE, Graph, Move, Nodes, graph_of
from igllm_jax.decoding.grammar_calls import Calls
from igllm_jax.decoding.grammar_text import TextAutomaton
from igllm_jax.decoding.grammar_tokens import Neighbours, Walker, token_symbols
from igllm_jax.errors import UserError
from igllm_jax.scene.language import Language

Array = Any  # of NumPy or JAX
NODE, MEMORY, CHARACTERS, VALUE, LEFT, COUNTS = range(6)  # of a state; from COUNTS on, calls so far


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Grammar:
    """Tables. P nodes, M memories, E moves, C classes of tokens that behave alike, V tokens, K of them that are allowed
    anywhere, R references of a move.

    tokens: int32 [K], ascending. classes: [V]. moves: [P, C], 0 for none. nodes: [E], where a move leads. effects: [E],
    its row of `memories` [.., M], which maps memories, -1 where it is impossible. tokens_left: [P, M], the fewest to
    the end. only_token: [P, M], the one token that is allowed, -1 where there are several. longest: [P], of the open
    word there. needs, keeps, adds: [E], what a move does to the count of an open word's characters. closes: [E,
    functions], calls that it closes. refers_to, factor, term, is_read, closed_before: [E, R], digits of references
    (grammar_tokens.py). start: int32 [W], the state before an answer, with no tokens left.
    """

    tokens: Array
    classes: Array
    moves: Array
    nodes: Array
    effects: Array
    memories: Array
    tokens_left: Array
    only_token: Array
    longest: Array
    needs: Array
    keeps: Array
    adds: Array
    closes: Array
    refers_to: Array
    factor: Array
    term: Array
    is_read: Array
    closed_before: Array
    start: Array

    @property
    def num_bytes(self) -> int:
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    @property
    def shortest(self) -> int:
        """Tokens of the shortest answer, the end token among them."""
        return int(self.tokens_left[self.start[NODE], self.start[MEMORY]])

    def starts(self, rows: int, max_new_tokens: int) -> np.ndarray:
        """States int32 [rows, W] before answers of at most `max_new_tokens`, the end token among them.

        Raises: UserError where no answer is that short.
        """
        if max_new_tokens < self.shortest:
            raise UserError(
                f"max_new_tokens={max_new_tokens} is too few: the shortest answer that the language has is "
                f"{self.shortest} tokens"
            )
        return np.asarray(starts(self, rows, max_new_tokens))


def starts(grammar: Grammar, rows: int, max_new_tokens: int) -> Array:
    """The same within a compiled function, where nothing can be raised."""
    xp = grammar.start.__array_namespace__()
    states = xp.tile(grammar.start, (rows, 1))
    return xp.where(xp.arange(states.shape[1]) == LEFT, xp.asarray(max_new_tokens, states.dtype), states)


def is_dead(state: Array) -> Array:
    """bool [...]: whether states [..., W] lie outside the language."""
    return state[..., NODE] == DEAD


def advance(grammar: Grammar, state: Array, token: Array) -> Array:
    """States [..., W] after a token each [...]; of one that is not allowed, a state that allows nothing."""
    xp = state.__array_namespace__()
    move = grammar.moves[state[..., NODE], grammar.classes[token]].astype(np.int32)
    memory = grammar.memories[grammar.effects[move], state[..., MEMORY]].astype(np.int32)
    kept = xp.where(grammar.keeps[move], state[..., CHARACTERS], 0)
    value = state[..., VALUE]
    for index in range(grammar.factor.shape[1]):
        read = value * grammar.factor[move, index] + grammar.term[move, index]
        value = xp.where(grammar.is_read[move, index], read, value)
    node = xp.where(memory < 0, DEAD, grammar.nodes[move])
    head = [node, xp.maximum(memory, 0), kept + grammar.adds[move], value, xp.maximum(state[..., LEFT] - 1, 0)]
    counts = state[..., COUNTS:] + grammar.closes[move]
    return xp.concatenate([xp.stack(head, axis=-1).astype(np.int32), counts.astype(np.int32)], axis=-1)


def mask(grammar: Grammar, state: Array) -> Array:
    """bool [..., V]: the tokens that may follow in states [..., W]; after the end, the end token alone."""
    xp = state.__array_namespace__()
    return xp.take(class_mask(grammar, state), grammar.classes.astype(np.int32), axis=-1)


def class_mask(grammar: Grammar, state: Array) -> Array:
    """bool [..., C]: the classes of tokens that may follow, as above."""
    xp = state.__array_namespace__()
    node, memory, characters, value, left = (state[..., index, None] for index in range(COUNTS))
    move = grammar.moves[state[..., NODE]].astype(np.int32)  # [..., C]
    after = grammar.memories[grammar.effects[move], memory].astype(np.int32)
    to_go = grammar.tokens_left[grammar.nodes[move], xp.maximum(after, 0)].astype(np.int32)
    is_legal = (move > 0) & (after >= 0) & ((to_go < left) | (node == DONE)) & (to_go < UNREACHABLE)
    is_legal &= characters + grammar.needs[move] <= grammar.longest[node]
    for index in range(grammar.factor.shape[1]):
        value = xp.where(
            grammar.is_read[move, index], value * grammar.factor[move, index] + grammar.term[move, index], value
        )
        count = xp.take_along_axis(state[..., COUNTS:], grammar.refers_to[move, index].astype(np.int32), axis=-1)
        is_legal &= ~grammar.is_read[move, index] | (value < count + grammar.closed_before[move, index])
    return is_legal


def forced(grammar: Grammar, state: Array) -> Array:
    """int32 [...]: the one token that may follow, whatever the model thinks; -1 where several may."""
    return grammar.only_token[state[..., NODE], state[..., MEMORY]]


def compile_grammar(
    language: Language,
    tokenizer: Tokenizer,
    *,
    rotation_rep: str,
    numbers_as_tokens: bool,
    shuffle_attributes: bool,
    vocab_size: int | None = None,
    end_id: int | None = None,
) -> Grammar:
    """The grammar of the answers that a model of these settings was taught to write.

    shuffle_attributes: whether arguments may come in any order. vocab_size: V, of the model where that is larger than
    the tokenizer's; ids beyond are never allowed. end_id: the token that ends an answer (default: the tokenizer's).

    Raises: UserError where the language is too large for tables, or the tokenizer can't say its answers.
    """
    calls = Calls(language, language.settings(rotation_rep), is_shuffled=shuffle_attributes)
    end_id = tokenizer.eos_id if end_id is None else end_id
    automaton = TextAutomaton(calls, numbers_as_tokens=numbers_as_tokens, text_start=tokenizer.text_start)
    symbols = token_symbols(tokenizer, numbers_as_tokens=numbers_as_tokens, end_id=end_id)
    nodes = Nodes(automaton, Walker(automaton, symbols), Neighbours(tokenizer))
    events = {event for links in automaton.events for event in links.values() if event.kind != "digit"}
    memories = calls.memories(events)
    graph = graph_of(nodes, memories, {event: calls.moves(memories, event) for event in events})
    grammar = _tables(nodes, graph, calls, tokenizer.vocab_size, vocab_size or tokenizer.vocab_size)
    state = grammar.starts(1, 1 << 15)[0] if grammar.shortest < UNREACHABLE else None
    for token in [*tokenizer.encode(answer("", language)), end_id]:
        if state is None or not mask(grammar, state)[token]:
            raise UserError(
                f"tokenizer {tokenizer.origin}: can't say the answers of language {language.name}, as its tokens lose "
                "line breaks or spaces; use a vocabulary that keeps them (LLaMA's does)"
            )
        state = advance(grammar, state, np.int32(token))
    return grammar


def _tables(nodes: Nodes, graph: Graph, calls: Calls, num_tokens: int, vocab_size: int) -> Grammar:
    """What can be reached, numbered anew, as a Grammar."""
    kept, node_numbers, move_numbers = _reached(nodes, graph)
    found = list(nodes.moves)
    classes, moves = _classes(graph, kept, node_numbers, move_numbers, num_tokens, vocab_size)
    of_move = sorted(move_numbers, key=move_numbers.__getitem__)
    chosen = [Move(DEAD, found[0].step), *(found[index] for index in of_move)]
    memory_steps = np.concatenate(
        [np.full((1, graph.memory_steps.shape[1]), -1, graph.memory_steps.dtype), graph.memory_steps]
    )
    effects = np.array([0, *(graph.effects[of_move] + 1)])
    rows, effects = np.unique(effects, return_inverse=True)
    old_nodes = sorted(node_numbers, key=node_numbers.__getitem__)
    longest = np.array([nodes.automaton.longest[nodes.states[node]] if node else 0 for node in old_nodes])
    start = np.zeros(COUNTS + max(len(calls.referred), 1), np.int32)
    start[NODE] = node_numbers[nodes.start]
    return Grammar(
        tokens=np.unique(np.concatenate([graph.tokens[index] for index in kept])).astype(np.int32),
        classes=classes,
        moves=moves,
        nodes=np.array([0, *(node_numbers[move.node] for move in chosen[1:])], np.int32),
        effects=effects.astype(np.int32),
        memories=_small(memory_steps[rows]),
        tokens_left=graph.tokens_left[old_nodes],
        only_token=_only_tokens(graph, kept, node_numbers),
        longest=np.where(longest > 0, longest, np.iinfo(np.int32).max // 2).astype(np.int32),
        needs=np.array([move.step.needs for move in chosen], np.int32),
        keeps=np.array([move.step.keeps for move in chosen]),
        adds=np.array([move.step.adds for move in chosen], np.int32),
        start=start,
        **_references(chosen, calls),
    )


def _reached(nodes: Nodes, graph: Graph) -> tuple[np.ndarray, dict[int, int], dict[int, int]]:
    """Indices of the moves that lead on and can be reached, and new numbers of nodes and of moves (from 1)."""
    useful = np.flatnonzero(graph.is_possible.any(axis=1))
    by_source: dict[int, list[int]] = {}
    for index in useful.tolist():
        by_source.setdefault(int(graph.sources[index]), []).append(index)
    numbers, waiting = {DEAD: DEAD, DONE: DONE, nodes.start: 2}, [DONE, nodes.start]
    kept: list[int] = []
    while waiting:
        for index in by_source.get(waiting.pop(), ()):
            kept.append(index)
            to = int(graph.nodes[graph.moves[index]])
            if to not in numbers:
                numbers[to] = len(numbers)
                waiting.append(to)
    moves = {int(move): number for number, move in enumerate(np.unique(graph.moves[kept]), 1)}
    return np.array(sorted(kept)), numbers, moves


def _classes(
    graph: Graph,
    kept: np.ndarray,
    node_numbers: dict[int, int],
    move_numbers: dict[int, int],
    num_tokens: int,
    vocab_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Token -> class [V], and (node, class) -> move [P, C]. Tokens of one class have the same moves everywhere."""
    rng = np.random.default_rng(0)
    sums = np.zeros(max(num_tokens, vocab_size), np.uint64)  # of a random number for each move
    for index in kept.tolist():
        sums[graph.tokens[index]] += rng.integers(1 << 63, dtype=np.uint64)
    values, classes = np.unique(sums[:vocab_size], return_inverse=True)
    moves = np.zeros((len(node_numbers), len(values)), np.uint16 if len(move_numbers) < 1 << 16 else np.int32)
    for index in kept.tolist():
        row = node_numbers[int(graph.sources[index])]
        moves[row, classes[graph.tokens[index]]] = move_numbers[int(graph.moves[index])]
    return _small(classes), moves


def _only_tokens(graph: Graph, kept: np.ndarray, node_numbers: dict[int, int]) -> np.ndarray:
    """int32 [P, M]: see Grammar."""
    sources = np.array([node_numbers[int(source)] for source in graph.sources[kept]])
    order = np.argsort(sources, kind="stable")
    is_possible = graph.is_possible[kept[order]]
    sizes = np.array([len(graph.tokens[index]) for index in kept[order]])[:, None]
    firsts = np.array([graph.tokens[index][0] for index in kept[order]])[:, None]
    rows, starts = np.unique(sources[order], return_index=True)
    count = np.add.reduceat(is_possible * sizes, starts, axis=0)
    token = np.add.reduceat(is_possible * firsts, starts, axis=0)
    found = np.full((len(node_numbers), graph.memory_steps.shape[1]), -1, np.int32)
    found[rows] = np.where(count == 1, token, -1)
    return found


def _references(moves: list[Move], calls: Calls) -> dict[str, np.ndarray]:
    """Of each move, the calls that it closes and the digits of references that it says."""
    most = max(len(move.step.references) for move in moves)
    closes = np.zeros((len(moves), max(len(calls.referred), 1)), np.int32)
    refers_to, factor, term, before = (np.zeros((len(moves), most), np.int32) for _ in range(4))
    is_read = np.zeros((len(moves), most), bool)
    for row, move in enumerate(moves):
        for function in move.step.closed:
            if function in calls.referred:
                closes[row, calls.referred.index(function)] += 1
        for index, found in enumerate(move.step.references):
            refers_to[row, index], term[row, index], before[row, index] = found.to, found.term, found.before
            factor[row, index] = 0 if found.is_first else found.factor
            is_read[row, index] = True
    return {
        "closes": closes, "refers_to": refers_to, "factor": factor, "term": term, "is_read": is_read,
        "closed_before": before,
    }  # fmt: skip


def _small(values: np.ndarray) -> np.ndarray:
    """The same integers in 16 bits where they fit."""
    return values.astype(np.int16 if values.max() < 1 << 15 else np.int32)
