"""Words of a report that a reader without the documentation cannot know."""

from __future__ import annotations

import re
from typing import Final

from verisal.results import Evaluation

# Sought in the names of scores, figures and rows; in the order in which they are explained.
_MEANINGS: Final[tuple[tuple[str, str, str], ...]] = (
    (r"/auroc", "AUROC",
        "chance that an attacked image scores higher than a clean one; 0.5 is guessing, 1 is perfect"),
    (r"/fpr", "FPR", "share of images without an attack for which the alarm goes off"),
    (r"/tpr", "TPR", "share of attacked images for which the alarm goes off"),
    (r"_unseen", "unseen", "of kinds of attacks of which none was fitted"),
    (r"_failed", "failed", "attacked, and the classifier still right"),
    (r"_misclassified", "misclassified", "not attacked, and the classifier wrong"),
    (r"end_to_end|right_or_rejected", "right or rejected", "classified right, or reported by the alarm"),
    (r"robust_accuracy|/accuracy", "robust accuracy",
        "share of attacked images that are still classified right"),
    (r"(?i)morf", "MoRF", "the pixels that the map calls most relevant are removed first"),
    (r"(?i)lerf", "LeRF", "the pixels that the map calls least relevant are removed first"),
    (r"/deletion|/insertion", "deletion, insertion",
        "mean probability while the most relevant pixels are removed, or put back, first"),
    (r"relevance_gap", "relevance gap",
        "how much more the prediction suffers when the most relevant pixels go first,"
        " rather than last"),
    (r"pointing", "pointing game",
        "share of maps whose highest place lies on the object, or as near as said"),
    (r"energy", "energy inside", "share of the map that lies on the object"),
    (r"max_box|box_acc", "box accuracy",
        "share of images in which the box around the map's highest places fits the object's"),
    (r"(?i)d.?wsol|margin|response|present", "D-WSOL",
        "asks the method about classes that are not in the image; a reliable one then"
        " shows next to nothing"),
    (r"_c0|_c1|_c2|_c3", "c0, c1, c2, c3",
        "classes that D-WSOL asks about: the predicted one, the second likeliest, a"
        " random one, and the least likely"),
    (r"margin", "margin",
        "how much better the boxes of the class that is there are than those of one that is not"),
    (r"response", "response ratio",
        "strength of the map for a class that is not there, as a share of that for the one that is"),
    (r"/(random|centre)/", "random, centre",
        "maps that know nothing of the classifier: what is not better than these says nothing"),
)  # fmt: skip


def meanings(evaluation: Evaluation) -> dict[str, str]:
    """Word to what it means, for those that occur in the names of an evaluation."""
    names = " ".join([*map(str, evaluation.scores), *(curve.figure for curve in evaluation.curves)])
    found = {word: meaning for sought, word, meaning in _MEANINGS if re.search(sought, names)}
    if any(score.few for score in evaluation.scores.values()):
        found["too few"] = "of so few images that an interval would not hold as often as it says"
    return found
