"""Names of scores, rows and groups in words, and the sentences that a report opens with."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from verisal.reporting.publication import main_cells
from verisal.results import Evaluation, Score

_WORDS = {
    "auroc": "AUROC", "auc": "AUC", "aopc": "AOPC", "fpr": "FPR", "tpr": "TPR", "roc": "ROC", "iou": "IoU",
    "ssim": "SSIM", "fgsm": "FGSM", "pgd": "PGD", "apgd": "APGD", "cw": "C&W", "ddn": "DDN", "l2": "L2",
    "linf": "L∞", "rise": "RISE", "road": "ROAD", "cnn": "CNN", "grad": "Grad", "cam": "CAM",
    "morf": "MoRF", "lerf": "LeRF", "ig": "IG", "lid": "LID",
}  # fmt: skip
_TITLES: Mapping[str, str] = {
    "auroc": "AUROC",
    "tpr_at_fpr5": "Share of attacked images found (TPR) at 5 % FPR",
    "tpr_at_fpr1": "Share of attacked images found (TPR) at 1 % FPR",
    "fpr": "False alarms (FPR) at the 5 % threshold",
    "fpr1": "False alarms (FPR) at the 1 % threshold",
    "fpr_at_tpr95": "FPR where 95 % of attacked images are found",
    "alarm_rate": "Alarm rate at the 5 % threshold",
    "auroc_against_noise": "AUROC against noise as large as the attack",
    "auroc_member_min": "AUROC of the worst member",
    "auroc_member_mean": "AUROC of the members, mean",
    "auroc_member_max": "AUROC of the best member",
    "end_to_end": "Classifier and alarm together",
    "robust": "The classifier under attack",
}
#: Metrics in reading order; others follow as they come.
KNOWN_METRICS = tuple(_TITLES)
_MOST_SENTENCES = 3
_ARROWS = {"↑": max, "↓": min}
_CONTROLS = ("random", "centre")


def in_words(name: str) -> str:
    """A name with spaces for underscores, settings in parentheses and abbreviations as the field writes them.

    >>> in_words("pgd_linf_4"), in_words("deletion[dataset_mean]_steps16"), in_words("cw_l2_failed")
    ('PGD L∞ 4', 'deletion (dataset mean), 16 steps', 'C&W L2 failed')
    """
    name = re.sub(r"_steps(\d+)", r", \1 steps", name)
    name = re.sub(r"_block(\d+)", r", blocks of \1 px", name)
    name = re.sub(r"\[(.*?)\]", r" (\1)", name)
    return re.sub(r"[^\W_]+", lambda word: _WORDS.get(word[0], word[0]), name.replace("_", " ")).strip()


def is_control(row: str) -> bool:
    """True for maps that say nothing of an image, which every method must beat."""
    return row in _CONTROLS


def title_of(metric: str) -> str:
    """Heading of the table of one metric."""
    return _TITLES.get(metric) or _capital(in_words(metric))


def opening(evaluation: Evaluation) -> tuple[str, ...]:
    """What was found, in sentences: those of the evaluation, then the best row of each column that has one.

    A column has a best row if its title ends with an arrow, and if there is a random map to compare with.
    """
    best = list(_best_rows(evaluation))
    left = len(best) - _MOST_SENTENCES
    more = [f"{left} further columns are in the main table."] if left > 0 else []
    return (*evaluation.summary, *best[:_MOST_SENTENCES], *more)


def _best_rows(evaluation: Evaluation) -> Iterator[str]:
    cells = main_cells(evaluation)
    for place, title in enumerate(evaluation.headline):
        if title[-1:] not in _ARROWS:
            continue
        scores = {row: one[place] for row, one in cells.items()}
        known = {
            row: score for row, score in scores.items() if score is not None and not math.isnan(score.value)
        }
        ranked = {row: score for row, score in known.items() if row not in _CONTROLS}
        if ranked and "random" in known:
            row = _ARROWS[title[-1]](ranked, key=lambda name: ranked[name].value)
            better = "higher" if title[-1] == "↑" else "lower"
            name = f"{_capital(in_words(title[:-1].strip()))} ({better} is better)"
            yield _best(name, row, ranked, known["random"])


def _best(title: str, row: str, ranked: Mapping[str, Score], random: Score) -> str:
    score = ranked[row]
    among = f"is best of {len(ranked)} with" if len(ranked) > 1 else "has"
    words = f"{title}: {row} {among} {score.value:z.3f}{score.bracketed()}"
    clear = score.ends is not None and not score.ends[0] <= random.value <= score.ends[1]
    compared = "a random map has" if clear else "that is not clearly better than a random map, which has"
    return f"{words}; {compared} {random.value:z.3f}."


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
