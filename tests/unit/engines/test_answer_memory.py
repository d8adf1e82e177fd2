"""What earlier answers say about the next one, and that it stays bounded and apart."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.llama_cpp.answer_memory import AnswerMemory, AnswerTree, Recall
from serve_app.engines.llama_cpp.drafts import NO_DRAFT, Draft

PROMPT = [900, 901]
ANSWERS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), max_size=20)


def tree_of(*answers):
    tree = AnswerTree()
    for answer in answers:
        tree.add(answer)
    return tree


def propose(tree, answer, n=64):
    return Recall(tree, len(PROMPT)).propose([*PROMPT, *answer], n)


def test_an_answer_that_begins_like_another_is_guessed_to_go_on_like_it():
    draft = propose(tree_of([1, 2, 3, 4], [5, 6, 7]), [5])
    assert (draft.source, draft.tokens) == ("answers", (6, 7))


def test_the_way_that_most_answers_went_is_guessed_with_its_share():
    tree = tree_of(*[[1, 2, 3]] * 6, *[[1, 8, 9]] * 2)
    draft = propose(tree, [1])
    assert draft.tokens == (2, 3)
    assert draft.chances[0] < 0.75
    assert draft.chances[1] < draft.chances[0]


def test_what_was_seen_once_is_believed_less_than_what_was_seen_often():
    once, often = propose(tree_of([1, 2]), [1]), propose(tree_of(*[[1, 2]] * 9), [1])
    assert once.chances < often.chances


def test_an_answer_that_left_the_tree_is_guessed_from_its_last_tokens():
    tree = tree_of([1, 2, 3, 4, 5, 6, 7])
    assert propose(tree, [8, 8, 2, 3, 4, 5]).tokens == (6, 7)
    assert propose(tree, [8, 8, 3, 4, 5]) == NO_DRAFT  # three are too few
    longer = tree_of([0, 1, 2, 3, 4, 5, 6, 7, 8, 70], [4, 5, 6, 7, 71], [4, 5, 6, 7, 71])
    assert propose(longer, [9, 1, 2, 3, 4, 5, 6, 7, 8]).tokens == (70,)


def test_the_prompt_is_no_part_of_the_answer():
    tree = tree_of([*PROMPT, 1, 2, 3, 4])
    assert propose(tree, []).tokens[:2] == (*PROMPT,)
    assert propose(tree, [*PROMPT, 1]).tokens == (2, 3, 4)
    assert propose(tree, [1, 2]) == NO_DRAFT  # with the prompt these would be four known tokens


def test_the_last_token_of_an_answer_that_its_grammar_ends_needs_no_row():
    tree = tree_of([1, 2, 3])
    tree.root.branches[1].branches[2].branches[3].ends = True
    assert propose(tree, [1]).tokens == (2,)
    assert propose(tree, [1, 2]).tokens == ()


def test_rows_before_forced_tokens_need_no_logits():
    tree = tree_of(*[[1, 2, 3, 4, 5]] * 9)
    tree.root.branches[1].branches[2].forced = (3, 4)
    drawn, forced = (
        Recall(tree, len(PROMPT), forces=forces).propose([*PROMPT, 1], 9)
        for forces in (False, True)
    )
    assert drawn.tokens == forced.tokens == (2, 3, 4, 5)
    assert drawn.quiet == frozenset()
    assert forced.quiet == {0, 1}  # 5 is drawn behind 4
    assert forced.n_outputs == 2
    assert forced.cut(1).quiet == {0}
    assert forced.cut(1).n_outputs == 0


def test_answers_that_go_new_ways_make_known_ways_less_likely():
    steady, fickle = AnswerTree(), AnswerTree()
    for number in range(60):
        steady.add([number, 1, 2, 3])
        steady.add([number, 1, 2, 3])
        fickle.add([number, 1, 2, 3])
        fickle.add([number, 1, 5, 6])
    assert propose(fickle, [59, 1, 2]).chances < propose(steady, [59, 1, 2]).chances


def test_ways_that_part_say_nothing_about_the_rest():
    tree = tree_of([1, 2, 5], [1, 3, 6])
    before = propose(tree, [1, 2]).chances
    for _ in range(20):
        tree.add([1, 7])
        tree.add([1, 8])
    assert propose(tree, [1, 2]).chances == before


def test_guesses_from_last_tokens_are_given_up_when_wrong_and_tried_again_later():
    tree = tree_of([1, 2, 3, 4, 5, 6, 7])
    begun = [9, 2, 3, 4, 5]
    first = propose(tree, begun).chances
    for _ in range(40):
        recall = Recall(tree, len(PROMPT))
        recall.record(recall.propose([*PROMPT, *begun], 3), 0)
    assert propose(tree, begun) == Draft("answers", (), ())
    for _ in range(40):
        tree.add([8])
    again = propose(tree, begun).chances
    assert first[0] / 2 < again[0] < first[0]


@given(ANSWERS, st.lists(st.integers(0, 3), max_size=12), st.integers(0, 20))
def test_a_guess_was_said_before(answers, begun, n):
    draft = propose(tree_of(*answers), begun, n)
    assert len(draft.tokens) == len(draft.chances) <= n
    assert list(draft.chances) == sorted(draft.chances, reverse=True)
    if draft.tokens:
        ends = [begun] if any(a[: len(begun)] == begun for a in answers) else []
        ends += [begun[-4:]] if len(begun) >= 4 else []
        said = [[*end, *draft.tokens] for end in ends]
        texts = ["," + ",".join(map(str, a)) + "," for a in answers]
        assert any("," + ",".join(map(str, s)) + "," in text for s in said for text in texts)


@given(ANSWERS)
def test_ageing_keeps_what_was_said_twice(answers):
    tree = tree_of(*answers)
    tree.age()
    n_nodes, todo = 0, [tree.root]
    while todo:
        node = todo.pop()
        n_nodes += len(node.branches)
        assert all(0 < branch.count <= node.count for branch in node.branches.values())
        todo += node.branches.values()
    assert tree.n_nodes == n_nodes
    for answer in answers:
        if answers.count(answer) >= 2:
            draft = propose(tree, answer[:-1])
            assert draft.tokens or answer[:-1] == [] or tree.root.count


def test_salts_and_grammars_have_nothing_in_common():
    memory = AnswerMemory(1000)
    for _ in range(9):
        memory.add(("ana", b"schema"), [1, 2, 3, 4, 5, 6, 7, 8, 9])
    for key in (("berta", b"schema"), ("ana", b"another"), (None, b"schema")):
        for begun in ([1, 2], [1, 2, 3, 4], [0, 0, 5, 6, 7, 8]):
            assert propose(memory.tree(key), begun) == NO_DRAFT
    assert propose(memory.tree(("ana", b"schema")), [1, 2]).tokens == (3, 4, 5, 6, 7, 8, 9)


@given(
    st.integers(1, 60),
    st.lists(
        st.tuples(st.integers(0, 4), st.lists(st.integers(0, 9), min_size=1, max_size=30)),
        max_size=40,
    ),
)
def test_memory_is_bounded_whatever_is_answered(bound, answers):
    memory = AnswerMemory(bound)
    for key, answer in answers:
        memory.add(key, answer)
        assert 0 <= memory.n_tokens <= bound
        held = {id(tree): tree.n_nodes for tree in map(memory.tree, range(5))}
        assert sum(held.values()) == memory.n_tokens


def test_there_are_few_trees_and_the_one_used_last_stays():
    memory = AnswerMemory(10_000)
    memory.add("kept", [1, 2])
    for number in range(400):
        memory.add(number, [1, 2])
        assert propose(memory.tree("kept"), [1]).tokens == (2,)
    assert memory.n_tokens <= 2 * 256
    assert propose(memory.tree(0), [1]) == NO_DRAFT


def test_an_answer_of_thousands_of_tokens_is_kept_in_part():
    memory = AnswerMemory(5_000)
    memory.add("a", list(range(4_000)))
    assert memory.n_tokens == 1024
