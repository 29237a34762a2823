"""Published claims, tested: a study reads an evaluation, judges each claim and becomes a page."""

from ._base import Finding as Finding
from ._base import Section as Section
from ._base import Study as Study
from ._base import StudyFigure as StudyFigure
from ._base import StudyResult as StudyResult
from ._base import Verdict as Verdict
from ._page import page_text as page_text
from ._page import write_page as write_page
from .baseline_choice import BaselineChoice as BaselineChoice
from .decoys import DecoyStudy as DecoyStudy
from .decoys_grid import DecoyGrid as DecoyGrid
from .input_perturbations import InputPerturbations as InputPerturbations
from .map_robustness import MapRobustness as MapRobustness
from .reliable_saliency import ReliableSaliency as ReliableSaliency
from .reliable_saliency_detection import ReliableDetection as ReliableDetection

__all__ = [
    "BaselineChoice",
    "DecoyGrid",
    "DecoyStudy",
    "Finding",
    "InputPerturbations",
    "MapRobustness",
    "ReliableDetection",
    "ReliableSaliency",
    "Section",
    "Study",
    "StudyFigure",
    "StudyResult",
    "Verdict",
    "page_text",
    "write_page",
]
