"""Label issues in mnist and adult with flipped labels, against cleanlab on the same out-of-sample probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.harness import Claim, Result, interleave
from stepwell.core.errors import MissingExtraError
from stepwell.core.settings import settings
from stepwell.prepare.clean.label_issues import OutOfSample, Probe, label_issues, out_of_sample

_WHAT = (
    "the label issues of mnist (10,000 images) and adult (16,281 people; the test files) with 5, 15 and 30 % of the "
    "labels flipped, on the same out-of-sample probabilities of a logistic regression in five folds"
)
CLAIMS = [
    Claim("label_issues_set", f"Least Jaccard similarity with cleanlab's set over {_WHAT}", 0.95, "Jaccard"),
    Claim("label_issues_speed", f"cleanlab's CPU seconds against ours, least ratio over {_WHAT}", 1.0, "x"),
]
Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Flip labels, predict out of sample once, and let both look for them."""
    try:
        from cleanlab.filter import find_label_issues  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingExtraError("This claim", "cleanlab", "bench") from error
    table: dict[str, dict[str, float | str]] = {}
    least, slowest = 1.0, float("inf")
    for name, (features, labels) in {"mnist": _mnist(), "adult": _adult()}.items():
        some = slice(0, 2000 if quick else None)
        for share in (0.15,) if quick else (0.05, 0.15, 0.30):
            given, flip = _flipped(labels[some], share)
            predicted = out_of_sample(_logistic(), features[some], given)

            def theirs(given: npt.NDArray[np.int64] = given, predicted: OutOfSample = predicted) -> set[int]:
                return set(
                    find_label_issues(
                        given,
                        predicted.probabilities,
                        filter_by="confident_learning",
                        return_indices_ranked_by="self_confidence",
                        n_jobs=1,
                    ).tolist()
                )

            def ours(given: npt.NDArray[np.int64] = given, predicted: OutOfSample = predicted) -> set[int]:
                return set(label_issues(given, predicted).column("_row").to_pylist())

            a, b = ours(), theirs()
            times = interleave({"stepwell": ours, "cleanlab": theirs}, 3 if quick else 5)
            same = len(a & b) / max(1, len(a | b))
            ratio = times["cleanlab"].cpu_s / times["stepwell"].cpu_s
            least, slowest = min(least, same), min(slowest, ratio)
            table[f"{name} {share:.0%}"] = {
                "jaccard": same,
                **{"precision": float(flip[list(a)].mean()), "recall": float(flip[list(a)].sum() / flip.sum())},
                **{f"{who} cpu_s": times[who].cpu_s for who in times},
            }
    why = "Both get the same probabilities; fitting the folds is not timed. The rule is the published one."
    return [
        Result("label_issues_set", least, table, seeds=(0,), why=why),
        Result("label_issues_speed", slowest, table, seeds=(0,), why=why),
    ]


def _logistic() -> Probe:
    """Return a multinomial logistic regression by 100 full-batch Adam steps in torch."""
    import torch

    def fit(features: npt.NDArray[np.floating], labels: npt.NDArray[np.int64]) -> object:
        torch.manual_seed(0)
        x, y = torch.from_numpy(np.asarray(features, np.float32)), torch.from_numpy(labels)
        model = torch.nn.Linear(x.shape[1], int(labels.max()) + 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return model

    def predict_proba(model: object, features: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        if not isinstance(model, torch.nn.Module):
            raise TypeError("the model is not ours")
        with torch.no_grad():
            out: npt.NDArray[np.floating] = model(torch.from_numpy(np.asarray(features, np.float32))).softmax(1).numpy()
        return out.astype(np.float64)

    return Probe(fit, predict_proba)


def _flipped(labels: npt.NDArray[np.int64], share: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    num_classes = int(labels.max()) + 1
    flip = rng.random(len(labels)) < share
    other = (labels + rng.integers(1, num_classes, len(labels))) % num_classes
    return np.where(flip, other, labels), flip


def _mnist() -> Arrays:
    table = pq.read_table((settings().data or "") / "mnist" / "test.parquet")  # type: ignore[operator]
    images = np.frombuffer(b"".join(table.column("image").to_pylist()), np.uint8).reshape(len(table), -1)
    return (images / np.float32(255)).astype(np.float32), table.column("label").to_numpy().astype(np.int64)


def _adult() -> Arrays:
    table = pq.read_table((settings().data or "") / "adult" / "test.parquet")  # type: ignore[operator]
    columns = []
    for name in table.schema.names[:-1]:
        values = table.column(name).to_numpy(zero_copy_only=False)
        if values.dtype == object:
            known, codes = np.unique(values.astype(str), return_inverse=True)
            columns.append(np.eye(len(known), dtype=np.float32)[codes])
        else:
            columns.append(((values - values.mean()) / values.std())[:, None].astype(np.float32))
    income = table.column(table.schema.names[-1]).to_numpy(zero_copy_only=False).astype(str)
    features: npt.NDArray[np.float32] = np.concatenate(columns, 1).astype(np.float32)
    return features, np.unique(income, return_inverse=True)[1].astype(np.int64)
