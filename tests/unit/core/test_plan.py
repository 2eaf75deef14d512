"""Plans: printed as a tree, predicted beside measured."""

from stepwell.core import Cost, PlanNode


def tree():
    read = PlanNode("read", "the log fits in memory", Cost(rows=1000, size_bytes=24 * 1024, seconds=0.5))
    return PlanNode("step", children=(PlanNode("gather", predicted=Cost(hit_rate=0.25), children=(read,)),))


def test_a_plan_prints_as_a_tree_with_its_reasons():
    lines = str(tree()).splitlines()

    assert [line[:14].rstrip() for line in lines[2:]] == ["step", "  -> gather", "    -> read"]
    assert lines[4].split() == ["->", "read", "1k", "24KiB", "-", "0.5", *"the log fits in memory".split()]
    assert "25%" in lines[3]
    assert "measured" not in lines[0]


def test_measured_costs_join_the_nodes_of_their_names():
    measured = tree().with_measured({"read": Cost(rows=900, seconds=0.7)})

    text = str(measured).splitlines()
    assert "measured" in text[0]
    assert text[4].split("|")[1].split()[:4] == ["900", "-", "-", "0.7"]
    assert tree().children[0].children[0].measured is None


def test_costs_add_up_and_unknown_adds_nothing():
    total = Cost(rows=2, seconds=1.0, calls=1) + Cost(rows=3, hit_rate=0.5, calls=2)

    assert total == Cost(rows=5, seconds=1.0, hit_rate=0.5, calls=3)
    assert Cost() + Cost() == Cost()
