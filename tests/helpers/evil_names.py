"""Names that are markup, wherever a report shows a name."""

import dataclasses

from helpers.evaluations import evaluation
from verisal.reporting.facts import RunFacts
from verisal.results import Score, ScoreName

EVIL = "<img src=x onerror=alert(1)>.png"
FACTS = RunFacts(
    seed=3,
    config={"model": {"lr": 0.5}},
    wall_times={"preparation": 384.0, "fit": 89.0, "test": 14.0, "total": 487.0},
    versions={"verisal": "1.0", "torch": "2.15.0"},
    name="masks-run",
    task="DetectorTask",
    command="verisal fit --config detector",
)


def evil_evaluation():
    name = EVIL.replace("/", "_")
    found = evaluation()
    scores = {ScoreName("test", name, "auroc", part): Score(0.5, 0.4, 0.6, 9) for part in (name, "b|`c`")}
    panel = dataclasses.replace(found.panels[0], image_id=EVIL, caption=f"{EVIL} -> </figcaption><script>")
    return dataclasses.replace(
        found,
        scores=scores,
        counts={name: 1},
        panels=(panel,),
        notes=(f"{EVIL}\n# heading", "</li></ul><script>alert(2)</script>"),
        summary=(f"{name} is best.",),
        settings={name: name},
        timings={f"{name}: ms": 1.0},
        headline={name: f"auroc/{name}"},
    )


def evil_facts():
    words = f'</pre>"{EVIL}'
    return dataclasses.replace(
        FACTS, name=EVIL, task=words, data=words, command=f"verisal fit '{words}'",
        config={words: [words, "a\nb"]}, config_file="", machine=words, versions={words: words},
    )  # fmt: skip
