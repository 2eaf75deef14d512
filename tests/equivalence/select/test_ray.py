"""Ray actors give the same bits as one process, also when one of them is killed."""

import pytest

from stepwell.select.on_ray import on_ray
from stepwell.select.searching import StudySettings, search
from tests.equivalence.select import selected
from tests.equivalence.select.test_bitwise import assert_same, states

ray = pytest.importorskip("ray", reason="needs the extra ray")

SETTINGS = StudySettings(partitions=4, slices=2, batch_size=32)
SPACE = {"lr": [0.1, 0.01], "width": 8, "drop": [0.0, 0.3]}


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_actors_give_the_same_bits_and_a_killed_one_changes_nothing(tmp_path):
    class Killer:
        """Kills an actor after some units, as a lost node does."""

        done = False

        def hear(self, records, event):
            if not self.done and len(records.spans) == 6:
                self.done = True
                ray.kill(made[0].actors[0])

        def close(self, records):
            pass

    made = []

    def make(task, source):
        made.append(on_ray(2)(task, source))
        return made[0]

    arguments = (SPACE, selected.data(), selected.with_adam)
    one = search(*arguments, epochs=2, folder=tmp_path / "one", settings=SETTINGS)
    two = search(*arguments, epochs=2, folder=tmp_path / "two", settings=SETTINGS, workers=make, watchers=[Killer()])
    assert all(config.status == "finished" for config in two.configs)
    assert_same(states(one), states(two))


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_three_nodes_give_the_same_bits_and_a_lost_node_changes_nothing(tmp_path):
    utils = pytest.importorskip("ray.cluster_utils", reason="needs the extra ray with its cluster utilities")
    if ray.is_initialized():
        ray.shutdown()
    room = {"object_store_memory": 80 << 20}
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **room})
    others = [cluster.add_node(num_cpus=2, **room) for _ in range(2)]
    try:
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        homes, made = [], []

        class Killer:
            """Takes a node that has a worker from the cluster after some units."""

            def hear(self, records, event):
                if len(records.spans) == 6 and not homes:
                    homes.append(made[0].homes)
                    cluster.remove_node(next(node for node in others if node.node_id in made[0].homes))

            def close(self, records):
                homes.append(made[0].homes)

        def make(task, source):
            made.append(on_ray(3)(task, source))
            return made[0]

        arguments = (SPACE, selected.data(), selected.with_adam)
        one = search(*arguments, epochs=2, folder=tmp_path / "one", settings=SETTINGS)
        more = {"workers": make, "watchers": [Killer()]}
        two = search(*arguments, epochs=2, folder=tmp_path / "two", settings=SETTINGS, **more)
        assert len(set(homes[0])) == 3, "partitions are pinned, each worker's to a node of its own"
        assert len(set(homes[1])) == 2, "the lost node's worker went to one of the others"
        assert all(config.status == "finished" for config in two.configs)
        assert_same(states(one), states(two))
    finally:
        ray.shutdown()
        cluster.shutdown()
