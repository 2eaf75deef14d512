"""The same from dirty registers to a classifier, glued by hand from the usual libraries: `python FILE FOLDER`.

pandas for the tables, blocks, scores and a threshold in the manner of `recordlinkage`, Snorkel for labels, cleanlab for
label issues, scikit-learn for the selection.
"""

import sys

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import NearestNeighbors
from snorkel.labeling.model import LabelModel

from benchmarks.peers.end_to_end_rules import CLASSES, NUMBERS, RULES, say, train

people, jobs = (pd.read_csv(f"{sys.argv[1]}/{name}.csv") for name in ("people", "jobs"))
people["near"], jobs["near"] = people["number"] // 10, jobs["number"] // 10
candidates = people.merge(jobs, on="near", suffixes=("", "_job"))
number_score = 1 / (1 + (candidates["number"] - candidates["number_job"]).abs())
age_score = (1 / (1 + (candidates["age"] - candidates["age_job"]).abs())).fillna(0.5)
sex_score = (candidates["sex"] == candidates["sex_job"]).astype(float)
candidates["score"] = 0.4 * number_score + 0.35 * age_score + 0.25 * sex_score
candidates = candidates[candidates["score"] >= 0.6].sort_values("score", ascending=False, kind="stable")
matches, used_people, used_jobs = [], set(), set()
for person, job in zip(candidates["person"], candidates["job"], strict=True):
    if person not in used_people and job not in used_jobs:
        matches.append((person, job))
        used_people.add(person)
        used_jobs.add(job)
linked = pd.DataFrame(matches, columns=["person", "job"])
merged = linked.merge(people, on="person").merge(jobs, on="job", suffixes=("", "_job"))
merged["age"] = merged["age"].fillna(merged["age_job"])
merged["married"] = merged["marital_status"].str.startswith("Married").astype(int)
merged["male"] = (merged["sex"] == "Male").astype(int)
merged["expert"] = merged["occupation"].isin(["Exec-managerial", "Prof-specialty"]).astype(int)

test = np.random.default_rng(0).random(len(merged)) < 0.3
bad = merged["hours_per_week"] > 99
typical = merged.loc[~bad & ~test, "hours_per_week"].median()
merged.loc[bad, "hours_per_week"] = int(typical)
merged["age"] = merged["age"].fillna(merged.loc[~test, "age"].median())

votes = np.full((len(merged), len(RULES)), -1)
for place, (_, column, says, label) in enumerate(RULES):
    votes[says(merged[column].to_numpy()), place] = CLASSES.index(label)
covered = (votes >= 0).any(axis=1)
merged, votes, test = merged[covered].reset_index(drop=True), votes[covered], test[covered]
engine = LabelModel(cardinality=len(CLASSES), verbose=False)
engine.fit(votes, n_epochs=500, seed=0, progress_bar=False)
codes = engine.predict(votes, tie_break_policy="random")

x = merged[list(NUMBERS)].to_numpy(float)
x = (x - x[~test].mean(axis=0)) / x[~test].std(axis=0)
taught = np.flatnonzero(~test)
out = cross_val_predict(LogisticRegression(max_iter=200), x[taught], codes[taught], cv=5, method="predict_proba")
kept = taught[~find_label_issues(codes[taught], out)]
chosen, weight = [], []
for label in np.unique(codes[kept]):
    rows = kept[codes[kept] == label]
    groups = MiniBatchKMeans(max(1, len(rows) // 2), random_state=0, n_init=1).fit(x[rows])
    nearest = NearestNeighbors(n_neighbors=1).fit(x[rows]).kneighbors(groups.cluster_centers_)[1][:, 0]
    chosen += rows[nearest].tolist()
    weight += np.bincount(groups.labels_, minlength=len(groups.cluster_centers_)).tolist()
model = train(x[chosen], np.array(CLASSES)[codes[chosen]], np.maximum(np.array(weight, float), 1e-3))
pairs = list(linked.itertuples(index=False, name=None))
say(model.predict(x[test]), merged["income"][test].tolist(), pairs, len(chosen), "")
