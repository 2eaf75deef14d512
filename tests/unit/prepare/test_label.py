"""The label engine's known answers, its refusals, and what it says of each source."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.core.state import StateWriter
from stepwell.prepare.label import (
    Asker,
    LabelModel,
    Labels,
    NumberModel,
    Pattern,
    Prior,
    Rule,
    Votes,
    ask,
    discover,
    jury,
    vote,
)
from stepwell.prepare.label.correlated import merge_correlated
from stepwell.prepare.label.engine import majority

BINARY = ("ham", "spam")


def crowd(accuracy, num_items=400, classes=2, coverage=1.0, seed=0):
    """Return votes of sources with given accuracies, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, num_items)
    matrix = np.full((num_items, len(accuracy)), -1)
    for source, share in enumerate(accuracy):
        wrong = (truth + rng.integers(1, classes, num_items)) % classes
        said = np.where(rng.random(num_items) < share, truth, wrong)
        matrix[:, source] = np.where(rng.random(num_items) < coverage, said, -1)
    return Votes.from_matrix(matrix, classes=[str(k) for k in range(classes)]), truth


def rules(per_class, right, num_items=4000, speaks=0.15, seed=0):
    """Return votes of rules that each say one label, right in a share of their votes, and the truth."""
    rng = np.random.default_rng(seed)
    classes = len(per_class)
    truth = rng.integers(0, classes, num_items)
    labels = np.repeat(np.arange(classes), per_class)
    own = speaks * right * classes  # it speaks on a share `speaks` of all items
    other = speaks * (1 - right) * classes / (classes - 1)
    chance = np.where(truth[:, None] == labels, own, other)
    matrix = np.where(rng.random(chance.shape) < chance, labels, -1)
    return Votes.from_matrix(matrix, classes=[str(k) for k in range(classes)]), truth


def log_loss(labels, truth):
    likely = np.maximum(1e-12, labels.probabilities[np.arange(len(truth)), truth])
    return float(-np.log(likely[labels.covered]).mean())


def share_right(labels, truth):
    return float((labels.probabilities.argmax(1) == truth)[labels.covered].mean())


# Known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["auto", "one-coin", "confusion"])
def test_three_perfect_sources_and_a_random_one_give_the_truth(source):
    votes, truth = crowd([1, 1, 1, 0.5])
    labels = LabelModel(source, merge_above=None).fit(votes)
    assert share_right(labels, truth) == 1
    assert labels.belief.weight[3] < 0.5 < 3 < labels.belief.weight[:3].min()


@pytest.mark.parametrize("source", ["auto", "one-coin", "confusion"])
def test_an_adversarial_source_gets_a_negative_weight_and_helps(source):
    votes, truth = crowd([0.8, 0.8, 0.75, 0.1], num_items=1000)
    labels = LabelModel(source).fit(votes)
    assert labels.report()["weight"].to_numpy()[3] < -1
    assert share_right(labels, truth) > share_right(LabelModel(source).fit(votes.of(votes.source < 3)), truth) + 0.02


def test_learned_accuracies_beat_majority_vote_and_come_near_the_true_ones():
    true = [0.9, 0.85, 0.6, 0.6, 0.6, 0.55, 0.55]
    votes, truth = crowd(true, num_items=3000, coverage=0.6)
    labels = LabelModel().fit(votes)
    plain = float((majority(votes).argmax(1) == truth)[labels.covered].mean())
    assert share_right(labels, truth) > plain + 0.03
    np.testing.assert_allclose(labels.report()["accuracy"].to_numpy(), true, atol=0.04)


@pytest.mark.filterwarnings("ignore")  # the peer's own
@pytest.mark.parametrize(("source", "peer"), [("one-coin", "OneCoinDawidSkene"), ("confusion", "DawidSkene")])
def test_probabilities_agree_with_those_of_crowd_kit(source, peer):
    aggregation = pytest.importorskip("crowdkit.aggregation", reason="an oracle, installed by hand")
    pd = pytest.importorskip("pandas")
    votes, _ = crowd([0.9, 0.8, 0.75, 0.7, 0.65, 0.6], num_items=2000, classes=3, coverage=0.7)
    frame = pd.DataFrame({"task": votes.item, "worker": votes.source, "label": votes.label})
    found = getattr(aggregation, peer)(n_iter=200, tol=1e-8).fit_predict_proba(frame).sort_index()
    weak = Prior(strength=0.01, diagonal=0.01, anywhere=0.01)  # it has no priors
    labels = LabelModel(source, "learned", weak, merge_above=None).fit(votes)
    expected = found[[0, 1, 2]].to_numpy()
    np.testing.assert_allclose(labels.probabilities[labels.covered], expected, atol=0.02)


def test_a_matrix_is_chosen_where_a_source_errs_to_one_side_and_one_number_where_it_does_not():
    votes, truth = crowd([0.8, 0.8, 0.8, 0.8, 0.8, 0.8], num_items=2000, classes=3, seed=3)
    label = votes.label.copy()
    sided = votes.source == 0
    label[sided] = np.where(truth[votes.item[sided]] == 2, 1, truth[votes.item[sided]])  # never tells 2 from 1
    moved = Votes.from_arrays(votes.item, votes.source, label, classes=votes.classes)
    labels = LabelModel().fit(moved)
    assert labels.report()["model"].to_pylist() == ["matrix"] + ["one number"] * 5
    np.testing.assert_allclose(labels.belief.says[0, 2], [0, 1, 0], atol=0.05)


def test_gold_stays_as_given_and_teaches_about_the_sources():
    votes, truth = crowd([0.2, 0.2, 0.2, 0.9], num_items=500)  # the majority is wrong
    assert share_right(LabelModel("one-coin").fit(votes), truth) < 0.3
    gold = {row: str(truth[row]) for row in range(60)}
    labels = LabelModel("one-coin").fit(votes, gold)
    assert share_right(labels, truth) > 0.85
    assert all(labels.names[row] == name for row, name in gold.items())
    np.testing.assert_allclose(labels.report()["on_gold"].to_numpy(), [0.2, 0.2, 0.2, 0.9], atol=0.15)


def test_a_known_accuracy_stays_as_given():
    votes, _ = crowd([0.6, 0.6, 0.6])
    labels = LabelModel().fit(votes, accuracy={"1": 0.9})
    assert labels.belief.accuracy[1] == pytest.approx(0.9)
    assert labels.report()["model"].to_pylist()[1] == "given"


def test_a_copy_counts_once():
    votes, truth = crowd([0.7, 0.7, 0.7, 0.55], num_items=1000)
    matrix = np.full((1000, 4), -1)
    matrix[votes.item, votes.source] = votes.label
    copies = np.concatenate([matrix, np.repeat(matrix[:, 3:], 5, 1)], 1)
    copied = Votes.from_matrix(copies, classes=votes.classes)
    alone, kept = LabelModel().fit(votes), LabelModel().fit(copied)
    np.testing.assert_allclose(kept.probabilities, alone.probabilities, atol=1e-6)
    assert kept.report()["model"].to_pylist()[4:] == ["copy of 3"] * 5
    assert share_right(LabelModel(merge_above=None).fit(copied), truth) < share_right(kept, truth) - 0.05


def test_rules_for_one_label_that_meet_are_no_copies():
    item = np.concatenate([np.arange(50), np.arange(40, 90)])
    votes = Votes.from_arrays(item, np.repeat([0, 1], 50), np.ones(100, int), classes=BINARY)
    assert merge_correlated(votes, 0.98).leader.tolist() == [0, 1]


def test_the_balance_is_not_learned_from_rules_that_say_one_thing_each():
    rng = np.random.default_rng(0)
    item = rng.integers(0, 500, 900)
    source = rng.integers(0, 9, 900)
    votes = Votes.from_arrays(item, source, (source < 7).astype(int), classes=BINARY)  # 7 rules for spam, 2 for ham
    labels = LabelModel(merge_above=None).fit(votes)
    np.testing.assert_allclose(labels.belief.balance, 0.5)
    assert 0.1 < (labels.probabilities.argmax(1) == 0)[labels.covered].mean() < 0.5


@pytest.mark.parametrize(("per_class", "right"), [((8, 8), 0.85), ((6, 4), 0.8), ((5, 5, 5), 0.75)])
def test_rules_that_are_mostly_right_are_reported_so_and_their_labels_are_as_sure_as_they_are_right(per_class, right):
    votes, truth = rules(per_class, right)
    labels = LabelModel().fit(votes)
    report = labels.report()
    np.testing.assert_allclose(report["accuracy"].to_numpy(), right, atol=0.09)
    assert set(report["model"].to_pylist()) == {"one number"}
    assert report["weight"].to_numpy().min() > 1
    sure = labels.probabilities.max(1)[labels.covered]
    assert sure.mean() == pytest.approx(share_right(labels, truth), abs=0.06)
    weights = labels.weights[labels.covered]
    classes = len(per_class)
    assert weights.mean() == pytest.approx((share_right(labels, truth) - 1 / classes) / (1 - 1 / classes), abs=0.08)
    alone = np.diff(votes.indptr)[labels.covered] == 1
    assert sure[alone].mean() == pytest.approx(right, abs=0.05)


def test_rules_do_not_collapse_to_one_class_and_are_told_better_than_by_matrices_or_own_numbers():
    votes, truth = rules((7, 2), 0.8)
    labels = LabelModel().fit(votes)
    assert 0.2 < labels.probabilities.argmax(1)[labels.covered].mean() < 0.5
    others = [LabelModel("one-coin", "uniform").fit(votes), LabelModel("confusion").fit(votes)]
    assert log_loss(labels, truth) < min(log_loss(other, truth) for other in others) - 0.1


def test_a_number_for_each_rule_is_refused_where_nothing_tells_it():
    votes, truth = rules((7, 2), 0.8)
    with pytest.raises(InvalidValueError, match="one-coin"):
        LabelModel("one-coin").fit(votes)
    gold = {int(row): votes.classes[truth[place]] for place, row in enumerate(votes.rows[:200])}
    assert LabelModel("one-coin").fit(votes, gold).gold == gold


def test_rules_for_a_label_that_speak_on_more_items_than_can_have_it_are_trusted_less():
    votes, truth = rules((3, 3, 3, 3), 0.8, speaks=0.2)
    everywhere = Votes.from_arrays(votes.rows, votes.rows * 0, votes.rows * 0, classes=votes.classes, sources=["broad"])
    labels = LabelModel().fit(votes.with_votes(everywhere))
    assert labels.belief.accuracy[-1] == pytest.approx(0.5)  # twice the even share of four classes
    assert labels.belief.accuracy[votes.source[votes.label > 0]].min() > 0.7
    assert share_right(labels, truth) > 0.85


def test_a_given_balance_never_turns_a_rule_against_its_own_label():
    votes, _ = rules((5, 5), 0.7, speaks=0.3)
    labels = LabelModel(balance=(0.8, 0.2)).fit(votes)
    assert labels.belief.weight.min() > 0
    assert 0 < labels.probabilities.argmax(1)[labels.covered].mean() < 0.5


def test_a_worker_who_always_says_the_same_among_a_crowd_has_a_model_of_its_own():
    votes, truth = crowd([0.9, 0.8, 0.8, 0.7], num_items=600)
    lazy = Votes.from_arrays(votes.rows, votes.rows * 0, votes.rows * 0, classes=votes.classes, sources=["lazy"])
    labels = LabelModel().fit(votes.with_votes(lazy))
    assert labels.report()["model"].to_pylist()[-1] == "matrix"
    assert share_right(labels, truth) > 0.9


def test_an_item_without_votes_gets_the_balance_and_no_weight_of_certainty():
    votes = Votes.from_arrays([1, 2], [0, 0], [0, 1], classes=BINARY, rows=[1, 2, 3])
    labels = LabelModel("one-coin", "uniform").fit(votes)
    assert labels.weights[2] == 0
    assert labels.table()["_row"].to_pylist() == [1, 2]
    assert labels.table(covered=False).num_rows == 3


# Votes that come later -------------------------------------------------------------------------------------------


def test_labels_updated_by_batches_equal_labels_of_all_votes():
    votes, _ = crowd([0.9, 0.8, 0.7, 0.7, 0.6], num_items=1500, coverage=0.7)
    model = LabelModel("one-coin", tolerance=1e-9, max_iterations=500)
    labels = model.fit(votes.of(votes.item < 300))
    for begin in (300, 700, 1100):
        labels = model.update(labels, votes.of((votes.item >= begin) & (votes.item < begin + 400)))
    whole = model.fit(votes)
    np.testing.assert_allclose(labels.probabilities, whole.probabilities, atol=1e-5)
    assert len(labels.likelihoods) < len(whole.likelihoods)


def test_gold_that_comes_later_stays_as_given():
    votes, truth = crowd([0.9, 0.7, 0.6])
    nothing = Votes.from_arrays([], [], [], classes=votes.classes)
    labels = LabelModel().update(LabelModel().fit(votes, {0: str(truth[0])}), nothing, {1: str(1 - truth[1])})
    assert labels.names[:2] == [str(truth[0]), str(1 - truth[1])]
    assert len(labels.gold) == 2


def test_a_changed_mind_replaces_the_older_vote():
    first = Votes.from_arrays([1, 2], [0, 0], [0, 0], classes=BINARY, sources=["ann"])
    later = Votes.from_arrays([2, 3], [0, 1], [1, 1], classes=BINARY, sources=["bob", "ann"])
    changed = Votes.from_arrays([2], [0], [1], classes=BINARY, sources=["ann"])
    table = first.with_votes(later).with_votes(changed).table().to_pylist()
    assert [tuple(row.values()) for row in table] == [
        (1, "ann", "ham"),
        (2, "ann", "spam"),
        (2, "bob", "spam"),
        (3, "ann", "spam"),
    ]


def test_saved_labels_come_back_and_can_be_updated():
    votes, _ = crowd([0.9, 0.7, 0.6])
    model = LabelModel()
    labels = model.fit(votes, gold={0: "1"}, accuracy={"2": 0.6})
    writer = StateWriter()
    labels.save(writer)
    back = Labels.load(writer.reader(), votes)
    np.testing.assert_array_equal(back.probabilities, labels.probabilities)
    assert back.report().equals(labels.report())
    more = Votes.from_arrays([0, 1], [0, 0], [1, 1], classes=votes.classes, sources=["new"])
    np.testing.assert_array_equal(model.update(back, more).probabilities, model.update(labels, more).probabilities)
    with pytest.raises(InvalidValueError, match="votes"):
        Labels.load(writer.reader(), votes.with_votes(more))


# Sources ---------------------------------------------------------------------------------------------------------


def test_patterns_and_functions_vote_on_batches():
    rows = pa.table({"_row": [7, 8, 9], "text": ["WIN money", None, "see you at 8"], "length": [9, 0, 12]})
    short = Rule("short", lambda batch: [None if n.as_py() > 10 else "ham" for n in batch["length"]])
    votes = vote([Pattern("money", "text", r"\bmoney\b", "spam"), short], rows, BINARY)
    assert votes.rows.tolist() == [7, 8, 9]
    said = [tuple(row.values()) for row in votes.table().to_pylist()]
    assert said == [(7, "money", "spam"), (7, "short", "ham"), (8, "short", "ham")]


@pytest.mark.parametrize(
    ("answers", "problem"), [(["eggs", None, None], "'eggs' is no class"), (["ham"], "1 answers for 3 rows")]
)
def test_a_bad_answer_of_a_function_names_the_function(answers, problem):
    rows = pa.table({"_row": [1, 2, 3]})
    with pytest.raises(DataError, match=f"labelling function 'odd'.*{problem}"):
        vote([Rule("odd", lambda batch: answers)], rows, BINARY)


def test_a_pattern_with_look_around_is_refused():
    with pytest.raises(InvalidValueError, match="RE2"):
        Pattern("odd", "text", "(?=x)", "spam")


def test_a_crowds_table_becomes_votes():
    table = pa.table({"task": [5, 5, 6], "who": ["b", "a", "a"], "said": [10, 2, None]})
    votes = Votes.from_table(table, item="task", source="who", label="said")
    assert votes.classes == ("2", "10")
    assert votes.sources == ("a", "b")
    assert votes.rows.tolist() == [5, 6]
    assert votes.table().to_pylist() == [
        {"_row": 5, "source": "a", "label": "2"},
        {"_row": 5, "source": "b", "label": "10"},
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"task": ["x", "y", "z"]}, "integer id"),
        ({"who": ["a", None, "b"]}, "no source"),
        ({"said": ["yes", "no", "maybe"]}, "'maybe' is no class"),
    ],
)
def test_a_bad_crowds_table_is_refused_with_the_column(change, problem):
    table = pa.table({"task": [1, 1, 2], "who": ["a", "b", "a"], "said": ["yes", "no", "yes"], **change})
    with pytest.raises(DataError, match=problem):
        Votes.from_table(table, item="task", source="who", label="said", classes=("no", "yes"))


@pytest.mark.parametrize(
    ("label", "classes"), [([2], BINARY), ([-2], BINARY)], ids=["no such class", "below minus one"]
)
def test_a_label_without_a_name_is_refused(label, classes):
    with pytest.raises(InvalidValueError, match=r"label\[0\]"):
        Votes.from_arrays([0], [0], label, classes=classes)


def test_unknown_names_are_refused():
    votes, _ = crowd([0.9, 0.8])
    with pytest.raises(UnknownNameError, match="class"):
        LabelModel().fit(votes, gold={0: "x"})
    with pytest.raises(UnknownNameError, match="source"):
        LabelModel().fit(votes, accuracy={"x": 0.5})
    with pytest.raises(InvalidValueError, match="classes"):
        LabelModel().update(LabelModel().fit(votes), Votes.from_arrays([0], [0], [0], classes=("x", "y")))


# What to ask, and whom -------------------------------------------------------------------------------------------


def test_what_is_least_certain_is_asked_first_and_gold_never():
    item, label = [1, 1, 2, 2, 3, 3], [0, 1, 0, 0, 0, 1]
    votes = Votes.from_arrays(item, [0, 1] * 3, label, classes=BINARY)
    labels = LabelModel("one-coin", "uniform").fit(votes, gold={3: "ham"}, accuracy={"0": 0.8, "1": 0.8})
    asked = ask(labels, budget=10)
    assert asked["_row"].to_pylist() == [1, 2]
    assert ask(labels, budget=1.5)["_row"].to_pylist() == [1]
    assert asked["gain"][0].as_py() == pytest.approx(np.log(2))


def test_a_cheap_worker_is_asked_where_an_expert_is_not_worth_the_price():
    votes = Votes.from_arrays([1, 2, 2], [0, 0, 1], [0, 0, 1], classes=BINARY)
    labels = LabelModel("one-coin", "uniform").fit(votes, accuracy={"0": 0.8, "1": 0.9})
    askers = (Asker("1", cost=1), Asker(cost=3))
    asked = ask(labels, 100, askers).to_pylist()
    assert {(row["_row"], row["source"]) for row in asked} == {(1, "1"), (2, "")}  # it has spoken on 2


def test_a_jury_of_equal_prices_is_made_of_the_best_and_stops_growing():
    accuracy = {"a": 0.9, "b": 0.8, "c": 0.8, "d": 0.52, "e": 0.51}
    assert jury(accuracy).members == ("a", "b", "c")
    assert jury(accuracy, budget=2).members == ("a",)


def test_a_jury_with_prices_keeps_to_the_budget():
    accuracy = {"dear": 0.9, "x": 0.8, "y": 0.8, "z": 0.8}
    found = jury(accuracy, budget=3, cost={"dear": 3})
    assert found.members == ("dear",)
    found = jury(accuracy, budget=3, cost={"dear": 9})
    assert found.members == ("x", "y", "z")
    with pytest.raises(InvalidValueError, match="one voter"):
        jury(accuracy, budget=0.5)


# Numbers and values ----------------------------------------------------------------------------------------------


def test_a_biased_source_is_corrected():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 10, 300)
    matrix = truth[:, None] + rng.normal(0, [1, 1, 1, 8], (300, 4)) + [0, 0, 6, 0]
    matrix[rng.random((300, 4)) < 0.4] = np.nan
    found = NumberModel(2.0, 1.0).fit(Votes.from_matrix(matrix, classes=()))
    known = np.isfinite(found.values)
    own = found.values[known] - truth[known]
    with np.errstate(invalid="ignore"):
        plain = np.nanmean(matrix[known], axis=1) - truth[known]
    assert own.std() < 0.6 * plain.std()
    assert found.bias[2] - found.bias[0] == pytest.approx(6, abs=0.7)
    assert found.report()["noise"].to_pylist()[3] == pytest.approx(8, abs=1.5)
    assert found.table().num_rows == known.sum()


def test_labels_and_numbers_are_not_mixed_up():
    numbers = Votes.from_matrix([[1.5, 2.5]], classes=())
    with pytest.raises(InvalidValueError, match="NumberModel"):
        LabelModel().fit(numbers)
    with pytest.raises(InvalidValueError, match="LabelModel"):
        NumberModel().fit(crowd([0.9])[0])


def test_one_good_source_outweighs_two_careless_ones():
    rng = np.random.default_rng(0)
    rows = []
    for item in range(200):
        for source, share in enumerate([0.95, 0.95, 0.95, 0.4, 0.4]):
            if source < 3 and rng.random() < 0.6:
                continue
            rows.append((item, source, item if rng.random() < share else -rng.integers(1, 4)))
    item, source, value = map(list, zip(*rows, strict=True))
    found = discover(item, source, pa.array(value), num_false=3)
    right = found.value.to_numpy() == found.item
    assert right.mean() > 0.85
    assert found.accuracy[:3].min() > 0.85 > 0.55 > found.accuracy[3:].max()


def test_no_claims_give_no_truths():
    assert discover([], [], pa.array([], pa.string())).table().num_rows == 0
    assert discover([1], [0], pa.array([None], pa.string())).table().num_rows == 0


# Real crowds -----------------------------------------------------------------------------------------------------


def test_ducks_are_told_far_better_than_by_majority(data_folder):
    answers = pa.csv.read_csv(data_folder / "crowd-duck" / "answer.csv")
    truth = pa.csv.read_csv(data_folder / "crowd-duck" / "truth.csv").sort_by("question")
    votes = Votes.from_table(answers, item="question", source="worker", label="answer")
    expected = truth["truth"].to_numpy()
    labels = LabelModel().fit(votes)
    assert (labels.probabilities.argmax(1) == expected).mean() > 0.87
    assert (majority(votes).argmax(1) == expected).mean() < 0.78
