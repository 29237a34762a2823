"""Published claims, tested: a study reads an evaluation, judges each claim and becomes a page."""

from verisal_studies.callback import StudyPage
from verisal_studies.decoys.decoys import DecoyStudy
from verisal_studies.decoys.grid import DecoyGrid
from verisal_studies.input_perturbations.baseline_choice import BaselineChoice
from verisal_studies.input_perturbations.study import InputPerturbations
from verisal_studies.map_robustness import MapRobustness
from verisal_studies.page import page_text, write_page
from verisal_studies.reliable_saliency.detection import ReliableDetection
from verisal_studies.reliable_saliency.study import ReliableSaliency
from verisal_studies.study import Finding, Section, Study, StudyFigure, StudyResult, Verdict

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
    "StudyPage",
    "StudyResult",
    "Verdict",
    "page_text",
    "write_page",
]
