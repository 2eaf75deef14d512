"""Two dirty registers to a trained classifier of incomes, with Stepwell: `python FILE FOLDER LAKE`."""

import sys
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.linear_model import LogisticRegression

from benchmarks.peers.end_to_end_rules import CLASSES, NUMBERS, RULES, answers, say, train
from stepwell import open as open_lake
from stepwell.prepare import Preparation, ingest, provenance
from stepwell.prepare.clean.constraints import Between, NotNull
from stepwell.prepare.clean.label_issues import Probe
from stepwell.prepare.clean.policy import Fill
from stepwell.prepare.fitted import Standard
from stepwell.prepare.label import Rule
from stepwell.prepare.link import Exact, Number, Same

lake = open_lake(sys.argv[2])
for name, key in (("people", "person"), ("jobs", "job")):
    ingest(lake, f"{name}_raw", f"{sys.argv[1]}/{name}.csv", key=key)
    Preparation(lake, f"{name}_raw").derive({"near": "number // 10"}).commit(name)
compare = (Number("number", 1), Number("age", 1), Exact("sex"))
linked = Preparation(lake, "people").link("jobs", compare=compare, block=[Same("near")])
linked = linked.expect(NotNull("person"), NotNull("job"))
pairs = linked.keep("person", "job").commit("pairs").table.to_arrow(["person", "job"])
hours, age = (
    (Between("hours_per_week", high=99), Fill("hours_per_week", "median")),
    (NotNull("age"), Fill("age", "median")),
)
expert = "occupation in ('Exec-managerial', 'Prof-specialty')"
flags = {"married": "marital_status like 'Married%'", "male": "sex = 'Male'", "expert": expert}
clean = linked.mend(hours, age).derive({name: f"({text})::int" for name, text in flags.items()})
rules = [Rule(name, partial(answers, *rest)) for name, *rest in RULES]
labelled = clean.label(rules, classes=CLASSES, uncovered="quarantine").split(test=0.3)
judged = labelled.encode(Standard(NUMBERS)).clean_labels(Probe(train, LogisticRegression.predict_proba), NUMBERS)
rows = judged.select(0.5, label="label", columns=NUMBERS).commit("incomes").table.to_arrow()
x, test = np.stack([rows[name] for name in NUMBERS], 1), np.asarray(pc.equal(rows["split"], "test"))
weight = rows["weight"].to_numpy()[~test]
model = train(x[~test], np.asarray(rows["label"])[~test], weight / weight.mean())
where = str(provenance(lake, "incomes", int(rows["_row"].filter(pa.array(~test))[0].as_py())))
say(model.predict(x[test]), np.asarray(rows["income"])[test], np.stack(pairs, 1), len(x[~test]), where)
