"""Published settings: each is a function that returns the whole configuration of a run.

`stepwell train NAME` runs one of `recipes`, `stepwell search NAME` one of `searches`; `--set path=value` changes any
part of it. Third parties add theirs through the entry point groups `stepwell.recipe` and `stepwell.search_recipe`.
"""

from __future__ import annotations

from collections.abc import Callable

from stepwell.core.registry import Registry
from stepwell.jobs import Experiment
from stepwell.jobs.experiment import DataConfig, EvaluationConfig, ModelConfig, ReuseConfig, SamplingConfig
from stepwell.recipes.search import Search, searches
from stepwell.train import LoopConfig

recipes: Registry[Callable[[], Experiment]] = Registry("recipe")

_TPPR = SamplingConfig("tppr", k=40, alpha=(0.3, 0.1), beta=(0.5, 0.95))
_ROOT = SamplingConfig(hops=2, hop_time="root")
_REUSE = ReuseConfig(rows=1_000)


@recipes.register("link")
def link() -> Experiment:
    """TGN link prediction with the usual setting; name your log with --set data.name=..."""
    return Experiment(loop=LoopConfig(epochs=20, learning_rate=3e-4))


@recipes.register("demo")
def demo() -> Experiment:
    """TGN on a stream of some ten thousand events, small enough for a laptop's first two minutes."""
    return Experiment(
        model=ModelConfig("tgn", dim=64),
        loop=LoopConfig(epochs=15, learning_rate=1e-3, patience=4),
        evaluation=EvaluationConfig(ranking=3_000),
    )


def _published(
    data: str,
    model: str,
    *,
    k: int = 10,
    hops: int = 1,
    dim: int = 100,
    sampling: SamplingConfig | None = None,
    reuse: ReuseConfig | None = None,
) -> Experiment:
    """Return a run as papers make it: fifty epochs at most, a rate of 1e-4, over after five without progress."""
    return Experiment(
        data=DataConfig(data),
        model=ModelConfig(model, dim=dim),
        sampling=sampling or SamplingConfig(k=k, hops=hops),
        reuse=reuse or ReuseConfig(),
        loop=LoopConfig(epochs=50, learning_rate=1e-4, patience=5),
    )


@recipes.register("tgn_wikipedia")
def tgn_wikipedia() -> Experiment:
    """TGN on jodie-wikipedia (Rossi et al. 2020: one layer, ten recent neighbours)."""
    return _published("jodie-wikipedia", "tgn")


@recipes.register("tgat_wikipedia")
def tgat_wikipedia() -> Experiment:
    """TGAT on jodie-wikipedia (Xu et al. 2020: two layers, twenty neighbours; the recent ones)."""
    return _published("jodie-wikipedia", "tgat", k=20, hops=2)


@recipes.register("jodie_wikipedia")
def jodie_wikipedia() -> Experiment:
    """JODIE on jodie-wikipedia (Kumar et al. 2019, trained on links as TGN is)."""
    return _published("jodie-wikipedia", "jodie")


@recipes.register("graphmixer_wikipedia")
def graphmixer_wikipedia() -> Experiment:
    """GraphMixer on jodie-wikipedia (Cong et al. 2023: thirty recent links)."""
    return _published("jodie-wikipedia", "graphmixer", k=30)


@recipes.register("tgn_collegemsg")
def tgn_collegemsg() -> Experiment:
    """TGN on CollegeMsg (UCI in the literature)."""
    return _published("collegemsg", "tgn")


@recipes.register("tgat_collegemsg")
def tgat_collegemsg() -> Experiment:
    """TGAT on CollegeMsg."""
    return _published("collegemsg", "tgat", k=20, hops=2)


@recipes.register("jodie_collegemsg")
def jodie_collegemsg() -> Experiment:
    """JODIE on CollegeMsg."""
    return _published("collegemsg", "jodie")


@recipes.register("graphmixer_collegemsg")
def graphmixer_collegemsg() -> Experiment:
    """GraphMixer on CollegeMsg."""
    return _published("collegemsg", "graphmixer", k=20)


@recipes.register("zebra_wikipedia")
def zebra_wikipedia() -> Experiment:
    """Zebra on jodie-wikipedia (Li et al. 2023: two T-PPR metrics, twenty places each)."""
    return _published("jodie-wikipedia", "zebra", sampling=_TPPR)


@recipes.register("zebra_collegemsg")
def zebra_collegemsg() -> Experiment:
    """Zebra on CollegeMsg."""
    return _published("collegemsg", "zebra", sampling=_TPPR)


@recipes.register("orca_wikipedia")
def orca_wikipedia() -> Experiment:
    """Orca on jodie-wikipedia (Li et al. 2023: TGN of two layers; here a thousand embeddings serve again, causally)."""
    return _published("jodie-wikipedia", "tgn", sampling=_ROOT, reuse=_REUSE)


@recipes.register("orca_collegemsg")
def orca_collegemsg() -> Experiment:
    """Orca on CollegeMsg."""
    return _published("collegemsg", "tgn", sampling=_ROOT, reuse=_REUSE)


@recipes.register("tpnet_wikipedia")
def tpnet_wikipedia() -> Experiment:
    """TPNet on jodie-wikipedia (Lu et al. 2024: walks of up to three steps, the twenty newest links of either node)."""
    return _published("jodie-wikipedia", "tpnet", k=20, dim=64)


@recipes.register("tpnet_collegemsg")
def tpnet_collegemsg() -> Experiment:
    """TPNet on CollegeMsg."""
    return _published("collegemsg", "tpnet", k=20, dim=64)


@recipes.register("dyrep_wikipedia")
def dyrep_wikipedia() -> Experiment:
    """DyRep on jodie-wikipedia (Trivedi et al. 2019, in the form that TGN's authors compare with: one layer, ten)."""
    return _published("jodie-wikipedia", "dyrep")


@recipes.register("dyrep_collegemsg")
def dyrep_collegemsg() -> Experiment:
    """DyRep on CollegeMsg."""
    return _published("collegemsg", "dyrep")


@recipes.register("apan_wikipedia")
def apan_wikipedia() -> Experiment:
    """APAN on jodie-wikipedia (Wang et al. 2021: mail sent one hop, ten newest neighbours)."""
    return _published("jodie-wikipedia", "apan")


@recipes.register("apan_collegemsg")
def apan_collegemsg() -> Experiment:
    """APAN on CollegeMsg."""
    return _published("collegemsg", "apan")


__all__ = ["Search", "recipes", "searches"]
